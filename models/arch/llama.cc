// Llama: RMS norms, rotary embeddings over whole heads, a gated silu, grouped queries; no biases.
#include <charconv>
#include <cstring>

#include "models/arch/architecture.h"
#include "models/config_fields.h"

namespace nemotron {
namespace {

// Features that other members of the family have: their numbers would be wrong without a word.
void refuse_unserved(JsonFields* f) {
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

void read_sizes(JsonFields* f, ModelConfig* out) {
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

// id2label {"0": "LABEL_0", ...} in the order of its numbers. transformers leaves it out when there
// are two labels with their default names.
void read_labels(JsonFields* f, RewardHead* out) {
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

void read_reward_head(JsonFields* f, ModelConfig* out) {
  if (out->architecture != "LlamaForSequenceClassification") return;
  out->reward.kind = RewardHead::Kind::classification;
  read_labels(f, &out->reward);
}

void read_llama(JsonFields* f, ModelConfig* out) {
  const std::string type = f->text("model_type", "llama");
  if (type != "llama") {
    f->unsupported("\"model_type\" is " + Json(type).brief() + "; served: \"llama\"");
  }
  if (!f->status().ok()) return;
  refuse_unserved(f);
  read_sizes(f, out);
  if (!f->status().ok()) return;
  read_rope(f, &out->rope);
  read_reward_head(f, out);
}

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
                           same_values(f, *out->head.weight, *out->embedding.weight);
}

void find_llama(TensorFinder* finder, const ModelConfig& config, Sources* out) {
  find_ends(finder, config, out);
  find_layers(finder, config, out);
}

constexpr Architecture::Name kNames[] = {{"LlamaForCausalLM", "chat and reward"},
                                         {"LlamaForSequenceClassification", "reward"}};

}  // namespace

const Architecture kLlama = {
    .names = kNames, .read_config = read_llama, .find_tensors = find_llama};

}  // namespace nemotron
