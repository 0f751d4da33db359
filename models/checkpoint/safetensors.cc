#include "models/checkpoint/safetensors.h"

#include <algorithm>
#include <string_view>

#include "models/checkpoint/json.h"

namespace nemotron {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit

struct StoredDType {
  const char* name;
  int bits;
  bool served;
  DType dtype;
};
constexpr StoredDType kDTypes[] = {
    {"BF16", 16, true, DType::bf16},
    {"F16", 16, true, DType::f16},
    {"F32", 32, true, DType::f32},
    {"F8_E4M3", 8, true, DType::fp8_e4m3},
    {"I32", 32, true, DType::i32},
    {"BOOL", 8, false, {}},
    {"U8", 8, false, {}},
    {"I8", 8, false, {}},
    {"F8_E5M2", 8, false, {}},
    {"F8_E8M0", 8, false, {}},
    {"I16", 16, false, {}},
    {"U16", 16, false, {}},
    {"U32", 32, false, {}},
    {"F64", 64, false, {}},
    {"I64", 64, false, {}},
    {"U64", 64, false, {}},
    {"C64", 64, false, {}},
    {"F4", 4, false, {}},
    {"F6_E2M3", 6, false, {}},
    {"F6_E3M2", 6, false, {}},
};

// False: a * b does not fit.
bool multiply(uint64_t a, uint64_t b, uint64_t* out) { return !__builtin_mul_overflow(a, b, out); }

const Json* string_member(const Json& object, const char* name) {
  const Json* v = object.find(name);
  return v && v->string() ? v : nullptr;
}

// One member of the header. `data` is what follows the header.
Status read_tensor(const std::string& name, const Json& info, std::span<const uint8_t> data,
                   const std::string& path, StoredTensor* out) {
  const std::string where = path + ": tensor " + Json(name).brief() + ": ";
  const auto bad = [&](const std::string& what) { return Status::invalid(where + what); };
  if (!info.object()) return bad("found " + info.brief() + ", expected an object");

  const Json* dtype_name = string_member(info, "dtype");
  if (!dtype_name) return bad("\"dtype\" is missing or not a string");
  const auto* dtype = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                   [&](const auto& d) { return *dtype_name->string() == d.name; });
  if (dtype == std::end(kDTypes)) return bad("unknown dtype " + dtype_name->brief());

  const Json* shape = info.find("shape");
  if (!shape || !shape->array()) return bad("\"shape\" is missing or not an array");
  uint64_t elements = 1, bits = 0;
  for (const Json& dimension : *shape->array()) {
    const int64_t* d = dimension.integer();
    if (!d || *d < 0) return bad("\"shape\" has " + dimension.brief() + "; expected sizes");
    if (!multiply(elements, uint64_t(*d), &elements)) return bad("\"shape\" overflows 64 bits");
    out->shape.push_back(*d);
  }
  if (!multiply(elements, uint64_t(dtype->bits), &bits) || elements > uint64_t(INT64_MAX)) {
    return bad("\"shape\" overflows 64 bits");
  }
  if (bits % 8 != 0) return bad("its size is not a whole number of bytes");

  const Json* offsets = info.find("data_offsets");
  const Json::Array* pair = offsets ? offsets->array() : nullptr;
  if (!pair || pair->size() != 2 || !(*pair)[0].integer() || !(*pair)[1].integer()) {
    return bad("\"data_offsets\" is missing or not a pair of integers");
  }
  const int64_t begin = *(*pair)[0].integer(), end = *(*pair)[1].integer();
  const std::string range = "[" + std::to_string(begin) + ", " + std::to_string(end) + "]";
  if (begin < 0 || end < begin || uint64_t(end) > data.size()) {
    return bad("\"data_offsets\" is " + range + "; expected a range within the " +
               std::to_string(data.size()) + " bytes of data");
  }
  if (uint64_t(end - begin) != bits / 8) {
    return bad("\"data_offsets\" is " + range + ", " + std::to_string(end - begin) +
               " bytes; expected " + std::to_string(bits / 8) + " bytes for its dtype and shape");
  }
  out->name = name;
  out->dtype_name = dtype->name;
  out->served = dtype->served;
  out->dtype = dtype->dtype;
  out->elements = int64_t(elements);
  out->data = data.data() + begin;
  out->bytes = size_t(end - begin);
  out->file = path;
  return {};
}

// Every byte of data belongs to exactly one tensor.
Status check_cover(std::span<const StoredTensor> tensors, std::span<const uint8_t> data,
                   const std::string& path) {
  std::vector<const StoredTensor*> order;
  for (const StoredTensor& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const StoredTensor* a, const StoredTensor* b) {
    return a->data != b->data ? a->data < b->data : a->bytes < b->bytes;
  });
  const uint8_t* next = data.data();
  const StoredTensor* previous = nullptr;
  for (const StoredTensor* t : order) {
    if (t->data != next) {
      const std::string after =
          previous ? "the end of tensor " + Json(previous->name).brief() : "the start of the data";
      return Status::invalid(path + ": tensor " + Json(t->name).brief() + " begins at byte " +
                             std::to_string(t->data - data.data()) + " of the data; expected " +
                             std::to_string(next - data.data()) + ", " + after +
                             (t->data < next ? " (they overlap)" : " (a gap)"));
    }
    next = t->data + t->bytes;
    previous = t;
  }
  if (next != data.data() + data.size()) {
    return Status::invalid(path + ": " + std::to_string(data.size()) + " bytes of data; expected " +
                           std::to_string(next - data.data()) + ", the end of the last tensor");
  }
  return {};
}

}  // namespace

Status safetensors_header(std::span<const uint8_t> file, const std::string& path, size_t* bytes) {
  const auto bad = [&](const std::string& what) { return Status::invalid(path + ": " + what); };
  if (file.size() < kLengthBytes) {
    return bad(std::to_string(file.size()) + " bytes; expected at least 8, the header's length");
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t(file[i]) << (8 * i);
  if (length > kMaxHeader) {
    return bad("a header of " + std::to_string(length) + " bytes; expected at most " +
               std::to_string(kMaxHeader) + " (not a safetensors file?)");
  }
  if (length > file.size() - kLengthBytes) {
    return bad("a header of " + std::to_string(length) + " bytes in a file of " +
               std::to_string(file.size()) + "; the file is truncated");
  }
  if (length == 0 || file[kLengthBytes] != '{') return bad("the header does not begin with '{'");
  *bytes = size_t(kLengthBytes + length);
  return {};
}

Status read_safetensors(std::span<const uint8_t> file, const std::string& path,
                        std::vector<StoredTensor>* out) {
  const auto bad = [&](const std::string& what) { return Status::invalid(path + ": " + what); };
  size_t end = 0;
  if (Status s = safetensors_header(file, path, &end); !s) return s;
  const auto* text = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  Json header;
  if (Status s =
          Json::parse(std::string_view(text, end - kLengthBytes), {.bytes = kMaxHeader}, &header);
      !s) {
    return s.within(path + ": header");
  }
  const std::span<const uint8_t> data = file.subspan(end);
  const size_t first = out->size();
  for (const auto& [name, info] : *header.object()) {
    if (name == "__metadata__") {
      if (!info.object())
        return bad("\"__metadata__\" is " + info.brief() + ", expected an object");
      continue;
    }
    if (Status s = read_tensor(name, info, data, path, &out->emplace_back()); !s) return s;
  }
  return check_cover(std::span(*out).subspan(first), data, path);
}

}  // namespace nemotron
