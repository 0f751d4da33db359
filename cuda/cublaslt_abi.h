// The part of cuBLASLt that is used, declared here: its values are NVIDIA's stable ABI, so that no
// header is needed to build. test/cublaslt_abi.cc compares them with the header where there is one.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace nemotron::cuda::lt {

using Handle = void*;
using Desc = void*;
using Layout = void*;
using Preference = void*;

// cublasStatus_t
inline constexpr int kInvalidValue = 7, kNotSupported = 15;
// cublasComputeType_t, cudaDataType
inline constexpr int kCompute32F = 68;
inline constexpr int kR32F = 0, kR16BF = 14, kR8FE4M3 = 28;
// cublasLtMatmulDescAttributes_t, cublasOperation_t
inline constexpr int kTransA = 3;
inline constexpr int32_t kOpT = 1;
// cublasLtMatmulPreferenceAttributes_t
inline constexpr int kMaxWorkspace = 1, kReductionMask = 3;
inline constexpr int kAlignmentA = 5, kAlignmentB = 6, kAlignmentC = 7, kAlignmentD = 8;
// cublasLtReductionScheme_t
inline constexpr uint32_t kNoReduction = 0;
// cublasLtMatmulAlgoConfigAttributes_t
inline constexpr int kSplitK = 2;

struct Algorithm {  // cublasLtMatmulAlgo_t
  uint64_t data[8];
};
struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

struct Functions {
  size_t (*version)();
  int (*create)(Handle*);
  int (*destroy)(Handle);
  int (*desc_create)(Desc*, int compute, int scale);
  int (*desc_destroy)(Desc);
  int (*desc_set)(Desc, int attribute, const void*, size_t);
  int (*layout_create)(Layout*, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*layout_destroy)(Layout);
  int (*preference_create)(Preference*);
  int (*preference_destroy)(Preference);
  int (*preference_set)(Preference, int attribute, const void*, size_t);
  int (*heuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference, int wanted,
                   Heuristic*, int* found);
  int (*check)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, const Algorithm*, Heuristic*);
  int (*get_config)(const Algorithm*, int attribute, void*, size_t, size_t* written);
  int (*matmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b, Layout,
                const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*,
                void* workspace, size_t bytes, cudaStream_t);
};

}  // namespace nemotron::cuda::lt
