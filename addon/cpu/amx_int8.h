// Products of weights in groups with activations of 8 bits on AMX, over the wrapper T of
// amx_body.h: a group is one product of tiles of bytes, as deep as the group, added up exactly;
// what comes then is int8_body.h's, and so are a few rows, which are bound by memory.
#pragma once

#include "cpu/amx_grouped.h"
#include "cpu/int8_body.h"
#include "cpu/simd_avx512bf16.h"

namespace nemotron::cpu {

template <class T>
struct AmxInt8 {
  using S = Avx512Bf16;
  using Few = Int8Body<S, Stream::kFar>;
  using F = S::F;
  static constexpr int kRows = 16;   // of a tile
  static constexpr int kSide = 2;    // panels that go by together: rows come once for both
  static constexpr int kAtOnce = 4;  // groups whose products are under way together

  struct Panel {
    alignas(64) uint8_t tiles[kKBlock * kPanel];  // four k of each output, with a sign
    float scale[kKBlock / 16][kPanel], least[kKBlock / 16][kPanel];  // of each group
  };
  struct Scratch {
    Panel panels[kSide];
    alignas(64) int32_t group_sums[kAtOnce][kRows][kPanel];
  };

  template <Format format>
  static void tile(const TileArgs& t) {
    if (t.rows <= Few::kCodedRows) return Few::template tile<format>(t);
    if constexpr (format == Format::i4) {
      if (!t.groups->is_consecutive) return products<format, true>(t);
    }
    products<format, false>(t);
  }

  template <Format format, bool kTable>
  static void products(const TileArgs& t) {
    T::shape(t.groups->group);
    auto* const s = static_cast<Scratch*>(t.scratch);
    for (int first = 0; first < t.panels; first += kSide) {
      const int panels = t.panels - first < kSide ? t.panels - first : kSide;
      for (int i = 0; i < panels; ++i) unpack<format, kTable>(t, first + i, s->panels + i);
      for (int row = 0; row < t.rows; row += kRows) {
        for (int i = 0; i < panels; ++i) {
          t.groups->group == 32 ? rows_of<32>(t, row, first + i, s->panels[i], s)
                                : rows_of<16>(t, row, first + i, s->panels[i], s);
        }
      }
    }
    T::shape(64);
  }

  template <Format format, bool kTable>
  static void unpack(const TileArgs& t, int panel, Panel* to) {
    auto w = Few::template Coded<format, kTable>::alone(t, panel);
    constexpr bool kSigned = kTable || format == Format::i8;
    const int offset = kSigned ? S::kByteOffset : -int(t.groups->numbers[0]);
    const __m512i by = _mm512_set1_epi8(char(offset));
    uint8_t* out = to->tiles;
    for (int k = 0, group = 0; k < t.k; k += kGroupedChunk, out += kGroupedChunk * kPanel) {
      w.template chunk<1>(k);
      quads<0>(w, by, out);
      for (int i = 0; i < kGroupedChunk / t.groups->group; ++i, ++group) {
        const auto s = w.scale(0, i);
        S::store(to->scale[group], s.by);
        S::store(to->least[group], s.least);
      }
    }
  }
  template <int QUAD, class Weights>
  [[gnu::always_inline]] static inline void quads(const Weights& w, __m512i by, uint8_t* out) {
    S::store_bytes(out + QUAD * 64, _mm512_sub_epi8(w.template bytes<QUAD>(0), by));
    if constexpr (QUAD + 1 < 8) quads<QUAD + 1>(w, by, out);
  }

  // 16 rows, or those that are left, times an unpacked panel.
  template <int GROUP>
  static void rows_of(const TileArgs& t, int row, int panel, const Panel& b, Scratch* s) {
    const int rows = t.rows - row;
    if (t.groups->has_least) {
      if (rows > 8) return block<true, GROUP, 16>(t, row, panel, b, s);
      return block<true, GROUP, 8>(t, row, panel, b, s);
    }
    if (rows > 8) return block<false, GROUP, 16>(t, row, panel, b, s);
    block<false, GROUP, 8>(t, row, panel, b, s);
  }
  template <bool kLeast, int GROUP, int ROWS>
  static void block(const TileArgs& t, int row, int panel, const Panel& b, Scratch* s) {
    float* c = t.c + row * t.c_stride + panel * kPanel;
    F sum[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) sum[r] = t.accumulate ? S::load(c + r * t.c_stride) : S::zero();
    const Int8Row& a = Few::row_of(t, row);
    const int8_t* codes = a.codes + t.int8_from;
    const int groups = t.k / GROUP;
    // The products that come next are begun before the last ones are added up: neither waits.
    int group = 0;
    if (groups >= kAtOnce) {
      begin<GROUP, 0, 1, 2, 3>(codes, t.a_stride, b, 0);
      store<0, 1, 2, 3>(s);
      for (group = kAtOnce; group + kAtOnce <= groups; group += kAtOnce) {
        begin<GROUP, 0, 1, 2, 3>(codes, t.a_stride, b, group);
        add_parts<kLeast, GROUP, ROWS, 0, 1, 2, 3>(sum, t, a, b, group - kAtOnce, s);
        store<0, 1, 2, 3>(s);
      }
      add_parts<kLeast, GROUP, ROWS, 0, 1, 2, 3>(sum, t, a, b, group - kAtOnce, s);
    }
    for (; group < groups; ++group) {
      begin<GROUP, 0>(codes, t.a_stride, b, group);
      store<0>(s);
      add_parts<kLeast, GROUP, ROWS, 0>(sum, t, a, b, group, s);
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) S::store(c + r * t.c_stride, sum[r]);
  }

  // Tile I = the sum of group `group` + I of 16 rows; then to s->group_sums[I].
  template <int GROUP, int... I>
  static inline void begin(const int8_t* a, int64_t stride, const Panel& b, int group) {
    (begin_one<GROUP, I>(a, stride, b, group + I), ...);
  }
  template <int GROUP, int I>
  static inline void begin_one(const int8_t* a, int64_t stride, const Panel& b, int group) {
    T::template zero<I>();
    T::template load<4 + I % 2>(a + group * GROUP, stride);
    T::template load<6 + I % 2>(b.tiles + group * GROUP * kPanel, 64);
    T::template dot_int8<I, 4 + I % 2, 6 + I % 2>();
  }
  template <int... I>
  static inline void store(Scratch* s) {
    (T::template store<I>(s->group_sums[I], kPanel * 4), ...);
  }

  template <bool kLeast, int GROUP, int ROWS, int... I>
  static inline void add_parts(F (&sum)[ROWS], const TileArgs& t, const Int8Row& a, const Panel& b,
                               int group, const Scratch* s) {
    (add_part<kLeast, GROUP, ROWS>(sum, t, a, b, group + I, s->group_sums[I]), ...);
  }
  template <bool kLeast, int GROUP, int ROWS>
  static inline void add_part(F (&sum)[ROWS], const TileArgs& t, const Int8Row& a, const Panel& b,
                              int group, const int32_t (&sums)[kRows][kPanel]) {
    const F by = S::load(b.scale[group]), least = S::load(b.least[group]);
    const int k = t.int8_from + group * GROUP;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Int8Row& of = Few::row_after(a, r * t.a_stride);
      const F scale = S::set1(of.scale[k / 32]);
      const F x = S::to_float(_mm512_load_si512(sums[r]));
      F minus = S::zero();
      if constexpr (kLeast) {
        minus = S::set1(GROUP == 32 ? of.minus_32[k / 32] : of.minus_16[k / 16]);
      }
      sum[r] = S::fma(Few::template group_of<kLeast>(x, minus, {by, least}), scale, sum[r]);
    }
  }

  static Kernels table(const Kernels& base) {
    Kernels k = Few::table(base);
    k.few_panels = [](Format format, int rows) {
      return rows <= Few::kCodedRows ? Few::few_panels(format, rows) : rows <= 32 ? 6 : 0;
    };
    if (k.scratch_bytes < sizeof(Scratch)) k.scratch_bytes = sizeof(Scratch);
    k.tile[int(Format::i4)] = tile<Format::i4>;
    k.tile[int(Format::i5)] = tile<Format::i5>;
    k.tile[int(Format::i6)] = tile<Format::i6>;
    k.tile[int(Format::i8)] = tile<Format::i8>;
    return k;
  }
};

}  // namespace nemotron::cpu
