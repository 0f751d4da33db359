// Folders of GPTQ and AWQ: the three tensors of a matrix checked against each other, and every row
// read, both in groups and widened.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "../models/gguf_fixture.h"
#include "fuzz.h"
#include "memory_checkpoint.h"
#include "models/checkpoint/int_groups.h"
#include "models/checkpoint/safetensors.h"
#include "models/sources.h"

namespace {

using namespace nemotron;
using Method = IntGroups::Method;

constexpr IntGroups kKinds[] = {
    {.method = Method::gptq, .bits = 4, .group = 128, .symmetric = true, .zero_offset = 1},
    {.method = Method::gptq, .bits = 4, .group = 32},
    {.method = Method::gptq, .bits = 8, .group = 128, .zero_offset = 1},
    {.method = Method::awq, .bits = 4, .group = 64},
};
constexpr int64_t kRows = 8, kCols = 128;

void require(bool ok) {
  if (!ok) std::abort();
}

// Codes of the form, each row into buffers of exactly its size.
void read_rows(const GroupedRows& rows, int64_t count) {
  const GroupedForm& form = rows.form();
  const auto cols = size_t(rows.cols());
  std::vector<uint8_t> codes(cols);
  std::vector<uint16_t> scale(cols / size_t(form.scale_every())), least(scale.size());
  std::vector<int8_t> steps(cols / size_t(form.group)), least_steps(steps.size());
  const GroupedRow to{codes.data(), scale.data(), least.data(), steps.data(), least_steps.data()};
  const auto is_code = [&](uint8_t code) { return form.bits == 8 || code >> form.bits == 0; };
  for (int64_t row = 0; row < count; ++row) {
    rows.read(row, to);
    require(std::all_of(codes.begin(), codes.end(), is_code));
  }
}

bool read_all(const Checkpoint& checkpoint) {
  bool is_read = true;
  for (const StoredTensor& t : checkpoint.tensors()) {
    if (!t.served || t.elements == 0 || t.elements > (1 << 16)) continue;
    const GroupedRows* rows = checkpoint.grouped(t);
    const Status fetched = checkpoint.fetch(t);
    require(fetched.ok() || (rows && fetched.message().size() < 1000));
    if (fetched && rows) {
      read_rows(*rows, t.shape[0]);
      for (int64_t i = 0; i < t.elements; ++i) require(std::isfinite(stored_value(t, i)));
    }
    is_read = is_read && fetched;
    checkpoint.release(t);
  }
  return is_read;
}

std::string words(size_t count, uint32_t word) {
  std::string bytes;
  for (size_t i = 0; i < count; ++i) bytes += test::raw(word);
  return bytes;
}

// Zeros of the middle, which every kind takes; `stored` is what a word of them holds.
std::string seed(const IntGroups& kind, uint32_t stored) {
  const int64_t each = 32 / kind.bits, groups = kCols / kind.group;
  const bool awq = kind.method == Method::awq;
  const std::vector<int64_t> codes =
      awq ? std::vector<int64_t>{kCols, kRows / each} : std::vector<int64_t>{kCols / each, kRows};
  std::string scales, order;
  for (int64_t i = 0; i < groups * kRows; ++i) scales += test::raw(uint16_t(0x2c00 + i));
  for (int64_t i = 0; i < kCols; ++i) order += test::raw(int32_t(i / kind.group));
  test::RawTensors tensors = {
      {"m.qweight", {"I32", codes, words(size_t(codes[0] * codes[1]), 0x8f012345u)}},
      {"m.qzeros", {"I32", {groups, kRows / each}, words(size_t(groups * kRows / each), stored)}},
      {"m.scales", {"F16", {groups, kRows}, scales}},
      {"norm.weight", test::f32_tensor({2}, {1, 2})},
  };
  if (!awq) tensors["m.g_idx"] = {"I32", {kCols}, order};
  return test::safetensors_bytes(tensors);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> file(data, data + size);
  std::vector<StoredTensor> tensors;
  if (!read_safetensors(file, "input", &tensors)) return -1;
  bool is_read = false;
  for (const IntGroups& kind : kKinds) {
    std::unique_ptr<Checkpoint> checkpoint;
    const Status opened =
        open_int_groups(std::make_unique<MemoryCheckpoint>(tensors), kind, &checkpoint);
    require(opened.ok() || opened.message().size() < 1000);
    if (opened) is_read = read_all(*checkpoint) || is_read;
  }
  return is_read ? 0 : -1;
}

std::vector<std::string> fuzz_seeds() {
  return {seed(kKinds[0], 0x77777777u), seed(kKinds[1], 0x88888888u), seed(kKinds[2], 0x7f7f7f7fu),
          seed(kKinds[3], 0x88888888u)};
}

std::vector<std::string> fuzz_words() {
  return {"\"I32\"",
          "\"F16\"",
          "\"BF16\"",
          "\"I64\"",
          "\"shape\":[1,2]",
          "[0,8]",
          "[8,0]",
          ".qweight",
          ".qzeros",
          ".scales",
          ".g_idx",
          ".weight",
          "\"m.qweight\"",
          "\"m.weight\"",
          "\"data_offsets\":[0,0]",
          "4611686018427387904",
          "1152921504606846976",
          "null,"};
}

bool fuzz_has_length_prefix() { return true; }
