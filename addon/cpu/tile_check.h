// A wrong answer is worse than a slow one: the tile kernels have been proven over emulated tiles,
// but this machine's are asked once, before they are trusted.
#pragma once

#include "cpu/kernels.h"

namespace nemotron::cpu {

// Multiplies small matrices with both tables and compares: every format but those in groups, rows
// and panels off the tile sizes, with and without sums to go on from.
bool same_products(const Kernels& tested, const Kernels& trusted);

// A few rows and many do not multiply by the same instructions, whether weights are BF16, FP8 or in
// groups, and of these with activations of 8 bits too. Is every bit of a row the same?
bool same_row_bits(const Kernels& tested);

}  // namespace nemotron::cpu
