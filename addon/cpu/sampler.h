// Sampler: from a row of logits to a SampleOutput, as SampleInput says. One thread a row; a Sampler
// holds the scratch of one thread.
//
// Filters keep ties, so that the result does not depend on how a device sorts: top_k keeps every id
// whose scaled logit is at least the k-th largest; top_p keeps the likeliest ids until their share
// of what top_k left reaches p, and every id as likely as the last of them; min_p keeps ids at
// least min_p times as likely as the likeliest.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "device/step.h"

namespace nemotron::cpu {

class Sampler {
 public:
  void init(const Kernels* kernels, int64_t vocab);
  // logits [vocab] raw, clobbered.
  void sample(float* logits, const SampleInput& in, SampleOutput* out);

 private:
  // `best` is the id of the largest logit. Leaves the logits scaled, where the draw is not greedy,
  // and returns the least that was not filtered out.
  float draw(float* logits, int64_t best, const SampleInput& in, SampleOutput* out);
  void adjust(float* logits, const SampleInput& in) const;
  // Logprob and rank of out->id, and those of other ids that are wanted. `best` is the largest.
  void report(const float* logits, float best, const SampleInput& in, SampleOutput* out);
  void report_likeliest(const float* logits, float log_sum, int num_logprobs, SampleOutput* out);
  float top_k_threshold(const float* x, int64_t k);
  float top_p_threshold(const float* x, float best, float floor, float p);

  const Kernels* kernels_ = nullptr;
  int64_t vocab_ = 0;
  std::vector<float> changed_;  // logits being changed while the raw ones are still wanted
  std::vector<int32_t> ids_;
  std::vector<float> values_;
};

}  // namespace nemotron::cpu
