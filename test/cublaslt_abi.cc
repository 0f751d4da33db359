// Our declarations of cuBLASLt against NVIDIA's header; compiled by test/cuda_compile.sh where the
// header is installed, never linked.
#include "cuda/cublaslt_abi.h"

#include <cublasLt.h>

#include "abi_alike.h"

namespace lt = nemotron::cuda::lt;

static_assert(lt::kInvalidValue == CUBLAS_STATUS_INVALID_VALUE);
static_assert(lt::kNotSupported == CUBLAS_STATUS_NOT_SUPPORTED);
static_assert(lt::kCompute32F == CUBLAS_COMPUTE_32F);
static_assert(lt::kR32F == CUDA_R_32F && lt::kR16BF == CUDA_R_16BF);
static_assert(lt::kR8FE4M3 == CUDA_R_8F_E4M3);
static_assert(lt::kTransA == CUBLASLT_MATMUL_DESC_TRANSA && lt::kOpT == CUBLAS_OP_T);
static_assert(lt::kMaxWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(lt::kReductionMask == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(lt::kAlignmentA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(lt::kAlignmentB == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(lt::kAlignmentC == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(lt::kAlignmentD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(lt::kNoReduction == CUBLASLT_REDUCTION_SCHEME_NONE);
static_assert(lt::kSplitK == CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(lt::Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(lt::Heuristic, workspace) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(lt::Heuristic, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));

static_assert(kAlike<decltype(lt::Functions::version), decltype(&cublasLtGetVersion)>);
static_assert(kAlike<decltype(lt::Functions::create), decltype(&cublasLtCreate)>);
static_assert(kAlike<decltype(lt::Functions::destroy), decltype(&cublasLtDestroy)>);
static_assert(kAlike<decltype(lt::Functions::desc_create), decltype(&cublasLtMatmulDescCreate)>);
static_assert(kAlike<decltype(lt::Functions::desc_destroy), decltype(&cublasLtMatmulDescDestroy)>);
static_assert(kAlike<decltype(lt::Functions::desc_set), decltype(&cublasLtMatmulDescSetAttribute)>);
static_assert(
    kAlike<decltype(lt::Functions::layout_create), decltype(&cublasLtMatrixLayoutCreate)>);
static_assert(
    kAlike<decltype(lt::Functions::layout_destroy), decltype(&cublasLtMatrixLayoutDestroy)>);
static_assert(
    kAlike<decltype(lt::Functions::preference_create), decltype(&cublasLtMatmulPreferenceCreate)>);
static_assert(kAlike<decltype(lt::Functions::preference_destroy),
                     decltype(&cublasLtMatmulPreferenceDestroy)>);
static_assert(kAlike<decltype(lt::Functions::preference_set),
                     decltype(&cublasLtMatmulPreferenceSetAttribute)>);
static_assert(
    kAlike<decltype(lt::Functions::heuristic), decltype(&cublasLtMatmulAlgoGetHeuristic)>);
static_assert(kAlike<decltype(lt::Functions::check), decltype(&cublasLtMatmulAlgoCheck)>);
static_assert(
    kAlike<decltype(lt::Functions::get_config), decltype(&cublasLtMatmulAlgoConfigGetAttribute)>);
static_assert(kAlike<decltype(lt::Functions::matmul), decltype(&cublasLtMatmul)>);
