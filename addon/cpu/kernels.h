// Kernels: what an instruction set has to provide. One table an instruction set, made from one
// source (kernel_body.h) over its vector wrapper (simd_*.h). Everything above the table is plain
// C++.
//
// The packed matrix, one layout for all of them and for the KV cache: panels of 16 outputs, padded
// with zeros,
//
//   f32   [k][16]
//   f16   [k][16]
//   bf16  [k/2][16][2]   Pairs along k: an AMX B tile, a vdpbf16ps operand, or two f32 vectors
//                        after a shift.
//   fp8   [k/4][64]      A chunk of 64 bytes holds four consecutive k. Take k, k+1 as pairs
//                        (element 2n + k%2 of 32, as in bf16), and k+2, k+3 alike: bytes
//                        16j..16j+7 are elements 8j..8j+7 of the first pairs, bytes
//                        16j+8..16j+15 those of the second. So unpacklo/hi yield bf16 pairs.
//
// panel_offset() below is the same table as code.
//
// Weights in groups (device/grouped.h) have i4, i5, i6 and i8: blocks of 128 k, each
//
//   scales   half floats [1 or 4][16], steps [128 / group][16]; with a least value both again, in
//            the order scale, least, steps, least's steps; padded to 64 bytes
//   codes    four chunks of 32 k. Of fewer than 8 bits pair j of a chunk is k = 2j, 2j + 1, its
//            element 2n + k%2 one of 32 words of 16 bits:
//     i4     [4][32] words; word vector v has the codes of pairs 4v..4v+3, lowest first
//     i5     i4, then [32] words: the fifth bits, where plane_shift() says
//     i6     i4, then [2][32] words; vector v has the two high bits of pairs 8v..8v+7, alike
//     i8     [32][16] int8
//
// Each output accumulates along k in one fixed order whatever the number of rows, and threads never
// split k. That is why a row's result does not depend on the other rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/isa.h"
#include "device/grouped.h"

namespace nemotron::cpu {

enum class Format : uint8_t { f32, f16, bf16, fp8, i4, i5, i6, i8 };
inline constexpr int kFormats = 8;
constexpr bool is_grouped(Format f) { return f >= Format::i4; }
inline constexpr int kPanel = 16;    // outputs in a panel
inline constexpr int kKStep = 32;    // k of a weight is padded to a multiple of this
inline constexpr int kKBlock = 512;  // k of one block of activations

inline constexpr int kResidentRows = 256, kResidentPanels = 2;  // Kernels::resident_bytes

// Of a value; not of those in groups.
constexpr size_t format_bytes(Format f) { return f == Format::f32 ? 4 : f == Format::fp8 ? 1 : 2; }

// Of a value in groups, its scale aside.
constexpr int format_bits(Format f) {
  return f == Format::i4 ? 4 : f == Format::i5 ? 5 : f == Format::i6 ? 6 : 8;
}
constexpr Format grouped_format(int bits) {
  return bits == 4 ? Format::i4 : bits == 5 ? Format::i5 : bits == 6 ? Format::i6 : Format::i8;
}

// Where a word of the second plane has the high bits of pair `pair`, so many of each: pairs of one
// kind of four lie in one byte, and so two shifts and a mask give a byte to each of four k.
constexpr int plane_shift(int pair, int bits) {
  return pair % 4 / 2 * 8 + (pair / 4 * 2 + pair % 2) * bits % 8;
}

// What a product takes of a row of activations: float32, those rounded to BF16, or Int8Row.
enum class Activations : uint8_t { f32, bf16, int8 };

// Activations of 8 bits, of kKBlock k of a row: the code times the scale of its 32, whose largest
// magnitude is 127. The codes of every eight k lie in the order 0 4 1 5 2 6 3 7, which is that of
// four weights that a shift and a mask take out of a word of eight.
inline constexpr int kInt8Order[8] = {0, 4, 1, 5, 2, 6, 3, 7};
struct Int8Row {
  alignas(64) int8_t codes[kKBlock];
  float scale[kKBlock / 32];
  // Minus the sum of 16 and of 32 codes: what a least value and the offset of codes go with.
  float minus_16[kKBlock / 16], minus_32[kKBlock / 32];
};

// Byte offset of element (k, n) in a panel; not of those in groups.
constexpr size_t panel_offset(Format f, size_t k, size_t n) {
  switch (f) {
    case Format::f32: return (k * kPanel + n) * 4;
    case Format::f16: return (k * kPanel + n) * 2;
    case Format::bf16: return ((k / 2) * kPanel * 2 + n * 2 + k % 2) * 2;
    case Format::fp8: {
      const size_t element = n * 2 + k % 2;
      return (k / 4) * 64 + element / 8 * 16 + (k / 2 % 2) * 8 + element % 8;
    }
    default: return 0;
  }
}

// What a product needs of a form, beside the codes themselves.
struct Groups {
  alignas(64) uint16_t values[64] = {};  // GroupedForm::values, and
  float numbers[64] = {};                // the same in float32
  int group = 32;
  bool has_steps = false, has_least = false;
  bool is_consecutive = false;  // each of the codes is the number after the one before
  // What a code of 4 bits stands for, in whole numbers of a unit, a power of two of at most 1.
  alignas(16) int8_t bytes[16] = {};
  float unit = 1;
  int64_t scales_bytes = 0, block_bytes = 0;
  explicit Groups(const GroupedForm& form);
  Groups() = default;
};

// c [rows, panels * 16] = (or +=) a [rows, k] times the first k of `panels` panels.
// k is a multiple of 4 (of 32 for the tile instructions). a and c have room for `rows` rounded up
// to Kernels::row_step; what is in the extra rows of a does not matter, the extra rows of c are
// clobbered.
struct TileArgs {
  const void* a = nullptr;  // what Kernels::takes[format] says
  int64_t a_stride = 0;     // elements; of Int8Row bytes
  int rows = 0;
  const uint8_t* b = nullptr;
  int64_t b_stride = 0;  // bytes from panel to panel
  int panels = 0;
  int k = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = false;
  void* scratch = nullptr;  // Kernels::scratch_bytes of the calling thread, 64-byte aligned
  // Bytes from b to what the next call will read, of the same shape: it is fetched along the way.
  int64_t ahead = 0;

  // --- of weights in groups: k is a multiple of 32, at most kKBlock ---
  const Groups* groups = nullptr;
  int skip =
      0;  // b begins with a block of 128 k, of which so many come before the call's: 0, 32...
  // Kernels::sums of each row of a, [k / 16][sums_stride]; of a form with a least value. There are
  // `rows` rounded up to row_step of them; what is in the extra ones does not matter.
  const float* sums = nullptr;
  int64_t sums_stride = 0;
  int int8_from = 0;  // of Int8Row: the first k of its block that is of the call
};

// One row of scores of one block of keys, in the running softmax.
struct SoftmaxArgs {
  // [padded to 16]; becomes exp(score * scale - maximum), 0 from `valid` on.
  float* scores = nullptr;
  float* probs = nullptr;  // where the weights go for the next tile(); may be `scores`
  int valid = 0;           // keys that this row attends to, >= 1
  int padded = 0;          // multiple of 16
  float scale = 1;
  float maximum = 0;  // in and out; starts at -infinity
  float sum = 0;      // in and out
};

// Ids [first, first + n), n at most 64 and first a multiple of 64: which have an x >= threshold and
// may exceed `score` with their Gumbel noise?
struct RaceArgs {
  const float* x = nullptr;
  int n = 0;
  float threshold = 0, score = 0;
  uint64_t seed = 0, position = 0;
  uint32_t first = 0;
};

struct Kernels {
  Isa isa = Isa::plain;
  const Kernels* exact = nullptr;  // exact_kernels(), where they are others
  const Kernels* int8 = nullptr;   // the same, but weights in groups take Int8Row
  Activations takes[kFormats] = {};
  int row_step = 1;  // see TileArgs
  // Panels of a call while `rows` rows stream them from memory, as many as are read side by side;
  // 0: more rows than one pass over a panel serves.
  int (*few_panels)(Format format, int rows) = nullptr;
  // For more rows: panels (even) and rows of BF16 whose kKBlock stay in the second-level cache.
  int block_panels = 6, block_rows = 512;
  // Where at least 256 rows of BF16 fit into so many bytes with all their k, all of a chunk stays
  // there while panels pass by, kResidentPanels at a time.
  int64_t resident_bytes = 0;
  // Query rows, heads of a group included, over which attention reads a block of keys once.
  int piece_rows = 48;
  // Outputs of more bytes are stored past the caches. leave() makes them visible to other threads.
  int64_t far_bytes = INT64_MAX;
  size_t scratch_bytes = 0;
  // Called by each thread before and after a run of tile() calls (tile registers); may be null.
  void (*enter)() = nullptr;
  void (*leave)() = nullptr;
  void (*tile[kFormats])(const TileArgs&) = {};
  // out[i * stride] = minus the sum of elements 16 i.. of a row of a (f32 or bf16, as weights in
  // groups take it), which a least value is multiplied by. n: a multiple of 16.
  void (*sums)(float* out, int64_t stride, const void* a, int64_t n) = nullptr;

  float (*sum_squares)(const float* x, int64_t n) = nullptr;
  // out = x * r * gain (gain null: 1), zeros up to `padded`; to f32 and to bf16.
  void (*scale_f32)(float* out, const float* x, const float* gain, float r, int64_t n,
                    int64_t padded) = nullptr;
  void (*scale_bf16)(uint16_t* out, const float* x, const float* gain, float r, int64_t n,
                     int64_t padded) = nullptr;
  // The same, and what rounding left: high + low is x * r * gain to 16 bits of mantissa.
  void (*split_bf16)(uint16_t* high, uint16_t* low, const float* x, const float* gain, float r,
                     int64_t n, int64_t padded) = nullptr;
  // The same to 8 bits. Of 32 values that are not all finite every product is NaN; of magnitudes
  // below 1e-30 it is 0. padded: a multiple of 32.
  void (*round_int8)(Int8Row* out, const float* x, const float* gain, float r, int64_t n,
                     int64_t padded) = nullptr;
  // out = c * scale, out += c * scale (scale null: 1). far: past the caches where that is possible.
  void (*store)(float* out, const float* c, const float* scale, int64_t n, bool far) = nullptr;
  void (*add)(float* out, const float* c, const float* scale, int64_t n) = nullptr;
  // c [2 * padded n]: 16 gates, 16 ups, 16 gates, ...; scale alike. out [n]
  void (*silu_mul)(float* out, const float* c, const float* scale, int64_t n, bool far) = nullptr;
  // Returns what the sums so far have to be multiplied by.
  float (*softmax)(SoftmaxArgs*) = nullptr;
  void (*multiply)(float* x, float factor, int64_t n) = nullptr;
  // Pairs (i, i + half) turned by the angles' cosine and sine.
  void (*rope)(float* out, const float* x, const float* cosine, const float* sine,
               int64_t half) = nullptr;

  // out = x as E4M3 numbers of the size that is returned: the largest of x becomes 448.
  float (*quantise)(const float* x, int64_t n, uint8_t* out) = nullptr;

  // --- sampling, over a row of logits ---
  // Index of the largest (lowest index wins a tie), or -1 when there is a NaN.
  int64_t (*argmax)(const float* x, int64_t n) = nullptr;
  // sum of exp(x - shift)
  double (*sum_exp)(const float* x, int64_t n, float shift) = nullptr;
  void (*divide)(float* x, float divisor, int64_t n) = nullptr;
  // Writes those of the ids that may win, ascending; returns how many. A quick test that never
  // leaves out one that does.
  int (*race)(const RaceArgs& a, int32_t* out) = nullptr;
  // Ascending indices of the first `room` values >= threshold from `*next` on; *next is where to go
  // on.
  int64_t (*find)(const float* x, int64_t n, float threshold, int64_t* next, int32_t* out,
                  int64_t room) = nullptr;
};

// Null when this build has no such path; the caller asks isa_available() first.
const Kernels* kernels_for(Isa isa);
// Those that `kernels` goes with where nothing may be rounded to BF16 before it is multiplied.
const Kernels* exact_kernels(const Kernels* kernels);

// One for each source file; kernels_for() chooses. amx's is the two before it, but for most tiles.
const Kernels* plain_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512bf16_kernels();
const Kernels* amx_kernels();

}  // namespace nemotron::cpu
