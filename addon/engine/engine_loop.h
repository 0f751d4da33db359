// EngineLoop: the Engine behind any StepRunner. Engine::create() gives it a RankRunner; the tests
// of the loop give it one with a script.
#pragma once

#include <condition_variable>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "device/mutex.h"
#include "engine/drafter.h"
#include "engine/engine.h"
#include "engine/step_runner.h"

namespace nemotron {

class EngineLoop final : public Engine {
 public:
  // `info` is complete: config, stop ids, plan and limits. `draft` runs the draft model, or null.
  EngineLoop(EngineOptions options, EngineInfo info, std::unique_ptr<StepRunner> runner,
             std::unique_ptr<StepRunner> draft, std::function<void()> wake);
  ~EngineLoop() override;

  const EngineInfo& info() const override { return info_; }
  const std::shared_ptr<const Vocabulary>& vocabulary() const override { return vocabulary_; }
  Status submit(Request request) override;
  bool is_full() const override;
  void abort(uint64_t request_id) override;
  void drain_deltas(std::vector<Delta>* out) override;
  EngineStats stats() const override;
  void pause(Pause pause) override;
  void stop_steps(bool on) override;
  Status reload(std::string folder, std::function<void(const Status&)> done) override;
  void drain() override;
  void close() override;

 private:
  std::unique_ptr<RequestState> make_request(Request request) const;
  std::unique_ptr<Sequence> make_sequence(RequestState& state, int32_t choice) const;
  Status enqueue(std::unique_ptr<RequestState> state);
  Status admit(int64_t tokens) const REQUIRES_LOCK(mutex_);

  struct Reload {
    std::string folder;
    std::function<void(const Status&)> done;  // null: none is asked for
  };

  struct Shared {  // any thread
    std::vector<std::unique_ptr<RequestState>> submitted;
    std::vector<uint64_t> aborted;
    std::unordered_set<uint64_t> live;  // ids of requests whose last delta is not in the outbox
    std::vector<Delta> outbox;
    bool woken = false, draining = false, closing = false;
    Pause pause = Pause::none;
    bool paused_anew = false;  // not yet taken by the loop, even if it is again what it was
    size_t before_pause = 0;   // of those submitted, which came before it
    bool stopped = false;      // no steps, whatever the pause
    bool busy = false;         // the loop has work
    Reload reload;             // not yet taken by the loop
    bool reloading = false;    // one is asked for or under way
    bool loading = false;      // it is under way: no steps until it ends
    bool drafting = false;     // the draft model is at work, since the last delivery
    double last_progress = 0;
    int32_t live_sequences = 0;       // submitted, with a place; their end is not in the outbox
    int32_t submitted_sequences = 0;  // not in the background, not yet counted by the loop
    int64_t queued_tokens = 0;        // of prompts with a place that are not yet in a step
    int64_t rejected = 0;
    EngineStats stats;  // as of the last turn of the loop
  };

  // Engine thread.
  void run();
  void turn();
  bool drain_inbox();
  void reload_weights();
  void end_reload(const Status& status);
  bool has_work() const;
  bool is_lost() const;
  bool expects_others();
  void launch(StepBuffer& step);
  void deliver();
  void commit();
  void complete(StepBuffer& step);
  void take(const PlannedSpan& span, const StepBuffer::Part& part, const StepBuffer& step,
            double now);
  void take_prompt_logprobs(const PlannedSpan& span, std::span<const SampleOutput> samples);
  void take_draws(const PlannedSpan& span, std::span<const SampleOutput> samples, double now);
  void propose(Sequence& seq);
  void draft();
  bool take_token(Sequence& seq, int32_t id, const SampleOutput& sample, double now);
  Delta& delta_for(Sequence& seq);
  void finish(Sequence& seq, Finish reason, double now);
  void end_request(RequestState& request, Finish reason, const Status& error);
  void end_all(Finish reason, const Status& error);
  void fail_engine(const Status& error);
  void leave_queue(RequestState& request);
  void count_admission(const Sequence& seq);

  const EngineOptions options_;
  const EngineInfo info_;
  const std::function<void()> wake_;
  const uint64_t cache_key_ = random_cache_key();
  const int64_t places_;      // sequences that may live at once
  const int32_t num_tokens_;  // ids that can be drawn: those with bytes
  const std::shared_ptr<const Vocabulary> vocabulary_;

  mutable Mutex mutex_;
  std::condition_variable inbox_changed_;
  Shared shared_ GUARDED_BY(mutex_);
  Mutex close_mutex_;  // one close at a time

  BlockManager blocks_;
  Scheduler scheduler_;
  // These two are reset by close(), under mutex_.
  std::unique_ptr<StepRunner> runner_;
  std::unique_ptr<Drafter> drafter_;  // null: no draft model
  std::unique_ptr<StepBuffer[]> buffers_ = std::make_unique<StepBuffer[]>(StepRunner::kMaxInFlight);
  Pause pause_ = Pause::none;
  bool stopped_ = false;
  Reload reload_;                         // to be done before the next step
  int64_t launched_ = 0, committed_ = 0;  // step i is in buffers_[i % kMaxInFlight]
  double step_began_ = 0;                 // the oldest one in flight
  std::unordered_map<uint64_t, std::unique_ptr<RequestState>> requests_;  // with live choices
  std::vector<std::unique_ptr<RequestState>>
      ended_;                            // ended since the last delivery, or still in flight
  int32_t finished_ = 0;                 // sequences with a place, since the last delivery
  int32_t foreground_ = 0;               // sequences that are not in the background, live
  double expects_until_ = 0;             // more of them
  std::vector<Delta> ready_;             // not yet delivered
  std::vector<Sequence*> delta_owners_;  // sequences with a delta in ready_
  std::vector<Sequence*> drafting_;      // scratch of draft()
  std::vector<std::unique_ptr<RequestState>> inbox_;  // scratch of drain_inbox
  std::vector<uint64_t> inbox_aborts_;
  int32_t taken_ = 0;  // of `submitted_sequences`, since the last delivery
  uint64_t arrivals_ = 0;
  EngineStats counters_;
  std::thread thread_;
};

}  // namespace nemotron
