// A checkpoint of tensors that lie in the input itself.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/checkpoint/checkpoint.h"

namespace nemotron {

class MemoryCheckpoint final : public Checkpoint {
 public:
  explicit MemoryCheckpoint(const std::vector<StoredTensor>& tensors) : tensors_(tensors) {}
  const StoredTensor* find(std::string_view name) const override {
    for (const StoredTensor& t : tensors_) {
      if (t.name == name) return &t;
    }
    return nullptr;
  }
  size_t total_bytes() const override { return 0; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const std::string& path() const override { return path_; }
  Status fetch(const StoredTensor&, size_t, size_t) const override { return {}; }
  void will_need(const StoredTensor&) const override {}
  void release(const StoredTensor&) const override {}

 private:
  const std::vector<StoredTensor>& tensors_;
  std::string path_ = "input";
};

}  // namespace nemotron
