// out = a w^T for prompt rows, where cuBLASLt is not to be had: any number of rows.
//
//   bytes  weights once for every 128 rows (from L2 when blocks of one weight tile run together), a
//          once for every 128 weight rows
//   FLOPs  2 * rows * k * weight rows
//   bound  tensor cores (mma.sync: about 60 % of what wgmma reaches on sm_90)
//
// A block makes a 128 x 128 tile, a warp 64 x 64 of it, from 64 columns of K at a time through a
// queue of cp.async stages. As in gemm_decode.cu, K inside 64 columns is taken in the order that
// lets a lane read sixteen bytes at once, so plain row-major order does for both operands. K is
// never split and the tile is always the same: a row's result depends on no other row.
#include "cuda/block.h"
#include "cuda/epilogue.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kThreads = 128, kTile = 128;

enum class Result { bf16, add };
struct Output {
  Result kind = Result::bf16;
  void* data = nullptr;
  int64_t stride = 0;
};

// Rows of 128 bytes (64 bf16) in shared memory, eight chunks of sixteen: odd rows are turned around
// so that the eight lanes of a phase (two rows, four chunks) touch all banks, both for chunks t, t
// + 4 (beside BF16 weights) and for chunks 2 t, 2 t + 1 (beside FP8 ones).
GPU_DEVICE int place(int row, int chunk) { return row * 8 + (chunk ^ ((row & 1) * 5)); }

template <bool kFp8>
struct Shape {
  static constexpr int kWeightChunks = kFp8 ? 4 : 8;  // of sixteen bytes, a row and 64 columns
  static constexpr int kStageChunks = kTile * (8 + kWeightChunks);
  static constexpr int kStages = kFp8 ? 4 : 3;
  static constexpr int kBytes = kStages * kStageChunks * 16;  // 96 KiB
};

// A warp's sums, [16 rows of a][8 weight rows]; the lane's first are given.
GPU_DEVICE void write_tiles(const PromptGemm& p, const Output& out, int first_row, int first_weight,
                            const float (&sum)[4][8][4]) {
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = first_row + m * 16 + (e >= 2 ? 8 : 0),
                  weight = first_weight + n * 8 + e % 2;
        if (row >= p.rows || weight >= p.w.rows) continue;
        const int64_t at = row * out.stride + weight;
        float v = sum[m][n][e];
        if (out.kind == Result::bf16) {
          static_cast<uint16_t*>(out.data)[at] = to_bf16(v);
          continue;
        }
        if (p.w.scale) v *= p.w.scale[weight];
        static_cast<float*>(out.data)[at] += v;
      }
    }
  }
}

template <bool kFp8>
__global__ void __launch_bounds__(kThreads) gemm_prompt_kernel(PromptGemm p, Output out) {
  using S = Shape<kFp8>;
  pdl_launch_dependents();
  Shared smem;
  uint4* queue = smem.take<uint4>(S::kBytes / 16);
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4,
            t = lane % 4;
  // Blocks that share weights are neighbours.
  const int first_row = int(blockIdx.x) * kTile, first_weight = int(blockIdx.y) * kTile;
  const int warp_row = warp % 2 * 64, warp_weight = warp / 2 * 64;

  const auto load = [&](int block) {
    uint4* rows = queue + block % S::kStages * S::kStageChunks;
    uint4* weights = rows + kTile * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = i * 16 + thread / 8, chunk = thread % 8;
      const bool real = first_row + row < p.rows;
      cp_async16(rows + place(row, chunk),
                 p.a + (real ? (first_row + row) * p.a_stride + block * kKBlock + chunk * 8 : 0),
                 real);
    }
#pragma unroll
    for (int i = 0; i < S::kWeightChunks; ++i) {
      const int at = i * kThreads + thread, row = at / S::kWeightChunks,
                chunk = at % S::kWeightChunks;
      const bool real = first_weight + row < p.w.rows;
      const uint8_t* from =
          p.w.data +
          (real ? (first_weight + row) * p.w.stride + (block * S::kWeightChunks + chunk) * 16 : 0);
      cp_async16(weights + (kFp8 ? row * 4 + chunk : place(row, chunk)), from, real);
    }
  };

  pdl_wait();
  const int blocks = p.w.k / kKBlock;
#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < blocks) load(i);
    cp_async_commit();
  }
  float sum[4][8][4] = {};  // [16 rows of a][8 weight rows]
  for (int i = 0; i < blocks; ++i) {
    cp_async_wait<S::kStages - 2>();
    block_sync();  // everybody's bytes have landed, and nobody reads the stage that is loaded next
    if (i + S::kStages - 1 < blocks) load(i + S::kStages - 1);
    cp_async_commit();
    const uint4* rows = queue + i % S::kStages * S::kStageChunks;
    const uint4* weights = rows + kTile * 8;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint4 lo[4], hi[4];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const int row = warp_row + m * 16 + g, chunk = kFp8 ? 2 * t + h : t + 4 * h;
        lo[m] = load16(rows + place(row, chunk));
        hi[m] = load16(rows + place(row + 8, chunk));
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int row = warp_weight + n * 8 + g;
        uint4 b;
        if constexpr (kFp8) {
          const int shift = h == 0 ? 8 : 0;  // the even bytes first
          const uint4 v = load16(weights + row * 4 + t);
          b = uint4{e4m3_odd_to_bf16(v.x << shift), e4m3_odd_to_bf16(v.y << shift),
                    e4m3_odd_to_bf16(v.z << shift), e4m3_odd_to_bf16(v.w << shift)};
        } else {
          b = load16(weights + place(row, t + 4 * h));
        }
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          mma_bf16(sum[m][n], lo[m].x, hi[m].x, lo[m].y, hi[m].y, b.x, b.y);
          mma_bf16(sum[m][n], lo[m].z, hi[m].z, lo[m].w, hi[m].w, b.z, b.w);
        }
      }
    }
  }
  cp_async_wait<0>();

  write_tiles(p, out, first_row + warp_row + g, first_weight + warp_weight + 2 * t, sum);
}

void launch_any(Queue& queue, const PromptGemm& p, Result kind, void* data, int64_t stride) {
  Output out;
  out.kind = kind;
  out.data = data;
  out.stride = stride;
  const dim3 grid(unsigned((p.rows + kTile - 1) / kTile), unsigned((p.w.rows + kTile - 1) / kTile));
  launch(queue, "gemm_prompt", p.w.fp8 ? gemm_prompt_kernel<true> : gemm_prompt_kernel<false>, grid,
         kThreads, p.w.fp8 ? Shape<true>::kBytes : Shape<false>::kBytes, p, out);
}

}  // namespace

void gemm_prompt_bf16(Queue& queue, const PromptGemm& p, uint16_t* out, int64_t out_stride) {
  launch_any(queue, p, Result::bf16, out, out_stride);
}
void gemm_prompt_add(Queue& queue, const PromptGemm& p, float* x, int64_t x_stride) {
  launch_any(queue, p, Result::add, x, x_stride);
}
void load_gemm_prompt(Queue& queue) {
  load_kernel(queue, "gemm_prompt", gemm_prompt_kernel<false>, Shape<false>::kBytes);
  load_kernel(queue, "gemm_prompt", gemm_prompt_kernel<true>, Shape<true>::kBytes);
}

}  // namespace nemotron::cuda
