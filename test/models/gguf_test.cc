// GGUF files as checkpoints: the same config and the same values as the folder that they were made
// from, blocks of every type as the `gguf` package widens them, and whatever is wrong with a file.
#include "models/checkpoint/gguf.h"

#include <functional>
#include <memory>

#include "../check.h"
#include "gguf_fixture.h"
#include "models/checkpoint/file_bytes.h"
#include "models/checkpoint/gguf_blocks.h"
#include "models/checkpoint/json.h"
#include "models/config.h"
#include "models/rope.h"
#include "models/sources.h"

namespace nemotron {
namespace {

using namespace test;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(char(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

struct Opened {
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;
  Sources sources;
  Status status;
};

Opened open(const std::string& path) {
  Opened o;
  o.status = read_model_config(path, {}, &o.config);
  if (o.status) o.status = Checkpoint::open(path, &o.checkpoint);
  if (o.status) o.status = find_sources(*o.checkpoint, o.config, &o.sources);
  return o;
}

Opened open_bytes(const TempDir& dir, const std::string& bytes) {
  dir.write("m.gguf", bytes);
  return open(dir.file("m.gguf"));
}

GgufWriter whole_llama() {
  GgufWriter w = gguf_llama();
  w.tensors = gguf_tensors(llama_tensors(), 4, 2);
  return w;
}

void expect_same_values(const Checkpoint& a, const Checkpoint& b) {
  EXPECT_EQ(a.tensors().size(), b.tensors().size());
  for (const StoredTensor& t : a.tensors()) {
    const StoredTensor* other = b.find(t.name);
    REQUIRE(other != nullptr);
    EXPECT(t.shape == other->shape);
    REQUIRE(a.fetch(t).ok() && b.fetch(*other).ok());
    for (int64_t i = 0; i < t.elements; ++i) {
      if (stored_value(t, i) == stored_value(*other, i)) continue;
      fail(__FILE__, __LINE__, t.name + " differs at " + std::to_string(i));
      break;
    }
  }
}

TEST(gguf_is_the_folder_it_was_made_from) {
  const TempDir dir;
  dir.write("config.json", llama_config().text());
  dir.write("model.safetensors", safetensors_bytes(llama_tensors()));
  const Opened folder = open(dir.path()), file = open_bytes(dir, whole_llama().bytes());
  EXPECT_OK(folder.status);
  REQUIRE(file.status.ok());
  EXPECT_EQ(file.config.architecture, folder.config.architecture);
  EXPECT_EQ(file.config.hidden, folder.config.hidden);
  EXPECT_EQ(file.config.vocab, folder.config.vocab);
  EXPECT_EQ(file.config.q_heads, folder.config.q_heads);
  EXPECT_EQ(file.config.head_dim, folder.config.head_dim);
  EXPECT_EQ(file.config.max_position, folder.config.max_position);
  EXPECT_EQ(file.config.norm_eps, folder.config.norm_eps);
  EXPECT_EQ(file.config.layers.size(), folder.config.layers.size());
  EXPECT_EQ(file.config.kv_heads(), folder.config.kv_heads());
  EXPECT_EQ(file.config.layers[1].intermediate, folder.config.layers[1].intermediate);
  EXPECT_EQ(file.config.rope.theta, folder.config.rope.theta);
  EXPECT_EQ(file.config.bos_id, 1);
  // The eos of the metadata, and the token that ends a turn by its name.
  EXPECT(file.config.eos_ids == (std::vector<int32_t>{3, 2}));
  EXPECT(file.sources.unused.empty());
  expect_same_values(*folder.checkpoint, *file.checkpoint);
}

TEST(gguf_sampling_is_the_folders) {
  const TempDir dir;
  const Opened without = open_bytes(dir, whole_llama().bytes());
  EXPECT_OK(without.status);
  const GenerationDefaults& none = without.config.generation;
  EXPECT(!none.temperature && !none.top_p && !none.top_k && !none.min_p);
  EXPECT(!none.repetition_penalty && !none.greedy);

  GgufWriter w = whole_llama();
  w.real("general.sampling.temp", 0.6f)
      .real("general.sampling.top_p", 0.95f)
      .raw_value("general.sampling.top_k", 5, raw(int32_t(20)))
      .real("general.sampling.min_p", 0.05f)
      .real("general.sampling.penalty_repeat", 1.1f);
  const Opened file = open_bytes(dir, w.bytes());
  EXPECT_OK(file.status);
  const GenerationDefaults& g = file.config.generation;
  // As generation_config.json would have them, and not as the nearest float.
  EXPECT(g.temperature == 0.6 && g.top_p == 0.95 && g.top_k == 20);
  EXPECT(g.min_p == 0.05 && g.repetition_penalty == 1.1);
}

// A part of a tensor is the same as the whole: loaders fetch the rows of a rank.
TEST(gguf_fetches_a_part) {
  const TempDir dir;
  const Opened file = open_bytes(dir, whole_llama().bytes());
  REQUIRE(file.status.ok());
  const StoredTensor* q = file.checkpoint->find("model.layers.1.self_attn.q_proj.weight");
  REQUIRE(q != nullptr);
  EXPECT(q->dtype == DType::bf16);  // as stored, its rows put in order
  REQUIRE(file.checkpoint->fetch(*q).ok());
  std::vector<float> all;
  for (int64_t i = 0; i < q->elements; ++i) all.push_back(stored_value(*q, i));
  file.checkpoint->release(*q);
  REQUIRE(file.checkpoint->fetch(*q, 5 * 8 * sizeof(uint16_t), 2 * 8 * sizeof(uint16_t)).ok());
  for (int64_t i = 5 * 8; i < 7 * 8; ++i) EXPECT_EQ(stored_value(*q, i), all[size_t(i)]);
}

TEST(gguf_blocks_are_widened_as_the_gguf_package_does) {
  FileBytes file;
  // Beside the goldens, or where $NEMOTRON_GOLDENS says when the program runs on another machine.
  const char* elsewhere = std::getenv("NEMOTRON_GOLDENS");
  const std::string path =
      std::string(elsewhere ? elsewhere : NEMOTRON_GOLDEN_DIR) + "/gguf_blocks.json";
  REQUIRE(FileBytes::read(path, size_t(1) << 20, &file).ok());
  Json json;
  REQUIRE(Json::parse(file.text(), &json).ok());
  size_t served = 0;
  for (const Json& one : *json.array()) {
    const GgufType* type = gguf_type(uint32_t(*one.find("number")->integer()));
    REQUIRE(type && type->is_served());
    EXPECT_EQ(std::string(type->name), *one.find("type")->string());
    const std::string blocks = from_hex(*one.find("blocks")->string());
    const std::string expected = from_hex(*one.find("values")->string());
    const size_t count = blocks.size() / type->bytes;
    EXPECT_EQ(count * type->elements * sizeof(float), expected.size());
    std::vector<float> values(count * type->elements), right(values.size());
    std::memcpy(right.data(), expected.data(), expected.size());
    type->widen(reinterpret_cast<const uint8_t*>(blocks.data()), int64_t(count), values.data());
    for (size_t i = 0; i < values.size(); ++i) {
      // The order of two products may differ in the last bit.
      const float off = std::abs(values[i] - right[i]);
      if (off <= 2e-7f * std::abs(right[i])) continue;
      fail(__FILE__, __LINE__,
           std::string(type->name) + " [" + std::to_string(i) + "]: found " + show(values[i]) +
               ", expected " + show(right[i]));
      break;
    }
    ++served;
  }
  EXPECT_EQ(served, size_t(19));  // and F32
}

TEST(gguf_quantised_weights_are_read) {
  const TempDir dir;
  GgufWriter w = gguf_llama();
  w.integer("llama.embedding_length", 32).integer("llama.feed_forward_length", 64);
  w.integer("llama.block_count", 1);
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, uint32_t type) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    const GgufType* t = gguf_type(type);
    std::string bytes(size_t(n) / t->elements * t->bytes, '\x11');
    w.tensors.push_back({name, shape, type, bytes});
  };
  add("token_embd.weight", {20, 32}, 8);
  add("output_norm.weight", {32}, 0);
  add("blk.0.attn_norm.weight", {32}, 0);
  add("blk.0.ffn_norm.weight", {32}, 0);
  add("blk.0.attn_q.weight", {24, 32}, 2);
  add("blk.0.attn_k.weight", {12, 32}, 6);
  add("blk.0.attn_v.weight", {12, 32}, 20);
  add("blk.0.ffn_gate.weight", {64, 32}, 3);
  add("blk.0.ffn_up.weight", {64, 32}, 1);
  add("blk.0.ffn_down.weight", {32, 64}, 8);
  // 24 columns are no blocks of 32.
  add("blk.0.attn_output.weight", {32, 24}, 1);
  const Opened file = open_bytes(dir, w.bytes());
  EXPECT_OK(file.status);
  EXPECT(file.config.tied);
  const auto groups = packed_groups(*file.checkpoint, file.sources, file.config, Shard::whole());
  const auto widened = [&](WeightFormat wanted) {
    std::vector<std::string> all;
    for (const auto& [name, why] : widened_tensors(groups, *file.checkpoint, wanted)) {
      all.push_back(name.substr(name.rfind('.', name.rfind('.') - 1) + 1) + " " + why);
    }
    return all;
  };
  using Texts = std::vector<std::string>;
  const std::string gate = " it is in one matrix with blk.0.ffn_up.weight, which is F16",
                    parts = " parts of several types meet at row 24, no multiple of 16";
  EXPECT(widened(WeightFormat::stored) ==
         (Texts{"attn_q.weight" + parts, "attn_k.weight" + parts, "attn_v.weight" + parts,
                "ffn_gate.weight" + gate}));
  EXPECT(widened(WeightFormat::int4)[3] ==
         "attn_output.weight its rows are summed in stretches of 24 values, no multiple of 32");
  const StoredTensor& down = *file.sources.layers[0].down.weight;
  EXPECT_EQ(down.dtype_name, "Q8_0");
  EXPECT(down.dtype == DType::bf16);
  REQUIRE(file.checkpoint->fetch(down).ok());
  // A scale of 0x1111 as a half float, quants of 0x11.
  EXPECT_EQ(stored_value(down, 5), bf16_to_f32(f32_to_bf16(f16_to_f32(0x1111) * 17)));
}

// As Super-49B has them: 22 blocks of 128 columns, which 8 ranks and 4 would cut.
TEST(gguf_blocks_that_many_ranks_would_cut_stay_packed_on_few) {
  const TempDir dir;
  GgufWriter w = gguf_llama();
  w.integer("llama.embedding_length", 256).integer("llama.feed_forward_length", 2816);
  w.integer("llama.block_count", 1).integer("llama.attention.head_count", 8);
  w.integer("llama.attention.head_count_kv", 8).integer("llama.attention.key_length", 32);
  w.integer("llama.attention.value_length", 32).integer("llama.rope.dimension_count", 32);
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, uint32_t type) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    const GgufType* t = gguf_type(type);
    w.tensors.push_back({name, shape, type, std::string(size_t(n) / t->elements * t->bytes, 'a')});
  };
  add("token_embd.weight", {20, 256}, 12);
  for (const std::string norm : {"output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"}) {
    add(norm + ".weight", {256}, 0);
  }
  for (const std::string square : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    add("blk.0." + square + ".weight", {256, 256}, 1);
  }
  add("blk.0.ffn_gate.weight", {2816, 256}, 12);
  add("blk.0.ffn_up.weight", {2816, 256}, 12);
  add("blk.0.ffn_down.weight", {256, 2816}, 12);
  const Opened file = open_bytes(dir, w.bytes());
  REQUIRE_OK(file.status);
  for (const auto& [ranks, expected] :
       {std::pair(1, ""), std::pair(2, ""), std::pair(4, "each rank holds of its rows 704 values"),
        std::pair(8, "each rank holds of its rows 352 values")}) {
    const Shard shard{.rank = ranks - 1, .ranks = ranks};
    const auto groups = packed_groups(*file.checkpoint, file.sources, file.config, shard);
    std::string all;
    for (const auto& [name, why] :
         widened_tensors(groups, *file.checkpoint, WeightFormat::stored)) {
      all += name + " " + why + "\n";
    }
    EXPECT_EQ(all, *expected
                       ? "blk.0.ffn_down.weight " + std::string(expected) + ", no multiple of 128\n"
                       : "");
  }
}

TEST(gguf_rope_divisors) {
  const TempDir dir;
  GgufWriter w = whole_llama();
  w.tensors.push_back({"rope_freqs.weight", {3}, 0, raw(1.0f) + raw(2.0f) + raw(8.0f)});
  const Opened file = open_bytes(dir, w.bytes());
  REQUIRE(file.status.ok());
  RopeConfig plain = file.config.rope;
  plain.kind = RopeConfig::Kind::none;
  const auto base = rope_inv_freq(plain, 6), divided = rope_inv_freq(file.config.rope, 6);
  const float by[] = {1, 2, 8};
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(divided[i], base[i] / by[i]);
  EXPECT(file.sources.unused.empty());

  w.tensors.back() = {"rope_freqs.weight", {2}, 0, raw(1.0f) + raw(2.0f)};
  EXPECT_ERROR(open_bytes(dir, w.bytes()).status, "2 divisors; expected 3");
}

TEST(gguf_nemotron_gains_are_stored_whole) {
  const TempDir dir;
  GgufWriter w;
  w.text("general.architecture", "nemotron")
      .integer("nemotron.context_length", 128)
      .integer("nemotron.embedding_length", 8)
      .integer("nemotron.block_count", 1)
      .integer("nemotron.feed_forward_length", 12)
      .integer("nemotron.attention.head_count", 4)
      .integer("nemotron.attention.head_count_kv", 2)
      .integer("nemotron.attention.key_length", 12)
      .integer("nemotron.rope.dimension_count", 6)
      .real("nemotron.attention.layer_norm_epsilon", 1e-5f);
  RawTensors t;
  const auto vector = [](float value) { return f32_tensor({8}, std::vector<float>(8, value)); };
  for (const std::string norm : {"model.norm", "model.layers.0.input_layernorm",
                                 "model.layers.0.post_attention_layernorm"}) {
    t[norm + ".weight"] = vector(1.5f);
    t[norm + ".bias"] = vector(0.25f);
  }
  t["model.embed_tokens.weight"] = bf16_tensor({20, 8}, 1);
  t["lm_head.weight"] = bf16_tensor({20, 8}, 1);
  t["model.layers.0.self_attn.q_proj.weight"] = bf16_tensor({48, 8}, 1);
  t["model.layers.0.self_attn.k_proj.weight"] = bf16_tensor({24, 8}, 1);
  t["model.layers.0.self_attn.v_proj.weight"] = bf16_tensor({24, 8}, 1);
  t["model.layers.0.self_attn.o_proj.weight"] = bf16_tensor({8, 48}, 1);
  t["model.layers.0.mlp.up_proj.weight"] = bf16_tensor({12, 8}, 1);
  t["model.layers.0.mlp.down_proj.weight"] = bf16_tensor({8, 12}, 1);
  w.tensors = gguf_tensors(t, 0, 0);
  const Opened file = open_bytes(dir, w.bytes());
  EXPECT_OK(file.status);
  EXPECT_EQ(file.config.rotary_dim, 6);
  const StoredTensor* gain = file.checkpoint->find("model.norm.weight");
  REQUIRE(gain && file.checkpoint->fetch(*gain).ok());
  EXPECT_EQ(stored_value(*gain, 7), 0.5f);
  const StoredTensor* bias = file.checkpoint->find("model.norm.bias");
  REQUIRE(bias && file.checkpoint->fetch(*bias).ok());
  EXPECT_EQ(stored_value(*bias, 7), 0.25f);
}

TEST(gguf_deci_layers_differ) {
  const TempDir dir;
  GgufWriter w = gguf_llama();
  GgufWriter deci;
  deci.text("general.architecture", "deci")
      .integer("deci.context_length", 128)
      .integer("deci.embedding_length", 8)
      .integer("deci.block_count", 2)
      .integers("deci.feed_forward_length", {12, 0})
      .integers("deci.attention.head_count", {4, 4})
      .integers("deci.attention.head_count_kv", {2, 2})
      .integer("deci.attention.key_length", 6)
      .real("deci.attention.layer_norm_rms_epsilon", 1e-5f);
  RawTensors t = llama_tensors();
  for (const char* name :
       {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm"}) {
    t.erase("model.layers.1." + std::string(name) + ".weight");
  }
  deci.tensors = gguf_tensors(t, 4, 2);
  Opened file = open_bytes(dir, deci.bytes());
  EXPECT_OK(file.status);
  EXPECT(file.config.layers[0].ffn && !file.config.layers[1].ffn);

  std::erase_if(deci.tensors, [](const auto& t) { return t.name == "blk.0.ffn_up.weight"; });
  EXPECT_ERROR(open_bytes(dir, deci.bytes()).status,
               "tensor \"blk.0.ffn_up.weight\" is missing; deci.feed_forward_length of layer 0 "
               "asks for it");
  deci.tensors = gguf_tensors(t, 4, 2);

  deci.integers("deci.attention.head_count", {4, 0})
      .integers("deci.attention.head_count_kv", {2, 0});
  deci.integers("deci.feed_forward_length", {12, 12});
  file = open_bytes(dir, deci.bytes());
  EXPECT(!file.config.layers[1].attention);
  deci.integers("deci.attention.head_count", {4, 4});
  // A matrix in the place of attention; llama.cpp gives it the name of attention's last.
  deci.integers("deci.attention.head_count_kv", {2, 0});
  t = llama_tensors();
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    t.erase("model.layers.1.self_attn." + std::string(name) + ".weight");
  }
  t["model.layers.1.self_attn.o_proj.weight"] = bf16_tensor({8, 8}, 1);
  deci.tensors = gguf_tensors(t, 4, 2);
  file = open_bytes(dir, deci.bytes());
  EXPECT_OK(file.status);
  EXPECT(file.config.layers[1].linear_attention && !file.config.layers[1].attention);
  deci.integers("deci.attention.head_count_kv", {2, 3});
  EXPECT_ERROR(open_bytes(dir, deci.bytes()).status, "expected a divisor of 4");
  deci.integers("deci.attention.head_count_kv", {2});
  EXPECT_ERROR(open_bytes(dir, deci.bytes()).status, "expected 2, one a layer");
}

TEST(gguf_in_parts) {
  const TempDir dir;
  const GgufWriter all = whole_llama();
  GgufWriter first = gguf_llama(), second;
  const uint32_t half = uint32_t(all.tensors.size() / 2);
  first.tensors.assign(all.tensors.begin(), all.tensors.begin() + half);
  second.tensors.assign(all.tensors.begin() + half, all.tensors.end());
  for (GgufWriter* w : {&first, &second}) {
    w->raw_value("split.count", 2, raw(uint16_t(2)));
    w->raw_value("split.tensors.count", 5, raw(int32_t(all.tensors.size())));
  }
  first.raw_value("split.no", 2, raw(uint16_t(0)));
  second.raw_value("split.no", 2, raw(uint16_t(1)));
  dir.write("m-00001-of-00002.gguf", first.bytes());
  EXPECT_ERROR(open(dir.file("m-00001-of-00002.gguf")).status,
               "m-00002-of-00002.gguf: No such file");
  dir.write("m-00002-of-00002.gguf", second.bytes());
  const Opened parts = open(dir.file("m-00001-of-00002.gguf"));
  EXPECT_OK(parts.status);
  const Opened whole = open_bytes(dir, all.bytes());
  expect_same_values(*whole.checkpoint, *parts.checkpoint);

  EXPECT_ERROR(open(dir.file("m-00002-of-00002.gguf")).status, "name the first");
  dir.write("other.gguf", first.bytes());
  EXPECT_ERROR(open(dir.file("other.gguf")).status, "-00001-of-00002.gguf");
  second.tensors.pop_back();
  dir.write("m-00002-of-00002.gguf", second.bytes());
  EXPECT_ERROR(open(dir.file("m-00001-of-00002.gguf")).status, "tensors; expected");
}

TEST(gguf_errors_name_what_is_wrong) {
  const TempDir dir;
  struct Wrong {
    const char* expected;
    std::function<void(GgufWriter*)> change;
  };
  const Wrong cases[] = {
      {"GGUF version 1", [](GgufWriter* w) { w->version = 1; }},
      {"big-endian", [](GgufWriter* w) { w->version = 0x03000000; }},
      {"general.architecture is \"qwen2\"; served: \"llama\"",
       [](GgufWriter* w) { w->text("general.architecture", "qwen2"); }},
      {"general.architecture is missing", [](GgufWriter* w) { w->drop("general.architecture"); }},
      {"llama.block_count is missing", [](GgufWriter* w) { w->drop("llama.block_count"); }},
      {"llama.block_count is 4294967295; expected 1 to 4096",
       [](GgufWriter* w) { w->integer("llama.block_count", UINT32_MAX); }},
      {"llama.context_length is no integer",
       [](GgufWriter* w) { w->text("llama.context_length", "x"); }},
      {"rope.scaling.type is \"yarn\"",
       [](GgufWriter* w) { w->text("llama.rope.scaling.type", "yarn"); }},
      {"llama.rope.scaling.factor is not 1",
       [](GgufWriter* w) { w->real("llama.rope.scaling.factor", 4); }},
      {"tokenizer.ggml.tokens has 21 tokens; expected at most 20",
       [](GgufWriter* w) { w->texts("tokenizer.ggml.tokens", std::vector<std::string>(21, "a")); }},
      {"llama.attention.head_count is 3; expected a multiple of llama.attention.head_count_kv, "
       "which is 2",
       [](GgufWriter* w) { w->integer("llama.attention.head_count", 3); }},
      {"llama.context_length is -1; expected an integer from 1",
       [](GgufWriter* w) { w->raw_value("llama.context_length", 5, raw(int32_t(-1))); }},
      {"llama.attention.layer_norm_rms_epsilon is",
       [](GgufWriter* w) { w->real("llama.attention.layer_norm_rms_epsilon", -1); }},
      {"llama.rope.dimension_count / llama.attention.key_length is not 1",
       [](GgufWriter* w) { w->integer("llama.rope.dimension_count", 4); }},
      {"general.sampling.top_p is 1.5; expected a number from 0 to 1",
       [](GgufWriter* w) { w->real("general.sampling.top_p", 1.5f); }},
      {"general.sampling.temp is \"hot\"; expected a number",
       [](GgufWriter* w) { w->text("general.sampling.temp", "hot"); }},
      {"tokenizer.ggml.eos_token_id has -1; expected token ids",
       [](GgufWriter* w) { w->raw_value("tokenizer.ggml.eos_token_id", 5, raw(int32_t(-1))); }},
      {"tensor \"blk.1.attn_norm.weight\" is of layer 1; expected layers below 1, "
       "llama.block_count",
       [](GgufWriter* w) { w->integer("llama.block_count", 1); }},
      {"value_length is not", [](GgufWriter* w) { w->integer("llama.attention.value_length", 8); }},
      {"the type is number 99; served: F32, F16", [](GgufWriter* w) { w->tensors[3].type = 99; }},
      {"the type is Q4_0_4_4; served: F32, F16", [](GgufWriter* w) { w->tensors[3].type = 31; }},
      {"the type is NVFP4; served: F32, F16", [](GgufWriter* w) { w->tensors[3].type = 40; }},
      {"the type is Q2_0; served: F32, F16", [](GgufWriter* w) { w->tensors[3].type = 42; }},
      {"a row has 8 elements; expected a multiple of 256, a block of Q4_K",
       [](GgufWriter* w) { w->tensors[0].type = 12; }},
      {"it stands twice", [](GgufWriter* w) { w->tensors.push_back(w->tensors[0]); }},
      {"dimensions; expected 1 to 4", [](GgufWriter* w) { w->tensors[0].shape.clear(); }},
      {"a dimension is 0", [](GgufWriter* w) { w->tensors[0].shape[0] = 0; }},
      {"product that fits 64 bits",
       [](GgufWriter* w) {
         w->tensors[0].shape = {1 << 30, 1 << 30, 64};
       }},
      {"the file is truncated", [](GgufWriter* w) { w->tensors.back().shape[0] = 4000; }},
      {"tensor \"blk.1.attn_q.weight\" is missing",
       [](GgufWriter* w) {
         std::erase_if(w->tensors, [](const auto& t) { return t.name == "blk.1.attn_q.weight"; });
       }},
      {"tensor \"output_norm.weight\" is missing",
       [](GgufWriter* w) {
         std::erase_if(w->tensors, [](const auto& t) { return t.name == "output_norm.weight"; });
       }},
      {"general.alignment is 33; expected a power of two",
       [](GgufWriter* w) { w->integer("general.alignment", 33); }},
      {"general.name has the unknown type 13",
       [](GgufWriter* w) { w->raw_value("general.name", 13, ""); }},
      {"lists in lists",
       [](GgufWriter* w) {
         std::string list = raw(uint32_t(4)) + raw(uint64_t(0));
         for (int i = 0; i < 8; ++i) list = raw(uint32_t(9)) + raw(uint64_t(1)) + list;
         w->raw_value("deep", 9, list);
       }},
      {"tensor \"blk.0.attn_q.bias\" is F32 [24]; expected no .bias",
       [](GgufWriter* w) {
         w->tensors.push_back({"blk.0.attn_q.bias", {24}, 0, std::string(96, '\0')});
       }},
  };
  for (const Wrong& wrong : cases) {
    GgufWriter w = whole_llama();
    wrong.change(&w);
    const Status s = open_bytes(dir, w.bytes()).status;
    EXPECT_ERROR(s, wrong.expected);
    EXPECT_ERROR(s, "m.gguf");
    // What is named is in the file.
    for (const char* other : {"config.json", "model.layers", "num_", "_proj"}) {
      EXPECT(s.message().find(other) == std::string::npos);
    }
  }
}

TEST(gguf_cut_anywhere_is_an_error) {
  const TempDir dir;
  const std::string bytes = whole_llama().bytes();
  for (size_t size = 0; size < bytes.size() - 32; size += size < 1200 ? 7 : 61) {
    const Status s = open_bytes(dir, bytes.substr(0, size)).status;
    if (!s.ok() && s.message().find("m.gguf") != std::string::npos) continue;
    fail(__FILE__, __LINE__, "cut at " + std::to_string(size) + ": " + s.message());
  }
}

}  // namespace
}  // namespace nemotron
