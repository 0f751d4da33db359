// The bench's own kernels (peaks.cu).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/queue.h"

namespace nemotron::bench {

void load_peaks(gpu::Queue& queue);
// Random numbers, BF16 or E4M3, between -1 and 1.
void launch_fill(gpu::Queue& queue, void* p, size_t bytes, bool fp8);
// All of it, so many times over.
void launch_read(gpu::Queue& queue, const void* p, size_t bytes, int turns, uint32_t* sink);
void launch_empty(gpu::Queue& queue);

}  // namespace nemotron::bench
