// What the products of generated rows share, of few (gemm_decode.cu) and of many
// (gemm_decode_wide.cu): how fragments are made, and what becomes of the sums. All of it gives a
// row the same bits, whichever takes it.
#pragma once

#include <type_traits>

#include "cuda/epilogue.h"
#include "cuda/gpu.h"
#include "cuda/kernels.h"

namespace nemotron::cuda {

enum class Epilogue { store, add, silu, relu2, rope };

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

// The product for many rows, where it takes it; false: gemm_decode.cu has to. `tiles`: row tiles of
// the matrix, of pairs the lower ones. One name, one rule, for launching and for counting.
bool gemm_decode_wide(Queue& queue, const DecodeGemm& p, const Output& out, int32_t tiles,
                      bool paired);
bool gemm_decode_wide_launch(const Queue& queue, const DecodeGemm& p, int32_t tiles, bool paired,
                             DecodeLaunch* l);
void load_gemm_decode_wide(Queue& queue);

// The product of any number of rows of a matrix that is packed.
void gemm_decode_packed(Queue& queue, const DecodeGemm& p, const Output& out, int32_t tiles,
                        bool paired);

// The product for any number of rows, where the queue says that wgmma takes them all.
void gemm_decode_wgmma(Queue& queue, const DecodeGemm& p, const Output& out, int32_t tiles,
                       bool paired);
void gemm_decode_wgmma_launch(const Queue& queue, const DecodeGemm& p, int32_t tiles, bool paired,
                              DecodeLaunch* l);

// use(fp8, paired) of the product's kernels, as constants.
template <class Use>
auto with_form(bool fp8, bool paired, const Use& use) {
  constexpr std::true_type yes;
  constexpr std::false_type no;
  if (fp8) return paired ? use(yes, yes) : use(yes, no);
  return paired ? use(no, yes) : use(no, no);
}
template <class Use>
void each_form(const Use& use) {
  for (const bool fp8 : {false, true}) {
    for (const bool paired : {false, true}) with_form(fp8, paired, use);
  }
}

// Bytes of each weight row that L2 is asked for early, after the `asked` that a block brings: as
// much as L2 gives up gladly. Products of many tokens keep memory busy themselves.
inline int32_t early_bytes(const DecodeGemm& p, int32_t asked) {
  constexpr int64_t kMost = 16 << 20;
  if (!p.idle_before || p.grid_rows > 8) return 0;
  const int64_t left = int64_t(p.w.k) * (p.w.fp8 ? 1 : 2) - asked;
  const int64_t share = kMost / p.w.rows / 16 * 16;
  return left < 0 ? 0 : int32_t(left < share ? left : share);
}

// Where a lane stands: which of its block's tokens and fragments are its own.
struct Lane {
  int first_token, tokens;  // of the block; of the step
  int warp, lane, g, t;
};

// A unit of the results: a row tile of the matrix (of pairs, the lower one), a token tile of the
// block.
struct TilePlace {
  int tile, n;
};

// The first weight row of a row tile; of pairs, of a lower one.
template <bool kPaired>
GPU_DEVICE int row_of_tile(const Output& out, int tile) {
  if constexpr (!kPaired) return tile * 16;
  return tile / out.segment_tiles * out.segment_rows + tile % out.segment_tiles * 16;
}

// The first weight row of row tile i at place `place` of the matrix, which has kRowTiles.
template <bool kPaired, int kRowTiles>
GPU_DEVICE int tile_row(const Output& out, int place, int i) {
  if constexpr (!kPaired) return (place * kRowTiles + i) * 16;
  constexpr int kLower = kRowTiles / 2 > 0 ? kRowTiles / 2 : 1;
  const int tile = place * kLower + i % kLower;
  return row_of_tile<true>(out, tile) + (i >= kLower ? out.pair_offset : 0);
}

// Asks L2 for `early` bytes of each row of the block's first place, after `asked`: a thread a row,
// of `threads`.
template <bool kPaired, int kRowTiles>
GPU_DEVICE void prefetch_place(const DecodeGemm& p, const Output& out, int asked, int early,
                               int threads) {
  for (int i = int(threadIdx.x); i < kRowTiles * 16; i += threads) {
    const int row = tile_row<kPaired, kRowTiles>(out, int(blockIdx.y), i / 16) + i % 16;
    if (row < p.w.rows) gpu::prefetch_l2(p.w.data + row * p.w.stride + asked, uint32_t(early));
  }
}

// --- fragments ---

// Sixteen bytes of weight rows g and g + 8 of a tile, BF16: a0..a3 of two steps of mma.
GPU_DEVICE void bf16_weights(const uint4& lo, const uint4& hi, uint32_t (&first)[4],
                             uint32_t (&second)[4]) {
  first[0] = lo.x, first[1] = hi.x, first[2] = lo.y, first[3] = hi.y;
  second[0] = lo.z, second[1] = hi.z, second[2] = lo.w, second[3] = hi.w;
}
// The same of FP8 (fp8_weight_place): of four steps. The first two take columns 0 to 7 of sixteen.
GPU_DEVICE void fp8_weights(const uint4& lo, const uint4& hi, uint32_t (&a)[4][4]) {
  const uint32_t words[4][2] = {{lo.x, hi.x}, {lo.y, hi.y}, {lo.z, hi.z}, {lo.w, hi.w}};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      a[i / 2][i % 2 * 2 + r] = gpu::e4m3_even_to_bf16(words[i][r]);
      a[2 + i / 2][i % 2 * 2 + r] = gpu::e4m3_odd_to_bf16(words[i][r]);
    }
  }
}
// sum += two steps of mma; b: sixteen bytes of a token.
GPU_DEVICE void multiply_steps(float (&sum)[4], const uint32_t (&first)[4],
                               const uint32_t (&second)[4], const uint4& b) {
  gpu::mma_bf16(sum, first[0], first[1], first[2], first[3], b.x, b.y);
  gpu::mma_bf16(sum, second[0], second[1], second[2], second[3], b.z, b.w);
}

// --- results ---

// 1 / sqrt(mean of squares + eps) of the block's tokens. A warp sums up a token's, several tokens
// side by side.
template <int kWarps, int kTokens>
GPU_DEVICE void scale_rows_of(const DecodeGemm& p, const Lane& at, float* row_scale) {
  constexpr int kEach = (kTokens + kWarps - 1) / kWarps, kAtOnce = kEach < 4 ? kEach : 4;
  const int tiles = norm_tiles(p.w.cols), first_token = at.first_token, tokens = at.tokens;
  for (int first = at.warp; first < kTokens && first_token + first < tokens;
       first += kWarps * kAtOnce) {
    float sum[kAtOnce] = {};
    for (int j = at.lane; j < tiles; j += 32) {
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const int i = first + u * kWarps;
        if (i < kTokens && first_token + i < tokens)
          sum[u] += p.squares[int64_t(first_token + i) * tiles + j];
      }
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int i = first + u * kWarps;
      const float all = gpu::warp_sum(sum[u]);
      if (at.lane == 0 && i < kTokens && first_token + i < tokens)
        row_scale[i] = 1.0f / sqrtf(all / float(p.w.cols) + p.eps);
    }
  }
}

// Below, sum e belongs to row g (e < 2) or g + 8 of a tile and token 2 t + e % 2 of a token tile.

// The results of a row tile and a token tile: stored, or added to what is there, which a split norm
// may read next.
GPU_DEVICE void write_tile(const DecodeGemm& p, const Output& out, const Lane& at,
                           const float* row_scale, TilePlace place, const float (&low)[4]) {
  const auto [tile, n] = place;
  float squares[2] = {};  // of the lane's two tokens
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int in_block = n * 8 + 2 * at.t + e % 2, token = at.first_token + in_block;
    const int row = row_of_tile<false>(out, tile) + at.g + (e >= 2 ? 8 : 0);
    if (token >= at.tokens || row >= p.w.rows) continue;
    float v = low[e] * (p.squares ? row_scale[in_block] : 1.0f);
    if (p.w.scale) v *= p.w.scale[row];
    if (out.epilogue == Epilogue::relu2) {
      static_cast<uint16_t*>(out.data)[token * out.stride + row] = gpu::to_bf16(relu2(v));
      continue;
    }
    float* to = static_cast<float*>(out.data) + token * out.stride + row;
    if (out.epilogue == Epilogue::add) v += *to;
    *to = v;
    if (out.norm.gain) {
      out.norm.scaled[token * out.norm.stride + row] = gpu::to_bf16(v * out.norm.gain[row]);
      squares[e % 2] += v * v;
    }
  }
  if (!out.norm.gain) return;
    // Of a tile's sixteen rows, whatever instance this is: one order for any number of tokens.
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    for (int m = 4; m < 32; m *= 2) squares[e] += gpu::shuffle_xor(squares[e], m);
    const int token = at.first_token + n * 8 + 2 * at.t + e;
    if (at.g == 0 && token < at.tokens && tile < norm_tiles(p.w.rows))
      out.norm.squares[int64_t(token) * norm_tiles(p.w.rows) + tile] = squares[e];
  }
}

// Of such a unit, row `in_tile` and token e of the lane's two.
struct PairPlace {
  int tile, n, in_tile, e;
};

// The same of a pair of sums: silu(low) * high, or both halves of a head, turned and cached.
GPU_DEVICE void write_pair_of(const DecodeGemm& p, const Output& out, const Lane& at,
                              const float* row_scale, PairPlace place, float2 sums) {
  const auto [tile, n, in_tile, e] = place;
  const int in_block = n * 8 + 2 * at.t + e, token = at.first_token + in_block;
  if (token >= at.tokens) return;
  const int row = row_of_tile<true>(out, tile) + in_tile;
  const int in_segment = tile % out.segment_tiles * 16 + in_tile;
  if (in_segment >= out.lower_rows || row >= p.w.rows) return;
  const float by = p.squares ? row_scale[in_block] : 1.0f;
  float lo = sums.x * by, hi = sums.y * by;
  if (p.w.scale) {
    lo *= p.w.scale[row];
    hi *= p.w.scale[row + out.pair_offset];
  }
  if (out.epilogue == Epilogue::silu) {
    static_cast<uint16_t*>(out.data)[token * out.stride + row] = gpu::to_bf16(silu(lo) * hi);
  } else {
    const int slot = step_array<RowInfo>(out.rope.step, out.rope.step->row_info)[token].kv_slot;
    const int dim = out.rope.kv.head_dim;
    store_rotated(out.rope, token, slot, row / dim, row % dim, float2{lo, hi});
  }
}

// The same of a pair of row tiles.
GPU_DEVICE void write_pair(const DecodeGemm& p, const Output& out, const Lane& at,
                           const float* row_scale, TilePlace place, const float (&sums)[2][4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    write_pair_of(p, out, at, row_scale, {place.tile, place.n, at.g + (e >= 2 ? 8 : 0), e % 2},
                  float2{sums[0][e], sums[1][e]});
  }
}

}  // namespace nemotron::cuda
