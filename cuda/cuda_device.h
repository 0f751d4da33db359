// Opens the CUDA device. The library's only other export is nemotron_backend (backend.cc).
#pragma once

#include <memory>
#include <string>

#include "device/device.h"

namespace nemotron::cuda {

// The oldest driver that runs a library made with this runtime: any of the same CUDA 12 or 13,
// but `compressed` kernels (--compress-mode in CMakeLists.txt) are unpacked from 12.4 on.
struct OldestDriver {
  int cuda, branch;  // 12040 and 550
};
constexpr OldestDriver oldest_driver(int runtime, bool compressed) {
  if (runtime >= 13000) return {13000, 580};
  if (compressed) return {12040, 550};
  return {12000, 525};
}

// GPUs that this library has code for; when 0, *why says what is missing.
int32_t device_count(std::string* why) noexcept;
Status open_device(const DeviceOptions& options, std::unique_ptr<Device>* out) noexcept;

}  // namespace nemotron::cuda
