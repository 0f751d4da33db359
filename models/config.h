// ModelConfig: what the documents of a checkpoint say (models/checkpoint/documents.h), checked.
// Pure data; read once at load.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "device/status.h"
#include "device/tensor.h"
#include "models/checkpoint/field_names.h"
#include "models/rope.h"

namespace nemotron {

// One decoder layer. Plain Llama repeats one spec; a pruned model (Super-49B) is a longer list.
struct LayerSpec {
  bool attention = true;  // false: no attention, no KV
  int32_t kv_heads = 0;
  bool ffn = true;
  int32_t intermediate = 0;
  Activation activation = Activation::silu_gated;
  // One matrix [hidden, hidden] after the norm in the place of attention, or of the feed-forward
  // part, which is then absent. Where there is neither, there is no norm either.
  bool linear_attention = false, linear_ffn = false;
  bool operator==(const LayerSpec&) const = default;
};

// What the checkpoint's linear layers are stored as.
enum class QuantKind : uint8_t {
  none,            // BF16, F16 or F32 tensors
  modelopt_fp8,    // weight, weight_scale scalar, input_scale scalar (read, checked, unused on CPU)
  compressed_fp8,  // weight, weight_scale [out, 1]; activations dynamic
  vllm_fp8,        // weight, weight_scale scalar, and input_scale where activations are static
};

// How a reward is read from the last position.
struct RewardHead {
  enum class Kind : uint8_t {
    none,            // a chat model
    lm_head_rows,    // logits of a few vocabulary ids (Reward-HF: one)
    classification,  // LlamaForSequenceClassification: score.weight [labels, hidden]
  } kind = Kind::none;
  std::vector<int32_t> vocab_ids;   // lm_head_rows: one output each, in order
  std::vector<std::string> labels;  // classification: id2label, in order

  int32_t outputs() const { return int32_t(vocab_ids.size() + labels.size()); }
  bool operator==(const RewardHead&) const = default;
};

// What a request that says nothing of it gets, by the checkpoint's own advice.
struct GenerationDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int32_t> top_k;  // -1 or 0: all
  bool greedy = false;           // do_sample: false
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM", ...
  int32_t hidden = 0, vocab = 0, q_heads = 0, head_dim = 0;
  int32_t max_position = 0;
  Norm::Kind norm = Norm::Kind::rms;
  bool norm_gain_less_one = false;  // the file stores gain - 1 (layernorm1p)
  float norm_eps = 1e-5f;
  bool tied = false;
  RopeConfig rope;
  int32_t rotary_dim = 0;  // of a head: even, head_dim at most
  std::vector<LayerSpec> layers;
  // The field of config.json with an object a layer, {"attention": ..., "ffn": ...}, for messages;
  // empty: all layers are alike.
  std::string layer_list;
  FieldNames names;           // for messages
  DType dtype = DType::bf16;  // torch_dtype, for display; tensors say their own
  QuantKind quant = QuantKind::none;
  std::vector<std::string> quant_ignore;  // module patterns kept unquantised
  bool kv_scales = false;                 // checkpoint carries k_scale / v_scale
  RewardHead reward;
  int32_t bos_id = -1;
  std::vector<int32_t> eos_ids;  // union of config and generation_config
  GenerationDefaults generation;

  int32_t kv_layers() const;  // layers with attention
  int32_t max_intermediate() const;
  int32_t kv_heads() const;  // the most that a layer has
};

// The field, as config.json calls it, in which they describe different computations; null: there is
// none. What a request gets that says nothing of it is not looked at.
const char* config_difference(const ModelConfig& a, const ModelConfig& b);

// Reads the documents of the checkpoint in `dir`. Errors name the file, the field, found and
// expected; architectures not served yet are refused by name.
// `reward_rows`: registry.json or the config file says that this checkpoint's scores are the logits
// of these vocabulary ids (Reward-HF is stored as an ordinary LlamaForCausalLM). Empty: nothing.
Status read_model_config(const std::string& dir, std::span<const int32_t> reward_rows,
                         ModelConfig* out);

}  // namespace nemotron
