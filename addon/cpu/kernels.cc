#include "cpu/kernels.h"

#include <algorithm>
#include <cmath>

#include "device/assert.h"
#include "device/tensor.h"

namespace nemotron::cpu {

Groups::Groups(const GroupedForm& form)
    : group(form.group),
      has_steps(form.has_steps),
      has_least(form.has_least),
      scales_bytes(int64_t(form.scales_bytes())),
      block_bytes(int64_t(form.block_bytes())) {
  // Tables are looked up by five bits at least.
  const size_t codes = form.bits < 8 ? size_t(1) << form.bits : 1;
  for (size_t i = 0; i < 64; ++i) {
    values[i] = form.values[i % codes];
    numbers[i] = bf16_to_f32(values[i]);
  }
  is_consecutive = codes > 1;
  for (size_t i = 1; i < codes; ++i) {
    is_consecutive = is_consecutive && numbers[i] == numbers[i - 1] + 1;
  }
  if (form.bits != 4) return;
  const auto is_whole = [&](float x) { return x / unit == std::nearbyint(x / unit); };
  while (!std::all_of(numbers, numbers + 16, is_whole)) unit /= 2;
  for (size_t i = 0; i < 16; ++i) {
    NEMOTRON_ASSERT(std::abs(numbers[i] / unit) < 128);
    bytes[i] = int8_t(numbers[i] / unit);
  }
}

const Kernels* kernels_for(Isa isa) {
  switch (isa) {
    case Isa::plain: return plain_kernels();
#if defined(NEMOTRON_X86)
    case Isa::avx2: return avx2_kernels();
    case Isa::avx512: return avx512_kernels();
    case Isa::avx512bf16: return avx512bf16_kernels();
    case Isa::amx: return amx_kernels();
#else
    default: break;
#endif
  }
  return nullptr;
}

const Kernels* exact_kernels(const Kernels* kernels) {
  return kernels->exact ? kernels->exact : kernels;
}

}  // namespace nemotron::cpu
