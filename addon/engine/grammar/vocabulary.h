// Vocabulary: the texts of all tokens as a tree of bytes, for walks that give up a beginning and so
// all tokens that have it; and as a list, with the kinds of characters of each, for all that is
// said of a text without a walk. Constant once made; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
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

  // The tokens of the tree as a list, in the order of their bytes.
  struct Text {
    uint32_t first = 0;   // of its bytes in texts
    uint16_t common = 0;  // bytes that it has in common with the one before
    uint16_t kinds = 0;   // index of kinds()
    uint16_t characters = 0;
    uint32_t letters = 0;  // those of a to z that it has, as bits
    int32_t id = 0;
  };
  std::span<const Text> texts() const { return {texts_.data(), texts_.size() - 1}; }
  std::string_view bytes(const Text& text) const {
    return std::string_view(bytes_).substr(text.first, (&text + 1)->first - text.first);
  }
  // The sets of kinds of characters that texts have, as bits: see kind_of(); kOfNoKind: a text
  // begins inside a character or is no UTF-8. It may end inside a character, which counts.
  std::span<const uint64_t> kinds() const { return kinds_; }
  // Letters of a case are a kind, digits, control characters but for white space; any other
  // character of one byte is its own; those of several bytes are kLong.
  static uint32_t kind_of(uint8_t ascii);
  static constexpr uint32_t kLower = 3, kLong = 41;
  static constexpr uint64_t kOfNoKind = uint64_t(1) << 63;
  static uint32_t letter_of(uint8_t lower) { return uint32_t(1) << (lower - 'a'); }

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
  void add_text(int32_t id, std::string_view bytes, size_t common,
                std::unordered_map<uint64_t, uint16_t>* known);

  std::vector<Text> texts_;  // and one behind the last
  std::string bytes_;
  std::vector<uint64_t> kinds_ = {kOfNoKind};
  std::vector<Node> nodes_;
  std::vector<uint32_t> firsts_;  // [node]: index of its first id; one more at the end
  std::vector<int32_t> ids_;      // in the order of their bytes
  std::vector<std::pair<int32_t, std::string>> specials_;
  std::vector<int32_t> textless_, stop_ids_;
  uint32_t longest_ = 0;
  size_t num_ids_ = 0;
};

}  // namespace nemotron
