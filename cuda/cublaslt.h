// cuBLASLt by way of a table of functions: found at run time, never linked, so that the backend
// builds and runs without it. Only what one kind of product needs, declared here: the values are
// NVIDIA's stable ABI.
//
// Owned by Products; used by the device's thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "cuda/context.h"
#include "cuda/kernels.h"

namespace nemotron::cuda {

class CublasLt {
 public:
  explicit CublasLt(Context* context) : context_(context) {}
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // False, and *why, when the library cannot be used here. Looks at $NEMOTRON_CUBLASLT (a file),
  // then asks the loader for libcublasLt.so.13 and .12, then looks in $CUDA_HOME and the usual
  // toolkit folder.
  bool open(std::string* why);
  const std::string& version() const { return version_; }

  // out [rows, weights] (f32 or bf16, `stride` elements a row) = a w^T, or += where `add` (f32
  // only). a [rows, k] and w [weights, k] are BF16, row-major. One algorithm a (weights, k, kind):
  // chosen for the first product of a shape with a fixed number of rows, then used for every number
  // of rows, so that a row's result does not depend on the others. False: cuBLASLt has none for
  // this shape (or the context failed).
  bool multiply(const uint16_t* a, int64_t a_stride, const uint16_t* w, int64_t w_stride,
                int32_t rows, int32_t weights, int32_t k, void* out, int64_t stride, bool f32,
                bool add);

 private:
  struct Functions;
  struct Algorithm {
    uint64_t data[8];
    bool found = false;
  };
  bool check(int status, const char* doing);

  Context* context_;
  Functions* functions_ = nullptr;
  void* handle_ = nullptr;
  void* workspace_ = nullptr;
  std::string version_;
  std::map<std::tuple<int32_t, int32_t, bool>, Algorithm> algorithms_;
};

}  // namespace nemotron::cuda
