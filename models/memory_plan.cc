#include "models/memory_plan.h"

#include <algorithm>
#include <cstdio>

#include "models/decoder.h"

namespace nemotron {
namespace {

// What a device takes that it does not tell, thread stacks, the process itself.
constexpr size_t kReserve = size_t(256) << 20;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What a backend makes of a group: outputs padded to panels of 16 (gate and up each), the inner
// dimension to 32, a scale for every output when there is any.
size_t packed_bytes(const PackedGroup& group, const Checkpoint& checkpoint, const PlanInput& in) {
  const auto grouped = group.grouped(checkpoint);
  const WeightFormat format = group.format(in.format, grouped);
  const int64_t cols = group.parts[0].range.cols;
  // Gate and up of one form lie in one list of panels, padded together.
  const bool two_forms = !grouped.empty() && (!grouped[0] || !grouped.back());
  const int64_t lists = group.use == WeightUse::gate_up && !two_forms ? 2 : 1;
  const auto padded = [&](int64_t rows) { return size_t(round_up(rows / lists, 16) * lists); };
  const auto in_groups = [&](int64_t rows, const GroupedForm& form) {
    return padded(rows) / 16 * form.panel_bytes(cols);
  };
  if (format == WeightFormat::int4 || format == WeightFormat::int8) {
    return in_groups(group.rows(), {.bits = format == WeightFormat::int4 ? 4 : 8});
  }
  size_t bytes = 0, element = 0;
  int64_t rows = 0;  // that are not in groups
  bool scaled = format == WeightFormat::fp8, bf16 = false, f16 = false;
  for (size_t i = 0; i < group.parts.size(); ++i) {
    const auto& [source, range] = group.parts[i];
    if (!grouped.empty() && grouped[i]) {
      bytes += in_groups(range.rows * lists, grouped[i]->form()) / size_t(lists);
      continue;
    }
    rows += range.rows;
    element = std::max(element, dtype_bytes(source->weight->dtype));
    bf16 = bf16 || source->weight->dtype == DType::bf16;
    f16 = f16 || source->weight->dtype == DType::f16;
    scaled = scaled || !source->scale.empty();
  }
  if (bf16 && f16) element = dtype_bytes(DType::f32);  // the narrowest that holds both
  if (format == WeightFormat::fp8) element = dtype_bytes(DType::fp8_e4m3);
  if (group.use == WeightUse::embedding && bytes == 0) return size_t(rows * cols) * element;
  return bytes + padded(rows) * size_t(round_up(cols, 32)) * element +
         (scaled ? padded(group.rows()) * sizeof(float) : 0);
}

size_t packed_bytes(const std::vector<PackedGroup>& groups, const Checkpoint& checkpoint,
                    const ModelConfig& config, const PlanInput& in) {
  size_t bytes = 0;
  for (const PackedGroup& group : groups) {
    bytes += packed_bytes(group, checkpoint, in);
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

// What one model takes of a rank.
struct Needs {
  size_t weights = 0, block = 0;
  size_t reserve = 0;  // kReserve and the device's workspace
  std::vector<std::string> unused_tensors;
  std::vector<WidenedTensor> widened_tensors;
  bool in_groups = false, quantises = false;
};

// `limits`: of the rank; they count for the reserve alone.
Status find_needs(const ModelConfig& config, const Checkpoint& checkpoint, const PlanInput& in,
                  const StepLimits& limits, Needs* out) {
  Sources sources;
  if (Status s = find_sources(checkpoint, config, &sources); !s) return s;
  RankShape shape;
  if (Status s = rank_shape(config, in.shard, &shape); !s) return s;
  const std::vector<int32_t> kv_heads = shape.kv_heads();
  KvConfig kv = kv_config(shape, kv_heads);
  kv.block_size = in.block_size;
  kv.dtype = in.kv_dtype;
  out->block = std::max<size_t>(kv.bytes_per_block(), 1);
  const std::vector<PackedGroup> groups = packed_groups(checkpoint, sources, config, in.shard);
  out->weights = packed_bytes(groups, checkpoint, config, in);
  int64_t all = 0, in_groups = 0;
  NarrowWeights narrow;
  for (const PackedGroup& group : groups) {
    if (group.layer < 0) continue;
    const auto grouped = group.grouped(checkpoint);
    const WeightFormat format = group.format(in.format, grouped);
    const auto is_there = [](const GroupedRows* rows) { return rows != nullptr; };
    const auto is_fp8 = [](const PackedGroup::Part& part) {
      return part.source->weight->dtype == DType::fp8_e4m3;
    };
    const bool packed = format == WeightFormat::int4 || format == WeightFormat::int8 ||
                        std::ranges::any_of(grouped, is_there);
    ++all, in_groups += packed;
    narrow.groups = narrow.groups || packed;
    out->quantises = out->quantises || format != WeightFormat::stored;
    narrow.fp8 =
        narrow.fp8 || format == WeightFormat::fp8 || std::ranges::any_of(group.parts, is_fp8);
  }
  out->reserve = kReserve + (in.workspace_bytes ? in.workspace_bytes(limits, kv, narrow) : 0);
  out->in_groups = 2 * in_groups > all;
  out->unused_tensors = std::move(sources.unused);
  out->widened_tensors = widened_tensors(groups, checkpoint, in.format);
  return {};
}

Status find_activations(const ModelConfig& config, const PlanInput& in, const StepLimits& limits,
                        size_t* out) {
  RankShape shape;
  if (Status s = rank_shape(config, in.shard, &shape); !s) return s;
  // Float32 is the widest that a device keeps activations in.
  *out = Decoder::activation_bytes(shape, limits, DType::f32);
  // What ranks tell each other; parts of their sums, two in turn: [max_rows, hidden].
  *out += in.group_bytes;
  if (in.shard.ranks > 1)
    *out += 2 * size_t(limits.max_rows) * size_t(shape.hidden) * sizeof(float);
  return {};
}

}  // namespace

Status plan_memory(const ModelConfig& config, const Checkpoint& checkpoint, const PlanInput& in,
                   MemoryPlan* out) {
  if (in.block_size <= 0 || in.limits.max_context <= 0 || in.max_seqs <= 0) {
    return Status::invalid("plan of memory: block_size, max_context and max_seqs must be positive");
  }
  Needs needs, draft;
  MemoryPlan plan;
  if (Status s = find_needs(config, checkpoint, in, in.limits, &needs); !s) return s;
  if (Status s = find_activations(config, in, in.limits, &plan.activations); !s) return s;
  if (in.draft) {
    Status s = find_needs(*in.draft->config, *in.draft->checkpoint, in, in.draft->limits, &draft);
    if (s) s = find_activations(*in.draft->config, in, in.draft->limits, &plan.draft);
    if (!s) return s.within("draft_model");
  }
  const size_t block_bytes = needs.block + draft.block;
  const int64_t sequence_blocks = round_up(in.limits.max_context, in.block_size) / in.block_size;

  plan.weights = needs.weights;
  plan.reserve = needs.reserve;
  if (in.draft) plan.draft += draft.weights + draft.reserve;
  plan.available = in.available;
  plan.block_size = in.block_size;
  plan.kv_bytes_per_token = needs.block / size_t(in.block_size);
  plan.draft_kv_bytes_per_token = draft.block / size_t(in.block_size);
  plan.kv_dtype = in.kv_dtype;
  plan.in_groups = needs.in_groups;
  plan.quantises = needs.quantises;

  const size_t fixed = plan.weights + plan.activations + plan.reserve + plan.draft;
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
  plan.kv = size_t(blocks) * needs.block;
  plan.draft_kv = size_t(blocks) * draft.block;
  plan.total = fixed + plan.kv + plan.draft_kv;
  if (blocks < sequence_blocks || plan.total > in.available) {
    const size_t needed =
        in.kv_memory > 0 ? plan.total : fixed + size_t(sequence_blocks) * block_bytes;
    return Status::out_of_memory(
        "needs " + amount(needed) + ", but " + amount(in.available) + " are available: weights " +
        amount(plan.weights) + ", activations " + amount(plan.activations) + ", reserve " +
        amount(plan.reserve) + (in.draft ? ", draft model " + amount(plan.draft) : "") +
        ", KV cache " +
        (in.kv_memory > 0 ? amount(plan.kv + plan.draft_kv) : "at least what " + sequence) + "; " +
        std::to_string(int64_t(left / block_bytes) * in.block_size) +
        " tokens of KV cache would fit (a shorter context, FP8 KV or FP8 weights take less)");
  }
  plan.num_blocks = int32_t(blocks);
  plan.kv_tokens = blocks * in.block_size;
  plan.unused_tensors = std::move(needs.unused_tensors);
  plan.widened_tensors = std::move(needs.widened_tensors);
  *out = std::move(plan);
  return {};
}

Status find_footprint(const ModelConfig& config, const Checkpoint& checkpoint, const PlanInput& in,
                      Footprint* out) {
  Needs needs;
  if (Status s = find_needs(config, checkpoint, in, in.limits, &needs); !s) return s;
  *out = {.weights = needs.weights,
          .kv_bytes_per_token = needs.block / size_t(in.block_size),
          .in_groups = needs.in_groups};
  return {};
}

void MemoryPlan::limit_blocks(int32_t blocks) {
  for (size_t* bytes : {&kv, &draft_kv}) {
    const size_t more = *bytes - *bytes / size_t(num_blocks) * size_t(blocks);
    *bytes -= more;
    total -= more;
  }
  num_blocks = blocks;
  kv_tokens = int64_t(blocks) * block_size;
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
  if (draft > 0) {
    line("draft model", draft, "weights, activations and reserve");
    line("draft KV", draft_kv, std::to_string(draft_kv_bytes_per_token) + " bytes a token");
  }
  line("reserve", reserve, "");
  line("total", total, "of " + amount(available) + " available");
  return text;
}

}  // namespace nemotron
