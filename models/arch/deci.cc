// DeciLM (Super-49B, 51B, Ultra-253B): Llama's layers, each of its own size by `block_configs`.
// Some have no attention or no feed-forward part, or one matrix in its place. After
// configuration_decilm.py and block_config.py, which lie beside the checkpoints.
#include <cmath>

#include "models/arch/architecture.h"
#include "models/arch/decoder_tensors.h"
#include "models/config_fields.h"

namespace nemotron {
namespace {

void refuse_both(JsonFields* f) {
  if (f->boolean("no_op", false) && f->boolean("replace_with_linear", false)) {
    f->fail("\"no_op\" and \"replace_with_linear\" are both true; expected one of them at most");
  }
}

// What a block may say beyond its size; each would change the results.
void refuse_unserved_of_block(JsonFields* f) {
  for (const char* name : {"sparsify", "window_length", "num_sink_tokens"}) {
    if (const Json* value = f->find(name)) {
      f->unsupported("\"" + std::string(name) + "\" is " + value->brief() + "; served: null");
    }
  }
  for (const char* name : {"use_prefill_window_in_sink_attention", "unshifted_sink"}) {
    if (f->boolean(name, false)) {
      f->unsupported("\"" + std::string(name) + "\" is true; served: false");
    }
  }
}

void read_attention(JsonFields* f, int32_t q_heads, LayerSpec* out) {
  out->linear_attention = f->boolean("replace_with_linear", false);
  out->attention = !f->boolean("no_op", false) && !out->linear_attention;
  refuse_both(f);
  if (!out->attention) return;
  refuse_unserved_of_block(f);
  const int32_t group = f->integer("n_heads_in_group", 1, kMaxHeads);
  if (!f->status().ok()) return;
  if (q_heads % group != 0) {
    f->fail("\"n_heads_in_group\" is " + std::to_string(group) + "; expected a divisor of " +
            std::to_string(q_heads) + ", config.json's num_attention_heads");
    return;
  }
  out->kv_heads = q_heads / group;
}

// 2/3 of `ffn_mult` times the hidden size, rounded down, then up to a multiple of 256.
void read_ffn(JsonFields* f, int32_t hidden, LayerSpec* out) {
  out->linear_ffn = f->boolean("replace_with_linear", false);
  out->ffn = !f->boolean("no_op", false) && !out->linear_ffn;
  refuse_both(f);
  if (!out->ffn) return;
  refuse_unserved_of_block(f);
  if (f->find("intermediate_size")) {
    out->intermediate = f->integer("intermediate_size", 1, kMaxIntermediate);
    return;
  }
  const double mult = f->real("ffn_mult", 1e-6, 1e6);
  const double size = std::floor(2 * mult * double(hidden) / 3);
  if (f->status().ok() && (size < 1 || size > double(kMaxIntermediate))) {
    f->fail("\"ffn_mult\" is " + std::to_string(mult) + ", an intermediate size of " +
            std::to_string(size) + "; expected 1 to " + std::to_string(kMaxIntermediate));
    return;
  }
  out->intermediate = int32_t((int64_t(size) + 255) / 256 * 256);
}

void read_block(JsonFields* parent, const Json& block, const std::string& where,
                const ModelConfig& config, LayerSpec* out) {
  JsonFields f(block, where);
  for (const char* name : {"attention", "ffn"}) {
    const Json* part = f.find(name);
    if (!part) {
      f.fail("\"" + std::string(name) + "\" is missing; expected an object");
      break;
    }
    JsonFields fields(*part, f.inside(name));
    if (std::string(name) == "ffn") {
      read_ffn(&fields, config.hidden, out);
    } else {
      read_attention(&fields, config.q_heads, out);
    }
    f.adopt(fields.status());
  }
  parent->adopt(f.status());
}

void read_layers(JsonFields* f, ModelConfig* out) {
  const int32_t layers = f->integer("num_hidden_layers", 1, kMaxLayers);
  const Json* blocks = f->find("block_configs");
  const Json::Array* list = blocks ? blocks->array() : nullptr;
  if (!f->status().ok()) return;
  if (!list || list->size() != size_t(layers)) {
    f->fail("\"block_configs\" is " +
            (list     ? "a list of " + std::to_string(list->size())
             : blocks ? blocks->brief()
                      : "missing") +
            "; expected a list of " + std::to_string(layers) + ", one object a layer");
    return;
  }
  out->layers.resize(list->size());
  out->layer_list = "block_configs";
  for (size_t i = 0; i < list->size() && f->status().ok(); ++i) {
    read_block(f, (*list)[i], f->inside(("block_configs[" + std::to_string(i) + "]").c_str()), *out,
               &out->layers[i]);
  }
  if (f->status().ok() && out->kv_layers() == 0) {
    f->unsupported("no layer of \"block_configs\" has attention");
  }
}

void read_deci(JsonFields* f, ModelConfig* out) {
  f->only("model_type", {"nemotron-nas", "deci"});
  f->only("hidden_act", {"silu", "swish"});
  refuse_unserved(f);
  if (!f->status().ok()) return;
  read_sizes(f, out);
  if (!f->status().ok()) return;
  read_layers(f, out);
  out->norm_eps = float(f->real("rms_norm_eps", 0, 1, 1e-6));
  if (!f->status().ok()) return;
  read_whole_rope(f, out);
}

constexpr Architecture::Name kNames[] = {{"DeciLMForCausalLM", "chat and reward"}};

}  // namespace

extern const Architecture kDeci = {
    .names = kNames, .read_config = read_deci, .find_tensors = find_decoder};

}  // namespace nemotron
