#include "cpu/kernel_body.h"
#include "cpu/simd_plain.h"

namespace nemotron::cpu {

const Kernels* plain_kernels() {
  static const Kernels k = Body<Plain>::table(Isa::plain);
  return &k;
}

}  // namespace nemotron::cpu
