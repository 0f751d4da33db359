// Checkpoints made up by tests: a folder that is removed again, JSON and safetensors written by
// hand so that every byte of them can also be wrong.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "device/tensor.h"

namespace nemotron::test {

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "nemotron-XXXXXX").string();
    if (!mkdtemp(pattern.data())) std::abort();
    path_ = pattern;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(file(name), std::ios::binary) << bytes;
  }

 private:
  std::string path_;
};

// A JSON object whose members are raw JSON text, in order.
class Members {
 public:
  Members(std::initializer_list<std::pair<std::string, std::string>> all) : all_(all) {}
  Members& set(const std::string& name, const std::string& value) {
    for (auto& [n, v] : all_) {
      if (n == name) return v = value, *this;
    }
    all_.emplace_back(name, value);
    return *this;
  }
  Members& drop(const std::string& name) {
    std::erase_if(all_, [&](const auto& member) { return member.first == name; });
    return *this;
  }
  std::string text() const {
    std::string s = "{";
    for (const auto& [name, value] : all_) {
      s += (s.size() > 1 ? ",\n " : "\n ") + ("\"" + name) + "\": " + value;
    }
    return s + "\n}\n";
  }

 private:
  std::vector<std::pair<std::string, std::string>> all_;
};

inline Members llama_config() {
  return {{"architectures", "[\"LlamaForCausalLM\"]"},
          {"model_type", "\"llama\""},
          {"hidden_size", "8"},
          {"intermediate_size", "12"},
          {"num_hidden_layers", "2"},
          {"num_attention_heads", "4"},
          {"num_key_value_heads", "2"},
          {"head_dim", "6"},
          {"vocab_size", "20"},
          {"max_position_embeddings", "128"},
          {"rms_norm_eps", "1e-05"},
          {"rope_theta", "500000.0"},
          {"tie_word_embeddings", "false"},
          {"bos_token_id", "1"},
          {"eos_token_id", "2"},
          {"torch_dtype", "\"bfloat16\""}};
}

inline Members nemotron_config() {
  return llama_config()
      .set("architectures", "[\"NemotronForCausalLM\"]")
      .set("model_type", "\"nemotron\"")
      .set("hidden_act", "\"relu2\"")
      .set("head_dim", "12")
      .set("norm_eps", "1e-05")
      .set("partial_rotary_factor", "0.5")
      .drop("rms_norm_eps");
}

// Two layers: the first whole, the second without attention.
inline Members deci_config() {
  return llama_config()
      .set("architectures", "[\"DeciLMForCausalLM\"]")
      .set("model_type", "\"nemotron-nas\"")
      .set("intermediate_size", "null")
      .set("num_key_value_heads", "null")
      .set("block_configs",
           R"([{"attention": {"no_op": false, "n_heads_in_group": 2},
                "ffn": {"no_op": false, "ffn_mult": 2.625}},
               {"attention": {"no_op": true, "n_heads_in_group": null},
                "ffn": {"no_op": false, "ffn_mult": 50.0}}])");
}

struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

inline RawTensor bf16_tensor(const std::vector<int64_t>& shape, float first, float step = 0.25f) {
  RawTensor t{"BF16", shape, {}};
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t h = f32_to_bf16(first + step * float(i % 7));
    t.bytes.append(reinterpret_cast<const char*>(&h), 2);
  }
  return t;
}
inline RawTensor f32_tensor(const std::vector<int64_t>& shape, const std::vector<float>& values) {
  return {"F32", shape,
          std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))};
}
// Codes 0x20, 0x21, ...: finite values.
inline RawTensor fp8_tensor(const std::vector<int64_t>& shape) {
  RawTensor t{"F8_E4M3", shape, {}};
  for (int64_t i = 0; i < shape[0] * shape[1]; ++i) t.bytes.push_back(char(0x20 + i % 32));
  return t;
}

inline std::string shape_json(const std::vector<int64_t>& shape) {
  std::string s;
  for (const int64_t d : shape) s += (s.empty() ? "" : ",") + std::to_string(d);
  return "[" + s + "]";
}

// The file with this header text and these bytes of data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  std::string s;
  for (int i = 0; i < 8; ++i) s.push_back(char(uint64_t(header.size()) >> (8 * i)));
  return s + header + data;
}
inline std::string safetensors_bytes(const RawTensors& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
  for (const auto& [name, t] : tensors) {
    header += ",\"" + name + "\":{\"dtype\":\"" + t.dtype + "\",\"shape\":" + shape_json(t.shape) +
              ",\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + t.bytes.size()) + "]}";
    data += t.bytes;
  }
  return safetensors_bytes(header + "}", data);
}

// The tensors of llama_config().
inline RawTensors llama_tensors() {
  RawTensors t;
  float value = 0;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    t[name] = bf16_tensor(shape, value += 0.5f);
  };
  add("model.embed_tokens.weight", {20, 8});
  add("model.norm.weight", {8});
  add("lm_head.weight", {20, 8});
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    add(layer + "input_layernorm.weight", {8});
    add(layer + "post_attention_layernorm.weight", {8});
    add(layer + "self_attn.q_proj.weight", {24, 8});
    add(layer + "self_attn.k_proj.weight", {12, 8});
    add(layer + "self_attn.v_proj.weight", {12, 8});
    add(layer + "self_attn.o_proj.weight", {8, 24});
    add(layer + "mlp.gate_proj.weight", {12, 8});
    add(layer + "mlp.up_proj.weight", {12, 8});
    add(layer + "mlp.down_proj.weight", {8, 12});
  }
  return t;
}

// Every linear layer of llama_tensors() as FP8: one scale a tensor with an input_scale (ModelOpt),
// or one a row (compressed-tensors).
inline RawTensors fp8_llama_tensors(bool per_row) {
  RawTensors t = llama_tensors();
  for (const auto& [name, tensor] : llama_tensors()) {
    if (name.find("_proj.weight") == std::string::npos) continue;
    const std::string module = name.substr(0, name.size() - std::strlen(".weight"));
    const int64_t rows = tensor.shape[0];
    t[name] = fp8_tensor(tensor.shape);
    std::vector<float> scales;
    for (int64_t i = 0; i < (per_row ? rows : 1); ++i) {
      scales.push_back(0.5f + 0.125f * float(i + int64_t(t.size() % 5)));
    }
    t[module + ".weight_scale"] =
        f32_tensor(per_row ? std::vector<int64_t>{rows, 1} : std::vector<int64_t>{}, scales);
    if (!per_row) t[module + ".input_scale"] = f32_tensor({}, {0.01f});
  }
  return t;
}

}  // namespace nemotron::test
