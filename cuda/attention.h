// What both attention kernels share: how keys and values turn into operands of mma, and the running
// softmax of sixteen rows in a warp's registers.
//
// Fragments: the rows of the "A" operand are (query row, head) pairs; lane 4 g + t holds rows g and
// g + 8. Scores s[n][0..1] are row g's for keys 8 n + 2 t and + 1, s[n][2..3] row g + 8's.
#pragma once

#include "cuda/gpu.h"
#include "cuda/kernels.h"

namespace nemotron::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr int kPromptPairs = 128;  // (row, head) pairs of a PromptTile, for both kernels
GPU_DEVICE float minus_infinity() { return gpu::as_float(0xff800000u); }

// Sizes for heads of up to kDim columns (real heads may be shorter: the rest is zeros).
template <int kDim, bool kFp8>
struct Head {
  static constexpr int kBytes = kFp8 ? 1 : 2;         // an element
  static constexpr int kChunks = kDim * kBytes / 16;  // of sixteen bytes, a key or value
  static constexpr int kBlocks = kDim / 64;           // of 64 columns
  static constexpr int kLaneChunks = kFp8 ? 1 : 2;    // of a key, a lane and 64 columns
  static constexpr int kValueTiles = kDim / 8;        // of eight columns of the output
};

// The query fragments of rows g and g + 8: [64-column block][half][row].
template <int kDim>
struct Query {
  uint4 v[kDim / 64][2][2];
};

// Chunk of a key's (or query's) row that half h of lane t's 64-column block b is read from; FP8
// keys are sixteen columns a chunk, so the query follows them.
template <bool kFp8>
GPU_DEVICE int query_chunk(int b, int h, int t) {
  return b * 8 + (kFp8 ? 2 * t + h : t + 4 * h);
}

template <int kDim, bool kFp8>
GPU_DEVICE void load_query(Query<kDim>& q, const uint16_t* row_g, const uint16_t* row_g8, int dim,
                           int t) {
#pragma unroll
  for (int b = 0; b < kDim / 64; ++b) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int column = query_chunk<kFp8>(b, h, t) * 8;
      q.v[b][h][0] = row_g && column < dim ? gpu::load16(row_g + column) : uint4{0, 0, 0, 0};
      q.v[b][h][1] = row_g8 && column < dim ? gpu::load16(row_g8 + column) : uint4{0, 0, 0, 0};
    }
  }
}

// s += q k^T for eight keys; `chunk(b, h)` reads this lane's sixteen bytes of key g (h is 0 for
// FP8).
template <int kDim, bool kFp8, class Chunk>
GPU_DEVICE void multiply_keys(float (&s)[4], const Query<kDim>& q, Chunk chunk) {
#pragma unroll
  for (int b = 0; b < kDim / 64; ++b) {
    if constexpr (kFp8) {
      const uint4 k = chunk(b, 0);
      const uint32_t w[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 lo = q.v[b][i / 2][0], hi = q.v[b][i / 2][1];
        gpu::mma_bf16(s, i % 2 ? lo.z : lo.x, i % 2 ? hi.z : hi.x, i % 2 ? lo.w : lo.y,
                      i % 2 ? hi.w : hi.y, gpu::e4m3_even_to_bf16(w[i]),
                      gpu::e4m3_odd_to_bf16(w[i]));
      }
    } else {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint4 k = chunk(b, h), lo = q.v[b][h][0], hi = q.v[b][h][1];
        gpu::mma_bf16(s, lo.x, hi.x, lo.y, hi.y, k.x, k.y);
        gpu::mma_bf16(s, lo.z, hi.z, lo.w, hi.w, k.z, k.w);
      }
    }
  }
}

// Values lie in shared memory as rows of kChunks chunks, turned so that the eight rows of a matrix
// that ldmatrix reads lie in different banks.
template <int kChunks>
GPU_DEVICE int value_place(int key, int chunk) {
  return key * kChunks + (chunk ^ (kChunks % 8 == 0 ? key & 7 : key >> 1 & 3));
}

// o += p v for sixteen keys; `values` points at the first one's row. The weights' fragment is what
// softmax_step() makes: `low` of keys 0 to 7, `high` of 8 to 15.
template <int kDim, bool kFp8>
GPU_DEVICE void multiply_values(float (&o)[kDim / 8][4], const uint32_t (&low)[2],
                                const uint32_t (&high)[2], const uint4* values, int first_key) {
  const uint32_t p0 = low[0], p1 = low[1], p2 = high[0], p3 = high[1];
  constexpr int kChunks = Head<kDim, kFp8>::kChunks;
  const int lane = int(threadIdx.x) % 32, key = first_key + lane % 16;
#pragma unroll
  for (int c = 0; c < kChunks; c += 2) {
    uint32_t r[4];
    gpu::ldmatrix_x4_trans(r, values + value_place<kChunks>(key, c + lane / 16));
    if constexpr (kFp8) {
      // A sixteen-bit column is two columns of values: even bytes make one tile, odd bytes another.
      gpu::mma_bf16(o[c * 2], p0, p1, p2, p3, gpu::e4m3_even_to_bf16(r[0]),
                    gpu::e4m3_even_to_bf16(r[1]));
      gpu::mma_bf16(o[c * 2 + 1], p0, p1, p2, p3, gpu::e4m3_odd_to_bf16(r[0]),
                    gpu::e4m3_odd_to_bf16(r[1]));
      gpu::mma_bf16(o[c * 2 + 2], p0, p1, p2, p3, gpu::e4m3_even_to_bf16(r[2]),
                    gpu::e4m3_even_to_bf16(r[3]));
      gpu::mma_bf16(o[c * 2 + 3], p0, p1, p2, p3, gpu::e4m3_odd_to_bf16(r[2]),
                    gpu::e4m3_odd_to_bf16(r[3]));
    } else {
      gpu::mma_bf16(o[c], p0, p1, p2, p3, r[0], r[1]);
      gpu::mma_bf16(o[c + 1], p0, p1, p2, p3, r[2], r[3]);
    }
  }
}

// The output column of element e (0 or 1) of value tile i in this lane.
template <bool kFp8>
GPU_DEVICE int value_column(int i, int e, int t) {
  return kFp8 ? i / 2 * 16 + 4 * t + 2 * e + i % 2 : i * 8 + 2 * t + e;
}

// Rows g and g + 8: the largest score so far (times log2 e), and the sum of the weights.
struct Softmax {
  float most[2], sum[2];
};

// Turns the scores of kTiles * 8 keys into weights (bf16 pairs: w[n][0] row g, w[n][1] row g + 8)
// and scales what has been summed before. Scores of keys not attended to are minus infinity; every
// row has met at least one real score, in this call or before.
template <int kTiles, int kDim>
GPU_DEVICE void softmax_step(float (&s)[kTiles][4], float scale, Softmax& state,
                             float (&o)[kDim / 8][4], uint32_t (&w)[kTiles][2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most = minus_infinity();
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      most = fmaxf(most, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    }
    most = fmaxf(most, gpu::shuffle_xor(most, 1));
    most = fmaxf(most, gpu::shuffle_xor(most, 2));
    most = fmaxf(state.most[h], most * scale);
    const float by = gpu::exp2_fast(state.most[h] - most);
    state.most[h] = most;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const float a = gpu::exp2_fast(s[n][2 * h] * scale - most),
                  b = gpu::exp2_fast(s[n][2 * h + 1] * scale - most);
      sum += a + b;
      w[n][h] = gpu::pack_bf16(a, b);
    }
    state.sum[h] =
        state.sum[h] * by + sum;  // this lane's share; the four lanes of a row are added at the end
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      o[i][2 * h] *= by;
      o[i][2 * h + 1] *= by;
    }
  }
}

// Where a block of the cache begins for one KV head, in bytes.
GPU_DEVICE int64_t cache_place(const KvLayer& kv, int block, int kv_head) {
  return (int64_t(block) * kv.kv_heads + kv_head) * kv.block_size * kv.head_dim * (kv.fp8 ? 1 : 2);
}

}  // namespace nemotron::cuda
