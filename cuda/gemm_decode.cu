// out = a w^T for generated rows (M 1..64 a pass) and for the head: streams the weights once.
//
//   bytes  rows * k * (2 or 1) of weights, once for every 64 rows of a; a itself comes from L2
//   FLOPs  2 * M * rows * k: below the tensor cores' limit up to M about 180
//   bound  memory bandwidth
//
// Weight rows are the M of mma.m16n8k16 and tokens its N, so that one token costs one narrow mma. A
// block is four warps over the same 16 * kRowTiles weight rows; warp w takes the 64-column blocks
// w, w+4, ... of K and the four sums are added in order at the end. That order does not depend on
// the number of tokens, nor on which of the instances below runs: a row's result is the same bits
// in any batch.
//
// K inside a 64-column block may be taken in any order as long as weights and activations agree: a
// lane takes sixteen bytes that lie together, which are its fragments for two (FP8: four) steps of
// mma. So both operands are read in plain row-major order, and shared memory is only a queue
// between cp.async and the lane that asked for the bytes: no barrier, no bank conflict, no
// transposition.
//
// The weights of the first stages are requested before the wait for the previous kernel (PDL): they
// do not depend on it.
#include "cuda/block.h"
#include "cuda/epilogue.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;

enum class Epilogue { store, add, silu, rope };

struct Output {
  Epilogue epilogue = Epilogue::store;
  void* data = nullptr;
  int64_t stride = 0;
  // Silu and rope work on pairs of sums: the upper half of a block's row tiles lies this many rows
  // below the lower half (gate and up; the two halves of a head). Lower tiles come in segments of
  // segment_tiles tiles, segment_rows rows apart, of which lower_rows are real.
  int32_t pair_offset = 0;
  int32_t segment_tiles = 1, segment_rows = 0, lower_rows = 0;
  RopeStore rope;
  SplitNorm norm;  // with add
};

template <bool kFp8_, int kRowTiles_, int kTokenTiles_, int kShared_, bool kPaired_>
struct Shape {
  static constexpr bool kFp8 = kFp8_, kPaired = kPaired_;
  static constexpr int kRowTiles = kRowTiles_, kTokenTiles = kTokenTiles_, kShared = kShared_;
  // Row tiles that move from block to block: of a pair, one half.
  static constexpr int kLower = kPaired ? kRowTiles / 2 : kRowTiles;
  static constexpr int kWeightLoads =
      kRowTiles * (kFp8 ? 2 : 4);  // sixteen bytes a lane and 64 columns
  static constexpr int kLoads = kWeightLoads + kTokenTiles * 2;
  static constexpr int kStageBytes = kWarps * kLoads * 32 * 16;
  static constexpr int kStages = kShared / kStageBytes > 8 ? 8 : kShared / kStageBytes;
  static constexpr int kSumBytes = kWarps * kRowTiles * kTokenTiles * 32 * 16;
  static constexpr int kRingBytes =
      kStages * kStageBytes > kSumBytes ? kStages* kStageBytes : kSumBytes;
  static constexpr int kBytes = kRingBytes + kTokenTiles * 8 * 4;  // and a float a token
  static_assert(kStages >= 2);
};

// The first weight row of the block's row tile i.
template <bool kPaired, int kRowTiles>
GPU_DEVICE int tile_row(const Output& out, int i) {
  if constexpr (!kPaired) return (int(blockIdx.y) * kRowTiles + i) * 16;
  constexpr int kLower = kRowTiles / 2 > 0 ? kRowTiles / 2 : 1;
  const int tile = int(blockIdx.y) * kLower + i % kLower;
  const int row = tile / out.segment_tiles * out.segment_rows + tile % out.segment_tiles * 16;
  return row + (i >= kLower ? out.pair_offset : 0);
}

// Where a lane stands: which of its block's tokens and fragments are its own.
struct Lane {
  int first_token, tokens;  // of the block; of the step
  int warp, lane, g, t;
};

// Where a lane's bytes begin in each weight row at column block 0: in units of sixteen bytes, to
// save registers.
template <int kRowTiles, bool kPaired>
GPU_DEVICE void place_weights(const DecodeGemm& p, const Output& out, const Lane& at,
                              uint32_t (&weights)[kRowTiles][2]) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = tile_row<kPaired, kRowTiles>(out, i) + at.g + 8 * h;
      const int real = row < p.w.rows ? row : p.w.rows - 1;
      weights[i][h] = uint32_t(int64_t(real) * p.w.stride / 16 + at.t);
    }
  }
}

// A unit of the results: row tile r and token tile n of a block.
struct TilePlace {
  int r, n;
};

// 1 / sqrt(mean of squares + eps) of the block's tokens.
template <int kTokenTiles>
GPU_DEVICE void scale_rows_of(const DecodeGemm& p, const Lane& at, float* row_scale) {
  const int tiles = norm_tiles(p.w.cols), first_token = at.first_token, tokens = at.tokens;
  const int warp = at.warp, lane = at.lane;
  for (int i = warp; i < kTokenTiles * 8 && first_token + i < tokens; i += kWarps) {
    const float* squares = p.squares + int64_t(first_token + i) * tiles;
    float all_squares = 0;
    for (int j = lane; j < tiles; j += 32) all_squares += squares[j];
    all_squares = warp_sum(all_squares);
    if (lane == 0) row_scale[i] = 1.0f / sqrtf(all_squares / float(p.w.cols) + p.eps);
  }
}

// Half h of a row tile's weights in a stage, for two steps of mma: a0..a3 of the first, then of the
// second.
template <bool kFp8>
GPU_DEVICE void read_weights(const uint4* slot, int r, int h, uint32_t (&a)[8]) {
  if constexpr (kFp8) {
    const uint2 lo = load8(reinterpret_cast<const uint2*>(slot + r * 2 * 32) + h);
    const uint2 hi = load8(reinterpret_cast<const uint2*>(slot + (r * 2 + 1) * 32) + h);
    a[0] = e4m3_even_to_bf16(lo.x), a[1] = e4m3_even_to_bf16(hi.x);
    a[2] = e4m3_odd_to_bf16(lo.x), a[3] = e4m3_odd_to_bf16(hi.x);
    a[4] = e4m3_even_to_bf16(lo.y), a[5] = e4m3_even_to_bf16(hi.y);
    a[6] = e4m3_odd_to_bf16(lo.y), a[7] = e4m3_odd_to_bf16(hi.y);
  } else {
    const uint4 lo = load16(slot + (r * 4 + h * 2) * 32),
                hi = load16(slot + (r * 4 + h * 2 + 1) * 32);
    a[0] = lo.x, a[1] = hi.x, a[2] = lo.y, a[3] = hi.y;
    a[4] = lo.z, a[5] = hi.z, a[6] = lo.w, a[7] = hi.w;
  }
}

// sum += weights * activations of a stage: 64 columns.
template <bool kFp8, int kRowTiles, int kTokenTiles>
GPU_DEVICE void multiply_stage(const uint4* slot, const uint4* tokens_slot,
                               float (&sum)[kRowTiles][kTokenTiles][4]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    uint32_t a[kRowTiles][8];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) read_weights<kFp8>(slot, r, h, a[r]);
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      const uint4 b = load16(tokens_slot + (n * 2 + h) * 32);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        mma_bf16(sum[r][n], a[r][0], a[r][1], a[r][2], a[r][3], b.x, b.y);
        mma_bf16(sum[r][n], a[r][4], a[r][5], a[r][6], a[r][7], b.z, b.w);
      }
    }
  }
}

// A warp's sums, for the others to read: a lane's lie 32 apart.
template <int kRowTiles, int kTokenTiles>
GPU_DEVICE void keep_sums(uint4* to, const float (&sum)[kRowTiles][kTokenTiles][4]) {
#pragma unroll
  for (int i = 0; i < kRowTiles * kTokenTiles; ++i) {
    const float* s = sum[i / kTokenTiles][i % kTokenTiles];
    store16(to + i * 32, uint4{as_uint(s[0]), as_uint(s[1]), as_uint(s[2]), as_uint(s[3])});
  }
}

// Sum i of the four warps, added in the order of the warps.
template <int kTiles>
GPU_DEVICE void total_of(const uint4* shared, int i, int lane, float (&v)[4]) {
  v[0] = v[1] = v[2] = v[3] = 0;
  for (int w = 0; w < kWarps; ++w) {
    const uint4 s = load16(shared + (w * kTiles + i) * 32 + lane);
    v[0] += as_float(s.x);
    v[1] += as_float(s.y);
    v[2] += as_float(s.z);
    v[3] += as_float(s.w);
  }
}

// low[e] belongs to row g (e < 2) or g + 8 of a tile and token 2 t + e % 2 of token tile n.

// The results of row tile r and token tile n: stored, or added to what is there, which a split norm
// may read next.
template <int kRowTiles>
GPU_DEVICE void write_tile(const DecodeGemm& p, const Output& out, const Lane& at,
                           const float* row_scale, TilePlace tile_of, const float (&low)[4]) {
  const auto [r, n] = tile_of;
  float squares[2] = {};  // of the lane's two tokens
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int in_block = n * 8 + 2 * at.t + e % 2, token = at.first_token + in_block;
    const int row = tile_row<false, kRowTiles>(out, r) + at.g + (e >= 2 ? 8 : 0);
    if (token >= at.tokens || row >= p.w.rows) continue;
    float v = low[e] * (p.squares ? row_scale[in_block] : 1.0f);
    if (p.w.scale) v *= p.w.scale[row];
    float* to = static_cast<float*>(out.data) + token * out.stride + row;
    if (out.epilogue == Epilogue::add) v += *to;
    *to = v;
    if (out.norm.gain) {
      out.norm.scaled[token * out.norm.stride + row] = to_bf16(v * out.norm.gain[row]);
      squares[e % 2] += v * v;
    }
  }
  if (!out.norm.gain) return;
  // Of a tile's sixteen rows, whatever instance this is: one order for any number of tokens.
  const int tile = int(blockIdx.y) * kRowTiles + r;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    for (int m = 4; m < 32; m *= 2) squares[e] += shuffle_xor(squares[e], m);
    const int token = at.first_token + n * 8 + 2 * at.t + e;
    if (at.g == 0 && token < at.tokens && tile < norm_tiles(p.w.rows))
      out.norm.squares[int64_t(token) * norm_tiles(p.w.rows) + tile] = squares[e];
  }
}

// The same of a pair of row tiles: silu(low) * high, or both halves of a head, turned and cached.
template <int kRowTiles>
GPU_DEVICE void write_pair(const DecodeGemm& p, const Output& out, const Lane& at,
                           const float* row_scale, TilePlace tile_of, const float (&sums)[2][4]) {
  const auto [r, n] = tile_of;
  const int tile = int(blockIdx.y) * (kRowTiles / 2) + r;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int in_block = n * 8 + 2 * at.t + e % 2, token = at.first_token + in_block;
    if (token >= at.tokens) continue;
    const int in_tile = at.g + (e >= 2 ? 8 : 0), row = tile_row<true, kRowTiles>(out, r) + in_tile;
    const int place = tile % out.segment_tiles * 16 + in_tile;
    if (place >= out.lower_rows || row >= p.w.rows) continue;
    const float by = p.squares ? row_scale[in_block] : 1.0f;
    float lo = sums[0][e] * by, hi = sums[1][e] * by;
    if (p.w.scale) {
      lo *= p.w.scale[row];
      hi *= p.w.scale[row + out.pair_offset];
    }
    if (out.epilogue == Epilogue::silu) {
      static_cast<uint16_t*>(out.data)[token * out.stride + row] = to_bf16(silu(lo) * hi);
    } else {
      const int slot = step_array<RowInfo>(out.rope.step, out.rope.step->row_info)[token].kv_slot;
      store_rotated(out.rope, token, slot, tile / out.segment_tiles, place, float2{lo, hi});
    }
  }
}

// Registers may allow as little as one block a multiprocessor: shared memory is what limits them.
template <bool kFp8, int kRowTiles, int kTokenTiles, int kShared, bool kPaired>
__global__ void __launch_bounds__(kThreads, 1) gemm_decode_kernel(DecodeGemm p, Output out) {
  using S = Shape<kFp8, kRowTiles, kTokenTiles, kShared, kPaired>;
  pdl_launch_dependents();
  const int tokens = p.count ? *p.count : p.grid_rows,
            first_token = int(blockIdx.x) * kTokenTiles * 8;
  if (first_token >= tokens) {
    pdl_wait();
    return;
  }
  Shared smem;
  uint4* shared = smem.take<uint4>(S::kRingBytes / 16);
  float* row_scale = smem.take<float>(kTokenTiles * 8);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const Lane at = {first_token, tokens, warp, lane, g, t};
  uint4* ring = shared + warp * S::kStages * S::kLoads * 32 + lane;  // this lane's queue: stride 32

  uint32_t weights[kRowTiles][2];
  place_weights<kRowTiles, kPaired>(p, out, at, weights);
  const uint16_t* activations = p.a + int64_t(first_token + g) * p.a_stride + (kFp8 ? 16 : 8) * t;

  const int all = p.w.k / kKBlock, mine = (all - warp + kWarps - 1) / kWarps;
  const auto load_weights = [&](int i) {
    uint4* slot = ring + i % S::kStages * S::kLoads * 32;
    const uint32_t block = uint32_t(warp + i * kWarps) * (kFp8 ? 4 : 8);
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint8_t* from = p.w.data + int64_t(weights[r][h] + block) * 16;
        if constexpr (kFp8) {
          cp_async16(slot + (r * 2 + h) * 32, from);
        } else {
          cp_async16(slot + (r * 4 + h) * 32, from);
          cp_async16(slot + (r * 4 + 2 + h) * 32, from + 64);
        }
      }
    }
  };
  const auto load_tokens = [&](int i) {
    uint4* slot = ring + (i % S::kStages * S::kLoads + S::kWeightLoads) * 32;
    const int64_t block = int64_t(warp) + int64_t(i) * kWarps;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      const bool real = first_token + n * 8 + g < tokens;
      const uint16_t* from = real ? activations + n * 8 * p.a_stride + block * 64 : p.a;
      cp_async16(slot + n * 2 * 32, from, real);
      cp_async16(slot + (n * 2 + 1) * 32, from + (real ? (kFp8 ? 8 : 32) : 0), real);
    }
  };

#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < mine) load_weights(i);
  }
  pdl_wait();
#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < mine) load_tokens(i);
    cp_async_commit();
  }
  if (p.squares) scale_rows_of<kTokenTiles>(p, at, row_scale);

  float sum[kRowTiles][kTokenTiles][4] = {};
  for (int i = 0; i < mine; ++i) {
    cp_async_wait<S::kStages - 2>();
    if (i + S::kStages - 1 < mine) {
      load_weights(i + S::kStages - 1);
      load_tokens(i + S::kStages - 1);
    }
    cp_async_commit();
    const uint4* slot = ring + i % S::kStages * S::kLoads * 32;
    multiply_stage<kFp8>(slot, slot + S::kWeightLoads * 32, sum);
  }
  cp_async_wait<0>();

  // The four warps' sums, added in the order of the warps. The queue is empty: its memory serves.
  block_sync();
  constexpr int kTiles = kRowTiles * kTokenTiles;
  keep_sums(shared + warp * kTiles * 32 + lane, sum);
  block_sync();

  constexpr int kLower = kPaired ? kRowTiles / 2 : kRowTiles;
  for (int u = warp; u < kLower * kTokenTiles; u += kWarps) {
    const TilePlace tile = {u / kTokenTiles, u % kTokenTiles};
    float v[2][4];
    total_of<kTiles>(shared, u, lane, v[0]);
    if constexpr (kPaired) {
      total_of<kTiles>(shared, u + kLower * kTokenTiles, lane, v[1]);
      write_pair<kRowTiles>(p, out, at, row_scale, tile, v);
    } else {
      write_tile<kRowTiles>(p, out, at, row_scale, tile, v[0]);
    }
  }
}

// Shared memory of a block: two blocks fit a multiprocessor of every architecture from sm_80 on at
// the small size (sm_86 and sm_89: one); the large one needs sm_80 or sm_90.
constexpr int kSmall = 96 << 10, kLarge = 192 << 10;
bool large_fits(const Queue& queue) { return queue.shared_limit >= size_t(kLarge); }

// use(Shape) of the instance that takes so many rows of a.
template <bool kFp8, bool kPaired, class Use>
void with_instance(const Queue& queue, int32_t grid_rows, const Use& use) {
  constexpr int kFewest = kPaired ? 2 : 1;
  if (grid_rows <= 8) return use(Shape<kFp8, kFewest, 1, kSmall, kPaired>());
  if (grid_rows <= 16) return use(Shape<kFp8, kFewest, 2, kSmall, kPaired>());
  if (grid_rows <= 32) return use(Shape<kFp8, 2, 4, kSmall, kPaired>());
  if (large_fits(queue)) return use(Shape<kFp8, 4, 8, kLarge, kPaired>());
  return use(Shape<kFp8, 2, 8, kSmall, kPaired>());
}

template <class Use>
void with_instance(const Queue& queue, const DecodeGemm& p, bool paired, const Use& use) {
  if (p.w.fp8) {
    if (paired) return with_instance<true, true>(queue, p.grid_rows, use);
    return with_instance<true, false>(queue, p.grid_rows, use);
  }
  if (paired) return with_instance<false, true>(queue, p.grid_rows, use);
  return with_instance<false, false>(queue, p.grid_rows, use);
}

template <class S>
constexpr auto kernel_of(S) {
  return gemm_decode_kernel<S::kFp8, S::kRowTiles, S::kTokenTiles, S::kShared, S::kPaired>;
}

// Row tiles of the matrix, of pairs the lower ones.
int32_t lower_tiles(const DecodeGemm& p, const Output& out, bool paired) {
  return paired ? (p.w.rows / out.segment_rows) * out.segment_tiles : (p.w.rows + 15) / 16;
}

template <class S>
dim3 grid_of(S, int32_t tiles, int32_t grid_rows) {
  return dim3(unsigned((grid_rows + S::kTokenTiles * 8 - 1) / (S::kTokenTiles * 8)),
              unsigned((tiles + S::kLower - 1) / S::kLower));
}

void launch_any(Queue& queue, const DecodeGemm& p, const Output& out) {
  const bool paired = out.epilogue == Epilogue::silu || out.epilogue == Epilogue::rope;
  with_instance(queue, p, paired, [&](auto s) {
    launch(queue, "gemm_decode", kernel_of(s), grid_of(s, lower_tiles(p, out, paired), p.grid_rows),
           kThreads, s.kBytes, p, out);
  });
}

template <bool kFp8, bool kPaired>
void load_all(Queue& queue) {
  const auto load = [&](auto s) { load_kernel(queue, "gemm_decode", kernel_of(s), s.kBytes); };
  for (const int32_t rows : {8, 16, 32, 64}) with_instance<kFp8, kPaired>(queue, rows, load);
}

}  // namespace

void load_gemm_decode(Queue& queue) {
  load_all<false, false>(queue);
  load_all<false, true>(queue);
  load_all<true, false>(queue);
  load_all<true, true>(queue);
}

DecodeLaunch gemm_decode_launch(const Queue& queue, const DecodeGemm& p, bool paired) {
  DecodeLaunch l;
  with_instance(queue, p, paired, [&](auto s) {
    const dim3 grid = grid_of(s, p.w.rows / (paired ? 32 : 16), p.grid_rows);
    l.kernel = "gemm_decode_kernelILb" + std::to_string(s.kFp8) + "ELi" +
               std::to_string(s.kRowTiles) + "ELi" + std::to_string(s.kTokenTiles) + "ELi" +
               std::to_string(s.kShared) + "ELb" + std::to_string(s.kPaired) + "EE";
    l.rows = s.kRowTiles * 16;
    l.tokens = s.kTokenTiles * 8;
    l.warps = kWarps;
    l.stage_columns = kWarps * kKBlock;
    l.stages = s.kStages;
    l.shared = s.kBytes;
    l.blocks = int32_t(grid.x * grid.y);
  });
  return l;
}

void gemm_decode_store(Queue& queue, const DecodeGemm& p, float* out, int64_t out_stride) {
  Output o;
  o.data = out;
  o.stride = out_stride;
  launch_any(queue, p, o);
}

void gemm_decode_add(Queue& queue, const DecodeGemm& p, float* x, int64_t x_stride,
                     const SplitNorm& norm) {
  Output o;
  o.epilogue = Epilogue::add;
  o.norm = norm;
  o.data = x;
  o.stride = x_stride;
  launch_any(queue, p, o);
}

void gemm_decode_silu(Queue& queue, const DecodeGemm& p, uint16_t* h, int64_t h_stride) {
  Output o;
  o.epilogue = Epilogue::silu;
  o.data = h;
  o.stride = h_stride;
  o.pair_offset = o.lower_rows = p.w.rows / 2;
  o.segment_tiles = (o.lower_rows + 15) / 16;
  o.segment_rows = p.w.rows;  // one segment
  launch_any(queue, p, o);
}

void gemm_decode_rope(Queue& queue, const DecodeGemm& p, const RopeStore& rope) {
  Output o;
  o.epilogue = Epilogue::rope;
  o.rope = rope;
  o.pair_offset = o.lower_rows = rope.kv.head_dim / 2;
  o.segment_tiles = (o.lower_rows + 15) / 16;
  o.segment_rows = rope.kv.head_dim;
  launch_any(queue, p, o);
}

}  // namespace nemotron::cuda
