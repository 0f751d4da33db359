// What the device may launch. Each function enqueues one kernel on the queue's stream; errors
// collect in the queue. Each load_...() makes the kernels of a file ready, once per device and
// before the first launch. Defined in the .cu files; no CUDA syntax here.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/queue.h"
#include "cuda/step_layout.h"
#include "device/random.h"
#include "device/step.h"
#include "device/tensor.h"

namespace nemotron::cuda {

using gpu::Queue;

// Rows of a matrix that stay in groups (device/grouped.h). Sixteen rows are a panel: for every 128
// columns a block, which begins with the scales as on the CPU: halves [every scale_every() columns]
// [16 rows], those of the least values alike, steps [group][16 rows], those of the least values.
// Then the codes of each 64 columns, as lane 4 g + t of a warp wants them, which takes columns 8 t
// to 8 t + 7 of either half of them, of rows g and g + 8: the lowest four bits of those in 16
// bytes, a word for the first half of row g, of g + 8, then of the second half; and behind those
// of all lanes the bits above them, in the same order.
struct PackedRows {
  const uint8_t* data = nullptr;
  int32_t first_tile = 0;  // of sixteen rows, in the matrix
  int32_t scale_bytes = 0, block_bytes = 0;
  int32_t bits = 4, group = 32;
  int32_t has_steps = 0, has_least = 0;
  int32_t is_table =
      0;  // codes are places in `table`; else that of code 0 and the numbers after it
  float first = 0;
  float table[16] = {};
};
inline constexpr int kMostPacked = 4;  // kinds of rows in a matrix
struct PackedForms {
  PackedRows rows[kMostPacked];
  int32_t count = 0, tiles = 0;
  int32_t pad[2] = {};
};
static_assert(sizeof(PackedForms) % 16 == 0);
// A matrix all of whose rows are packed, for who launches.
struct Packed {
  PackedForms forms;
  const PackedForms* device = nullptr;    // the same, where kernels read it
  int32_t scale_slot = 0, code_slot = 0;  // most bytes of 16 rows: of 128 columns, of 64 columns
  size_t bytes = 0;
};

// A weight in device memory: rows of `stride` bytes, padded with zeros to `k` columns. Plain
// row-major order, so that decode kernels, prompt kernels and cuBLASLt read one copy. FP8: sixteen
// columns are in the order of fp8_weight_place, which lets registers be widened in pairs.
struct Matrix {
  const uint8_t* data = nullptr;
  const float* scale = nullptr;  // [rows], null: all 1
  int64_t stride = 0;            // bytes
  int32_t rows = 0, cols = 0;
  int32_t first_row = 0;  // of a rank's part of a vocabulary: the id of its first row
  int32_t k = 0;          // cols rounded up to kKBlock
  bool fp8 = false;
  const Packed* packed = nullptr;  // rows in groups: data is where they begin, stride means nothing
};
inline constexpr int kKBlock = 64;
constexpr int32_t padded_k(int64_t cols) {
  return int32_t((cols + kKBlock - 1) / kKBlock * kKBlock);
}

// Elements of a row of what Products::bf16 makes: rows that begin on sixteen bytes.
inline int64_t unscaled_stride(const Matrix& w) { return (int64_t(w.rows) + 7) / 8 * 8; }

// One layer of the KV cache: K and V, each [blocks, kv_heads, block_size, head_dim]. Of every four
// columns of FP8 keys the middle two are swapped (fp8_place); values are as they come.
struct KvLayer {
  uint8_t* k = nullptr;
  uint8_t* v = nullptr;
  float k_scale = 1, v_scale = 1;  // real = stored * scale
  int32_t kv_heads = 0, block_size = 0, head_dim = 0;
  bool fp8 = false;
};

// --- elementwise.cu ---

struct PackRows {                   // rows of a checkpoint's matrix into a Matrix
  const uint8_t* source = nullptr;  // device staging, dense rows of `cols`
  DType dtype = DType::bf16;
  const float* source_scale = nullptr;  // device; [1] or [rows]
  int32_t source_scales = 0;
  // Device, [rows]: with `quantise`, the largest magnitude of a row, whose part this is. Null: the
  // source's own.
  const float* source_largest = nullptr;
  int32_t rows = 0, cols = 0, k = 0;
  uint8_t* out = nullptr;
  int64_t out_stride = 0;
  float* out_scale = nullptr;  // null: none wanted
  bool fp8 = false;            // of the output; bf16 otherwise
  bool quantise = false;       // with a scale of its own per row
};
void pack_rows(Queue& queue, const PackRows& p);

// angles [rows, half] (cosine, sine) of the step's rows
void rope_angles(Queue& queue, const StepHeader* step, int grid_rows, const float* inv_freq,
                 int half, float2* angles);

// x [rows, cols] f32 = the tokens' rows of the table; zeros where another rank's table has them.
// Tokens outside the vocabulary are counted in *fault.
struct Embed {
  const StepHeader* step = nullptr;
  Matrix table;
  int32_t vocab = 0;  // of all ranks' tables
  const int32_t* slots = nullptr;
  float* x = nullptr;
  uint32_t* fault = nullptr;
};
void embed(Queue& queue, const Embed& p, int grid_rows);

// out [n, out_stride] bf16 = x[rows ? rows[i] : i] * rsqrt(mean of squares + eps) * gain, from
// column first_col on; zeros from column cols on. With a bias, of x less its mean, and the bias is
// added. Here and below, n is *count and at most grid_rows, or grid_rows itself where count is
// null.
struct NormRows {
  const int32_t* count = nullptr;
  const int32_t* rows = nullptr;
  const float* x = nullptr;
  const float* gain = nullptr;
  const float* bias = nullptr;
  float eps = 0;
  int32_t cols = 0, first_col = 0;
  uint16_t* out = nullptr;
  int32_t out_stride = 0;
};
void norm_rows(Queue& queue, const NormRows& p, int grid_rows);

// out [rows, out_stride] = a [rows, cols], zeros from cols on; bf16
void pad_rows(Queue& queue, int rows, const uint16_t* a, int cols, uint16_t* out, int out_stride);

// qkv [rows, stride] bf16 of rows [first_row, first_row + rows) of the step, not yet scaled: q
// turned and out, k turned and v into the cache.
struct RopeStore {
  const StepHeader* step = nullptr;
  const uint16_t* qkv = nullptr;
  int64_t stride = 0;
  const float* scale = nullptr;      // of the matrix that qkv came from
  const float* row_scale = nullptr;  // [rows] of the activations; null: all 1
  const float2* angles = nullptr;
  uint16_t* q = nullptr;
  KvLayer kv;
  int32_t q_heads = 0, first_row = 0, rows = 0;
  int32_t rotary = 0;  // elements of a head that are turned, from its first on; divides head_dim
};
void rope_store(Queue& queue, const RopeStore& p);

// Here and below: scale [cols] of the weights, row_scale [rows] of the activations; null: all 1.
// h [rows, inner] = silu(gate * scale) * (up * scale); gate_up [rows, stride] bf16 (gate, then up)
struct SiluMul {
  const uint16_t* gate_up = nullptr;
  int64_t stride = 0;
  const float* scale = nullptr;
  const float* row_scale = nullptr;
  int32_t rows = 0, inner = 0;
  uint16_t* h = nullptr;
};
void silu_mul(Queue& queue, const SiluMul& p);

// h [rows, inner] = max(up * scale, 0)^2; up [rows, stride] bf16
struct Relu2 {
  const uint16_t* up = nullptr;
  int64_t stride = 0;
  const float* scale = nullptr;
  const float* row_scale = nullptr;
  int32_t rows = 0, inner = 0;
  uint16_t* h = nullptr;
};
void relu2_rows(Queue& queue, const Relu2& p);

// x [rows, cols] (+)= y * scale
struct ScaleRows {
  const float* y = nullptr;
  const float* scale = nullptr;
  const float* row_scale = nullptr;
  int32_t rows = 0, cols = 0;
  bool add = false;
  float* x = nullptr;
};
void scale_rows(Queue& queue, const ScaleRows& p);

// out [rows, k] E4M3 (columns in the order of FP8 weights) = a [rows, a_stride] bf16 over the
// row's scale, which makes the largest 448
struct RoundRows {
  const uint16_t* a = nullptr;
  int64_t a_stride = 0;
  int32_t rows = 0, k = 0;
  uint8_t* out = nullptr;
  float* row_scale = nullptr;
};
void round_rows(Queue& queue, const RoundRows& p);

// out [rows, k] bf16 = the FP8 matrix, its scale left out
void widen(Queue& queue, const Matrix& w, uint16_t* out);
void load_elementwise(Queue& queue);

// --- gemm_decode.cu ---

// The norm of generated rows, half made by the product that writes x and half by the one that reads
// it: a row's scale is known only when all of it is there.
struct SplitNorm {
  const float* gain = nullptr;  // [cols]; null: no such norm
  uint16_t* scaled = nullptr;   // [rows, stride] bf16 x * gain, zeros from cols on
  int64_t stride = 0;
  float* squares = nullptr;  // [rows, norm_tiles(cols)] sums of x^2
};
NEMOTRON_HD constexpr int norm_tiles(int cols) { return (cols + 15) / 16; }

struct DecodeGemm {
  // Rows of a, in device memory and at most grid_rows; null: grid_rows.
  const int32_t* count = nullptr;
  int32_t grid_rows = 0;
  const uint16_t* a = nullptr;  // [count, a_stride] bf16, zeros (or anything) never beyond w.k
  int64_t a_stride = 0;
  Matrix w;
  // a is SplitNorm::scaled: results by rsqrt(mean of squares + eps). Null: a is what it is.
  const float* squares = nullptr;
  float eps = 0;
  // The kernel before this one leaves memory idle: L2 may be asked for weights meanwhile.
  bool idle_before = false;
};
void gemm_decode_store(Queue& queue, const DecodeGemm& p, float* out, int64_t out_stride);
// x += a w^T, and the first half of `norm`, of x
void gemm_decode_add(Queue& queue, const DecodeGemm& p, float* x, int64_t x_stride,
                     const SplitNorm& norm);
void gemm_decode_silu(Queue& queue, const DecodeGemm& p, uint16_t* h, int64_t h_stride);
void gemm_decode_relu2(Queue& queue, const DecodeGemm& p, uint16_t* h, int64_t h_stride);
// rows 0.. of the step; qkv, stride and rows of RopeStore are unused
void gemm_decode_rope(Queue& queue, const DecodeGemm& p, const RopeStore& rope);
void load_gemm_decode(Queue& queue);

// --- gemm_decode_packed.cu: of matrices that are packed, beside their products ---

// out [rows, k] bf16: what products of generated rows take of the weights, bit for bit
void widen_packed(Queue& queue, const Matrix& w, uint16_t* out);
// As embed(), of a packed table: float32, not rounded.
void embed_packed(Queue& queue, const Embed& p, int grid_rows);
void load_gemm_decode_packed(Queue& queue);
void load_gemm_decode_wgmma(Queue& queue);  // on sm_90a, before Queue::wgmma is set

// How such a product is launched, for counting: `paired` where sums are taken in pairs (silu and
// rope), of a matrix whose halves are whole tiles.
struct DecodeLaunch {
  std::string kernel;                       // the instance, as a part of its mangled name
  int32_t rows = 0, tokens = 0, warps = 0;  // of the matrix, and of a, that a block takes at a time
  int32_t stage_columns = 0, stages = 0;    // of the queue in shared memory
  int64_t shared = 0;                       // bytes a block
  int32_t early = 0;                        // bytes of each weight row that L2 is asked for early
  int32_t tiles = 0, blocks = 0;            // each block takes one tile or several
  int32_t cluster = 1;                      // blocks that share what they read of a
};
DecodeLaunch gemm_decode_launch(const Queue& queue, const DecodeGemm& p, bool paired);

// --- gemm_prompt.cu ---

struct PromptGemm {
  const uint16_t* a = nullptr;  // [rows, a_stride] bf16
  int64_t a_stride = 0;
  int32_t rows = 0;
  Matrix w;
};
void gemm_prompt_bf16(Queue& queue, const PromptGemm& p, uint16_t* out,
                      int64_t out_stride);  // not scaled
void gemm_prompt_add(Queue& queue, const PromptGemm& p, float* x, int64_t x_stride);
void load_gemm_prompt(Queue& queue);

// --- attention_decode.cu, attention_prompt.cu, attention_prompt_wgmma.cu ---

struct AttentionArgs {
  const StepHeader* step = nullptr;
  const uint16_t* q = nullptr;  // [rows, q_heads, head_dim] bf16
  uint16_t* out = nullptr;
  KvLayer kv;
  int32_t q_heads = 0;
  float scale = 1;
  // Decode alone, as all below. The items to do, [first_item, first_item + items): all items of
  // whole rows. -1: all of the step's.
  int32_t first_item = 0, items = -1;
  // [items * StepHeader::decode_parts, q_heads, head_dim]: the sum over the keys of each
  float* partial = nullptr;
  float2* partial_state = nullptr;  // [items * decode_parts, q_heads]: its maximum and denominator
  // Counters, all zero at the start: one for each row, KV head and tile of 16 query heads.
  uint32_t* arrivals = nullptr;
};
void attention_decode(Queue& queue, const AttentionArgs& p);
// How it is launched, for counting: of `rows` rows with `context` keys each.
struct DecodeAttentionLaunch {
  int32_t parts = 1, units = 0;      // blocks that share an item, and units of work
  int32_t tiles = 0, asked_for = 0;  // of a warp's unit, and those of them asked for at once
  int64_t shared = 0;                // bytes a block
};
DecodeAttentionLaunch attention_decode_launch(const Queue& queue, const AttentionArgs& p, int rows,
                                              int context);
// Most items of a step that kDecodeParts blocks share each of (StepBuilder::Model): so many that
// all of the blocks are there at once.
int32_t attention_decode_split_items(const Queue& queue, int q_heads, int kv_heads, int head_dim);
void attention_prompt(Queue& queue, const AttentionArgs& p, int tiles);
void load_attention_decode(Queue& queue);
void load_attention_prompt(Queue& queue);
// By wgmma, on sm_90a and where the cache has a map (cache_map.h).
struct CacheMap;
void attention_prompt_wgmma(Queue& queue, const AttentionArgs& p, const CacheMap& cache, int tiles);
void load_attention_prompt_wgmma(Queue& queue);
int prompt_tile_tokens(int q_heads, int kv_heads);  // tokens of one span that a PromptTile may have

// --- ranks.cu: what the devices of a group tell each other ---

// Every rank has a piece of memory that all ranks write to: PeerHeader, two rows of greetings, a
// word of each rank, and two slots. Rows and slots take turns. A word that has not come is
// kNotCome, a NaN that no arithmetic makes: there are no flags. Who has read a word makes it
// kNotCome again.
// Each kernel below is one turn, on all ranks the same one, of the same rows.
//
// In each turn every rank waits for a word of every other rank: for what it is told, or, where it
// may be told nothing, for a greeting. So nobody is two turns ahead, and a slot is free when its
// next turn comes: who writes there in turn t + 2 has had a word of this rank in turn t + 1, which
// this rank sent after its kernel of turn t, and that has read all that it was told.
// When the group has ended nobody waits, and nobody tells anything from its next turn on.
inline constexpr int kMostRanks = 8;
inline constexpr uint32_t kNotCome = 0xffffffffu;
inline constexpr size_t kPeerHeaderBytes = 256, kGreetingBytes = 256;
struct PeerHeader {
  uint32_t turn;      // how many there have been: where the next one's slot is
  uint32_t arrivals;  // of the blocks of a turn; zero between turns
  uint32_t ended;     // not 0: nobody waits any more, and what is computed is of no use
};
struct Peers {
  uint8_t* memory[kMostRanks] = {};  // all ranks'
  int32_t rank = 0, ranks = 1;
  int64_t slot_bytes = 0;      // at least ranks * one_shot_bytes
  int64_t one_shot_bytes = 0;  // sums of so many bytes a rank go to every rank at once
  uint64_t patience_ns = 0;    // longest wait for a word
  // The next kernel's blocks may take their places while words are awaited (Ranks::join).
  bool dependents_early = true;
  // [2] Where a wait ended without its word: 1 + the rank that it was for (1 + kMostRanks: one
  // that is not known); and 1.
  uint32_t* stopped = nullptr;
};
// Of a rank's piece: zeros in the header, and kNotCome in all that follows, before the first turn.
constexpr size_t peer_bytes(int64_t slot_bytes) {
  return kPeerHeaderBytes + kGreetingBytes + 2 * size_t(slot_bytes);
}

// x [rows, cols] += ((p0 + p1) + ...) in the order of the ranks: the same bits on each. cols is a
// multiple of kRankColumns. `fresh`: the sum alone, whatever x was. And the first half of `norm`,
// of x. Rows are at most rows_of_turn(); n as above.
struct SumOverRanks {
  Peers peers;
  const int32_t* count = nullptr;
  const float* partial = nullptr;  // [rows, cols], this rank's
  float* x = nullptr;
  int32_t cols = 0, grid_rows = 0;
  bool fresh = false;
  SplitNorm norm;
  const float* gathered = nullptr;  // of add_gathered(): [ranks, grid_rows, cols]
};
// Beyond Peers::one_shot_bytes each rank adds up a part of the columns and tells the others: more
// trips, fewer bytes, the same bits.
inline constexpr int kRankColumns = 16;
int32_t rows_of_turn(const Peers& peers, int32_t cols);
void sum_over_ranks(Queue& queue, const SumOverRanks& p);

// logits [rows, vocab], of which every rank has computed columns [first_col, first_col + cols): row
// i becomes whole on rank i % ranks. grid_rows at most logit_rows_of_turn().
struct GatherLogits {
  Peers peers;
  const int32_t* count = nullptr;
  float* logits = nullptr;
  int32_t grid_rows = 0, vocab = 0, first_col = 0, cols = 0;
  float* gathered = nullptr;  // of pack and unpack_logits(): [ranks, grid_rows, logit_width()]
};
int32_t logit_rows_of_turn(const Peers& peers, int32_t vocab);
void gather_logits(Queue& queue, const GatherLogits& p);

// The ids that samples [first, first + n) left in their slots, each on the rank that drew it, reach
// all ranks' slots.
struct ShareIds {
  Peers peers;
  const uint8_t* block = nullptr;  // as Sample's
  int32_t first = 0, rows = 0;
  int32_t* slots = nullptr;
  int32_t* gathered = nullptr;  // of pack and unpack_ids(): [ranks, rows]
};
void share_ids(Queue& queue, const ShareIds& p);

// The same where GPUs do not reach each other's memory, around a library's all-gather: what this
// rank tells is put in its place of `gathered`, or is `partial` itself; what all have told is taken
// from there. Of Peers only the numbers count.
void add_gathered(Queue& queue, const SumOverRanks& p);
// Columns of the rank that has the most: that of rank r begin at vocab * r / ranks.
NEMOTRON_HD constexpr int32_t logit_width(int32_t vocab, int32_t ranks) {
  return (vocab + ranks - 1) / ranks;
}
void pack_logits(Queue& queue, const GatherLogits& p);
void unpack_logits(Queue& queue, const GatherLogits& p);
void pack_ids(Queue& queue, const ShareIds& p);
void unpack_ids(Queue& queue, const ShareIds& p);
void load_ranks(Queue& queue);

// --- sample.cu ---

// Samples [first, first + n) of the step from logits [n, vocab]; n is what the header leaves, at
// most grid_rows.
struct Sample {
  uint8_t* block = nullptr;  // of a SampleBuilder, on the device
  int32_t first = 0;
  float* logits = nullptr;
  int32_t vocab = 0;
  int32_t* slots = nullptr;
  SampleOutput* out = nullptr;
  int32_t rank = 0, ranks = 1;  // row i is drawn on rank i % ranks
};
void sample(Queue& queue, const Sample& p, int grid_rows);
void load_sample(Queue& queue);

// Where column k of an FP8 key lies.
NEMOTRON_HD constexpr int64_t fp8_place(int64_t k) {
  return (k & ~int64_t(3)) | ((k & 1) << 1) | ((k >> 1) & 1);
}
// Where column k of a row of FP8 weights lies. A word of four bytes has what lane t of four wants
// of sixteen columns for a product of the tensor cores: columns 2 t and 2 t + 1 in its even bytes,
// 2 t + 8 and 2 t + 9 in its odd ones.
NEMOTRON_HD constexpr int64_t fp8_weight_place(int64_t k) {
  return (k & ~int64_t(15)) | ((k & 6) << 1) | ((k & 1) << 1) | ((k >> 3) & 1);
}

}  // namespace nemotron::cuda
