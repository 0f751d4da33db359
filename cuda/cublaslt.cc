#include "cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <type_traits>
#include <vector>

namespace nemotron::cuda {
namespace {

// cublasLt.h and library_types.h.
using Handle = void*;
using Desc = void*;
using Layout = void*;
using Preference = void*;
constexpr int kCompute32F = 68;        // CUBLAS_COMPUTE_32F
constexpr int kR32F = 0, kR16BF = 14;  // cudaDataType
constexpr int kTransA = 3;             // CUBLASLT_MATMUL_DESC_TRANSA
constexpr int32_t kOpT = 1;            // CUBLAS_OP_T
constexpr int kMaxWorkspace = 1;       // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
constexpr int kReductionMask = 3;      // CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK

struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

constexpr size_t kWorkspaceBytes = size_t(32) << 20;
// The number of rows that algorithms are chosen for.
constexpr int32_t kTypicalRows = 1024;

}  // namespace

struct CublasLt::Functions {
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
  int (*matmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b, Layout,
                const void* beta, const void* c, Layout, void* d, Layout, const void* algorithm,
                void* workspace, size_t bytes, cudaStream_t);
};

bool CublasLt::open(std::string* why) {
  std::vector<std::string> names;
  if (const char* file = std::getenv("NEMOTRON_CUBLASLT"); file && *file) {
    names = {file};
  } else {
    std::vector<std::string> folders = {""};
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
      if (const char* home = std::getenv(variable); home && *home)
        folders.push_back(std::string(home) + "/lib64/");
    }
    folders.push_back("/usr/local/cuda/lib64/");
    for (const std::string& folder : folders) {
      for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"})
        names.push_back(folder + name);
    }
  }
  void* library = nullptr;
  for (const std::string& name : names) {
    library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library) break;
    if (why->empty()) *why = dlerror();
  }
  if (!library) return false;

  auto table = std::make_unique<Functions>();
  const auto bind = [&](auto* function, const char* name) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    if (!*function && why->empty()) *why = std::string("cuBLASLt has no ") + name;
    return *function != nullptr;
  };
  why->clear();
  if (!bind(&table->version, "cublasLtGetVersion") || !bind(&table->create, "cublasLtCreate") ||
      !bind(&table->destroy, "cublasLtDestroy") ||
      !bind(&table->desc_create, "cublasLtMatmulDescCreate") ||
      !bind(&table->desc_destroy, "cublasLtMatmulDescDestroy") ||
      !bind(&table->desc_set, "cublasLtMatmulDescSetAttribute") ||
      !bind(&table->layout_create, "cublasLtMatrixLayoutCreate") ||
      !bind(&table->layout_destroy, "cublasLtMatrixLayoutDestroy") ||
      !bind(&table->preference_create, "cublasLtMatmulPreferenceCreate") ||
      !bind(&table->preference_destroy, "cublasLtMatmulPreferenceDestroy") ||
      !bind(&table->preference_set, "cublasLtMatmulPreferenceSetAttribute") ||
      !bind(&table->heuristic, "cublasLtMatmulAlgoGetHeuristic") ||
      !bind(&table->matmul, "cublasLtMatmul")) {
    return false;
  }
  const size_t version = table->version();
  // 12.x says 120xxx, 13.x 130xxx.
  if (version / 10000 != 12 && version / 10000 != 13) {
    *why = "cuBLASLt is version " + std::to_string(version) + ", 12 or 13 is served";
    return false;
  }
  if (const int status = table->create(&handle_); status != 0) {
    handle_ = nullptr;
    *why = "cublasLtCreate fails with status " + std::to_string(status);
    return false;
  }
  if (Status s = context_->alloc(kWorkspaceBytes, &workspace_); !s) {
    *why = s.message();
    return false;
  }
  version_ = std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100);
  functions_ = table.release();
  return true;
}

CublasLt::~CublasLt() {
  if (functions_ && handle_) functions_->destroy(handle_);
  delete functions_;
}

bool CublasLt::check(int status, const char* doing) {
  if (status == 0) return true;
  context_->fail(
      Status::internal(std::string(doing) + ": cuBLASLt status " + std::to_string(status)));
  return false;
}

bool CublasLt::multiply(const uint16_t* a, int64_t a_stride, const uint16_t* w, int64_t w_stride,
                        int32_t rows, int32_t weights, int32_t k, void* out, int64_t stride,
                        bool f32, bool add) {
  const Functions& f = *functions_;
  // cuBLASLt thinks in columns: out^T [weights, rows] = w^T' a^T, w being [k, weights] there.
  Desc desc = nullptr;
  Layout lw = nullptr, la = nullptr, lo = nullptr;
  const int type = f32 ? kR32F : kR16BF;
  const auto layouts = [&](int32_t n) {
    return check(f.layout_create(&lw, kR16BF, uint64_t(k), uint64_t(weights), w_stride),
                 "describing weights") &&
           check(f.layout_create(&la, kR16BF, uint64_t(k), uint64_t(n), a_stride),
                 "describing activations") &&
           check(f.layout_create(&lo, type, uint64_t(weights), uint64_t(n), stride),
                 "describing a product");
  };
  const auto free_layouts = [&] {
    for (Layout* l : {&lw, &la, &lo}) {
      if (*l) f.layout_destroy(*l);
      *l = nullptr;
    }
  };
  bool good = check(f.desc_create(&desc, kCompute32F, kR32F), "describing a product") &&
              check(f.desc_set(desc, kTransA, &kOpT, sizeof kOpT), "describing a product");
  const auto key = std::make_tuple(weights, k, f32);
  auto it = algorithms_.find(key);
  if (good && it == algorithms_.end()) {
    Preference preference = nullptr;
    Heuristic result = {};
    int found = 0;
    // No split of K that would add up in an order of its own for other numbers of rows.
    const uint32_t no_reduction = 0;
    good =
        layouts(kTypicalRows) && check(f.preference_create(&preference), "choosing an algorithm") &&
        check(f.preference_set(preference, kMaxWorkspace, &kWorkspaceBytes, sizeof kWorkspaceBytes),
              "choosing an algorithm") &&
        check(f.preference_set(preference, kReductionMask, &no_reduction, sizeof no_reduction),
              "choosing an algorithm") &&
        check(f.heuristic(handle_, desc, lw, la, lo, lo, preference, 1, &result, &found),
              "choosing an algorithm");
    if (preference) f.preference_destroy(preference);
    free_layouts();
    if (good) {
      Algorithm algorithm;
      algorithm.found = found > 0;
      for (int i = 0; i < 8; ++i) algorithm.data[i] = result.algorithm[i];
      it = algorithms_.emplace(key, algorithm).first;
    }
  }
  if (good && !it->second.found) {
    f.desc_destroy(desc);
    return false;
  }
  const float one = 1, beta = add ? 1.0f : 0.0f;
  good = good && layouts(rows) &&
         check(f.matmul(handle_, desc, &one, w, lw, a, la, &beta, out, lo, out, lo, it->second.data,
                        workspace_, kWorkspaceBytes, context_->stream()),
               "multiplying");
  free_layouts();
  if (desc) f.desc_destroy(desc);
  return good;
}

}  // namespace nemotron::cuda
