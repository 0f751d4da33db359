// Products: the matrix products of prompt rows. Owned by a CudaDevice; used by its thread.
#pragma once

#include <string>

#include "cuda/context.h"
#include "cuda/kernels.h"

namespace nemotron::cuda {

class Products {
 public:
  explicit Products(Context* context) : context_(context) {}
  Status open() { return {}; }
  std::string name() const { return "own kernels"; }

  void bf16(const PromptGemm& p, uint16_t* out, int64_t stride) {  // not scaled
    gemm_prompt_bf16(context_->queue(), p, out, stride);
  }
  void store(const PromptGemm& p, float* out, int64_t stride) {
    gemm_prompt_store(context_->queue(), p, out, stride);
  }
  void add(const PromptGemm& p, float* x, int64_t stride) { gemm_prompt_add(context_->queue(), p, x, stride); }

 private:
  Context* context_;
};

}  // namespace nemotron::cuda
