#include "cpu/int8_body.h"
#include "cpu/kernel_body.h"
#include "cpu/simd_avx512bf16.h"

namespace nemotron::cpu {

const Kernels* avx512bf16_kernels() {
  static const Kernels k = [] {
    Kernels table = Body<Avx512Bf16>::table(Isa::avx512bf16);
    table.exact = avx512_kernels();
    static const Kernels int8 = Int8Body<Avx512Bf16, kNextCall>::table(table);
    table.int8 = &int8;
    return table;
  }();
  return &k;
}

}  // namespace nemotron::cpu
