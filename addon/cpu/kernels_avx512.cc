#include "cpu/kernel_body.h"
#include "cpu/simd_avx512.h"

namespace nemotron::cpu {

const Kernels* avx512_kernels() {
  static const Kernels k = Body<Avx512>::table(Isa::avx512);
  return &k;
}

}  // namespace nemotron::cpu
