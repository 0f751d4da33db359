// open_device(): chooses a backend at run time. The CPU backend is linked in; CUDA is a library
// beside this module (libnemotron_cuda.so) that exports
//   extern "C" const nemotron::Backend* nemotron_backend() noexcept;
#pragma once

#include <memory>
#include <string>

#include "device/device.h"

namespace nemotron {

// `backend`: auto, cpu or cuda. auto takes CUDA when it has a device and says in *note what it
// chose and why. cuda never falls back.
Status open_device(const std::string& backend, const DeviceOptions& options,
                   std::unique_ptr<Device>* out, std::string* note);

}  // namespace nemotron
