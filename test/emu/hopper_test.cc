// Barriers in shared memory, the copy engine and wgmma of the emulator: what they compute, and that
// every way of using them wrongly is reported, in every order.
#include "cuda/hopper.h"

#include "emu_test.h"

using namespace emu_test;

namespace {

constexpr int kRows = 128, kCols = 64, kTileBytes = kRows * kCols * 2;

enum Flaw : int {
  kNone,
  kNoFullWait,
  kWrongParity,
  kNoEmptyWait,
  kEarlyRelease,
  kNoFence,
  kNoProductWait,
  kEarlyUse,
  kWrongStride,
  kWrongSwizzle,
  kNoProxyFence,
  kNoWarpSync,
  kInitNotDone,
  kChangedA,
  kChangedBefore,
  kUnnamedA,
  kUnnamedSum,
  kUnnamedEnd,
  kBarrierInTile,
  kBarrierRead,
  kBarrierWritten,
  kBarrierTwice,
};

// A warpgroup gives registers to two others; `flaw` is what it gets wrong.
enum class Deal { right, too_many, takes_less, uneven, odd };
__global__ void deal(Deal how) {
  if (threadIdx.x / kWarpgroup == 2) {
    if (how == Deal::uneven && threadIdx.x % kWarpgroup >= 96) {
      registers_give<48>();
    } else {
      registers_give<40>();
    }
    return;
  }
  switch (how) {
    case Deal::too_many: return registers_take<240>();
    case Deal::takes_less: return registers_take<160>();
    case Deal::odd: return registers_take<228>();
    default: return registers_take<232>();
  }
}

// Warpgroups take turns by two named barriers, five each, and write down when. Four: two and two.
enum class Turn {
  right,
  no_first,
  no_last,
  one_more,
  twice,
  own_id,
  fewer,
  differing,
  half_warps,
  block_id,
  two_pairs,
  same_id,
  handed_on
};
constexpr int kTurns = 5;
__global__ void take_turns(uint32_t* clock, uint32_t* when, Turn how) {
  const int group = int(threadIdx.x) / kWarpgroup, own = group % 2;
  const int base = how == Turn::block_id ? 0 : how == Turn::same_id ? 1 : 1 + group / 2 * 2;
  const int threads = how == Turn::fewer ? 128 : how == Turn::half_warps ? 240 : 256;
  const auto give = [&](int n) {
    for (int i = 0; i < n; ++i) named_barrier_arrive(base + 1 - own, threads);
  };
  if (own == 1 && how != Turn::no_first) give(1);
  for (int i = 0; i < kTurns; ++i) {
    named_barrier_wait(how == Turn::own_id ? base + 1 - own : base + own,
                       how == Turn::differing && own == 1 ? 384 : threads);
    if (threadIdx.x % kWarpgroup == 0) when[group * kTurns + i] = atomic_add(clock, 1u);
    const bool last = own == 1 ? i == kTurns - 1 : i == kTurns - 1 && how == Turn::no_last;
    give(how == Turn::twice && i == 1 ? 2 : last && how != Turn::one_more ? 0 : 1);
  }
  if (how != Turn::handed_on) return;
  if (group < 2) named_barrier_wait(5, threads);
  block_sync();
  if (group >= 2) named_barrier_wait(5, threads);
}

// One warpgroup multiplies, a fifth warp brings tiles of b [tiles * 128, 64]: scores [tile] [64,
// 128] = a b^T, sums [64, 64] += a b[its first 64 rows]. The last row of the last tile is zeroed.
__global__ void products(float* scores, float* sums, const uint16_t* a,
                         const __grid_constant__ CUtensorMap map, int tiles, int flaw) {
  Shared smem;
  uint8_t* data = smem.take<uint8_t>((flaw == kBarrierInTile ? 1 : 2) * kTileBytes);
  uint64_t* full = smem.take<uint64_t>(5);
  uint64_t *empty = full + 2, *landed = full + 4;
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, 4);
    }
    mbarrier_init(flaw == kBarrierTwice ? empty : landed, 1);
    if (flaw != kInitNotDone) mbarrier_init_done();
  }
  block_sync();
  if (warp == 4) {
    if (flaw == kBarrierWritten && lane == 0) store16(full, uint4{0, 0, 0, 0});
    for (int i = 0; i < tiles; ++i) {
      if (i >= 2 && flaw != kNoEmptyWait) mbarrier_wait(empty + i % 2, (i / 2 - 1) & 1);
      warp_sync();  // or lane 0 runs ahead by so much that the others see the phase after
      const bool last = i == tiles - 1;
      uint64_t* counted = last ? landed : full + i % 2;
      uint8_t* tile = data + i % 2 * kTileBytes;
      if (lane == 0) {
        mbarrier_arrive_expect(counted, kTileBytes);
        copy_box(tile, map, 0, i * kRows, counted);
      }
      if (!last) continue;
      mbarrier_wait(landed, 0);
      if (lane >= 16 && lane < 24)
        store16(tile + (kRows - 1) * 128 + lane % 8 * 16, uint4{0, 0, 0, 0});
      if (flaw != kNoProxyFence) fence_proxy_async();
      if (flaw != kNoWarpSync) warp_sync();
      if (lane == 0) mbarrier_arrive(full + i % 2);
    }
    return;
  }
  const int g = lane / 4, t = lane % 4;
  uint32_t q[4][4];
  for (int k = 0; k < 4; ++k) {
    for (int j = 0; j < 4; ++j) {
      const uint16_t* at = a + (warp * 16 + g + j % 2 * 8) * kCols + k * 16 + j / 2 * 8 + 2 * t;
      q[k][j] = uint32_t(at[0]) | uint32_t(at[1]) << 16;
    }
  }
  float s[64], o[32] = {};
  for (int i = 0; i < tiles; ++i) {
    if (flaw != kNoFullWait)
      mbarrier_wait(full + i % 2, uint32_t((i / 2 + (flaw == kWrongParity)) & 1));
    const uint32_t tile = shared_address(data + i % 2 * kTileBytes);
    uint64_t b = wgmma_descriptor(tile, 16, flaw == kWrongStride ? 2048 : 1024);
    if (flaw == kWrongSwizzle) b ^= uint64_t(3) << 62;
    if (flaw == kBarrierRead) b = wgmma_descriptor(shared_address(full), 16, 1024);
    if (flaw == kUnnamedA) {
      wgmma_fence(s, o);
    } else if (flaw == kUnnamedSum) {
      wgmma_fence(q);
    } else if (flaw != kNoFence) {
      wgmma_fence(s, o, q);
    }
    if (flaw == kChangedBefore) q[3][0] ^= 1;
    for (int k = 0; k < 4; ++k) wgmma_bf16<true>(s, q[k], wgmma_advance(b, k * 32), k > 0);
    wgmma_commit();
    const uint64_t rows = wgmma_descriptor(tile, 0, 1024);
    for (int k = 0; k < 4; ++k) wgmma_bf16<false>(o, q[k], wgmma_advance(rows, k * 2048), true);
    wgmma_commit();
    if (flaw == kChangedA) q[3][0] ^= 1;
    if (flaw == kEarlyRelease && lane == 0) mbarrier_arrive(empty + i % 2);
    if (flaw != kNoProductWait) {
      if (flaw == kEarlyUse) {
        wgmma_wait<2>(s);
      } else {
        wgmma_wait<1>(s);
      }
    }
    for (int e = 0; e < 64; ++e) {
      scores[(i * 64 + warp * 16 + g + e / 2 % 2 * 8) * kRows + e / 4 * 8 + 2 * t + e % 2] = s[e];
    }
    if (flaw == kUnnamedEnd) {
      wgmma_wait<0>();
    } else if (flaw != kNoProductWait) {
      wgmma_wait<0>(o);
    }
    if (flaw != kEarlyRelease && lane == 0) mbarrier_arrive(empty + i % 2);
  }
  for (int e = 0; e < 32; ++e)
    sums[(warp * 16 + g + e / 2 % 2 * 8) * kCols + e / 4 * 8 + 2 * t + e % 2] = o[e];
}

struct Case {
  static constexpr int kTiles = 5;
  Case() {
    for (int i = 0; i < 64 * kCols; ++i) half(a)[i] = to_bf16(float(i * 7 % 13) - 6);
    for (int i = 0; i < kTiles * kRows * kCols; ++i) half(b)[i] = to_bf16(float(i * 5 % 17) - 8);
    const cuuint64_t dims[] = {kCols, kTiles * kRows}, stride[] = {kCols * 2};
    const cuuint32_t box[] = {kCols, kRows}, every[] = {1, 1};
    EXPECT_EQ(
        cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, b.data, dims, stride, box,
                               every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                               CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        CUDA_SUCCESS);
  }
  static uint16_t* half(Buffer& x) { return reinterpret_cast<uint16_t*>(x.data); }
  static float* real(Buffer& x) { return reinterpret_cast<float*>(x.data); }
  void multiply(int flaw) {
    run(1, 160, 3 * kTileBytes, false, products, real(scores), real(sums),
        static_cast<const uint16_t*>(half(a)), map, kTiles, flaw);
  }
  Buffer a{64 * kCols / 2}, b{kTiles * kRows * kCols / 2};
  Buffer scores{kTiles * 64 * kRows}, sums{64 * kCols};
  CUtensorMap map;
};

}  // namespace

TEST(emu_wgmma_computes) {
  Case c;
  in_all_orders("", [&] {
    c.multiply(kNone);
    int wrong = 0;
    for (int row = 0; row < 64; ++row) {
      const uint16_t* a = c.half(c.a) + row * kCols;
      for (int key = 0; key < Case::kTiles * kRows; ++key) {
        float want = 0;
        for (int k = 0; k < kCols && key < Case::kTiles * kRows - 1; ++k)
          want += from_bf16(a[k]) * from_bf16(c.half(c.b)[key * kCols + k]);
        wrong += c.real(c.scores)[(key / kRows * 64 + row) * kRows + key % kRows] != want;
      }
      for (int col = 0; col < kCols; ++col) {
        float want = 0;
        for (int i = 0; i < Case::kTiles; ++i) {
          for (int k = 0; k < 64; ++k)
            want += from_bf16(a[k]) * from_bf16(c.half(c.b)[(i * kRows + k) * kCols + col]);
        }
        wrong += c.real(c.sums)[row * kCols + col] != want;
      }
    }
    EXPECT_EQ(wrong, 0);
  });
}

TEST(emu_wgmma_flaws) {
  Case c;
  const std::pair<int, const char*> flaws[] = {
      {kNoFullWait, "wgmma reads shared memory"},
      {kWrongParity, "wgmma reads shared memory"},
      {kNoEmptyWait, "copy to shared memory that"},
      {kEarlyRelease, "copy to shared memory that a wgmma may still read"},
      {kNoFence, "wgmma without a wgmma_fence before it"},
      {kNoProductWait, "thread ends with a wgmma in flight"},
      {kEarlyUse, "registers are used while a wgmma on them is in flight"},
      {kWrongStride, "wgmma reads shared memory"},
      {kWrongSwizzle, "wgmma descriptor without the 128-byte swizzle"},
      {kNoProxyFence, "that threads wrote without fence_proxy_async()"},
      {kNoWarpSync, "shared memory that"},
      {kInitNotDone, "before a block_sync after mbarrier_init_done"},
      {kChangedA, "the registers of A changed while a wgmma was reading them"},
      {kChangedBefore, "registers of A changed after their wgmma_fence"},
      {kUnnamedA, "registers of A that no wgmma_fence has named"},
      {kUnnamedSum, "registers of a sum that no wgmma_fence has named"},
      {kUnnamedEnd, "wgmma_wait does not name the sum of a wgmma that it ends"},
      {kBarrierInTile, "copy to shared memory where a barrier lies"},
      {kBarrierRead, "wgmma reads shared memory where a barrier lies"},
      {kBarrierWritten, "write to shared memory where a barrier lies"},
      {kBarrierTwice, "mbarrier_init where a barrier lies"},
  };
  for (const auto& [flaw, part] : flaws) in_all_orders(part, [&] { c.multiply(flaw); });
}

TEST(emu_registers) {
  const std::pair<Deal, const char*> deals[] = {
      {Deal::right, ""},
      {Deal::too_many, "waits forever for registers: 66560 are taken of the block's 64512"},
      {Deal::takes_less, "takes registers to have 160, has 168"},
      {Deal::uneven, "threads of a warpgroup give or take different numbers of registers"},
      {Deal::odd, "228 registers: multiples of 8"}};
  for (const auto& [how, part] : deals)
    in_all_orders(part, [&] { run(1, 3 * kWarpgroup, 0, false, deal, how); });
}

TEST(emu_named_barriers) {
  const std::pair<Turn, const char*> turns[] = {
      {Turn::right, ""},
      {Turn::no_first, "deadlock: waits forever at a named barrier"},
      {Turn::no_last, "deadlock: waits forever at a named barrier"},
      {Turn::one_more, "arrivals at named barrier 1 that nobody has waited for"},
      {Turn::twice, "named barrier 2: a thread comes again before it is complete"},
      {Turn::own_id, "a thread comes again before it is complete"},
      {Turn::fewer, "named barrier 1"},
      {Turn::differing, "others say that it is of"},
      {Turn::half_warps, "of 240 threads: not whole warps of the block"},
      {Turn::block_id, "named barrier 0 is none of 1 to 15"},
      {Turn::same_id, "named barrier 1"},
      {Turn::handed_on, "named barrier 5 has been other threads'"}};
  for (const auto& [how, part] : turns) {
    in_all_orders(part, [&] {
      Buffer clock(1), when(4 * kTurns);
      const bool four = how == Turn::same_id || how == Turn::differing || how == Turn::handed_on;
      run(1, (four ? 4 : 2) * kWarpgroup, 0, false, take_turns, clock.data, when.data, how);
      for (uint32_t i = 0; i < 2 * kTurns && how == Turn::right; ++i)
        EXPECT_EQ(when.data[i], i % kTurns * 2 + i / kTurns);
    });
  }
  in_all_orders("", [] {
    Buffer clock(1), when(4 * kTurns);
    run(1, 4 * kWarpgroup, 0, false, take_turns, clock.data, when.data, Turn::two_pairs);
  });
}

TEST(emu_tensor_map_limits) {
  Case c;
  const auto encode = [&](cuuint64_t stride, cuuint32_t rows) {
    const cuuint64_t dims[] = {kCols, 128}, strides[] = {stride};
    const cuuint32_t box[] = {kCols, rows}, every[] = {1, 1};
    return cuTensorMapEncodeTiled(&c.map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, c.b.data, dims,
                                  strides, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  EXPECT_EQ(encode(128, 256), CUDA_SUCCESS);
  EXPECT_EQ(encode(136, 256), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(encode(128, 257), CUDA_ERROR_INVALID_VALUE);
}
