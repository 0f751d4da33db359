// OutputText: the text of one sequence, from its tokens' bytes.
//
// Gives out whole UTF-8 only (bytes that can never become a scalar turn into U+FFFD, as the WHATWG
// decoder does it) and holds back whatever may still become a stop string. The pieces of a sequence
// concatenate to the same text however its bytes are cut into tokens. Engine thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nemotron {

// Finds one pattern in a stream of bytes (Knuth, Morris, Pratt): O(1) amortised a byte.
class ByteMatcher {
 public:
  explicit ByteMatcher(std::string pattern);
  // True when the pattern ends with this byte.
  bool push(uint8_t byte);
  // How many of the last bytes are a beginning of the pattern, not yet all of it.
  size_t partial() const { return state_; }
  size_t size() const { return pattern_.size(); }

 private:
  std::string pattern_;
  std::vector<uint32_t> failure_;  // longest proper border of each prefix
  size_t state_ = 0;
};

// Bytes in, whole scalars out. One U+FFFD for each maximal part of a scalar that breaks off.
class Utf8Filter {
 public:
  void push(uint8_t byte, std::string* out);
  void finish(std::string* out);

 private:
  uint8_t held_[3] = {};
  uint8_t size_ = 0, needed_ = 0;
  uint8_t low_ = 0x80, high_ = 0xBF;  // what the next continuation byte may be
};

// Which part of a text stop strings, and a caller's stop ids, are looked for in.
enum class StopScope : uint8_t {
  all,
  answer,          // from the first byte that is no blank
  after_thinking,  // the same, behind the first </think>
  after_block,     // the same where the text begins with <think>; else all of it
};

class OutputText {
 public:
  OutputText() = default;
  OutputText(std::span<const std::string> stop, bool include_stop, StopScope scope);

  // Appends what is certain of `bytes` to *out. Returns the index of the stop string that ends the
  // text here, or -1. The match that ends first wins, of two that end together the longer one.
  // `may_stop` false: a stop string that ends in `bytes` is ordinary text.
  int32_t push(std::string_view bytes, bool may_stop, std::string* out);
  // Whether these bytes, which come next, are in that part.
  bool is_answer(std::string_view bytes) const;
  // The end of the text when no stop string ended it: what was held back. Of a scalar that breaks
  // off there U+FFFD, or nothing.
  enum class Part : uint8_t { replaced, dropped };
  void finish(Part part, std::string* out);

 private:
  void emit(size_t bytes, std::string* out);
  int32_t take(char c, bool may_stop, std::string* out);
  int32_t match(char c, bool may_stop, std::string* out);
  int32_t open(char c, bool may_stop, std::string* out);

  std::vector<ByteMatcher> stops_;
  bool include_stop_ = false;
  std::string held_;  // may still become a stop string
  // Where in the text the next byte stands.
  enum class Place : uint8_t { opening, thinking, gap, answer };
  Place place_ = Place::answer;
  std::string opening_;  // not yet known whether it opens a block
  ByteMatcher close_{"</think>"};
  Utf8Filter utf8_;
};

}  // namespace nemotron
