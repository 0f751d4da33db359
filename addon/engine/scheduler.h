// Scheduler: which tokens of which sequences go into the next step.
//
// There are no phases: a sequence has known tokens and computed tokens, and every step closes gaps
// within one token budget. Running sequences first (those one token from their next draw before the
// rest, so that a long prompt never holds up a stream), then waiting ones in order of priority and
// arrival. Then the same for sequences in the background, which give way: they have no rows beside
// a prompt of the others, and are preempted for a slot or blocks that the others need. Plain data
// in (sequences), plain data out (StepPlan); knows nothing of devices, text or sampling. Owned and
// called by the engine thread alone.
#pragma once

#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "device/step.h"
#include "engine/block_manager.h"
#include "engine/sequence.h"

namespace nemotron {

struct SchedulerOptions {
  int32_t max_batched_tokens = 512;
  int32_t max_seqs = 64;
};

// Rows of one sequence in a step: positions [first, first + rows), all prompt or all generated
// tokens. Nobody writes on it but the scheduler.
struct PlannedSpan {
  Sequence* seq = nullptr;
  int32_t first = 0, rows = 0;
  int32_t drafts = 0;  // the last rows are guesses
  bool generated = false;
  bool draws = false;  // the row before the drafts, and each draft, draws a token
};

struct StepPlan {
  std::vector<PlannedSpan> spans;  // generated ones first
  std::vector<BlockCopy> copies;   // before the rows: of blocks that newcomers begin like
  int32_t rows = 0;
  int32_t background_rows = 0;  // of these
  int32_t preempted = 0;
  bool empty() const { return spans.empty(); }
  void clear() { spans.clear(), copies.clear(), rows = background_rows = preempted = 0; }
};

class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, BlockManager* blocks);

  // To the waiting ones. REQUIRES: it is new.
  void add(Sequence* seq);
  // Finished or aborted: its blocks are free for the next plan. `content`: whether what it computed
  // may serve others. REQUIRES: it was added and not removed.
  enum class Content : uint8_t { keep, discard };
  void remove(Sequence* seq, Content content);
  // All that run wait again, and hold no blocks. REQUIRES: no step is in flight.
  int64_t preempt_all();  // how many
  // Plans the next step, which runs after all launched ones. Empty: nothing can run before a step
  // in flight is committed, or nothing is there to run.
  void schedule(StepPlan* plan);
  // Those that arrived as this one or later are not admitted, but for those that go on.
  static constexpr uint64_t kHoldNone = ~uint64_t(0);
  void hold(uint64_t arrival) { held_from_ = arrival; }
  // Most rows of a step that are in the background. REQUIRES: rows > 0.
  static constexpr int32_t kAnyRows = std::numeric_limits<int32_t>::max();
  void limit_background(int32_t rows) { background_limit_ = rows; }

  const std::vector<Sequence*>& running() const { return running_; }
  // Those in the background do not count: nobody waits for them.
  int32_t num_waiting() const { return num_waiting_; }
  // There are sequences that may run.
  bool has_work() const;
  // Empty, or what is wrong.
  std::string check_invariants() const;

 private:
  struct Before {
    bool operator()(const Sequence* a, const Sequence* b) const;
  };

  bool host_must_see_a_draw() const;
  bool is_held(const Sequence& seq) const { return seq.arrival >= held_from_ && !seq.goes_on; }
  void wait(Sequence& seq);
  bool make_room(Sequence& seq, StepPlan* plan);
  void preempt(Sequence& seq);
  void plan_running(bool background, StepPlan* plan);
  bool admit(bool background, StepPlan* plan);
  bool make_way(const Sequence& seq, StepPlan* plan);
  void spend_rest(StepPlan* plan);
  void add_drafts(StepPlan* plan);
  void plan_rows(Sequence& seq, StepPlan* plan);
  void add_rows(PlannedSpan& span, int32_t most, StepPlan* plan);
  int32_t budget(const Sequence& seq, const StepPlan& plan) const;

  const SchedulerOptions options_;
  BlockManager* const blocks_;
  std::vector<Sequence*> running_;  // in order
  std::set<Sequence*, Before> waiting_;
  int32_t num_waiting_ = 0;  // of these not in the background
  uint64_t held_from_ = kHoldNone;
  int32_t background_limit_ = kAnyRows;
  int32_t background_budget_ = 0;  // of this plan
  std::vector<int32_t> free_slots_;
  BlockManager::Match match_;  // scratch
};

}  // namespace nemotron
