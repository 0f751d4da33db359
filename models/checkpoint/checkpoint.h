// Checkpoint: the tensors of a Hugging Face folder or a GGUF file, checked; read when they are
// wanted. Every error names file, tensor, found and expected.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/grouped.h"
#include "device/status.h"
#include "device/tensor.h"

namespace nemotron {

class FileBytes;

struct StoredTensor {
  std::string name;
  std::string dtype_name;  // as the file spells it: "BF16"
  bool served = false;  // false: no DType stands for it ("I64"); such a tensor can only be ignored
  DType dtype = DType::bf16;
  std::vector<int64_t> shape;
  int64_t elements = 0;
  // Where its bytes are while they are fetched; see Checkpoint::fetch().
  const uint8_t* data = nullptr;
  size_t bytes = 0;
  std::string file;
};

// A rectangle of a stored matrix [rows, cols].
struct MatrixRange {
  int64_t first_row = 0, rows = 0, first_col = 0, cols = 0;
  bool operator==(const MatrixRange&) const = default;
};

class Checkpoint {
 public:
  // Opens model.safetensors, or every shard that model.safetensors.index.json names; or `dir`
  // itself where it is a GGUF file.
  static Status open(const std::string& dir, std::unique_ptr<Checkpoint>* out);
  virtual ~Checkpoint() = default;
  virtual const StoredTensor* find(std::string_view name) const = 0;  // null: not there
  virtual size_t total_bytes() const = 0;
  virtual const std::vector<StoredTensor>& tensors() const = 0;
  // What the file calls the tensor of this name, for messages; it need not be there.
  virtual std::string shown(std::string_view name) const { return std::string(name); }
  // The file that names the tensors, for messages: model.safetensors, or the index of the shards.
  virtual const std::string& path() const = 0;
  // Reads bytes [first, first + bytes) of the tensor, which may then be looked at through its
  // `data` until it is released. Fails when the file has become shorter since open().
  virtual Status fetch(const StoredTensor& tensor, size_t first, size_t bytes) const = 0;
  Status fetch(const StoredTensor& tensor) const { return fetch(tensor, 0, tensor.bytes); }
  // The same of a part of a matrix: what else of its rows can be looked at then is undefined.
  virtual Status fetch(const StoredTensor& tensor, const MatrixRange& range) const;
  // Whether the tensor's bytes are in a file as they are, for read(): a part of a matrix, its rows
  // one after another at `to`. No memory of ours is taken. Several threads may read.
  virtual bool reads(const StoredTensor&) const { return false; }
  virtual Status read(const StoredTensor& tensor, const MatrixRange& range, uint8_t* to) const;
  // The tensor's codes and scales, where it is stored in groups and `data` is what they widen to;
  // null: it is not. Rows that fetch_grouped() has read may be looked at until it is released.
  virtual const GroupedRows* grouped(const StoredTensor&) const { return nullptr; }
  virtual Status fetch_grouped(const StoredTensor& tensor, const MatrixRange& range) const {
    return fetch(tensor, range);
  }
  // This tensor is fetched next (a hint); its bytes are not needed any more.
  virtual void will_need(const StoredTensor& tensor) const = 0;
  virtual void release(const StoredTensor& tensor) const = 0;
};

// Checkpoint::read() of a tensor that `file` has as it is.
Status read_range(const FileBytes& file, const StoredTensor& tensor, const MatrixRange& range,
                  uint8_t* to);

// Tells checkpoints apart by names, types and shapes of their tensors, in any order; the same on
// every machine.
uint64_t layout_hash(const Checkpoint& checkpoint);

}  // namespace nemotron
