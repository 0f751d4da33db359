#include "cpu/kernel_body.h"
#include "cpu/simd_avx512bf16.h"

namespace nemotron::cpu {

const Kernels* avx512bf16_kernels() {
  static const Kernels k = [] {
    Kernels table = Body<Avx512Bf16>::table(Isa::avx512bf16);
    table.exact = avx512_kernels();
    return table;
  }();
  return &k;
}

}  // namespace nemotron::cpu
