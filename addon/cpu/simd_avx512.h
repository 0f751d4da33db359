// AVX-512 (F, BW, VL, DQ, VBMI, VNNI): 16 lanes of float in one register. Contract: simd_plain.h.
#pragma once

// GCC 12's own headers start vectors from themselves and then warn about it.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels.h"

namespace nemotron::cpu {

// FP8 E4M3 as BF16: its two bytes by the low seven bits of the code. Every value is exact, the
// subnormals too, which is why this is a table: the BF16 products flush what is not normal.
struct Fp8Table {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
};
constexpr Fp8Table make_fp8_table() {
  Fp8Table t{};
  for (int code = 0; code < 128; ++code) {
    int exponent = code >> 3, mantissa = code & 7, bits = 0;
    if (code == 0x7f) {
      bits = 0x7fc0;
    } else if (exponent > 0) {
      bits = (exponent + 120) << 7 | mantissa << 4;
    } else if (mantissa > 0) {
      int shift = 0;
      while (!(mantissa & 8)) mantissa <<= 1, ++shift;
      bits = (121 - shift) << 7 | (mantissa & 7) << 4;
    }
    t.low[code] = uint8_t(bits & 0xff);
    t.high[code] = uint8_t(bits >> 8);
  }
  return t;
}
inline constexpr Fp8Table kFp8Table = make_fp8_table();

// Where the bytes of four k of each output are in rows k and k + 1, k + 4 and k + 5 of i8.
struct Int8Places {
  alignas(64) uint8_t of[64];
};
constexpr Int8Places make_int8_places() {
  Int8Places p{};
  for (int i = 0; i < 64; ++i) p.of[i] = uint8_t(i / 4 + i % 2 * 32 + i % 4 / 2 * 16);
  return p;
}
inline constexpr Int8Places kInt8Places = make_int8_places();

struct Avx512 {
  using F = __m512;
  using Pairs = __m512i;  // 16 pairs of bf16

  static constexpr bool kDot = false;
  // 32 registers: up to 24 sums, 2 of weights a panel, one of activations. Six streams of weights
  // for a generated token read 8 % more than four.
  static constexpr int kRows = 12;
  static constexpr int panels(int rows) {
    return rows <= 3 ? 6 : rows <= 5 ? 4 : rows <= 8 ? 3 : 2;
  }

  static inline F zero() { return _mm512_setzero_ps(); }
  static inline F set1(float x) { return _mm512_set1_ps(x); }
  static inline F load(const float* p) { return _mm512_loadu_ps(p); }
  static inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static inline __mmask16 below(int n) {
    return n <= 0 ? 0 : n >= 16 ? 0xffff : __mmask16((1u << n) - 1);
  }
  static inline F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(below(n), p); }
  static inline void stream(float* p, F x) { _mm512_stream_ps(p, x); }
  static inline void store_n(float* p, F x, int n) { _mm512_mask_storeu_ps(p, below(n), x); }
  static inline F add(F x, F y) { return _mm512_add_ps(x, y); }
  static inline F sub(F x, F y) { return _mm512_sub_ps(x, y); }
  static inline F mul(F x, F y) { return _mm512_mul_ps(x, y); }
  static inline F div(F x, F y) { return _mm512_div_ps(x, y); }
  static inline F fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
  static inline F max(F x, F y) { return _mm512_max_ps(x, y); }
  static inline F min(F x, F y) { return _mm512_min_ps(x, y); }
  static inline F first(F x, int n, F other) { return _mm512_mask_mov_ps(other, below(n), x); }
  static inline F select_lt(F a, F b, F x, F y) {
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
  }
  static inline float sum(F x) {
    const __m256 s = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
  }
  static inline double sum_double(F x) {
    const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    return _mm512_reduce_add_pd(_mm512_add_pd(a, b));
  }
  static inline float max_lane(F x) { return _mm512_reduce_max_ps(x); }
  static inline uint32_t ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static inline bool any_nan(F x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }
  static inline F times_pow2(F x, F n) { return _mm512_scalef_ps(x, n); }
  static inline F nearest(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static inline void store_bf16(uint16_t* p, F x) {
    const __m512i u = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(
        _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_srli_epi32(u, 16),
                             _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(r));
  }
  static inline F load_bf16(const uint16_t* p) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }

  // The lines of a quad as far ahead as memory needs, into the second level: four streams 8 KiB
  // ahead would fill the first.
  template <Format format>
  static inline void prefetch(const uint8_t* p) {
    for (size_t i = 0; i < 4 * kPanel * format_bytes(format); i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
    }
  }

  // Stays where it is written, unlike the intrinsic.
  static inline void fetch(const uint8_t* p) { __asm__ volatile("prefetcht0 %0" : : "m"(*p)); }

  static inline F even(Pairs p) { return _mm512_castsi512_ps(_mm512_slli_epi32(p, 16)); }
  static inline F odd(Pairs p) {
    return _mm512_castsi512_ps(_mm512_and_si512(p, _mm512_set1_epi32(int(0xffff0000))));
  }
  // The pairs of k, k + 1 and of k + 2, k + 3.
  template <Format format>
  static inline void load_pairs(const uint8_t* p, Pairs out[2]) {
    if constexpr (format == Format::bf16) {
      out[0] = _mm512_loadu_si512(p);
      out[1] = _mm512_loadu_si512(p + 64);
    } else {
      __m512i code = _mm512_loadu_si512(p);
      __asm__("" : "+v"(code));  // GCC would load it anew for every use
      const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kFp8Table.low), code,
                                                   _mm512_load_si512(kFp8Table.low + 64));
      const __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(kFp8Table.high), code,
                                                    _mm512_load_si512(kFp8Table.high + 64));
      // high | (code & 0x80)
      const __m512i sign =
          _mm512_ternarylogic_epi32(high, code, _mm512_set1_epi8(char(0x80)), 0xf8);
      out[0] = _mm512_unpacklo_epi8(low, sign);
      out[1] = _mm512_unpackhi_epi8(low, sign);
    }
  }

  // --- weights in groups ---
  template <int bytes>
  static inline void prefetch_bytes(const uint8_t* p) {
    for (int i = 0; i < bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
    }
  }
  static inline F from_int8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static inline void store_pairs(uint8_t* p, const Pairs w[2]) {
    _mm512_storeu_si512(p, w[0]);
    _mm512_storeu_si512(p + 64, w[1]);
  }
  // In a register: GCC would load a table anew for every use, and 64 bytes take a cycle.
  static inline __m512i held(const void* p) {
    __m512i x = _mm512_load_si512(p);
    __asm__("" : "+v"(x));
    return x;
  }
  // Codes of pair `pair` of a chunk in the lowest bits of words, of anything above them.
  template <Format format>
  [[gnu::always_inline]] static inline __m512i code_words(const uint8_t* chunk, int pair) {
    const __m512i word = _mm512_loadu_si512(chunk + pair / 4 * 64);
    const __m512i low = _mm512_srli_epi16(word, unsigned(pair % 4 * 4));
    if constexpr (format == Format::i4) return low;
    constexpr int kBits = format == Format::i5 ? 1 : 2, kPairs = 16 / kBits;
    const __m512i plane = _mm512_loadu_si512(chunk + 256 + pair / kPairs * 64);
    const int shift = plane_shift(pair, kBits);
    const __m512i high = shift >= 4 ? _mm512_srli_epi16(plane, unsigned(shift - 4))
                                    : _mm512_slli_epi16(plane, unsigned(4 - shift));
    return _mm512_ternarylogic_epi32(_mm512_set1_epi16(15), low, high, 0xca);
  }
  // What codes stand for, in float32.
  template <Format format>
  struct Codes {
    F first = {}, last = {};          // of fewer than 6 bits: by the code
    F even_zero = {}, odd_zero = {};  // i6: see CodeQuad
    inline explicit Codes(const Groups& g) {
      if constexpr (format == Format::i4 || format == Format::i5) first = numbers(g.numbers);
      if constexpr (format == Format::i5) last = numbers(g.numbers + 16);
      if constexpr (format == Format::i6) {
        even_zero = set1(8388608.0f - g.numbers[0]), odd_zero = set1(128.0f - g.numbers[0]);
      }
    }
    static inline F numbers(const float* p) { return _mm512_castsi512_ps(held(p)); }
  };
  static constexpr bool kFetchesLines = true;  // fetch()
  static constexpr bool kCounts = false;
  // Four k of a chunk, decoded where they are asked for.
  template <Format format, bool kTable>
  struct CodeQuad {
    const uint8_t* chunk;
    int quad;
    const Codes<format>* codes;
    [[gnu::always_inline]] inline void load(const uint8_t* c, int q, const Codes<format>& of) {
      chunk = c, quad = q, codes = &of;
    }
    [[gnu::always_inline]] inline F at(int i) const {
      if constexpr (format == Format::i8) {
        return from_int8(chunk + (4 * quad + i) * kPanel);
      } else if constexpr (format == Format::i4) {  // four bits of each word of 32 are looked at
        const __m512i word = _mm512_loadu_si512(chunk + quad / 2 * 64);
        const int shift = quad % 2 * 8 + i / 2 * 4 + i % 2 * 16;
        return _mm512_permutexvar_ps(_mm512_srli_epi32(word, unsigned(shift)), codes->first);
      } else {
        const __m512i word = code_words<format>(chunk, quad * 2 + i / 2);
        if constexpr (format == Format::i5) {
          const __m512i at = i % 2 ? _mm512_srli_epi32(word, 16) : word;
          return _mm512_permutex2var_ps(codes->first, at, codes->last);
        } else {
          // Where they lie, at the end of a mantissa of 2^23 or behind the first seven of 2^7.
          const __m512i mask = _mm512_set1_epi32(i % 2 ? 0x3f0000 : 0x3f);
          const __m512i power = _mm512_set1_epi32(i % 2 ? 0x43000000 : 0x4b000000);
          const F number = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(word, mask, power, 0xea));
          return sub(number, i % 2 ? codes->odd_zero : codes->even_zero);
        }
      }
    }
  };
  // --- activations of 8 bits ---
  using I = __m512i;      // 16 sums
  using Bytes = __m512i;  // four k of each output; without a sign
  static constexpr int kByteOffset = 128;
  static constexpr int kInt8Rows = 8;
  static constexpr int int8_panels(int rows) { return rows <= 4 ? 2 : 1; }
  static inline I int_zero() { return _mm512_setzero_si512(); }
  static inline F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  template <bool>
  [[gnu::always_inline]] static inline I dot4(I sum, Bytes w, const int8_t* a) {
    const int four = *reinterpret_cast<const int __attribute__((may_alias))*>(a);
    return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four));
  }
  static inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static inline void store_bytes(uint8_t* p, Bytes b) { _mm512_storeu_si512(p, b); }
  static inline void store_codes(int8_t* p, F x) {
    const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const __m128i codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi8(codes, order));
  }
  template <Format format, bool kTable>
  struct ByteCodes {
    __m512i table = {};  // i8: places
    inline explicit ByteCodes(const Groups& g) {
      if constexpr (format == Format::i8) table = held(kInt8Places.of);
      if constexpr (kTable) {
        const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(g.bytes));
        table = _mm512_broadcast_i32x4(_mm_xor_si128(bytes, _mm_set1_epi8(char(0x80))));
      }
    }
    template <int QUAD>
    [[gnu::always_inline]] inline Bytes load(const uint8_t* chunk) const {
      constexpr int kHalf = QUAD % 2, kWord = QUAD / 2;
      if constexpr (format == Format::i8) {
        const uint8_t* rows = chunk + (kWord * 8 + kHalf * 2) * kPanel;
        const auto* two = reinterpret_cast<const __m256i*>(rows);
        const __m512i four = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(two)),
                                                _mm256_loadu_si256(two + 2), 1);
        return _mm512_xor_si512(_mm512_permutexvar_epi8(table, four), _mm512_set1_epi8(char(0x80)));
      } else {
        const __m512i word = _mm512_loadu_si512(chunk + kWord * 64);
        const __m512i low = kHalf ? _mm512_srli_epi16(word, 4) : word;
        const __m512i mask = _mm512_set1_epi8(15);
        if constexpr (format == Format::i4) {
          const __m512i code = _mm512_and_si512(low, mask);
          return kTable ? _mm512_shuffle_epi8(table, code) : code;
        }
        constexpr int kBits = format == Format::i5 ? 1 : 2;
        constexpr int kShift = plane_shift(kWord * 4 + kHalf, kBits);
        const __m512i plane = _mm512_loadu_si512(chunk + 256 + QUAD * 2 / (16 / kBits) * 64);
        const __m512i high = kShift >= 4
                                 ? _mm512_srli_epi16(plane, unsigned(kShift > 4 ? kShift - 4 : 0))
                                 : _mm512_slli_epi16(plane, unsigned(kShift < 4 ? 4 - kShift : 0));
        return _mm512_and_si512(_mm512_ternarylogic_epi32(mask, low, high, 0xca),
                                _mm512_set1_epi8((1 << (4 + kBits)) - 1));
      }
    }
  };

  struct WideQuad {
    const float* p;
    inline void load(const uint8_t* q) { p = reinterpret_cast<const float*>(q); }
    inline F at(int i) const { return Avx512::load(p + i * 16); }
  };

  template <Format>
  struct Quad;
};

template <>
struct Avx512::Quad<Format::f32> {
  const float* p;
  static constexpr int kBytes = 256;
  inline explicit Quad(const uint8_t* q) : p(reinterpret_cast<const float*>(q)) {}
  inline F at(int i) const { return load(p + i * 16); }
};
template <>
struct Avx512::Quad<Format::f16> {
  const uint8_t* p;
  static constexpr int kBytes = 128;
  inline explicit Quad(const uint8_t* q) : p(q) {}
  inline F at(int i) const {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i * 32)));
  }
};
template <>
struct Avx512::Quad<Format::bf16> {
  Pairs w[2];
  static constexpr int kBytes = 128;
  inline explicit Quad(const uint8_t* q) { load_pairs<Format::bf16>(q, w); }
  inline F at(int i) const { return i % 2 ? odd(w[i / 2]) : even(w[i / 2]); }
};
template <>
struct Avx512::Quad<Format::fp8> {
  Pairs w[2];
  static constexpr int kBytes = 64;
  inline explicit Quad(const uint8_t* q) { load_pairs<Format::fp8>(q, w); }
  inline F at(int i) const { return i % 2 ? odd(w[i / 2]) : even(w[i / 2]); }
};

}  // namespace nemotron::cpu
