#include "engine/grammar/vocabulary.h"

#include <algorithm>
#include <array>

namespace nemotron {
namespace {

// Longer tokens exist in no vocabulary that we know; they are never drawn under a grammar.
constexpr size_t kLongestToken = 4096;

// The bytes of the character that `text` begins with, as far as they are there; 0: it is none.
size_t character_at(std::string_view text) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  const size_t here = std::min(size, text.size());
  const uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < here; ++i) {
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xBF)) return 0;
  }
  return here;
}

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
  std::unordered_map<uint64_t, uint16_t> known_kinds;
  for (uint32_t i = 0; i < ids_.size(); ++i) {
    const std::string& bytes = text(ids_[i]);
    size_t common = 0;
    if (before) {
      const size_t most = std::min(before->size(), bytes.size());
      while (common < most && (*before)[common] == bytes[common]) ++common;
    }
    add_text(ids_[i], bytes, common, &known_kinds);
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
  texts_.push_back({.first = uint32_t(bytes_.size())});
}

uint32_t Vocabulary::kind_of(uint8_t ascii) {
  static const std::array<uint8_t, 128> kOf = [] {
    std::array<uint8_t, 128> of{};  // 0: control characters
    uint8_t next = 4;
    for (uint8_t c = 0x20; c < 0x7F; ++c) {
      const bool digit = c >= '0' && c <= '9', upper = c >= 'A' && c <= 'Z';
      const bool lower = c >= 'a' && c <= 'z';
      of[c] = digit ? 1 : upper ? 2 : lower ? uint8_t(kLower) : next++;
    }
    for (const uint8_t c : {'\t', '\n', '\r', '\x7F'}) of[c] = next++;
    return of;
  }();
  return kOf[ascii];
}

void Vocabulary::add_text(int32_t id, std::string_view bytes, size_t common,
                          std::unordered_map<uint64_t, uint16_t>* known) {
  Text text = {.first = uint32_t(bytes_.size()), .common = uint16_t(common), .id = id};
  uint64_t kinds = 0;
  for (std::string_view rest = bytes; !rest.empty(); ++text.characters) {
    const size_t size = character_at(rest);
    if (size == 0) {
      kinds = kOfNoKind;
      break;
    }
    const auto first = uint8_t(rest[0]);
    const uint32_t kind = first < 0x80 ? kind_of(first) : kLong;
    kinds |= uint64_t(1) << kind;
    if (kind == kLower) text.letters |= letter_of(first);
    rest.remove_prefix(size);
  }
  if (kinds != kOfNoKind && kinds_.size() <= UINT16_MAX) {  // more: as if it were of no kind
    const auto [it, is_new] = known->try_emplace(kinds, uint16_t(kinds_.size()));
    if (is_new) kinds_.push_back(kinds);
    text.kinds = it->second;
  } else if (const auto it = known->find(kinds); it != known->end()) {
    text.kinds = it->second;
  }
  bytes_ += bytes;
  texts_.push_back(text);
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
