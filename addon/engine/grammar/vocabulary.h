// Vocabulary: the texts of all tokens as a tree of bytes, for walks that give up a beginning and so
// all tokens that have it; and as a list, with bits that say which have characters of a kind, for
// all that is said of a text without a walk. Constant once made; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nemotron {

class Vocabulary {
 public:
  // `token_bytes`: of every id; `special`: control tokens, which are no text of a grammar. They and
  // tokens without bytes are not in the tree. `model_stop_ids`: ids that end a text.
  Vocabulary(std::span<const std::string> token_bytes, const std::vector<bool>& special,
             std::span<const int32_t> model_stop_ids);

  // Nodes in the order of their bytes, each before what continues it. Node 0 is empty.
  uint32_t num_nodes() const { return uint32_t(nodes_.size()); }
  uint8_t byte(uint32_t node) const { return nodes_[node].byte; }
  uint32_t depth(uint32_t node) const { return nodes_[node].depth; }  // bytes
  uint32_t end(uint32_t node) const { return nodes_[node].end; }      // of what begins as it does
  // The ids whose text is that of `node`.
  std::span<const int32_t> tokens(uint32_t node) const {
    const uint32_t from = firsts_[node];
    return {ids_.data() + from, firsts_[node + 1] - from};
  }

  // The tokens of the tree as a list of texts, in the order of their bytes.
  uint32_t num_texts() const { return uint32_t(ids_.size()); }
  int32_t id(uint32_t text) const { return ids_[text]; }
  std::string_view bytes(uint32_t text) const {
    const uint32_t from = bytes_from_[text];
    return std::string_view(bytes_).substr(from, bytes_from_[text + 1] - from);
  }
  // The first text that begins as `node` does; of end(node): the first behind them.
  uint32_t first_text(uint32_t node) const { return firsts_[node]; }
  // A set of characters: kinds, as bits, and of the kind kLower these letters alone.
  struct Characters {
    uint64_t kinds = 0;
    uint32_t letters = 0;
    bool has(uint8_t byte) const;  // that one of them begins with
  };
  // Letters of a case are a kind, digits, control characters but for white space; any other
  // character of one byte is its own; those of several bytes are kLong.
  static uint32_t kind_of(uint8_t ascii);
  static constexpr uint32_t kLower = 3, kLong = 41;
  static uint32_t letter_of(uint8_t lower) { return uint32_t(1) << (lower - 'a'); }
  // The texts that are characters of a set and no more than `most`, as bits over ids and over
  // texts. A text that begins inside a character or is no UTF-8 is none; it may end inside one,
  // which counts.
  struct Bits {
    std::vector<uint32_t> ids, texts;
  };
  Bits only(const Characters& those, uint32_t most) const;
  // Texts that surely have none of these bytes; those that are no UTF-8 are left out.
  Bits without(std::string_view bytes) const;
  // A number of characters that only() knows, at most this one: few are known, so that what is
  // found out for one serves many.
  uint32_t known_most(uint32_t most) const;

  uint32_t longest() const { return longest_; }          // bytes of a token
  size_t words() const { return (num_ids_ + 31) / 32; }  // of a bit mask over the ids
  size_t num_ids() const { return num_ids_; }
  // Control tokens and their texts.
  std::span<const std::pair<int32_t, std::string>> specials() const { return specials_; }
  std::span<const int32_t> textless() const { return textless_; }  // no bytes and no control
  std::span<const int32_t> stop_ids() const { return stop_ids_; }  // of the model

  // Appends the tokens that `text` is cut into, the longest that fits each time; up to `most`. Ends
  // where no token fits.
  void append_longest(std::string_view text, size_t most, std::vector<int32_t>* out) const;

  // Goes over the nodes of [first, end(first)) whose bytes `step` takes, and calls
  // visit(node, state) for each, in order.
  // `state` is before the byte of `first`. step(state, byte, &next): false: the byte is refused.
  template <class State, class Step, class Visit>
  void walk(uint32_t first, const State& state, std::vector<State>* path, const Step& step,
            const Visit& visit) const {
    const uint32_t base = depth(first) - 1, last = end(first);
    path->resize(std::max<size_t>(path->size(), size_t(longest_) + 2));
    (*path)[0] = state;
    for (uint32_t node = first; node < last;) {
      const uint32_t level = depth(node) - base;
      if (!step((*path)[level - 1], byte(node), &(*path)[level])) {
        node = end(node);
        continue;
      }
      visit(node, (*path)[level]);
      ++node;
    }
  }
  // The same for all nodes but the empty beginning.
  template <class State, class Step, class Visit>
  void walk_all(const State& state, std::vector<State>* path, const Step& step,
                const Visit& visit) const {
    for (uint32_t node = 1; node < num_nodes(); node = end(node)) {
      walk(node, state, path, step, visit);
    }
  }

 private:
  struct Node {
    uint32_t end = 0;
    uint16_t depth = 0;
    uint8_t byte = 0;
  };
  void add_text(uint32_t text, std::string_view bytes);
  void set(uint32_t text, Bits* bits) const;

  // Texts that have a character of a kind, a letter, more than kMosts[i] characters.
  static constexpr uint32_t kKinds = 42, kNoUtf8 = kKinds;
  std::array<Bits, kKinds + 1> of_kind_;
  std::array<Bits, 26> of_letter_;
  std::vector<Bits> longer_;
  Bits all_;
  std::string bytes_;
  std::vector<uint32_t> bytes_from_;  // by text; and one behind the last
  std::vector<Node> nodes_;
  std::vector<uint32_t> firsts_;  // [node]: index of its first id; one more at the end
  std::vector<int32_t> ids_;      // in the order of their bytes
  std::vector<std::pair<int32_t, std::string>> specials_;
  std::vector<int32_t> textless_, stop_ids_;
  uint32_t longest_ = 0;
  size_t num_ids_ = 0;
};

}  // namespace nemotron
