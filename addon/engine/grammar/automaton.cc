#include "engine/grammar/automaton.h"

#include <algorithm>
#include <unordered_map>

#include "device/assert.h"

namespace nemotron {
namespace {

using Part = GrammarPart;
using Node = Automaton::Node;
using Edge = Automaton::Edge;

// Admits nothing.
constexpr uint32_t kNone = UINT32_MAX;
// How deep and how much choices of bytes are put together; beyond they stay choices.
constexpr int kMaxMergeDepth = 2000;
constexpr size_t kMergeWork = 2'000'000;
// Choices of more ways stay one way of a choice around them: many options behind each other would
// be listed once for each.
constexpr uint32_t kMostFlattened = 64;

// Which texts a part has.
struct Texts {
  bool empty = false, longer = false;  // the empty one; others
  bool any() const { return empty || longer; }
  bool operator==(const Texts&) const = default;
};

Status too_large() {
  return Status::invalid("grammar: needs more than " + std::to_string(kMaxGrammarNodes) +
                         " nodes; make it smaller");
}

}  // namespace

class AutomatonBuilder {
 public:
  AutomatonBuilder(const GrammarTree& tree, Automaton* out) : tree_(tree), out_(*out) {}

  Status build() {
    find_texts();
    if (!texts_[tree_.rules[tree_.root].body].any()) {
      return Status::invalid(
          "grammar: admits no text: every way through 'root' calls a rule that never ends");
    }
    if (Status s = check_left_recursion(); !s) return s;
    add({});  // kEnd
    rule_ids_.assign(2 * tree_.rules.size(), kNone);
    const uint32_t root = call(tree_.root, false, Automaton::kEnd);
    while (built_ < called_.size() && !full_) {
      const uint32_t key = called_[built_++];
      const uint32_t start = compile(tree_.rules[key / 2].body, key % 2 != 0, Automaton::kEnd);
      out_.rules_.push_back(start);
    }
    if (full_) return too_large();
    out_.root_ = root;
    const uint32_t line = bytes_node({{'\n', '\n', Automaton::kEnd}});
    out_.root_after_lines_ =
        add({.kind = Node::Kind::repeat, .body = line, .next = root, .min = 0, .max = 2});
    if (full_) return too_large();
    find_classes();
    out_.nodes_.shrink_to_fit();
    out_.edges_.shrink_to_fit();
    return {};
  }

 private:
  // --- what is empty, what is nothing ---

  // What was seen of the parts that a part is made of: one that changes costs its users a step.
  struct Seen {
    Texts texts;                  // of any of them
    uint32_t no_text, not_empty;  // how many admit no text (yet), how many not the empty one (yet)
  };

  static Texts texts_of(const Part& p, const Seen& seen) {
    switch (p.kind) {
      case Part::Kind::text: return {p.text.empty(), !p.text.empty()};
      case Part::Kind::characters: return {false, !p.ranges.empty()};
      case Part::Kind::rule:
      case Part::Kind::choice: return seen.texts;
      case Part::Kind::sequence:
        if (seen.no_text > 0) return {};
        return {seen.not_empty == 0, seen.texts.longer};
      case Part::Kind::repeat:
        if (p.min > 0 && !seen.texts.any()) return {};
        return {p.min == 0 || seen.texts.empty, p.max > 0 && seen.texts.longer};
    }
    return {};
  }

  // The least solution, in time linear in the tree: what a part admits only grows, at most twice.
  void find_texts() {
    const uint32_t n = uint32_t(tree_.parts.size());
    texts_.assign(n, {});
    std::vector<Seen> seen;
    std::vector<std::vector<uint32_t>> users(n);
    std::vector<uint32_t> open;
    for (uint32_t id = 0; id < n; ++id) {
      const Part& p = tree_.parts[id];
      if (p.kind == Part::Kind::rule) users[tree_.rules[p.rule].body].push_back(id);
      for (const uint32_t one : p.parts) users[one].push_back(id);
      const uint32_t made_of = uint32_t(p.parts.size()) + (p.kind == Part::Kind::rule);
      seen.push_back({{}, made_of, made_of});
      open.push_back(id);
    }
    while (!open.empty()) {
      const uint32_t id = open.back();
      open.pop_back();
      const Texts before = texts_[id], now = texts_of(tree_.parts[id], seen[id]);
      if (now == before) continue;
      texts_[id] = now;
      for (const uint32_t user : users[id]) {
        Seen& s = seen[user];
        s.texts = {s.texts.empty || now.empty, s.texts.longer || now.longer};
        s.no_text -= !before.any();
        s.not_empty -= now.empty && !before.empty;
        open.push_back(user);
      }
    }
  }

  // --- left recursion ---

  // The rules that a part may begin with.
  void beginnings(uint32_t id, std::vector<uint32_t>* out) const {
    const Part& p = tree_.parts[id];
    if (!texts_[id].any()) return;
    if (p.kind == Part::Kind::rule) out->push_back(p.rule);
    for (const uint32_t one : p.parts) {
      beginnings(one, out);
      if (p.kind == Part::Kind::sequence && !texts_[one].empty) return;
    }
  }

  struct Level {
    uint32_t rule;
    std::vector<uint32_t> next;
    size_t at = 0;
  };

  Status check_left_recursion() const {
    enum : uint8_t { fresh, open, done };
    std::vector<uint8_t> state(tree_.rules.size(), fresh);
    for (uint32_t r = 0; r < tree_.rules.size(); ++r) {
      if (state[r] != fresh) continue;
      std::vector<Level> path;
      const auto enter = [&](uint32_t rule) {
        state[rule] = open;
        path.push_back({rule, {}});
        beginnings(tree_.rules[rule].body, &path.back().next);
      };
      enter(r);
      while (!path.empty()) {
        Level& level = path.back();
        if (level.at == level.next.size()) {
          state[level.rule] = done;
          path.pop_back();
          continue;
        }
        const uint32_t callee = level.next[level.at++];
        if (state[callee] == open) return left_recursive(path, callee);
        if (state[callee] == fresh) enter(callee);
      }
    }
    return {};
  }

  Status left_recursive(std::span<const Level> path, uint32_t rule) const {
    const auto name = [&](uint32_t r) { return "'" + tree_.rules[r].name + "'"; };
    while (path[0].rule != rule) path = path.subspan(1);
    std::string cycle;
    for (const Level& level : path.first(std::min<size_t>(path.size(), 8))) {
      cycle += name(level.rule) + " -> ";
    }
    if (path.size() > 8) cycle += "... -> ";
    return Status::invalid(
        "grammar: the rule " + name(rule) + " begins with itself (" + cycle + name(rule) +
        "); write left recursion as a repetition: 'a ::= b c*' for 'a ::= a c | b'");
  }

  // --- nodes ---

  uint32_t add(const Node& node) {
    if (full_) return Automaton::kEnd;
    const auto hash_of = [this](const Node& n) {
      uint64_t h = uint64_t(n.kind) * 0x9E3779B97F4A7C15u;
      const auto mix = [&h](uint64_t v) {
        h = (h ^ v) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
      };
      mix(uint64_t(n.body) << 32 | n.next);
      mix(uint64_t(n.min) << 32 | n.max);
      for (const Edge& e : out_.edges(n))
        mix(uint64_t(e.next) << 16 | uint64_t(e.low) << 8 | e.high);
      return h;
    };
    const auto same = [this](const Node& a, const Node& b) {
      return a.kind == b.kind && a.body == b.body && a.next == b.next && a.min == b.min &&
             a.max == b.max && std::ranges::equal(out_.edges(a), out_.edges(b));
    };
    if (2 * (out_.nodes_.size() + 1) > table_.size()) {
      table_.assign(std::max<size_t>(1024, 2 * table_.size()), kNone);
      for (uint32_t i = 0; i < out_.nodes_.size(); ++i) {
        size_t at = hash_of(out_.nodes_[i]) & (table_.size() - 1);
        while (table_[at] != kNone) at = (at + 1) & (table_.size() - 1);
        table_[at] = i;
      }
    }
    size_t at = hash_of(node) & (table_.size() - 1);
    for (; table_[at] != kNone; at = (at + 1) & (table_.size() - 1)) {
      if (!same(out_.nodes_[table_[at]], node)) continue;
      out_.edges_.resize(out_.edges_.size() - node.count);  // they were put there for this node
      return table_[at];
    }
    if (out_.nodes_.size() >= kMaxGrammarNodes || out_.edges_.size() >= 4 * kMaxGrammarNodes) {
      full_ = true;
      return Automaton::kEnd;
    }
    table_[at] = uint32_t(out_.nodes_.size());
    out_.nodes_.push_back(node);
    return table_[at];
  }

  uint32_t with_edges(Node::Kind kind, const std::vector<Edge>& edges) {
    const auto first = uint32_t(out_.edges_.size());
    out_.edges_.insert(out_.edges_.end(), edges.begin(), edges.end());
    return add({.kind = kind, .first = first, .count = uint32_t(edges.size())});
  }
  uint32_t bytes_node(const std::vector<Edge>& edges) {
    return with_edges(Node::Kind::bytes, edges);
  }

  // Any of `ways`. Ways that are bytes become one node as far as that is cheap, so that words with
  // the same beginnings are one path.
  uint32_t any_of(std::vector<uint32_t> ways, int depth = 0) {
    std::vector<uint32_t> others, bytes;
    const auto sort_in = [&](uint32_t id) {
      (out_.nodes_[id].kind == Node::Kind::bytes ? bytes : others).push_back(id);
    };
    for (const uint32_t id : ways) {
      if (id == kNone) continue;
      const Node n = out_.nodes_[id];
      if (n.kind != Node::Kind::choice || n.count > kMostFlattened) {
        sort_in(id);
      } else {
        for (const Edge& e : out_.edges(n)) sort_in(e.next);
      }
    }
    for (auto* list : {&others, &bytes}) {
      std::ranges::sort(*list);
      list->erase(std::unique(list->begin(), list->end()), list->end());
    }
    if (bytes.size() > 1) {
      size_t work = 0;
      for (const uint32_t id : bytes) work += out_.nodes_[id].count;
      if (depth < kMaxMergeDepth && merge_work_ + work < kMergeWork) {
        merge_work_ += work;
        bytes = {merge(bytes, depth)};
      }
    }
    others.insert(others.end(), bytes.begin(), bytes.end());
    if (others.empty()) return kNone;
    if (others.size() == 1) return others[0];
    std::ranges::sort(others);
    std::vector<Edge> edges;
    for (const uint32_t id : others) edges.push_back({0, 0, id});
    return with_edges(Node::Kind::choice, edges);
  }

  uint32_t merge(const std::vector<uint32_t>& bytes, int depth) {
    std::vector<bool> begins(257);
    for (const uint32_t id : bytes) {
      for (const Edge& e : out_.edges(out_.nodes_[id])) {
        begins[e.low] = begins[size_t(e.high) + 1] = true;
      }
    }
    std::vector<int> segment_of(256);
    std::vector<int> firsts;
    for (int b = 0; b < 256; ++b) {
      if (begins[size_t(b)] || b == 0) firsts.push_back(b);
      segment_of[size_t(b)] = int(firsts.size()) - 1;
    }
    std::vector<std::vector<uint32_t>> nexts(firsts.size());
    for (const uint32_t id : bytes) {
      for (const Edge& e : out_.edges(out_.nodes_[id])) {
        for (int s = segment_of[e.low]; s <= segment_of[e.high]; ++s) {
          nexts[size_t(s)].push_back(e.next);
        }
      }
    }
    std::vector<Edge> edges;
    const std::vector<uint32_t>* before = nullptr;
    for (size_t s = 0; s < nexts.size(); ++s) {
      std::ranges::sort(nexts[s]);
      nexts[s].erase(std::unique(nexts[s].begin(), nexts[s].end()), nexts[s].end());
      if (nexts[s].empty()) continue;
      const auto low = uint8_t(firsts[s]);
      const auto high = uint8_t(s + 1 < firsts.size() ? firsts[s + 1] - 1 : 255);
      const uint32_t next = before && *before == nexts[s] ? edges.back().next
                            : nexts[s].size() == 1        ? nexts[s][0]
                                                          : any_of(nexts[s], depth + 1);
      before = &nexts[s];
      if (!edges.empty() && edges.back().next == next && edges.back().high + 1 == low) {
        edges.back().high = high;
      } else {
        edges.push_back({low, high, next});
      }
    }
    return bytes_node(edges);
  }

  // Bytes `low[i]` to `high[i]`, one after the other.
  uint32_t chain(const uint8_t* low, const uint8_t* high, int size, uint32_t next) {
    for (int i = size; i-- > 0;) next = bytes_node({{low[i], high[i], next}});
    return next;
  }

  // Code points as UTF-8: ranges are cut until every byte of a piece has a range of its own.
  void utf8_ways(uint32_t first, uint32_t last, uint32_t next, std::vector<uint32_t>* out) {
    constexpr uint32_t kEnds[] = {0x7F, 0x7FF, 0xFFFF};
    for (const uint32_t end : kEnds) {
      if (first <= end && last > end) {
        utf8_ways(first, end, next, out);
        return utf8_ways(end + 1, last, next, out);
      }
    }
    const int size = last <= 0x7F ? 1 : last <= 0x7FF ? 2 : last <= 0xFFFF ? 3 : 4;
    for (int tail = 1; tail < size; ++tail) {
      const uint32_t mask = (1u << (6 * tail)) - 1;
      if ((first & ~mask) == (last & ~mask)) continue;
      if ((first & mask) != 0) {
        utf8_ways(first, first | mask, next, out);
        return utf8_ways((first | mask) + 1, last, next, out);
      }
      if ((last & mask) != mask) {
        utf8_ways(first, (last & ~mask) - 1, next, out);
        return utf8_ways(last & ~mask, last, next, out);
      }
    }
    std::string a, b;
    append_utf8(first, &a);
    append_utf8(last, &b);
    out->push_back(chain(reinterpret_cast<const uint8_t*>(a.data()),
                         reinterpret_cast<const uint8_t*>(b.data()), size, next));
  }

  uint32_t call(uint32_t rule, bool longer, uint32_t next) {
    uint32_t& id = rule_ids_[size_t(rule) * 2 + longer];
    if (id == kNone) {
      id = uint32_t(called_.size());
      called_.push_back(rule * 2 + longer);
    }
    return add({.kind = Node::Kind::call, .body = id, .next = next});
  }

  // The node of a part with `next` behind it; `longer`: without its empty text.
  uint32_t compile(uint32_t part, bool longer, uint32_t next) {
    if (full_) return Automaton::kEnd;
    const Texts texts = texts_[part];
    if (longer ? !texts.longer : !texts.any()) return kNone;
    if (!longer && !texts.longer) return next;
    const Part& p = tree_.parts[part];
    if (p.kind == Part::Kind::rule) return call(p.rule, longer, next);
    if (p.kind == Part::Kind::text) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(p.text.data());
      return chain(bytes, bytes, int(p.text.size()), next);
    }
    const uint64_t key = uint64_t(part) << 32 | next;
    if (const auto found = compiled_[longer].find(key); found != compiled_[longer].end()) {
      return found->second;
    }
    const uint32_t node = p.kind == Part::Kind::characters ? compile_characters(p, next)
                          : p.kind == Part::Kind::choice   ? compile_choice(p, longer, next)
                          : p.kind == Part::Kind::sequence ? compile_sequence(p, longer, next)
                                                           : compile_repeat(p, longer, next);
    compiled_[longer].emplace(key, node);
    return node;
  }

  uint32_t compile_characters(const Part& p, uint32_t next) {
    std::vector<uint32_t> ways;
    for (const CharacterRange& r : p.ranges) utf8_ways(r.first, r.last, next, &ways);
    return any_of(std::move(ways));
  }

  uint32_t compile_choice(const Part& p, bool longer, uint32_t next) {
    std::vector<uint32_t> ways;
    ways.reserve(p.parts.size());
    for (const uint32_t one : p.parts) ways.push_back(compile(one, longer, next));
    return any_of(std::move(ways));
  }

  uint32_t compile_sequence(const Part& p, bool longer, uint32_t next) {
    uint32_t rest = next, longer_rest = kNone;
    for (size_t i = p.parts.size(); i-- > 0;) {
      const uint32_t one = p.parts[i];
      if (longer) {
        const uint32_t here = compile(one, true, rest);
        longer_rest = texts_[one].empty ? any_of({here, longer_rest}) : here;
      }
      if (i > 0 || !longer) rest = compile(one, false, rest);
    }
    return longer ? longer_rest : rest;
  }

  uint32_t compile_repeat(const Part& p, bool longer, uint32_t next) {
    const uint32_t one = p.parts[0];
    const bool optional = p.min == 0 || texts_[one].empty;
    if (p.max == 1) {
      const uint32_t once = compile(one, true, next);
      return optional && !longer ? any_of({once, next}) : once;
    }
    const uint32_t body = compile(one, true, Automaton::kEnd);
    // In a part without its empty text, an optional repetition has one turn at least.
    const uint32_t min = optional ? uint32_t(longer) : p.min;
    return add({.kind = Node::Kind::repeat, .body = body, .next = next, .min = min, .max = p.max});
  }

  void find_classes() {
    std::vector<bool> begins(257);
    begins[0] = true;
    for (const Node& n : out_.nodes_) {
      if (n.kind != Node::Kind::bytes) continue;
      for (const Edge& e : out_.edges(n)) begins[e.low] = begins[size_t(e.high) + 1] = true;
    }
    for (int b = 0; b < 256; ++b) {
      if (begins[size_t(b)]) out_.first_bytes_.push_back(uint8_t(b));
      out_.classes_[b] = uint8_t(out_.first_bytes_.size() - 1);
    }
  }

  const GrammarTree& tree_;
  Automaton& out_;
  std::vector<Texts> texts_;  // of parts
  // (part, longer, next) -> node, of parts that have parts.
  std::unordered_map<uint64_t, uint32_t> compiled_[2];
  std::vector<uint32_t> table_;
  std::vector<uint32_t> rule_ids_;  // [rule, longer]: what calls name; kNone: not called yet
  std::vector<uint32_t> called_;    // [id]: rule * 2 + longer
  size_t built_ = 0, merge_work_ = 0;
  bool full_ = false;
};

Status Automaton::build(const GrammarTree& tree, Automaton* out) {
  *out = {};
  return AutomatonBuilder(tree, out).build();
}

size_t Automaton::bytes() const {
  return nodes_.capacity() * sizeof(Node) + edges_.capacity() * sizeof(Edge) +
         rules_.capacity() * sizeof(uint32_t);
}

}  // namespace nemotron
