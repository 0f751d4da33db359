// Tile products of weights in groups on AMX, over the wrapper T of amx_body.h.
//
// What a code stands for is exact in BF16, so a group is one product of tiles that begins at zero,
// and its sum goes to the row's times the group's scale, in float32. A group of 16 is a product
// with 16 zeros more. A few rows are bound by memory and decoding, and would leave most of a tile
// unused (AmxBody's likewise): they multiply in float32 registers, in the tile instruction's own
// order, and so to the same bits: the products of even and of odd k add up by themselves, each
// rounded once with its sum, and then to each other (Intel's Architecture Instruction Set
// Extensions reference, TDPBF16PS; tile_check.h asks the processor). So a row's bits do not depend
// on the other rows, of finite activations.
#pragma once

#include "cpu/kernel_body.h"
#include "cpu/simd_avx512bf16.h"

namespace nemotron::cpu {

// The tile instruction takes numbers below the normal ones for zero; what takes its place does
// alike.
struct FlushedToZero {
  const unsigned before = _mm_getcsr();
  FlushedToZero() { _mm_setcsr(before | 0x8040); }
  ~FlushedToZero() { _mm_setcsr(before); }
};

// A call's bytes of a panel, read from end to end: what is fetched meanwhile lies kFar ahead, or
// where the next call goes on. Two such streams, and a line at a time between products: more
// streams, a longer way, or many lines at once keep less of the memory busy.
struct Stream {
  static constexpr int kFar = 2560;
  int64_t bytes, ahead;  // ahead: TileArgs::ahead
  // From the byte `at` to what is fetched.
  inline int64_t far(int64_t at) const { return at + kFar < bytes ? kFar : kFar - bytes + ahead; }
  static inline void fetch(const uint8_t* p) { Avx512::fetch(p); }
  // Of a block in groups: three lines at most.
  static inline void fetch_scales(const uint8_t* block) {
    fetch(block), fetch(block + 64), fetch(block + 128);
  }
};

template <class T>
struct AmxGrouped {
  using S = Avx512Bf16;
  using Base = Body<S>;
  using F = S::F;
  static constexpr int kMostChunks = kKBlock / kGroupedChunk;
  static constexpr int kRows = 16;  // of a tile
  static constexpr int kFewRows = 4;
  static constexpr int kAtOnce = 4;  // groups whose products are under way together

  // For more rows than a tile has, panels go by twos, kNear of k at a time: both and 16 rows of
  // activations stay in the first-level cache, and rows come there once for both.
  static constexpr int kSide = 2, kNear = 256;

  struct Panel {
    // 1 KiB a chunk. With groups of 16 three halves: k 0 to 15, zeros, the rest; the second tile
    // begins with the zeros that end the first.
    alignas(64) uint8_t tiles[kMostChunks * 3 * 512];
    float scale[2 * kMostChunks][kPanel], least[2 * kMostChunks][kPanel];  // of each group
  };
  // The call's part of the thread's scratch.
  struct Scratch {
    Panel panels[kSide];
    float sums[2 * kMostChunks][kRows];  // what least values are multiplied by
    float group_sums[kAtOnce][kRows][kPanel];
    float few[kFewRows][kKBlock];            // activations of few rows, and
    float few_sums[kFewRows][kKBlock / 16];  // their sums, at the first 16 of each group
  };
  // Of a call: k [from, from + width) of a panel.
  struct Part {
    int panel, from, width;
  };

  template <Format format>
  static void tile(const TileArgs& t) {
    const FlushedToZero flushed;
    auto* const scratch = static_cast<Scratch*>(t.scratch);
    t.groups->has_least ? products<format, true>(t, scratch) : products<format, false>(t, scratch);
  }

  template <Format format, bool kLeast>
  [[gnu::noinline]] static void products(const TileArgs& t, Scratch* scratch) {
    if (t.rows == 1) return few_rows<format, kLeast, 1>(t, scratch);
    if (t.rows == 2) return few_rows<format, kLeast, 2>(t, scratch);
    if (t.rows <= kFewRows) return few_rows<format, kLeast, kFewRows>(t, scratch);
    const bool halves = t.groups->group == 16, many = t.rows > kRows;
    const int side = many ? kSide : 1, near = many ? kNear : kKBlock;
    for (int i = 0; halves && i < side; ++i) {
      for (int k = 0; k < near && k < t.k; k += kGroupedChunk) {
        __builtin_memset(scratch->panels[i].tiles + k / kGroupedChunk * 1536 + 512, 0, 512);
      }
    }
    for (int first = 0; first < t.panels; first += side) {
      const int panels = t.panels - first < side ? t.panels - first : side;
      for (int k = 0; k < t.k; k += near) {
        const int width = t.k - k < near ? t.k - k : near;
        for (int i = 0; i < panels; ++i) {
          unpack<format>(t, {first + i, k, width}, scratch->panels + i);
        }
        for (int row = 0; row < t.rows; row += kRows) {
          for (int i = 0; i < panels; ++i) {
            const Part part{first + i, k, width};
            halves ? block<kLeast, 16>(t, part, row, scratch, i)
                   : block<kLeast, 32>(t, part, row, scratch, i);
          }
        }
      }
    }
  }

  // A panel's tiles and scales.
  template <Format format>
  static void unpack(const TileArgs& t, const Part& part, Panel* to) {
    const typename S::template Codes<format> codes(*t.groups);
    const Groups& g = *t.groups;
    const int per_chunk = kGroupedChunk / g.group;
    const int gap = per_chunk == 2 ? 512 : 0;
    const uint8_t* const panel = t.b + part.panel * t.b_stride;
    // Few rows read panel by panel.
    const bool last = part.panel + 1 == t.panels;
    const Stream stream{t.k / kGroupedBlock * g.block_bytes,
                        last ? t.ahead - part.panel * t.b_stride : t.b_stride};
    uint8_t* out = to->tiles;
    for (int k = 0, group = 0; k < part.width; k += kGroupedChunk) {
      const auto at = Base::template chunk_at<format>(t, panel, t.skip + part.from + k);
      const int64_t far = t.rows > kRows ? t.ahead : stream.far(at.block - panel);
      if (at.first_group == 0) Stream::fetch_scales(at.block + far);
#pragma GCC unroll 8
      for (int q = 0; q < 8; ++q, out += 128) {
        if (q < format_bits(format)) Stream::fetch(at.codes + far + q * 64);
        typename S::template CodeQuad<format, true> w;
        w.load(at.codes, q, codes);
        if (q == 4) out += gap;
        S::store_pairs(out, w.w);
      }
      for (int i = 0; i < per_chunk; ++i, ++group) {
        const auto s = Base::scale_of(g, at.block, at.first_group + i);
        S::store(to->scale[group], s.by);
        S::store(to->least[group], s.least);
      }
    }
  }

  // 16 rows, or those that are left, times the unpacked panel `at`.
  template <bool kLeast, int GROUP>
  static inline void block(const TileArgs& t, const Part& part, int row, Scratch* s, int at) {
    const int rows = t.rows - row;
    if (rows > 8) return row_block<kLeast, GROUP, 16>(t, part, row, s, s->panels[at]);
    if (rows > 4) return row_block<kLeast, GROUP, 8>(t, part, row, s, s->panels[at]);
    row_block<kLeast, GROUP, 4>(t, part, row, s, s->panels[at]);
  }

  // ROWS rows of one tile, whose sums stay in registers, times the unpacked panel.
  template <bool kLeast, int GROUP, int ROWS>
  static void row_block(const TileArgs& t, const Part& part, int row, Scratch* s, const Panel& b) {
    float* c = t.c + row * t.c_stride + part.panel * kPanel;
    const bool begun = t.accumulate || part.from > 0;
    F sum[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) sum[r] = begun ? S::load(c + r * t.c_stride) : S::zero();
    const uint16_t* a = static_cast<const uint16_t*>(t.a) + row * t.a_stride + part.from;
    const int groups = part.width / GROUP;
    if constexpr (kLeast) {
      row_sums<GROUP>(t, t.sums + part.from / 16 * t.sums_stride + row, groups, s);
    }
    // The products that come next are begun before the last ones are added up: neither waits.
    const int64_t stride = t.a_stride * 2;
    int group = 0;
    if (groups >= kAtOnce) {
      begin<GROUP, 0, 1, 2, 3>(a, stride, b, 0);
      store<0, 1, 2, 3>(s);
      for (group = kAtOnce; group + kAtOnce <= groups; group += kAtOnce) {
        begin<GROUP, 0, 1, 2, 3>(a, stride, b, group);
        add_parts<kLeast, ROWS, 0, 1, 2, 3>(sum, b, group - kAtOnce, s);
        store<0, 1, 2, 3>(s);
      }
      add_parts<kLeast, ROWS, 0, 1, 2, 3>(sum, b, group - kAtOnce, s);
    }
    for (; group < groups; ++group) {
      begin<GROUP, 0>(a, stride, b, group);
      store<0>(s);
      add_parts<kLeast, ROWS, 0>(sum, b, group, s);
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) S::store(c + r * t.c_stride, sum[r]);
  }

  // Tile I = the sum of group `group` + I of 16 rows; then to s->group_sums[I].
  template <int GROUP, int... I>
  static inline void begin(const uint16_t* a, int64_t stride, const Panel& b, int group) {
    (begin_one<GROUP, I>(a, stride, b, group + I), ...);
  }
  template <int... I>
  static inline void store(Scratch* s) {
    (T::template store<I>(s->group_sums[I], kPanel * 4), ...);
  }
  template <int GROUP, int I>
  static inline void begin_one(const uint16_t* a, int64_t stride, const Panel& b, int group) {
    const int chunk = GROUP == 16 ? group / 2 : group;
    const int at = GROUP == 16 ? chunk * 1536 + group % 2 * 512 : chunk * 1024;
    T::template zero<I>();
    T::template load<4 + I % 2>(a + chunk * kGroupedChunk, stride);
    T::template load<6 + I % 2>(b.tiles + at, 64);
    T::template dot<I, 4 + I % 2, 6 + I % 2>();
  }

  template <bool kLeast, int ROWS, int... I>
  static inline void add_parts(F (&sum)[ROWS], const Panel& b, int group, const Scratch* s) {
    (add_part<kLeast, ROWS>(sum, b, I, group + I, s), ...);
  }
  template <bool kLeast, int ROWS>
  static inline void add_part(F (&sum)[ROWS], const Panel& b, int i, int group, const Scratch* s) {
    const F by = S::load(b.scale[group]), least = S::load(b.least[group]);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      sum[r] = S::fma(S::load(s->group_sums[i][r]), by, sum[r]);
      if constexpr (kLeast) sum[r] = S::fma(least, S::set1(s->sums[group][r]), sum[r]);
    }
  }

  // Of 16 rows from `row` on, as Base::group_sum() has them.
  template <int GROUP>
  static inline void row_sums(const TileArgs& t, const float* of, int groups, Scratch* s) {
    for (int group = 0; group < groups; ++group, of += t.sums_stride) {
      F x = S::load(of);
      if constexpr (GROUP == 32) {
        of += t.sums_stride;
        x = S::add(x, S::load(of));
      }
      S::store(s->sums[group], x);
    }
  }

  // --- a few rows ---

  static constexpr int kAbreast = 2;  // panels

  template <Format format, bool kLeast, int ROWS>
  static void few_rows(const TileArgs& t, Scratch* s) {
    const int stretch = t.groups->group / 16;
    for (int r = 0; r < ROWS; ++r) {
      const uint16_t* a = static_cast<const uint16_t*>(t.a) + r * t.a_stride;
      for (int k = 0; k < t.k; k += 16) S::store(s->few[r] + k, S::load_bf16(a + k));
      for (int i = 0; kLeast && i < t.k / 16; i += stretch) {
        const float* of = t.sums + i * t.sums_stride + r;
        s->few_sums[r][i] = stretch == 1 ? of[0] : of[0] + of[t.sums_stride];
      }
      for (int p = 0; !t.accumulate && p < t.panels; ++p) {
        S::store(t.c + r * t.c_stride + p * kPanel, S::zero());
      }
    }
    int p = 0;
    for (; p + kAbreast <= t.panels; p += kAbreast) {
      Few<format, kLeast, ROWS>::template panels<kAbreast>(t, p, *s);
    }
    for (; p < t.panels; ++p) Few<format, kLeast, ROWS>::template panels<1>(t, p, *s);
  }

  template <Format format, bool kLeast, int ROWS>
  struct Few {
    const Groups& g;
    const typename Avx512::template Codes<format> codes;
    const Scratch& s;

    // The half floats of a block with steps, and a group's scale.
    struct Halves {
      F by, least;
      bool has_steps;
      inline Halves(const Groups& g, const uint8_t* b)
          : by(half(b)), least(kLeast ? half(b + 32) : S::zero()), has_steps(g.has_steps) {}
      static inline F half(const uint8_t* p) {
        return typename S::template Quad<Format::f16>(p).at(0);
      }
      template <int GROUPS>
      [[gnu::always_inline]] inline typename Base::Scale scale(const uint8_t* b, int group) const {
        if (!has_steps)
          return {half(b + group * 32), kLeast ? half(b + 128 + group * 32) : S::zero()};
        const uint8_t* steps = b + (kLeast ? 64 : 32) + group * kPanel;
        const F step = S::mul(by, S::from_int8(steps));
        if constexpr (!kLeast) return {step, S::zero()};
        return {step, S::mul(least, S::from_int8(steps + 4 * GROUPS * kPanel))};
      }
    };

    template <int PANELS>
    [[gnu::noinline]] static void panels(const TileArgs& t, int first, const Scratch& scratch) {
      const Few few{*t.groups, typename Avx512::template Codes<format>(*t.groups), scratch};
      float* c = t.c + first * kPanel;
      F sum[PANELS][ROWS];
#pragma GCC unroll 4
      for (int i = 0; i < PANELS * ROWS; ++i) {
        sum[i / ROWS][i % ROWS] = S::load(c + i % ROWS * t.c_stride + i / ROWS * kPanel);
      }
      const uint8_t* const b = t.b + first * t.b_stride;
      const Stream stream{t.k / kGroupedBlock * few.g.block_bytes, t.ahead};
      int64_t at = 0;
      int chunk = t.skip / kGroupedChunk;
      for (int k = 0; k < t.k; at += few.g.block_bytes, chunk = 0) {
        const int chunks = (t.k - k) / kGroupedChunk, end = chunk + chunks < 4 ? chunk + chunks : 4;
        const int64_t far = stream.far(at);
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) {
          const Block of{b + p * t.b_stride + at, k - chunk * kGroupedChunk, far};
          few.g.group == 32 ? few.chunks<1>(of, chunk, end, sum[p])
                            : few.chunks<2>(of, chunk, end, sum[p]);
        }
        k += (end - chunk) * kGroupedChunk;
      }
#pragma GCC unroll 4
      for (int i = 0; i < PANELS * ROWS; ++i) {
        S::store(c + i % ROWS * t.c_stride + i / ROWS * kPanel, sum[i / ROWS][i % ROWS]);
      }
    }

    struct Block {
      const uint8_t* b;
      int k;        // of its first chunk, in the call
      int64_t far;  // from its bytes to those that are fetched meanwhile
    };
    // Its chunks [chunk, end), of so many groups each.
    template <int GROUPS>
    [[gnu::always_inline]] inline void chunks(const Block& of, int chunk, int end,
                                              F (&sum)[ROWS]) const {
      Stream::fetch_scales(of.b + of.far);
      const Halves halves(g, of.b);
      if (chunk == 0 && end == 4) {
        for (int i = 0; i < 4; ++i) groups<GROUPS>(of, halves, i, sum);
      } else {
        for (; chunk < end; ++chunk) groups<GROUPS>(of, halves, chunk, sum);
      }
    }
    template <int GROUPS>
    [[gnu::always_inline]] inline void groups(const Block& of, const Halves& halves, int chunk,
                                              F (&sum)[ROWS]) const {
      group<0, 8 / GROUPS>(of, halves, chunk, sum);
      if constexpr (GROUPS == 2) group<4, 8>(of, halves, chunk, sum);
    }

    // The group of quads [QUAD, END) of a chunk.
    template <int QUAD, int END>
    [[gnu::always_inline]] inline void group(const Block& of, const Halves& halves, int chunk,
                                             F (&sum)[ROWS]) const {
      constexpr int kGroups = 8 / (END - QUAD), kAt = QUAD ? 1 : 0;
      const int k = of.k + chunk * kGroupedChunk;
      F even[ROWS], odd[ROWS];
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) even[r] = odd[r] = S::zero();
      quads<QUAD, END>(of.b + g.scales_bytes + chunk * 64 * format_bits(format),
                       s.few[0] + k + 4 * QUAD, of.far, even, odd);
      const auto scale = halves.template scale<kGroups>(of.b, chunk * kGroups + kAt);
      const float* sums = s.few_sums[0] + k / 16 + kAt;
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
        const F x = S::add(S::zero(), S::add(even[r], odd[r]));  // as to a tile of zeros
        sum[r] = S::fma(x, scale.by, sum[r]);
        if constexpr (kLeast) {
          sum[r] = S::fma(scale.least, S::set1(sums[r * (kKBlock / 16)]), sum[r]);
        }
      }
    }
    template <int QUAD, int END>
    [[gnu::always_inline]] inline void quads(const uint8_t* chunk, const float* a, int64_t far,
                                             F (&even)[ROWS], F (&odd)[ROWS]) const {
      if constexpr (QUAD < format_bits(format)) Stream::fetch(chunk + far + QUAD * 64);
      typename Avx512::template CodeQuad<format, true> w;
      w.load(chunk, QUAD, codes);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i += 2) {
        const F x = w.at(i), y = w.at(i + 1);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
          even[r] = S::fma(S::set1(a[r * kKBlock + i]), x, even[r]);
          odd[r] = S::fma(S::set1(a[r * kKBlock + i + 1]), y, odd[r]);
        }
      }
      if constexpr (QUAD + 1 < END) quads<QUAD + 1, END>(chunk, a + 4, far, even, odd);
    }
  };

  static void add_to(Kernels* k) {
    if (k->scratch_bytes < sizeof(Scratch)) k->scratch_bytes = sizeof(Scratch);
    k->tile[int(Format::i4)] = tile<Format::i4>;
    k->tile[int(Format::i5)] = tile<Format::i5>;
    k->tile[int(Format::i6)] = tile<Format::i6>;
    k->tile[int(Format::i8)] = tile<Format::i8>;
  }
};

}  // namespace nemotron::cpu
