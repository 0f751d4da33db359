// The op suite on a real GPU (bench/gpu.sh runs it; without a GPU it says so and fails).
#include <cuda_runtime.h>

#include <cstdlib>

#include "cuda/cuda_device.h"
#include "test/ops/ops.h"

int main(int argc, char** argv) {
  using namespace nemotron;
  std::string why;
  if (cuda::device_count(&why) == 0) {
    std::printf("no usable GPU: %s\n", why.c_str());
    return 1;
  }
  test::DeviceUnderTest device;
  device.name = "cuda";
  device.open = [](std::unique_ptr<Device>* out) {
    DeviceOptions options;
    options.debug_checks = true;
    return cuda::open_device(options, out);
  };
  device.tolerance = 4e-3;
  test::add_op_cases(device);
  // Prompt attention by the other kernel, where there is one.
  cudaDeviceProp gpu;
  if (cudaGetDeviceProperties(&gpu, 0) != cudaSuccess || gpu.major != 9)
    return test::run_all(argc, argv);
  device.name = "wgmma";
  device.wgmma = true;
  device.open = [](std::unique_ptr<Device>* out) {
    DeviceOptions options;
    options.debug_checks = true;
    setenv("NEMOTRON_PROMPT_ATTENTION", "wgmma", 1);
    const Status s = cuda::open_device(options, out);
    unsetenv("NEMOTRON_PROMPT_ATTENTION");
    return s;
  };
  test::add_attention_cases(device);
  return test::run_all(argc, argv);
}
