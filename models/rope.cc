#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nemotron {

namespace {

// The bounds of yarn's blend: the first pairs keep their frequency, the last are slowed down.
struct Ramp {
  double low = 0, high = 0;
};
Ramp yarn_ramp(const RopeConfig& rope, int32_t rotary_dim) {
  const auto pair_of = [&](double turns) {
    const double length = double(rope.original_max_position) / (turns * 2 * std::numbers::pi);
    return rotary_dim * std::log(length) / (2 * std::log(rope.theta));
  };
  double low = pair_of(rope.beta_fast), high = pair_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, double(rotary_dim - 1));
  return {low, low == high ? high + 0.001 : high};
}

}  // namespace

int32_t rotary_dim(const RopeConfig& rope, int32_t head_dim) {
  return int32_t(double(head_dim) * rope.share);
}

// The llama3 rule by wavelength: short ones keep their frequency, long ones are slowed down by
// `factor`, and between the two bounds the frequencies blend. yarn's is the same by the pair's
// number.
std::vector<float> rope_inv_freq(const RopeConfig& rope, int32_t rotary_dim) {
  std::vector<float> inv_freq(size_t(rotary_dim) / 2);
  const auto original = double(rope.original_max_position);
  const Ramp ramp = yarn_ramp(rope, rotary_dim);
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    double inv = std::pow(rope.theta, -2.0 * double(i) / double(rotary_dim));
    const double wavelength = 2 * std::numbers::pi / inv;
    if (rope.kind == RopeConfig::Kind::llama3 && wavelength >= original / rope.high_freq_factor) {
      const double s = (original / wavelength - rope.low_freq_factor) /
                       (rope.high_freq_factor - rope.low_freq_factor);
      const double keep = std::clamp(s, 0.0, 1.0);
      inv *= (1 - keep) / rope.factor + keep;
    }
    if (rope.kind == RopeConfig::Kind::yarn) {
      const double slow = std::clamp((double(i) - ramp.low) / (ramp.high - ramp.low), 0.0, 1.0);
      inv *= slow / rope.factor + (1 - slow);
    }
    if (rope.kind == RopeConfig::Kind::divided) inv /= rope.divisors[i];
    inv_freq[i] = float(inv);
  }
  return inv_freq;
}

}  // namespace nemotron
