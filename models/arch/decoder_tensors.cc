#include "models/arch/decoder_tensors.h"

#include <cstring>
#include <initializer_list>

namespace nemotron {
namespace {

void find_kv_scales(TensorFinder* f, const std::string& attention, LayerSource* layer,
                    int32_t* found) {
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

void find_layers(TensorFinder* f, const ModelConfig& config, Sources* out) {
  const int64_t hidden = config.hidden, q = int64_t(config.q_heads) * config.head_dim;
  int32_t scales_found = 0;
  out->layers.resize(config.layers.size());
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const LayerSpec& spec = config.layers[i];
    LayerSource& layer = out->layers[i];
    const std::string base = f->prefix() + "layers." + std::to_string(i) + ".";
    f->asked_by(int64_t(i), "attention");
    if (spec.attention) {
      const int64_t kv = int64_t(spec.kv_heads) * config.head_dim;
      layer.input_norm = f->norm(base + "input_layernorm");
      layer.q = f->linear(base + "self_attn.q_proj", q, hidden, true);
      layer.k = f->linear(base + "self_attn.k_proj", kv, hidden, true);
      layer.v = f->linear(base + "self_attn.v_proj", kv, hidden, true);
      layer.o = f->linear(base + "self_attn.o_proj", hidden, q, true);
      find_kv_scales(f, base + "self_attn.", &layer, &scales_found);
    } else if (spec.linear_attention) {
      layer.input_norm = f->norm(base + "input_layernorm");
      // A GGUF file has one name for both.
      const bool is_gguf = f->checkpoint().find(base + "self_attn.o_proj.weight");
      layer.o = f->linear(base + (is_gguf ? "self_attn.o_proj" : "self_attn.linear_attn"), hidden,
                          hidden, true);
    }
    f->asked_by(int64_t(i), "ffn");
    if (spec.ffn) {
      layer.post_attention_norm = f->norm(base + "post_attention_layernorm");
      if (spec.activation == Activation::silu_gated) {
        layer.gate = f->linear(base + "mlp.gate_proj", spec.intermediate, hidden, true);
      }
      layer.up = f->linear(base + "mlp.up_proj", spec.intermediate, hidden, true);
      layer.down = f->linear(base + "mlp.down_proj", hidden, spec.intermediate, true);
    } else if (spec.linear_ffn) {
      layer.post_attention_norm = f->norm(base + "post_attention_layernorm");
      layer.down = f->linear(base + "mlp.linear_mlp", hidden, hidden, true);
    }
  }
  f->asked_by(-1, "");
  // All or none: ModelOpt leaves them out when every one of them is 1.
  const int32_t expected = 2 * config.kv_layers();
  out->kv_scales = scales_found > 0;
  if (scales_found > 0 && scales_found < expected) {
    f->problem("only " + std::to_string(scales_found) + " of " + std::to_string(expected) +
               " KV cache scales (k_scale, v_scale) are there");
  }
}

bool same_values(TensorFinder* f, const StoredTensor& a, const StoredTensor& b) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  for (const StoredTensor* t : {&a, &b}) {
    if (Status s = f->checkpoint().fetch(*t); !s) {
      f->problem(s.message());
      return false;
    }
  }
  const bool same = std::memcmp(a.data, b.data, a.bytes) == 0;
  f->checkpoint().release(a);
  f->checkpoint().release(b);
  return same;
}

// As transformers does: a tied model may store either matrix or both, and two different ones are
// not tied whatever the config says.
void find_ends(TensorFinder* f, const ModelConfig& config, Sources* out) {
  const Checkpoint& checkpoint = f->checkpoint();
  const int64_t vocab = config.vocab, hidden = config.hidden;
  const std::string embedding = f->prefix() + "embed_tokens";
  out->final_norm = f->norm(f->prefix() + "norm");
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
                           same_values(f, *out->head.weight, *out->embedding.weight);
}

}  // namespace

void find_decoder(TensorFinder* finder, const ModelConfig& config, Sources* out) {
  find_ends(finder, config, out);
  find_layers(finder, config, out);
}

}  // namespace nemotron
