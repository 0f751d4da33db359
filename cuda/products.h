// Products: the matrix products of prompt rows, by cuBLASLt where it is to be had, else by own
// kernels; which of the two is decided once, when the device opens. Owned by a CudaDevice; used by
// its thread.
#pragma once

#include <string>

#include "cuda/cublaslt.h"

namespace nemotron::cuda {

class Products {
 public:
  explicit Products(Context* context) : context_(context), library_(context) {}

  void open() { use_library_ = library_.open(&why_); }
  std::string name() const {
    return use_library_ ? "cuBLASLt " + library_.version() : "own kernels";
  }
  // Bytes that a product with w needs on top of its operands, at most for so many rows.
  size_t workspace_bytes(const Matrix& w, int32_t rows) const;
  void set_workspace(uint8_t* p) { workspace_ = p; }

  void bf16(const PromptGemm& p, uint16_t* out, int64_t stride);  // not scaled
  void store(const PromptGemm& p, float* out);                    // out [rows, w.rows]
  void add(const PromptGemm& p, float* x);                        // x [rows, w.rows]

 private:
  const uint16_t* widened(const Matrix& w);
  bool by_library(const PromptGemm& p, bool add, float* out);

  Context* context_;
  CublasLt library_;
  bool use_library_ = false;
  std::string why_;
  uint8_t* workspace_ = nullptr;  // FP8: the matrix as BF16, then a product before it is scaled
};

}  // namespace nemotron::cuda
