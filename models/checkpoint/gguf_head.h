// The head of a GGUF file: its metadata and where its tensors are. Versions 2 and 3, little-endian
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Bounded: hostile input costs an
// error, never the stack or the memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "device/status.h"
#include "models/checkpoint/file_bytes.h"
#include "models/checkpoint/gguf_blocks.h"

namespace nemotron {

struct GgufList {
  uint64_t length = 0;
  std::vector<double> numbers;  // of a short list of numbers; other lists are known by length only
};
using GgufValue = std::variant<bool, int64_t, double, std::string, GgufList>;

struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;  // outer to inner, as everywhere here; the file has it the other way
  const GgufType* type = nullptr;
  uint64_t begin = 0;  // byte of the file
  int64_t elements = 0;
  size_t bytes = 0;

  int64_t row() const { return shape.back(); }  // elements
  int64_t rows() const { return elements / row(); }
  size_t row_bytes() const { return size_t(row()) / type->elements * type->bytes; }
};

struct GgufHead {
  std::unordered_map<std::string, GgufValue> metadata;
  std::vector<GgufTensor> tensors;
  // Ids of tokens at which llama.cpp too ends an answer, whatever the metadata say: by their names.
  std::vector<int64_t> end_ids;

  // Null: not there, or of another kind.
  const int64_t* integer(const std::string& key) const;
  const std::string* text(const std::string& key) const;
  const GgufList* list(const std::string& key) const;

  // Errors name the file, the place and what was expected. Tensors lie within the file, do not
  // overlap and are aligned; nothing of their data is read.
  static Status read(const FileBytes& file, GgufHead* out);
};

}  // namespace nemotron
