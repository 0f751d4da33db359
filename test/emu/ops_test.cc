// The op suite on the CUDA device, emulated: its own host code and kernels, checked at every
// access. Each device of the suite runs with the next of the orders; a race, a read out of bounds
// or a deadlock comes back as a fault of the device and fails the case.
#include "test/ops/ops.h"

#include <cstdlib>

#include "cuda/cuda_device.h"
#include "cuda_runtime.h"
#include "machine.h"

int main(int argc, char** argv) {
  using namespace nemotron;
  test::without_cublaslt();
  static int opened = 0;
  test::DeviceUnderTest device = {
      .name = "emulated",
      .open =
          [](std::unique_ptr<Device>* out) {
            static constexpr emu::Order kOrders[] = {emu::Order::natural, emu::Order::reverse,
                                                     emu::Order::random};
            emu::config().order = kOrders[opened % 3];
            emu::config().preempt = opened % 2 ? 0.01 : 0;
            emu::config().seed = uint64_t(++opened);
            DeviceOptions options;
            options.debug_checks = true;
            return cuda::open_device(options, out);
          },
      .tolerance = 4e-3,
      .slow = true,
  };
  test::add_op_cases(device);
  // Prompt attention by the other kernel.
  device.name = "emulated wgmma";
  device.wgmma = true;
  device.open = [open = device.open](std::unique_ptr<Device>* out) {
    setenv("NEMOTRON_PROMPT_ATTENTION", "wgmma", 1);
    const Status s = open(out);
    unsetenv("NEMOTRON_PROMPT_ATTENTION");
    return s;
  };
  test::add_attention_cases(device);
  return test::run_all(argc, argv);
}
