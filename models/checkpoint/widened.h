// What is stored in groups, as plain numbers: for devices that multiply no packed types, and for
// matrices that cannot stay packed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/grouped.h"
#include "device/status.h"

namespace nemotron {

// out [n] = the first n values of a row, whose pointers are at its first.
void widen_groups(const GroupedForm& form, const GroupedRow& row, int64_t n, float* out);

size_t whole_pages(size_t bytes);

// Addresses for tensors that are not read as they are stored. Pages that nobody wrote take no
// memory.
class Widened {
 public:
  Widened() = default;
  Widened(const Widened&) = delete;
  Widened& operator=(const Widened&) = delete;
  ~Widened();
  Status reserve(size_t bytes);  // once
  uint8_t* data() const { return data_; }
  // Gives the memory of [p, p + bytes) back; p begins a page.
  static void release(const uint8_t* p, size_t bytes);

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace nemotron
