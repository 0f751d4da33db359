// Attention of generated rows over the paged cache.
//
//   bytes  keys and values of the row's context, once a row and KV head (its query heads share
//          them)
//   FLOPs  4 * q_heads * head_dim a key: far below the tensor cores' limit
//   bound  memory bandwidth
//
// The unit of work is (row, KV head, 512 keys): a constant, not a share of the machine, so that a
// row's sums do not depend on what else runs. A fixed number of blocks takes the units of the step
// one after another (their number is in the metadata: one captured graph serves every context
// length). The heads of a group are the rows of mma's A operand. Four warps take sixteen keys each
// in turn, every warp with a queue of its own, and their sums are merged in order. Where a row has
// several units, the block that finishes the last of them merges them.
#include "cuda/attention.h"
#include "cuda/block.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32, kKeys = 16, kHeads = 16;

template <int kDim, bool kFp8>
struct Shape {
  using H = Head<kDim, kFp8>;
  static constexpr int kKeyLoads =
      2 * H::kBlocks * H::kLaneChunks;  // sixteen bytes a lane, a stage
  static constexpr int kValueLoads = kKeys * H::kChunks / 32;
  static constexpr int kStageChunks = (kKeyLoads + kValueLoads) * 32;
  static constexpr int kStages = kFp8 ? 4 : kDim <= 128 ? 3 : 2;  // 99 KB, of sm_86 and sm_89
  static constexpr int kQueueBytes = kWarps * kStages * kStageChunks * 16;
  static constexpr int kSumBytes = kWarps * kHeads * (kDim + 2) * 4;
  static constexpr int kBytes = kQueueBytes > kSumBytes ? kQueueBytes : kSumBytes;
};

// What a block works on: up to sixteen heads of a group, over the keys of an item.
struct Unit {
  int end;  // past the last key
  const int* table;
  int kv_head, heads;
  int64_t q_head;  // the first, of all rows' heads
};

// The result of a row of `items` items, in the order of the keys: their sums and states begin at
// head `first` of the step's and lie q_heads apart. scratch [kHeads, 2] shared.
GPU_DEVICE void merge_units(const AttentionArgs& p, const Unit& unit, int64_t first, int items,
                            float* scratch) {
  const float2* states = p.partial_state + first;
  const float* sums = p.partial + first * p.kv.head_dim;
  uint16_t* out = p.out + unit.q_head * p.kv.head_dim;
  const int heads = unit.heads;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, dim = p.kv.head_dim;
  for (int head = warp; head < heads; head += kWarps) {
    float most = minus_infinity(), sum = 0;
    for (int i = lane; i < items; i += 32)
      most = fmaxf(most, states[int64_t(i) * p.q_heads + head].x);
    most = warp_max(most);
    for (int i = lane; i < items; i += 32) {
      const float2 s = states[int64_t(i) * p.q_heads + head];
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
      const int64_t at = int64_t(i) * p.q_heads;
      const float by = exp2_fast(states[at + head].x - most);
      const uint4 v = load16(sums + at * dim + u);
      value[0] += as_float(v.x) * by;
      value[1] += as_float(v.y) * by;
      value[2] += as_float(v.z) * by;
      value[3] += as_float(v.w) * by;
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

// A warp's sums and state, for merge_warps(): [warp][head][kDim], [warp][head][2].
template <int kDim, bool kFp8>
GPU_DEVICE void keep_sums(const float (&o)[kDim / 8][4], const Softmax& state, float* sums,
                          float* states) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float sum = state.sum[h];
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const int at = warp * kHeads + g + 8 * h;
    if (t == 0) {
      states[at * 2] = state.most[h];
      states[at * 2 + 1] = sum;
    }
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) sums[at * kDim + value_column<kFp8>(i, e, t)] = o[i][2 * h + e];
    }
  }
}

// The four warps' sums, merged in order: the result of a row of one item, else a part of it, to
// `partial` heads of the step on.
template <int kDim>
GPU_DEVICE void merge_warps(const AttentionArgs& p, const Unit& unit, bool is_whole,
                            int64_t partial, const float* sums, const float* states) {
  const int dim = p.kv.head_dim;
  for (int u = int(threadIdx.x); u < unit.heads * dim; u += kThreads) {
    const int head = u / dim, d = u % dim;
    float most = minus_infinity();
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, states[(w * kHeads + head) * 2]);
    float sum = 0, value = 0;
    for (int w = 0; w < kWarps; ++w) {
      const int at = w * kHeads + head;
      const float by = exp2_fast(states[at * 2] - most);
      sum += states[at * 2 + 1] * by;
      value += sums[at * kDim + d] * by;
    }
    if (is_whole) {
      p.out[(unit.q_head + head) * dim + d] = to_bf16(value / sum * p.kv.v_scale);
    } else {
      p.partial[(partial + head) * dim + d] = value;
      if (d == 0) p.partial_state[partial + head] = float2{most, sum};
    }
  }
}

template <int kDim, bool kFp8>
__global__ void __launch_bounds__(kThreads) attention_decode_kernel(AttentionArgs p) {
  using S = Shape<kDim, kFp8>;
  using H = Head<kDim, kFp8>;
  pdl_launch_dependents();
  Shared smem;
  uint4* shared = smem.take<uint4>(S::kBytes / 16);
  float* sums = reinterpret_cast<float*>(shared);  // [warp][head][kDim], once the queue is empty
  float* states = sums + kWarps * kHeads * kDim;   // [warp][head][2]
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  uint4* queue = shared + warp * S::kStages * S::kStageChunks;

  const int dim = p.kv.head_dim, kv_heads = p.kv.kv_heads, group = p.q_heads / kv_heads;
  const int head_tiles = (group + kHeads - 1) / kHeads;
  const auto* rows = step_array<RowInfo>(p.step, p.step->row_info);
  const auto* items = step_array<DecodeItem>(p.step, p.step->items);
  const int units = (p.items >= 0 ? p.items : p.step->decode_items) * kv_heads * head_tiles;
  const float scale = p.scale * kLog2e * p.kv.k_scale;
  pdl_wait();

  for (int unit = int(blockIdx.x); unit < units; unit += int(gridDim.x)) {
    const int item = unit / (kv_heads * head_tiles), kv_head = unit / head_tiles % kv_heads;
    const int first_head = unit % head_tiles * kHeads;  // in the group
    const int heads = group - first_head < kHeads ? group - first_head : kHeads;
    const DecodeItem it = items[p.first_item + item];
    const RowInfo row = rows[it.row];
    const int* table = step_array<int>(p.step, p.step->tables) + row.table;
    const int last_key = row.position;
    const int end =
        last_key + 1 < it.first_key + kDecodeChunk ? last_key + 1 : it.first_key + kDecodeChunk;
    const int tiles = (end - it.first_key + kKeys - 1) / kKeys,
              mine = (tiles - warp + kWarps - 1) / kWarps;

    const int64_t q_head = int64_t(it.row) * p.q_heads + kv_head * group + first_head;
    Query<kDim> q;
    load_query<kDim, kFp8>(q, g < heads ? p.q + (q_head + g) * dim : nullptr,
                           g + 8 < heads ? p.q + (q_head + g + 8) * dim : nullptr, dim, t);

    const Unit at = {end, table, kv_head, heads, q_head};
    const auto load = [&](int i) {
      load_stage<kDim, kFp8>(p, at, it.first_key + (warp + i * kWarps) * kKeys,
                             queue + i % S::kStages * S::kStageChunks);
    };

#pragma unroll
    for (int i = 0; i < S::kStages - 1; ++i) {
      if (i < mine) load(i);
      cp_async_commit();
    }
    float o[H::kValueTiles][4] = {};
    Softmax state = {{minus_infinity(), minus_infinity()}, {0, 0}};
    for (int i = 0; i < mine; ++i) {
      cp_async_wait<S::kStages - 2>();
      warp_sync();  // the warp's bytes have landed, and nobody reads the stage that is loaded next
      if (i + S::kStages - 1 < mine) load(i + S::kStages - 1);
      cp_async_commit();
      const uint4* keys = queue + i % S::kStages * S::kStageChunks;
      float s[2][4] = {};
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        multiply_keys<kDim, kFp8>(s[n], q, [&](int b, int h) {
          return load16(keys + ((n * H::kBlocks + b) * H::kLaneChunks + h) * 32 + lane);
        });
      }
      const int first = it.first_key + (warp + i * kWarps) * kKeys;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (first + n * 8 + 2 * t + e % 2 >= end) s[n][e] = minus_infinity();
        }
      }
      uint32_t w[2][2];
      softmax_step<2, kDim>(s, scale, state, o, w);
      multiply_values<kDim, kFp8>(o, w[0], w[1], keys + S::kKeyLoads * 32, 0);
    }
    cp_async_wait<0>();
    block_sync();

    keep_sums<kDim, kFp8>(o, state, sums, states);
    block_sync();
    merge_warps<kDim>(p, at, row.items == 1,
                      int64_t(item) * p.q_heads + kv_head * group + first_head, sums, states);
    if (row.items > 1) {
      const int64_t first =
          int64_t(row.first_item - p.first_item) * p.q_heads + kv_head * group + first_head;
      uint32_t* arrivals =
          p.arrivals + (int64_t(it.row) * kv_heads + kv_head) * head_tiles + unit % head_tiles;
      if (last_arrival(arrivals, uint32_t(row.items), reinterpret_cast<uint32_t*>(sums))) {
        merge_units(p, at, first, row.items, states);
      }
    }
    block_sync();
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
           unsigned(queue.multiprocessors * 2), kThreads, Shape<kDim, kFp8>::kBytes, p);
  });
}

size_t attention_decode_shared(int head_dim, bool fp8) {
  size_t bytes = 0;
  with_instance(head_dim, fp8, [&](auto s) { bytes = s.kBytes; });
  return bytes;
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
