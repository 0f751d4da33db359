// Reductions over a block, shared by kernels. The order is fixed.
#pragma once

#include "cuda/gpu.h"

namespace nemotron::cuda {

// Every thread of the block gets the sum. `scratch` [32] shared; free again after the next
// block_sync.
GPU_DEVICE float block_sum(float v, float* scratch) {
  v = gpu::warp_sum(v);
  const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0) scratch[warp] = v;
  gpu::block_sync();
  float sum = 0;
  for (unsigned i = 0; i < warps; ++i) sum += scratch[i];
  return sum;
}

GPU_DEVICE float block_max(float v, float* scratch) {
  v = gpu::warp_max(v);
  const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0) scratch[warp] = v;
  gpu::block_sync();
  float most = scratch[0];
  for (unsigned i = 1; i < warps; ++i) most = scratch[i] > most ? scratch[i] : most;
  return most;
}

GPU_DEVICE uint64_t block_max(uint64_t v, uint64_t* scratch) {
  for (int m = 16; m > 0; m /= 2) {
    const uint64_t o = gpu::shuffle_xor(v, m);
    v = o > v ? o : v;
  }
  const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0) scratch[warp] = v;
  gpu::block_sync();
  uint64_t most = scratch[0];
  for (unsigned i = 1; i < warps; ++i) most = scratch[i] > most ? scratch[i] : most;
  return most;
}

}  // namespace nemotron::cuda
