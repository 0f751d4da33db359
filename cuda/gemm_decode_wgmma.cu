// out = a w^T for generated rows and for the head, by wgmma and TMA: sm_90a. A device takes this
// kernel for every number of rows or for none: its bits are not those of gemm_decode.cu.
//
//   bytes  rows * k * (2 or 1) of weights, once from memory and once from L2 for every kTokens rows
//          of a; a from L2 once for every 128 or 256 weight rows, up to 16 rows of a for every 64
//   FLOPs  2 * M * rows * k
//   bound  memory, then L2, then tensor cores (wgmma), as M grows (docs/kernels.md)
//
// Weight rows are the M of wgmma and tokens its N. A warpgroup multiplies 64 weight rows, which it
// reads from shared memory as fragments of A (FP8 is widened on the way); activations stay there as
// B. A warp of another warpgroup brings both, stage after stage of 128 bytes of a weight row, into
// a ring that runs on from one place of the matrix to the next.
//
// From 17 rows of a on, two or four blocks that lie side by side are a cluster: each brings its
// share of a stage's activations, to all of them at once. So a stage has landed when the shares of
// all have, and it is free when all have multiplied it.
//
// A row's sum is one chain: sixteen columns after sixteen columns, from column 0 on. Each instance
// below does the same, so a row's bits do not depend on how many rows there are, as long as wgmma
// adds up sixteen columns alike for every N.
//
// Pairs (gate and up, the two halves of a head): rows g of a warp's fragment are of the lower half
// and rows g + 8 of the upper, so that a thread has both sums of a pair.
#include "cuda/gemm_decode.h"
#include "cuda/hopper.h"
#include "cuda/launch.h"
#include "cuda/tensor_map.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kRowBytes = 128;  // of a weight row and a stage
constexpr int kBoxRows = 16;    // a row tile

template <bool kFp8_, int kGroups_, int kTokens_, bool kPaired_>
struct Shape {
  static constexpr bool kFp8 = kFp8_, kPaired = kPaired_;
  static constexpr int kGroups = kGroups_;  // warpgroups that multiply, 64 rows each
  static constexpr int kTokens = kTokens_, kRows = kGroups * 64;
  static constexpr int kTiles = kRows / kBoxRows;               // a warp's rows are one
  static constexpr int kLower = kPaired ? kTiles / 2 : kTiles;  // lower tiles of a block
  static constexpr int kThreads = (kGroups + 1) * kWarpgroup;
  // Registers of many sums come from the warps that do not multiply.
  static constexpr bool kDeals = kGroups * kTokens >= 256;
  static constexpr int kBlocks = kFp8 ? 2 : 1;  // of 64 columns, in a stage
  static constexpr int kWeightBytes = kRows * kRowBytes, kTokenBytes = kTokens * kRowBytes;
  static constexpr int kStageBytes = kWeightBytes + kBlocks * kTokenBytes;
  static constexpr bool kShares = kTokens > 16;  // in a cluster
  // Few tokens: a block of the next kernel finds room beside this one.
  static constexpr int kFit = (kTokens <= 16 ? 96 << 10 : 200 << 10) / kStageBytes;
  static constexpr int kStages = kFit > 8 ? 8 : kFit;
  static constexpr int kBytes = kStages * kStageBytes + 2 * kStages * 8 + kTokens * 4;
  static constexpr int kAskedBytes = kStages * kRowBytes;  // of a weight row, before the first use
  static_assert(kStages >= 2);
};

// A block's ring. `full` ends a phase when a stage has landed, `empty` when all multiplying warps
// of the cluster are done with it.
template <class S>
struct Ring {
  uint8_t* data;
  uint64_t *full, *empty;
  int cluster;  // blocks; 1 where none are shared

  GPU_DEVICE uint8_t* weights(int i) const { return data + i % S::kStages * S::kStageBytes; }
  GPU_DEVICE uint8_t* tokens(int i) const { return weights(i) + S::kWeightBytes; }
  GPU_DEVICE uint64_t* full_of(int i) const { return full + i % S::kStages; }
  GPU_DEVICE void wait_full(int i) const { wait(full_of(i), i / S::kStages & 1); }
  GPU_DEVICE void wait_empty(int i) const {
    if (i >= S::kStages) wait(empty + i % S::kStages, (i / S::kStages - 1) & 1);
  }
  // In each block of the cluster, by a lane each.
  GPU_DEVICE void release(int i) const {
    const int lane = int(threadIdx.x) % kWarp;
    if (lane >= cluster) return;
    if constexpr (S::kShares) {
      mbarrier_arrive_peer(empty + i % S::kStages, lane);
    } else {
      mbarrier_arrive(empty + i % S::kStages);
    }
  }

 private:
  GPU_DEVICE static void wait(uint64_t* barrier, uint32_t parity) {
    if constexpr (S::kShares) {
      mbarrier_wait_peers(barrier, parity);
    } else {
      mbarrier_wait(barrier, parity);
    }
  }
};

// What a block does: stages are numbered from its first place to its last.
struct Plan {
  int first_token;
  int a_place;  // stages
  int stages;   // of the block
};

// The weights of stage i: a lane a row tile.
template <class S>
GPU_DEVICE void bring_weights(const Output& out, const CUtensorMap& map, const Ring<S>& ring,
                              const Plan& plan, int i) {
  const int lane = int(threadIdx.x) % kWarp;
  if (lane == 0) mbarrier_arrive_expect(ring.full_of(i), S::kStageBytes);
  warp_sync();
  if (lane >= S::kTiles) return;
  const int place = int(blockIdx.y) + i / plan.a_place * int(gridDim.y);
  copy_box(ring.weights(i) + lane * kBoxRows * kRowBytes, map, i % plan.a_place * 64,
           tile_row<S::kPaired, S::kTiles>(out, place, lane), ring.full_of(i));
}

// Its activations, or the block's share of them for the cluster: a lane 64 columns.
template <class S>
GPU_DEVICE void bring_tokens(const CUtensorMap& map, const Ring<S>& ring, const Plan& plan, int i) {
  const int lane = int(threadIdx.x) % kWarp;
  if (lane >= S::kBlocks) return;
  const int column = (i % plan.a_place * S::kBlocks + lane) * 64;
  uint8_t* to = ring.tokens(i) + lane * S::kTokenBytes;
  if constexpr (S::kShares) {
    const int share = S::kTokens / ring.cluster;
    const int first = int(blockIdx.y) % ring.cluster * share;
    copy_box_to(uint16_t((1 << ring.cluster) - 1), to + first * kRowBytes, map, column,
                plan.first_token + first, ring.full_of(i));
  } else {
    copy_box(to, map, column, plan.first_token, ring.full_of(i));
  }
}

// Where row r of a warp's fragments lies in a stage.
template <class S>
GPU_DEVICE int row_in_stage(int warp, int r) {
  if constexpr (!S::kPaired) return warp * 16 + r;
  return r / 8 * (S::kRows / 2) + warp * 8 + r % 8;
}

// Where a lane's part of each sixteen columns lies in a stage; FP8: of the first 64 of 128 columns.
// A row's sixteen-byte chunks are turned as the copy engine turns them, by its number modulo 8.
template <class S>
GPU_DEVICE void place_fragments(int warp, uint32_t (&at)[4]) {
  const int lane = int(threadIdx.x) % kWarp;
  const int row = row_in_stage<S>(warp, S::kFp8 ? lane / 4 : lane % 16);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int chunk = (S::kFp8 ? k : 2 * k + lane / 16) ^ row % 8;
    at[k] = uint32_t(row * kRowBytes + chunk * 16 + (S::kFp8 ? lane % 4 * 4 : 0));
  }
}

// Fragments of A for sixteen columns each, of 64 columns. FP8: the `half` of a stage's 128.
template <class S>
GPU_DEVICE void read_weights(const uint8_t* stage, const uint32_t (&at)[4], int half,
                             uint32_t (&a)[4][4]) {
  if constexpr (!S::kFp8) {
#pragma unroll
    for (int k = 0; k < 4; ++k) ldmatrix_x4(a[k], stage + at[k]);
  } else {
    // Rows g + 8 of the fragments lie a multiple of eight rows further on, turned alike.
    constexpr int kUpper = (S::kPaired ? S::kRows / 2 : 8) * kRowBytes;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint8_t* lower = stage + (at[k] ^ uint32_t(half * 64));
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t word = *reinterpret_cast<const uint32_t*>(lower + h * kUpper);
        a[k][h] = e4m3_even_to_bf16(word);
        a[k][2 + h] = e4m3_odd_to_bf16(word);
      }
    }
  }
}

template <class S>
GPU_DEVICE void write_results(const DecodeGemm& p, const Output& out, const Lane& at,
                              const float* row_scale, int place,
                              const float (&sum)[S::kTokens / 2]) {
#pragma unroll
  for (int n = 0; n < S::kTokens / 8; ++n) {
    const float* s = sum + 4 * n;
    if constexpr (S::kPaired) {
      const int tile = place * S::kLower + at.warp / 2, row = at.warp % 2 * 8 + at.g;
#pragma unroll
      for (int e = 0; e < 2; ++e)
        write_pair_of(p, out, at, row_scale, {tile, n, row, e}, float2{s[e], s[2 + e]});
    } else {
      const float v[4] = {s[0], s[1], s[2], s[3]};
      write_tile(p, out, at, row_scale, {place * S::kLower + at.warp, n}, v);
    }
  }
}

// A warpgroup that multiplies.
template <class S>
GPU_DEVICE void multiply(const DecodeGemm& p, const Output& out, const Lane& at,
                         const float* row_scale, const Ring<S>& ring, const Plan& plan) {
  uint32_t fragments[4];
  place_fragments<S>(at.warp, fragments);
  int stage = 0;
  for (int place = int(blockIdx.y); stage < plan.stages; place += int(gridDim.y)) {
    float sum[S::kTokens / 2];
    // Two sets of fragments: one is read while products still read the other.
    uint32_t a[2][4][4];
    bool begun = false;
    // Block `half` of the stage; products of the block before may be in flight, and are not after.
    const auto step = [&](uint32_t(&own)[4][4], uint32_t(&other)[4][4], int half, bool releases) {
      read_weights<S>(ring.weights(stage), fragments, half, own);
      const uint64_t b =
          wgmma_descriptor(shared_address(ring.tokens(stage) + half * S::kTokenBytes), 16, 1024);
      wgmma_fence(own);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        wgmma_bf16<true>(sum, own[k], wgmma_advance(b, k * 32), begun || k > 0);
      }
      wgmma_commit();
      wgmma_wait<1>(other);
      if (releases) ring.release(stage - 1);
      begun = true;
    };
    if constexpr (S::kFp8) {
      for (int i = 0; i < plan.a_place; ++i, ++stage) {
        ring.wait_full(stage);
        step(a[0], a[1], 0, i > 0);
        step(a[1], a[0], 1, false);
      }
    } else {
      for (int i = 0; i < plan.a_place; i += 2) {
        ring.wait_full(stage);
        step(a[0], a[1], 0, i > 0);
        ++stage;
        if (i + 1 == plan.a_place) break;
        ring.wait_full(stage);
        step(a[1], a[0], 0, true);
        ++stage;
      }
    }
    wgmma_wait<0>(sum, a[0], a[1]);
    ring.release(stage - 1);
    // Else a register a token and place holds where it goes.
    Lane here = at;
    here.first_token = forgotten(at.first_token);
    write_results<S>(p, out, here, row_scale, place, sum);
  }
}

// How a launch takes the matrix: places of a block's rows, blocks of a cluster, bytes of each row
// that L2 is asked for before the first use.
struct Split {
  int places, cluster, early;
};

// Registers allow two blocks of few tokens a multiprocessor: this one and one of the next kernel.
template <bool kFp8, int kGroups, int kTokens, bool kPaired>
__global__ void __launch_bounds__((kGroups + 1) * kWarpgroup, kTokens <= 16 ? 2 : 1)
    gemm_decode_wgmma_kernel(DecodeGemm p, Output out, const __grid_constant__ CUtensorMap weights,
                             const __grid_constant__ CUtensorMap activations, Split split) {
#if GPU_HOPPER
  using S = Shape<kFp8, kGroups, kTokens, kPaired>;
  pdl_launch_dependents();
  const int tokens = p.count ? *p.count : p.grid_rows, first_token = int(blockIdx.x) * kTokens;
  if (first_token >= tokens) {
    pdl_wait();
    return;
  }
  Shared smem;  // the ring first: it begins on 1024 bytes
  uint8_t* data = smem.take<uint8_t>(S::kStages * S::kStageBytes);
  uint64_t* barriers = smem.take<uint64_t>(2 * S::kStages);
  float* row_scale = smem.take<float>(kTokens);
  const Ring<S> ring = {data, barriers, barriers + S::kStages, S::kShares ? split.cluster : 1};
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const Lane at = {first_token, tokens, warp, lane, lane / 4, lane % 4};
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      mbarrier_init(ring.full + i, 1);
      mbarrier_init(ring.empty + i, uint32_t(kGroups * 4 * ring.cluster));
    }
    mbarrier_init_done();
  }
  block_sync();
  if constexpr (S::kShares) cluster_arrive();

  // All of a cluster have as many places as its first block; past the matrix they are zeros.
  const int leader = int(blockIdx.y) / ring.cluster * ring.cluster;
  const int own = (split.places - leader + int(gridDim.y) - 1) / int(gridDim.y);
  const int a_place = int(p.w.stride + kRowBytes - 1) / kRowBytes;
  const Plan plan = {first_token, a_place, own * a_place};
  const bool brings = warp == kGroups * 4, multiplies = warp < kGroups * 4;
  const int first = plan.stages < S::kStages ? plan.stages : S::kStages;
  if (brings) {
    for (int i = 0; i < first; ++i) bring_weights<S>(out, weights, ring, plan, i);
  } else if (multiplies && split.early > 0) {
    prefetch_place<kPaired, S::kTiles>(p, out, S::kAskedBytes, split.early, kGroups * kWarpgroup);
  }
  // Peers have made the barriers that count what comes to them.
  if constexpr (S::kShares) cluster_wait();
  pdl_wait();
  if (brings) {
    for (int i = 0; i < first; ++i) bring_tokens<S>(activations, ring, plan, i);
  }
  // While the first activations are on their way.
  if (p.squares) scale_rows_of<S::kThreads / kWarp, kTokens>(p, at, row_scale);
  block_sync();
  if (multiplies) {
    if constexpr (S::kDeals) registers_take<232>();
    multiply<S>(p, out, at, row_scale, ring, plan);
  } else {
    if constexpr (S::kDeals) registers_give<40>();
    for (int i = S::kStages; brings && i < plan.stages; ++i) {
      ring.wait_empty(i);
      bring_weights<S>(out, weights, ring, plan, i);
      bring_tokens<S>(activations, ring, plan, i);
    }
  }
  // Till then a peer arrives at barriers of this block, and copies of this one go to peers.
  if constexpr (S::kShares) {
    cluster_arrive();
    cluster_wait();
  }
#endif
}

template <class S>
int32_t places_of(S, int32_t tiles) {
  return (tiles + S::kLower - 1) / S::kLower;
}

// use(Shape) of the instance that takes so many rows of a. Blocks of 64 weight rows where they are
// all on the GPU at once.
template <bool kFp8, bool kPaired, class Use>
void with_instance(const Queue& queue, int32_t grid_rows, int32_t tiles, const Use& use) {
  const auto blocks = [&](auto s) {
    return places_of(s, tiles) * ((grid_rows + s.kTokens - 1) / s.kTokens);
  };
  const auto either = [&](auto large, auto small) {
    return blocks(small) <= queue.multiprocessors ? use(small) : use(large);
  };
  if (grid_rows <= 8) return use(Shape<kFp8, 1, 8, kPaired>());
  if (grid_rows <= 16) return use(Shape<kFp8, 1, 16, kPaired>());
  if (grid_rows <= 32) return either(Shape<kFp8, 2, 32, kPaired>(), Shape<kFp8, 1, 32, kPaired>());
  if (grid_rows <= 64) return either(Shape<kFp8, 2, 64, kPaired>(), Shape<kFp8, 1, 64, kPaired>());
  const Shape<kFp8, 2, 256, kPaired> largest;
  if (grid_rows > 128 && blocks(largest) * 2 > queue.multiprocessors) return use(largest);
  either(Shape<kFp8, 2, 128, kPaired>(), Shape<kFp8, 1, 128, kPaired>());
}

template <class Use>
void with_instance(const Queue& queue, const DecodeGemm& p, int32_t tiles, bool paired,
                   const Use& use) {
  with_form(p.w.fp8, paired, [&](auto fp8, auto pairs) {
    with_instance<fp8.value, pairs.value>(queue, p.grid_rows, tiles, use);
  });
}

template <class S>
constexpr auto kernel_of(S) {
  return gemm_decode_wgmma_kernel<S::kFp8, S::kGroups, S::kTokens, S::kPaired>;
}

// A block a multiprocessor, or fewer, in whole clusters; each takes several places in turn. Two
// blocks of a cluster find room wherever two multiprocessors are free, since these come in pairs;
// blocks of 64 weight rows are four where all such clusters are on the GPU at once.
template <class S>
Clusters clusters_of(S s, const Queue& queue, int32_t grid_rows, int32_t tiles) {
  const int32_t x = (grid_rows + S::kTokens - 1) / S::kTokens, places = places_of(s, tiles);
  const bool four = S::kRows == 64 && (places + 3) / 4 * x <= queue.clusters_of_four;
  const int32_t cluster = !S::kShares ? 1 : four ? 4 : 2;
  const int32_t wanted = (places + cluster - 1) / cluster;
  const int32_t most = queue.multiprocessors / x / cluster;
  const int32_t y = (wanted < most ? wanted : most > 0 ? most : 1) * cluster;
  return {dim3(unsigned(x), unsigned(y)), unsigned(cluster)};
}

}  // namespace

void gemm_decode_wgmma(Queue& queue, const DecodeGemm& p, const Output& out, int32_t tiles,
                       bool paired) {
  with_instance(queue, p, tiles, paired, [&](auto s) {
    const Clusters grid = clusters_of(s, queue, p.grid_rows, tiles);
    const int32_t share = s.kTokens / int32_t(grid.cluster);
    // Rows of FP8 are halved into columns of two bytes: a box has 128 bytes of a row.
    CUtensorMap weights, activations;
    if (!make_tensor_map({p.w.data, p.w.rows, p.w.stride / 2, p.w.stride}, kBoxRows, &weights) ||
        !make_tensor_map({p.a, p.grid_rows, p.w.k, p.a_stride * 2}, share, &activations)) {
      if (queue.error == cudaSuccess) {
        queue.error = cudaErrorInvalidValue;
        queue.failed = "gemm_decode_wgmma";
      }
      return;
    }
    launch(queue, "gemm_decode_wgmma", kernel_of(s), grid, s.kThreads, size_t(s.kBytes), p, out,
           weights, activations,
           Split{places_of(s, tiles), int(grid.cluster),
                 s.kTokens <= 8 ? early_bytes(p, s.kAskedBytes) : 0});
  });
}

void gemm_decode_wgmma_launch(const Queue& queue, const DecodeGemm& p, int32_t tiles, bool paired,
                              DecodeLaunch* l) {
  with_instance(queue, p, tiles, paired, [&](auto s) {
    const auto [grid, cluster] = clusters_of(s, queue, p.grid_rows, tiles);
    l->kernel = "gemm_decode_wgmma_kernelILb" + std::to_string(s.kFp8) + "ELi" +
                std::to_string(s.kGroups) + "ELi" + std::to_string(s.kTokens) + "ELb" +
                std::to_string(s.kPaired) + "EE";
    l->rows = s.kRows;
    l->tokens = s.kTokens;
    l->warps = s.kThreads / kWarp;
    l->stage_columns = s.kBlocks * kKBlock;
    l->stages = s.kStages;
    l->shared = s.kBytes;
    l->early = s.kTokens <= 8 ? early_bytes(p, s.kAskedBytes) : 0;
    l->cluster = int32_t(cluster);
    l->tiles = places_of(s, tiles) * int32_t(grid.x);
    l->blocks = int32_t(grid.x * grid.y);
  });
}

void load_gemm_decode_wgmma(Queue& queue) {
  const auto load = [&](auto s) {
    load_kernel(queue, "gemm_decode_wgmma", kernel_of(s), size_t(s.kBytes));
  };
  each_form([&](auto fp8, auto paired) {
    load(Shape<fp8.value, 1, 8, paired.value>());
    load(Shape<fp8.value, 1, 16, paired.value>());
    load(Shape<fp8.value, 1, 32, paired.value>());
    load(Shape<fp8.value, 2, 32, paired.value>());
    load(Shape<fp8.value, 1, 64, paired.value>());
    load(Shape<fp8.value, 2, 64, paired.value>());
    load(Shape<fp8.value, 1, 128, paired.value>());
    load(Shape<fp8.value, 2, 128, paired.value>());
    load(Shape<fp8.value, 2, 256, paired.value>());
  });
  const Shape<false, 1, 128, false> one;
  queue.clusters_of_four = clusters_at_once(queue, kernel_of(one), 4, one.kThreads, one.kBytes);
}

}  // namespace nemotron::cuda
