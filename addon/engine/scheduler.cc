#include "engine/scheduler.h"

#include <algorithm>
#include <tuple>

#include "device/assert.h"

namespace nemotron {

bool Scheduler::Before::operator()(const Sequence* a, const Sequence* b) const {
  return std::tie(a->background, a->priority, a->arrival, a->choice) <
         std::tie(b->background, b->priority, b->arrival, b->choice);
}

Scheduler::Scheduler(const SchedulerOptions& options, BlockManager* blocks)
    : options_(options), blocks_(blocks) {
  for (int32_t slot = options.max_seqs; slot-- > 0;) free_slots_.push_back(slot);
}

void Scheduler::add(Sequence* seq) {
  NEMOTRON_ASSERT(seq->slot < 0 && seq->prefix.block_table.empty() && seq->num_prompt > 0);
  wait(*seq);
}

void Scheduler::wait(Sequence& seq) {
  seq.state = SequenceState::waiting;
  waiting_.insert(&seq);
  num_waiting_ += !seq.background;
}

void Scheduler::remove(Sequence* seq, Content content) {
  NEMOTRON_ASSERT(seq->state != SequenceState::finished);
  if (seq->state == SequenceState::running) {
    if (content == Content::keep) {
      blocks_->publish(*seq);
      blocks_->publish_part(*seq);
    } else {
      blocks_->forget(*seq);
    }
    blocks_->release(*seq);
    free_slots_.push_back(seq->slot);
    std::erase(running_, seq);
  } else {
    waiting_.erase(seq);
    num_waiting_ -= !seq->background;
  }
  seq->state = SequenceState::finished;
}

bool Scheduler::has_work() const {
  if (!running_.empty() || held_from_ == kHoldNone) return !running_.empty() || !waiting_.empty();
  return std::ranges::any_of(waiting_, [this](const Sequence* seq) { return !is_held(*seq); });
}

void Scheduler::schedule(StepPlan* plan) {
  plan->clear();
  if (host_must_see_a_draw()) return;

  background_budget_ = 0;
  plan_running(false, plan);
  const bool all_in = plan->preempted == 0 && admit(false, plan);
  // Who waits for a first token has the step to itself, but for streams that are waited for too.
  const bool has_prompt =
      std::ranges::any_of(plan->spans, [](const PlannedSpan& s) { return !s.generated; });
  if (!has_prompt) {
    background_budget_ = background_limit_;
    plan_running(true, plan);
    if (all_in && plan->preempted == 0) admit(true, plan);
  }
  spend_rest(plan);
  add_drafts(plan);

  // Steps run in launch order, so whatever this one computes is there for the next one to share.
  for (const PlannedSpan& span : plan->spans) {
    blocks_->publish(*span.seq);
    const bool ends_prompt = !span.generated && span.first + span.rows == span.seq->num_prompt;
    if (ends_prompt) blocks_->publish_part(*span.seq);
  }
  // In their order: a request's first choice is told what its prompt came to before the others.
  std::ranges::stable_partition(plan->spans, [](const PlannedSpan& s) { return s.generated; });
}

// A step in flight draws a token after which the sequence guesses: the guesses are rows of its next
// step, so it cannot be planned before. Everybody waits, not that sequence alone: a step for the
// others would stream all weights for a part of the batch.
bool Scheduler::host_must_see_a_draw() const {
  return std::ranges::any_of(running_,
                             [](const Sequence* seq) { return seq->pending > 0 && seq->guesses; });
}

void Scheduler::plan_running(bool background, StepPlan* plan) {
  // Streams one token from their next draw. Only these need new blocks (a prompt got all of its own
  // at admission), so whoever is preempted has no rows in this plan yet.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& seq = *running_[i];
    if (seq.background != background || seq.gap() != 1 || budget(seq, *plan) <= 0) continue;
    if (make_room(seq, plan)) plan_rows(seq, plan);
  }
  // Prompts, and generated tokens that are computed again after a preemption. Each leaves a quarter
  // of what is left to those behind it, so that short prompts need not wait for the end of a long
  // one.
  for (Sequence* seq : running_) {
    if (seq->background != background || seq->gap() <= 1 || budget(*seq, *plan) <= 0) continue;
    plan_rows(*seq, plan);
  }
}

// Rows that the plan has left for the sequence.
int32_t Scheduler::budget(const Sequence& seq, const StepPlan& plan) const {
  const int32_t left = options_.max_batched_tokens - plan.rows;
  return seq.background ? std::min(left, background_budget_ - plan.background_rows) : left;
}

// Preempts the least urgent, newest sequences until `seq` can hold one more token. False: it was
// the least urgent itself.
bool Scheduler::make_room(Sequence& seq, StepPlan* plan) {
  while (!blocks_->grow(seq, seq.num_computed + 1)) {
    Sequence& victim = *running_.back();
    preempt(victim);
    ++plan->preempted;
    if (&victim == &seq) return false;
  }
  return true;
}

// A token of it that is still in flight is committed before the next plan that admits anybody: this
// one does not, and at most two steps are in flight.
void Scheduler::preempt(Sequence& seq) {
  blocks_->publish_part(seq);
  blocks_->release(seq);
  free_slots_.push_back(seq.slot);
  std::erase(running_, &seq);
  seq.slot = -1;
  ++seq.preemptions;
  wait(seq);
}

int64_t Scheduler::preempt_all() {
  const auto all = int64_t(running_.size());
  while (!running_.empty()) preempt(*running_.back());
  return all;
}

// Preempts a background sequence for one that is not. False: there is none.
bool Scheduler::make_way(const Sequence& seq, StepPlan* plan) {
  if (seq.background || running_.empty() || !running_.back()->background) return false;
  preempt(*running_.back());  // has no rows in this plan: these are planned last
  ++plan->preempted;
  return true;
}

// False: one of them waits for rows, a slot or blocks, and nobody may pass it.
bool Scheduler::admit(bool background, StepPlan* plan) {
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    Sequence& seq = **it;
    if (seq.background && !background) return true;
    if (budget(seq, *plan) <= 0) return false;
    if (seq.background != background || is_held(seq)) {
      ++it;
      continue;
    }
    // Somebody is computing what this one would compute: later it is a cache hit. Others may pass.
    const bool leader_busy = seq.after && seq.after->state != SequenceState::finished &&
                             seq.after->num_computed < seq.after->num_prompt;
    if (leader_busy ||
        (seq.prefix.waits_for != 0 && blocks_->is_promised(seq, seq.prefix.waits_for))) {
      ++it;
      continue;
    }
    blocks_->match(seq, &match_);
    seq.prefix.waits_for = match_.promised;
    if (seq.prefix.waits_for != 0) {
      ++it;
      continue;
    }
    if (free_slots_.empty()) {
      if (!make_way(seq, plan)) return false;
      continue;
    }
    // A block to spare for each running sequence, or the newcomer is soon thrown out again.
    const CacheMiss miss = seq.admitted ? seq.miss : blocks_->explain(seq, match_);
    if (!blocks_->admit(seq, match_, int32_t(running_.size()))) {
      if (!make_way(seq, plan)) return false;
      continue;
    }
    if (match_.part_tokens > 0) {
      const BlockCopy copy{match_.part, seq.prefix.block_table[match_.blocks.size()]};
      if (copy.from != copy.to) plan->copies.push_back(copy);
    }
    if (!seq.admitted) seq.cached_tokens = seq.num_computed;
    seq.miss = miss;
    seq.admitted = true;
    it = waiting_.erase(it);
    num_waiting_ -= !seq.background;
    running_.insert(std::ranges::upper_bound(running_, &seq, Before{}), &seq);
    seq.state = SequenceState::running;
    seq.slot = free_slots_.back();
    free_slots_.pop_back();
    plan_rows(seq, plan);
  }
  return true;
}

// What nobody behind them wanted goes to the first prompts.
void Scheduler::spend_rest(StepPlan* plan) {
  for (PlannedSpan& span : plan->spans) {
    if (!span.draws) add_rows(span, budget(*span.seq, *plan), plan);
  }
}

// Guesses take only what is left of the budget and of the free blocks.
void Scheduler::add_drafts(StepPlan* plan) {
  for (PlannedSpan& span : plan->spans) {
    Sequence& seq = *span.seq;
    if (!span.draws || !span.generated || seq.drafts.empty()) continue;  // a span is of one kind
    const int32_t drafts = std::min(int32_t(seq.drafts.size()), budget(seq, *plan));
    if (drafts <= 0 || !blocks_->grow(seq, seq.num_computed + drafts)) continue;
    span.drafts = drafts;
    span.rows += drafts;
    plan->rows += drafts;
    if (seq.background) plan->background_rows += drafts;
    seq.num_computed += drafts;
    seq.drafted += drafts;
  }
}

// A prompt takes three quarters of the budget that is left, or all it needs.
void Scheduler::plan_rows(Sequence& seq, StepPlan* plan) {
  PlannedSpan& span = plan->spans.emplace_back();
  span.seq = &seq;
  span.first = seq.num_computed;
  span.generated = span.first >= seq.num_prompt;
  const int32_t left = budget(seq, *plan);
  add_rows(span, left - left / 4, plan);
}

void Scheduler::add_rows(PlannedSpan& span, int32_t most, StepPlan* plan) {
  Sequence& seq = *span.seq;
  int32_t rows = std::min(seq.gap(), most);
  // A span is of one kind (the kind picks the kernels), so a chunk ends where the prompt ends.
  if (!span.generated) rows = std::min(rows, seq.num_prompt - seq.num_computed);
  span.rows += rows;
  plan->rows += rows;
  if (seq.background) plan->background_rows += rows;
  seq.num_computed += rows;
  span.draws = seq.draws && seq.num_computed == seq.total();
  seq.pending += span.draws;
}

std::string Scheduler::check_invariants() const {
  std::vector<bool> used(size_t(options_.max_seqs));
  for (const Sequence* seq : running_) {
    if (seq->state != SequenceState::running || used[size_t(seq->slot)]) {
      return "a running sequence is marked otherwise or shares its slot";
    }
    used[size_t(seq->slot)] = true;
  }
  if (running_.size() + free_slots_.size() != size_t(options_.max_seqs)) return "a slot was lost";
  if (!std::ranges::is_sorted(running_, Before{})) return "running sequences are out of order";
  int32_t waiting = 0;
  for (const Sequence* seq : waiting_) {
    waiting += !seq->background;
    if (seq->state != SequenceState::waiting || !seq->prefix.block_table.empty()) {
      return "a waiting sequence is marked otherwise or holds blocks";
    }
  }
  if (waiting != num_waiting_) return "waiting sequences were miscounted";
  std::vector<const Sequence*> live(running_.begin(), running_.end());
  return blocks_->check_invariants(live);
}

}  // namespace nemotron
