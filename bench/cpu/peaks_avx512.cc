#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "bench/cpu/bench.h"

namespace nemotron::bench {

NamedLoop avx512_peak() {
  return {"f32 fma avx512", [](int64_t count) {
            const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
            // Different starts, or the compiler would see one sum.
            __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(2), c = _mm512_set1_ps(3),
                   d = _mm512_set1_ps(4), e = _mm512_set1_ps(5);
            __m512 f = _mm512_set1_ps(6), g = _mm512_set1_ps(7), h = _mm512_set1_ps(8),
                   i = _mm512_set1_ps(9), j = _mm512_set1_ps(10);
            for (int64_t n = 0; n < count; n += 10) {
              a = _mm512_fmadd_ps(a, x, y), b = _mm512_fmadd_ps(b, x, y);
              c = _mm512_fmadd_ps(c, x, y), d = _mm512_fmadd_ps(d, x, y);
              e = _mm512_fmadd_ps(e, x, y), f = _mm512_fmadd_ps(f, x, y);
              g = _mm512_fmadd_ps(g, x, y), h = _mm512_fmadd_ps(h, x, y);
              i = _mm512_fmadd_ps(i, x, y), j = _mm512_fmadd_ps(j, x, y);
            }
            const __m512 s =
                _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)),
                              _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(e, f), _mm512_add_ps(g, h)),
                                            _mm512_add_ps(i, j)));
            volatile float keep = _mm512_cvtss_f32(s);
            (void)keep;
            return double(count) * 32;
          }};
}

}  // namespace nemotron::bench
