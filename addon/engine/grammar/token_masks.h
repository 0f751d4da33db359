// TokenMasks: which tokens may come in a state of a Pushdown, as bits over the ids; kept by state.
//
// What a place does inside its own body is found once for all stacks (a unit): the tokens that end
// inside it, and the beginnings after which the body may have ended. Only what continues these
// beginnings has to be walked for a certain stack.
//
// Most of a vocabulary is letters, and a body that takes one often takes the others alike: it comes
// back to where it was, or only counts. Tokens of such characters are taken without a walk.
//
// One thread at a time, that of the Pushdown.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
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
  struct Characters {
    uint64_t kinds = 0;            // see Vocabulary::kind_of()
    uint32_t letters = 0;          // of kLower: these alone, as bits
    bool has(uint8_t byte) const;  // that one of them begins with
  };
  struct Unit {
    std::vector<uint32_t> bits;  // empty: `tokens` has them
    std::vector<int32_t> tokens;
    // Beginnings after which the body may have ended, by the byte that follows: nodes of the tree
    // that have this byte, or texts and where it stands in them.
    std::vector<std::pair<uint8_t, std::vector<uint32_t>>> nodes;
    struct Rest {
      uint32_t text = 0;
      uint16_t at = 0;
    };
    std::vector<std::pair<uint8_t, std::vector<Rest>>> rests;
    // Of these characters it is not said: the body may have ended before any of them.
    Characters characters;
  };
  // A state in which characters only count, if at all.
  struct Loop {
    Characters characters;              // each brings it one turn further, behind the first
    std::array<bool, 256> starts = {};  // first bytes of the characters that may be the first
    uint32_t turns = kUnboundedCount;   // characters that may come
  };
  const Unit& unit(Pushdown::State local);
  struct Turns {
    // [i]: where a character of a loop leads from [i - 1]; what follows the last is like it.
    std::vector<Pushdown::State> path;
    uint32_t count = kUnboundedCount;          // characters that may come
    Pushdown::State behind = Pushdown::kDead;  // where it stands then, and takes none of them
  };
  Turns find_turns(Pushdown::State local);
  Loop find_loop(Pushdown::State local);
  bool loops_with_long(Pushdown::State state, Pushdown::State back);
  void find_by_tree(Pushdown::State local, Unit* unit);
  // Texts of the vocabulary, in its order, walked from one state. Before each, common_ is lowered
  // to what it has in common with the one before.
  void begin_texts(Pushdown::State from);
  bool walk_text(std::string_view bytes);  // whether all of it is taken
  void find_by_list(Pushdown::State local, const Loop& loop, Unit* unit);
  void add_unit(const Unit& unit, std::vector<uint32_t>* mask) const;
  // False: see Unit::characters; the place has to be walked as a whole.
  bool add_onward(const Unit& unit, Pushdown::State after, std::vector<uint32_t>* mask);
  void add_walk(uint32_t node, Pushdown::State before, std::vector<uint32_t>* mask);
  void add_whole(const Pushdown::Place& place, std::vector<uint32_t>* mask);
  bool step(Pushdown::State from, uint8_t byte, Pushdown::State* to) {
    *to = pushdown_.next(from, byte);
    return *to != Pushdown::kDead;
  }

  Pushdown& pushdown_;
  const Vocabulary& vocabulary_;
  std::unordered_map<Pushdown::State, Unit> units_;
  std::unordered_map<Pushdown::State, std::vector<uint32_t>> masks_;
  std::vector<Pushdown::State> path_;  // scratch: behind each byte of a text
  std::vector<uint32_t> ends_;         // [at]: of the states on the path up to there, how many end
  // Of the text that was walked last: bytes that were taken, and how many the one at hand shares.
  size_t walked_ = 0, common_ = 0;
  std::vector<uint32_t> none_;
  size_t bytes_ = 0;
};

}  // namespace nemotron
