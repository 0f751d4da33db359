#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "bench/cpu/bench.h"

namespace nemotron::bench {

NamedLoop avx512bf16_peak() {
  return {"bf16 dot avx512", [](int64_t count) {
            const __m512bh x = __m512bh(_mm512_set1_epi32(0x3a003a00)), y = x;
            // Different starts, or the compiler would see one sum.
            __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(2), c = _mm512_set1_ps(3);
            __m512 d = _mm512_set1_ps(4), e = _mm512_set1_ps(5), f = _mm512_set1_ps(6);
            __m512 g = _mm512_set1_ps(7), h = _mm512_set1_ps(8), i = _mm512_set1_ps(9);
            __m512 j = _mm512_set1_ps(10), k = _mm512_set1_ps(11), l = _mm512_set1_ps(12);
            for (int64_t n = 0; n < count; n += 12) {
              a = _mm512_dpbf16_ps(a, x, y), b = _mm512_dpbf16_ps(b, x, y);
              c = _mm512_dpbf16_ps(c, x, y), d = _mm512_dpbf16_ps(d, x, y);
              e = _mm512_dpbf16_ps(e, x, y), f = _mm512_dpbf16_ps(f, x, y);
              g = _mm512_dpbf16_ps(g, x, y), h = _mm512_dpbf16_ps(h, x, y);
              i = _mm512_dpbf16_ps(i, x, y), j = _mm512_dpbf16_ps(j, x, y);
              k = _mm512_dpbf16_ps(k, x, y), l = _mm512_dpbf16_ps(l, x, y);
            }
            const __m512 s = _mm512_add_ps(
                _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)),
                _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(e, f), _mm512_add_ps(g, h)),
                              _mm512_add_ps(_mm512_add_ps(i, j), _mm512_add_ps(k, l))));
            volatile float keep = _mm512_cvtss_f32(s);
            (void)keep;
            return double(count) * 64;
          }};
}

}  // namespace nemotron::bench
