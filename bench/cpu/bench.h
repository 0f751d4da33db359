// cpu_bench: ceilings, ops and whole decoder steps of the CPU backend, each printed as one line of
// JSON. Ceilings are measured in the same run as what is compared with them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace nemotron::bench {

double now();                // seconds on the wall
double processor_seconds();  // of the calling thread: on a shared machine, what one thread costs
using Clock = double (*)();

struct Options {
  int threads = 1;
  std::string isa;           // "" = the best
  std::string shape = "1b";  // 1b, 160m
  std::string weights = "bf16";
  bool bf16_kv = false;           // instead of the device's own
  double seconds = 1.0;           // a case is repeated for at least this long
  std::vector<std::string> only;  // cases whose name contains one of these
  // One thread on a shared machine is timed by its own processor time.
  bool wall = false;
  Clock clock() const { return wall || threads > 1 ? now : processor_seconds; }
  bool wanted(const std::string& name) const {
    for (const std::string& o : only) {
      if (name.find(o) != std::string::npos) return true;
    }
    return only.empty();
  }
};

// Median of one call on that clock (at least three calls, for about `seconds`), after one that
// warms up.
double median_seconds(const Clock& clock, double seconds, const std::function<void()>& body);

// --- ceilings ---

// GB/s of reading 1 GiB in huge pages, all threads together; the best stream count of a few.
double read_bandwidth(const Clock& clock, int threads, double seconds);

// A loop of `count` register-to-register instructions of a kind; operations it performed.
using PeakLoop = double (*)(int64_t count);
struct Peak {
  std::string name;   // "f32 fma", "bf16 dot", "amx bf16", "amx int8"
  double gflops = 0;  // all threads together
};
// What this processor's instructions reach in registers, on `threads` threads.
std::vector<Peak> measure_peaks(const Clock& clock, int threads, double seconds);

struct NamedLoop {
  const char* name;
  PeakLoop loop;
};
NamedLoop plain_peak();
NamedLoop avx2_peak();
NamedLoop avx512_peak();
NamedLoop avx512bf16_peak();
std::vector<NamedLoop> amx_peaks();

// --- benches ---

int run_ceilings(const Options& options);
int run_ops(const Options& options);
int run_decoder(const Options& options);

}  // namespace nemotron::bench
