#include "cuda/tensor_map.h"

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

Status make_tensor_map(const MappedMatrix& m, int32_t box_rows, CUtensorMap* out) {
  static const Encode encode = find_encode();
  if (!encode) return Status::unsupported("this driver has no cuTensorMapEncodeTiled");
  const cuuint64_t dims[] = {cuuint64_t(m.cols), cuuint64_t(m.rows)};
  const cuuint64_t row_bytes[] = {cuuint64_t(m.stride)};
  const cuuint32_t box[] = {64, cuuint32_t(box_rows)}, every[] = {1, 1};
  const CUresult e =
      encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(m.data), dims, row_bytes,
             box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (e == CUDA_SUCCESS) return {};
  return Status::internal("cuTensorMapEncodeTiled refused a matrix of " + std::to_string(m.rows) +
                          " x " + std::to_string(m.cols) + ": error " + std::to_string(int(e)));
}

}  // namespace nemotron::cuda
