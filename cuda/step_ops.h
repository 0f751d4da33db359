// StepOps: turns the ops of a step into kernels. Generated rows and prompt rows take different
// ones, chosen by the row's kind alone; or the products of generated rows take all rows. Owned by a
// CudaDevice; used by its thread.
#pragma once

#include <cstdint>
#include <span>

#include "cuda/op.h"
#include "cuda/products.h"
#include "cuda/ranks.h"
#include "cuda/results.h"
#include "cuda/sample_builder.h"
#include "cuda/step_builder.h"
#include "cuda/workspace.h"

namespace nemotron::cuda {

class StepOps {
 public:
  // All of the same device, and there for as long as this is.
  struct Parts {
    Context* context;
    StepBuilder* builder;
    SampleBuilder* samples;
    Products* products;
    Workspace* workspace;
    Results* results;
    Ranks* ranks;
  };
  explicit StepOps(const Parts& parts)
      : context_(parts.context),
        builder_(parts.builder),
        samples_(parts.samples),
        products_(parts.products),
        workspace_(parts.workspace),
        results_(parts.results),
        ranks_(parts.ranks) {}

  // The products of generated rows take prompt rows, too: from the start, or never.
  void multiply_all_rows() { all_rows_ = true; }
  bool multiplies_all_rows() const { return all_rows_; }
  // The step's first `generated` rows are generated tokens, all others prompt tokens.
  void set_generated(int32_t generated) { generated_ = generated; }
  // What layers need beside the metadata, for `rows` rows and at most `tiles` tiles of prompt rows.
  void begin(int32_t rows, int32_t tiles);
  // `head_rows`: of a head, in the ordinary way. `bucket` > 0: in a graph, for that many rows, all
  // of one product; how many there are is in the metadata, and the head's are rows 0, 1, ...
  void run(const Op& op, std::span<const int32_t> head_rows, int32_t bucket);

 private:
  struct Activations {
    const uint16_t* data = nullptr;
    int64_t stride = 0;
  };

  gpu::Queue& queue() { return context_->queue(); }
  int32_t multiplied_of(int32_t rows, int32_t bucket) const;
  DecodeGemm decode(const Activations& a, const Matrix& w, int32_t rows, int32_t bucket) const;
  DecodeGemm decode_normed(const Op& op, const Matrix& w, int32_t rows, int32_t bucket);
  Activations normed(const Op& op, const Matrix& w, int32_t first, int32_t end, const int32_t* rows,
                     int32_t bucket);
  SplitNorm split_norm(const Op& op, const Matrix& w) const;
  Activations padded(const uint16_t* a, int32_t rows, const Matrix& w);
  bool need_products(const Matrix& w, int32_t rows);
  bool need_slice(const Matrix& w, int32_t rows);

  void embed_rows(const Op& op, int32_t bucket);
  void attention_input(const Op& op, int32_t bucket);
  void attention(const Op& op, int32_t bucket);
  void residual(const Op& op, int32_t bucket);
  void mlp(const Op& op, int32_t bucket);
  void norm(const Op& op, int32_t bucket);
  void head(const Op& op, std::span<const int32_t> rows, int32_t bucket);
  void draw(const Op& op);

  // x (+)= the sum of all ranks' workspace_->sums, of the op's rows.
  void sum_over_ranks(const Op& op, int32_t cols, int32_t bucket, SumOverRanks sum);
  void gather(const Op& op, int32_t bucket);
  const int32_t* count(int32_t bucket) const;

  Context* context_;
  StepBuilder* builder_;
  SampleBuilder* samples_;
  Products* products_;
  Workspace* workspace_;
  Results* results_;
  Ranks* ranks_;
  bool all_rows_ = false;
  int32_t generated_ = INT32_MAX;  // no step yet: everything
  int32_t tiles_ = 0;
  // The norm whose first half the last residual has made, for generated rows; null: none.
  const void *begun_x_ = nullptr, *begun_gain_ = nullptr;
  const void* attended_ = nullptr;  // what attention, the op before, has written
};

}  // namespace nemotron::cuda
