#include "cuda/results.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace nemotron::cuda {

Results::~Results() {
  context_->free(device_.data);
  for (const Turn& t : turns_) {
    if (t.host) context_->free_pinned(t.host);
    if (t.done) cudaEventDestroy(t.done);
  }
}

Status Results::reserve(size_t samples) {
  const size_t bytes = bytes_for(samples);
  if (bytes > device_.bytes) {
    ++generation_;
    if (Status s = context_->reserve(&device_, bytes); !s) return s;
  }
  // A step in flight keeps its memory, which somebody has yet to read.
  for (int64_t step = launched_; step < waited_ + kMaxStepsInFlight; ++step) {
    Turn& t = turns_[step % kMaxStepsInFlight];
    if (!t.done && !context_->check(cudaEventCreateWithFlags(&t.done, cudaEventDisableTiming),
                                    "making an event")) {
      return context_->status();
    }
    if (device_.bytes <= t.bytes) continue;
    if (t.host && !context_->synchronize()) return context_->status();
    if (t.host) context_->free_pinned(t.host);
    t.host = nullptr;
    t.bytes = 0;
    void* p = nullptr;
    if (Status s = context_->alloc_pinned(device_.bytes, &p); !s) return s;
    t.host = static_cast<uint8_t*>(p);
    t.bytes = device_.bytes;
  }
  return {};
}

void Results::begin(size_t samples) {
  turn().wanted.clear();
  if (Status s = reserve(samples); !s) context_->fail(s.within("a step's results"));
}

void Results::launch() {
  Turn& t = turn();
  size_t samples = 0;
  for (const Wanted& w : t.wanted) samples = std::max(samples, size_t(w.first + w.n));
  if (context_->check(
          cudaMemcpyAsync(t.host, device_.data, kSamplesOffset + samples * sizeof(SampleOutput),
                          cudaMemcpyDeviceToHost, context_->stream()),
          "copying results") &&
      context_->check(cudaEventRecord(t.done, context_->stream()), "marking a step's end")) {
    ++launched_;
  }
}

bool Results::done() {
  const cudaError_t e = cudaEventQuery(turns_[waited_ % kMaxStepsInFlight].done);
  return e != cudaErrorNotReady;  // wait() tells errors
}

void Results::wait() {
  Turn& t = turns_[waited_++ % kMaxStepsInFlight];
  if (!context_->check(cudaEventSynchronize(t.done), "running on the GPU")) return;
  uint32_t faults = 0;
  std::memcpy(&faults, t.host, sizeof faults);
  std::memcpy(waits_in_vain_, t.host + sizeof faults, sizeof waits_in_vain_);
  if (waits_in_vain_[1] != 0) return;  // what came of it is of no use
  if (faults > 0) {
    context_->fail(Status::internal(std::to_string(faults) +
                                    " token ids of a step are outside the embedding"));
    return;
  }
  for (const Wanted& w : t.wanted) {
    const auto* from = reinterpret_cast<const SampleOutput*>(t.host + kSamplesOffset) + w.first;
    for (int32_t i = rank_; i < w.n; i += ranks_) w.out[i] = from[i];
  }
}

}  // namespace nemotron::cuda
