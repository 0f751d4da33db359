// Matrix products, attention and draws by themselves; products and attention against
// min(bytes / bandwidth, operations / peak).
#include <algorithm>
#include <cstdio>
#include <memory>

#include "bench/cpu/bench.h"
#include "device/device.h"
#include "models/checkpoint/gguf_blocks.h"

namespace nemotron::bench {
namespace {

uint64_t next_word(uint64_t* s) {
  *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
  return *s;
}
constexpr uint64_t kSeed = 88172645463325252ull;

// Random bits as BF16 numbers of +-2^-7 to 2^-3.
std::vector<uint16_t> random_bf16(size_t n) {
  std::vector<uint16_t> v(n);
  uint64_t s = kSeed;
  for (uint16_t& x : v) x = uint16_t(0x3c00 + (next_word(&s) & 0x81ff));
  return v;
}

Tensor matrix(void* data, int64_t rows, int64_t cols) {
  return {.data = data, .dtype = DType::f32, .rank = 2, .shape = {rows, cols}};
}

// Floats in the device's memory, which is ours too.
class Floats {
 public:
  Floats(Device* device, size_t n) : device_(device) {
    void* p = nullptr;
    if (device->alloc(n * sizeof(float), &p)) data_ = static_cast<float*>(p), n_ = n;
    std::fill_n(data_, n_, 0.0f);
  }
  Floats(const Floats&) = delete;
  ~Floats() { device_->free(data_); }
  float* data() { return data_; }
  size_t size() const { return n_; }
  float& operator[](size_t i) { return data_[i]; }

 private:
  Device* device_;
  float* data_ = nullptr;
  size_t n_ = 0;
};

// What a bench needs besides its own buffers.
struct Machine {
  const Options& options;
  Device* device;
  double bandwidth, peak;  // GB/s and GFLOP/s

  // Prints a case: `what` is the beginning of its line, without the brace at its end.
  void print(const std::string& what, double bytes, double flops, double t) const {
    const double limit = std::max(bytes / (bandwidth * 1e9), flops / (peak * 1e9));
    std::printf(
        "{%s, \"ms\": %.3f, \"gb_per_s\": %.2f, \"gflops\": %.1f, \"percent_of_limit\": %.0f}\n",
        what.c_str(), t * 1e3, bytes / t / 1e9, flops / t / 1e9, 100 * limit / t);
    std::fflush(stdout);
  }
  double seconds(double share, const std::function<void()>& body) const {
    return median_seconds(options.clock(), options.seconds * share, body);
  }
};

std::string pair(const char* key, const std::string& value) {
  return "\"" + std::string(key) + "\": \"" + value + "\"";
}
std::string pair(const char* key, int64_t value) {
  return "\"" + std::string(key) + "\": " + std::to_string(value);
}

// A device can be told the kind of products: its peak is the best of what it may use.
double peak_of(const std::vector<Peak>& peaks, const std::string& device) {
  const bool bf16 =
      device.find("bf16") != std::string::npos || device.find("amx") != std::string::npos;
  const bool int8_tiles =
      device.find("amx") != std::string::npos && device.find("8 bits") != std::string::npos;
  double best = 0;
  for (const Peak& p : peaks) {
    if (p.name.find("int8") != std::string::npos && !int8_tiles) continue;
    if (p.name.rfind("bf16", 0) == 0 && !bf16) continue;
    best = std::max(best, p.gflops);
  }
  return best;
}

// Attention of Llama-3.2-1B's heads over contexts that no cache holds: one layer, hidden size 64 so
// that filling the cache is cheap.
class AttentionBench {
 public:
  explicit AttentionBench(Device* device) : device_(device) {}
  Status open(const Machine& m) {
    const std::vector<uint16_t> source = random_bf16(size_t(kQ + 2 * kKv) * kDim * kHidden);
    const MatrixPart part{source.data(), DType::bf16, (kQ + 2 * kKv) * kDim, kHidden, kHidden, {}};
    if (Status s =
            device_->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &weight_);
        !s) {
      return s;
    }
    std::vector<float> inv_freq;
    for (int i = 0; i < kDim / 2; ++i) inv_freq.push_back(1.0f / float(1 + i));
    const KvConfig kv{.layers = 1,
                      .kv_heads = kKv,
                      .head_dim = kDim,
                      .num_blocks = kMost / kBlock,
                      .block_size = kBlock,
                      .dtype = m.options.bf16_kv ? DType::bf16 : device_->kv_dtype()};
    kv_dtype_ = kv.dtype;
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
    if (Status s = device_->prepare(limits, kv, {inv_freq}); !s) return s;
    for (size_t i = 0; i < table_.size(); ++i) table_[i] = int32_t((i * 389) % table_.size());
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = float(i % 23) * 0.1f - 1.1f;
    std::fill_n(gain_.data(), kHidden, 1.0f);
    for (int32_t at = 0; at < kMost; at += kRows) store(at);
    return device_->sync();
  }
  void run(const Machine& m) {
    struct Case {
      const char* name;
      int32_t rows, position;
    };
    for (const Case& c : {Case{"decode", 1, 8191},
                          {"decode", 1, kMost - 1},
                          {"prefill", 512, 0},
                          {"prefill", 512, 2048},
                          {"prefill", 512, 8192}}) {
      const double t = m.seconds(1, [&] { attend(c.rows, c.position); });
      const double keys = c.position + (c.rows + 1) / 2.0;
      m.print(pair("op", "attention") + ", " + pair("case", c.name) + ", " +
                  pair("kv", dtype_name(kv_dtype_)) + ", " + pair("rows", c.rows) + ", " +
                  pair("context", c.position + c.rows),
              (c.position + c.rows) * 4.0 * kKv * kDim, 4.0 * c.rows * keys * kQ * kDim, t);
    }
  }

 private:
  static constexpr int32_t kQ = 32, kKv = 8, kDim = 64, kHidden = 64, kBlock = 64, kRows = 512;
  static constexpr int32_t kMost = 65536;

  // Begins a step of `rows` new tokens of one sequence after `position` tokens of the cache.
  void begin(int32_t rows, int32_t position) {
    span_ = {.rows = rows, .first_position = position, .block_table = table_};
    step_ = {.token_ids = {ids_.data(), size_t(rows)},
             .token_slots = {slots_.data(), size_t(rows)},
             .spans = {&span_, 1}};
    device_->begin_step(step_);
  }
  void store(int32_t position) {
    begin(kRows, position);
    device_->attention_input(
        matrix(q_.data(), kRows, kQ * kDim), matrix(x_.data(), kRows, kHidden),
        {.eps = 1e-5f,
         .gain = {.data = gain_.data(), .dtype = DType::f32, .rank = 1, .shape = {kHidden}}},
        {weight_}, 0);
  }
  void attend(int32_t rows, int32_t position) {
    begin(rows, position);
    device_->attention(matrix(out_.data(), rows, kQ * kDim), matrix(q_.data(), rows, kQ * kDim), 0,
                       0.125f);
  }

  Device* device_;
  Weight weight_;
  DType kv_dtype_ = DType::bf16;
  SpanInput span_;
  StepInput step_;
  std::vector<int32_t> table_ = std::vector<int32_t>(kMost / kBlock);
  std::vector<int32_t> ids_ = std::vector<int32_t>(kRows, 0);
  std::vector<int32_t> slots_ = std::vector<int32_t>(kRows, -1);
  Floats x_{device_, size_t(kRows) * kHidden}, gain_{device_, kHidden};
  Floats q_{device_, size_t(kRows) * kQ*kDim}, out_{device_, size_t(kRows) * kQ*kDim};
};

constexpr int32_t kVocab = 128256;

std::vector<float> random_logits(bool peaked) {
  std::vector<float> values(kVocab);
  uint64_t seed = kSeed;
  for (float& v : values) {
    for (int i = 0; i < 4; ++i) v += float(next_word(&seed) >> 40) * 0x1p-24f - 0.5f;
    v *= 3.5f;  // a standard deviation of about 2
  }
  for (int i = 0; peaked && i < 20; ++i) values[size_t(i * 6151)] = 14.0f - float(i) * 0.5f;
  return values;
}

// Draws from 128 K logits, flat and peaked: microseconds a row.
Status run_sample(const Machine& m) {
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
  if (Status s = m.device->prepare(limits, kv, {inv_freq}); !s) return s;
  Floats logits(m.device, kVocab);
  std::vector<std::pair<const char*, SampleInput>> cases(6);
  cases[0].first = "greedy";
  cases[1] = {"temperature", {.temperature = 0.8f}};
  cases[2] = {"top_p", {.temperature = 0.6f, .top_p = 0.95f}};
  cases[3] = {"top_k", {.temperature = 0.6f, .top_k = 50}};
  cases[4].first = "greedy, 20 logprobs", cases[4].second.num_logprobs = 20;
  cases[5].first = "prompt logprob", cases[5].second.scored = 5, cases[5].second.num_logprobs = 0;
  for (const bool peaked : {false, true}) {
    const std::vector<float> values = random_logits(peaked);
    for (const auto& [name, sample] : cases) {
      const std::vector<int32_t> ids = {0}, slots = {-1}, table = {0};
      const SpanInput span{.rows = 1, .block_table = table};
      const StepInput in{
          .token_ids = ids, .token_slots = slots, .spans = {&span, 1}, .samples = {&sample, 1}};
      m.device->begin_step(in);
      SampleOutput out;
      const double t = m.seconds(0.25, [&] {
        m.device->upload(logits.data(), values.data(), kVocab * 4);
        m.device->sample(matrix(logits.data(), 1, kVocab), 0, 1, &out);
      });
      std::printf("{\"op\": \"sample\", \"case\": \"%s\", \"logits\": \"%s\", \"us\": %.1f}\n",
                  name, peaked ? "peaked" : "flat", t * 1e6);
    }
  }
  return m.device->sync();
}

// Rows in groups with codes and scales that mean nothing: how long a product takes depends on none.
class AnyRows final : public GroupedRows {
 public:
  AnyRows(const GroupedForm& form, int64_t cols) : form_(form), cols_(cols) {}
  const GroupedForm& form() const override { return form_; }
  int64_t cols() const override { return cols_; }
  void read(int64_t row, const GroupedRow& to) const override {
    const uint32_t codes = 1u << form_.bits;
    for (int64_t i = 0; i < cols_; ++i) to.codes[i] = uint8_t(uint32_t(row * 31 + i * 7) % codes);
    const int64_t scales = cols_ / form_.scale_every();
    std::fill_n(to.scale, scales, f32_to_f16(0.01f));
    if (form_.has_least) std::fill_n(to.least, scales, f32_to_f16(0.02f));
    if (form_.has_steps) std::fill_n(to.steps, cols_ / form_.group, int8_t(3));
    if (form_.has_steps && form_.has_least) {
      std::fill_n(to.least_steps, cols_ / form_.group, int8_t(2));
    }
  }

 private:
  const GroupedForm form_;
  const int64_t cols_;
};

// Products of the layers of Llama-3.2-1B, each with so many copies of its weights that no cache
// holds them.
Status run_gemm(const Machine& m) {
  struct Matrix {
    const char* name;
    int64_t n, k;
    bool is_gated;
  };
  const std::vector<uint16_t> source = random_bf16(size_t(16384) * 2048 + 4096);
  const std::string& weights = m.options.weights;
  const WeightFormat format = weights == "fp8"    ? WeightFormat::fp8
                              : weights == "int4" ? WeightFormat::int4
                              : weights == "int8" ? WeightFormat::int8
                                                  : WeightFormat::stored;
  const GgufType* type = nullptr;
  for (uint32_t number = 0; number < 64; ++number) {
    const GgufType* t = gguf_type(number);
    if (t && t->split && weights == t->name) type = t;
  }
  if (format == WeightFormat::stored && !type && weights != "bf16") {
    return Status::invalid("--weights " + weights +
                           ": expected bf16, fp8, int4, int8 or a packed type of GGUF, as Q4_K");
  }
  for (const Matrix& w : {Matrix{"qkv", 3072, 2048, false},
                          {"gate_up", 16384, 2048, true},
                          {"down", 2048, 8192, false}}) {
    if (!m.options.wanted(w.name)) continue;
    std::vector<Weight> copies;
    Floats gain(m.device, size_t(w.k));
    std::fill_n(gain.data(), w.k, 1.0f);
    const AnyRows rows(type ? type->form : GroupedForm{}, w.k);
    while (copies.empty() || copies.size() * copies[0].bytes < size_t(512) << 20) {
      const uint16_t* data = source.data() + copies.size() % 16 * 64;
      MatrixPart part{data, DType::bf16, w.is_gated ? w.n / 2 : w.n, w.k, w.k, {}};
      if (type) part.data = nullptr, part.grouped = &rows;
      const MatrixPart parts[] = {part, part};
      copies.emplace_back();
      if (Status s = m.device->pack_weight({parts, w.is_gated ? 2u : 1u},
                                           w.is_gated ? WeightUse::gate_up : WeightUse::linear,
                                           format, &copies.back());
          !s) {
        return s;
      }
    }
    for (int64_t rows : {1, 2, 4, 8, 16, 32, 128, 512}) {
      Floats a(m.device, size_t(rows * w.k)), c(m.device, size_t(rows * w.n));
      for (size_t i = 0; i < a.size(); ++i) a[i] = float(i % 17) * 0.01f - 0.08f;
      const Norm norm{
          .eps = 1e-5f,
          .gain = {.data = gain.data(), .dtype = DType::f32, .rank = 1, .shape = {w.k}}};
      size_t next = 0;
      const double t = m.seconds(1, [&] {
        const Weight& weight = copies[next++ % copies.size()];
        if (w.is_gated) {
          m.device->mlp_input(matrix(c.data(), rows, w.n / 2), matrix(a.data(), rows, w.k), norm,
                              {weight}, Activation::silu_gated);
        } else {
          m.device->gemm_residual(matrix(c.data(), rows, w.n), matrix(a.data(), rows, w.k),
                                  {weight}, nullptr);
        }
      });
      m.print(pair("op", "gemm") + ", " + pair("matrix", w.name) + ", " +
                  pair("weights", m.options.weights) + ", " + pair("rows", rows),
              double(copies[0].bytes), 2.0 * double(rows) * double(w.n) * double(w.k), t);
    }
  }
  return {};
}

Status run_all(const Options& options) {
  // Each prepares a device of its own.
  std::unique_ptr<Device> device, sampler;
  for (std::unique_ptr<Device>* d : {&device, &sampler}) {
    const DeviceOptions opened{.threads = options.threads,
                               .isa = options.isa,
                               .int8_activations = options.int8_activations};
    if (Status s = open_cpu_device(opened, d); !s) return s;
  }
  const double share = std::min(1.0, options.seconds);
  const double bandwidth = read_bandwidth(options.clock(), options.threads, 2 * share);
  const double peak =
      peak_of(measure_peaks(options.clock(), options.threads, 0.3 * share), device->name());
  std::printf("{%s, \"read_gb_per_s\": %.2f, \"peak_gflops\": %.0f}\n",
              pair("device", device->name()).c_str(), bandwidth, peak);
  const Machine m{options, device.get(), bandwidth, peak};
  if (options.wanted("attention")) {
    AttentionBench attention(device.get());
    if (Status s = attention.open(m); !s) return s;
    attention.run(m);
    if (Status s = device->sync(); !s) return s;
  }
  if (options.wanted("sample")) {
    if (Status s = run_sample({options, sampler.get(), bandwidth, peak}); !s) return s;
  }
  return run_gemm(m);
}

}  // namespace

int run_ops(const Options& options) {
  const Status s = run_all(options);
  if (!s) std::fprintf(stderr, "%s\n", s.message().c_str());
  return s ? 0 : 1;
}

}  // namespace nemotron::bench
