#include "engine/grammar/token_masks.h"

#include <algorithm>

namespace nemotron {
namespace {

using State = Pushdown::State;

void set_bit(std::vector<uint32_t>* bits, int32_t id) {
  (*bits)[size_t(id) / 32] |= 1u << (id % 32);
}

}  // namespace

const TokenMasks::Unit& TokenMasks::unit(State local) {
  const auto [it, is_new] = units_.try_emplace(local);
  Unit& u = it->second;
  if (!is_new) return u;
  std::vector<std::vector<uint32_t>> onward(256);
  vocabulary_.walk_all(
      local, &path_, [this](State from, uint8_t byte, State* to) { return step(from, byte, to); },
      [&](uint32_t node, State state) {
        const auto tokens = vocabulary_.tokens(node);
        u.tokens.insert(u.tokens.end(), tokens.begin(), tokens.end());
        if (!pushdown_.ends(state)) return;
        for (uint32_t child = node + 1; child < vocabulary_.end(node);
             child = vocabulary_.end(child)) {
          onward[vocabulary_.byte(child)].push_back(child);
        }
      });
  for (size_t byte = 0; byte < onward.size(); ++byte) {
    if (onward[byte].empty()) continue;
    bytes_ += onward[byte].size() * sizeof(uint32_t);
    u.onward.emplace_back(uint8_t(byte), std::move(onward[byte]));
  }
  if (u.tokens.size() > vocabulary_.words() / 2) {
    u.bits.resize(vocabulary_.words());
    for (const int32_t id : u.tokens) set_bit(&u.bits, id);
    u.tokens = {};
  }
  bytes_ += sizeof(Unit) + (u.bits.size() + u.tokens.size()) * sizeof(uint32_t);
  return u;
}

void TokenMasks::add_unit(const Unit& unit, std::vector<uint32_t>* mask) const {
  for (size_t i = 0; i < unit.bits.size(); ++i) (*mask)[i] |= unit.bits[i];
  for (const int32_t id : unit.tokens) set_bit(mask, id);
}

void TokenMasks::add_onward(const Unit& unit, State after, std::vector<uint32_t>* mask) {
  for (const auto& [byte, nodes] : unit.onward) {
    if (pushdown_.next(after, byte) == Pushdown::kDead) continue;
    for (const uint32_t node : nodes) {
      vocabulary_.walk(
          node, after, &path_,
          [this](State from, uint8_t b, State* to) { return step(from, b, to); },
          [&](uint32_t found, State) {
            for (const int32_t id : vocabulary_.tokens(found)) set_bit(mask, id);
          });
    }
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
    if (rest != Pushdown::kBottom) add_onward(inside, pushdown_.after(rest), &mask);
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
