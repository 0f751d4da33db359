// The op suite on the CUDA device, emulated: its own host code and kernels, checked at every
// access. Each device of the suite runs with the next of the orders; a race, a read out of bounds
// or a deadlock comes back as a fault of the device and fails the case.
#include "test/ops/ops.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "cuda/cuda_device.h"
#include "cuda/kernels.h"
#include "cuda_runtime.h"
#include "machine.h"

namespace nemotron::test {
namespace {

using Open = std::function<Status(std::unique_ptr<Device>*)>;

Open opening(bool fp8_activations) {
  return [=](std::unique_ptr<Device>* out) {
    static constexpr emu::Order kOrders[] = {emu::Order::natural, emu::Order::reverse,
                                             emu::Order::random};
    static int opened = 0;
    emu::config().order = kOrders[opened % 3];
    emu::config().preempt = opened % 2 ? 0.01 : 0;
    emu::config().seed = uint64_t(++opened);
    DeviceOptions options;
    options.debug_checks = true;
    options.fp8_activations = fp8_activations;
    return cuda::open_device(options, out);
  };
}

// Opens with a variable of the environment set.
Open with(const char* variable, const char* value, const Open& open) {
  return [=](std::unique_ptr<Device>* out) {
    const char* set = std::getenv(variable);
    const std::string before = set ? set : "";
    setenv(variable, value, 1);
    const Status s = open(out);
    set ? setenv(variable, before.c_str(), 1) : unsetenv(variable);
    return s;
  };
}

// Opens on a machine that has `bytes` of something.
Open with(size_t emu::Machine::*what, size_t bytes, const Open& open) {
  return [=](std::unique_ptr<Device>* out) {
    const size_t before = std::exchange(emu::machine().*what, bytes);
    const Status s = open(out);
    emu::machine().*what = before;
    return s;
  };
}

DeviceUnderTest emulated(const char* name, const Open& open) {
  return {.name = name, .open = open, .tolerance = 4e-3, .slow = true, .rounds_groups = true};
}

// Of the cases that `add` adds, those with one of these names; a name that none has is a failure.
void add_some(void (*add)(const DeviceUnderTest&), const DeviceUnderTest& device,
              const std::vector<std::string>& names) {
  const auto before = long(cases().size());
  add(device);
  const auto has = [](const Case& c, const std::string& name) {
    return c.name.find(name) != std::string::npos;
  };
  std::vector<Case> wanted;
  for (auto c = cases().begin() + before; c != cases().end(); ++c) {
    if (std::ranges::any_of(names, [&](const std::string& name) { return has(*c, name); }))
      wanted.push_back(*c);
  }
  cases().resize(size_t(before));
  for (const std::string& name : names) {
    if (std::ranges::any_of(wanted, [&](const Case& c) { return has(c, name); })) continue;
    add_case(device.name + " has a case like " + name,
             [=] { fail(__FILE__, __LINE__, "there is no " + name); });
  }
  cases().insert(cases().end(), wanted.begin(), wanted.end());
}

// A kernel that a device loads and no case launches is not tested. Those of ranks are
// ranks_test.cc's.
void test_every_kernel_was_launched() {
  gpu::Queue ranks;
  cuda::load_ranks(ranks);
  for (const void* kernel : emu::never_launched()) {
    if (!ranks.waiting.contains(kernel))
      fail(__FILE__, __LINE__, "never launched: " + emu::function_name(kernel));
  }
}

}  // namespace
}  // namespace nemotron::test

int main(int argc, char** argv) {
  using namespace nemotron::test;
  without_cublaslt();
  const Open open = opening(false);
  add_op_cases(emulated("emulated", open));
  DeviceUnderTest wgmma =
      emulated("emulated wgmma", with("NEMOTRON_PROMPT_ATTENTION", "wgmma", open));
  wgmma.wgmma = true;
  add_attention_cases(wgmma);
  const Open products = with("NEMOTRON_DECODE_PRODUCTS", "wgmma", open);
  add_some(add_gemm_cases, emulated("emulated wgmma products", products),
           {"gemm 5x37x83", "gemm 17x80x96", "gemm 65x80x96", "gemm 3x40x2100", "gemm 3x200x700",
            "gemm 9x200x700", "gemm 17x272", "gemm 40x272", "gemm 70x150", "gemm 130x150",
            "row equality", "norm after residual", "mlp_input BF16", "mlp_input F8_E4M3",
            "relu2 BF16", "fp8 codes", "tied BF16", "gemm 3x47x64", "gemm 3x40x63"});
  add_some(add_attention_cases, emulated("emulated wgmma products", products),
           {"8:2 d64 b64 BF16 scaled schedules", "2:1 d16 b64 F8_E4M3 schedules", "3:1 d80"});
  // More multiprocessors than blocks of 128 rows could keep busy.
  add_some(add_gemm_cases,
           emulated("emulated wgmma products, 5 multiprocessors",
                    with(&emu::Machine::multiprocessors, 5, products)),
           {"gemm 17x80x96", "gemm 33x80x96", "gemm 130x150", "row equality BF16",
            "row equality F8_E4M3", "row equality of many", "19x90", "34x600", "130x128",
            "mlp_input F8_E4M3 34x177"});
  add_product_cases(
      emulated("emulated library", with("NEMOTRON_CUBLASLT", EMU_FAKE_CUBLASLT, open)));
  DeviceUnderTest fp8 =
      emulated("emulated fp8", with("NEMOTRON_CUBLASLT", EMU_FAKE_CUBLASLT, opening(true)));
  fp8.fp8_activations = true;
  add_product_cases(fp8);
  add_attention_cases(fp8);
  // A block of sm_86 and sm_89 has less shared memory than the largest instance wants.
  add_some(add_gemm_cases,
           emulated("emulated 99 KiB", with(&emu::Machine::shared_bytes, size_t(99) << 10, open)),
           {"gemm 65x", "row equality BF16", "row equality F", "34x"});
  // A GPU so small that the decode attention takes several launches.
  add_some(add_attention_cases,
           emulated("emulated 1 MiB", with(&emu::Machine::bytes, size_t(1) << 20, open)),
           {"40:2 d16 b64 BF16 pieces", "4:1 d64 b64 BF16 alone"});
  // One with room for blocks that share rows of several items.
  add_some(add_attention_cases,
           emulated("emulated 16 multiprocessors", with(&emu::Machine::multiprocessors, 16, open)),
           {"4:1 d64 b64 BF16 alone", "4:2 d16 b64 BF16 pieces"});
  // After all the others, where all of them run.
  if (argc == 1) add_case("every kernel was launched", test_every_kernel_was_launched);
  return run_all(argc, argv);
}
