// A checkpoint that several ranks can hold.
#pragma once

#include <string>

#include "mix.h"

namespace nemotron::test {

// Eight heads and 512 inner columns: up to eight ranks, more than there are KV heads.
struct ParallelShape {
  std::string architecture = "LlamaForCausalLM";
  WeightFormat format = WeightFormat::stored;
  int64_t heads = 8, kv_heads = 2, inner = 512, classes = 0;
};

inline void write_checkpoint(const TempDir& dir, const ParallelShape& shape) {
  constexpr int64_t hidden = 64, head_dim = 32, layers = 2;
  const bool is_nemotron = shape.architecture.starts_with("Nemotron");
  Members config = is_nemotron ? nemotron_config() : llama_config();
  config.set("architectures", "[\"" + shape.architecture + "\"]");
  config.set("hidden_size", "64").set("intermediate_size", std::to_string(shape.inner));
  config.set("num_attention_heads", std::to_string(shape.heads));
  config.set("num_key_value_heads", std::to_string(shape.kv_heads));
  config.set("head_dim", "32").set("vocab_size", std::to_string(kTinyVocab));
  config.set("max_position_embeddings", std::to_string(kTinyContext));
  config.set("eos_token_id", std::to_string(kTinyEos));
  if (shape.classes > 0) config.set("num_labels", std::to_string(shape.classes));
  dir.write("config.json", config.text());
  RawTensors t;
  uint32_t seed = 1;
  const auto add = [&](const std::string& name, std::vector<int64_t> size, float deviation) {
    t[name] = random_bf16(std::move(size), deviation, seed++);
  };
  const auto norm = [&](const std::string& name) {
    t[name + ".weight"] = bf16_tensor({hidden}, is_nemotron ? 0 : 1, 0);
    if (is_nemotron) t[name + ".bias"] = bf16_tensor({hidden}, 0.1f, 0);
  };
  add("model.embed_tokens.weight", {kTinyVocab, hidden}, 1);
  if (shape.classes > 0)
    add("score.weight", {shape.classes, hidden}, 0.3f);
  else
    add("lm_head.weight", {kTinyVocab, hidden}, 0.35f);
  norm("model.norm");
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm");
    norm(layer + "post_attention_layernorm");
    add(layer + "self_attn.q_proj.weight", {shape.heads * head_dim, hidden}, 0.2f);
    add(layer + "self_attn.k_proj.weight", {shape.kv_heads * head_dim, hidden}, 0.2f);
    add(layer + "self_attn.v_proj.weight", {shape.kv_heads * head_dim, hidden}, 0.2f);
    add(layer + "self_attn.o_proj.weight", {hidden, shape.heads * head_dim}, 0.1f);
    if (!is_nemotron) add(layer + "mlp.gate_proj.weight", {shape.inner, hidden}, 0.2f);
    add(layer + "mlp.up_proj.weight", {shape.inner, hidden}, 0.2f);
    add(layer + "mlp.down_proj.weight", {hidden, shape.inner}, 0.1f);
  }
  dir.write("model.safetensors", safetensors_bytes(t));
}

}  // namespace nemotron::test
