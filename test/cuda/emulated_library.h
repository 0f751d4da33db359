// The emulated backend as a library, in programs that open it like the real one.
#pragma once

#include <dlfcn.h>

#include <cstdlib>

#include "test/emu/cuda_runtime.h"

namespace nemotron::test {

// Stand-ins for NVIDIA's libraries call the emulated runtime, which is inside the backend's
// library: they find it once this has been called.
inline void* share_emulated_runtime() {
  static void* library = dlopen(std::getenv("NEMOTRON_CUDA_LIBRARY"), RTLD_NOW | RTLD_GLOBAL);
  return library;
}

// The machine that the library is on.
inline emu::Machine& emulated_machine() {
  using Machine = emu::Machine& (*)();
  return reinterpret_cast<Machine>(dlsym(share_emulated_runtime(), "_ZN3emu7machineEv"))();
}

}  // namespace nemotron::test
