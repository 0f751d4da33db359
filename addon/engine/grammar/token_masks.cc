#include "engine/grammar/token_masks.h"

#include <algorithm>
#include <bit>

namespace nemotron {
namespace {

using State = Pushdown::State;

// A chain of states by one character is a loop from 4 on; so many are looked at, since few tokens
// have more characters.
constexpr uint32_t kShortestChain = 4, kLongestChain = 16;
// Places that a chain may gain: where ways to read a text multiply, tokens alone ask for more.
constexpr size_t kMostGrown = 16;
// Of a vocabulary, one in so many: what a loop must take to be more than a walk.
constexpr size_t kMuch = 16;
// Of a vocabulary, one in so many: texts with one beginning, so that it is worth to look whether
// they are in a ring.
constexpr size_t kMany = 512;
// Units that one mask finds; if its places have more that are new, all of them are found at once.
constexpr int64_t kMostFresh = 3;

void set_bit(std::vector<uint32_t>* bits, int32_t id) {
  (*bits)[size_t(id) / 32] |= 1u << (id % 32);
}

void clear_bit(std::vector<uint32_t>* bits, int32_t id) {
  (*bits)[size_t(id) / 32] &= ~(1u << (id % 32));
}

bool is_continuation(char byte) { return (uint8_t(byte) & 0xC0) == 0x80; }

bool has_bit(const std::vector<uint32_t>& bits, int32_t id) {
  return (bits[size_t(id) / 32] >> (id % 32) & 1) != 0;
}

size_t count_bits(const std::vector<uint32_t>& bits) {
  size_t count = 0;
  for (const uint32_t word : bits) count += size_t(std::popcount(word));
  return count;
}

// Calls visit(text) for the texts whose bits are `on`.
template <class Texts, class Visit>
void each_bit(const std::vector<uint32_t>& bits, Texts texts, bool on, const Visit& visit) {
  for (uint32_t i = texts.first; i < texts.end;) {
    const uint32_t word = (on ? bits[i / 32] : ~bits[i / 32]) >> (i % 32);
    if (word == 0) {
      i += 32 - i % 32;
      continue;
    }
    i += uint32_t(std::countr_zero(word));
    if (i < texts.end) visit(i++);
  }
}

}  // namespace

// Whether all characters of several bytes lead from `state` to `back`, and no body ends inside.
bool TokenMasks::loops_with_long(State state, State back) {
  struct Bytes {
    uint8_t low, high;
  };
  struct Kind {
    Bytes first, second;
    size_t more;  // bytes behind these
  };
  constexpr Bytes kMore = {0x80, 0xBF};
  constexpr Kind kKinds[] = {
      {{0xC2, 0xDF}, kMore, 0}, {{0xE0, 0xE0}, {0xA0, 0xBF}, 1},
      {{0xE1, 0xEC}, kMore, 1}, {{0xED, 0xED}, {0x80, 0x9F}, 1},
      {{0xEE, 0xEF}, kMore, 1}, {{0xF0, 0xF0}, {0x90, 0xBF}, 2},
      {{0xF1, 0xF3}, kMore, 2}, {{0xF4, 0xF4}, {0x80, 0x8F}, 2},
  };
  std::vector<State> from, to;
  // From all of them by every byte of the range; false: one is refused.
  const auto go = [&](Bytes bytes) {
    to.clear();
    for (const State s : from) {
      for (uint32_t b = bytes.low; b <= bytes.high; ++b) {
        const State next = pushdown_.next(s, uint8_t(b));
        if (next == Pushdown::kDead) return false;
        if (std::ranges::find(to, next) == to.end()) to.push_back(next);
      }
    }
    from.swap(to);
    return true;
  };
  const auto is_inside = [&] {
    return std::ranges::none_of(from, [&](State s) { return pushdown_.ends(s); });
  };
  return std::ranges::all_of(kKinds, [&](const Kind& kind) {
    from = {state};
    if (!go(kind.first) || !is_inside() || !go(kind.second)) return false;
    for (size_t i = 0; i < kind.more; ++i) {
      if (!is_inside() || !go(kMore)) return false;
    }
    return from.size() == 1 && from[0] == back;
  });
}

// Where one character leads again and again: patterns with a length are such chains of states.
TokenMasks::Turns TokenMasks::find_chain(State local, uint8_t character) {
  Turns turns = {.path = {local}, .count = 0};
  const size_t most_places = pushdown_.places(local).size() + kMostGrown;
  const uint32_t most = std::min(kLongestChain, vocabulary_.longest());
  while (turns.count < most) {
    const State next = pushdown_.next(turns.path.back(), character);
    if (pushdown_.places(next).size() > most_places) return {};
    if (next == Pushdown::kDead) {
      turns.refuses_more = true;
      turns.behind = turns.path.back();
      break;
    }
    const bool stays = next == turns.path.back();
    turns.path.push_back(next);
    turns.count = stays ? kUnboundedCount : turns.count + 1;
  }
  return turns;
}

TokenMasks::Turns TokenMasks::find_turns(State local) {
  const auto counted = [](const Pushdown::Turn& turn, std::vector<State> path) {
    if (turn.room == kUnboundedCount) return Turns{.path = std::move(path)};
    const auto before = uint32_t(path.size()) - 2;  // of the turns that turn.room says
    return Turns{.path = std::move(path),
                 .count = turn.room + before,
                 .refuses_more = true,
                 .behind = turn.behind};
  };
  if (const Pushdown::Turn turn = pushdown_.turn(local); turn.one != Pushdown::kDead) {
    return counted(turn, {local, turn.one, turn.two});
  }
  constexpr uint8_t kTried[] = {'e', 'E', '1', ' '};
  for (const uint8_t c : kTried) {
    const State one = pushdown_.next(local, c);
    if (one == Pushdown::kDead) continue;
    const State two = pushdown_.next(one, c);
    if (two == one) return {.path = {local, one, one}};  // it does not count
    const auto all = pushdown_.places(one);
    for (const Pushdown::Place& place : std::vector(all.begin(), all.end())) {
      const Pushdown::Turn turn = pushdown_.turn(pushdown_.only(place));
      // It counts from there on.
      if (turn.one == two && two != Pushdown::kDead)
        return counted(turn, {local, one, two, turn.two});
    }
  }
  for (const uint8_t c : kTried) {
    Turns chain = find_chain(local, c);
    if (chain.count >= kShortestChain) return chain;
  }
  return {};
}

TokenMasks::Loop TokenMasks::loop_along(const Turns& turns) {
  const std::vector<State>& path = turns.path;
  if (path.empty()) return {};
  Loop loop = {.in = path[1], .turns = turns.count, .refuses_more = turns.refuses_more};
  const auto is_refused = [&](uint32_t low, uint32_t high) {
    for (uint32_t byte = low; byte <= high; ++byte) {
      if (pushdown_.next(turns.behind, uint8_t(byte)) != Pushdown::kDead) return false;
    }
    return true;
  };
  const auto goes_on = [&](const auto& leads) {
    for (size_t i = 2; i < path.size(); ++i) {
      if (!leads(path[i - 1], path[i])) return false;
    }
    return true;
  };
  Characters& found = loop.characters;
  uint64_t broken = 0;
  for (uint8_t c = 0; c < 0x80; ++c) {
    const uint32_t kind = Vocabulary::kind_of(c);
    const bool is_one = is_refused(c, c) && goes_on([&](State from, State to) {
                          return pushdown_.next(from, c) == to;
                        });
    if (is_one && kind == Vocabulary::kLower) found.letters |= Vocabulary::letter_of(c);
    if (is_one || kind == Vocabulary::kLower) {
      found.kinds |= uint64_t(1) << kind;
    } else {
      broken |= uint64_t(1) << kind;
    }
  }
  found.kinds &= ~broken;
  if (found.letters == 0) found.kinds &= ~(uint64_t(1) << Vocabulary::kLower);
  const auto leads = [&](State from, State to) { return loops_with_long(from, to); };
  if (found.kinds != 0 && is_refused(0xC2, 0xFF) && goes_on(leads)) {
    found.kinds |= uint64_t(1) << Vocabulary::kLong;
    loop.starts_with_long = loops_with_long(path[0], path[1]);
  }
  return loop;
}

// Null: walks over the tree are as good.
const TokenMasks::Taken* TokenMasks::taken(const Loop& loop) {
  if (loop.characters.letters == 0) return nullptr;
  const uint32_t most = vocabulary_.known_most(loop.turns);
  // Behind its last turn a loop refuses its characters.
  const bool refuses_more = most == loop.turns && loop.refuses_more;
  const auto& [kinds, letters] = loop.characters;
  const auto [it, is_new] = taken_.try_emplace({kinds, letters, most, refuses_more});
  Taken& t = it->second;
  if (!is_new) return t.known.empty() ? nullptr : &t;
  t.bits = vocabulary_.only(loop.characters, most);
  t.known = refuses_more ? vocabulary_.only(loop.characters, UINT32_MAX).texts : t.bits.texts;
  if (kMuch * count_bits(t.known) < vocabulary_.num_texts()) t = {};
  bytes_ +=
      sizeof(Taken) + (t.bits.ids.size() + t.bits.texts.size() + t.known.size()) * sizeof(uint32_t);
  return t.known.empty() ? nullptr : &t;
}

// A state that characters do not leave.
const TokenMasks::Ring& TokenMasks::ring(State state) {
  const auto [it, is_new] = rings_.try_emplace(state);
  if (is_new) {
    const Loop loop = loop_along({.path = {state, state, state}});
    it->second = {loop.characters, taken(loop)};
    bytes_ += sizeof(Ring);
  }
  return it->second;
}

// --- units ---

// A node of the tree that the body takes.
void TokenMasks::visit(uint32_t node, Unit* unit) {
  const auto tokens = vocabulary_.tokens(node);
  if (unit->bits.empty()) {
    unit->tokens.insert(unit->tokens.end(), tokens.begin(), tokens.end());
  } else {
    for (const int32_t id : tokens) set_bit(&unit->bits, id);
  }
  if (unit->is_whole || !pushdown_.ends(path_[vocabulary_.depth(node)])) return;
  for (uint32_t child = node + 1; child < vocabulary_.end(node); child = vocabulary_.end(child)) {
    const uint8_t byte = vocabulary_.byte(child);
    if (!unit->characters.has(byte)) nodes_[byte].push_back(child);
  }
}

void TokenMasks::find_by_tree(State from, Unit* unit) {
  vocabulary_.walk_all(
      from, &path_, [this](State s, uint8_t byte, State* to) { return step(s, byte, to); },
      [&](uint32_t node, State) { visit(node, unit); });
}

void TokenMasks::begin_texts(State from) {
  path_.resize(std::max<size_t>(path_.size(), size_t(vocabulary_.longest()) + 2));
  ends_.resize(path_.size());
  path_[0] = from;
  before_ = {};
  walked_ = common_ = 0;
}

bool TokenMasks::walk_text(std::string_view bytes) {
  const size_t most = std::min({common_, bytes.size(), before_.size()});
  common_ = 0;
  while (common_ < most && bytes[common_] == before_[common_]) ++common_;
  before_ = bytes;
  if (common_ > walked_) return false;  // it goes on with the byte that was refused
  walked_ = common_;
  common_ = bytes.size();
  while (walked_ < bytes.size() &&
         step(path_[walked_], uint8_t(bytes[walked_]), &path_[walked_ + 1])) {
    ++walked_;
    ends_[walked_] = ends_[walked_ - 1] + (pushdown_.ends(path_[walked_]) ? 1 : 0);
  }
  return walked_ == bytes.size();
}

// Texts that begin as `node` does, behind which characters lead in a circle.
void TokenMasks::add_others(uint32_t node, const Taken& those, Unit* unit) {
  const size_t depth = vocabulary_.depth(node);
  const Texts texts = texts_of(node);
  // Behind more than one character it may have more of them than its loop counts.
  const std::string_view way = vocabulary_.bytes(texts.first).substr(1, depth - 1);
  const bool is_first = std::ranges::all_of(way, is_continuation);
  before_ = {};
  walked_ = common_ = depth;
  each_bit(is_first ? those.known : those.bits.texts, texts, false, [&](uint32_t text) {
    const int32_t id = vocabulary_.id(text);
    if (unit->is_whole && has_bit(unit->bits, id)) return;
    const std::string_view bytes = vocabulary_.bytes(text);
    if (walk_text(bytes)) set_bit(&unit->bits, id);
    if (unit->is_whole) return;
    const size_t most = std::min(walked_, bytes.size() - 1);
    if (most < depth || ends_[most] == ends_[depth - 1]) return;
    for (size_t at = depth; at <= most; ++at) {
      const auto byte = uint8_t(bytes[at]);
      if (!unit->characters.has(byte) && pushdown_.ends(path_[at])) {
        rests_[byte].push_back({text, uint16_t(at)});
      }
    }
  });
}

// Whether all that begins as `node` does is found: characters do not leave the state behind it.
bool TokenMasks::add_ring(uint32_t node, const Taken& those, Unit* unit) {
  const Texts texts = texts_of(node);
  if (kMany * (texts.end - texts.first) < vocabulary_.num_texts()) return false;
  const auto& [characters, inside] = ring(path_[vocabulary_.depth(node)]);
  if (inside == nullptr) return false;
  unit->characters.kinds |= characters.kinds;
  unit->characters.letters |= characters.letters;
  each_bit(those.bits.texts, texts, true,
           [&](uint32_t text) { clear_bit(&unit->bits, vocabulary_.id(text)); });
  each_bit(inside->bits.texts, texts, true,
           [&](uint32_t text) { set_bit(&unit->bits, vocabulary_.id(text)); });
  add_others(node, *inside, unit);
  return true;
}

// The ways into the loop are walked; where they are in it, tokens of its characters are taken.
void TokenMasks::find_by_loop(State from, const Loop& loop, const Taken& those, Unit* unit) {
  unit->characters = loop.characters;
  unit->bits.resize(vocabulary_.words());
  for (size_t i = 0; i < unit->bits.size(); ++i) unit->bits[i] |= those.bits.ids[i];
  begin_texts(from);
  for (uint32_t node = 1; node < vocabulary_.num_nodes();) {
    const uint32_t depth = vocabulary_.depth(node);
    const uint8_t byte = vocabulary_.byte(node);
    if (!step(path_[depth - 1], byte, &path_[depth])) {
      each_bit(those.bits.texts, texts_of(node), true,
               [&](uint32_t text) { clear_bit(&unit->bits, vocabulary_.id(text)); });
      node = vocabulary_.end(node);
      continue;
    }
    ends_[depth] = ends_[depth - 1] + (pushdown_.ends(path_[depth]) ? 1 : 0);
    const bool starts_long = depth == 1 && byte >= 0xC2 && loop.starts_with_long;
    if (path_[depth] == loop.in || starts_long) {
      add_others(node, those, unit);
    } else if (!add_ring(node, those, unit)) {
      visit(node++, unit);
      continue;
    }
    node = vocabulary_.end(node);
  }
}

void TokenMasks::find(State from, Unit* unit) {
  const Loop loop = loop_along(find_turns(from));
  if (const Taken* those = taken(loop)) {
    find_by_loop(from, loop, *those, unit);
  } else {
    find_by_tree(from, unit);
  }
  for (size_t byte = 0; byte < nodes_.size(); ++byte) {
    if (!nodes_[byte].empty()) unit->nodes.emplace_back(uint8_t(byte), nodes_[byte]);
    if (!rests_[byte].empty()) unit->rests.emplace_back(uint8_t(byte), rests_[byte]);
    nodes_[byte].clear();
    rests_[byte].clear();
  }
}

const TokenMasks::Unit& TokenMasks::unit(State local) {
  const auto [it, is_new] = units_.try_emplace(local);
  Unit& u = it->second;
  if (!is_new) return u;
  find(local, &u);
  if (count_bits(u.bits) <= vocabulary_.words() / 2) {
    for (size_t i = 0; i < u.bits.size(); ++i) {
      for (uint32_t word = u.bits[i]; word != 0; word &= word - 1) {
        u.tokens.push_back(int32_t(i * 32) + std::countr_zero(word));
      }
    }
    u.bits = {};
  }
  bytes_ += sizeof(Unit) + (u.bits.size() + u.tokens.size()) * sizeof(uint32_t);
  for (const auto& [byte, nodes] : u.nodes) bytes_ += nodes.size() * sizeof(uint32_t);
  for (const auto& [byte, rests] : u.rests) bytes_ += rests.size() * sizeof(Unit::Rest);
  return u;
}

void TokenMasks::add_unit(const Unit& unit, std::vector<uint32_t>* mask) const {
  for (size_t i = 0; i < unit.bits.size(); ++i) (*mask)[i] |= unit.bits[i];
  for (const int32_t id : unit.tokens) set_bit(mask, id);
}

void TokenMasks::add_walk(uint32_t node, State before, std::vector<uint32_t>* mask) {
  vocabulary_.walk(
      node, before, &path_, [this](State from, uint8_t b, State* to) { return step(from, b, to); },
      [&](uint32_t found, State) {
        for (const int32_t id : vocabulary_.tokens(found)) set_bit(mask, id);
      });
}

bool TokenMasks::add_onward(const Unit& unit, State after, std::vector<uint32_t>* mask) {
  for (uint32_t byte = 0; byte < 256 && unit.characters.kinds != 0; ++byte) {
    if (unit.characters.has(uint8_t(byte)) &&
        pushdown_.next(after, uint8_t(byte)) != Pushdown::kDead) {
      return false;
    }
  }
  for (const auto& [byte, nodes] : unit.nodes) {
    if (pushdown_.next(after, byte) == Pushdown::kDead) continue;
    for (const uint32_t node : nodes) add_walk(node, after, mask);
  }
  for (const auto& [byte, rests] : unit.rests) {
    if (pushdown_.next(after, byte) == Pushdown::kDead) continue;
    for (const auto& [text, at] : rests) {
      State state = after;
      for (const char c : vocabulary_.bytes(text).substr(at)) {
        if (!step(state, uint8_t(c), &state)) break;
      }
      if (state != Pushdown::kDead) set_bit(mask, vocabulary_.id(text));
    }
  }
  return true;
}

// False: something is left that has to be found for the state as a whole.
bool TokenMasks::add_places(State state, std::vector<uint32_t>* mask) {
  const auto all = pushdown_.places(state);
  const std::vector<Pushdown::Place> places(all.begin(), all.end());  // states are made meanwhile
  const auto is_fresh = [this](const Pushdown::Place& place) {
    return !units_.contains(pushdown_.local(place));
  };
  const bool is_new = std::ranges::count_if(places, is_fresh) > kMostFresh;
  bool is_all = true;
  for (const Pushdown::Place& place : places) {
    const State local = pushdown_.local(place);
    if (is_new && is_fresh(place)) {
      is_all = false;
      continue;
    }
    const Unit& inside = unit(local);
    add_unit(inside, mask);
    const Pushdown::Stack rest = pushdown_.rest(place.stack);
    if (rest != Pushdown::kBottom && !add_onward(inside, pushdown_.after(rest), mask)) {
      is_all = false;
    }
  }
  return is_all;
}

const std::vector<uint32_t>& TokenMasks::of(State exact) {
  const State state = pushdown_.clipped(exact);
  const auto [it, is_new] = masks_.try_emplace(state);
  std::vector<uint32_t>& mask = it->second;
  if (!is_new) return mask;
  mask.resize(vocabulary_.words());
  bytes_ += sizeof(mask) + mask.size() * sizeof(uint32_t);
  if (!add_places(state, &mask)) {
    Unit whole = {.bits = mask, .is_whole = true};
    find(state, &whole);
    add_unit(whole, &mask);
  }
  if (pushdown_.exhausted()) {  // what was found may be a part
    units_.clear();
    rings_.clear();
    masks_.erase(it);
    none_.assign(vocabulary_.words(), 0);
    return none_;
  }
  return mask;
}

}  // namespace nemotron
