#include <algorithm>
#include <cstdio>

#include "models/checkpoint/checkpoint.h"
#include "models/gpu_fit.h"
#include "models/sources.h"

namespace nemotron {
namespace {

// Workspace of a device beyond the decoder's activations, thread stacks, the process itself.
constexpr size_t kReserve = size_t(256) << 20;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What a backend makes of a group: outputs padded to panels of 16 (gate and up each), the inner
// dimension to 32, a scale for every output when there is any.
size_t packed_bytes(const PackedGroup& group, WeightFormat format) {
  const bool quantised = group.quantised(format);
  size_t element = 0;
  bool scaled = quantised, bf16 = false, f16 = false;
  for (const LinearSource* part : group.parts) {
    element = std::max(element, dtype_bytes(part->weight->dtype));
    bf16 = bf16 || part->weight->dtype == DType::bf16;
    f16 = f16 || part->weight->dtype == DType::f16;
    scaled = scaled || !part->scale.empty();
  }
  if (bf16 && f16) element = dtype_bytes(DType::f32);  // the narrowest that holds both
  if (quantised) element = dtype_bytes(DType::fp8_e4m3);
  const int64_t cols = group.parts[0]->cols();
  if (group.use == WeightUse::embedding) return size_t(group.rows * cols) * element;
  const int64_t lists = group.use == WeightUse::gate_up ? 2 : 1;
  const auto rows = size_t(round_up(group.rows / lists, 16) * lists);
  return rows * size_t(round_up(cols, 32)) * element + (scaled ? rows * sizeof(float) : 0);
}

size_t packed_bytes(const Sources& sources, const ModelConfig& config, WeightFormat format) {
  size_t bytes = 0;
  for (const PackedGroup& group : packed_groups(sources, config)) {
    bytes += packed_bytes(group, format);
  }
  return bytes + (2 * config.layers.size() + 1) * size_t(config.hidden) * sizeof(float);
}

std::string amount(size_t bytes) {
  constexpr double kKiB = 1 << 10, kMiB = 1 << 20, kGiB = 1 << 30;
  char text[32];
  const auto b = double(bytes);
  if (b < kMiB)
    std::snprintf(text, sizeof text, "%.1f KiB", b / kKiB);
  else if (b < kGiB)
    std::snprintf(text, sizeof text, "%.1f MiB", b / kMiB);
  else
    std::snprintf(text, sizeof text, "%.2f GiB", b / kGiB);
  return text;
}

}  // namespace

Status plan_memory(const ModelConfig& config, const Checkpoint& checkpoint, const PlanInput& in,
                   MemoryPlan* out) {
  Sources sources;
  if (Status s = find_sources(checkpoint, config, &sources); !s) return s;
  KvConfig kv;
  kv.layers = config.kv_layers();
  kv.kv_heads = config.kv_heads();
  kv.head_dim = config.head_dim;
  kv.block_size = in.block_size;
  kv.dtype = in.kv_dtype;
  if (in.block_size <= 0 || in.limits.max_context <= 0 || in.max_seqs <= 0) {
    return Status::invalid("plan of memory: block_size, max_context and max_seqs must be positive");
  }
  const size_t block_bytes = std::max<size_t>(kv.bytes_per_block(), 1);
  const int64_t sequence_blocks = round_up(in.limits.max_context, in.block_size) / in.block_size;

  MemoryPlan plan;
  plan.weights = packed_bytes(sources, config, in.format);
  // Float32 is the widest that a device keeps activations in.
  plan.activations = Decoder::activation_bytes(config, in.limits, DType::f32);
  plan.reserve = kReserve;
  plan.available = in.available;
  plan.block_size = in.block_size;
  plan.kv_bytes_per_token = block_bytes / size_t(in.block_size);
  plan.kv_dtype = in.kv_dtype;

  const size_t fixed = plan.weights + plan.activations + plan.reserve;
  const size_t left = in.available > fixed ? in.available - fixed : 0;
  const size_t for_kv = in.kv_memory > 0 ? size_t(in.kv_memory) : left;
  const int64_t useful = std::min<int64_t>(int64_t(in.max_seqs) * sequence_blocks, INT32_MAX);
  const int64_t blocks = int64_t(std::min<size_t>(for_kv / block_bytes, size_t(useful)));
  const std::string sequence = "one sequence of " + std::to_string(in.limits.max_context) +
                               " tokens takes " + amount(size_t(sequence_blocks) * block_bytes);
  if (in.kv_memory > 0 && blocks < sequence_blocks) {
    return Status::out_of_memory("the KV cache is limited to " + amount(size_t(in.kv_memory)) +
                                 ", " + std::to_string(blocks * in.block_size) + " tokens, but " +
                                 sequence);
  }
  plan.kv = size_t(blocks) * block_bytes;
  plan.total = fixed + plan.kv;
  if (blocks < sequence_blocks || plan.total > in.available) {
    const size_t needed =
        in.kv_memory > 0 ? plan.total : fixed + size_t(sequence_blocks) * block_bytes;
    return Status::out_of_memory(
        "needs " + amount(needed) + ", but " + amount(in.available) + " are available: weights " +
        amount(plan.weights) + ", activations " + amount(plan.activations) + ", reserve " +
        amount(plan.reserve) + ", KV cache " +
        (in.kv_memory > 0 ? amount(plan.kv) : "at least what " + sequence) + "; " +
        std::to_string(int64_t(left / block_bytes) * in.block_size) +
        " tokens of KV cache would fit (a shorter context, FP8 KV or FP8 weights take less)");
  }
  plan.num_blocks = int32_t(blocks);
  plan.kv_tokens = blocks * in.block_size;
  *out = plan;
  return {};
}

std::string MemoryPlan::table() const {
  std::string text;
  const auto line = [&](const char* item, size_t bytes, const std::string& note) {
    char start[64];
    std::snprintf(start, sizeof start, "%-12s %12s", item, amount(bytes).c_str());
    text += start + (note.empty() ? "" : "  " + note) + "\n";
  };
  line("weights", weights, "");
  line("KV cache", kv,
       std::to_string(kv_tokens) + " tokens: " + std::to_string(num_blocks) + " blocks of " +
           std::to_string(block_size) + ", " + std::to_string(kv_bytes_per_token) +
           " bytes a token in " + dtype_name(kv_dtype));
  line("activations", activations, "");
  line("reserve", reserve, "");
  line("total", total, "of " + amount(available) + " available");
  return text;
}

namespace {

struct Elements {
  int64_t linear = 0, ends = 0, gains = 0;  // layers' matrices, embedding and head, norms
};

Elements count_elements(const ModelConfig& c) {
  const int64_t hidden = c.hidden, q = int64_t(c.q_heads) * c.head_dim;
  Elements n;
  n.ends = int64_t(c.vocab) * hidden;
  switch (c.reward.kind) {
    case RewardHead::Kind::none: n.ends *= c.tied ? 1 : 2; break;
    case RewardHead::Kind::lm_head_row: n.ends += hidden; break;
    case RewardHead::Kind::classification:
      n.ends += int64_t(c.reward.labels.size()) * hidden;
      break;
  }
  n.gains = hidden;
  for (const LayerSpec& layer : c.layers) {
    if (layer.attention) {
      n.linear += 2 * hidden * (q + int64_t(layer.kv_heads) * c.head_dim);
      n.gains += hidden;
    }
    if (layer.ffn) {
      n.linear += 3 * hidden * layer.intermediate;
      n.gains += hidden;
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
  return n.linear + n.ends + n.gains;
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
        fit.weights = size_t((linear_bytes + 2 * n.ends) / ranks + 2 * n.gains);
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
