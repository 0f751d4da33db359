#include "models/checkpoint/widened.h"

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "device/huge_pages.h"
#include "device/tensor.h"

namespace nemotron {

void widen_groups(const GroupedForm& form, const GroupedRow& row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t half_at = i / form.scale_every(), group = i / form.group;
    float by = f16_to_f32(row.scale[half_at]);
    if (form.has_steps) by *= float(row.steps[group]);
    const uint8_t code = row.codes[i];
    const float value = form.bits < 8 ? bf16_to_f32(form.values[code]) : float(int8_t(code));
    out[i] = by * value;
    if (!form.has_least) continue;
    float least = f16_to_f32(row.least[half_at]);
    if (form.has_steps) least *= float(row.least_steps[group]);
    out[i] -= least;
  }
}

size_t whole_pages(size_t bytes) {
  const auto page = size_t(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

Widened::~Widened() {
  if (data_) munmap(data_, size_);
}

Status Widened::reserve(size_t bytes) {
  if (bytes == 0) return {};
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return Status::out_of_memory("addresses for " + std::to_string(bytes) + " bytes");
  }
  prefer_huge_pages(data, bytes);
  data_ = static_cast<uint8_t*>(data);
  size_ = bytes;
  return {};
}

void Widened::release(const uint8_t* p, size_t bytes) {
  (void)madvise(const_cast<uint8_t*>(p), whole_pages(bytes), MADV_DONTNEED);
}

}  // namespace nemotron
