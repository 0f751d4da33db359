// Rows in groups on their way into a device's own layout: where they are read to, and rows of
// numbers quantised to groups of 32. Header only: the CUDA library shares headers with the engine,
// not objects.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "device/device.h"
#include "device/grouped.h"
#include "device/status.h"
#include "device/tensor.h"

namespace nemotron {

// What a row of a weight in groups is read into, and its values by column.
struct GroupedLane {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scale, least;
  std::vector<int8_t> steps, least_steps;
  void reserve(const GroupedForm& form, int64_t cols) {
    // A whole block more: the last one of a row may be cut.
    const auto n = size_t(cols + kGroupedBlock);
    codes.assign(n, 0);
    scale.assign(n / size_t(form.scale_every()) + 1, 0);
    least = scale;
    steps.assign(form.has_steps ? n / size_t(form.group) + 1 : 0, 0);
    least_steps = steps;
  }
  GroupedRow from(const GroupedForm& form, int64_t col) {
    const int64_t scales = col / form.scale_every(), steps_at = col / form.group;
    GroupedRow r{codes.data() + col, scale.data() + scales, least.data() + scales};
    if (form.has_steps)
      r.steps = steps.data() + steps_at, r.least_steps = least_steps.data() + steps_at;
    return r;
  }
};

// Weights of 4 bits: -8..7 times the scale of 32. Of 8: -127..127.
inline GroupedForm int_form(WeightFormat format) {
  GroupedForm form;
  form.bits = format == WeightFormat::int4 ? 4 : 8;
  for (int i = 0; form.bits == 4 && i < 16; ++i) form.values[size_t(i)] = f32_to_bf16(float(i - 8));
  return form;
}

// The codes of 32 values for a scale; the squared error.
inline float round_group(const float* x, float scale, float least, float most, float* q) {
  const float by = scale != 0 ? 1.0f / scale : 0.0f;
  float error = 0;
  for (int i = 0; i < kGroupedChunk; ++i) {
    const float v = x[i] * by, magic = 12582912.0f;
    const float cut = v < least ? least : v > most ? most : v;
    q[i] = (cut + magic) - magic;  // to the nearest whole number
    const float off = x[i] - q[i] * scale;
    error += off * off;
  }
  return error;
}

// The half float scale and codes of the least squared error that a search finds: the value of the
// largest magnitude at the end of the range and up to a quarter beyond it, each then with the scale
// that is best for its codes.
inline uint16_t fit_group(const float* x, bool is_4_bit, float* q) {
  const float least = is_4_bit ? -8 : -127, most = is_4_bit ? 7 : 127;
  float peak = 0;
  for (int i = 0; i < kGroupedChunk; ++i) peak = std::abs(x[i]) > std::abs(peak) ? x[i] : peak;
  float best_scale = 0, best = INFINITY;
  float tried[kGroupedChunk];
  const auto attempt = [&](float scale) {
    scale = f16_to_f32(f32_to_f16(scale));
    const float error = round_group(x, scale, least, most, tried);
    if (error < best) best = error, best_scale = scale;
  };
  const int steps = is_4_bit ? 12 : 1;
  for (int i = 0; i < steps; ++i) {
    const float first = peak / (least * (1.0f + 0.025f * float(i)) + (is_4_bit ? 1.0f : 0.0f));
    attempt(first);
    float qx = 0, qq = 0;
    for (int j = 0; j < kGroupedChunk; ++j) qx += tried[j] * x[j], qq += tried[j] * tried[j];
    if (qq > 0) attempt(qx / qq);
  }
  round_group(x, best_scale, least, most, q);
  return f32_to_f16(best_scale);
}

inline bool all_finite(const float* x, int64_t n) {
  uint32_t most = 0;  // magnitudes are in the order of their bits
  for (int64_t i = 0; i < n; ++i) {
    most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  }
  return most < std::bit_cast<uint32_t>(INFINITY);
}

inline void quantise_groups(const float* x, int64_t cols, int bits, const GroupedRow& to) {
  for (int64_t col = 0; col < cols; col += kGroupedChunk) {
    float q[kGroupedChunk];
    to.scale[col / kGroupedChunk] = fit_group(x + col, bits == 4, q);
    for (int i = 0; i < kGroupedChunk; ++i) {
      const int v = int(q[i]);
      to.codes[col + i] = uint8_t(bits == 4 ? v + 8 : v);
    }
  }
}

// Of row `row` of a part, which has such a value.
inline Status not_finite_row(const MatrixPart& part, int64_t row, float value) {
  return Status::invalid((part.name.empty() ? "" : "tensor \"" + std::string(part.name) + "\": ") +
                         "row " + std::to_string(part.first_row + row) + " has " +
                         std::to_string(value) +
                         "; expected finite numbers, which alone can be quantised");
}

}  // namespace nemotron
