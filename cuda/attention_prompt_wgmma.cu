// Causal attention of prompt rows over the paged cache by wgmma and TMA: sm_90a, a BF16 cache,
// heads of 64 or 128 columns. attention_prompt.cu does the rest and is what this kernel is measured
// against.
//
//   bytes  keys and values of the prefix once for every 128 (row, head) pairs, from L2 mostly
//   FLOPs  4 * q_heads * head_dim * (keys that the row sees)
//   bound  tensor cores (wgmma)
//
// Pairs and their order as in attention_prompt.cu. Two warpgroups multiply, 64 pairs each; one warp
// of a third brings keys and values, tile after tile of 128 keys from key 0 on, into two rings of
// shared memory. A multiplying warpgroup starts the scores of a tile before the values of the tile
// before it, and turns scores into weights while the latter are still being multiplied. What
// happens to a row depends on the tiles' positions alone; a tile that it does not see changes none
// of its bits.
#include "cuda/attention.h"
#include "cuda/cache_map.h"
#include "cuda/hopper.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kGroups = 2;  // warpgroups that multiply
constexpr int kThreads = (kGroups + 1) * kWarpgroup;
constexpr int kKeys = 128;
static_assert(kGroups * 64 == kPromptPairs);

template <int kDim>
struct Tile {
  static constexpr int kSlabs = kDim / 64;        // of 64 columns: the 128 bytes of a swizzle
  static constexpr int kSlabBytes = kKeys * 128;  // rows of one slab lie 128 bytes apart
  static constexpr int kBytes = kSlabs * kSlabBytes;
  static constexpr int kStages = kDim == 64 ? 4 : 2;
  static constexpr int kBarriers = 4 * kStages + 1;
  static constexpr int kShared = 2 * kStages * kBytes + kBarriers * 8;
};

// A ring of tiles in shared memory. `full` ends a phase when a tile has landed, `empty` when all
// multiplying warps are done with it.
template <int kDim>
struct Ring {
  using T = Tile<kDim>;
  uint8_t* data;
  uint64_t *full, *empty;

  GPU_DEVICE uint8_t* tile(int i) const { return data + i % T::kStages * T::kBytes; }
  GPU_DEVICE uint64_t* full_of(int i) const { return full + i % T::kStages; }
  GPU_DEVICE void wait_full(int i) const { mbarrier_wait(full_of(i), i / T::kStages & 1); }
  GPU_DEVICE void wait_empty(int i) const {
    if (i >= T::kStages) mbarrier_wait(empty + i % T::kStages, (i / T::kStages - 1) & 1);
  }
  GPU_DEVICE void release(int i) const {
    if (threadIdx.x % kWarp == 0) mbarrier_arrive(empty + i % T::kStages);
  }
};

// Which keys and values a block needs.
struct Context {
  int k_row, v_row;  // where the layer's begin in the map
  const int* table;  // of blocks
  int kv_head;
  int end;  // past the last key
};

// The warp that brings keys and values.
template <int kDim>
GPU_DEVICE void bring(const AttentionArgs& p, const CUtensorMap& map, const Context& context,
                      const Ring<kDim>& keys, const Ring<kDim>& values, uint64_t* last_landed) {
  using T = Tile<kDim>;
  const int lane = int(threadIdx.x) % kWarp, kv_head = context.kv_head, end = context.end;
  const int* table = context.table;
  const int size = p.kv.block_size, blocks = kKeys / size, last_block = (end - 1) / size;
  const int tiles = (end + kKeys - 1) / kKeys;
  // A box is 64 columns of a cache block. Tiles are always whole: past the end they repeat the last
  // block.
  const auto load = [&](int i, int first_row, uint8_t* to, uint64_t* landed) {
    if (lane == 0) mbarrier_arrive_expect(landed, T::kBytes);
    warp_sync();
    for (int box = lane; box < blocks * T::kSlabs; box += kWarp) {
      const int slab = box / blocks, b = box % blocks;
      const int block = i * blocks + b < last_block ? i * blocks + b : last_block;
      copy_box(to + slab * T::kSlabBytes + b * size * 128, map, slab * 64,
               first_row + (table[block] * p.kv.kv_heads + kv_head) * size, landed);
    }
  };
  // In the order of their use: the keys of a tile come before the values of the tile before it.
  for (int i = 0; i <= tiles; ++i) {
    if (i < tiles) {
      keys.wait_empty(i);
      load(i, context.k_row, keys.tile(i), keys.full_of(i));
    }
    if (i == 0) continue;
    const int v = i - 1, first = end - v * kKeys;  // the first row past the end
    values.wait_empty(v);
    if (first >= kKeys) {
      load(v, context.v_row, values.tile(v), values.full_of(v));
      continue;
    }
    // Weights of keys past the end are zero, but the values there may be anything, NaN included:
    // zeros.
    load(v, context.v_row, values.tile(v), last_landed);
    mbarrier_wait(last_landed, 0);
    const int chunks = (kKeys - first) * 8;
    for (int u = lane; u < chunks * T::kSlabs; u += kWarp) {
      store16(values.tile(v) + u / chunks * T::kSlabBytes + first * 128 + u % chunks * 16,
              uint4{0, 0, 0, 0});
    }
    fence_proxy_async();
    warp_sync();
    if (lane == 0) mbarrier_arrive(values.full_of(v));
  }
}

// Scores become weights, s[4 n + e] as of Softmax; what has been summed before has to
// be multiplied by `by`. Scores of keys not attended to are minus infinity; every row has met at
// least one real score, in this call or before.
template <int kScores>
GPU_DEVICE void softmax_tile(float (&s)[kScores], float scale, Softmax& state, float (&by)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most = minus_infinity();
#pragma unroll
    for (int n = 0; n < kScores / 4; ++n)
      most = fmaxf(most, fmaxf(s[4 * n + 2 * h], s[4 * n + 2 * h + 1]));
    most = fmaxf(most, shuffle_xor(most, 1));
    most = fmaxf(most, shuffle_xor(most, 2));
    most = fmaxf(state.most[h], most * scale);
    by[h] = exp2_fast(state.most[h] - most);
    state.most[h] = most;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kScores / 4; ++n) {
      float &a = s[4 * n + 2 * h], &b = s[4 * n + 2 * h + 1];
      a = exp2_fast(a * scale - most);
      b = exp2_fast(b * scale - most);
      sum += a + b;
    }
    state.sum[h] = state.sum[h] * by[h] + sum;  // this lane's share
  }
}

// Weights as fragments of A: [16 keys][register].
template <int kSteps>
GPU_DEVICE void pack_weights(const float (&s)[kSteps * 8], uint32_t (&w)[kSteps][4]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) w[k][j] = pack_bf16(s[8 * k + 2 * j], s[8 * k + 2 * j + 1]);
  }
}

// The two (row, head) pairs of a lane. Pairs past the end repeat the last row and are not written.
struct Pairs {
  int place[2];  // row * q_heads + head
  int position[2];
  bool real[2];
};

GPU_DEVICE Pairs pairs_of(const AttentionArgs& p, const PromptTile& tile, int kv_head) {
  const int warp = int(threadIdx.x) / kWarp, g = int(threadIdx.x) % kWarp / 4;
  const int group = p.q_heads / p.kv.kv_heads;
  Pairs pairs;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int pair = warp * 16 + g + 8 * h;
    pairs.real[h] = pair / group < tile.rows;
    const int r = pairs.real[h] ? pair / group : tile.rows - 1;
    pairs.position[h] = tile.first_position + r;
    pairs.place[h] = (tile.first_row + r) * p.q_heads + kv_head * group + pair % group;
  }
  return pairs;
}

// The queries of the lane's pairs as fragments of A.
template <int kDim>
GPU_DEVICE void load_queries(const AttentionArgs& p, const Pairs& pairs,
                             uint32_t (&q)[kDim / 16][4]) {
  const int t = int(threadIdx.x) % 4;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      q[k][j] = *reinterpret_cast<const uint32_t*>(p.q + int64_t(pairs.place[j % 2]) * kDim +
                                                   k * 16 + j / 2 * 8 + 2 * t);
    }
  }
}

// Scores of keys that come after a pair's own position, in the tile of keys from `first` on.
GPU_DEVICE void mask_scores(const Pairs& pairs, int first, float (&s)[64]) {
  const int t = int(threadIdx.x) % 4;
#pragma unroll
  for (int n = 0; n < 16; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (first + n * 8 + 2 * t + e % 2 > pairs.position[e / 2]) s[4 * n + e] = minus_infinity();
    }
  }
}

template <int kDim>
GPU_DEVICE void write_pairs(const AttentionArgs& p, const Pairs& pairs, const Softmax& state,
                            const float (&o)[kDim / 2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float sum = state.sum[h];
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const float scaled = p.kv.v_scale / sum;
    if (!pairs.real[h]) continue;
    uint16_t* to = p.out + int64_t(pairs.place[h]) * kDim + 2 * (int(threadIdx.x) % 4);
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      *reinterpret_cast<uint32_t*>(to + j * 8) =
          pack_bf16(o[4 * j + 2 * h] * scaled, o[4 * j + 2 * h + 1] * scaled);
    }
  }
}

// A warpgroup that multiplies its 64 pairs.
template <int kDim>
GPU_DEVICE void multiply(const AttentionArgs& p, const PromptTile& tile, int kv_head,
                         const Ring<kDim>& keys, const Ring<kDim>& values) {
  using T = Tile<kDim>;
  constexpr int kSteps = kDim / 16;
  const int warp = int(threadIdx.x) / kWarp, group = p.q_heads / p.kv.kv_heads;
  const Pairs pairs = pairs_of(p, tile, kv_head);
  const int last_row = (warp / 4 * 64 + 63) / group;
  const int end = tile.first_position + (last_row < tile.rows ? last_row : tile.rows - 1) + 1;
  const int tiles = (end + kKeys - 1) / kKeys;  // that this warpgroup sees

  uint32_t q[kSteps][4];
  load_queries<kDim>(p, pairs, q);
  float s[64], o[kDim / 2], by[2];
#pragma unroll
  for (int j = 0; j < kDim / 2; ++j) o[j] = 0;
  uint32_t w[8][4];
  Softmax state = {{minus_infinity(), minus_infinity()}, {0, 0}};
  const float scale = p.scale * kLog2e * p.kv.k_scale;

  const auto multiply_keys_of = [&](int i) {
    const uint64_t b = wgmma_descriptor(shared_address(keys.tile(i)), 16, 1024);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      wgmma_bf16<true>(s, q[k], wgmma_advance(b, k / 4 * T::kSlabBytes + k % 4 * 32), k > 0);
    }
    wgmma_commit();
  };
  const auto multiply_values_of = [&](int i) {
    const uint64_t b = wgmma_descriptor(shared_address(values.tile(i)), T::kSlabBytes, 1024);
#pragma unroll
    for (int k = 0; k < 8; ++k) wgmma_bf16<false>(o, w[k], wgmma_advance(b, k * 2048), true);
    wgmma_commit();
  };
  const auto weigh = [&](int i) {
    if ((i + 1) * kKeys > tile.first_position) mask_scores(pairs, i * kKeys, s);
    softmax_tile(s, scale, state, by);
  };

  keys.wait_full(0);
  wgmma_fence(s, o, q);
  multiply_keys_of(0);
  wgmma_wait<0>(s);
  keys.release(0);
  weigh(0);
  pack_weights(s, w);
  for (int i = 1; i < tiles; ++i) {
    keys.wait_full(i);
    wgmma_fence(s, o, w);
    multiply_keys_of(i);
    values.wait_full(i - 1);
    multiply_values_of(i - 1);
    wgmma_wait<1>(s);
    keys.release(i);
    weigh(i);
    wgmma_wait<0>(s, o, w);
    values.release(i - 1);
#pragma unroll
    for (int j = 0; j < kDim / 2; ++j) o[j] *= by[j / 2 % 2];
    pack_weights(s, w);
  }
  values.wait_full(tiles - 1);
  wgmma_fence(o, w);
  multiply_values_of(tiles - 1);
  wgmma_wait<0>(o);

  write_pairs<kDim>(p, pairs, state, o);
}

// k_row, v_row: where the layer's keys and values begin in the map.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    attention_prompt_wgmma_kernel(AttentionArgs p, const __grid_constant__ CUtensorMap map,
                                  int k_row, int v_row) {
#if GPU_HOPPER
  using T = Tile<kDim>;
  pdl_launch_dependents();
  Shared smem;  // tiles first: they begin on 1024 bytes
  uint8_t* data = smem.take<uint8_t>(2 * T::kStages * T::kBytes);
  uint64_t* barriers = smem.take<uint64_t>(T::kBarriers);
  const Ring<kDim> keys = {data, barriers, barriers + T::kStages};
  const Ring<kDim> values = {data + T::kStages * T::kBytes, barriers + 2 * T::kStages,
                             barriers + 3 * T::kStages};
  uint64_t* last_landed = barriers + 4 * T::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < T::kStages; ++i) {
      mbarrier_init(keys.full + i, 1);
      mbarrier_init(values.full + i, 1);
      mbarrier_init(keys.empty + i, kGroups * 4);
      mbarrier_init(values.empty + i, kGroups * 4);
    }
    mbarrier_init(last_landed, 1);
    mbarrier_init_done();
  }
  block_sync();

  const int kv_head = int(blockIdx.y);
  // Long contexts first: they are the last to finish.
  const int last = p.step->prompt_tiles - 1;
  if (int(blockIdx.x) > last) return pdl_wait();
  const PromptTile tile = step_array<PromptTile>(p.step, p.step->tiles)[last - int(blockIdx.x)];
  pdl_wait();
  if (threadIdx.x / kWarpgroup == kGroups) {
    registers_give<40>();
    if (threadIdx.x / kWarp % 4 == 0) {
      const int* table = step_array<int>(p.step, p.step->tables) + tile.table;
      const Context context = {k_row, v_row, table, kv_head, tile.first_position + tile.rows};
      bring(p, map, context, keys, values, last_landed);
    }
  } else {
    registers_take<232>();
    multiply(p, tile, kv_head, keys, values);
  }
#endif
}

template <int kDim>
void launch_one(Queue& queue, const AttentionArgs& p, const CacheMap& cache, int tiles) {
  const auto row = [&](const uint8_t* at) { return int((at - cache.begin) / (kDim * 2)); };
  launch(queue, "attention_prompt_wgmma", attention_prompt_wgmma_kernel<kDim>,
         dim3(unsigned(tiles), unsigned(p.kv.kv_heads)), kThreads, size_t(Tile<kDim>::kShared), p,
         cache.map, row(p.kv.k), row(p.kv.v));
}
template <int kDim>
void load_one(Queue& queue) {
  load_kernel(queue, "attention_prompt_wgmma", attention_prompt_wgmma_kernel<kDim>,
              size_t(Tile<kDim>::kShared));
}

}  // namespace

void attention_prompt_wgmma(Queue& queue, const AttentionArgs& p, const CacheMap& cache,
                            int tiles) {
  return p.kv.head_dim == 64 ? launch_one<64>(queue, p, cache, tiles)
                             : launch_one<128>(queue, p, cache, tiles);
}

void load_attention_prompt_wgmma(Queue& queue) {
  load_one<64>(queue);
  load_one<128>(queue);
}

}  // namespace nemotron::cuda
