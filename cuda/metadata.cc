#include "cuda/metadata.h"

#include <cstring>
#include <string>

namespace nemotron::cuda {

Metadata::~Metadata() {
  for (uint8_t* host : turns_) {
    if (host) context_->free_pinned(host);
  }
}

bool Metadata::begin(size_t bytes, size_t fixed) {
  turn_ = (turn_ + 1) % kMaxStepsInFlight;
  host_ = turns_[turn_];
  if (!reserve(bytes)) return false;
  wanted_ = bytes;
  std::memset(host_, 0, aligned(fixed));
  used_ = copied_ = aligned(fixed);
  return true;
}

bool Metadata::reserve(size_t bytes) {
  if (bytes <= capacity_) return true;
  const size_t capacity = capacity_for(bytes);
  if (!context_->synchronize()) return false;
  context_->free(device_);
  device_ = nullptr;
  capacity_ = 0;
  Status s;
  for (uint8_t*& turn : turns_) {
    if (turn) context_->free_pinned(turn);
    turn = nullptr;
    void* host = nullptr;
    if (s) s = context_->alloc_pinned(capacity, &host);
    turn = static_cast<uint8_t*>(host);
  }
  host_ = turns_[turn_];
  void* device = nullptr;
  if (s) s = context_->alloc(capacity, &device);
  device_ = static_cast<uint8_t*>(device);
  if (!s) {
    context_->fail(s.within("step metadata"));
    return false;
  }
  capacity_ = capacity;
  ++generation_;
  return context_->meet();
}

void Metadata::copy() {
  if (!context_->ok()) return;
  // Compared with what was asked for, since blocks are larger than that.
  if (used_ > wanted_) {
    context_->fail(Status::internal("step metadata takes " + std::to_string(used_) + " bytes, " +
                                    std::to_string(wanted_) + " were reserved"));
    return;
  }
  context_->check(
      cudaMemcpyAsync(device_, host_, copied_, cudaMemcpyHostToDevice, context_->stream()),
      "copying the step's metadata");
}

}  // namespace nemotron::cuda
