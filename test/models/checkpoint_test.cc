#include "models/checkpoint/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>

#include "../check.h"
#include "device/shares.h"
#include "fixture.h"
#include "models/sources.h"

namespace nemotron {
namespace {

using namespace test;

Status open(const TempDir& dir) {
  std::unique_ptr<Checkpoint> checkpoint;
  return Checkpoint::open(dir.path(), &checkpoint);
}
Status open_bytes(const std::string& bytes) {
  TempDir dir;
  dir.write("model.safetensors", bytes);
  return open(dir);
}
Status open_header(const std::string& header, const std::string& data) {
  return open_bytes(safetensors_bytes(header, data));
}

// Opens and checks `tensors` against the config.
Status check(const RawTensors& tensors, const Members& config_text = llama_config(),
             std::vector<int32_t> rows = {}) {
  TempDir dir;
  dir.write("config.json", config_text.text());
  dir.write("model.safetensors", safetensors_bytes(tensors));
  ModelConfig config;
  if (Status s = read_model_config(dir.path(), rows, &config); !s) return s;
  std::unique_ptr<Checkpoint> checkpoint;
  if (Status s = Checkpoint::open(dir.path(), &checkpoint); !s) return s;
  return check_checkpoint(*checkpoint, config);
}

const char* kModelOpt = R"({"quant_method": "modelopt", "quant_algo": "FP8"})";

TEST(checkpoint_single_file) {
  TempDir dir;
  const RawTensors tensors = llama_tensors();
  dir.write("model.safetensors", safetensors_bytes(tensors));
  std::unique_ptr<Checkpoint> c;
  REQUIRE_OK(Checkpoint::open(dir.path(), &c));
  EXPECT_EQ(c->tensors().size(), tensors.size());
  EXPECT_EQ(c->path(), dir.file("model.safetensors"));
  size_t total = 0;
  for (const auto& [name, raw] : tensors) {
    const StoredTensor* t = c->find(name);
    REQUIRE(t != nullptr);
    EXPECT(t->served && t->dtype == DType::bf16);
    EXPECT_EQ(t->dtype_name, "BF16");
    EXPECT(t->shape == raw.shape);
    EXPECT_EQ(t->file, dir.file("model.safetensors"));
    REQUIRE_EQ(t->bytes, raw.bytes.size());
    c->will_need(*t);
    REQUIRE_OK(c->fetch(*t));
    EXPECT(std::memcmp(t->data, raw.bytes.data(), t->bytes) == 0);
    total += t->bytes;
    c->release(*t);  // the bytes come back when they are asked for again
    REQUIRE_OK(c->fetch(*t));
    EXPECT(std::memcmp(t->data, raw.bytes.data(), t->bytes) == 0);
  }
  EXPECT_EQ(c->total_bytes(), total);
  EXPECT(c->find("lm_head") == nullptr);
}

// Somebody truncates the file while it loads: an error that says so, wherever the cut is.
TEST(checkpoint_truncated_while_loading) {
  TempDir dir;
  const std::string file = dir.file("model.safetensors");
  const RawTensors tensors = fp8_llama_tensors(true);
  const std::string bytes = safetensors_bytes(tensors);
  ModelConfig config;
  dir.write("config.json",
            llama_config().set("quantization_config", R"({"quant_algo": "FP8"})").text());
  REQUIRE_OK(read_model_config(dir.path(), {}, &config));
  for (size_t size = 0; size < bytes.size(); size += 37) {
    dir.write("model.safetensors", bytes);
    std::unique_ptr<Checkpoint> c;
    REQUIRE_OK(Checkpoint::open(dir.path(), &c));
    std::filesystem::resize_file(file, size);
    size_t failed = 0;
    for (const StoredTensor& t : c->tensors()) {
      const Status s = c->fetch(t);
      if (s) EXPECT(std::memcmp(t.data, tensors.at(t.name).bytes.data(), t.bytes) == 0);
      if (!s) EXPECT_ERROR(s, file + ": ends at byte ");
      failed += !s;
    }
    EXPECT(failed > 0);
    // What the check reads is gone in part or not; either way it ends with an answer.
    const Status s = check_checkpoint(*c, config);
    if (!s) EXPECT_ERROR(s, "truncated while loading");
  }
}

// Large enough for several readers: what they bring is the file, and each of them sees its end.
TEST(checkpoint_reads_on_several_threads) {
  const MatrixRange columns = {10, 2000, 512, 3072};
  TempDir dir;
  RawTensor raw{"BF16", {2048, 6144}, std::string(size_t(2048) * 6144 * 2, ' ')};
  for (size_t i = 0; i < raw.bytes.size(); ++i) raw.bytes[i] = char(i * 2654435761u >> 24);
  dir.write("model.safetensors", safetensors_bytes({{"a", raw}}));
  std::unique_ptr<Checkpoint> c;
  REQUIRE_OK(Checkpoint::open(dir.path(), &c));
  const StoredTensor& t = *c->find("a");
  REQUIRE_OK(c->fetch(t));
  EXPECT(std::memcmp(t.data, raw.bytes.data(), t.bytes) == 0);
  c->release(t);
  REQUIRE_OK(c->fetch(t, columns));
  for (int64_t row = columns.first_row; row < columns.first_row + columns.rows; ++row) {
    const size_t at = size_t(row * t.shape[1] + columns.first_col) * 2;
    EXPECT(std::memcmp(t.data + at, raw.bytes.data() + at, size_t(columns.cols) * 2) == 0);
  }
  c->release(t);
  std::vector<uint8_t> read(t.bytes);
  REQUIRE_OK(c->read(t, columns, read.data()));
  for (int64_t row = 0; row < columns.rows; ++row) {
    const size_t at = size_t((columns.first_row + row) * t.shape[1] + columns.first_col) * 2;
    const size_t bytes = size_t(columns.cols) * 2;
    EXPECT(std::memcmp(read.data() + size_t(row) * bytes, raw.bytes.data() + at, bytes) == 0);
  }
  const MatrixRange rows = {40, 2000, 0, 6144};
  REQUIRE_OK(c->read(t, rows, read.data()));
  EXPECT(std::memcmp(read.data(), raw.bytes.data() + 40 * 6144 * 2, size_t(2000) * 6144 * 2) == 0);
  std::filesystem::resize_file(t.file, t.bytes - 100);
  EXPECT_ERROR(c->fetch(t), "truncated while loading");
  EXPECT_ERROR(c->fetch(t, {1000, 1048, 512, 5632}), "truncated while loading");
  EXPECT_ERROR(c->read(t, {1000, 1048, 512, 5632}, read.data()), "truncated while loading");
  REQUIRE_OK(c->fetch(t, {0, 1000, 0, 6144}));
}

// Each row once and in its place, whoever copies it; nothing beside them.
TEST(rows_are_copied_by_several_threads) {
  constexpr size_t kRows = 4099, kBytes = 6000, kStride = 6016;
  std::vector<uint8_t> from(kRows * kStride);
  for (size_t i = 0; i < from.size(); ++i) from[i] = uint8_t(i * 2654435761u >> 24);
  for (const size_t stride : {kBytes, kStride}) {
    std::vector<uint8_t> to(kRows * kBytes + 1, 7);
    copy_rows(to.data(), from.data(), kRows, kBytes, stride);
    size_t same = 0;
    for (size_t row = 0; row < kRows; ++row) {
      same += std::memcmp(&to[row * kBytes], &from[row * stride], kBytes) == 0;
    }
    EXPECT_EQ(same, kRows);
    EXPECT_EQ(int(to.back()), 7);
  }
  // The first error, and every share all the same.
  std::atomic<size_t> done = 0, shares = 0;
  const Status s = in_shares(size_t(1) << 30, [&](size_t i, size_t of) -> Status {
    shares = of;
    ++done;
    return i + 1 == of ? Status::invalid("the last one") : Status();
  });
  EXPECT_ERROR(s, "the last one");
  EXPECT_EQ(done.load(), shares.load());
  EXPECT(shares <= kMostShares);
}

TEST(largest_magnitude_of_every_dtype) {
  const auto check = [](DType dtype, auto bits_of) {
    const std::vector<float> values = {900, 0.25f, -3, NAN, 2, -7.5f, NAN, 1, 1e-30f, -INFINITY};
    std::string bytes = "?";  // at an odd address
    for (const float v : values) {
      const auto bits = bits_of(v);
      bytes.append(reinterpret_cast<const char*>(&bits), sizeof bits);
    }
    StoredTensor t;
    t.dtype = dtype;
    t.data = reinterpret_cast<const uint8_t*>(bytes.data()) + 1;
    EXPECT_EQ(largest_magnitude(t, 1, 2), 3.0f);
    EXPECT_EQ(largest_magnitude(t, 1, 5), 7.5f);
    EXPECT_EQ(largest_magnitude(t, 3, 1), 0.0f);
    EXPECT_EQ(largest_magnitude(t, 0, 9), stored_value(t, 0));
    EXPECT_EQ(largest_magnitude(t, 5, 5), INFINITY);
    EXPECT_EQ(largest_magnitude(t, 8, 0), 0.0f);
  };
  check(DType::f32, [](float v) { return v; });
  check(DType::bf16, [](float v) { return f32_to_bf16(v); });
  check(DType::f16, [](float v) {
    const float of[] = {900, 0.25f, -3, 2, -7.5f, 1, 1e-30f, -INFINITY};
    const uint16_t bits[] = {0x6308, 0x3400, 0xc200, 0x4000, 0xc780, 0x3c00, 0, 0xfc00};
    const auto* found = std::ranges::find(of, v);
    return found == std::end(of) ? uint16_t(0x7e00) : bits[found - of];
  });
}

TEST(checkpoint_empty_and_scalar_tensors) {
  TempDir dir;
  dir.write("model.safetensors", safetensors_bytes({{"empty", {"F32", {0, 4}, ""}},
                                                    {"s", f32_tensor({}, {2.5f})},
                                                    {"z", {"BF16", {0}, ""}}}));
  std::unique_ptr<Checkpoint> c;
  REQUIRE_OK(Checkpoint::open(dir.path(), &c));
  EXPECT_EQ(c->find("empty")->elements, 0);
  EXPECT_EQ(c->find("s")->elements, 1);
  dir.write("model.safetensors", safetensors_bytes("{}   ", ""));
  EXPECT_OK(Checkpoint::open(dir.path(), &c));
}

TEST(checkpoint_sharded) {
  TempDir dir;
  RawTensors a, b;
  std::string map;
  for (const auto& [name, t] : llama_tensors()) {
    const bool first = name < "model.layers.1";
    (first ? a : b)[name] = t;
    map += (map.empty() ? "" : ",") + ("\"" + name) + "\":\"model-0000" + (first ? "1" : "2") +
           "-of-00002.safetensors\"";
  }
  dir.write("real-blob", safetensors_bytes(a));  // as in the hub's cache: a symbolic link
  std::filesystem::create_symlink(dir.file("real-blob"),
                                  dir.file("model-00001-of-00002.safetensors"));
  dir.write("model-00002-of-00002.safetensors", safetensors_bytes(b));
  const std::string index = "{\"metadata\":{\"total_size\":1},\"weight_map\":{" + map + "}}";
  dir.write("model.safetensors.index.json", index);
  std::unique_ptr<Checkpoint> c;
  REQUIRE_OK(Checkpoint::open(dir.path(), &c));
  EXPECT_EQ(c->tensors().size(), llama_tensors().size());
  EXPECT_EQ(c->find("model.norm.weight")->file, dir.file("model-00002-of-00002.safetensors"));
  EXPECT_EQ(c->find("lm_head.weight")->file, dir.file("model-00001-of-00002.safetensors"));

  // A shard that is not there.
  std::filesystem::remove(dir.file("model-00002-of-00002.safetensors"));
  Status s = open(dir);
  EXPECT(s.code() == Code::not_found);
  EXPECT_ERROR(s, "index.json: " + dir.file("model-00002-of-00002.safetensors") + ": No such file");
  // A tensor that is not in the shard where the index says.
  RawTensors fewer = b;
  fewer.erase("model.norm.weight");
  dir.write("model-00002-of-00002.safetensors", safetensors_bytes(fewer));
  EXPECT_ERROR(open(dir),
               "model-00002-of-00002.safetensors: tensor \"model.norm.weight\" is missing; ");
  // A tensor in two shards.
  b["lm_head.weight"] = a["lm_head.weight"];
  dir.write("model-00002-of-00002.safetensors", safetensors_bytes(b));
  EXPECT_ERROR(open(dir), "tensor \"lm_head.weight\" is also in " + dir.file("model-0000"));
}

TEST(checkpoint_index_errors) {
  TempDir dir;
  const auto with = [&](const std::string& index) {
    dir.write("model.safetensors.index.json", index);
    return open(dir);
  };
  EXPECT_ERROR(with("{}"),
               "model.safetensors.index.json: \"weight_map\" is missing; expected an object");
  EXPECT_ERROR(with("{\"weight_map\": 5}"), "\"weight_map\" is 5; expected an object");
  EXPECT_ERROR(with("{\"weight_map\": {}}"), "\"weight_map\" is an object; expected");
  EXPECT_ERROR(with("{\"weight_map\": "), "model.safetensors.index.json: line 1, column 16");
  for (const char* name : {"../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".", "",
                           "a\\\\b", "a\\u0000b"}) {
    EXPECT_ERROR(with("{\"weight_map\": {\"t\": \"" + std::string(name) + "\"}}"),
                 "\"weight_map\": tensor \"t\" lies in \"");
  }
  EXPECT_ERROR(with("{\"weight_map\": {\"t\": 7}}"),
               "lies in 7; expected the name of a file beside it");
}

TEST(checkpoint_no_file) {
  TempDir dir;
  const Status s = open(dir);
  EXPECT(s.code() == Code::not_found);
  EXPECT_ERROR(s, dir.path() + ": neither model.safetensors nor model.safetensors.index.json");
  std::filesystem::create_directory(dir.file("model.safetensors"));
  EXPECT_ERROR(open(dir), "model.safetensors: not a regular file");
}

TEST(safetensors_truncated_and_oversized_headers) {
  const std::string whole = safetensors_bytes(llama_tensors());
  EXPECT_ERROR(open_bytes(""), "model.safetensors: 0 bytes; expected at least 8");
  EXPECT_ERROR(open_bytes("1234567"), "7 bytes; expected at least 8");
  EXPECT_ERROR(open_bytes(whole.substr(0, 100)), "bytes in a file of 100; the file is truncated");
  EXPECT_ERROR(open_bytes(whole.substr(0, whole.size() - 1)), "expected a range within the");
  EXPECT_ERROR(open_bytes(whole + "x"), "bytes of data; expected");
  EXPECT_ERROR(open_bytes(std::string(8, '\xff') + "{}"),
               "a header of 18446744073709551615 bytes; expected at most 100000000");
  EXPECT_ERROR(open_bytes(safetensors_bytes("", "")), "the header does not begin with '{'");
  EXPECT_ERROR(open_bytes(safetensors_bytes(" {}", "")), "the header does not begin with '{'");
  EXPECT_ERROR(open_bytes(safetensors_bytes("{\"a\":", "")),
               "model.safetensors: header: line 1, column 6");
  EXPECT_ERROR(open_bytes(safetensors_bytes("{\"a\":1,\"a\":1}", "")), "duplicate member \"a\"");
  EXPECT_ERROR(open_bytes("version https://git-lfs.github.com/spec/v1\n"),
               "not a safetensors file?");
}

TEST(safetensors_bad_tensors) {
  const auto with = [](const std::string& info, size_t bytes) {
    return open_header("{\"t\":" + info + "}", std::string(bytes, '\0'));
  };
  EXPECT_OK(with(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 8));
  EXPECT_ERROR(with("3", 0), "model.safetensors: tensor \"t\": found 3, expected an object");
  EXPECT_ERROR(with(R"({"shape":[2],"data_offsets":[0,8]})", 8),
               "tensor \"t\": \"dtype\" is missing");
  EXPECT_ERROR(with(R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})", 8),
               "unknown dtype \"F31\"");
  EXPECT_ERROR(with(R"({"dtype":"F32","data_offsets":[0,8]})", 8), "\"shape\" is missing");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", 8), "\"shape\" has -2");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", 8), "\"shape\" has 2");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})", 8),
               "overflows 64 bits");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]})", 8),
               "overflows 64 bits");
  EXPECT_ERROR(with(R"({"dtype":"U8","shape":[9223372036854775807,2],"data_offsets":[0,8]})", 8),
               "overflows 64 bits");
  EXPECT_ERROR(with(R"({"dtype":"F4","shape":[3],"data_offsets":[0,2]})", 2),
               "not a whole number of bytes");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[2]})", 8), "\"data_offsets\" is missing");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", 8),
               "not a pair of integers");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8),
               "\"data_offsets\" is [8, 0]; expected a range within the 8 bytes");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", 8),
               "\"data_offsets\" is [-8, 0]");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[2],"data_offsets":[0,9223372036854775807]})", 8),
               "expected a range within");
  EXPECT_ERROR(with(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", 4),
               "[0, 4], 4 bytes; expected 8 bytes");
  EXPECT_ERROR(open_header(R"({"__metadata__":5})", ""), "\"__metadata__\" is 5");
}

TEST(safetensors_gaps_and_overlaps) {
  const auto two = [](const char* a, const char* b, size_t bytes) {
    return open_header(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + a +
                           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                       std::string(bytes, '\0'));
  };
  EXPECT_OK(two("[4,8]", "[0,4]", 8));
  EXPECT_ERROR(two("[0,4]", "[2,6]", 6),
               "tensor \"b\" begins at byte 2 of the data; expected 4, the end of tensor \"a\" "
               "(they overlap)");
  EXPECT_ERROR(two("[0,4]", "[0,4]", 4), "(they overlap)");
  EXPECT_ERROR(
      two("[0,4]", "[6,10]", 10),
      "tensor \"b\" begins at byte 6 of the data; expected 4, the end of tensor \"a\" (a gap)");
  EXPECT_ERROR(
      two("[1,5]", "[5,9]", 9),
      "tensor \"a\" begins at byte 1 of the data; expected 0, the start of the data (a gap)");
  EXPECT_ERROR(two("[0,4]", "[4,8]", 9), "9 bytes of data; expected 8, the end of the last tensor");
}

// --- against the config ---

TEST(check_refuses_scales_that_nobody_reads) {
  for (const char* name :
       {"self_attn.k_proj.output_scale", "self_attn.q_proj.weight_scale_inv", "self_attn.q_scale",
        "mlp.up_proj.weight_zero_point", "mlp.down_proj.pre_quant_scale", "self_attn.K_SCALE",
        "mlp.up_proj.qzeros", "mlp.up_proj.SCB", "mlp.up_proj.weight.absmax"}) {
    RawTensors t = llama_tensors();
    t[std::string("model.layers.1.") + name] = f32_tensor({1}, {0.5f});
    EXPECT_ERROR(check(t), std::string(name) + "\" is F32 [1]; expected no such tensor");
  }
  // The module is no part of the model: neither is its scale.
  RawTensors t = llama_tensors();
  t["vision.weight"] = f32_tensor({1}, {1});
  t["vision.weight_scale"] = f32_tensor({1}, {0.5f});
  EXPECT_OK(check(t));
}

TEST(check_refuses_parts_of_another_model) {
  for (const char* name : {"self_attn.q_norm.weight", "self_attn.k_norm.weight",
                           "post_feedforward_layernorm.weight"}) {
    RawTensors t = llama_tensors();
    t[std::string("model.layers.1.") + name] = f32_tensor({1}, {0.5f});
    EXPECT_ERROR(check(t), std::string(name) + "\" is F32 [1]; expected no such tensor (a norm");
  }
  RawTensors t = llama_tensors();
  t["base_model.model.layers.1.mlp.up_proj.lora_A.weight"] = f32_tensor({1}, {0.5f});
  EXPECT_ERROR(check(t), "expected no adapter: merge it into the weights");
}

TEST(check_accepts_what_belongs_together) {
  EXPECT_OK(check(llama_tensors()));
  // F32 and F16 parts, an old buffer nobody needs, an integer one.
  RawTensors t = llama_tensors();
  t["model.norm.weight"] = f32_tensor({8}, std::vector<float>(8, 1.0f));
  t["lm_head.weight"].dtype = "F16";
  t["model.layers.0.self_attn.rotary_emb.inv_freq"] = f32_tensor({3}, {1, 2, 3});
  t["position_ids"] = {"I64", {1}, std::string(8, '\0')};
  EXPECT_OK(check(t));
  // A base model saved by itself has no prefix.
  RawTensors bare;
  for (const auto& [name, tensor] : llama_tensors()) {
    bare[name.rfind("model.", 0) == 0 ? name.substr(6) : name] = tensor;
  }
  EXPECT_OK(check(bare));
}

TEST(check_names_missing_and_wrong_tensors) {
  RawTensors t = llama_tensors();
  t.erase("model.layers.1.self_attn.q_proj.weight");
  EXPECT_ERROR(check(t),
               "model.safetensors: tensor \"model.layers.1.self_attn.q_proj.weight\" is missing");
  t["model.norm.weight"] = bf16_tensor({9}, 1);
  EXPECT_ERROR(check(t), "2 tensors are missing or wrong: ");
  EXPECT_ERROR(
      check(t),
      "model.safetensors: tensor \"model.norm.weight\" is BF16 [9]; expected BF16, F16 or F32 [8]");
  t = llama_tensors();
  t["model.layers.0.mlp.up_proj.weight"] = bf16_tensor({8, 12}, 1);
  EXPECT_ERROR(check(t),
               "tensor \"model.layers.0.mlp.up_proj.weight\" is BF16 [8, 12]; expected BF16, F16 "
               "or F32 [12, 8]");
  t["model.layers.0.mlp.up_proj.weight"] = {"I8", {12, 8}, std::string(96, '\0')};
  EXPECT_ERROR(check(t), "is I8 [12, 8]; expected BF16, F16 or F32 [12, 8]");
  // Many: the first five and the number.
  t = {};
  t["lm_head.weight"] = bf16_tensor({20, 8}, 1);
  EXPECT_ERROR(check(t), "20 tensors are missing or wrong: ");
  EXPECT_ERROR(check(t), "; ...");
}

TEST(check_refuses_tensors_that_change_the_model) {
  RawTensors t = llama_tensors();
  t["model.layers.0.self_attn.q_proj.bias"] = bf16_tensor({24}, 1);
  EXPECT_ERROR(check(t),
               "tensor \"model.layers.0.self_attn.q_proj.bias\" is BF16 [24]; expected no .bias");
  t = llama_tensors();
  t["model.layers.2.input_layernorm.weight"] = bf16_tensor({8}, 1);
  EXPECT_ERROR(check(t),
               "\"model.layers.2.input_layernorm.weight\" is of layer 2; expected layers below 2");
}

TEST(check_tied_heads) {
  const Members tied = llama_config().set("tie_word_embeddings", "true");
  RawTensors t = llama_tensors();
  EXPECT_OK(check(t, tied));  // two different ones: used as they are
  t["lm_head.weight"] = t["model.embed_tokens.weight"];
  EXPECT_OK(check(t, tied));
  t.erase("model.embed_tokens.weight");
  EXPECT_OK(check(t, tied));
  EXPECT_ERROR(check(t), "tensor \"model.embed_tokens.weight\" is missing");
  t = llama_tensors();
  t.erase("lm_head.weight");
  EXPECT_OK(check(t, tied));
  EXPECT_ERROR(check(t), "tensor \"lm_head.weight\" is missing");
}

TEST(check_fp8) {
  const Members fp8 = llama_config().set("quantization_config", kModelOpt);
  const std::string module = "model.layers.0.mlp.up_proj";
  for (const bool per_row : {false, true}) {
    EXPECT_OK(check(fp8_llama_tensors(per_row), fp8));
    RawTensors t = fp8_llama_tensors(per_row);
    EXPECT_ERROR(check(t),
                 "is F8_E4M3 [24, 8]; expected BF16, F16 or F32 [24, 8] (config.json names no FP8");
    // A layer that was left out of quantisation, whatever the ignore list says.
    t[module + ".weight"] = bf16_tensor({12, 8}, 1);
    EXPECT_ERROR(check(t, fp8), "tensor \"" + module + ".weight_scale\" is F32");
    EXPECT_ERROR(check(t, fp8), "expected none, since " + module + ".weight is BF16");
    t.erase(module + ".weight_scale");
    EXPECT_OK(check(t, fp8));
    t = fp8_llama_tensors(per_row);
    t.erase(module + ".weight_scale");
    EXPECT_ERROR(check(t, fp8), "tensor \"" + module + ".weight_scale\" is missing");
  }
  RawTensors t = fp8_llama_tensors(true);
  t[module + ".weight_scale"] = f32_tensor({11, 1}, std::vector<float>(11, 1.0f));
  EXPECT_ERROR(check(t, fp8),
               "is F32 [11, 1]; expected F32, BF16 or F16 with one value or [12, 1]");
  t[module + ".weight_scale"] = f32_tensor({1, 12}, std::vector<float>(12, 1.0f));
  EXPECT_ERROR(check(t, fp8), "is F32 [1, 12]; expected");
  t[module + ".weight_scale"] = bf16_tensor({12}, 1);
  EXPECT_OK(check(t, fp8));
  t["model.embed_tokens.weight"] = fp8_tensor({20, 8});
  EXPECT_ERROR(check(t, fp8),
               "\"model.embed_tokens.weight\" is F8_E4M3 [20, 8]; expected BF16, F16 or F32");
}

TEST(check_bad_scales) {
  const Members fp8 = llama_config().set("quantization_config", kModelOpt);
  for (const float bad : {NAN, INFINITY, -INFINITY, 0.0f, -1.0f}) {
    for (const std::string name : {"mlp.up_proj.weight_scale", "mlp.up_proj.input_scale"}) {
      RawTensors t = fp8_llama_tensors(false);
      t["model.layers.0." + name] = f32_tensor({1}, {bad});
      EXPECT_ERROR(check(t, fp8), "tensor \"model.layers.0." + name + "\" has the scale " +
                                      std::to_string(bad) +
                                      " at 0; expected a finite number above 0");
    }
    RawTensors t = fp8_llama_tensors(true);
    std::vector<float> scales(12, 1.0f);
    scales[7] = bad;
    t["model.layers.1.mlp.up_proj.weight_scale"] = f32_tensor({12, 1}, scales);
    EXPECT_ERROR(check(t, fp8), " at 7; expected a finite number above 0");
  }
}

TEST(check_kv_scales) {
  RawTensors t = llama_tensors();
  const auto add = [&](const std::string& layer, float k) {
    t["model.layers." + layer + ".self_attn.k_proj.k_scale"] = f32_tensor({}, {k});
    t["model.layers." + layer + ".self_attn.v_proj.v_scale"] = f32_tensor({1}, {2.0f});
  };
  add("0", 1.5f);
  EXPECT_ERROR(check(t), "only 2 of 4 KV cache scales");
  add("1", 1.5f);
  EXPECT_OK(check(t));
  add("1", NAN);
  EXPECT_ERROR(check(t), "tensor \"model.layers.1.self_attn.k_proj.k_scale\" has the scale nan");
}

TEST(check_reward_heads) {
  const Members m = llama_config().set("architectures", "[\"LlamaForSequenceClassification\"]");
  RawTensors t = llama_tensors();
  t.erase("lm_head.weight");
  EXPECT_ERROR(check(t, m), "tensor \"score.weight\" is missing");
  t["score.weight"] = bf16_tensor({2, 8}, 1);
  EXPECT_OK(check(t, m));
  t["score.weight"] = bf16_tensor({3, 8}, 1);
  EXPECT_ERROR(check(t, m),
               "tensor \"score.weight\" is BF16 [3, 8]; expected BF16, F16 or F32 [2, 8]");
  t["score.weight"] = bf16_tensor({2, 8}, 1);
  t["score.bias"] = bf16_tensor({2}, 1);
  EXPECT_ERROR(check(t, m), "\"score.bias\"");
  EXPECT_OK(check(llama_tensors(), llama_config(), {0}));
}

}  // namespace
}  // namespace nemotron
