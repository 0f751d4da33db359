#include "models/gpu_fit.h"

namespace nemotron {
namespace {

struct Elements {
  int64_t linear = 0, ends = 0, norms = 0;  // layers' matrices, embedding and head, norms
};

Elements count_elements(const ModelConfig& c) {
  const int64_t hidden = c.hidden, q = int64_t(c.q_heads) * c.head_dim;
  Elements n;
  n.ends = int64_t(c.vocab) * hidden;
  switch (c.reward.kind) {
    case RewardHead::Kind::none: n.ends *= c.tied ? 1 : 2; break;
    case RewardHead::Kind::lm_head_rows:
      n.ends += int64_t(c.reward.vocab_ids.size()) * hidden;
      break;
    case RewardHead::Kind::classification:
      n.ends += int64_t(c.reward.labels.size()) * hidden;
      break;
  }
  const int64_t norm = c.norm == Norm::Kind::layer ? 2 * hidden : hidden;  // a bias too
  n.norms = norm;
  for (const LayerSpec& layer : c.layers) {
    if (layer.attention) {
      n.linear += 2 * hidden * (q + int64_t(layer.kv_heads) * c.head_dim);
      n.norms += norm;
    }
    if (layer.ffn) {
      const int64_t matrices = layer.activation == Activation::silu_gated ? 3 : 2;
      n.linear += matrices * hidden * layer.intermediate;
      n.norms += norm;
    }
  }
  return n;
}

struct Gpu {
  const char* name;
  size_t mib;
};
constexpr Gpu kGpus[] = {{"24 GB (RTX 4090)", 24564},
                         {"40 GB (A100)", 40960},
                         {"80 GB (H100)", 81559},
                         {"141 GB (H200)", 143771}};
// Of a GPU's memory; the rest is the driver's. Beside the weights: CUDA context, NCCL, workspaces
// and the activations of a prefill chunk of up to 8k tokens.
constexpr double kUsable = 0.95, kOverhead = 1.5 * (1 << 30);

}  // namespace

int64_t parameter_count(const ModelConfig& config) {
  const Elements n = count_elements(config);
  return n.linear + n.ends + n.norms;
}

std::vector<GpuFit> fit_on_common_gpus(const ModelConfig& config) {
  const Elements n = count_elements(config);
  const int64_t kv_values = 2 * int64_t(config.kv_layers()) * config.kv_heads() * config.head_dim;
  std::vector<WeightFormat> formats{WeightFormat::fp8};
  if (config.quant == QuantKind::none) formats.insert(formats.begin(), WeightFormat::stored);
  std::vector<GpuFit> rows;
  for (const Gpu& gpu : kGpus) {
    for (const int32_t ranks : {1, 2, 4, 8}) {
      if (config.kv_heads() % ranks != 0) continue;
      for (const WeightFormat format : formats) {
        const int64_t linear_bytes = format == WeightFormat::fp8 ? n.linear : 2 * n.linear;
        GpuFit fit{.gpu = gpu.name, .gpu_bytes = gpu.mib << 20, .ranks = ranks, .format = format};
        fit.weights = size_t((linear_bytes + 2 * n.ends) / ranks + 2 * n.norms);
        const double left = kUsable * double(fit.gpu_bytes) - kOverhead - double(fit.weights);
        const double tokens = left > 0 ? left / (double(kv_values) / ranks) : 0;  // of one byte
        fit.kv_tokens_bf16 = int64_t(tokens / 2) / 16 * 16;
        fit.kv_tokens_fp8 = int64_t(tokens) / 16 * 16;
        rows.push_back(fit);
      }
    }
  }
  return rows;
}

}  // namespace nemotron
