// The kernels around the matrix products: packing, embedding, norm, rope, silu, copies. All are
// bound by memory: the bytes are in each comment, FLOPs are noise beside them.
#include "cuda/block.h"
#include "cuda/epilogue.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kThreads = 256;

// --- packing ---

GPU_DEVICE float f16_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // The bits of a half put in place are a float with an exponent 112 too small, subnormals
  // included.
  return as_float(sign | rest << 13) * as_float(0x77800000u);  // 2^112
}

GPU_DEVICE float source_value(const uint8_t* row, DType dtype, int i) {
  switch (dtype) {
    case DType::f32: return reinterpret_cast<const float*>(row)[i];
    case DType::f16: return f16_to_float(reinterpret_cast<const uint16_t*>(row)[i]);
    case DType::bf16: return from_bf16(reinterpret_cast<const uint16_t*>(row)[i]);
    default: return from_e4m3(row[i]);
  }
}

// Load time. Reads the stored bytes once (twice when quantising), writes the packed bytes.
__global__ void __launch_bounds__(kThreads) pack_rows_kernel(PackRows p) {
  pdl_wait();
  Shared smem;
  float* scratch = smem.take<float>(32);
  const int row = int(blockIdx.x);
  const int bytes = p.dtype == DType::f32 ? 4 : p.dtype == DType::fp8_e4m3 ? 1 : 2;
  const uint8_t* in = p.source + int64_t(row) * p.cols * bytes;
  uint8_t* out = p.out + int64_t(row) * p.out_stride;
  float divisor = 1.0f, scale = 1.0f;
  if (p.quantise) {
    float most = 0;
    for (int i = int(threadIdx.x); i < p.cols; i += kThreads) {
      const float v = fabsf(source_value(in, p.dtype, i));
      most = v > most ? v : most;
    }
    most = p.source_largest ? p.source_largest[row] : block_max(most, scratch);
    scale = most > 0 ? most / 448.0f : 1.0f;
    divisor = scale;
  }
  if (threadIdx.x == 0 && p.out_scale) {
    if (p.source_scales > 0) scale *= p.source_scale[p.source_scales == 1 ? 0 : row];
    p.out_scale[row] = scale;
  }
  for (int i = int(threadIdx.x); i < p.k; i += kThreads) {
    if (p.fp8) {
      uint8_t v = 0;
      if (i < p.cols)
        v = p.dtype == DType::fp8_e4m3 ? in[i] : to_e4m3(source_value(in, p.dtype, i) / divisor);
      out[fp8_weight_place(i)] = v;
    } else {
      reinterpret_cast<uint16_t*>(out)[i] =
          i < p.cols ? to_bf16(source_value(in, p.dtype, i)) : uint16_t(0);
    }
  }
}

// --- a step's begin ---

// Once a step, so that layers need no trigonometry: 2 * head_dim bytes a row.
__global__ void __launch_bounds__(kThreads)
    rope_angles_kernel(const StepHeader* step, const float* inv_freq, int half, float2* angles) {
  pdl_launch_dependents();
  pdl_wait();
  const int row = int(blockIdx.x);
  if (row >= step->rows) return;
  const float position = float(step_array<RowInfo>(step, step->row_info)[row].position);
  for (int i = int(threadIdx.x); i < half; i += int(blockDim.x)) {
    float s, c;
    sincosf(position * inv_freq[i], &s, &c);
    angles[int64_t(row) * half + i] = float2{c, s};
  }
}

// Reads rows * hidden weights, writes rows * hidden floats.
__global__ void __launch_bounds__(kThreads) embed_kernel(Embed p) {
  const StepHeader* step = p.step;
  const Matrix& table = p.table;
  pdl_launch_dependents();
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
  const uint8_t* in = table.data + in_table * table.stride;
  const float scale = table.scale ? table.scale[in_table] : 1.0f;
  for (int i = int(threadIdx.x); i < table.cols; i += kThreads) {
    const float v = table.fp8 ? from_e4m3(in[fp8_weight_place(i)])
                              : from_bf16(reinterpret_cast<const uint16_t*>(in)[i]);
    out[i] = v * scale;
  }
}

// --- norm ---

// Reads a row of x twice (the second time from cache) and gain, writes half as many bytes. One
// block a row, one order of summation whatever the number of rows.
__global__ void __launch_bounds__(kThreads) norm_rows_kernel(NormRows p) {
  const int32_t* rows = p.rows;
  const int cols = p.cols;
  pdl_launch_dependents();
  Shared smem;
  float* scratch = smem.take<float>(32);
  float* mean_scratch = smem.take<float>(32);
  const int i = int(blockIdx.x);
  const bool mine = !p.count || i < *p.count;
  pdl_wait();
  if (!mine) return;
  const float* in = p.x + int64_t(rows ? rows[i] : i) * cols;
  float mean = 0, sum = 0;
  if (p.bias) {
    for (int j = int(threadIdx.x); j < cols; j += kThreads) mean += in[j];
    mean = block_sum(mean, mean_scratch) / float(cols);
  }
  for (int j = int(threadIdx.x); j < cols; j += kThreads) sum += (in[j] - mean) * (in[j] - mean);
  const float by = 1.0f / sqrtf(block_sum(sum, scratch) / float(cols) + p.eps);
  uint16_t* to = p.out + int64_t(i) * p.out_stride;
  for (int j = int(threadIdx.x); j < p.out_stride; j += kThreads) {
    const int k = p.first_col + j;
    float v = k < cols ? (in[k] - mean) * by * p.gain[k] : 0.0f;
    if (p.bias && k < cols) v += p.bias[k];
    to[j] = to_bf16(v);
  }
}

// --- prompt rows, around the products ---

__global__ void __launch_bounds__(kThreads)
    pad_rows_kernel(const uint16_t* a, int cols, uint16_t* out, int out_stride) {
  pdl_launch_dependents();
  pdl_wait();
  const int64_t row = int64_t(blockIdx.x);
  for (int j = int(threadIdx.x); j < out_stride; j += kThreads) {
    out[row * out_stride + j] = j < cols ? a[row * cols + j] : uint16_t(0);
  }
}

// Reads rows * (q + 2 kv) * head_dim bf16 once, writes the same.
__global__ void __launch_bounds__(kThreads) rope_store_kernel(RopeStore p) {
  pdl_launch_dependents();
  pdl_wait();
  const int row = p.first_row + int(blockIdx.x);
  const int dim = p.kv.head_dim, half = p.rotary / 2, pairs = dim / 2;
  const int heads = p.q_heads + 2 * p.kv.kv_heads;
  const RowInfo info = step_array<RowInfo>(p.step, p.step->row_info)[row];
  const uint16_t* in = p.qkv + int64_t(blockIdx.x) * p.stride;
  const float by = p.row_scale ? p.row_scale[blockIdx.x] : 1.0f;
  for (int u = int(threadIdx.x); u < heads * pairs; u += kThreads) {
    const int head = u / pairs, pair = u % pairs;
    const int i = pair / half * p.rotary + pair % half, column = head * dim + i;
    float lo = from_bf16(in[column]) * by, hi = from_bf16(in[column + half]) * by;
    if (p.scale) {
      lo *= p.scale[column];
      hi *= p.scale[column + half];
    }
    store_rotated(p, row, info.kv_slot, head, i, float2{lo, hi});
  }
}

__global__ void __launch_bounds__(kThreads) silu_mul_kernel(SiluMul p) {
  pdl_launch_dependents();
  pdl_wait();
  const int64_t row = int64_t(blockIdx.y);
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i >= p.inner) return;
  const float *scale = p.scale, *row_scale = p.row_scale;
  const float by = row_scale ? row_scale[row] : 1.0f;
  float gate = from_bf16(p.gate_up[row * p.stride + i]) * by,
        up = from_bf16(p.gate_up[row * p.stride + p.inner + i]) * by;
  if (scale) {
    gate *= scale[i];
    up *= scale[p.inner + i];
  }
  p.h[row * p.inner + i] = to_bf16(silu(gate) * up);
}

__global__ void __launch_bounds__(kThreads) relu2_rows_kernel(Relu2 p) {
  pdl_launch_dependents();
  pdl_wait();
  const int64_t row = int64_t(blockIdx.y);
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i >= p.inner) return;
  float up = from_bf16(p.up[row * p.stride + i]) * (p.row_scale ? p.row_scale[row] : 1.0f);
  if (p.scale) up *= p.scale[i];
  p.h[row * p.inner + i] = to_bf16(relu2(up));
}

__global__ void __launch_bounds__(kThreads) scale_rows_kernel(ScaleRows p) {
  pdl_launch_dependents();
  pdl_wait();
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i >= p.cols) return;
  const int64_t at = int64_t(blockIdx.y) * p.cols + i;
  const float *scale = p.scale, *row_scale = p.row_scale;
  const float v = p.y[at] * (row_scale ? row_scale[blockIdx.y] : 1.0f) * (scale ? scale[i] : 1.0f);
  p.x[at] = p.add ? p.x[at] + v : v;
}

__global__ void __launch_bounds__(kThreads) widen_kernel(Matrix w, uint16_t* out) {
  pdl_launch_dependents();
  pdl_wait();
  // A thread widens sixteen columns: the first eight are the even bytes, the others the odd ones.
  const int64_t row = int64_t(blockIdx.y);
  const int i = (int(blockIdx.x) * kThreads + int(threadIdx.x)) * 16;
  if (i >= w.k) return;
  const uint4 v = load16(w.data + row * w.stride + i);
  uint16_t* to = out + row * w.k + i;
  store16(to, uint4{e4m3_even_to_bf16(v.x), e4m3_even_to_bf16(v.y), e4m3_even_to_bf16(v.z),
                    e4m3_even_to_bf16(v.w)});
  store16(to + 8, uint4{e4m3_odd_to_bf16(v.x), e4m3_odd_to_bf16(v.y), e4m3_odd_to_bf16(v.z),
                        e4m3_odd_to_bf16(v.w)});
}

// Reads rows * k bf16 (twice, the second time from cache), writes half as many bytes.
__global__ void __launch_bounds__(kThreads) round_rows_kernel(RoundRows p) {
  pdl_launch_dependents();
  pdl_wait();
  Shared smem;
  float* scratch = smem.take<float>(32);
  const int k = p.k;
  const uint16_t* in = p.a + int64_t(blockIdx.x) * p.a_stride;
  float most = 0;
  for (int i = int(threadIdx.x) * 8; i < k; i += kThreads * 8) {
    const uint4 v = load16(in + i);
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      most = fmaxf(most, fmaxf(fabsf(bf16_lo(pairs[j])), fabsf(bf16_hi(pairs[j]))));
    }
  }
  most = block_max(most, scratch);
  const float scale = most > 0 ? most / 448.0f : 1.0f;
  if (threadIdx.x == 0) p.row_scale[blockIdx.x] = scale;
  // Of sixteen columns a pair of the first eight and the one eight further on (fp8_weight_place).
  const auto four = [&](uint32_t lo, uint32_t hi) {
    return uint32_t(to_e4m3(bf16_lo(lo) / scale)) | uint32_t(to_e4m3(bf16_lo(hi) / scale)) << 8 |
           uint32_t(to_e4m3(bf16_hi(lo) / scale)) << 16 |
           uint32_t(to_e4m3(bf16_hi(hi) / scale)) << 24;
  };
  for (int i = int(threadIdx.x) * 16; i < k; i += kThreads * 16) {
    const uint4 lo = load16(in + i), hi = load16(in + i + 8);
    store16(p.out + int64_t(blockIdx.x) * k + i,
            uint4{four(lo.x, hi.x), four(lo.y, hi.y), four(lo.z, hi.z), four(lo.w, hi.w)});
  }
}

constexpr size_t kReduceBytes = 32 * sizeof(float);
unsigned blocks(int n, int per) { return unsigned((n + per - 1) / per); }

}  // namespace

void pack_rows(Queue& queue, const PackRows& p) {
  launch(queue, "pack_rows", pack_rows_kernel, unsigned(p.rows), kThreads, kReduceBytes, p);
}
void rope_angles(Queue& queue, const StepHeader* step, int grid_rows, const float* inv_freq,
                 int half, float2* angles) {
  launch(queue, "rope_angles", rope_angles_kernel, unsigned(grid_rows), 64, 0, step, inv_freq, half,
         angles);
}
void embed(Queue& queue, const Embed& p, int grid_rows) {
  launch(queue, "embed", embed_kernel, unsigned(grid_rows), kThreads, 0, p);
}
void norm_rows(Queue& queue, const NormRows& p, int grid_rows) {
  launch(queue, "norm_rows", norm_rows_kernel, unsigned(grid_rows), kThreads, 2 * kReduceBytes, p);
}
void pad_rows(Queue& queue, int rows, const uint16_t* a, int cols, uint16_t* out, int out_stride) {
  launch(queue, "pad_rows", pad_rows_kernel, unsigned(rows), kThreads, 0, a, cols, out, out_stride);
}
void rope_store(Queue& queue, const RopeStore& p) {
  launch(queue, "rope_store", rope_store_kernel, unsigned(p.rows), kThreads, 0, p);
}
void silu_mul(Queue& queue, const SiluMul& p) {
  launch(queue, "silu_mul", silu_mul_kernel, dim3(blocks(p.inner, kThreads), unsigned(p.rows)),
         kThreads, 0, p);
}
void relu2_rows(Queue& queue, const Relu2& p) {
  launch(queue, "relu2_rows", relu2_rows_kernel, dim3(blocks(p.inner, kThreads), unsigned(p.rows)),
         kThreads, 0, p);
}
void scale_rows(Queue& queue, const ScaleRows& p) {
  launch(queue, "scale_rows", scale_rows_kernel, dim3(blocks(p.cols, kThreads), unsigned(p.rows)),
         kThreads, 0, p);
}
void widen(Queue& queue, const Matrix& w, uint16_t* out) {
  // Rows go along y in pieces of 32768: a grid's y is limited.
  for (int row = 0; row < w.rows; row += 32768) {
    Matrix piece = w;
    piece.data += row * w.stride;
    piece.rows = w.rows - row < 32768 ? w.rows - row : 32768;
    launch(queue, "widen", widen_kernel, dim3(blocks(w.k / 16, kThreads), unsigned(piece.rows)),
           kThreads, 0, piece, out + int64_t(row) * w.k);
  }
}

void round_rows(Queue& queue, const RoundRows& p) {
  launch(queue, "round_rows", round_rows_kernel, unsigned(p.rows), kThreads, kReduceBytes, p);
}
void load_elementwise(Queue& queue) {
  load_kernel(queue, "pack_rows", pack_rows_kernel, kReduceBytes);
  load_kernel(queue, "rope_angles", rope_angles_kernel, 0);
  load_kernel(queue, "embed", embed_kernel, 0);
  load_kernel(queue, "norm_rows", norm_rows_kernel, 2 * kReduceBytes);
  load_kernel(queue, "pad_rows", pad_rows_kernel, 0);
  load_kernel(queue, "rope_store", rope_store_kernel, 0);
  load_kernel(queue, "silu_mul", silu_mul_kernel, 0);
  load_kernel(queue, "relu2_rows", relu2_rows_kernel, 0);
  load_kernel(queue, "scale_rows", scale_rows_kernel, 0);
  load_kernel(queue, "round_rows", round_rows_kernel, kReduceBytes);
  load_kernel(queue, "widen", widen_kernel, 0);
}

}  // namespace nemotron::cuda
