// Tensor maps: how the copy engine (TMA) sees a matrix of BF16, or of anything taken for it: rows
// in device memory, copied in boxes of 64 columns, 128 bytes, to shared memory as wgmma wants them
// (hopper.h). What lies beyond the matrix is copied as zeros.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "device/status.h"

namespace nemotron::cuda {

struct MappedMatrix {
  const void* data;  // on sixteen bytes
  int64_t rows, cols;
  int64_t stride;  // bytes, a multiple of sixteen
};
// box_rows: at most 256.
Status make_tensor_map(const MappedMatrix& matrix, int32_t box_rows, CUtensorMap* out);

}  // namespace nemotron::cuda
