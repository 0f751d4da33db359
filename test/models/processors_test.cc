// How many threads are started, by a tree of files such as a container has.
#include "device/processors.h"

#include <filesystem>
#include <string>

#include "../check.h"
#include "fixture.h"

namespace nemotron {
namespace {

using nemotron::test::TempDir;

// What parse_cpu_quota() finds, 0 for nothing.
double quota(std::string_view text) { return parse_cpu_quota(text).value_or(0); }

TEST(cpu_quota_of_a_file) {
  EXPECT_EQ(quota("200000 100000\n"), 2.0);
  EXPECT_EQ(quota("150000 100000"), 1.5);
  EXPECT_EQ(quota("25000 50000"), 0.5);
  EXPECT_EQ(quota("6400000 100000"), 64.0);
  for (const char* none : {"max 100000", "-1 100000", "", " ", "200000", "0 100000", "100000 0",
                           "100000 -1", "x 1", "max"}) {
    EXPECT(!parse_cpu_quota(none));
  }
}

TEST(processors_by_mask_and_quota) {
  const auto count = [](int all, int allowed, std::optional<double> of) {
    return choose_processors(all, allowed, of).count;
  };
  EXPECT_EQ(count(64, 64, {}), 64);
  EXPECT_EQ(count(64, 8, {}), 8);
  EXPECT_EQ(count(64, 64, 2.0), 2);
  EXPECT_EQ(count(64, 64, 2.5), 3);
  EXPECT_EQ(count(64, 64, 0.1), 1);
  EXPECT_EQ(count(64, 2, 8.0), 2);
  EXPECT_EQ(count(64, 4, 3.5), 4);
  EXPECT_EQ(count(0, 0, {}), 1);
  EXPECT_EQ(choose_processors(64, 64, {}).why, "one for each processor");
  EXPECT_EQ(choose_processors(64, 8, {}).why, "it may run on 8 of 64 processors");
  EXPECT_EQ(choose_processors(64, 8, 2.5).why, "the CPU quota is 2.5 of 8 processors");
}

// The system's files; this machine has a processor at least.
struct System {
  TempDir dir;
  explicit System(const std::string& groups) { write("/proc/self/cgroup", groups); }
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(dir.path() + path.substr(0, path.rfind('/')));
    dir.write(path.substr(1), text);
  }
  Processors processors() const { return usable_processors(dir.path()); }
};

TEST(processors_of_a_container) {
  const System system("0::/\n");
  const int all = system.processors().count;
  EXPECT_GE(all, 1);
  system.write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(system.processors().count, all);
  system.write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(system.processors().count, 1);
  EXPECT(system.processors().why.starts_with("the CPU quota is 0.5 of "));
}

// As systemd's CPUQuota and Kubernetes set it: a group above has it, or the group itself.
TEST(processors_by_the_least_of_all_groups) {
  const std::string slice = "/sys/fs/cgroup/system.slice", unit = slice + "/a.service";
  const System system("0::/system.slice/a.service\n");
  system.write(unit + "/cpu.max", "max 100000\n");
  system.write(slice + "/cpu.max", "70000 100000\n");
  EXPECT(system.processors().why.starts_with("the CPU quota is 0.7 of "));
  system.write(unit + "/cpu.max", "10000 100000\n");
  EXPECT(system.processors().why.starts_with("the CPU quota is 0.1 of "));
}

TEST(processors_by_version_1) {
  const System system("4:memory:/docker/b\n12:cpu,cpuacct:/docker/b\n0::/docker/b\n");
  const std::string folder = "/sys/fs/cgroup/cpu";
  const auto limit = [&](const std::string& at, const std::string& microseconds) {
    system.write(at + "/cpu.cfs_quota_us", microseconds + "\n");
    system.write(at + "/cpu.cfs_period_us", "100000\n");
  };
  const int all = system.processors().count;
  limit(folder, "-1");
  EXPECT_EQ(system.processors().count, all);
  limit(folder, "30000");
  EXPECT(system.processors().why.starts_with("the CPU quota is 0.3 of "));
  limit(folder + "/docker/b", "20000");
  EXPECT(system.processors().why.starts_with("the CPU quota is 0.2 of "));
}

TEST(threads_as_asked_for) {
  EXPECT_EQ(choose_threads(7).count, 7);
  EXPECT_EQ(choose_threads(7).why, "as asked for");
  EXPECT_EQ(choose_threads(0).count, usable_processors().count);
}

}  // namespace
}  // namespace nemotron
