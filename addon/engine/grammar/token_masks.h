// TokenMasks: which tokens may come in a state of a Pushdown, as bits over the ids; kept by state.
//
// What a place does inside its own body is found once for all stacks (a unit): the tokens that end
// inside it, and the beginnings after which the body may have ended. Only what continues these
// beginnings has to be walked for a certain stack.
//
// Most of a vocabulary is letters, and a body that takes one often takes the others alike: it comes
// back to where it was, or only counts (a loop). Tokens of such characters are the same wherever a
// body is in such a loop: they are found once for all of them, and what is walked are the ways into
// the loop and the tokens that have other characters.
//
// One thread at a time, that of the Pushdown.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <tuple>
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
  using Characters = Vocabulary::Characters;
  struct Unit {
    std::vector<uint32_t> bits = {};  // empty: `tokens` has them
    std::vector<int32_t> tokens = {};
    // Beginnings after which the body may have ended, by the byte that follows: nodes of the tree
    // that have this byte, or texts and where it stands in them.
    std::vector<std::pair<uint8_t, std::vector<uint32_t>>> nodes = {};
    struct Rest {
      uint32_t text = 0;
      uint16_t at = 0;
    };
    std::vector<std::pair<uint8_t, std::vector<Rest>>> rests = {};
    // Of these characters it is not said: the body may have ended before any of them.
    Characters characters = {};
    bool is_whole = false;  // of whole stacks: nothing goes on, and bits that it has are right
  };
  // A state in which characters only count, if at all.
  struct Loop {
    Pushdown::State in = Pushdown::kDead;  // behind the first character; kDead: there is no loop
    Characters characters = {};            // each brings it one turn further, behind the first
    bool starts_with_long = false;         // any character of several bytes may be the first
    uint32_t turns = kUnboundedCount;      // characters of which it is said
    bool refuses_more = false;             // of them behind these; else that is not said
  };
  // The tokens of certain characters, of which a loop may have so many.
  struct Taken {
    Vocabulary::Bits bits;
    std::vector<uint32_t> known;  // texts of which nothing is left to be found out
  };
  struct Ring {
    Characters characters;  // that lead from a state to itself
    const Taken* taken = nullptr;
  };
  struct Turns {
    // [i]: where a character of a loop leads from [i - 1].
    std::vector<Pushdown::State> path;
    uint32_t count = kUnboundedCount;  // characters of which that is said
    bool refuses_more = false;         // takes none of them behind these; else that is not said
    Pushdown::State behind = Pushdown::kDead;  // where it stands behind these, if not at its end
  };
  const Unit& unit(Pushdown::State local);
  Turns find_turns(Pushdown::State local);
  Turns find_chain(Pushdown::State local, uint8_t character);
  Loop loop_along(const Turns& turns);
  bool loops_with_long(Pushdown::State state, Pushdown::State back);
  const Taken* taken(const Loop& loop);
  const Ring& ring(Pushdown::State state);
  void find(Pushdown::State from, Unit* unit);
  void find_by_tree(Pushdown::State from, Unit* unit);
  void find_by_loop(Pushdown::State from, const Loop& loop, const Taken& those, Unit* unit);
  // Texts of the vocabulary, in its order, walked from one state.
  void begin_texts(Pushdown::State from);
  bool walk_text(std::string_view bytes);  // whether all of it is taken
  struct Texts {
    uint32_t first = 0, end = 0;
  };
  Texts texts_of(uint32_t node) const {
    return {vocabulary_.first_text(node), vocabulary_.first_text(vocabulary_.end(node))};
  }
  void visit(uint32_t node, Unit* unit);
  void add_others(uint32_t node, const Taken& those, Unit* unit);
  bool add_ring(uint32_t node, const Taken& those, Unit* unit);
  void add_unit(const Unit& unit, std::vector<uint32_t>* mask) const;
  // False: see Unit::characters; the place has to be walked as a whole.
  bool add_onward(const Unit& unit, Pushdown::State after, std::vector<uint32_t>* mask);
  void add_walk(uint32_t node, Pushdown::State before, std::vector<uint32_t>* mask);
  bool add_places(Pushdown::State state, std::vector<uint32_t>* mask);
  bool step(Pushdown::State from, uint8_t byte, Pushdown::State* to) {
    *to = pushdown_.next(from, byte);
    return *to != Pushdown::kDead;
  }

  Pushdown& pushdown_;
  const Vocabulary& vocabulary_;
  std::unordered_map<Pushdown::State, Unit> units_;
  // By kinds, letters, characters, and whether a loop refuses more.
  std::map<std::tuple<uint64_t, uint32_t, uint32_t, bool>, Taken> taken_;
  std::unordered_map<Pushdown::State, Ring> rings_;
  std::unordered_map<Pushdown::State, std::vector<uint32_t>> masks_;
  std::vector<Pushdown::State> path_;  // scratch: behind each byte of a text
  std::vector<uint32_t> ends_;         // [at]: of the states on the path up to there, how many end
  // Scratch: what a unit keeps of beginnings after which the body may have ended, by byte.
  std::array<std::vector<uint32_t>, 256> nodes_;
  std::array<std::vector<Unit::Rest>, 256> rests_;
  // Of the text that was walked last: bytes that were taken, and how many the one at hand shares.
  size_t walked_ = 0, common_ = 0;
  std::string_view before_;
  std::vector<uint32_t> none_;
  size_t bytes_ = 0;
};

}  // namespace nemotron
