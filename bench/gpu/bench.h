// gpu_bench: what its parts share. One thread; times are wall times of whole steps.
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/decoder.h"

namespace nemotron::bench {

// That an H200 is taken to have room for at once. Of an H100 it has been told that it holds 15 of
// eight blocks, 120 of its 132 multiprocessors: then it holds 30 or 31 of four.
inline constexpr int kClustersOfFour = 30;

struct Shape {
  const char* name;
  int32_t hidden, layers, q_heads, kv_heads, head_dim, inner, vocab;

  int64_t q_cols() const { return int64_t(q_heads) * head_dim; }
  int64_t kv_cols() const { return int64_t(kv_heads) * head_dim; }
  double linear_weights() const {  // of all layers
    return double(layers) * (2.0 * hidden * double(q_cols()) + 2.0 * hidden * double(kv_cols()) +
                             3.0 * hidden * inner);
  }
  double head_weights() const { return double(vocab) * hidden; }
};
inline constexpr Shape k8B = {"8B", 4096, 32, 32, 8, 128, 14336, 128256};
inline constexpr Shape k70B = {"70B", 8192, 80, 64, 8, 128, 28672, 128256};
// What one of 8 ranks computes of it.
inline constexpr Shape k70BOf8 = {"70B, a rank of 8", 8192, 80, 8, 1, 128, 3584, 16032};
// For trying the program itself, emulated too: every path, no meaning.
inline constexpr Shape kTiny = {"tiny", 64, 2, 4, 2, 32, 96, 97};

struct Limits {  // of this GPU, measured in this run: bytes/s and FLOP/s
  double read = 0, copy = 0, bf16 = 0, fp8 = 0;
};

// Collects measurements: a line on the screen and one in the file for each, at once, so that a part
// that is cut off loses nothing.
class Bench {
 public:
  Bench(bool tiny_, std::FILE* file) : tiny(tiny_), file_(file) {}

  const bool tiny;
  Limits limits;

  void machine(const std::string& device, int driver, double free_bytes);
  // limit_seconds 0: none known.
  void measure(const std::string& name, double seconds, double limit_seconds, const char* unit,
               double value);
  void note(const std::string& text);
  // False: *this has failed, and says so.
  bool check(const Status& s, const std::string& what);
  bool failed() const { return failed_; }
  // A failure of one measurement, not of what follows on a device of its own.
  void forgive() { failed_ = false; }
  bool any_failed() const { return any_failed_; }

 private:
  void line(const std::string& json);
  std::FILE* file_;
  bool failed_ = false, any_failed_ = false;
};

// Seconds of one call: the median of `times`, after `warm` calls.
double time_of(int times, const std::function<void()>& f, int warm = 2);

// Measures Bench::limits; `report` also lists them, and the gaps between kernels of a graph.
void measure_limits(Bench& b, bool report);

// --- a model with random weights (model.cc) ---

struct ModelPlan {
  Shape shape;
  WeightFormat format = WeightFormat::stored;
  DType kv = DType::bf16;
  bool fp8_activations = false;
  std::vector<int32_t> batches;  // decode with `context` tokens each
  int32_t context = 1024;
  std::vector<int32_t> prompts;  // prefill
  int32_t chunk = 8192;          // rows of a step of a prompt
  int32_t decode_after = 0;      // one sequence of so many tokens is decoded as well

  std::string name() const;
  int32_t longest() const;
  int64_t kv_tokens() const;
  // Bytes on the device: weights, cache, activations and workspace, a little too much.
  double bytes() const;
};
ModelPlan tiny_plan(ModelPlan plan);  // the same paths on kTiny
void bench_model(Bench& b, const ModelPlan& plan);

// --- single ops (ops.cc) ---

void bench_products(Bench& b, const Shape& shape);
void bench_attention(Bench& b, const Shape& shape);
void bench_sampler(Bench& b, int32_t vocab);
void bench_ranks(Bench& b);  // ranks.cc
// The sums of a step of one row of 70B at 8 ranks, and their share of it.
void bench_rank_share(Bench& b);
// Measures nothing: launches each of the kernels that a profiler looks at, once.
void bench_kernels(Bench& b, const Shape& shape);

// Needs no GPU: how products and attention would be launched on an H200 (launches.cc).
void print_launches();

}  // namespace nemotron::bench
