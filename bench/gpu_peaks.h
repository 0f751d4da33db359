// The bench's own kernels (gpu_peaks.cu).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/queue.h"

namespace nemotron::bench {

void launch_read(gpu::Queue& queue, const void* p, size_t bytes, uint32_t* sink);
void launch_empty(gpu::Queue& queue);

}  // namespace nemotron::bench
