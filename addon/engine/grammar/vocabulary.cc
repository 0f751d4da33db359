#include "engine/grammar/vocabulary.h"

#include <algorithm>
#include <array>
#include <bit>

namespace nemotron {
namespace {

// Longer tokens exist in no vocabulary that we know; they are never drawn under a grammar.
constexpr size_t kLongestToken = 4096;

// Numbers of characters that only() knows: few texts have more than 16, and no more counts then.
constexpr uint32_t kMosts[] = {1,  2,  3,  4,  5,  6,  7,   8,   9,   10,   11,  12,
                               13, 14, 15, 16, 32, 64, 128, 256, 512, 1024, 2048};

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

  const auto clear = [this](Bits* bits) {
    bits->ids.resize(words());
    bits->texts.resize((ids_.size() + 31) / 32);
  };
  for (Bits& bits : of_kind_) clear(&bits);
  for (Bits& bits : of_letter_) clear(&bits);
  for (const uint32_t most : kMosts) {
    if (most < longest_) clear(&longer_.emplace_back());
  }
  clear(&all_);
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
    add_text(i, bytes);
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
  bytes_from_.push_back(uint32_t(bytes_.size()));
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

bool Vocabulary::Characters::has(uint8_t byte) const {
  if (byte >= 0x80 && byte < 0xC2) return false;
  const uint32_t kind = byte < 0x80 ? kind_of(byte) : kLong;
  if ((kinds >> kind & 1) == 0) return false;
  return kind != kLower || (letters & letter_of(byte)) != 0;
}

void Vocabulary::set(uint32_t text, Bits* bits) const {
  const auto id = uint32_t(ids_[text]);
  bits->ids[id / 32] |= 1u << (id % 32);
  bits->texts[text / 32] |= 1u << (text % 32);
}

void Vocabulary::add_text(uint32_t text, std::string_view bytes) {
  bytes_from_.push_back(uint32_t(bytes_.size()));
  bytes_ += bytes;
  set(text, &all_);
  uint64_t kinds = 0;
  uint32_t letters = 0, characters = 0;
  for (std::string_view rest = bytes; !rest.empty(); ++characters) {
    const size_t size = character_at(rest);
    if (size == 0) return set(text, &of_kind_[kNoUtf8]);
    const auto first = uint8_t(rest[0]);
    const uint32_t kind = first < 0x80 ? kind_of(first) : kLong;
    kinds |= uint64_t(1) << kind;
    if (kind == kLower) letters |= letter_of(first);
    rest.remove_prefix(size);
  }
  for (; kinds != 0; kinds &= kinds - 1) set(text, &of_kind_[size_t(std::countr_zero(kinds))]);
  for (; letters != 0; letters &= letters - 1) {
    set(text, &of_letter_[size_t(std::countr_zero(letters))]);
  }
  for (size_t i = 0; i < longer_.size() && characters > kMosts[i]; ++i) set(text, &longer_[i]);
}

uint32_t Vocabulary::known_most(uint32_t most) const {
  if (most >= longest_) return UINT32_MAX;
  uint32_t known = 0;
  for (const uint32_t one : kMosts) known = one <= most ? one : known;
  return known;
}

Vocabulary::Bits Vocabulary::only(const Characters& those, uint32_t most) const {
  Bits found = all_;
  const auto leave_out = [&found](const Bits& bits) {
    for (size_t i = 0; i < bits.ids.size(); ++i) found.ids[i] &= ~bits.ids[i];
    for (size_t i = 0; i < bits.texts.size(); ++i) found.texts[i] &= ~bits.texts[i];
  };
  leave_out(of_kind_[kNoUtf8]);
  for (uint32_t kind = 0; kind < kKinds; ++kind) {
    if ((those.kinds >> kind & 1) == 0) leave_out(of_kind_[kind]);
  }
  for (uint32_t letter = 0; letter < 26 && (those.kinds >> kLower & 1) != 0; ++letter) {
    if ((those.letters >> letter & 1) == 0) leave_out(of_letter_[letter]);
  }
  for (size_t i = 0; i < longer_.size(); ++i) {
    if (kMosts[i] == most) leave_out(longer_[i]);
  }
  return found;
}

Vocabulary::Bits Vocabulary::without(std::string_view bytes) const {
  Characters others = {.kinds = (uint64_t(1) << kKinds) - 1, .letters = (1u << 26) - 1};
  for (const char c : bytes) {
    const auto byte = uint8_t(c);
    const uint32_t kind = byte < 0x80 ? kind_of(byte) : kLong;
    if (kind == kLower) {
      others.letters &= ~letter_of(byte);
    } else {
      others.kinds &= ~(uint64_t(1) << kind);
    }
  }
  return only(others, UINT32_MAX);
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
