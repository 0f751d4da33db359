#include "models/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/json.h"
#include "models/sources.h"

namespace nemotron {
namespace {

Weight* target(const PackedGroup& group, DecoderWeights* weights) {
  LayerWeights* layer = group.layer < 0 ? nullptr : &weights->layers[size_t(group.layer)];
  switch (group.slot) {
    case PackedGroup::Slot::embedding: return &weights->embedding;
    case PackedGroup::Slot::head: return &weights->head.weight;
    case PackedGroup::Slot::qkv: return &layer->qkv.weight;
    case PackedGroup::Slot::o: return &layer->o.weight;
    case PackedGroup::Slot::gate_up: return &layer->gate_up.weight;
    case PackedGroup::Slot::down: return &layer->down.weight;
  }
  return nullptr;
}

// A part of a stored matrix, for a device that reads it itself.
class PartRows final : public StoredRows {
 public:
  PartRows(const Checkpoint& checkpoint, const StoredTensor& tensor, const MatrixRange& range)
      : checkpoint_(checkpoint), tensor_(tensor), range_(range) {}
  Status read(int64_t first, int64_t n, uint8_t* to) const override {
    MatrixRange rows = range_;
    rows.first_row += first, rows.rows = n;
    return checkpoint_.read(tensor_, rows, to);
  }

 private:
  const Checkpoint& checkpoint_;
  const StoredTensor& tensor_;
  MatrixRange range_;
};

// Its values, which have to be finite.
Status read_vector(const Checkpoint& checkpoint, const StoredTensor& stored,
                   std::vector<float>* out) {
  if (Status s = checkpoint.fetch(stored); !s) return s;
  for (int64_t i = 0; i < stored.elements; ++i) {
    const float value = stored_value(stored, i);
    if (!std::isfinite(value)) {
      return Status::invalid(
          stored.file + ": tensor " + Json(checkpoint.shown(stored.name)).brief() + " has " +
          std::to_string(value) + " at " + std::to_string(i) + "; expected finite numbers");
    }
    out->push_back(value);
  }
  return {};
}

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const ModelConfig& config, const LoadOptions& options,
         Device* device, DecoderWeights* out)
      : checkpoint_(checkpoint), config_(config), options_(options), device_(device), out_(*out) {
    state_.phase = "read and repack";
  }

  Status run(const Sources& sources, const std::vector<PackedGroup>& groups) {
    Status status = load(sources, groups);
    if (!status && options_.group && options_.meets_to_the_end) meet_on(groups);
    return status;
  }

 private:
  Status load(const Sources& sources, const std::vector<PackedGroup>& groups) {
    count(sources, groups);
    report();
    will_need(groups[0]);
    for (size_t i = 0; i < groups.size(); ++i) {
      if (i + 1 < groups.size()) will_need(groups[i + 1]);  // is read while this one is packed
      if (Status s = pack(groups[i]); !s) return s.within("packing " + groups[i].name());
    }
    if (Status s = norm(sources.final_norm, &out_.final_norm); !s) return s;
    for (size_t i = 0; i < sources.layers.size(); ++i) {
      const LayerSource& from = sources.layers[i];
      LayerWeights& to = out_.layers[i];
      if (Status s = norm(from.input_norm, &to.input_norm); !s) return s;
      if (Status s = norm(from.post_attention_norm, &to.post_attention_norm); !s) return s;
    }
    return {};
  }

  Status pack(const PackedGroup& group) {
    std::vector<MatrixPart> parts;
    std::vector<const GroupedRows*> grouped = group.grouped(checkpoint_);
    grouped.resize(group.parts.size());
    const WeightFormat format = group.format(options_.format, grouped);
    const bool wants_largest = is_scaled_by_all(group, format);
    std::vector<PartRows> stored;
    std::vector<std::string> names;
    stored.reserve(group.parts.size());
    names.reserve(group.parts.size());
    for (size_t i = 0; i < group.parts.size(); ++i) {
      const auto& [source, range] = group.parts[i];
      const StoredTensor& w = *source->weight;
      std::span<const float> scale = source->scale;
      if (scale.size() > 1) scale = scale.subspan(size_t(range.first_row), size_t(range.rows));
      MatrixPart& part = parts.emplace_back();
      part.rows = range.rows, part.cols = range.cols;
      // Rows that are a reward's outputs have no ids: they stand one after another.
      const bool is_outputs = group.slot == PackedGroup::Slot::head &&
                              config_.reward.kind == RewardHead::Kind::lm_head_rows;
      part.first_row = is_outputs ? 0 : range.first_row;
      part.stretches = group.stretches;
      part.name = names.emplace_back(checkpoint_.shown(w.name));
      if (grouped[i]) {
        if (Status s = checkpoint_.fetch_grouped(w, range); !s) return s;
        part.grouped = grouped[i];
        part.first_stored = range.first_row, part.first_col = range.first_col;
        continue;
      }
      part.dtype = w.dtype;
      part.scale = scale;
      if (device_->reads_rows() && checkpoint_.reads(w) && !wants_largest) {
        part.stored = &stored.emplace_back(checkpoint_, w, range);
        continue;
      }
      if (Status s = checkpoint_.fetch(w, range); !s) return s;
      const int64_t first = range.first_row * source->cols() + range.first_col;
      part.data = w.data + size_t(first) * dtype_bytes(w.dtype);
      part.row_stride = source->cols();
    }
    std::vector<float> largest;
    if (wants_largest) {
      if (Status s = find_largest(parts[0], &largest); !s) return s;
      parts[0].row_largest = largest;
    }
    Weight* to = target(group, &out_);
    if (Status s = device_->pack_weight(parts, group.use, format, to); !s) return s;
    out_.bytes += to->bytes;
    each_stored(group, [&](const StoredTensor& t) { done(t); });
    return {};
  }

  // Columns of it are on other ranks.
  static bool is_scaled_by_all(const PackedGroup& group, WeightFormat format) {
    const auto& [source, range] = group.parts[0];
    return format == WeightFormat::fp8 && range.cols < source->cols();
  }

  // Of the whole rows, which lie on all ranks: one scale of a row for all of them.
  Status find_largest(const MatrixPart& part, std::vector<float>* out) {
    StoredTensor values;
    values.dtype = part.dtype;
    values.data = static_cast<const uint8_t*>(part.data);
    for (int64_t row = 0; row < part.rows; ++row) {
      out->push_back(largest_magnitude(values, row * part.row_stride, part.cols));
    }
    return options_.group ? meet(*out) : Status();
  }

  Status meet(std::span<float> largest) {
    ++met_;
    const bool all =
        options_.group->largest(options_.shard.rank, "the scales of a matrix", largest);
    return all ? Status() : options_.group->status();
  }

  // After a failure: what is left of it, in which nothing of this rank counts.
  void meet_on(const std::vector<PackedGroup>& groups) {
    int64_t before = met_;
    for (const PackedGroup& group : groups) {
      const auto grouped = group.grouped(checkpoint_);
      if (!is_scaled_by_all(group, group.format(options_.format, grouped))) continue;
      if (before-- > 0) continue;
      std::vector<float> nothing(size_t(group.parts[0].range.rows));
      if (!meet(nothing)) return;
    }
  }

  // Without a gain the layer has no norm.
  Status norm(const NormSource& source, Norm* out) {
    if (!source.gain) return {};
    out->kind = config_.norm;
    out->eps = config_.norm_eps;
    if (Status s = vector(*source.gain, config_.norm_gain_less_one ? 1.0f : 0.0f, &out->gain); !s)
      return s;
    return source.bias ? vector(*source.bias, 0, &out->bias) : Status();
  }

  // In float32 on the device, each value and `more`.
  Status vector(const StoredTensor& stored, float more, Tensor* out) {
    std::vector<float> values;
    if (Status s = read_vector(checkpoint_, stored, &values); !s) return s;
    for (float& value : values) value += more;
    const size_t bytes = values.size() * sizeof(float);
    void* data = out->data;
    if (!data) {
      if (Status s = device_->alloc(bytes, &data); !s)
        return s.within(checkpoint_.shown(stored.name));
    }
    device_->upload(data, values.data(), bytes);
    *out = {.data = data, .dtype = DType::f32, .rank = 1, .shape = {stored.elements}};
    out_.bytes += bytes;
    done(stored);
    return {};
  }

  // Several rows of a reward head are of one tensor.
  template <class F>
  static void each_stored(const PackedGroup& group, F&& f) {
    const StoredTensor* last = nullptr;
    for (const PackedGroup::Part& part : group.parts) {
      if (std::exchange(last, part.source->weight) != part.source->weight) f(*part.source->weight);
    }
  }
  void will_need(const PackedGroup& group) const {
    for (const auto& [source, range] : group.parts) {
      if (range.rows * 8 < source->rows()) continue;  // a row of many
      checkpoint_.will_need(*source->weight);
    }
  }

  void count(const Sources& sources, const std::vector<PackedGroup>& groups) {
    const auto add = [&](const StoredTensor* t) { state_.bytes_total += t ? t->bytes : 0; };
    for (const PackedGroup& group : groups) {
      each_stored(group, [&](const StoredTensor& t) { add(&t); });
    }
    const auto add_norm = [&](const NormSource& n) { add(n.gain), add(n.bias); };
    add_norm(sources.final_norm);
    for (const LayerSource& layer : sources.layers) {
      add_norm(layer.input_norm);
      add_norm(layer.post_attention_norm);
    }
  }
  void done(const StoredTensor& t) {
    state_.bytes_done += t.bytes;
    checkpoint_.release(t);
    if (options_.group) ++*options_.group->ticks_of(options_.shard.rank);
    report();
  }
  void report() const {
    if (options_.progress) options_.progress(state_);
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const LoadOptions& options_;
  Device* const device_;
  DecoderWeights& out_;
  LoadProgress state_;
  int64_t met_ = 0;  // the other ranks
};

}  // namespace

Status check_norms(const Checkpoint& checkpoint, const Sources& sources) {
  const auto check = [&](const StoredTensor* stored) -> Status {
    std::vector<float> values;
    if (!stored) return {};
    const Status status = read_vector(checkpoint, *stored, &values);
    checkpoint.release(*stored);
    return status;
  };
  std::vector<NormSource> all = {sources.final_norm};
  for (const LayerSource& layer : sources.layers) {
    all.push_back(layer.input_norm);
    all.push_back(layer.post_attention_norm);
  }
  for (const NormSource& norm : all) {
    if (Status s = check(norm.gain); !s) return s;
    if (Status s = check(norm.bias); !s) return s;
  }
  return {};
}

Status load_weights(const Checkpoint& checkpoint, const ModelConfig& config,
                    const LoadOptions& options, Device* device, DecoderWeights* out) {
  Sources sources;
  if (Status s = find_sources(checkpoint, config, &sources); !s) return s;
  DecoderWeights weights = *out;
  weights.bytes = 0;
  weights.k_scale.clear(), weights.v_scale.clear();
  weights.layers.resize(config.layers.size());
  int32_t kv_layers = 0;
  for (size_t i = 0; i < config.layers.size(); ++i) {
    if (!config.layers[i].attention) continue;
    weights.layers[i].kv_layer = kv_layers++;
    if (!sources.kv_scales) continue;
    weights.k_scale.push_back(sources.layers[i].k_scale);
    weights.v_scale.push_back(sources.layers[i].v_scale);
  }
  const std::vector<PackedGroup> groups = packed_groups(checkpoint, sources, config, options.shard);
  Loader loader(checkpoint, config, options, device, &weights);
  if (Status s = loader.run(sources, groups); !s) return s;
  if (groups[0].use == WeightUse::tied) weights.head.weight = weights.embedding;
  *out = std::move(weights);
  return {};
}

}  // namespace nemotron
