// The AMX kernels over tiles in plain memory, for machines that have AVX-512 BF16 but no AMX.
#pragma once

#include "cpu/kernels.h"

namespace nemotron::test {

const cpu::Kernels* emulated_amx_kernels();

}  // namespace nemotron::test
