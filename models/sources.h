// Sources: which stored tensors a decoder is made of, found by name and checked (shape, dtype,
// scales). Points into the Checkpoint, which must outlive it.
#pragma once

#include <string>
#include <vector>

#include "device/device.h"
#include "models/checkpoint/checkpoint.h"
#include "models/config.h"
#include "models/shard.h"

namespace nemotron {

// Element `i` of a F32, F16 or BF16 tensor; NaN for other dtypes. The format does not align
// tensors.
float stored_value(const StoredTensor& tensor, int64_t i);
// Of n values of such a tensor, from `first` on. NaNs do not count; 0 where there is nothing else.
float largest_magnitude(const StoredTensor& tensor, int64_t first, int64_t n);

// A matrix [out, in] and, when it is FP8, its scales: real = stored * scale.
struct LinearSource {
  const StoredTensor* weight = nullptr;
  std::vector<float> scale;  // empty, one value, or one an output row

  int64_t rows() const { return weight->shape[0]; }
  int64_t cols() const { return weight->shape[1]; }
};

// [hidden] each. The bias is of Norm::Kind::layer.
struct NormSource {
  const StoredTensor* gain = nullptr;
  const StoredTensor* bias = nullptr;
};

struct LayerSource {
  NormSource input_norm, post_attention_norm;
  LinearSource q, k, v, up;
  LinearSource o, down;  // or what takes the place of attention, of the feed-forward part
  LinearSource gate;     // of Activation::silu_gated
  float k_scale = 1, v_scale = 1;
};

struct Sources {
  LinearSource embedding;
  LinearSource head;  // the whole stored matrix, also when a reward head takes one row of it
  bool head_is_embedding = false;
  NormSource final_norm;
  std::vector<LayerSource> layers;
  bool kv_scales = false;  // the checkpoint carries them
  // Stored tensors that nothing is made of, in their order, as the file calls them.
  std::vector<std::string> unused;
};

// Fails with the first few tensors that are missing or wrong and their number.
Status find_sources(const Checkpoint& checkpoint, const ModelConfig& config, Sources* out);

// The same without what it found: whether load_weights() can succeed.
Status check_checkpoint(const Checkpoint& checkpoint, const ModelConfig& config);

// One packed weight of a rank and the pieces it is made of, in order.
struct PackedGroup {
  enum class Slot : uint8_t { embedding, head, qkv, o, gate_up, down } slot = Slot::embedding;
  int32_t layer = -1;          // -1: an end of the model
  int32_t stretches = 1;       // MatrixPart's
  int32_t most_stretches = 1;  // of the whole matrix, on however many ranks
  WeightUse use = WeightUse::linear;
  struct Part {
    const LinearSource* source = nullptr;
    MatrixRange range;  // what the rank holds of it
  };
  std::vector<Part> parts;

  int64_t rows() const;

  // Of each part the rows that stay in groups, or null. None at all, and all parts are widened,
  // where one panel would have to hold several forms (of the rank's own rows), where a cut goes
  // through a block, and of a gate or an up beside F32 or F16. The same on every rank of a group,
  // which have as many rows and columns each. `why`, where it is given, says so then.
  std::vector<const GroupedRows*> grouped(const Checkpoint& checkpoint,
                                          std::string* why = nullptr) const;
  // What it becomes while packing, where `grouped` are the parts that stay in groups. What is
  // stored as FP8 or stays in groups is not quantised again, which would only add error; nor are
  // the ends of the model, and nor is what groups of 32 do not divide: `why` says so then.
  WeightFormat format(WeightFormat wanted, const std::vector<const GroupedRows*>& grouped,
                      std::string* why = nullptr) const;
  std::string name() const;  // "layer 3 gate_up"

 private:
  // Empty where stretches and ranks cut rows between groups of so many values; else why not.
  std::string uncut(const Part& part, int64_t values) const;
};

// Everything that is packed, in the order of loading. The ends come first: they are the largest,
// and while one is packed its stored and its packed form are in memory together.
std::vector<PackedGroup> packed_groups(const Checkpoint& checkpoint, const Sources& sources,
                                       const ModelConfig& config, const Shard& shard);

// A tensor that takes more memory than its stored or the wanted format would, and why.
struct WidenedTensor {
  std::string name, why;
};
std::vector<WidenedTensor> widened_tensors(const std::vector<PackedGroup>& groups,
                                           const Checkpoint& checkpoint, WeightFormat wanted);

}  // namespace nemotron
