// The op suite on every instruction set that this machine has, three threads each, and
// on AMX emulated.
#include "test/ops/ops.h"

#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include <cmath>
#include <set>

#include "cpu/cpu_device.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/tile_check.h"
#include "test/ops/amx_emulated.h"

namespace {

using namespace nemotron;

// Of what a machine's tiles are asked before they are trusted.
void add_check_case() {
  test::add_case("a wrong tile product is noticed", [] {
    const cpu::Kernels& plain = *cpu::plain_kernels();
    EXPECT(cpu::same_products(plain, plain));
#if defined(NEMOTRON_X86)
    if (cpu::isa_available(cpu::Isa::avx512bf16)) {
      EXPECT(cpu::same_products(*test::emulated_amx_kernels(), plain));
      EXPECT(cpu::same_row_bits(*test::emulated_amx_kernels()));
    }
#endif
    EXPECT(cpu::same_row_bits(plain));
    cpu::Kernels wrong = plain;
    wrong.tile[int(cpu::Format::bf16)] = [](const cpu::TileArgs& t) {
      cpu::plain_kernels()->tile[int(cpu::Format::bf16)](t);
      t.c[t.c_stride * (t.rows - 1)] += 0.5f;
    };
    EXPECT(!cpu::same_products(wrong, plain));
    wrong = plain;
    wrong.tile[int(cpu::Format::fp8)] = [](const cpu::TileArgs& t) {
      cpu::plain_kernels()->tile[int(cpu::Format::fp8)](t);
      if (t.rows == 2) t.c[0] = std::nextafter(t.c[0], INFINITY);
    };
    EXPECT(!cpu::same_row_bits(wrong));
    wrong = plain;
    wrong.tile[int(cpu::Format::i8)] = [](const cpu::TileArgs& t) {
      cpu::plain_kernels()->tile[int(cpu::Format::i8)](t);
      if (t.rows == 2) t.c[0] = std::nextafter(t.c[0], INFINITY);
    };
    EXPECT(!cpu::same_row_bits(wrong));
    cpu::Kernels int8 = *plain.int8;
    int8.tile[int(cpu::Format::i6)] = [](const cpu::TileArgs& t) {
      cpu::plain_kernels()->int8->tile[int(cpu::Format::i6)](t);
      if (t.rows == 3) t.c[0] = std::nextafter(t.c[0], INFINITY);
    };
    wrong = plain;
    wrong.int8 = &int8;
    EXPECT(!cpu::same_row_bits(wrong));
  });
}

// Whether a device with the same sampling was here before.
bool borrows_sampling(const cpu::Kernels* kernels) {
  static std::set<decltype(kernels->find)> seen;
  return !seen.insert(kernels->find).second;
}

// More than one block of rows keeps near, and not a multiple of what threads take.
constexpr int64_t kManyOutputs = 2224;

// Where only some of the weights meet activations of 8 bits, and a reference rounds none.
constexpr double kInt8Tolerance = 1.5e-2;

void add_isa(cpu::Isa isa) {
  if (!cpu::isa_available(isa)) {
    std::printf("this machine has no %s: skipped\n", cpu::isa_name(isa));
    return;
  }
  const auto open = [isa](bool round, bool int8 = false) {
    const DeviceOptions options{.threads = 3,
                                .isa = cpu::isa_name(isa),
                                .exact_activations = !round,
                                .int8_activations = int8,
                                .debug_checks = true};
    return [options](std::unique_ptr<Device>* out) { return open_cpu_device(options, out); };
  };
  const cpu::Kernels *kernels = cpu::kernels_for(isa), *exact = cpu::exact_kernels(kernels);
  const bool rounds = exact != kernels, borrows = rounds && exact->isa != isa;
  test::add_op_cases({.name = cpu::isa_name(isa),
                      .open = open(false),
                      .tolerance = 2e-5,
                      .f16_kv = true,
                      .any_rotary = true,
                      .borrows_attention = borrows,
                      .borrows_sampling = borrows_sampling(exact),
                      .many_outputs = kManyOutputs});
  if (rounds) {
    test::add_op_cases({.name = std::string(cpu::isa_name(isa)) + "-rounded",
                        .open = open(true),
                        .tolerance = 4e-3,
                        .f16_kv = true,
                        .any_rotary = true,
                        .borrows_attention = true,
                        .borrows_sampling = borrows_sampling(kernels),
                        .many_outputs = kManyOutputs});
  }
  test::add_grouped_cases({.name = std::string(cpu::isa_name(isa)) + "-int8",
                           .open = open(true, true),
                           .tolerance = kInt8Tolerance,
                           .int8_activations = true});
}

#if defined(NEMOTRON_X86)
void add_emulated_amx() {
  if (!cpu::isa_available(cpu::Isa::avx512bf16)) return;
  const auto open = [](bool round, bool int8 = false) {
    return [round, int8](std::unique_ptr<Device>* out) {
      DeviceOptions options;
      options.exact_activations = !round;
      options.int8_activations = int8;
      options.debug_checks = true;
      *out = cpu::make_cpu_device(test::emulated_amx_kernels(), 3, options);
      return Status();
    };
  };
  for (const bool round : {false, true}) {
    test::add_op_cases({.name = round ? "amx-emulated-rounded" : "amx-emulated",
                        .open = open(round),
                        .tolerance = round ? 4e-3 : 2e-5,
                        .f16_kv = true,
                        .any_rotary = true,
                        .borrows_attention = true,
                        .borrows_sampling = true,
                        .many_outputs = kManyOutputs});
  }
  test::add_grouped_cases({.name = "amx-emulated-int8",
                           .open = open(true, true),
                           .tolerance = kInt8Tolerance,
                           .int8_activations = true});
}
#endif

}  // namespace

int main(int argc, char** argv) {
  // Of thousands of devices little is ever filled: a page of two megabytes, which is zeroed whole,
  // would be a tenth of the time that they take.
#if defined(__linux__)
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
#endif
  for (cpu::Isa isa : cpu::kAllIsas) add_isa(isa);
#if defined(NEMOTRON_X86)
  add_emulated_amx();
#endif
  add_check_case();
  return test::run_all(argc, argv);
}
