// The CUDA device that a program of this folder tests: a GPU (on_gpu.cc), or the emulation
// (on_emulation.cc).
#pragma once

#include <memory>

#include "device/device.h"

namespace nemotron::test {

enum class Library : uint8_t { none, cublaslt };  // what multiplies prompt rows

// A fresh device. Each that the emulation opens runs its threads in the next of the orders, and its
// cuBLASLt is a stand-in.
Status open_under_test(Library library, const DeviceOptions& options, std::unique_ptr<Device>* out);

// Emulated devices get the small shapes.
extern const bool kEmulated;

// Graphs that the emulation has launched so far. A GPU does not tell: 0.
int64_t graphs_launched();
// And kernels, those of graphs among them.
int64_t kernels_launched();

}  // namespace nemotron::test
