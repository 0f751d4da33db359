#include "cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "device/control_groups.h"
#include "device/huge_pages.h"

namespace nemotron::cpu {
namespace {

// The number after `key` in a small text file ("" takes the first); `fallback` when there is none.
size_t read_number(const std::string& path, const char* key, size_t fallback) {
  std::FILE* f = std::fopen(path.c_str(), "r");
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

// What a control group's files are called.
struct GroupFiles {
  const char *limit, *used, *inactive_cache, *active_cache;
};
constexpr GroupFiles kVersion1 = {"/memory.limit_in_bytes", "/memory.usage_in_bytes",
                                  "total_inactive_file ", "total_active_file "};
constexpr GroupFiles kVersion2 = {"/memory.max", "/memory.current", "inactive_file ",
                                  "active_file "};

// Of one group; without a limit there is no end to it.
size_t left_in(const ControlGroup& group) {
  const auto& [folder, is_version2] = group;
  const GroupFiles& files = is_version2 ? kVersion2 : kVersion1;
  const size_t limit = read_number(folder + files.limit, "", size_t(-1));
  if (limit == size_t(-1)) return limit;
  size_t used = read_number(folder + files.used, "", 0);
  for (const char* cache : {files.inactive_cache, files.active_cache}) {  // reclaimable
    used -= std::min(used, read_number(folder + "/memory.stat", cache, 0));
  }
  return limit > used ? limit - used : 0;
}

// The least that this process's control groups leave.
size_t left_in_groups(const std::string& root) {
  size_t least = size_t(-1);
  for (const ControlGroup& group : control_groups("memory", root)) {
    least = std::min(least, left_in(group));
  }
  return least;
}

}  // namespace

HugeBuffer::~HugeBuffer() {
  if (mapped_ > 0) {
    munmap(base_, mapped_);
  } else {
    std::free(base_);
  }
}

Status HugeBuffer::create(size_t bytes, HugeBuffer* out) {
  // Small ones are the heap's, which has pages at hand; large ones are whole huge pages.
  const bool is_small = bytes < kHugePage;
  const size_t align = is_small ? 64 : kHugePage;
  const size_t whole = (bytes + align - 1) / align * align, all = whole + align + 4096;
  HugeBuffer b;
  if (is_small) {
    b.base_ = std::calloc(all, 1);
  } else {
    void* const mapped =
        mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped != MAP_FAILED) b.base_ = mapped, b.mapped_ = all;
  }
  if (!b.base_) {
    return Status::out_of_memory("no memory for " + std::to_string(bytes) + " bytes, " +
                                 std::to_string(available_bytes()) + " are available");
  }
  b.bytes_ = bytes;
  const uintptr_t start = (reinterpret_cast<uintptr_t>(b.base_) + align - 1) / align * align;
  b.data_ = reinterpret_cast<uint8_t*>(start);
  if (!is_small) prefer_huge_pages(b.data_, whole);
  *out = std::move(b);
  return {};
}

Status HugeArena::take(size_t bytes, std::span<uint8_t>* out) {
  // As much again as there is, so that a small model takes little. What is never written takes no
  // memory, so the end of a large buffer may stay empty.
  constexpr size_t kLeast = size_t(256) << 10, kMost = size_t(64) << 20, kLine = 64;
  if (buffers_.empty() || buffers_.back().bytes() - used_ < bytes) {
    HugeBuffer more;
    const size_t size = std::max(bytes, std::clamp(taken_, kLeast, kMost));
    if (Status s = HugeBuffer::create(size, &more); !s) return s;
    taken_ += size;
    buffers_.push_back(std::move(more));
    used_ = 0;
  }
  const HugeBuffer& from = buffers_.back();
  *out = {from.data() + used_, bytes};
  used_ = std::min(from.bytes(), used_ + (bytes + kLine - 1) / kLine * kLine);
  return {};
}

size_t available_bytes(const std::string& root) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
#if defined(_SC_AVPHYS_PAGES)
  const size_t free = size_t(sysconf(_SC_AVPHYS_PAGES)) * page;
#else
  const size_t free = size_t(sysconf(_SC_PHYS_PAGES)) * page;
#endif
  const size_t kib = read_number(root + "/proc/meminfo", "MemAvailable:", free / 1024);
  return std::min(kib * 1024, left_in_groups(root));
}

}  // namespace nemotron::cpu
