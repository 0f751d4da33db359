#include "cpu/amx_body.h"
#include "cpu/amx_tiles.h"

namespace nemotron::cpu {

const Kernels* amx_kernels() {
  static const Kernels k = AmxBody<AmxTiles>::table();
  return &k;
}

}  // namespace nemotron::cpu
