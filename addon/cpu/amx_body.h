// The tile products of BF16 and FP8 weights on AMX, over a wrapper T of its instructions:
//   configure(), release()     all eight tiles [16 rows][64 bytes]
//   zero<t>, load<t>(from, stride in bytes), store<t>(to, stride in bytes), dot<c, a, b>
// amx_tiles.h has the instructions; the op suite runs the same source over an emulation, since few
// machines have them. Everything else is Avx512Bf16's.
//
// Rows go in blocks of 32, panels in pairs: four sums, two tiles of activations, two of weights. A
// last block of at most 16 rows takes up to four panels at a time instead, so that a step of few
// rows reads several streams. Every sum adds its tiles of 32 along k in order, whichever way.
#pragma once

#include <cstdint>

#include "cpu/kernel_body.h"
#include "cpu/simd_avx512bf16.h"

namespace nemotron::cpu {

template <class T>
struct AmxBody {
  using Base = Body<Avx512Bf16>;
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
      T::template load<4>(a + k * 64, x.a_stride);
      T::template dot<0, 4, 6>();
      T::template load<7>(x.b + x.b_stride + k * kTileBytes, 64);
      T::template dot<1, 4, 7>();
      T::template load<5>(a + 16 * x.a_stride + k * 64, x.a_stride);
      T::template dot<2, 5, 6>();
      T::template dot<3, 5, 7>();
      ahead->fetch();
    }
    T::template store<0>(sum(x, 0, 0), x.c_stride);
    T::template store<1>(sum(x, 0, 1), x.c_stride);
    T::template store<2>(sum(x, 16, 0), x.c_stride);
    T::template store<3>(sum(x, 16, 1), x.c_stride);
  }

  // 16 rows, 1 to 4 panels: tiles 0..3 the sums, 4 the activations, 5 to 7 the weights in turn.
  template <int PANELS, bool stream>
  static void one_by(const Block& x) {
    begin<0>(x, 0, 0);
    if constexpr (PANELS > 1) begin<1>(x, 0, 1);
    if constexpr (PANELS > 2) begin<2>(x, 0, 2);
    if constexpr (PANELS > 3) begin<3>(x, 0, 3);
    const uint8_t* a = reinterpret_cast<const uint8_t*>(x.a);
    for (int k = 0; k < x.tiles; ++k) {
      const uint8_t* b = x.b + k * kTileBytes;
      if constexpr (stream) {
        for (int p = 0; p < PANELS; ++p) fetch_tile(b + p * x.b_stride + x.ahead);
      }
      T::template load<4>(a + k * 64, x.a_stride);
      T::template load<5>(b, 64);
      T::template dot<0, 4, 5>();
      if constexpr (PANELS > 1) {
        T::template load<6>(b + x.b_stride, 64);
        T::template dot<1, 4, 6>();
      }
      if constexpr (PANELS > 2) {
        T::template load<7>(b + 2 * x.b_stride, 64);
        T::template dot<2, 4, 7>();
      }
      if constexpr (PANELS > 3) {
        T::template load<5>(b + 3 * x.b_stride, 64);
        T::template dot<3, 4, 5>();
      }
    }
    T::template store<0>(sum(x, 0, 0), x.c_stride);
    if constexpr (PANELS > 1) T::template store<1>(sum(x, 0, 1), x.c_stride);
    if constexpr (PANELS > 2) T::template store<2>(sum(x, 0, 2), x.c_stride);
    if constexpr (PANELS > 3) T::template store<3>(sum(x, 0, 3), x.c_stride);
  }

  template <bool stream>
  static void one_row_block(Block x, int panels) {
    for (; panels > 0; panels -= 4, x.b += 4 * x.b_stride, x.c += 4 * kPanel) {
      if (panels >= 4) {
        one_by<4, stream>(x);
      } else if (panels == 3) {
        one_by<3, stream>(x);
      } else if (panels == 2) {
        one_by<2, stream>(x);
      } else {
        one_by<1, stream>(x);
      }
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
    int row = 0;
    for (; row + 16 < t.rows; row += 32) {
      Block y = x;
      y.a += row * t.a_stride;
      y.c += row * t.c_stride;
      int p = 0;
      for (; p + 2 <= panels; p += 2, y.b += 2 * b_stride, y.c += 2 * kPanel) two_by_two(y, ahead);
      if (p < panels) {
        one_by<1, false>(y);
        y.a += 16 * t.a_stride;
        y.c += 16 * t.c_stride;
        one_by<1, false>(y);
      }
    }
    if (row < t.rows) {
      x.a += row * t.a_stride;
      x.c += row * t.c_stride;
      one_row_block<stream>(x, panels);
    }
  }

  static Ahead ahead_of(const TileArgs& t, size_t panel_bytes) {
    Ahead n;
    if (t.ahead == 0) return n;
    n.at = t.b + t.ahead;
    n.step = t.b_stride;
    n.left = n.lines = int(panel_bytes / 64);
    n.panels = t.panels;
    const int times = (t.rows + 15) / 32 * (t.panels / 2) * (t.k / 32);
    n.each = times > 0 ? (n.lines * n.panels + times - 1) / times : 0;
    return n;
  }

  static void tile_bf16(const TileArgs& t) {
    if (t.k % 32 != 0) return Base::template tile<Format::bf16>(t);
    Ahead ahead = ahead_of(t, size_t(t.k) * kPanel * 2);
    if (t.rows <= 16) {
      products<true>(t, t.b, t.b_stride, 0, t.panels, &ahead);
    } else {
      products<false>(t, t.b, t.b_stride, 0, t.panels, &ahead);
    }
  }

  // Widened into the scratch first: a few panels at a time when few rows use them.
  static void tile_fp8(const TileArgs& t) {
    if (t.k % 32 != 0 || t.k > kKBlock) return Base::template tile<Format::fp8>(t);
    Ahead ahead = ahead_of(t, size_t(t.k) * kPanel);
    uint8_t* wide = static_cast<uint8_t*>(t.scratch);
    const int64_t stride = int64_t(t.k) * kPanel * 2;
    const int most = t.rows <= 32 ? 4 : kScratchPanels;
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

  static Kernels table() {
    Kernels k = Base::table(Isa::amx);
    k.row_step = 32;
    k.panel_group = 4;
    k.few_panels = [](int rows) { return rows <= 32 ? 4 : 0; };
    k.block_panels = 16, k.block_rows = 1024;
    k.scratch_bytes = size_t(kScratchPanels) * Base::wide_bytes(kKBlock);
    k.enter = T::configure;
    k.leave = T::release;
    k.tile[int(Format::bf16)] = tile_bf16;
    k.tile[int(Format::fp8)] = tile_fp8;
    return k;
  }
};

}  // namespace nemotron::cpu
