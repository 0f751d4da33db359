#include "cuda/cache_map.h"

#include "cuda/tensor_map.h"

namespace nemotron::cuda {

bool cache_map_possible(const MappedCache& cache) {
  const int64_t box = int64_t(cache.block_size) * cache.head_dim * (cache.fp8 ? 1 : 2);
  return (cache.head_dim == 64 || cache.head_dim == 128) && cache.rows <= INT32_MAX &&
         box % 1024 == 0;  // where a box may begin in shared memory
}

Status make_cache_map(const MappedCache& cache, CacheMap* out) {
  const int64_t key_bytes = int64_t(cache.head_dim) * (cache.fp8 ? 1 : 2);
  out->begin = static_cast<const uint8_t*>(cache.data);
  out->row_bytes = cache.fp8 ? 128 : key_bytes;
  // Bytes that are not BF16 are copied all the same.
  const MappedMatrix matrix = {cache.data, cache.rows * key_bytes / out->row_bytes,
                               out->row_bytes / 2, out->row_bytes};
  const auto box_rows = int32_t(cache.block_size * key_bytes / out->row_bytes);
  if (Status s = make_tensor_map(matrix, box_rows, &out->map); !s)
    return s.within("a map of the KV cache");
  return {};
}

}  // namespace nemotron::cuda
