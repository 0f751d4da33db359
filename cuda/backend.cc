// The library's one export: what addon/device/open_device.cc looks for.
#include "cuda/cuda_device.h"

extern "C" __attribute__((visibility("default"))) const nemotron::Backend*
nemotron_backend() noexcept {
  static constexpr nemotron::Backend kBackend = {
      .abi = nemotron::kBackendAbi,
      .name = "cuda",
      .device_count = nemotron::cuda::device_count,
      .open = nemotron::cuda::open_device,
  };
  return &kBackend;
}
