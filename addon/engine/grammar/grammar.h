// Grammar: grammar text, ready to say which tokens may come. GrammarMatcher: one text on its way
// through it.
//
// What has been found out about a grammar is kept beside it (GrammarMemory), bounded in bytes: when
// it grows too large it is begun afresh, and matchers take their states along.
//
// compile() on any thread. Matchers of one grammar on one thread, that of its engine; the last
// owner of a grammar may let go of it on any.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/grammar/automaton.h"
#include "engine/grammar/pushdown.h"
#include "engine/grammar/token_masks.h"
#include "engine/grammar/vocabulary.h"

namespace nemotron {

// How much of what has been found out a grammar keeps.
inline constexpr size_t kGrammarMemoryBytes = size_t(48) << 20;

struct GrammarMemory {
  GrammarMemory(const Automaton* automaton, const Vocabulary* vocabulary)
      : pushdown(automaton, vocabulary->longest()), masks(&pushdown, vocabulary) {}
  Pushdown pushdown;
  TokenMasks masks;
  size_t bytes() const { return pushdown.bytes() + masks.bytes(); }
};

// The error of a grammar that needs too much work.
Status too_ambiguous();

class Grammar {
 public:
  // Errors (invalid_argument): see read_grammar() and Automaton::build(); a beginning that is too
  // ambiguous.
  static Status compile(std::string_view text, std::shared_ptr<const Vocabulary> vocabulary,
                        std::shared_ptr<const Grammar>* out);

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  const Automaton& automaton() const { return automaton_; }
  // Some text of it took more work than Pushdown::kMaxWork: requests for it are refused from then
  // on. Any thread.
  bool is_too_ambiguous() const { return too_ambiguous_; }
  void set_too_ambiguous() const { too_ambiguous_ = true; }
  size_t bytes() const { return automaton_.bytes(); }  // of memory, without what is found out later
  // Where matchers are now. `most`: see kGrammarMemoryBytes.
  const std::shared_ptr<GrammarMemory>& memory(size_t most = kGrammarMemoryBytes) const;

 private:
  Grammar() = default;
  std::shared_ptr<const Vocabulary> vocabulary_;
  Automaton automaton_;
  mutable std::atomic<bool> too_ambiguous_ = false;
  mutable std::shared_ptr<GrammarMemory> memory_;  // the engine thread's
};

class GrammarMatcher {
 public:
  enum class From : uint8_t { root, root_after_lines };  // see Automaton
  GrammarMatcher(std::shared_ptr<const Grammar> grammar, From from);

  // False: the text is the grammar's no more. Then only assignment and is_dead() are left.
  bool take(std::string_view bytes);
  bool is_dead() const { return state_ == Pushdown::kDead; }
  bool may_end() const { return memory_->pushdown.ends(state_); }
  bool must_end() const { return may_end() && memory_->pushdown.places(state_).empty(); }
  // Bits of the tokens that may come. Valid until the next call of any matcher of the grammar.
  std::span<const uint32_t> mask() const {
    memory_->pushdown.renew();
    return memory_->masks.of(state_);
  }
  // Up to `most` bytes that must come next.
  std::string forced_text(size_t most) const;

  // For walks that go over states themselves.
  Pushdown& pushdown() const { return memory_->pushdown; }
  Pushdown::State state() const { return state_; }
  // The state from there, as if its text had been taken.
  void set_state(Pushdown::State state);

 private:
  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<GrammarMemory> memory_;
  Pushdown::State state_ = Pushdown::kDead;
};

}  // namespace nemotron
