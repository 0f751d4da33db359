// Memory that is left, by a tree of files such as the system has; and an arena's.
#include "cpu/memory.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "../check.h"
#include "fixture.h"

namespace nemotron::cpu {
namespace {

using nemotron::test::TempDir;

constexpr size_t kMiB = size_t(1) << 20;

struct System {
  TempDir dir;
  explicit System(const std::string& groups) {
    write("/proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable:    8192000 kB\n");
    write("/proc/self/cgroup", groups);
  }
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(dir.path() + path.substr(0, path.rfind('/')));
    dir.write(path.substr(1), text);
  }
  // Of version 2: MiB.
  void group(const std::string& path, const std::string& limit, size_t used, size_t cache) const {
    const std::string folder = "/sys/fs/cgroup" + path;
    write(folder + "/memory.max", limit + "\n");
    write(folder + "/memory.current", std::to_string(used * kMiB) + "\n");
    write(folder + "/memory.stat", "anon 1\nfile 2\ninactive_file " + std::to_string(cache * kMiB) +
                                       "\nactive_file 1048576\n");
  }
  size_t available() const { return available_bytes(dir.path()); }
};

std::string mib(size_t n) { return std::to_string(n * kMiB); }

TEST(available_without_a_limit) {
  EXPECT_EQ(System("").available(), size_t(8000) * kMiB);
  const System system("0::/user.slice/a.scope\n");
  EXPECT_EQ(system.available(), size_t(8000) * kMiB);
  system.group("/user.slice/a.scope", "max", 100, 0);
  EXPECT_EQ(system.available(), size_t(8000) * kMiB);
  EXPECT_GT(available_bytes(), size_t(0));
}

// As a container sees it, and a machine whose whole system is limited.
TEST(available_by_the_root) {
  const System system("0::/\n");
  system.group("", mib(1000), 300, 99);
  EXPECT_EQ(system.available(), 800 * kMiB);
  system.group("", mib(1000), 2000, 99);
  EXPECT_EQ(system.available(), size_t(0));
}

// As systemd's MemoryMax and Kubernetes set it.
TEST(available_by_its_own_group_and_those_above) {
  const std::string slice = "/system.slice", unit = slice + "/nemotron.service";
  const System system("0::" + unit + "/payload\n");
  system.group(unit + "/payload", "max", 100, 0);
  system.group(unit, mib(2000), 601, 100);
  EXPECT_EQ(system.available(), 1500 * kMiB);
  system.group(slice, mib(4000), 3001, 0);
  EXPECT_EQ(system.available(), 1000 * kMiB);
  system.group(unit + "/payload", mib(500), 101, 0);
  EXPECT_EQ(system.available(), 400 * kMiB);
  // Another unit's.
  system.group(slice + "/nemotron", mib(1), 0, 0);
  EXPECT_EQ(system.available(), 400 * kMiB);
}

TEST(available_by_version_1) {
  const System system("12:cpu,cpuacct:/a\n4:memory:/docker/b\n0::/docker/b\n");
  const std::string folder = "/sys/fs/cgroup/memory";
  const auto limit = [&](const std::string& at, const std::string& bytes) {
    system.write(at + "/memory.limit_in_bytes", bytes + "\n");
    system.write(at + "/memory.usage_in_bytes", mib(700) + "\n");
    system.write(at + "/memory.stat", "cache 5\ninactive_file 7\ntotal_inactive_file " + mib(150) +
                                          "\ntotal_active_file " + mib(50) + "\n");
  };
  // Where a container does not see its path, the root is its own group.
  limit(folder, mib(3000));
  EXPECT_EQ(system.available(), 2500 * kMiB);
  limit(folder, "9223372036854771712");
  EXPECT_EQ(system.available(), size_t(8000) * kMiB);
  limit(folder + "/docker/b", mib(1000));
  EXPECT_EQ(system.available(), 500 * kMiB);
}

// Nothing that a line may hold leads astray.
TEST(available_by_lines_that_are_none) {
  const System system("\n::\n0\n0:\n0::\n0::a/b\n0::/../..\n4:memory\nx:memory:/" +
                      std::string(5000, 'a') + "\n");
  EXPECT_EQ(system.available(), size_t(8000) * kMiB);
}

// Small ones beside each other, one that no buffer has room for, and more than a buffer's worth.
TEST(pieces_of_an_arena) {
  HugeArena arena;
  std::vector<std::span<uint8_t>> pieces;
  for (const size_t bytes :
       {size_t(1), size_t(0), size_t(100), 3 * kMiB, 70 * kMiB, 40 * kMiB, 30 * kMiB, size_t(65)}) {
    std::span<uint8_t> piece;
    EXPECT_OK(arena.take(bytes, &piece));
    EXPECT_EQ(piece.size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(piece.data()) % 64, uintptr_t(0));
    EXPECT(std::ranges::all_of(piece, [](uint8_t b) { return b == 0; }));
    std::ranges::fill(piece, uint8_t(pieces.size() + 1));
    pieces.push_back(piece);
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    EXPECT(std::ranges::all_of(pieces[i], [&](uint8_t b) { return b == i + 1; }));
  }
  EXPECT_EQ(pieces[2].data() - pieces[0].data(), 64);
}

}  // namespace
}  // namespace nemotron::cpu
