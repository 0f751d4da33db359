// The CUDA device that a program of this folder tests: a GPU (on_gpu.cc), or the emulation
// (on_emulation.cc).
#pragma once

#include <cstdio>
#include <memory>

#include "device/device.h"

namespace nemotron::test {

enum class Library : uint8_t { none, cublaslt };  // what multiplies prompt rows

// A fresh device. Each that the emulation opens runs its threads in the next of the orders, and its
// cuBLASLt is a stand-in.
Status open_under_test(Library library, const DeviceOptions& options, std::unique_ptr<Device>* out);

// Emulated devices get the small shapes.
extern const bool kEmulated;

// What came of opening a device for a case. True, and a line says why, where the machine lacks what
// the case is about: cuBLASLt, or a GPU that is new enough (which the emulated one is).
inline bool is_skipped(const Status& opened, const Device* device, Library library) {
  std::string why;
  const bool asks = library == Library::cublaslt;
  if (!opened.ok()) {
    const bool lacks_library = asks && opened.code() == Code::unavailable &&
                               opened.message().find("cuBLASLt") != std::string::npos;
    if (lacks_library || (!kEmulated && opened.code() == Code::unsupported)) why = opened.message();
  } else if (asks && device->name().find("cuBLASLt ") == std::string::npos) {
    why = device->name();
  }
  if (!why.empty()) std::printf("skipped: %s\n", why.c_str());
  return !why.empty();
}

// Graphs that the emulation has launched so far. A GPU does not tell: 0.
int64_t graphs_launched();
// And kernels, those of graphs among them.
int64_t kernels_launched();

}  // namespace nemotron::test
