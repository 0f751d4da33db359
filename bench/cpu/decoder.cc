// Whole decoder steps with random weights: decode of 1, 8 and 32 sequences, prefill of 128, 512 and
// 2048 tokens, against the bytes and operations that the step cannot do without.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "bench/cpu/bench.h"
#include "models/decoder.h"

namespace nemotron::bench {
namespace {

struct Shape {
  const char* name;
  int32_t hidden, layers, q_heads, kv_heads, head_dim, intermediate, vocab;
  bool tied;
};
constexpr Shape kShapes[] = {
    {"1b", 2048, 16, 32, 8, 64, 8192, 128256, true},
    {"160m", 768, 12, 12, 4, 64, 2048, 32000, false},
    {"tiny", 256, 4, 4, 1, 64, 704, 512, false},
};

constexpr int32_t kContext = 128;  // of the sequences that decode
constexpr int32_t kMostSequences = 32;
constexpr int32_t kBlock = 64;
constexpr int32_t kMostRows = 2048;

class Model {
 public:
  Status open(const Options& o, const Shape& s) {
    shape_ = s;
    if (Status st = open_cpu_device({.threads = o.threads, .isa = o.isa}, &device); !st) return st;
    fill_source(size_t(std::max(s.vocab, 2 * s.intermediate)) * size_t(s.hidden) + 65536);
    const WeightFormat format = o.weights == "fp8" ? WeightFormat::fp8 : WeightFormat::stored;
    config.hidden = s.hidden, config.vocab = s.vocab, config.q_heads = s.q_heads;
    config.head_dim = s.head_dim, config.tied = s.tied, config.max_position = 131072;
    for (int i = 0; i < s.layers; ++i) {
      config.layers.push_back({.kv_heads = s.kv_heads, .intermediate = s.intermediate});
    }
    const double start = now();
    const float gain = 1.0f;
    gains_.assign(size_t(s.hidden), gain);
    for (int i = 0; i < s.layers; ++i) {
      LayerWeights l;
      l.kv_layer = i;
      if (Status st =
              pack({s.q_heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim},
                   s.hidden, WeightUse::linear, format, &l.qkv);
          !st) {
        return st;
      }
      if (Status st = pack({s.hidden}, s.q_heads * s.head_dim, WeightUse::linear, format, &l.o);
          !st)
        return st;
      if (Status st = pack({s.intermediate, s.intermediate}, s.hidden, WeightUse::gate_up, format,
                           &l.gate_up);
          !st)
        return st;
      if (Status st = pack({s.hidden}, s.intermediate, WeightUse::linear, format, &l.down); !st)
        return st;
      l.input_gain = l.post_attention_gain = {
          .data = gains_.data(), .dtype = DType::f32, .rank = 1, .shape = {s.hidden}};
      streamed += l.qkv.bytes + l.o.bytes + l.gate_up.bytes + l.down.bytes;
      flops_per_row += 2.0 * double(l.qkv.rows * l.qkv.cols + l.o.rows * l.o.cols +
                                    l.gate_up.rows * l.gate_up.cols + l.down.rows * l.down.cols);
      weights.layers.push_back(l);
    }
    if (Status st = pack({s.vocab}, s.hidden, s.tied ? WeightUse::tied : WeightUse::embedding,
                         WeightFormat::stored, &weights.embedding);
        !st) {
      return st;
    }
    weights.head = weights.embedding;
    if (!s.tied) {
      if (Status st =
              pack({s.vocab}, s.hidden, WeightUse::linear, WeightFormat::stored, &weights.head);
          !st)
        return st;
    }
    head_flops = 2.0 * double(s.vocab) * double(s.hidden);
    weights.final_gain = weights.layers[0].input_gain;
    pack_seconds = now() - start;
    packed = streamed + weights.embedding.bytes + (s.tied ? 0 : weights.head.bytes);

    for (int32_t i = 0; i < s.head_dim / 2; ++i) {
      inv_freq_.push_back(float(std::pow(500000.0, -2.0 * i / s.head_dim)));
    }
    const int32_t per_sequence = (kContext + 64) / kBlock + 1;
    const int32_t blocks = kMostSequences * per_sequence + kMostRows / kBlock + 1;
    const KvConfig kv{.layers = s.layers,
                      .kv_heads = s.kv_heads,
                      .head_dim = s.head_dim,
                      .num_blocks = blocks,
                      .block_size = kBlock,
                      .dtype = o.bf16_kv ? DType::bf16 : device->kv_dtype()};
    const StepLimits limits{.max_rows = kMostRows,
                            .max_spans = kMostSequences,
                            .max_samples = kMostSequences,
                            .max_context = kMostRows,
                            .q_heads = s.q_heads,
                            .kv_heads = s.kv_heads,
                            .head_dim = s.head_dim,
                            .hidden = s.hidden,
                            .intermediate = s.intermediate,
                            .vocab = s.vocab};
    if (Status st = device->prepare(limits, kv, {inv_freq_}); !st) return st;
    if (Status st = Decoder::create(config, weights, device.get(), limits, &decoder); !st)
      return st;
    int32_t next = 0;
    for (int32_t q = 0; q < kMostSequences; ++q) {
      tables_.emplace_back();
      for (int32_t b = 0; b < per_sequence; ++b) tables_.back().push_back(next++);
    }
    tables_.emplace_back();
    for (int32_t b = 0; b < kMostRows / kBlock; ++b) tables_.back().push_back(next++);
    return {};
  }

  // `rows` prompt tokens of one sequence, logits of the last.
  Status prefill(int32_t rows) {
    SpanInput span{.first_row = 0, .rows = rows, .block_table = tables_.back()};
    return step({span}, rows);
  }
  // One token of each of n sequences at `position`.
  Status decode(int32_t n, int32_t position) {
    std::vector<SpanInput> spans;
    for (int32_t i = 0; i < n; ++i) {
      spans.push_back({.first_row = i,
                       .rows = 1,
                       .first_position = position,
                       .generated = true,
                       .block_table = tables_[size_t(i)]});
    }
    return step(spans, n);
  }
  // The first kContext tokens of sequence i.
  Status fill(int32_t i) {
    SpanInput span{.first_row = 0, .rows = kContext, .block_table = tables_[size_t(i)]};
    return step({span}, kContext);
  }

  std::unique_ptr<Device> device;
  std::unique_ptr<Decoder> decoder;
  ModelConfig config;
  DecoderWeights weights;
  size_t streamed = 0;  // bytes of the layers' matrices
  size_t packed = 0;
  double flops_per_row = 0, head_flops = 0, pack_seconds = 0;
  StepOutput out;

 private:
  void fill_source(size_t n) {
    source_.resize(n);
    uint64_t s = 88172645463325252ull;
    for (uint16_t& x : source_) {
      s ^= s << 13, s ^= s >> 7, s ^= s << 17;
      x = uint16_t(0x3c00 + (s & 0x81ff));
    }
  }
  Status pack(std::vector<int32_t> rows, int32_t cols, WeightUse use, WeightFormat format,
              Weight* out_weight) {
    std::vector<MatrixPart> parts;
    size_t offset = next_source_ = (next_source_ + 977) % 4096;
    for (int32_t r : rows) {
      parts.push_back({source_.data() + offset, DType::bf16, r, cols, cols, {}});
      offset += 4099;
    }
    return device->pack_weight(parts, use, format, out_weight);
  }
  Status step(const std::vector<SpanInput>& spans, int32_t rows) {
    std::vector<int32_t> ids, slots(size_t(rows), -1);
    for (int32_t i = 0; i < rows; ++i) ids.push_back((i * 7919 + 13) % shape_.vocab);
    std::vector<SampleInput> samples;
    for (const SpanInput& s : spans) {
      samples.emplace_back();
      samples.back().row = s.first_row + s.rows - 1;
    }
    const StepInput in{.token_ids = ids,
                       .token_slots = slots,
                       .spans = spans,
                       .samples = samples,
                       .num_generated_rows = spans[0].generated ? rows : 0};
    return decoder->step(in, &out);
  }

  Shape shape_{};
  std::vector<uint16_t> source_;
  size_t next_source_ = 0;
  std::vector<float> gains_, inv_freq_;
  std::vector<std::vector<int32_t>> tables_;
};

}  // namespace

int run_decoder(const Options& options) {
  const Shape* shape = nullptr;
  for (const Shape& s : kShapes) {
    if (options.shape == s.name) shape = &s;
  }
  if (!shape) {
    std::fprintf(stderr, "unknown shape %s\n", options.shape.c_str());
    return 2;
  }
  Model m;
  if (Status s = m.open(options, *shape); !s) {
    std::fprintf(stderr, "%s\n", s.message().c_str());
    return 1;
  }
  const Clock clock = options.clock();
  const double bandwidth = read_bandwidth(clock, options.threads, 2);
  double peak = 0;
  for (const Peak& p : measure_peaks(clock, options.threads, 0.3)) {
    if (p.name.find("int8") == std::string::npos) peak = std::max(peak, p.gflops);
  }
  std::printf(
      "{\"device\": \"%s\", \"shape\": \"%s\", \"weights\": \"%s\", \"weight_bytes\": %zu, "
      "\"pack_gb_per_s\": %.2f, \"read_gb_per_s\": %.2f, \"peak_gflops\": %.0f}\n",
      m.device->name().c_str(), shape->name, options.weights.c_str(), m.packed,
      double(m.packed) / m.pack_seconds / 1e9, bandwidth, peak);
  std::fflush(stdout);
  const double head_bytes = double(m.weights.head.bytes);
  const double kv_row =
      4.0 * shape->layers * shape->kv_heads * shape->head_dim;  // bytes a token of context
  const double attention_row =
      4.0 * shape->layers * shape->q_heads * shape->head_dim;  // flops a key
  const auto report = [&](const std::string& what, int32_t tokens, double bytes, double flops,
                          double t) {
    const double limit = std::max(bytes / (bandwidth * 1e9), flops / (peak * 1e9));
    std::printf(
        "{\"case\": \"%s\", \"threads\": %d, \"ms\": %.2f, \"tokens_per_s\": %.2f, \"gb_per_s\": "
        "%.2f, "
        "\"gflops\": %.1f, \"percent_of_bandwidth\": %.0f, \"percent_of_peak\": %.0f, "
        "\"percent_of_limit\": %.0f}\n",
        what.c_str(), options.threads, t * 1e3, tokens / t, bytes / t / 1e9, flops / t / 1e9,
        100 * bytes / (bandwidth * 1e9) / t, 100 * flops / (peak * 1e9) / t, 100 * limit / t);
    std::fflush(stdout);
  };
  Status status;
  const auto timed = [&](const std::function<Status()>& body) {
    return median_seconds(clock, options.seconds, [&] {
      if (Status s = body(); !s && status) status = s;
    });
  };
  for (int32_t i = 0; i < kMostSequences; ++i) {
    if (i > 0 && !options.wanted("decode")) break;
    if (Status s = m.fill(i); !s) status = s;
  }
  for (int32_t n : {1, 2, 4, 8, 16, 32}) {
    const std::string name = "decode " + std::to_string(n);
    if (!options.wanted(name)) continue;
    const double t = timed([&] { return m.decode(n, kContext); });
    report(name, n, double(m.streamed) + head_bytes + n * kContext * kv_row,
           n * (m.flops_per_row + m.head_flops + kContext * attention_row), t);
  }
  for (int32_t n : {128, 512, 2048}) {
    const std::string name = "prefill " + std::to_string(n);
    if (!options.wanted(name)) continue;
    const double t = timed([&] { return m.prefill(n); });
    report(name, n, double(m.streamed) + head_bytes,
           n * (m.flops_per_row + n / 2 * attention_row) + m.head_flops, t);
  }
  if (!status) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  return 0;
}

}  // namespace nemotron::bench
