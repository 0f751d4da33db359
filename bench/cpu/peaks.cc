#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <thread>

#include "bench/cpu/bench.h"
#include "cpu/isa.h"
#include "cpu/memory.h"

namespace nemotron::bench {
namespace {

// body(thread) on each of `threads` new threads; seconds until all are done.
template <class Body>
double on_threads(int threads, Body&& body) {
  std::vector<std::thread> list;
  const double start = now();
  for (int t = 1; t < threads; ++t) list.emplace_back([&, t] { body(t); });
  body(0);
  for (std::thread& t : list) t.join();
  return now() - start;
}

// Sum of all words; four streams a quarter of the range apart when `streams` is 4.
uint64_t read_all(const uint8_t* p, size_t bytes, size_t streams) {
  typedef uint64_t V __attribute__((vector_size(32)));
  const size_t each = bytes / streams / 256 * 256;
  V sum[8] = {};
  for (size_t i = 0; i < each; i += 256) {
    for (size_t s = 0; s < streams; ++s) {
      const uint8_t* q = p + s * each + i;
      __builtin_prefetch(q + 4096);
      __builtin_prefetch(q + 4096 + 64);
      __builtin_prefetch(q + 4096 + 128);
      __builtin_prefetch(q + 4096 + 192);
      for (size_t j = 0; j < 8; ++j) {
        V v;
        std::memcpy(&v, q + j * 32, 32);
        sum[j] ^= v;
      }
    }
  }
  for (size_t j = 1; j < 8; ++j) sum[0] ^= sum[j];
  return sum[0][0] ^ sum[0][1] ^ sum[0][2] ^ sum[0][3];
}

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

double median_seconds(const Clock& clock, double seconds, const std::function<void()>& body) {
  body();
  std::vector<double> times;
  for (const double start = now(); times.size() < 3 || now() - start < seconds;) {
    const double t = clock();
    body();
    times.push_back(clock() - t);
  }
  std::nth_element(times.begin(), times.begin() + int64_t(times.size() / 2), times.end());
  return times[times.size() / 2];
}

double read_bandwidth(const Clock& clock, int threads, double seconds) {
  static cpu::HugeBuffer buffer;
  if (!buffer.data()) {
    if (!cpu::HugeBuffer::create(size_t(1) << 30, &buffer)) return 0;
    std::memset(buffer.data(), 1, buffer.bytes());
  }
  const size_t share = buffer.bytes() / size_t(threads);
  double best = 0;
  for (size_t streams : {size_t(1), size_t(4)}) {
    const double t = median_seconds(clock, seconds / 2, [&] {
      on_threads(threads, [&](int thread) {
        volatile uint64_t keep = read_all(buffer.data() + share * size_t(thread), share, streams);
        (void)keep;
      });
    });
    best = std::max(best, double(share * size_t(threads)) / t / 1e9);
  }
  return best;
}

NamedLoop plain_peak() {
  return {"f32 multiply-add plain", [](int64_t count) {
            typedef float V __attribute__((vector_size(16)));
            const V x = {0.999f, 0.999f, 0.999f, 0.999f}, y = {1e-3f, 1e-3f, 1e-3f, 1e-3f};
            V a = y, b = y + y, c = a + b, d = b + b, e = c + c, f = c + d, g = d + d, h = d + e;
            for (int64_t n = 0; n < count; n += 8) {
              a = a * x + y, b = b * x + y, c = c * x + y, d = d * x + y;
              e = e * x + y, f = f * x + y, g = g * x + y, h = h * x + y;
            }
            const V s = ((a + b) + (c + d)) + ((e + f) + (g + h));
            volatile float keep = s[0];
            (void)keep;
            return double(count) * 8;
          }};
}

std::vector<Peak> measure_peaks(const Clock& clock, int threads, double seconds) {
  std::vector<NamedLoop> loops = {plain_peak()};
#if defined(NEMOTRON_X86)
  using cpu::Isa;
  if (cpu::isa_available(Isa::avx2)) loops.push_back(avx2_peak());
  if (cpu::isa_available(Isa::avx512)) loops.push_back(avx512_peak());
  if (cpu::isa_available(Isa::avx512bf16)) loops.push_back(avx512bf16_peak());
  if (cpu::isa_available(Isa::amx)) {
    for (const NamedLoop& l : amx_peaks()) loops.push_back(l);
  }
#endif
  std::vector<Peak> peaks;
  for (const NamedLoop& l : loops) {
    constexpr int64_t kCount = 4'800'000;  // a multiple of 8, 10 and 12
    const double work = l.loop(kCount);
    const double t =
        median_seconds(clock, seconds, [&] { on_threads(threads, [&](int) { l.loop(kCount); }); });
    peaks.push_back({l.name, work * threads / t / 1e9});
  }
  return peaks;
}

int run_ceilings(const Options& options) {
  for (const Peak& p : measure_peaks(options.clock(), options.threads, options.seconds)) {
    std::printf("{\"ceiling\": \"%s\", \"threads\": %d, \"gflops\": %.1f}\n", p.name.c_str(),
                options.threads, p.gflops);
  }
  std::printf("{\"ceiling\": \"read\", \"threads\": %d, \"gb_per_s\": %.2f}\n", options.threads,
              read_bandwidth(options.clock(), options.threads, options.seconds * 3));
  return 0;
}

}  // namespace nemotron::bench
