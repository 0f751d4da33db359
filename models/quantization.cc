#include "models/quantization.h"

#include "models/checkpoint/int_groups.h"
#include "models/checkpoint/json_fields.h"

namespace nemotron {
namespace {

constexpr const char* kServed =
    "served: FP8 E4M3 by ModelOpt (quant_algo \"FP8\"), by compressed-tensors (8-bit float weights "
    "per tensor or per channel) and with \"quant_method\" \"fp8\" (per tensor); integers of 4 and "
    "8 "
    "bits by \"gptq\" and \"awq\"";

std::string quoted(const std::string& s) { return Json(s).brief(); }

// {"num_bits": 8, "type": "float", "strategy": ..., "dynamic": ..., "symmetric": true}
struct Scheme {
  std::string strategy;
  bool dynamic = false;
};
Scheme read_fp8_scheme(const Json& object, const std::string& where, JsonFields* parent) {
  JsonFields f(object, where);
  const int32_t bits = f.integer("num_bits", 1, 64);
  const std::string type = f.text("type", "int");
  if (f.status().ok() && (bits != 8 || type != "float")) {
    f.unsupported(std::to_string(bits) + "-bit " + type + "; " + kServed);
  }
  if (!f.boolean("symmetric", true)) f.unsupported("asymmetric; " + std::string(kServed));
  if (f.find("group_size")) f.unsupported("\"group_size\" is set; " + std::string(kServed));
  if (f.find("block_structure"))
    f.unsupported("\"block_structure\" is set; " + std::string(kServed));
  const Scheme scheme{f.text("strategy", "tensor"), f.boolean("dynamic", false)};
  parent->adopt(f.status());
  return scheme;
}

void read_kv_scheme(JsonFields* f, Quantization* out) {
  const Json* v = f->find("kv_cache_scheme");
  if (!v) return;
  const Scheme kv = read_fp8_scheme(*v, f->inside("kv_cache_scheme"), f);
  if (kv.strategy != "tensor" || kv.dynamic) {
    f->unsupported("\"kv_cache_scheme\" is " + std::string(kv.dynamic ? "dynamic" : "static") +
                   " with strategy " + quoted(kv.strategy) + "; served: static, per tensor");
  }
  out->kv_scales = true;
}

void read_modelopt(JsonFields* f, Quantization* out) {
  const std::string algo = f->text("quant_algo", "");
  if (algo == "FP8") {
    out->kind = QuantKind::modelopt_fp8;
  } else if (!algo.empty()) {
    f->unsupported("\"quant_algo\" is " + quoted(algo) + "; " + kServed);
  }
  const std::string kv = f->text("kv_cache_quant_algo", "");
  if (kv == "FP8") {
    out->kv_scales = true;
  } else if (!kv.empty()) {
    f->unsupported("\"kv_cache_quant_algo\" is " + quoted(kv) + "; served: \"FP8\" or none");
  }
  read_kv_scheme(f, out);
  for (const char* name : {"exclude_modules", "ignore"}) {
    for (std::string& pattern : f->texts(name)) out->ignore.push_back(std::move(pattern));
  }
}

void read_compressed_group(const Json& group, const std::string& where, JsonFields* parent) {
  JsonFields f(group, where);
  for (const std::string& target : f.texts("targets")) {
    if (target != "Linear") {
      f.unsupported("\"targets\" has " + quoted(target) + "; served: \"Linear\"");
    }
  }
  if (const Json* v = f.find("weights")) {
    const Scheme weights = read_fp8_scheme(*v, f.inside("weights"), &f);
    if (weights.dynamic || (weights.strategy != "channel" && weights.strategy != "tensor")) {
      f.unsupported("weights with strategy " + quoted(weights.strategy) +
                    (weights.dynamic ? " (dynamic); " : "; ") + kServed);
    }
  } else {
    f.unsupported("no \"weights\"; " + std::string(kServed));
  }
  if (const Json* v = f.find("input_activations")) {
    const Scheme input = read_fp8_scheme(*v, f.inside("input_activations"), &f);
    if (input.strategy != (input.dynamic ? "token" : "tensor") &&
        !(input.dynamic && input.strategy == "tensor")) {
      f.unsupported("input_activations with strategy " + quoted(input.strategy) +
                    "; served: dynamic per token, static per tensor");
    }
  }
  if (f.find("output_activations")) f.unsupported("\"output_activations\" is set; expected null");
  parent->adopt(f.status());
}

void read_compressed(JsonFields* f, Quantization* out) {
  const std::string format = f->text("format", "float-quantized");
  if (format != "float-quantized" && format != "naive-quantized") {
    f->unsupported("\"format\" is " + quoted(format) + "; served: \"float-quantized\"");
  }
  if (const Json* sparsity = f->find("sparsity_config")) {
    const Json* kind = sparsity->find("format");
    if (kind && kind->string() && *kind->string() != "dense") {
      f->unsupported("\"sparsity_config\" has format " + kind->brief() + "; served: dense weights");
    }
  }
  if (const Json* transforms = f->find("transform_config")) {
    if (!transforms->object() || !transforms->object()->empty()) {
      f->unsupported("\"transform_config\" is set; served: weights without transforms");
    }
  }
  const Json* groups = f->find("config_groups");
  if (!groups || !groups->object() || groups->object()->empty()) {
    f->fail("\"config_groups\" is " + (groups ? groups->brief() : std::string("missing")) +
            "; expected an object with at least one group");
  } else {
    for (const auto& [name, group] : *groups->object()) {
      read_compressed_group(group, f->inside("config_groups") + ": " + quoted(name), f);
    }
  }
  read_kv_scheme(f, out);
  out->kind = QuantKind::compressed_fp8;
  out->ignore = f->texts("ignore");
}

// As AutoFP8 writes it and vLLM reads it: the FP8 conversions of Nemotron-4-340B.
void read_vllm_fp8(JsonFields* f, Quantization* out) {
  for (const char* name : {"weight_block_size", "bits"}) {
    if (const Json* v = f->find(name)) {
      f->unsupported("\"" + std::string(name) + "\" is " + v->brief() + "; " + kServed);
    }
  }
  f->only("activation_scheme", {"dynamic", "static"});
  f->only("kv_cache_scheme", {"static"});
  out->kv_scales = f->find("kv_cache_scheme") != nullptr;
  out->kind = QuantKind::vllm_fp8;
  for (const char* name : {"ignored_layers", "modules_to_not_convert"}) {
    for (std::string& pattern : f->texts(name)) out->ignore.push_back(std::move(pattern));
  }
}

}  // namespace

Status read_quantization_block(const Json& block, const std::string& where, Quantization* out) {
  JsonFields f(block, where);
  if (!f.status().ok() || block.object()->empty()) return f.status();
  std::string method = f.text("quant_method", "");
  if (method.empty()) {
    if (f.find("config_groups")) method = "compressed-tensors";
    if (f.find("quant_algo") || f.find("quantization")) method = "modelopt";
  }
  if (method == "modelopt") {
    if (const Json* inner = f.find("quantization")) {
      JsonFields nested(*inner, f.inside("quantization"));
      read_modelopt(&nested, out);
      f.adopt(nested.status());
    } else {
      read_modelopt(&f, out);
    }
  } else if (method == "compressed-tensors" || (method == "sparseml" && f.find("config_groups"))) {
    read_compressed(&f, out);
  } else if (method == "fp8") {
    read_vllm_fp8(&f, out);
  } else if (method == "gptq" || method == "awq") {
    IntGroups groups;  // the checkpoint's affair: its tensors look as if they were BF16
    f.adopt(read_int_groups(block, where, &groups));
  } else if (f.status().ok()) {
    f.unsupported("\"quant_method\" is " + (method.empty() ? "missing" : quoted(method)) + "; " +
                  kServed);
  }
  return f.status();
}

Status read_hf_quant_config(const Json& document, const std::string& where, Quantization* out) {
  JsonFields f(document, where);
  const Json* inner = f.find("quantization");
  if (!inner) {
    f.fail("\"quantization\" is missing; expected an object with \"quant_algo\"");
    return f.status();
  }
  JsonFields nested(*inner, f.inside("quantization"));
  read_modelopt(&nested, out);
  return nested.status();
}

}  // namespace nemotron
