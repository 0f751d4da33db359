#include "models/checkpoint/checkpoint.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "models/checkpoint/documents.h"
#include "models/checkpoint/file_bytes.h"
#include "models/checkpoint/gguf.h"
#include "models/checkpoint/int_groups.h"
#include "models/checkpoint/json.h"
#include "models/checkpoint/safetensors.h"

namespace nemotron {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = size_t(100) << 20;

class FileCheckpoint final : public Checkpoint {
 public:
  Status open_single(const std::string& path) {
    path_ = path;
    if (Status s = add_file(path); !s) return s;
    return name_tensors();
  }

  Status open_sharded(const std::string& dir, const std::string& index_path, const Json& index) {
    path_ = index_path;
    const Json* map = index.find("weight_map");
    if (!map || !map->object() || map->object()->empty()) {
      return Status::invalid(index_path + ": \"weight_map\" is " +
                             (map ? map->brief() : std::string("missing")) +
                             "; expected an object of tensor names and shard files");
    }
    std::unordered_map<std::string, std::string> shards;  // file name -> path
    for (const auto& [name, file] : *map->object()) {
      // A shard lies beside its index: a separator would lead somewhere else.
      const std::string* shard = file.string();
      if (!shard || shard->empty() || *shard == "." || *shard == ".." ||
          shard->find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
        return Status::invalid(index_path + ": \"weight_map\": tensor " + Json(name).brief() +
                               " lies in " + file.brief() +
                               "; expected the name of a file beside it");
      }
      if (!shards.try_emplace(*shard, dir + "/" + *shard).second) continue;
      if (Status s = add_file(shards[*shard]); !s) return s.within(index_path);
    }
    if (Status s = name_tensors(); !s) return s;
    for (const auto& [name, file] : *map->object()) {
      const StoredTensor* tensor = find(name);
      if (!tensor || tensor->file != shards[*file.string()]) {
        return Status::not_found(shards[*file.string()] + ": tensor " + Json(name).brief() +
                                 " is missing; " + index_path + " says it is here" +
                                 (tensor ? ", found it in " + tensor->file : std::string()));
      }
    }
    return {};
  }

  const StoredTensor* find(std::string_view name) const override {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? nullptr : &tensors_[it->second];
  }
  size_t total_bytes() const override { return total_bytes_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const std::string& path() const override { return path_; }
  Status fetch(const StoredTensor& t, size_t first, size_t bytes) const override {
    const FileBytes* f = file_of(t);
    return f ? f->fetch(t.data + first, bytes) : Status::internal(t.name + ": of no file");
  }
  Status fetch(const StoredTensor& t, const MatrixRange& range) const override {
    if (range.cols == t.shape[1]) return Checkpoint::fetch(t, range);
    const FileBytes* f = file_of(t);
    if (!f) return Status::internal(t.name + ": of no file");
    const size_t size = dtype_bytes(t.dtype), row = size_t(t.shape[1]) * size;
    const size_t first = size_t(range.first_row) * row + size_t(range.first_col) * size;
    return f->fetch_pieces(t.data + first, size_t(range.cols) * size, row, size_t(range.rows));
  }
  bool reads(const StoredTensor&) const override { return true; }
  Status read(const StoredTensor& t, const MatrixRange& range, uint8_t* to) const override {
    const FileBytes* f = file_of(t);
    return f ? read_range(*f, t, range, to) : Status::internal(t.name + ": of no file");
  }
  void will_need(const StoredTensor& t) const override {
    if (const FileBytes* f = file_of(t)) f->will_need(t.data, t.bytes);
  }
  void release(const StoredTensor& t) const override {
    if (const FileBytes* f = file_of(t)) f->release(t.data, t.bytes);
  }

 private:
  Status add_file(const std::string& path) {
    FileBytes file;
    if (Status s = FileBytes::open(path, &file); !s) return s;
    size_t header = 0;
    if (Status s = file.fetch(file.data(), std::min(file.size(), kSafetensorsPrefix)); !s) return s;
    if (Status s = safetensors_header({file.data(), file.size()}, path, &header); !s) return s;
    if (Status s = file.fetch(file.data(), header); !s) return s;
    if (Status s = read_safetensors({file.data(), file.size()}, path, &tensors_); !s) return s;
    files_.push_back(std::move(file));
    return {};
  }

  Status name_tensors() {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const auto [it, fresh] = by_name_.try_emplace(tensors_[i].name, i);
      if (!fresh) {
        return Status::invalid(tensors_[i].file + ": tensor " + Json(tensors_[i].name).brief() +
                               " is also in " + tensors_[it->second].file + "; expected it once");
      }
      total_bytes_ += tensors_[i].bytes;
    }
    return {};
  }

  const FileBytes* file_of(const StoredTensor& t) const {
    for (const FileBytes& f : files_) {
      if (f.path() == t.file) return &f;
    }
    return nullptr;
  }

  std::string path_;
  std::vector<FileBytes> files_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
  size_t total_bytes_ = 0;
};

// FNV-1a.
void mix(std::string_view bytes, uint64_t* hash) {
  for (const char c : bytes) *hash = (*hash ^ uint8_t(c)) * 0x100000001b3;
}

// The config says what the integers of `stored` are.
Status open_with_config(const std::string& dir, std::unique_ptr<Checkpoint> stored,
                        std::unique_ptr<Checkpoint>* out) {
  Documents documents;
  if (Status s = Documents::read(dir, &documents); !s) return s;
  const auto& [where, config] = documents.config;
  const Json* block = config.find("quantization_config");
  const Json* method = block ? block->find("quant_method") : nullptr;
  const std::string* name = method ? method->string() : nullptr;
  if (!name || (*name != "gptq" && *name != "awq")) {
    return Status::invalid(where +
                           ": \"quantization_config\" has no \"quant_method\" of \"gptq\" "
                           "or \"awq\"; expected one, since " +
                           stored->path() + " has tensors named .qweight");
  }
  IntGroups groups;
  if (Status s = read_int_groups(*block, where + ": quantization_config", &groups); !s) return s;
  return open_int_groups(std::move(stored), groups, out);
}

}  // namespace

Status Checkpoint::fetch(const StoredTensor& tensor, const MatrixRange& range) const {
  const size_t row = size_t(tensor.shape[1]) * dtype_bytes(tensor.dtype);
  return fetch(tensor, size_t(range.first_row) * row, size_t(range.rows) * row);
}

Status Checkpoint::read(const StoredTensor& tensor, const MatrixRange&, uint8_t*) const {
  return Status::internal(tensor.name + ": is not read as it is stored");
}

Status read_range(const FileBytes& file, const StoredTensor& t, const MatrixRange& range,
                  uint8_t* to) {
  const size_t size = dtype_bytes(t.dtype), row = size_t(t.shape[1]) * size;
  const size_t first = size_t(range.first_row) * row + size_t(range.first_col) * size;
  return file.read_pieces(t.data + first, size_t(range.cols) * size, row, size_t(range.rows), to);
}

uint64_t layout_hash(const Checkpoint& checkpoint) {
  uint64_t sum = 0;
  for (const StoredTensor& t : checkpoint.tensors()) {
    uint64_t hash = 0xcbf29ce484222325;
    mix(t.name, &hash);
    mix("\n" + t.dtype_name, &hash);
    for (const int64_t size : t.shape) mix("\n" + std::to_string(size), &hash);
    sum += hash;
  }
  return sum;
}

Status Checkpoint::open(const std::string& dir, std::unique_ptr<Checkpoint>* out) {
  if (is_gguf(dir)) return open_gguf(dir, out);
  auto checkpoint = std::make_unique<FileCheckpoint>();
  FileBytes file;
  const std::string index_path = dir + "/" + kIndex;
  if (const Status found = FileBytes::read(index_path, kMaxIndexBytes, &file); found) {
    Json index;
    if (Status s = Json::parse(file.text(), {.bytes = kMaxIndexBytes}, &index); !s) {
      return s.within(index_path);
    }
    if (Status s = checkpoint->open_sharded(dir, index_path, index); !s) return s;
  } else if (found.code() != Code::not_found) {
    return found;
  } else {
    const Status s = checkpoint->open_single(dir + "/" + kSingle);
    if (s.code() == Code::not_found) {
      return Status::not_found(dir + ": neither " + kSingle + " nor " + kIndex +
                               "; expected a checkpoint in safetensors format");
    }
    if (!s) return s;
  }
  if (has_int_groups(*checkpoint)) return open_with_config(dir, std::move(checkpoint), out);
  *out = std::move(checkpoint);
  return {};
}

}  // namespace nemotron
