// What the processor allows: reads of memory, and multiply-adds from registers.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <thread>

#include "bench/cpu/bench.h"
#include "cpu/isa.h"
#include "cpu/memory.h"

namespace nemotron::bench {
namespace {

double processor_seconds() {  // of the calling thread
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// body(thread) on each of `threads` threads, the caller's among them.
template <class Body>
void on_threads(int threads, Body&& body) {
  std::vector<std::thread> list;
  for (int t = 1; t < threads; ++t) list.emplace_back([&, t] { body(t); });
  body(0);
  for (std::thread& t : list) t.join();
}

// Sum of all words; four streams a quarter of the range apart when `streams` is 4.
uint64_t read_all(const uint8_t* p, size_t bytes, size_t streams) {
  typedef uint64_t V __attribute__((vector_size(32)));
  const size_t each = bytes / streams / 256 * 256;
  V sum[8] = {};
  for (size_t i = 0; i < each; i += 256) {
    for (size_t s = 0; s < streams; ++s) {
      const uint8_t* q = p + s * each + i;
      for (size_t line = 0; line < 4; ++line) __builtin_prefetch(q + 4096 + 64 * line);
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

// Instructions in a loop of `turns`, registers alone; each has its own sum to wait for.
using Loop = void (*)(int64_t turns);
struct NamedLoop {
  const char* name;
  Loop loop;
  double operations;  // of one turn
};

void plain_loop(int64_t turns) {
  typedef float V __attribute__((vector_size(16)));
  const V x = {0.999f, 0.999f, 0.999f, 0.999f}, y = {1e-3f, 1e-3f, 1e-3f, 1e-3f};
  V sum[8] = {};
  for (int i = 0; i < 8; ++i) sum[i] = x + float(i);  // different, or the compiler would see one
  for (int64_t turn = 0; turn < turns; ++turn) {
    for (V& s : sum) s = s * x + y;
  }
  volatile float keep = 0;
  for (const V& s : sum) keep = keep + s[0];
}

#if defined(__x86_64__)

// In assembly, so that this file needs no compiler flags. Twelve sums in registers 0 to 11 begin at
// zero; both factors are register 12: 0.5 everywhere, for BF16 pairs of 0 and 0.5.
#define NEMOTRON_TWELVE_SUMS(instruction, r)                                                  \
  const float half = 0.5f;                                                                    \
  __asm__ volatile(                                                                           \
      "vbroadcastss %1, %%" r                                                                 \
      "12\n"                                                                                  \
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11\nvxorps %%xmm\\i, %%xmm\\i, %%xmm\\i\n.endr\n"        \
      "1:\n.irp i,0,1,2,3,4,5,6,7,8,9,10,11\n" instruction " %%" r "12, %%" r "12, %%" r      \
      "\\i\n"                                                                                 \
      ".endr\ndec %0\njnz 1b\nvzeroupper\n"                                                   \
      : "+r"(turns)                                                                           \
      : "m"(half)                                                                             \
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
        "xmm10", "xmm11", "xmm12")

void avx2_loop(int64_t turns) { NEMOTRON_TWELVE_SUMS("vfmadd231ps", "ymm"); }
void avx512_loop(int64_t turns) { NEMOTRON_TWELVE_SUMS("vfmadd231ps", "zmm"); }
void avx512bf16_loop(int64_t turns) { NEMOTRON_TWELVE_SUMS("vdpbf16ps", "zmm"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_a_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Four sums in tiles 0 to 3 of the factors 4, 5 and 6, 7, all zero.
#define NEMOTRON_FOUR_TILES(instruction)                                                 \
  const TileConfig config;                                                               \
  __asm__ volatile(                                                                      \
      "ldtilecfg %1\n.irp i,0,1,2,3,4,5,6,7\ntilezero %%tmm\\i\n.endr\n1:\n" instruction \
      " %%tmm6, %%tmm4, %%tmm0\n" instruction " %%tmm7, %%tmm4, %%tmm1\n" instruction    \
      " %%tmm6, %%tmm5, %%tmm2\n" instruction                                            \
      " %%tmm7, %%tmm5, %%tmm3\ndec %0\njnz 1b\ntilerelease\n"                           \
      : "+r"(turns)                                                                      \
      : "m"(config)                                                                      \
      : "cc")

void amx_bf16_loop(int64_t turns) { NEMOTRON_FOUR_TILES("tdpbf16ps"); }
void amx_int8_loop(int64_t turns) { NEMOTRON_FOUR_TILES("tdpbssd"); }

#endif

std::vector<NamedLoop> loops_here() {
  std::vector<NamedLoop> loops = {{"f32 multiply-add plain", plain_loop, 8 * 4 * 2.0}};
#if defined(__x86_64__)
  using cpu::Isa;
  if (cpu::isa_available(Isa::avx2)) loops.push_back({"f32 fma avx2", avx2_loop, 12 * 8 * 2.0});
  if (cpu::isa_available(Isa::avx512)) {
    loops.push_back({"f32 fma avx512", avx512_loop, 12 * 16 * 2.0});
  }
  if (cpu::isa_available(Isa::avx512bf16)) {
    loops.push_back({"bf16 dot avx512", avx512bf16_loop, 12 * 32 * 2.0});
  }
  if (cpu::isa_available(Isa::amx)) {
    loops.push_back({"bf16 amx", amx_bf16_loop, 4 * 16 * 16 * 32 * 2.0});
    loops.push_back({"int8 amx", amx_int8_loop, 4 * 16 * 16 * 64 * 2.0});
  }
#endif
  return loops;
}

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double processor_time() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

int open_temporary(std::string* path) {
  const std::string any(6, 'X');  // which mkstemp() makes a name of
  *path = (std::filesystem::temp_directory_path() / ("nemotron-" + any)).string();
  return mkstemp(path->data());
}

Clock Options::clock() const { return wall || threads > 1 ? now : processor_seconds; }

bool Options::wanted(const std::string& name) const {
  return only.empty() || std::any_of(only.begin(), only.end(), [&](const std::string& part) {
           return name.find(part) != std::string::npos;
         });
}

double median_seconds(Clock clock, double seconds, const std::function<void()>& body) {
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

// More than any cache holds, unless a test says what is enough to see that it is read.
size_t bytes_to_read() {
  const char* mib = std::getenv("NEMOTRON_BENCH_READ_MIB");
  return size_t(mib ? std::max(1, std::atoi(mib)) : 1024) << 20;
}

double read_bandwidth(Clock clock, int threads, double seconds) {
  static cpu::HugeBuffer buffer;
  if (!buffer.data()) {
    if (!cpu::HugeBuffer::create(bytes_to_read(), &buffer)) return 0;
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

std::vector<Peak> measure_peaks(Clock clock, int threads, double seconds) {
  constexpr int64_t kTurns = 400'000;
  std::vector<Peak> peaks;
  for (const NamedLoop& l : loops_here()) {
    const double t =
        median_seconds(clock, seconds, [&] { on_threads(threads, [&](int) { l.loop(kTurns); }); });
    peaks.push_back({l.name, l.operations * double(kTurns) * threads / t / 1e9});
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
