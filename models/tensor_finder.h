// TensorFinder: looks up the tensors of a decoder by name, checks dtype, shape and scales, and
// keeps account of what is missing or wrong, so that one message tells of all of it. Refers to the
// checkpoint and the config; one thread.
#pragma once

#include <string>
#include <unordered_set>
#include <vector>

#include "models/checkpoint/checkpoint.h"
#include "models/config.h"
#include "models/sources.h"

namespace nemotron {

class TensorFinder {
 public:
  TensorFinder(const Checkpoint& checkpoint, const ModelConfig& config);

  const Checkpoint& checkpoint() const { return checkpoint_; }
  // What the names of the base model begin with: "model.", or nothing when it was saved alone.
  const std::string& prefix() const { return prefix_; }
  // Null: not there. Whatever was asked for counts as used.
  const StoredTensor* optional(const std::string& name);
  // `module`.weight and, where the config's norms have one, `module`.bias, [hidden] each.
  NormSource norm(const std::string& module);
  // `module`.weight [rows, cols] and its scales.
  LinearSource linear(const std::string& module, int64_t rows, int64_t cols, bool may_be_fp8);
  // One value, or one for each of `rows` rows; all finite and above 0.
  std::vector<float> scales(const StoredTensor& tensor, int64_t rows);

  // Messages say that the tensors from here on are asked for by this part of a layer, where
  // config.json says something of each layer. A negative layer: of the whole model.
  void asked_by(int64_t layer, const char* part);

  void wrong(const StoredTensor& tensor, const std::string& expected);
  void problem(const std::string& text);
  // The tensors that nobody asked for, in the checkpoint's order.
  std::vector<std::string> unused() const;
  // Tensors that nobody asked for are left alone, except those without which the model is another
  // one: biases, scales, layers that the config does not have. Call it last.
  void check_others();
  // The first few problems and their number.
  Status status() const;

 private:
  std::string shown(const std::string& name) const;  // in quotes, as the file has it
  bool is_unread_scale(const std::string& name) const;
  const StoredTensor* required(const std::string& name);
  const StoredTensor* vector(const std::string& name, int64_t size);

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  std::string prefix_ = "model.";
  std::unordered_set<std::string> asked_;
  std::string asker_;
  size_t problems_ = 0;
  std::string shown_;
};

}  // namespace nemotron
