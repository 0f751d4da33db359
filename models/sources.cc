#include "models/sources.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "models/arch/architecture.h"
#include "models/tensor_finder.h"

namespace nemotron {

float stored_value(const StoredTensor& t, int64_t i) {
  const uint8_t* p = t.data + size_t(i) * dtype_bytes(t.dtype);
  uint16_t half = 0;
  float f = 0;
  switch (t.dtype) {
    case DType::f32: std::memcpy(&f, p, sizeof f); return f;
    case DType::f16: std::memcpy(&half, p, sizeof half); return f16_to_f32(half);
    case DType::bf16: std::memcpy(&half, p, sizeof half); return bf16_to_f32(half);
    default: return NAN;
  }
}

namespace {

// Magnitudes are in the order of their bits. Several values at a time, which stored_value() is not.
template <class Bits>
Bits largest_bits(const uint8_t* p, int64_t n) {
  Bits most = 0;
  for (int64_t i = 0; i < n; ++i) {
    Bits bits;
    std::memcpy(&bits, p + size_t(i) * sizeof bits, sizeof bits);
    most = std::max(most, Bits(bits & Bits(Bits(~Bits(0)) >> 1)));
  }
  return most;
}

}  // namespace

float largest_magnitude(const StoredTensor& t, int64_t first, int64_t n) {
  const uint8_t* p = t.data + size_t(first) * dtype_bytes(t.dtype);
  const uint32_t most =
      t.dtype == DType::f32 ? largest_bits<uint32_t>(p, n) : largest_bits<uint16_t>(p, n);
  StoredTensor bits;
  bits.dtype = t.dtype;
  bits.data = reinterpret_cast<const uint8_t*>(&most);  // its low half comes first
  if (const float value = stored_value(bits, 0); !std::isnan(value)) return value;
  float magnitude = 0;
  for (int64_t i = first; i < first + n; ++i) {
    magnitude = std::max(magnitude, std::abs(stored_value(t, i)));
  }
  return magnitude;
}

Status find_sources(const Checkpoint& checkpoint, const ModelConfig& config, Sources* out) {
  const Architecture* architecture = find_architecture(config.architecture);
  if (!architecture) {
    return Status::internal("architecture " + config.architecture + " has no row in the table");
  }
  TensorFinder finder(checkpoint, config);
  Sources sources;
  architecture->find_tensors(&finder, config, &sources);
  finder.check_others();
  if (Status s = finder.status(); !s) return s;
  sources.unused = finder.unused();
  *out = std::move(sources);
  return {};
}

Status check_checkpoint(const Checkpoint& checkpoint, const ModelConfig& config) {
  Sources sources;
  return find_sources(checkpoint, config, &sources);
}

// The whole matrix's stretches decide, so that any number of ranks does the same as long as it cuts
// rows between stretches. Ranks that cut inside of one have as many columns each.
std::string PackedGroup::uncut(const Part& part, int64_t values) const {
  const int64_t stretch = part.source->cols() / most_stretches;
  const auto why = [&](const std::string& what, int64_t found) {
    return what + std::to_string(found) + " values, no multiple of " + std::to_string(values);
  };
  if (stretch % values != 0) return why("its rows are summed in stretches of ", stretch);
  if (part.range.cols % values != 0) return why("each rank holds of its rows ", part.range.cols);
  return {};
}

WeightFormat PackedGroup::format(WeightFormat wanted,
                                 const std::vector<const GroupedRows*>& grouped,
                                 std::string* why) const {
  const auto is_fp8 = [](const Part& p) { return p.source->weight->dtype == DType::fp8_e4m3; };
  const auto is_there = [](const GroupedRows* rows) { return rows != nullptr; };
  if (layer < 0 || std::ranges::any_of(parts, is_fp8) || std::ranges::any_of(grouped, is_there)) {
    return WeightFormat::stored;
  }
  if (wanted != WeightFormat::int4 && wanted != WeightFormat::int8) return wanted;
  std::string cut = uncut(parts[0], kGroupedChunk);
  if (cut.empty()) return wanted;
  if (why) *why = std::move(cut);
  return WeightFormat::stored;
}

std::vector<const GroupedRows*> PackedGroup::grouped(const Checkpoint& checkpoint,
                                                     std::string* why) const {
  constexpr int64_t kPanel = 16;  // rows
  const auto widened = [&](const std::string& reason) -> std::vector<const GroupedRows*> {
    if (why) *why = reason;
    return {};
  };
  std::vector<const GroupedRows*> rows;
  int64_t end = 0;
  for (const Part& part : parts) {
    const StoredTensor& weight = *part.source->weight;
    const GroupedRows* r = checkpoint.grouped(weight);
    if (!r && use == WeightUse::gate_up && weight.dtype != DType::bf16 &&
        weight.dtype != DType::fp8_e4m3) {
      return widened("it is in one matrix with " + checkpoint.shown(weight.name) + ", which is " +
                     weight.dtype_name);
    }
    if (std::string cut = r ? uncut(part, r->form().cut()) : ""; !cut.empty()) return widened(cut);
    if (!rows.empty()) {
      const GroupedRows* last = rows.back();
      const bool same = r && last ? r->form() == last->form() : r == last;
      if (!same && use != WeightUse::gate_up && end % kPanel != 0) {
        return widened("parts of several types meet at row " + std::to_string(end) +
                       ", no multiple of " + std::to_string(kPanel));
      }
    }
    end += part.range.rows;
    rows.push_back(r);
  }
  return rows;
}

std::vector<WidenedTensor> widened_tensors(const std::vector<PackedGroup>& groups,
                                           const Checkpoint& checkpoint, WeightFormat wanted) {
  std::vector<WidenedTensor> all;
  for (const PackedGroup& group : groups) {
    std::string why_grouped, why_format;
    const auto grouped = group.grouped(checkpoint, &why_grouped);
    (void)group.format(wanted, grouped, &why_format);
    for (const PackedGroup::Part& part : group.parts) {
      const StoredTensor& weight = *part.source->weight;
      const std::string name = checkpoint.shown(weight.name);
      if (!all.empty() && all.back().name == name) continue;
      if (grouped.empty() && checkpoint.grouped(weight)) {
        all.push_back({name, why_grouped});
      } else if (!why_format.empty()) {
        all.push_back({name, why_format});
      }
    }
  }
  return all;
}

std::string PackedGroup::name() const {
  constexpr const char* kNames[] = {"embedding", "head", "qkv", "o", "gate_up", "down"};
  return (layer < 0 ? std::string() : "layer " + std::to_string(layer) + " ") +
         kNames[size_t(slot)];
}

int64_t PackedGroup::rows() const {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.range.rows;
  return rows;
}

std::vector<PackedGroup> packed_groups(const Checkpoint& checkpoint, const Sources& s,
                                       const ModelConfig& config, const Shard& shard) {
  using Slot = PackedGroup::Slot;
  using Kind = MatrixKind;
  std::vector<PackedGroup> groups;
  struct Stored {
    const LinearSource* source;
    Kind kind;
  };
  LayerSpec spec;  // of the layer whose groups are added
  const auto add = [&](Slot slot, int32_t layer, WeightUse use, std::vector<Stored> parts) {
    PackedGroup& group = groups.emplace_back();
    group.slot = slot, group.layer = layer, group.use = use;
    for (const Stored& p : parts) {
      group.parts.push_back({p.source, held_by(shard, config, spec, p.kind)});
    }
    if (slot != Slot::o && slot != Slot::down) return;
    const GroupedRows* rows = checkpoint.grouped(*parts[0].source->weight);
    const int64_t cut = rows ? rows->form().cut() : kGroupedChunk;  // backends pad to as many
    const int32_t all = stretches_of(config, parts[0].source->cols(), cut);
    group.most_stretches = all;
    group.stretches = all % shard.ranks == 0 ? all / shard.ranks : 1;
  };
  const bool tied = s.head_is_embedding && config.reward.kind != RewardHead::Kind::lm_head_rows;
  add(Slot::embedding, -1, tied ? WeightUse::tied : WeightUse::embedding,
      {{&s.embedding, Kind::embedding}});
  const LinearSource* head = s.head_is_embedding ? &s.embedding : &s.head;
  if (config.reward.kind == RewardHead::Kind::lm_head_rows) {
    add(Slot::head, -1, WeightUse::linear, {});
    std::vector<PackedGroup::Part>& parts = groups.back().parts;
    for (const int32_t id : config.reward.vocab_ids) {
      if (!parts.empty() && parts.back().range.first_row + parts.back().range.rows == id) {
        ++parts.back().range.rows;
      } else {
        parts.push_back({head, {id, 1, 0, config.hidden}});
      }
    }
  } else if (!tied) {
    add(Slot::head, -1, WeightUse::linear, {{head, Kind::head}});
  }
  for (size_t i = 0; i < s.layers.size(); ++i) {
    const LayerSource& layer = s.layers[i];
    const auto n = int32_t(i);
    spec = config.layers[i];
    if (spec.attention) {
      add(Slot::qkv, n, WeightUse::linear,
          {{&layer.q, Kind::q}, {&layer.k, Kind::k}, {&layer.v, Kind::v}});
      add(Slot::o, n, WeightUse::linear, {{&layer.o, Kind::o}});
    } else if (spec.linear_attention) {
      add(Slot::o, n, WeightUse::linear, {{&layer.o, Kind::square}});
    }
    if (spec.ffn) {
      if (spec.activation == Activation::silu_gated) {
        add(Slot::gate_up, n, WeightUse::gate_up,
            {{&layer.gate, Kind::gate}, {&layer.up, Kind::up}});
      } else {
        add(Slot::gate_up, n, WeightUse::linear, {{&layer.up, Kind::up}});
      }
      add(Slot::down, n, WeightUse::linear, {{&layer.down, Kind::down}});
    } else if (spec.linear_ffn) {
      add(Slot::down, n, WeightUse::linear, {{&layer.down, Kind::square}});
    }
  }
  return groups;
}

}  // namespace nemotron
