// The op suite on every instruction set that this machine has, with one thread and with three.
#include "cpu/isa.h"
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
  return test::run_all(argc, argv);
}
