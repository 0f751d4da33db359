#include "cuda/products.h"

#include <algorithm>

#include "cuda/workspace.h"

namespace nemotron::cuda {
namespace {

size_t aligned(size_t n) { return (n + 255) / 256 * 256; }
size_t widened_bytes(const Matrix& w) { return aligned(size_t(w.rows) * size_t(w.k) * 2); }
size_t rounded_bytes(const Matrix& w) { return aligned(size_t(kPromptSlice) * size_t(w.k)); }
constexpr size_t kScaleBytes = size_t(kPromptSlice) * sizeof(float);
// Of products before they are scaled.
size_t unscaled_bytes(const Matrix& w, int32_t rows) {
  return size_t(std::min(rows, kPromptSlice)) * size_t(w.rows) * sizeof(float);
}

}  // namespace

// What a product of the library takes: a (and its rows' scales), w, and memory that is free.
struct Products::Operands {
  const void* a = nullptr;
  int64_t a_stride = 0;
  const float* scale = nullptr;
  const void* w = nullptr;
  uint8_t* rest = nullptr;
};

Status Products::open(bool fp8_activations) {
  use_library_ = library_.open(&why_);
  fp8_activations_ = fp8_activations;
  if (!fp8_activations) return {};
  const cudaDeviceProp& p = context_->properties();
  if (p.major * 10 + p.minor < 89) {
    return Status::unsupported("FP8 activations: found sm_" +
                               std::to_string(p.major * 10 + p.minor) +
                               ", expected sm_89 or later");
  }
  if (!use_library_) return Status::unavailable("FP8 activations need cuBLASLt: " + why_);
  return {};
}

std::string Products::name() const {
  if (!use_library_) return "own kernels for prompts: " + why_;
  std::string name =
      "cuBLASLt " + library_.version() + (fp8_activations_ ? ", FP8 activations" : "");
  if (const int lacks = library_.asked() - library_.found(); lacks > 0) {
    name += ", which lacks " + std::to_string(lacks) + " of " + std::to_string(library_.asked()) +
            " kinds of products";
  }
  return name;
}

LtProduct Products::product(const Matrix& w, int32_t rows, bool fp8, bool f32,
                            int64_t stride) const {
  LtProduct p;
  p.rows = rows;
  p.fp8 = fp8;
  p.a_stride = w.k;
  p.weights = w.rows;
  p.k = w.k;
  p.stride = stride;
  p.f32 = f32;
  return p;
}

// Decided by the matrix alone: `rows` count when it is asked for the first time.
bool Products::rounds(const Matrix& w, int32_t rows, bool f32, int64_t stride) {
  return fp8_activations_ && w.fp8 && w.rows % 16 == 0 &&
         library_.has(product(w, rows, true, f32, stride));
}

size_t Products::prepare(const Matrix& w, int32_t rows) {
  if (!use_library_) return w.packed ? widened_bytes(w) : 0;
  size_t operands = w.packed ? widened_bytes(w) : 0;
  bool scaled = w.scale != nullptr;
  for (const bool f32 : {false, true}) {
    const int64_t stride = f32 ? w.rows : unscaled_stride(w);
    if (rounds(w, rows, f32, stride)) {
      operands = std::max(operands, rounded_bytes(w) + kScaleBytes);
      scaled = true;
    } else {
      library_.has(product(w, rows, false, f32, stride));
      if (w.fp8) operands = std::max(operands, widened_bytes(w));
    }
  }
  return operands + (scaled ? unscaled_bytes(w, rows) : 0);
}

size_t Products::most_bytes(const MatrixShape& of, int32_t rows, NarrowWeights narrow) const {
  Matrix w;
  w.rows = of.rows;
  w.k = padded_k(of.cols);
  const size_t packed = narrow.groups ? widened_bytes(w) : 0;
  if (!use_library_ || !narrow.fp8) return packed;
  const size_t rounded = fp8_activations_ ? rounded_bytes(w) + kScaleBytes : 0;
  return std::max(widened_bytes(w), rounded) + unscaled_bytes(w, rows);
}

Matrix Products::plain(const Matrix& w) {
  if (!w.packed) return w;
  if (widened_ != w.data)  // the slice before has done it
    widen_packed(context_->queue(), w, reinterpret_cast<uint16_t*>(workspace_));
  widened_ = w.data;
  Matrix m = w;
  m.packed = nullptr;
  m.data = workspace_;
  m.stride = int64_t(w.k) * 2;
  return m;
}

Products::Operands Products::operands(const PromptGemm& p, bool rounded) {
  Operands o{p.a, p.a_stride, nullptr, p.w.data, workspace_};
  if (rounded) {
    widened_ = nullptr;
    auto* scale = reinterpret_cast<float*>(workspace_ + rounded_bytes(p.w));
    round_rows(context_->queue(), {p.a, p.a_stride, p.rows, p.w.k, workspace_, scale});
    o.a = workspace_;
    o.a_stride = p.w.k;
    o.scale = scale;
    o.rest = workspace_ + rounded_bytes(p.w) + kScaleBytes;
  } else if (p.w.fp8) {
    if (widened_ != p.w.data)  // the slice before has done it
      widen(context_->queue(), p.w, reinterpret_cast<uint16_t*>(workspace_));
    widened_ = p.w.data;
    o.w = workspace_;
    o.rest = workspace_ + widened_bytes(p.w);
  }
  return o;
}

const float* Products::bf16(const PromptGemm& of, uint16_t* out, int64_t stride) {
  PromptGemm p = of;
  p.w = plain(of.w);
  const bool rounded = use_library_ && rounds(p.w, p.rows, false, stride);
  LtProduct l = product(p.w, p.rows, rounded, false, stride);
  if (!use_library_ || !library_.has(l)) {
    if (context_->ok()) gemm_prompt_bf16(context_->queue(), p, out, stride);
    return nullptr;
  }
  const Operands o = operands(p, rounded);
  l.a = o.a;
  l.a_stride = o.a_stride;
  l.w = o.w;
  l.out = out;
  library_.multiply(l);
  return o.scale;
}

// The library scales neither rows of w nor of a: where they have scales, the product goes through
// memory, in slices.
void Products::add(const PromptGemm& of, float* x) {
  PromptGemm p = of;
  p.w = plain(of.w);
  const bool rounded = use_library_ && rounds(p.w, p.rows, true, p.w.rows);
  LtProduct l = product(p.w, p.rows, rounded, true, p.w.rows);
  if (!use_library_ || !library_.has(l)) {
    if (context_->ok()) gemm_prompt_add(context_->queue(), p, x, p.w.rows);
    return;
  }
  const bool scaled = rounded || p.w.scale;
  for (int32_t at = 0; at < p.rows && context_->ok();) {
    PromptGemm slice = p;
    slice.a = p.a + at * p.a_stride;
    slice.rows = scaled ? std::min(kPromptSlice, p.rows - at) : p.rows;
    float* to = x + int64_t(at) * p.w.rows;
    const Operands o = operands(slice, rounded);
    l.a = o.a;
    l.a_stride = o.a_stride;
    l.w = o.w;
    l.rows = slice.rows;
    l.out = scaled ? static_cast<void*>(o.rest) : to;
    l.add = !scaled;
    library_.multiply(l);
    if (scaled && context_->ok()) {
      const auto* y = static_cast<const float*>(l.out);
      scale_rows(context_->queue(), {y, p.w.scale, o.scale, slice.rows, p.w.rows, true, to});
    }
    at += slice.rows;
  }
}

}  // namespace nemotron::cuda
