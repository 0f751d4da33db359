// Memory in pages of 2 MiB. A fresh page of 4 KiB costs more than filling it, and several times as
// much in a virtual machine: it was most of the time that weights took to load.
#pragma once

#include <sys/mman.h>

#include <cstddef>

namespace nemotron {

inline constexpr size_t kHugePage = size_t(2) << 20;

// Asks for huge pages where [p, p + bytes), mapped without a file behind it, has room for them.
inline void prefer_huge_pages(void* p, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  (void)madvise(p, bytes, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

}  // namespace nemotron
