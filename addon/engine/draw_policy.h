// DrawPolicy: what the draws of one sequence are like. It is told every token that was drawn and
// describes draws to the device (SampleInput): penalties, bias, bans, masks, forced tokens.
//
// Some draws depend on the tokens before them: needs_history() says which. A step may be launched
// before they can be described, because a device reads a SampleInput only when it samples; see
// StepBuffer.
//
// Made on any thread, then the engine thread's alone. Parameters and rules outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "device/step.h"
#include "engine/constraint.h"
#include "engine/output_text.h"
#include "engine/request.h"

namespace nemotron {

// The seed of choice i. Choice 0 draws as a request with n = 1 does, and
// choice_seed(choice_seed(s, i), 0) == choice_seed(s, i).
uint64_t choice_seed(uint64_t seed, int32_t choice);

// What holds for every choice of a request, whatever is drawn. Made once, then constant.
struct DrawRules {
  DrawRules() = default;
  // `tokens`: ids that have bytes; ids from there to `vocab` are padding of the embedding.
  DrawRules(const SamplingParams& params, std::span<const int32_t> model_stop_ids, int32_t tokens,
            int32_t vocab);

  std::vector<uint32_t> allowed;  // bit mask; empty: all
  size_t mask_words = 0;          // of a bit mask over the vocabulary
  std::vector<int32_t> stop_ids;  // sorted: end the sequence when drawn
  // Of them, those that a caller added: they end an answer, and nothing before it. Under a grammar
  // there are none: it knows no place where they end nothing.
  std::vector<int32_t> answer_stop_ids;
  // Banned at every draw: padding of the vocabulary and bad words of one token.
  std::vector<int32_t> never;
  std::vector<int32_t> never_early;  // the same and the stop ids, before min_tokens
  std::shared_ptr<const ConstraintRules> constraint;  // null: no grammar
};

// Repetition, presence and frequency penalties: counts of the tokens so far.
class Penalties {
 public:
  Penalties(const SamplingParams& params, std::span<const int32_t> prompt);
  bool active() const { return active_; }
  void take(int32_t id);
  const std::vector<TokenCount>& counts() const { return counts_; }

 private:
  TokenCount& count_of(int32_t id);

  bool active_ = false;
  std::vector<TokenCount> counts_;
  std::unordered_map<int32_t, int32_t> index_of_;  // id -> index in counts_
};

// Token sequences that must not appear in the output.
class BadWords {
 public:
  explicit BadWords(std::span<const std::vector<int32_t>> words);
  // Whether a ban depends on the tokens before. Words of one token are among DrawRules.
  bool has_context() const { return longest_ > 1; }
  void take(int32_t id);
  // Appends the ids that would complete a word now.
  void append_banned(std::vector<int32_t>* out) const;

 private:
  std::span<const std::vector<int32_t>> words_;
  size_t longest_ = 0;
  std::vector<int32_t> recent_;  // the last tokens of the output, one fewer than the longest word
};

// Ends the thinking after so many tokens, by forced tokens. It acts only inside an open block: one
// that the prompt left open or that the model opened itself. Later blocks share the one budget.
class ThinkingBudget {
 public:
  explicit ThinkingBudget(const SamplingParams& params);
  // What the next draw must give; -1: it is free.
  int32_t forced() const { return closing_ < 0 ? -1 : (*close_)[size_t(closing_)]; }
  // Whether the draw `ahead` (> 0) tokens after the next may be forced, whatever these tokens are.
  bool may_force(int32_t ahead) const;
  void take(std::string_view bytes);

 private:
  void close_if_spent();

  const std::vector<int32_t>* close_ = nullptr;
  std::vector<ByteMatcher> tags_;  // of the tags that open and close a block; empty: no budget
  int32_t left_ = 0;               // tokens
  int32_t closing_ = -1;           // index of the next forced token
  bool open_ = false;
};

class DrawPolicy {
 public:
  DrawPolicy(const SamplingParams* params, const DrawRules* rules, int32_t choice,
             std::span<const int32_t> prompt);

  // Before anything else. What a grammar keeps is the engine thread's, and a policy may be made on
  // another one.
  void begin();
  // A drawn token is known; `bytes`: its text.
  void take(int32_t id, std::string_view bytes);
  int32_t taken() const { return taken_; }
  // The grammar's text has ended, and there is no stop id to say so.
  bool is_over() const {
    return constraint_ && constraint_->must_end() && rules_.constraint->end_ids().empty();
  }
  // See Constraint: nothing may be drawn any more.
  bool is_lost() const { return constraint_ && constraint_->is_lost(); }

  // Whether draw `index` (0 for the first) cannot be described before more tokens are taken.
  bool needs_history(int32_t index) const;
  // Everything of a draw but row, slot and position, which are left alone.
  // REQUIRES: index >= taken(), and !needs_history(index) or the tokens before it are drafts that
  // add_draft() has taken.
  // Spans point into the policy, its parameters and rules. They are valid until the next take() or
  // describe() of the same draw or of one that depends on history, so at most one such draw and
  // those behind its drafts are on their way.
  void describe(int32_t index, SampleInput* out);

  // Whether begin_drafts() is ever true.
  bool may_draft() const { return !penalties_.active() && !bad_words_.has_context(); }
  // Sets *out to tokens of the text that a grammar leaves no choice about, up to `most`: guesses,
  // since another cut of the same text may be drawn.
  void propose_forced(size_t most, std::vector<int32_t>* out) const;
  // Guesses of the next tokens may go into one step with the next draw as long as the draw after
  // each does not depend on tokens that nobody knows yet. Guesses begin anew: whether there may be
  // any.
  bool begin_drafts();
  // One more guess behind the others; `bytes`: its text. False: it may not be one; the last.
  bool add_draft(int32_t id, std::string_view bytes);
  // How many of these may go. `token_bytes`: of every id that can be drawn.
  int32_t draft_limit(std::span<const int32_t> drafts, std::span<const std::string> token_bytes);

 private:
  void constrain(int32_t ahead, SampleInput* out);

  const SamplingParams& params_;
  const DrawRules& rules_;
  const uint64_t seed_;
  int32_t taken_ = 0;
  Penalties penalties_;
  BadWords bad_words_;
  ThinkingBudget thinking_, thinking_after_;  // the other: behind the drafts
  std::optional<Constraint> constraint_;
  std::vector<Constraint> after_drafts_;      // behind each draft that may go into a step
  std::vector<std::vector<uint32_t>> masks_;  // of the next draw and of those behind drafts
  std::vector<int32_t> banned_;  // of the last described draw, where its list is its own
};

}  // namespace nemotron
