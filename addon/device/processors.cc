#include "device/processors.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <thread>

#include "device/control_groups.h"

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>

#include <memory>
#endif

namespace nemotron {
namespace {

int machine_processors() {
#if defined(__linux__)
  if (const long n = sysconf(_SC_NPROCESSORS_ONLN); n > 0) return int(n);
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

int allowed_processors() {
#if defined(__linux__)
  // A set has to be as long as the kernel's, which may know more processors than cpu_set_t.
  for (int size = CPU_SETSIZE; size <= (1 << 20); size *= 4) {
    const auto free_set = [](cpu_set_t* set) { CPU_FREE(set); };
    const std::unique_ptr<cpu_set_t, decltype(free_set)> set(CPU_ALLOC(size_t(size)), free_set);
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(size_t(size));
    CPU_ZERO_S(bytes, set.get());
    if (sched_getaffinity(0, bytes, set.get()) == 0) return CPU_COUNT_S(bytes, set.get());
  }
#endif
  return machine_processors();
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The least of all groups.
std::optional<double> quota_of_groups(const std::string& root) {
  std::optional<double> least;
  for (const auto& [folder, is_version2] : control_groups("cpu", root)) {
    const auto quota =
        parse_cpu_quota(is_version2 ? first_line(folder + "/cpu.max")
                                    : first_line(folder + "/cpu.cfs_quota_us") + " " +
                                          first_line(folder + "/cpu.cfs_period_us"));
    if (quota) least = std::min(*quota, least.value_or(*quota));
  }
  return least;
}

std::string text_of(double quota) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", quota);
  return text;
}

}  // namespace

std::optional<double> parse_cpu_quota(std::string_view text) {
  long long quota = 0, period = 0;
  if (std::sscanf(std::string(text).c_str(), "%lld %lld", &quota, &period) != 2) return {};
  if (quota <= 0 || period <= 0) return {};
  return double(quota) / double(period);
}

Processors choose_processors(int all, int allowed, std::optional<double> quota) {
  allowed = std::max(allowed, 1);
  if (quota && *quota < allowed) {
    return {std::max(1, int(std::ceil(*quota))), "the CPU quota is " + text_of(*quota) + " of " +
                                                     std::to_string(allowed) + " processors"};
  }
  const std::string count = std::to_string(allowed);
  if (allowed < all) {
    return {allowed, "it may run on " + count + " of " + std::to_string(all) + " processors"};
  }
  return {allowed, "one for each processor"};
}

Processors usable_processors(const std::string& root) {
  return choose_processors(machine_processors(), allowed_processors(), quota_of_groups(root));
}

Processors choose_threads(int asked) {
  if (asked > 0) return {asked, "as asked for"};
  return usable_processors();
}

}  // namespace nemotron
