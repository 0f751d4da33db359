#include "models/arch/architecture.h"

#include <string_view>
#include <vector>

namespace nemotron {

// The rows, each in a file of its own.
extern const Architecture kDeci, kLlama, kNemotron;

namespace {

constexpr const Architecture* kRows[] = {&kLlama, &kNemotron, &kDeci};

}  // namespace

const Architecture* find_architecture(const std::string& name) {
  for (const Architecture* row : kRows) {
    for (const Architecture::Name& known : row->names) {
      if (name == known.text) return row;
    }
  }
  return nullptr;
}

std::string served_architectures() {
  std::vector<std::string> names;
  for (const Architecture* row : kRows) {
    for (const Architecture::Name& name : row->names) {
      names.push_back("\"" + std::string(name.text) + "\" (" + name.use + ")");
    }
  }
  std::string text = "served: ";
  for (size_t i = 0; i < names.size(); ++i) {
    text += (i == 0 ? "" : i + 1 < names.size() ? ", " : " and ") + names[i];
  }
  return text;
}

}  // namespace nemotron
