#include "engine/grammar/token_masks.h"

#include <algorithm>
#include <bit>

namespace nemotron {
namespace {

using State = Pushdown::State;

void set_bit(std::vector<uint32_t>* bits, int32_t id) {
  (*bits)[size_t(id) / 32] |= 1u << (id % 32);
}

bool has_bit(const std::vector<uint32_t>& bits, int32_t id) {
  return (bits[size_t(id) / 32] >> (id % 32) & 1) != 0;
}

}  // namespace

bool TokenMasks::Characters::has(uint8_t byte) const {
  if (byte >= 0x80 && byte < 0xC2) return false;
  const uint32_t kind = byte < 0x80 ? Vocabulary::kind_of(byte) : Vocabulary::kLong;
  if ((kinds >> kind & 1) == 0) return false;
  return kind != Vocabulary::kLower || (letters & Vocabulary::letter_of(byte)) != 0;
}

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

TokenMasks::Turns TokenMasks::find_turns(State local) {
  const auto counted = [](const Pushdown::Turn& turn, std::vector<State> path) {
    if (turn.room == kUnboundedCount) return Turns{.path = std::move(path)};
    const auto before = uint32_t(path.size()) - 2;  // of the turns that turn.room says
    return Turns{.path = std::move(path), .count = turn.room + before, .behind = turn.behind};
  };
  if (const Pushdown::Turn turn = pushdown_.turn(local); turn.one != Pushdown::kDead) {
    return counted(turn, {local, turn.one, turn.two});
  }
  for (const char c : {'e', 'E', '1', ' '}) {
    const State one = pushdown_.next(local, uint8_t(c));
    if (one == Pushdown::kDead) continue;
    const State two = pushdown_.next(one, uint8_t(c));
    if (two == one) return {.path = {local, one, one}};  // it does not count
    const auto all = pushdown_.places(one);
    for (const Pushdown::Place& place : std::vector(all.begin(), all.end())) {
      const Pushdown::Turn turn = pushdown_.turn(pushdown_.only(place));
      // It counts from there on.
      if (turn.one == two && two != Pushdown::kDead)
        return counted(turn, {local, one, two, turn.two});
    }
  }
  return {};
}

TokenMasks::Loop TokenMasks::find_loop(State local) {
  const Turns turns = find_turns(local);
  const std::vector<State>& path = turns.path;
  Loop loop;
  loop.turns = turns.count;
  if (path.empty()) return loop;
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
    loop.starts[c] = pushdown_.next(local, c) == path[1];
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
    const bool starts = loops_with_long(local, path[1]);
    std::fill(loop.starts.begin() + 0xC2, loop.starts.end(), starts);
  }
  return loop;
}

void TokenMasks::find_by_tree(State local, Unit* unit) {
  std::vector<std::vector<uint32_t>> onward(256);
  vocabulary_.walk_all(
      local, &path_, [this](State from, uint8_t byte, State* to) { return step(from, byte, to); },
      [&](uint32_t node, State state) {
        const auto tokens = vocabulary_.tokens(node);
        unit->tokens.insert(unit->tokens.end(), tokens.begin(), tokens.end());
        if (!pushdown_.ends(state)) return;
        for (uint32_t child = node + 1; child < vocabulary_.end(node);
             child = vocabulary_.end(child)) {
          onward[vocabulary_.byte(child)].push_back(child);
        }
      });
  for (size_t byte = 0; byte < onward.size(); ++byte) {
    if (!onward[byte].empty()) unit->nodes.emplace_back(uint8_t(byte), std::move(onward[byte]));
  }
}

void TokenMasks::begin_texts(State from) {
  path_.resize(std::max<size_t>(path_.size(), size_t(vocabulary_.longest()) + 1));
  ends_.resize(path_.size());
  path_[0] = from;
  walked_ = common_ = 0;
}

bool TokenMasks::walk_text(std::string_view bytes) {
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

void TokenMasks::find_by_list(State local, const Loop& loop, Unit* unit) {
  const Characters& those = unit->characters = loop.characters;
  unit->bits.resize(vocabulary_.words());
  std::vector<bool> is_taken;  // by Text::kinds
  for (const uint64_t kinds : vocabulary_.kinds()) is_taken.push_back((kinds & ~those.kinds) == 0);
  std::vector<std::vector<Unit::Rest>> onward(256);
  begin_texts(local);
  const auto texts = vocabulary_.texts();
  for (uint32_t i = 0; i < texts.size(); ++i) {
    const Vocabulary::Text& text = texts[i];
    common_ = std::min<size_t>(common_, text.common);
    const std::string_view bytes = vocabulary_.bytes(text);
    if (is_taken[text.kinds] && (text.letters & ~those.letters) == 0 &&
        loop.starts[uint8_t(bytes[0])]) {
      // In one of too many characters the body ends before one of these kinds.
      if (text.characters <= loop.turns) set_bit(&unit->bits, text.id);
      continue;
    }
    if (walk_text(bytes)) set_bit(&unit->bits, text.id);
    const size_t most = std::min(walked_, bytes.size() - 1);
    for (size_t at = 1; at <= most && ends_[most] > 0; ++at) {
      const auto byte = uint8_t(bytes[at]);
      if (!those.has(byte) && pushdown_.ends(path_[at])) {
        onward[byte].push_back({i, uint16_t(at)});
      }
    }
  }
  for (size_t byte = 0; byte < onward.size(); ++byte) {
    if (!onward[byte].empty()) unit->rests.emplace_back(uint8_t(byte), std::move(onward[byte]));
  }
  size_t count = 0;
  for (const uint32_t word : unit->bits) count += size_t(std::popcount(word));
  if (count > vocabulary_.words() / 2) return;
  for (size_t i = 0; i < unit->bits.size(); ++i) {
    for (uint32_t word = unit->bits[i]; word != 0; word &= word - 1) {
      unit->tokens.push_back(int32_t(i * 32) + std::countr_zero(word));
    }
  }
  unit->bits = {};
}

const TokenMasks::Unit& TokenMasks::unit(State local) {
  const auto [it, is_new] = units_.try_emplace(local);
  Unit& u = it->second;
  if (!is_new) return u;
  const Loop loop = find_loop(local);
  // Without letters there is not much to be walked.
  if (loop.characters.letters != 0) {
    find_by_list(local, loop, &u);
  } else {
    find_by_tree(local, &u);
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
      for (const char c : vocabulary_.bytes(vocabulary_.texts()[text]).substr(at)) {
        if (!step(state, uint8_t(c), &state)) break;
      }
      if (state != Pushdown::kDead) set_bit(mask, vocabulary_.texts()[text].id);
    }
  }
  return true;
}

void TokenMasks::add_whole(const Pushdown::Place& place, std::vector<uint32_t>* mask) {
  begin_texts(pushdown_.only(place));
  for (const Vocabulary::Text& text : vocabulary_.texts()) {
    common_ = std::min<size_t>(common_, text.common);
    if (!has_bit(*mask, text.id) && walk_text(vocabulary_.bytes(text))) set_bit(mask, text.id);
  }
}

const std::vector<uint32_t>& TokenMasks::of(State exact) {
  const State state = pushdown_.clipped(exact);
  const auto [it, is_new] = masks_.try_emplace(state);
  std::vector<uint32_t>& mask = it->second;
  if (!is_new) return mask;
  mask.resize(vocabulary_.words());
  bytes_ += sizeof(mask) + mask.size() * sizeof(uint32_t);
  const auto all = pushdown_.places(state);
  const std::vector<Pushdown::Place> places(all.begin(), all.end());  // states are made meanwhile
  for (const Pushdown::Place& place : places) {
    const Unit& inside = unit(pushdown_.local(place));
    add_unit(inside, &mask);
    const Pushdown::Stack rest = pushdown_.rest(place.stack);
    if (rest != Pushdown::kBottom && !add_onward(inside, pushdown_.after(rest), &mask)) {
      add_whole(place, &mask);
    }
  }
  if (pushdown_.exhausted()) {  // what was found may be a part
    units_.clear();
    masks_.erase(it);
    none_.assign(vocabulary_.words(), 0);
    return none_;
  }
  return mask;
}

}  // namespace nemotron
