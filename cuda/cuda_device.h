// Opens the CUDA device. The library's only other export is nemotron_backend (backend.cc).
#pragma once

#include <memory>
#include <string>

#include "device/device.h"

namespace nemotron::cuda {

// GPUs that this library has code for; when 0, *why says what is missing.
int32_t device_count(std::string* why) noexcept;
Status open_device(const DeviceOptions& options, std::unique_ptr<Device>* out) noexcept;

}  // namespace nemotron::cuda
