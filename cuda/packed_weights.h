// Packing of weights in groups (kernels.h: PackedRows), on the host.
#pragma once

#include <span>

#include "cuda/context.h"
#include "cuda/kernels.h"
#include "device/device.h"

namespace nemotron::cuda {

// Whether all rows of such a matrix are in groups once it is packed, of at most kMostPacked kinds,
// and of gate and up both begin with a row tile. REQUIRES: check_parts() found the parts right.
bool packs(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format);

// REQUIRES: packs(). *out as in pack_matrix().
Status pack_groups(Context* context, std::span<const MatrixPart> parts, WeightFormat format,
                   Matrix* out);

// Rows in groups as BF16, for a matrix that does not pack them.
class WidenedRows final : public StoredRows {
 public:
  explicit WidenedRows(const MatrixPart& part) : part_(part) {}
  Status read(int64_t first, int64_t n, uint8_t* to) const override;

 private:
  const MatrixPart& part_;
};

}  // namespace nemotron::cuda
