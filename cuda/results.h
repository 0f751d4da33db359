// Results: what steps tell the host: one block on the device, copied at the end of a step into
// pinned memory of its own, so that the next step may run before anybody has read it. Owned by a
// CudaDevice; used by its thread.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/context.h"
#include "device/device.h"

namespace nemotron::cuda {

class Results {
 public:
  explicit Results(Context* context) : context_(context) {}
  ~Results();
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;

  Status reserve(size_t samples);
  static size_t bytes_for(size_t samples) {
    return kSamplesOffset + std::max<size_t>(samples, 64) * sizeof(SampleOutput);
  }
  // A step begins; steps of more samples than reserved grow the block. Fewer than
  // kMaxStepsInFlight steps are in flight.
  void begin(size_t samples);
  // Of samples [first, first + n) of the step, those that this rank drew (i % ranks == rank) are
  // wanted at `out` when it is done.
  void want(SampleOutput* out, int32_t first, int32_t n) {
    turn().wanted.push_back({out, first, n});
  }
  void set_rank(int32_t rank, int32_t ranks) { rank_ = rank, ranks_ = ranks; }
  // Enqueues the copy: the step is in flight.
  void launch();
  int in_flight() const { return int(launched_ - waited_); }
  // Of the oldest step in flight: whether it is done; waits for it and hands out what it brought.
  bool done();
  void wait();

  uint32_t* faults() const { return device_.as<uint32_t>(); }  // token ids outside the table
  uint32_t* stopped() const { return faults() + 1; }           // Peers::stopped
  // Of the step that was waited for last: what its kernels wrote there.
  const uint32_t (&waits_in_vain() const)[2] { return waits_in_vain_; }
  SampleOutput* samples() const {
    return reinterpret_cast<SampleOutput*>(device_.data + kSamplesOffset);
  }
  // Changes when the block moved.
  int generation() const { return generation_; }

 private:
  static constexpr size_t kSamplesOffset = 16;
  struct Wanted {
    SampleOutput* out;
    int32_t first, n;
  };

  struct Turn {               // of one step in flight, or of the one that has begun
    uint8_t* host = nullptr;  // pinned
    size_t bytes = 0;
    cudaEvent_t done = nullptr;
    std::vector<Wanted> wanted;
  };
  Turn& turn() { return turns_[launched_ % kMaxStepsInFlight]; }

  Context* context_;
  Block device_;
  Turn turns_[kMaxStepsInFlight];
  int64_t launched_ = 0, waited_ = 0;  // steps
  int32_t rank_ = 0, ranks_ = 1;
  uint32_t waits_in_vain_[2] = {};
  int generation_ = 0;
};

}  // namespace nemotron::cuda
