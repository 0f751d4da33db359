// The op suite on every instruction set that this machine has, three threads each, and
// on AMX emulated.
#include "cpu/cpu_device.h"
#include "cpu/isa.h"
#include "test/ops/amx_emulated.h"
#include "test/ops/ops.h"

int main(int argc, char** argv) {
  using namespace nemotron;
  for (cpu::Isa isa : cpu::kAllIsas) {
    if (!cpu::isa_available(isa)) {
      std::printf("this machine has no %s: skipped\n", cpu::isa_name(isa));
      continue;
    }
    const bool rounds = isa == cpu::Isa::avx512bf16 || isa == cpu::Isa::amx;
    test::add_op_cases({
        .name = cpu::isa_name(isa),
        .open =
            [isa](std::unique_ptr<Device>* out) {
              return open_cpu_device(
                  {.threads = 3, .isa = cpu::isa_name(isa), .debug_checks = true}, out);
            },
        .tolerance = rounds ? 4e-3 : 2e-6,
    });
  }
#if defined(NEMOTRON_X86)
  if (cpu::isa_available(cpu::Isa::avx512bf16)) {
    test::add_op_cases({
        .name = "amx-emulated",
        .open =
            [](std::unique_ptr<Device>* out) {
              *out = cpu::make_cpu_device(test::emulated_amx_kernels(), 3, true);
              return Status();
            },
        .tolerance = 4e-3,
    });
  }
#endif
  return test::run_all(argc, argv);
}
