// A checkpoint that several ranks can hold.
#pragma once

#include <cmath>
#include <string>

#include "mix.h"

namespace nemotron::test {

// Eight heads and 512 inner columns: up to eight ranks, more than there are KV heads.
struct ParallelShape {
  std::string architecture = "LlamaForCausalLM";
  WeightFormat format = WeightFormat::stored;
  int64_t heads = 8, kv_heads = 2, inner = 512, classes = 0, vocab = kTinyVocab;
  uint32_t seed = 1;  // of its numbers

  bool is_nemotron() const { return architecture.starts_with("Nemotron"); }
  bool is_deci() const { return architecture.starts_with("DeciLM"); }
};

// Layers of a DeciLM: of every kind that a block may be, and of one, two, four and eight KV heads.
struct DeciBlock {
  int64_t kv_heads;  // 0: none, kLinear: a matrix in the place of attention
  int64_t inner;     // the same of the feed-forward part
  static constexpr int64_t kLinear = -1;
};
inline constexpr DeciBlock kDeciBlocks[] = {{2, 512},
                                            {DeciBlock::kLinear, 256},
                                            {8, 0},
                                            {0, DeciBlock::kLinear},
                                            {1, DeciBlock::kLinear},
                                            {0, 0},
                                            {4, 256}};

inline std::string deci_block_configs(int64_t heads) {
  constexpr const char* kNone = "{\"no_op\": true}";
  constexpr const char* kLinear = "{\"replace_with_linear\": true}";
  std::string text;
  for (const auto& [kv_heads, inner] : kDeciBlocks) {
    const auto part = [](int64_t size, const std::string& name, int64_t value) {
      if (size == 0) return std::string(kNone);
      if (size == DeciBlock::kLinear) return std::string(kLinear);
      return "{\"" + name + "\": " + std::to_string(value) + "}";
    };
    const int64_t group = kv_heads > 0 ? heads / kv_heads : 0;
    text += (text.empty() ? "" : ", ") + std::string("{\"attention\": ") +
            part(kv_heads, "n_heads_in_group", group) +
            ", \"ffn\": " + part(inner, "intermediate_size", inner) + "}";
  }
  return "[" + text + "]";
}

inline void write_checkpoint(const TempDir& dir, const ParallelShape& shape) {
  // A matrix in the place of a part is cut by its columns, of which eight ranks want 32 each.
  const int64_t hidden = shape.is_deci() ? 256 : 64, head_dim = 32, layers = 2;
  const bool is_nemotron = shape.is_nemotron();
  Members config = is_nemotron       ? nemotron_config()
                   : shape.is_deci() ? deci_config()
                                     : llama_config();
  config.set("architectures", "[\"" + shape.architecture + "\"]");
  config.set("hidden_size", std::to_string(hidden))
      .set("intermediate_size", std::to_string(shape.inner));
  config.set("num_attention_heads", std::to_string(shape.heads));
  config.set("num_key_value_heads", std::to_string(shape.kv_heads));
  config.set("head_dim", "32").set("vocab_size", std::to_string(shape.vocab));
  config.set("max_position_embeddings", std::to_string(kTinyContext));
  config.set("eos_token_id", std::to_string(kTinyEos));
  if (shape.classes > 0) config.set("num_labels", std::to_string(shape.classes));
  std::vector<DeciBlock> blocks(layers, DeciBlock{shape.kv_heads, shape.inner});
  if (shape.is_deci()) {
    blocks.assign(std::begin(kDeciBlocks), std::end(kDeciBlocks));
    config.set("num_hidden_layers", std::to_string(blocks.size()));
    config.set("block_configs", deci_block_configs(shape.heads));
  }
  dir.write("config.json", config.text());
  RawTensors t;
  uint32_t seed = shape.seed;
  const auto add = [&](const std::string& name, std::vector<int64_t> size, float deviation) {
    const float by = size.back() == hidden ? 8 / std::sqrt(float(hidden)) : 1;
    t[name] = random_bf16(std::move(size), deviation * by, seed++);
  };
  const auto norm = [&](const std::string& name) {
    t[name + ".weight"] = bf16_tensor({hidden}, is_nemotron ? 0 : 1, 0);
    if (is_nemotron) t[name + ".bias"] = bf16_tensor({hidden}, 0.1f, 0);
  };
  t["model.embed_tokens.weight"] = random_bf16({shape.vocab, hidden}, 1, seed++);
  if (shape.classes > 0)
    add("score.weight", {shape.classes, hidden}, 0.3f);
  else
    add("lm_head.weight", {shape.vocab, hidden}, 0.35f);
  norm("model.norm");
  for (size_t i = 0; i < blocks.size(); ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const auto& [kv_heads, inner] = blocks[i];
    if (kv_heads != 0) norm(layer + "input_layernorm");
    if (inner != 0) norm(layer + "post_attention_layernorm");
    if (kv_heads == DeciBlock::kLinear) {
      add(layer + "self_attn.linear_attn.weight", {hidden, hidden}, 0.1f);
    } else if (kv_heads > 0) {
      add(layer + "self_attn.q_proj.weight", {shape.heads * head_dim, hidden}, 0.2f);
      add(layer + "self_attn.k_proj.weight", {kv_heads * head_dim, hidden}, 0.2f);
      add(layer + "self_attn.v_proj.weight", {kv_heads * head_dim, hidden}, 0.2f);
      add(layer + "self_attn.o_proj.weight", {hidden, shape.heads * head_dim}, 0.1f);
    }
    if (inner == DeciBlock::kLinear) {
      add(layer + "mlp.linear_mlp.weight", {hidden, hidden}, 0.1f);
    } else if (inner > 0) {
      if (!is_nemotron) add(layer + "mlp.gate_proj.weight", {inner, hidden}, 0.2f);
      add(layer + "mlp.up_proj.weight", {inner, hidden}, 0.2f);
      add(layer + "mlp.down_proj.weight", {hidden, inner}, 0.1f);
    }
  }
  dir.write("model.safetensors", safetensors_bytes(t));
}

}  // namespace nemotron::test
