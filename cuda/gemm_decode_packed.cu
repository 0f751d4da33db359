// out = a w^T for generated rows and for the head, of weights in groups (kernels.h: PackedRows):
// they stay packed in memory and become BF16 in registers, those that widening the matrix while it
// is loaded would make. Sums are gemm_decode.cu's, in its order: the same bits as of the widened
// matrix, in any batch.
//
//   bytes  rows * k * bits / 8 and the scales, once for every 32 rows of a; a itself comes from L2
//   FLOPs  2 * M * rows * k, and some four instructions a weight to widen it
//   bound  memory bandwidth for few rows; the widening, where a GPU has much of it for its cores
//
// A block is four warps over the same 16 * kRowTiles weight rows, as in gemm_decode.cu, and stays
// where it is for few tokens. A stage of a warp's queue is 64 columns: of each row tile the scales
// of the 128 that they lie in and their codes, which lanes bring for each other (a barrier of the
// warp stands between), then the tokens, which each lane brings for itself.
#include "cuda/block.h"
#include "cuda/gemm_decode.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;
constexpr int kMostScales = 320, kMostCodes = 1024;  // bytes of a row tile in a stage

// --- a weight ---

GPU_DEVICE float half_at(const uint8_t* p) {
  const uint16_t h = *reinterpret_cast<const uint16_t*>(p);
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  return as_float(sign | rest << 13) * as_float(0x77800000u);  // 2^112
}

// Of a group of a block, row 0 to 15 of its panel: what its numbers are multiplied by and what is
// taken off then.
struct GroupScale {
  float by, least;
};
GPU_DEVICE GroupScale scale_of(const PackedRows& f, const uint8_t* scales, int group, int row) {
  GroupScale s = {0, 0};
  if (!f.has_steps) {
    s.by = half_at(scales + group * 32 + row * 2);
    if (f.has_least) s.least = half_at(scales + 128 + group * 32 + row * 2);
    return s;
  }
  const auto step = [&](const uint8_t* steps) {
    return float(*reinterpret_cast<const int8_t*>(steps + group * 16 + row));
  };
  const uint8_t* steps = scales + (f.has_least ? 64 : 32);
  s.by = half_at(scales + row * 2) * step(steps);
  if (f.has_least) s.least = half_at(scales + 32 + row * 2) * step(steps + 128 / f.group * 16);
  return s;
}
// Which of a block's groups have column `c`.
GPU_DEVICE int group_of(const PackedRows& f, int c) { return f.group == 32 ? c / 32 : c / 16; }

// The bits above the lowest four of a lane's eight codes of half `half` and row g + 8 * upper, from
// the first on; `width` of each.
GPU_DEVICE uint32_t high_bits(const uint8_t* codes, int width, int lane, int half, int upper) {
  const uint8_t* high = codes + 512 + lane * 4 * width;
  if (width == 1) return *reinterpret_cast<const uint32_t*>(high) >> (16 * half + 8 * upper);
  if (width == 2) return reinterpret_cast<const uint32_t*>(high)[half] >> (16 * upper);
  return reinterpret_cast<const uint32_t*>(high)[2 * half + upper];
}

// The number of a code: 2^23 and it, less 2^23 and what code 0 stands for below zero. Both exact.
GPU_DEVICE float number_of(uint32_t code, float offset) {
  return as_float(0x4b000000u | code) - offset;
}
GPU_DEVICE float offset_of(const PackedRows& f) { return 8388608.0f - f.first; }

// Eight weights of a lane, of one row: BF16, pair after pair.
struct Eight {
  uint32_t pair[4];
};
GPU_DEVICE Eight eight_weights(const PackedRows& f, uint32_t low, uint32_t high, GroupScale s) {
  Eight out;
  const float offset = offset_of(f);
  const int width = f.bits - 4;
  const uint32_t mask = (1u << width) - 1;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float w[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = 2 * j + e;
      const uint32_t code = low >> (4 * i) & 15u;
      float number;
      if (width > 0) {
        number = number_of(code | (high >> (width * i) & mask) << 4, offset);
      } else if (f.is_table) {
        number = f.table[code];
      } else {
        number = number_of(code, offset);
      }
      w[e] = number * s.by - s.least;
    }
    out.pair[j] = pack_bf16(w[0], w[1]);
  }
  return out;
}

// What a lane has of a row tile and 64 columns, the second ones of their block where `odd`: a0..a3
// of four steps of mma.
GPU_DEVICE void packed_weights(const PackedRows& f, const uint8_t* scales, const uint8_t* codes,
                               int odd, int lane, uint32_t (&a)[4][4]) {
  const int g = lane / 4, t = lane % 4;
  const uint4 v = load16(codes + lane * 16);
  const uint32_t low[2][2] = {{v.x, v.y}, {v.z, v.w}};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int group = group_of(f, 64 * odd + 32 * half + 8 * t);
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const GroupScale s = scale_of(f, scales, group, g + 8 * upper);
      const uint32_t high = f.bits > 4 ? high_bits(codes, f.bits - 4, lane, half, upper) : 0;
      const Eight w = eight_weights(f, low[half][upper], high, s);
      a[2 * half][upper] = w.pair[0];
      a[2 * half][2 + upper] = w.pair[1];
      a[2 * half + 1][upper] = w.pair[2];
      a[2 * half + 1][2 + upper] = w.pair[3];
    }
  }
}

// One weight: row `row` of a panel, column `c` of its block, not rounded.
GPU_DEVICE float packed_weight(const PackedRows& f, const uint8_t* block, int row, int c) {
  const int lane = row % 8 * 4 + c % 32 / 8, upper = row / 8, half = c % 64 / 32, i = c % 8;
  const uint8_t* codes = block + f.scale_bytes + c / 64 * 128 * f.bits;
  const uint32_t low =
      *reinterpret_cast<const uint32_t*>(codes + lane * 16 + (2 * half + upper) * 4);
  uint32_t code = low >> (4 * i) & 15u;
  const int width = f.bits - 4;
  if (width > 0) {
    const uint32_t high = high_bits(codes, width, lane, half, upper);
    code |= (high >> (width * i) & ((1u << width) - 1)) << 4;
  }
  const float number = f.is_table ? f.table[code] : number_of(code, offset_of(f));
  const GroupScale s = scale_of(f, block, group_of(f, c), row);
  return number * s.by - s.least;
}

// --- where they lie ---

// The rows that a row tile of the matrix belongs to.
GPU_DEVICE int rows_of_tile(const PackedForms& forms, int tile) {
  int i = 0;
  while (i + 1 < forms.count && tile >= forms.rows[i + 1].first_tile) ++i;
  return i;
}
GPU_DEVICE const uint8_t* panel_of(const PackedRows& f, int tile, int k) {
  return f.data + int64_t(tile - f.first_tile) * ((k + 127) / 128) * f.block_bytes;
}

// The forms in shared memory, where each block looks things up: a part of it for each thread.
// Before a barrier.
GPU_DEVICE void bring_forms(const PackedForms* from, PackedForms* to, int threads) {
  auto* out = reinterpret_cast<uint4*>(to);
  const auto* in = reinterpret_cast<const uint4*>(from);
  for (int i = int(threadIdx.x); i < int(sizeof(PackedForms) / 16); i += threads)
    store16(out + i, load16(in + i));
}

// --- the product ---

template <int kRowTiles_, int kTokenTiles_, bool kPaired_>
struct Shape {
  static constexpr bool kPaired = kPaired_;
  static constexpr int kRowTiles = kRowTiles_, kTokenTiles = kTokenTiles_;
  static constexpr int kLower = kPaired ? kRowTiles / 2 : kRowTiles;
  static constexpr bool kStays = kTokenTiles <= 2;
  static constexpr int kStages = kStays ? 6 : 3;
  static constexpr int kTokenBytes = kTokenTiles * 2 * 32 * 16;
  static constexpr int kSumBytes = kWarps * kRowTiles * kTokenTiles * 32 * 16;
  static constexpr int kFixed =
      int(sizeof(PackedForms)) + (kStays ? kSumBytes : 0) + kTokenTiles * 8 * 4;
  NEMOTRON_HD static constexpr int ring(int scale_slot, int code_slot) {
    const int bytes = kWarps * kStages * (kRowTiles * (scale_slot + code_slot) + kTokenBytes);
    return bytes < kSumBytes ? kSumBytes : bytes;
  }
  static constexpr int kMostBytes = ring(kMostScales, kMostCodes) + kFixed;
};

struct Slots {
  int scales, codes;  // bytes of a row tile in a stage
};

// A row tile at the place that is being asked for, or multiplied.
struct Panel {
  const uint8_t* data;
  int form;
};
template <int kRowTiles, bool kPaired>
GPU_DEVICE void place_panels(const PackedForms& forms, const DecodeGemm& p, const Output& out,
                             int place, Panel (&panels)[kRowTiles]) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    const int tile = tile_row<kPaired, kRowTiles>(out, place, i) / 16;
    const int real = tile < forms.tiles ? tile : forms.tiles - 1;
    panels[i].form = rows_of_tile(forms, real);
    panels[i].data = panel_of(forms.rows[panels[i].form], real, p.w.k);
  }
}

// sum += weights * activations of a stage: 64 columns, the second ones of their block where `odd`.
template <class S>
GPU_DEVICE void multiply_stage(const PackedForms& forms, const Panel (&panels)[S::kRowTiles],
                               const uint8_t* slot, Slots slots, int odd,
                               float (&sum)[S::kRowTiles * S::kTokenTiles][4]) {
  const int lane = int(threadIdx.x) % 32, tile_bytes = slots.scales + slots.codes;
  const uint8_t* of_tokens = slot + S::kRowTiles * tile_bytes + lane * 16;
  uint32_t a[S::kRowTiles][4][4];
#pragma unroll
  for (int r = 0; r < S::kRowTiles; ++r, slot += tile_bytes) {
    packed_weights(forms.rows[panels[r].form], slot, slot + slots.scales, odd, lane, a[r]);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int n = 0; n < S::kTokenTiles; ++n) {
      const uint4 b = load16(of_tokens + (n * 2 + h) * 512);
#pragma unroll
      for (int r = 0; r < S::kRowTiles; ++r)
        multiply_steps(sum[r * S::kTokenTiles + n], a[r][2 * h], a[r][2 * h + 1], b);
    }
  }
}

// A warp's sums, for the others to read, and those of all four in the order of the warps.
template <int kTiles>
GPU_DEVICE void keep_sums(uint4* to, const float (&sum)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const float* s = sum[i];
    store16(to + i * 32, uint4{as_uint(s[0]), as_uint(s[1]), as_uint(s[2]), as_uint(s[3])});
  }
}
template <int kTiles>
GPU_DEVICE void total_of(const uint4* shared, int i, int lane, float (&v)[4]) {
  v[0] = v[1] = v[2] = v[3] = 0;
  for (int w = 0; w < kWarps; ++w) {
    const uint4 s = load16(shared + (w * kTiles + i) * 32 + lane);
    v[0] += as_float(s.x);
    v[1] += as_float(s.y);
    v[2] += as_float(s.z);
    v[3] += as_float(s.w);
  }
}
template <class S>
GPU_DEVICE void write_results(const DecodeGemm& p, const Output& out, const Lane& at, int place,
                              const uint4* sums, const float* row_scale) {
  constexpr int kTiles = S::kRowTiles * S::kTokenTiles;
  for (int u = at.warp; u < S::kLower * S::kTokenTiles; u += kWarps) {
    const TilePlace to = {place * S::kLower + u / S::kTokenTiles, u % S::kTokenTiles};
    float v[2][4];
    total_of<kTiles>(sums, u, at.lane, v[0]);
    if constexpr (S::kPaired) {
      total_of<kTiles>(sums, u + S::kLower * S::kTokenTiles, at.lane, v[1]);
      write_pair(p, out, at, row_scale, to, v);
    } else {
      write_tile(p, out, at, row_scale, to, v[0]);
    }
  }
}

template <int kRowTiles, int kTokenTiles, bool kPaired>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_decode_packed_kernel(DecodeGemm p, Output out, int places, const PackedForms* packed,
                              Slots slots) {
  using S = Shape<kRowTiles, kTokenTiles, kPaired>;
  pdl_launch_dependents();
  const int tokens = p.count ? *p.count : p.grid_rows,
            first_token = int(blockIdx.x) * kTokenTiles * 8;
  if (first_token >= tokens) return pdl_wait();
  Shared smem;
  uint8_t* ring = smem.take<uint8_t>(size_t(S::ring(slots.scales, slots.codes)));
  auto* sums = S::kStays ? smem.take<uint4>(S::kSumBytes / 16) : reinterpret_cast<uint4*>(ring);
  PackedForms& forms = *smem.take<PackedForms>(1);
  float* row_scale = smem.take<float>(kTokenTiles * 8);
  bring_forms(packed, &forms, kThreads);
  block_sync();

  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const Lane at = {first_token, tokens, warp, lane, g, t};
  const int tile_bytes = slots.scales + slots.codes,
            stage_bytes = kRowTiles * tile_bytes + S::kTokenBytes;
  ring += warp * S::kStages * stage_bytes;
  const int all = p.w.k / kKBlock, mine = (all - warp + kWarps - 1) / kWarps;
  const int stages =
      S::kStays ? mine * ((places - int(blockIdx.y) + int(gridDim.y) - 1) / int(gridDim.y)) : mine;
  int next = 0, next_place = int(blockIdx.y), next_of_tokens = 0, stage = 0;
  Panel asked[kRowTiles];
  place_panels<kRowTiles, kPaired>(forms, p, out, next_place, asked);
  const uint16_t* activations = p.a + int64_t(first_token + g) * p.a_stride + 8 * t;

  const auto load_weights = [&](int stage) {
    uint8_t* slot = ring + stage % S::kStages * stage_bytes;
    const int block = warp + next * kWarps;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r, slot += tile_bytes) {
      const PackedRows& f = forms.rows[asked[r].form];
      const uint8_t* from = asked[r].data + int64_t(block / 2) * f.block_bytes;
      if (lane * 16 < f.scale_bytes) cp_async16(slot + lane * 16, from + lane * 16);
      from += f.scale_bytes + block % 2 * 128 * f.bits;
      uint8_t* to = slot + slots.scales;
      cp_async16(to + lane * 16, from + lane * 16);
      if (512 + lane * 16 < 128 * f.bits) cp_async16(to + 512 + lane * 16, from + 512 + lane * 16);
    }
    if (++next < mine) return;
    next = 0;
    next_place += int(gridDim.y);
    if (S::kStays && next_place < places)
      place_panels<kRowTiles, kPaired>(forms, p, out, next_place, asked);
  };
  const auto load_tokens = [&](int stage) {
    uint8_t* slot = ring + stage % S::kStages * stage_bytes + kRowTiles * tile_bytes + lane * 16;
    const int64_t block = int64_t(warp) + int64_t(next_of_tokens) * kWarps;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      const bool real = first_token + n * 8 + g < tokens;
      const uint16_t* from = real ? activations + n * 8 * p.a_stride + block * 64 : p.a;
      cp_async16(slot + n * 2 * 512, from, real);
      cp_async16(slot + (n * 2 + 1) * 512, from + (real ? 32 : 0), real);
    }
    if (++next_of_tokens == mine) next_of_tokens = 0;
  };

#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < stages) load_weights(i);
  }
  pdl_wait();
#pragma unroll
  for (int i = 0; i < S::kStages - 1; ++i) {
    if (i < stages) load_tokens(i);
    cp_async_commit();
  }

  for (int place = int(blockIdx.y); place < places; place += int(gridDim.y)) {
    Panel panels[kRowTiles];
    place_panels<kRowTiles, kPaired>(forms, p, out, place, panels);
    float sum[kRowTiles * kTokenTiles][4] = {};
    for (int i = 0; i < mine; ++i, ++stage) {
      cp_async_wait<S::kStages - 2>();
      // What lanes brought for each other is there, and what they have read may be written over.
      warp_sync();
      if (stage + S::kStages - 1 < stages) {
        load_weights(stage + S::kStages - 1);
        load_tokens(stage + S::kStages - 1);
      }
      cp_async_commit();
      const int odd = (warp + i * kWarps) % 2;
      multiply_stage<S>(forms, panels, ring + stage % S::kStages * stage_bytes, slots, odd, sum);
    }
    if (p.squares && place == int(blockIdx.y))
      scale_rows_of<kWarps, kTokenTiles * 8>(p, at, row_scale);
    block_sync();
    keep_sums(sums + warp * kRowTiles * kTokenTiles * 32 + lane, sum);
    block_sync();
    write_results<S>(p, out, at, place, sums, row_scale);
    if constexpr (!S::kStays) break;
  }
  cp_async_wait<0>();
}

// use(Shape) of the instance that takes so many rows of a.
template <bool kPaired, class Use>
void with_instance(int32_t grid_rows, const Use& use) {
  if (grid_rows <= 8) return use(Shape < kPaired ? 2 : 1, 1, kPaired > ());
  use(Shape<2, 4, kPaired>());
}
template <class S>
constexpr auto kernel_of(S) {
  return gemm_decode_packed_kernel<S::kRowTiles, S::kTokenTiles, S::kPaired>;
}

// --- beside products ---

// A warp widens a row tile's 64 columns.
__global__ void __launch_bounds__(kThreads)
    widen_packed_kernel(Matrix w, const PackedForms* packed, uint16_t* out) {
  pdl_launch_dependents();
  Shared smem;
  PackedForms& forms = *smem.take<PackedForms>(1);
  bring_forms(packed, &forms, kThreads);
  block_sync();
  pdl_wait();
  const int block = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32, tile = int(blockIdx.y);
  const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  if (block >= w.k / kKBlock) return;
  const PackedRows& f = forms.rows[rows_of_tile(forms, tile)];
  const uint8_t* from = panel_of(f, tile, w.k) + int64_t(block / 2) * f.block_bytes;
  uint32_t a[4][4];
  packed_weights(f, from, from + f.scale_bytes + block % 2 * 128 * f.bits, block % 2, lane, a);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int row = tile * 16 + g + 8 * upper;
      if (row >= w.rows) continue;
      const uint4 v = {a[2 * half][upper], a[2 * half][2 + upper], a[2 * half + 1][upper],
                       a[2 * half + 1][2 + upper]};
      store16(out + int64_t(row) * w.k + block * 64 + 32 * half + 8 * t, v);
    }
  }
}

// Reads a row's codes and scales, writes four bytes a column.
__global__ void __launch_bounds__(kThreads)
    embed_packed_kernel(Embed p, const PackedForms* packed) {
  const StepHeader* step = p.step;
  const Matrix& table = p.table;
  pdl_launch_dependents();
  Shared smem;
  PackedForms& forms = *smem.take<PackedForms>(1);
  bring_forms(packed, &forms, kThreads);
  block_sync();
  pdl_wait();
  const int row = int(blockIdx.x);
  if (row >= step->rows) return;
  const RowInfo info = step_array<RowInfo>(step, step->row_info)[row];
  const int id = info.slot >= 0 ? p.slots[info.slot] : info.id;
  float* out = p.x + int64_t(row) * table.cols;
  const int in_table = id - table.first_row;
  const bool known = id >= 0 && id < p.vocab;
  if (!known || in_table < 0 || in_table >= table.rows) {
    if (!known && threadIdx.x == 0) atomic_add(p.fault, 1u);
    for (int i = int(threadIdx.x); i < table.cols; i += kThreads) out[i] = 0;
    return;
  }
  const PackedRows& f = forms.rows[rows_of_tile(forms, in_table / 16)];
  const uint8_t* panel = panel_of(f, in_table / 16, table.k);
  for (int i = int(threadIdx.x); i < table.cols; i += kThreads)
    out[i] = packed_weight(f, panel + int64_t(i / 128) * f.block_bytes, in_table % 16, i % 128);
}

}  // namespace

void gemm_decode_packed(Queue& queue, const DecodeGemm& p, const Output& out, int32_t tiles,
                        bool paired) {
  const Packed& packed = *p.w.packed;
  const Slots slots = {packed.scale_slot, packed.code_slot};
  const auto go = [&](auto s) {
    const int32_t places = (tiles + s.kLower - 1) / s.kLower;
    const int32_t most = s.kStays ? 2 * queue.multiprocessors : places;
    const dim3 grid(unsigned((p.grid_rows + s.kTokenTiles * 8 - 1) / (s.kTokenTiles * 8)),
                    unsigned(places < most ? places : most));
    launch(queue, "gemm_decode_packed", kernel_of(s), grid, kThreads,
           size_t(s.ring(slots.scales, slots.codes) + s.kFixed), p, out, places, packed.device,
           slots);
  };
  if (paired) return with_instance<true>(p.grid_rows, go);
  with_instance<false>(p.grid_rows, go);
}

void widen_packed(Queue& queue, const Matrix& w, uint16_t* out) {
  const int blocks = (w.k / kKBlock + kWarps - 1) / kWarps;
  // Row tiles go along y, of which a grid has 65535: more than any matrix that is multiplied.
  launch(queue, "widen_packed", widen_packed_kernel,
         dim3(unsigned(blocks), unsigned((w.rows + 15) / 16)), kThreads, sizeof(PackedForms), w,
         w.packed->device, out);
}

void embed_packed(Queue& queue, const Embed& p, int grid_rows) {
  launch(queue, "embed_packed", embed_packed_kernel, unsigned(grid_rows), kThreads,
         sizeof(PackedForms), p, p.table.packed->device);
}

void load_gemm_decode_packed(Queue& queue) {
  const auto load = [&](auto s) {
    load_kernel(queue, "gemm_decode_packed", kernel_of(s), size_t(s.kMostBytes));
  };
  for (const int32_t rows : {8, 32}) {
    with_instance<true>(rows, load);
    with_instance<false>(rows, load);
  }
  load_kernel(queue, "widen_packed", widen_packed_kernel, sizeof(PackedForms));
  load_kernel(queue, "embed_packed", embed_packed_kernel, sizeof(PackedForms));
}

}  // namespace nemotron::cuda
