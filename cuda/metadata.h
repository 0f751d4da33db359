// Metadata: what kernels read of one step, as one block that is put together in pinned memory and
// copied to the device. Two steps take turns with the pinned memory, so that one may be built while
// the copy of the other waits for its turn on the device; there one block is enough, since a copy
// waits for the kernels before it. Owned by the device; used by its thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/context.h"
#include "device/device.h"

namespace nemotron::cuda {

class Metadata {
 public:
  explicit Metadata(Context* context) : context_(context) {}
  ~Metadata();
  Metadata(const Metadata&) = delete;
  Metadata& operator=(const Metadata&) = delete;

  static size_t aligned(size_t n) { return (n + 15) / 16 * 16; }
  // Takes the pinned memory of the step before the last one, which is done, and makes room for
  // `bytes` there and on the device. The first `fixed` bytes are zeroed and taken. False: the
  // context has failed.
  bool begin(size_t bytes, size_t fixed);
  // Room for `bytes`. In a step it grows where all ranks' does, at the same time.
  bool reserve(size_t bytes);
  // What reserve() takes on the device.
  static size_t capacity_for(size_t bytes) {
    return std::max(bytes + bytes / 2, size_t(1) << 20);  // the next steps want more
  }
  // Takes room for n values; *offset: where from the block's start.
  template <class T>
  T* place(size_t n, uint32_t* offset) {
    *offset = uint32_t(used_);
    used_ += aligned(n * sizeof(T));
    return reinterpret_cast<T*>(host_ + *offset);
  }
  // What is placed from here on is room on the device: nothing to copy.
  void end_of_copy() { copied_ = used_; }
  void copy();

  uint8_t* host() const { return host_; }
  uint8_t* device() const { return device_; }
  // Changes when the device's block moved (it grew): captured graphs are void.
  int generation() const { return generation_; }

 private:
  Context* context_;
  uint8_t* turns_[kMaxStepsInFlight] = {};  // pinned
  int turn_ = 0;
  uint8_t* host_ = nullptr;  // of turns_: this step's
  uint8_t* device_ = nullptr;
  size_t capacity_ = 0, wanted_ = 0, used_ = 0, copied_ = 0;
  int generation_ = 0;
};

}  // namespace nemotron::cuda
