// Attention of generated rows over the paged cache.
//
//   bytes  keys and values of the row's context, once a row and KV head (its query heads share
//          them)
//   FLOPs  4 * q_heads * head_dim a key: far below the tensor cores' limit
//   bound  memory bandwidth
//
// An item is 512 keys of a row and KV head: a constant, not a share of the machine, so that a row's
// sums do not depend on what else runs. A fixed number of blocks takes the step's units of work one
// after another (their number is in the metadata: one captured graph serves every context length).
// The heads of a group are the rows of mma's A operand.
//
// The order of an item's sums. Its tiles of sixteen keys belong to four parts in turn. Two tiles
// after two of a part are a virtual warp, sixteen in all: its sums begin at nothing and are added
// to the part's. The four parts are merged at once, and so are a row's items.
//
// A unit is an item: each warp takes a part, with a queue of its own, and its virtual warps one
// after another. Or, where those would be so few that multiprocessors stood idle
// (StepHeader::decode_parts), a unit is a part: each warp takes a virtual warp. The bits are the
// same. The block that finishes the last of a row's units merges them.
#include <algorithm>

#include "cuda/attention.h"
#include "cuda/block.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32, kKeys = 16, kHeads = 16;
constexpr int kParts = kDecodeParts;
constexpr int kVirtualTiles = kDecodeChunk / kKeys / kParts / kWarps;
static_assert(kWarps == kParts);
constexpr int kBlocks = 2;  // of a multiprocessor

template <int kDim, bool kFp8>
struct Shape {
  using H = Head<kDim, kFp8>;
  static constexpr int kKeyLoads =
      2 * H::kBlocks * H::kLaneChunks;  // sixteen bytes a lane, a stage
  static constexpr int kValueLoads = kKeys * H::kChunks / 32;
  static constexpr int kStageChunks = (kKeyLoads + kValueLoads) * 32;
  static constexpr int kStages = kFp8 ? 4 : kDim <= 128 ? 3 : 2;  // 99 KB, of sm_86 and sm_89
  // Else a thread has no registers for a second set of sums: a part is one virtual warp.
  static constexpr bool kSplits = kDim <= kMostSplitHead;
  static constexpr int kQueueBytes = kWarps * kStages * kStageChunks * 16;
  static constexpr int kSumBytes = kWarps * kHeads * (kDim + 2) * 4;
  static constexpr int kBytes = kQueueBytes > kSumBytes ? kQueueBytes : kSumBytes;
};

// What a block works on: up to sixteen heads of a group, over the keys of an item, or of a part.
struct Unit {
  RowInfo row;
  int first_key, end;  // of the item
  int part;            // -1: all of them
  const int* table;
  int kv_head, heads;
  int64_t q_head;          // the first, of all rows' heads
  int64_t sums, row_sums;  // where its sums lie, and the row's begin, in heads of p.partial
  int64_t counter;         // the row's, of p.arrivals
};

GPU_DEVICE int decode_units(const AttentionArgs& p, int parts) {
  const int group = p.q_heads / p.kv.kv_heads;
  return (p.items >= 0 ? p.items : p.step->decode_items) * p.kv.kv_heads *
         ((group + kHeads - 1) / kHeads) * parts;
}

// `parts`: units of an item.
GPU_DEVICE Unit unit_of(const AttentionArgs& p, int parts, int index) {
  const int kv_heads = p.kv.kv_heads, group = p.q_heads / kv_heads;
  const int head_tiles = (group + kHeads - 1) / kHeads, whole = index / parts;
  const int item = whole / (kv_heads * head_tiles), kv_head = whole / head_tiles % kv_heads;
  const int first_head = whole % head_tiles * kHeads;  // in the group
  const DecodeItem it = step_array<DecodeItem>(p.step, p.step->items)[p.first_item + item];
  const RowInfo row = step_array<RowInfo>(p.step, p.step->row_info)[it.row];
  Unit u;
  u.row = row;
  u.first_key = it.first_key;
  const int last_key = row.position;
  u.end = last_key + 1 < it.first_key + kDecodeChunk ? last_key + 1 : it.first_key + kDecodeChunk;
  u.part = parts > 1 ? index % parts : -1;
  u.table = step_array<int>(p.step, p.step->tables) + row.table;
  u.kv_head = kv_head;
  u.heads = group - first_head < kHeads ? group - first_head : kHeads;
  const int in_row = kv_head * group + first_head;
  u.q_head = int64_t(it.row) * p.q_heads + in_row;
  u.sums = (int64_t(item) * parts + index % parts) * p.q_heads + in_row;
  u.row_sums = int64_t(row.first_item - p.first_item) * parts * p.q_heads + in_row;
  u.counter = (int64_t(it.row) * kv_heads + kv_head) * head_tiles + whole % head_tiles;
  return u;
}

// A warp's tiles: `count` of them, every kParts-th from the one whose first key is given.
struct Share {
  int first_key, count;
  GPU_DEVICE int key(int i) const { return first_key + i * kParts * kKeys; }
};
// Tiles of a part.
GPU_DEVICE int part_tiles(const Unit& unit, int part) {
  const int tiles = (unit.end - unit.first_key + kKeys - 1) / kKeys;
  return (tiles - part + kParts - 1) / kParts;
}
GPU_DEVICE Share share_of(const Unit& unit, int warp) {
  const int part = unit.part < 0 ? warp : unit.part;
  const int before = unit.part < 0 ? 0 : warp * kVirtualTiles;
  int count = part_tiles(unit, part) - before;
  if (unit.part >= 0 && count > kVirtualTiles) count = kVirtualTiles;
  return {unit.first_key + (before * kParts + part) * kKeys, count};
}

// Maximum and denominator of an item, whose kOf pieces' lie q_heads apart.
template <int kOf>
GPU_DEVICE float2 item_state(const float2* states, int q_heads) {
  float most = minus_infinity(), sum = 0;
#pragma unroll
  for (int i = 0; i < kOf; ++i) most = fmaxf(most, states[int64_t(i) * q_heads].x);
#pragma unroll
  for (int i = 0; i < kOf; ++i) {
    const float2 s = states[int64_t(i) * q_heads];
    sum += s.y * exp2_fast(s.x - most);
  }
  return float2{most, sum};
}

// The result of a row, of its items in the order of the keys, each of kOf pieces. scratch
// [kHeads, 2] shared.
template <int kOf>
GPU_DEVICE void merge_units(const AttentionArgs& p, const Unit& unit, float* scratch) {
  const float2* states = p.partial_state + unit.row_sums;
  const float* sums = p.partial + unit.row_sums * p.kv.head_dim;
  uint16_t* out = p.out + unit.q_head * p.kv.head_dim;
  const int heads = unit.heads, items = unit.row.items, dim = p.kv.head_dim;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int64_t step = int64_t(kOf) * p.q_heads;  // from an item to the next
  for (int head = warp; head < heads; head += kWarps) {
    float most = minus_infinity(), sum = 0;
    for (int i = lane; i < items; i += 32)
      most = fmaxf(most, item_state<kOf>(states + i * step + head, p.q_heads).x);
    most = warp_max(most);
    for (int i = lane; i < items; i += 32) {
      const float2 s = item_state<kOf>(states + i * step + head, p.q_heads);
      sum += s.y * exp2_fast(s.x - most);
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      scratch[head * 2] = most;
      scratch[head * 2 + 1] = p.kv.v_scale / sum;
    }
  }
  block_sync();
  for (int u = int(threadIdx.x) * 4; u < heads * dim; u += kThreads * 4) {
    const int head = u / dim;
    const float most = scratch[head * 2], scale = scratch[head * 2 + 1];
    float value[4] = {};
#pragma unroll 4
    for (int i = 0; i < items; ++i) {
      const float2* own = states + i * step + head;
      const float item_most = item_state<kOf>(own, p.q_heads).x;
      float item[4] = {};
#pragma unroll
      for (int j = 0; j < kOf; ++j) {
        const float by = exp2_fast(own[int64_t(j) * p.q_heads].x - item_most);
        const uint4 v = load16(sums + (i * step + int64_t(j) * p.q_heads) * dim + u);
        item[0] += as_float(v.x) * by;
        item[1] += as_float(v.y) * by;
        item[2] += as_float(v.z) * by;
        item[3] += as_float(v.w) * by;
      }
      const float by = exp2_fast(item_most - most);
#pragma unroll
      for (int e = 0; e < 4; ++e) value[e] += item[e] * by;
    }
    store8(out + u, uint2{pack_bf16(value[0] * scale, value[1] * scale),
                          pack_bf16(value[2] * scale, value[3] * scale)});
  }
}

// Asks for sixteen keys and values from `first` on.
template <int kDim, bool kFp8>
GPU_DEVICE void load_stage(const AttentionArgs& p, const Unit& unit, int first, uint4* keys) {
  using S = Shape<kDim, kFp8>;
  using H = Head<kDim, kFp8>;
  const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4, end = unit.end;
  uint4* values = keys + S::kKeyLoads * 32;
  const int64_t block = cache_place(p.kv, unit.table[first / p.kv.block_size], unit.kv_head);
  const int row_bytes = p.kv.head_dim * H::kBytes;
  const int64_t base = block + int64_t(first % p.kv.block_size) * row_bytes;
  // Keys: each lane the chunks that it will multiply, key g and then key g + 8.
#pragma unroll
  for (int j = 0; j < S::kKeyLoads; ++j) {
    const int key = g + j / (H::kBlocks * H::kLaneChunks) * 8;
    const int b = j / H::kLaneChunks % H::kBlocks, h = j % H::kLaneChunks;
    const int byte = (kFp8 ? b * 4 + t : b * 8 + h * 4 + t) * 16;
    const bool real = first + key < end && byte < row_bytes;
    cp_async16(keys + j * 32 + lane, p.kv.k + (real ? base + key * row_bytes + byte : 0), real);
  }
  // Values: whole rows, for everybody. What lies past the end may be anything, NaN included:
  // zeros.
#pragma unroll
  for (int j = 0; j < S::kValueLoads; ++j) {
    const int key = (j * 32 + lane) / H::kChunks, chunk = (j * 32 + lane) % H::kChunks;
    const bool real = first + key < end && chunk * 16 < row_bytes;
    cp_async16(values + value_place<H::kChunks>(key, chunk),
               p.kv.v + (real ? base + key * row_bytes + chunk * 16 : 0), real);
  }
}

// What a warp has added up: of a virtual warp, then of all its virtual warps.
template <int kDim>
struct Sums {
  float o[kDim / 8][4] = {};
  Softmax state = {{minus_infinity(), minus_infinity()}, {0, 0}};

  // The denominators of the whole rows, which four lanes have shares of.
  GPU_DEVICE void gather() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      state.sum[h] += shuffle_xor(state.sum[h], 1);
      state.sum[h] += shuffle_xor(state.sum[h], 2);
    }
  }
  // As add_up() does.
  GPU_DEVICE void add(const Sums& next) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float most = fmaxf(state.most[h], next.state.most[h]);
      const float by = exp2_fast(state.most[h] - most),
                  next_by = exp2_fast(next.state.most[h] - most);
      state.most[h] = most;
      state.sum[h] = state.sum[h] * by + next.state.sum[h] * next_by;
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; ++e) o[i][e] = o[i][e] * by + next.o[i][e] * next_by;
      }
    }
  }
};

// A warp's sums, for merge_warps(): [warp][head][kDim], [warp][head][2].
template <int kDim, bool kFp8>
GPU_DEVICE void keep_sums(const Sums<kDim>& own, float* sums, float* states) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int at = warp * kHeads + g + 8 * h;
    if (t == 0) {
      states[at * 2] = own.state.most[h];
      states[at * 2 + 1] = own.state.sum[h];
    }
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e)
        sums[at * kDim + value_column<kFp8>(i, e, t)] = own.o[i][2 * h + e];
    }
  }
}

// One output of a head: maximum, denominator, sum.
struct Merged {
  float most = minus_infinity(), sum = 0, value = 0;
};

// Of an item, from the parts that the warps have.
template <int kDim>
GPU_DEVICE Merged merge_parts(const float* sums, const float* states, int head, int d) {
  Merged m;
  for (int w = 0; w < kWarps; ++w) m.most = fmaxf(m.most, states[(w * kHeads + head) * 2]);
  for (int w = 0; w < kWarps; ++w) {
    const int at = w * kHeads + head;
    const float by = exp2_fast(states[at * 2] - m.most);
    m.sum += states[at * 2 + 1] * by;
    m.value += sums[at * kDim + d] * by;
  }
  return m;
}

// Of a part, from the virtual warps that the first `warps` have, as Sums::add() does.
template <int kDim>
GPU_DEVICE Merged add_up(const float* sums, const float* states, int head, int d, int warps) {
  Merged m;
  for (int w = 0; w < warps; ++w) {
    const int at = w * kHeads + head;
    const float most = fmaxf(m.most, states[at * 2]);
    const float by = exp2_fast(m.most - most), next_by = exp2_fast(states[at * 2] - most);
    m.most = most;
    m.sum = m.sum * by + states[at * 2 + 1] * next_by;
    m.value = m.value * by + sums[at * kDim + d] * next_by;
  }
  return m;
}

// The four warps' sums as one: the result of a row of one unit, else the unit's.
template <int kDim>
GPU_DEVICE void merge_warps(const AttentionArgs& p, const Unit& unit, const float* sums,
                            const float* states) {
  const int dim = p.kv.head_dim;
  const bool is_part = unit.part >= 0;
  const int warps =
      is_part ? (part_tiles(unit, unit.part) + kVirtualTiles - 1) / kVirtualTiles : kWarps;
  for (int u = int(threadIdx.x); u < unit.heads * dim; u += kThreads) {
    const int head = u / dim, d = u % dim;
    const Merged m = is_part ? add_up<kDim>(sums, states, head, d, warps)
                             : merge_parts<kDim>(sums, states, head, d);
    if (!is_part && unit.row.items == 1) {
      p.out[(unit.q_head + head) * dim + d] = to_bf16(m.value * (p.kv.v_scale / m.sum));
    } else {
      p.partial[(unit.sums + head) * dim + d] = m.value;
      if (d == 0) p.partial_state[unit.sums + head] = float2{m.most, m.sum};
    }
  }
}

// A warp's queue of tiles.
template <int kDim, bool kFp8>
struct Tiles {
  using S = Shape<kDim, kFp8>;
  uint4* queue;

  GPU_DEVICE uint4* stage(int i) const { return queue + i % S::kStages * S::kStageChunks; }
  GPU_DEVICE void load(const AttentionArgs& p, const Unit& unit, const Share& mine, int i) const {
    load_stage<kDim, kFp8>(p, unit, mine.key(i), stage(i));
  }
  // The first tiles, or those of them whose keys earlier steps have left, `settled`, or the others.
  GPU_DEVICE void load_first(const AttentionArgs& p, const Unit& unit, const Share& mine,
                             bool settled) const {
#pragma unroll
    for (int i = 0; i < S::kStages - 1; ++i) {
      const bool is_settled = mine.key(i) + kKeys <= unit.row.settled;
      if (i < mine.count && is_settled == settled) load(p, unit, mine, i);
      if (!settled) cp_async_commit();
    }
  }
};

// Scores of a tile, as softmax_step() wants them: keys from `end` on have none.
template <int kDim, bool kFp8>
GPU_DEVICE void score_tile(float (&s)[2][4], const Query<kDim>& q, const uint4* keys, int first_key,
                           int end) {
  using H = Head<kDim, kFp8>;
  const int lane = int(threadIdx.x) % 32, t = lane % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    multiply_keys<kDim, kFp8>(s[n], q, [&](int b, int h) {
      return load16(keys + ((n * H::kBlocks + b) * H::kLaneChunks + h) * 32 + lane);
    });
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (first_key + n * 8 + 2 * t + e % 2 >= end) s[n][e] = minus_infinity();
    }
  }
}

// The sums over a warp's tiles, of which the first have been asked for.
template <int kDim, bool kFp8>
GPU_DEVICE void attend(const AttentionArgs& p, const Unit& unit, const Share& mine,
                       const Tiles<kDim, kFp8>& tiles, Sums<kDim>* all) {
  using S = Shape<kDim, kFp8>;
  const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4, dim = p.kv.head_dim;
  const float scale = p.scale * kLog2e * p.kv.k_scale;
  Query<kDim> q;
  load_query<kDim, kFp8>(q, g < unit.heads ? p.q + (unit.q_head + g) * dim : nullptr,
                         g + 8 < unit.heads ? p.q + (unit.q_head + g + 8) * dim : nullptr, dim, t);
  Sums<kDim> own;
  for (int i = 0; i < mine.count; ++i) {
    cp_async_wait<S::kStages - 2>();
    warp_sync();  // the warp's bytes have landed, and nobody reads the stage that is loaded next
    if (i + S::kStages - 1 < mine.count) tiles.load(p, unit, mine, i + S::kStages - 1);
    cp_async_commit();
    const uint4* keys = tiles.stage(i);
    float s[2][4] = {};
    score_tile<kDim, kFp8>(s, q, keys, mine.key(i), unit.end);
    uint32_t w[2][2];
    softmax_step<2, kDim>(s, scale, own.state, own.o, w);
    multiply_values<kDim, kFp8>(own.o, w[0], w[1], keys + S::kKeyLoads * 32, 0);
    if (S::kSplits && (i % kVirtualTiles == kVirtualTiles - 1 || i == mine.count - 1)) {
      own.gather();
      all->add(own);
      own = Sums<kDim>();
    }
  }
  if (!S::kSplits) {
    own.gather();
    *all = own;
  }
}

template <int kDim, bool kFp8>
__global__ void __launch_bounds__(kThreads) attention_decode_kernel(AttentionArgs p) {
  using S = Shape<kDim, kFp8>;
  pdl_launch_dependents();
  Shared smem;
  uint4* shared = smem.take<uint4>(S::kBytes / 16);
  float* sums = reinterpret_cast<float*>(shared);  // [warp][head][kDim], once the queue is empty
  float* states = sums + kWarps * kHeads * kDim;   // [warp][head][2]
  const int warp = int(threadIdx.x) / 32, parts = S::kSplits ? p.step->decode_parts : 1;
  const int units = decode_units(p, parts);
  const Tiles<kDim, kFp8> tiles = {shared + warp * S::kStages * S::kStageChunks};

  // The step's metadata is there, and so are keys of earlier steps: the first ones are on their way
  // while the kernel before this one ends.
  int index = int(blockIdx.x);
  Unit unit;
  Share mine;
  if (index < units) {
    unit = unit_of(p, parts, index);
    mine = share_of(unit, warp);
    tiles.load_first(p, unit, mine, true);
  }
  pdl_wait();

  while (index < units) {
    tiles.load_first(p, unit, mine, false);
    Sums<kDim> all;
    attend<kDim, kFp8>(p, unit, mine, tiles, &all);
    cp_async_wait<0>();
    block_sync();

    keep_sums<kDim, kFp8>(all, sums, states);
    block_sync();
    merge_warps<kDim>(p, unit, sums, states);
    const int of_row = unit.row.items * parts;
    if (of_row > 1 && last_arrival(p.arrivals + unit.counter, uint32_t(of_row),
                                   reinterpret_cast<uint32_t*>(sums))) {
      if (parts == 1) {
        merge_units<1>(p, unit, states);
      } else {
        merge_units<kParts>(p, unit, states);
      }
    }
    block_sync();
    index += int(gridDim.x);
    if (index < units) {
      unit = unit_of(p, parts, index);
      mine = share_of(unit, warp);
      tiles.load_first(p, unit, mine, true);
    }
  }
}

// use(Shape) of the instance for such heads.
template <class Use>
void with_instance(int head_dim, bool fp8, const Use& use) {
  if (head_dim <= 64) return fp8 ? use(Shape<64, true>()) : use(Shape<64, false>());
  if (head_dim <= 128) return fp8 ? use(Shape<128, true>()) : use(Shape<128, false>());
  return fp8 ? use(Shape<192, true>()) : use(Shape<192, false>());
}

}  // namespace

void attention_decode(Queue& queue, const AttentionArgs& p) {
  with_instance(p.kv.head_dim, p.kv.fp8, [&]<int kDim, bool kFp8>(Shape<kDim, kFp8>) {
    launch(queue, "attention_decode", attention_decode_kernel<kDim, kFp8>,
           unsigned(queue.multiprocessors * kBlocks), kThreads, Shape<kDim, kFp8>::kBytes, p);
  });
}

int32_t attention_decode_split_items(const Queue& queue, int q_heads, int kv_heads, int head_dim) {
  if (head_dim > kMostSplitHead) return 0;
  const int head_tiles = (q_heads / kv_heads + kHeads - 1) / kHeads;
  return queue.multiprocessors * kBlocks / (kv_heads * head_tiles * kDecodeParts);
}

DecodeAttentionLaunch attention_decode_launch(const Queue& queue, const AttentionArgs& p, int rows,
                                              int context) {
  const int items = (context + kDecodeChunk - 1) / kDecodeChunk, group = p.q_heads / p.kv.kv_heads;
  const int most = attention_decode_split_items(queue, p.q_heads, p.kv.kv_heads, p.kv.head_dim);
  const bool splits = rows * items <= most && items <= kMostSplitItems;
  DecodeAttentionLaunch l;
  l.parts = splits ? kDecodeParts : 1;
  l.units = rows * items * p.kv.kv_heads * ((group + kHeads - 1) / kHeads) * l.parts;
  l.tiles = splits ? kVirtualTiles : kDecodeChunk / kKeys / kWarps;
  with_instance(p.kv.head_dim, p.kv.fp8, [&](auto s) {
    l.asked_for = std::min(l.tiles, s.kStages - 1);
    l.shared = s.kBytes;
  });
  return l;
}

void load_attention_decode(Queue& queue) {
  for (const int head_dim : {64, 128, 192}) {
    for (const bool fp8 : {false, true}) {
      with_instance(head_dim, fp8, [&]<int kDim, bool kFp8>(Shape<kDim, kFp8>) {
        load_kernel(queue, "attention_decode", attention_decode_kernel<kDim, kFp8>,
                    Shape<kDim, kFp8>::kBytes);
      });
    }
  }
}

}  // namespace nemotron::cuda
