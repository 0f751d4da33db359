#include "cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

namespace nemotron::cpu {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;

// The number after `key` in a small text file ("" takes the first); `fallback` when there is none.
size_t read_number(const char* path, const char* key, size_t fallback) {
  std::FILE* f = std::fopen(path, "r");
  if (!f) return fallback;
  char line[256];
  size_t value = fallback;
  while (std::fgets(line, sizeof line, f)) {
    if (std::strncmp(line, key, std::strlen(key)) != 0) continue;
    unsigned long long v = 0;
    if (std::sscanf(line + std::strlen(key), "%llu", &v) == 1) value = size_t(v);
    break;
  }
  std::fclose(f);
  return value;
}

}  // namespace

HugeBuffer::~HugeBuffer() {
  if (base_) munmap(base_, mapped_);
}

Status HugeBuffer::create(size_t bytes, HugeBuffer* out) {
  // Large buffers start on a huge page; small ones are not worth 2 MiB of address space rounding.
  const size_t align = bytes >= kHugePage ? kHugePage : 4096;
  const size_t mapped = (bytes + 4095) / 4096 * 4096 + (align > 4096 ? align : 0) + 4096;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return Status::out_of_memory("no memory for " + std::to_string(bytes) + " bytes, " +
                                 std::to_string(available_bytes()) + " are available");
  }
  HugeBuffer b;
  b.base_ = base;
  b.mapped_ = mapped;
  b.bytes_ = bytes;
  const uintptr_t start = (reinterpret_cast<uintptr_t>(base) + align - 1) / align * align;
  b.data_ = reinterpret_cast<uint8_t*>(start);
#if defined(MADV_HUGEPAGE)
  if (align > 4096) madvise(b.data_, (bytes + 4095) / 4096 * 4096, MADV_HUGEPAGE);
#endif
  *out = std::move(b);
  return {};
}

size_t available_bytes() {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
#if defined(_SC_AVPHYS_PAGES)
  size_t available = size_t(sysconf(_SC_AVPHYS_PAGES)) * page;
#else
  size_t available = size_t(sysconf(_SC_PHYS_PAGES)) * page;
#endif
  const size_t kib = read_number("/proc/meminfo", "MemAvailable:", available / 1024);
  available = kib * 1024;
  const size_t limit = read_number("/sys/fs/cgroup/memory.max", "", size_t(-1));
  size_t used = read_number("/sys/fs/cgroup/memory.current", "", 0);
  for (const char* cache : {"inactive_file ", "active_file "}) {  // reclaimable
    used -= std::min(used, read_number("/sys/fs/cgroup/memory.stat", cache, 0));
  }
  if (limit != size_t(-1)) available = std::min(available, limit > used ? limit - used : 0);
  return available;
}

}  // namespace nemotron::cpu
