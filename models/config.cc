#include "models/config.h"

#include <algorithm>

#include "models/arch/architecture.h"
#include "models/checkpoint/file_bytes.h"
#include "models/checkpoint/json.h"
#include "models/checkpoint/json_fields.h"
#include "models/quantization.h"

namespace nemotron {
namespace {

Status read_json(const std::string& path, Json* out) {
  FileBytes file;
  if (Status s = FileBytes::read(path, Json::Limits().bytes, &file); !s) return s;
  return Json::parse(file.text(), out).within(path);
}

// The file may be missing; then *found is false.
Status read_optional_json(const std::string& path, bool* found, Json* out) {
  const Status s = read_json(path, out);
  *found = s.ok();
  return s.code() == Code::not_found ? Status() : s;
}

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

// One id or a list. Ids outside the vocabulary can never be drawn: they are left out.
std::vector<int32_t> read_ids(JsonFields* f, const char* name, int32_t vocab) {
  const Json* v = f->find(name);
  std::vector<int32_t> ids;
  const auto add = [&](const Json& one) {
    if (const int64_t* id = one.integer()) {
      if (*id >= 0 && *id < vocab) ids.push_back(int32_t(*id));
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
void read_reward_row(JsonFields* f, int32_t reward_row, ModelConfig* out) {
  if (reward_row < 0) return;
  if (out->reward.kind != RewardHead::Kind::none) {
    f->fail("a reward row is set, but the architecture is " + out->architecture +
            ", whose scores are those of score.weight");
    return;
  }
  out->reward.kind = RewardHead::Kind::lm_head_row;
  out->reward.vocab_id = reward_row;
  if (reward_row >= out->vocab) {
    f->fail("the reward row is " + std::to_string(reward_row) + "; expected less than " +
            "\"vocab_size\", which is " + std::to_string(out->vocab));
  }
}

Status read_quantization(const std::string& dir, const Json& config, ModelConfig* out) {
  const std::string path = dir + "/config.json";
  const JsonFields f(config, path);
  Quantization in_config, in_file;
  for (const char* name : {"compression_config", "quantization_config"}) {
    const Json* block = f.find(name);
    if (!block) continue;
    in_config = Quantization();
    if (Status s = read_quantization_block(*block, f.inside(name), &in_config); !s) return s;
  }
  Json document;
  bool found = false;
  const std::string file = dir + "/hf_quant_config.json";
  if (Status s = read_optional_json(file, &found, &document); !s) return s;
  if (found) {
    if (Status s = read_hf_quant_config(document, file, &in_file); !s) return s;
    if (in_config.kind == QuantKind::compressed_fp8 && in_file.kind != QuantKind::none) {
      return Status::invalid(file + ": ModelOpt FP8, but config.json says compressed-tensors");
    }
  }
  out->quant = in_config.kind != QuantKind::none ? in_config.kind : in_file.kind;
  out->quant_ignore = !in_config.ignore.empty() ? in_config.ignore : in_file.ignore;
  out->kv_scales = in_config.kv_scales || in_file.kv_scales;
  return {};
}

}  // namespace

Status read_model_config(const std::string& dir, int32_t reward_row, ModelConfig* out) {
  ModelConfig config;
  const std::string path = dir + "/config.json";
  Json document;
  if (Status s = read_json(path, &document); !s) return s;
  JsonFields f(document, path);
  const Architecture* architecture = read_architecture(&f, &config);
  if (!architecture) return f.status();
  architecture->read_config(&f, &config);
  if (!f.status()) return f.status();
  read_dtype(&f, &config);
  read_special_ids(&f, &config);
  read_reward_row(&f, reward_row, &config);
  if (!f.status()) return f.status();

  Json generation;
  bool found = false;
  const std::string generation_path = dir + "/generation_config.json";
  if (Status s = read_optional_json(generation_path, &found, &generation); !s) return s;
  if (found) {
    JsonFields g(generation, generation_path);
    read_special_ids(&g, &config);
    if (!g.status()) return g.status();
  }
  if (Status s = read_quantization(dir, document, &config); !s) return s;
  *out = std::move(config);
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
  for (const LayerSpec& layer : layers) {
    if (layer.attention) return layer.kv_heads;
  }
  return 0;
}

}  // namespace nemotron
