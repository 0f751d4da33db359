// Causal attention of prompt rows over the paged cache by wgmma and TMA: sm_90a, heads of 64 or 128
// columns. attention_prompt.cu does the rest and is what this kernel is measured against.
//
//   bytes  keys and values of the prefix once for every 128 (row, head) pairs, from L2 mostly
//   FLOPs  4 * q_heads * head_dim * (keys that the row sees)
//   bound  tensor cores (wgmma)
//
// Pairs and their order as in attention_prompt.cu. Two warpgroups multiply, 64 pairs each; one warp
// of a third brings keys and values, tile after tile of 128 keys from key 0 on, into two rings of
// shared memory. A multiplying warpgroup starts the scores of a tile before the values of the tile
// before it, and turns scores into weights while the latter are still being multiplied. The two
// take turns: one starts products while the other is at its weights. What happens to a row depends
// on the tiles' positions alone; a tile that it does not see changes none of its bits.
//
// An FP8 cache: what is brought goes to a third ring, and the other three warps of its warpgroup
// widen it into the two. To F16, which E4M3 becomes in one instruction for two values (BF16 takes
// five, and beside the softmax the schedulers have no room for them); queries and weights are F16
// then, too.
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

// A tile of keys or values as wgmma takes it, and an FP8 one as it is brought.
template <int kDim>
struct Tile {
  static constexpr int kSlabs = kDim / 64;        // of 64 columns: the 128 bytes of a swizzle
  static constexpr int kSlabBytes = kKeys * 128;  // rows of one slab lie 128 bytes apart
  static constexpr int kBytes = kSlabs * kSlabBytes;
  static constexpr int kStages = kDim == 64 ? 4 : 2;
};
template <int kDim>
struct Fp8Tile {
  static constexpr int kSlabs = 1;  // rows of 64 columns are two to a line of 128 bytes
  static constexpr int kBytes = kKeys * kDim;
  static constexpr int kStages = 4;
};
constexpr int kWidening = 3;  // warps

// A ring of tiles in shared memory. `full` ends a phase when a tile is there, `empty` when all
// warps that read it are done with it.
template <class Of>
struct Ring {
  using T = Of;
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
  // By one thread: how many arrivals make a tile full, and empty.
  GPU_DEVICE void begin(int fills, int reads) const {
    for (int i = 0; i < T::kStages; ++i) {
      mbarrier_init(full + i, uint32_t(fills));
      mbarrier_init(empty + i, uint32_t(reads));
    }
  }
};

// What a block has in shared memory: tiles first, which begin on 1024 bytes.
template <int kDim, bool kFp8>
struct Rings {
  using T = Tile<kDim>;
  using Raw = Fp8Tile<kDim>;
  static constexpr int kHalf = T::kStages * T::kBytes;
  static constexpr int kTileBytes = 2 * kHalf + (kFp8 ? Raw::kStages * Raw::kBytes : 0);
  static constexpr int kBarriers = 4 * T::kStages + (kFp8 ? 2 * Raw::kStages : 1);
  static constexpr int kBytes = kTileBytes + kBarriers * 8;
  uint8_t* data;
  uint64_t* barriers;

  GPU_DEVICE Ring<T> of(bool values) const {
    uint64_t* full = barriers + int(values) * 2 * T::kStages;
    return {data + int(values) * kHalf, full, full + T::kStages};
  }
  GPU_DEVICE Ring<T> keys() const { return of(false); }
  GPU_DEVICE Ring<T> values() const { return of(true); }
  // Of an FP8 cache.
  GPU_DEVICE Ring<Raw> raw() const {
    uint64_t* full = barriers + 4 * T::kStages;
    return {data + 2 * kHalf, full, full + Raw::kStages};
  }
  // Of a BF16 cache.
  GPU_DEVICE uint64_t* last_landed() const { return barriers + 4 * T::kStages; }
  // By one thread.
  GPU_DEVICE void begin() const {
    keys().begin(kFp8 ? kWidening : 1, kGroups * 4);
    values().begin(kFp8 ? kWidening : 1, kGroups * 4);
    if constexpr (kFp8) {
      raw().begin(1, kWidening);
    } else {
      mbarrier_init(last_landed(), 1);
    }
    mbarrier_init_done();
  }
};

// Which keys and values a block needs.
struct Context {
  int k_row, v_row;  // where the layer's begin in the map
  const int* table;  // of blocks
  int kv_head;
  int end;  // past the last key
  GPU_DEVICE int tiles() const { return (end + kKeys - 1) / kKeys; }
};

// What comes n-th of the keys and values of so many tiles, in the order of their use: the keys of a
// tile before the values of the tile before it.
struct Half {
  int tile;
  bool is_values;
};
GPU_DEVICE Half half_of(int n, int tiles) {
  if (n == 0) return {0, false};
  if (n == 2 * tiles - 1) return {tiles - 1, true};
  return n % 2 ? Half{(n + 1) / 2, false} : Half{n / 2 - 1, true};
}

// A warp starts the copies of a tile. A box is 128 bytes of a cache block's rows. Tiles are always
// whole: past the end they repeat the last block.
template <class T>
GPU_DEVICE void load(const AttentionArgs& p, const CUtensorMap& map, const Context& context,
                     Half half, uint8_t* to, uint64_t* landed) {
  const int lane = int(threadIdx.x) % kWarp, size = p.kv.block_size, blocks = kKeys / size;
  const int lines = T::kBytes / T::kSlabs / 128 / blocks;  // of a block and slab
  const int first_block = half.tile * blocks, last_block = (context.end - 1) / size;
  const int first_row = half.is_values ? context.v_row : context.k_row;
  if (lane == 0) mbarrier_arrive_expect(landed, T::kBytes);
  warp_sync();
  for (int box = lane; box < blocks * T::kSlabs; box += kWarp) {
    const int slab = box / blocks, b = box % blocks;
    const int block = first_block + b < last_block ? first_block + b : last_block;
    copy_box(to + slab * (T::kBytes / T::kSlabs) + b * lines * 128, map, slab * 64,
             first_row + (context.table[block] * p.kv.kv_heads + context.kv_head) * lines, landed);
  }
}

// The warp that brings keys and values of a BF16 cache.
template <int kDim>
GPU_DEVICE void bring(const AttentionArgs& p, const CUtensorMap& map, const Context& context,
                      const Rings<kDim, false>& rings) {
  using T = Tile<kDim>;
  const Ring<T> keys = rings.keys(), values = rings.values();
  const int lane = int(threadIdx.x) % kWarp, tiles = context.tiles();
  for (int n = 0; n < 2 * tiles; ++n) {
    const Half half = half_of(n, tiles);
    if (!half.is_values) {
      keys.wait_empty(half.tile);
      load<T>(p, map, context, half, keys.tile(half.tile), keys.full_of(half.tile));
      continue;
    }
    const int v = half.tile, first = context.end - v * kKeys;  // the first row past the end
    values.wait_empty(v);
    if (first >= kKeys) {
      load<T>(p, map, context, half, values.tile(v), values.full_of(v));
      continue;
    }
    // Weights of keys past the end are zero, but the values there may be anything, NaN included:
    // zeros.
    load<T>(p, map, context, half, values.tile(v), rings.last_landed());
    mbarrier_wait(rings.last_landed(), 0);
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

// The same of an FP8 cache, for the warps that widen.
template <int kDim>
GPU_DEVICE void bring_fp8(const AttentionArgs& p, const CUtensorMap& map, const Context& context,
                          const Ring<Fp8Tile<kDim>>& raw) {
  const int tiles = context.tiles();
  for (int n = 0; n < 2 * tiles; ++n) {
    const Half half = half_of(n, tiles);
    raw.wait_empty(n);
    warp_sync();  // lane 0 must not arrive for a tile that others still wait to bring
    load<Fp8Tile<kDim>>(p, map, context, half, raw.tile(n), raw.full_of(n));
  }
}

// A warp's share of widening a tile: rows of E4M3 become F16 where wgmma wants them, eight rows and
// 64 columns at a time: a lane takes sixteen columns of a row, and eight lanes lie in different
// banks at both ends. Rows from `end` on become zeros.
template <int kDim>
GPU_DEVICE void widen_tile(const uint8_t* raw, uint8_t* to, int end) {
  constexpr int kSlabs = Tile<kDim>::kSlabs;
  const int warp = int(threadIdx.x) / kWarp % 4 - 1, lane = int(threadIdx.x) % kWarp;
  const int row = lane % 8, piece = lane / 8;
  // Rows of 64 columns are two to a line; line and chunk are turned by line % 8, here of the first
  // eight rows: of the next eight, or 64 columns further, it is another four chunks.
  const int line = kSlabs == 2 ? row : row / 2, chunk = kSlabs == 2 ? piece : row % 2 * 4 + piece;
  raw += line * 128;
  to += row * 128;
  const int from = (chunk ^ line) * 16, at = (piece * 2 ^ row) * 16;
#pragma unroll 2
  for (int unit = warp; unit < kKeys / 8 * kSlabs; unit += kWidening) {
    const int rows = unit / kSlabs, slab = unit % kSlabs, turn = kSlabs == 2 ? slab : rows % 2;
    const uint4 codes = load16(raw + rows * 8 * kDim + (from ^ turn * 64));
    uint4 low = {e4m3_to_f16(codes.x), e4m3_to_f16(codes.x >> 16), e4m3_to_f16(codes.y),
                 e4m3_to_f16(codes.y >> 16)};
    uint4 high = {e4m3_to_f16(codes.z), e4m3_to_f16(codes.z >> 16), e4m3_to_f16(codes.w),
                  e4m3_to_f16(codes.w >> 16)};
    if (rows * 8 + row >= end) low = high = uint4{0, 0, 0, 0};
    uint8_t* place = to + slab * Tile<kDim>::kSlabBytes + rows * 1024;
    store16(place + at, low);
    store16(place + (at ^ 16), high);
  }
}

// The warps that widen.
template <int kDim>
GPU_DEVICE void widen(const Context& context, const Rings<kDim, true>& rings) {
  const int tiles = context.tiles();
  for (int n = 0; n < 2 * tiles; ++n) {
    const Half half = half_of(n, tiles);
    const Ring<Tile<kDim>> ring = rings.of(half.is_values);
    const Ring<Fp8Tile<kDim>> raw = rings.raw();
    raw.wait_full(n);
    ring.wait_empty(half.tile);
    // Weights of keys past the end are zero, but the values there may be anything, NaN included;
    // scores of such keys are not looked at.
    widen_tile<kDim>(raw.tile(n), ring.tile(half.tile),
                     half.is_values ? context.end - half.tile * kKeys : kKeys);
    fence_proxy_async();
    warp_sync();
    raw.release(n);
    if (threadIdx.x % kWarp == 0) mbarrier_arrive(ring.full_of(half.tile));
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

template <int n>
GPU_DEVICE void scale_sums(const float (&by)[2], float (&o)[n]) {
#pragma unroll
  for (int j = 0; j < n; ++j) o[j] *= by[j / 2 % 2];
}

// Two operands of a product: of BF16, or of F16 beside an FP8 cache.
template <bool kF16>
GPU_DEVICE uint32_t pack_pair(float lo, float hi) {
  return kF16 ? pack_f16(lo, hi) : pack_bf16(lo, hi);
}
template <bool kColumns, bool kF16, int n>
GPU_DEVICE void product(float (&d)[n], const uint32_t (&a)[4], uint64_t b, bool add) {
  if constexpr (kF16) {
    wgmma_f16<kColumns>(d, a, b, add);
  } else {
    wgmma_bf16<kColumns>(d, a, b, add);
  }
}

// Weights as fragments of A: [16 keys][register].
template <bool kF16, int kSteps>
GPU_DEVICE void pack_weights(const float (&s)[kSteps * 8], uint32_t (&w)[kSteps][4]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) w[k][j] = pack_pair<kF16>(s[8 * k + 2 * j], s[8 * k + 2 * j + 1]);
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

// The queries of the lane's pairs as fragments of A. Beside an FP8 cache in F16, cut to its largest
// value, and in the order of such keys (fp8_place).
template <int kDim, bool kFp8>
GPU_DEVICE void load_queries(const AttentionArgs& p, const Pairs& pairs,
                             uint32_t (&q)[kDim / 16][4]) {
  constexpr float kMost = 65504;
  const int t = int(threadIdx.x) % 4;
  const auto cut = [](float x) { return fminf(fmaxf(x, -kMost), kMost); };
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint16_t* from = p.q + int64_t(pairs.place[j % 2]) * kDim + k * 16 + j / 2 * 8;
      if constexpr (kFp8) {
        const uint2 four = load8(from + t / 2 * 4);
        q[k][j] = t % 2 ? pack_f16(cut(bf16_hi(four.x)), cut(bf16_hi(four.y)))
                        : pack_f16(cut(bf16_lo(four.x)), cut(bf16_lo(four.y)));
      } else {
        q[k][j] = *reinterpret_cast<const uint32_t*>(from + 2 * t);
      }
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

// Tiles of keys that a warpgroup sees: at least one.
GPU_DEVICE int tiles_of(const AttentionArgs& p, const PromptTile& tile, int warpgroup) {
  const int last_row = (warpgroup * 64 + 63) / (p.q_heads / p.kv.kv_heads);
  const int end = tile.first_position + (last_row < tile.rows ? last_row : tile.rows - 1) + 1;
  return (end + kKeys - 1) / kKeys;
}

// Whose turn it is to start products: the first warpgroup's, the second's, the first's, once a tile
// of the block. They order time, not memory. No condition stands between products: ptxas would make
// them wait for each other.
struct Turns {
  int own;  // warpgroup
  static_assert(kGroups == 2);

  GPU_DEVICE void take() const { named_barrier_wait(1 + own, kGroups * kWarpgroup); }
  GPU_DEVICE void give() const { named_barrier_arrive(2 - own, kGroups * kWarpgroup); }
  GPU_DEVICE void begin() const {
    if (own == 1) give();
  }
  // Of tiles of the block that this warpgroup does not see.
  GPU_DEVICE void pass(int tiles) const {
#pragma unroll 1
    for (int i = 0; i < tiles; ++i) {
      take();
      give();
    }
  }
  // Nothing that was given is left.
  GPU_DEVICE void end() const {
    if (own == 0) take();
  }
};

// A warpgroup that multiplies its 64 pairs.
template <int kDim, bool kFp8>
GPU_DEVICE void multiply(const AttentionArgs& p, const PromptTile& tile, int kv_head,
                         const Rings<kDim, kFp8>& rings) {
  using T = Tile<kDim>;
  const Ring<T> keys = rings.keys(), values = rings.values();
  constexpr int kSteps = kDim / 16;
  const Pairs pairs = pairs_of(p, tile, kv_head);
  const int own = int(threadIdx.x) / kWarpgroup, tiles = tiles_of(p, tile, own);
  const Turns turns = {own};
  turns.begin();

  uint32_t q[kSteps][4];
  load_queries<kDim, kFp8>(p, pairs, q);
  float s[64], o[kDim / 2] = {}, by[2];
  uint32_t w[8][4];
  Softmax state = {{minus_infinity(), minus_infinity()}, {0, 0}};
  const float scale = p.scale * kLog2e * p.kv.k_scale;

  const auto multiply_keys_of = [&](int i) {
    const uint64_t b = wgmma_descriptor(shared_address(keys.tile(i)), 16, 1024);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      product<true, kFp8>(s, q[k], wgmma_advance(b, k / 4 * T::kSlabBytes + k % 4 * 32), k > 0);
    }
    wgmma_commit();
  };
  const auto multiply_values_of = [&](int i) {
    const uint64_t b = wgmma_descriptor(shared_address(values.tile(i)), T::kSlabBytes, 1024);
#pragma unroll
    for (int k = 0; k < 8; ++k) product<false, kFp8>(o, w[k], wgmma_advance(b, k * 2048), true);
    wgmma_commit();
  };
  const auto weigh = [&](int i) {
    if ((i + 1) * kKeys > tile.first_position) mask_scores(pairs, i * kKeys, s);
    softmax_tile(s, scale, state, by);
  };

  keys.wait_full(0);
  turns.take();
  wgmma_fence(s, o, q);
  multiply_keys_of(0);
  turns.give();
  wgmma_wait<0>(s);
  keys.release(0);
  weigh(0);
  pack_weights<kFp8>(s, w);
  for (int i = 1; i < tiles; ++i) {
    keys.wait_full(i);
    turns.take();
    wgmma_fence(s, o, w);
    multiply_keys_of(i);
    values.wait_full(i - 1);
    multiply_values_of(i - 1);
    turns.give();
    wgmma_wait<1>(s);
    keys.release(i);
    weigh(i);
    wgmma_wait<0>(s, o, w);
    values.release(i - 1);
    scale_sums(by, o);
    pack_weights<kFp8>(s, w);
  }
  turns.pass(tiles_of(p, tile, kGroups - 1) - tiles);
  values.wait_full(tiles - 1);
  wgmma_fence(o, w);
  multiply_values_of(tiles - 1);
  wgmma_wait<0>(o);
  write_pairs<kDim>(p, pairs, state, o);
  turns.end();
}

// k_row, v_row: where the layer's keys and values begin in the map.
template <int kDim, bool kFp8>
__global__ void __launch_bounds__(kThreads, 1)
    attention_prompt_wgmma_kernel(AttentionArgs p, const __grid_constant__ CUtensorMap map,
                                  int k_row, int v_row) {
#if GPU_HOPPER
  using R = Rings<kDim, kFp8>;
  pdl_launch_dependents();
  Shared smem;
  uint8_t* data = smem.take<uint8_t>(R::kTileBytes);
  const R rings = {data, smem.take<uint64_t>(R::kBarriers)};
  if (threadIdx.x == 0) rings.begin();
  block_sync();

  const int kv_head = int(blockIdx.y);
  // Long contexts first: they are the last to finish.
  const int last = p.step->prompt_tiles - 1;
  if (int(blockIdx.x) > last) return pdl_wait();
  const PromptTile tile = step_array<PromptTile>(p.step, p.step->tiles)[last - int(blockIdx.x)];
  pdl_wait();
  if (threadIdx.x / kWarpgroup == kGroups) {
    registers_give<56>();
    const int* table = step_array<int>(p.step, p.step->tables) + tile.table;
    const Context context = {k_row, v_row, table, kv_head, tile.first_position + tile.rows};
    const bool brings = threadIdx.x / kWarp % 4 == 0;
    if constexpr (kFp8) {
      if (brings) {
        bring_fp8<kDim>(p, map, context, rings.raw());
      } else {
        widen<kDim>(context, rings);
      }
    } else if (brings) {
      bring<kDim>(p, map, context, rings);
    }
  } else {
    registers_take<224>();
    multiply<kDim, kFp8>(p, tile, kv_head, rings);
  }
#endif
}

template <int kDim, bool kFp8>
void launch_one(Queue& queue, const AttentionArgs& p, const CacheMap& cache, int tiles) {
  launch(queue, "attention_prompt_wgmma", attention_prompt_wgmma_kernel<kDim, kFp8>,
         dim3(unsigned(tiles), unsigned(p.kv.kv_heads)), kThreads,
         size_t(Rings<kDim, kFp8>::kBytes), p, cache.map, cache.row_of(p.kv.k),
         cache.row_of(p.kv.v));
}
template <int kDim, bool kFp8>
void load_one(Queue& queue) {
  load_kernel(queue, "attention_prompt_wgmma", attention_prompt_wgmma_kernel<kDim, kFp8>,
              size_t(Rings<kDim, kFp8>::kBytes));
}

}  // namespace

void attention_prompt_wgmma(Queue& queue, const AttentionArgs& p, const CacheMap& cache,
                            int tiles) {
  if (p.kv.fp8) {
    return p.kv.head_dim == 64 ? launch_one<64, true>(queue, p, cache, tiles)
                               : launch_one<128, true>(queue, p, cache, tiles);
  }
  return p.kv.head_dim == 64 ? launch_one<64, false>(queue, p, cache, tiles)
                             : launch_one<128, false>(queue, p, cache, tiles);
}

void load_attention_prompt_wgmma(Queue& queue) {
  load_one<64, false>(queue);
  load_one<64, true>(queue);
  load_one<128, false>(queue);
  load_one<128, true>(queue);
}

}  // namespace nemotron::cuda
