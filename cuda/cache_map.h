// The KV cache as the copy engine (TMA) sees it: keys and values of all layers one after another,
// in boxes of 128 bytes of one block's rows. Rows of the map are head_dim BF16, of an FP8 cache 128
// bytes, which are one key or two. Made when a model is prepared and handed to kernels as a
// parameter.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "device/status.h"

namespace nemotron::cuda {

struct CacheMap {
  CUtensorMap map;
  const uint8_t* begin = nullptr;
  int64_t row_bytes = 0;
  int32_t row_of(const uint8_t* at) const { return int32_t((at - begin) / row_bytes); }
};

// A cache of `rows` keys and values.
struct MappedCache {
  void* data;
  int64_t rows;
  int32_t head_dim, block_size;
  bool fp8;
};
// Whether it can have a map.
bool cache_map_possible(const MappedCache& cache);
Status make_cache_map(const MappedCache& cache, CacheMap* out);

}  // namespace nemotron::cuda
