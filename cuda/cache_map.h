// The KV cache as the copy engine (TMA) sees it: rows of head_dim BF16, keys and values of all
// layers one after another, taken in boxes of one block's 64 columns. Made when a model is prepared
// and handed to kernels as a parameter.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "device/status.h"

namespace nemotron::cuda {

struct CacheMap {
  CUtensorMap map;
  const uint8_t* begin = nullptr;
};

// Whether a cache of this kind can have a map.
bool cache_map_possible(int64_t rows, int32_t head_dim, bool fp8);
Status make_cache_map(void* cache, int64_t rows, int32_t head_dim, int32_t block_size,
                      CacheMap* out);

}  // namespace nemotron::cuda
