// Automaton: a grammar over bytes, as nodes. Constant after build(), then any thread reads it.
//
// A node says what may come next. Nodes are made from the ends of bodies to their beginnings, and
// equal ones are one node: equal parts of a grammar are shared. Paths without a call are acyclic.
// Whatever is reachable can be finished: parts that admit nothing are left out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "device/status.h"
#include "engine/grammar/grammar_text.h"

namespace nemotron {

inline constexpr size_t kMaxGrammarNodes = 2'000'000;

class Automaton {
 public:
  struct Edge {
    uint8_t low = 0, high = 0;  // bytes, both included
    uint32_t next = 0;
    bool operator==(const Edge&) const = default;
  };
  struct Node {
    enum class Kind : uint8_t {
      end,     // of a body: goes on where that was called
      bytes,   // one byte of an edge: ascending, disjoint
      choice,  // any of the edges' nodes (their bytes mean nothing)
      call,    // of rule `body`, then `next`
      repeat,  // `body` from min to max times, then `next`; a turn has at least one byte
    } kind = Kind::end;
    uint32_t first = 0, count = 0;  // edges
    uint32_t body = 0, next = 0;
    uint32_t min = 0, max = 0;  // max: kUnboundedCount: no end
  };
  static constexpr uint32_t kEnd = 0;

  // Errors (invalid_argument): rules that begin with themselves, a grammar that admits no text, one
  // of too many nodes.
  static Status build(const GrammarTree& tree, Automaton* out);

  const Node& node(uint32_t id) const { return nodes_[id]; }
  std::span<const Edge> edges(const Node& n) const {
    return std::span(edges_).subspan(n.first, n.count);
  }
  // Where a rule that a call names begins.
  uint32_t rule(uint32_t index) const { return rules_[index]; }
  uint32_t root() const { return root_; }
  // The root behind up to two line feeds.
  uint32_t root_after_lines() const { return root_after_lines_; }
  // Bytes of one class are alike everywhere. Classes are numbered from 0, in the order of bytes.
  uint8_t class_of(uint8_t byte) const { return classes_[byte]; }
  uint32_t num_classes() const { return uint32_t(first_bytes_.size()); }
  uint8_t first_byte(uint32_t byte_class) const { return first_bytes_[byte_class]; }
  size_t bytes() const;  // of memory

 private:
  friend class AutomatonBuilder;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::vector<uint32_t> rules_;
  uint32_t root_ = 0, root_after_lines_ = 0;
  uint8_t classes_[256] = {};
  std::vector<uint8_t> first_bytes_;
};

}  // namespace nemotron
