// Plain: 16 lanes of float as four 128-bit vectors of the compiler's own, which every processor
// has. The contract of the wrappers (simd_avx2.h and simd_avx512.h are the others):
//   F                 16 floats
//   Quad<format>      the weights of 4 consecutive k of a panel: at(i) is k + i
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"

namespace nemotron::cpu {

struct Plain {
  typedef float V4 __attribute__((vector_size(16)));
  typedef int32_t I4 __attribute__((vector_size(16)));
  typedef uint16_t H4 __attribute__((vector_size(8)));
  struct F {
    V4 v[4];
  };

  static constexpr bool kDot = false;             // bf16 pairs multiply straight into f32
  static constexpr int kRows = 2;                 // in registers at a time
  static constexpr int panels(int) { return 1; }  // side by side, of that many rows

#define NEMOTRON_EACH(expr)                    \
  F r;                                         \
  for (int i = 0; i < 4; ++i) r.v[i] = (expr); \
  return r

  static inline F zero() { return set1(0.0f); }
  static inline F set1(float x) { NEMOTRON_EACH((V4{x, x, x, x})); }
  static inline F load(const float* p) {
    F r;
    std::memcpy(&r, p, 64);
    return r;
  }
  static inline void store(float* p, F x) { std::memcpy(p, &x, 64); }
  static inline F load_n(const float* p, int n) {
    F r = zero();
    std::memcpy(&r, p, size_t(n) * 4);
    return r;
  }
  static inline void stream(float* p, F x) { store(p, x); }
  static inline void store_n(float* p, F x, int n) { std::memcpy(p, &x, size_t(n) * 4); }
  static inline F add(F a, F b) { NEMOTRON_EACH(a.v[i] + b.v[i]); }
  static inline F sub(F a, F b) { NEMOTRON_EACH(a.v[i] - b.v[i]); }
  static inline F mul(F a, F b) { NEMOTRON_EACH(a.v[i] * b.v[i]); }
  static inline F div(F a, F b) { NEMOTRON_EACH(a.v[i] / b.v[i]); }
  static inline F fma(F a, F b, F c) { NEMOTRON_EACH(a.v[i] * b.v[i] + c.v[i]); }
  static inline F max(F a, F b) { NEMOTRON_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
  static inline F min(F a, F b) { NEMOTRON_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
  // x where the lane is below n, `other` elsewhere.
  static inline F first(F x, int n, F other) {
    float a[16], b[16];
    store(a, x), store(b, other);
    for (int i = n < 0 ? 0 : n; i < 16; ++i) a[i] = b[i];
    return load(a);
  }
  static inline F select_lt(F a, F b, F x, F y) {  // a < b ? x : y, lane by lane
    NEMOTRON_EACH(a.v[i] < b.v[i] ? x.v[i] : y.v[i]);
  }
  static inline float sum(F x) {
    float a[16];
    store(a, x);
    for (int step = 8; step > 0; step /= 2) {
      for (int i = 0; i < step; ++i) a[i] += a[i + step];
    }
    return a[0];
  }
  static inline double sum_double(F x) {
    float a[16];
    store(a, x);
    double s = 0;
    for (float v : a) s += double(v);
    return s;
  }
  static inline float max_lane(F x) {
    float a[16];
    store(a, x);
    float m = a[0];
    for (float v : a) m = v > m ? v : m;
    return m;
  }
  // Bit i: lane i of a is >= (unordered: false) that of b.
  static inline uint32_t ge(F a, F b) {
    uint32_t bits = 0;
    for (int i = 0; i < 16; ++i) bits |= uint32_t(a.v[i / 4][i % 4] >= b.v[i / 4][i % 4]) << i;
    return bits;
  }
  static inline bool any_nan(F a) {
    bool nan = false;
    for (int i = 0; i < 16; ++i) nan = nan || a.v[i / 4][i % 4] != a.v[i / 4][i % 4];
    return nan;
  }
  // 2^n for whole n in [-127, 127]; 2^-127 gives 0.
  static inline F times_pow2(F x, F n) {
    F r;
    for (int i = 0; i < 4; ++i) {
      r.v[i] = x.v[i] * (V4)((__builtin_convertvector(n.v[i], I4) + 127) << 23);
    }
    return r;
  }
  static inline F nearest(F x) {
    const F magic = set1(12582912.0f);  // 1.5 * 2^23
    return sub(add(x, magic), magic);
  }

  static inline F bf16_pair(const uint8_t* p, int odd) {
    F r;
    for (int i = 0; i < 4; ++i) {
      I4 u;
      std::memcpy(&u, p + i * 16, 16);
      r.v[i] = odd ? (V4)(u & int32_t(0xffff0000)) : (V4)(u << 16);
    }
    return r;
  }
  static inline uint32_t bits(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return u;
  }
  static inline float of_bits(uint32_t u) {
    float x;
    std::memcpy(&x, &u, 4);
    return x;
  }
  static inline uint16_t to_bf16(float x) {
    const uint32_t u = bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40);
    return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  static inline void store_bf16(uint16_t* p, F x) {
    for (int i = 0; i < 16; ++i) p[i] = to_bf16(x.v[i / 4][i % 4]);
  }
  static inline F load_bf16(const uint16_t* p) {
    float f[16];
    for (int i = 0; i < 16; ++i) f[i] = of_bits(uint32_t(p[i]) << 16);
    return load(f);
  }
  template <Format>
  static inline void prefetch(const uint8_t*) {}
  // f16_to_f32() of device/tensor.h, four at a time.
  static inline V4 from_f16(const uint8_t* p) {
    H4 h;
    std::memcpy(&h, p, 8);
    const I4 u = __builtin_convertvector(h, I4), rest = (u & 0x7fff) << 13;
    const I4 finite = (I4)((V4)rest * 0x1p112f);
    return (V4)((u & 0x8000) << 16 | (rest >= 0x0f800000 ? rest | 0x7f800000 : finite));
  }
  static inline float from_fp8(uint8_t b) {
    const uint32_t sign = uint32_t(b & 0x80u) << 24, rest = b & 0x7fu;
    if (rest == 0x7f) return of_bits(sign | 0x7fc00000u);
    // As exponent and mantissa of an f32 whose bias is 120 too large; the product is exact.
    return of_bits(sign | bits(of_bits(rest << 20) * 0x1p120f));
  }

  // --- weights in groups ---
  template <int>
  static inline void prefetch_bytes(const uint8_t*) {}
  static inline F from_int8(const uint8_t* p) {
    float f[16];
    for (int i = 0; i < 16; ++i) f[i] = float(int8_t(p[i]));
    return load(f);
  }
  template <Format format>
  struct Codes {
    const Groups* g;
    inline explicit Codes(const Groups& of) : g(&of) {}
  };
  // Whether codes of four bits that are consecutive numbers are read faster than by a table. Those
  // of more bits always are consecutive.
  static constexpr bool kFetchesLines = false;  // fetch()
  static constexpr bool kCounts = false;
  template <Format format, bool kTable>
  struct CodeQuad {
    const uint8_t* chunk;
    const Groups* g;
    int quad;
    inline void load(const uint8_t* c, int q, const Codes<format>& of) {
      chunk = c, quad = q, g = of.g;
    }
    // Not inline: it would be there 32 times for every kind of group.
    [[gnu::noinline]] F at(int i) const {
      float f[16];
      for (int n = 0; n < 16; ++n) f[n] = number(i, n);
      return Plain::load(f);
    }
    static inline int word(const uint8_t* p, int n) { return p[2 * n] | p[2 * n + 1] << 8; }
    inline float number(int i, int n) const {
      if constexpr (format == Format::i8) {
        return float(int8_t(chunk[quad * 64 + i * kPanel + n]));
      } else {
        const int pair = quad * 2 + i / 2, at = 2 * n + i % 2;
        int code = word(chunk + pair / 4 * 64, at) >> (pair % 4 * 4) & 15;
        if constexpr (format != Format::i4) {
          constexpr int kBits = format == Format::i5 ? 1 : 2, kPairs = 16 / kBits;
          const int plane = word(chunk + 256 + pair / kPairs * 64, at);
          code |= (plane >> plane_shift(pair, kBits) & ((1 << kBits) - 1)) << 4;
        }
        return g->numbers[code];
      }
    }
  };
  struct WideQuad {
    const float* p;
    inline void load(const uint8_t* q) { p = reinterpret_cast<const float*>(q); }
    inline F at(int i) const { return Plain::load(p + i * 16); }
  };

  // --- activations of 8 bits ---
  struct I {
    int32_t v[16];
  };
  struct Bytes {
    uint8_t v[64];  // four k of an output, and so on
  };
  // Of a byte over the number of its code where that may be negative.
  static constexpr int kByteOffset = 0;
  static constexpr int kInt8Rows = 2;
  static constexpr int int8_panels(int) { return 1; }
  static inline I int_zero() { return {}; }
  static inline F to_float(const I& x) {
    float f[16];
    for (int i = 0; i < 16; ++i) f[i] = float(x.v[i]);
    return load(f);
  }
  // Each output's four bytes, with a sign or without, times a [4].
  template <bool kSigned>
  static inline I dot4(I sum, const Bytes& w, const int8_t* a) {
    for (int i = 0; i < 64; ++i) {
      sum.v[i / 4] += (kSigned ? int8_t(w.v[i]) : int(w.v[i])) * a[i % 4];
    }
    return sum;
  }
  static inline Bytes load_bytes(const uint8_t* p) {
    Bytes b;
    std::memcpy(&b, p, 64);
    return b;
  }
  static inline void store_bytes(uint8_t* p, const Bytes& b) { std::memcpy(p, &b, 64); }
  // 16 whole numbers in the order of Int8Row.
  static inline void store_codes(int8_t* p, F x) {
    float f[16];
    store(f, x);
    for (int i = 0; i < 16; ++i) p[i] = int8_t(f[i / 8 * 8 + kInt8Order[i % 8]]);
  }
  // The codes of quad QUAD of a chunk: of half QUAD % 2 of each word of eight.
  template <Format format, bool kTable>
  struct ByteCodes {
    const int8_t* table;
    inline explicit ByteCodes(const Groups& g) : table(g.bytes) {}
    template <int QUAD>
    inline Bytes load(const uint8_t* chunk) const {
      Bytes b;
      for (int i = 0; i < 64; ++i) b.v[i] = of(chunk, QUAD, i / 4, i % 4);
      return b;
    }
    // The i-th of four k of output n.
    [[gnu::noinline]] uint8_t of(const uint8_t* chunk, int quad, int n, int i) const {
      if (format == Format::i8) {
        const int k = quad / 2 * 8 + kInt8Order[quad % 2 * 4 + i];
        return chunk[k * kPanel + n];
      }
      int code = chunk[quad / 2 * 64 + n * 4 + i] >> (quad % 2 * 4) & 15;
      if (kTable) return uint8_t(table[code]);
      if (format != Format::i4) {
        constexpr int kBits = format == Format::i5 ? 1 : 2;
        const int shift = plane_shift(quad / 2 * 4 + quad % 2, kBits);
        const uint8_t plane = chunk[256 + quad * 2 / (16 / kBits) * 64 + n * 4 + i];
        code |= (plane >> shift & ((1 << kBits) - 1)) << 4;
      }
      return uint8_t(code);
    }
  };

  template <Format>
  struct Quad;

#undef NEMOTRON_EACH
};

template <>
struct Plain::Quad<Format::f32> {
  const uint8_t* p;
  static constexpr int kBytes = 256;
  inline explicit Quad(const uint8_t* q) : p(q) {}
  inline F at(int i) const { return load(reinterpret_cast<const float*>(p) + i * 16); }
};
template <>
struct Plain::Quad<Format::f16> {
  const uint8_t* p;
  static constexpr int kBytes = 128;
  inline explicit Quad(const uint8_t* q) : p(q) {}
  inline F at(int i) const {
    F r;
    for (int j = 0; j < 4; ++j) r.v[j] = from_f16(p + i * 32 + j * 8);
    return r;
  }
};
template <>
struct Plain::Quad<Format::bf16> {
  const uint8_t* p;
  static constexpr int kBytes = 128;
  inline explicit Quad(const uint8_t* q) : p(q) {}
  inline F at(int i) const { return bf16_pair(p + (i / 2) * 64, i % 2); }
};
template <>
struct Plain::Quad<Format::fp8> {
  const uint8_t* p;
  static constexpr int kBytes = 64;
  inline explicit Quad(const uint8_t* q) : p(q) {}
  inline F at(int i) const {
    float f[16];
    for (size_t j = 0; j < 16; ++j) f[j] = from_fp8(p[panel_offset(Format::fp8, size_t(i), j)]);
    return load(f);
  }
};

}  // namespace nemotron::cpu
