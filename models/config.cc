#include "models/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "models/checkpoint/json.h"
#include "models/checkpoint/json_fields.h"
#include "models/checkpoint/mapped_file.h"
#include "models/quantization.h"

namespace nemotron {
namespace {

// Bounds of what is accepted, far above any model of the family: with them every product of sizes
// fits an int64_t (vocab * hidden * 4 < 2^47, layers * 3 * intermediate * hidden * 4 < 2^57).
constexpr int64_t kMaxHidden = 1 << 18, kMaxLayers = 1 << 12, kMaxHeads = 1 << 12;
constexpr int64_t kMaxHeadDim = 1 << 10, kMaxIntermediate = 1 << 21, kMaxVocab = 1 << 24;
constexpr int64_t kMaxPosition = int64_t(1) << 27, kMaxLabels = 1 << 10;

constexpr const char* kServed =
    "served: \"LlamaForCausalLM\" (chat and reward) and \"LlamaForSequenceClassification\" "
    "(reward)";

Status read_json(const std::string& path, Json* out) {
  MappedFile file;
  if (Status s = MappedFile::open(path, &file); !s) return s;
  return Json::parse(file.text(), out).within(path);
}

// The file may be missing; then *found is false.
Status read_optional_json(const std::string& path, bool* found, Json* out) {
  const Status s = read_json(path, out);
  *found = s.ok();
  return s.code() == Code::not_found ? Status() : s;
}

void read_architecture(Fields* f, ModelConfig* out) {
  const std::vector<std::string> names = f->texts("architectures");
  if (!f->status().ok()) return;
  if (names.size() != 1) {
    f->fail("\"architectures\" has " + std::to_string(names.size()) + " names; expected one; " +
            kServed);
    return;
  }
  out->architecture = names[0];
  if (names[0] != "LlamaForCausalLM" && names[0] != "LlamaForSequenceClassification") {
    f->unsupported("architecture " + Json(names[0]).brief() + " is not served; " + kServed);
    return;
  }
  const std::string type = f->text("model_type", "llama");
  if (type != "llama") {
    f->unsupported("\"model_type\" is " + Json(type).brief() + "; served: \"llama\"");
  }
}

// Features that other members of the family have: their numbers would be wrong without a word.
void refuse_unserved(Fields* f) {
  for (const char* name : {"attention_bias", "mlp_bias", "use_bidirectional_attention"}) {
    if (f->boolean(name, false)) {
      f->unsupported("\"" + std::string(name) + "\" is true; served: false");
    }
  }
  const std::string act = f->text("hidden_act", "silu");
  if (act != "silu" && act != "swish") {
    f->unsupported("\"hidden_act\" is " + Json(act).brief() + "; served: \"silu\"");
  }
  if (const Json* window = f->find("sliding_window")) {
    f->unsupported("\"sliding_window\" is " + window->brief() + "; served: null");
  }
  if (f->integer("pretraining_tp", 0, kMaxHidden, 1) > 1) {
    f->unsupported("\"pretraining_tp\" is above 1; served: 1");
  }
  if (f->real("partial_rotary_factor", 0, 1, 1.0) != 1.0) {
    f->unsupported("\"partial_rotary_factor\" is not 1; served: 1");
  }
  for (const std::string& type : f->texts("layer_types")) {
    if (type != "full_attention") {
      f->unsupported("\"layer_types\" has " + Json(type).brief() + "; served: \"full_attention\"");
      break;
    }
  }
}

// `rope_scaling`, or `rope_parameters` of newer files, which has rope_theta inside.
void read_rope_block(const Json& block, const std::string& where, RopeConfig* out, Fields* parent) {
  Fields f(block, where);
  // Without a type and a factor there is nothing to scale.
  const std::string type =
      f.text("rope_type", f.text("type", f.find("factor") ? "" : "default").c_str());
  out->theta = f.real("rope_theta", 1, 1e15, out->theta);
  if (f.real("partial_rotary_factor", 0, 1, 1.0) != 1.0) {
    f.unsupported("\"partial_rotary_factor\" is not 1; served: 1");
  }
  if (type == "llama3") {
    out->kind = RopeConfig::Kind::llama3;
    out->factor = f.real("factor", 1, 1e6);
    out->low_freq_factor = f.real("low_freq_factor", 1e-6, 1e6);
    out->high_freq_factor = f.real("high_freq_factor", 1e-6, 1e6);
    out->original_max_position = f.integer("original_max_position_embeddings", 1, kMaxPosition);
    if (f.status().ok() && out->high_freq_factor <= out->low_freq_factor) {
      f.fail("\"high_freq_factor\" is not above \"low_freq_factor\"");
    }
  } else if (type != "default" && f.status().ok()) {
    f.unsupported("\"rope_type\" is " + (type.empty() ? "missing" : Json(type).brief()) +
                  "; served: \"llama3\" and \"default\"");
  }
  parent->adopt(f.status());
}

bool same(const RopeConfig& a, const RopeConfig& b) {
  return a.theta == b.theta && a.kind == b.kind && a.factor == b.factor &&
         a.low_freq_factor == b.low_freq_factor && a.high_freq_factor == b.high_freq_factor &&
         a.original_max_position == b.original_max_position;
}

void read_rope(Fields* f, RopeConfig* out) {
  out->theta = f->real("rope_theta", 1, 1e15, out->theta);
  const Json* scaling = f->find("rope_scaling");
  const Json* parameters = f->find("rope_parameters");
  RopeConfig newer = *out;
  if (scaling) read_rope_block(*scaling, f->inside("rope_scaling"), out, f);
  if (parameters) read_rope_block(*parameters, f->inside("rope_parameters"), &newer, f);
  if (scaling && parameters && f->status().ok() && !same(*out, newer)) {
    f->fail("\"rope_scaling\" and \"rope_parameters\" disagree; expected one of them");
  }
  if (parameters) *out = newer;
}

void read_sizes(Fields* f, ModelConfig* out) {
  out->hidden = f->integer("hidden_size", 1, kMaxHidden);
  out->vocab = f->integer("vocab_size", 1, kMaxVocab);
  out->q_heads = f->integer("num_attention_heads", 1, kMaxHeads);
  const int32_t kv_heads = f->integer("num_key_value_heads", 1, kMaxHeads, out->q_heads);
  const int32_t layers = f->integer("num_hidden_layers", 1, kMaxLayers);
  const int32_t intermediate = f->integer("intermediate_size", 1, kMaxIntermediate);
  out->max_position = f->integer("max_position_embeddings", 1, kMaxPosition, 2048);
  out->rms_eps = float(f->real("rms_norm_eps", 0, 1, 1e-6));
  out->tied = f->boolean("tie_word_embeddings", false);
  if (!f->status().ok()) return;
  if (out->q_heads % kv_heads != 0) {
    f->fail("\"num_attention_heads\" is " + std::to_string(out->q_heads) +
            "; expected a multiple of \"num_key_value_heads\", which is " +
            std::to_string(kv_heads));
  }
  out->head_dim = f->integer("head_dim", 1, kMaxHeadDim, 0);
  if (out->head_dim == 0) {
    if (out->hidden % out->q_heads != 0 || out->hidden / out->q_heads > kMaxHeadDim) {
      f->fail("\"head_dim\" is missing and \"hidden_size\" / \"num_attention_heads\" is " +
              std::to_string(out->hidden) + " / " + std::to_string(out->q_heads) +
              "; expected an integer up to " + std::to_string(kMaxHeadDim));
      return;
    }
    out->head_dim = out->hidden / out->q_heads;
  }
  if (out->head_dim % 2 != 0) {
    f->fail("\"head_dim\" is " + std::to_string(out->head_dim) + "; expected an even number");
  }
  out->layers.assign(
      size_t(layers),
      LayerSpec{
          .attention = true, .kv_heads = kv_heads, .ffn = true, .intermediate = intermediate});
}

void read_dtype(Fields* f, ModelConfig* out) {
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
std::vector<int32_t> read_ids(Fields* f, const char* name, int32_t vocab) {
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

void read_special_ids(Fields* f, ModelConfig* out) {
  for (const int32_t id : read_ids(f, "eos_token_id", out->vocab)) {
    if (std::find(out->eos_ids.begin(), out->eos_ids.end(), id) == out->eos_ids.end()) {
      out->eos_ids.push_back(id);
    }
  }
  const std::vector<int32_t> bos = read_ids(f, "bos_token_id", out->vocab);
  if (out->bos_id < 0 && !bos.empty()) out->bos_id = bos[0];
}

// id2label {"0": "LABEL_0", ...} in the order of its numbers. transformers leaves it out when there
// are two labels with their default names.
void read_labels(Fields* f, RewardHead* out) {
  const Json* map = f->find("id2label");
  const int32_t count = f->integer("num_labels", 1, kMaxLabels, 2);
  if (!map) {
    for (int32_t i = 0; i < count; ++i) out->labels.push_back("LABEL_" + std::to_string(i));
    return;
  }
  const Json::Object* members = map->object();
  if (!members || members->empty() || members->size() > size_t(kMaxLabels)) {
    f->fail("\"id2label\" is " + map->brief() + "; expected an object of 1 to " +
            std::to_string(kMaxLabels) + " labels");
    return;
  }
  out->labels.resize(members->size());
  std::vector<bool> seen(members->size());
  for (const auto& [key, label] : *members) {
    size_t index = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
    if (error != std::errc() || end != key.data() + key.size() || index >= seen.size() ||
        seen[index] || !label.string()) {
      f->fail("\"id2label\" has " + Json(key).brief() + ": " + label.brief() +
              "; expected a label for each of 0 to " + std::to_string(seen.size() - 1));
      return;
    }
    seen[index] = true;
    out->labels[index] = *label.string();
  }
}

void read_reward(Fields* f, int32_t reward_row, ModelConfig* out) {
  const bool classification = out->architecture == "LlamaForSequenceClassification";
  if (classification) {
    out->reward.kind = RewardHead::Kind::classification;
    read_labels(f, &out->reward);
    if (reward_row >= 0) {
      f->fail("a reward row is set, but the architecture is " + out->architecture +
              ", whose scores are those of score.weight");
    }
  } else if (reward_row >= 0) {
    out->reward.kind = RewardHead::Kind::lm_head_row;
    out->reward.vocab_id = reward_row;
    if (reward_row >= out->vocab) {
      f->fail("the reward row is " + std::to_string(reward_row) + "; expected less than " +
              "\"vocab_size\", which is " + std::to_string(out->vocab));
    }
  }
}

Status read_quantization(const std::string& dir, const Json& config, ModelConfig* out) {
  const std::string path = dir + "/config.json";
  const Fields f(config, path);
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
  Fields f(document, path);
  read_architecture(&f, &config);
  if (!f.status()) return f.status();
  refuse_unserved(&f);
  read_sizes(&f, &config);
  if (!f.status()) return f.status();
  read_rope(&f, &config.rope);
  read_dtype(&f, &config);
  read_special_ids(&f, &config);
  read_reward(&f, reward_row, &config);
  if (!f.status()) return f.status();

  Json generation;
  bool found = false;
  const std::string generation_path = dir + "/generation_config.json";
  if (Status s = read_optional_json(generation_path, &found, &generation); !s) return s;
  if (found) {
    Fields g(generation, generation_path);
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

// The llama3 rule by wavelength: short ones keep their frequency, long ones are slowed down by
// `factor`, and between the two bounds the frequencies blend.
std::vector<float> ModelConfig::rope_inv_freq() const {
  std::vector<float> inv_freq(size_t(head_dim) / 2);
  const auto original = double(rope.original_max_position);
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    double inv = std::pow(rope.theta, -2.0 * double(i) / double(head_dim));
    const double wavelength = 2 * std::numbers::pi / inv;
    if (rope.kind == RopeConfig::Kind::llama3 && wavelength >= original / rope.high_freq_factor) {
      const double s = (original / wavelength - rope.low_freq_factor) /
                       (rope.high_freq_factor - rope.low_freq_factor);
      const double keep = std::clamp(s, 0.0, 1.0);
      inv *= (1 - keep) / rope.factor + keep;
    }
    inv_freq[i] = float(inv);
  }
  return inv_freq;
}

}  // namespace nemotron
