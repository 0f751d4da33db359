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
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 1023u;
  if (exp == 0) {
    const float v = std::ldexp(float(man), -24);
    return sign ? -v : v;
  }
  if (exp == 31) return std::bit_cast<float>(sign | 0x7f800000u | (man << 13));
  return std::bit_cast<float>(sign | ((exp + 112) << 23) | (man << 13));
}

// E4M3FN: bias 7, no infinity, 0x7f and 0xff are NaN, largest finite 448.
inline float e4m3_to_f32(uint8_t b) {
  const uint32_t sign = uint32_t(b & 0x80u) << 24, magnitude = b & 0x7fu;
  if (magnitude == 0x7f) return std::bit_cast<float>(0x7fc00000u);
  if (magnitude < 8) return (sign ? -1.0f : 1.0f) * (float(magnitude) * 0x1p-9f);
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
}

// Saturates to +-448 (a plain conversion would give NaN above it).
inline uint8_t f32_to_e4m3(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f), a = u & 0x7fffffffu, sign = u >> 24 & 0x80u;
  if (a > 0x7f800000u) return uint8_t(sign | 0x7f);
  if (a >= std::bit_cast<uint32_t>(448.0f)) return uint8_t(sign | 0x7e);
  if (a < std::bit_cast<uint32_t>(0x1p-6f)) {
    // Subnormal: 2^14 has units of 2^-9 in its last bits, so the sum rounds as wanted.
    return uint8_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(a) + 0x1p14f) & 0xffu));
  }
  // Rounded at the lowest of three bits of mantissa; a carry moves on into the exponent.
  return uint8_t(sign | ((a + 0x7ffffu + (a >> 20 & 1u) - (120u << 23)) >> 20));
}

}  // namespace nemotron
