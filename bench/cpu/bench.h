// cpu_bench: ceilings and ops of the CPU backend, each printed as one line of JSON. Ceilings are
// measured in the same run as what is compared with them.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace nemotron::bench {

using Clock = double (*)();

// Seconds, on the wall, and of all threads on processors.
double now();
double processor_time();

// A new file of nobody else's, open for reading and writing; -1 where there can be none.
int open_temporary(std::string* path);

struct Options {
  int threads = 1;
  std::string isa;  // "" = the best
  std::string weights = "bf16";
  bool int8_activations = false;
  bool bf16_kv = false;           // instead of the device's own
  double seconds = 1.0;           // a case is repeated for at least this long
  std::vector<std::string> only;  // cases whose name contains one of these
  bool wall = false;
  // One thread on a shared machine is timed by its own processor time.
  Clock clock() const;
  bool wanted(const std::string& name) const;
};

// Median of one call on that clock (at least three calls, for about `seconds`), after one that
// warms up.
double median_seconds(Clock clock, double seconds, const std::function<void()>& body);

// GB/s of reading 1 GiB in huge pages, all threads together; the best stream count of a few.
double read_bandwidth(Clock clock, int threads, double seconds);

struct Peak {
  std::string name;   // "f32 fma avx2", "bf16 dot avx512", "bf16 amx", "int8 amx"
  double gflops = 0;  // all threads together
};
// What this processor's instructions reach from registers, on `threads` threads.
std::vector<Peak> measure_peaks(Clock clock, int threads, double seconds);

int run_ceilings(const Options& options);
// Of a checkpoint's rows, up to the memory that a GPU takes them from.
int run_loading(const Options& options);
// Of a file, from the disk and from the page cache.
int run_disk(const Options& options);
int run_ops(const Options& options);

}  // namespace nemotron::bench
