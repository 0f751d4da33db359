// A shard that is cut short, or whose bytes change, between opening and reading: every fetch ends
// with the bytes or with an error that names the file. The input: 8 bytes, which say where the file
// is cut and in what order its tensors are asked for.
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "../models/fixture.h"
#include "fuzz.h"
#include "models/checkpoint/checkpoint.h"
#include "models/sources.h"

namespace {

using namespace nemotron;

void require(bool ok) {
  if (!ok) std::abort();
}

const test::TempDir& folder() {
  static const auto* dir = [] {
    auto* d = new test::TempDir();
    std::atexit([] { std::filesystem::remove_all(folder().path()); });
    return d;
  }();
  return *dir;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return -1;
  static const std::string whole = test::safetensors_bytes(test::fp8_llama_tensors(true));
  const std::string file = folder().file("model.safetensors");
  folder().write("model.safetensors", whole);
  std::unique_ptr<Checkpoint> checkpoint;
  require(Checkpoint::open(folder().path(), &checkpoint).ok());
  uint32_t cut = 0, order = 0;
  std::memcpy(&cut, data, 4);
  std::memcpy(&order, data + 4, 4);
  const size_t left = cut % (whole.size() + 1);
  std::filesystem::resize_file(file, left);
  const std::vector<StoredTensor>& tensors = checkpoint->tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const StoredTensor& t = tensors[(i * 7 + order) % tensors.size()];
    const Status s = checkpoint->fetch(t);
    const auto* text = reinterpret_cast<const char*>(t.data);
    if (s) require(whole.find(std::string(text, t.bytes)) != std::string::npos);
    if (!s) require(s.message().rfind(file + ": ends at byte ", 0) == 0);
    if (order & 1) checkpoint->release(t);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  return {std::string(8, '\0'), std::string("\x00\x10\x00\x00\x01\x00\x00\x00", 8),
          std::string("\xff\x07\x00\x00\x02\x00\x00\x00", 8)};
}
std::vector<std::string> fuzz_words() { return {std::string(4, '\xff')}; }
bool fuzz_has_length_prefix() { return false; }
