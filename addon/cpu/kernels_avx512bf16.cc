#include "cpu/kernel_body.h"
#include "cpu/simd_avx512bf16.h"

namespace nemotron::cpu {

const Kernels* avx512bf16_kernels() {
  static const Kernels k = Body<Avx512Bf16>::table(Isa::avx512bf16);
  return &k;
}

}  // namespace nemotron::cpu
