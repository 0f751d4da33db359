// Matrix products and attention by themselves, against min(bytes / bandwidth, operations / peak).
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "bench/cpu_bench.h"
#include "device/device.h"

namespace nemotron::bench {
namespace {

// Random bits as normal-sized BF16 numbers.
std::vector<uint16_t> random_bf16(size_t n) {
  std::vector<uint16_t> v(n);
  uint64_t s = 88172645463325252ull;
  for (uint16_t& x : v) {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    x = uint16_t(0x3c00 + (s & 0x81ff));  // +-2^-7 .. 2^-3
  }
  return v;
}

struct Matrix {
  const char* name;
  int64_t n, k;
};

// A device can be told the kind of products: its peak is the best of what it may use.
double peak_of(const std::vector<Peak>& peaks, const std::string& device) {
  const bool bf16 = device.find("bf16") != std::string::npos || device.find("amx") != std::string::npos;
  double best = 0;
  for (const Peak& p : peaks) {
    if (p.name.find("int8") != std::string::npos) continue;
    if (p.name.rfind("bf16", 0) == 0 && !bf16) continue;
    best = std::max(best, p.gflops);
  }
  return best;
}

int failed(const Status& s) {
  std::fprintf(stderr, "%s\n", s.message().c_str());
  return 1;
}

}  // namespace

int run_ops(const Options& options) {
  std::unique_ptr<Device> device;
  if (Status s = open_cpu_device({.threads = options.threads, .isa = options.isa}, &device); !s) {
    return failed(s);
  }
  const Clock clock = options.clock();
  const double bandwidth = read_bandwidth(clock, options.threads, 2);
  const double peak = peak_of(measure_peaks(clock, options.threads, 0.3), device->name());
  std::printf("{\"device\": \"%s\", \"read_gb_per_s\": %.2f, \"peak_gflops\": %.0f}\n",
              device->name().c_str(), bandwidth, peak);

  const std::vector<uint16_t> source = random_bf16(size_t(16384) * 2048 + 4096);
  const Matrix matrices[] = {{"qkv", 3072, 2048}, {"gate_up", 16384, 2048}, {"down", 2048, 8192}};
  const WeightFormat format = options.weights == "fp8" ? WeightFormat::fp8 : WeightFormat::stored;
  for (const Matrix& m : matrices) {
    if (!options.wanted(m.name)) continue;
    // Enough copies that no cache holds them.
    std::vector<Weight> copies;
    const size_t bytes = size_t(m.n * m.k) * (format == WeightFormat::fp8 ? 1 : 2);
    while (copies.size() * bytes < size_t(512) << 20) {
      const MatrixPart part{source.data() + copies.size() % 16 * 64, DType::bf16, m.n, m.k, m.k, {}};
      Weight w;
      if (Status s = device->pack_weight({&part, 1}, WeightUse::linear, format, &w); !s) return failed(s);
      copies.push_back(w);
    }
    for (int64_t rows : {1, 2, 4, 8, 16, 32, 128, 512}) {
      void *a = nullptr, *c = nullptr;
      if (!device->alloc(size_t(rows * m.k) * 4, &a) || !device->alloc(size_t(rows * m.n) * 4, &c)) return 1;
      for (int64_t i = 0; i < rows * m.k; ++i) static_cast<float*>(a)[i] = float(i % 17) * 0.01f - 0.08f;
      const Tensor ta{.data = a, .dtype = DType::f32, .rank = 2, .shape = {rows, m.k}};
      const Tensor tc{.data = c, .dtype = DType::f32, .rank = 2, .shape = {rows, m.n}};
      size_t next = 0;
      const double t = median_seconds(clock, options.seconds,
                                      [&] { device->gemm(tc, ta, copies[next++ % copies.size()]); });
      const double flops = 2.0 * double(rows) * double(m.n) * double(m.k);
      const double limit = std::max(double(copies[0].bytes) / (bandwidth * 1e9), flops / (peak * 1e9));
      std::printf("{\"op\": \"gemm\", \"matrix\": \"%s\", \"weights\": \"%s\", \"rows\": %d, \"ms\": %.3f, "
                  "\"gb_per_s\": %.2f, \"gflops\": %.1f, \"percent_of_limit\": %.0f}\n",
                  m.name, options.weights.c_str(), int(rows), t * 1e3, double(copies[0].bytes) / t / 1e9,
                  flops / t / 1e9, 100 * limit / t);
      std::fflush(stdout);
      device->free(a);
      device->free(c);
    }
  }
  return 0;
}

}  // namespace nemotron::bench
