// Constraint: what a grammar leaves of the draws of one sequence. It knows where the answer stands:
// in a block of thinking, in free text, in the grammar's text.
//
// Without triggers the answer is the grammar's text. It begins behind a block of thinking that the
// prompt left open or that the draws open first; up to two line feeds may stand between. With
// triggers the answer is free until one has been written, outside of blocks of thinking; what
// follows it is the grammar's text. Behind the grammar's text only a stop id may come.
//
// Engine thread alone.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/grammar/grammar.h"
#include "engine/request.h"

namespace nemotron {

// Finds any of some words in a stream of bytes.
class WordFinder {
 public:
  WordFinder() = default;
  explicit WordFinder(std::span<const std::string> words);
  // State 0: nothing of a word has been seen.
  uint32_t next(uint32_t state, uint8_t byte) const { return nodes_[state].next[byte]; }
  // The index of a word that has just ended; -1: none.
  int32_t found(uint32_t state) const { return nodes_[state].found; }

 private:
  struct Node {
    std::array<uint32_t, 256> next = {};
    int32_t found = -1;
  };
  std::vector<Node> nodes_;
};

// What holds for every choice of a request, and masks that its choices share.
class ConstraintRules {
 public:
  // Where an answer stands. `at`: in a word that is looked for. `state`: of the grammar's Pushdown.
  enum class Phase : uint8_t {
    thinking,  // looks for the end of the block
    free,      // looks for triggers and for the beginning of a block
    opening,   // of the grammar's text or of the tag that opens a block; at: bytes of the tag
    grammar,
  };
  struct Place {
    Phase phase = Phase::grammar;
    uint32_t at = 0;
    Pushdown::State state = Pushdown::kDead;
  };

  // REQUIRES: params.grammar is set. `params` outlives it.
  ConstraintRules(const SamplingParams& params, std::span<const int32_t> stop_ids);

  const std::shared_ptr<const Grammar>& grammar() const { return params_.grammar; }
  Place begin(Pushdown& pushdown) const;
  // False: the byte may not come.
  bool step(Pushdown& pushdown, Place* place, uint8_t byte) const;
  bool is_end(int32_t id) const;
  std::span<const int32_t> end_ids() const { return end_ids_; }
  // Bits of the ids that may come, in a phase that is not `grammar`.
  const std::vector<uint32_t>& mask(Pushdown& pushdown, const Place& place) const;

 private:
  bool has_triggers() const { return !params_.grammar_after.empty(); }
  bool may_think() const { return !params_.think_begin.empty(); }
  std::string last_bytes(Phase phase) const;
  std::vector<uint32_t> find_mask(Pushdown& pushdown, const Place& place) const;

  const SamplingParams& params_;
  std::vector<int32_t> end_ids_;  // sorted: stop ids, of the request and of the model
  WordFinder think_end_, free_;
  // By phase and at; those of `opening` depend on a state and are not kept.
  mutable std::map<std::pair<Phase, uint32_t>, std::vector<uint32_t>> masks_;
  mutable std::vector<uint32_t> last_;
};

class Constraint {
 public:
  // `rules` outlives it.
  explicit Constraint(const ConstraintRules* rules);

  // From here on tokens are guesses: what takes too much work behind them says nothing of the
  // grammar.
  void suppose() { supposed_ = true; }
  // A token of the answer; `bytes`: its text.
  void take(int32_t id, std::string_view bytes);
  // Nothing may follow: the grammar is so ambiguous that ways through it were given up, and one of
  // them came (Pushdown::settled()), or that it takes too much work (Pushdown::exhausted()).
  bool is_lost() const { return lost_ || rules_->grammar()->is_too_ambiguous(); }
  // Nothing but a stop id may come.
  bool must_end() const;
  // Whether `id` with this text may come.
  bool admits(int32_t id, std::string_view bytes) const;
  // Sets *out to the bits of the ids that may come.
  void write_mask(std::vector<uint32_t>* out) const;
  // Up to `most` bytes that must come next.
  std::string forced_text(size_t most) const;

 private:
  bool in_grammar() const { return place_.phase == ConstraintRules::Phase::grammar; }
  ConstraintRules::Place place() const;
  // After work: whether there was too much of it, which the grammar remembers where it is no guess.
  bool is_exhausted() const;

  const ConstraintRules* rules_;
  GrammarMatcher matcher_;
  ConstraintRules::Place place_;  // its state is the matcher's
  bool ended_ = false, lost_ = false, supposed_ = false;
};

}  // namespace nemotron
