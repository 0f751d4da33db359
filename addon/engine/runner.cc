#include "engine/runner.h"

#include <algorithm>

namespace nemotron {

void StepBuffer::build() {
  token_ids_.clear(), token_slots_.clear(), tables_.clear(), banned_.clear(), score_rows_.clear();
  spans_.clear(), samples_.clear(), banned_ranges_.clear();
  input = {};
  size_t table_entries = 0;
  for (const PlannedSpan& span : plan.spans) table_entries += span.seq->block_table.size();
  tables_.reserve(table_entries);  // spans point into it: a table may change while the step runs

  for (PlannedSpan& span : plan.spans) {
    const Sequence& seq = *span.seq;
    const int32_t first_row = int32_t(token_ids_.size()), known = int32_t(seq.tokens.size());
    for (int32_t position = span.first; position < span.first + span.rows; ++position) {
      const bool is_known = position < known;
      const bool in_slot = !is_known && span.drafts == 0;  // drawn by the step before
      token_ids_.push_back(is_known  ? seq.tokens[size_t(position)]
                           : in_slot ? 0
                                     : seq.drafts[size_t(position - known)]);
      token_slots_.push_back(in_slot ? seq.slot : -1);
    }
    const size_t table = tables_.size();
    tables_.insert(tables_.end(), seq.block_table.begin(), seq.block_table.end());
    spans_.push_back({.first_row = first_row,
                      .rows = span.rows,
                      .first_position = span.first,
                      .generated = span.generated,
                      .block_table = std::span(tables_).subspan(table)});
    if (span.generated) input.num_generated_rows += span.rows;
    add_samples(span, first_row);
  }
  for (const Range& r : banned_ranges_) {
    samples_[r.index].banned = std::span(banned_).subspan(r.begin, r.size);
  }
  input.token_ids = token_ids_;
  input.token_slots = token_slots_;
  input.spans = spans_;
  input.samples = samples_;
  input.score_rows = score_rows_;
}

void StepBuffer::add_samples(PlannedSpan& span, int32_t first_row) {
  const Sequence& seq = *span.seq;
  const RequestState& request = *seq.request;
  const SamplingParams& params = request.request.sampling;
  span.first_sample = int32_t(samples_.size());
  span.score = -1;
  if (seq.wants_prompt_logprobs && !span.generated) {
    for (int32_t i = 0; i < span.rows && span.first + i + 1 < seq.num_prompt; ++i) {
      SampleInput s;
      s.row = first_row + i;
      s.target = seq.tokens[size_t(span.first + i + 1)];
      s.num_top = params.num_prompt_logprobs;
      samples_.push_back(s);
    }
  }
  if (span.draws) {
    const int32_t first_draw = span.rows - 1 - span.drafts;
    for (int32_t i = first_draw; i < span.rows; ++i) {
      const int32_t position = span.first + i + 1;
      SampleInput s;
      const size_t begin = banned_.size();
      const size_t banned = describe_draw(params, request.sampling, seq.sampling, seq.tokens,
                                          seq.num_prompt, position - seq.num_prompt, &banned_, &s);
      s.row = first_row + i;
      s.slot = span.drafts == 0 ? seq.slot : -1;
      s.position = uint64_t(position);
      if (banned > 0) banned_ranges_.push_back({samples_.size(), begin, banned});
      samples_.push_back(s);
    }
  }
  if (request.request.kind == RequestKind::score && span.first + span.rows == seq.num_prompt) {
    span.score = int32_t(score_rows_.size());
    score_rows_.push_back(first_row + span.rows - 1);
  }
  span.num_samples = int32_t(samples_.size()) - span.first_sample;
}

// --- the rank thread ---

Status RankRunner::start(const Setup& setup, std::unique_ptr<RankRunner>* out) {
  auto runner = std::unique_ptr<RankRunner>(new RankRunner());
  RankRunner& r = *runner;
  r.thread_ = std::thread([&r, &setup] { r.run(setup); });
  for (std::unique_lock lock(r.mutex_);;) {
    r.from_rank_.wait(lock, [&] { return r.ready_ || r.for_caller_; });
    if (r.ready_) break;
    lock.unlock();
    (*r.for_caller_)();
    lock.lock();
    r.for_caller_ = nullptr;
    r.to_rank_.notify_one();
  }
  if (!r.setup_status_) return r.setup_status_;
  *out = std::move(runner);
  return {};
}

RankRunner::~RankRunner() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  to_rank_.notify_one();
  thread_.join();
}

void RankRunner::run(const Setup& setup) {
  Rank rank;
  const OnCaller on_caller = [this](const std::function<void()>& f) {
    std::unique_lock lock(mutex_);
    for_caller_ = &f;
    from_rank_.notify_one();
    to_rank_.wait(lock, [this] { return !for_caller_; });
  };
  Status status;
  try {
    status = setup(&rank, on_caller);
  } catch (const std::exception& e) {
    status = Status::out_of_memory(std::string("loading the model: ") + e.what());
  }
  std::unique_lock lock(mutex_);
  setup_status_ = status;
  ready_ = true;  // `setup` is gone from here on
  from_rank_.notify_one();
  if (!status) return;
  lock.unlock();
  run_steps(rank.decoder.get());
}

// Waits for a step only when the caller does: until then the next one may come, and has to reach
// the device while this one runs there.
void RankRunner::run_steps(Decoder* decoder) {
  int running = 0;  // on the device
  for (std::unique_lock lock(mutex_);;) {
    to_rank_.wait(lock,
                  [&] { return closing_ || !launched_.empty() || (running > 0 && waiting_); });
    StepBuffer* next = launched_.empty() ? nullptr : launched_.front();
    if (!next && !(running > 0 && waiting_)) return;  // closing
    if (next) launched_.pop_front();
    lock.unlock();
    if (next) {
      decoder->launch(next->input, &next->output);
      ++running;
    }
    std::deque<Status> done;
    if (!next) done.push_back(decoder->wait());
    // A device that runs a step while it is launched has done it: no word of it waits for the next.
    while (int(done.size()) < running && decoder->done()) done.push_back(decoder->wait());
    running -= int(done.size());
    lock.lock();
    if (done.empty()) continue;
    waiting_ = false;
    for (Status& s : done) done_.push_back(std::move(s));
    from_rank_.notify_one();
  }
}

void RankRunner::launch(StepBuffer* buffer) {
  {
    const std::lock_guard lock(mutex_);
    launched_.push_back(buffer);
  }
  to_rank_.notify_one();
}

Status RankRunner::wait() {
  std::unique_lock lock(mutex_);
  if (done_.empty()) {
    waiting_ = true;
    to_rank_.notify_one();
    from_rank_.wait(lock, [&] { return !done_.empty(); });
  }
  Status s = std::move(done_.front());
  done_.pop_front();
  return s;
}

}  // namespace nemotron
