// The table of architectures. One row is one family: the names that config.json may give it, how
// its config is read, and which stored tensors its decoder is made of. Adding a family is a file
// beside llama.cc that defines a row, the row's name in architecture.cc, and a golden
// (CONTRIBUTING.md).
#pragma once

#include <span>
#include <string>

#include "models/checkpoint/json_fields.h"
#include "models/config.h"
#include "models/sources.h"
#include "models/tensor_finder.h"

namespace nemotron {

struct Architecture {
  struct Name {
    const char* text;  // of config.json's "architectures"
    const char* use;   // "chat and reward", for messages
  };
  std::span<const Name> names;
  // Reads what is this family's own: sizes, layers, rope, heads of reward models.
  // `out->architecture` is set. Whatever the decoder would compute wrongly is refused by name.
  void (*read_config)(JsonFields* config, ModelConfig* out);
  // Finds and checks the tensors of `config` by their names. Problems go to the finder.
  void (*find_tensors)(TensorFinder* finder, const ModelConfig& config, Sources* out);
};

// Null: no row has this name.
const Architecture* find_architecture(const std::string& name);
// For messages: `served: "LlamaForCausalLM" (chat and reward) and ...`.
std::string served_architectures();

}  // namespace nemotron
