#include "models/config_fields.h"

#include <charconv>
#include <cmath>
#include <string>

namespace nemotron {
namespace {

void read_yarn(JsonFields* f, RopeConfig* out) {
  out->kind = RopeConfig::Kind::yarn;
  out->factor = f->real("factor", 1, 1e6);
  out->original_max_position = f->integer("original_max_position_embeddings", 1, kMaxPosition);
  out->beta_fast = f->real("beta_fast", 1e-6, 1e6, 32);
  out->beta_slow = f->real("beta_slow", 1e-6, 1e6, 1);
  out->truncate = f->boolean("truncate", true);
  if (f->status().ok() && out->theta <= 1) f->fail("\"rope_theta\" is not above 1");
  if (f->status().ok() && out->beta_fast <= out->beta_slow) {
    f->fail("\"beta_fast\" is not above \"beta_slow\"");
  }
  for (const char* name : {"mscale", "mscale_all_dim"}) {
    if (f->find(name)) f->unsupported("\"" + std::string(name) + "\" is set; served: none");
  }
  out->attention_factor = f->real("attention_factor", 1e-3, 1e3, 0.1 * std::log(out->factor) + 1);
}

// `rope_scaling`, or `rope_parameters` of newer files, which has rope_theta inside.
void read_rope_block(const Json& block, const std::string& where, RopeConfig* out,
                     JsonFields* parent) {
  JsonFields f(block, where);
  // Without a type and a factor there is nothing to scale.
  const std::string type =
      f.text("rope_type", f.text("type", f.find("factor") ? "" : "default").c_str());
  out->theta = f.real("rope_theta", 1, 1e15, out->theta);
  out->share = f.real("partial_rotary_factor", 0, 1, out->share);
  if (type == "llama3") {
    out->kind = RopeConfig::Kind::llama3;
    out->factor = f.real("factor", 1, 1e6);
    out->low_freq_factor = f.real("low_freq_factor", 1e-6, 1e6);
    out->high_freq_factor = f.real("high_freq_factor", 1e-6, 1e6);
    out->original_max_position = f.integer("original_max_position_embeddings", 1, kMaxPosition);
    if (f.status().ok() && out->high_freq_factor <= out->low_freq_factor) {
      f.fail("\"high_freq_factor\" is not above \"low_freq_factor\"");
    }
  } else if (type == "yarn") {
    read_yarn(&f, out);
  } else if (type == "divided") {
    out->kind = RopeConfig::Kind::divided;
    out->divisors = f.reals("divisors", 1e-6, 1e6);
  } else if (type != "default" && f.status().ok()) {
    f.unsupported("\"rope_type\" is " + (type.empty() ? "missing" : Json(type).brief()) +
                  "; served: \"llama3\", \"yarn\" and \"default\"");
  }
  parent->adopt(f.status());
}

bool same(const RopeConfig& a, const RopeConfig& b) {
  return a.theta == b.theta && a.kind == b.kind && a.factor == b.factor &&
         a.low_freq_factor == b.low_freq_factor && a.high_freq_factor == b.high_freq_factor &&
         a.beta_fast == b.beta_fast && a.beta_slow == b.beta_slow && a.truncate == b.truncate &&
         a.attention_factor == b.attention_factor &&
         a.original_max_position == b.original_max_position && a.divisors == b.divisors &&
         a.share == b.share;
}

// transformers' name, and two of older conversions.
double read_share(JsonFields* f, double share) {
  const char* by = nullptr;
  for (const char* name : {"partial_rotary_factor", "rope_percent", "rope_percentage"}) {
    if (!f->find(name)) continue;
    const double value = f->real(name, 0, 1);
    if (by && value != share) {
      f->fail("\"" + std::string(by) + "\" and \"" + name + "\" disagree; expected one of them");
    }
    share = value;
    by = name;
  }
  return share;
}

void read_rope_fields(JsonFields* f, RopeConfig* out) {
  out->theta = f->real("rope_theta", 1, 1e15, out->theta);
  out->share = read_share(f, out->share);
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

void check_divisors(JsonFields* f, const ModelConfig& config) {
  const size_t found = config.rope.divisors.size(), expected = size_t(config.rotary_dim) / 2;
  if (!f->status().ok() || config.rope.kind != RopeConfig::Kind::divided || found == expected)
    return;
  f->fail("the frequencies of rope have " + std::to_string(found) + " divisors; expected " +
          std::to_string(expected) + ", one for each");
}
}  // namespace

void refuse_unserved(JsonFields* f) {
  for (const char* name : {"attention_bias", "mlp_bias", "use_bidirectional_attention"}) {
    if (f->boolean(name, false)) {
      f->unsupported("\"" + std::string(name) + "\" is true; served: false");
    }
  }
  if (const Json* window = f->find("sliding_window")) {
    f->unsupported("\"sliding_window\" is " + window->brief() + "; served: null");
  }
  if (f->integer("pretraining_tp", 0, kMaxHidden, 1) > 1) {
    f->unsupported("\"pretraining_tp\" is above 1; served: 1");
  }
  for (const std::string& type : f->texts("layer_types")) {
    if (type != "full_attention") {
      f->unsupported("\"layer_types\" has " + Json(type).brief() + "; served: \"full_attention\"");
      break;
    }
  }
}

void read_sizes(JsonFields* f, ModelConfig* out) {
  out->hidden = f->integer("hidden_size", 1, kMaxHidden);
  out->vocab = f->integer("vocab_size", 1, kMaxVocab);
  out->q_heads = f->integer("num_attention_heads", 1, kMaxHeads);
  out->max_position = f->integer("max_position_embeddings", 1, kMaxPosition, 2048);
  out->tied = f->boolean("tie_word_embeddings", false);
  if (!f->status().ok()) return;
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
}

void read_equal_layers(JsonFields* f, Activation activation, ModelConfig* out) {
  const int32_t kv_heads = f->integer("num_key_value_heads", 1, kMaxHeads, out->q_heads);
  const int32_t layers = f->integer("num_hidden_layers", 1, kMaxLayers);
  const int32_t intermediate = f->integer("intermediate_size", 1, kMaxIntermediate);
  if (!f->status().ok()) return;
  if (out->q_heads % kv_heads != 0) {
    f->fail("\"num_attention_heads\" is " + std::to_string(out->q_heads) +
            "; expected a multiple of \"num_key_value_heads\", which is " +
            std::to_string(kv_heads));
  }
  out->layers.assign(size_t(layers), LayerSpec{.attention = true,
                                               .kv_heads = kv_heads,
                                               .ffn = true,
                                               .intermediate = intermediate,
                                               .activation = activation});
}

void read_rope(JsonFields* f, ModelConfig* out) {
  read_rope_fields(f, &out->rope);
  out->rotary_dim = rotary_dim(out->rope, out->head_dim);
  if (f->status().ok() && (out->rotary_dim < 2 || out->rotary_dim % 2 != 0)) {
    f->fail("the rotated share of a head, \"partial_rotary_factor\", times \"head_dim\" is " +
            std::to_string(out->rotary_dim) + "; expected an even number above 0");
  }
  // The factor of attention is one of whole scores (RankShape::score_scale).
  if (f->status().ok() && out->rope.kind == RopeConfig::Kind::yarn &&
      out->rotary_dim != out->head_dim) {
    f->unsupported("\"yarn\" of a part of a head; served: of whole heads");
  }
  check_divisors(f, *out);
}

void read_whole_rope(JsonFields* f, ModelConfig* out) {
  read_rope_fields(f, &out->rope);
  if (f->status().ok() && out->rope.share != 1) {
    f->unsupported("\"partial_rotary_factor\" is not 1; served: 1");
  }
  out->rotary_dim = out->head_dim;
  check_divisors(f, *out);
}

// transformers leaves id2label out when there are two labels with their default names.
void read_classification_head(JsonFields* f, RewardHead* out) {
  out->kind = RewardHead::Kind::classification;
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

}  // namespace nemotron
