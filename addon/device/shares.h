// Moving many bytes by several threads: reading a file, filling pinned memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>

#include "device/status.h"

namespace nemotron {

// Whoever moves bytes into new memory also clears its pages; one thread does neither as fast as
// memory or a fast disk would have it.
inline constexpr size_t kMostShares = 4;
inline constexpr size_t kShareBytes = size_t(8) << 20;  // at least

// share(i, of) for each i below `of`, on as many threads as `bytes` are worth. The first error.
template <class Share>
Status in_shares(size_t bytes, const Share& share) {
  const size_t processors = std::max(1u, std::thread::hardware_concurrency());
  const size_t of = std::clamp<size_t>(bytes / kShareBytes, 1, std::min(processors, kMostShares));
  std::array<Status, kMostShares> results;
  std::array<std::thread, kMostShares> threads;
  size_t begun = 1;
  try {
    for (; begun < of; ++begun) {
      threads[begun] = std::thread([&, i = begun] { results[i] = share(i, of); });
    }
  } catch (const std::system_error&) {  // no more threads: their shares are done here
  }
  results[0] = share(0, of);
  for (size_t i = begun; i < of; ++i) results[i] = share(i, of);
  for (size_t i = 1; i < begun; ++i) threads[i].join();
  const auto* failed = std::ranges::find_if(results, [](const Status& s) { return !s.ok(); });
  return failed == results.end() ? Status() : *failed;
}

// Rows of `row_bytes`, `stride` apart at `from`, one after another at `to`.
inline void copy_rows(uint8_t* to, const uint8_t* from, size_t rows, size_t row_bytes,
                      size_t stride) {
  static_cast<void>(in_shares(rows * row_bytes, [&](size_t i, size_t of) -> Status {
    const size_t first = rows * i / of, end = rows * (i + 1) / of;
    if (stride == row_bytes) {
      std::memcpy(to + first * row_bytes, from + first * stride, (end - first) * row_bytes);
      return {};
    }
    for (size_t row = first; row < end; ++row) {
      std::memcpy(to + row * row_bytes, from + row * stride, row_bytes);
    }
    return {};
  }));
}

}  // namespace nemotron
