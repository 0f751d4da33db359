// cuBLASLt by way of a table of functions: found at run time, never linked. One kind of product:
// prompt rows times a weight.
//
// Owned by Products; used by the device's thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "cuda/context.h"
#include "cuda/cublaslt_abi.h"
#include "cuda/library.h"

namespace nemotron::cuda {

// out [rows, weights] (f32 or bf16, `stride` elements a row) = a w^T, or += where `add` (f32 only).
// a [rows, k] and w [weights, k], row-major, are both BF16 or both E4M3.
struct LtProduct {
  bool fp8 = false;
  const void* a = nullptr;
  int64_t a_stride = 0;  // elements
  const void* w = nullptr;
  int32_t rows = 0, weights = 0, k = 0;  // rows of w lie together
  void* out = nullptr;
  int64_t stride = 0;
  bool f32 = false, add = false;
};

class CublasLt {
 public:
  explicit CublasLt(Context* context) : context_(context) {}
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // False, and *why, when the library cannot be used here. $NEMOTRON_CUBLASLT names a file.
  bool open(std::string* why);
  const std::string& version() const { return version_; }

  // Whether there is an algorithm for products of this kind, of 1 to p.rows rows (pointers are not
  // looked at). One a (weights, k, types), chosen by the first call and kept: a row's result must
  // not depend on the rows beside it, so the algorithm splits no sum, takes no workspace, and takes
  // every number of rows.
  bool has(const LtProduct& p);
  // Of a kind that it has. A refusal is an error of the context, as a fault is: another kernel
  // would give other bits.
  void multiply(const LtProduct& p);
  // Kinds that were asked for, and those of them that it has.
  int asked() const { return int(choices_.size()); }
  int found() const;

 private:
  struct Choice {
    lt::Algorithm algorithm;
    bool found = false;
  };
  using Key = std::tuple<int32_t, int32_t, int64_t, bool, bool>;
  class Description;

  const Choice& choose(const LtProduct& p);
  bool suits(const LtProduct& p, const lt::Heuristic& candidate) const;

  Context* context_;
  Library library_;
  lt::Functions functions_{};
  lt::Handle handle_ = nullptr;
  std::string version_;
  std::map<Key, Choice> choices_;
};

}  // namespace nemotron::cuda
