#include "cpu/kernel_body.h"
#include "cpu/simd_avx2.h"

namespace nemotron::cpu {

const Kernels* avx2_kernels() {
  static const Kernels k = Body<Avx2>::table(Isa::avx2);
  return &k;
}

}  // namespace nemotron::cpu
