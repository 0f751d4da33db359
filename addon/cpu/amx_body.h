// The tile products of BF16 and FP8 weights on AMX, over a wrapper T of its instructions:
//   configure(), release()     all eight tiles [16 rows][64 bytes]
//   zero<t>, load<t>(from, stride in bytes), store<t>(to, stride in bytes), dot<c, a, b>
//   load_once<t>               load<t> of what is not needed again soon
//   shape(bytes), dot_int8<c, a, b>   operands of fewer k, and of bytes (amx_int8.h)
// amx_tiles.h has the instructions; the op suite runs the same source over an emulation, since few
// machines have them. Weights in groups: amx_grouped.h. Everything else is Avx512Bf16's, or
// Avx512's where nothing may be rounded.
//
// Rows go in blocks of 32, panels in pairs: four sums, two tiles of activations, two of weights. A
// last block of at most 16 rows takes up to six panels at a time instead, so that a step of few
// rows reads several streams. Every sum adds its tiles of 32 along k in order, whichever way.
#pragma once

#include <cstdint>

#include "cpu/amx_grouped.h"
#include "cpu/amx_int8.h"
#include "cpu/kernel_body.h"
#include "cpu/simd_avx512bf16.h"

namespace nemotron::cpu {

template <class T>
struct AmxBody {
  using Base = Body<Avx512Bf16>;
  using F = Avx512::F;
  static constexpr int64_t kTileBytes = 1024;  // 32 of k, 16 outputs, BF16

  struct Block {
    const uint16_t* a;  // first row
    int64_t a_stride;   // bytes
    const uint8_t* b;   // BF16 panels
    int64_t b_stride;
    float* c;
    int64_t c_stride;  // bytes
    int tiles;         // of k
    bool accumulate;
    int64_t ahead;
    Block rows_from(int row) const {
      Block rest = *this;
      rest.a += row * (a_stride / 2);
      rest.c += row * (c_stride / 4);
      return rest;
    }
  };

  // What will be needed next, a few lines at a time between the products.
  struct Ahead {
    const uint8_t* at = nullptr;  // null: nothing
    int64_t step = 0;             // from panel to panel
    int left = 0, lines = 0;      // lines left in this panel; lines of a panel
    int panels = 0;
    int each = 0;  // lines at a time
    inline void fetch() {
      for (int i = 0; i < each && panels > 0; ++i) {
        __builtin_prefetch(at, 0, 2);
        at += 64;
        if (--left == 0) {
          at += step - int64_t(lines) * 64;
          left = lines;
          --panels;
        }
      }
    }
  };

  static inline void fetch_tile(const uint8_t* b) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) __builtin_prefetch(b + i * 64, 0, 2);
  }

  template <int C>
  static inline void begin(const Block& x, int64_t row, int64_t panel) {
    if (x.accumulate) {
      T::template load<C>(sum(x, row, panel), x.c_stride);
    } else {
      T::template zero<C>();
    }
  }
  static inline uint8_t* sum(const Block& x, int64_t row, int64_t panel) {
    return reinterpret_cast<uint8_t*>(x.c) + row * x.c_stride + panel * kPanel * 4;
  }

  // 32 rows, two panels: tiles 0..3 the sums, 4 and 5 activations, 6 and 7 weights.
  static void two_by_two(const Block& x, Ahead* ahead) {
    begin<0>(x, 0, 0);
    begin<1>(x, 0, 1);
    begin<2>(x, 16, 0);
    begin<3>(x, 16, 1);
    const uint8_t* a = reinterpret_cast<const uint8_t*>(x.a);
    for (int k = 0; k < x.tiles; ++k) {
      T::template load<6>(x.b + k * kTileBytes, 64);
      T::template load_once<4>(a + k * 64, x.a_stride);
      T::template dot<0, 4, 6>();
      T::template load<7>(x.b + x.b_stride + k * kTileBytes, 64);
      T::template dot<1, 4, 7>();
      T::template load_once<5>(a + 16 * x.a_stride + k * 64, x.a_stride);
      T::template dot<2, 5, 6>();
      T::template dot<3, 5, 7>();
      ahead->fetch();
    }
    T::template store<0>(sum(x, 0, 0), x.c_stride);
    T::template store<1>(sum(x, 0, 1), x.c_stride);
    T::template store<2>(sum(x, 16, 0), x.c_stride);
    T::template store<3>(sum(x, 16, 1), x.c_stride);
  }

  // Numbers of panels beside each other.
  template <int... P>
  struct Panels {};

  // 16 rows, 1 to 6 panels: tiles 0 to 5 the sums, 6 the activations, 7 the weights.
  template <bool stream, int... P>
  static inline void one_by(const Block& x, Panels<P...>) {
    (begin<P>(x, 0, P), ...);
    const uint8_t* a = reinterpret_cast<const uint8_t*>(x.a);
    for (int k = 0; k < x.tiles; ++k) {
      const uint8_t* b = x.b + k * kTileBytes;
      if constexpr (stream) (fetch_tile(b + P * x.b_stride + x.ahead), ...);
      T::template load<6>(a + k * 64, x.a_stride);
      (panel_dot<P>(b + P * x.b_stride), ...);
    }
    (T::template store<P>(sum(x, 0, P), x.c_stride), ...);
  }
  template <int P>
  static inline void panel_dot(const uint8_t* b) {
    T::template load<7>(b, 64);
    T::template dot<P, 6, 7>();
  }

  template <bool stream>
  static void one_row_block(Block x, int panels) {
    for (; panels >= 6; panels -= 6, x.b += 6 * x.b_stride, x.c += 6 * kPanel) {
      one_by<stream>(x, Panels<0, 1, 2, 3, 4, 5>());
    }
    switch (panels) {
      case 5: return one_by<stream>(x, Panels<0, 1, 2, 3, 4>());
      case 4: return one_by<stream>(x, Panels<0, 1, 2, 3>());
      case 3: return one_by<stream>(x, Panels<0, 1, 2>());
      case 2: return one_by<stream>(x, Panels<0, 1>());
      case 1: return one_by<stream>(x, Panels<0>());
    }
  }

  // All rows times `panels` BF16 panels.
  template <bool stream>
  static void products(const TileArgs& t, const uint8_t* b, int64_t b_stride, int first_panel,
                       int panels, Ahead* ahead) {
    Block x{static_cast<const uint16_t*>(t.a),
            t.a_stride * 2,
            b,
            b_stride,
            t.c + first_panel * kPanel,
            t.c_stride * 4,
            t.k / 32,
            t.accumulate,
            t.ahead};
    // A pair of panels stays in the first-level cache, and the rows pass by.
    const int pairs_of_blocks = (t.rows + 15) / 32, rows = pairs_of_blocks * 32;
    Block y = x;
    int p = 0;
    for (; p + 2 <= panels; p += 2, y.b += 2 * b_stride, y.c += 2 * kPanel) {
      for (int row = 0; row < rows; row += 32) two_by_two(y.rows_from(row), ahead);
    }
    if (p < panels) {
      for (int row = 0; row < rows; row += 16) one_by<false>(y.rows_from(row), Panels<0>());
    }
    if (rows < t.rows) one_row_block<stream>(x.rows_from(rows), panels);
  }

  static int few_panels(Format, int rows) {
    return rows <= kFewRows ? 2 : rows <= 16 ? 6 : rows <= 32 ? 4 : 0;
  }

  static Ahead ahead_of(const TileArgs& t, size_t panel_bytes) {
    Ahead n;
    // Some rows need more of the memory than asking line by line gives: the processor's own
    // guesses keep up better.
    if (t.ahead == 0 || (t.rows > 32 && t.rows <= 128)) return n;
    n.at = t.b + t.ahead;
    n.step = t.b_stride;
    n.left = n.lines = int(panel_bytes / 64);
    n.panels = t.panels;
    const int times = (t.rows + 15) / 32 * (t.panels / 2) * (t.k / 32);
    n.each = times > 0 ? (n.lines * n.panels + times - 1) / times : 0;
    return n;
  }

  // What tiles of 32 k do not divide.
  static void by_registers(const Kernels* k, Format format, const TileArgs& t) {
    k->tile[int(format)](t);
  }

  static void tile_bf16(const TileArgs& t) {
    if (t.k % 32 != 0) return by_registers(avx512bf16_kernels(), Format::bf16, t);
    if (t.rows <= kFewRows && t.k <= kKBlock) return few_rows<Format::bf16>(t);
    Ahead ahead = ahead_of(t, size_t(t.k) * kPanel * 2);
    if (t.rows <= 16) {
      products<true>(t, t.b, t.b_stride, 0, t.panels, &ahead);
    } else {
      products<false>(t, t.b, t.b_stride, 0, t.panels, &ahead);
    }
  }

  // Widened into the scratch first: a few panels at a time when few rows use them.
  static void tile_fp8(const TileArgs& t) {
    if (t.k % 32 != 0 || t.k > kKBlock) return by_registers(avx512bf16_kernels(), Format::fp8, t);
    if (t.rows <= kFewRows) return few_rows<Format::fp8>(t);
    Ahead ahead = ahead_of(t, size_t(t.k) * kPanel);
    uint8_t* wide = static_cast<uint8_t*>(t.scratch);
    const int64_t stride = int64_t(t.k) * kPanel * 2;
    const int few = few_panels(Format::fp8, t.rows), most = few > 0 ? few : kScratchPanels;
    for (int p = 0; p < t.panels; p += most) {
      const int n = t.panels - p < most ? t.panels - p : most;
      for (int i = 0; i < n; ++i)
        widen(wide + i * stride, t.b + (p + i) * t.b_stride, t.k, t.ahead);
      products<false>(t, wide, stride, p, n, &ahead);
    }
  }

  static inline void widen(uint8_t* to, const uint8_t* from, int k, int64_t ahead) {
    for (int i = 0; i < k / 4; ++i, from += 64, to += 128) {
      Avx512::Pairs w[2];
      Avx512::prefetch<Format::fp8>(from + ahead);
      Avx512::load_pairs<Format::fp8>(from, w);
      _mm512_store_si512(to, w[0]);
      _mm512_store_si512(to + 64, w[1]);
    }
  }

  static constexpr int kScratchPanels = 16;

  // --- a few rows: as AmxGrouped has them, without scales ---

  static constexpr int kFewRows = AmxGrouped<T>::kFewRows;

  template <Format format>
  static void few_rows(const TileArgs& t) {
    const FlushedToZero flushed;
    if (t.rows == 1) return rows_of<format, 1>(t);
    t.rows == 2 ? rows_of<format, 2>(t) : rows_of<format, kFewRows>(t);
  }
  template <Format format, int ROWS>
  static void rows_of(const TileArgs& t) {
    float* const a = static_cast<float*>(t.scratch);
    for (int r = 0; r < ROWS; ++r) {
      const uint16_t* from = static_cast<const uint16_t*>(t.a) + r * t.a_stride;
      for (int k = 0; k < t.k; k += 16) {
        Avx512::store(a + r * kKBlock + k, Avx512::load_bf16(from + k));
      }
    }
    int p = 0;
    for (; p + 2 <= t.panels; p += 2) few_panels_of<format, ROWS, 2>(t, p, a);
    if (p < t.panels) few_panels_of<format, ROWS, 1>(t, p, a);
  }
  template <Format format, int ROWS, int PANELS>
  [[gnu::noinline]] static void few_panels_of(const TileArgs& t, int first, const float* a) {
    constexpr int kBytes = 32 * kPanel * int(format_bytes(format));  // 32 k of a panel
    const Stream stream{t.k / 32 * kBytes, t.ahead};
    float* c = t.c + first * kPanel;
    F sum[PANELS][ROWS];
#pragma GCC unroll 4
    for (int i = 0; i < PANELS * ROWS; ++i) {
      const float* from = c + i % ROWS * t.c_stride + i / ROWS * kPanel;
      sum[i / ROWS][i % ROWS] = t.accumulate ? Avx512::load(from) : Avx512::zero();
    }
    const uint8_t* const b = t.b + first * t.b_stride;
    for (int k = 0, at = 0; k < t.k; k += 32, at += kBytes) {
      const int64_t far = stream.far(at);
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) {
        few_dots<format, ROWS>(b + p * t.b_stride + at, a + k, far, sum[p]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < PANELS * ROWS; ++i) {
      Avx512::store(c + i % ROWS * t.c_stride + i / ROWS * kPanel, sum[i / ROWS][i % ROWS]);
    }
  }
  // 32 of k.
  template <Format format, int ROWS>
  [[gnu::always_inline]] static inline void few_dots(const uint8_t* b, const float* a, int64_t far,
                                                     F (&sum)[ROWS]) {
    constexpr int kQuad = 4 * kPanel * int(format_bytes(format));
    F even[ROWS], odd[ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) even[r] = odd[r] = Avx512::zero();
#pragma GCC unroll 8
    for (int q = 0; q < 8; ++q, b += kQuad, a += 4) {
      for (int line = 0; line < kQuad; line += 64) Stream::fetch(b + far + line);
      Avx512::Pairs w[2];
      Avx512::load_pairs<format>(b, w);
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const F x = Avx512::even(w[i]), y = Avx512::odd(w[i]);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
          even[r] = Avx512::fma(Avx512::set1(a[r * kKBlock + 2 * i]), x, even[r]);
          odd[r] = Avx512::fma(Avx512::set1(a[r * kKBlock + 2 * i + 1]), y, odd[r]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) sum[r] = Avx512::add(sum[r], Avx512::add(even[r], odd[r]));
  }

  // --- products of float32 rows ---
  // A float32 is two BF16, high and low, to 16 bits of mantissa, and an F16 exactly so. High times
  // high, low times high and high times low are what a sum gets of each 32 of k, in this order.

  static constexpr int kSplitPanels = 8, kSplitRows = 32;
  // Bytes from row to row of high or low parts; 1 KiB would put rows into few sets of a cache.
  static constexpr int64_t kSplitStride = (kKBlock + 32) * 2;

  template <Format format>
  static constexpr int kTerms = format == Format::f16 ? 2 : 1;  // of a weight

  struct SplitBlock {
    const uint8_t* a[2];  // high and low [rows][kSplitStride]
    const uint8_t* b[2];  // high and low, BF16 panels
    int64_t b_stride;     // from panel to panel
    float* c;
    int64_t c_stride;  // bytes
    int tiles;         // of k
    bool accumulate;
    const uint8_t* ahead;  // every other quad of F16 panels to be fetched, or null
    int64_t ahead_stride;
    Block sums() const { return {nullptr, 0, nullptr, 0, c, c_stride, tiles, accumulate, 0}; }
  };

  // 32 rows, two panels.
  template <int TERMS>
  static inline void split_two_by_two(const SplitBlock& x) {
    const Block sums = x.sums();
    begin<0>(sums, 0, 0);
    begin<1>(sums, 0, 1);
    begin<2>(sums, 16, 0);
    begin<3>(sums, 16, 1);
    for (int k = 0; k < x.tiles; ++k) {
      const uint8_t *high = x.a[0] + k * 64, *low = x.a[1] + k * 64, *b = x.b[0] + k * kTileBytes;
      T::template load<6>(b, 64);
      T::template load<7>(b + x.b_stride, 64);
      T::template load<4>(high, kSplitStride);
      T::template load<5>(high + 16 * kSplitStride, kSplitStride);
      four_dots();
      T::template load<4>(low, kSplitStride);
      T::template load<5>(low + 16 * kSplitStride, kSplitStride);
      four_dots();
      if constexpr (TERMS > 1) {
        T::template load<4>(high, kSplitStride);
        T::template load<5>(high + 16 * kSplitStride, kSplitStride);
        T::template load<6>(x.b[1] + k * kTileBytes, 64);
        T::template load<7>(x.b[1] + k * kTileBytes + x.b_stride, 64);
        four_dots();
      }
    }
    T::template store<0>(sum(sums, 0, 0), x.c_stride);
    T::template store<1>(sum(sums, 0, 1), x.c_stride);
    T::template store<2>(sum(sums, 16, 0), x.c_stride);
    T::template store<3>(sum(sums, 16, 1), x.c_stride);
  }
  static inline void four_dots() {
    T::template dot<0, 4, 6>();
    T::template dot<1, 4, 7>();
    T::template dot<2, 5, 6>();
    T::template dot<3, 5, 7>();
  }

  // 16 rows, up to four panels.
  template <int TERMS, int... P>
  static inline void split_one_by(const SplitBlock& x, Panels<P...>) {
    const Block sums = x.sums();
    (begin<P>(sums, 0, P), ...);
    for (int k = 0; k < x.tiles; ++k) {
      T::template load<4>(x.a[0] + k * 64, kSplitStride);
      T::template load<5>(x.a[1] + k * 64, kSplitStride);
      if (x.ahead) (fetch_odd_quads(x.ahead + P * x.ahead_stride + k * 1024), ...);
      (split_dots<TERMS, P>(x, k), ...);
    }
    (T::template store<P>(sum(sums, 0, P), x.c_stride), ...);
  }
  static inline void fetch_odd_quads(const uint8_t* panel) {
#pragma GCC unroll 4
    for (int i = 1; i < 8; i += 2) Avx512::prefetch<Format::f16>(panel + i * 128);
  }
  template <int TERMS, int P>
  static inline void split_dots(const SplitBlock& x, int k) {
    const int64_t at = P * x.b_stride + k * kTileBytes;
    T::template load<6>(x.b[0] + at, 64);
    T::template dot<P, 4, 6>();
    T::template dot<P, 5, 6>();
    if constexpr (TERMS > 1) {
      T::template load<7>(x.b[1] + at, 64);
      T::template dot<P, 4, 7>();
    }
  }

  template <int TERMS>
  static void split_rows(SplitBlock x, int rows, int panels) {
    if (rows > 16) {
      for (; panels >= 2; panels -= 2, x.b[0] += 2 * x.b_stride, x.b[1] += 2 * x.b_stride) {
        split_two_by_two<TERMS>(x);
        x.c += 2 * kPanel;
      }
      if (panels == 0) return;
      split_one_by<TERMS>(x, Panels<0>());
      for (const uint8_t*& a : x.a) a += 16 * kSplitStride;
      x.c += 16 * (x.c_stride / 4);
      return split_one_by<TERMS>(x, Panels<0>());
    }
    for (; panels >= 4; panels -= 4, x.b[0] += 4 * x.b_stride, x.b[1] += 4 * x.b_stride) {
      split_one_by<TERMS>(x, Panels<0, 1, 2, 3>());
      x.c += 4 * kPanel;
    }
    if (panels == 3) split_one_by<TERMS>(x, Panels<0, 1, 2>());
    if (panels == 2) split_one_by<TERMS>(x, Panels<0, 1>());
    if (panels == 1) split_one_by<TERMS>(x, Panels<0>());
  }

  // A panel as tiles of high parts and, `low` bytes further, of low ones. half: of what is needed
  // next every other quad is fetched here.
  template <Format format>
  static inline void split_panel(uint8_t* to, size_t low, const uint8_t* from, const TileArgs& t,
                                 bool half) {
    if constexpr (format == Format::bf16) {  // as it is
      for (int k = 0; k < t.k; k += 32) fetch_tile(from + t.ahead + k / 32 * kTileBytes);
    } else if constexpr (format == Format::fp8) {
      widen(to, from, t.k, t.ahead);
    } else {
      using Quad = typename Avx512::template Quad<Format::f16>;
      const __m512i top = _mm512_set1_epi32(int(0xffff0000u));
      // The upper halves of both, word by word in turn.
      const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
      const __m512i upper = _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(0x20002)),
                                             _mm512_set1_epi32(0x210001));
      const auto pair = [&](__m512 even, __m512 odd) {
        return _mm512_permutex2var_epi16(_mm512_castps_si512(even), upper,
                                         _mm512_castps_si512(odd));
      };
      // Cut, not rounded: what is left of 11 bits after 8 are 3.
      const auto rest = [&](__m512 x) {
        return _mm512_sub_ps(x, _mm512_and_ps(x, _mm512_castsi512_ps(top)));
      };
      for (int k = 0; k < t.k; k += 4, from += Quad::kBytes) {
        if (!half || k % 8 == 0) Avx512::prefetch<Format::f16>(from + t.ahead);
        const Quad quad(from);
        for (int i = 0; i < 4; i += 2, to += 64) {
          const __m512 even = quad.at(i), odd = quad.at(i + 1);
          _mm512_store_si512(to, pair(even, odd));
          _mm512_store_si512(to + low, pair(rest(even), rest(odd)));
        }
      }
    }
  }

  // Rows of high and, behind all of them, of low parts.
  static constexpr int64_t kSplitLow = kSplitRows * kSplitStride;
  static inline void split_activations(uint8_t* to, const TileArgs& t, int row, int rows) {
    for (int r = 0; r < rows; ++r, to += kSplitStride) {
      const float* from = static_cast<const float*>(t.a) + (row + r) * t.a_stride;
      for (int k = 0; k < t.k; k += 32) {
        const __m512 a = _mm512_loadu_ps(from + k), b = _mm512_loadu_ps(from + k + 16);
        const __m512i high = __m512i(_mm512_cvtne2ps_pbh(b, a));
        const auto rest = [](__m512 x, __m256i rounded) {
          const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16);
          return _mm512_sub_ps(x, _mm512_castsi512_ps(wide));
        };
        const __m512 rest_a = rest(a, _mm512_castsi512_si256(high));
        const __m512 rest_b = rest(b, _mm512_extracti64x4_epi64(high, 1));
        _mm512_store_si512(to + k * 2, high);
        _mm512_store_si512(to + k * 2 + kSplitLow, __m512i(_mm512_cvtne2ps_pbh(rest_b, rest_a)));
      }
    }
  }

  template <Format format>
  static void split_tile(const TileArgs& t) {
    if (t.k % 32 != 0 || t.k > kKBlock) return by_registers(avx512_kernels(), format, t);
    constexpr bool kAsIs = format == Format::bf16;
    const int64_t panel_bytes = int64_t(t.k) * kPanel * 2;
    uint8_t* const wide = static_cast<uint8_t*>(t.scratch);
    uint8_t* const a = wide + kSplitWide;
    // Few rows wait for memory: panels by twos, so that it is asked for all the time.
    const bool half = format == Format::f16 && t.rows <= 16;
    const int most = t.rows <= 16 ? 2 : kSplitPanels;
    for (int p = 0; p < t.panels; p += most) {
      const int n = t.panels - p < most ? t.panels - p : most;
      const uint8_t* b = t.b + p * t.b_stride;
      for (int i = 0; i < n; ++i) {
        split_panel<format>(wide + i * 2 * panel_bytes, panel_bytes, b + i * t.b_stride, t, half);
      }
      for (int row = 0; row < t.rows; row += kSplitRows) {
        const int rows = t.rows - row < kSplitRows ? t.rows - row : kSplitRows;
        if (p == 0 || t.rows > kSplitRows) split_activations(a, t, row, rows);
        split_rows<kTerms<format>>({{a, a + kSplitLow},
                                    {kAsIs ? b : wide, wide + panel_bytes},
                                    kAsIs ? t.b_stride : 2 * panel_bytes,
                                    t.c + row * t.c_stride + p * kPanel,
                                    t.c_stride * 4,
                                    t.k / 32,
                                    t.accumulate,
                                    half ? b + t.ahead : nullptr,
                                    t.b_stride},
                                   rows, n);
      }
    }
  }
  // Of the scratch: high and low parts of panels; then come those of rows.
  static constexpr int64_t kSplitWide = int64_t(kSplitPanels) * kKBlock * kPanel * 2 * 2;

  static Kernels exact_table() {
    Kernels k = *avx512_kernels();
    k.isa = Isa::amx;
    k.int8 = nullptr;
    k.row_step = kSplitRows;
    k.piece_rows = 128;
    const size_t split = size_t(kSplitWide + 2 * kSplitRows * kSplitStride);
    if (k.scratch_bytes < split) k.scratch_bytes = split;
    k.enter = T::configure;
    k.leave = T::release;
    k.tile[int(Format::f16)] = split_tile<Format::f16>;
    k.tile[int(Format::bf16)] = split_tile<Format::bf16>;
    k.tile[int(Format::fp8)] = split_tile<Format::fp8>;
    return k;
  }

  static Kernels table() {
    Kernels k = rounded_table();
    static const Kernels int8 = AmxInt8<T>::table(k);
    k.int8 = &int8;
    return k;
  }
  static Kernels rounded_table() {
    Kernels k = *avx512bf16_kernels();
    k.isa = Isa::amx;
    k.int8 = nullptr;
    k.row_step = 32;
    k.few_panels = few_panels;
    k.block_panels = 16, k.block_rows = 512;
    k.resident_bytes = k.far_bytes = int64_t(1) << 20;
    k.scratch_bytes = size_t(kScratchPanels) * Base::wide_bytes(kKBlock);
    k.enter = T::configure;
    k.leave = T::release;
    k.tile[int(Format::bf16)] = tile_bf16;
    k.tile[int(Format::fp8)] = tile_fp8;
    AmxGrouped<T>::add_to(&k);
    static const Kernels exact = exact_table();
    k.exact = &exact;
    return k;
  }
};

}  // namespace nemotron::cpu
