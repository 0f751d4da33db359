// What a GPU can do at most: reading, copying, and the gap between kernels that do nothing.
#include "bench/gpu/peaks.h"
#include "cuda/launch.h"

namespace nemotron::bench {

using namespace gpu;

namespace {

// Every thread reads sixteen bytes at a time, eight in flight; the sum keeps the loads alive. Block
// b takes another block's part in the next turn, so that no part is in its own L1 cache.
__global__ void __launch_bounds__(512)
    read_kernel(const uint4* p, size_t n, int turns, uint32_t* sink) {
  pdl_wait();
  uint32_t sum = 0;
  const size_t step = size_t(gridDim.x) * 512;
  for (int turn = 0; turn < turns; ++turn) {
    const size_t block = (size_t(blockIdx.x) + size_t(turn) * 37) % gridDim.x;
#pragma unroll 8
    for (size_t i = block * 512 + threadIdx.x; i < n; i += step) {
      const uint4 v = load16(p + i);
      sum ^= v.x ^ v.y ^ v.z ^ v.w;
    }
  }
  if (sum == 0x12345678u) atomic_add(sink, sum);
}

// Sixteen bytes a thread and turn, from a counter's hash.
__global__ void __launch_bounds__(512) fill_kernel(uint4* p, size_t n, bool fp8) {
  pdl_wait();
  for (size_t i = size_t(blockIdx.x) * 512 + threadIdx.x; i < n; i += size_t(gridDim.x) * 512) {
    uint32_t words[4];
    for (uint32_t j = 0; j < 4; ++j) {
      uint32_t x = uint32_t(i) * 4 + j;
      x = (x ^ (x >> 16)) * 0x7feb352du;
      x = (x ^ (x >> 15)) * 0x846ca68bu;
      x ^= x >> 16;
      // Exponents below that of 1: signs and mantissas are random.
      words[j] = fp8 ? (x & 0x87878787u) | 0x28282828u : (x & 0x807f807fu) | 0x3f003f00u;
    }
    store16(p + i, uint4{words[0], words[1], words[2], words[3]});
  }
}

__global__ void empty_kernel() {
  pdl_launch_dependents();
  pdl_wait();
}

}  // namespace

void load_peaks(Queue& queue) {
  load_kernel(queue, "read", read_kernel, 0);
  load_kernel(queue, "fill", fill_kernel, 0);
  load_kernel(queue, "empty", empty_kernel, 0);
}
void launch_fill(Queue& queue, void* p, size_t bytes, bool fp8) {
  launch(queue, "fill", fill_kernel, unsigned(queue.multiprocessors * 4), 512, 0,
         static_cast<uint4*>(p), bytes / 16, fp8);
}
void launch_read(Queue& queue, const void* p, size_t bytes, int turns, uint32_t* sink) {
  launch(queue, "read", read_kernel, unsigned(queue.multiprocessors * 4), 512, 0,
         static_cast<const uint4*>(p), bytes / 16, turns, sink);
}
void launch_empty(Queue& queue) {
  launch(queue, "empty", empty_kernel, unsigned(queue.multiprocessors), 128, 0);
}

}  // namespace nemotron::bench
