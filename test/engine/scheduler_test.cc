// The scheduler alone: plain sequences in, plans out, on a device without arithmetic.
#include "engine/scheduler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <tuple>
#include <utility>

#include "../check.h"
#include "engine/step_runner.h"
#include "scripted.h"

namespace nemotron::test {
namespace {

using Ids = std::vector<int32_t>;
constexpr int32_t kVocab = 40, kStop = 0;

struct WorldOptions {
  int32_t num_blocks = 40, block_size = 4, max_batched_tokens = 16, max_seqs = 4;
  bool prefix_cache = true, run_ahead = true, copies = false;
};

// Scheduler, blocks, device and the few lines of commit between them; checks every plan.
class World {
 public:
  explicit World(const WorldOptions& o)
      : options_(o),
        blocks_(o.num_blocks, o.block_size, o.prefix_cache, random_cache_key(), hash_block,
                o.copies),
        scheduler_({.max_batched_tokens = o.max_batched_tokens, .max_seqs = o.max_seqs}, &blocks_),
        device_(o.num_blocks, o.block_size, kVocab) {}

  Sequence* add(Ids prompt, int32_t max_tokens, int32_t priority = 0, bool guesses = false,
                int32_t drafts = 0, bool background = false) {
    auto request = std::make_unique<RequestState>();
    auto s = std::make_unique<Sequence>();
    s->request = request.get();
    request->request.sampling.lookup_tokens = drafts;
    s->background = background;
    s->priority = priority;
    s->arrival = requests_.size();
    s->num_prompt = int32_t(prompt.size());
    s->tokens = std::move(prompt);
    s->draws = max_tokens > 0;
    s->compute_end = s->num_prompt + std::max(max_tokens - 1, 0);
    s->prefix.root = chain_root(blocks_.key(), "");
    s->guesses = guesses || drafts > 0;
    if (s->draws) s->draw.emplace(&request->request.sampling, &request->rules, 0, s->tokens);
    scheduler_.add(s.get());
    Sequence* out = s.get();
    request->choices.push_back(std::move(s));
    requests_.push_back(std::move(request));
    return out;
  }
  Sequence* add_background(Ids prompt, int32_t max_tokens) {
    return add(std::move(prompt), max_tokens, 0, false, 0, true);
  }
  void abort(Sequence* s) {
    if (s->state != SequenceState::finished) end(s);
  }

  // One turn of the loop, as engine_loop.cc takes it.
  void turn() {
    StepBuffer& next = buffers_[launched_ % 2];
    next.plan.clear();
    if (options_.run_ahead || launched_ == committed_) {
      before_ = {scheduler_.running().begin(), scheduler_.running().end()};
      std::map<Sequence*, std::pair<int32_t, int32_t>> gaps;
      for (Sequence* s : before_) gaps[s] = {s->gap(), s->num_computed};
      scheduler_.schedule(&next.plan);
      check(next.plan, gaps);
    }
    const bool launching = !next.plan.empty();
    if (launching) {
      next.build();
      ++launched_;
    }
    EXPECT_EQ(scheduler_.check_invariants(), "");
    const int64_t in_flight = launched_ - committed_;
    if (in_flight == 2 || (in_flight > 0 && !launching)) commit();
    if (in_flight == 0 && scheduler_.has_work() && next.plan.preempted == 0) {
      fail(__FILE__, __LINE__, "nothing to run although sequences wait");
    }
  }
  void run() {
    for (int i = 0; busy(); ++i) {
      if (i > 100000) return fail(__FILE__, __LINE__, "never ends");
      turn();
    }
  }
  bool busy() const { return scheduler_.has_work() || committed_ < launched_; }

  BlockManager& blocks() { return blocks_; }
  Scheduler& scheduler() { return scheduler_; }
  const StepPlan& last_plan() const { return buffers_[(launched_ + 1) % 2].plan; }
  int64_t steps() const { return launched_; }
  int preemptions() const { return preemptions_; }
  int run_ahead_steps() const { return run_ahead_steps_; }

 private:
  void check(const StepPlan& plan, const std::map<Sequence*, std::pair<int32_t, int32_t>>& gaps) {
    int32_t rows = 0;
    std::set<const Sequence*> planned;
    int32_t background_rows = 0;
    bool prompts = false, waited_for = false;
    for (const PlannedSpan& span : plan.spans) {
      rows += span.rows;
      background_rows += span.seq->background ? span.rows : 0;
      waited_for = waited_for || (!span.generated && !span.seq->background);
      EXPECT(planned.insert(span.seq).second);
      EXPECT_GT(span.rows, span.drafts);
      EXPECT(!(prompts && span.generated));
      prompts = !span.generated;
      EXPECT(span.generated ? span.first >= span.seq->num_prompt
                            : span.first + span.rows <= span.seq->num_prompt);
      EXPECT_LE(span.first + span.rows, span.seq->compute_end);
      const bool newcomer = !before_.contains(span.seq);
      if (newcomer && span.seq->background) EXPECT_EQ(plan.preempted, 0);
      if (!newcomer) EXPECT_EQ(span.first, gaps.at(span.seq).second);
    }
    EXPECT_EQ(rows, plan.rows);
    EXPECT_EQ(background_rows, plan.background_rows);
    if (waited_for) EXPECT_EQ(background_rows, 0);
    EXPECT_LE(rows, options_.max_batched_tokens);
    EXPECT_LE(scheduler_.running().size(), size_t(options_.max_seqs));
    preemptions_ += plan.preempted;
    if (plan.empty()) return;
    if (launched_ > committed_) ++run_ahead_steps_;
    // No stream one token from its next draw is held up by a prompt.
    if (int32_t(before_.size()) <= options_.max_batched_tokens) {
      for (const auto& [s, gap] : gaps) {
        if (gap.first == 1 && s->state == SequenceState::running && !s->background)
          EXPECT(planned.contains(s));
      }
    }
    // Who was admitted came before everybody who was not, but for those who wait for a promised
    // block or for the first choice.
    for (const PlannedSpan& span : plan.spans) {
      if (before_.contains(span.seq)) continue;
      for (const auto& r : requests_) {
        const Sequence* s = r->choices[0].get();
        const bool ahead = std::tuple(s->background, s->priority, s->arrival) <
                           std::tuple(span.seq->background, span.seq->priority, span.seq->arrival);
        if (s->state == SequenceState::waiting && ahead && !s->after)
          EXPECT_NE(s->prefix.waits_for, 0u);
      }
    }
  }

  void commit() {
    StepBuffer& step = buffers_[committed_++ % 2];
    device_.run(step.input, &step.output);
    for (size_t at = 0; at < step.plan.spans.size(); ++at) {
      const PlannedSpan& span = step.plan.spans[at];
      Sequence* s = span.seq;
      if (s->state == SequenceState::finished) continue;
      if (!span.draws) {
        if (!s->draws && span.first + span.rows == s->num_prompt) end(s);
        continue;
      }
      --s->pending;
      for (int32_t i = 0; i <= span.drafts; ++i) {
        if (span.drafts > 0) s->num_computed = span.first + span.rows - span.drafts + i;
        const int32_t id = step.output.samples[size_t(step.parts[at].first_sample + i)].id;
        s->tokens.push_back(id);
        s->draw->take(id, "");
        if (id == kStop || int32_t(s->tokens.size()) > s->compute_end) {
          end(s);
          break;
        }
        if (i == span.drafts || s->drafts[size_t(i)] != id) break;
      }
      if (s->state == SequenceState::finished) continue;
      // Drafts that are right half of the time.
      s->drafts.clear();
      const int32_t most = std::min(s->request->request.sampling.lookup_tokens,
                                    s->compute_end - int32_t(s->tokens.size()));
      Ids known = s->tokens;
      for (int32_t i = 0; i < most; ++i) {
        known.push_back(rng_() % 2 ? next_token(known) : int32_t(rng_() % kVocab));
        s->drafts.push_back(known.back());
      }
    }
  }

  void end(Sequence* s) { scheduler_.remove(s, Scheduler::Content::keep); }

 public:
  static int32_t next_token(const Ids& tokens) {
    uint64_t hash = ScriptedDevice::kStart;
    for (const int32_t id : tokens) hash = ScriptedDevice::extend(hash, id);
    SampleInput s;
    s.position = tokens.size();
    return ScriptedDevice::draw(hash, s, kVocab);
  }
  // What a sequence must end with.
  static Ids alone(Ids tokens, int32_t max_tokens) {
    for (int32_t i = 0; i < max_tokens; ++i) {
      tokens.push_back(next_token(tokens));
      if (tokens.back() == kStop) break;
    }
    return tokens;
  }

 private:
  const WorldOptions options_;
  BlockManager blocks_;
  Scheduler scheduler_;
  ScriptedDevice device_;
  StepBuffer buffers_[2];
  int64_t launched_ = 0, committed_ = 0;
  std::set<Sequence*> before_;
  std::vector<std::unique_ptr<RequestState>> requests_;
  std::mt19937 rng_{1};
  int preemptions_ = 0, run_ahead_steps_ = 0;
};

Ids count_up(int32_t n, int32_t from = 1) {
  Ids ids;
  for (int32_t i = 0; i < n; ++i) ids.push_back(from + i % 30);
  return ids;
}

TEST(a_long_prompt_never_stalls_running_streams) {
  World w({.num_blocks = 400, .max_batched_tokens = 8});
  Sequence* a = w.add(count_up(3), 1000);
  Sequence* b = w.add(count_up(3, 9), 1000, 0, true);
  w.turn();
  w.turn();
  Sequence* prompt = w.add(count_up(600, 5), 4);
  // Every committed step brings one token to each stream, until the prompt (or a stream) has ended.
  while (prompt->generated() == 0 && a->state == SequenceState::running &&
         b->state == SequenceState::running) {
    const int64_t steps = w.steps();
    const int32_t known = a->total() + b->total();
    w.turn();
    if (w.steps() > steps) EXPECT_EQ(a->total() + b->total(), known + 2);
  }
  w.abort(a);
  w.abort(b);
  w.run();
  EXPECT(prompt->tokens == World::alone(count_up(600, 5), 4));
}

TEST(a_short_prompt_passes_a_long_one) {
  World w({.num_blocks = 400, .max_batched_tokens = 16});
  Sequence* long_prompt = w.add(count_up(1000), 1);
  w.turn();
  const int32_t computed = long_prompt->num_computed;
  EXPECT_EQ(computed, 16);  // nobody is behind it: the whole budget
  Sequence* short_prompt = w.add(count_up(12, 7), 1);
  for (int i = 0; i < 4; ++i) w.turn();
  EXPECT_EQ(short_prompt->num_computed, 12);  // four a step
  EXPECT_EQ(long_prompt->num_computed, computed + 3 * 12 + 16);
  w.run();
}

TEST(priority_then_arrival) {
  World w({.num_blocks = 8, .max_seqs = 1});
  Sequence* first = w.add(count_up(4), 3);
  Sequence* late = w.add(count_up(4, 2), 3);
  Sequence* urgent = w.add(count_up(4, 3), 3, -1);
  w.turn();
  EXPECT(urgent->state == SequenceState::running);
  EXPECT(first->state == SequenceState::waiting);
  while (urgent->state != SequenceState::finished) w.turn();
  while (first->state == SequenceState::waiting) w.turn();
  EXPECT(late->state == SequenceState::waiting);
  w.run();
}

TEST(the_least_urgent_newest_sequence_is_preempted) {
  World w({.num_blocks = 6, .block_size = 4, .prefix_cache = false});
  Sequence* a = w.add(count_up(4), 16, 1);
  Sequence* b = w.add(count_up(4, 2), 16, 0);
  Sequence* c = w.add(count_up(4, 3), 16, 0);
  while (w.preemptions() == 0 && w.busy()) w.turn();
  EXPECT_EQ(w.preemptions(), 1);
  EXPECT_EQ(a->preemptions, 1);
  EXPECT(b->state == SequenceState::running && c->state == SequenceState::running);
  w.run();
}

TEST(a_background_sequence_gives_its_slot_back) {
  World w({.max_seqs = 2});
  Sequence* a = w.add_background(count_up(6), 30);
  Sequence* b = w.add_background(count_up(6, 3), 30);
  for (int i = 0; i < 3; ++i) w.turn();
  Sequence* first = w.add(count_up(20, 5), 3);
  w.turn();
  EXPECT(first->state == SequenceState::running && a->state == SequenceState::running);
  EXPECT(b->state == SequenceState::waiting);
  // Its prompt has the steps to itself.
  while (first->generated() == 0) {
    const int32_t computed = a->num_computed;
    w.turn();
    if (first->num_computed < 20) EXPECT_EQ(a->num_computed, computed);
  }
  w.run();
  EXPECT_EQ(b->preemptions, 1);
  EXPECT(a->tokens == World::alone(count_up(6), 30));
  EXPECT(b->tokens == World::alone(count_up(6, 3), 30));
}

TEST(background_sequences_give_their_blocks_back) {
  World w({.num_blocks = 12, .block_size = 4, .prefix_cache = false});
  Sequence* a = w.add_background(count_up(20), 3);
  Sequence* b = w.add_background(count_up(20, 3), 3);
  w.turn();
  w.turn();
  Sequence* urgent = w.add(count_up(36, 5), 3, 7);
  w.turn();
  EXPECT(urgent->state == SequenceState::running);
  EXPECT(a->state == SequenceState::waiting && b->state == SequenceState::waiting);
  w.run();
  EXPECT(a->tokens == World::alone(count_up(20), 3));
  EXPECT(urgent->tokens == World::alone(count_up(36, 5), 3));
}

TEST(background_rows_of_a_step_are_bounded) {
  World w({.num_blocks = 100, .max_batched_tokens = 40, .max_seqs = 8});
  w.scheduler().limit_background(3);
  Sequence* urgent = w.add(count_up(4), 40);
  for (int i = 0; i < 5; ++i) w.add_background(count_up(9, i + 2), 20);
  int32_t most = 0;
  while (urgent->state != SequenceState::finished) {
    w.turn();
    most = std::max(most, w.last_plan().background_rows);
  }
  EXPECT_EQ(most, 3);
  w.scheduler().limit_background(Scheduler::kAnyRows);
  while (w.busy()) {
    w.turn();
    most = std::max(most, w.last_plan().background_rows);
  }
  EXPECT_GT(most, 3);
}

TEST(nobody_in_front_waits_for_what_the_background_computes) {
  World w({.num_blocks = 100, .block_size = 4, .max_batched_tokens = 8, .run_ahead = false});
  Sequence* line = w.add_background(count_up(40), 3);
  Sequence* other_line = w.add_background(count_up(40), 3);
  w.turn();
  EXPECT(other_line->state == SequenceState::waiting);
  Sequence* urgent = w.add(count_up(40), 3);
  while (urgent->state == SequenceState::waiting) w.turn();
  EXPECT_LT(line->num_computed, line->num_prompt);
  EXPECT_EQ(urgent->cached_tokens, 8);  // what was done is shared
  w.run();
  EXPECT(line->tokens == urgent->tokens && other_line->tokens == urgent->tokens);
}

TEST(what_a_newcomer_shares_of_a_block_is_copied) {
  World w({.num_blocks = 40, .block_size = 16, .max_batched_tokens = 64, .copies = true});
  // A full block, then the last part of a sequence that has ended.
  const Ids start = count_up(20);
  Ids longer = start;
  for (const int32_t id : {31, 32, 33}) longer.push_back(id);
  w.add(longer, 3);
  w.run();
  Sequence* full = w.add(count_up(9), 3);
  Sequence* part = w.add(start, 3);
  w.run();
  EXPECT_EQ(full->cached_tokens, 8);  // one token is left to compute
  EXPECT_EQ(part->cached_tokens, 19);
  EXPECT(full->tokens == World::alone(count_up(9), 3));
  EXPECT(part->tokens == World::alone(start, 3));
  // Of a prompt whose sequence still runs.
  Sequence* running = w.add(count_up(25, 7), 20);
  w.turn();
  w.turn();
  Ids same = count_up(25, 7);
  same.push_back(39);
  Sequence* beside = w.add(same, 3);
  while (beside->state == SequenceState::waiting) w.turn();
  EXPECT(running->state == SequenceState::running);
  EXPECT_EQ(beside->cached_tokens, 25);
  w.run();
  EXPECT(beside->tokens == World::alone(same, 3));
  EXPECT(running->tokens == World::alone(count_up(25, 7), 20));
  // The whole prompt again: its last token alone.
  w.add(longer, 0);
  w.run();
  Sequence* other = w.add(longer, 3);
  w.turn();
  EXPECT_EQ(other->cached_tokens, int32_t(longer.size()) - 1);
  w.run();
}

TEST(a_request_that_wants_what_is_being_computed_waits_for_it) {
  World w({.num_blocks = 100, .block_size = 4, .max_batched_tokens = 8, .run_ahead = false});
  Sequence* first = w.add(count_up(40), 3);
  Sequence* second = w.add(count_up(40), 3);
  Sequence* other = w.add(count_up(6, 7), 3);
  w.turn();
  EXPECT(first->state == SequenceState::running && second->state == SequenceState::waiting);
  while (second->state == SequenceState::waiting) w.turn();
  EXPECT(other->state != SequenceState::waiting);  // passed the one that waits
  EXPECT_EQ(second->cached_tokens, 36);
  w.run();
  EXPECT(first->tokens == second->tokens);
}

// A prompt shorter than a block promises nothing that others could wait for.
TEST(a_choice_waits_for_the_first_ones_prompt) {
  World w({.block_size = 16, .max_batched_tokens = 4, .run_ahead = false});
  Sequence* first = w.add(count_up(10), 3);
  Sequence* choice = w.add(count_up(10), 3);
  Sequence* other = w.add(count_up(2, 7), 3);
  choice->after = first;
  while (first->num_computed < 10) {
    w.turn();
    if (first->num_computed < 10) EXPECT(choice->state == SequenceState::waiting);
  }
  EXPECT(other->state != SequenceState::waiting);
  w.run();
  EXPECT(first->tokens == choice->tokens);

  Sequence* aborted = w.add(count_up(10, 3), 3);
  Sequence* left = w.add(count_up(10, 3), 3);
  left->after = aborted;
  w.turn();
  w.abort(aborted);
  w.run();
  EXPECT(left->tokens == World::alone(count_up(10, 3), 3));
}

// One that goes on from cached tokens is planned behind them and runs before them.
TEST(choices_keep_their_order_in_a_step) {
  World w({.block_size = 4, .run_ahead = false});
  Sequence* goes_on = w.add(count_up(4, 2), 30, 1);
  while (w.busy() && goes_on->tokens.size() < 13) w.turn();
  REQUIRE_EQ(w.scheduler().preempt_all(), 1);
  Sequence* choices[3];
  for (Sequence*& choice : choices) {
    choice = w.add(count_up(3, 9), 3);
    choice->after = choice == choices[0] ? nullptr : choices[0];
  }
  w.turn();
  const std::vector<PlannedSpan>& spans = w.last_plan().spans;
  REQUIRE_EQ(spans.size(), 4u);
  EXPECT(spans[0].seq == goes_on && spans[0].generated);
  for (size_t i = 0; i < 3; ++i) EXPECT(spans[i + 1].seq == choices[i]);
  w.run();
  EXPECT(goes_on->tokens == World::alone(count_up(4, 2), 30));
}

TEST(nobody_plans_ahead_of_a_token_that_guesses_follow) {
  World plain({});
  plain.add(count_up(5), 30);
  plain.run();
  EXPECT_GT(plain.run_ahead_steps(), 0);
  World waits({});
  Sequence* s = waits.add(count_up(5), 30, 0, true);
  s->compute_end = 20;
  waits.run();
  EXPECT_EQ(waits.run_ahead_steps(), 0);
}

TEST(guesses_are_no_rows_of_a_prompt) {
  World w({});
  Sequence* s = w.add(count_up(5), 10, 0, true);
  s->drafts = {1, 2};
  w.run();  // checks that spans are of one kind
  EXPECT_EQ(s->drafted, 0);
}

TEST(a_prompt_without_draws) {
  World w({.max_batched_tokens = 5});
  Sequence* s = w.add(count_up(17), 0);
  w.run();
  EXPECT_EQ(s->tokens.size(), 17u);
  EXPECT_EQ(w.steps(), 4);
}

// What the checks of every other test here would say.
TEST(broken_invariants_are_noticed) {
  World w({.max_seqs = 2});
  Sequence* a = w.add(count_up(5), 9);
  Sequence* b = w.add(count_up(5, 7), 9);
  Sequence* waits = w.add(count_up(5, 9), 9);
  while (b->state == SequenceState::waiting) w.turn();
  const auto said = [&] { return w.scheduler().check_invariants(); };
  EXPECT_EQ(said(), "");
  const auto noticed = [&](auto* field, auto value, const char* what) {
    const auto was = std::exchange(*field, value);
    EXPECT(said().find(what) != std::string::npos);
    *field = was;
    EXPECT_EQ(said(), "");
  };
  noticed(&a->state, SequenceState::waiting, "marked otherwise or shares its slot");
  noticed(&a->slot, b->slot, "marked otherwise or shares its slot");
  noticed(&waits->state, SequenceState::running, "marked otherwise or holds blocks");
  noticed(&waits->prefix.block_table, std::vector<int32_t>{0}, "marked otherwise or holds blocks");
  noticed(&a->priority, 1, "out of order");
  noticed(&a->num_computed, 1000, "has computed more tokens than its blocks hold");
  w.run();
}

TEST(random_walks_of_the_scheduler) {
  int preemptions = 0, ahead = 0, cached = 0, background = 0;
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    std::mt19937 rng(seed);
    WorldOptions o;
    o.num_blocks = int32_t(12 + rng() % 30);
    o.max_batched_tokens = int32_t(1 + rng() % 40);
    o.max_seqs = int32_t(1 + rng() % 8);
    o.prefix_cache = rng() % 4 != 0;
    o.run_ahead = rng() % 4 != 0;
    o.copies = rng() % 2 != 0;
    World w(o);
    struct Expected {
      Sequence* seq;
      Ids tokens;
      bool aborted = false;
    };
    std::vector<Expected> all;
    for (int turn = 0; turn < 400; ++turn) {
      if (rng() % 6 == 0) {
        Ids prompt = count_up(int32_t(rng() % 25), 1 + int32_t(rng() % 2));
        for (size_t n = 1 + rng() % 4; n > 0; --n) prompt.push_back(int32_t(1 + rng() % 9));
        const int32_t max_tokens = int32_t(rng() % 18);  // 48 tokens in all: 12 blocks
        const bool host = rng() % 4 == 0;
        const int32_t drafts = rng() % 4 == 0 ? int32_t(1 + rng() % 5) : 0;
        Sequence* s = w.add(prompt, max_tokens, int32_t(rng() % 3), host, drafts, rng() % 3 == 0);
        all.push_back({s, World::alone(prompt, max_tokens)});
      }
      if (rng() % 40 == 0 && !all.empty()) {
        Expected& victim = all[rng() % all.size()];
        victim.aborted = victim.aborted || victim.seq->state != SequenceState::finished;
        w.abort(victim.seq);
      }
      if (rng() % 20 == 0)
        w.scheduler().limit_background(rng() % 2 ? int32_t(1 + rng() % 4) : Scheduler::kAnyRows);
      w.turn();
    }
    w.run();
    for (const Expected& e : all) {
      EXPECT(e.seq->state == SequenceState::finished);
      if (!e.aborted) EXPECT(e.seq->tokens == e.tokens);
      cached += e.seq->cached_tokens;
      background += e.seq->background && e.seq->preemptions > 0;
    }
    EXPECT_EQ(w.blocks().num_used(), 0);
    preemptions += w.preemptions();
    ahead += w.run_ahead_steps();
  }
  EXPECT_GT(preemptions, 150);
  EXPECT_GT(ahead, 1000);
  EXPECT_GT(cached, 1000);
  EXPECT_GT(background, 100);
}

}  // namespace
}  // namespace nemotron::test
