// The safetensors reader, and what follows when it accepts: the check against a config and the
// plan.
#include <cstdlib>

#include "../models/fixture.h"
#include "fuzz.h"
#include "memory_checkpoint.h"
#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/safetensors.h"
#include "models/memory_plan.h"
#include "models/sources.h"

namespace {

using namespace nemotron;
using test::RawTensor;
using test::RawTensors;

void require(bool ok) {
  if (!ok) std::abort();
}

// Four configs whose tensors the seeds are.
ModelConfig config_of(int kind) {
  ModelConfig c;
  c.architecture = "LlamaForCausalLM";
  c.hidden = 8, c.vocab = 20, c.q_heads = 4, c.head_dim = 6;
  c.tied = kind == 3;
  c.layers.assign(2, LayerSpec{.attention = true, .kv_heads = 2, .ffn = true, .intermediate = 12});
  if (kind == 1 || kind == 2) c.quant = QuantKind::modelopt_fp8;
  if (kind == 2) c.reward = {.kind = RewardHead::Kind::lm_head_rows, .vocab_ids = {0, 3}};
  return c;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of exactly this size: a read beyond the end is an error of its own.
  const std::vector<uint8_t> file(data, data + size);
  std::vector<StoredTensor> tensors;
  const Status s = read_safetensors(file, "input", &tensors);
  if (!s) {
    require(s.message().rfind("input: ", 0) == 0 && s.message().size() < 1000);
    return -1;
  }
  size_t bytes = 0;
  for (const StoredTensor& t : tensors) {
    require(t.data >= file.data() && t.data + t.bytes <= file.data() + file.size());
    if (t.served) require(uint64_t(t.elements) * dtype_bytes(t.dtype) == t.bytes);
    bytes += t.bytes;
    require(bytes <= file.size());
  }
  const MemoryCheckpoint checkpoint(tensors);
  for (int kind = 0; kind < 4; ++kind) {
    const ModelConfig config = config_of(kind);
    PlanInput in;
    in.available = size_t(1) << 32;
    in.max_seqs = 2;
    in.limits.max_rows = in.limits.max_spans = in.limits.max_samples = 4;
    in.limits.max_context = 64;
    in.limits.vocab = config.vocab;
    MemoryPlan plan;
    const Status checked = check_checkpoint(checkpoint, config);
    require(checked.ok() == plan_memory(config, checkpoint, in, &plan).ok());
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  RawTensors mixed = test::llama_tensors();
  mixed["empty"] = RawTensor{"F32", {0, 3}, ""};
  mixed["other"] = RawTensor{"I64", {1}, std::string(8, '\1')};
  mixed["score.weight"] = test::f32_tensor({1, 8}, std::vector<float>(8, 1.0f));
  RawTensors tied = test::llama_tensors();
  tied.erase("lm_head.weight");
  return {test::safetensors_bytes(test::llama_tensors()),
          test::safetensors_bytes(mixed),
          test::safetensors_bytes(tied),
          test::safetensors_bytes(test::fp8_llama_tensors(false)),
          test::safetensors_bytes(test::fp8_llama_tensors(true)),
          test::safetensors_bytes({{"t", test::f32_tensor({}, {1.0f})}}),
          test::safetensors_bytes("{}", "")};
}

std::vector<std::string> fuzz_words() {
  return {"{",
          "}",
          "[",
          "]",
          ",",
          ":",
          "\"",
          "\\u0000",
          "\\ud83d",
          "\"dtype\":\"F32\"",
          "\"F8_E4M3\"",
          "\"I32\"",
          "\"F4\"",
          "\"shape\":[1,2]",
          "\"data_offsets\":[0,0]",
          "\"data_offsets\":[8,4]",
          "\"__metadata__\":{}",
          "\"model.layers.1.mlp.up_proj.weight_scale\"",
          ".bias",
          "[[[[[[[[",
          "4611686018427387904",
          "\xff\xfe",
          "null,"};
}

bool fuzz_has_length_prefix() { return true; }
