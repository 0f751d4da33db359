// AVX2 + FMA + F16C: 16 lanes of float as two 256-bit registers. Contract: simd_plain.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels.h"

namespace nemotron::cpu {

struct Avx2 {
  struct F {
    __m256 a, b;
  };

  static constexpr bool kDot = false;
  // 16 registers: 12 sums, two halves of a weight vector, one broadcast, one mask.
  static constexpr int kRows = 6;
  static constexpr int panels(int rows) { return rows <= 2 ? 2 : 1; }

  static inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static inline void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static inline __m256i lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static inline __m256i below(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes()); }
  static inline F load_n(const float* p, int n) {
    return {_mm256_maskload_ps(p, below(n)), _mm256_maskload_ps(p + 8, below(n - 8))};
  }
  static inline void stream(float* p, F x) {
    _mm256_stream_ps(p, x.a);
    _mm256_stream_ps(p + 8, x.b);
  }
  static inline void store_n(float* p, F x, int n) {
    _mm256_maskstore_ps(p, below(n), x.a);
    _mm256_maskstore_ps(p + 8, below(n - 8), x.b);
  }
  static inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static inline F fma(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static inline F first(F x, int n, F other) {
    return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(below(n))),
            _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(below(n - 8)))};
  }
  static inline F select_lt(F a, F b, F x, F y) {
    return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
  }
  static inline float sum(F x) {
    const __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
  }
  static inline double sum_double(F x) {
    float v[16];
    store(v, x);
    double s = 0;
    for (float e : v) s += double(e);
    return s;
  }
  static inline float max_lane(F x) {
    const __m256 m = _mm256_max_ps(x.a, x.b);
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
  }
  static inline uint32_t ge(F a, F b) {
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a.a, b.a, _CMP_GE_OQ))) |
           uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a.b, b.b, _CMP_GE_OQ))) << 8;
  }
  static inline bool any_nan(F x) {
    return _mm256_movemask_ps(_mm256_cmp_ps(x.a, x.b, _CMP_UNORD_Q)) != 0;  // either is NaN
  }
  static inline __m256 pow2(__m256 n) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
  static inline F times_pow2(F x, F n) { return mul(x, {pow2(n.a), pow2(n.b)}); }
  static inline F nearest(F x) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
  }
  static inline __m128i round_bf16(__m256 x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(
        _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    r = _mm256_blendv_epi8(r, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
  }
  static inline void store_bf16(uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), round_bf16(x.a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), round_bf16(x.b));
  }
  static inline F load_bf16(const uint16_t* p) {
    const auto wide = [](const uint16_t* q) {
      const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    };
    return {wide(p), wide(p + 8)};
  }

  // The lines of a quad, into the second level (see simd_avx512.h).
  template <Format format>
  static inline void prefetch(const uint8_t* p) {
    for (size_t i = 0; i < 4 * kPanel * format_bytes(format); i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
    }
  }

  static inline __m256i bytes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static inline __m256 half_pair(const uint8_t* p, int odd) {
    return _mm256_castsi256_ps(odd ? _mm256_and_si256(bytes(p), _mm256_set1_epi32(int(0xffff0000)))
                                   : _mm256_slli_epi32(bytes(p), 16));
  }
  // Of 32 bytes of a chunk of 64 (kernels.h), the one of each pair's k = i: byte `to` of its lane,
  // where the others are zero.
  [[gnu::always_inline]] static inline __m256i spread(__m256i x, int i, int to) {
    const int from = i / 2 * 8 + i % 2, none = int(0x80808080u & ~(0xffu << (8 * to)));
    const auto lane = [&](int n) { return none | (from + 2 * n) << (8 * to); };
    return _mm256_shuffle_epi8(x, _mm256_setr_epi32(lane(0), lane(1), lane(2), lane(3), lane(0),
                                                    lane(1), lane(2), lane(3)));
  }
  // E4M3 in the high byte of each lane. As bits of an f32 the exponent is 120 too small, which one
  // exact product corrects; NaN apart.
  [[gnu::always_inline]] static inline __m256 from_fp8(__m256i x) {
    const __m256i rest = _mm256_and_si256(_mm256_srli_epi32(x, 4), _mm256_set1_epi32(0x07f00000));
    const __m256i sign = _mm256_and_si256(x, _mm256_set1_epi32(int(0x80000000)));
    __m256 v = _mm256_mul_ps(_mm256_castsi256_ps(rest), _mm256_set1_ps(0x1p120f));
    const __m256 nan = _mm256_castsi256_ps(_mm256_cmpeq_epi32(rest, _mm256_set1_epi32(0x07f00000)));
    v = _mm256_blendv_ps(v, _mm256_set1_ps(__builtin_nanf("")), nan);
    return _mm256_or_ps(v, _mm256_castsi256_ps(sign));
  }

  // --- weights in groups ---
  template <int bytes>
  static inline void prefetch_bytes(const uint8_t* p) {
    for (int i = 0; i < bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
    }
  }
  static inline __m256 eight_int8(const uint8_t* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static inline F from_int8(const uint8_t* p) { return {eight_int8(p), eight_int8(p + 8)}; }
  template <Format format>
  struct Codes {
    const Groups* g;
    inline explicit Codes(const Groups& of) : g(&of) {}
  };
  static constexpr bool kFetchesLines = false;  // fetch()
  static constexpr bool kCounts = true;
  template <Format format, bool kTable>
  struct CodeQuad {
    const uint8_t* chunk;
    const Groups* g;
    int quad;
    inline void load(const uint8_t* c, int q, const Codes<format>& of) {
      chunk = c, quad = q, g = of.g;
    }
    [[gnu::always_inline]] inline F at(int i) const { return {half(i, 0), half(i, 1)}; }

    // 8388608 / 2^at + `bits` / 2^at, for integers whose lowest bit is bit `at`: they are the end
    // of its mantissa.
    [[gnu::always_inline]] static inline __m256 counted(__m256i bits, int at) {
      return _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32((150 - at) << 23)));
    }
    [[gnu::always_inline]] static inline __m256i shifted(__m256i x, int left) {
      return left >= 0 ? _mm256_slli_epi32(x, left) : _mm256_srli_epi32(x, -left);
    }
    // Outputs 8h..8h+7 of k = 4 quad + i.
    [[gnu::always_inline]] inline __m256 half(int i, int h) const {
      if constexpr (format == Format::i8) {
        return eight_int8(chunk + quad * 64 + i * kPanel + h * 8);
      } else {
        const int pair = quad * 2 + i / 2, at = pair % 4 * 4;
        const auto half_of = [&](const uint8_t* p) [[gnu::always_inline]] {
          const __m256i x = bytes(p + h * 32);
          return i % 2 ? _mm256_srli_epi32(x, 16) : x;
        };
        const __m256i low = half_of(chunk + pair / 4 * 64);
        if constexpr (kTable) {
          const __m256i code = _mm256_srli_epi32(low, at);
          const __m256 first = _mm256_permutevar8x32_ps(_mm256_loadu_ps(g->numbers), code);
          const __m256 second = _mm256_permutevar8x32_ps(_mm256_loadu_ps(g->numbers + 8), code);
          return _mm256_blendv_ps(first, second, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
        } else {
          __m256i code = _mm256_and_si256(low, _mm256_set1_epi32(15 << at));
          if constexpr (format != Format::i4) {
            constexpr int kBits = format == Format::i5 ? 1 : 2, kPairs = 16 / kBits;
            const __m256i plane = half_of(chunk + 256 + pair / kPairs * 64);
            const __m256i high = shifted(plane, at + 4 - plane_shift(pair, kBits));
            code = _mm256_or_si256(
                code, _mm256_and_si256(high, _mm256_set1_epi32(((1 << kBits) - 1) << (at + 4))));
          }
          const __m256 zero = _mm256_set1_ps(float(8388608 >> at) - g->numbers[0]);
          return _mm256_sub_ps(counted(code, at), zero);
        }
      }
    }
  };
  // --- activations of 8 bits ---
  struct I {
    __m256i a, b;
  };
  using Bytes = I;  // four k of each output
  static constexpr int kByteOffset = 0;
  static constexpr int kInt8Rows = 2;
  static constexpr int int8_panels(int rows) { return rows == 1 ? 2 : 1; }
  static inline I int_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  // Two products make a word of 16 bits: of bytes with a sign 2 * 128 * 127 at most, of those
  // without, which have six bits, less.
  template <bool kSigned>
  [[gnu::always_inline]] static inline __m256i four(__m256i sum, __m256i w, __m256i a) {
    const __m256i two = kSigned ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
                                : _mm256_maddubs_epi16(w, a);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
  }
  template <bool kSigned>
  [[gnu::always_inline]] static inline I dot4(I sum, Bytes w, const int8_t* a) {
    const __m256i x =
        _mm256_set1_epi32(*reinterpret_cast<const int __attribute__((may_alias))*>(a));
    return {four<kSigned>(sum.a, w.a, x), four<kSigned>(sum.b, w.b, x)};
  }
  static inline Bytes load_bytes(const uint8_t* p) { return {bytes(p), bytes(p + 32)}; }
  static inline void store_bytes(uint8_t* p, Bytes b) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), b.b);
  }
  static inline void store_codes(int8_t* p, F x) {
    const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const auto words = [](__m256 v) {
      const __m256i i = _mm256_cvtps_epi32(v);
      return _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    };
    const __m128i codes = _mm_packs_epi16(words(x.a), words(x.b));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi8(codes, order));
  }
  template <Format format, bool kTable>
  struct ByteCodes {
    __m256i table = {};
    inline explicit ByteCodes(const Groups& g) {
      if constexpr (kTable) {
        table =
            _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(g.bytes)));
      }
    }
    template <int QUAD>
    [[gnu::always_inline]] inline Bytes load(const uint8_t* chunk) const {
      return {half<QUAD, 0>(chunk), half<QUAD, 1>(chunk)};
    }
    // Outputs 8h..8h+7.
    template <int QUAD, int h>
    [[gnu::always_inline]] inline __m256i half(const uint8_t* chunk) const {
      constexpr int kHalf = QUAD % 2, kWord = QUAD / 2;
      if constexpr (format == Format::i8) {
        // Rows k, k + 4, k + 1 and k + 5 of eight outputs.
        const uint8_t* p = chunk + (kWord * 8 + kHalf * 2) * kPanel + h * 8;
        const auto eight = [&](int row) {
          return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + row * kPanel));
        };
        const __m128i even = _mm_unpacklo_epi8(eight(0), eight(4));
        const __m128i odd = _mm_unpacklo_epi8(eight(1), eight(5));
        return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(even, odd)),
                                       _mm_unpackhi_epi16(even, odd), 1);
      } else {
        const __m256i word = bytes(chunk + kWord * 64 + h * 32);
        const __m256i low =
            _mm256_and_si256(kHalf ? _mm256_srli_epi16(word, 4) : word, _mm256_set1_epi8(15));
        if constexpr (format == Format::i4) return kTable ? _mm256_shuffle_epi8(table, low) : low;
        constexpr int kBits = format == Format::i5 ? 1 : 2;
        constexpr int kShift = plane_shift(kWord * 4 + kHalf, kBits);
        const __m256i plane = bytes(chunk + 256 + QUAD * 2 / (16 / kBits) * 64 + h * 32);
        const __m256i high = kShift >= 4 ? _mm256_srli_epi16(plane, kShift > 4 ? kShift - 4 : 0)
                                         : _mm256_slli_epi16(plane, kShift < 4 ? 4 - kShift : 0);
        return _mm256_or_si256(low,
                               _mm256_and_si256(high, _mm256_set1_epi8(((1 << kBits) - 1) << 4)));
      }
    }
  };

  struct WideQuad {
    const float* p;
    inline void load(const uint8_t* q) { p = reinterpret_cast<const float*>(q); }
    inline F at(int i) const { return Avx2::load(p + i * 16); }
  };

  template <Format>
  struct Quad;
};

template <>
struct Avx2::Quad<Format::f32> {
  const float* p;
  static constexpr int kBytes = 256;
  inline explicit Quad(const uint8_t* q) : p(reinterpret_cast<const float*>(q)) {}
  inline F at(int i) const { return load(p + i * 16); }
};
template <>
struct Avx2::Quad<Format::f16> {
  const uint8_t* p;
  static constexpr int kBytes = 128;
  inline explicit Quad(const uint8_t* q) : p(q) {}
  inline F at(int i) const {
    const __m128i* h = reinterpret_cast<const __m128i*>(p + i * 32);
    return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
  }
};
template <>
struct Avx2::Quad<Format::bf16> {
  const uint8_t* p;
  static constexpr int kBytes = 128;
  inline explicit Quad(const uint8_t* q) : p(q) {}
  inline F at(int i) const {
    const uint8_t* q = p + (i / 2) * 64;
    return {half_pair(q, i % 2), half_pair(q + 32, i % 2)};
  }
};
template <>
struct Avx2::Quad<Format::fp8> {
  const uint8_t* p;
  static constexpr int kBytes = 64;
  inline explicit Quad(const uint8_t* q) : p(q) {}
  inline F at(int i) const {
    return {from_fp8(spread(bytes(p), i, 3)), from_fp8(spread(bytes(p + 32), i, 3))};
  }
};

}  // namespace nemotron::cpu
