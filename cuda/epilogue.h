// What happens to sums once they are complete; the same for generated and prompt rows.
#pragma once

#include "cuda/gpu.h"
#include "cuda/kernels.h"

namespace nemotron::cuda {

GPU_DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }
// A NaN stays one.
GPU_DEVICE float relu2(float x) { return x < 0 ? 0.0f : x * x; }

// Values i and i + rotary / 2 of `head` (q heads, then k, then v) of a row: turned by the row's
// angle unless they are v or lie beyond what is turned, then into q or the cache.
GPU_DEVICE void store_rotated(const RopeStore& p, int row, int kv_slot, int head, int i,
                              float2 values) {
  float lo = values.x, hi = values.y;
  const int dim = p.kv.head_dim, half = p.rotary / 2, kv_heads = p.kv.kv_heads;
  if (head < p.q_heads + kv_heads && i < half) {
    const float2 a = p.angles[int64_t(row) * half + i];
    const float turned = lo * a.x - hi * a.y;
    hi = hi * a.x + lo * a.y;
    lo = turned;
  }
  if (head < p.q_heads) {
    uint16_t* q = p.q + (int64_t(row) * p.q_heads + head) * dim;
    q[i] = gpu::to_bf16(lo);
    q[i + half] = gpu::to_bf16(hi);
    return;
  }
  const bool is_k = head < p.q_heads + kv_heads;
  const int kv_head = head - p.q_heads - (is_k ? 0 : kv_heads);
  const int64_t at = ((int64_t(kv_slot / p.kv.block_size) * kv_heads + kv_head) * p.kv.block_size +
                      kv_slot % p.kv.block_size) *
                     dim;
  uint8_t* cache = is_k ? p.kv.k : p.kv.v;
  const float scale = is_k ? p.kv.k_scale : p.kv.v_scale;
  lo /= scale;
  hi /= scale;
  if (p.kv.fp8) {
    cache[at + (is_k ? fp8_place(i) : i)] = gpu::to_e4m3(lo);
    cache[at + (is_k ? fp8_place(i + half) : i + half)] = gpu::to_e4m3(hi);
  } else {
    auto* c = reinterpret_cast<uint16_t*>(cache);
    c[at + i] = gpu::to_bf16(lo);
    c[at + i + half] = gpu::to_bf16(hi);
  }
}

}  // namespace nemotron::cuda
