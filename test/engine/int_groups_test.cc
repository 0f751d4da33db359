// Folders of GPTQ and AWQ, written here in their documented layouts: close to the float32 that they
// stand for, and packed in memory.
#include <cmath>
#include <random>

#include "../models/fixture.h"
#include "cpu/isa.h"
#include "mix.h"

namespace nemotron::test {
namespace {

constexpr int64_t kHidden = 256, kInner = 512, kHeads = 4, kKvHeads = 2, kHeadDim = 128;

struct Variant {
  const char* method;
  int bits, group;
  bool symmetric;
  const char* format;  // GPTQ's checkpoint_format
};
constexpr Variant kVariants[] = {
    {"gptq", 4, 128, true, "gptq"},  {"gptq", 4, 32, true, "gptq_v2"},
    {"gptq", 4, 128, false, "gptq"}, {"gptq", 4, 64, false, "gptq_v2"},
    {"gptq", 8, 64, true, "gptq"},   {"gptq", 8, 128, false, "gptq"},
    {"awq", 4, 128, false, ""},      {"awq", 4, 32, false, ""},
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

struct Written {
  std::mt19937 rng{22};
  RawTensors packed, wide;
};

// A matrix [rows, cols] as float32, and as the three or four tensors of `v`.
void add_matrix(const std::string& module, int64_t rows, int64_t cols, const Variant& v,
                Written* to) {
  const int levels = 1 << v.bits;
  const int64_t groups = cols / v.group, each = 32 / v.bits;
  const bool awq = std::string(v.method) == "awq";
  const int offset = std::string(v.format) == "gptq" ? 1 : 0;
  std::vector<int> integers(size_t(rows * cols)), zeros(size_t(groups * rows));
  std::vector<uint16_t> scales(zeros.size());
  for (int& q : integers) q = int(to->rng() % uint32_t(levels));
  for (size_t i = 0; i < zeros.size(); ++i) {
    zeros[i] = v.symmetric ? levels / 2 : levels / 2 - 3 + int(to->rng() % 7);
    const float spread = 0.6f + 0.001f * float(to->rng() % 800);
    scales[i] = f32_to_f16(spread * 3.5f / float(levels) / std::sqrt(float(cols)));
  }
  if (!v.symmetric) zeros[0] = offset, zeros[1] = levels - 1;  // the ends of what can be stored
  std::vector<float> values(size_t(rows * cols));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const auto at = size_t(c / v.group * rows + r), i = size_t(r * cols + c);
      values[i] = float(integers[i] - zeros[at]) * f16_to_f32(scales[at]);
    }
  }
  // Eight outputs of AWQ's words from the lowest nibble on.
  constexpr int kAwqOrder[] = {0, 2, 4, 6, 1, 3, 5, 7};
  const auto pack = [&](auto&& of) {
    uint32_t word = 0;
    for (int i = 0; i < int(each); ++i) word |= uint32_t(of(i)) << (i * v.bits);
    return word;
  };
  const auto along_outputs = [&](int i) { return awq ? kAwqOrder[i] : i; };
  std::vector<uint32_t> codes, packed_zeros, order;
  for (int64_t c = 0; awq && c < cols; ++c) {
    for (int64_t r = 0; r < rows; r += each) {
      codes.push_back(
          pack([&](int i) { return integers[size_t((r + along_outputs(i)) * cols + c)]; }));
    }
  }
  for (int64_t c = 0; !awq && c < cols; c += each) {
    for (int64_t r = 0; r < rows; ++r) {
      codes.push_back(pack([&](int i) { return integers[size_t(r * cols + c + i)]; }));
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t r = 0; r < rows; r += each) {
      packed_zeros.push_back(
          pack([&](int i) { return zeros[size_t(g * rows + r + along_outputs(i))] - offset; }));
    }
  }
  for (int64_t c = 0; c < cols; ++c) order.push_back(uint32_t(c / v.group));
  const std::vector<int64_t> shape =
      awq ? std::vector<int64_t>{cols, rows / each} : std::vector<int64_t>{cols / each, rows};
  to->packed[module + ".qweight"] = {"I32", shape, bytes_of(codes)};
  to->packed[module + ".qzeros"] = {"I32", {groups, rows / each}, bytes_of(packed_zeros)};
  to->packed[module + ".scales"] = {"F16", {groups, rows}, bytes_of(scales)};
  if (!awq) to->packed[module + ".g_idx"] = {"I32", {cols}, bytes_of(order)};
  to->wide[module + ".weight"] = f32_tensor({rows, cols}, values);
}

struct Folders {
  TempDir packed, wide;
};

std::string quantization(const Variant& v) {
  std::string text = "{\"quant_method\": \"" + std::string(v.method) +
                     "\", \"bits\": " + std::to_string(v.bits) +
                     ", \"group_size\": " + std::to_string(v.group);
  if (std::string(v.method) == "awq")
    return text + ", \"zero_point\": true, \"version\": \"gemm\"}";
  return text + ", \"sym\": " + (v.symmetric ? "true" : "false") + ", \"desc_act\": false, " +
         "\"checkpoint_format\": \"" + v.format + "\"}";
}

void write_folders(const Variant& v, const Folders& to) {
  Members config = llama_config();
  config.set("hidden_size", std::to_string(kHidden))
      .set("intermediate_size", std::to_string(kInner))
      .set("num_hidden_layers", "2")
      .set("num_attention_heads", std::to_string(kHeads))
      .set("num_key_value_heads", std::to_string(kKvHeads))
      .set("head_dim", std::to_string(kHeadDim))
      .set("vocab_size", std::to_string(kTinyVocab))
      .set("max_position_embeddings", std::to_string(kTinyContext));
  Written all;
  std::normal_distribution<float> normal;
  const auto both = [&](const std::string& name, const std::vector<int64_t>& shape, float by) {
    std::vector<float> values(size_t(shape.size() > 1 ? shape[0] * shape[1] : shape[0]), 1.0f);
    for (float& x : values) x = by == 0 ? 1.0f : normal(all.rng) * by;
    all.packed[name] = all.wide[name] = f32_tensor(shape, values);
  };
  both("model.embed_tokens.weight", {kTinyVocab, kHidden}, 1);
  both("lm_head.weight", {kTinyVocab, kHidden}, 3.0f / 16);
  both("model.norm.weight", {kHidden}, 0);
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    both(layer + "input_layernorm.weight", {kHidden}, 0);
    both(layer + "post_attention_layernorm.weight", {kHidden}, 0);
    const auto add = [&](const char* name, int64_t rows, int64_t cols) {
      add_matrix(layer + name, rows, cols, v, &all);
    };
    add("self_attn.q_proj", kHeads * kHeadDim, kHidden);
    add("self_attn.k_proj", kKvHeads * kHeadDim, kHidden);
    add("self_attn.v_proj", kKvHeads * kHeadDim, kHidden);
    add("self_attn.o_proj", kHidden, kHeads * kHeadDim);
    add("mlp.gate_proj", kInner, kHidden);
    add("mlp.up_proj", kInner, kHidden);
    add("mlp.down_proj", kHidden, kInner);
  }
  to.wide.write("config.json", config.text());
  to.wide.write("model.safetensors", safetensors_bytes(all.wide));
  to.packed.write("config.json", config.set("quantization_config", quantization(v)).text());
  to.packed.write("model.safetensors", safetensors_bytes(all.packed));
}

struct Scored {
  std::vector<double> logprobs;
  size_t weights = 0;
  std::vector<std::string> widened;
};
Scored scored(const std::string& folder, const std::string& isa, int32_t ranks) {
  EngineOptions o = tiny_options();
  o.model_dir = folder;
  o.device.isa = isa;
  o.device.exact_activations = true;
  o.ranks = ranks;
  Client client(o);
  Scored out;
  if (!client.status()) {
    fail(__FILE__, __LINE__, client.status().message());
    return out;
  }
  Request r;
  r.prompt = random_prompt(100, 5);
  r.sampling.max_tokens = 1;
  r.sampling.num_prompt_logprobs = 0;
  for (const auto& one : client.run(r).prompt_logprobs) out.logprobs.push_back(double(one.logprob));
  out.weights = client.engine().info().plan.weights;
  for (const WidenedTensor& t : client.engine().info().plan.widened_tensors) {
    out.widened.push_back(t.name);
  }
  return out;
}

void expect_near(const Scored& a, const Scored& b, double most) {
  REQUIRE_EQ(a.logprobs.size(), b.logprobs.size());
  EXPECT_GT(a.logprobs.size(), 90u);
  double sum = 0, spread = 0;
  for (size_t i = 1; i < a.logprobs.size(); ++i) {
    sum += std::fabs(a.logprobs[i] - b.logprobs[i]);
    spread += std::fabs(b.logprobs[i] + std::log(kTinyVocab));
  }
  EXPECT_LT(sum / double(a.logprobs.size()), most);
  EXPECT_GT(spread / double(b.logprobs.size()), 0.3);  // the model says something
}

TEST(int_groups_are_as_their_float32) {
  for (const Variant& v : kVariants) {
    Folders folders;
    write_folders(v, folders);
    const Scored wide = scored(folders.wide.path(), "", 1);
    for (const cpu::Isa isa : cpu::kAllIsas) {
      if (!cpu::isa_available(isa)) continue;
      const Scored packed = scored(folders.packed.path(), cpu::isa_name(isa), 1);
      expect_near(packed, wide, 0.001);
      EXPECT_EQ(packed.widened.size(), 0u);
      EXPECT_LT(packed.weights, wide.weights);
    }
  }
}

TEST(int_groups_are_cut_for_ranks) {
  for (const Variant& v : {kVariants[1], kVariants[7]}) {
    Folders folders;
    write_folders(v, folders);
    const Scored one = scored(folders.packed.path(), "", 1);
    const Scored two = scored(folders.packed.path(), "", 2);
    EXPECT(one.logprobs == two.logprobs);
  }
}

}  // namespace
}  // namespace nemotron::test
