// What the configs of all architectures have in common: bounds of sizes, rotary embeddings.
#pragma once

#include <cstdint>

#include "models/checkpoint/json_fields.h"
#include "models/config.h"

namespace nemotron {

// Bounds of what is accepted, far above any model of the family: with them every product of sizes
// fits an int64_t (vocab * hidden * 4 < 2^47, layers * 3 * intermediate * hidden * 4 < 2^57).
inline constexpr int64_t kMaxHidden = 1 << 18, kMaxLayers = 1 << 12, kMaxHeads = 1 << 12;
inline constexpr int64_t kMaxHeadDim = 1 << 10, kMaxIntermediate = 1 << 21, kMaxVocab = 1 << 24;
inline constexpr int64_t kMaxPosition = int64_t(1) << 27, kMaxLabels = 1 << 10;

// `rope_theta` with `rope_scaling`, or `rope_parameters` of newer files, with rope_theta inside.
void read_rope(JsonFields* f, RopeConfig* out);

}  // namespace nemotron
