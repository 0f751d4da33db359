#include "cpu/int8_body.h"
#include "cpu/kernel_body.h"
#include "cpu/simd_avx512.h"

namespace nemotron::cpu {

const Kernels* avx512_kernels() {
  static const Kernels k = [] {
    Kernels table = Body<Avx512>::table(Isa::avx512);
    static const Kernels int8 = Int8Body<Avx512, kNextCall>::table(table);
    table.int8 = &int8;
    return table;
  }();
  return &k;
}

}  // namespace nemotron::cpu
