// Products: the matrix products of prompt rows, by cuBLASLt where it is to be had, else by own
// kernels; which of the two is decided once for a matrix, before its first product. Owned by a
// CudaDevice; used by its thread.
#pragma once

#include <string>

#include "cuda/cublaslt.h"
#include "cuda/kernels.h"
#include "device/device.h"

namespace nemotron::cuda {

class Products {
 public:
  explicit Products(Context* context) : context_(context), library_(context) {}

  // `fp8_activations`: rows that meet FP8 weights are rounded to FP8 too, with a scale of their
  // own. Only cuBLASLt multiplies so, and only from sm_89 on: refused elsewhere.
  Status open(bool fp8_activations);
  std::string name() const;
  // Chooses the algorithm of w's products, of at most so many rows, where that has not been done;
  // from then on it stays. Tells the bytes that a product needs on top of its operands.
  size_t prepare(const Matrix& w, int32_t rows);
  // Most that prepare() tells of such weights of a product with so many prompt rows.
  struct MatrixShape {
    int32_t rows, cols;
  };
  size_t most_bytes(const MatrixShape& of, int32_t rows, NarrowWeights narrow) const;
  void set_workspace(uint8_t* p) {
    if (p != workspace_) widened_ = nullptr;
    workspace_ = p;
  }

  // What lies in the workspace is not known: a step begins, and those before may have been graphs.
  void forget() { widened_ = nullptr; }
  // The matrix as products of BF16 take it: one in groups lies in the workspace then.
  Matrix plain(const Matrix& w);

  // Rows at most kPromptSlice. Not scaled: neither by w.scale nor by the rows' scales, which it
  // returns (null: all 1; valid until the next product).
  const float* bf16(const PromptGemm& p, uint16_t* out, int64_t stride);
  void add(const PromptGemm& p, float* x);  // x [rows, w.rows] +=

 private:
  struct Operands;

  LtProduct product(const Matrix& w, int32_t rows, bool fp8, bool f32, int64_t stride) const;
  bool rounds(const Matrix& w, int32_t rows, bool f32, int64_t stride);
  Operands operands(const PromptGemm& p, bool rounded);

  Context* context_;
  CublasLt library_;
  bool use_library_ = false, fp8_activations_ = false;
  std::string why_;
  // Of a slice: rounded activations and their scales, or the matrix as BF16; then a product before
  // it is scaled.
  uint8_t* workspace_ = nullptr;
  const uint8_t* widened_ = nullptr;  // the matrix that lies there as BF16
};

}  // namespace nemotron::cuda
