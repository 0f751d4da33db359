#include "engine/rank_runner.h"

#include "device/assert.h"

namespace nemotron {

Status RankRunner::start(const Setup& setup, std::unique_ptr<RankRunner>* out) {
  auto runner = std::unique_ptr<RankRunner>(new RankRunner());
  RankRunner& r = *runner;
  r.thread_ = std::thread([&r, &setup] { r.run(setup); });
  Lock lock(r.mutex_);
  for (;;) {
    while (!r.ready_ && !r.for_caller_) lock.wait(r.from_rank_);
    if (r.ready_) break;
    const std::function<void()>& call = *r.for_caller_;
    lock.unlock();
    call();
    lock.lock();
    r.for_caller_ = nullptr;
    r.to_rank_.notify_one();
  }
  const Status status = r.setup_status_;
  lock.unlock();
  if (status) *out = std::move(runner);
  return status;
}

RankRunner::~RankRunner() {
  {
    const Lock lock(mutex_);
    closing_ = true;
  }
  to_rank_.notify_one();
  thread_.join();
}

void RankRunner::run(const Setup& setup) {
  Rank rank;
  const OnCaller on_caller = [this](const std::function<void()>& f) {
    Lock lock(mutex_);
    for_caller_ = &f;
    from_rank_.notify_one();
    while (for_caller_) lock.wait(to_rank_);
  };
  Status status;
  try {
    status = setup(&rank, on_caller);
  } catch (const std::exception& e) {
    status = Status::out_of_memory(std::string("loading the model: ") + e.what());
  }
  {
    const Lock lock(mutex_);
    setup_status_ = status;
    ready_ = true;  // `setup` is gone from here on
    from_rank_.notify_one();
  }
  if (status) run_steps(rank.decoder.get());
}

// Waits for a step only when the caller does: until then the next one may come, and has to reach
// the device while this one runs there.
void RankRunner::run_steps(Decoder* decoder) {
  for (;;) {
    Launched next;
    {
      Lock lock(mutex_);
      while (!closing_ && launched_.empty() && !(running_ > 0 && waiting_)) lock.wait(to_rank_);
      if (!launched_.empty()) {
        next = launched_.front();
        launched_.pop_front();
      } else if (!(running_ > 0 && waiting_)) {
        return;  // closing
      }
    }
    if (next.step) {
      run_step(next.step, next.is_late, decoder);
    } else {
      report(decoder);
    }
    // A device that runs a step while it is launched has done it: no word of it waits for the next.
    while (running_ > 0 && decoder->done()) report(decoder);
  }
}

// A late step begins to run; its draws are described when the caller has taken in what the steps
// before it drew.
void RankRunner::run_step(StepBuffer* step, bool is_late, Decoder* decoder) {
  decoder->forward(step->input, &step->output);
  if (is_late) {
    while (running_ > 0) report(decoder);
    Lock lock(mutex_);
    while (completed_ != step && !closing_) lock.wait(to_rank_);
    completed_ = nullptr;
  }
  decoder->draw(step->input, &step->output);
  ++running_;
}

// Waits for the oldest step on the device and tells the caller.
void RankRunner::report(Decoder* decoder) {
  Status status = decoder->wait();
  --running_;
  const Lock lock(mutex_);
  done_.push_back(std::move(status));
  waiting_ = false;
  from_rank_.notify_one();
}

void RankRunner::launch(StepBuffer* buffer) {
  {
    const Lock lock(mutex_);
    launched_.push_back({buffer, buffer->is_late()});
  }
  to_rank_.notify_one();
}

void RankRunner::completed(StepBuffer* buffer) {
  NEMOTRON_ASSERT(!buffer->is_late());
  {
    const Lock lock(mutex_);
    completed_ = buffer;
  }
  to_rank_.notify_one();
}

Status RankRunner::wait() {
  Lock lock(mutex_);
  while (done_.empty()) {
    waiting_ = true;
    to_rank_.notify_one();
    lock.wait(from_rank_);
  }
  Status s = std::move(done_.front());
  done_.pop_front();
  return s;
}

}  // namespace nemotron
