// Results: what a step tells the host: one block, copied once at the end of the step. Owned by a
// CudaDevice; used by its thread.
#pragma once

#include <vector>

#include "cuda/context.h"
#include "device/step.h"

namespace nemotron::cuda {

class Results {
 public:
  explicit Results(Context* context) : context_(context) {}
  ~Results();
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;

  Status reserve(size_t samples);
  // A step begins; steps of more samples than reserved grow the block.
  void begin(size_t samples);
  // Samples [first, first + n) are wanted at `out` when the step is done.
  void want(SampleOutput* out, int32_t first, int32_t n) { wanted_.push_back({out, first, n}); }
  // Enqueues the copy, waits for the step, and hands out what it brought.
  void finish();

  uint32_t* faults() const { return device_.as<uint32_t>(); }  // token ids outside the table
  SampleOutput* samples() const {
    return reinterpret_cast<SampleOutput*>(device_.data + kSamplesOffset);
  }
  // Changes when the block moved.
  int generation() const { return generation_; }

 private:
  static constexpr size_t kSamplesOffset = 16;
  static size_t bytes_for(size_t samples) {
    return kSamplesOffset + samples * sizeof(SampleOutput);
  }
  struct Wanted {
    SampleOutput* out;
    int32_t first, n;
  };

  Context* context_;
  Block device_;
  uint8_t* host_ = nullptr;  // pinned
  std::vector<Wanted> wanted_;
  int generation_ = 0;
};

}  // namespace nemotron::cuda
