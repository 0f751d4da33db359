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
  struct WideQuad {
    Pairs w[2];
    inline void load(const uint8_t* p) { load_pairs<Format::bf16>(p, w); }
  };
};

}  // namespace nemotron::cpu
