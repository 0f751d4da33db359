// gpu_bench: how close the CUDA backend comes to what the GPU can do (bench/gpu.sh runs it).
//
//   gpu_bench [--json FILE] [--quick]       --quick: tiny shapes, to try the program itself
//
// Ceilings first, then products by M, attention, sampler, and whole models with random weights of
// the true shapes. Every number stands beside its limit: bytes over the read bandwidth, or FLOPs
// over the matrix peak, both measured in this run. Times are wall times of steps or of many ops in
// one step, after a warm-up; the median is reported. No checkpoint and no Node are needed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/gpu_peaks.h"
#include "cuda/context.h"
#include "cuda/cublaslt.h"
#include "cuda/cuda_device.h"
#include "models/decoder.h"

namespace nemotron::bench {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}
// Seconds of one call, median of `times` after two for warming up.
double time_of(int times, const std::function<void()>& f) {
  f();
  f();
  std::vector<double> v;
  for (int i = 0; i < times; ++i) {
    const double t = now();
    f();
    v.push_back(now() - t);
  }
  return median(v);
}

struct Shape {
  const char* name;
  int32_t hidden, layers, q_heads, kv_heads, head_dim, inner, vocab;
};

struct Bench {
  bool quick = false;
  std::string rows;                       // JSON, one object a measurement
  double read = 0, copy = 0, matrix = 0;  // bytes/s, bytes/s, FLOP/s
  bool failed = false;

  void report(const std::string& name, double seconds, double limit_seconds, const char* unit,
              double value) {
    std::printf("%-46s %12.1f us  %10.1f %-9s %5.1f %% of limit\n", name.c_str(), seconds * 1e6,
                value, unit, limit_seconds > 0 ? 100 * limit_seconds / seconds : 0.0);
    std::fflush(stdout);
    char line[512];
    std::snprintf(line, sizeof line,
                  "%s    {\"name\": \"%s\", \"us\": %.3f, \"value\": %.4g, \"unit\": \"%s\", "
                  "\"limit_us\": %.3f}",
                  rows.empty() ? "" : ",\n", name.c_str(), seconds * 1e6, value, unit,
                  limit_seconds * 1e6);
    rows += line;
  }
  bool check(const Status& s, const char* what) {
    if (s) return true;
    std::printf("%s: %s\n", what, s.message().c_str());
    failed = true;
    return false;
  }
};

// --- ceilings
// ------------------------------------------------------------------------------------------

void ceilings(Bench& b) {
  cuda::Context context;
  if (!b.check(context.open(0), "opening the GPU")) return;
  const size_t bytes = b.quick ? size_t(1) << 16 : size_t(4) << 30;
  void *p = nullptr, *q = nullptr;
  if (!b.check(context.alloc(bytes, &p), "memory") || !b.check(context.alloc(bytes, &q), "memory"))
    return;
  const double read = time_of(9, [&] {
    launch_read(context.queue(), p, bytes, static_cast<uint32_t*>(q));
    context.synchronize();
  });
  b.read = double(bytes) / read;
  b.report("read only", read, read, "GB/s", b.read / 1e9);
  const double copy = time_of(9, [&] {
    context.check(cudaMemcpyAsync(q, p, bytes, cudaMemcpyDeviceToDevice, context.stream()),
                  "copying");
    context.synchronize();
  });
  b.copy = 2 * double(bytes) / copy;
  b.report("copy (read + write)", copy, 2 * double(bytes) / b.read, "GB/s", b.copy / 1e9);

  const int kernels = 1000;
  for (bool pdl : {false, true}) {
    context.queue().pdl = pdl && context.properties().major >= 9;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    context.check(cudaStreamBeginCapture(context.stream(), cudaStreamCaptureModeThreadLocal),
                  "capturing");
    for (int i = 0; i < kernels; ++i) launch_empty(context.queue());
    context.check(cudaStreamEndCapture(context.stream(), &graph), "capturing");
    context.check(cudaGraphInstantiate(&exec, graph, 0), "capturing");
    const double t = time_of(9, [&] {
      context.check(cudaGraphLaunch(exec, context.stream()), "launching a graph");
      context.synchronize();
    });
    b.report(pdl ? "empty kernel in a graph, PDL" : "empty kernel in a graph", t / kernels, 0, "us",
             t / kernels * 1e6);
    if (exec) cudaGraphExecDestroy(exec);
    if (graph) cudaGraphDestroy(graph);
  }

  cuda::CublasLt library(&context);
  std::string why;
  const int32_t n = b.quick ? 64 : 8192;
  if (library.open(&why)) {
    const size_t one = size_t(n) * size_t(n) * 2;
    const double t = time_of(9, [&] {
      library.multiply(static_cast<uint16_t*>(p), n, static_cast<uint16_t*>(p) + one / 2, n, n, n,
                       n, q, n, false, false);
      context.synchronize();
    });
    b.matrix = 2.0 * n * n * n / t;
    b.report("matrix peak, BF16, zeros, cuBLASLt " + library.version(), t, t, "TFLOP/s",
             b.matrix / 1e12);
  } else {
    std::printf("no cuBLASLt (%s): matrix limits use 790 TFLOP/s, an H200's\n", why.c_str());
    b.matrix = 790e12;
  }
  b.check(context.status(), "ceilings");
}

// --- a model with random weights
// -----------------------------------------------------------------------------

class Model {
 public:
  Status open(Bench& b, const Shape& s, WeightFormat format, DType kv_dtype, int32_t max_rows,
              int32_t context, int32_t sequences) {
    shape_ = s;
    const int32_t layers = s.layers;
    if (Status st = cuda::open_device(DeviceOptions{}, &device_); !st) return st;
    config_.hidden = s.hidden, config_.vocab = s.vocab, config_.q_heads = s.q_heads,
    config_.head_dim = s.head_dim;
    config_.layers.assign(size_t(layers), LayerSpec{true, s.kv_heads, true, s.inner});
    // One random matrix serves all: what matters is how many bytes lie where, not which.
    const int64_t widest = std::max<int64_t>(std::max(s.hidden, s.inner), s.q_heads * s.head_dim);
    const int64_t tallest =
        std::max<int64_t>(2 * s.inner, (s.q_heads + 2 * s.kv_heads) * s.head_dim);
    if (random_.empty()) {
      random_.resize(size_t(widest) * size_t(std::min<int64_t>(tallest, b.quick ? tallest : 4096)));
      uint64_t state = 1;
      for (uint16_t& v : random_) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        v = f32_to_bf16((float(int32_t(state >> 33)) / float(1 << 30) - 1) * 0.02f);
      }
    }
    const auto part = [&](int64_t rows, int64_t cols) {
      return MatrixPart{random_.data(), DType::bf16, rows, cols, cols, {}};
    };
    Status failed;
    const auto pack = [&](std::vector<std::pair<int64_t, int64_t>> parts, WeightUse use,
                          WeightFormat f) {
      std::vector<MatrixPart> list;
      for (const auto& [rows, cols] : parts) {
        // Taller than the source: the same rows again.
        const int64_t most = int64_t(random_.size()) / cols;
        if (use == WeightUse::gate_up) {
          list.push_back(part(std::min(rows, most), cols));
          continue;
        }
        for (int64_t at = 0; at < rows; at += most)
          list.push_back(part(std::min(most, rows - at), cols));
      }
      Weight w;
      if (failed) failed = device_->pack_weight(list, use, f, &w);
      bytes_ += w.bytes;
      return w;
    };
    const auto gain = [&] {
      const std::vector<float> ones(size_t(s.hidden), 1.0f);
      Tensor t{nullptr, DType::f32, 1, {s.hidden}};
      if (failed) failed = device_->alloc(t.bytes(), &t.data);
      if (failed) device_->upload(t.data, ones.data(), t.bytes());
      return t;
    };
    const int64_t q = s.q_heads * s.head_dim, kv = s.kv_heads * s.head_dim, inner = s.inner;
    const double begun = now();
    weights_.embedding = pack({{s.vocab, s.hidden}}, WeightUse::embedding, WeightFormat::stored);
    bytes_ = 0;  // a step does not read the table
    for (int32_t i = 0; i < layers && failed; ++i) {
      LayerWeights l;
      l.input_gain = gain();
      l.post_attention_gain = gain();
      l.qkv = pack({{q, s.hidden}, {kv, s.hidden}, {kv, s.hidden}}, WeightUse::linear, format);
      l.o = pack({{s.hidden, q}}, WeightUse::linear, format);
      l.gate_up = pack({{inner, s.hidden}, {inner, s.hidden}}, WeightUse::gate_up, format);
      l.down = pack({{s.hidden, inner}}, WeightUse::linear, format);
      l.kv_layer = i;
      weights_.layers.push_back(l);
    }
    weights_.final_gain = gain();
    weights_.head = pack({{s.vocab, s.hidden}}, WeightUse::linear, WeightFormat::stored);
    if (!failed) return failed;
    std::printf("%s: %.2f GB of weights packed in %.1f s\n", s.name, double(bytes_) / 1e9,
                now() - begun);

    cache_.layers = layers, cache_.kv_heads = s.kv_heads, cache_.head_dim = s.head_dim,
    cache_.block_size = 64;
    blocks_each_ = (context + 63) / 64;
    cache_.num_blocks = blocks_each_ * sequences;
    cache_.dtype = kv_dtype;
    StepLimits limits;
    limits.max_rows = max_rows, limits.max_spans = sequences,
    limits.max_samples = std::max(sequences, 1);
    limits.max_context = context, limits.q_heads = s.q_heads, limits.kv_heads = s.kv_heads;
    limits.head_dim = s.head_dim, limits.hidden = s.hidden, limits.intermediate = s.inner,
    limits.vocab = s.vocab;
    const std::vector<float> freq = config_.rope_inv_freq();
    if (Status st = device_->prepare(limits, cache_, {freq}); !st) return st;
    return Decoder::create(config_, weights_, device_.get(), limits, &decoder_);
  }

  // Rows [first, first + rows) of `sequences` sequences; the last row of each is sampled.
  Status step(int32_t sequences, int32_t first, int32_t rows, bool generated,
              float temperature = 0) {
    std::vector<int32_t> ids(size_t(sequences) * size_t(rows)), slots(ids.size(), -1);
    std::vector<std::vector<int32_t>> tables(static_cast<size_t>(sequences));
    std::vector<SpanInput> spans;
    std::vector<SampleInput> samples;
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i * 7919 % size_t(shape_.vocab));
    for (int32_t s = 0; s < sequences; ++s) {
      for (int32_t i = 0; i < blocks_each_; ++i) tables[size_t(s)].push_back(i * sequences + s);
      spans.push_back({s * rows, rows, first, generated, tables[size_t(s)]});
      SampleInput in;
      in.row = s * rows + rows - 1;
      in.position = uint64_t(first + rows);
      in.temperature = temperature;
      if (temperature > 0) in.top_k = 50, in.top_p = 0.95f;
      samples.push_back(in);
    }
    StepInput in;
    in.token_ids = ids, in.token_slots = slots, in.spans = spans, in.samples = samples;
    in.num_generated_rows = generated ? int32_t(ids.size()) : 0;
    StepOutput out;
    return decoder_->step(in, &out);
  }

  double weight_bytes() const { return double(bytes_); }
  double kv_bytes_per_token() const { return double(cache_.bytes_per_block()) / 64; }
  double linear_flops() const {
    const Shape& s = shape_;
    return 2.0 * double(weights_.layers.size()) *
           (2.0 * s.hidden * s.q_heads * s.head_dim + 2.0 * s.hidden * s.kv_heads * s.head_dim +
            3.0 * s.hidden * s.inner);
  }
  int32_t layers() const { return int32_t(weights_.layers.size()); }
  Device* device() { return device_.get(); }
  const DecoderWeights& weights() const { return weights_; }

 private:
  static inline std::vector<uint16_t> random_;
  Shape shape_{};
  ModelConfig config_;
  DecoderWeights weights_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Decoder> decoder_;
  KvConfig cache_;
  int32_t blocks_each_ = 0;
  size_t bytes_ = 0;
};

void decode_and_prefill(Bench& b, const Shape& s, WeightFormat format, DType kv,
                        const std::vector<int32_t>& batches, const std::vector<int32_t>& prompts) {
  const int32_t context = b.quick ? 256 : 1088;
  const int32_t longest = prompts.empty() ? context : std::max(context, prompts.back());
  const int32_t most = *std::max_element(batches.begin(), batches.end());
  const int32_t chunk = b.quick ? 64 : 8192;
  Model m;
  const std::string name = std::string(s.name) + (format == WeightFormat::fp8 ? " FP8" : " BF16") +
                           (kv == DType::fp8_e4m3 ? " (KV FP8)" : "");
  // Sequences share room: as many tokens as the larger of the two uses needs.
  const int32_t sequences = std::max(most, (longest + context - 1) / context);
  if (!b.check(
          m.open(b, s, format, kv, std::max(chunk, most), std::max(context, longest), sequences),
          name.c_str())) {
    return;
  }
  for (int32_t batch : batches) {
    const int32_t at = context - 64;
    const double t =
        time_of(b.quick ? 3 : 20, [&] { b.check(m.step(batch, at, 1, true), name.c_str()); });
    const double limit =
        std::max(m.weight_bytes() / b.read,
                 (m.linear_flops() + 2.0 * s.vocab * s.hidden) * batch / b.matrix) +
        double(batch) * (at + 1) * m.kv_bytes_per_token() / b.read;
    b.report(name + " decode batch " + std::to_string(batch) + " ctx 1K", t, limit, "tok/s",
             batch / t);
    if (b.failed) return;
  }
  for (int32_t tokens : prompts) {
    const double t = time_of(tokens > 8192 ? 1 : 5, [&] {
      for (int32_t at = 0; at < tokens; at += chunk)
        b.check(m.step(1, at, std::min(chunk, tokens - at), false), name.c_str());
    });
    const double attention = 2.0 * s.q_heads * s.head_dim * m.layers() * double(tokens) * tokens;
    const double limit = std::max(m.weight_bytes() / b.read, m.linear_flops() * tokens / b.matrix) +
                         attention / b.matrix;
    b.report(name + " prefill " + std::to_string(tokens), t, limit, "tok/s", tokens / t);
    if (b.failed) return;
  }
}

// --- single ops
// --------------------------------------------------------------------------------------------

void ops(Bench& b, const Shape& s) {
  std::unique_ptr<Device> device;
  if (!b.check(cuda::open_device(DeviceOptions{}, &device), "opening the GPU")) return;
  Device& d = *device;
  const int32_t context = b.quick ? 256 : 4096, most = b.quick ? 8 : 64;
  KvConfig kv;
  kv.layers = 1, kv.kv_heads = s.kv_heads, kv.head_dim = s.head_dim, kv.block_size = 64;
  kv.num_blocks = context / 64 * 32;
  StepLimits limits;
  limits.max_rows = std::max(b.quick ? 64 : 8192, most), limits.max_spans = most,
  limits.max_samples = most;
  limits.max_context = context * 32, limits.q_heads = s.q_heads, limits.kv_heads = s.kv_heads;
  limits.head_dim = s.head_dim, limits.hidden = s.hidden, limits.intermediate = s.inner,
  limits.vocab = s.vocab;
  std::vector<float> freq(size_t(s.head_dim / 2), 0.01f);
  if (!b.check(d.prepare(limits, kv, {freq}), "ops")) return;
  const auto buffer = [&](DType t, std::vector<int64_t> shape) {
    Tensor x{nullptr, t, int(shape.size()), {}};
    for (size_t i = 0; i < shape.size(); ++i) x.shape[i] = shape[i];
    b.check(d.alloc(x.bytes(), &x.data), "ops");
    return x;
  };
  const std::vector<uint16_t> random(size_t(4096) * size_t(s.inner), 0x3c00);

  // Products by M: enough copies of the matrix that none of it is still in the cache.
  const std::pair<int32_t, int32_t> shapes[] = {
      {(s.q_heads + 2 * s.kv_heads) * s.head_dim, s.hidden},
      {s.hidden, s.q_heads * s.head_dim},
      {2 * s.inner, s.hidden},
      {s.hidden, s.inner}};
  for (const auto& [n, k] : shapes) {
    for (WeightFormat format : {WeightFormat::stored, WeightFormat::fp8}) {
      std::vector<Weight> copies;
      size_t bytes = 0;
      do {
        std::vector<MatrixPart> parts;
        const int64_t rows = int64_t(random.size()) / k;
        for (int64_t at = 0; at < n; at += rows)
          parts.push_back({random.data(), DType::bf16, std::min<int64_t>(rows, n - at), k, k, {}});
        Weight w;
        if (!b.check(d.pack_weight(parts, WeightUse::linear, format, &w), "ops")) return;
        bytes += w.bytes;
        copies.push_back(w);
      } while (bytes < (b.quick ? size_t(1) : size_t(200) << 20));
      const Tensor a = buffer(DType::bf16, {limits.max_rows, k}),
                   x = buffer(DType::f32, {limits.max_rows, n});
      for (int32_t m : {1, 2, 4, 8, 16, 32, 64, 256, 1024, 8192}) {
        if (m > limits.max_rows) break;
        const bool generated = m <= 64;
        std::vector<int32_t> ids(size_t(m), 0), slots(size_t(m), -1), table(size_t(m / 64 + 1), 0);
        const SpanInput span{0, m, 0, generated, table};
        StepInput in;
        in.token_ids = ids, in.token_slots = slots, in.spans = {&span, 1},
        in.num_generated_rows = generated ? m : 0;
        const int repeat = int(copies.size()) * (m > 256 ? 1 : b.quick ? 1 : 8);
        const double t =
            time_of(5,
                    [&] {
                      d.begin_step(in);
                      for (int i = 0; i < repeat; ++i)
                        d.gemm_residual(x.rows(m), a.rows(m), copies[size_t(i) % copies.size()]);
                      b.check(d.sync(), "ops");
                    }) /
            repeat;
        if (b.failed) return;
        const double flops = 2.0 * m * n * k,
                     limit = std::max(double(copies[0].bytes) / b.read, flops / b.matrix);
        char name[128];
        std::snprintf(name, sizeof name, "gemm %d x %d %s M %d", n, k,
                      format == WeightFormat::fp8 ? "FP8" : "BF16", m);
        const bool memory = m <= 64;
        b.report(name, t, limit, memory ? "GB/s" : "TFLOP/s",
                 memory ? double(copies[0].bytes) / t / 1e9 : flops / t / 1e12);
      }
      d.free(a.data);
      d.free(x.data);
    }
  }

  // Attention of generated rows: batch x context; of prompt rows: one prompt.
  const int64_t heads = int64_t(s.q_heads) * s.head_dim;
  const Tensor q = buffer(DType::bf16, {limits.max_rows, heads}),
               out = buffer(DType::bf16, {limits.max_rows, heads});
  for (const auto& [batch, ctx] : {std::pair<int32_t, int32_t>{1, context},
                                   {8, context},
                                   {32, context},
                                   {1, context * 8},
                                   {1, context * 32}}) {
    std::vector<int32_t> ids(size_t(batch), 0), slots(size_t(batch), -1);
    std::vector<std::vector<int32_t>> tables(static_cast<size_t>(batch));
    std::vector<SpanInput> spans;
    for (int32_t i = 0; i < batch; ++i) {
      for (int32_t j = 0; j < ctx / 64; ++j)
        tables[size_t(i)].push_back((j * batch + i) % kv.num_blocks);
      spans.push_back({i, 1, ctx - 1, true, tables[size_t(i)]});
    }
    StepInput in;
    in.token_ids = ids, in.token_slots = slots, in.spans = spans, in.num_generated_rows = batch;
    const int repeat = b.quick ? 1 : 32;
    const double t = time_of(5,
                             [&] {
                               d.begin_step(in);
                               for (int i = 0; i < repeat; ++i)
                                 d.attention(out.rows(batch), q.rows(batch), 0, 0.1f);
                               b.check(d.sync(), "ops");
                             }) /
                     repeat;
    if (b.failed) return;
    const double bytes = 4.0 * batch * ctx * s.kv_heads * s.head_dim;
    b.report("attention decode batch " + std::to_string(batch) + " ctx " + std::to_string(ctx), t,
             bytes / b.read, "GB/s", bytes / t / 1e9);
  }
  for (int32_t tokens : {1024, 8192}) {
    if (tokens > limits.max_rows) break;
    std::vector<int32_t> ids(size_t(tokens), 0), slots(size_t(tokens), -1), table;
    for (int32_t j = 0; j < tokens / 64; ++j) table.push_back(j % kv.num_blocks);
    const SpanInput span{0, tokens, 0, false, table};
    StepInput in;
    in.token_ids = ids, in.token_slots = slots, in.spans = {&span, 1};
    const double t = time_of(5, [&] {
      d.begin_step(in);
      d.attention(out.rows(tokens), q.rows(tokens), 0, 0.1f);
      b.check(d.sync(), "ops");
    });
    if (b.failed) return;
    const double flops = 2.0 * double(heads) * tokens * tokens;
    b.report("attention prefill " + std::to_string(tokens), t, flops / b.matrix, "TFLOP/s",
             flops / t / 1e12);
  }

  // The sampler.
  const Tensor logits = buffer(DType::f32, {most, s.vocab});
  for (const bool filtered : {false, true}) {
    for (int32_t n : {1, most}) {
      std::vector<int32_t> ids(size_t(n), 0), slots(size_t(n), -1), table = {0};
      std::vector<SpanInput> spans;
      std::vector<SampleInput> samples(static_cast<size_t>(n));
      for (int32_t i = 0; i < n; ++i) {
        spans.push_back({i, 1, 0, true, table});
        samples[size_t(i)].row = i;
        if (filtered)
          samples[size_t(i)].temperature = 0.8f, samples[size_t(i)].top_k = 50,
          samples[size_t(i)].top_p = 0.95f;
      }
      StepInput in;
      in.token_ids = ids, in.token_slots = slots, in.spans = spans, in.samples = samples,
      in.num_generated_rows = n;
      std::vector<SampleOutput> outputs(static_cast<size_t>(n));
      const double t = time_of(9, [&] {
        d.begin_step(in);
        d.sample(logits.rows(n), 0, n, outputs.data());
        b.check(d.sync(), "ops");
      });
      if (b.failed) return;
      b.report(std::string("sample ") + (filtered ? "top_k + top_p" : "greedy") + " batch " +
                   std::to_string(n),
               t, 4.0 * n * s.vocab / b.read, "us", t * 1e6);
    }
  }
}

int run(int argc, char** argv) {
  Bench b;
  std::string json;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) b.quick = true;
    if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) json = argv[++i];
  }
  std::string why;
  if (cuda::device_count(&why) == 0) {
    std::printf("no usable GPU: %s\n", why.c_str());
    return 1;
  }
  std::string name;
  {
    std::unique_ptr<Device> device;
    if (!b.check(cuda::open_device(DeviceOptions{}, &device), "opening the GPU")) return 1;
    name = device->name();
    std::printf("%s, %.1f GB free\n", name.c_str(), double(device->free_bytes()) / 1e9);
  }
  ceilings(b);
  if (b.failed) return 1;
  const Shape nano = b.quick ? Shape{"tiny", 64, 2, 4, 2, 32, 96, 97}
                             : Shape{"8B", 4096, 32, 32, 8, 128, 14336, 128256};
  const Shape large = {"70B", 8192, 80, 64, 8, 128, 28672, 128256};
  ops(b, nano);
  if (b.quick) {
    decode_and_prefill(b, nano, WeightFormat::stored, DType::bf16, {1, 3}, {64, 128});
    decode_and_prefill(b, nano, WeightFormat::fp8, DType::fp8_e4m3, {3}, {64});
  } else {
    if (!b.failed)
      decode_and_prefill(b, nano, WeightFormat::stored, DType::bf16, {1, 8, 64, 256},
                         {128, 1024, 8192, 32768, 131072});
    if (!b.failed)
      decode_and_prefill(b, nano, WeightFormat::fp8, DType::fp8_e4m3, {1, 8, 64, 256},
                         {1024, 8192});
    if (!b.failed)
      decode_and_prefill(b, large, WeightFormat::fp8, DType::fp8_e4m3, {1, 8, 64}, {1024, 8192});
  }
  if (!json.empty()) {
    FILE* f = std::fopen(json.c_str(), "w");
    if (!f) {
      std::printf("cannot write %s\n", json.c_str());
      return 1;
    }
    int driver = 0;
    cudaDriverGetVersion(&driver);
    char date[32];
    const std::time_t t = std::time(nullptr);
    std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&t));
    std::fprintf(
        f,
        "{\n  \"date\": \"%s\",\n  \"device\": \"%s\",\n  \"driver_cuda\": %d,\n  "
        "\"read_bytes_per_s\": %.4g,\n"
        "  \"copy_bytes_per_s\": %.4g,\n  \"matrix_flops\": %.4g,\n  \"results\": [\n%s\n  ]\n}\n",
        date, name.c_str(), driver, b.read, b.copy, b.matrix, b.rows.c_str());
    std::fclose(f);
  }
  return b.failed ? 1 : 0;
}

}  // namespace
}  // namespace nemotron::bench

int main(int argc, char** argv) { return nemotron::bench::run(argc, argv); }
