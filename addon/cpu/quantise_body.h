// Quantising a row while weights load: plain loops, which the compiler turns into the vectors of
// each instruction set (S only keeps their object code apart). Included by kernel_body.h, whose
// rule on inline functions holds here too: hence the builtins.
#pragma once

#include <cstdint>

namespace nemotron::cpu {

// Kernels::quantise. 0.97 G weights of BF16: 0.6 GB/s of source as SSE2 code, five times that here.
template <class S>
float quantise_row(const float* x, int64_t n, uint8_t* out) {
  constexpr int32_t kInfinity = 0x7f800000, kSmallest = (127 - 6) << 23;
  int32_t most = 0;  // bits of numbers that are not negative are ordered as they are
  for (int64_t i = 0; i < n; ++i) {
    const int32_t size = __builtin_bit_cast(int32_t, x[i]) & 0x7fffffff;
    const int32_t number = size > kInfinity ? 0 : size;
    most = number > most ? number : most;
  }
  const float scale = most > 0 ? __builtin_bit_cast(float, most) / 448.0f : 1.0f;
  // f32_to_e4m3() of device/tensor.h, line by line.
  for (int64_t i = 0; i < n; ++i) {
    const float v = x[i] / scale;
    const int32_t u = __builtin_bit_cast(int32_t, v), a = u & 0x7fffffff;
    const float shifted = __builtin_bit_cast(float, a) + 0x1p14f;
    const int32_t small = __builtin_bit_cast(int32_t, shifted) & 0xff;
    const int32_t normal = (a - (120 << 23) + 0x7ffff + (a >> 20 & 1)) >> 20;
    int32_t code = a < kSmallest ? small : normal;
    code = code > 0x7e ? 0x7e : code;
    code = a > kInfinity ? 0x7f : code;
    out[i] = uint8_t((u >> 24 & 0x80) | code);
  }
  return scale;
}

}  // namespace nemotron::cpu
