// out = a w^T for many generated rows (M above 16): blocks of 64 or 128 weight rows by up to 128
// tokens, so that neither is read from L2 more often than it must be.
//
//   bytes  rows * k * (2 or 1) of weights, once from memory and once from L2 for every 128 rows of
//          a; a from L2 once for every 64 or 128 weight rows
//   FLOPs  2 * M * rows * k
//   bound  memory, then L2, then mma.sync, as M grows (docs/kernels.md)
//
// A row's bits are those of gemm_decode.cu: the 64-column blocks w, w+4, ... are one sum, and the
// four sums are added in order. There four warps take one each. Here a warp has all of K for its 32
// rows: it keeps four sums side by side and goes through K once; or, where registers do not do for
// that, makes one after the other and goes through K in four strides.
//
// Eight warps share a stage of 64 columns, weights and activations, which all 256 threads bring in.
// Rows lie in shared memory as in global memory, their sixteen-byte chunks turned by the row's
// number, so that lanes that read or write at a time meet in no bank.
#include "cuda/block.h"
#include "cuda/gemm_decode.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kSums = 4;  // of a row, one for every fourth column block

// A warp takes two row tiles (of pairs, a lower and its upper one) and kTokenTiles token tiles;
// kRowWarps warps lie below each other, the others beside them.
template <bool kFp8_, int kRowWarps_, int kTokenTiles_, bool kPaired_>
struct Shape {
  static constexpr bool kFp8 = kFp8_, kPaired = kPaired_;
  static constexpr int kRowWarps = kRowWarps_, kTokenTiles = kTokenTiles_;
  static constexpr int kLower = kRowWarps * (kPaired ? 1 : 2);  // lower tiles of a block
  static constexpr int kRows = kRowWarps * 32, kTokens = kWarps / kRowWarps * kTokenTiles * 8;
  static constexpr bool kSideBySide = kTokenTiles <= 4;
  static constexpr int kRowChunks = kFp8 ? 4 : 8;  // sixteen bytes of a row and 64 columns
  static constexpr int kWeightLoads = kRows * kRowChunks / kThreads;
  static constexpr int kTokenLoads = kTokens * 8 / kThreads;
  static constexpr int kStageChunks = kRows * kRowChunks + kTokens * 8;
  // Fits a block of every architecture from sm_80 on.
  static constexpr int kFit = (96 << 10) / (kStageChunks * 16);
  static constexpr int kStages = kFit > 8 ? 8 : kFit;
  static constexpr int kBytes = kStages * kStageChunks * 16 + kTokens * 4;
  static_assert(kStages >= 3 && kWeightLoads >= 1 && kTokenLoads >= 1);
};

// Where chunk c of row r lies in a stage.
template <bool kFp8>
NEMOTRON_HD constexpr int weight_place(int r, int c) {
  return kFp8 ? r * 4 + c : r * 8 + (c ^ (r % 2 * 4));
}
template <bool kFp8>
NEMOTRON_HD constexpr int token_place(int r, int c) {
  return r * 8 + (c ^ (kFp8 ? r % 2 : r % 2 * 4));
}
// Which chunk of a token is lane t's for steps 2 h and 2 h + 1.
template <bool kFp8>
NEMOTRON_HD constexpr int token_chunk(int h, int t) {
  return kFp8 ? 2 * t + h : 4 * h + t;
}
// Shared memory serves eight lanes at a time, sixteen bytes each: their places have to differ
// modulo eight.
template <bool kFp8>
constexpr bool no_two_in_a_bank() {
  for (int h = 0; h < 2; ++h) {
    for (int first = 0; first < 32; first += 8) {
      uint32_t of_weights = 0, of_tokens = 0;
      for (int lane = first; lane < first + 8; ++lane) {
        const int g = lane / 4, t = lane % 4;
        of_weights |= 1u << weight_place<kFp8>(g, kFp8 ? t : 4 * h + t) % 8;
        of_tokens |= 1u << token_place<kFp8>(g, token_chunk<kFp8>(h, t)) % 8;
      }
      if (of_weights != 0xffu || of_tokens != 0xffu) return false;
    }
  }
  return true;
}
static_assert(no_two_in_a_bank<false>() && no_two_in_a_bank<true>());

// Weights of row tile `tile` of the stage: a0..a3 of four steps of mma.
template <bool kFp8>
GPU_DEVICE void read_weights(const uint4* stage, int tile, const Lane& at, uint32_t (&a)[4][4]) {
  const int low = tile * 16 + at.g, high = low + 8;
  if constexpr (kFp8) {
    fp8_weights(load16(stage + weight_place<true>(low, at.t)),
                load16(stage + weight_place<true>(high, at.t)), a);
  } else {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      bf16_weights(load16(stage + weight_place<false>(low, 4 * h + at.t)),
                   load16(stage + weight_place<false>(high, 4 * h + at.t)), a[2 * h], a[2 * h + 1]);
    }
  }
}

// sum += weights * activations of a stage: 64 columns. first_tile, first_token: the warp's.
template <class S>
GPU_DEVICE void multiply_stage(const uint4* stage, int first_tile, int first_token, const Lane& at,
                               float (&sum)[2][S::kTokenTiles][4]) {
  uint32_t a[2][4][4];
#pragma unroll
  for (int r = 0; r < 2; ++r) read_weights<S::kFp8>(stage, first_tile + r, at, a[r]);
  const uint4* tokens = stage + S::kRows * S::kRowChunks;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int n = 0; n < S::kTokenTiles; ++n) {
      const int token = first_token + n * 8 + at.g;
      const uint4 b = load16(tokens + token_place<S::kFp8>(token, token_chunk<S::kFp8>(h, at.t)));
#pragma unroll
      for (int r = 0; r < 2; ++r) multiply_steps(sum[r][n], a[r][2 * h], a[r][2 * h + 1], b);
    }
  }
}

// Where a thread's chunks of the weights begin, in units of sixteen bytes.
template <class S>
GPU_DEVICE void place_weights(const DecodeGemm& p, const Output& out,
                              uint32_t (&weights)[S::kWeightLoads]) {
#pragma unroll
  for (int i = 0; i < S::kWeightLoads; ++i) {
    const int chunk = int(threadIdx.x) + i * kThreads, r = chunk / S::kRowChunks;
    const int place = int(blockIdx.y) * S::kRowWarps + r / 32, upper = r / 16 % 2;
    const int row = r % 16 + (S::kPaired ? row_of_tile<true>(out, place) + upper * out.pair_offset
                                         : row_of_tile<false>(out, place * 2 + upper));
    const int real = row < p.w.rows ? row : p.w.rows - 1;
    weights[i] = uint32_t(int64_t(real) * p.w.stride / 16 + chunk % S::kRowChunks);
  }
}

// The results of a warp, whose sums these are.
template <class S>
GPU_DEVICE void write_results(const DecodeGemm& p, const Output& out, const Lane& at,
                              const float* row_scale, const float (&total)[2][S::kTokenTiles][4]) {
  const int place = int(blockIdx.y) * S::kRowWarps + at.warp % S::kRowWarps,
            first = at.warp / S::kRowWarps * S::kTokenTiles;
#pragma unroll
  for (int n = 0; n < S::kTokenTiles; ++n) {
    if constexpr (S::kPaired) {
      float v[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i / 4][i % 4] = total[i / 4][n][i % 4];
      write_pair(p, out, at, row_scale, {place, first + n}, v);
    } else {
#pragma unroll
      for (int r = 0; r < 2; ++r)
        write_tile(p, out, at, row_scale, {place * 2 + r, first + n}, total[r][n]);
    }
  }
}

template <bool kFp8, int kRowWarps, int kTokenTiles, bool kPaired>
__global__ void __launch_bounds__(kThreads, 1) gemm_decode_wide_kernel(DecodeGemm p, Output out) {
  using S = Shape<kFp8, kRowWarps, kTokenTiles, kPaired>;
  pdl_launch_dependents();
  const int tokens = p.count ? *p.count : p.grid_rows, first_token = int(blockIdx.x) * S::kTokens;
  if (first_token >= tokens) {
    pdl_wait();
    return;
  }
  Shared smem;
  uint4* ring = smem.take<uint4>(S::kStages * S::kStageChunks);
  float* row_scale = smem.take<float>(S::kTokens);
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const Lane at = {first_token, tokens, warp, lane, lane / 4, lane % 4};
  const int row_warp = warp % kRowWarps, token_warp = warp / kRowWarps;

  uint32_t weights[S::kWeightLoads];
  place_weights<S>(p, out, weights);
  const int all = p.w.k / kKBlock;
  // The column block after this one, in the order in which they are added up.
  const auto after = [&](int block) {
    if (S::kSideBySide) return block + 1;
    return block + kSums < all ? block + kSums : block % kSums + 1;
  };
  const auto load_weights = [&](int stage, int block) {
    uint4* to = ring + stage % S::kStages * S::kStageChunks;
#pragma unroll
    for (int i = 0; i < S::kWeightLoads; ++i) {
      const int chunk = thread + i * kThreads;
      cp_async16(to + weight_place<kFp8>(chunk / S::kRowChunks, chunk % S::kRowChunks),
                 p.w.data + int64_t(weights[i] + uint32_t(block * S::kRowChunks)) * 16);
    }
  };
  const auto load_tokens = [&](int stage, int block) {
    uint4* to = ring + stage % S::kStages * S::kStageChunks + S::kRows * S::kRowChunks;
#pragma unroll
    for (int i = 0; i < S::kTokenLoads; ++i) {
      const int chunk = thread + i * kThreads, r = chunk / 8, c = chunk % 8;
      const bool real = first_token + r < tokens;
      const uint16_t* from =
          real ? p.a + int64_t(first_token + r) * p.a_stride + block * kKBlock + c * 8 : p.a;
      cp_async16(to + token_place<kFp8>(r, c), from, real);
    }
  };
  int next = 0, next_of_tokens = 0;  // column blocks
#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < all) load_weights(i, next), next = after(next);
  }
  pdl_wait();
#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < all) load_tokens(i, next_of_tokens), next_of_tokens = after(next_of_tokens);
    cp_async_commit();
  }

  int stage = 0;
  const auto step = [&](float(&sum)[2][kTokenTiles][4]) {
    cp_async_wait<S::kStages - 2>();
    block_sync();  // everybody's copies are there; everybody has read the stage before
    if (stage + S::kStages - 1 < all) {
      load_weights(stage + S::kStages - 1, next);
      load_tokens(stage + S::kStages - 1, next);
      next = after(next);
    }
    cp_async_commit();
    multiply_stage<S>(ring + stage % S::kStages * S::kStageChunks, row_warp * 2,
                      token_warp * kTokenTiles * 8, at, sum);
    ++stage;
  };
  float total[2][kTokenTiles][4] = {};
  const auto add = [&](const float(&sum)[2][kTokenTiles][4]) {
#pragma unroll
    for (int i = 0; i < 2 * kTokenTiles * 4; ++i) {
      const int r = i / 4 / kTokenTiles, n = i / 4 % kTokenTiles;
      total[r][n][i % 4] += sum[r][n][i % 4];
    }
  };
  if constexpr (S::kSideBySide) {
    float sum[kSums][2][kTokenTiles][4] = {};
    for (int block = 0; block < all; block += kSums) {
#pragma unroll
      for (int w = 0; w < kSums; ++w) {
        if (block + w < all) step(sum[w]);
      }
    }
#pragma unroll
    for (int w = 0; w < kSums; ++w) add(sum[w]);
  } else {
    for (int w = 0; w < kSums; ++w) {
      float sum[2][kTokenTiles][4] = {};
      for (int block = w; block < all; block += kSums) step(sum);
      add(sum);
    }
  }
  cp_async_wait<0>();
  if (p.squares) scale_rows_of<kWarps, S::kTokens>(p, at, row_scale);
  block_sync();
  write_results<S>(p, out, at, row_scale, total);
}

// use(Shape) of the instance that takes the product; false: none does, since so large blocks would
// leave multiprocessors without one.
template <bool kFp8, bool kPaired, class Use>
bool with_instance(const Queue& queue, int32_t grid_rows, int32_t tiles, const Use& use) {
  const auto suits = [&](auto s) {
    const int32_t blocks =
        (tiles + s.kLower - 1) / s.kLower * ((grid_rows + s.kTokens - 1) / s.kTokens);
    if (blocks * 4 < queue.multiprocessors * 3) return false;
    use(s);
    return true;
  };
  if (grid_rows <= 16) return false;
  if (grid_rows <= 32) return suits(Shape<kFp8, 4, 2, kPaired>());
  if (grid_rows <= 64) return suits(Shape<kFp8, 4, 4, kPaired>());
  return suits(Shape<kFp8, 4, 8, kPaired>()) || suits(Shape<kFp8, 2, 4, kPaired>());
}

template <class Use>
bool with_instance(const Queue& queue, const DecodeGemm& p, int32_t tiles, bool paired,
                   const Use& use) {
  return with_form(p.w.fp8, paired, [&](auto fp8, auto pairs) {
    return with_instance<fp8.value, pairs.value>(queue, p.grid_rows, tiles, use);
  });
}

template <class S>
constexpr auto kernel_of(S) {
  return gemm_decode_wide_kernel<S::kFp8, S::kRowWarps, S::kTokenTiles, S::kPaired>;
}

template <class S>
dim3 grid_of(S, int32_t grid_rows, int32_t tiles) {
  return dim3(unsigned((grid_rows + S::kTokens - 1) / S::kTokens),
              unsigned((tiles + S::kLower - 1) / S::kLower));
}

}  // namespace

bool gemm_decode_wide(Queue& queue, const DecodeGemm& p, const Output& out, int32_t tiles,
                      bool paired) {
  return with_instance(queue, p, tiles, paired, [&](auto s) {
    launch(queue, "gemm_decode_wide", kernel_of(s), grid_of(s, p.grid_rows, tiles), kThreads,
           s.kBytes, p, out);
  });
}

bool gemm_decode_wide_launch(const Queue& queue, const DecodeGemm& p, int32_t tiles, bool paired,
                             DecodeLaunch* l) {
  return with_instance(queue, p, tiles, paired, [&](auto s) {
    const dim3 grid = grid_of(s, p.grid_rows, tiles);
    l->kernel = "gemm_decode_wide_kernelILb" + std::to_string(s.kFp8) + "ELi" +
                std::to_string(s.kRowWarps) + "ELi" + std::to_string(s.kTokenTiles) + "ELb" +
                std::to_string(s.kPaired) + "EE";
    l->rows = s.kRows;
    l->tokens = s.kTokens;
    l->warps = kWarps;
    l->stage_columns = kKBlock;
    l->stages = s.kStages;
    l->shared = s.kBytes;
    l->tiles = l->blocks = int32_t(grid.x * grid.y);
  });
}

void load_gemm_decode_wide(Queue& queue) {
  const auto load = [&](auto s) { load_kernel(queue, "gemm_decode_wide", kernel_of(s), s.kBytes); };
  each_form([&](auto fp8, auto paired) {
    load(Shape<fp8.value, 4, 2, paired.value>());
    load(Shape<fp8.value, 4, 4, paired.value>());
    load(Shape<fp8.value, 4, 8, paired.value>());
    load(Shape<fp8.value, 2, 4, paired.value>());
  });
}

}  // namespace nemotron::cuda
