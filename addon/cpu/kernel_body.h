// The kernels, written once over a vector wrapper S (see simd_plain.h). Included by kernels_*.cc
// only. No call to an inline function of the standard library or of ours outside S: the linker
// could keep the copy that was compiled for a newer processor than the one that runs.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/quantise_body.h"

namespace nemotron::cpu {

template <class S>
struct Body {
  using F = typename S::F;

  // --- matrix tiles ---

  // ROWS rows by PANELS panels in registers, all of k.
  template <Format format, int ROWS, int PANELS>
  static inline void micro(const TileArgs& t, int row, int panel) {
    using Quad = typename S::template Quad<format>;
    const uint8_t* b = t.b + panel * t.b_stride;
    float* c = t.c + row * t.c_stride + panel * kPanel;
    F acc[ROWS][PANELS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 16
      for (int p = 0; p < PANELS; ++p) {
        acc[r][p] = t.accumulate ? S::load(c + r * t.c_stride + p * kPanel) : S::zero();
      }
    }
    const int quads = t.k / 4;
    if constexpr (S::kDot && (format == Format::bf16 || format == Format::fp8)) {
      const uint16_t* a = static_cast<const uint16_t*>(t.a) + row * t.a_stride;
      for (int k = 0; k < quads; ++k, b += Quad::kBytes, a += 4) {
        typename S::Pairs w[PANELS][2];
#pragma GCC unroll 16
        for (int p = 0; p < PANELS; ++p) {
          S::template prefetch<format>(b + p * t.b_stride + t.ahead);
          S::template load_pairs<format>(b + p * t.b_stride, w[p]);
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 16
          for (int r = 0; r < ROWS; ++r) {
            const typename S::Pairs pair = S::broadcast_pair(a + r * t.a_stride + i * 2);
#pragma GCC unroll 16
            for (int p = 0; p < PANELS; ++p) acc[r][p] = S::dot(acc[r][p], pair, w[p][i]);
          }
        }
      }
    } else {
      const float* a = static_cast<const float*>(t.a) + row * t.a_stride;
      for (int k = 0; k < quads; ++k, b += Quad::kBytes, a += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          F w[PANELS];
#pragma GCC unroll 16
          for (int p = 0; p < PANELS; ++p) {
            if (i == 0) S::template prefetch<format>(b + p * t.b_stride + t.ahead);
            w[p] = Quad(b + p * t.b_stride).at(i);
          }
#pragma GCC unroll 16
          for (int r = 0; r < ROWS; ++r) {
            const F x = S::set1(a[r * t.a_stride + i]);
#pragma GCC unroll 16
            for (int p = 0; p < PANELS; ++p) acc[r][p] = S::fma(x, w[p], acc[r][p]);
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 16
      for (int p = 0; p < PANELS; ++p) S::store(c + r * t.c_stride + p * kPanel, acc[r][p]);
    }
  }

  template <Format format, int ROWS, int PANELS>
  static void all_panels(const TileArgs& t, int row) {
    int p = 0;
    for (; p + PANELS <= t.panels; p += PANELS) micro<format, ROWS, PANELS>(t, row, p);
    for (; p < t.panels; ++p) micro<format, ROWS, 1>(t, row, p);
  }

  // `rows` rows, at most ROWS, which counts down to it.
  template <Format format, int ROWS>
  static void row_block(const TileArgs& t, int row, int rows) {
    if constexpr (ROWS > 0) {
      if (rows < ROWS) return row_block<format, ROWS - 1>(t, row, rows);
      all_panels<format, ROWS, S::panels(ROWS)>(t, row);
    }
  }

  static constexpr int kWidePanels = Kernels{}.block_panels;  // that the scratch holds, of kKBlock

  // FP8 takes longer to widen than to multiply: for more rows than go through a panel at once it is
  // widened once for all of them, as many panels at a time as the scratch holds. The bits are the
  // same.
  static void widened_fp8(const TileArgs& t) {
    using Quad = typename S::template Quad<Format::fp8>;
    const size_t panel_bytes = size_t(t.k) * kPanel * sizeof(float);
    const int room = int(kWidePanels * wide_values(kKBlock) / panel_bytes);
    for (int first = 0; first < t.panels; first += room) {
      TileArgs part = t;
      part.panels = t.panels - first < room ? t.panels - first : room;
      part.b = static_cast<const uint8_t*>(t.scratch);
      part.b_stride = int64_t(panel_bytes);
      part.ahead = 0;
      part.c = t.c + first * kPanel;
      float* to = static_cast<float*>(t.scratch);
      for (int p = first; p < first + part.panels; ++p) {
        const uint8_t* b = t.b + p * t.b_stride;
        for (int k = 0; k < t.k; k += 4, b += Quad::kBytes) {
          S::template prefetch<Format::fp8>(b + t.ahead);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i, to += kPanel) S::store(to, Quad(b).at(i));
        }
      }
      tile<Format::f32>(part);
    }
  }

  // Blocks of about the same height: 16 rows are 8 and 8, since 12 and 4 would do the 4 slowly.
  template <Format format>
  static void tile(const TileArgs& t) {
    if constexpr (format == Format::fp8 && !S::kDot) {
      if (t.rows > S::kRows) return widened_fp8(t);
    }
    const int blocks = (t.rows + S::kRows - 1) / S::kRows;
    for (int i = 0, row = 0; i < blocks; ++i) {
      const int rows = (t.rows - row + blocks - i - 1) / (blocks - i);
      row_block<format, S::kRows>(t, row, rows);
      row += rows;
    }
  }

  // --- tiles of weights in groups ---
  // Every group's sum begins at zero, takes its k in order, and goes to the row's sum times its
  // scale. Up to kCodedRows rows decode the weights as they multiply. As many as go through a panel
  // at once have a chunk decoded at a time, which stays in the first-level cache; more have all of
  // it decoded once. The bits are the same.

  static constexpr int kCodedRows = 4;
  static constexpr size_t kWideElement = S::kDot ? 2 : 4;
  // Of a panel of k weights that was decoded: values, then scale and least value of every 16.
  static constexpr size_t wide_values(int k) { return size_t(k) * kPanel * kWideElement; }
  static constexpr size_t wide_scales(int k) { return size_t(k) / 16 * kPanel * sizeof(float); }
  static constexpr size_t wide_bytes(int k) { return wide_values(k) + 2 * wide_scales(k); }

  struct Scale {
    F by, least;
  };
  // Of group `i` of the block.
  static inline Scale scale_of(const Groups& g, const uint8_t* block, int i) {
    using Half = typename S::template Quad<Format::f16>;
    if (!g.has_steps) {
      return {Half(block + i * 32).at(0),
              g.has_least ? Half(block + 128 + i * 32).at(0) : S::zero()};
    }
    const uint8_t* steps = block + (g.has_least ? 64 : 32);
    const F by = S::mul(Half(block).at(0), S::from_int8(steps + i * kPanel));
    if (!g.has_least) return {by, S::zero()};
    steps += kGroupedBlock / g.group * kPanel;
    return {by, S::mul(Half(block + 32).at(0), S::from_int8(steps + i * kPanel))};
  }
  // What a group's least value is multiplied by for a row.
  static inline F group_sum(const TileArgs& t, int row, int k) {
    const float* sum = t.sums + k / 16 * t.sums_stride + row;
    return S::set1(t.groups->group == 16 ? sum[0] : sum[0] + sum[t.sums_stride]);
  }
  template <bool kLeast, int ROWS, int PANELS>
  static inline void add_group(const TileArgs& t, int row, int k, float* c,
                               const F (&acc)[ROWS][PANELS], const Scale (&scale)[PANELS]) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r, c += t.c_stride) {
      F of_row = S::zero();
      if constexpr (kLeast) of_row = group_sum(t, row + r, k);
#pragma GCC unroll 16
      for (int p = 0; p < PANELS; ++p) {
        F sum = S::fma(acc[r][p], scale[p].by, S::load(c + p * kPanel));
        if constexpr (kLeast) sum = S::fma(scale[p].least, of_row, sum);
        S::store(c + p * kPanel, sum);
      }
    }
  }

  // Four k, with their weights w [PANELS].at(i) or pairs. Which four has to be known where it is
  // compiled: a shift by it is an instruction then.
  template <int ROWS, int PANELS, class Weights>
  [[gnu::always_inline]] static inline void four(F (&acc)[ROWS][PANELS], const void* a,
                                                 int64_t stride, const Weights (&w)[PANELS]) {
    if constexpr (S::kDot) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
          const auto x = S::broadcast_pair(static_cast<const uint16_t*>(a) + r * stride + i * 2);
#pragma GCC unroll 16
          for (int p = 0; p < PANELS; ++p) acc[r][p] = S::dot(acc[r][p], x, w[p].w[i]);
        }
      }
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        F v[PANELS];
#pragma GCC unroll 16
        for (int p = 0; p < PANELS; ++p) v[p] = w[p].at(i);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
          const F x = S::set1(static_cast<const float*>(a)[r * stride + i]);
#pragma GCC unroll 16
          for (int p = 0; p < PANELS; ++p) acc[r][p] = S::fma(x, v[p], acc[r][p]);
        }
      }
    }
  }
  static inline const uint8_t* at_k(const TileArgs& t, int row, int k) {
    return static_cast<const uint8_t*>(t.a) + (row * t.a_stride + k) * int64_t(kWideElement);
  }

  // Chunk `at` of a call's first panel, which begins with a block: its block and its codes.
  struct ChunkAt {
    const uint8_t* block;
    const uint8_t* codes;
    int first_group;  // of the block
  };
  template <Format format>
  static inline ChunkAt chunk_at(const TileArgs& t, const uint8_t* b, int at) {
    const Groups& g = *t.groups;
    const uint8_t* block = b + at / kGroupedBlock * g.block_bytes;
    const int chunk = at % kGroupedBlock / kGroupedChunk;
    return {block, block + g.scales_bytes + chunk * 64 * format_bits(format),
            chunk * kGroupedChunk / g.group};
  }
  // The same chunk of what the next call reads.
  template <Format format>
  static inline void fetch_ahead(const TileArgs& t, const ChunkAt& at, int panel) {
    const int64_t to = panel * t.b_stride + t.ahead;
    S::template prefetch_bytes<64 * format_bits(format)>(at.codes + to);
    fetch_scales(t, at, panel);
  }
  static inline void fetch_scales(const TileArgs& t, const ChunkAt& at, int panel) {
    if (at.first_group > 0) return;
    const uint8_t* const next = at.block + panel * t.b_stride + t.ahead;
    for (int64_t i = 0; i < t.groups->scales_bytes; i += 64)
      S::template prefetch_bytes<64>(next + i);
  }
  // Codes of these: not all of a chunk at once, but a line with each four k.
  static constexpr bool by_lines(Format format) {
    return S::kFetchesLines && format_bits(format) > 4;
  }

  // Quads QUAD.. of a chunk, to acc. No loop: not all of them would be unrolled.
  template <Format format, bool kTable, int ROWS, int PANELS, int QUAD, int END>
  [[gnu::always_inline]] static inline void coded_quads(
      const TileArgs& t, const typename S::template Codes<format>& codes, const ChunkAt& at,
      const uint8_t* a, F (&acc)[ROWS][PANELS]) {
    typename S::template CodeQuad<format, kTable> w[PANELS];
#pragma GCC unroll 16
    for (int p = 0; p < PANELS; ++p) {
      const uint8_t* const from = at.codes + p * t.b_stride;
      w[p].load(from, QUAD, codes);
      if constexpr (by_lines(format) && QUAD < format_bits(format)) {
        S::fetch(from + t.ahead + QUAD * 64);
      }
    }
    four<ROWS, PANELS>(acc, a, t.a_stride, w);
    if constexpr (QUAD + 1 < END) {
      coded_quads<format, kTable, ROWS, PANELS, QUAD + 1, END>(t, codes, at, a + 4 * kWideElement,
                                                               acc);
    }
  }

  // Group `group` of the block at `at`, whose sums are acc, to c.
  template <bool kLeast, int ROWS, int PANELS>
  [[gnu::always_inline]] static inline void end_group(const TileArgs& t, const ChunkAt& at,
                                                      int group, int k, float* c,
                                                      F (&acc)[ROWS][PANELS]) {
    Scale scale[PANELS];
#pragma GCC unroll 16
    for (int p = 0; p < PANELS; ++p) {
      scale[p] = scale_of(*t.groups, at.block + p * t.b_stride, group);
    }
    add_group<kLeast, ROWS, PANELS>(t, 0, k, c, acc, scale);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 16
      for (int p = 0; p < PANELS; ++p) acc[r][p] = S::zero();
    }
  }

  // kTable: codes stand for any numbers, see kCounts. A chunk is one group, or two.
  template <Format format, bool kTable, bool kLeast, int ROWS, int PANELS>
  static inline void coded(const TileArgs& t, int panel) {
    const typename S::template Codes<format> codes(*t.groups);
    const uint8_t* b = t.b + panel * t.b_stride;
    float* c = t.c + panel * kPanel;
    const int second = t.groups->group == 16 ? 1 : 0;
    F acc[ROWS][PANELS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 16
      for (int p = 0; p < PANELS; ++p) acc[r][p] = S::zero();
    }
    for (int k = 0; k < t.k; k += kGroupedChunk) {
      const ChunkAt at = chunk_at<format>(t, b, t.skip + k);
      for (int p = 0; p < PANELS; ++p) {
        by_lines(format) ? fetch_scales(t, at, p) : fetch_ahead<format>(t, at, p);
      }
      coded_quads<format, kTable, ROWS, PANELS, 0, 4>(t, codes, at, at_k(t, 0, k), acc);
      if (second) end_group<kLeast, ROWS, PANELS>(t, at, at.first_group, k, c, acc);
      coded_quads<format, kTable, ROWS, PANELS, 4, 8>(t, codes, at, at_k(t, 0, k + 16), acc);
      end_group<kLeast, ROWS, PANELS>(t, at, at.first_group + second, k + 16 * second, c, acc);
    }
  }

  // k weights of a panel from `from` on, decoded to `out`.
  template <Format format, bool kTable>
  static void decode(const TileArgs& t, int panel, int from, int k, uint8_t* out) {
    const typename S::template Codes<format> codes(*t.groups);
    const Groups& g = *t.groups;
    const uint8_t* b = t.b + panel * t.b_stride;
    uint8_t* values = out;
    float* scales = reinterpret_cast<float*>(out + wide_values(k));
    float* least = reinterpret_cast<float*>(out + wide_values(k) + wide_scales(k));
    for (int end = from + k; from < end; from += kGroupedChunk) {
      const ChunkAt at = chunk_at<format>(t, b, t.skip + from);
      fetch_ahead<format>(t, at, 0);
#pragma GCC unroll 8
      for (int q = 0; q < 8; ++q, values += 4 * kPanel * kWideElement) {
        typename S::template CodeQuad<format, kTable> w;
        w.load(at.codes, q, codes);
        if constexpr (S::kDot) {
          S::store_pairs(values, w.w);
        } else {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) S::store(reinterpret_cast<float*>(values) + i * 16, w.at(i));
        }
      }
      for (int i = 0; i < kGroupedChunk / g.group; ++i, scales += kPanel, least += kPanel) {
        const Scale s = scale_of(g, at.block, at.first_group + i);
        S::store(scales, s.by);
        S::store(least, s.least);
      }
    }
  }

  // k weights from `from` on of panels that were decoded to `b`, one behind the other.
  template <bool kLeast, int ROWS, int PANELS>
  static inline void wide(const TileArgs& t, int row, int panel, int from, int k,
                          const uint8_t* b) {
    const int group = t.groups->group;
    const size_t stride = wide_bytes(k), to_least = wide_scales(k) / sizeof(float);
    const float* scales = reinterpret_cast<const float*>(b + wide_values(k));
    float* c = t.c + row * t.c_stride + panel * kPanel;
    for (int end = from + k; from < end; from += group, scales += kPanel) {
      F acc[ROWS][PANELS];
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 16
        for (int p = 0; p < PANELS; ++p) acc[r][p] = S::zero();
      }
      const uint8_t* a = at_k(t, row, from);
      for (int q = 0; q < group / 4;
           ++q, b += 4 * kPanel * kWideElement, a += 4 * int64_t(kWideElement)) {
        typename S::WideQuad w[PANELS];
#pragma GCC unroll 16
        for (int p = 0; p < PANELS; ++p) w[p].load(b + size_t(p) * stride);
        four<ROWS, PANELS>(acc, a, t.a_stride, w);
      }
      Scale scale[PANELS];
#pragma GCC unroll 16
      for (int p = 0; p < PANELS; ++p) {
        const float* at = scales + size_t(p) * (stride / sizeof(float));
        scale[p] = {S::load(at), kLeast ? S::load(at + to_least) : S::zero()};
      }
      add_group<kLeast, ROWS, PANELS>(t, row, from, c, acc, scale);
    }
  }

  // Side by side. Of long codes, lines to be fetched come so close behind each other that six
  // panels keep the loads of weights waiting.
  static constexpr int coded_panels(Format format, int rows) {
    const int panels = S::panels(rows);
    return by_lines(format) && panels > 4 ? 2 : panels;
  }
  template <Format format, bool kTable, bool kLeast, int ROWS>
  static void coded_rows(const TileArgs& t) {
    if constexpr (ROWS > 0) {
      if (t.rows < ROWS) return coded_rows<format, kTable, kLeast, ROWS - 1>(t);
      constexpr int kPanels = coded_panels(format, ROWS);
      int p = 0;
      for (; p + kPanels <= t.panels; p += kPanels) {
        coded<format, kTable, kLeast, ROWS, kPanels>(t, p);
      }
      for (; p < t.panels; ++p) coded<format, kTable, kLeast, ROWS, 1>(t, p);
    }
  }
  // Panels [panel, end) and weights [from, from + k) of each, decoded to the call's scratch.
  struct Decoded {
    int panel, end, from, k;
  };
  template <bool kLeast, int ROWS>
  static void wide_rows(const TileArgs& t, int row, int rows, const Decoded& d) {
    if constexpr (ROWS > 0) {
      if (rows < ROWS) return wide_rows<kLeast, ROWS - 1>(t, row, rows, d);
      constexpr int kPanels = S::panels(ROWS);
      const auto* b = static_cast<const uint8_t*>(t.scratch);
      int panel = d.panel;
      for (; panel + kPanels <= d.end; panel += kPanels, b += kPanels * wide_bytes(d.k)) {
        wide<kLeast, ROWS, kPanels>(t, row, panel, d.from, d.k, b);
      }
      for (; panel < d.end; ++panel, b += wide_bytes(d.k)) {
        wide<kLeast, ROWS, 1>(t, row, panel, d.from, d.k, b);
      }
    }
  }

  template <Format format, bool kTable, bool kLeast>
  static void grouped(const TileArgs& t) {
    if (t.rows <= kCodedRows) return coded_rows<format, kTable, kLeast, kCodedRows>(t);
    auto* const scratch = static_cast<uint8_t*>(t.scratch);
    // All of a call's panels and k, or a chunk of as many panels as the rows take together.
    const bool all = t.rows > S::kRows;
    const int panels = all ? t.panels : S::panels(t.rows), k = all ? t.k : kGroupedChunk;
    const int blocks = (t.rows + S::kRows - 1) / S::kRows;
    for (int first = 0; first < t.panels; first += panels) {
      const int end = first + panels < t.panels ? first + panels : t.panels;
      for (int from = 0; from < t.k; from += k) {
        for (int p = first; p < end; ++p) {
          decode<format, kTable>(t, p, from, k, scratch + size_t(p - first) * wide_bytes(k));
        }
        for (int i = 0, row = 0; i < blocks; ++i) {
          const int rows = (t.rows - row + blocks - i - 1) / (blocks - i);
          wide_rows<kLeast, S::kRows>(t, row, rows, {first, end, from, k});
          row += rows;
        }
      }
    }
  }
  template <Format format, bool kTable>
  static void grouped_of(const TileArgs& t) {
    if (t.groups->has_least) return grouped<format, kTable, true>(t);
    grouped<format, kTable, false>(t);
  }
  template <Format format>
  static void grouped_tile(const TileArgs& t) {
    if (!t.accumulate) {
      for (int r = 0; r < t.rows; ++r) {
        for (int i = 0; i < t.panels; ++i) S::store(t.c + r * t.c_stride + i * kPanel, S::zero());
      }
    }
    if constexpr (S::kCounts && format == Format::i4) {
      if (t.groups->is_consecutive) return grouped_of<format, false>(t);
    }
    grouped_of<format, format == Format::i4>(t);
  }

  // Negative, since a least value is subtracted.
  static void sums(float* out, int64_t stride, const void* a, int64_t n) {
    for (int64_t i = 0; i < n; i += 16, out += stride) {
      if constexpr (S::kDot) {
        *out = -S::sum(S::load_bf16(static_cast<const uint16_t*>(a) + i));
      } else {
        *out = -S::sum(S::load(static_cast<const float*>(a) + i));
      }
    }
  }

  static int few_panels(Format format, int rows) {
    if (rows > S::kRows) return 0;
    const bool coded = is_grouped(format) && rows <= kCodedRows;
    const int panels = coded ? coded_panels(format, rows) : S::panels(rows);
    return panels % 2 ? 2 * panels : panels;
  }

  // --- rows ---

  static float sum_squares(const float* x, int64_t n) {
    F s[4] = {S::zero(), S::zero(), S::zero(), S::zero()};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
      for (int j = 0; j < 4; ++j) {
        const F v = S::load(x + i + j * 16);
        s[j] = S::fma(v, v, s[j]);
      }
    }
    for (; i < n; i += 16) {
      const F v = n - i < 16 ? S::load_n(x + i, int(n - i)) : S::load(x + i);
      s[0] = S::fma(v, v, s[0]);
    }
    return S::sum(S::add(S::add(s[0], s[1]), S::add(s[2], s[3])));
  }

  static inline F load_at_most(const float* x, int64_t left) {
    return left >= 16 ? S::load(x) : left > 0 ? S::load_n(x, int(left)) : S::zero();
  }
  static inline void store_at_most(float* x, F v, int64_t left) {
    if (left >= 16) {
      S::store(x, v);
    } else {
      S::store_n(x, v, int(left));
    }
  }
  static inline F scaled(const float* x, const float* gain, F r, int64_t left) {
    const F v = S::mul(load_at_most(x, left), r);
    return gain ? S::mul(v, load_at_most(gain, left)) : v;
  }

  static void scale_f32(float* out, const float* x, const float* gain, float r, int64_t n,
                        int64_t padded) {
    const F by = S::set1(r);
    for (int64_t i = 0; i < padded; i += 16) {
      store_at_most(out + i, scaled(x + i, gain ? gain + i : nullptr, by, n - i), padded - i);
    }
  }
  // padded is a multiple of 16 here: the row of a packed block.
  static void scale_bf16(uint16_t* out, const float* x, const float* gain, float r, int64_t n,
                         int64_t padded) {
    const F by = S::set1(r);
    for (int64_t i = 0; i < padded; i += 16) {
      S::store_bf16(out + i, scaled(x + i, gain ? gain + i : nullptr, by, n - i));
    }
  }

  // parameters: those of scale_bf16(), and a second output
  static void split_bf16(uint16_t* high, uint16_t* low, const float* x, const float* gain, float r,
                         int64_t n, int64_t padded) {
    const F by = S::set1(r);
    for (int64_t i = 0; i < padded; i += 16) {
      const F v = scaled(x + i, gain ? gain + i : nullptr, by, n - i);
      S::store_bf16(high + i, v);
      S::store_bf16(low + i, S::sub(v, S::load_bf16(high + i)));
    }
  }

  static inline void put(float* out, F x, int64_t n, bool far) {
    if (far && n >= 16 && reinterpret_cast<uintptr_t>(out) % 64 == 0) {
      S::stream(out, x);
    } else {
      store_at_most(out, x, n);
    }
  }
  static void store(float* out, const float* c, const float* scale, int64_t n, bool far) {
    for (int64_t i = 0; i < n; i += 16) {
      F v = load_at_most(c + i, n - i);
      if (scale) v = S::mul(v, load_at_most(scale + i, n - i));
      put(out + i, v, n - i, far);
    }
  }
  static void add(float* out, const float* c, const float* scale, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
      F v = load_at_most(c + i, n - i);
      if (scale) v = S::mul(v, load_at_most(scale + i, n - i));
      store_at_most(out + i, S::add(load_at_most(out + i, n - i), v), n - i);
    }
  }

  // exp to about 1 unit in the last place; 0 below -87.3, infinity never (the callers' arguments
  // are at most 88). NaN stays NaN.
  static inline F exp(F x) {
    const F low = S::set1(-87.3365f);
    const F n = S::nearest(S::mul(S::max(low, S::min(S::set1(88.3762f), x)), S::set1(1.44269504f)));
    F r = S::fma(n, S::set1(-0.693359375f), x);
    r = S::fma(n, S::set1(2.12194440e-4f), r);
    F y = S::set1(1.9875691500e-4f);
    y = S::fma(y, r, S::set1(1.3981999507e-3f));
    y = S::fma(y, r, S::set1(8.3334519073e-3f));
    y = S::fma(y, r, S::set1(4.1665795894e-2f));
    y = S::fma(y, r, S::set1(1.6666665459e-1f));
    y = S::fma(y, r, S::set1(5.0000001201e-1f));
    y = S::fma(S::mul(r, r), y, S::add(r, S::set1(1.0f)));
    y = S::times_pow2(y, n);
    return S::select_lt(x, low, S::zero(), y);
  }

  static void silu_mul(float* out, const float* c, const float* scale, int64_t n, bool far) {
    const F one = S::set1(1.0f);
    for (int64_t i = 0; i < n; i += 16, c += 32) {
      F g = S::load(c), u = S::load(c + 16);
      if (scale) {
        g = S::mul(g, S::load(scale)), u = S::mul(u, S::load(scale + 16));
        scale += 32;
      }
      // g / (1 + e^-g); e^-g is cut at e^88, where the quotient is 0 for every purpose.
      const F e = exp(S::min(S::set1(88.0f), S::sub(S::zero(), g)));
      put(out + i, S::mul(S::div(g, S::add(one, e)), u), n - i, far);
    }
  }

  static void multiply(float* x, float factor, int64_t n) {
    const F f = S::set1(factor);
    for (int64_t i = 0; i < n; i += 16) {
      store_at_most(x + i, S::mul(load_at_most(x + i, n - i), f), n - i);
    }
  }

  static float softmax(SoftmaxArgs* a) {
    const F scale = S::set1(a->scale), low = S::set1(-__builtin_inff());
    F top = low;
    for (int i = 0; i < a->padded; i += 16) {
      const F s = S::first(S::mul(S::load(a->scores + i), scale), a->valid - i, low);
      S::store(a->scores + i, s);
      top = S::max(top, s);
    }
    const float block = S::max_lane(top), old = a->maximum;
    const float maximum = block > old ? block : old;
    // Still -infinity: every score was (or NaN, which the weights below carry on).
    const F shift = S::set1(maximum == -__builtin_inff() ? 0.0f : maximum);
    F sum = S::zero();
    for (int i = 0; i < a->padded; i += 16) {
      F p = S::first(exp(S::sub(S::load(a->scores + i), shift)), a->valid - i, S::zero());
      S::store(a->probs + i, p);
      sum = S::add(sum, p);
    }
    float factor = 1.0f;
    if (maximum != old) {
      float lane[16];
      S::store(lane, exp(S::set1(old - maximum)));
      factor = lane[0];
    }
    a->maximum = maximum;
    a->sum = a->sum * factor + S::sum(sum);
    return factor;
  }

  static void rope(float* out, const float* x, const float* cosine, const float* sine,
                   int64_t half) {
    for (int64_t i = 0; i < half; i += 16) {
      const int64_t left = half - i;
      const F c = load_at_most(cosine + i, left), s = load_at_most(sine + i, left);
      const F a = load_at_most(x + i, left), b = load_at_most(x + half + i, left);
      store_at_most(out + i, S::sub(S::mul(a, c), S::mul(b, s)), left);
      store_at_most(out + half + i, S::add(S::mul(b, c), S::mul(a, s)), left);
    }
  }

  // --- sampling ---

  static int64_t argmax(const float* x, int64_t n) {
    const F low = S::set1(-__builtin_inff());
    F top = low;
    bool nan = false;
    for (int64_t i = 0; i < n; i += 16) {
      const F v = S::first(load_at_most(x + i, n - i), n - i < 16 ? int(n - i) : 16, low);
      nan = nan || S::any_nan(v);
      top = S::max(top, v);
    }
    if (nan) return -1;
    const float best = S::max_lane(top);
    int64_t next = 0;
    int32_t at[16];
    return find(x, n, best, &next, at, 16) > 0 ? at[0] : -1;
  }

  static double sum_exp(const float* x, int64_t n, float shift) {
    const F by = S::set1(shift);
    double total = 0;
    // Short float sums, then double: 128 K terms would lose four digits in one float.
    for (int64_t i = 0; i < n;) {
      F s = S::zero();
      const int64_t end = i + 1024 < n ? i + 1024 : n;
      for (; i < end; i += 16) {
        const F e = exp(S::sub(load_at_most(x + i, n - i), by));
        s = S::add(s, S::first(e, n - i < 16 ? int(n - i) : 16, S::zero()));
      }
      total += S::sum_double(s);
    }
    return total;
  }

  static void divide(float* x, float divisor, int64_t n) {
    const F d = S::set1(divisor);
    for (int64_t i = 0; i < n; i += 16) {
      store_at_most(x + i, S::div(load_at_most(x + i, n - i), d), n - i);
    }
  }

  static int64_t find(const float* x, int64_t n, float threshold, int64_t* next, int32_t* out,
                      int64_t room) {
    const F t = S::set1(threshold);
    int64_t found = 0, i = *next;
    for (; i < n && found + 16 <= room; i += 16) {  // stops at the first hit when room is 16
      uint32_t hit = S::ge(load_at_most(x + i, n - i), t);
      if (n - i < 16) hit &= (1u << (n - i)) - 1;
      for (; hit; hit &= hit - 1) out[found++] = int32_t(i + __builtin_ctz(hit));
    }
    *next = i;
    return found;
  }

  // token_bits() of device/random.h for 64 ids, in loops that the compiler turns into vectors.
  static inline void token_words(uint64_t seed, uint64_t position, uint32_t first,
                                 uint32_t* words) {
    uint32_t c0[16], c1[16], c2[16], c3[16];
    for (uint32_t i = 0; i < 16; ++i) {
      c0[i] = first / 4 + i, c1[i] = 0, c2[i] = uint32_t(position),
      c3[i] = uint32_t(position >> 32);
    }
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < 16; ++i) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * c0[i], p1 = uint64_t(0xCD9E8D57u) * c2[i];
        const uint32_t n0 = uint32_t(p1 >> 32) ^ c1[i] ^ k0, n2 = uint32_t(p0 >> 32) ^ c3[i] ^ k1;
        c0[i] = n0, c1[i] = uint32_t(p1), c2[i] = n2, c3[i] = uint32_t(p0);
      }
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 16; ++i) {
      words[i * 4] = c0[i], words[i * 4 + 1] = c1[i], words[i * 4 + 2] = c2[i],
                words[i * 4 + 3] = c3[i];
    }
  }

  static int race(const RaceArgs& a, int32_t* out) {
    const float* x = a.x;
    const int n = a.n;
    const F t = S::set1(a.threshold);
    uint64_t above = 0;
    for (int i = 0; i < n; i += 16) {
      uint64_t hit = S::ge(load_at_most(x + i, n - i), t);
      if (n - i < 16) hit &= (1u << (n - i)) - 1;
      above |= hit << i;
    }
    if (!above) return 0;
    uint32_t words[64];
    token_words(a.seed, a.position, a.first, words);
    // x - log(-log u) > score means -log u < e^(x - score); and 1 - u <= -log u. The margin covers
    // what exp() and the scalar logarithms round.
    float rest[64];
    for (int i = 0; i < 64; ++i) {
      rest[i] = (float(int32_t(8388607u - (words[i] >> 9))) + 0.5f) * (0.999f / 8388608.0f);
    }
    const F by = S::set1(a.score);
    int found = 0;
    for (int i = 0; i < n; i += 16) {
      uint32_t hit = uint32_t(above >> i) & 0xffffu;
      if (!hit) continue;
      hit &= S::ge(exp(S::sub(load_at_most(x + i, n - i), by)), S::load(rest + i));
      for (; hit; hit &= hit - 1) out[found++] = int32_t(a.first) + i + __builtin_ctz(hit);
    }
    return found;
  }

  static Kernels table(Isa isa) {
    Kernels k;
    k.isa = isa;
    k.few_panels = few_panels;
    for (const Format f :
         {Format::bf16, Format::fp8, Format::i4, Format::i5, Format::i6, Format::i8}) {
      if (S::kDot) k.takes[int(f)] = Activations::bf16;
    }
    k.tile[int(Format::f32)] = tile<Format::f32>;
    k.tile[int(Format::f16)] = tile<Format::f16>;
    k.tile[int(Format::bf16)] = tile<Format::bf16>;
    k.tile[int(Format::fp8)] = tile<Format::fp8>;
    k.tile[int(Format::i4)] = grouped_tile<Format::i4>;
    k.tile[int(Format::i5)] = grouped_tile<Format::i5>;
    k.tile[int(Format::i6)] = grouped_tile<Format::i6>;
    k.tile[int(Format::i8)] = grouped_tile<Format::i8>;
    k.scratch_bytes = kWidePanels * wide_bytes(kKBlock);
    k.sums = sums;
    k.sum_squares = sum_squares;
    k.scale_f32 = scale_f32;
    k.scale_bf16 = scale_bf16;
    k.split_bf16 = split_bf16;
    k.store = store;
    k.add = add;
    k.silu_mul = silu_mul;
    k.softmax = softmax;
    k.multiply = multiply;
    k.rope = rope;
    k.quantise = quantise_row<S>;
    k.argmax = argmax;
    k.sum_exp = sum_exp;
    k.divide = divide;
    k.find = find;
    k.race = race;
    return k;
  }
};

}  // namespace nemotron::cpu
