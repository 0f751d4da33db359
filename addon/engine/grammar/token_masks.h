// TokenMasks: which tokens may come in a state of a Pushdown, as bits over the ids; kept by state.
//
// What a place does inside its own body is found once for all stacks (a unit): the tokens that end
// inside it, and the beginnings after which the body may have ended. Only what continues these
// beginnings has to be walked for a certain stack.
//
// One thread at a time, that of the Pushdown.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/grammar/pushdown.h"
#include "engine/grammar/vocabulary.h"

namespace nemotron {

class TokenMasks {
 public:
  TokenMasks(Pushdown* pushdown, const Vocabulary* vocabulary)
      : pushdown_(*pushdown), vocabulary_(*vocabulary) {}

  // Of the tokens of the vocabulary's tree; words() of them. Valid until the next call. No token
  // when the Pushdown is exhausted.
  const std::vector<uint32_t>& of(Pushdown::State state);
  size_t bytes() const { return bytes_; }  // of memory, roughly

 private:
  struct Unit {
    std::vector<uint32_t> bits;  // empty: `tokens` has them
    std::vector<int32_t> tokens;
    // Nodes of the tree whose parent is a beginning after which the body may have ended, by byte.
    std::vector<std::pair<uint8_t, std::vector<uint32_t>>> onward;
  };
  const Unit& unit(Pushdown::State local);
  void add_unit(const Unit& unit, std::vector<uint32_t>* mask) const;
  void add_onward(const Unit& unit, Pushdown::State after, std::vector<uint32_t>* mask);
  bool step(Pushdown::State from, uint8_t byte, Pushdown::State* to) {
    *to = pushdown_.next(from, byte);
    return *to != Pushdown::kDead;
  }

  Pushdown& pushdown_;
  const Vocabulary& vocabulary_;
  std::unordered_map<Pushdown::State, Unit> units_;
  std::unordered_map<Pushdown::State, std::vector<uint32_t>> masks_;
  std::vector<Pushdown::State> path_;  // scratch
  std::vector<uint32_t> none_;
  size_t bytes_ = 0;
};

}  // namespace nemotron
