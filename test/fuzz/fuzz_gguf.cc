// The reader of GGUF files and what follows when it accepts: the documents, the check against them,
// and every tensor widened.
#include <cstdlib>

#include "../models/gguf_fixture.h"
#include "fuzz.h"
#include "models/checkpoint/gguf.h"
#include "models/checkpoint/gguf_blocks.h"
#include "models/sources.h"

namespace {

using namespace nemotron;

void require(bool ok) {
  if (!ok) std::abort();
}

const test::TempDir& folder() {
  static const auto* dir = [] {
    std::atexit([] { std::filesystem::remove_all(folder().path()); });
    return new test::TempDir();
  }();
  return *dir;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  folder().write("m.gguf", std::string(reinterpret_cast<const char*>(data), size));
  const std::string path = folder().file("m.gguf");
  std::unique_ptr<Checkpoint> checkpoint;
  const Status opened = Checkpoint::open(path, &checkpoint);
  require(opened.ok() || opened.message().size() < 4000);
  ModelConfig config;
  const Status read = read_model_config(path, {}, &config);
  require(read.ok() || read.message().size() < 4000);
  if (opened) {
    for (const StoredTensor& t : checkpoint->tensors()) {
      if (!t.served || t.elements > (1 << 16)) continue;
      require(checkpoint->fetch(t).ok());
      (void)stored_value(t, t.elements - 1);
      checkpoint->release(t);
    }
  }
  if (!opened || !read) return -1;
  return check_checkpoint(*checkpoint, config) ? 0 : -1;
}

std::vector<std::string> fuzz_seeds() {
  test::GgufWriter llama = test::gguf_llama();
  llama.tensors = test::gguf_tensors(test::llama_tensors(), 4, 2);
  test::GgufWriter mixed = llama;
  mixed.integers("list", {1, 2}).text("general.name", "x");
  mixed.tensors.push_back({"rope_freqs.weight", {3}, 0, std::string(12, '?')});
  for (uint32_t type = 0; type < 64; ++type) {
    const GgufType* t = gguf_type(type);
    if (!t || t->elements == 0) continue;  // refused by its name
    mixed.tensors.push_back({std::string("t.") + t->name,
                             {2, int64_t(t->elements)},
                             type,
                             std::string(2 * t->bytes, 'a')});
  }
  return {llama.bytes(), mixed.bytes()};
}

std::vector<std::string> fuzz_words() {
  std::vector<std::string> words = {"GGUF",
                                    "general.architecture",
                                    "llama",
                                    "deci",
                                    "nemotron",
                                    "split.count",
                                    "split.no",
                                    "general.alignment",
                                    "blk.0.",
                                    "attn_q.weight",
                                    "llama.block_count"};
  for (const uint64_t value :
       {0ull, 1ull, 8ull, 9ull, 31ull, 255ull, 1ull << 32, 1ull << 62, ~0ull}) {
    words.push_back(test::raw(value));
    words.push_back(test::raw(uint32_t(value)));
  }
  return words;
}

bool fuzz_has_length_prefix() { return false; }
