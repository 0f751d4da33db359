// HugeBuffer: zeroed memory from the operating system, in huge pages where it gives them. Owned by
// whoever holds it; movable. Huge pages make streaming weights 1.3 to 1.6 times faster.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/status.h"

namespace nemotron::cpu {

class HugeBuffer {
 public:
  HugeBuffer() = default;
  HugeBuffer(HugeBuffer&& o) noexcept { *this = std::move(o); }
  HugeBuffer& operator=(HugeBuffer&& o) noexcept {
    std::swap(data_, o.data_), std::swap(bytes_, o.bytes_);
    std::swap(base_, o.base_), std::swap(mapped_, o.mapped_);
    return *this;
  }
  ~HugeBuffer();

  static Status create(size_t bytes, HugeBuffer* out);

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  void* base_ = nullptr;
  size_t mapped_ = 0;  // 0: of the heap
};

// Pieces of memory side by side in large buffers, so that small ones lie in huge pages too. All are
// kept until the arena ends. One thread at a time.
class HugeArena {
 public:
  // `bytes` of zeros that begin with a line of the caches.
  Status take(size_t bytes, std::span<uint8_t>* out);

 private:
  std::vector<HugeBuffer> buffers_;
  size_t used_ = 0;   // of the last
  size_t taken_ = 0;  // by all
};

// Memory that could still be taken without swapping; the limits of the control groups count that
// this process is in, and of those above them. `root`: of the system's files.
size_t available_bytes(const std::string& root = "");

}  // namespace nemotron::cpu
