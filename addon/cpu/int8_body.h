// Products of weights in groups with activations of 8 bits (kernels.h: Int8Row), over a vector
// wrapper S. Included by kernels_*.cc only; the rules of kernel_body.h hold.
//
// The products of a group's codes are whole numbers, added up exactly, so any instruction may add
// them in any order. Then, in float32 and in this order, the same for any number of rows and on
// every instruction set:
//   x = sum + offset * minus the activations' codes        exact, below 2^24
//   y = x * scale of the group, + least of the group * minus the activations' codes
//   row += y * scale of the activations
// where the offset is that of a byte over what its code stands for: bytes have no sign.
#pragma once

#include "cpu/kernel_body.h"

namespace nemotron::cpu {

// kFar: how far ahead few rows fetch weights, a line at a time: bytes, as Stream (amx_grouped.h)
// has them, or kNextCall. 0: what the next call reads, a chunk at a time.
constexpr int kNextCall = INT32_MAX;
template <class S, int kFar = 0>
struct Int8Body {
  using Base = Body<S>;
  using F = typename S::F;
  using I = typename S::I;
  using Bytes = typename S::Bytes;
  using Scale = typename Base::Scale;
  using ChunkAt = typename Base::ChunkAt;

  // Rows that decode the weights as they multiply.
  static constexpr int kCodedRows = S::kInt8Rows;
  // Panels side by side, of that many rows: sums are twice in registers.
  static constexpr int panels(int rows) { return S::int8_panels(rows); }
  static int few_panels(Format, int rows) {
    if (rows > kCodedRows) return 0;
    return panels(rows) % 2 ? 2 * panels(rows) : panels(rows);
  }

  static inline const Int8Row& row_of(const TileArgs& t, int row) {
    return *reinterpret_cast<const Int8Row*>(static_cast<const uint8_t*>(t.a) + row * t.a_stride);
  }

  // --- where weights come from ---

  // As they are stored.
  template <Format format, bool kTable>
  struct Coded {
    const TileArgs& t;
    const typename S::template ByteCodes<format, kTable> codes;
    const uint8_t* b;
    const int64_t ahead;  // of kFar: from its first byte to what is read after it
    ChunkAt at;
    int64_t far = 0;
    // Panels that are read side by side from `panel` on.
    inline Coded(const TileArgs& of, int panel) : Coded(of, panel, of.ahead) {}
    // A panel that the next one follows.
    static inline Coded alone(const TileArgs& t, int panel) {
      const bool last = panel + 1 == t.panels;
      return {t, panel, last ? t.ahead - panel * t.b_stride : t.b_stride};
    }
    inline Coded(const TileArgs& of, int panel, int64_t to_next)
        : t(of), codes(*of.groups), b(of.b + panel * of.b_stride), ahead(to_next) {}
    template <int PANELS>
    inline void chunk(int k) {
      at = Base::template chunk_at<format>(t, b, t.skip + k);
      if constexpr (kFar > 0) {
        const int64_t bytes = t.k / kGroupedBlock * t.groups->block_bytes, here = at.block - b;
        far = kFar == kNextCall ? ahead : here + kFar < bytes ? kFar : kFar - bytes + ahead;
        const int64_t line = (t.skip + k) % kGroupedBlock / kGroupedChunk * 64;
        if (line >= t.groups->scales_bytes) return;
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) S::fetch(at.block + p * t.b_stride + far + line);
      } else {
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) Base::template fetch_ahead<format>(t, at, p);
      }
    }
    template <int QUAD>
    [[gnu::always_inline]] inline Bytes bytes(int p) const {
      const uint8_t* from = at.codes + p * t.b_stride;
      if constexpr (kFar > 0 && QUAD < format_bits(format)) S::fetch(from + far + QUAD * 64);
      return codes.template load<QUAD>(from);
    }
    inline Scale scale(int p, int group) const {
      const Groups& g = *t.groups;
      Scale of = Base::scale_of(g, at.block + p * t.b_stride, at.first_group + group);
      if constexpr (kTable) of.by = S::mul(of.by, S::set1(g.unit));
      return of;
    }
  };

  // A panel of k weights that was decoded: four k of bytes after the other, then the groups' scales
  // and least values.
  static constexpr size_t decoded_scales(int k) { return size_t(k) / 16 * kPanel * sizeof(float); }
  static constexpr size_t decoded_bytes(int k) {
    return size_t(k) * kPanel + 2 * decoded_scales(k);
  }
  struct Decoded {
    const TileArgs& t;
    const uint8_t* b;
    const uint8_t* codes = nullptr;
    const float* scales = nullptr;
    template <int>
    inline void chunk(int k) {
      codes = b + k * kPanel;
      scales = reinterpret_cast<const float*>(b + t.k * kPanel) + k / t.groups->group * kPanel;
    }
    template <int QUAD>
    [[gnu::always_inline]] inline Bytes bytes(int p) const {
      return S::load_bytes(codes + size_t(p) * decoded_bytes(t.k) + QUAD * 4 * kPanel);
    }
    inline Scale scale(int p, int group) const {
      const float* of = scales + size_t(p) * (decoded_bytes(t.k) / sizeof(float)) + group * kPanel;
      return {S::load(of), S::load(of + decoded_scales(t.k) / sizeof(float))};
    }
  };
  template <Format format, bool kTable>
  static void decode(const TileArgs& t, int panel, uint8_t* out) {
    auto w = Coded<format, kTable>::alone(t, panel);
    float* scales = reinterpret_cast<float*>(out + t.k * kPanel);
    float* least = scales + decoded_scales(t.k) / sizeof(float);
    for (int k = 0; k < t.k; k += kGroupedChunk, out += kGroupedChunk * kPanel) {
      w.template chunk<1>(k);
      decode_quads<0>(w, out);
      for (int i = 0; i < kGroupedChunk / t.groups->group; ++i, scales += kPanel, least += kPanel) {
        const Scale s = w.scale(0, i);
        S::store(scales, s.by);
        S::store(least, s.least);
      }
    }
  }
  template <int QUAD, class Weights>
  [[gnu::always_inline]] static inline void decode_quads(const Weights& w, uint8_t* out) {
    S::store_bytes(out + QUAD * 4 * kPanel, w.template bytes<QUAD>(0));
    if constexpr (QUAD + 1 < 8) decode_quads<QUAD + 1>(w, out);
  }

  // --- products ---

  // A group's codes and least values with its scales; the activations' is still to come.
  template <bool kLeast>
  static inline F group_of(F x, F minus, const Scale& scale) {
    if constexpr (!kLeast) return S::mul(x, scale.by);
    return S::fma(x, scale.by, S::mul(scale.least, minus));
  }

  // Of a call: codes that may be below zero, and a least value.
  template <bool kSigned, bool kLeast>
  struct Kind {
    template <int ROWS, int PANELS, int QUAD, int END, class Weights>
    [[gnu::always_inline]] static inline void quads(I (&acc)[ROWS][PANELS], const TileArgs& t,
                                                    const Int8Row& a, int at, const Weights& w) {
      Bytes b[PANELS];
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) b[p] = w.template bytes<QUAD>(p);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const int8_t* codes = a.codes + r * t.a_stride + at + QUAD * 4;
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) {
          acc[r][p] = S::template dot4<kSigned>(acc[r][p], b[p], codes);
        }
      }
      if constexpr (QUAD + 1 < END) {
        quads<ROWS, PANELS, QUAD + 1, END>(acc, t, a, at, w);
      }
    }

    // The group of quads [QUAD, END) of the chunk at `at` of the rows' block.
    template <int ROWS, int PANELS, int QUAD, int END, class Weights>
    [[gnu::always_inline]] static inline void group(F (&sum)[ROWS][PANELS], F offset,
                                                    const TileArgs& t, const Int8Row& a, int at,
                                                    const Weights& w) {
      I acc[ROWS][PANELS];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) acc[r][p] = S::int_zero();
      }
      quads<ROWS, PANELS, QUAD, END>(acc, t, a, at, w);
      Scale scale[PANELS];
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) scale[p] = w.scale(p, QUAD > 0 ? 1 : 0);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const Int8Row& of = row_after(a, r * t.a_stride);
        const F by = S::set1(of.scale[at / 32]);
        const F minus = S::set1(END - QUAD == 8 ? of.minus_32[at / 32]
                                                : of.minus_16[at / 16 + (QUAD > 0 ? 1 : 0)]);
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) {
          const F x = S::fma(offset, minus, S::to_float(acc[r][p]));
          sum[r][p] = S::fma(group_of<kLeast>(x, minus, scale[p]), by, sum[r][p]);
        }
      }
    }

    // ROWS rows from `row` on, PANELS panels from `panel` on, all of the call's k.
    template <int ROWS, int PANELS, class Weights>
    static inline void product(const TileArgs& t, int row, int panel, Weights w) {
      float* c = t.c + row * t.c_stride + panel * kPanel;
      F sum[ROWS][PANELS];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) {
          sum[r][p] = t.accumulate ? S::load(c + r * t.c_stride + p * kPanel) : S::zero();
        }
      }
      const Int8Row& a = row_of(t, row);
      const F offset = S::set1(kSigned ? float(S::kByteOffset) : -t.groups->numbers[0]);
      for (int k = 0; k < t.k; k += kGroupedChunk) {
        w.template chunk<PANELS>(k);
        if (t.groups->group == 32) {
          group<ROWS, PANELS, 0, 8>(sum, offset, t, a, t.int8_from + k, w);
        } else {
          group<ROWS, PANELS, 0, 4>(sum, offset, t, a, t.int8_from + k, w);
          group<ROWS, PANELS, 4, 8>(sum, offset, t, a, t.int8_from + k, w);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) S::store(c + r * t.c_stride + p * kPanel, sum[r][p]);
      }
    }

    template <Format format, bool kTable, int ROWS>
    static void coded(const TileArgs& t) {
      if constexpr (ROWS > 0) {
        if (t.rows < ROWS) return coded<format, kTable, ROWS - 1>(t);
        constexpr int kPanels = panels(ROWS);
        int p = 0;
        for (; p + kPanels <= t.panels; p += kPanels) {
          product<ROWS, kPanels>(t, 0, p, Coded<format, kTable>(t, p));
        }
        for (; p < t.panels; ++p) product<ROWS, 1>(t, 0, p, Coded<format, kTable>(t, p));
      }
    }

    // Panels [panel, panel + n), which the call's scratch has.
    template <int ROWS>
    static void decoded(const TileArgs& t, int row, int rows, int panel, int n) {
      if constexpr (ROWS > 0) {
        if (rows < ROWS) return decoded<ROWS - 1>(t, row, rows, panel, n);
        constexpr int kPanels = panels(ROWS);
        const auto* b = static_cast<const uint8_t*>(t.scratch);
        int p = 0;
        for (; p + kPanels <= n; p += kPanels, b += kPanels * decoded_bytes(t.k)) {
          product<ROWS, kPanels>(t, row, panel + p, Decoded{t, b});
        }
        for (; p < n; ++p, b += decoded_bytes(t.k)) {
          product<ROWS, 1>(t, row, panel + p, Decoded{t, b});
        }
      }
    }

    template <Format format, bool kTable>
    static void tile(const TileArgs& t) {
      if (t.rows <= kCodedRows) return coded<format, kTable, kCodedRows>(t);
      const int blocks = (t.rows + S::kInt8Rows - 1) / S::kInt8Rows;
      for (int panel = 0; panel < t.panels; panel += kDecodedPanels) {
        const int n = t.panels - panel < kDecodedPanels ? t.panels - panel : kDecodedPanels;
        auto* const to = static_cast<uint8_t*>(t.scratch);
        for (int p = 0; p < n; ++p) {
          decode<format, kTable>(t, panel + p, to + size_t(p) * decoded_bytes(t.k));
        }
        for (int i = 0, row = 0; i < blocks; ++i) {
          const int rows = (t.rows - row + blocks - i - 1) / (blocks - i);
          decoded<S::kInt8Rows>(t, row, rows, panel, n);
          row += rows;
        }
      }
    }
  };
  // As many stay in the first-level cache, decoded.
  static constexpr int kDecodedPanels = 2;
  static inline const Int8Row& row_after(const Int8Row& a, int64_t bytes) {
    return *reinterpret_cast<const Int8Row*>(a.codes + bytes);
  }

  template <Format format, bool kTable>
  static void tile_of(const TileArgs& t) {
    constexpr bool kSigned = kTable || format == Format::i8;
    if (t.groups->has_least) return Kind<kSigned, true>::template tile<format, kTable>(t);
    Kind<kSigned, false>::template tile<format, kTable>(t);
  }
  template <Format format>
  static void tile(const TileArgs& t) {
    if constexpr (format == Format::i4) {
      if (!t.groups->is_consecutive) return tile_of<format, true>(t);
    }
    tile_of<format, false>(t);
  }

  // Kernels::round_int8.
  static void round_int8(Int8Row* out, const float* x, const float* gain, float r, int64_t n,
                         int64_t padded) {
    const F by = S::set1(r), zero = S::zero();
    for (int64_t i = 0; i < padded; i += 32) {
      const F a = Base::scaled(x + i, gain ? gain + i : nullptr, by, n - i);
      const F b = Base::scaled(x + i + 16, gain ? gain + i + 16 : nullptr, by, n - i - 16);
      const F most = S::max(S::max(a, S::sub(zero, a)), S::max(b, S::sub(zero, b)));
      const float peak = S::max_lane(most);
      const float none = S::sum(S::fma(a, zero, S::mul(b, zero)));  // NaN if any is not finite
      const bool any = peak > 1e-30f && none == 0;
      const F to = S::set1(any ? 127.0f / peak : 0.0f);
      const F low = S::nearest(S::mul(any ? a : zero, to));
      const F high = S::nearest(S::mul(any ? b : zero, to));
      S::store_codes(out->codes + i, low);
      S::store_codes(out->codes + i + 16, high);
      const float first = -S::sum(low), second = -S::sum(high);
      out->scale[i / 32] = any ? peak / 127.0f : none;
      out->minus_16[i / 16] = first;
      out->minus_16[i / 16 + 1] = second;
      out->minus_32[i / 32] = first + second;
    }
  }

  // `base`, but weights in groups take Int8Row.
  static Kernels table(const Kernels& base) {
    Kernels k = base;
    k.few_panels = few_panels;
    k.tile[int(Format::i4)] = tile<Format::i4>;
    k.tile[int(Format::i5)] = tile<Format::i5>;
    k.tile[int(Format::i6)] = tile<Format::i6>;
    k.tile[int(Format::i8)] = tile<Format::i8>;
    for (const Format f : {Format::i4, Format::i5, Format::i6, Format::i8}) {
      k.takes[int(f)] = Activations::int8;
    }
    k.round_int8 = round_int8;
    const size_t scratch = kDecodedPanels * decoded_bytes(kKBlock);
    if (k.scratch_bytes < scratch) k.scratch_bytes = scratch;
    return k;
  }
};

}  // namespace nemotron::cpu
