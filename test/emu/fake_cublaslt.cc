// A stand-in for libcublasLt.so on the emulated device: the same functions by the same names, each
// refusing what the real library is documented to refuse, multiplying in plain loops. Opened by the
// backend through $NEMOTRON_CUBLASLT, so that its calls, in their order and with their arguments,
// are tested without a GPU.
//
// The algorithm that serves is the last one that it offers. Those before it are each unfit in a way
// of their own, and multiplying with one is an error.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/cublaslt_abi.h"
#include "cuda_runtime.h"
#include "device/tensor.h"

namespace {

using namespace nemotron::cuda::lt;

struct MatmulDesc {
  int compute, scale;
  bool transposed_a = false;
};
struct MatrixLayout {
  int type;
  uint64_t rows, cols;
  int64_t ld;
};
struct Wishes {
  size_t workspace = 0;
  uint32_t reduction = ~0u, alignment[4] = {256, 256, 256, 256};
};
enum Kind : int32_t {
  kFailedState,     // the library itself says that it is none
  kWorkspace,       // wants memory; those who have some are offered nothing else
  kSplit,           // adds up parts of K
  kPicky,           // does not take 16 rows
  kLateWorkspace,   // wants memory for 127 rows
  kMuteAboutSplit,  // does not say into how many parts it splits K
  kSmall,           // serves, but not as many rows as kMostOfSmall
  kGood,
  kUnreliable,  // says that it takes every number of rows, and refuses 7
};
struct Choice {  // what fills an Algorithm
  uint64_t magic, types;
  uint64_t weights, k;
  uint32_t alignment[4];
  Kind kind;
};
static_assert(sizeof(Choice) <= sizeof(Algorithm));
constexpr uint64_t kMagic = 0x6e656d6f74726f6e;
constexpr int kFailed = 1;  // anything: the backend takes it as an error

constexpr size_t kWorkspaceBytes = size_t(1) << 20;
constexpr uint64_t kNone = 24, kTreacherous = 56;  // rows of weights that are served differently
constexpr uint64_t kMostOfSmall = 1500;
int products = 0;

int bytes_of(int type) { return type == kR32F ? 4 : type == kR16BF ? 2 : 1; }

// Bytes of a column-major matrix from its first to its last element.
size_t span_of(const MatrixLayout& l) {
  return (size_t(l.cols - 1) * size_t(l.ld) + l.rows) * size_t(bytes_of(l.type));
}
float value(const std::vector<uint8_t>& bytes, const MatrixLayout& l, uint64_t row, uint64_t col) {
  const size_t at = size_t(col) * size_t(l.ld) + row;
  if (l.type == kR8FE4M3) return nemotron::e4m3_to_f32(bytes[at]);
  if (l.type == kR32F) {
    float f;
    std::memcpy(&f, bytes.data() + at * 4, 4);
    return f;
  }
  uint16_t b;
  std::memcpy(&b, bytes.data() + at * 2, 2);
  return nemotron::bf16_to_f32(b);
}
bool read(std::vector<uint8_t>* to, const void* p, const MatrixLayout& l, cudaStream_t stream) {
  to->resize(span_of(l));
  return cudaMemcpyAsync(to->data(), p, to->size(), cudaMemcpyDeviceToHost, stream) == cudaSuccess;
}

// The types that the library multiplies; A and B alike, C and D alike.
bool known(int a, int b, int c, int d) {
  return a == b && c == d && (a == kR16BF || a == kR8FE4M3) && (d == kR32F || d == kR16BF);
}

bool fits(const Choice& choice, const MatrixLayout& a, const MatrixLayout& b, const MatrixLayout& c,
          const MatrixLayout& d) {
  return choice.magic == kMagic && choice.types == (uint64_t(a.type) << 32 | uint64_t(d.type)) &&
         choice.weights == a.cols && choice.k == a.rows && b.rows == a.rows && d.rows == a.cols &&
         d.cols == b.cols && known(a.type, b.type, c.type, d.type);
}

}  // namespace

extern "C" {

#define EXPORTED __attribute__((visibility("default")))

EXPORTED size_t cublasLtGetVersion() { return 130101; }
EXPORTED int cublasLtCreate(Handle* h) { return *h = new int(1), 0; }
EXPORTED int cublasLtDestroy(Handle h) { return delete static_cast<int*>(h), 0; }
EXPORTED int cublasLtMatmulDescCreate(Desc* d, int compute, int scale) {
  if (compute != kCompute32F || scale != kR32F) return kNotSupported;
  return *d = new MatmulDesc{compute, scale}, 0;
}
EXPORTED int cublasLtMatmulDescDestroy(Desc d) { return delete static_cast<MatmulDesc*>(d), 0; }
EXPORTED int cublasLtMatmulDescSetAttribute(Desc d, int attribute, const void* p, size_t bytes) {
  if (attribute != kTransA || bytes != sizeof(int32_t)) return kInvalidValue;
  static_cast<MatmulDesc*>(d)->transposed_a = *static_cast<const int32_t*>(p) == kOpT;
  return 0;
}
EXPORTED int cublasLtMatrixLayoutCreate(Layout* l, int type, uint64_t rows, uint64_t cols,
                                        int64_t ld) {
  if (rows == 0 || cols == 0 || ld < int64_t(rows)) return kInvalidValue;
  return *l = new MatrixLayout{type, rows, cols, ld}, 0;
}
EXPORTED int cublasLtMatrixLayoutDestroy(Layout l) {
  return delete static_cast<MatrixLayout*>(l), 0;
}
EXPORTED int cublasLtMatmulPreferenceCreate(Preference* p) { return *p = new Wishes, 0; }
EXPORTED int cublasLtMatmulPreferenceDestroy(Preference p) {
  return delete static_cast<Wishes*>(p), 0;
}
EXPORTED int cublasLtMatmulPreferenceSetAttribute(Preference p, int attribute, const void* v,
                                                  size_t bytes) {
  auto* w = static_cast<Wishes*>(p);
  if (attribute == kMaxWorkspace && bytes == sizeof(size_t)) {
    std::memcpy(&w->workspace, v, bytes);
  } else if (attribute == kReductionMask && bytes == sizeof(uint32_t)) {
    std::memcpy(&w->reduction, v, bytes);
  } else if (attribute >= kAlignmentA && attribute <= kAlignmentD && bytes == sizeof(uint32_t)) {
    std::memcpy(&w->alignment[attribute - kAlignmentA], v, bytes);
  } else {
    return kInvalidValue;
  }
  return 0;
}

// parameters: cuBLASLt's own
EXPORTED int cublasLtMatmulAlgoGetHeuristic(Handle, Desc desc, Layout la, Layout lb, Layout lc,
                                            Layout ld, Preference preference, int wanted,
                                            Heuristic* out, int* found) {
  const auto &a = *static_cast<MatrixLayout*>(la), &b = *static_cast<MatrixLayout*>(lb),
             &c = *static_cast<MatrixLayout*>(lc), &d = *static_cast<MatrixLayout*>(ld);
  const auto& w = *static_cast<Wishes*>(preference);
  *found = 0;
  if (wanted < 1 || w.reduction != kNoReduction || !known(a.type, b.type, c.type, d.type) ||
      !static_cast<MatmulDesc*>(desc)->transposed_a || a.rows != b.rows || a.cols != d.rows ||
      b.cols != d.cols) {
    return kInvalidValue;
  }
  // FP8 wants sixteen bytes everywhere.
  if (a.type == kR8FE4M3 && (a.rows % 16 != 0 || a.cols % 16 != 0 || a.ld % 16 != 0 ||
                             b.ld % 16 != 0 || d.ld * bytes_of(d.type) % 16 != 0)) {
    return kNotSupported;
  }
  const Kind last = d.rows == kNone          ? kMuteAboutSplit
                    : d.rows == kTreacherous ? kUnreliable
                                             : kGood;
  for (int kind = 0; kind <= last && *found < wanted; ++kind) {
    if (kind == kWorkspace && w.workspace < kWorkspaceBytes) continue;
    if (kind > kWorkspace && w.workspace >= kWorkspaceBytes) kind = kWorkspace;
    if (last == kUnreliable && (kind == kSmall || kind == kGood)) continue;
    Choice choice{kMagic,    uint64_t(a.type) << 32 | uint64_t(d.type), a.cols, a.rows, {},
                  Kind(kind)};
    std::memcpy(choice.alignment, w.alignment, sizeof choice.alignment);
    Heuristic& h = out[(*found)++];
    h = Heuristic{};
    std::memcpy(&h.algorithm, &choice, sizeof choice);
    h.workspace = kind == kWorkspace ? kWorkspaceBytes : 0;
    h.state = kind == kFailedState ? kNotSupported : 0;
  }
  return 0;
}

// parameters: cuBLASLt's own
EXPORTED int cublasLtMatmulAlgoCheck(Handle, Desc desc, Layout la, Layout lb, Layout lc, Layout ld,
                                     const Algorithm* algorithm, Heuristic* out) {
  const auto &a = *static_cast<MatrixLayout*>(la), &b = *static_cast<MatrixLayout*>(lb),
             &c = *static_cast<MatrixLayout*>(lc), &d = *static_cast<MatrixLayout*>(ld);
  Choice choice;
  std::memcpy(&choice, algorithm, sizeof choice);
  if (!fits(choice, a, b, c, d) || !static_cast<MatmulDesc*>(desc)->transposed_a)
    return kInvalidValue;
  *out = Heuristic{};
  out->algorithm = *algorithm;
  if (choice.kind == kWorkspace || (choice.kind == kLateWorkspace && b.cols == 127))
    out->workspace = kWorkspaceBytes;
  if (choice.kind == kPicky && b.cols == 16) return kNotSupported;
  if (choice.kind == kSmall && b.cols > kMostOfSmall) out->state = kNotSupported;
  return 0;
}

EXPORTED int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm* algorithm, int attribute,
                                                  void* to, size_t bytes, size_t* written) {
  Choice choice;
  std::memcpy(&choice, algorithm, sizeof choice);
  if (choice.magic != kMagic || attribute != kSplitK || bytes != sizeof(int32_t) ||
      choice.kind == kMuteAboutSplit) {
    return kInvalidValue;
  }
  const int32_t split = choice.kind == kSplit ? 2 : 1;
  std::memcpy(to, &split, sizeof split);
  *written = sizeof split;
  return 0;
}

// For tests: how often it multiplied.
EXPORTED int fake_cublaslt_products() { return products; }

// parameters: cuBLASLt's own
EXPORTED int cublasLtMatmul(Handle, Desc desc, const void* alpha, const void* a, Layout la,
                            const void* b, Layout lb, const void* beta, const void* c, Layout lc,
                            void* d, Layout ld, const Algorithm* algorithm, void* workspace,
                            size_t bytes, cudaStream_t stream) {
  const auto &A = *static_cast<MatrixLayout*>(la), &B = *static_cast<MatrixLayout*>(lb),
             &C = *static_cast<MatrixLayout*>(lc), &D = *static_cast<MatrixLayout*>(ld);
  Choice choice;
  std::memcpy(&choice, algorithm, sizeof choice);
  if (!fits(choice, A, B, C, D) || !static_cast<MatmulDesc*>(desc)->transposed_a) return kFailed;
  if (choice.kind < kSmall || (choice.kind == kSmall && B.cols > kMostOfSmall) || workspace ||
      bytes > 0) {
    return kFailed;
  }
  const void* pointers[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (reinterpret_cast<uintptr_t>(pointers[i]) % choice.alignment[i] != 0) return kFailed;
  }
  if (choice.kind == kUnreliable && B.cols == 7) return kNotSupported;
  ++products;
  const float by = *static_cast<const float*>(alpha), old = *static_cast<const float*>(beta);
  std::vector<uint8_t> weights, rows, out;
  if (!read(&weights, a, A, stream) || !read(&rows, b, B, stream)) return kFailed;
  out.resize(span_of(D));
  if (old != 0 && !read(&out, c, C, stream)) return kFailed;
  const size_t one = size_t(bytes_of(D.type));
  for (uint64_t col = 0; col < D.cols; ++col) {
    for (uint64_t row = 0; row < D.rows; ++row) {
      double sum = 0;
      for (uint64_t k = 0; k < A.rows; ++k)
        sum += double(value(weights, A, k, row)) * double(value(rows, B, k, col));
      float v = by * float(sum);
      if (old != 0) v += old * value(out, C, row, col);
      uint8_t* to = out.data() + (size_t(col) * size_t(D.ld) + row) * one;
      const uint16_t rounded = nemotron::f32_to_bf16(v);
      std::memcpy(to, one == 4 ? static_cast<const void*>(&v) : &rounded, one);
    }
  }
  // Column by column: what lies between the columns is not written.
  for (uint64_t col = 0; col < D.cols; ++col) {
    const size_t at = size_t(col) * size_t(D.ld) * one;
    if (cudaMemcpyAsync(static_cast<uint8_t*>(d) + at, out.data() + at, size_t(D.rows) * one,
                        cudaMemcpyHostToDevice, stream) != cudaSuccess) {
      return kFailed;
    }
  }
  return 0;
}
}
