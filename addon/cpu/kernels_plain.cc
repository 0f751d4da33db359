#include "cpu/int8_body.h"
#include "cpu/kernel_body.h"
#include "cpu/simd_plain.h"

namespace nemotron::cpu {

const Kernels* plain_kernels() {
  static const Kernels k = [] {
    Kernels table = Body<Plain>::table(Isa::plain);
    static const Kernels int8 = Int8Body<Plain>::table(table);
    table.int8 = &int8;
    return table;
  }();
  return &k;
}

}  // namespace nemotron::cpu
