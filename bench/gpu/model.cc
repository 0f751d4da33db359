// Whole models with random weights at their true shapes: decode by batch, prefill by length.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "bench/gpu/bench.h"
#include "cuda/cuda_device.h"

namespace nemotron::bench {
namespace {

constexpr int32_t kBlock = 64;
int32_t blocks_for(int32_t tokens) { return (tokens + kBlock - 1) / kBlock; }

// Random numbers that every matrix takes its rows from: what matters is how many bytes lie where.
class Source {
 public:
  Source(const Shape& s, bool fp8) : fp8_(fp8) {
    const int64_t widest = std::max<int64_t>({s.hidden, s.inner, s.q_cols()});
    elements_ = widest * std::min<int64_t>(4096, std::max<int64_t>(s.inner, s.hidden));
    data_.resize(size_t(elements_) * (fp8 ? 1 : 2));
    uint64_t state = 1;
    for (int64_t i = 0; i < elements_; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      const float v = float(int32_t(state >> 32)) / float(1u << 31);  // [-1, 1)
      if (fp8) {
        data_[size_t(i)] = f32_to_e4m3(v);
      } else {
        reinterpret_cast<uint16_t*>(data_.data())[i] = f32_to_bf16(v * 0.02f);
      }
    }
  }
  // [rows, cols], in as many parts as it takes.
  void add(int64_t rows, int64_t cols, std::vector<MatrixPart>* parts) const {
    const int64_t most = elements_ / cols;
    for (int64_t at = 0; at < rows; at += most) {
      parts->push_back({data_.data(), fp8_ ? DType::fp8_e4m3 : DType::bf16,
                        std::min(most, rows - at), cols, cols,
                        fp8_ ? std::span<const float>(&kScale, 1) : std::span<const float>()});
    }
  }

 private:
  static constexpr float kScale = 0.02f;
  bool fp8_;
  int64_t elements_;
  std::vector<uint8_t> data_;
};

class Model {
 public:
  Status open(Bench& b, const ModelPlan& plan) {
    const Shape& s = plan.shape;
    shape_ = s;
    DeviceOptions options;
    options.fp8_activations = plan.fp8_activations;
    if (Status st = cuda::open_device(options, &device_); !st) return st;
    const double free = double(device_->free_bytes());
    if (plan.bytes() > free) {
      return Status::out_of_memory("it needs about " + std::to_string(plan.bytes() / 1e9) +
                                   " GB, free are " + std::to_string(free / 1e9));
    }
    config_.hidden = s.hidden, config_.vocab = s.vocab, config_.q_heads = s.q_heads,
    config_.head_dim = s.head_dim;
    config_.layers.assign(size_t(s.layers), LayerSpec{true, s.kv_heads, true, s.inner});
    if (Status st = pack(b, plan); !st) return st.within("weights");

    KvConfig kv;
    kv.layers = s.layers, kv.kv_heads = s.kv_heads, kv.head_dim = s.head_dim;
    kv.block_size = kBlock, kv.dtype = plan.kv;
    kv.num_blocks = int32_t(plan.kv_tokens() / kBlock);
    num_blocks_ = kv.num_blocks;
    kv_token_bytes_ = double(kv.bytes_per_block()) / kBlock;
    const int32_t most =
        plan.batches.empty() ? 1 : *std::max_element(plan.batches.begin(), plan.batches.end());
    StepLimits limits;
    limits.max_rows = std::max(plan.prompts.empty() ? 1 : plan.chunk, most);
    limits.max_spans = limits.max_samples = most;
    limits.max_context = plan.longest() + kBlock;
    limits.q_heads = s.q_heads, limits.kv_heads = s.kv_heads, limits.head_dim = s.head_dim;
    limits.hidden = s.hidden, limits.intermediate = s.inner, limits.vocab = s.vocab;
    freq_ = rope_inv_freq(config_.rope, config_.head_dim);
    if (Status st = device_->prepare(limits, kv, {freq_}); !st) return st;
    if (Status st = rank_shape(config_, Shard::whole(), &rank_); !st) return st;
    return Decoder::create(rank_, weights_, device_.get(), limits, &decoder_);
  }

  // Rows [first, first + rows) of `sequences` sequences; the last row of each is sampled. `times`
  // over, each launched before the one before it is waited for, as the engine does.
  Status step(int32_t sequences, int32_t first, int32_t rows, bool generated, int times = 1) {
    const size_t all = size_t(sequences) * size_t(rows);
    const int32_t each = blocks_for(first + rows);
    if (int64_t(each) * sequences > num_blocks_)
      return Status::internal("the bench planned too small a cache");
    ids_.resize(all);
    slots_.assign(all, -1);
    for (size_t i = 0; i < all; ++i) ids_[i] = int32_t(i * 7919 % size_t(shape_.vocab));
    tables_.resize(size_t(each) * size_t(sequences));
    for (size_t i = 0; i < tables_.size(); ++i) tables_[i] = int32_t(i);
    std::vector<SpanInput> spans;
    std::vector<SampleInput> samples;
    for (int32_t s = 0; s < sequences; ++s) {
      spans.push_back({s * rows, rows, first, generated,
                       std::span(tables_).subspan(size_t(s) * size_t(each), size_t(each))});
      SampleInput in;
      in.row = s * rows + rows - 1;
      in.position = uint64_t(first + rows);
      samples.push_back(in);
    }
    StepInput in;
    in.token_ids = ids_, in.token_slots = slots_, in.spans = spans, in.samples = samples;
    in.num_generated_rows = generated ? int32_t(all) : 0;
    StepOutput out[2];
    decoder_->launch(in, &out[0]);
    for (int i = 1; i < times; ++i) {
      decoder_->launch(in, &out[i % 2]);
      if (Status s = decoder_->wait(); !s) return s;
    }
    return decoder_->wait();
  }

  double step_bytes() const { return double(step_bytes_); }  // of weights that a step reads
  double kv_token_bytes() const { return kv_token_bytes_; }

 private:
  Status pack(Bench& b, const ModelPlan& plan) {
    const Shape& s = plan.shape;
    const double begun = double(std::chrono::steady_clock::now().time_since_epoch().count()) * 1e-9;
    const Source layers(s, plan.format == WeightFormat::fp8), ends(s, false);
    Status failed;
    const auto weight = [&](const Source& source, std::vector<std::pair<int64_t, int64_t>> shapes,
                            WeightUse use) {
      std::vector<MatrixPart> parts;
      for (const auto& [rows, cols] : shapes) source.add(rows, cols, &parts);
      Weight w;
      if (failed) failed = device_->pack_weight(parts, use, WeightFormat::stored, &w);
      step_bytes_ += w.bytes;
      return w;
    };
    const auto norm = [&] {
      const std::vector<float> ones(size_t(s.hidden), 1.0f);
      Tensor t{nullptr, DType::f32, 1, {s.hidden}};
      if (failed) failed = device_->alloc(t.bytes(), &t.data);
      if (failed) device_->upload(t.data, ones.data(), t.bytes());
      return Norm{.eps = config_.norm_eps, .gain = t};
    };
    const int64_t q = s.q_cols(), kv = s.kv_cols(), hidden = s.hidden, inner = s.inner;
    weights_.embedding = weight(ends, {{s.vocab, hidden}}, WeightUse::embedding);
    step_bytes_ = 0;  // a step does not read the table
    for (int32_t i = 0; i < s.layers && failed; ++i) {
      LayerWeights l;
      l.input_norm = norm();
      l.post_attention_norm = norm();
      l.qkv.weight = weight(layers, {{q, hidden}, {kv, hidden}, {kv, hidden}}, WeightUse::linear);
      l.o.weight = weight(layers, {{hidden, q}}, WeightUse::linear);
      // Gate and up are two parts by definition: a linear weight of both takes as many as it likes
      // and lies in the same way.
      l.gate_up.weight = weight(layers, {{inner, hidden}, {inner, hidden}}, WeightUse::linear);
      l.down.weight = weight(layers, {{hidden, inner}}, WeightUse::linear);
      l.kv_layer = i;
      weights_.layers.push_back(l);
    }
    weights_.final_norm = norm();
    weights_.head.weight = weight(ends, {{s.vocab, hidden}}, WeightUse::linear);
    if (!failed) return failed;
    if (Status st = device_->sync(); !st) return st;
    const double seconds =
        double(std::chrono::steady_clock::now().time_since_epoch().count()) * 1e-9 - begun;
    b.measure(plan.name() + " weights to the device", seconds, 0, "GB/s",
              double(step_bytes_) / seconds / 1e9);
    return {};
  }

  Shape shape_{};
  ModelConfig config_;
  RankShape rank_;
  std::unique_ptr<Device> device_;
  DecoderWeights weights_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<float> freq_;
  std::vector<int32_t> ids_, slots_, tables_;
  int64_t num_blocks_ = 0;
  double kv_token_bytes_ = 0;
  size_t step_bytes_ = 0;
};

std::string tokens_name(int32_t n) {
  return n >= 1024 && n % 1024 == 0 ? std::to_string(n / 1024) + "K" : std::to_string(n);
}

}  // namespace

std::string ModelPlan::name() const {
  return std::string(shape.name) + (format == WeightFormat::fp8 ? " FP8" : " BF16") +
         (fp8_activations ? " W8A8" : "") + (kv == DType::fp8_e4m3 ? " KV8" : "");
}

int32_t ModelPlan::longest() const {
  int32_t most = std::max(context, decode_after + 1);
  for (int32_t p : prompts) most = std::max(most, p);
  return most;
}

int64_t ModelPlan::kv_tokens() const {
  int64_t blocks = blocks_for(longest());
  for (int32_t batch : batches) blocks = std::max(blocks, int64_t(batch) * blocks_for(context));
  return blocks * kBlock;
}

double ModelPlan::bytes() const {
  const Shape& s = shape;
  const double weight = format == WeightFormat::fp8 ? 1 : 2;
  const double rows = prompts.empty() ? 256 : chunk;
  const double cache =
      double(kv_tokens()) * s.layers * 2.0 * double(s.kv_cols()) * (kv == DType::fp8_e4m3 ? 1 : 2);
  const double activations =
      rows * (4.0 * s.hidden + 2.0 * 2 * double(s.q_cols()) + 2.0 * 2 * s.inner);
  const double logits = 256.0 * 4 * s.vocab;
  // A widened matrix and a slice of a product, attention's partial sums, staging, the library's
  // own.
  const double work = 2.0 * 2 * s.hidden * s.inner + 1024.0 * 2 * s.inner * 6 +
                      4096.0 * s.q_heads * s.head_dim * 4 + 0.5e9;
  return s.linear_weights() * weight + s.head_weights() * 2 * 2 + cache + activations + logits +
         work;
}

ModelPlan tiny_plan(ModelPlan plan) {
  plan.shape = kTiny;
  plan.context = 70;
  plan.chunk = 24;
  plan.batches = {1, 9};
  plan.prompts = {30};
  if (plan.decode_after > 0) plan.decode_after = 600;
  return plan;
}

void bench_model(Bench& b, const ModelPlan& plan) {
  const std::string name = plan.name();
  const Shape& s = plan.shape;
  Model m;
  if (!b.check(m.open(b, plan), name)) return;
  const double bf16 = b.limits.bf16, fp8 = plan.fp8_activations ? b.limits.fp8 : bf16;

  const auto decode = [&](int32_t batch, int32_t context) {
    // The first steps meet and capture the batch's graph.
    const int steps = b.tiny ? 2 : 8;
    const double t =
        time_of(
            b.tiny ? 1 : 5, [&] { b.check(m.step(batch, context - 1, 1, true, steps), name); }, 1) /
        steps;
    const double multiply = 2.0 * (s.linear_weights() + s.head_weights()) * batch / bf16;
    const double limit = std::max(m.step_bytes() / b.limits.read, multiply) +
                         double(batch) * context * m.kv_token_bytes() / b.limits.read;
    b.measure(name + " decode batch " + std::to_string(batch) + " ctx " + tokens_name(context), t,
              limit, "tok/s", batch / t);
  };
  for (int32_t batch : plan.batches) {
    decode(batch, plan.context);
    if (b.failed()) return;
  }
  if (plan.decode_after > 0) decode(1, plan.decode_after);

  for (int32_t tokens : plan.prompts) {
    if (b.failed()) return;
    // Long ones once: they take seconds, and everything has been loaded by the short ones.
    const bool lengthy = tokens > 8192;
    const double t = time_of(
        lengthy || b.tiny ? 1 : 5,
        [&] {
          for (int32_t at = 0; at < tokens && !b.failed(); at += plan.chunk)
            b.check(m.step(1, at, std::min(plan.chunk, tokens - at), false), name);
        },
        lengthy ? 0 : 1);
    const double attention = 2.0 * double(s.q_cols()) * s.layers * double(tokens) * tokens;
    const double limit =
        std::max(m.step_bytes() / b.limits.read, 2.0 * s.linear_weights() * tokens / fp8) +
        attention / bf16;
    b.measure(name + " prefill " + tokens_name(tokens), t, limit, "tok/s", tokens / t);
  }
}

}  // namespace nemotron::bench
