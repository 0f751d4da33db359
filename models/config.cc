#include "models/config.h"

#include <algorithm>

#include "models/arch/architecture.h"
#include "models/checkpoint/documents.h"
#include "models/checkpoint/json_fields.h"
#include "models/quantization.h"

namespace nemotron {
namespace {

// Null when f has a failure.
const Architecture* read_architecture(JsonFields* f, ModelConfig* out) {
  const std::vector<std::string> names = f->texts("architectures");
  if (!f->status().ok()) return nullptr;
  if (names.size() != 1) {
    f->fail("\"architectures\" has " + std::to_string(names.size()) + " names; expected one; " +
            served_architectures());
    return nullptr;
  }
  out->architecture = names[0];
  const Architecture* found = find_architecture(names[0]);
  if (!found) {
    f->unsupported("architecture " + Json(names[0]).brief() + " is not served; " +
                   served_architectures());
  }
  return found;
}

void read_dtype(JsonFields* f, ModelConfig* out) {
  const char* name = f->find("dtype") ? "dtype" : "torch_dtype";
  const std::string dtype = f->text(name, "bfloat16");
  if (dtype == "bfloat16")
    out->dtype = DType::bf16;
  else if (dtype == "float16")
    out->dtype = DType::f16;
  else if (dtype == "float32")
    out->dtype = DType::f32;
  else if (dtype == "float8_e4m3fn")
    out->dtype = DType::fp8_e4m3;
  else
    f->unsupported("\"" + std::string(name) + "\" is " + Json(dtype).brief() +
                   "; served: bfloat16, float16, float32");
}

// One id or a list. Ids beyond the vocabulary can never be drawn: they are left out.
std::vector<int32_t> read_ids(JsonFields* f, const char* name, int32_t vocab) {
  const Json* v = f->find(name);
  std::vector<int32_t> ids;
  const auto add = [&](const Json& one) {
    if (const int64_t* id = one.integer(); id && *id >= 0) {
      if (*id < vocab) ids.push_back(int32_t(*id));
    } else {
      f->fail("\"" + std::string(name) + "\" has " + one.brief() + "; expected token ids");
    }
  };
  if (v && v->array()) {
    for (const Json& one : *v->array()) add(one);
  } else if (v) {
    add(*v);
  }
  return ids;
}

void read_special_ids(JsonFields* f, ModelConfig* out) {
  for (const int32_t id : read_ids(f, "eos_token_id", out->vocab)) {
    if (std::find(out->eos_ids.begin(), out->eos_ids.end(), id) == out->eos_ids.end()) {
      out->eos_ids.push_back(id);
    }
  }
  const std::vector<int32_t> bos = read_ids(f, "bos_token_id", out->vocab);
  if (out->bos_id < 0 && !bos.empty()) out->bos_id = bos[0];
}

// Reward-HF is stored as an ordinary LlamaForCausalLM: the registry or the config file says so.
void read_reward_rows(JsonFields* f, std::span<const int32_t> rows, ModelConfig* out) {
  if (rows.empty()) return;
  if (out->reward.kind != RewardHead::Kind::none) {
    f->fail("reward rows are set, but the architecture is " + out->architecture +
            ", whose scores are those of score.weight");
    return;
  }
  out->reward.kind = RewardHead::Kind::lm_head_rows;
  out->reward.vocab_ids.assign(rows.begin(), rows.end());
  for (const int32_t row : rows) {
    if (row >= 0 && row < out->vocab) continue;
    f->fail("a reward row is " + std::to_string(row) + "; expected 0 to " +
            std::to_string(out->vocab - 1) + ", since \"vocab_size\" is " +
            std::to_string(out->vocab));
  }
}

// What holds for a request that says nothing of it.
void read_defaults(JsonFields* f, GenerationDefaults* out) {
  constexpr double kMost = 1e6;
  const auto real = [f](const char* name, double low, double high) {
    return f->find(name) ? std::optional(f->real(name, low, high)) : std::nullopt;
  };
  out->greedy = !f->boolean("do_sample", true);
  out->temperature = real("temperature", 0, kMost);
  out->top_p = real("top_p", 0, 1);
  out->min_p = real("min_p", 0, 1);
  if (f->find("top_k")) out->top_k = f->integer("top_k", -1, INT32_MAX);
  out->repetition_penalty = real("repetition_penalty", 1e-6, kMost);
}

Status read_generation(const Document& document, ModelConfig* out) {
  JsonFields f(document.json, document.where);
  if (!f.status()) return f.status();
  read_special_ids(&f, out);
  read_defaults(&f, &out->generation);
  return f.status();
}

Status read_quantization(const Documents& documents, ModelConfig* out) {
  const JsonFields f(documents.config.json, documents.config.where);
  Quantization in_config, in_file;
  for (const char* name : {"compression_config", "quantization_config"}) {
    const Json* block = f.find(name);
    if (!block) continue;
    in_config = Quantization();
    if (Status s = read_quantization_block(*block, f.inside(name), &in_config); !s) return s;
  }
  if (documents.quantization) {
    const auto& [where, json] = *documents.quantization;
    if (Status s = read_hf_quant_config(json, where, &in_file); !s) return s;
    const bool other =
        in_config.kind != QuantKind::none && in_config.kind != QuantKind::modelopt_fp8;
    if (other && in_file.kind != QuantKind::none) {
      const bool compressed = in_config.kind == QuantKind::compressed_fp8;
      return Status::invalid(where + ": ModelOpt FP8, but config.json says " +
                             (compressed ? "compressed-tensors" : "\"fp8\""));
    }
  }
  out->quant = in_config.kind != QuantKind::none ? in_config.kind : in_file.kind;
  out->quant_ignore = !in_config.ignore.empty() ? in_config.ignore : in_file.ignore;
  out->kv_scales = in_config.kv_scales || in_file.kv_scales;
  return {};
}

Status read_documents(const Documents& documents, std::span<const int32_t> reward_rows,
                      ModelConfig* out) {
  ModelConfig config;
  JsonFields f(documents.config.json, documents.config.where);
  const Architecture* architecture = read_architecture(&f, &config);
  if (!architecture) return f.status();
  architecture->read_config(&f, &config);
  if (!f.status()) return f.status();
  read_dtype(&f, &config);
  read_special_ids(&f, &config);
  read_reward_rows(&f, reward_rows, &config);
  if (!f.status()) return f.status();
  if (documents.generation) {
    if (Status s = read_generation(*documents.generation, &config); !s) return s;
  }
  if (Status s = read_quantization(documents, &config); !s) return s;
  *out = std::move(config);
  return {};
}

}  // namespace

Status read_model_config(const std::string& dir, std::span<const int32_t> reward_rows,
                         ModelConfig* out) {
  Documents documents;
  if (Status s = Documents::read(dir, &documents); !s) return s;
  if (Status s = read_documents(documents, reward_rows, out); !s) return documents.names.in(s);
  out->names = std::move(documents.names);
  return {};
}

int32_t ModelConfig::kv_layers() const {
  return int32_t(std::count_if(layers.begin(), layers.end(),
                               [](const LayerSpec& layer) { return layer.attention; }));
}

int32_t ModelConfig::max_intermediate() const {
  int32_t most = 0;
  for (const LayerSpec& layer : layers) {
    if (layer.ffn) most = std::max(most, layer.intermediate);
  }
  return most;
}

int32_t ModelConfig::kv_heads() const {
  int32_t most = 0;
  for (const LayerSpec& layer : layers) {
    if (layer.attention) most = std::max(most, layer.kv_heads);
  }
  return most;
}

const char* config_difference(const ModelConfig& a, const ModelConfig& b) {
  if (a.architecture != b.architecture) return "architectures";
  if (a.hidden != b.hidden) return "hidden_size";
  if (a.vocab != b.vocab) return "vocab_size";
  if (a.q_heads != b.q_heads) return "num_attention_heads";
  if (a.head_dim != b.head_dim) return "head_dim";
  if (a.max_position != b.max_position) return "max_position_embeddings";
  if (a.norm != b.norm || a.norm_gain_less_one != b.norm_gain_less_one) return "model_type";
  if (a.norm_eps != b.norm_eps) return "rms_norm_eps";
  if (a.tied != b.tied) return "tie_word_embeddings";
  if (a.rope != b.rope || a.rotary_dim != b.rotary_dim) return "rope_theta or rope_scaling";
  if (a.layers != b.layers) return "num_hidden_layers, or one of its layers";
  if (a.quant != b.quant || a.quant_ignore != b.quant_ignore || a.kv_scales != b.kv_scales)
    return "quantization_config";
  if (a.reward != b.reward) return "id2label";
  return nullptr;
}

}  // namespace nemotron
