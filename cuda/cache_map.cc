#include "cuda/cache_map.h"

#include <cuda_runtime.h>

#include <string>

namespace nemotron::cuda {
namespace {

// The driver's function, without linking the driver.
using Encode = decltype(&cuTensorMapEncodeTiled);
Encode find_encode() {
  void* f = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000,
                                                         cudaEnableDefault, &found);
#else
  const cudaError_t e =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found);
#endif
  return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(f)
                                                                  : nullptr;
}

}  // namespace

bool cache_map_possible(int64_t rows, int32_t head_dim, bool fp8) {
  return !fp8 && (head_dim == 64 || head_dim == 128) && rows <= INT32_MAX;
}

Status make_cache_map(void* cache, int64_t rows, int32_t head_dim, int32_t block_size,
                      CacheMap* out) {
  const Encode encode = find_encode();
  if (!encode) return Status::unsupported("this driver has no cuTensorMapEncodeTiled");
  const cuuint64_t dims[] = {cuuint64_t(head_dim), cuuint64_t(rows)};
  const cuuint64_t row_bytes[] = {cuuint64_t(head_dim) * 2};
  const cuuint32_t box[] = {64, cuuint32_t(block_size)}, every[] = {1, 1};
  const CUresult e = encode(&out->map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, cache, dims, row_bytes,
                            box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (e != CUDA_SUCCESS) {
    return Status::internal("cuTensorMapEncodeTiled refused a cache of " + std::to_string(rows) +
                            " rows: error " + std::to_string(int(e)));
  }
  out->begin = static_cast<const uint8_t*>(cache);
  return {};
}

}  // namespace nemotron::cuda
