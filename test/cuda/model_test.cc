// A whole decoder on the emulated CUDA device beside the CPU device: mixed steps, generated rows
// through graphs (seen, captured, replayed), prompt products of their own kernels, and equality of
// a sequence's bits alone, in a batch, and with two steps in flight.
#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "cuda/cuda_device.h"
#include "cuda_runtime.h"
#include "machine.h"
#include "models/decoder.h"
#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

constexpr int32_t kVocab = 97, kBlock = 16, kMaxTokens = 96;

ModelConfig tiny(int32_t q_heads, int32_t kv_heads, int32_t head_dim, int32_t hidden,
                 int32_t inner) {
  ModelConfig c;
  c.hidden = hidden, c.vocab = kVocab, c.q_heads = q_heads, c.head_dim = head_dim;
  c.layers.assign(2, LayerSpec{true, kv_heads, true, inner});
  return c;
}

struct Model {
  Model(const ModelConfig& c, Device* d, WeightFormat format, DType kv, int32_t max_rows)
      : config(c), device(d) {
    Random random(5);
    const auto pack = [&](std::vector<HostMatrix> parts, WeightUse use) {
      std::vector<MatrixPart> list;
      for (const HostMatrix& m : parts) list.push_back(m.part());
      Weight w;
      EXPECT_OK(d->pack_weight(list, use,
                               use == WeightUse::embedding ? WeightFormat::stored : format, &w));
      return w;
    };
    const auto matrix = [&](int64_t rows, int64_t cols, float size) {
      HostMatrix m = random_matrix(random, rows, cols, DType::bf16);
      auto* p = reinterpret_cast<uint16_t*>(m.data.data());
      for (int64_t i = 0; i < rows * cols; ++i) p[i] = f32_to_bf16(bf16_to_f32(p[i]) * size);
      return m;
    };
    const auto gain = [&] {
      const std::vector<float> v = random.normals(c.hidden, 0.1f, 1.0f);
      Tensor t{nullptr, DType::f32, 1, {c.hidden}};
      EXPECT_OK(d->alloc(t.bytes(), &t.data));
      d->upload(t.data, v.data(), t.bytes());
      return t;
    };
    const int32_t q = c.q_heads * c.head_dim, k = c.kv_heads() * c.head_dim,
                  inner = c.max_intermediate();
    weights.embedding = pack({matrix(kVocab, c.hidden, 1)}, WeightUse::embedding);
    for (int32_t i = 0; i < 2; ++i) {
      LayerWeights l;
      l.input_gain = gain();
      l.post_attention_gain = gain();
      l.qkv =
          pack({matrix(q, c.hidden, 0.15f), matrix(k, c.hidden, 0.15f), matrix(k, c.hidden, 0.15f)},
               WeightUse::linear);
      l.o = pack({matrix(c.hidden, q, 0.1f)}, WeightUse::linear);
      l.gate_up =
          pack({matrix(inner, c.hidden, 0.1f), matrix(inner, c.hidden, 0.1f)}, WeightUse::gate_up);
      l.down = pack({matrix(c.hidden, inner, 0.1f)}, WeightUse::linear);
      l.kv_layer = i;
      weights.layers.push_back(l);
    }
    weights.final_gain = gain();
    weights.head = pack({matrix(kVocab, c.hidden, 0.3f)}, WeightUse::linear);
    KvConfig cache;
    cache.layers = 2, cache.kv_heads = c.kv_heads(), cache.head_dim = c.head_dim;
    cache.num_blocks = 32, cache.block_size = kBlock, cache.dtype = kv;
    StepLimits limits;
    limits.max_rows = max_rows, limits.max_spans = 8, limits.max_samples = 16,
    limits.max_context = kMaxTokens;
    limits.q_heads = c.q_heads, limits.kv_heads = c.kv_heads(), limits.head_dim = c.head_dim;
    limits.hidden = c.hidden, limits.intermediate = inner, limits.vocab = kVocab;
    const std::vector<float> freq = c.rope_inv_freq();
    EXPECT_OK(d->prepare(limits, cache, {freq}));
    EXPECT_OK(Decoder::create(config, weights, d, limits, &decoder));
  }
  ModelConfig config;
  DecoderWeights weights;
  Device* device;
  std::unique_ptr<Decoder> decoder;
};

struct Sequence {
  std::vector<int32_t> tokens, blocks;
  int32_t id = 0, prompt = 0, computed = 0;
  int32_t length = 0;    // known tokens and those that steps in flight will draw
  bool sampled = false;  // a draw, else the likeliest
  std::vector<float> logprobs;
  int32_t drawn() const { return length - prompt; }
};

Sequence sequence(int32_t id, int32_t prompt, bool sampled) {
  Sequence s;
  Random random(uint64_t(100 + id));
  for (int32_t i = 0; i < prompt; ++i) s.tokens.push_back(int32_t(random.below(kVocab)));
  for (int32_t i = 0; i < kMaxTokens / kBlock; ++i) s.blocks.push_back((i * 4 + id) % 32);
  s.id = id;
  s.prompt = s.length = prompt;
  s.sampled = sampled;
  return s;
}

// One step: what each sequence has not computed, at most `chunk` rows of it; generated rows first.
// What a step in flight draws is taken from its slot.
class Step {
 public:
  Step(std::vector<Sequence*> all, int32_t chunk) {
    std::stable_sort(all.begin(), all.end(), [](const Sequence* a, const Sequence* b) {
      return (a->computed >= a->prompt) > (b->computed >= b->prompt);
    });
    for (Sequence* s : all) {
      const bool generated = s->computed >= s->prompt;
      const int32_t rows = std::min(chunk, s->length - s->computed);
      spans_.push_back({int32_t(ids_.size()), rows, s->computed, generated, s->blocks});
      if (generated) in.num_generated_rows += rows;
      for (int32_t i = s->computed; i < s->computed + rows; ++i) {
        const bool known = i < int32_t(s->tokens.size());
        ids_.push_back(known ? s->tokens[size_t(i)] : 0);
        slots_.push_back(known ? -1 : s->id);
      }
      s->computed += rows;
      if (s->computed < s->length) continue;
      SampleInput sample;
      sample.row = int32_t(ids_.size()) - 1;
      sample.slot = s->id;
      sample.num_top = 0;
      sample.position = uint64_t(s->computed);
      sample.seed = 9;
      if (s->sampled) sample.temperature = 0.8f, sample.top_k = 20, sample.top_p = 0.9f;
      samples_.push_back(sample);
      drawn_.push_back(s);
      ++s->length;
    }
    in.token_ids = ids_;
    in.token_slots = slots_;
    in.spans = spans_;
    in.samples = samples_;
  }
  // It has been waited for.
  void finish() {
    for (size_t i = 0; i < drawn_.size(); ++i) {
      drawn_[i]->tokens.push_back(out.samples[i].id);
      drawn_[i]->logprobs.push_back(out.samples[i].logprob);
    }
  }
  StepInput in;
  StepOutput out;

 private:
  std::vector<int32_t> ids_, slots_;
  std::vector<SpanInput> spans_;
  std::vector<SampleInput> samples_;
  std::vector<Sequence*> drawn_;
};

void advance(Model& m, std::vector<Sequence*> all, int32_t chunk) {
  Step step(std::move(all), chunk);
  REQUIRE_OK(m.decoder->step(step.in, &step.out));
  step.finish();
}

std::unique_ptr<Device> open_emulated(emu::Order order) {
  without_cublaslt();
  emu::config().order = order;
  emu::config().seed = 3;
  std::unique_ptr<Device> device;
  EXPECT_OK(cuda::open_device(DeviceOptions{}, &device));
  return device;
}

// `in_flight` steps at a time.
void generate(Model& m, const std::vector<Sequence*>& all, int32_t chunk, int32_t tokens,
              size_t in_flight = 1) {
  std::deque<std::unique_ptr<Step>> launched;
  const auto wait = [&] {
    REQUIRE_OK(m.decoder->wait());
    launched.front()->finish();
    launched.pop_front();
  };
  for (;;) {
    const int before = failures().load();
    std::vector<Sequence*> some;
    for (Sequence* s : all) {
      if (s->drawn() < tokens) some.push_back(s);
    }
    if (some.empty()) break;
    launched.push_back(std::make_unique<Step>(some, chunk));
    m.decoder->launch(launched.back()->in, &launched.back()->out);
    if (launched.size() == in_flight) wait();
    if (failures().load() != before) return;
  }
  while (!launched.empty()) wait();
}

void test_model(const ModelConfig& c, WeightFormat format, DType kv, emu::Order order,
                double tolerance) {
  const std::unique_ptr<Device> device = open_emulated(order);
  REQUIRE(device != nullptr);
  Model m(c, device.get(), format, kv, 64);

  // Three at once, prompts in chunks; then each alone, its prompt in one piece.
  std::vector<Sequence> together = {sequence(0, 5, false), sequence(1, 37, true),
                                    sequence(2, 18, false)};
  generate(m, {&together[0], &together[1], &together[2]}, 13, 6);
  for (int32_t i = 0; i < 3; ++i) {
    Sequence alone = sequence(i, together[size_t(i)].prompt, together[size_t(i)].sampled);
    generate(m, {&alone}, 64, 6);
    EXPECT(alone.tokens == together[size_t(i)].tokens);
    EXPECT(same_bits(alone.logprobs, together[size_t(i)].logprobs));
  }

  // And with a step always begun before the one before it is waited for.
  std::vector<Sequence> ahead = {sequence(0, 5, false), sequence(1, 37, true),
                                 sequence(2, 18, false)};
  generate(m, {&ahead[0], &ahead[1], &ahead[2]}, 13, 6, kMaxStepsInFlight);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT(ahead[i].tokens == together[i].tokens);
    EXPECT(same_bits(ahead[i].logprobs, together[i].logprobs));
  }

  // The CPU, made to follow the same tokens.
  std::unique_ptr<Device> cpu;
  DeviceOptions options;
  options.threads = 1, options.isa = "plain";
  REQUIRE_OK(open_cpu_device(options, &cpu));
  Model reference(c, cpu.get(), format, kv, 64);
  for (int32_t i = 0; i < 3; ++i) {
    const Sequence& got = together[size_t(i)];
    Sequence want = sequence(i, got.prompt, got.sampled);
    for (size_t t = 0; t < got.logprobs.size(); ++t) {
      advance(reference, {&want}, 64);
      EXPECT_NEAR(want.logprobs[t], got.logprobs[t], tolerance);
      if (want.tokens.back() != got.tokens[want.tokens.size() - 1]) {
        break;  // a close call went the other way: what follows is another text
      }
    }
  }
}

}  // namespace
}  // namespace nemotron::test

using namespace nemotron;
using namespace nemotron::test;

TEST(model_bf16) {
  test_model(tiny(4, 2, 32, 96, 80), WeightFormat::stored, DType::bf16, emu::Order::random, 0.06);
}
TEST(model_fp8_weights_and_cache) {
  test_model(tiny(3, 1, 64, 64, 100), WeightFormat::fp8, DType::fp8_e4m3, emu::Order::reverse,
             0.15);
}

// The switches change how steps are launched, and no bit of what they give.
TEST(switches_change_no_bit) {
  const auto run = [](const char* variable, const char* value, bool graphs) {
    if (variable) setenv(variable, value, 1);
    const std::unique_ptr<Device> device = open_emulated(emu::Order::natural);
    if (variable) unsetenv(variable);
    Model m(tiny(2, 1, 32, 32, 32), device.get(), WeightFormat::stored, DType::bf16, 16);
    Sequence a = sequence(0, 5, true), b = sequence(1, 9, false);
    const uint64_t before = emu::counters().graphs;
    generate(m, {&a, &b}, 16, 5);
    EXPECT_EQ(emu::counters().graphs > before, graphs);
    a.logprobs.insert(a.logprobs.end(), b.logprobs.begin(), b.logprobs.end());
    return a.logprobs;
  };
  const std::vector<float> plain = run(nullptr, nullptr, true);
  EXPECT(same_bits(run("NEMOTRON_CUDA_GRAPHS", "0", false), plain));
  EXPECT(same_bits(run("NEMOTRON_CUDA_PDL", "0", true), plain));
  EXPECT(same_bits(run("NEMOTRON_CUDA_SYNC", "1", false), plain));
}

// A token that only the device knows, outside the vocabulary: an error, not a read past the table.
TEST(unknown_slot) {
  const std::unique_ptr<Device> device = open_emulated(emu::Order::natural);
  REQUIRE(device != nullptr);
  Model m(tiny(2, 1, 32, 32, 32), device.get(), WeightFormat::stored, DType::bf16, 16);
  Sequence s = sequence(0, 3, false);
  s.tokens[1] = kVocab;
  StepOutput out;
  const std::vector<int32_t> slots = {-1, -1, -1};
  const SpanInput span{0, 3, 0, false, s.blocks};
  StepInput in;
  in.token_ids = s.tokens;
  in.token_slots = slots;
  in.spans = {&span, 1};
  EXPECT_ERROR(m.decoder->step(in, &out), "outside the embedding");
  EXPECT_ERROR(m.device->sync(), "outside the embedding");  // and stays
}

NEMOTRON_TEST_MAIN
