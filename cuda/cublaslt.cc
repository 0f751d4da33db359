#include "cuda/cublaslt.h"

#include <algorithm>
#include <iterator>
#include <string>

namespace nemotron::cuda {

using namespace lt;

namespace {

// The number of rows that algorithms are chosen for, and how many are looked at.
constexpr int32_t kTypicalRows = 1024;
constexpr int kCandidates = 8;
// Numbers of rows that an algorithm has to take, beside the most: fewer than a tile, no multiple of
// one, many tiles.
constexpr int32_t kCheckedRows[] = {1, 8, 16, 127, kTypicalRows};

// The largest power of two, up to sixteen, that the beginnings of all rows are multiples of.
uint32_t row_alignment(int64_t stride, int64_t element) {
  uint32_t alignment = 16;
  while (stride * element % alignment != 0) alignment /= 2;
  return alignment;
}

}  // namespace

bool CublasLt::open(std::string* why) {
  Functions& f = functions_;
  if (!library_.open("NEMOTRON_CUBLASLT", {"libcublasLt.so.13", "libcublasLt.so.12"}, why) ||
      !library_.bind(&f.version, "cublasLtGetVersion", why) ||
      !library_.bind(&f.create, "cublasLtCreate", why) ||
      !library_.bind(&f.destroy, "cublasLtDestroy", why) ||
      !library_.bind(&f.desc_create, "cublasLtMatmulDescCreate", why) ||
      !library_.bind(&f.desc_destroy, "cublasLtMatmulDescDestroy", why) ||
      !library_.bind(&f.desc_set, "cublasLtMatmulDescSetAttribute", why) ||
      !library_.bind(&f.layout_create, "cublasLtMatrixLayoutCreate", why) ||
      !library_.bind(&f.layout_destroy, "cublasLtMatrixLayoutDestroy", why) ||
      !library_.bind(&f.preference_create, "cublasLtMatmulPreferenceCreate", why) ||
      !library_.bind(&f.preference_destroy, "cublasLtMatmulPreferenceDestroy", why) ||
      !library_.bind(&f.preference_set, "cublasLtMatmulPreferenceSetAttribute", why) ||
      !library_.bind(&f.heuristic, "cublasLtMatmulAlgoGetHeuristic", why) ||
      !library_.bind(&f.check, "cublasLtMatmulAlgoCheck", why) ||
      !library_.bind(&f.get_config, "cublasLtMatmulAlgoConfigGetAttribute", why) ||
      !library_.bind(&f.matmul, "cublasLtMatmul", why)) {
    return false;
  }
  const size_t version = f.version();
  // 12.x says 120xxx, 13.x 130xxx.
  if (version / 10000 != 12 && version / 10000 != 13) {
    *why = "cuBLASLt is version " + std::to_string(version) + ", 12 or 13 is served";
    return false;
  }
  if (const int status = f.create(&handle_); status != 0) {
    handle_ = nullptr;
    *why = "cublasLtCreate fails with status " + std::to_string(status);
    return false;
  }
  version_ = std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100);
  return true;
}

CublasLt::~CublasLt() {
  if (handle_) functions_.destroy(handle_);
}

// cuBLASLt thinks in columns: out^T [weights, rows] = w^T' a^T, w being [k, weights] there.
class CublasLt::Description {
 public:
  Description(const Functions& f, const LtProduct& p, int32_t rows) : f_(f) {
    const int in = p.fp8 ? kR8FE4M3 : kR16BF, result = p.f32 ? kR32F : kR16BF;
    good_ = f.desc_create(&desc, kCompute32F, kR32F) == 0 &&
            f.desc_set(desc, kTransA, &kOpT, sizeof kOpT) == 0 &&
            f.layout_create(&w, in, uint64_t(p.k), uint64_t(p.weights), p.k) == 0 &&
            f.layout_create(&a, in, uint64_t(p.k), uint64_t(rows), p.a_stride) == 0 &&
            f.layout_create(&out, result, uint64_t(p.weights), uint64_t(rows), p.stride) == 0;
  }
  ~Description() {
    for (Layout l : {w, a, out}) {
      if (l) f_.layout_destroy(l);
    }
    if (desc) f_.desc_destroy(desc);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  bool good() const { return good_; }

  Desc desc = nullptr;
  Layout w = nullptr, a = nullptr, out = nullptr;

 private:
  const Functions& f_;
  bool good_ = false;
};

// Whether a row's result is the same whatever the number of rows, as far as the library can tell.
bool CublasLt::suits(const LtProduct& p, const Heuristic& candidate) const {
  int32_t split = 0;
  size_t written = 0;
  if (candidate.state != 0 ||
      functions_.get_config(&candidate.algorithm, kSplitK, &split, sizeof split, &written) != 0 ||
      split > 1) {
    return false;
  }
  const auto takes = [&](int32_t rows) {
    const Description d(functions_, p, rows);
    Heuristic result = {};
    return d.good() &&
           functions_.check(handle_, d.desc, d.w, d.a, d.out, d.out, &candidate.algorithm,
                            &result) == 0 &&
           result.state == 0 && result.workspace == 0;
  };
  return std::all_of(std::begin(kCheckedRows), std::end(kCheckedRows), takes) && takes(p.rows);
}

const CublasLt::Choice& CublasLt::choose(const LtProduct& p) {
  const Key key{p.weights, p.k, p.stride, p.fp8, p.f32};
  if (const auto it = choices_.find(key); it != choices_.end()) return it->second;
  const Functions& f = functions_;
  const Description d(f, p, kTypicalRows);
  Preference preference = nullptr;
  Heuristic candidates[kCandidates] = {};
  int n = 0;
  const auto prefer = [&](int attribute, const auto& value) {
    return f.preference_set(preference, attribute, &value, sizeof value) == 0;
  };
  // Pointers are rows of larger buffers: what the library may assume of them is less than its
  // default of 256 bytes.
  const uint32_t in = row_alignment(p.a_stride, p.fp8 ? 1 : 2),
                 weights = row_alignment(p.k, p.fp8 ? 1 : 2),
                 out = row_alignment(p.stride, p.f32 ? 4 : 2);
  const bool asked = d.good() && f.preference_create(&preference) == 0 &&
                     prefer(kMaxWorkspace, size_t(0)) && prefer(kReductionMask, kNoReduction) &&
                     prefer(kAlignmentA, weights) && prefer(kAlignmentB, in) &&
                     prefer(kAlignmentC, out) && prefer(kAlignmentD, out) &&
                     f.heuristic(handle_, d.desc, d.w, d.a, d.out, d.out, preference, kCandidates,
                                 candidates, &n) == 0;
  if (preference) f.preference_destroy(preference);
  Choice choice;
  for (int i = 0; asked && i < n && !choice.found; ++i) {
    choice.algorithm = candidates[i].algorithm;
    choice.found = suits(p, candidates[i]);
  }
  return choices_.emplace(key, choice).first->second;
}

bool CublasLt::has(const LtProduct& p) { return choose(p).found; }

int CublasLt::found() const {
  return int(std::count_if(choices_.begin(), choices_.end(),
                           [](const auto& choice) { return choice.second.found; }));
}

void CublasLt::multiply(const LtProduct& p) {
  if (!context_->ok()) return;
  const Choice& choice = choose(p);
  const Description d(functions_, p, p.rows);
  const float one = 1, beta = p.add ? 1.0f : 0.0f;
  const int status =
      choice.found && d.good()
          ? functions_.matmul(handle_, d.desc, &one, p.w, d.w, p.a, d.a, &beta, p.out, d.out, p.out,
                              d.out, &choice.algorithm, nullptr, 0, context_->stream())
          : kInvalidValue;
  if (status == 0) {
    if (context_->queue().synchronous) {
      context_->check(cudaStreamSynchronize(context_->stream()), "a product of cuBLASLt");
    }
    return;
  }
  context_->fail(Status::internal(
      "cuBLASLt refuses a product of " + std::to_string(p.rows) + " rows with " +
      std::to_string(p.weights) + " x " + std::to_string(p.k) + (p.fp8 ? " FP8" : " BF16") +
      " weights, of a kind that it accepted: status " + std::to_string(status)));
}

}  // namespace nemotron::cuda
