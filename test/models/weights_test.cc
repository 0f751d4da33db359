// load_weights() against a device that only remembers what it was given.
#include "models/weights.h"

#include <algorithm>
#include <limits>

#include "../check.h"
#include "device/weight_parts.h"
#include "fixture.h"
#include "models/decoder.h"
#include "models/gpu_fit.h"
#include "models/sources.h"

namespace nemotron {
namespace {

using namespace test;

struct Packed {
  int64_t rows = 0, cols = 0;
  WeightUse use = WeightUse::linear;
  WeightFormat format = WeightFormat::stored;
  std::vector<size_t> scales;  // one a part
  std::vector<float> values;   // real ones: stored * scale
};

float real_value(const MatrixPart& p, int64_t row, int64_t col) {
  const int64_t i = row * p.row_stride + col;
  // Tensors lie in the file where they lie: nobody aligned them.
  const auto* at = static_cast<const uint8_t*>(p.data) + size_t(i) * dtype_bytes(p.dtype);
  uint16_t half = 0;
  float v = 0;
  if (dtype_bytes(p.dtype) == 2) std::memcpy(&half, at, 2);
  if (p.dtype == DType::bf16) v = bf16_to_f32(half);
  if (p.dtype == DType::f16) v = f16_to_f32(half);
  if (p.dtype == DType::f32) std::memcpy(&v, at, 4);
  if (p.dtype == DType::fp8_e4m3) v = e4m3_to_f32(*at);
  return v * (p.scale.empty() ? 1.0f : p.scale[p.scale.size() == 1 ? 0 : size_t(row)]);
}

// All rows of a part, three at a time.
Status read_all(const MatrixPart& part, std::vector<uint8_t>* out) {
  const size_t row = size_t(part.cols) * dtype_bytes(part.dtype);
  out->resize(size_t(part.rows) * row);
  for (int64_t at = 0; at < part.rows; at += 3) {
    const int64_t n = std::min<int64_t>(3, part.rows - at);
    if (Status s = part.stored->read(at, n, out->data() + size_t(at) * row); !s) return s;
  }
  return {};
}

class RecordingDevice final : public Device {
 public:
  std::vector<std::unique_ptr<Packed>> packed;
  std::vector<std::unique_ptr<std::vector<uint8_t>>> memory;
  size_t packs_left = SIZE_MAX;   // then it is out of memory
  bool reads = false;             // rows itself, a few at a time
  std::vector<const Norm*> next;  // of products whose rows a norm reads

  std::string name() const override { return "recording"; }
  DType activation_dtype() const override { return DType::f32; }
  size_t free_bytes() const override { return size_t(1) << 30; }
  Status alloc(size_t bytes, void** out) noexcept override {
    memory.push_back(std::make_unique<std::vector<uint8_t>>(bytes));
    *out = memory.back()->data();
    return {};
  }
  void free(void*) noexcept override {}
  bool reads_rows() const override { return reads; }
  void upload(void* dst, const void* host, size_t bytes) noexcept override {
    std::memcpy(dst, host, bytes);
  }
  void download(void* host, const void* src, size_t bytes) noexcept override {
    std::memcpy(host, src, bytes);
  }
  Status pack_weight(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                     Weight* out) noexcept override {
    if (packs_left-- == 0) return Status::out_of_memory("no memory for 1 byte");
    if (Status s = check_parts(parts, use); !s) return s;
    auto p = std::make_unique<Packed>();
    p->use = use;
    p->format = format;
    p->cols = parts[0].cols;
    for (const MatrixPart& part : parts) {
      p->rows += part.rows;
      p->scales.push_back(part.scale.size());
      std::vector<uint8_t> read;
      MatrixPart rows = part;
      if (part.stored) {
        if (Status s = read_all(part, &read); !s) return s;
        rows.data = read.data();
        rows.row_stride = part.cols;
      }
      for (int64_t r = 0; r < part.rows; ++r) {
        for (int64_t c = 0; c < part.cols; ++c) p->values.push_back(real_value(rows, r, c));
      }
    }
    *out = {.handle = p.get(), .rows = p->rows, .cols = p->cols, .bytes = p->values.size() * 2};
    packed.push_back(std::move(p));
    return {};
  }
  Status prepare(const StepLimits&, const KvConfig&, const RopeTable&) noexcept override {
    return {};
  }
  void begin_step(const StepInput&) noexcept override {}
  void launch_step() noexcept override {}
  bool step_done() noexcept override { return true; }
  Status wait_step() noexcept override { return {}; }
  Status sync() noexcept override { return {}; }
  void embed(Tensor, const Weight&) noexcept override {}
  void attention_input(Tensor, Tensor, const Norm&, const Linear&, int32_t) noexcept override {}
  void attention(Tensor, Tensor, int32_t, float) noexcept override {}
  void gemm_residual(Tensor, Tensor, const Linear&, const Norm* norm) noexcept override {
    next.push_back(norm);
  }
  void mlp_input(Tensor, Tensor, const Norm&, const Linear&, Activation) noexcept override {}
  void norm(Tensor, Tensor, const Norm&, int64_t) noexcept override {}
  void head(Tensor, Tensor, std::span<const int32_t>, const Norm&,
            const Linear&) noexcept override {}
  void sample(Tensor, int32_t, int32_t, SampleOutput*) noexcept override {}
};

// With the same values as the first, which had them from memory.
Status load_by_rows(const Checkpoint& checkpoint, const ModelConfig& config, LoadOptions options,
                    const RecordingDevice& first) {
  RecordingDevice device;
  device.reads = true;
  DecoderWeights weights;
  options.progress = nullptr;
  if (Status s = load_weights(checkpoint, config, options, &device, &weights); !s) return s;
  EXPECT(device.packed.size() <= first.packed.size());
  auto own = device.packed.rbegin();
  for (auto other = first.packed.rbegin(); own != device.packed.rend(); ++own, ++other) {
    EXPECT((*own)->values == (*other)->values);
    EXPECT((*own)->scales == (*other)->scales);
  }
  return {};
}

struct Loaded {
  RecordingDevice device;
  DecoderWeights weights;
  ModelConfig config;
  std::vector<LoadProgress> progress;
};

Status load(const RawTensors& tensors, const Members& text, Loaded* out,
            std::vector<int32_t> rows = {}, WeightFormat format = WeightFormat::stored) {
  TempDir dir;
  dir.write("config.json", text.text());
  dir.write("model.safetensors", safetensors_bytes(tensors));
  if (Status s = read_model_config(dir.path(), rows, &out->config); !s) return s;
  std::unique_ptr<Checkpoint> checkpoint;
  if (Status s = Checkpoint::open(dir.path(), &checkpoint); !s) return s;
  const LoadOptions options{.format = format,
                            .progress = [&](const LoadProgress& p) { out->progress.push_back(p); }};
  const Status s = load_weights(*checkpoint, out->config, options, &out->device, &out->weights);
  return s ? load_by_rows(*checkpoint, out->config, options, out->device) : s;
}

const Packed& packed(const Weight& w) { return *static_cast<const Packed*>(w.handle); }
const Packed& packed(const Linear& l) { return packed(l.weight); }

// The values of these tensors, one after the other, scales applied.
std::vector<float> values(const RawTensors& tensors, std::initializer_list<std::string> modules) {
  std::vector<float> all;
  for (const std::string& module : modules) {
    const RawTensor& t = tensors.at(module + ".weight");
    const auto scale = tensors.find(module + ".weight_scale");
    for (int64_t r = 0; r < t.shape[0]; ++r) {
      float s = 1;
      if (scale != tensors.end()) {
        const auto* f = reinterpret_cast<const float*>(scale->second.bytes.data());
        s = f[scale->second.bytes.size() == 4 ? 0 : r];
      }
      for (int64_t c = 0; c < t.shape[1]; ++c) {
        const size_t i = size_t(r * t.shape[1] + c);
        uint16_t h = 0;
        if (t.dtype == "BF16") std::memcpy(&h, t.bytes.data() + 2 * i, 2);
        all.push_back(s * (t.dtype == "BF16" ? bf16_to_f32(h) : e4m3_to_f32(uint8_t(t.bytes[i]))));
      }
    }
  }
  return all;
}

void expect_layers(const Loaded& l, const RawTensors& t) {
  REQUIRE_EQ(l.weights.layers.size(), size_t(2));
  for (int i = 0; i < 2; ++i) {
    const LayerWeights& layer = l.weights.layers[size_t(i)];
    const std::string base = "model.layers." + std::to_string(i) + ".";
    EXPECT_EQ(layer.kv_layer, i);
    EXPECT(packed(layer.qkv).values ==
           values(t, {base + "self_attn.q_proj", base + "self_attn.k_proj",
                      base + "self_attn.v_proj"}));
    EXPECT_EQ(packed(layer.qkv).rows, 48);
    EXPECT(packed(layer.o).values == values(t, {base + "self_attn.o_proj"}));
    EXPECT(packed(layer.gate_up).values ==
           values(t, {base + "mlp.gate_proj", base + "mlp.up_proj"}));
    EXPECT(packed(layer.gate_up).use == WeightUse::gate_up);
    EXPECT(packed(layer.down).values == values(t, {base + "mlp.down_proj"}));
    EXPECT_EQ(layer.input_norm.gain.shape[0], 8);
    EXPECT_EQ(layer.input_norm.gain.as<float>()[1],
              float(real_value({.data = t.at(base + "input_layernorm.weight").bytes.data(),
                                .dtype = DType::bf16,
                                .rows = 1,
                                .cols = 8,
                                .row_stride = 8,
                                .scale = {}},
                               0, 1)));
  }
}

// An activation without a gate is multiplied by `up` alone.
TEST(load_without_gates) {
  TempDir dir;
  const RawTensors t = llama_tensors();
  dir.write("config.json", llama_config().text());
  dir.write("model.safetensors", safetensors_bytes(t));
  Loaded l;
  REQUIRE_OK(read_model_config(dir.path(), {}, &l.config));
  l.config.layers[1].activation = Activation::relu2;
  std::unique_ptr<Checkpoint> checkpoint;
  REQUIRE_OK(Checkpoint::open(dir.path(), &checkpoint));
  REQUIRE_OK(load_weights(*checkpoint, l.config, {}, &l.device, &l.weights));
  REQUIRE_EQ(l.weights.layers.size(), size_t(2));
  EXPECT(packed(l.weights.layers[0].gate_up).use == WeightUse::gate_up);
  const Packed& up = packed(l.weights.layers[1].gate_up);
  EXPECT(up.use == WeightUse::linear);
  EXPECT(up.values == values(t, {"model.layers.1.mlp.up_proj"}));
  const int64_t gate = int64_t(l.config.hidden) * l.config.layers[1].intermediate;
  const int64_t without = parameter_count(l.config);
  l.config.layers[1].activation = Activation::silu_gated;
  EXPECT_EQ(parameter_count(l.config) - without, gate);
}

RawTensors nemotron_tensors() {
  RawTensors t = llama_tensors();
  for (const std::string layer : {"0", "1"}) {
    const std::string base = "model.layers." + layer + ".";
    t.erase(base + "mlp.gate_proj.weight");
    t[base + "self_attn.q_proj.weight"] = bf16_tensor({48, 8}, 1);
    t[base + "self_attn.k_proj.weight"] = bf16_tensor({24, 8}, 2);
    t[base + "self_attn.v_proj.weight"] = bf16_tensor({24, 8}, 3);
    t[base + "self_attn.o_proj.weight"] = bf16_tensor({8, 48}, 4);
    for (const std::string norm : {"input_layernorm", "post_attention_layernorm"}) {
      t[base + norm + ".bias"] = bf16_tensor({8}, 0.5f);
    }
  }
  t["model.norm.bias"] = f32_tensor({8}, {1, 2, 3, 4, 5, 6, 7, 8});
  t["model.norm.weight"] = f32_tensor({8}, {-0.5f, 0, 0.25f, 0, 0, 0, 0, 1e-9f});
  return t;
}

// The stored gain is 1 less; the sum is made in float32, not in the file's type.
TEST(load_layer_norms) {
  Loaded l;
  const RawTensors t = nemotron_tensors();
  REQUIRE_OK(load(t, nemotron_config(), &l));
  const Norm& norm = l.weights.final_norm;
  EXPECT(norm.kind == Norm::Kind::layer);
  EXPECT_EQ(norm.gain.as<float>()[0], 0.5f);
  EXPECT_EQ(norm.gain.as<float>()[1], 1.0f);
  EXPECT_EQ(norm.gain.as<float>()[7], 1.0f);
  EXPECT_EQ(norm.bias.as<float>()[7], 8.0f);
  EXPECT_EQ(l.weights.layers[1].post_attention_norm.bias.as<float>()[1], 0.75f);
  size_t stored = 0;
  for (const auto& [name, tensor] : t) stored += tensor.bytes.size();
  EXPECT_EQ(l.progress.back().bytes_done, stored);
  EXPECT_EQ(l.progress.back().bytes_total, stored);
  int64_t elements = 10 * 8;  // five norms
  for (const auto& p : l.device.packed) elements += int64_t(p->values.size());
  EXPECT_EQ(parameter_count(l.config), elements);

  RawTensors without = t;
  without.erase("model.layers.1.input_layernorm.bias");
  EXPECT_ERROR(load(without, nemotron_config(), &l),
               "tensor \"model.layers.1.input_layernorm.bias\" is missing");
  const float none = std::numeric_limits<float>::quiet_NaN();
  const float endless = std::numeric_limits<float>::infinity();
  for (const auto& [value, shown] :
       {std::pair(none, "nan"), {endless, "inf"}, {-endless, "-inf"}}) {
    RawTensors wrong = t;
    wrong["model.norm.weight"] = f32_tensor({8}, {0, 0, value, 0, 0, 0, 0, 0});
    EXPECT_ERROR(load(wrong, nemotron_config(), &l),
                 std::string("tensor \"model.norm.weight\" has ") + shown +
                     " at 2; expected finite numbers");
    wrong = t;
    wrong["model.norm.bias"] = f32_tensor({8}, {value, 0, 0, 0, 0, 0, 0, 0});
    EXPECT_ERROR(load(wrong, nemotron_config(), &l), " at 0; expected finite numbers");
  }
  RawTensors more = t;
  more["model.layers.1.mlp.up_proj.bias"] = bf16_tensor({12}, 0);
  EXPECT_ERROR(load(more, nemotron_config(), &l), "expected no .bias");
}

// What a block leaves out is not asked for, nor is its norm; the KV cache counts on without it.
TEST(load_blocks_of_deci) {
  Loaded l;
  RawTensors t = llama_tensors();
  std::erase_if(t, [](const auto& named) {
    return named.first.starts_with("model.layers.1.self_attn") ||
           named.first == "model.layers.1.input_layernorm.weight";
  });
  for (const auto& [layer, size] : {std::pair{"0", 256}, std::pair{"1", 512}}) {
    const std::string mlp = "model.layers." + std::string(layer) + ".mlp.";
    t[mlp + "gate_proj.weight"] = bf16_tensor({size, 8}, 1);
    t[mlp + "up_proj.weight"] = bf16_tensor({size, 8}, 2);
    t[mlp + "down_proj.weight"] = bf16_tensor({8, size}, 3);
  }
  REQUIRE_OK(load(t, deci_config(), &l));
  EXPECT_EQ(l.weights.layers[0].kv_layer, 0);
  EXPECT_EQ(l.weights.layers[1].kv_layer, -1);
  EXPECT_EQ(packed(l.weights.layers[1].down).cols, 512);
  EXPECT(l.weights.layers[1].qkv.weight.handle == nullptr);
  // A block_config that contradicts its tensors.
  RawTensors wrong = t;
  wrong["model.layers.1.mlp.down_proj.weight"] = bf16_tensor({8, 256}, 3);
  EXPECT_ERROR(
      load(wrong, deci_config(), &l),
      "tensor \"model.layers.1.mlp.down_proj.weight\" is BF16 [8, 256]; expected BF16, F16 "
      "or F32 [8, 512], as block_configs[1].ffn of config.json says");
  RawTensors fewer = t;
  fewer.erase("model.layers.0.self_attn.k_proj.weight");
  EXPECT_ERROR(load(fewer, deci_config(), &l),
               "tensor \"model.layers.0.self_attn.k_proj.weight\" is missing; "
               "block_configs[0].attention of config.json asks for it");
  RawTensors more = t;
  more["model.layers.1.self_attn.q_proj.weight"] = bf16_tensor({24, 8}, 1);
  EXPECT_ERROR(load(more, deci_config(), &l),
               "expected no such tensor, as block_configs[1].attention of config.json says");
}

TEST(load_gives_every_norm_its_eps) {
  Loaded l;
  REQUIRE_OK(load(llama_tensors(), llama_config().set("rms_norm_eps", "0.25"), &l));
  EXPECT_EQ(l.weights.final_norm.eps, 0.25f);
  for (const LayerWeights& layer : l.weights.layers) {
    EXPECT_EQ(layer.input_norm.eps, 0.25f);
    EXPECT_EQ(layer.post_attention_norm.eps, 0.25f);
  }
}

TEST(load_plain) {
  Loaded l;
  const RawTensors t = llama_tensors();
  REQUIRE_OK(load(t, llama_config(), &l));
  expect_layers(l, t);
  EXPECT(packed(l.weights.embedding).use == WeightUse::embedding);
  EXPECT(packed(l.weights.embedding).values == values(t, {"model.embed_tokens"}));
  EXPECT(packed(l.weights.head).values == values(t, {"lm_head"}));
  EXPECT(l.weights.k_scale.empty());
  size_t bytes = 5 * 8 * sizeof(float);  // the gains
  for (const auto& p : l.device.packed) bytes += p->values.size() * 2;
  EXPECT_EQ(l.weights.bytes, bytes);

  size_t stored = 0;
  for (const auto& [name, tensor] : t) stored += tensor.bytes.size();
  REQUIRE(!l.progress.empty());
  EXPECT_EQ(l.progress.front().bytes_done, size_t(0));
  EXPECT_EQ(l.progress.back().bytes_done, stored);
  for (const LoadProgress& p : l.progress) EXPECT_EQ(p.bytes_total, stored);
}

// A device may read the norm that comes next: it has to be there after weights took the place of
// others.
TEST(norms_ahead_are_those_of_the_weights_that_run) {
  Loaded l;
  const RawTensors t = llama_tensors();
  REQUIRE_OK(load(t, llama_config(), &l));
  RankShape shape;
  REQUIRE_OK(rank_shape(l.config, Shard::whole(), &shape));
  const StepLimits limits{.max_rows = 4,
                          .max_spans = 1,
                          .max_samples = 1,
                          .max_context = 16,
                          .q_heads = shape.q_heads,
                          .head_dim = shape.head_dim,
                          .hidden = shape.hidden,
                          .intermediate = shape.max_intermediate(),
                          .vocab = shape.vocab};
  std::unique_ptr<Decoder> decoder;
  REQUIRE_OK(Decoder::create(shape, l.weights, &l.device, limits, &decoder));
  for (int times = 0; times < 2; ++times) {
    const std::vector<int32_t> ids = {1}, blocks = {0};
    const SpanInput span{0, 1, 0, false, blocks};
    StepInput in;
    in.token_ids = ids, in.spans = {&span, 1};
    StepOutput out;
    l.device.next.clear();
    REQUIRE_OK(decoder->step(in, &out));
    const auto& layers = l.weights.layers;
    const std::vector<const Norm*> want = {&layers[0].post_attention_norm, &layers[1].input_norm,
                                           &layers[1].post_attention_norm, nullptr};
    EXPECT(l.device.next == want);
    REQUIRE_OK(load(t, llama_config(), &l));
  }
}

TEST(norms_are_checked_before_a_load) {
  for (const char* name : {"model.norm", "model.layers.1.post_attention_layernorm"}) {
    RawTensors t = llama_tensors();
    const uint16_t nan = 0x7fc0;
    std::memcpy(t.at(std::string(name) + ".weight").bytes.data() + 2, &nan, 2);
    TempDir dir;
    dir.write("config.json", llama_config().text());
    dir.write("model.safetensors", safetensors_bytes(t));
    ModelConfig config;
    std::unique_ptr<Checkpoint> checkpoint;
    Sources sources;
    REQUIRE_OK(read_model_config(dir.path(), {}, &config));
    REQUIRE_OK(Checkpoint::open(dir.path(), &checkpoint));
    REQUIRE_OK(find_sources(*checkpoint, config, &sources));
    EXPECT_ERROR(check_norms(*checkpoint, sources), name);
    EXPECT_ERROR(check_norms(*checkpoint, sources), "at 1; expected finite numbers");
  }
}

TEST(load_gains_of_every_dtype) {
  RawTensors t = llama_tensors();
  t["model.norm.weight"] = f32_tensor({8}, {1, 2, 3, 4, 5, 6, 7, 0.1f});
  RawTensor half{"F16", {8}, {}};
  for (int i = 0; i < 8; ++i) half.bytes += std::string("\x00\x3e", 2);  // 1.5
  t["model.layers.0.input_layernorm.weight"] = half;
  Loaded l;
  REQUIRE_OK(load(t, llama_config(), &l));
  EXPECT_EQ(l.weights.final_norm.gain.as<float>()[7], 0.1f);
  EXPECT_EQ(l.weights.layers[0].input_norm.gain.as<float>()[7], 1.5f);
}

TEST(load_keeps_fp8_scales_exactly) {
  for (const bool per_row : {false, true}) {
    for (const WeightFormat format : {WeightFormat::stored, WeightFormat::fp8}) {
      Loaded l;
      const RawTensors t = fp8_llama_tensors(per_row);
      REQUIRE_OK(load(t, llama_config().set("quantization_config", R"({"quant_algo": "FP8"})"), &l,
                      {}, format));
      expect_layers(l, t);
      const Packed& qkv = packed(l.weights.layers[0].qkv);
      const std::vector<size_t> want =
          per_row ? std::vector<size_t>{24, 12, 12} : std::vector<size_t>{1, 1, 1};
      EXPECT(qkv.scales == want);
      // Never quantised twice.
      EXPECT(qkv.format == WeightFormat::stored);
    }
  }
}

TEST(load_quantises_the_linear_layers_alone) {
  Loaded l;
  REQUIRE_OK(load(llama_tensors(), llama_config(), &l, {}, WeightFormat::fp8));
  EXPECT(packed(l.weights.embedding).format == WeightFormat::stored);
  EXPECT(packed(l.weights.head).format == WeightFormat::stored);
  for (const LayerWeights& layer : l.weights.layers) {
    for (const Linear* w : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      EXPECT(packed(*w).format == WeightFormat::fp8);
    }
  }
}

TEST(load_tied_heads) {
  const Members tied = llama_config().set("tie_word_embeddings", "true");
  RawTensors both = llama_tensors(), equal = both, embedding = both, head = both;
  equal["lm_head.weight"] = equal["model.embed_tokens.weight"];
  embedding.erase("lm_head.weight");
  head["lm_head.weight"] = equal["model.embed_tokens.weight"];
  head.erase("model.embed_tokens.weight");
  for (const RawTensors& t : {equal, embedding, head}) {
    Loaded l;
    REQUIRE_OK(load(t, tied, &l));
    EXPECT(packed(l.weights.embedding).use == WeightUse::tied);
    EXPECT(l.weights.head.weight.handle == l.weights.embedding.handle);
    EXPECT(packed(l.weights.head).values == values(embedding, {"model.embed_tokens"}));
    EXPECT_EQ(l.progress.back().bytes_done, l.progress.back().bytes_total);
  }
  Loaded l;
  REQUIRE_OK(load(both, tied, &l));  // stored apart and different: as transformers, not tied
  EXPECT(packed(l.weights.head).values == values(both, {"lm_head"}));
  EXPECT(packed(l.weights.embedding).use == WeightUse::embedding);
}

TEST(load_reward_heads) {
  Loaded l;
  const RawTensors t = llama_tensors();
  REQUIRE_OK(load(t, llama_config(), &l, {3}));
  const std::vector<float> all = values(t, {"lm_head"});
  EXPECT_EQ(l.weights.head.weight.rows, 1);
  EXPECT_EQ(l.weights.head.weight.cols, 8);
  EXPECT(packed(l.weights.head).values == std::vector<float>(all.begin() + 24, all.begin() + 32));

  Loaded several;  // in the order given; the tensor is counted once
  REQUIRE_OK(load(t, llama_config(), &several, {19, 3}));
  std::vector<float> both(all.end() - 8, all.end());
  both.insert(both.end(), all.begin() + 24, all.begin() + 32);
  EXPECT(packed(several.weights.head).values == both);
  EXPECT_EQ(several.progress.back().bytes_done, l.progress.back().bytes_done);
  EXPECT_EQ(several.progress.back().bytes_total, l.progress.back().bytes_total);

  Loaded tied;  // the row of a tied head is one of the embedding
  RawTensors e = t;
  e.erase("lm_head.weight");
  REQUIRE_OK(load(e, llama_config().set("tie_word_embeddings", "true"), &tied, {19}));
  const std::vector<float> rows = values(e, {"model.embed_tokens"});
  EXPECT(packed(tied.weights.head).values == std::vector<float>(rows.end() - 8, rows.end()));
  EXPECT(packed(tied.weights.embedding).use == WeightUse::embedding);

  Loaded fp8;  // a quantised head: the row's own scale
  RawTensors q = t;
  q["lm_head.weight"] = fp8_tensor({20, 8});
  std::vector<float> scales;
  for (int i = 0; i < 20; ++i) scales.push_back(1.0f + float(i));
  q["lm_head.weight_scale"] = f32_tensor({20, 1}, scales);
  REQUIRE_OK(
      load(q, llama_config().set("quantization_config", R"({"quant_algo": "FP8"})"), &fp8, {5}));
  const std::vector<float> scaled = values(q, {"lm_head"});
  EXPECT(packed(fp8.weights.head).values ==
         std::vector<float>(scaled.begin() + 40, scaled.begin() + 48));

  Loaded scores;
  RawTensors c = t;
  c["score.weight"] = bf16_tensor({2, 8}, 9);
  REQUIRE_OK(load(c, llama_config().set("architectures", "[\"LlamaForSequenceClassification\"]"),
                  &scores));
  EXPECT(packed(scores.weights.head).values == values(c, {"score"}));
}

TEST(load_kv_scales) {
  RawTensors t = llama_tensors();
  for (const std::string layer : {"0", "1"}) {
    t["model.layers." + layer + ".self_attn.k_proj.k_scale"] =
        f32_tensor({}, {layer == "0" ? 1.5f : 2.5f});
    t["model.layers." + layer + ".self_attn.v_proj.v_scale"] = f32_tensor({1}, {3.0f});
  }
  Loaded l;
  REQUIRE_OK(load(t, llama_config(), &l));
  EXPECT(l.weights.k_scale == (std::vector<float>{1.5f, 2.5f}));
  EXPECT(l.weights.v_scale == (std::vector<float>{3.0f, 3.0f}));
  RawTensors legacy = llama_tensors();
  for (const std::string layer : {"0", "1"}) {
    legacy["model.layers." + layer + ".self_attn.kv_scale"] = f32_tensor({}, {2.0f});
  }
  Loaded m;
  REQUIRE_OK(load(legacy, llama_config(), &m));
  EXPECT(m.weights.k_scale == (std::vector<float>{2.0f, 2.0f}));
  EXPECT(m.weights.v_scale == (std::vector<float>{2.0f, 2.0f}));
}

TEST(load_says_what_did_not_fit) {
  Loaded l;
  l.device.packs_left = 4;
  const Status s = load(llama_tensors(), llama_config(), &l);
  EXPECT(s.code() == Code::out_of_memory);
  EXPECT_ERROR(s, "packing layer 0 gate_up: no memory for 1 byte");
}

}  // namespace
}  // namespace nemotron
