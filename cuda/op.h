// Op: one call of the Device interface as plain data. Lists of them are what a captured graph is
// compared by; StepOps turns one into kernels.
#pragma once

#include <cstdint>

namespace nemotron::cuda {

struct Op {
  enum class Kind : uint8_t {
    embed,
    attention_input,
    attention,
    gemm_residual,
    mlp_input,
    norm,
    head,
    sample
  };
  Kind kind = Kind::embed;
  int32_t layer = 0, n = 0, first = 0, cols = 0;
  bool relu2 = false;  // mlp_input: its activation
  float number = 0;    // eps or scale
  const void* weight = nullptr;
  const void* gain = nullptr;
  const void* bias = nullptr;  // of a LayerNorm; null: an RMS norm
  void *out = nullptr, *in = nullptr;
  bool operator==(const Op&) const = default;
};

}  // namespace nemotron::cuda
