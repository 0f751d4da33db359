#include "engine/grammar/vocabulary.h"

#include <algorithm>

namespace nemotron {
namespace {

// Longer tokens exist in no vocabulary that we know; they are never drawn under a grammar.
constexpr size_t kLongestToken = 4096;

}  // namespace

Vocabulary::Vocabulary(std::span<const std::string> token_bytes, const std::vector<bool>& special,
                       std::span<const int32_t> model_stop_ids)
    : stop_ids_(model_stop_ids.begin(), model_stop_ids.end()), num_ids_(token_bytes.size()) {
  for (size_t id = 0; id < token_bytes.size(); ++id) {
    const std::string& bytes = token_bytes[id];
    const bool is_special = (id < special.size() && special[id]) ||
                            std::ranges::find(stop_ids_, int32_t(id)) != stop_ids_.end();
    if (is_special) {
      specials_.emplace_back(int32_t(id), bytes);
    } else if (bytes.empty() || bytes.size() > kLongestToken) {
      textless_.push_back(int32_t(id));
    } else {
      ids_.push_back(int32_t(id));
      longest_ = std::max(longest_, uint32_t(bytes.size()));
    }
  }
  const auto text = [&](int32_t id) -> const std::string& { return token_bytes[size_t(id)]; };
  std::ranges::sort(ids_, [&](int32_t a, int32_t b) {
    const int order = text(a).compare(text(b));
    return order != 0 ? order < 0 : a < b;
  });

  std::vector<uint32_t> path = {0};  // nodes of the last token's beginnings
  nodes_.push_back({});
  firsts_.push_back(0);
  const auto close_to = [&](size_t depth) {
    for (; path.size() > depth + 1; path.pop_back()) {
      nodes_[path.back()].end = uint32_t(nodes_.size());
    }
  };
  const std::string* before = nullptr;
  for (uint32_t i = 0; i < ids_.size(); ++i) {
    const std::string& bytes = text(ids_[i]);
    size_t common = 0;
    if (before) {
      const size_t most = std::min(before->size(), bytes.size());
      while (common < most && (*before)[common] == bytes[common]) ++common;
    }
    close_to(common);
    for (size_t at = common; at < bytes.size(); ++at) {
      path.push_back(uint32_t(nodes_.size()));
      nodes_.push_back({.depth = uint16_t(at + 1), .byte = uint8_t(bytes[at])});
      firsts_.push_back(i);
    }
    before = &bytes;
  }
  close_to(0);
  nodes_[0].end = uint32_t(nodes_.size());
  firsts_.push_back(uint32_t(ids_.size()));
}

void Vocabulary::append_longest(std::string_view text, size_t most,
                                std::vector<int32_t>* out) const {
  for (size_t n = 0; n < most && !text.empty(); ++n) {
    uint32_t at = 0, found = 0;  // nodes; 0: no token yet
    for (const char c : text) {
      uint32_t child = at + 1;
      while (child < end(at) && byte(child) != uint8_t(c)) child = end(child);
      if (child >= end(at)) break;
      at = child;
      if (!tokens(at).empty()) found = at;
    }
    if (found == 0) return;
    out->push_back(tokens(found).front());
    text.remove_prefix(depth(found));
  }
}

}  // namespace nemotron
