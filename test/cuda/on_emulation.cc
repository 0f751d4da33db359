#include "cuda/cuda_device.h"
#include "cuda_runtime.h"
#include "machine.h"
#include "test/cuda/under_test.h"

namespace nemotron::test {

const bool kEmulated = true;

int64_t kernels_launched() { return int64_t(emu::counters().launches); }
int64_t graphs_launched() { return int64_t(emu::counters().graphs); }

Status open_under_test(Library library, const DeviceOptions& options,
                       std::unique_ptr<Device>* out) {
  static int opened = 0;
  static constexpr emu::Order kOrders[] = {emu::Order::random, emu::Order::reverse,
                                           emu::Order::natural};
  emu::config().order = kOrders[opened++ % 3];
  emu::config().seed = uint64_t(opened);
  // A machine without the library, for the cases that want it.
  if (library == Library::none || std::getenv("EMU_NO_CUBLASLT")) {
    without_cublaslt();
  } else {
    with_fake_cublaslt();
  }
  return cuda::open_device(options, out);
}

}  // namespace nemotron::test
