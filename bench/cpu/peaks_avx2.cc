#include <immintrin.h>

#include "bench/cpu/bench.h"

namespace nemotron::bench {

NamedLoop avx2_peak() {
  return {"f32 fma avx2", [](int64_t count) {
            const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
            // Different starts, or the compiler would see one sum.
            __m256 a = _mm256_set1_ps(1), b = _mm256_set1_ps(2), c = _mm256_set1_ps(3),
                   d = _mm256_set1_ps(4), e = _mm256_set1_ps(5);
            __m256 f = _mm256_set1_ps(6), g = _mm256_set1_ps(7), h = _mm256_set1_ps(8),
                   i = _mm256_set1_ps(9), j = _mm256_set1_ps(10);
            for (int64_t n = 0; n < count; n += 10) {
              a = _mm256_fmadd_ps(a, x, y), b = _mm256_fmadd_ps(b, x, y);
              c = _mm256_fmadd_ps(c, x, y), d = _mm256_fmadd_ps(d, x, y);
              e = _mm256_fmadd_ps(e, x, y), f = _mm256_fmadd_ps(f, x, y);
              g = _mm256_fmadd_ps(g, x, y), h = _mm256_fmadd_ps(h, x, y);
              i = _mm256_fmadd_ps(i, x, y), j = _mm256_fmadd_ps(j, x, y);
            }
            const __m256 s =
                _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)),
                              _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(e, f), _mm256_add_ps(g, h)),
                                            _mm256_add_ps(i, j)));
            volatile float keep = _mm256_cvtss_f32(s);
            (void)keep;
            return double(count) * 16;
          }};
}

}  // namespace nemotron::bench
