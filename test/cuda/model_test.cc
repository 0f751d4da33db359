// A whole decoder on a CUDA device, beside the CPU device: mixed steps, generated rows through
// graphs (seen, captured, replayed) of every bucket, prompt products of their own kernels and of
// the library, and equality of a sequence's bits alone, in a batch, in chunks and after a prefix
// hit; one of the sequences is held to a grammar.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "engine/grammar/grammar.h"
#include "models/decoder.h"
#include "models/rope.h"
#include "test/cuda/under_test.h"
#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

constexpr int32_t kBlock = 16;

struct Shape {
  int32_t q_heads, kv_heads, head_dim, hidden, inner;
  int32_t vocab = 97;
  int32_t most_tokens = 96;  // of a sequence
  int32_t sequences = 8;     // at once
  int32_t max_rows = 64;     // of a step
  bool is_nemotron = false;  // LayerNorms, half of each head turned, a squared ReLU without a gate
};

ModelConfig config_of(const Shape& s) {
  ModelConfig c;
  c.hidden = s.hidden, c.vocab = s.vocab, c.q_heads = s.q_heads, c.head_dim = s.head_dim;
  c.layers.assign(2, LayerSpec{true, s.kv_heads, true, s.inner});
  c.rotary_dim = s.head_dim;
  if (!s.is_nemotron) return c;
  c.norm = Norm::Kind::layer;
  c.rotary_dim = s.head_dim / 2;
  for (LayerSpec& layer : c.layers) layer.activation = Activation::relu2;
  return c;
}
int32_t blocks_of(const Shape& s) { return (s.most_tokens + kBlock - 1) / kBlock; }

struct Model {
  Model(const Shape& s, Device* d, WeightFormat format, DType kv)
      : shape(s), config(config_of(s)), device(d) {
    const ModelConfig& c = config;
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
    const auto norm = [&] {
      const auto vector = [&](float mean) {
        const std::vector<float> v = random.normals(c.hidden, 0.1f, mean);
        Tensor t{nullptr, DType::f32, 1, {c.hidden}};
        EXPECT_OK(d->alloc(t.bytes(), &t.data));
        d->upload(t.data, v.data(), t.bytes());
        return t;
      };
      Norm norm{.kind = c.norm, .eps = c.norm_eps, .gain = vector(1)};
      if (c.norm == Norm::Kind::layer) norm.bias = vector(0);
      return norm;
    };
    const int32_t q = c.q_heads * c.head_dim, k = c.kv_heads() * c.head_dim,
                  inner = c.max_intermediate();
    weights.embedding = pack({matrix(c.vocab, c.hidden, 1)}, WeightUse::embedding);
    for (int32_t i = 0; i < 2; ++i) {
      LayerWeights l;
      l.input_norm = norm();
      l.post_attention_norm = norm();
      l.qkv.weight =
          pack({matrix(q, c.hidden, 0.15f), matrix(k, c.hidden, 0.15f), matrix(k, c.hidden, 0.15f)},
               WeightUse::linear);
      l.o.weight = pack({matrix(c.hidden, q, 0.1f)}, WeightUse::linear);
      std::vector<HostMatrix> first = {matrix(inner, c.hidden, 0.1f)};
      if (!s.is_nemotron) first.push_back(matrix(inner, c.hidden, 0.1f));
      l.gate_up.weight = pack(first, s.is_nemotron ? WeightUse::linear : WeightUse::gate_up);
      l.down.weight = pack({matrix(c.hidden, inner, 0.1f)}, WeightUse::linear);
      l.kv_layer = i;
      weights.layers.push_back(l);
    }
    weights.final_norm = norm();
    weights.head.weight = pack({matrix(c.vocab, c.hidden, 0.3f)}, WeightUse::linear);
    KvConfig cache;
    cache.layers = 2, cache.kv_heads = c.kv_heads(), cache.head_dim = c.head_dim;
    cache.num_blocks = s.sequences * blocks_of(s), cache.block_size = kBlock, cache.dtype = kv;
    StepLimits limits;
    limits.max_rows = s.max_rows, limits.max_spans = s.sequences;
    limits.max_samples = s.sequences, limits.max_context = s.most_tokens;
    limits.q_heads = c.q_heads, limits.kv_heads = c.kv_heads(), limits.head_dim = c.head_dim;
    limits.hidden = c.hidden, limits.intermediate = inner, limits.vocab = c.vocab;
    const std::vector<float> freq = rope_inv_freq(c.rope, c.rotary_dim);
    EXPECT_OK(d->prepare(limits, cache, {freq}));
    EXPECT_OK(rank_shape(config, Shard::whole(), &rank));
    EXPECT_OK(Decoder::create(rank, weights, d, limits, &decoder));
  }
  Shape shape;
  ModelConfig config;
  RankShape rank;
  DecoderWeights weights;
  Device* device;
  std::unique_ptr<Decoder> decoder;
};

// Letters and digits in turn, for ever; a token is a character or two.
std::shared_ptr<const Grammar> grammar_of(int32_t vocab) {
  std::vector<std::string> tokens;
  for (int32_t i = 0; i < vocab; ++i) {
    const std::string letter(1, char('a' + i % 26)), digit(1, char('0' + i % 10));
    const std::string kinds[] = {letter, digit, letter + digit, digit + letter, letter + letter};
    tokens.push_back(kinds[i % 5]);
  }
  std::shared_ptr<const Grammar> grammar;
  EXPECT_OK(Grammar::compile(
      "root ::= ([a-z] [0-9])+",
      std::make_shared<Vocabulary>(tokens, std::vector<bool>{}, std::span<const int32_t>{}),
      &grammar));
  return grammar;
}

struct Sequence {
  std::vector<int32_t> tokens, blocks;
  int32_t id = 0, prompt = 0, computed = 0;
  int32_t length = 0;    // known tokens and those that steps in flight will draw
  int32_t wanted = 0;    // tokens to draw
  bool sampled = false;  // a draw, else the likeliest
  bool penalised = false;
  std::shared_ptr<const Grammar> grammar;  // what its answer is, or null
  std::vector<float> logprobs;
};

// Every third draws, every third has a penalty, and every second of these a grammar; the blocks of
// all lie between one another.
Sequence sequence(const Shape& shape, int32_t id, int32_t prompt, int32_t wanted) {
  Sequence s;
  Random random(uint64_t(100 + id));
  for (int32_t i = 0; i < prompt; ++i) s.tokens.push_back(int32_t(random.below(shape.vocab)));
  for (int32_t i = 0; i < blocks_of(shape); ++i) s.blocks.push_back(i * shape.sequences + id);
  s.id = id;
  s.prompt = s.length = prompt;
  s.sampled = id % 3 == 1;
  s.penalised = id % 3 == 2;
  if (id % 6 == 2) s.grammar = grammar_of(shape.vocab);
  s.wanted = wanted;
  return s;
}
bool done(const Sequence& s) { return s.length - s.prompt >= s.wanted; }

// One step: what each sequence has not computed, at most `chunk` rows of it; generated rows first.
// What a step in flight draws is taken from its slot. A step with a penalty is late while the
// tokens that it counts are still drawn: its draws are described when the step before has been
// waited for.
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
      samples_.push_back(sample);
      drawn_.push_back(s);
      is_late_ = is_late_ || (s->penalised && s->length > int32_t(s->tokens.size()));
      ++s->length;
    }
    counts_.resize(drawn_.size());
    masks_.resize(drawn_.size());
    if (!is_late_) describe();
    in.token_ids = ids_;
    in.token_slots = slots_;
    in.spans = spans_;
    in.samples = samples_;
  }
  bool is_late() const { return is_late_; }
  void describe() {
    for (size_t i = 0; i < drawn_.size(); ++i) {
      const Sequence& s = *drawn_[i];
      SampleInput& sample = samples_[i];
      sample.num_logprobs = 0;
      sample.position = uint64_t(s.computed);
      sample.seed = 9;
      if (s.sampled) sample.temperature = 0.8f, sample.top_k = 20, sample.top_p = 0.9f;
      if (!s.penalised) continue;
      if (s.grammar) {
        sample.allowed = masks_[i] = mask_of(s);
      }
      sample.frequency_penalty = 0.7f;
      for (size_t k = size_t(s.prompt); k < s.tokens.size(); ++k) {
        const int32_t id = s.tokens[k];
        const auto found = std::find_if(counts_[i].begin(), counts_[i].end(),
                                        [&](const TokenCount& c) { return c.id == id; });
        if (found == counts_[i].end()) {
          counts_[i].push_back({.id = id, .output_count = 1});
        } else {
          ++found->output_count;
        }
      }
      sample.counts = counts_[i];
    }
  }
  // It has been waited for.
  void finish() {
    for (size_t i = 0; i < drawn_.size(); ++i) {
      const auto id = size_t(out.samples[i].id);
      if (drawn_[i]->grammar) EXPECT((masks_[i][id / 32] >> (id % 32) & 1) != 0);
      drawn_[i]->tokens.push_back(out.samples[i].id);
      drawn_[i]->logprobs.push_back(out.samples[i].logprob);
    }
  }
  StepInput in;
  StepOutput out;

 private:
  // Of the tokens that may come after those that were drawn.
  static std::vector<uint32_t> mask_of(const Sequence& s) {
    GrammarMatcher matcher(s.grammar, GrammarMatcher::From::root);
    for (size_t k = size_t(s.prompt); k < s.tokens.size(); ++k) {
      const Vocabulary& v = s.grammar->vocabulary();
      uint32_t text = 0;
      while (v.id(text) != s.tokens[k]) ++text;
      EXPECT(matcher.take(v.bytes(text)));
    }
    const auto bits = matcher.mask();
    return {bits.begin(), bits.end()};
  }

  std::vector<int32_t> ids_, slots_;
  std::vector<SpanInput> spans_;
  std::vector<SampleInput> samples_;
  std::vector<Sequence*> drawn_;
  std::vector<std::vector<TokenCount>> counts_;
  std::vector<std::vector<uint32_t>> masks_;
  bool is_late_ = false;
};

void advance(Model& m, std::vector<Sequence*> all, int32_t chunk) {
  Step step(std::move(all), chunk);
  REQUIRE_OK(m.decoder->step(step.in, &step.out));
  step.finish();
}

// Until each has drawn what it wants, with `in_flight` steps at a time.
void generate(Model& m, const std::vector<Sequence*>& all, int32_t chunk, size_t in_flight = 1) {
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
      if (!done(*s)) some.push_back(s);
    }
    if (some.empty()) break;
    launched.push_back(std::make_unique<Step>(some, chunk));
    Step& step = *launched.back();
    m.decoder->forward(step.in, &step.out);
    if (step.is_late()) {
      while (launched.size() > 1) wait();
      step.describe();
    }
    m.decoder->draw(step.in, &step.out);
    if (launched.size() == in_flight) wait();
    if (failures().load() != before) return;
  }
  while (!launched.empty()) wait();
}
void expect_same(const Sequence& got, const Sequence& want) {
  EXPECT(got.tokens == want.tokens);
  EXPECT(same_bits(got.logprobs, want.logprobs));
}

using Environment = std::vector<std::pair<const char*, const char*>>;
const Environment kWgmmaDecode = {{"NEMOTRON_DECODE_PRODUCTS", "wgmma"}};
const Environment kWgmmaProducts = {{"NEMOTRON_DECODE_PRODUCTS", "wgmma"},
                                    {"NEMOTRON_PROMPT_PRODUCTS", "decode"}};
const Environment kOneProduct = {{"NEMOTRON_PROMPT_PRODUCTS", "decode"}};
const Environment kWgmmaEverywhere = {{"NEMOTRON_DECODE_PRODUCTS", "wgmma"},
                                      {"NEMOTRON_PROMPT_PRODUCTS", "decode"},
                                      {"NEMOTRON_PROMPT_ATTENTION", "wgmma"}};

struct Way {
  std::string name;
  Shape shape;
  WeightFormat format = WeightFormat::stored;
  DType kv = DType::bf16;
  Library library = Library::none;
  bool fp8_activations = false;
  double tolerance = 0;          // against the CPU; 0: it does not compute so
  Environment environment = {};  // when the device opens
};

// Null: the case is over, skipped or failed.
std::unique_ptr<Device> open_way(const Way& way) {
  DeviceOptions options;
  options.fp8_activations = way.fp8_activations;
  std::unique_ptr<Device> device;
  for (const auto& [variable, value] : way.environment) setenv(variable, value, 1);
  const Status opened = open_under_test(way.library, options, &device);
  for (const auto& [variable, value] : way.environment) unsetenv(variable);
  if (is_skipped(opened, device.get(), way.library)) return nullptr;
  EXPECT_OK(opened);
  return device;
}

// Three at once, prompts in chunks; again with a step always begun before the one before it is
// waited for, late ones among them; then each alone, its prompt in one piece; then one that takes
// over the first blocks of another.
void test_model(const Way& way) {
  const Shape& shape = way.shape;
  const std::unique_ptr<Device> device = open_way(way);
  if (!device) return;
  Model m(shape, device.get(), way.format, way.kv);

  const int32_t most = shape.most_tokens;
  const auto three = [&](size_t in_flight) {
    std::vector<Sequence> some = {sequence(shape, 0, 5, 10), sequence(shape, 1, most * 3 / 8, 6),
                                  sequence(shape, 2, most / 5, 6)};
    generate(m, {&some[0], &some[1], &some[2]}, shape.max_rows / 5 + 1, in_flight);
    return some;
  };
  const std::vector<Sequence> together = three(1), ahead = three(kMaxStepsInFlight);
  for (size_t i = 0; i < 3; ++i) expect_same(ahead[i], together[i]);
  for (int32_t i = 0; i < 3; ++i) {
    Sequence alone = sequence(shape, i, together[size_t(i)].prompt, i == 0 ? 10 : 6);
    generate(m, {&alone}, shape.max_rows);
    expect_same(alone, together[size_t(i)]);
  }
  Sequence hit = sequence(shape, 1, together[1].prompt, 6), other = sequence(shape, 3, 7, 3);
  const std::vector<int32_t> own = sequence(shape, 4, 1, 1).blocks;
  const int32_t shared = (hit.prompt - 1) / kBlock;
  std::copy(own.begin() + shared, own.end(), hit.blocks.begin() + shared);
  hit.computed = shared * kBlock;
  generate(m, {&other, &hit}, 7);
  expect_same(hit, together[1]);
  if (way.tolerance == 0) return;

  // The CPU, made to follow the same tokens.
  std::unique_ptr<Device> cpu;
  DeviceOptions options;
  options.threads = 1, options.isa = "plain";
  REQUIRE_OK(open_cpu_device(options, &cpu));
  Model reference(shape, cpu.get(), way.format, way.kv);
  for (int32_t i = 0; i < 3; ++i) {
    const Sequence& got = together[size_t(i)];
    Sequence want = sequence(shape, i, got.prompt, 6);
    for (size_t t = 0; t < got.logprobs.size(); ++t) {
      advance(reference, {&want}, shape.max_rows);
      EXPECT_NEAR(want.logprobs[t], got.logprobs[t], way.tolerance);
      if (want.tokens.back() != got.tokens[want.tokens.size() - 1]) {
        break;  // a close call went the other way: what follows is another text
      }
    }
  }
}

// Batches of sizes that fill a bucket, miss it by one, and shrink from bucket to bucket as
// sequences end, against each sequence alone; and the same without graphs.
void test_buckets(const Way& way, const std::vector<int32_t>& batches) {
  const int32_t most = way.shape.sequences;
  const auto make = [&](int32_t id) { return sequence(way.shape, id, 2 + id % 5, 3 + id % 4); };
  std::vector<Sequence> alone;
  for (int32_t i = 0; i < most; ++i) alone.push_back(make(i));
  for (const bool graphs : {true, false}) {
    if (!graphs) setenv("NEMOTRON_CUDA_GRAPHS", "0", 1);
    const std::unique_ptr<Device> device = open_way(way);
    unsetenv("NEMOTRON_CUDA_GRAPHS");
    if (!device) return;
    Model m(way.shape, device.get(), way.format, way.kv);
    if (graphs) {
      for (Sequence& s : alone) generate(m, {&s}, way.shape.max_rows);
    }
    for (const int32_t batch : batches) {
      std::vector<Sequence> some;
      std::vector<Sequence*> list;
      for (int32_t i = 0; i < batch; ++i) some.push_back(make(i));
      for (Sequence& s : some) list.push_back(&s);
      generate(m, list, way.shape.max_rows);
      for (int32_t i = 0; i < batch; ++i) {
        const int before = failures().load();
        expect_same(some[size_t(i)], alone[size_t(i)]);
        if (failures().load() == before) continue;
        std::printf("  sequence %d of %d%s\n", i, batch, graphs ? "" : ", without graphs");
        return;
      }
    }
  }
}

bool add_cases() {
  const WeightFormat stored = WeightFormat::stored, fp8 = WeightFormat::fp8;
  const DType e4m3 = DType::fp8_e4m3, bf16 = DType::bf16;
  const Library none = Library::none, library = Library::cublaslt;
  const Shape small = {4, 2, 32, 96, 80}, wide = {3, 1, 64, 64, 112},
              nemotron = {.q_heads = 3,
                          .kv_heads = 1,
                          .head_dim = 192,
                          .hidden = 64,
                          .inner = 80,
                          .is_nemotron = true};
  std::vector<Way> ways = {
      {"bf16", small, stored, bf16, none, false, 0.06},
      {"fp8 weights and cache", wide, fp8, e4m3, none, false, 0.15},
      {"bf16 cublaslt", small, stored, bf16, library, false, 0.06},
      {"fp8 cublaslt", wide, fp8, e4m3, library, false, 0.15},
      {"fp8 activations", wide, fp8, e4m3, library, true},
      {"one product", small, stored, bf16, none, false, 0.08, kOneProduct},
      {"one product by wgmma", small, stored, bf16, none, false, 0.08, kWgmmaProducts},
      {"one product by wgmma, fp8", wide, fp8, e4m3, none, false, 0.15, kWgmmaProducts},
      {"nemotron bf16", nemotron, stored, bf16, none, false, 0.06},
  };
  // Nemotron's layers, and FP8 through the library, have a model each above.
  if (!kEmulated || std::getenv("NEMOTRON_TEST_LONG")) {
    ways.push_back({"nemotron fp8 cublaslt", nemotron, fp8, e4m3, library, false, 0.15});
  }
  const Shape few = {2, 1, 32, 64, 48, 97, 16, 9, 48};
  std::vector<Way> buckets = {{"bf16", few}};
  std::vector<int32_t> batches = {2, 3, 5, 9};
  if (!kEmulated) {
    // Several chunks of keys, tiles and slices, as a real layer has them.
    const Shape layer = {8, 2, 128, 1024, 2816, 4096, 1600, 8, 1500};
    ways.push_back({"layer bf16", layer, stored, bf16, none});
    ways.push_back({"layer bf16 cublaslt", layer, stored, bf16, library});
    ways.push_back({"layer fp8 cublaslt", layer, fp8, e4m3, library});
    ways.push_back({"layer fp8 activations", layer, fp8, e4m3, library, true});
    ways.push_back({"layer wgmma",
                    layer,
                    stored,
                    bf16,
                    library,
                    false,
                    0,
                    {{"NEMOTRON_PROMPT_ATTENTION", "wgmma"}}});
    for (const auto& [name, format] : {std::pair{"bf16", stored}, {"fp8", fp8}}) {
      ways.push_back({std::string("layer wgmma products ") + name, layer, format, bf16, library,
                      false, 0, kWgmmaDecode});
      ways.push_back({std::string("layer one product by wgmma ") + name, layer, format, bf16, none,
                      false, 0, kWgmmaProducts});
      ways.push_back({std::string("layer one product ") + name, layer, format, bf16, none, false, 0,
                      kOneProduct});
    }
    const Shape many = {8, 2, 128, 512, 704, 1000, 32, 256, 1600};
    buckets = {{"bf16", many}, {"fp8", many, fp8, e4m3}};
    buckets.push_back({"fp8 wgmma products", many, fp8, e4m3, none, false, 0, kWgmmaProducts});
    batches = {2, 3, 5, 8, 9, 17, 33, 64, 65, 80, 100, 129, 200, 256};
  }
  for (const Way& way : ways) add_case("model " + way.name, [=] { test_model(way); });
  for (const Way& way : buckets)
    add_case("buckets " + way.name, [=] { test_buckets(way, batches); });
  // Two that prompts alone make: one captured for more tiles than it has, then one that has them.
  const Shape few_of_64 = {2, 1, 64, 64, 48, 97, 16, 4, 48};
  const Way wgmma = {"", few_of_64, stored, bf16, none, false, 0, kWgmmaEverywhere};
  if (kEmulated) add_case("buckets bf16 wgmma", [=] { test_buckets(wgmma, {2, 3, 3, 4}); });
  return true;
}
[[maybe_unused]] const bool kAdded = add_cases();

// The switches change how steps are launched, and no bit of what they give.
TEST(switches_change_no_bit) {
  const auto run = [](const char* variable, const char* value, bool graphs) {
    const Way way = {.name = "switches",
                     .shape = {2, 1, 32, 32, 32, 97, 16, 8, 16},
                     .environment = variable ? Environment{{variable, value}} : Environment{}};
    const std::unique_ptr<Device> device = open_way(way);
    Model m(way.shape, device.get(), way.format, way.kv);
    std::vector<Sequence> some = {sequence(way.shape, 0, 5, 5), sequence(way.shape, 1, 9, 5)};
    const int64_t before = graphs_launched();
    generate(m, {&some[0], &some[1]}, way.shape.max_rows);
    if (kEmulated) EXPECT_EQ(graphs_launched() > before, graphs);
    return some;
  };
  const std::vector<Sequence> plain = run(nullptr, nullptr, true);
  for (const auto& [variable, value, graphs] : {std::tuple{"NEMOTRON_CUDA_GRAPHS", "0", false},
                                                {"NEMOTRON_CUDA_PDL", "0", true},
                                                {"NEMOTRON_CUDA_SYNC", "1", false}}) {
    const std::vector<Sequence> got = run(variable, value, graphs);
    for (size_t i = 0; i < plain.size(); ++i) expect_same(got[i], plain[i]);
  }
}

// Where one product takes all rows of a step, a mixed step is as few launches as one of generated
// rows and the prompts' attention; the third one of its bucket is a graph, and has the same bits.
TEST(mixed_steps_are_replayed) {
  const Shape shape = {2, 1, 32, 64, 64, 97, 64, 2, 48};
  const auto run = [&](const Environment& environment, bool graphs) {
    if (!graphs) setenv("NEMOTRON_CUDA_GRAPHS", "0", 1);
    const std::unique_ptr<Device> device =
        open_way({.name = "", .shape = shape, .environment = environment});
    unsetenv("NEMOTRON_CUDA_GRAPHS");
    Model m(shape, device.get(), WeightFormat::stored, DType::bf16);
    Sequence answer = sequence(shape, 0, 3, 9), prompt = sequence(shape, 1, 40, 1);
    advance(m, {&answer}, 3);
    std::vector<int64_t> launches, replayed;
    for (int step = 0; step < 5; ++step) {  // a generated row and six of a prompt, from one tile
      const int64_t before = kernels_launched(), graphs_before = graphs_launched();
      advance(m, {&answer, &prompt}, 6);
      launches.push_back(kernels_launched() - before);
      replayed.push_back(graphs_launched() - graphs_before);
    }
    generate(m, {&answer, &prompt}, 6);
    return std::tuple{answer, prompt, launches, replayed};
  };
  const auto [answer, prompt, launches, replayed] = run(kOneProduct, true);
  const auto [other, other_prompt, eager, none] = run(kOneProduct, false);
  expect_same(answer, other);
  expect_same(prompt, other_prompt);
  if (!kEmulated) return;
  // Angles, the embedding, the first norm; of two layers qkv, two kinds of attention, o, gate and
  // up, down; the head's norm and product, the draw.
  const int64_t kernels = 3 + 2 * 6 + 3;
  EXPECT(eager == std::vector<int64_t>(5, kernels));
  EXPECT(launches == eager);
  EXPECT(replayed == (std::vector<int64_t>{0, 1, 1, 1, 1}));
  EXPECT(none == std::vector<int64_t>(5, 0));
  const auto by_kind = std::get<2>(run({}, true));
  EXPECT_EQ(by_kind[2], int64_t(3 + 2 * 14 + 3));
}

// A token that only the device knows, outside the vocabulary: an error, not a read past the table.
TEST(unknown_slot) {
  const Shape shape = {2, 1, 32, 32, 32, 97, 16, 8, 16};
  const std::unique_ptr<Device> device = open_way({"", shape});
  if (!device) return;
  Model m(shape, device.get(), WeightFormat::stored, DType::bf16);
  Sequence s = sequence(shape, 0, 3, 1);
  s.tokens[1] = shape.vocab;
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

}  // namespace
}  // namespace nemotron::test

NEMOTRON_TEST_MAIN
