#include "models/checkpoint/gguf_head.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "models/checkpoint/json.h"

namespace nemotron {
namespace {

constexpr uint64_t kMaxText = 1 << 24, kMaxName = 1 << 9, kMaxKeys = 1 << 16, kMaxTensors = 1 << 20,
                   kMaxDims = 4;
constexpr uint64_t kMaxNumbers = 1 << 12;  // of a list whose numbers are kept
constexpr int kMaxDepth = 4;               // of lists in lists
constexpr size_t kWindow = size_t(1) << 20;
constexpr uint64_t kDefaultAlignment = 32, kMaxAlignment = 1 << 16;
// Names of tokens that end an answer in the model families of this server.
constexpr std::string_view kEnds[] = {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
                                      "<extra_id_1>"};
constexpr const char* kTokens = "tokenizer.ggml.tokens";

enum Kind : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// Bytes of a value; 0: of no fixed size, or no kind.
size_t size_of(uint32_t kind) {
  constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kind < std::size(kSizes) ? kSizes[kind] : 0;
}

// Reads on from the start. The first failure stays, and reads after it give zeros.
class Reader {
 public:
  explicit Reader(const FileBytes& file) : file_(file) {}
  const Status& status() const { return status_; }
  uint64_t at() const { return at_; }
  void fail(const std::string& what) {
    if (status_.ok()) status_ = Status::invalid(file_.path() + ": " + what);
  }

  // The next bytes; null when there are fewer.
  const uint8_t* take(uint64_t bytes, std::string_view what) {
    if (!status_.ok()) return nullptr;
    if (bytes > file_.size() - at_) {
      fail(std::string(what) + " at byte " + std::to_string(at_) + " has " + std::to_string(bytes) +
           " bytes, and the file ends at " + std::to_string(file_.size()) +
           "; the file is truncated, or no GGUF file");
      return nullptr;
    }
    while (at_ + bytes > fetched_) {
      const size_t more = std::min<size_t>(file_.size() - fetched_,
                                           std::max<size_t>(kWindow, at_ + bytes - fetched_));
      if (Status s = file_.fetch(file_.data() + fetched_, more); !s) {
        status_ = s;
        return nullptr;
      }
      fetched_ += more;
    }
    at_ += bytes;
    return file_.data() + at_ - bytes;
  }
  template <class T>
  T number(std::string_view what) {
    T value{};
    if (const uint8_t* p = take(sizeof(T), what)) std::memcpy(&value, p, sizeof(T));
    return value;
  }
  std::string_view text(std::string_view what, uint64_t most = kMaxText) {
    const auto length = number<uint64_t>(what);
    if (length > most) {
      fail(std::string(what) + " has " + std::to_string(length) + " bytes; expected at most " +
           std::to_string(most));
    }
    const uint8_t* p = take(length, what);
    return p ? std::string_view(reinterpret_cast<const char*>(p), size_t(length)) : "";
  }

 private:
  const FileBytes& file_;
  uint64_t at_ = 0, fetched_ = 0;
  Status status_;
};

double real_of(uint32_t kind, const uint8_t* p) {
  const auto as = [&]<class T>(T value) {
    std::memcpy(&value, p, sizeof value);
    return double(value);
  };
  switch (kind) {
    case u8: return as(uint8_t());
    case i8: return as(int8_t());
    case u16: return as(uint16_t());
    case i16: return as(int16_t());
    case u32: return as(uint32_t());
    case i32: return as(int32_t());
    case f32: return as(float());
    case u64: return as(uint64_t());
    case i64: return as(int64_t());
    case f64: return as(double());
    case boolean: return *p != 0;
    default: return 0;
  }
}

GgufValue value_of(uint32_t kind, const uint8_t* p) {
  if (kind == boolean) return *p != 0;
  if (kind == f32 || kind == f64) return real_of(kind, p);
  if (kind == u64 || kind == i64) {
    int64_t value = 0;
    std::memcpy(&value, p, sizeof value);
    // Nothing of a model is so large; a negative number is refused by whoever reads it.
    return kind == u64 && value < 0 ? GgufValue(double(uint64_t(value))) : GgufValue(value);
  }
  return int64_t(real_of(kind, p));
}

class HeadReader {
 public:
  HeadReader(const FileBytes& file, GgufHead* out) : r_(file), file_(file), out_(*out) {}

  Status run() {
    const uint8_t* magic = r_.take(4, "the magic number");
    if (magic && std::memcmp(magic, "GGUF", 4) != 0) r_.fail("it does not begin with \"GGUF\"");
    const auto version = r_.number<uint32_t>("the version");
    if (r_.status().ok() && version != 2 && version != 3) {
      r_.fail(__builtin_bswap32(version) == 2 || __builtin_bswap32(version) == 3
                  ? "it is a big-endian GGUF file; served: little-endian"
                  : "GGUF version " + std::to_string(version) + "; served: 2 and 3");
    }
    const uint64_t tensors = count("tensors", kMaxTensors), keys = count("metadata", kMaxKeys);
    for (uint64_t i = 0; i < keys && r_.status().ok(); ++i) read_metadata();
    for (uint64_t i = 0; i < tensors && r_.status().ok(); ++i) read_tensor();
    if (r_.status().ok()) place_tensors();
    return r_.status();
  }

 private:
  uint64_t count(const char* of, uint64_t most) {
    const auto n = r_.number<uint64_t>("the number of " + std::string(of));
    if (n > most) {
      r_.fail("the number of " + std::string(of) + " is " + std::to_string(n) +
              "; expected at most " + std::to_string(most));
    }
    return n;
  }

  void read_metadata() {
    const std::string key(r_.text("the name of a metadata value", kMaxName));
    const auto kind = r_.number<uint32_t>("the type of " + key);
    GgufValue value;
    if (kind == string) {
      value = std::string(r_.text(key));
    } else if (kind == array) {
      GgufList list;
      read_list(key, 1, &list);
      value = std::move(list);
    } else if (const size_t size = size_of(kind)) {
      if (const uint8_t* p = r_.take(size, key)) value = value_of(kind, p);
    } else {
      r_.fail(key + " has the unknown type " + std::to_string(kind));
    }
    if (r_.status().ok() && !out_.metadata.try_emplace(key, std::move(value)).second) {
      r_.fail(key + " stands twice");
    }
  }

  void read_list(const std::string& key, int depth, GgufList* out) {
    const auto kind = r_.number<uint32_t>("the type of " + key);
    out->length = r_.number<uint64_t>("the length of " + key);
    if (const size_t size = size_of(kind)) {
      // A length whose bytes overflow is larger than any file.
      const bool fits = out->length <= file_.size() / size;
      const uint8_t* p = r_.take(fits ? out->length * size : UINT64_MAX, key);
      for (uint64_t i = 0; p && out->length <= kMaxNumbers && i < out->length; ++i) {
        out->numbers.push_back(real_of(kind, p + i * size));
      }
    } else if (kind == string) {
      for (uint64_t i = 0; i < out->length && r_.status().ok(); ++i) {
        const std::string_view text = r_.text(key);
        if (key == kTokens && depth == 1 && std::ranges::find(kEnds, text) != std::end(kEnds)) {
          out_.end_ids.push_back(int64_t(i));
        }
      }
    } else if (kind == array && depth < kMaxDepth) {
      GgufList inner;
      for (uint64_t i = 0; i < out->length && r_.status().ok(); ++i) {
        read_list(key, depth + 1, &inner);
        inner.numbers.clear();
      }
    } else {
      r_.fail(key + (kind == array
                         ? " has lists in lists, more than " + std::to_string(kMaxDepth) + " deep"
                         : " is a list of the unknown type " + std::to_string(kind)));
    }
  }

  void bad(const GgufTensor& t, const std::string& what) {
    r_.fail("tensor " + Json(t.name).brief() + ": " + what);
  }

  void read_tensor() {
    GgufTensor t;
    t.name = r_.text("the name of a tensor", kMaxName);
    const auto dims = r_.number<uint32_t>("the dimensions of " + t.name);
    if (r_.status().ok() && (dims == 0 || dims > kMaxDims)) {
      return bad(t, std::to_string(dims) + " dimensions; expected 1 to 4");
    }
    t.elements = 1;
    for (uint32_t i = 0; i < dims && r_.status().ok(); ++i) {
      const auto size = r_.number<uint64_t>("the shape of " + t.name);
      int64_t elements = 0;
      if (r_.status().ok() && (size == 0 || size > uint64_t(INT64_MAX) ||
                               __builtin_mul_overflow(t.elements, int64_t(size), &elements))) {
        return bad(t, "a dimension is " + std::to_string(size) +
                          "; expected 1 or more, and a "
                          "product that fits 64 bits");
      }
      t.elements = elements;
      t.shape.insert(t.shape.begin(), int64_t(size));
    }
    const auto number = r_.number<uint32_t>("the type of " + t.name);
    t.begin = r_.number<uint64_t>("the offset of " + t.name);
    if (!r_.status().ok()) return;
    t.type = gguf_type(number);
    if (!t.type || t.type->elements == 0) {
      return bad(t, "the type is " + (t.type ? t.type->name : "number " + std::to_string(number)) +
                        "; served: " + served_gguf_types());
    }
    if (t.row() % t.type->elements != 0) {
      return bad(t, "a row has " + std::to_string(t.row()) + " elements; expected a multiple of " +
                        std::to_string(t.type->elements) + ", a block of " + t.type->name);
    }
    size_t bytes = 0;
    if (__builtin_mul_overflow(size_t(t.elements) / t.type->elements, t.type->bytes, &bytes)) {
      return bad(t, "its size overflows 64 bits");
    }
    t.bytes = bytes;
    out_.tensors.push_back(std::move(t));
  }

  // Offsets count from the first aligned byte behind the head.
  void place_tensors() {
    uint64_t alignment = kDefaultAlignment;
    if (const int64_t* given = out_.integer("general.alignment")) {
      if (*given <= 0 || uint64_t(*given) > kMaxAlignment ||
          !std::has_single_bit(uint64_t(*given))) {
        return r_.fail("general.alignment is " + std::to_string(*given) +
                       "; expected a power of two up to " + std::to_string(kMaxAlignment));
      }
      alignment = uint64_t(*given);
    }
    const uint64_t data = (r_.at() + alignment - 1) / alignment * alignment;
    std::unordered_set<std::string_view> names;
    for (GgufTensor& t : out_.tensors) {
      if (!names.insert(t.name).second) return bad(t, "it stands twice");
      if (t.begin % alignment != 0) {
        return bad(t, "its offset is " + std::to_string(t.begin) + "; expected a multiple of " +
                          std::to_string(alignment));
      }
      const uint64_t room = file_.size() > data ? file_.size() - data : 0;
      if (t.begin > room || t.bytes > room - t.begin) {
        return bad(t, std::to_string(t.bytes) + " bytes at offset " + std::to_string(t.begin) +
                          " of the data, which has " + std::to_string(room) +
                          "; the file is truncated");
      }
      t.begin += data;
    }
    std::vector<const GgufTensor*> order;
    for (const GgufTensor& t : out_.tensors) order.push_back(&t);
    std::ranges::sort(order, {}, &GgufTensor::begin);
    for (size_t i = 1; i < order.size(); ++i) {
      if (order[i - 1]->begin + order[i - 1]->bytes > order[i]->begin) {
        return bad(*order[i], "it overlaps tensor " + Json(order[i - 1]->name).brief());
      }
    }
  }

  Reader r_;
  const FileBytes& file_;
  GgufHead& out_;
};

template <class T>
const T* get(const GgufHead& head, const std::string& key) {
  const auto it = head.metadata.find(key);
  return it == head.metadata.end() ? nullptr : std::get_if<T>(&it->second);
}

}  // namespace

const int64_t* GgufHead::integer(const std::string& key) const { return get<int64_t>(*this, key); }
const std::string* GgufHead::text(const std::string& key) const {
  return get<std::string>(*this, key);
}
const GgufList* GgufHead::list(const std::string& key) const { return get<GgufList>(*this, key); }

Status GgufHead::read(const FileBytes& file, GgufHead* out) {
  GgufHead head;
  if (Status s = HeadReader(file, &head).run(); !s) return s;
  *out = std::move(head);
  return {};
}

}  // namespace nemotron
