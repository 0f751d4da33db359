// AVX-512 with BF16 products: Avx512, but BF16 and FP8 weights meet BF16 activations in vdpbf16ps.
#pragma once

#include "cpu/simd_avx512.h"

namespace nemotron::cpu {

struct Avx512Bf16 : Avx512 {
  static constexpr bool kDot = true;

  static inline void store_bf16(uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), __m256i(_mm512_cvtneps_pbh(x)));
  }
  static inline Pairs broadcast_pair(const uint16_t* p) {
    return _mm512_set1_epi32(
        *reinterpret_cast<const int __attribute__((may_alias, aligned(2)))*>(p));
  }
  static inline F dot(F sum, Pairs a, Pairs b) {
    return _mm512_dpbf16_ps(sum, __m512bh(a), __m512bh(b));
  }
  // What codes stand for, in BF16.
  template <Format format>
  struct Codes {
    __m512i values = {}, more = {};
    inline explicit Codes(const Groups& g) {
      if constexpr (format != Format::i8) values = held(g.values);
      if constexpr (format == Format::i6) more = held(g.values + 32);
    }
  };
  // The two pairs of four k of a chunk.
  template <Format format, bool kTable>
  struct CodeQuad {
    Pairs w[2];
    [[gnu::always_inline]] inline void load(const uint8_t* chunk, int quad,
                                            const Codes<format>& codes) {
      for (int i = 0; i < 2; ++i) {
        const int pair = quad * 2 + i;
        if constexpr (format == Format::i8) {
          const uint8_t* p = chunk + pair * 2 * kPanel;
          const __m512i top = _mm512_set1_epi32(int(0xffff0000));
          const __m512i even = _mm512_castps_si512(from_int8(p));
          const __m512i odd = _mm512_castps_si512(from_int8(p + kPanel));
          w[i] = _mm512_ternarylogic_epi32(top, odd, _mm512_srli_epi32(even, 16), 0xca);
        } else {
          const __m512i code = code_words<format>(chunk, pair);  // five bits: i4's are there twice
          w[i] = format == Format::i6 ? _mm512_permutex2var_epi16(codes.values, code, codes.more)
                                      : _mm512_permutexvar_epi16(code, codes.values);
        }
      }
    }
  };
  struct WideQuad {
    Pairs w[2];
    inline void load(const uint8_t* p) { load_pairs<Format::bf16>(p, w); }
  };
};

}  // namespace nemotron::cpu
