// Switches: what the environment may turn off or choose when a device opens, to bisect a fault on a
// GPU without a compiler. Read once; the device keeps them.
#pragma once

#include "device/status.h"

namespace nemotron::cuda {

struct Switches {
  // $NEMOTRON_CUDA_GRAPHS, 1 or 0: steps of generated rows are replayed as graphs.
  bool graphs = true;
  // $NEMOTRON_CUDA_PDL, 1 or 0: kernels start before the one before them has ended (sm_90 and
  // later).
  bool pdl = true;
  // $NEMOTRON_CUDA_SYNC, 0 or 1: every launch is waited for, and an error names its kernel. No
  // graphs then.
  bool synchronous = false;
  // $NEMOTRON_PROMPT_ATTENTION, mma or wgmma: the attention kernel of prompt rows, where both can.
  bool wgmma_attention = false;
  // $NEMOTRON_DECODE_PRODUCTS, mma or wgmma: the products of generated rows and of the head, all of
  // them.
  bool wgmma_products = false;
  // $NEMOTRON_PROMPT_PRODUCTS, library or decode: whether those of generated rows take prompt rows
  // too, so that a step has one product for all its rows.
  bool one_product = false;
};

// Not ok: a variable has a value that it cannot have. Empty is as unset.
Status read_switches(Switches* out);

}  // namespace nemotron::cuda
