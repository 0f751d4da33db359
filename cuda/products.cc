#include "cuda/products.h"

#include <algorithm>

namespace nemotron::cuda {
namespace {

constexpr int32_t kSlice = 1024;  // rows of a product that waits to be scaled
size_t widened_bytes(const Matrix& w) {
  return (size_t(w.rows) * size_t(w.k) * 2 + 255) / 256 * 256;
}

}  // namespace

size_t Products::workspace_bytes(const Matrix& w, int32_t rows) const {
  if (!use_library_) return 0;
  const size_t product =
      w.scale ? size_t(std::min(rows, kSlice)) * size_t(w.rows) * sizeof(float) : 0;
  return (w.fp8 ? widened_bytes(w) : 0) + product;
}

// The library multiplies BF16: an FP8 matrix is widened once a product (exactly; its scale comes
// after).
const uint16_t* Products::widened(const Matrix& w) {
  if (!w.fp8) return reinterpret_cast<const uint16_t*>(w.data);
  widen(context_->queue(), w, reinterpret_cast<uint16_t*>(workspace_));
  return reinterpret_cast<const uint16_t*>(workspace_);
}

void Products::bf16(const PromptGemm& p, uint16_t* out, int64_t stride) {
  if (use_library_ && library_.multiply(p.a, p.a_stride, widened(p.w), p.w.k, p.rows, p.w.rows,
                                        p.w.k, out, stride, false, false)) {
    return;
  }
  if (context_->ok()) gemm_prompt_bf16(context_->queue(), p, out, stride);
}

void Products::store(const PromptGemm& p, float* out) {
  if (use_library_ && by_library(p, false, out)) return;
  if (context_->ok()) gemm_prompt_store(context_->queue(), p, out, p.w.rows);
}

void Products::add(const PromptGemm& p, float* x) {
  if (use_library_ && by_library(p, true, x)) return;
  if (context_->ok()) gemm_prompt_add(context_->queue(), p, x, p.w.rows);
}

// The library cannot scale rows of w: where they have scales, the product goes through memory.
bool Products::by_library(const PromptGemm& p, bool add, float* out) {
  const uint16_t* w = widened(p.w);
  if (!p.w.scale) {
    return library_.multiply(p.a, p.a_stride, w, p.w.k, p.rows, p.w.rows, p.w.k, out, p.w.rows,
                             true, add);
  }
  auto* product = reinterpret_cast<float*>(workspace_ + (p.w.fp8 ? widened_bytes(p.w) : 0));
  for (int32_t at = 0; at < p.rows; at += kSlice) {
    const int32_t n = std::min(kSlice, p.rows - at);
    if (!library_.multiply(p.a + at * p.a_stride, p.a_stride, w, p.w.k, n, p.w.rows, p.w.k, product,
                           p.w.rows, true, false)) {
      return false;  // at the first slice, or the context has failed
    }
    scale_rows(context_->queue(), product, p.w.scale, n, p.w.rows, add,
               out + int64_t(at) * p.w.rows);
  }
  return true;
}

}  // namespace nemotron::cuda
