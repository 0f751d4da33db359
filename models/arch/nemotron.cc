// Nemotron-3 and -4 (340B, 15B, Minitron): LayerNorms that store gain - 1 and a bias, rotary
// embeddings over the first part of a head, a squared ReLU without a gate, grouped queries.
// After transformers' modeling_nemotron.
#include "models/arch/architecture.h"
#include "models/arch/decoder_tensors.h"
#include "models/config_fields.h"

namespace nemotron {
namespace {

void read_nemotron(JsonFields* f, ModelConfig* out) {
  f->only("model_type", {"nemotron"});
  f->only("hidden_act", {"relu2"});
  refuse_unserved(f);
  if (!f->status().ok()) return;
  read_sizes(f, out);
  read_equal_layers(f, Activation::relu2, out);
  out->norm = Norm::Kind::layer;
  out->norm_gain_less_one = true;
  const char* eps =
      !f->find("norm_eps") && f->find("layer_norm_eps") ? "layer_norm_eps" : "norm_eps";
  out->norm_eps = float(f->real(eps, 0, 1, 1e-5));
  // transformers' default, where a file says nothing of it.
  out->rope.share = 0.5;
  if (!f->status().ok()) return;
  read_rope(f, out);
  if (out->architecture == "NemotronForSequenceClassification") {
    read_classification_head(f, &out->reward);
  }
}

constexpr Architecture::Name kNames[] = {{"NemotronForCausalLM", "chat and reward"},
                                         {"NemotronForSequenceClassification", "reward"}};

}  // namespace

extern const Architecture kNemotron = {
    .names = kNames, .read_config = read_nemotron, .find_tensors = find_decoder};

}  // namespace nemotron
