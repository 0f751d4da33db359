// What a GPU can do at most: reading, copying, and the gap between kernels that do nothing.
#include "bench/gpu_peaks.h"
#include "cuda/launch.h"

namespace nemotron::bench {

using namespace gpu;

namespace {

// Every thread reads sixteen bytes at a time, eight in flight; the sum keeps the loads alive.
__global__ void __launch_bounds__(512) read_kernel(const uint4* p, size_t n, uint32_t* sink) {
  pdl_wait();
  uint32_t sum = 0;
  const size_t step = size_t(gridDim.x) * 512;
#pragma unroll 8
  for (size_t i = size_t(blockIdx.x) * 512 + threadIdx.x; i < n; i += step) {
    const uint4 v = load16(p + i);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) atomic_add(sink, sum);
}

__global__ void empty_kernel() {
  pdl_launch_dependents();
  pdl_wait();
}

}  // namespace

void launch_read(Queue& queue, const void* p, size_t bytes, uint32_t* sink) {
  launch(queue, "read", read_kernel, unsigned(queue.multiprocessors * 4), 512, 0,
         static_cast<const uint4*>(p), bytes / 16, sink);
}
void launch_empty(Queue& queue) {
  launch(queue, "empty", empty_kernel, unsigned(queue.multiprocessors), 128, 0);
}

}  // namespace nemotron::bench
