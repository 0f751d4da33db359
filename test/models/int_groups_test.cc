// What GPTQ and AWQ folders may not be: each error names the tensor or the field, what was found
// and what is expected.
#include <functional>
#include <memory>

#include "../check.h"
#include "fixture.h"
#include "models/checkpoint/checkpoint.h"
#include "models/config.h"

namespace nemotron::test {
namespace {

RawTensor words(const std::vector<int64_t>& shape, uint32_t word) {
  RawTensor t{"I32", shape, {}};
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  for (int64_t i = 0; i < n; ++i) t.bytes.append(reinterpret_cast<const char*>(&word), 4);
  return t;
}

struct Folder {
  Members config =
      llama_config().set("quantization_config",
                         R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": true})");
  RawTensors tensors = llama_tensors();
  // One matrix [16, 64].
  Folder() {
    RawTensor scales{"F16", {2, 16}, {}};
    for (int i = 0; i < 32; ++i) scales.bytes += std::string("\x00\x3c", 2);
    RawTensor order{"I32", {64}, {}};
    for (int32_t i = 0; i < 64; ++i) {
      const int32_t group = i / 32;
      order.bytes.append(reinterpret_cast<const char*>(&group), 4);
    }
    tensors["x.qweight"] = words({8, 16}, 0x76543210);
    tensors["x.qzeros"] = words({2, 2}, 0x77777777);
    tensors["x.scales"] = scales;
    tensors["x.g_idx"] = order;
  }
  Status open(std::unique_ptr<Checkpoint>* out) {
    dir.write("config.json", config.text());
    dir.write("model.safetensors", safetensors_bytes(tensors));
    return Checkpoint::open(dir.path(), out);
  }
  TempDir dir;
};

TEST(int_groups_widen_to_bf16) {
  Folder folder;
  std::unique_ptr<Checkpoint> c;
  REQUIRE_OK(folder.open(&c));
  const StoredTensor* t = c->find("x.weight");
  REQUIRE(t != nullptr);
  EXPECT((t->shape == std::vector<int64_t>{16, 64}));
  EXPECT(c->find("x.qweight") == nullptr);
  REQUIRE(c->grouped(*t) != nullptr);
  REQUIRE_OK(c->fetch(*t));
  for (int i = 0; i < 16 * 64; ++i) {
    uint16_t half = 0;
    std::memcpy(&half, t->data + 2 * i, 2);
    EXPECT_EQ(bf16_to_f32(half), float(i % 8 - 8));
  }
  c->release(*t);
  // The others are as they were.
  const StoredTensor* norm = c->find("model.norm.weight");
  REQUIRE(norm != nullptr);
  REQUIRE_OK(c->fetch(*norm));
  EXPECT_EQ(std::memcmp(norm->data, folder.tensors["model.norm.weight"].bytes.data(), norm->bytes),
            0);
}

void refused(const std::function<void(Folder*)>& change, std::initializer_list<const char*> named) {
  Folder folder;
  change(&folder);
  std::unique_ptr<Checkpoint> c;
  Status s = folder.open(&c);
  if (s) s = c->fetch_grouped(*c->find("x.weight"), {0, 16, 0, 64});
  for (const char* text : named) EXPECT_ERROR(s, text);
}
void refused(const std::string& block, std::initializer_list<const char*> named) {
  refused([&](Folder* f) { f->config.set("quantization_config", block); }, named);
  // And by who reads the config alone.
  TempDir dir;
  dir.write("config.json", llama_config().set("quantization_config", block).text());
  ModelConfig config;
  const Status s = read_model_config(dir.path(), {}, &config);
  for (const char* text : named) EXPECT_ERROR(s, text);
}

TEST(int_groups_name_a_wrong_tensor) {
  refused([](Folder* f) { f->tensors.erase("x.qzeros"); },
          {"x.qweight", "has no .qzeros", "I32 [2, 2]"});
  refused(
      [](Folder* f) {
        f->tensors["x.qzeros"] = words({2, 3}, 0);
      },
      {"x.qzeros", "I32 [2, 3]", "expected I32 [2, 2]"});
  refused(
      [](Folder* f) {
        f->tensors["x.scales"].shape = {16, 2};
      },
      {"x.scales", "F16 [16, 2]", "expected F16 or BF16 [2, 16]"});
  refused(
      [](Folder* f) {
        f->tensors["x.qweight"] = words({7, 16}, 0);
      },
      {"x.qweight", "[16, 56]", "groups of 32"});
  refused(
      [](Folder* f) {
        f->tensors["x.qweight"] = bf16_tensor({8, 16}, 0);
      },
      {"x.qweight", "BF16 [8, 16]", "expected I32"});
  refused([](Folder* f) { f->tensors["x.g_idx"].bytes[4] = 1; },
          {"x.g_idx", "has 1 at 1; expected 0", "desc_act"});
  refused(
      [](Folder* f) {
        f->tensors["x.qzeros"] = words({2, 2}, 0x77776777);
      },
      {"x.qzeros", "has 6 at [0, 3]; expected 7", "\"sym\""});
  refused([](Folder* f) { f->tensors["x.scales"].bytes.replace(4, 2, std::string("\x00\x7c", 2)); },
          {"x.scales", "inf at [0, 2]", "half float"});
  refused(
      [](Folder* f) {
        f->tensors["x.weight"] = bf16_tensor({16, 64}, 0);
      },
      {"x.weight", "as .weight and as .qweight"});
  refused([](Folder* f) { f->config.drop("quantization_config"); },
          {"config.json", "quant_method", ".qweight"});
  refused(
      [](Folder* f) {
        f->config.set("quantization_config",
                      R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": false})");
        f->tensors["x.qzeros"] = words({2, 2}, 0x777777f7);
      },
      {"x.qzeros", "has 15 at [0, 1]", "expected at most 14"});
}

TEST(int_groups_name_a_wrong_field) {
  refused(R"({"quant_method": "gptq", "bits": 3, "group_size": 128})",
          {"\"bits\" is 3", "served: 4 and 8"});
  refused(R"({"quant_method": "awq", "bits": 8, "group_size": 128})",
          {"\"bits\" is 8", "served: 4"});
  refused(R"({"quant_method": "gptq", "bits": 4, "group_size": -1})",
          {"\"group_size\" is -1", "served: 32, 64 and 128"});
  refused(R"({"quant_method": "gptq", "bits": 8, "group_size": 64, "sym": false})",
          {"8 bits", "groups of 64", "\"sym\" true"});
  refused(R"({"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "marlin"})",
          {"checkpoint_format", "marlin", "gptq_v2"});
  refused(R"({"quant_method": "gptq", "bits": 4, "group_size": 64, "dynamic": {"a": {"bits": 8}}})",
          {"\"dynamic\" is set"});
  refused(R"({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": false})",
          {"\"zero_point\" is false"});
  refused(R"({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemv"})",
          {"\"version\" is", "gemv", "served: \"gemm\""});
}

}  // namespace
}  // namespace nemotron::test
