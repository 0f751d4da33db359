// GGUF files made up by tests, byte for byte, and a folder of safetensors written as one.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "fixture.h"

namespace nemotron::test {

template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
inline std::string gguf_text(const std::string& text) { return raw(uint64_t(text.size())) + text; }

class GgufWriter {
 public:
  uint32_t version = 3;
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;  // outer to inner
    uint32_t type = 0;
    std::string bytes;
  };
  std::vector<Tensor> tensors;

  // `value`: the type's number and the bytes.
  GgufWriter& raw_value(const std::string& key, uint32_t type, const std::string& value) {
    for (auto& [k, v] : values_) {
      if (k == key) return v = raw(type) + value, *this;
    }
    values_.emplace_back(key, raw(type) + value);
    return *this;
  }
  GgufWriter& integer(const std::string& key, uint32_t value) {
    return raw_value(key, 4, raw(value));
  }
  GgufWriter& real(const std::string& key, float value) { return raw_value(key, 6, raw(value)); }
  GgufWriter& text(const std::string& key, const std::string& value) {
    return raw_value(key, 8, gguf_text(value));
  }
  GgufWriter& integers(const std::string& key, const std::vector<int32_t>& values) {
    std::string bytes = raw(uint32_t(5)) + raw(uint64_t(values.size()));
    for (const int32_t value : values) bytes += raw(value);
    return raw_value(key, 9, bytes);
  }
  GgufWriter& texts(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = raw(uint32_t(8)) + raw(uint64_t(values.size()));
    for (const std::string& value : values) bytes += gguf_text(value);
    return raw_value(key, 9, bytes);
  }
  GgufWriter& drop(const std::string& key) {
    std::erase_if(values_, [&](const auto& one) { return one.first == key; });
    return *this;
  }

  std::string head() const {
    std::string s =
        "GGUF" + raw(version) + raw(uint64_t(tensors.size())) + raw(uint64_t(values_.size()));
    for (const auto& [key, value] : values_) s += gguf_text(key) + value;
    uint64_t offset = 0;
    for (const Tensor& t : tensors) {
      s += gguf_text(t.name) + raw(uint32_t(t.shape.size()));
      for (size_t i = t.shape.size(); i > 0; --i) s += raw(uint64_t(t.shape[i - 1]));
      s += raw(t.type) + raw(offset);
      offset += padded(t.bytes.size());
    }
    return s;
  }
  std::string bytes() const {
    std::string s = head();
    size_t all = padded(s.size());
    for (const Tensor& t : tensors) all += padded(t.bytes.size());
    s.reserve(all);
    s.resize(padded(s.size()));
    for (const Tensor& t : tensors) {
      s += t.bytes;
      s.resize(padded(s.size()));
    }
    return s;
  }

 private:
  static size_t padded(size_t n) { return (n + 31) / 32 * 32; }
  std::vector<std::pair<std::string, std::string>> values_;
};

// llama_config() and its metadata of a vocabulary, without tensors.
inline GgufWriter gguf_llama() {
  GgufWriter w;
  w.text("general.architecture", "llama")
      .integer("llama.context_length", 128)
      .integer("llama.embedding_length", 8)
      .integer("llama.block_count", 2)
      .integer("llama.feed_forward_length", 12)
      .integer("llama.attention.head_count", 4)
      .integer("llama.attention.head_count_kv", 2)
      .integer("llama.attention.key_length", 6)
      .integer("llama.attention.value_length", 6)
      .integer("llama.rope.dimension_count", 6)
      .real("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .real("llama.rope.freq_base", 500000.0f)
      .texts("tokenizer.ggml.tokens", {"a", "b", "<|eot_id|>", "c"})
      .integer("tokenizer.ggml.bos_token_id", 1)
      .integer("tokenizer.ggml.eos_token_id", 3);
  return w;
}

// Hugging Face's names and order of rows -> GGUF's, as llama.cpp's conversion does it. `heads` of q
// and of k where rows of q and k are permuted.
inline std::vector<GgufWriter::Tensor> gguf_tensors(const RawTensors& tensors, int64_t q_heads,
                                                    int64_t kv_heads) {
  const std::vector<std::pair<std::string, std::string>> names = {
      {"model.layers.", "blk."},        {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},    {"lm_head", "output"},
      {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},   {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},
      {"mlp.gate_proj", "ffn_gate"},    {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  std::vector<GgufWriter::Tensor> out;
  for (const auto& [name, t] : tensors) {
    GgufWriter::Tensor g{name, t.shape,
                         t.dtype == "F32"   ? 0u
                         : t.dtype == "F16" ? 1u
                                            : 30u,
                         t.bytes};
    for (const auto& [from, to] : names) {
      if (const size_t at = g.name.find(from); at != std::string::npos) {
        g.name.replace(at, from.size(), to);
      }
    }
    const bool is_q = name.ends_with("q_proj.weight"), is_k = name.ends_with("k_proj.weight");
    if (const int64_t heads = is_q ? q_heads : is_k ? kv_heads : 0) {
      const int64_t rows = t.shape[0], dim = rows / heads;
      const size_t row = t.bytes.size() / size_t(rows);
      for (int64_t i = 0; i < rows; ++i) {
        // reshape(heads, 2, dim / 2).swapaxes(1, 2)
        const int64_t head = i / dim, at = i % dim;
        const int64_t from = head * dim + at % 2 * (dim / 2) + at / 2;
        g.bytes.replace(size_t(i) * row, row, t.bytes, size_t(from) * row, row);
      }
    }
    out.push_back(std::move(g));
  }
  return out;
}

}  // namespace nemotron::test
