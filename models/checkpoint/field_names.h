// FieldNames: what a checkpoint calls the fields of config.json, for messages. Empty: the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/status.h"

namespace nemotron {

class FieldNames {
 public:
  FieldNames() = default;
  // Pairs of a field of config.json and what stands in its place.
  explicit FieldNames(std::vector<std::pair<std::string, std::string>> own)
      : own_(std::move(own)) {}

  // "num_hidden_layers", "llama.block_count".
  std::string plain(std::string_view field) const {
    const std::string* own = find(field);
    return own ? *own : std::string(field);
  }
  // "config.json's num_hidden_layers", "llama.block_count".
  std::string of(std::string_view field) const {
    return (own_.empty() ? "config.json's " : "") + plain(field);
  }
  // What says something of one layer: "block_configs[3].ffn of config.json",
  // "deci.feed_forward_length of layer 3".
  std::string of_layer(const std::string& list, int64_t layer, const std::string& part) const {
    const std::string number = std::to_string(layer);
    const std::string* own = find(list + "." + part);
    return own ? *own + " of layer " + number
               : list + "[" + number + "]." + part + " of config.json";
  }
  // The same failure with these names in the place of "fields".
  Status in(const Status& failure) const {
    std::string text = failure.message();
    for (const auto& [field, own] : own_) {
      const std::string quoted = "\"" + field + "\"";
      for (size_t at = 0; (at = text.find(quoted, at)) != std::string::npos; at += own.size()) {
        text.replace(at, quoted.size(), own);
      }
    }
    return failure.ok() ? failure : Status(failure.code(), text);
  }

 private:
  const std::string* find(std::string_view field) const {
    for (const auto& [name, own] : own_) {
      if (name == field) return &own;
    }
    return nullptr;
  }
  std::vector<std::pair<std::string, std::string>> own_;
};

}  // namespace nemotron
