#include "models/memory_plan.h"

#include <algorithm>

#include "../check.h"
#include "fixture.h"
#include "models/decoder.h"
#include "models/gpu_fit.h"
#include "models/sources.h"
#include "models/weights.h"

namespace nemotron {
namespace {

using namespace test;

RankShape shape_of(const ModelConfig& config) {
  RankShape shape;
  EXPECT_OK(rank_shape(config, Shard::whole(), &shape));
  return shape;
}

struct Tiny {
  TempDir dir;
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;
  PlanInput in;

  explicit Tiny(const RawTensors& tensors = llama_tensors(), const Members& text = llama_config()) {
    dir.write("config.json", text.text());
    dir.write("model.safetensors", safetensors_bytes(tensors));
    EXPECT_OK(read_model_config(dir.path(), {}, &config));
    EXPECT_OK(Checkpoint::open(dir.path(), &checkpoint));
    in.block_size = 16;
    in.available = size_t(1) << 30;
    in.max_seqs = 4;
    in.limits = {.max_rows = 32,
                 .max_spans = 4,
                 .max_samples = 8,
                 .max_context = 100,
                 .q_heads = 4,
                 .kv_heads = 2,
                 .head_dim = 6,
                 .hidden = 8,
                 .intermediate = 12,
                 .vocab = 20};
  }
  Status plan(MemoryPlan* out) const { return plan_memory(config, *checkpoint, in, out); }
};

constexpr size_t kGains = 5 * 8 * 4;

TEST(plan_names_what_is_not_used) {
  MemoryPlan p;
  REQUIRE_OK(Tiny().plan(&p));
  EXPECT(p.unused_tensors.empty());
  RawTensors tensors = llama_tensors();
  tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = f32_tensor({3}, {1, 1, 1});
  tensors["vision.weight"] = f32_tensor({1}, {1});
  REQUIRE_OK(Tiny(tensors).plan(&p));
  std::vector<std::string> names = p.unused_tensors;
  std::sort(names.begin(), names.end());
  EXPECT(names == (std::vector<std::string>{"model.layers.1.self_attn.rotary_emb.inv_freq",
                                            "vision.weight"}));
}

TEST(plan_counts_every_byte) {
  Tiny t;
  MemoryPlan p;
  REQUIRE_OK(t.plan(&p));
  // Panels of 16 rows (gate and up each), columns padded to 32; the embedding as it is.
  const size_t layer = 2 * (48 * 32 + 16 * 32 + (16 + 16) * 32 + 16 * 32);
  EXPECT_EQ(p.weights, 2 * 20 * 8 + 2 * 32 * 32 + 2 * layer + kGains);
  EXPECT_EQ(p.activations, Decoder::activation_bytes(shape_of(t.config), t.in.limits, DType::f32));
  PlanInput grouped = t.in;
  grouped.group_bytes = 12345;
  MemoryPlan of_group;
  REQUIRE_OK(plan_memory(t.config, *t.checkpoint, grouped, &of_group));
  EXPECT_EQ(of_group.activations, p.activations + 12345);
  // The device's own numbers, which depend on what a step may be and on the weights.
  const auto workspace = [](const StepLimits& limits, const KvConfig& kv, NarrowWeights narrow) {
    return size_t(limits.max_rows * 1000 + kv.kv_heads * 10 + narrow.fp8 + 2 * narrow.groups);
  };
  grouped.workspace_bytes = workspace;
  REQUIRE_OK(plan_memory(t.config, *t.checkpoint, grouped, &of_group));
  EXPECT_EQ(of_group.reserve, p.reserve + 32020);
  EXPECT_EQ(of_group.total, p.total + 12345 + 32020);
  const DraftInput draft{
      .config = &t.config, .checkpoint = t.checkpoint.get(), .limits = t.in.limits};
  grouped.draft = &draft;
  MemoryPlan of_two;
  REQUIRE_OK(plan_memory(t.config, *t.checkpoint, grouped, &of_two));
  EXPECT_EQ(of_two.draft, p.weights + p.activations + 12345 + p.reserve + 32020);
  // 2 layers, K and V, 2 heads of 6, BF16.
  EXPECT_EQ(p.kv_bytes_per_token, size_t(2 * 2 * 2 * 6 * 2));
  // 100 tokens are 7 blocks; 4 sequences can use 28.
  EXPECT_EQ(p.num_blocks, 28);
  EXPECT_EQ(p.kv_tokens, 28 * 16);
  EXPECT_EQ(p.kv, 28 * 16 * p.kv_bytes_per_token);
  EXPECT_EQ(p.total, p.weights + p.activations + p.reserve + p.kv);
  EXPECT(p.table().find("448 tokens: 28 blocks of 16, 96 bytes a token in BF16") !=
         std::string::npos);

  t.in.format = WeightFormat::fp8;
  t.in.kv_dtype = DType::fp8_e4m3;
  MemoryPlan q;
  REQUIRE_OK(t.plan(&q));
  EXPECT_EQ(q.kv_bytes_per_token, p.kv_bytes_per_token / 2);
  PlanInput rounded = t.in;
  rounded.workspace_bytes = workspace;
  MemoryPlan of_fp8;
  REQUIRE_OK(plan_memory(t.config, *t.checkpoint, rounded, &of_fp8));
  EXPECT_EQ(of_fp8.reserve, q.reserve + 32021);
  const size_t scales = 2 * 4 * (48 + 16 + 32 + 16);
  EXPECT_EQ(q.weights, 2 * 20 * 8 + 2 * 32 * 32 + layer + scales + kGains);
  Tiny stored(fp8_llama_tensors(true),
              llama_config().set("quantization_config", R"({"quant_algo": "FP8"})"));
  REQUIRE_OK(stored.plan(&p));
  EXPECT_EQ(p.weights, q.weights);
  stored.in.workspace_bytes = workspace;
  REQUIRE_OK(stored.plan(&p));
  EXPECT_EQ(p.reserve, of_fp8.reserve);
}

TEST(plan_takes_what_is_left_or_what_was_asked) {
  Tiny t;
  MemoryPlan p;
  REQUIRE_OK(t.plan(&p));
  const size_t fixed = p.total - p.kv, block = 16 * p.kv_bytes_per_token;
  t.in.available = fixed + 10 * block + 5;
  REQUIRE_OK(t.plan(&p));
  EXPECT_EQ(p.num_blocks, 10);
  t.in.kv_memory = int64_t(8 * block + 1);
  REQUIRE_OK(t.plan(&p));
  EXPECT_EQ(p.num_blocks, 8);
  EXPECT_LE(p.total, p.available);
}

TEST(plan_refuses_with_numbers) {
  Tiny t;
  MemoryPlan p;
  REQUIRE_OK(t.plan(&p));
  const size_t fixed = p.total - p.kv, block = 16 * p.kv_bytes_per_token;
  t.in.available = fixed + 6 * block;  // one sequence needs 7 blocks
  Status s = t.plan(&p);
  EXPECT(s.code() == Code::out_of_memory);
  EXPECT_ERROR(s, "one sequence of 100 tokens takes 10.5 KiB; 96 tokens of KV cache would fit");
  EXPECT_ERROR(s, "needs 256.0 MiB, but 256.0 MiB are available: weights 16.");
  t.in.available = 1000;
  EXPECT_ERROR(t.plan(&p), "0 tokens of KV cache would fit");
  t.in.available = size_t(1) << 30;
  t.in.kv_memory = int64_t(6 * block);
  EXPECT_ERROR(t.plan(&p),
               "the KV cache is limited to 9.0 KiB, 96 tokens, but one sequence of 100");
  t.in.kv_memory = int64_t(28 * block);
  t.in.available = fixed + 27 * block;
  EXPECT_ERROR(t.plan(&p), "432 tokens of KV cache would fit");
}

// --- common GPUs ---

ModelConfig llama(int32_t hidden, int32_t layers, int32_t q_heads, int32_t intermediate) {
  ModelConfig c;
  c.hidden = hidden;
  c.vocab = 128256;
  c.q_heads = q_heads;
  c.head_dim = 128;
  c.layers.assign(
      size_t(layers),
      LayerSpec{.attention = true, .kv_heads = 8, .ffn = true, .intermediate = intermediate});
  return c;
}
const ModelConfig kNano4b = llama(3072, 32, 32, 9216), kNano8b = llama(4096, 32, 32, 14336),
                  k70b = llama(8192, 80, 64, 28672);

GpuFit fit(const ModelConfig& c, const std::string& gpu, int32_t ranks, WeightFormat format) {
  for (const GpuFit& f : fit_on_common_gpus(c)) {
    if (std::string(f.gpu).rfind(gpu, 0) == 0 && f.ranks == ranks && f.format == format) return f;
  }
  return {};
}

TEST(plan_a_draft_model_on_common_gpus) {
  const std::vector<GpuFit> alone = fit_on_common_gpus(k70b),
                            both = fit_on_common_gpus(k70b, &kNano8b);
  const std::vector<GpuFit> draft = fit_on_common_gpus(kNano8b);
  REQUIRE_EQ(alone.size(), both.size());
  for (size_t i = 0; i < both.size(); ++i) {
    EXPECT_EQ(both[i].weights, alone[i].weights + draft[i].weights);
    EXPECT_LE(both[i].kv_tokens_fp8, alone[i].kv_tokens_fp8);
  }
  // 32 of 112 layers' keys and values, on whatever is left.
  const GpuFit& last = both.back();
  EXPECT_GT(last.kv_tokens_fp8, 0);
  EXPECT_LT(double(last.kv_tokens_fp8), double(alone.back().kv_tokens_fp8) * 80 / 112);
}

TEST(footprint_is_what_is_planned) {
  const Tiny tiny;
  MemoryPlan p;
  Footprint f;
  REQUIRE_OK(tiny.plan(&p));
  REQUIRE_OK(find_footprint(tiny.config, *tiny.checkpoint, tiny.in, &f));
  EXPECT_EQ(f.weights, p.weights);
  EXPECT_EQ(f.kv_bytes_per_token, p.kv_bytes_per_token);
  REQUIRE_OK(find_footprint(tiny.config, *tiny.checkpoint, {}, &f));
  EXPECT_EQ(f.weights, p.weights);
  EXPECT(!p.in_groups);
}

TEST(plan_says_whether_weights_are_quantised) {
  Tiny tiny;
  MemoryPlan p;
  REQUIRE_OK(tiny.plan(&p));
  EXPECT(!p.quantises);
  tiny.in.format = WeightFormat::fp8;
  REQUIRE_OK(tiny.plan(&p));
  EXPECT(p.quantises);
  // Its columns are no groups of 32.
  tiny.in.format = WeightFormat::int4;
  REQUIRE_OK(tiny.plan(&p));
  EXPECT(!p.quantises);
}

TEST(plan_parameter_counts) {
  EXPECT_EQ(parameter_count(kNano4b), 4512746496);
  EXPECT_EQ(parameter_count(kNano8b), 8030261248);
  EXPECT_EQ(parameter_count(k70b), 70553706496);
}

TEST(plan_common_gpus) {
  EXPECT_EQ(fit(kNano8b, "24 GB", 1, WeightFormat::stored).weights, size_t(16060522496));
  EXPECT_EQ(fit(kNano8b, "24 GB", 1, WeightFormat::fp8).weights, size_t(9081200640));
  const auto tokens = [](const ModelConfig& c, const char* gpu, int32_t ranks,
                         WeightFormat format) {
    const GpuFit f = fit(c, gpu, ranks, format);
    return std::pair(double(f.kv_tokens_bf16) / 1000, double(f.kv_tokens_fp8) / 1000);
  };
  const auto expect = [&](std::pair<double, double> got, double bf16, double fp8) {
    EXPECT_NEAR(got.first, bf16, 0.06);
    EXPECT_NEAR(got.second, fp8, 0.06);
  };
  expect(tokens(kNano8b, "24 GB", 1, WeightFormat::stored), 51.9, 103.7);
  expect(tokens(kNano8b, "24 GB", 1, WeightFormat::fp8), 105.1, 210.2);
  expect(tokens(kNano8b, "80 GB", 1, WeightFormat::stored), 485.0, 970.0);
  expect(tokens(kNano4b, "24 GB", 1, WeightFormat::stored), 105.5, 211.1);
  expect(tokens(k70b, "80 GB", 2, WeightFormat::stored), 55.4, 110.8);
  expect(tokens(k70b, "80 GB", 1, WeightFormat::fp8), 21.3, 42.6);
  expect(tokens(k70b, "141 GB", 1, WeightFormat::stored), 1.5, 3.0);
  expect(tokens(k70b, "24 GB", 8, WeightFormat::stored), 127.4, 254.8);
  expect(tokens(k70b, "24 GB", 4, WeightFormat::stored), 0, 0);
  // Ranks must divide the heads; an FP8 checkpoint has FP8 weights alone.
  ModelConfig odd = kNano8b;
  odd.q_heads = 18;
  for (LayerSpec& layer : odd.layers) layer.kv_heads = 2;
  odd.quant = QuantKind::modelopt_fp8;
  for (const GpuFit& f : fit_on_common_gpus(odd)) {
    EXPECT_LE(f.ranks, 2);
    EXPECT(f.format == WeightFormat::fp8);
  }
  // Beyond the KV heads each rank has one that others have too: no more tokens for more ranks.
  ModelConfig few = kNano8b;
  for (LayerSpec& layer : few.layers) layer.kv_heads = 2;
  const GpuFit two = fit(few, "24 GB", 2, WeightFormat::stored);
  const GpuFit eight = fit(few, "24 GB", 8, WeightFormat::stored);
  EXPECT_GT(eight.kv_tokens_bf16, two.kv_tokens_bf16);
  EXPECT_LT(eight.kv_tokens_bf16, 2 * two.kv_tokens_bf16);
}

// The table's arithmetic is what the plan of a real checkpoint comes to, rank by rank.
TEST(plan_of_a_rank_is_what_the_table_says) {
  const TempDir dir;
  dir.write("config.json", llama_config().text());
  dir.write("model.safetensors", safetensors_bytes(llama_tensors()));
  ModelConfig config;
  REQUIRE_OK(read_model_config(dir.path(), {}, &config));
  std::unique_ptr<Checkpoint> checkpoint;
  REQUIRE_OK(Checkpoint::open(dir.path(), &checkpoint));
  for (const int32_t ranks : {1, 2, 4}) {
    const GpuFit table = fit(config, "24 GB", ranks, WeightFormat::stored);
    EXPECT_EQ(table.ranks, ranks);
    PlanInput in;
    in.shard = {.rank = ranks - 1, .ranks = ranks};
    in.available = size_t(1) << 30;
    in.max_seqs = 2;
    in.limits.max_rows = in.limits.max_spans = in.limits.max_samples = 4;
    in.limits.max_context = 64;
    in.limits.vocab = config.vocab;
    MemoryPlan plan;
    REQUIRE_OK(plan_memory(config, *checkpoint, in, &plan));
    Sources sources;
    REQUIRE_OK(find_sources(*checkpoint, config, &sources));
    // Beside the elements a plan has the padding of panels, and norms in float32.
    size_t unpadded = 2 * 5 * size_t(config.hidden);
    for (const PackedGroup& group : packed_groups(*checkpoint, sources, config, in.shard)) {
      for (const PackedGroup::Part& part : group.parts) {
        unpadded += 2 * size_t(part.range.rows * part.range.cols);
      }
    }
    EXPECT_EQ(table.weights, unpadded);
    EXPECT_GE(plan.weights, table.weights);
  }
}

// A file with all of a model's tensors and nothing in them: no disk holds its gigabytes.
void write_hollow(const TempDir& dir, const ModelConfig& c) {
  std::string header = "{";
  int64_t at = 0;
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols) {
    const int64_t bytes = std::max<int64_t>(rows, 1) * cols * 2;
    header += (at > 0 ? ", \"" : "\"") + name + R"(": {"dtype": "BF16", "shape": [)" +
              (rows > 0 ? std::to_string(rows) + ", " : "") + std::to_string(cols) +
              R"(], "data_offsets": [)" + std::to_string(at) + ", " + std::to_string(at + bytes) +
              "]}";
    at += bytes;
  };
  add("model.embed_tokens.weight", c.vocab, c.hidden);
  add("lm_head.weight", c.vocab, c.hidden);
  add("model.norm.weight", 0, c.hidden);
  for (size_t i = 0; i < c.layers.size(); ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const LayerSpec& spec = c.layers[i];
    const int64_t q = int64_t(c.q_heads) * c.head_dim, kv = int64_t(spec.kv_heads) * c.head_dim;
    add(layer + "input_layernorm.weight", 0, c.hidden);
    add(layer + "post_attention_layernorm.weight", 0, c.hidden);
    add(layer + "self_attn.q_proj.weight", q, c.hidden);
    add(layer + "self_attn.k_proj.weight", kv, c.hidden);
    add(layer + "self_attn.v_proj.weight", kv, c.hidden);
    add(layer + "self_attn.o_proj.weight", c.hidden, q);
    add(layer + "mlp.gate_proj.weight", spec.intermediate, c.hidden);
    add(layer + "mlp.up_proj.weight", spec.intermediate, c.hidden);
    add(layer + "mlp.down_proj.weight", c.hidden, spec.intermediate);
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t size = header.size();
  dir.write("model.safetensors",
            std::string(reinterpret_cast<const char*>(&size), sizeof size) + header);
  std::filesystem::resize_file(dir.file("model.safetensors"), 8 + size + uint64_t(at));
}

// What `info` promises of GPUs that are not here, and what the engine would plan on them.
TEST(the_table_promises_what_an_engine_plans) {
  for (const ModelConfig& shape : {kNano8b, k70b}) {
    const TempDir dir;
    Members text = llama_config();
    text.set("hidden_size", std::to_string(shape.hidden));
    text.set("intermediate_size", std::to_string(shape.layers[0].intermediate));
    text.set("num_hidden_layers", std::to_string(shape.layers.size()));
    text.set("num_attention_heads", std::to_string(shape.q_heads));
    text.set("num_key_value_heads", "8").set("head_dim", "128");
    text.set("vocab_size", std::to_string(shape.vocab)).set("max_position_embeddings", "131072");
    dir.write("config.json", text.text());
    write_hollow(dir, shape);
    ModelConfig config;
    REQUIRE_OK(read_model_config(dir.path(), {}, &config));
    std::unique_ptr<Checkpoint> checkpoint;
    REQUIRE_OK(Checkpoint::open(dir.path(), &checkpoint));
    int compared = 0;
    for (const GpuFit& row : fit_on_common_gpus(config)) {
      if (row.kv_tokens_bf16 < 32768) continue;
      PlanInput in;
      in.shard = {.rank = row.ranks - 1, .ranks = row.ranks};
      in.format = row.format;
      // Slots of 8 MiB in turn, as the CUDA backend has them.
      in.group_bytes = row.ranks > 1 ? (size_t(16) << 20) + 512 : 0;
      in.available = size_t(0.95 * double(row.gpu_bytes));
      in.max_seqs = 1024;
      RankShape rank;
      REQUIRE_OK(rank_shape(config, in.shard, &rank));
      in.limits = {.max_rows = 2048,
                   .max_spans = 256,
                   .max_samples = 2048,
                   .max_context = 32768,
                   .q_heads = rank.q_heads,
                   .kv_heads = rank.kv_heads()[0],
                   .head_dim = rank.head_dim,
                   .hidden = rank.hidden,
                   .intermediate = rank.max_intermediate(),
                   .vocab = rank.vocab};
      MemoryPlan plan;
      REQUIRE_OK(plan_memory(config, *checkpoint, in, &plan));
      // Never more, and less by no more than what the table sets aside for what a plan knows.
      EXPECT_LE(row.kv_tokens_bf16, plan.kv_tokens);
      EXPECT_LT(double(plan.kv_tokens - row.kv_tokens_bf16) * double(plan.kv_bytes_per_token),
                1.5 * double(1 << 30));
      EXPECT_GE(plan.weights, row.weights);
      EXPECT_LT(plan.weights - row.weights, row.weights / 400);
      ++compared;
    }
    EXPECT(compared > 3);
  }
}

}  // namespace
}  // namespace nemotron
