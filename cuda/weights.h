// Packing: a checkpoint's matrices into Matrix form (kernels.h) on the GPU.
#pragma once

#include <span>

#include "cuda/context.h"
#include "cuda/kernels.h"
#include "device/device.h"

namespace nemotron::cuda {

// F16 and F32 become BF16; parts that are all FP8 stay FP8; WeightFormat::fp8 quantises the others
// per row. Rows stream through pinned memory, or are read into it, while the GPU packs the ones
// before. `data` and
// `scale` of *out are allocations of the context; where it has some, of a matrix of the same form,
// they are written over.
Status pack_matrix(Context* context, std::span<const MatrixPart> parts, WeightUse use,
                   WeightFormat format, Matrix* out);

}  // namespace nemotron::cuda
