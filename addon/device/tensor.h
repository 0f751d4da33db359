// DType, Tensor (a view, never an owner) and the scalar conversions every backend agrees on.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace nemotron {

enum class DType : uint8_t { f32, f16, bf16, fp8_e4m3, i32 };

constexpr size_t dtype_bytes(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::fp8_e4m3: return 1;
  }
  return 0;
}

constexpr const char* dtype_name(DType t) {
  switch (t) {
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::fp8_e4m3: return "F8_E4M3";
    case DType::i32: return "I32";
  }
  return "?";
}

// Dense, row-major; shapes read outer to inner: [tokens, heads, head_dim]. The memory belongs to
// whoever allocated it (Device::alloc or the host).
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, 4> shape{};

  int64_t elements() const {
    int64_t n = rank > 0 ? 1 : 0;
    for (int i = 0; i < rank; ++i) n *= shape[size_t(i)];
    return n;
  }
  size_t bytes() const { return size_t(elements()) * dtype_bytes(dtype); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // The first n rows of the outermost dimension.
  Tensor rows(int64_t n) const {
    Tensor t = *this;
    t.shape[0] = n;
    return t;
  }
};

// --- Scalar conversions. Round to nearest even; the vector paths must give the same bits. ---

inline float bf16_to_f32(uint16_t b) { return std::bit_cast<float>(uint32_t(b) << 16); }

inline uint16_t f32_to_bf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40);  // quiet NaN
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, rest = uint32_t(h & 0x7fffu) << 13;
  // As bits of an f32 the exponent is 112 too small, which one exact product corrects.
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(rest) * 0x1p112f);
  return std::bit_cast<float>(sign | (rest >= 0x0f800000u ? rest | 0x7f800000u : finite));
}

// Saturates to +-65504, so that no infinity comes of a number. Choices, not branches, as below.
inline uint16_t f32_to_f16(float f) {
  const int32_t u = std::bit_cast<int32_t>(f), a = u & 0x7fffffff;
  // Subnormal: 0.5 has units of 2^-24 in its last bits, so the sum rounds as wanted.
  const int32_t small = std::bit_cast<int32_t>(std::bit_cast<float>(a) + 0.5f) & 0xffff;
  // Rounded at the lowest of ten bits of mantissa; a carry moves on into the exponent.
  const int32_t normal = (a - (112 << 23) + 0xfff + (a >> 13 & 1)) >> 13;
  int32_t code = a < std::bit_cast<int32_t>(0x1p-14f) ? small : normal;
  code = a >= std::bit_cast<int32_t>(65504.0f) ? 0x7bff : code;
  code = a > 0x7f800000 ? 0x7e00 : code;
  return uint16_t((u >> 16 & 0x8000) | code);
}

// E4M3FN: bias 7, no infinity, 0x7f and 0xff are NaN, largest finite 448.
inline float e4m3_to_f32(uint8_t b) {
  const uint32_t sign = uint32_t(b & 0x80u) << 24, magnitude = b & 0x7fu;
  if (magnitude == 0x7f) return std::bit_cast<float>(0x7fc00000u);
  if (magnitude < 8) return (sign ? -1.0f : 1.0f) * (float(magnitude) * 0x1p-9f);
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
}

// Saturates to +-448 (a plain conversion would give NaN above it). Choices, not branches: loops
// over it become vectors.
inline uint8_t f32_to_e4m3(float f) {
  const int32_t u = std::bit_cast<int32_t>(f), a = u & 0x7fffffff;
  // Subnormal: 2^14 has units of 2^-9 in its last bits, so the sum rounds as wanted.
  const int32_t small = std::bit_cast<int32_t>(std::bit_cast<float>(a) + 0x1p14f) & 0xff;
  // Rounded at the lowest of three bits of mantissa; a carry moves on into the exponent.
  const int32_t normal = (a - (120 << 23) + 0x7ffff + (a >> 20 & 1)) >> 20;
  int32_t code = a < std::bit_cast<int32_t>(0x1p-6f) ? small : normal;
  code = a >= std::bit_cast<int32_t>(448.0f) ? 0x7e : code;
  code = a > 0x7f800000 ? 0x7f : code;
  return uint8_t((u >> 24 & 0x80) | code);
}

}  // namespace nemotron
