#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nemotron {

// The llama3 rule by wavelength: short ones keep their frequency, long ones are slowed down by
// `factor`, and between the two bounds the frequencies blend.
int32_t rotary_dim(const RopeConfig& rope, int32_t head_dim) {
  return int32_t(double(head_dim) * rope.share);
}

std::vector<float> rope_inv_freq(const RopeConfig& rope, int32_t rotary_dim) {
  std::vector<float> inv_freq(size_t(rotary_dim) / 2);
  const auto original = double(rope.original_max_position);
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    double inv = std::pow(rope.theta, -2.0 * double(i) / double(rotary_dim));
    const double wavelength = 2 * std::numbers::pi / inv;
    if (rope.kind == RopeConfig::Kind::llama3 && wavelength >= original / rope.high_freq_factor) {
      const double s = (original / wavelength - rope.low_freq_factor) /
                       (rope.high_freq_factor - rope.low_freq_factor);
      const double keep = std::clamp(s, 0.0, 1.0);
      inv *= (1 - keep) / rope.factor + keep;
    }
    if (rope.kind == RopeConfig::Kind::divided) inv /= rope.divisors[i];
    inv_freq[i] = float(inv);
  }
  return inv_freq;
}

}  // namespace nemotron
