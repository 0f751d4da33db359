// Rotary position embeddings: what a config says of them, and the frequencies that come of it.
#pragma once

#include <cstdint>
#include <vector>

namespace nemotron {

// llama3 and yarn: transformers' modeling_rope_utils, frequencies by wavelength. divided: each by a
// number of its own, which is how GGUF files write down llama3's.
struct RopeConfig {
  double theta = 10000.0;
  enum class Kind : uint8_t { none, llama3, yarn, divided } kind = Kind::none;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_max_position = 8192;
  double beta_fast = 32, beta_slow = 1;  // yarn: turns within the original length
  bool truncate = true;                  // yarn: its bounds are whole
  // yarn: of rotated queries and of rotated keys, so that scores grow by its square.
  double attention_factor = 1;
  std::vector<double> divisors = {};  // divided: [rotary_dim / 2]
  double share = 1;                   // of a head, from its first element on, that is rotated
  bool operator==(const RopeConfig&) const = default;
};

// Elements of a head that are rotated, rounded down as transformers does.
int32_t rotary_dim(const RopeConfig& rope, int32_t head_dim);

// [rotary_dim / 2] for RopeTable, scaling applied, computed in double.
std::vector<float> rope_inv_freq(const RopeConfig& rope, int32_t rotary_dim);

}  // namespace nemotron
