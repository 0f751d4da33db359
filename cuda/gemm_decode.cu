// out = a w^T for generated rows and for the head: streams the weights, once for 64 rows of a. Many
// rows of a large matrix are gemm_decode_wide.cu's, with the same bits.
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
// Blocks for few tokens stay: a block takes one 16 * kRowTiles rows after another, and its queue
// runs on from one to the next. There are only so many of them, with so small a queue, that a block
// of the next kernel finds room beside them. That one requests its first stages of weights before
// it waits for this kernel (PDL): they do not depend on it.
#include "cuda/block.h"
#include "cuda/gemm_decode.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;

template <bool kFp8_, int kRowTiles_, int kTokenTiles_, bool kPaired_>
struct Shape {
  static constexpr bool kFp8 = kFp8_, kPaired = kPaired_;
  static constexpr int kRowTiles = kRowTiles_, kTokenTiles = kTokenTiles_;
  // Row tiles that move from block to block: of a pair, one half.
  static constexpr int kLower = kPaired ? kRowTiles / 2 : kRowTiles;
  // Few tokens: the block takes several places in turn, and sums have memory of their own. Else it
  // takes one, and they take the queue's, which is empty then.
  static constexpr bool kStays = kTokenTiles <= 2;
  static constexpr int kWeightLoads =
      kRowTiles * (kFp8 ? 2 : 4);  // sixteen bytes a lane and 64 columns
  static constexpr int kLoads = kWeightLoads + kTokenTiles * 2;
  static constexpr int kStageBytes = kWarps * kLoads * 32 * 16;
  static constexpr int kSumBytes = kWarps * kRowTiles * kTokenTiles * 32 * 16;
  static constexpr int kQueueBytes = kStays ? 48 << 10 : kRowTiles < 4 ? 96 << 10 : 192 << 10;
  static constexpr int kStages =
      kStays && kQueueBytes / kStageBytes < 3 ? 3 : kQueueBytes / kStageBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;
  // Of a weight row, before the first use.
  static constexpr int kAskedBytes = (kStages - 1) * kWarps * kKBlock * (kFp8 ? 1 : 2);
  static_assert(kStages >= 2 && kRingBytes >= kSumBytes);
  // And a float a token.
  static constexpr int kBytes = kRingBytes + (kStays ? kSumBytes : 0) + kTokenTiles * 8 * 4;
};

// Where a lane's bytes begin in each weight row at column block 0: in units of sixteen bytes, to
// save registers.
template <int kRowTiles, bool kPaired>
GPU_DEVICE void place_weights(const DecodeGemm& p, const Output& out, const Lane& at, int place,
                              uint32_t (&weights)[kRowTiles][2]) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = tile_row<kPaired, kRowTiles>(out, place, i) + at.g + 8 * h;
      const int real = row < p.w.rows ? row : p.w.rows - 1;
      weights[i][h] = uint32_t(int64_t(real) * p.w.stride / 16 + at.t);
    }
  }
}

// A row tile's weights in a stage: a0..a3 of four steps of mma.
template <bool kFp8>
GPU_DEVICE void read_weights(const uint4* slot, int r, uint32_t (&a)[4][4]) {
  if constexpr (kFp8) {
    fp8_weights(load16(slot + r * 2 * 32), load16(slot + (r * 2 + 1) * 32), a);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i += 2)
      bf16_weights(load16(slot + (r * 4 + i) * 32), load16(slot + (r * 4 + i + 1) * 32), a[i],
                   a[i + 1]);
  }
}

// sum += weights * activations of a stage: 64 columns.
template <bool kFp8, int kRowTiles, int kTokenTiles>
GPU_DEVICE void multiply_stage(const uint4* slot, const uint4* tokens_slot,
                               float (&sum)[kRowTiles][kTokenTiles][4]) {
  uint32_t a[kRowTiles][4][4];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) read_weights<kFp8>(slot, r, a[r]);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      const uint4 b = load16(tokens_slot + (n * 2 + h) * 32);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
        multiply_steps(sum[r][n], a[r][2 * h], a[r][2 * h + 1], b);
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

// The results of the block's rows at `place`, from the sums of its four warps.
template <class S>
GPU_DEVICE void write_results(const DecodeGemm& p, const Output& out, const Lane& at, int place,
                              const uint4* sums, const float* row_scale) {
  constexpr int kTiles = S::kRowTiles * S::kTokenTiles;
  for (int u = at.warp; u < S::kLower * S::kTokenTiles; u += kWarps) {
    const TilePlace to = {place * S::kLower + u / S::kTokenTiles, u % S::kTokenTiles};
    float v[2][4];
    total_of<kTiles>(sums, u, at.lane, v[0]);
    if constexpr (S::kPaired) {
      total_of<kTiles>(sums, u + S::kLower * S::kTokenTiles, at.lane, v[1]);
      write_pair(p, out, at, row_scale, to, v);
    } else {
      write_tile(p, out, at, row_scale, to, v[0]);
    }
  }
}

// Registers may allow as little as one block a multiprocessor: shared memory is what limits them.
// `places` of the matrix are shared among gridDim.y blocks, each of which takes every gridDim.y-th.
template <bool kFp8, int kRowTiles, int kTokenTiles, bool kPaired>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_decode_kernel(DecodeGemm p, Output out, int places, int early) {
  using S = Shape<kFp8, kRowTiles, kTokenTiles, kPaired>;
  pdl_launch_dependents();
  const int tokens = p.count ? *p.count : p.grid_rows,
            first_token = int(blockIdx.x) * kTokenTiles * 8;
  if (first_token >= tokens) return pdl_wait();
  Shared smem;
  uint4* shared = smem.take<uint4>(S::kRingBytes / 16);
  uint4* sums = S::kStays ? smem.take<uint4>(S::kSumBytes / 16) : shared;
  float* row_scale = smem.take<float>(kTokenTiles * 8);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const Lane at = {first_token, tokens, warp, lane, g, t};
  uint4* ring = shared + warp * S::kStages * S::kLoads * 32 + lane;  // this lane's queue: stride 32
  // Stages are numbered from the block's first place to its last. The next to be asked for is
  // column block `next` of the warp's, at place `next_place`.
  const int all = p.w.k / kKBlock, mine = (all - warp + kWarps - 1) / kWarps;
  // A block that does not stay has one place: a register less, which the largest would spill.
  const int stages =
      S::kStays ? mine * ((places - int(blockIdx.y) + int(gridDim.y) - 1) / int(gridDim.y)) : mine;
  int next = 0, next_place = int(blockIdx.y), next_of_tokens = 0, stage = 0;
  uint32_t weights[kRowTiles][2];
  place_weights<kRowTiles, kPaired>(p, out, at, next_place, weights);
  const uint16_t* activations = p.a + int64_t(first_token + g) * p.a_stride + (kFp8 ? 16 : 8) * t;

  const auto load_weights = [&](int stage) {
    uint4* slot = ring + stage % S::kStages * S::kLoads * 32;
    const uint32_t block = uint32_t(warp + next * kWarps) * (kFp8 ? 4 : 8);
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
    if (++next < mine) return;
    next = 0;
    next_place += int(gridDim.y);
    if (S::kStays && next_place < places)
      place_weights<kRowTiles, kPaired>(p, out, at, next_place, weights);
  };
  const auto load_tokens = [&](int stage) {
    uint4* slot = ring + (stage % S::kStages * S::kLoads + S::kWeightLoads) * 32;
    const int64_t block = int64_t(warp) + int64_t(next_of_tokens) * kWarps;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      const bool real = first_token + n * 8 + g < tokens;
      const uint16_t* from = real ? activations + n * 8 * p.a_stride + block * 64 : p.a;
      cp_async16(slot + n * 2 * 32, from, real);
      cp_async16(slot + (n * 2 + 1) * 32, from + (real ? (kFp8 ? 8 : 32) : 0), real);
    }
    if (++next_of_tokens == mine) next_of_tokens = 0;
  };

#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < stages) load_weights(i);
  }
  if (S::kStays && early > 0)
    prefetch_place<kPaired, kRowTiles>(p, out, S::kAskedBytes, early, kThreads);
  pdl_wait();
#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < stages) load_tokens(i);
    cp_async_commit();
  }

  for (int place = int(blockIdx.y); place < places; place += int(gridDim.y)) {
    float sum[kRowTiles][kTokenTiles][4] = {};
    for (int i = 0; i < mine; ++i, ++stage) {
      cp_async_wait<S::kStages - 2>();
      if (stage + S::kStages - 1 < stages) {
        load_weights(stage + S::kStages - 1);
        load_tokens(stage + S::kStages - 1);
      }
      cp_async_commit();
      const uint4* slot = ring + stage % S::kStages * S::kLoads * 32;
      multiply_stage<kFp8>(slot, slot + S::kWeightLoads * 32, sum);
    }
    // Not before the first sums: they are on their way by then.
    if (p.squares && place == int(blockIdx.y))
      scale_rows_of<kWarps, kTokenTiles * 8>(p, at, row_scale);
    // The four warps' sums, added in the order of the warps, when those of the place before have
    // been read.
    block_sync();
    keep_sums(sums + warp * kRowTiles * kTokenTiles * 32 + lane, sum);
    block_sync();
    write_results<S>(p, out, at, place, sums, row_scale);
    if constexpr (!S::kStays) break;
  }
  cp_async_wait<0>();
}

// The largest instance needs a block with more shared memory than sm_86 and sm_89 have.
bool large_fits(const Queue& queue) {
  return queue.shared_limit >= size_t(Shape<false, 4, 8, false>::kBytes);
}

// use(Shape) of the instance that takes so many rows of a.
template <bool kFp8, bool kPaired, class Use>
void with_instance(const Queue& queue, int32_t grid_rows, const Use& use) {
  constexpr int kFewest = kPaired ? 2 : 1;
  if (grid_rows <= 8) return use(Shape<kFp8, kFewest, 1, kPaired>());
  if (grid_rows <= 16) return use(Shape<kFp8, kFewest, 2, kPaired>());
  if (grid_rows <= 32) return use(Shape<kFp8, 2, 4, kPaired>());
  if (large_fits(queue)) return use(Shape<kFp8, 4, 8, kPaired>());
  return use(Shape<kFp8, 2, 8, kPaired>());
}

template <class Use>
void with_instance(const Queue& queue, const DecodeGemm& p, bool paired, const Use& use) {
  with_form(p.w.fp8, paired, [&](auto fp8, auto pairs) {
    with_instance<fp8.value, pairs.value>(queue, p.grid_rows, use);
  });
}

template <class S>
constexpr auto kernel_of(S) {
  return gemm_decode_kernel<S::kFp8, S::kRowTiles, S::kTokenTiles, S::kPaired>;
}

// Row tiles of the matrix, of pairs the lower ones.
int32_t lower_tiles(const DecodeGemm& p, const Output& out, bool paired) {
  return paired ? (p.w.rows / out.segment_rows) * out.segment_tiles : (p.w.rows + 15) / 16;
}

template <class S>
int32_t places_of(S, int32_t tiles) {
  return (tiles + S::kLower - 1) / S::kLower;
}

// Blocks that stay are at most two a multiprocessor, so that memory is left for the next kernel's.
template <class S>
dim3 grid_of(S, const Queue& queue, int32_t places, int32_t grid_rows) {
  const int32_t most = S::kStays ? 2 * queue.multiprocessors : places;
  return dim3(unsigned((grid_rows + S::kTokenTiles * 8 - 1) / (S::kTokenTiles * 8)),
              unsigned(places < most ? places : most));
}

void launch_any(Queue& queue, const DecodeGemm& p, const Output& out) {
  const bool paired = out.epilogue == Epilogue::silu || out.epilogue == Epilogue::rope;
  const int32_t tiles = lower_tiles(p, out, paired);
  if (p.w.packed) return gemm_decode_packed(queue, p, out, tiles, paired);
  if (queue.wgmma) return gemm_decode_wgmma(queue, p, out, tiles, paired);
  if (gemm_decode_wide(queue, p, out, tiles, paired)) return;
  with_instance(queue, p, paired, [&](auto s) {
    const int32_t places = places_of(s, tiles);
    launch(queue, "gemm_decode", kernel_of(s), grid_of(s, queue, places, p.grid_rows), kThreads,
           s.kBytes, p, out, places, early_bytes(p, s.kAskedBytes));
  });
}

}  // namespace

void load_gemm_decode(Queue& queue) {
  const auto load = [&](auto s) { load_kernel(queue, "gemm_decode", kernel_of(s), s.kBytes); };
  each_form([&](auto fp8, auto paired) {
    for (const int32_t rows : {8, 16, 32, 64}) {
      with_instance<fp8.value, paired.value>(queue, rows, load);
    }
  });
  load_gemm_decode_wide(queue);
  load_gemm_decode_packed(queue);
}

DecodeLaunch gemm_decode_launch(const Queue& queue, const DecodeGemm& p, bool paired) {
  DecodeLaunch l;
  const int32_t tiles = p.w.rows / (paired ? 32 : 16);
  if (queue.wgmma) {
    gemm_decode_wgmma_launch(queue, p, tiles, paired, &l);
    return l;
  }
  if (gemm_decode_wide_launch(queue, p, tiles, paired, &l)) return l;
  with_instance(queue, p, paired, [&](auto s) {
    const int32_t places = places_of(s, tiles);
    const dim3 grid = grid_of(s, queue, places, p.grid_rows);
    l.kernel = "gemm_decode_kernelILb" + std::to_string(s.kFp8) + "ELi" +
               std::to_string(s.kRowTiles) + "ELi" + std::to_string(s.kTokenTiles) + "ELb" +
               std::to_string(s.kPaired) + "EE";
    l.rows = s.kRowTiles * 16;
    l.tokens = s.kTokenTiles * 8;
    l.warps = kWarps;
    l.stage_columns = kWarps * kKBlock;
    l.stages = s.kStages;
    l.shared = s.kBytes;
    l.early = early_bytes(p, s.kAskedBytes);
    l.tiles = places * int32_t(grid.x);
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

void gemm_decode_relu2(Queue& queue, const DecodeGemm& p, uint16_t* h, int64_t h_stride) {
  Output o;
  o.epilogue = Epilogue::relu2;
  o.data = h;
  o.stride = h_stride;
  launch_any(queue, p, o);
}

void gemm_decode_rope(Queue& queue, const DecodeGemm& p, const RopeStore& rope) {
  Output o;
  o.epilogue = Epilogue::rope;
  o.rope = rope;
  // What is turned of a head, then as many stretches of the same length as the rest of it is.
  o.pair_offset = o.lower_rows = rope.rotary / 2;
  o.segment_tiles = (o.lower_rows + 15) / 16;
  o.segment_rows = rope.rotary;
  launch_any(queue, p, o);
}

}  // namespace nemotron::cuda
