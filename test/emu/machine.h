// The libraries that emulated tests see.
#pragma once

#include <cstdlib>

namespace nemotron::test {

// A real cuBLASLt would be handed host memory.
inline void without_cublaslt() { setenv("NEMOTRON_CUBLASLT", "none", 1); }
inline void with_fake_cublaslt() { setenv("NEMOTRON_CUBLASLT", EMU_FAKE_CUBLASLT, 1); }

}  // namespace nemotron::test
