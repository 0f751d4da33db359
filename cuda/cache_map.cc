#include "cuda/cache_map.h"

#include "cuda/tensor_map.h"

namespace nemotron::cuda {

bool cache_map_possible(int64_t rows, int32_t head_dim, bool fp8) {
  return !fp8 && (head_dim == 64 || head_dim == 128) && rows <= INT32_MAX;
}

Status make_cache_map(void* cache, int64_t rows, int32_t head_dim, int32_t block_size,
                      CacheMap* out) {
  if (Status s =
          make_tensor_map({cache, rows, head_dim, int64_t(head_dim) * 2}, block_size, &out->map);
      !s) {
    return s.within("a map of the KV cache");
  }
  out->begin = static_cast<const uint8_t*>(cache);
  return {};
}

}  // namespace nemotron::cuda
