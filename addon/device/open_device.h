// open_device(): chooses a backend at run time. The CPU backend is linked in; CUDA is a library
// (libnemotron_cuda.so) that exports
//   extern "C" const nemotron::Backend* nemotron_backend() noexcept;
// It is looked for in $NEMOTRON_CUDA_LIBRARY (a file; then nowhere else), beside the binary that
// this code is in, and in the two folders above it (a build folder has its tests there). Any
// thread.
#pragma once

#include <memory>
#include <string>

#include "device/device.h"

namespace nemotron {

// `backend`: auto, cpu or cuda. auto takes CUDA when it has a device and says in *note what it
// chose and why. cuda never falls back: the error says what is missing.
Status open_device(const std::string& backend, const DeviceOptions& options,
                   std::unique_ptr<Device>* out, std::string* note);

// What open_device() refuses of options for so many ranks before it opens anything.
Status check_device(const std::string& backend, const DeviceOptions& options, int32_t ranks);

}  // namespace nemotron
