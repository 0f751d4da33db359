// Causal attention of prompt rows over the paged cache; their own keys and values are already in
// it.
//
//   bytes  keys and values of the prefix once for every 128 (row, head) pairs, from L2 mostly
//   FLOPs  4 * q_heads * head_dim * (keys that the row sees)
//   bound  tensor cores (mma.sync)
//
// A block works on 128 pairs of (row, head of one group), pair = row * group + head, so that a
// group shares its keys; each of eight warps on sixteen pairs. Keys come in tiles of 64, or 32,
// from key 0 on, whatever the rows: a tile that a row does not see changes none of its bits, so a
// row's result does not depend on how the prompt was cut into chunks.
#include "cuda/attention.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
static_assert(kWarps * 16 == kPromptPairs);

template <int kDim, bool kFp8>
struct Shape {
  using H = Head<kDim, kFp8>;
  // A tile's. Scores of more do not fit the registers beside the sums of a wide head.
  static constexpr int kKeys = kDim <= 128 || kFp8 ? 64 : 32;
  static constexpr int kLoads =
      kKeys * H::kChunks / kThreads;  // sixteen bytes a thread, keys or values
  // The query is read for every tile, from L1: it would spill.
  static constexpr bool kAskAgain = kKeys == 32;
  static constexpr int kLoadsAtOnce = kAskAgain ? 1 : kLoads;  // as would their addresses
  static constexpr int kStageChunks = 2 * kKeys * H::kChunks;
  static constexpr int kStages = 2;
  static constexpr int kBytes = kStages * kStageChunks * 16;
};

// Keys in shared memory: odd rows turned so that two neighbouring rows' chunks t lie in different
// banks.
template <int kChunks>
GPU_DEVICE int key_place(int key, int chunk) {
  return key * kChunks + (kChunks % 8 == 0 ? chunk ^ ((key & 1) * 4) : chunk);
}

// The two (row, head) pairs of a lane. Pairs past the end repeat the last row and are not written.
struct Pairs {
  int place[2];  // row * q_heads + head
  int position[2];
  bool real[2];
};

GPU_DEVICE Pairs pairs_of(const AttentionArgs& p, const PromptTile& tile, int kv_head, int pair) {
  const int group = p.q_heads / p.kv.kv_heads;
  Pairs pairs;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = (pair + 8 * h) / group;
    pairs.real[h] = r < tile.rows;
    const int row = pairs.real[h] ? r : tile.rows - 1;
    pairs.position[h] = tile.first_position + row;
    pairs.place[h] = (tile.first_row + row) * p.q_heads + kv_head * group + (pair + 8 * h) % group;
  }
  return pairs;
}

template <int kDim, bool kFp8>
GPU_DEVICE void write_pairs(const AttentionArgs& p, const Pairs& pairs, const Softmax& state,
                            const float (&o)[kDim / 8][4], int t) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float sum = state.sum[h];
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const float by = p.kv.v_scale / sum;
    if (!pairs.real[h]) continue;
    uint16_t* to = p.out + int64_t(pairs.place[h]) * p.kv.head_dim;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int d = value_column<kFp8>(j, e, t);
        if (d < p.kv.head_dim) to[d] = to_bf16(o[j][2 * h + e] * by);
      }
    }
  }
}

template <int kDim, bool kFp8>
__global__ void __launch_bounds__(kThreads, 1) attention_prompt_kernel(AttentionArgs p) {
  using S = Shape<kDim, kFp8>;
  using H = Head<kDim, kFp8>;
  constexpr int kKeys = S::kKeys, kTiles = kKeys / 8;
  pdl_launch_dependents();
  Shared smem;
  uint4* queue = smem.take<uint4>(S::kBytes / 16);
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4,
            t = lane % 4;
  const int kv_head = int(blockIdx.y), dim = p.kv.head_dim, group = p.q_heads / p.kv.kv_heads;
  // A graph has blocks for as many tiles as there may be.
  const int last = p.step->prompt_tiles - 1;
  if (int(blockIdx.x) > last) return pdl_wait();
  // Long contexts first: they are the last to finish.
  const PromptTile tile = step_array<PromptTile>(p.step, p.step->tiles)[last - int(blockIdx.x)];
  const int* table = step_array<int>(p.step, p.step->tables) + tile.table;
  const int end = tile.first_position + tile.rows;  // keys that anybody here sees
  const int tiles = (end + kKeys - 1) / kKeys;
  pdl_wait();

  const auto load = [&](int i) {
    uint4* keys = queue + i % S::kStages * S::kStageChunks;
    uint4* values = keys + kKeys * H::kChunks;
    const int row_bytes = dim * H::kBytes;
#pragma unroll S::kLoadsAtOnce
    for (int j = 0; j < S::kLoads; ++j) {
      const int at = j * kThreads + thread, key = at / H::kChunks, chunk = at % H::kChunks,
                position = i * kKeys + key;
      const bool real = position < end && chunk * 16 < row_bytes;
      int64_t from = 0;
      if (real) {
        from = cache_place(p.kv, table[position / p.kv.block_size], kv_head) +
               int64_t(position % p.kv.block_size) * row_bytes + chunk * 16;
      }
      cp_async16(keys + key_place<H::kChunks>(key, chunk), p.kv.k + from, real);
      cp_async16(values + value_place<H::kChunks>(key, chunk), p.kv.v + from, real);
    }
  };

  const Pairs pairs = pairs_of(p, tile, kv_head, warp * 16 + g);
  const int last_pair = (warp * 16 + 15) / group;
  const int warp_end =
      tile.first_position + (last_pair < tile.rows ? last_pair : tile.rows - 1) + 1;

  load(0);
  cp_async_commit();
  Query<kDim> q;
  const auto ask = [&] {
    load_query<kDim, kFp8>(q, p.q + int64_t(pairs.place[0]) * dim,
                           p.q + int64_t(pairs.place[1]) * dim, dim, t);
  };
  if (!S::kAskAgain) ask();
  float o[H::kValueTiles][4] = {};
  Softmax state = {{minus_infinity(), minus_infinity()}, {0, 0}};
  const float scale = p.scale * kLog2e * p.kv.k_scale;

  for (int i = 0; i < tiles; ++i) {
    if (i + 1 < tiles) load(i + 1);
    cp_async_commit();
    cp_async_wait<1>();
    block_sync();
    if (i * kKeys < warp_end) {
      const uint4* keys = queue + i % S::kStages * S::kStageChunks;
      const uint4* values = keys + kKeys * H::kChunks;
      if (S::kAskAgain) ask();
      float s[kTiles][4] = {};
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        multiply_keys<kDim, kFp8>(s[n], q, [&](int b, int h) {
          return load16(keys +
                        key_place<H::kChunks>(n * 8 + g, kFp8 ? b * 4 + t : b * 8 + h * 4 + t));
        });
      }
      if ((i + 1) * kKeys > tile.first_position) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (i * kKeys + n * 8 + 2 * t + e % 2 > pairs.position[e / 2])
              s[n][e] = minus_infinity();
          }
        }
      }
      uint32_t w[kTiles][2];
      softmax_step<kTiles, kDim>(s, scale, state, o, w);
#pragma unroll
      for (int k = 0; k < kTiles / 2; ++k) {
        multiply_values<kDim, kFp8>(o, w[2 * k], w[2 * k + 1], values, k * 16);
      }
    }
    block_sync();  // the stage may be loaded again
  }
  cp_async_wait<0>();

  write_pairs<kDim, kFp8>(p, pairs, state, o, t);
}

template <int kDim, bool kFp8>
void launch_one(Queue& queue, const AttentionArgs& p, int tiles) {
  launch(queue, "attention_prompt", attention_prompt_kernel<kDim, kFp8>,
         dim3(unsigned(tiles), unsigned(p.kv.kv_heads)), kThreads, Shape<kDim, kFp8>::kBytes, p);
}
template <int kDim, bool kFp8>
void load_one(Queue& queue) {
  load_kernel(queue, "attention_prompt", attention_prompt_kernel<kDim, kFp8>,
              Shape<kDim, kFp8>::kBytes);
}

}  // namespace

int prompt_tile_tokens(int q_heads, int kv_heads) { return kPromptPairs / (q_heads / kv_heads); }

void attention_prompt(Queue& queue, const AttentionArgs& p, int tiles) {
  if (p.kv.head_dim <= 64) {
    return p.kv.fp8 ? launch_one<64, true>(queue, p, tiles)
                    : launch_one<64, false>(queue, p, tiles);
  }
  if (p.kv.head_dim <= 128) {
    return p.kv.fp8 ? launch_one<128, true>(queue, p, tiles)
                    : launch_one<128, false>(queue, p, tiles);
  }
  return p.kv.fp8 ? launch_one<192, true>(queue, p, tiles)
                  : launch_one<192, false>(queue, p, tiles);
}

void load_attention_prompt(Queue& queue) {
  load_one<64, false>(queue);
  load_one<64, true>(queue);
  load_one<128, false>(queue);
  load_one<128, true>(queue);
  load_one<192, false>(queue);
  load_one<192, true>(queue);
}

}  // namespace nemotron::cuda
