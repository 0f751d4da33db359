#include "models/sources.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "models/checkpoint/json.h"

namespace nemotron {
namespace {

constexpr size_t kMaxShown = 5;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

bool is_float(const StoredTensor& t) {
  return t.served && (t.dtype == DType::f32 || t.dtype == DType::f16 || t.dtype == DType::bf16);
}

bool ends_with(std::string_view s, std::string_view end) {
  return s.size() >= end.size() && s.substr(s.size() - end.size()) == end;
}

// Finds tensors and keeps account of what is missing or wrong.
class Finder {
 public:
  Finder(const Checkpoint& checkpoint, const ModelConfig& config)
      : checkpoint_(checkpoint), config_(config) {
    // transformers writes the base model below "model."; a base model saved alone has no prefix.
    if (!checkpoint.find("model.embed_tokens.weight") && checkpoint.find("embed_tokens.weight")) {
      prefix_ = "";
    }
  }

  const std::string& prefix() const { return prefix_; }
  const StoredTensor* optional(const std::string& name) const { return checkpoint_.find(name); }

  const StoredTensor* gain(const std::string& name, int64_t size) {
    const StoredTensor* t = required(name);
    if (t && (!is_float(*t) || t->shape != std::vector<int64_t>{size})) {
      wrong(*t, "BF16, F16 or F32 " + shape_text({size}));
    }
    return t;
  }

  LinearSource linear(const std::string& module, int64_t rows, int64_t cols, bool may_be_fp8) {
    LinearSource out;
    out.weight = required(module + ".weight");
    if (!out.weight) return out;
    const StoredTensor& w = *out.weight;
    const bool fp8 = w.served && w.dtype == DType::fp8_e4m3;
    const bool fp8_ok = may_be_fp8 && config_.quant != QuantKind::none;
    if (!(is_float(w) || (fp8 && fp8_ok)) || w.shape != std::vector<int64_t>{rows, cols}) {
      wrong(w,
            std::string(fp8_ok ? "F8_E4M3, " : "") + "BF16, F16 or F32 " +
                shape_text({rows, cols}) +
                (fp8 && may_be_fp8 && !fp8_ok ? " (config.json names no FP8 quantisation)" : ""));
      return out;
    }
    const StoredTensor* scale =
        fp8 ? required(module + ".weight_scale") : optional(module + ".weight_scale");
    if (scale && !fp8) {
      wrong(*scale, "none, since " + module + ".weight is " + w.dtype_name);
    } else if (scale) {
      out.scale = scales(*scale, rows);
    }
    // Static activation scales matter only where activations are FP8; a bad one is still an error.
    if (const StoredTensor* input = optional(module + ".input_scale")) (void)scales(*input, 1);
    return out;
  }

  // One value, or one for each of `rows` rows.
  std::vector<float> scales(const StoredTensor& t, int64_t rows) {
    const bool one_column = t.shape.size() <= 1 || (t.shape.size() == 2 && t.shape[1] == 1);
    if (!is_float(t) || !one_column || (t.elements != 1 && t.elements != rows)) {
      wrong(t, "F32, BF16 or F16 with one value" +
                   (rows > 1 ? " or " + shape_text({rows, 1}) : std::string()));
      return {};
    }
    std::vector<float> values(static_cast<size_t>(t.elements));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = stored_value(t, int64_t(i));
      if (!std::isfinite(values[i]) || values[i] <= 0) {
        problem(t.file + ": tensor " + Json(t.name).brief() + " has the scale " +
                std::to_string(values[i]) + " at " + std::to_string(i) +
                "; expected a finite number above 0");
        return {};
      }
    }
    return values;
  }

  void wrong(const StoredTensor& t, const std::string& expected) {
    problem(t.file + ": tensor " + Json(t.name).brief() + " is " + t.dtype_name + " " +
            shape_text(t.shape) + "; expected " + expected);
  }
  void missing(const std::string& name) {
    problem(checkpoint_.path() + ": tensor " + Json(name).brief() + " is missing");
  }
  void problem(const std::string& text) {
    if (problems_++ < kMaxShown) shown_ += (shown_.empty() ? "" : "; ") + text;
  }

  Status status() const {
    if (problems_ == 0) return {};
    if (problems_ == 1) return Status::invalid(shown_);
    return Status::invalid(std::to_string(problems_) + " tensors are missing or wrong: " + shown_ +
                           (problems_ > kMaxShown ? "; ..." : ""));
  }

 private:
  const StoredTensor* required(const std::string& name) {
    const StoredTensor* t = optional(name);
    if (!t) missing(name);
    return t;
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  std::string prefix_ = "model.";
  size_t problems_ = 0;
  std::string shown_;
};

void find_kv_scales(Finder* f, const std::string& attention, LayerSource* layer, int32_t* found) {
  const auto read = [&](std::initializer_list<const char*> names, float* out) {
    for (const char* name : names) {
      if (const StoredTensor* t = f->optional(attention + name)) {
        const std::vector<float> value = f->scales(*t, 1);
        if (!value.empty()) *out = value[0];
        ++*found;
        return;
      }
    }
  };
  read({"k_proj.k_scale", "k_scale", "attn.k_scale", "kv_scale"}, &layer->k_scale);
  read({"v_proj.v_scale", "v_scale", "attn.v_scale", "kv_scale"}, &layer->v_scale);
}

void find_layers(Finder* f, const ModelConfig& config, Sources* out) {
  const int64_t hidden = config.hidden, q = int64_t(config.q_heads) * config.head_dim;
  int32_t scales_found = 0;
  out->layers.resize(config.layers.size());
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const LayerSpec& spec = config.layers[i];
    LayerSource& layer = out->layers[i];
    const std::string base = f->prefix() + "layers." + std::to_string(i) + ".";
    if (spec.attention) {
      const int64_t kv = int64_t(spec.kv_heads) * config.head_dim;
      layer.input_gain = f->gain(base + "input_layernorm.weight", hidden);
      layer.q = f->linear(base + "self_attn.q_proj", q, hidden, true);
      layer.k = f->linear(base + "self_attn.k_proj", kv, hidden, true);
      layer.v = f->linear(base + "self_attn.v_proj", kv, hidden, true);
      layer.o = f->linear(base + "self_attn.o_proj", hidden, q, true);
      find_kv_scales(f, base + "self_attn.", &layer, &scales_found);
    }
    if (spec.ffn) {
      layer.post_attention_gain = f->gain(base + "post_attention_layernorm.weight", hidden);
      layer.gate = f->linear(base + "mlp.gate_proj", spec.intermediate, hidden, true);
      layer.up = f->linear(base + "mlp.up_proj", spec.intermediate, hidden, true);
      layer.down = f->linear(base + "mlp.down_proj", hidden, spec.intermediate, true);
    }
  }
  // All or none: ModelOpt leaves them out when every one of them is 1.
  const int32_t expected = 2 * config.kv_layers();
  out->kv_scales = scales_found > 0;
  if (scales_found > 0 && scales_found < expected) {
    f->problem("only " + std::to_string(scales_found) + " of " + std::to_string(expected) +
               " KV cache scales (k_scale, v_scale) are there");
  }
}

bool same_values(const Checkpoint& checkpoint, const StoredTensor& a, const StoredTensor& b) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  const bool same = std::memcmp(a.data, b.data, a.bytes) == 0;
  checkpoint.release(a);
  checkpoint.release(b);
  return same;
}

// As transformers does: a tied model may store either matrix or both, and two different ones are
// not tied whatever the config says.
void find_ends(Finder* f, const Checkpoint& checkpoint, const ModelConfig& config, Sources* out) {
  const int64_t vocab = config.vocab, hidden = config.hidden;
  const std::string embedding = f->prefix() + "embed_tokens";
  out->final_gain = f->gain(f->prefix() + "norm.weight", hidden);
  if (config.reward.kind == RewardHead::Kind::classification) {
    const auto labels = int64_t(config.reward.labels.size());
    const bool inside = !checkpoint.find("score.weight") && checkpoint.find("model.score.weight");
    out->embedding = f->linear(embedding, vocab, hidden, false);
    out->head = f->linear(inside ? "model.score" : "score", labels, hidden, false);
    return;
  }
  const bool has_head = checkpoint.find("lm_head.weight");
  const bool has_embedding = checkpoint.find(embedding + ".weight");
  if (config.tied && has_head && !has_embedding) {
    out->embedding = f->linear("lm_head", vocab, hidden, false);
    out->head_is_embedding = true;
    return;
  }
  out->embedding = f->linear(embedding, vocab, hidden, false);
  if (config.tied && !has_head) {
    out->head_is_embedding = true;
    return;
  }
  out->head = f->linear("lm_head", vocab, hidden, true);
  out->head_is_embedding = config.tied && out->head.weight && out->embedding.weight &&
                           same_values(checkpoint, *out->head.weight, *out->embedding.weight);
}

// Tensors that nobody asked for are left alone, except those without which the model is another
// one.
void check_others(Finder* f, const Checkpoint& checkpoint, const ModelConfig& config) {
  const std::string layers = f->prefix() + "layers.";
  for (const StoredTensor& t : checkpoint.tensors()) {
    for (const char* suffix :
         {".bias", ".pre_quant_scale", ".weight_zero_point", ".weight_scale_2"}) {
      if (ends_with(t.name, suffix)) {
        f->wrong(t,
                 std::string("no ") + suffix + " (it would change the results and is not served)");
      }
    }
    if (t.name.compare(0, layers.size(), layers) != 0) continue;
    uint64_t layer = 0;
    const char* number = t.name.data() + layers.size();
    const auto [end, error] = std::from_chars(number, t.name.data() + t.name.size(), layer);
    if (error == std::errc() && layer >= config.layers.size()) {
      f->problem(t.file + ": tensor " + Json(t.name).brief() + " is of layer " +
                 std::to_string(layer) + "; expected layers below " +
                 std::to_string(config.layers.size()) + ", config.json's num_hidden_layers");
    }
  }
}

}  // namespace

float stored_value(const StoredTensor& t, int64_t i) {
  const uint8_t* p = t.data + size_t(i) * dtype_bytes(t.dtype);
  uint16_t half = 0;
  float f = 0;
  switch (t.dtype) {
    case DType::f32: std::memcpy(&f, p, sizeof f); return f;
    case DType::f16: std::memcpy(&half, p, sizeof half); return f16_to_f32(half);
    case DType::bf16: std::memcpy(&half, p, sizeof half); return bf16_to_f32(half);
    default: return NAN;
  }
}

Status find_sources(const Checkpoint& checkpoint, const ModelConfig& config, Sources* out) {
  Finder finder(checkpoint, config);
  Sources sources;
  find_ends(&finder, checkpoint, config, &sources);
  find_layers(&finder, config, &sources);
  check_others(&finder, checkpoint, config);
  if (Status s = finder.status(); !s) return s;
  *out = std::move(sources);
  return {};
}

Status check_checkpoint(const Checkpoint& checkpoint, const ModelConfig& config) {
  Sources sources;
  return find_sources(checkpoint, config, &sources);
}

bool PackedGroup::quantised(WeightFormat format) const {
  return layer >= 0 && format == WeightFormat::fp8 &&
         std::none_of(parts.begin(), parts.end(), [](const LinearSource* part) {
           return part->weight->dtype == DType::fp8_e4m3;
         });
}

std::string PackedGroup::name() const {
  constexpr const char* kNames[] = {"embedding", "head", "qkv", "o", "gate_up", "down"};
  return (layer < 0 ? std::string() : "layer " + std::to_string(layer) + " ") +
         kNames[size_t(slot)];
}

std::vector<PackedGroup> packed_groups(const Sources& s, const ModelConfig& config) {
  using Slot = PackedGroup::Slot;
  std::vector<PackedGroup> groups;
  const auto add = [&](Slot slot, int32_t layer, WeightUse use,
                       std::vector<const LinearSource*> parts) {
    int64_t rows = 0;
    for (const LinearSource* part : parts) rows += part->rows();
    groups.push_back({slot, layer, use, std::move(parts), 0, rows});
  };
  const bool one_row = config.reward.kind == RewardHead::Kind::lm_head_row;
  const bool tied = s.head_is_embedding && !one_row;
  add(Slot::embedding, -1, tied ? WeightUse::tied : WeightUse::embedding, {&s.embedding});
  if (!tied) {
    add(Slot::head, -1, WeightUse::linear, {s.head_is_embedding ? &s.embedding : &s.head});
    if (one_row) {
      groups.back().first_row = config.reward.vocab_id;
      groups.back().rows = 1;
    }
  }
  for (size_t i = 0; i < s.layers.size(); ++i) {
    const LayerSource& layer = s.layers[i];
    const auto n = int32_t(i);
    if (config.layers[i].attention) {
      add(Slot::qkv, n, WeightUse::linear, {&layer.q, &layer.k, &layer.v});
      add(Slot::o, n, WeightUse::linear, {&layer.o});
    }
    if (config.layers[i].ffn) {
      add(Slot::gate_up, n, WeightUse::gate_up, {&layer.gate, &layer.up});
      add(Slot::down, n, WeightUse::linear, {&layer.down});
    }
  }
  return groups;
}

}  // namespace nemotron
