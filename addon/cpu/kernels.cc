#include "cpu/kernels.h"

namespace nemotron::cpu {

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
#if defined(NEMOTRON_X86)
  if (kernels->isa == Isa::avx512bf16 || kernels->isa == Isa::amx) return avx512_kernels();
#endif
  return kernels;
}

}  // namespace nemotron::cpu
