#include "models/config.h"

#include <cmath>

#include "../check.h"
#include "fixture.h"

namespace nemotron {
namespace {

using test::llama_config;
using test::Members;
using test::TempDir;

Status read(const Members& config, ModelConfig* out, std::vector<int32_t> reward_rows = {},
            const std::string& generation = "", const std::string& hf_quant = "") {
  TempDir dir;
  dir.write("config.json", config.text());
  if (!generation.empty()) dir.write("generation_config.json", generation);
  if (!hf_quant.empty()) dir.write("hf_quant_config.json", hf_quant);
  return read_model_config(dir.path(), reward_rows, out);
}
Status read(const Members& config) {
  ModelConfig out;
  return read(config, &out);
}

TEST(config_reads_every_field) {
  ModelConfig c;
  REQUIRE_OK(read(llama_config(), &c));
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.hidden, 8);
  EXPECT_EQ(c.vocab, 20);
  EXPECT_EQ(c.q_heads, 4);
  EXPECT_EQ(c.head_dim, 6);  // not 8 / 4
  EXPECT_EQ(c.max_position, 128);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  EXPECT(!c.tied);
  EXPECT_EQ(c.rope.theta, 500000.0);
  EXPECT(c.rope.kind == RopeConfig::Kind::none);
  REQUIRE_EQ(c.layers.size(), size_t(2));
  EXPECT(c.layers[1].attention && c.layers[1].ffn);
  EXPECT_EQ(c.layers[1].kv_heads, 2);
  EXPECT_EQ(c.layers[1].intermediate, 12);
  EXPECT_EQ(c.kv_layers(), 2);
  EXPECT_EQ(c.kv_heads(), 2);
  EXPECT_EQ(c.max_intermediate(), 12);
  EXPECT(c.dtype == DType::bf16);
  EXPECT(c.quant == QuantKind::none);
  EXPECT(c.reward.kind == RewardHead::Kind::none);
  EXPECT_EQ(c.bos_id, 1);
  EXPECT(c.eos_ids == std::vector<int32_t>{2});
}

TEST(config_defaults_are_those_of_transformers) {
  ModelConfig c;
  Members m = llama_config();
  for (const char* name :
       {"num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
        "tie_word_embeddings", "bos_token_id", "eos_token_id", "torch_dtype", "model_type"}) {
    m.drop(name);
  }
  REQUIRE_OK(read(m.set("head_dim", "null"), &c));
  EXPECT_EQ(c.kv_heads(), 4);
  EXPECT_EQ(c.head_dim, 2);
  EXPECT_EQ(c.max_position, 2048);
  EXPECT_EQ(c.norm_eps, 1e-6f);
  EXPECT_EQ(c.rope.theta, 10000.0);
  EXPECT(c.eos_ids.empty());
  EXPECT_EQ(c.bos_id, -1);
}

TEST(config_eos_is_the_union) {
  ModelConfig c;
  REQUIRE_OK(read(llama_config().set("eos_token_id", "[3, 9]"), &c, {},
                  R"({"eos_token_id": [9, 11], "bos_token_id": 7, "do_sample": false})"));
  EXPECT(c.eos_ids == (std::vector<int32_t>{3, 9, 11}));
  EXPECT_EQ(c.bos_id, 1);
  // Beyond the vocabulary of 20: can never be drawn.
  REQUIRE_OK(read(llama_config().set("eos_token_id", "128009"), &c));
  EXPECT(c.eos_ids.empty());
  EXPECT_ERROR(read(llama_config().set("eos_token_id", "\"</s>\"")),
               "config.json: \"eos_token_id\" has \"</s>\"; expected token ids");
  EXPECT_ERROR(read(llama_config().set("eos_token_id", "[3, -1]"), &c),
               "config.json: \"eos_token_id\" has -1; expected token ids");
  EXPECT_ERROR(read(llama_config().set("bos_token_id", "-1"), &c),
               "config.json: \"bos_token_id\" has -1; expected token ids");
  EXPECT_ERROR(read(llama_config(), &c, {}, "[1]"),
               "generation_config.json: found an array, expected an object");
  EXPECT_ERROR(read(llama_config(), &c, {}, "{"), "generation_config.json: line 1, column 2");
}

TEST(config_that_links_to_nothing_is_not_a_config_that_is_absent) {
  for (const char* name : {"generation_config.json", "hf_quant_config.json"}) {
    TempDir dir;
    dir.write("config.json", llama_config().text());
    std::filesystem::create_symlink("lost", dir.file(name));
    ModelConfig out;
    EXPECT_ERROR(read_model_config(dir.path(), {}, &out),
                 std::string(name) + ": it links to nothing");
  }
}

TEST(config_reads_the_defaults_of_sampling) {
  ModelConfig c;
  REQUIRE_OK(read(llama_config(), &c));
  EXPECT(!c.generation.temperature && !c.generation.top_p && !c.generation.top_k);
  EXPECT(!c.generation.min_p && !c.generation.repetition_penalty && !c.generation.greedy);
  REQUIRE_OK(read(llama_config(), &c, {},
                  R"({"do_sample": false, "temperature": 0.6, "top_p": 0.95, "top_k": -1,
                      "min_p": 0.05, "repetition_penalty": 1.1})"));
  EXPECT(c.generation.temperature == 0.6 && c.generation.top_p == 0.95);
  EXPECT(c.generation.top_k == -1 && c.generation.repetition_penalty == 1.1);
  EXPECT(c.generation.min_p == 0.05);
  EXPECT(c.generation.greedy);
  EXPECT_ERROR(
      read(llama_config(), &c, {}, R"({"temperature": -1})"),
      "generation_config.json: \"temperature\" is -1; expected a number from 0 to 1000000");
  EXPECT_ERROR(read(llama_config(), &c, {}, R"({"top_k": "all"})"),
               "generation_config.json: \"top_k\" is \"all\"; expected an integer from -1 to");
  EXPECT_ERROR(read(llama_config(), &c, {}, R"({"do_sample": 1})"),
               "generation_config.json: \"do_sample\" is 1; expected true or false");
}

TEST(config_refuses_architectures_by_name) {
  for (const std::string name : {"MistralForCausalLM", "NemotronHForCausalLM", "LlamaModel"}) {
    const Status s = read(llama_config().set("architectures", "[\"" + name + "\"]"));
    EXPECT(s.code() == Code::unsupported);
    EXPECT_ERROR(s, "config.json: architecture \"" + name +
                        "\" is not served; served: \"LlamaForCausalLM\"");
  }
  EXPECT_ERROR(read(llama_config().drop("architectures")), "\"architectures\" has 0 names");
  EXPECT_ERROR(read(llama_config().set("architectures", "\"LlamaForCausalLM\"")),
               "\"architectures\" is \"LlamaForCausalLM\"; expected an array of strings");
  EXPECT_ERROR(read(llama_config().set("model_type", "\"mistral\"")),
               "\"model_type\" is \"mistral\"");
}

TEST(config_refuses_what_would_change_the_numbers) {
  const std::pair<const char*, const char*> fields[] = {
      {"attention_bias", "true"},
      {"mlp_bias", "true"},
      {"hidden_act", "\"gelu\""},
      {"sliding_window", "4096"},
      {"pretraining_tp", "2"},
      {"partial_rotary_factor", "0.5"},
      {"use_bidirectional_attention", "true"},
      {"layer_types", "[\"full_attention\", \"sliding_attention\"]"},
      {"torch_dtype", "\"float64\""}};
  for (const auto& [name, value] : fields) {
    const Status s = read(llama_config().set(name, value));
    EXPECT(s.code() == Code::unsupported);
    EXPECT_ERROR(s, std::string("config.json: \"") + name + "\"");
    EXPECT_ERROR(s, "served: ");
  }
  EXPECT_OK(read(llama_config()
                     .set("attention_bias", "false")
                     .set("sliding_window", "null")
                     .set("pretraining_tp", "1")
                     .set("layer_types", "[\"full_attention\", \"full_attention\"]")));
}

TEST(config_reads_nemotron_4) {
  ModelConfig c;
  REQUIRE_OK(read(test::nemotron_config(), &c));
  EXPECT(c.norm == Norm::Kind::layer);
  EXPECT(c.norm_gain_less_one);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  EXPECT_EQ(c.rotary_dim, 6);
  EXPECT(c.layers[1].activation == Activation::relu2);
  EXPECT_EQ(c.layers[1].kv_heads, 2);
  // The names of the conversions of the 340B, and what a file leaves out.
  using test::nemotron_config;
  REQUIRE_OK(read(nemotron_config()
                      .drop("partial_rotary_factor")
                      .set("rope_percent", "0.5")
                      .set("rope_percentage", "0.5")
                      .drop("norm_eps")
                      .set("layer_norm_eps", "0.25"),
                  &c));
  EXPECT_EQ(c.rotary_dim, 6);
  EXPECT_EQ(c.norm_eps, 0.25f);
  REQUIRE_OK(read(nemotron_config().drop("partial_rotary_factor").drop("norm_eps"), &c));
  EXPECT_EQ(c.rotary_dim, 6);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  REQUIRE_OK(read(nemotron_config()
                      .drop("partial_rotary_factor")
                      .drop("rope_theta")
                      .set("rope_parameters", R"({"rope_type": "default", "rope_theta": 12.0,
                                                   "partial_rotary_factor": 0.34})"),
                  &c));
  EXPECT_EQ(c.rotary_dim, 4);
  EXPECT_EQ(c.rope.theta, 12.0);
  REQUIRE_OK(read(nemotron_config()
                      .set("architectures", "[\"NemotronForSequenceClassification\"]")
                      .set("num_labels", "9"),
                  &c));
  EXPECT_EQ(c.reward.labels.size(), size_t(9));
  EXPECT_ERROR(read(nemotron_config().set("rope_percent", "0.25")),
               "\"partial_rotary_factor\" and \"rope_percent\" disagree");
  EXPECT_ERROR(read(nemotron_config().set("partial_rotary_factor", "0.25")),
               "times \"head_dim\" is 3; expected an even number above 0");
  EXPECT_ERROR(read(nemotron_config().set("partial_rotary_factor", "0")), "is 0; expected an even");
  EXPECT_ERROR(read(nemotron_config().set("hidden_act", "\"silu\"")),
               "\"hidden_act\" is \"silu\"; served: \"relu2\"");
  EXPECT_ERROR(read(nemotron_config().set("attention_bias", "true")), "\"attention_bias\" is true");
}

std::string deci_blocks(const std::string& attention, const std::string& ffn) {
  return "[{\"attention\": " + attention + ", \"ffn\": " + ffn + "}]";
}

TEST(config_reads_deci) {
  using test::deci_config;
  ModelConfig c;
  REQUIRE_OK(read(deci_config(), &c));
  REQUIRE_EQ(c.layers.size(), size_t(2));
  EXPECT(c.layers[0].attention && c.layers[0].ffn && !c.layers[1].attention && c.layers[1].ffn);
  EXPECT_EQ(c.layers[0].kv_heads, 2);
  EXPECT_EQ(c.layers[0].intermediate, 256);  // 2/3 * 2.625 * 8 = 14
  EXPECT_EQ(c.layers[1].intermediate, 512);  // 266
  EXPECT_EQ(c.kv_layers(), 1);
  EXPECT_EQ(c.rotary_dim, c.head_dim);

  const auto with = [](const std::string& attention, const std::string& ffn) {
    return read(deci_config()
                    .set("num_hidden_layers", "1")
                    .set("block_configs", deci_blocks(attention, ffn)));
  };
  const std::string a = R"({"n_heads_in_group": 4})", f = R"({"ffn_mult": 1.0})";
  EXPECT_OK(with(a, f));
  EXPECT_OK(with(a, R"({"no_op": true, "ffn_mult": null})"));
  EXPECT_OK(with(a, R"({"intermediate_size": 12})"));
  const std::string here = "config.json: block_configs[0]";
  EXPECT_ERROR(with(R"({"n_heads_in_group": 3})", f),
               here + ": attention: \"n_heads_in_group\" is 3; expected a divisor of 4");
  EXPECT_ERROR(with("{}", f), here + ": attention: \"n_heads_in_group\" is missing");
  EXPECT_ERROR(with(a, "{}"), here + ": ffn: \"ffn_mult\" is missing");
  EXPECT_ERROR(with(a, R"({"ffn_mult": 1e-6})"), here + ": ffn: \"ffn_mult\" is 0.000001");
  EXPECT_ERROR(with(a, "7"), here + ": ffn: found 7, expected an object");
  EXPECT_ERROR(with(a, "null"), here + ": \"ffn\" is missing");
  for (const std::string part :
       {"\"window_length\": 8", "\"num_sink_tokens\": 1", "\"unshifted_sink\": true"}) {
    const Status s = with("{\"n_heads_in_group\": 2, " + part + "}", f);
    EXPECT(s.code() == Code::unsupported);
    EXPECT_ERROR(s, here + ": attention: " + part.substr(0, part.find(':')) + " is");
  }
  EXPECT_ERROR(with(R"({"no_op": true, "replace_with_linear": true})", f),
               here + ": attention: \"no_op\" and \"replace_with_linear\" are both true");
  EXPECT_ERROR(with(R"({"replace_with_linear": true})", f), "no layer of \"block_configs\" has");
  REQUIRE_OK(read(deci_config().set("block_configs", "[" + std::string(R"({
      "attention": {"replace_with_linear": true}, "ffn": {"replace_with_linear": true}}, {
      "attention": {"n_heads_in_group": 4}, "ffn": {"no_op": true}})") +
                                                         "]"),
                  &c));
  EXPECT(c.layers[0].linear_attention && c.layers[0].linear_ffn);
  EXPECT(!c.layers[0].attention && !c.layers[0].ffn && c.layers[1].attention && !c.layers[1].ffn);
  EXPECT(!c.layers[1].linear_attention && !c.layers[1].linear_ffn);
  EXPECT_EQ(c.layers[1].kv_heads, 1);
  EXPECT_ERROR(with(R"({"no_op": true})", f), "no layer of \"block_configs\" has attention");
  EXPECT_ERROR(read(deci_config().set("num_hidden_layers", "3")),
               "\"block_configs\" is a list of 2; expected a list of 3");
  EXPECT_ERROR(read(deci_config().drop("block_configs")), "\"block_configs\" is missing");
  EXPECT_ERROR(read(deci_config().set("block_configs", "{}")), "\"block_configs\" is ");
}

TEST(config_names_field_found_and_expected) {
  const auto with = [](const char* name, const char* value) {
    return read(llama_config().set(name, value));
  };
  EXPECT_ERROR(with("hidden_size", "\"big\""),
               "config.json: \"hidden_size\" is \"big\"; expected an integer from 1 to 262144");
  EXPECT_ERROR(with("hidden_size", "0"), "\"hidden_size\" is 0");
  EXPECT_ERROR(with("hidden_size", "-8"), "\"hidden_size\" is -8");
  EXPECT_ERROR(with("hidden_size", "8.5"), "\"hidden_size\" is 8.5");
  EXPECT_ERROR(with("vocab_size", "9223372036854775807"), "\"vocab_size\" is 9223372036854775807");
  EXPECT_ERROR(with("vocab_size", "99999999999999999999"), "\"vocab_size\" is 1e+20");
  EXPECT_ERROR(with("num_hidden_layers", "1000000000"), "\"num_hidden_layers\" is 1000000000");
  EXPECT_ERROR(
      with("num_attention_heads", "3"),
      "\"num_attention_heads\" is 3; expected a multiple of \"num_key_value_heads\", which is 2");
  EXPECT_ERROR(with("head_dim", "5"), "\"head_dim\" is 5; expected an even number");
  EXPECT_ERROR(with("rms_norm_eps", "-1"), "\"rms_norm_eps\" is -1; expected a number from 0 to 1");
  EXPECT_ERROR(with("tie_word_embeddings", "1"),
               "\"tie_word_embeddings\" is 1; expected true or false");
  EXPECT_ERROR(read(llama_config().drop("vocab_size")),
               "\"vocab_size\" is missing; expected an integer");
  EXPECT_ERROR(read(llama_config().drop("head_dim").set("hidden_size", "10")),
               "\"hidden_size\" / \"num_attention_heads\" is 10 / 4");
  TempDir dir;
  ModelConfig c;
  const Status missing = read_model_config(dir.path(), {}, &c);
  EXPECT(missing.code() == Code::not_found);
  EXPECT_ERROR(missing, dir.file("config.json"));
  dir.write("config.json", "[]");
  EXPECT_ERROR(read_model_config(dir.path(), {}, &c),
               "config.json: found an array, expected an object");
  dir.write("config.json", "");
  EXPECT_ERROR(read_model_config(dir.path(), {}, &c), "config.json: line 1, column 1");
}

// --- rope ---

const char* kLlama3 =
    R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192})";

TEST(config_rope_in_all_spellings) {
  const std::string inside = kLlama3;
  const std::string parameters = "{\"rope_theta\": 500000.0, " + inside.substr(1);
  std::string legacy = inside;
  legacy.replace(legacy.find("rope_type"), 9, "type");
  for (const Members& m :
       {llama_config().set("rope_scaling", inside), llama_config().set("rope_scaling", legacy),
        llama_config().drop("rope_theta").set("rope_parameters", parameters),
        llama_config().set("rope_scaling", inside).set("rope_parameters", parameters)}) {
    ModelConfig c;
    REQUIRE_OK(read(m, &c));
    EXPECT(c.rope.kind == RopeConfig::Kind::llama3);
    EXPECT_EQ(c.rope.theta, 500000.0);
    EXPECT_EQ(c.rope.factor, 8.0);
    EXPECT_EQ(c.rope.high_freq_factor, 4.0);
    EXPECT_EQ(c.rope.original_max_position, 8192);
  }
  ModelConfig c;
  REQUIRE_OK(read(llama_config()
                      .drop("rope_theta")
                      .set("rope_parameters", R"({"rope_type": "default", "rope_theta": 1234})"),
                  &c));
  EXPECT(c.rope.kind == RopeConfig::Kind::none);
  EXPECT_EQ(c.rope.theta, 1234.0);
  REQUIRE_OK(read(llama_config().set("rope_scaling", "null"), &c));
  EXPECT(c.rope.kind == RopeConfig::Kind::none);
}

TEST(config_yarn) {
  const auto with = [](const std::string& more, ModelConfig* c) {
    return read(llama_config().set("rope_scaling",
                                   "{\"rope_type\": \"yarn\", \"factor\": 4.0" + more + "}"),
                c);
  };
  const std::string original = ", \"original_max_position_embeddings\": 32";
  ModelConfig c;
  REQUIRE_OK(with(original, &c));
  EXPECT(c.rope.kind == RopeConfig::Kind::yarn);
  EXPECT_EQ(c.rope.attention_factor, 0.1 * std::log(4.0) + 1);
  REQUIRE_OK(with(original + ", \"attention_factor\": 1.25, \"beta_fast\": 4", &c));
  EXPECT_EQ(c.rope.attention_factor, 1.25);
  EXPECT_EQ(c.rope.beta_fast, 4.0);
  EXPECT_ERROR(with("", &c), "rope_scaling: \"original_max_position_embeddings\" is missing");
  EXPECT_ERROR(with(original + ", \"beta_slow\": 40", &c), "\"beta_fast\" is not above");
  EXPECT_ERROR(with(original + ", \"mscale\": 1.0", &c), "\"mscale\" is set");
}

TEST(config_rope_refusals) {
  for (const std::string type : {"linear", "dynamic", "longrope"}) {
    const Status s = read(
        llama_config().set("rope_scaling", "{\"rope_type\": \"" + type + "\", \"factor\": 2.0}"));
    EXPECT(s.code() == Code::unsupported);
    EXPECT_ERROR(
        s, "config.json: rope_scaling: \"rope_type\" is \"" + type + "\"; served: \"llama3\"");
  }
  EXPECT_ERROR(read(llama_config().set("rope_scaling", "{\"factor\": 2.0}")),
               "\"rope_type\" is missing");
  EXPECT_ERROR(read(llama_config().set("rope_scaling", "{\"rope_type\": \"llama3\"}")),
               "rope_scaling: \"factor\" is missing");
  EXPECT_ERROR(read(llama_config().set("rope_scaling", "8")),
               "rope_scaling: found 8, expected an object");
  std::string bad = kLlama3;
  bad.replace(bad.find("4.0"), 3, "1.0");
  EXPECT_ERROR(read(llama_config().set("rope_scaling", bad)), "\"high_freq_factor\" is not above");
  EXPECT_ERROR(read(llama_config()
                        .set("rope_scaling", kLlama3)
                        .set("rope_parameters", "{\"rope_theta\": 1e4}")),
               "\"rope_scaling\" and \"rope_parameters\" disagree");
}

TEST(config_rope_llama3_frequencies) {
  ModelConfig c;
  REQUIRE_OK(read(llama_config().set("head_dim", "128").set("rope_scaling", kLlama3), &c));
  const std::vector<float> f = rope_inv_freq(c.rope, c.rotary_dim);
  REQUIRE_EQ(f.size(), size_t(64));
  const std::pair<int, double> golden[] = {{0, 1.0},
                                           {1, 0.8146172338565447},
                                           {28, 0.003211445994752591},
                                           {29, 0.002166570763503359},
                                           {30, 0.0013718935677611381},
                                           {34, 0.0001785078127679964},
                                           {35, 9.556212353964683e-05},
                                           {63, 3.068925988914511e-07}};
  for (const auto& [i, want] : golden) EXPECT_NEAR(f[size_t(i)] / want, 1.0, 1e-7);
  int kept = 0, divided = 0;
  for (size_t i = 0; i < 64; ++i) {
    const double plain = std::pow(500000.0, -2.0 * double(i) / 128);
    kept += std::fabs(f[i] / plain - 1) < 1e-6;
    divided += std::fabs(f[i] / plain * 8 - 1) < 1e-6;
  }
  EXPECT_EQ(kept, 29);
  EXPECT_EQ(divided, 29);
}

// --- reward ---

TEST(config_reward_heads) {
  ModelConfig c;
  REQUIRE_OK(read(llama_config(), &c, {0, 19}));
  EXPECT(c.reward.kind == RewardHead::Kind::lm_head_rows);
  EXPECT(c.reward.vocab_ids == (std::vector<int32_t>{0, 19}));
  EXPECT_EQ(c.reward.outputs(), 2);
  EXPECT_ERROR(read(llama_config(), &c, {0, 20}), "a reward row is 20; expected 0 to 19, since");
  EXPECT_ERROR(read(llama_config(), &c, {-1}), "a reward row is -1; expected 0 to 19");

  Members m = llama_config().set("architectures", "[\"LlamaForSequenceClassification\"]");
  REQUIRE_OK(read(m, &c));
  EXPECT(c.reward.kind == RewardHead::Kind::classification);
  EXPECT(c.reward.labels == (std::vector<std::string>{"LABEL_0", "LABEL_1"}));
  REQUIRE_OK(read(m.set("id2label", R"({"1": "correctness", "0": "helpfulness", "2": "c"})"), &c));
  EXPECT(c.reward.labels == (std::vector<std::string>{"helpfulness", "correctness", "c"}));
  EXPECT_ERROR(read(m, &c, {0}),
               "reward rows are set, but the architecture is LlamaForSequenceClassification");
  EXPECT_ERROR(read(m.set("id2label", R"({"0": "a", "2": "b"})")),
               "\"id2label\" has \"2\": \"b\"; expected a label for each of 0 to 1");
  EXPECT_ERROR(read(m.set("id2label", R"({"0": 5})")), "\"id2label\" has \"0\": 5");
  EXPECT_ERROR(read(m.set("id2label", R"({"00": "a", "0": "b"})")), "\"id2label\" has");
  EXPECT_ERROR(read(m.set("id2label", "{}")),
               "\"id2label\" is an object; expected an object of 1 to");
}

// --- quantisation ---

const char* kCompressed = R"({"quant_method": "compressed-tensors", "format": "float-quantized",
  "quantization_status": "compressed", "global_compression_ratio": 1.5, "kv_cache_scheme": null,
  "config_groups": {"group_0": {"targets": ["Linear"], "output_activations": null,
    "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true,
                "dynamic": false, "group_size": null, "block_structure": null, "observer": "minmax"},
    "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": true,
                "dynamic": true, "group_size": null}}},
  "ignore": ["lm_head", "re:.*layers\\.0\\..*"]})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? "" : text.replace(at, from.size(), to);
}

TEST(config_modelopt_fp8) {
  ModelConfig c;
  const std::string file = R"({"producer": {"name": "modelopt", "version": "0.27"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": null, "exclude_modules": ["lm_head", "model.layers.0*"]}})";
  REQUIRE_OK(read(llama_config(), &c, {}, "", file));
  EXPECT(c.quant == QuantKind::modelopt_fp8);
  EXPECT(c.quant_ignore == (std::vector<std::string>{"lm_head", "model.layers.0*"}));
  EXPECT(!c.kv_scales);
  REQUIRE_OK(read(llama_config(), &c, {}, "", replaced(file, "_algo\": null", "_algo\": \"FP8\"")));
  EXPECT(c.kv_scales);

  const std::string block =
      R"({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"],
    "kv_cache_scheme": {"dynamic": false, "num_bits": 8, "type": "float"}})";
  REQUIRE_OK(read(llama_config().set("quantization_config", block), &c));
  EXPECT(c.quant == QuantKind::modelopt_fp8);
  EXPECT(c.kv_scales);
  REQUIRE_OK(read(
      llama_config().set("quantization_config",
                         R"({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}})"),
      &c));
  EXPECT(c.quant == QuantKind::modelopt_fp8);

  Status s = read(llama_config(), &c, {}, "", replaced(file, "\"FP8\"", "\"NVFP4\""));
  EXPECT(s.code() == Code::unsupported);
  EXPECT_ERROR(s, "hf_quant_config.json: quantization: \"quant_algo\" is \"NVFP4\"; served: FP8");
  s = read(llama_config(), &c, {}, "", replaced(file, "_algo\": null", "_algo\": \"INT8\""));
  EXPECT_ERROR(s, "\"kv_cache_quant_algo\" is \"INT8\"");
  EXPECT_ERROR(read(llama_config(), &c, {}, "", "{}"),
               "hf_quant_config.json: \"quantization\" is missing");
}

TEST(config_compressed_tensors_fp8) {
  ModelConfig c;
  for (const char* name : {"quantization_config", "compression_config"}) {
    REQUIRE_OK(read(llama_config().set(name, kCompressed), &c));
    EXPECT(c.quant == QuantKind::compressed_fp8);
    EXPECT(c.quant_ignore == (std::vector<std::string>{"lm_head", "re:.*layers\\.0\\..*"}));
  }
  const auto with = [](const char* from, const char* to) {
    return read(llama_config().set("quantization_config", replaced(kCompressed, from, to)));
  };
  // Static per tensor, and weights alone.
  EXPECT_OK(with("\"strategy\": \"channel\"", "\"strategy\": \"tensor\""));
  EXPECT_OK(with("\"strategy\": \"token\", \"symmetric\": true,\n                \"dynamic\": true",
                 "\"strategy\": \"tensor\", \"symmetric\": true, \"dynamic\": false"));
  EXPECT_ERROR(
      with("\"num_bits\": 8", "\"num_bits\": 4"),
      "config.json: quantization_config: config_groups: \"group_0\": weights: 4-bit float; served");
  EXPECT_ERROR(with("\"type\": \"float\"", "\"type\": \"int\""), "8-bit int");
  EXPECT_ERROR(with("\"strategy\": \"channel\"", "\"strategy\": \"block\""), "strategy \"block\"");
  EXPECT_ERROR(with("\"symmetric\": true", "\"symmetric\": false"), "asymmetric");
  EXPECT_ERROR(with("\"group_size\": null", "\"group_size\": 128"), "\"group_size\" is set");
  EXPECT_OK(with("\"config_groups\"", "\"transform_config\": {}, \"config_groups\""));
  EXPECT_ERROR(with("\"config_groups\"", "\"transform_config\": {\"a\": 1}, \"config_groups\""),
               "\"transform_config\" is set");
  EXPECT_ERROR(with("float-quantized", "pack-quantized"), "\"format\" is \"pack-quantized\"");
  EXPECT_ERROR(with("[\"Linear\"]", "[\"Embedding\"]"), "\"targets\" has \"Embedding\"");
  EXPECT_ERROR(with("\"output_activations\": null", "\"output_activations\": {}"),
               "\"output_activations\" is set");
  EXPECT_ERROR(with("\"config_groups\": {\"group_0\"", "\"config_groups\": 3, \"x\": {\"group_0\""),
               "\"config_groups\" is 3; expected an object");
}

TEST(config_vllm_fp8) {
  const std::string block = R"({"quant_method": "fp8", "activation_scheme": "dynamic",
    "ignored_layers": ["lm_head"]})";
  const auto with = [&](const char* from, const char* to, ModelConfig* c) {
    return read(llama_config().set("quantization_config", replaced(block, from, to)), c);
  };
  ModelConfig c;
  REQUIRE_OK(with("", "", &c));
  EXPECT(c.quant == QuantKind::vllm_fp8);
  EXPECT(c.quant_ignore == (std::vector<std::string>{"lm_head"}));
  EXPECT(!c.kv_scales);
  REQUIRE_OK(with("\"dynamic\"", "\"static\", \"kv_cache_scheme\": \"static\"", &c));
  EXPECT(c.kv_scales);
  EXPECT_ERROR(with("\"dynamic\"", "\"token\"", &c),
               "config.json: quantization_config: \"activation_scheme\" is \"token\"");
  EXPECT_ERROR(with("\"dynamic\"", "\"dynamic\", \"weight_block_size\": [128, 128]", &c),
               "config.json: quantization_config: \"weight_block_size\" is ");
  EXPECT_ERROR(with("\"fp8\"", "\"fp8\", \"bits\": 4", &c), "\"bits\" is 4; served: FP8 E4M3");
  EXPECT_ERROR(read(llama_config().set("quantization_config", block), &c, {}, "",
                    R"({"quantization": {"quant_algo": "FP8"}})"),
               "hf_quant_config.json: ModelOpt FP8, but config.json says \"fp8\"");
}

TEST(config_refuses_other_quantisations) {
  for (const std::string method : {"hqq", "bitsandbytes", "fbgemm_fp8"}) {
    const Status s = read(llama_config().set(
        "quantization_config", "{\"quant_method\": \"" + method + "\", \"bits\": 4}"));
    EXPECT(s.code() == Code::unsupported);
    EXPECT_ERROR(s, "config.json: quantization_config: \"quant_method\" is \"" + method +
                        "\"; served: FP8 E4M3");
  }
  EXPECT_ERROR(read(llama_config().set("quantization_config", "{\"bits\": 4}")),
               "\"quant_method\" is missing");
  ModelConfig c;
  EXPECT_ERROR(read(llama_config().set("quantization_config", kCompressed), &c, {}, "",
                    R"({"quantization": {"quant_algo": "FP8"}})"),
               "hf_quant_config.json: ModelOpt FP8, but config.json says compressed-tensors");
}

}  // namespace
}  // namespace nemotron
