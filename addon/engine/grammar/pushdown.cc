#include "engine/grammar/pushdown.h"

#include <algorithm>

#include "device/assert.h"

namespace nemotron {
namespace {

using Kind = Automaton::Node::Kind;

// Places of a state. More need a grammar that is ambiguous without bounds inside one token.
constexpr size_t kMaxPlaces = 100'000;
// Stacks of a node that are compared with each other.
constexpr size_t kMaxCompared = 1024;

uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * 0x9E3779B97F4A7C15u;
  return h ^ (h >> 29);
}

}  // namespace

Pushdown::Pushdown(const Automaton* automaton, uint32_t longest)
    : automaton_(*automaton), classes_(automaton->num_classes()), longest_(longest) {
  stacks_.push_back({});  // kBottom
  stacks_[0].hash = 1;
  states_.resize(2);  // none, kDead
  states_[kDead].settled = states_[kDead].clipped = kDead;
  states_[kDead].only_byte = -1;
  nexts_.assign(2 * size_t(classes_), kDead);
  seen_.resize(256);
}

Pushdown::State Pushdown::start(uint32_t node) {
  draft_.open.push_back({node, kBottom});
  return close();
}

Pushdown::State Pushdown::after(Stack stack) {
  if (stacks_[stack].after == 0) {
    draft_.open.push_back({Automaton::kEnd, stack});
    const State state = close();
    if (exhausted_) return state;
    stacks_[stack].after = state;
  }
  return stacks_[stack].after;
}

Pushdown::State Pushdown::find_next(State state, uint32_t byte_class) {
  const uint8_t byte = automaton_.first_byte(byte_class);
  for (const Place& p : places(state)) {
    for (const Automaton::Edge& e : automaton_.edges(automaton_.node(p.node))) {
      if (byte > e.high) continue;
      if (byte >= e.low) draft_.open.push_back({e.next, p.stack});
      break;
    }
  }
  const State found = close();
  if (exhausted_) return found;
  nexts_[size_t(state) * classes_ + byte_class] = found;
  return found;
}

// --- from nodes to places ---

// False: it has been here.
bool Pushdown::visit(const Place& place) {
  if (2 * (seen_used_.size() + 1) > seen_.size()) {
    std::vector<uint64_t> old(seen_.size() * 4);
    old.swap(seen_);
    for (uint32_t& used : seen_used_) {
      const uint64_t key = old[used];
      size_t at = mix(0, key) & (seen_.size() - 1);
      while (seen_[at] != 0) at = (at + 1) & (seen_.size() - 1);
      seen_[at] = key;
      used = uint32_t(at);
    }
  }
  const uint64_t key = (uint64_t(place.node) << 32 | place.stack) + 1;
  size_t at = mix(0, key) & (seen_.size() - 1);
  for (; seen_[at] != 0; at = (at + 1) & (seen_.size() - 1)) {
    if (seen_[at] == key) return false;
  }
  seen_[at] = key;
  seen_used_.push_back(uint32_t(at));
  return true;
}

// A repetition with these turns to come, `stack` behind it.
void Pushdown::enter(uint32_t body, uint32_t need, uint32_t room, Stack stack) {
  if (need == 0) draft_.open.push_back({Automaton::kEnd, stack});
  if (room == 0) return;
  draft_.open.push_back({body, during({stack, body, need, room})});
}

// While one of these turns is taken.
Pushdown::Stack Pushdown::during(const StackData& turns) {
  const uint32_t room = turns.room == kUnboundedCount ? turns.room : turns.room - 1;
  if (room == 0) return turns.parent;
  return push_counter(turns.parent, turns.node, turns.need > 0 ? turns.need - 1 : 0, room);
}

Pushdown::State Pushdown::close() {
  Draft& d = draft_;
  d.places.clear();
  d.ends = false;
  while (!d.open.empty()) {
    const Place p = d.open.back();
    d.open.pop_back();
    if (!visit(p)) continue;
    if (++work_ > kMaxWork) exhausted_ = true;
    if (exhausted_) {
      d.open.clear();
      break;
    }
    const Automaton::Node& n = automaton_.node(p.node);
    switch (n.kind) {
      case Kind::bytes:
        if (d.places.size() < kMaxPlaces) d.places.push_back(p);
        break;
      case Kind::choice:
        for (const Automaton::Edge& e : automaton_.edges(n)) d.open.push_back({e.next, p.stack});
        break;
      case Kind::call:
        d.open.push_back({automaton_.rule(n.body), push_return(p.stack, n.next)});
        break;
      case Kind::repeat: enter(n.body, n.min, n.max, push_return(p.stack, n.next)); break;
      case Kind::end: {
        if (p.stack == kBottom) {
          d.ends = true;
          break;
        }
        const StackData s = stacks_[p.stack];
        if (s.counts) {
          enter(s.node, s.need, s.room, s.parent);
        } else {
          d.open.push_back({s.node, s.parent});
        }
        break;
      }
    }
  }
  for (const uint32_t used : seen_used_) seen_[used] = 0;
  seen_used_.clear();
  if (exhausted_) return kDead;
  return intern(&d.places, d.ends);
}

Pushdown::State Pushdown::intern(std::vector<Place>* found, bool ends) {
  if (found->empty() && !ends) return kDead;
  std::ranges::sort(*found);
  uint64_t hash = ends;
  for (const Place& p : *found) hash = mix(hash, uint64_t(p.node) << 32 | p.stack);
  const auto [begin, end] = state_of_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (states_[it->second].ends == ends && std::ranges::equal(places(it->second), *found)) {
      return it->second;
    }
  }
  const auto state = State(states_.size());
  state_of_.emplace(hash, state);
  states_.push_back(
      {.first = uint32_t(places_.size()), .count = uint32_t(found->size()), .ends = ends});
  places_.insert(places_.end(), found->begin(), found->end());
  nexts_.resize(nexts_.size() + classes_);
  return state;
}

// --- stacks ---

Pushdown::Stack Pushdown::push(Stack parent, const StackData& entry) {
  uint64_t hash = mix(stacks_[parent].hash, uint64_t(entry.node) << 1 | uint64_t(entry.counts));
  hash = mix(hash, uint64_t(entry.need) << 32 | entry.room);
  const auto [begin, end] = stack_of_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const StackData& s = stacks_[it->second];
    if (s.parent == parent && s.node == entry.node && s.counts == entry.counts &&
        s.need == entry.need && s.room == entry.room) {
      return it->second;
    }
  }
  const auto id = Stack(stacks_.size());
  stack_of_.emplace(hash, id);
  stacks_.push_back(entry);
  stacks_[id].parent = parent;
  stacks_[id].hash = hash;
  StackData shorter = entry;
  if (entry.counts) {  // a turn has a byte at least, so no token has more turns than bytes
    shorter.need = std::min(entry.need, longest_ + 1);
    if (entry.room > longest_) shorter.room = kUnboundedCount;
  }
  const Stack parent_clipped = stacks_[parent].clipped;
  const bool is_clipped =
      parent_clipped == parent && shorter.need == entry.need && shorter.room == entry.room;
  const Stack clipped = is_clipped ? id : push(parent_clipped, shorter);
  const Stack parent_local = stacks_[parent].local;
  const Stack local = !entry.counts            ? kBottom
                      : parent_local == parent ? id
                                               : push(parent_local, entry);
  stacks_[id].clipped = clipped;
  stacks_[id].local = local;
  stacks_[id].rest = entry.counts ? stacks_[parent].rest : id;
  return id;
}

Pushdown::Stack Pushdown::push_return(Stack parent, uint32_t node) {
  return node == Automaton::kEnd ? parent : push(parent, {.node = node});
}

Pushdown::Stack Pushdown::push_counter(Stack parent, uint32_t body, uint32_t need, uint32_t room) {
  return push(parent, {.node = body, .need = need, .room = room, .counts = true});
}

// --- states from states ---

int32_t Pushdown::only_byte(State state) {
  if (states_[state].only_byte == kUnknown) {
    int32_t only = states_[state].ends ? -1 : int32_t(kUnknown);
    for (const Place& p : places(state)) {
      for (const Automaton::Edge& e : automaton_.edges(automaton_.node(p.node))) {
        only = e.low == e.high && (only == kUnknown || only == e.low) ? e.low : -1;
        if (only < 0) break;
      }
      if (only < 0) break;
    }
    states_[state].only_byte = int16_t(std::max(only, -1));
  }
  return states_[state].only_byte;
}

// Of a stack without its counts.
uint64_t Pushdown::shape(Stack stack) const {
  uint64_t h = 0;
  for (; stack != kBottom; stack = stacks_[stack].parent) {
    h = mix(h, uint64_t(stacks_[stack].node) << 1 | uint64_t(stacks_[stack].counts));
  }
  return h;
}

// Whether every text that may follow with b may follow with a.
bool Pushdown::covers(Stack a, Stack b) const {
  while (a != b) {
    if (a == kBottom || b == kBottom) return false;
    const StackData &x = stacks_[a], &y = stacks_[b];
    if (x.node != y.node || x.counts != y.counts || x.need > y.need || x.room < y.room)
      return false;
    a = x.parent;
    b = y.parent;
  }
  return true;
}

Pushdown::State Pushdown::settled(State state) {
  if (states_[state].settled != 0) return states_[state].settled;
  std::vector<Place> kept;
  const auto all = places(state);
  const auto by_content = [this](const Place& a, const Place& b) {
    return stacks_[a.stack].hash < stacks_[b.stack].hash;
  };
  for (size_t i = 0; i < all.size();) {
    size_t end = i + 1;
    while (end < all.size() && all[end].node == all[i].node) ++end;
    std::vector<Place> group(all.begin() + int64_t(i), all.begin() + int64_t(end));
    i = end;
    if (group.size() > 1) {
      std::vector<std::pair<uint64_t, Place>> shaped;
      for (const Place& p : group) shaped.emplace_back(shape(p.stack), p);
      // The order must not depend on what was met before, nor may the choice of those that stay.
      std::ranges::sort(shaped, [&](const auto& a, const auto& b) {
        return a.first != b.first ? a.first < b.first : by_content(a.second, b.second);
      });
      if (shaped.size() > kMaxCompared) shaped.resize(kMaxCompared);
      group.clear();
      size_t first = 0;  // of the group, with this shape
      for (size_t k = 0; k < shaped.size(); ++k) {
        const Place p = shaped[k].second;
        if (k == 0 || shaped[k].first != shaped[k - 1].first) first = group.size();
        const auto same = std::span(group).subspan(first);
        if (std::ranges::any_of(same, [&](const Place& q) { return covers(q.stack, p.stack); }))
          continue;
        group.erase(std::remove_if(group.begin() + int64_t(first), group.end(),
                                   [&](const Place& q) { return covers(p.stack, q.stack); }),
                    group.end());
        group.push_back(p);
      }
      if (group.size() > kMaxStacks) {
        std::ranges::sort(group, by_content);
        group.resize(kMaxStacks);
      }
    }
    kept.insert(kept.end(), group.begin(), group.end());
  }
  const State found = kept.size() == all.size() ? state : intern(&kept, ends(state));
  states_[state].settled = found;
  states_[found].settled = found;
  return found;
}

Pushdown::State Pushdown::clipped(State state) {
  if (states_[state].clipped != 0) return states_[state].clipped;
  std::vector<Place> all;
  for (const Place& p : places(state)) all.push_back({p.node, stacks_[p.stack].clipped});
  std::ranges::sort(all);
  all.erase(std::unique(all.begin(), all.end()), all.end());
  const State found = intern(&all, ends(state));
  states_[state].clipped = found;
  states_[found].clipped = found;
  return found;
}

Pushdown::State Pushdown::local(const Place& place) {
  std::vector<Place> one = {{place.node, stacks_[place.stack].local}};
  return intern(&one, false);
}

Pushdown::State Pushdown::only(const Place& place) {
  std::vector<Place> one = {place};
  return intern(&one, false);
}

Pushdown::Turn Pushdown::turn(State local) {
  const auto all = places(local);
  if (all.size() != 1) return {};
  const Place p = all[0];
  const StackData s = stacks_[p.stack];
  // While turns must come, what follows the last of them may not yet.
  if (!s.counts || (s.parent != kBottom && s.need > 0)) return {};
  const State one = after(p.stack);
  const Stack left = during(s);
  const auto then = places(one);
  if (std::ranges::find(then, Place{p.node, left}) == then.end()) return {};
  const State behind = s.parent == kBottom ? kDead : after(s.parent);
  return {.one = one, .two = after(left), .behind = behind, .room = s.room};
}

Pushdown::State Pushdown::import(const Pushdown& from, State state) {
  if (state == kDead) return kDead;
  std::vector<Place> all;
  std::vector<Stack> path;
  for (const Place& p : from.places(state)) {
    path.clear();
    for (Stack s = p.stack; s != kBottom; s = from.stacks_[s].parent) path.push_back(s);
    Stack copy = kBottom;
    for (; !path.empty(); path.pop_back()) {
      const StackData& s = from.stacks_[path.back()];
      copy = push(copy, {.node = s.node, .need = s.need, .room = s.room, .counts = s.counts});
    }
    all.push_back({p.node, copy});
  }
  return intern(&all, from.ends(state));
}

size_t Pushdown::bytes() const {
  constexpr size_t kEntry = 48;  // of a hash table
  return stacks_.size() * (sizeof(StackData) + kEntry) +
         states_.size() * (sizeof(StateData) + kEntry) + places_.size() * sizeof(Place) +
         nexts_.size() * sizeof(State);
}

}  // namespace nemotron
