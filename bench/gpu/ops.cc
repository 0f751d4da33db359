// Single ops through the Device interface: products by M, attention by batch and context, sampler.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "bench/gpu/bench.h"
#include "cuda/context.h"
#include "cuda/cuda_device.h"

namespace nemotron::bench {
namespace {

// Random numbers, at most 1: a GPU clocks higher on zeros. The same 4 MB over and over.
std::vector<uint8_t> noise(DType dtype, size_t bytes) {
  const size_t element = dtype_bytes(dtype), period = std::min(bytes, size_t(1) << 22);
  std::vector<uint8_t> out(bytes);
  uint64_t state = 7;
  for (size_t at = 0; at < period; at += element) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const float v = float(int32_t(state >> 32)) / float(1u << 31);
    if (dtype == DType::fp8_e4m3) {
      out[at] = f32_to_e4m3(v);
    } else if (dtype == DType::bf16) {
      const uint16_t half = f32_to_bf16(v);
      std::memcpy(&out[at], &half, sizeof half);
    } else {
      std::memcpy(&out[at], &v, sizeof v);
    }
  }
  for (size_t at = period; at < bytes; at += period)
    std::memcpy(&out[at], out.data(), std::min(period, bytes - at));
  return out;
}

// How large the steps of a device become.
struct Sizes {
  int32_t rows, spans, context, blocks;
  DType kv_dtype;
  bool fp8_activations = false;
};

// A device that is ready for steps, and buffers that live as long.
class Ops {
 public:
  Ops(Bench& b, const Shape& s, const Sizes& sizes) : b_(b) {
    DeviceOptions options;
    options.fp8_activations = sizes.fp8_activations;
    if (!b.check(cuda::open_device(options, &device_), "opening the GPU")) return;
    KvConfig kv;
    kv.layers = 1, kv.kv_heads = s.kv_heads, kv.head_dim = s.head_dim, kv.block_size = 64;
    kv.num_blocks = sizes.blocks, kv.dtype = sizes.kv_dtype;
    StepLimits limits;
    limits.max_rows = sizes.rows, limits.max_spans = limits.max_samples = sizes.spans;
    limits.max_context = sizes.context, limits.q_heads = s.q_heads, limits.kv_heads = s.kv_heads;
    limits.head_dim = s.head_dim, limits.hidden = s.hidden, limits.intermediate = s.inner;
    limits.vocab = s.vocab;
    const std::vector<float> freq(size_t(s.head_dim / 2), 0.01f);
    b.check(device_->prepare(limits, kv, {freq}), "preparing the GPU");
  }

  Tensor buffer(DType dtype, int64_t rows, int64_t cols) {
    Tensor t{nullptr, dtype, 2, {rows, cols}};
    if (b_.failed() || !b_.check(device_->alloc(t.bytes(), &t.data), "memory")) return t;
    const std::vector<uint8_t> some = noise(dtype, std::min<size_t>(t.bytes(), size_t(1) << 22));
    for (size_t at = 0; at < t.bytes(); at += some.size()) {
      device_->upload(static_cast<uint8_t*>(t.data) + at, some.data(),
                      std::min(some.size(), t.bytes() - at));
    }
    b_.check(device_->sync(), "memory");
    return t;
  }

  // Seconds of one `op`, `repeat` of them in a step of these spans. Generated rows that are all
  // sampled go through a graph, as in a model: what is measured is the GPU, not the launches.
  double time(const std::vector<SpanInput>& spans, int32_t generated, int repeat,
              const std::function<void(int)>& op, const std::vector<SampleInput>& samples = {}) {
    int32_t rows = 0;
    for (const SpanInput& s : spans) rows += s.rows;
    const std::vector<int32_t> ids(size_t(rows), 0), slots(size_t(rows), -1);
    StepInput in;
    std::vector<SampleInput> sampled = samples;
    if (generated == rows && samples.empty()) {
      sampled.resize(size_t(rows));
      for (int32_t i = 0; i < rows; ++i) sampled[size_t(i)].row = i;
    }
    in.token_ids = ids, in.token_slots = slots, in.spans = spans, in.samples = sampled;
    in.num_generated_rows = generated;
    return time_of(b_.tiny ? 1 : 5,
                   [&] {
                     if (b_.failed()) return;
                     device_->begin_step(in);
                     for (int i = 0; i < repeat; ++i) op(i);
                     b_.check(device_->sync(), "a step");
                   }) /
           repeat;
  }
  Device& device() { return *device_; }

 private:
  Bench& b_;
  std::unique_ptr<Device> device_;
};

// Whether the GPU is one that kernels by wgmma are for.
bool has_wgmma(Bench& b) {
  cuda::Context context;
  return b.check(context.open(0), "opening the GPU") && context.properties().major == 9;
}

struct ProductKind {
  bool fp8 = false, fp8_activations = false;
  bool wgmma = false;  // all rows by the other kernel
};

void products(Bench& b, const Shape& s, const ProductKind& kind) {
  const auto [fp8, fp8_activations, wgmma] = kind;
  const int32_t most = b.tiny ? 40 : 8192;
  const size_t cold = b.tiny ? 1 : size_t(200) << 20;  // more bytes than any cache holds
  const std::pair<int64_t, int64_t> shapes[] = {{s.q_cols() + 2 * s.kv_cols(), s.hidden},
                                                {s.hidden, s.q_cols()},
                                                {2 * s.inner, s.hidden},
                                                {s.hidden, s.inner}};
  for (const auto& [n, k] : shapes) {
    Ops ops(b, s, {most, 1, most, most / 64 + 1, DType::bf16, fp8_activations});
    if (b.failed()) return;
    Device& d = ops.device();
    const DType dtype = fp8 ? DType::fp8_e4m3 : DType::bf16;
    const std::vector<uint8_t> random = noise(dtype, size_t(n * k) * dtype_bytes(dtype));
    const MatrixPart part{random.data(), dtype, n, k, k, {}};
    std::vector<Weight> copies;
    for (size_t bytes = 0; bytes < cold; bytes += copies.back().bytes) {
      Weight w;
      if (!b.check(d.pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w),
                   "weights"))
        return;
      copies.push_back(w);
    }
    const Tensor a = ops.buffer(DType::bf16, most, k), x = ops.buffer(DType::f32, most, n);
    const std::vector<int32_t> table(size_t(most / 64 + 1), 0);
    // Generated rows, then rows of a prompt.
    for (const auto& [m, generated] : {std::pair{1, true},
                                       {8, true},
                                       {32, true},
                                       {64, true},
                                       {256, true},
                                       {1024, false},
                                       {8192, false}}) {
      // W8A8 is for prompts: generated rows take the same kernels with and without it.
      if (b.failed() || m > most || (fp8_activations && generated)) continue;
      const int repeat = int(copies.size()) * (b.tiny || !generated ? 1 : m > 64 ? 8 : 32);
      const double t =
          ops.time({{0, m, 0, generated, table}}, generated ? m : 0, repeat, [&](int i) {
            d.gemm_residual(x.rows(m), a.rows(m), {copies[size_t(i) % copies.size()]}, nullptr);
          });
      if (b.failed()) return;
      const double bytes = double(copies[0].bytes), flops = 2.0 * m * double(n) * double(k);
      const double limit =
          std::max(bytes / b.limits.read, flops / (fp8_activations ? b.limits.fp8 : b.limits.bf16));
      const std::string name = "gemm " + std::to_string(n) + "x" + std::to_string(k) +
                               (fp8 ? fp8_activations ? " W8A8" : " FP8" : " BF16") +
                               (generated ? " M " : " prompt M ") + std::to_string(m) +
                               (wgmma ? " wgmma" : "");
      b.measure(name, t, limit, generated ? "GB/s" : "TFLOP/s",
                generated ? bytes / t / 1e9 : flops / t / 1e12);
    }
  }
}

}  // namespace

void bench_products(Bench& b, const Shape& s) {
  for (const bool fp8 : {false, true}) {
    if (!b.failed()) products(b, s, {.fp8 = fp8});
  }
  if (b.failed()) return;
  if (has_wgmma(b)) {
    setenv("NEMOTRON_DECODE_PRODUCTS", "wgmma", 1);
    setenv("NEMOTRON_PROMPT_PRODUCTS", "decode", 1);
    for (const bool fp8 : {false, true}) {
      if (!b.failed()) products(b, s, {.fp8 = fp8, .wgmma = true});
    }
    unsetenv("NEMOTRON_PROMPT_PRODUCTS");
    unsetenv("NEMOTRON_DECODE_PRODUCTS");
  }
  if (b.failed()) return;
  std::unique_ptr<Device> device;
  DeviceOptions options;
  options.fp8_activations = true;
  if (const Status st = cuda::open_device(options, &device); !st) {
    return b.note("no W8A8 products: " + st.message());
  }
  device.reset();
  products(b, s, {.fp8 = true, .fp8_activations = true});
}

namespace {

// Prompt attention over keys and values that are not zeros (a GPU clocks higher on those). Returns
// what came out for the last rows.
std::vector<uint16_t> prefill(Bench& b, Shape s, DType kv, const std::string& suffix) {
  if (b.tiny) s.head_dim = 64;  // that wgmma takes
  const int32_t most = b.tiny ? 200 : 8192;
  constexpr int32_t kHidden = 64;
  Ops ops(b, s, {most, 1, most, most / 64 + 1, kv});
  if (b.failed()) return {};
  Device& d = ops.device();
  const int64_t n = s.q_cols() + 2 * s.kv_cols();
  std::vector<uint16_t> random(static_cast<size_t>(n * kHidden));
  for (size_t i = 0; i < random.size(); ++i)
    random[i] = f32_to_bf16(float(i * 2654435761u % 1009) / 504.5f - 1);
  const MatrixPart part{
      reinterpret_cast<const uint8_t*>(random.data()), DType::bf16, n, kHidden, kHidden, {}};
  Weight w;
  if (!b.check(d.pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w), "weights"))
    return {};
  const Tensor x = ops.buffer(DType::f32, most, kHidden), gain = ops.buffer(DType::f32, 1, kHidden),
               q = ops.buffer(DType::bf16, most, s.q_cols()),
               out = ops.buffer(DType::bf16, most, s.q_cols());
  const Norm norm{.eps = 1e-5f, .gain = {gain.data, DType::f32, 1, {kHidden}}};
  for (int32_t tokens : {most / 8, most}) {
    std::vector<int32_t> table;
    for (int32_t j = 0; j < (tokens + 63) / 64; ++j) table.push_back(j);
    const std::vector<SpanInput> spans = {{0, tokens, 0, false, table}};
    ops.time(spans, 0, 1,
             [&](int) { d.attention_input(q.rows(tokens), x.rows(tokens), norm, {w}, 0); });
    const double t = ops.time(spans, 0, b.tiny ? 1 : 4,
                              [&](int) { d.attention(out.rows(tokens), q.rows(tokens), 0, 0.1f); });
    if (b.failed()) return {};
    const double flops = 2.0 * double(s.q_cols()) * tokens * double(tokens);
    b.measure("attention prefill " + std::to_string(tokens) + suffix, t, flops / b.limits.bf16,
              "TFLOP/s", flops / t / 1e12);
  }
  std::vector<uint16_t> last(static_cast<size_t>(64 * s.q_cols()));
  d.download(last.data(), static_cast<uint16_t*>(out.data) + (most - 64) * s.q_cols(),
             last.size() * 2);
  if (!b.check(d.sync(), "a step")) return {};
  return last;
}

// Both kernels where there are two, and how far they are apart.
void bench_prefill(Bench& b, const Shape& s, DType kv) {
  const std::string cache = kv == DType::fp8_e4m3 ? " KV8" : "";
  const std::vector<uint16_t> mma = prefill(b, s, kv, cache);
  if (b.failed() || !has_wgmma(b)) return;
  setenv("NEMOTRON_PROMPT_ATTENTION", "wgmma", 1);
  const std::vector<uint16_t> wgmma = prefill(b, s, kv, cache + " wgmma");
  unsetenv("NEMOTRON_PROMPT_ATTENTION");
  if (b.failed()) return;
  double apart = 0, size = 0;
  for (size_t i = 0; i < mma.size(); ++i) {
    const double x = double(bf16_to_f32(mma[i])), y = double(bf16_to_f32(wgmma[i]));
    apart += (x - y) * (x - y);
    size += x * x;
  }
  const double error = std::sqrt(apart / size);
  b.note("attention prefill" + cache + ": wgmma and mma.sync are " + std::to_string(error) +
         " apart, relative");
  if (!(error < 1e-2)) b.check(Status::internal("they should be below 0.01"), "attention prefill");
}

}  // namespace

void bench_attention(Bench& b, const Shape& s) {
  const int32_t unit = b.tiny ? 128 : 4096;
  const int32_t blocks = std::max(32 * unit, b.tiny ? 128 : 131072) / 64;
  for (const DType kv : {DType::bf16, DType::fp8_e4m3}) {
    constexpr int32_t kRows = 128;
    Ops ops(b, s, {kRows, kRows, blocks * 64, blocks, kv});
    if (b.failed()) return;
    Device& d = ops.device();
    const Tensor q = ops.buffer(DType::bf16, kRows, s.q_cols()),
                 out = ops.buffer(DType::bf16, kRows, s.q_cols());
    const std::string suffix = kv == DType::bf16 ? "" : " KV8";
    const double kv_bytes = kv == DType::bf16 ? 2 : 1;

    // Sequences whose blocks lie apart, in turns; several cover the cache more than once.
    const std::pair<int32_t, int32_t> decodes[] = {{1, unit},     {8, unit},      {32, unit},
                                                   {1, 8 * unit}, {1, 32 * unit}, {128, unit / 4}};
    for (const auto& [batch, context] : decodes) {
      if (b.failed() || (b.tiny && context > blocks * 64)) continue;
      std::vector<std::vector<int32_t>> tables(static_cast<size_t>(batch));
      std::vector<SpanInput> spans;
      for (int32_t i = 0; i < batch; ++i) {
        for (int32_t j = 0; j < (context + 63) / 64; ++j)
          tables[size_t(i)].push_back((j * batch + i) % blocks);
        spans.push_back({i, 1, context - 1, true, tables[size_t(i)]});
      }
      const double t = ops.time(spans, batch, b.tiny ? 1 : 32,
                                [&](int) { d.attention(out.rows(batch), q.rows(batch), 0, 0.1f); });
      if (b.failed()) return;
      const double bytes = 2 * kv_bytes * batch * double(context) * double(s.kv_cols());
      b.measure("attention decode batch " + std::to_string(batch) + " ctx " +
                    std::to_string(context) + suffix,
                t, bytes / b.limits.read, "GB/s", bytes / t / 1e9);
    }
  }
  bench_prefill(b, s, DType::fp8_e4m3);
  if (!b.failed()) bench_prefill(b, s, DType::bf16);
}

void bench_sampler(Bench& b, int32_t vocab) {
  Shape s = kTiny;
  s.vocab = vocab;
  const int32_t most = b.tiny ? 8 : 64;
  Ops ops(b, s, {most, most, 64, most, DType::bf16});
  if (b.failed()) return;
  const Tensor logits = ops.buffer(DType::f32, most, vocab);
  const std::vector<int32_t> table = {0};
  for (const char* how : {"greedy", "draw", "top_k + top_p", "greedy + 20 logprobs"}) {
    const std::string name = how;
    for (int32_t n : {1, most}) {
      std::vector<SpanInput> spans;
      std::vector<SampleInput> samples(static_cast<size_t>(n));
      for (int32_t i = 0; i < n; ++i) {
        spans.push_back({i, 1, 0, true, table});
        SampleInput& in = samples[size_t(i)];
        in.row = i;
        in.seed = uint64_t(i);
        if (!name.starts_with("greedy")) in.temperature = 0.8f;
        if (name.starts_with("top")) in.top_k = 50, in.top_p = 0.95f;
        if (name.ends_with("logprobs")) in.num_logprobs = 20;
      }
      std::vector<SampleOutput> outputs(static_cast<size_t>(n));
      const int repeat = b.tiny ? 1 : 16;
      const double t = ops.time(
          spans, n, repeat, [&](int) { ops.device().sample(logits.rows(n), 0, n, outputs.data()); },
          samples);
      if (b.failed()) return;
      b.measure("sample " + name + " batch " + std::to_string(n), t,
                4.0 * n * vocab / b.limits.read, "us", t * 1e6);
    }
  }
}

void bench_kernels(Bench& b, const Shape& s) {
  setenv("NEMOTRON_CUBLASLT", "none", 1);  // the own product of prompts is one of them
  const int32_t prompt = b.tiny ? 40 : 1024, batch = b.tiny ? 2 : 32, context = b.tiny ? 128 : 4096,
                most = std::max(prompt, batch);
  for (const bool fp8 : {false, true}) {
    const DType dtype = fp8 ? DType::fp8_e4m3 : DType::bf16;
    const int32_t blocks = batch * context / 64;
    Ops ops(b, s, {most, batch, context, blocks, dtype});
    if (b.failed()) return;
    Device& d = ops.device();
    const auto weight = [&](int64_t rows, int64_t cols, WeightUse use) {
      const std::vector<uint8_t> random = noise(dtype, size_t(rows * cols) * dtype_bytes(dtype));
      const MatrixPart part{random.data(), dtype, rows, cols, cols, {}};
      const std::vector<MatrixPart> parts(use == WeightUse::gate_up ? 2 : 1, part);
      Weight w;
      b.check(d.pack_weight(parts, use, WeightFormat::stored, &w), "weights");
      return w;
    };
    const Weight gate_up = weight(s.inner, s.hidden, WeightUse::gate_up),
                 down = weight(s.hidden, s.inner, WeightUse::linear);
    const Tensor x = ops.buffer(DType::f32, most, s.hidden),
                 h = ops.buffer(DType::bf16, most, s.inner),
                 q = ops.buffer(DType::bf16, most, s.q_cols()),
                 out = ops.buffer(DType::bf16, most, s.q_cols()),
                 row = ops.buffer(DType::f32, 1, s.hidden);
    const Norm norm{.eps = 1e-5f, .gain = {row.data, DType::f32, 1, {s.hidden}}};
    std::vector<std::vector<int32_t>> tables(static_cast<size_t>(batch));
    for (int32_t i = 0; i < blocks; ++i) tables[size_t(i % batch)].push_back(i);
    // One launch each, in steps that no graph takes: nothing of them is sampled.
    const auto step = [&](const std::vector<SpanInput>& spans, const std::function<void()>& f) {
      int32_t rows = 0;
      for (const SpanInput& span : spans) rows += span.rows;
      const std::vector<int32_t> ids(size_t(rows), 0), slots(size_t(rows), -1);
      StepInput in;
      in.token_ids = ids, in.token_slots = slots, in.spans = spans;
      in.num_generated_rows = spans[0].generated ? rows : 0;
      if (b.failed()) return;
      d.begin_step(in);
      f();
      b.check(d.sync(), "a step");
    };
    const auto products = [&](int32_t rows) {
      d.mlp_input(h.rows(rows), x.rows(rows), norm, {gate_up}, Activation::silu_gated);
      d.gemm_residual(x.rows(rows), h.rows(rows), {down}, nullptr);
    };
    for (const int32_t rows : {1, batch}) {
      std::vector<SpanInput> spans;
      for (int32_t i = 0; i < rows; ++i)
        spans.push_back({i, 1, context - 1, true, tables[size_t(i)]});
      step(spans, [&] { products(rows); });
      if (rows == batch) step(spans, [&] { d.attention(out.rows(rows), q.rows(rows), 0, 0.1f); });
    }
    step({{0, prompt, 0, false, tables[0]}}, [&] {
      products(prompt);
      d.attention(out.rows(prompt), q.rows(prompt), 0, 0.1f);
    });
    if (b.failed()) return;
  }
  b.note("kernels: each has been launched");
}

}  // namespace nemotron::bench
