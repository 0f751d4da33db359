#include "models/tensor_finder.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <string_view>

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

}  // namespace

TensorFinder::TensorFinder(const Checkpoint& checkpoint, const ModelConfig& config)
    : checkpoint_(checkpoint), config_(config) {
  // transformers writes the base model below "model."; a base model saved alone has no prefix.
  if (!checkpoint.find("model.embed_tokens.weight") && checkpoint.find("embed_tokens.weight")) {
    prefix_ = "";
  }
}

std::string TensorFinder::shown(const std::string& name) const {
  return Json(checkpoint_.shown(name)).brief();
}

const StoredTensor* TensorFinder::optional(const std::string& name) {
  asked_.insert(name);
  return checkpoint_.find(name);
}

const StoredTensor* TensorFinder::required(const std::string& name) {
  const StoredTensor* t = optional(name);
  if (!t) {
    problem(checkpoint_.path() + ": tensor " + shown(name) + " is missing" +
            (asker_.empty() ? "" : "; " + asker_ + " asks for it"));
  }
  return t;
}

const StoredTensor* TensorFinder::vector(const std::string& name, int64_t size) {
  const StoredTensor* t = required(name);
  if (t && (!is_float(*t) || t->shape != std::vector<int64_t>{size})) {
    wrong(*t, "BF16, F16 or F32 " + shape_text({size}));
  }
  return t;
}

NormSource TensorFinder::norm(const std::string& module) {
  NormSource out;
  out.gain = vector(module + ".weight", config_.hidden);
  if (config_.norm == Norm::Kind::layer) out.bias = vector(module + ".bias", config_.hidden);
  return out;
}

LinearSource TensorFinder::linear(const std::string& module, int64_t rows, int64_t cols,
                                  bool may_be_fp8) {
  LinearSource out;
  out.weight = required(module + ".weight");
  if (!out.weight) return out;
  const StoredTensor& w = *out.weight;
  const bool fp8 = w.served && w.dtype == DType::fp8_e4m3;
  const bool fp8_ok = may_be_fp8 && config_.quant != QuantKind::none;
  if (!(is_float(w) || (fp8 && fp8_ok)) || w.shape != std::vector<int64_t>{rows, cols}) {
    wrong(w, std::string(fp8_ok ? "F8_E4M3, " : "") + "BF16, F16 or F32 " +
                 shape_text({rows, cols}) +
                 (fp8 && may_be_fp8 && !fp8_ok ? " (config.json names no FP8 quantisation)" : ""));
    return out;
  }
  const StoredTensor* scale =
      fp8 ? required(module + ".weight_scale") : optional(module + ".weight_scale");
  if (scale && !fp8) {
    wrong(*scale, "none, since " + checkpoint_.shown(w.name) + " is " + w.dtype_name);
  } else if (scale) {
    out.scale = scales(*scale, rows);
  }
  // Static activation scales matter only where activations are FP8; a bad one is still an error.
  if (const StoredTensor* input = optional(module + ".input_scale")) (void)scales(*input, 1);
  return out;
}

std::vector<float> TensorFinder::scales(const StoredTensor& t, int64_t rows) {
  const bool one_column = t.shape.size() <= 1 || (t.shape.size() == 2 && t.shape[1] == 1);
  if (!is_float(t) || !one_column || (t.elements != 1 && t.elements != rows)) {
    wrong(t, "F32, BF16 or F16 with one value" +
                 (rows > 1 ? " or " + shape_text({rows, 1}) : std::string()));
    return {};
  }
  if (Status read = checkpoint_.fetch(t); !read) {
    problem(read.message());
    return {};
  }
  std::vector<float> values(static_cast<size_t>(t.elements));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = stored_value(t, int64_t(i));
    if (!std::isfinite(values[i]) || values[i] <= 0) {
      problem(t.file + ": tensor " + shown(t.name) + " has the scale " + std::to_string(values[i]) +
              " at " + std::to_string(i) + "; expected a finite number above 0");
      return {};
    }
  }
  return values;
}

void TensorFinder::asked_by(int64_t layer, const char* part) {
  asker_ = layer < 0 || config_.layer_list.empty()
               ? ""
               : config_.names.of_layer(config_.layer_list, layer, part);
}

void TensorFinder::wrong(const StoredTensor& t, const std::string& expected) {
  problem(t.file + ": tensor " + shown(t.name) + " is " + t.dtype_name + " " + shape_text(t.shape) +
          "; expected " + expected + (asker_.empty() ? "" : ", as " + asker_ + " says"));
}
void TensorFinder::problem(const std::string& text) {
  if (problems_++ < kMaxShown) shown_ += (shown_.empty() ? "" : "; ") + text;
}

Status TensorFinder::status() const {
  if (problems_ == 0) return {};
  if (problems_ == 1) return Status::invalid(shown_);
  return Status::invalid(std::to_string(problems_) + " tensors are missing or wrong: " + shown_ +
                         (problems_ > kMaxShown ? "; ..." : ""));
}

// Of GPTQ, AWQ and bitsandbytes too.
constexpr std::string_view kScaleNames[] = {"scale", "zero_point", "zeros", "absmax"};

// A scale that nobody asked for, of a module that somebody did.
bool TensorFinder::is_unread_scale(const std::string& name) const {
  if (asked_.contains(name)) return false;
  const size_t dot = name.rfind('.');
  const std::string last = name.substr(dot == std::string::npos ? 0 : dot + 1);
  std::string lower = last;
  for (char& c : lower) c = char(std::tolower(uint8_t(c)));
  const bool is_scale =
      lower == "scb" || std::ranges::any_of(kScaleNames, [&](std::string_view part) {
        return lower.find(part) != std::string::npos;
      });
  if (!is_scale) return false;
  const std::string weight = name.substr(0, name.size() - last.size()) + "weight";
  return !checkpoint_.find(weight) || asked_.contains(weight);
}

std::vector<std::string> TensorFinder::unused() const {
  std::vector<std::string> names;
  for (const StoredTensor& t : checkpoint_.tensors()) {
    if (!asked_.contains(t.name)) names.push_back(checkpoint_.shown(t.name));
  }
  return names;
}

void TensorFinder::check_others() {
  const std::string layers = prefix_ + "layers.";
  for (const StoredTensor& t : checkpoint_.tensors()) {
    if (ends_with(t.name, ".bias") && !asked_.contains(t.name)) {
      wrong(t, "no .bias (it would change the results and is not served)");
    } else if (is_unread_scale(t.name)) {
      wrong(t,
            "no such tensor (it looks like a scale, which would change the results and is not "
            "served)");
    } else if (t.name.find(".lora_") != std::string::npos) {
      wrong(t, "no adapter: merge it into the weights");
    }
    if (t.name.compare(0, layers.size(), layers) != 0) continue;
    uint64_t layer = 0;
    const char* number = t.name.data() + layers.size();
    const auto [end, error] = std::from_chars(number, t.name.data() + t.name.size(), layer);
    if (error == std::errc() && layer >= config_.layers.size()) {
      problem(t.file + ": tensor " + shown(t.name) + " is of layer " + std::to_string(layer) +
              "; expected layers below " + std::to_string(config_.layers.size()) + ", " +
              config_.names.of("num_hidden_layers"));
    } else if (error == std::errc() && !asked_.contains(t.name)) {
      const LayerSpec& spec = config_.layers[layer];
      const std::string_view part(end);
      const bool no_attention = !spec.attention && part.starts_with(".self_attn.");
      if (no_attention || (!spec.ffn && part.starts_with(".mlp."))) {
        asked_by(int64_t(layer), no_attention ? "attention" : "ffn");
        wrong(t, "no such tensor");
        asked_by(-1, "");
      } else if (ends_with(t.name, "norm.weight") && part != ".input_layernorm.weight" &&
                 part != ".post_attention_layernorm.weight") {
        wrong(t, "no such tensor (a norm that layers of this architecture do not have)");
      }
    }
  }
}

}  // namespace nemotron
