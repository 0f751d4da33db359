#include "cuda/results.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace nemotron::cuda {

Results::~Results() {
  context_->free(device_.data);
  if (host_) context_->free_pinned(host_);
}

Status Results::reserve(size_t samples) {
  const size_t bytes = bytes_for(std::max<size_t>(samples, 64));
  if (bytes <= device_.bytes && host_) return {};
  ++generation_;
  if (Status s = context_->reserve(&device_, bytes); !s) return s;
  if (host_) context_->free_pinned(host_);
  host_ = nullptr;
  void* p = nullptr;
  if (Status s = context_->alloc_pinned(device_.bytes, &p); !s) return s;
  host_ = static_cast<uint8_t*>(p);
  return {};
}

void Results::begin(size_t samples) {
  wanted_.clear();
  if (Status s = reserve(samples); !s) context_->fail(s.within("a step's results"));
}

void Results::finish() {
  size_t samples = 0;
  for (const Wanted& w : wanted_) samples = std::max(samples, size_t(w.first + w.n));
  if (host_) {
    context_->check(cudaMemcpyAsync(host_, device_.data, bytes_for(samples), cudaMemcpyDeviceToHost,
                                    context_->stream()),
                    "copying results");
  }
  if (!context_->synchronize() || !host_) return;
  uint32_t faults = 0;
  std::memcpy(&faults, host_, sizeof faults);
  if (faults > 0) {
    context_->fail(Status::internal(std::to_string(faults) +
                                    " token ids of a step are outside the embedding"));
    return;
  }
  for (const Wanted& w : wanted_) {
    const auto* from = reinterpret_cast<const SampleOutput*>(host_ + kSamplesOffset) + w.first;
    std::copy(from, from + w.n, w.out);
  }
  wanted_.clear();
}

}  // namespace nemotron::cuda
