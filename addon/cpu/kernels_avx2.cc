#include "cpu/int8_body.h"
#include "cpu/kernel_body.h"
#include "cpu/simd_avx2.h"

namespace nemotron::cpu {

const Kernels* avx2_kernels() {
  static const Kernels k = [] {
    Kernels table = Body<Avx2>::table(Isa::avx2);
    static const Kernels int8 = Int8Body<Avx2>::table(table);
    table.int8 = &int8;
    return table;
  }();
  return &k;
}

}  // namespace nemotron::cpu
