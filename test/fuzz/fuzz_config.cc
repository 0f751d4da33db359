// The readers of a folder's JSON: config.json, generation_config.json, hf_quant_config.json and the
// index of the shards. An input is these four one after the other, a zero byte between them.
#include <cstdio>
#include <cstdlib>

#include "../models/fixture.h"
#include "fuzz.h"
#include "models/checkpoint/checkpoint.h"
#include "models/gpu_fit.h"
#include "models/rope.h"
#include "models/sources.h"

namespace {

using namespace nemotron;

constexpr const char* kFiles[] = {"config.json", "generation_config.json", "hf_quant_config.json",
                                  "model.safetensors.index.json"};

void require(bool ok) {
  if (!ok) std::abort();
}

// One folder for the whole run, with the shard that the seeds' index names.
const test::TempDir& folder() {
  static const auto* dir = [] {
    auto* d = new test::TempDir();
    d->write("a.safetensors", test::safetensors_bytes(test::llama_tensors()));
    std::atexit([] { std::filesystem::remove_all(folder().path()); });
    return d;
  }();
  return *dir;
}

void use(const ModelConfig& c) {
  require(c.hidden > 0 && c.vocab > 0 && c.head_dim > 0 && !c.layers.empty());
  require(c.q_heads % c.kv_heads() == 0 && c.kv_layers() > 0);
  require(rope_inv_freq(c.rope, c.rotary_dim).size() == size_t(c.rotary_dim) / 2);
  require(parameter_count(c) > 0);
  for (const GpuFit& fit : fit_on_common_gpus(c)) require(fit.kv_tokens_bf16 <= fit.kv_tokens_fp8);
  for (const int32_t id : c.eos_ids) require(id >= 0 && id < c.vocab);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string rest(reinterpret_cast<const char*>(data), size);
  for (const char* file : kFiles) {
    const size_t end = rest.find('\0');
    const std::string text = rest.substr(0, end);
    rest = end == std::string::npos ? "" : rest.substr(end + 1);
    if (text.empty() && file != kFiles[0])
      std::filesystem::remove(folder().file(file));
    else
      folder().write(file, text);
  }
  ModelConfig config;
  const Status s = read_model_config(folder().path(), {}, &config);
  if (s) {
    use(config);
  } else {
    require(s.message().find(folder().path()) == 0 && s.message().size() < 1000);
  }
  std::unique_ptr<Checkpoint> checkpoint;
  const Status opened = Checkpoint::open(folder().path(), &checkpoint);
  if (s && opened) (void)check_checkpoint(*checkpoint, config);
  return s && opened ? 0 : -1;
}

std::vector<std::string> fuzz_seeds() {
  std::string map;
  for (const auto& [name, t] : test::llama_tensors()) {
    map += (map.empty() ? "" : ",") + ("\"" + name) + "\":\"a.safetensors\"";
  }
  const std::string index = "{\"metadata\":{\"total_size\":10},\"weight_map\":{" + map + "}}";
  const std::string zero(1, '\0');
  const auto input = [&](const test::Members& config, const std::string& generation,
                         const std::string& quant) {
    return config.text() + zero + generation + zero + quant + zero + index;
  };
  const std::string scheme = R"({"num_bits": 8, "type": "float", "symmetric": true, "strategy": )";
  return {
      input(test::llama_config(), R"({"eos_token_id": [1, 2], "bos_token_id": 0})", ""),
      input(
          test::llama_config().set("rope_scaling",
                                   R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})"),
          "", ""),
      input(test::llama_config()
                .drop("rope_theta")
                .set("rope_parameters", R"({"rope_type": "default", "rope_theta": 10000.0})"),
            "", ""),
      input(test::llama_config(), "",
            R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8",
                "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}})"),
      input(test::llama_config().set(
                "quantization_config",
                R"({"quant_method": "compressed-tensors", "format": "float-quantized",
                    "config_groups": {"group_0": {"targets": ["Linear"], "weights": )" +
                    scheme + R"("channel"}, "input_activations": )" + scheme +
                    R"("token", "dynamic": true}}}, "ignore": ["lm_head", "re:.*0.*"]})"),
            "", ""),
      input(test::llama_config()
                .set("architectures", "[\"LlamaForSequenceClassification\"]")
                .set("id2label", R"({"0": "a", "1": "b"})"),
            "", ""),
      input(test::nemotron_config(), "", ""),
      input(test::deci_config(), "", ""),
  };
}

std::vector<std::string> fuzz_words() {
  return {"{",
          "}",
          "[",
          "]",
          ",",
          ":",
          "\"",
          "\\u0000",
          "\\ud83d\\ude00",
          "\"head_dim\":0,",
          "\"num_key_value_heads\":3,",
          "\"rope_type\":\"yarn\",",
          "\"factor\":0,",
          "../",
          "/",
          "re:(",
          "\"quant_method\":",
          "\"strategy\":\"block\",",
          "\"id2label\":{\"0\":1},",
          "\"num_labels\":-1,",
          "\xc3\x28",
          "[[[[[[[[[[[[[[[[[[[[",
          "\"eos_token_id\":[1,[2]],",
          "null,"};
}

bool fuzz_has_length_prefix() { return false; }
