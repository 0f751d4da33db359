// Llama: RMS norms, rotary embeddings over whole heads, a gated silu, grouped queries; no biases.
#include "models/arch/architecture.h"
#include "models/arch/decoder_tensors.h"
#include "models/config_fields.h"

namespace nemotron {
namespace {

void read_llama(JsonFields* f, ModelConfig* out) {
  f->only("model_type", {"llama"});
  f->only("hidden_act", {"silu", "swish"});
  refuse_unserved(f);
  if (!f->status().ok()) return;
  read_sizes(f, out);
  read_equal_layers(f, Activation::silu_gated, out);
  out->norm_eps = float(f->real("rms_norm_eps", 0, 1, 1e-6));
  if (!f->status().ok()) return;
  read_whole_rope(f, out);
  if (out->architecture == "LlamaForSequenceClassification") {
    read_classification_head(f, &out->reward);
  }
}

constexpr Architecture::Name kNames[] = {{"LlamaForCausalLM", "chat and reward"},
                                         {"LlamaForSequenceClassification", "reward"}};

}  // namespace

extern const Architecture kLlama = {
    .names = kNames, .read_config = read_llama, .find_tensors = find_decoder};

}  // namespace nemotron
