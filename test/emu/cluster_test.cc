// Clusters of the emulator: blocks that run side by side, copy to each other and arrive at each
// other's barriers; and that every way of doing so wrongly is reported, in every order.
#include "cuda/hopper.h"
#include "emu_test.h"

using namespace emu_test;

namespace {

constexpr int kRows = 128, kCols = 64, kTileBytes = kRows * kCols * 2, kTiles = 5, kStages = 2;
constexpr int kCluster = 4, kShareRows = kRows / kCluster;

enum Flaw : int {
  kNone,
  kNoStart,
  kEarlyCopy,
  kInitNotDone,
  kNoEnd,
  kEarlyEnd,
  kLeavesEarly,
  kOwnEmpty,
  kOwnArrival,
  kEarlyRelease,
  kNoEmptyWait,
  kOwnBytes,
  kShortMask,
  kWrongShare,
  kNoSuchPeer,
  kArriveTwice,
  kWaitTwice,
  kNoWait,
};

// A fifth warp brings this block's share of a tile of b to all blocks of the cluster.
GPU_DEVICE void bring(uint8_t* data, uint64_t* full, const CUtensorMap& map, int i, int flaw) {
  const int own = int(blockIdx.y) % kCluster, stage = i % kStages;
  mbarrier_arrive_expect(full + stage, flaw == kOwnBytes ? kTileBytes / kCluster : kTileBytes);
  const int share = flaw == kWrongShare ? 0 : own;
  const uint16_t whom = flaw == kShortMask    ? (1 << kCluster) / 2 - 1
                        : flaw == kNoSuchPeer ? 1 << kCluster
                                              : (1 << kCluster) - 1;
  copy_box_to(whom, data + stage * kTileBytes + share * kShareRows * 128, map, 0,
              i * kRows + own * kShareRows, full + stage);
}

// Each block multiplies its 64 rows of a by all tiles of b: scores [block] [tile] [64, 128].
__global__ void shared_tiles(float* scores, const uint16_t* a,
                             const __grid_constant__ CUtensorMap map, int flaw) {
  Shared smem;
  uint8_t* data = smem.take<uint8_t>(kStages * kTileBytes);
  uint64_t* full = smem.take<uint64_t>(2 * kStages);
  uint64_t* empty = full + kStages;
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int block = int(blockIdx.y);
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, flaw == kOwnEmpty || flaw == kOwnArrival ? 4 : 4 * kCluster);
    }
    if (flaw != kInitNotDone) mbarrier_init_done();
  }
  block_sync();
  if (flaw != kNoStart) cluster_arrive();
  if (flaw == kArriveTwice) cluster_arrive();
  if (flaw == kEarlyCopy && thread == 128) bring(data, full, map, 0, flaw);
  if (flaw != kNoStart && flaw != kNoWait) cluster_wait();
  if (flaw == kWaitTwice) cluster_wait();
  if (flaw == kNoWait) return;
  const int tiles = flaw == kLeavesEarly && block == 1 ? kTiles - 1 : kTiles;
  if (warp == 4) {
    for (int i = flaw == kEarlyCopy ? 1 : 0; i < tiles; ++i) {
      if (i >= kStages && flaw != kNoEmptyWait)
        mbarrier_wait_peers(empty + i % kStages, uint32_t(i / kStages - 1) & 1);
      warp_sync();
      if (lane == 0) bring(data, full, map, i, flaw);
    }
  } else {
    const int g = lane / 4, t = lane % 4;
    uint32_t q[4][4];
    for (int k = 0; k < 4; ++k) {
      for (int j = 0; j < 4; ++j) {
        const int row = block * 64 + warp * 16 + g + j % 2 * 8;
        const uint16_t* at = a + row * kCols + k * 16 + j / 2 * 8 + 2 * t;
        q[k][j] = uint32_t(at[0]) | uint32_t(at[1]) << 16;
      }
    }
    float s[64];
    for (int i = 0; i < tiles; ++i) {
      const int stage = i % kStages;
      const auto release = [&] {
        if (flaw == kOwnArrival ? lane == 0 : lane < kCluster)
          mbarrier_arrive_peer(empty + stage, flaw == kOwnArrival ? block % kCluster : lane);
      };
      mbarrier_wait_peers(full + stage, uint32_t(i / kStages) & 1);
      const uint64_t b = wgmma_descriptor(shared_address(data + stage * kTileBytes), 16, 1024);
      wgmma_fence(s, q);
      for (int k = 0; k < 4; ++k) wgmma_bf16<true>(s, q[k], wgmma_advance(b, k * 32), k > 0);
      wgmma_commit();
      if (flaw == kEarlyRelease) release();
      wgmma_wait<0>(s);
      if (flaw != kEarlyRelease) release();
      float* out = scores + (block * kTiles + i) * 64 * kRows;
      for (int e = 0; e < 64; ++e)
        out[(warp * 16 + g + e / 2 % 2 * 8) * kRows + e / 4 * 8 + 2 * t + e % 2] = s[e];
    }
  }
  if (flaw == kNoEnd || flaw == kLeavesEarly) return;
  cluster_arrive();
  if (flaw != kEarlyEnd) cluster_wait();
}

struct Case {
  static constexpr int kBlocks = 2 * kCluster;
  Case() {
    for (int i = 0; i < kBlocks * 64 * kCols; ++i) half(a)[i] = to_bf16(float(i * 7 % 13) - 6);
    for (int i = 0; i < kTiles * kRows * kCols; ++i) half(b)[i] = to_bf16(float(i * 5 % 17) - 8);
    const cuuint64_t dims[] = {kCols, kTiles * kRows}, stride[] = {kCols * 2};
    const cuuint32_t box[] = {kCols, kShareRows}, every[] = {1, 1};
    EXPECT_EQ(
        cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, b.data, dims, stride, box,
                               every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                               CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        CUDA_SUCCESS);
  }
  static uint16_t* half(Buffer& x) { return reinterpret_cast<uint16_t*>(x.data); }
  static float* real(Buffer& x) { return reinterpret_cast<float*>(x.data); }
  cudaError_t multiply(int flaw, Clusters of = {dim3(1, kBlocks), kCluster}) {
    Queue queue;
    launch(queue, "kernel", shared_tiles, of, 160, 3 * kTileBytes, real(scores),
           static_cast<const uint16_t*>(half(a)), map, flaw);
    return queue.error;
  }
  Buffer a{kBlocks * 64 * kCols / 2}, b{kTiles * kRows * kCols / 2};
  Buffer scores{kBlocks * kTiles * 64 * kRows};
  CUtensorMap map;
};

}  // namespace

TEST(emu_clusters_compute) {
  Case c;
  in_all_orders("", [&] {
    c.multiply(kNone);
    int wrong = 0;
    for (int row = 0; row < Case::kBlocks * 64; ++row) {
      for (int key = 0; key < kTiles * kRows; ++key) {
        float want = 0;
        for (int k = 0; k < kCols; ++k)
          want += from_bf16(c.half(c.a)[row * kCols + k]) * from_bf16(c.half(c.b)[key * kCols + k]);
        const int tile = row / 64 * kTiles + key / kRows;
        wrong += c.real(c.scores)[(tile * 64 + row % 64) * kRows + key % kRows] != want;
      }
    }
    EXPECT_EQ(wrong, 0);
  });
}

TEST(emu_cluster_flaws) {
  Case c;
  const char* unmade = "of a peer that may not have made it";
  const std::pair<int, const char*> flaws[] = {
      {kNoStart, unmade},
      {kEarlyCopy, unmade},
      {kInitNotDone, unmade},
      {kNoEnd, "block ends while peers still use it: a peer may arrive at its barriers"},
      {kEarlyEnd, "thread ends between cluster_arrive() and cluster_wait()"},
      {kLeavesEarly, "while peers still use it"},
      {kOwnEmpty, "shared memory that"},
      {kOwnArrival, "copy to a peer's shared memory that a wgmma may still read"},
      {kEarlyRelease, "copy to a peer's shared memory that a wgmma may still read"},
      {kNoEmptyWait, "copy to a peer's shared memory that"},
      {kOwnBytes, "wgmma reads shared memory while a copy to it is in flight"},
      {kShortMask, "deadlock: waits forever at a barrier in shared memory"},
      {kWrongShare, "that another copy writes"},
      {kNoSuchPeer, "of a block that the cluster has not"},
      {kArriveTwice, "cluster_arrive() twice without cluster_wait()"},
      {kWaitTwice, "cluster_wait() without cluster_arrive()"},
      {kNoWait, "thread ends between cluster_arrive() and cluster_wait()"},
  };
  for (const auto& [flaw, part] : flaws) in_all_orders(part, [&] { c.multiply(flaw); });
}

TEST(emu_cluster_limits) {
  Case c;
  const std::pair<Clusters, const char*> limits[] = {
      {{dim3(1, 6), 4}, "clusters of 4 in a grid of 6"},
      {{dim3(1, 16), 16}, "clusters of 16 in a grid of 16"},
      {{dim3(1, 4), 0}, "clusters of 0 in a grid of 4"},
  };
  for (const auto& [of, part] : limits)
    in_all_orders(part, [&] { EXPECT_EQ(c.multiply(kNone, of), cudaErrorInvalidClusterSize); });
}
