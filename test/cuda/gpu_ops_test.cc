// The op suite on a real GPU (bench/gpu.sh runs it; without a GPU it says so and fails).
#include <cuda_runtime.h>

#include <cstdlib>
#include <functional>

#include "cuda/cuda_device.h"
#include "test/ops/ops.h"

namespace {

using namespace nemotron;

// Opens with $variable set to wgmma.
std::function<Status(std::unique_ptr<Device>*)> with_wgmma(const char* variable) {
  return [=](std::unique_ptr<Device>* out) {
    DeviceOptions options;
    options.debug_checks = true;
    setenv(variable, "wgmma", 1);
    const Status s = cuda::open_device(options, out);
    unsetenv(variable);
    return s;
  };
}

}  // namespace

int main(int argc, char** argv) {
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
  device.rounds_groups = true;
  test::add_op_cases(device);
  // By the other kernels, where there are any.
  cudaDeviceProp gpu;
  if (cudaGetDeviceProperties(&gpu, 0) != cudaSuccess || gpu.major != 9)
    return test::run_all(argc, argv);
  device.name = "wgmma products";
  device.open = with_wgmma("NEMOTRON_DECODE_PRODUCTS");
  test::add_gemm_cases(device);
  device.name = "wgmma";
  device.wgmma = true;
  device.open = with_wgmma("NEMOTRON_PROMPT_ATTENTION");
  test::add_attention_cases(device);
  return test::run_all(argc, argv);
}
