// Weights that stay in groups: close to the float32 that they stand for, in the memory that the
// plan says, and the same bits in any batch. A layer of each type of a GGUF file, mixed within one.
#include <cmath>
#include <map>
#include <random>
#include <utility>

#include "../models/gguf_fixture.h"
#include "cpu/isa.h"
#include "device/device.h"
#include "mix.h"
#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/gguf_blocks.h"
#include "models/memory_plan.h"
#include "models/weights.h"

namespace nemotron::test {
namespace {

constexpr int64_t kHidden = 256, kHeads = 4, kKvHeads = 2, kHeadDim = 128;

// Where the half floats of a block are: the scale's, and the least value's with its ratio to it.
struct Halves {
  uint32_t type;
  size_t scale, least = 0;
  float ratio = 0;  // 0: none
};
constexpr Halves kTypes[] = {{8, 0},
                             {12, 0, 2, 7.5f},
                             {14, 208},
                             {2, 0},
                             {3, 0, 2, -7.5f},
                             {6, 0},
                             {7, 0, 2, -15.5f},
                             {13, 0, 2, 15.5f},
                             {10, 80, 82, 1.5f},
                             {11, 108},
                             {16, 0},
                             {17, 0},
                             {18, 0},
                             {20, 0},
                             {21, 0},
                             {22, 0},
                             {23, 0}};

// A matrix of random quants, of values about as large as 1 / sqrt(cols) times `by`; and the same as
// float32, from the same blocks.
struct Pair {
  GgufWriter::Tensor packed, wide;
};
Pair random_pair(const std::string& name, int64_t rows, int64_t cols, const Halves& of, float by,
                 std::mt19937* rng) {
  const GgufType& type = *gguf_type(of.type);
  const int64_t blocks = rows * cols / type.elements;
  std::string bytes(size_t(blocks) * type.bytes, '\0');
  for (char& c : bytes) c = char((*rng)());
  const auto put = [&](float d) {
    for (int64_t i = 0; i < blocks; ++i) {
      const auto set = [&](size_t at, float value) {
        const uint16_t h = f32_to_f16(value);
        std::memcpy(bytes.data() + size_t(i) * type.bytes + at, &h, 2);
      };
      set(of.scale, d);
      if (of.ratio != 0) set(of.least, d * of.ratio);
    }
  };
  std::vector<float> values(size_t(rows * cols));
  const auto widen = [&] {
    type.widen(reinterpret_cast<const uint8_t*>(bytes.data()), blocks, values.data());
  };
  put(1);
  widen();
  double squares = 0;
  for (const float v : values) squares += double(v) * double(v);
  put(by / float(std::sqrt(squares / double(values.size()) * double(cols))));
  widen();
  std::string wide(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return {{name, {rows, cols}, of.type, std::move(bytes)},
          {name, {rows, cols}, 0, std::move(wide)}};
}

// Both as half floats: `wide` the float32 that they are.
void as_f16(GgufWriter::Tensor* packed, GgufWriter::Tensor* wide) {
  packed->type = 1;
  packed->bytes.clear();
  std::string rounded;
  for (size_t i = 0; i < wide->bytes.size(); i += 4) {
    float value = 0;
    std::memcpy(&value, wide->bytes.data() + i, 4);
    const uint16_t half = f32_to_f16(value);
    packed->bytes.append(reinterpret_cast<const char*>(&half), 2);
    rounded += raw(f16_to_f32(half));
  }
  wide->bytes = rounded;
}

struct Files {
  TempDir dir;
  std::string packed, wide;
};

// Two files of the same values. `types` are the layers'; v and up have the type of the next layer.
// v of the second is F16.
void write_files(const std::vector<Halves>& types, Files* out, int64_t inner = 512) {
  GgufWriter packed = gguf_llama();
  packed.integer("llama.embedding_length", kHidden)
      .integer("llama.feed_forward_length", uint32_t(inner))
      .integer("llama.block_count", uint32_t(types.size()))
      .integer("llama.context_length", kTinyContext)
      .integer("llama.attention.head_count", kHeads)
      .integer("llama.attention.head_count_kv", kKvHeads)
      .integer("llama.attention.key_length", kHeadDim)
      .integer("llama.attention.value_length", kHeadDim)
      .integer("llama.rope.dimension_count", kHeadDim);
  GgufWriter wide = packed;
  std::mt19937 rng(22);
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols, const Halves& of,
                       float by) {
    Pair pair = random_pair(name + ".weight", rows, cols, of, by, &rng);
    packed.tensors.push_back(std::move(pair.packed));
    wide.tensors.push_back(std::move(pair.wide));
  };
  const auto norm = [&](const std::string& name) {
    std::string ones;
    for (int64_t i = 0; i < kHidden; ++i) ones += raw(1.0f);
    for (GgufWriter* w : {&packed, &wide}) {
      w->tensors.push_back({name + ".weight", {kHidden}, 0, ones});
    }
  };
  add("token_embd", kTinyVocab, kHidden, {14, 208}, 16);
  add("output", kTinyVocab, kHidden, {8, 0}, 3);
  norm("output_norm");
  for (size_t i = 0; i < types.size(); ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    norm(layer + "attn_norm");
    norm(layer + "ffn_norm");
    add(layer + "attn_q", kHeads * kHeadDim, kHidden, types[i], 1);
    add(layer + "attn_k", kKvHeads * kHeadDim, kHidden, types[i], 1);
    const Halves& next = types[(i + 1) % types.size()];
    add(layer + "attn_v", kKvHeads * kHeadDim, kHidden, next, 1);
    if (i == 1) as_f16(&packed.tensors.back(), &wide.tensors.back());
    add(layer + "attn_output", kHidden, kHeads * kHeadDim, types[i], 1);
    add(layer + "ffn_gate", inner, kHidden, types[i], 1);
    add(layer + "ffn_up", inner, kHidden, next, 1);
    add(layer + "ffn_down", kHidden, inner, types[i], 1);
  }
  out->packed = out->dir.path() + "/packed.gguf";
  out->wide = out->dir.path() + "/wide.gguf";
  out->dir.write("packed.gguf", packed.bytes());
  out->dir.write("wide.gguf", wide.bytes());
}

EngineOptions options_of(const std::string& model) {
  EngineOptions o = tiny_options();
  o.model_dir = model;
  return o;
}

// What the weights take, and that the plan says it.
size_t bytes_of(const std::string& model, WeightFormat format) {
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Device> device;
  DecoderWeights weights;
  MemoryPlan plan;
  Status s = read_model_config(model, {}, &config);
  if (s) s = Checkpoint::open(model, &checkpoint);
  if (s) s = open_cpu_device({.threads = 1, .isa = {}}, &device);
  if (s) s = load_weights(*checkpoint, config, {.format = format}, device.get(), &weights);
  PlanInput in;
  in.format = format;
  in.available = size_t(4) << 30;
  in.max_seqs = 1;
  in.limits.max_rows = in.limits.max_spans = in.limits.max_samples = 4;
  in.limits.max_context = 64;
  in.limits.vocab = config.vocab;
  if (s) s = plan_memory(config, *checkpoint, in, &plan);
  EXPECT_OK(s);
  EXPECT_NEAR(double(plan.weights) / double(weights.bytes), 1.0, 0.002);
  return weights.bytes;
}

Outcome scored(const EngineOptions& options) {
  Client client(options);
  if (!client.status()) {
    fail(__FILE__, __LINE__, client.status().message());
    return {};
  }
  Request r;
  r.prompt = random_prompt(200, 5);
  r.sampling.max_tokens = 1;
  r.sampling.num_prompt_logprobs = 0;
  return client.run(r);
}

// The difference of logprobs to those of float32 weights.
double distance(const Files& files, const std::string& isa, int32_t ranks = 1, bool int8 = false) {
  EngineOptions o = options_of(files.packed);
  o.device.isa = isa;
  o.ranks = ranks;
  o.device.exact_activations = !int8;
  o.device.int8_activations = int8;
  const Outcome packed = scored(o);
  o.device.exact_activations = true;
  o.device.int8_activations = false;
  o.model_dir = files.wide;
  o.device.isa.clear();  // float32 on the best instruction set, once
  o.ranks = 1;
  static std::map<std::string, Outcome> known;
  const auto [at, fresh] = known.try_emplace(files.wide);
  if (fresh) at->second = scored(o);
  const Outcome& wide = at->second;
  EXPECT_GT(packed.prompt_logprobs.size(), 150u);
  EXPECT_EQ(packed.prompt_logprobs.size(), wide.prompt_logprobs.size());
  double sum = 0, spread = 0;
  for (size_t i = 1; i < packed.prompt_logprobs.size(); ++i) {
    sum += std::fabs(double(packed.prompt_logprobs[i].logprob - wide.prompt_logprobs[i].logprob));
    spread += std::fabs(double(wide.prompt_logprobs[i].logprob) + std::log(kTinyVocab));
  }
  const double n = double(packed.prompt_logprobs.size() - 1);
  EXPECT_GT(spread / n, 0.3);  // the model says something
  return sum / n;
}

// Of every type, made once.
const Files& all_types() {
  static Files files;
  static const bool written = (write_files({std::begin(kTypes), std::end(kTypes)}, &files), true);
  static_cast<void>(written);
  return files;
}

TEST(grouped_weights_are_as_their_float32) {
  const Files& files = all_types();
  for (const cpu::Isa isa : cpu::kAllIsas) {
    if (cpu::isa_available(isa)) EXPECT_LT(distance(files, cpu::isa_name(isa)), 0.001);
  }
  const size_t wide_bytes = bytes_of(files.wide, WeightFormat::stored);
  // 5.3 bits a weight of the layers, 8.5 and 6.75 of the ends.
  EXPECT_LT(double(bytes_of(files.packed, WeightFormat::stored)) / double(wide_bytes), 6.0 / 32);
  EXPECT_GT(wide_bytes, bytes_of(files.wide, WeightFormat::int8));
  EXPECT_GT(bytes_of(files.wide, WeightFormat::int8), bytes_of(files.wide, WeightFormat::int4));
}

TEST(activations_of_8_bits_are_near) {
  const Files& files = all_types();
  for (const cpu::Isa isa : cpu::kAllIsas) {
    if (!cpu::isa_available(isa)) continue;
    const double off = distance(files, cpu::isa_name(isa), 1, true);
    EXPECT_GT(off, 0.001);
    EXPECT_LT(off, 0.08);
  }
}

TEST(activations_of_8_bits_are_refused_where_they_change_nothing) {
  EngineOptions o = tiny_options();
  o.device.int8_activations = true;
  const auto refused = [&](const char* why) {
    EXPECT_ERROR(Engine::check(o), why);
    EXPECT_ERROR(Status(Client(o).status()), why);
  };
  refused("int8_activations: found weights that are not in groups");
  o.format = WeightFormat::int4;
  EXPECT_OK(Engine::check(o));
  o.device.exact_activations = true;
  refused("found exact_activations beside it");
}

// Also where gate and up, or q and v, are of several types.
TEST(grouped_weights_give_the_same_bits_in_any_batch) {
  Files files;
  write_files({{12, 0, 2, 7.5f}, {8, 0}, {14, 208}}, &files);
  const std::vector<Request> all(requests().begin(), requests().begin() + 16);
  struct Way {
    WeightFormat format;
    bool int8_activations;
  };
  for (const auto& [format, int8] :
       {Way{WeightFormat::stored, false}, Way{WeightFormat::int4, false},
        Way{WeightFormat::int8, false}, Way{WeightFormat::stored, true},
        Way{WeightFormat::int8, true}}) {
    EngineOptions o = format == WeightFormat::stored ? options_of(files.packed) : tiny_options();
    o.format = format;
    o.device.int8_activations = int8;
    EngineOptions single = o;
    single.prefix_cache = false;
    single.run_ahead = false;
    single.max_batched_tokens = 512;
    std::vector<Outcome> expected;
    {
      Client client(single);
      REQUIRE_OK(client.status());
      for (const Request& r : all) expected.push_back(client.run(r));
    }
    expect_equal(o, all, expected);
    o.max_batched_tokens = 7;
    expect_equal(o, all, expected);
    if (format != WeightFormat::stored) continue;
    for (const int32_t ranks : {2, 4}) {
      o.ranks = ranks;
      o.device.threads = ranks;
      expect_equal(o, all, expected);
    }
  }
}

std::string widened_of(const EngineOptions& options) {
  Client client(options);
  if (!client.status()) return client.status().message();
  std::string text;
  for (const auto& [name, why] : client.engine().info().plan.widened_tensors) {
    text += name + ": " + why + "\n";
  }
  return text;
}

TEST(grouped_weights_are_made_of_finite_numbers_alone) {
  const TempDir dir;
  RawTensors t = tiny_tensors();
  const uint16_t infinite = 0xff80;
  t["model.layers.1.mlp.up_proj.weight"].bytes.replace(size_t(60 * 64 + 3) * 2, 2,
                                                       reinterpret_cast<const char*>(&infinite), 2);
  dir.write("config.json", tiny_config().text());
  dir.write("model.safetensors", safetensors_bytes(t));
  EngineOptions o = tiny_options();
  o.model_dir = dir.path();
  const auto opened = [&]() -> Status { return Client(o).status(); };
  EXPECT_OK(opened());
  for (const WeightFormat format : {WeightFormat::int4, WeightFormat::int8}) {
    for (const int32_t ranks : {1, 2}) {
      o.format = format, o.ranks = ranks;
      EXPECT_ERROR(
          opened(),
          "layer 1 gate_up: tensor \"model.layers.1.mlp.up_proj.weight\": row 60 has -inf; "
          "expected finite numbers");
    }
  }
}

// Four ranks would cut a row of `down` within 128 columns: one and two do not, and agree.
TEST(grouped_weights_that_more_ranks_would_cut_have_the_same_bits_on_few) {
  Files files;
  write_files({{12, 0, 2, 7.5f}, {14, 208}}, &files, 1280);
  EngineOptions o = options_of(files.packed);
  EXPECT_EQ(widened_of(o), "");
  const Outcome one = scored(o);
  o.ranks = 2;
  EXPECT_EQ(widened_of(o), "");
  EXPECT_EQ(difference(scored(o), one), "");
  o.ranks = 4;
  const std::string why = "each rank holds of its rows 320 values, no multiple of 128\n";
  EXPECT_EQ(widened_of(o), "blk.0.ffn_down.weight: " + why + "blk.1.ffn_down.weight: " + why);
}

// Ranks that cut rows of `down` inside a group of 32: what is cut stays wide, and the plan says it.
TEST(grouped_weights_that_ranks_cut_inside_a_group_are_wide) {
  Files odd;
  write_files({{8, 0}, {2, 0}}, &odd, 480);
  EngineOptions o = options_of(odd.packed);
  EXPECT_EQ(widened_of(o), "");
  o.ranks = 2;
  const std::string why = "each rank holds of its rows 240 values, no multiple of 32\n";
  EXPECT_EQ(widened_of(o), "blk.0.ffn_down.weight: " + why + "blk.1.ffn_down.weight: " + why);
  EXPECT_LT(distance(odd, "", 2), 0.01);  // wide is BF16

  o = tiny_options();  // an intermediate size of 96
  for (const WeightFormat format : {WeightFormat::int4, WeightFormat::int8}) {
    o.format = format;
    o.ranks = 1;
    EXPECT_EQ(widened_of(o), "");
    o.ranks = 2;
    const std::string cut = "each rank holds of its rows 48 values, no multiple of 32\n";
    EXPECT_EQ(widened_of(o), "model.layers.0.mlp.down_proj.weight: " + cut +
                                 "model.layers.1.mlp.down_proj.weight: " + cut);
  }
}

}  // namespace
}  // namespace nemotron::test
