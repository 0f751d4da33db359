#include "engine/engine_loop.h"

#include <algorithm>

#include "engine/prompt_lookup.h"
#include "engine/validate.h"

namespace nemotron {

namespace {

// Background rows of a step while others ask or are expected: max_seqs / kBackgroundShare.
constexpr int32_t kBackgroundShare = 8;
constexpr double kExpectSeconds = 5;

}  // namespace

EngineLoop::EngineLoop(EngineOptions options, EngineInfo info, std::unique_ptr<StepRunner> runner,
                       std::unique_ptr<StepRunner> draft, std::function<void()> wake)
    : options_(std::move(options)),
      info_(std::move(info)),
      wake_(std::move(wake)),
      places_(info_.places),
      num_tokens_(std::min(info_.config.vocab, int32_t(options_.token_bytes.size()))),
      vocabulary_(
          std::make_shared<Vocabulary>(std::span(options_.token_bytes).first(size_t(num_tokens_)),
                                       options_.token_special, info_.stop_ids)),
      blocks_(info_.plan.num_blocks, info_.block_size, options_.prefix_cache, cache_key_,
              hash_block, info_.copies_blocks),
      scheduler_({.max_batched_tokens = info_.max_batched_tokens, .max_seqs = info_.max_seqs},
                 &blocks_),
      runner_(std::move(runner)) {
  if (draft) {
    const DrafterOptions limits{.max_drafts = options_.draft_tokens,
                                .max_rows = std::min(options_.draft_rows, info_.max_batched_tokens),
                                .max_batched_tokens = info_.max_batched_tokens};
    drafter_ =
        std::make_unique<Drafter>(limits, std::move(draft), &blocks_,
                                  std::span(options_.token_bytes).first(size_t(num_tokens_)));
  }
  counters_.blocks_total = blocks_.num_blocks();
  shared_.stats = counters_;
  thread_ = std::thread([this] { run(); });
}

EngineLoop::~EngineLoop() { close(); }

// --- any thread ---

Status EngineLoop::submit(Request request) {
  try {
    if (Status s = validate(request, info_, num_tokens_, vocabulary_.get()); !s) return s;
    return enqueue(make_request(std::move(request)));
  } catch (const std::bad_alloc&) {
    return Status::out_of_memory("no host memory left for the request");
  }
}

Status EngineLoop::enqueue(std::unique_ptr<RequestState> state) {
  const int64_t tokens = state->choices.front()->num_prompt;
  const Lock lock(mutex_);
  Shared& q = shared_;
  Status refused;
  const bool background = state->request.background;
  if (q.stats.failed_device) {
    refused = Status::unavailable("the engine has failed: " + q.stats.failure);
  } else if (q.closing || q.draining) {
    refused = Status::unavailable("the engine is shutting down");
  } else if (!state->request.admitted && !background) {
    refused = admit(tokens);
  }
  if (!refused) {
    ++q.rejected;
    return refused;
  }
  if (!q.live.insert(state->request.id).second) {
    return Status::invalid("id: " + std::to_string(state->request.id) + " is in use");
  }
  if (!background) {
    q.submitted_sequences += state->live;
    q.live_sequences += state->live;
    q.queued_tokens += tokens;
  }
  if (!std::exchange(q.busy, true)) q.last_progress = now_seconds();
  q.submitted.push_back(std::move(state));
  inbox_changed_.notify_one();
  return {};
}

// Whether there is room for a request that has `tokens` in its prompt.
Status EngineLoop::admit(int64_t tokens) const {
  const Shared& q = shared_;
  if (q.live_sequences >= places_) {
    return Status::queue_full("the queue is full: " + std::to_string(q.live_sequences) +
                              " sequences run or wait, the limit is " + std::to_string(places_));
  }
  if (q.queued_tokens > 0 && q.queued_tokens + tokens > options_.max_waiting_tokens) {
    return Status::queue_full("the queue is full: " + std::to_string(q.queued_tokens) +
                              " prompt tokens are waiting, " + std::to_string(tokens) +
                              " more exceed the limit of " +
                              std::to_string(options_.max_waiting_tokens));
  }
  return {};
}

bool EngineLoop::is_full() const {
  const Lock lock(mutex_);
  return shared_.live_sequences >= places_;
}

std::unique_ptr<RequestState> EngineLoop::make_request(Request request) const {
  auto state = std::make_unique<RequestState>();
  state->request = std::move(request);
  const Request& r = state->request;
  if (r.kind == RequestKind::generate) {
    state->rules = DrawRules(r.sampling, info_.stop_ids, num_tokens_, info_.config.vocab);
  }
  for (int32_t i = 0; i < r.n; ++i) state->choices.push_back(make_sequence(*state, i));
  state->request.prompt = {};  // the choices have it
  state->live = r.n;
  state->submitted = now_seconds();
  return state;
}

std::unique_ptr<Sequence> EngineLoop::make_sequence(RequestState& state, int32_t choice) const {
  const Request& r = state.request;
  const SamplingParams& params = r.sampling;
  const int32_t prompt = int32_t(r.prompt.size());
  const int64_t end = std::min<int64_t>(info_.max_model_len, int64_t(prompt) + params.max_tokens);
  auto seq = std::make_unique<Sequence>();
  seq->request = &state;
  seq->choice = choice;
  seq->background = r.background;
  seq->goes_on = r.goes_on;
  seq->priority = r.priority;
  seq->tokens = r.prompt;
  seq->num_prompt = prompt;
  seq->draws = r.kind == RequestKind::generate && params.max_tokens > 0;
  // The last token is drawn and not computed.
  seq->compute_end = seq->draws ? int32_t(end) - 1 : prompt;
  seq->prefix.root = chain_root(cache_key_, r.cache_salt);
  if (seq->draws) {
    seq->draw.emplace(&params, &state.rules, choice, seq->tokens);
    seq->looks_up = seq->guesses = params.lookup_tokens > 0 && seq->draw->may_draft();
  }
  seq->delivery.text = OutputText(params.stop, params.include_stop, params.stop_scope);
  if (params.num_prompt_logprobs >= 0) {
    seq->wants_prompt_logprobs = choice == 0;
    // Every row's logits are wanted, and cached rows have none.
    seq->prefix.may_match = choice > 0;
    if (choice > 0) seq->after = state.choices.front().get();
  }
  return seq;
}

void EngineLoop::abort(uint64_t request_id) {
  const Lock lock(mutex_);
  if (!shared_.live.contains(request_id)) return;
  shared_.aborted.push_back(request_id);
  inbox_changed_.notify_one();
}

void EngineLoop::drain_deltas(std::vector<Delta>* out) {
  out->clear();
  const Lock lock(mutex_);
  out->swap(shared_.outbox);
  shared_.woken = false;
}

EngineStats EngineLoop::stats() const {
  const Lock lock(mutex_);
  EngineStats s = shared_.stats;
  s.rejected = shared_.rejected;
  s.waiting += shared_.submitted_sequences;
  s.waiting_tokens = shared_.queued_tokens;
  if (!runner_) return s;  // closed
  s.drafting = shared_.drafting;
  if (s.drafting) s.launched_rows = drafter_->rows(), s.launched_seqs = drafter_->sequences();
  double last = shared_.last_progress;
  for (const Decoder::Progress& rank : s.drafting ? drafter_->progress() : runner_->progress()) {
    s.rank_layers.push_back(rank.layers);
    last = std::max(last, rank.at);
  }
  s.last_step_age = shared_.busy && !shared_.loading ? now_seconds() - last : 0;
  return s;
}

void EngineLoop::pause(Pause pause) {
  const Lock lock(mutex_);
  if (shared_.draining || shared_.pause == pause) return;
  shared_.pause = pause;
  shared_.paused_anew = true;
  shared_.before_pause = shared_.submitted.size();
  inbox_changed_.notify_one();
}

void EngineLoop::stop_steps(bool on) {
  const Lock lock(mutex_);
  shared_.stopped = on;
  inbox_changed_.notify_one();
}

Status EngineLoop::reload(std::string folder, std::function<void(const Status&)> done) {
  const Lock lock(mutex_);
  Shared& q = shared_;
  if (q.stats.failed_device) {
    return Status::unavailable("the engine has failed: " + q.stats.failure);
  }
  if (q.closing || q.draining) return Status::unavailable("the engine is shutting down");
  if (std::exchange(q.reloading, true)) {
    return Status::unavailable("other weights are being loaded");
  }
  q.reload = {std::move(folder), std::move(done)};
  inbox_changed_.notify_one();
  return {};
}

void EngineLoop::drain() {
  const Lock lock(mutex_);
  shared_.draining = true;
  shared_.pause = Pause::none;
  shared_.paused_anew = true;
  inbox_changed_.notify_one();
}

void EngineLoop::close() {
  const Lock one(close_mutex_);
  if (!thread_.joinable()) return;
  {
    const Lock lock(mutex_);
    shared_.closing = true;
    inbox_changed_.notify_one();
  }
  thread_.join();
  if (runner_->lost()) static_cast<void>(buffers_.release());
  if (is_lost()) {
    for (auto& request : ended_) static_cast<void>(request.release());
  }
  std::unique_ptr<StepRunner> runner;
  std::unique_ptr<Drafter> drafter;
  {
    const Lock lock(mutex_);
    runner = std::move(runner_);
    drafter = std::move(drafter_);
  }
}

// --- the loop ---

// A rank that hangs may come back to its step, and read it and what its draws are described by.
bool EngineLoop::is_lost() const {
  return counters_.failed_device && (runner_->lost() || (drafter_ && drafter_->lost()));
}

void EngineLoop::run() {
  for (bool open = true; open;) {
    try {
      while ((open = drain_inbox())) {
        if (reload_.done) reload_weights();
        turn();
      }
      end_reload(Status::unavailable("the engine is shutting down"));
      end_all(Finish::abort, {});
      while (committed_ < launched_) commit();
      deliver();
    } catch (const std::exception& e) {  // out of host memory, most likely
      open = true;
      fail_engine(Status::internal(std::string("the engine failed: ") + e.what()));
    }
  }
}

void EngineLoop::reload_weights() {
  while (committed_ < launched_) commit();
  deliver();
  if (counters_.failed_device) {
    return end_reload(Status::unavailable("the engine has failed: " + counters_.failure));
  }
  {
    const Lock lock(mutex_);
    shared_.loading = true;
  }
  Status refused;
  const Status status = runner_->reload(reload_.folder, &refused);
  if (!status) {
    fail_engine(status.within("loading weights"));
  } else if (refused.ok()) {
    counters_.preemptions += scheduler_.preempt_all();
    blocks_.drop_cache();
  }
  end_reload(status.ok() ? refused : status);
}

void EngineLoop::end_reload(const Status& status) {
  Reload reload = std::exchange(reload_, {});
  {
    const Lock lock(mutex_);
    if (!reload.done) reload = std::exchange(shared_.reload, {});
    shared_.reloading = shared_.loading = false;
    shared_.last_progress = now_seconds();
  }
  if (reload.done) reload.done(status);
}

void EngineLoop::turn() {
  StepBuffer& next = buffers_[launched_ % StepRunner::kMaxInFlight];
  next.plan.clear();
  // Whoever comes next waits for the steps in flight: where only background work runs, for one.
  const bool expects = expects_others();
  const bool run_ahead = options_.run_ahead && (!expects || foreground_ > 0);
  if ((run_ahead || launched_ == committed_) && has_work()) {
    scheduler_.limit_background(expects ? std::max(info_.max_seqs / kBackgroundShare, 1)
                                        : Scheduler::kAnyRows);
    if (drafter_) draft();
    scheduler_.schedule(&next.plan);
  }
  const bool launching = !next.plan.empty();
  if (launching) launch(next);
  deliver();
  const int64_t in_flight = launched_ - committed_;
  if (in_flight == StepRunner::kMaxInFlight || (in_flight > 0 && !launching)) {
    commit();
  } else if (in_flight == 0 && next.plan.preempted == 0 && has_work()) {
    fail_engine(Status::internal("the scheduler found nothing to run although requests wait"));
  }
}

// Others than background requests are there, or were a moment ago: more of them are likely.
bool EngineLoop::expects_others() {
  const double now = now_seconds();
  if (foreground_ > 0) expects_until_ = now + kExpectSeconds;
  return now < expects_until_;
}

// Asks the draft model for guesses where the next step has a place for them. Its steps and those in
// flight never share a device: ranks of one model that wait on a GPU could hold up those of the
// other.
void EngineLoop::draft() {
  if (launched_ != committed_) return;
  const std::vector<Sequence*>& running = scheduler_.running();
  drafting_.clear();
  int64_t rows = 0;
  for (Sequence* seq : running) {
    rows += seq->gap();
    if (!seq->guesses) continue;
    if (seq->pending > 0) return;  // nothing is planned before it is known
    // The first draw is the prompt's last row: guesses have no place behind it.
    if (!seq->drafts.empty() || seq->gap() != 1 || seq->generated() == 0) continue;
    if (drafter_->wants(*seq, running.size())) {
      drafting_.push_back(seq);
    } else {
      seq->guesses = seq->looks_up;
    }
  }
  // Prompts go before guesses.
  if (drafting_.empty() || rows >= info_.max_batched_tokens) return;
  deliver();  // the last tokens need not wait for guesses
  {
    const Lock lock(mutex_);
    shared_.drafting = true;
  }
  const Status status = drafter_->draft(drafting_, running.size());
  if (!status) return fail_engine(status.within("the draft model's device failed"));
  for (Sequence* seq : drafting_) seq->source = DraftSource::model;
}

// Something may run.
bool EngineLoop::has_work() const {
  return !stopped_ && pause_ != Pause::all && scheduler_.has_work();
}

// Sleeps while there is nothing to do. False: closing.
bool EngineLoop::drain_inbox() {
  bool closing = false;
  {
    Lock lock(mutex_);
    Shared& q = shared_;
    const bool idle = launched_ == committed_ && !has_work() && ready_.empty();
    while (idle && !q.closing && q.submitted.empty() && q.aborted.empty() && !q.paused_anew &&
           q.stopped == stopped_ && !q.reload.done) {
      q.busy = false;
      lock.wait(inbox_changed_);
    }
    closing = q.closing;
    stopped_ = q.stopped;
    if (std::exchange(q.paused_anew, false)) {
      pause_ = q.pause;
      scheduler_.hold(pause_ == Pause::later ? arrivals_ + q.before_pause : Scheduler::kHoldNone);
    }
    // Also where what was asked for makes work: the draft model may stand still at once.
    if ((!idle || has_work()) && !std::exchange(q.busy, true)) q.last_progress = now_seconds();
    inbox_.swap(q.submitted);
    inbox_aborts_.swap(q.aborted);
    if (!closing && q.reload.done) reload_ = std::exchange(q.reload, {});
  }
  for (auto& request : inbox_) {
    for (auto& seq : request->choices) {
      seq->arrival = arrivals_;
      if (seq->draw) seq->draw->begin();
      scheduler_.add(seq.get());
      taken_ += !seq->background;
      foreground_ += !seq->background;
    }
    ++arrivals_;
    const uint64_t id = request->request.id;
    requests_.emplace(id, std::move(request));
  }
  inbox_.clear();
  for (const uint64_t id : inbox_aborts_) {
    if (const auto it = requests_.find(id); it != requests_.end()) {
      end_request(*it->second, Finish::abort, {});
    }
  }
  inbox_aborts_.clear();
  if (counters_.failed_device && !requests_.empty()) {  // came in while the engine failed
    end_all(Finish::error, Status::unavailable(counters_.failure));
  }
  return !closing;
}

void EngineLoop::launch(StepBuffer& step) {
  if (options_.debug_checks) {
    if (const std::string wrong = scheduler_.check_invariants(); !wrong.empty()) {
      return fail_engine(Status::internal("broken invariant: " + wrong));
    }
  }
  step.build();
  const double now = now_seconds();
  for (const PlannedSpan& span : step.plan.spans) {
    Sequence& seq = *span.seq;
    ++seq.request->in_flight;
    if (seq.delivery.first_scheduled != 0) continue;
    seq.delivery.first_scheduled = now;
    leave_queue(*seq.request);
    count_admission(seq);
  }
  counters_.preemptions += step.plan.preempted;
  runner_->launch(&step);
  if (launched_++ == committed_) step_began_ = now;
}

void EngineLoop::count_admission(const Sequence& seq) {
  using Reason = CacheMiss::Reason;
  counters_.prompt_tokens += seq.num_prompt;
  counters_.queried_tokens += seq.prefix.may_match ? seq.num_prompt : 0;
  counters_.cached_tokens += seq.cached_tokens;
  counters_.miss_never_seen += seq.miss.reason == Reason::never_seen;
  counters_.miss_evicted += seq.miss.reason == Reason::evicted;
}

void EngineLoop::leave_queue(RequestState& request) {
  if (!std::exchange(request.queued, false) || request.request.background) return;
  const Lock lock(mutex_);
  shared_.queued_tokens -= request.choices.front()->num_prompt;
}

// Hands over what the last committed step brought, while the next one runs.
void EngineLoop::deliver() {
  counters_.running = int32_t(scheduler_.running().size());
  counters_.waiting = scheduler_.num_waiting();
  counters_.blocks_used = blocks_.num_used();
  counters_.blocks_cached = blocks_.num_cached();
  counters_.launched_rows = counters_.launched_seqs = 0;
  if (committed_ < launched_) {
    const StepPlan& oldest = buffers_[committed_ % StepRunner::kMaxInFlight].plan;
    counters_.launched_rows = oldest.rows;
    counters_.launched_seqs = int32_t(oldest.spans.size());
  }
  bool wake = false;
  {
    const Lock lock(mutex_);
    Shared& q = shared_;
    q.stats = counters_;
    q.submitted_sequences -= std::exchange(taken_, 0);
    q.last_progress = now_seconds();
    q.drafting = false;
    q.live_sequences -= std::exchange(finished_, 0);
    for (const auto& request : ended_) q.live.erase(request->request.id);
    if (!ready_.empty()) {
      wake = !std::exchange(q.woken, true);
      for (Delta& delta : ready_) q.outbox.push_back(std::move(delta));
    }
  }
  ready_.clear();
  for (Sequence* seq : delta_owners_) seq->delivery.delta = -1;
  delta_owners_.clear();
  if (!is_lost()) {
    std::erase_if(ended_, [](const auto& request) { return request->in_flight == 0; });
  }
  if (wake && wake_) wake_();
}

// Waits for the oldest step and takes in what it drew.
void EngineLoop::commit() {
  StepBuffer& step = buffers_[committed_ % StepRunner::kMaxInFlight];
  if (step.is_late()) complete(step);  // the commit before this one did not get so far
  const Status status = runner_->wait();
  const double now = now_seconds();
  ++committed_;
  counters_.step_seconds_sum += now - step_began_;
  step_began_ = now;
  ++counters_.steps;
  counters_.last_step_rows = step.plan.rows;
  counters_.rows += step.plan.rows;
  const auto bound = std::lower_bound(kStepRowBounds.begin(), kStepRowBounds.end(), step.plan.rows);
  ++counters_.steps_by_rows[size_t(bound - kStepRowBounds.begin())];
  counters_.last_step_seqs = int32_t(step.plan.spans.size());
  for (size_t i = 0; i < step.plan.spans.size(); ++i) {
    const PlannedSpan& span = step.plan.spans[i];
    --span.seq->request->in_flight;
    // A sequence that ended since the launch ran one step for nothing.
    if (status && span.seq->state != SequenceState::finished) take(span, step.parts[i], step, now);
  }
  if (!status) fail_engine(status.within("the device failed"));
  if (committed_ == launched_) return;
  StepBuffer& next = buffers_[committed_ % StepRunner::kMaxInFlight];
  if (next.is_late()) complete(next);
}

// Of the oldest step in flight: what its draws depend on is known now.
void EngineLoop::complete(StepBuffer& step) {
  step.complete();
  runner_->completed(&step);
}

// --- ends ---

Delta& EngineLoop::delta_for(Sequence& seq) {
  if (seq.delivery.delta < 0) {
    seq.delivery.delta = int32_t(ready_.size());
    Delta& delta = ready_.emplace_back();
    delta.request = seq.request->request.id;
    delta.choice = seq.choice;
    delta_owners_.push_back(&seq);
  }
  return ready_[size_t(seq.delivery.delta)];
}

void EngineLoop::finish(Sequence& seq, Finish reason, double now) {
  Delta& delta = delta_for(seq);
  delta.finish = reason;
  delta.miss = seq.miss;
  const double scheduled = seq.delivery.first_scheduled != 0 ? seq.delivery.first_scheduled : now;
  const double first_token = seq.delivery.first_token != 0 ? seq.delivery.first_token : now;
  delta.timings = {.queue = scheduled - seq.request->submitted,
                   .prefill = first_token - scheduled,
                   .decode = now - first_token,
                   .cached_tokens = seq.cached_tokens,
                   .preemptions = seq.preemptions,
                   .drafted_tokens = seq.drafted,
                   .accepted_tokens = seq.delivery.accepted};
  // What a grammar's text begins with has no U+FFFD in it.
  const bool has_form = seq.request->request.sampling.grammar != nullptr;
  seq.delivery.text.finish(has_form ? OutputText::Part::dropped : OutputText::Part::replaced,
                           &delta.text);
  counters_.finished_stop += reason == Finish::stop;
  counters_.finished_length += reason == Finish::length;

  using Content = Scheduler::Content;
  scheduler_.remove(&seq, reason == Finish::error ? Content::discard : Content::keep);
  finished_ += !seq.background;
  foreground_ -= !seq.background;
  if (--seq.request->live > 0) return;
  RequestState& request = *seq.request;
  leave_queue(request);
  counters_.aborted += reason == Finish::abort;
  // What its caller asked for, found while it ran, is no failure of ours.
  const bool is_ours = delta.error.code() != Code::invalid_argument;
  counters_.failed += reason == Finish::error && is_ours;
  auto node = requests_.extract(request.request.id);
  ended_.push_back(std::move(node.mapped()));
}

// Ends every live choice. The request is in ended_ afterwards.
void EngineLoop::end_request(RequestState& request, Finish reason, const Status& error) {
  const double now = now_seconds();
  for (auto& seq : request.choices) {
    if (seq->state == SequenceState::finished) continue;
    if (!error.ok()) delta_for(*seq).error = error;
    finish(*seq, reason, now);
  }
}

void EngineLoop::end_all(Finish reason, const Status& error) {
  while (!requests_.empty()) end_request(*requests_.begin()->second, reason, error);
}

void EngineLoop::fail_engine(const Status& error) {
  if (!counters_.failed_device) {
    counters_.failed_device = true;
    counters_.failure = error.message();
  }
  // Nothing is wrong with the requests: another engine, or this one started anew, can answer them.
  end_all(Finish::error, Status::unavailable(error.message()));
}

}  // namespace nemotron
