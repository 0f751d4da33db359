// Matrix products and attention by themselves, against min(bytes / bandwidth, operations / peak).
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "bench/cpu/bench.h"
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
  const bool bf16 =
      device.find("bf16") != std::string::npos || device.find("amx") != std::string::npos;
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

// Attention of Llama-3.2-1B's heads over contexts that no cache holds: one layer, hidden size 64 so
// that filling the cache is cheap.
int run_attention(const Options& options, Device* device, double bandwidth, double peak) {
  constexpr int32_t kQ = 32, kKv = 8, kDim = 64, kHidden = 64, kBlock = 64, kRows = 512;
  constexpr int32_t kMost = 65536;
  const std::vector<uint16_t> source = random_bf16(size_t(kQ + 2 * kKv) * kDim * kHidden);
  const MatrixPart part{source.data(), DType::bf16, (kQ + 2 * kKv) * kDim, kHidden, kHidden, {}};
  Weight w;
  if (Status s = device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w); !s)
    return failed(s);
  std::vector<float> inv_freq;
  for (int i = 0; i < kDim / 2; ++i) inv_freq.push_back(1.0f / float(1 + i));
  const KvConfig kv{.layers = 1,
                    .kv_heads = kKv,
                    .head_dim = kDim,
                    .num_blocks = kMost / kBlock,
                    .block_size = kBlock,
                    .dtype = options.bf16_kv ? DType::bf16 : device->kv_dtype()};
  const StepLimits limits{.max_rows = kRows,
                          .max_spans = kRows,
                          .max_samples = 1,
                          .max_context = kMost,
                          .q_heads = kQ,
                          .kv_heads = kKv,
                          .head_dim = kDim,
                          .hidden = kHidden,
                          .intermediate = 64,
                          .vocab = 64};
  if (Status s = device->prepare(limits, kv, {inv_freq}); !s) return failed(s);
  std::vector<int32_t> table(kMost / kBlock), ids(kRows, 0), slots(kRows, -1);
  for (size_t i = 0; i < table.size(); ++i) table[i] = int32_t((i * 389) % table.size());
  void *x = nullptr, *q = nullptr, *out = nullptr, *gain = nullptr;
  const size_t heads = size_t(kRows) * kQ * kDim * 4;
  if (!device->alloc(size_t(kRows) * kHidden * 4, &x) || !device->alloc(heads, &q) ||
      !device->alloc(heads, &out) || !device->alloc(kHidden * 4, &gain)) {
    return 1;
  }
  for (int i = 0; i < kRows * kHidden; ++i) static_cast<float*>(x)[i] = float(i % 23) * 0.1f - 1.1f;
  for (int i = 0; i < kHidden; ++i) static_cast<float*>(gain)[i] = 1;
  const auto tensor = [](void* data, int64_t rows, int64_t cols) {
    return Tensor{.data = data, .dtype = DType::f32, .rank = 2, .shape = {rows, cols}};
  };
  // `rows` new tokens, `spans` sequences of them, each after `position` tokens of the same cache.
  const auto step = [&](int32_t rows, int32_t spans, int32_t position, bool store, bool attend) {
    std::vector<SpanInput> list;
    for (int32_t i = 0; i < spans; ++i) {
      list.push_back({.first_row = i * (rows / spans),
                      .rows = rows / spans,
                      .first_position = position,
                      .block_table = table});
    }
    const StepInput in{.token_ids = {ids.data(), size_t(rows)},
                       .token_slots = {slots.data(), size_t(rows)},
                       .spans = list};
    device->begin_step(in);
    if (store) {
      device->attention_input(tensor(q, rows, kQ * kDim), tensor(x, rows, kHidden),
                              {.data = gain, .dtype = DType::f32, .rank = 1, .shape = {kHidden}},
                              1e-5f, w, 0);
    }
    if (attend)
      device->attention(tensor(out, rows, kQ * kDim), tensor(q, rows, kQ * kDim), 0, 0.125f);
  };
  for (int32_t at = 0; at < kMost; at += kRows) step(kRows, 1, at, true, false);
  struct Case {
    const char* name;
    int32_t rows, position;
  };
  for (const Case& c : {Case{"decode", 1, 8191},
                        {"decode", 1, kMost - 1},
                        {"prefill", 512, 0},
                        {"prefill", 512, 2048},
                        {"prefill", 512, 8192}}) {
    const double t = median_seconds(options.clock(), options.seconds,
                                    [&] { step(c.rows, 1, c.position, false, true); });
    const double keys = c.position + (c.rows + 1) / 2.0;
    const double bytes = (c.position + c.rows) * 4.0 * kKv * kDim,
                 flops = 4.0 * c.rows * keys * kQ * kDim;
    const double limit = std::max(bytes / (bandwidth * 1e9), flops / (peak * 1e9));
    std::printf(
        "{\"op\": \"attention\", \"case\": \"%s\", \"kv\": \"%s\", \"rows\": %d, \"context\": %d, "
        "\"ms\": %.3f, "
        "\"gb_per_s\": %.2f, \"gflops\": %.1f, \"percent_of_limit\": %.0f}\n",
        c.name, dtype_name(kv.dtype), c.rows, c.position + c.rows, t * 1e3, bytes / t / 1e9,
        flops / t / 1e9, 100 * limit / t);
    std::fflush(stdout);
  }
  for (void* p : {x, q, out, gain}) device->free(p);
  const Status s = device->sync();
  return s ? 0 : failed(s);
}

// Draws from 128 K logits, flat and peaked: microseconds a row.
int run_sample(const Options& options) {
  constexpr int32_t kVocab = 128256;
  std::unique_ptr<Device> device;
  if (Status s = open_cpu_device({.threads = options.threads, .isa = options.isa}, &device); !s)
    return failed(s);
  const KvConfig kv{.layers = 1, .kv_heads = 1, .head_dim = 16, .num_blocks = 1, .block_size = 16};
  const StepLimits limits{.max_rows = 1,
                          .max_spans = 1,
                          .max_samples = 1,
                          .max_context = 16,
                          .q_heads = 1,
                          .kv_heads = 1,
                          .head_dim = 16,
                          .hidden = 16,
                          .intermediate = 16,
                          .vocab = kVocab};
  const std::vector<float> inv_freq(8, 1.0f);
  if (Status s = device->prepare(limits, kv, {inv_freq}); !s) return failed(s);
  void* logits = nullptr;
  if (!device->alloc(kVocab * 4, &logits)) return 1;
  for (const bool peaked : {false, true}) {
    std::vector<float> values(kVocab);
    uint64_t seed = 88172645463325252ull;
    for (float& v : values) {
      float sum = 0;
      for (int i = 0; i < 4; ++i) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        sum += float(seed >> 40) * 0x1p-24f - 0.5f;
      }
      v = sum * 3.5f;  // a standard deviation of about 2
    }
    if (peaked) {
      for (int i = 0; i < 20; ++i) values[size_t(i * 6151)] = 14.0f - float(i) * 0.5f;
    }
    struct Case {
      const char* name;
      SampleInput in;
    };
    std::vector<Case> cases(6);
    cases[0].name = "greedy";
    cases[1].name = "temperature", cases[1].in.temperature = 0.8f;
    cases[2].name = "top_p", cases[2].in.temperature = 0.6f, cases[2].in.top_p = 0.95f;
    cases[3].name = "top_k", cases[3].in.temperature = 0.6f, cases[3].in.top_k = 50;
    cases[4].name = "greedy, 20 logprobs", cases[4].in.num_top = 20;
    cases[5].name = "prompt logprob", cases[5].in.target = 5, cases[5].in.num_top = 0;
    for (Case& c : cases) {
      const std::vector<int32_t> ids = {0}, slots = {-1}, table = {0};
      const SpanInput span{.rows = 1, .block_table = table};
      const StepInput in{
          .token_ids = ids, .token_slots = slots, .spans = {&span, 1}, .samples = {&c.in, 1}};
      device->begin_step(in);
      SampleOutput out;
      const double t = median_seconds(options.clock(), options.seconds / 4, [&] {
        device->upload(logits, values.data(), kVocab * 4);
        device->sample({.data = logits, .dtype = DType::f32, .rank = 2, .shape = {1, kVocab}}, 0, 1,
                       &out);
      });
      std::printf("{\"op\": \"sample\", \"case\": \"%s\", \"logits\": \"%s\", \"us\": %.1f}\n",
                  c.name, peaked ? "peaked" : "flat", t * 1e6);
    }
  }
  device->free(logits);
  return 0;
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

  if (options.wanted("attention")) {
    if (int rc = run_attention(options, device.get(), bandwidth, peak); rc != 0) return rc;
  }
  if (options.wanted("sample")) {
    if (int rc = run_sample(options); rc != 0) return rc;
  }
  const std::vector<uint16_t> source = random_bf16(size_t(16384) * 2048 + 4096);
  const Matrix matrices[] = {{"qkv", 3072, 2048}, {"gate_up", 16384, 2048}, {"down", 2048, 8192}};
  const WeightFormat format = options.weights == "fp8" ? WeightFormat::fp8 : WeightFormat::stored;
  for (const Matrix& m : matrices) {
    if (!options.wanted(m.name)) continue;
    // Enough copies that no cache holds them.
    std::vector<Weight> copies;
    const size_t bytes = size_t(m.n * m.k) * (format == WeightFormat::fp8 ? 1 : 2);
    while (copies.size() * bytes < size_t(512) << 20) {
      const MatrixPart part{
          source.data() + copies.size() % 16 * 64, DType::bf16, m.n, m.k, m.k, {}};
      Weight w;
      if (Status s = device->pack_weight({&part, 1}, WeightUse::linear, format, &w); !s)
        return failed(s);
      copies.push_back(w);
    }
    for (int64_t rows : {1, 2, 4, 8, 16, 32, 128, 512}) {
      void *a = nullptr, *c = nullptr;
      if (!device->alloc(size_t(rows * m.k) * 4, &a) || !device->alloc(size_t(rows * m.n) * 4, &c))
        return 1;
      for (int64_t i = 0; i < rows * m.k; ++i)
        static_cast<float*>(a)[i] = float(i % 17) * 0.01f - 0.08f;
      const Tensor ta{.data = a, .dtype = DType::f32, .rank = 2, .shape = {rows, m.k}};
      const Tensor tc{.data = c, .dtype = DType::f32, .rank = 2, .shape = {rows, m.n}};
      size_t next = 0;
      const double t = median_seconds(
          clock, options.seconds, [&] { device->gemm(tc, ta, copies[next++ % copies.size()]); });
      const double flops = 2.0 * double(rows) * double(m.n) * double(m.k);
      const double limit =
          std::max(double(copies[0].bytes) / (bandwidth * 1e9), flops / (peak * 1e9));
      std::printf(
          "{\"op\": \"gemm\", \"matrix\": \"%s\", \"weights\": \"%s\", \"rows\": %d, \"ms\": %.3f, "
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
