#include "models/gpu_fit.h"

#include "models/shard.h"

namespace nemotron {
namespace {

struct Elements {
  int64_t linear = 0, ends = 0, norms = 0;  // layers' matrices, embedding and head, norms
};

// What a rank holds. REQUIRES: the config and the shard have a rank_shape().
Elements count_elements(const ModelConfig& c, const Shard& shard) {
  const auto held = [&](const LayerSpec& layer, MatrixKind kind) {
    const MatrixRange range = held_by(shard, c, layer, kind);
    return range.rows * range.cols;
  };
  using enum MatrixKind;
  Elements n;
  n.ends = held({}, embedding);
  if (c.reward.kind == RewardHead::Kind::lm_head_rows) {
    n.ends += int64_t(c.reward.vocab_ids.size()) * c.hidden;
  } else if (!c.tied || c.reward.kind == RewardHead::Kind::classification) {
    n.ends += held({}, head);
  }
  const int64_t norm = c.norm == Norm::Kind::layer ? 2 * c.hidden : c.hidden;  // a bias too
  n.norms = norm;
  for (const LayerSpec& layer : c.layers) {
    if (layer.attention) {
      for (const MatrixKind kind : {q, k, v, o}) n.linear += held(layer, kind);
      n.norms += norm;
    }
    for (const bool linear : {layer.linear_attention, layer.linear_ffn}) {
      if (linear) n.linear += held(layer, square), n.norms += norm;
    }
    if (layer.ffn) {
      for (const MatrixKind kind : {up, down}) n.linear += held(layer, kind);
      if (layer.activation == Activation::silu_gated) n.linear += held(layer, gate);
      n.norms += norm;
    }
  }
  return n;
}

struct Gpu {
  const char* name;
  size_t mib;
};
constexpr Gpu kGpus[] = {{"12 GB (RTX 4070)", 12282},
                         {"24 GB (RTX 4090)", 24564},
                         {"40 GB (A100)", 40960},
                         {"80 GB (H100)", 81559},
                         {"141 GB (H200)", 143771}};
// Of a GPU's memory; the rest is the driver's. Beside the weights: CUDA context, NCCL, workspaces
// and the activations of a prefill chunk of up to 8k tokens.
constexpr double kUsable = 0.95, kOverhead = 1.5 * (1 << 30);

// Workspaces and activations of a draft model.
constexpr double kDraftOverhead = 0.25 * (1 << 30);

size_t weight_bytes(const ModelConfig& config, const Shard& shard, WeightFormat format) {
  const Elements n = count_elements(config, shard);
  const bool fp8 = format == WeightFormat::fp8 || config.quant != QuantKind::none;
  // Four bits and, for every 32, a half float.
  const int64_t linear = fp8                            ? n.linear
                         : format == WeightFormat::int4 ? n.linear * 9 / 16
                                                        : 2 * n.linear;
  return size_t(linear + 2 * n.ends + 2 * n.norms);
}
// Of a token on a rank.
int64_t kv_values_of(const RankShape& shape) {
  int64_t kv_heads = 0;
  for (const int32_t heads : shape.kv_heads()) kv_heads += heads;
  return 2 * kv_heads * shape.head_dim;
}

}  // namespace

int64_t parameter_count(const ModelConfig& config) {
  const Elements n = count_elements(config, Shard::whole());
  return n.linear + n.ends + n.norms;
}

std::vector<GpuFit> fit_on_common_gpus(const ModelConfig& config, const ModelConfig* draft,
                                       const PackedBytes& packed, const PackedBytes& packed_draft) {
  std::vector<WeightFormat> formats{WeightFormat::fp8};
  if (packed) {
    formats = {WeightFormat::stored};
  } else if (config.quant == QuantKind::none) {
    formats = {WeightFormat::stored, WeightFormat::fp8, WeightFormat::int4};
  }
  std::vector<GpuFit> rows;
  for (const Gpu& gpu : kGpus) {
    for (int32_t ranks = 1; ranks <= kMaxStretches; ranks *= 2) {
      // The last rank has the largest share of a vocabulary that does not divide.
      const Shard shard{.rank = ranks - 1, .ranks = ranks};
      RankShape shape;
      if (!rank_shape(config, shard, &shape)) continue;
      int64_t kv_values = kv_values_of(shape);
      if (draft) {
        if (!rank_shape(*draft, shard, &shape)) continue;
        kv_values += kv_values_of(shape);
      }
      for (const WeightFormat format : formats) {
        GpuFit fit{.gpu = gpu.name, .gpu_bytes = gpu.mib << 20, .ranks = ranks, .format = format};
        fit.weights = packed ? packed(shard) : weight_bytes(config, shard, format);
        double left = kUsable * double(fit.gpu_bytes) - kOverhead;
        if (draft) {
          fit.weights += packed_draft ? packed_draft(shard) : weight_bytes(*draft, shard, format);
          left -= kDraftOverhead;
        }
        left -= double(fit.weights);
        const double tokens = left > 0 ? left / double(kv_values) : 0;  // of one byte
        fit.kv_tokens_bf16 = int64_t(tokens / 2) / 16 * 16;
        fit.kv_tokens_fp8 = int64_t(tokens) / 16 * 16;
        rows.push_back(fit);
      }
    }
  }
  return rows;
}

}  // namespace nemotron
