#include "engine/rank_runner.h"

#include <algorithm>

#include "device/assert.h"

namespace nemotron {

Status RankRunner::start(int ranks, int threads_per_rank, const Setup& setup,
                         std::unique_ptr<RankRunner>* out) {
  auto runner = std::unique_ptr<RankRunner>(new RankRunner(ranks, threads_per_rank));
  RankRunner& r = *runner;
  for (int32_t i = 0; i < ranks; ++i) {
    r.seats_[size_t(i)].thread = std::thread([&r, i, &setup] { r.run(i, setup); });
  }
  Lock lock(r.mutex_);
  for (;;) {
    while (r.set_up_ < ranks && !r.for_caller_) lock.wait(r.from_ranks_);
    if (!r.for_caller_) break;
    const std::function<void()>& call = *r.for_caller_;
    lock.unlock();
    call();
    lock.lock();
    r.for_caller_ = nullptr;
    r.to_ranks_.notify_all();
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
  to_ranks_.notify_all();
  for (Seat& seat : seats_) seat.thread.join();
}

void RankRunner::run(int32_t index, const Setup& setup) {
  Seat& seat = seats_[size_t(index)];
  Rank rank;
  rank.index = index;
  rank.group = &group_;
  const OnCaller on_caller = [this](const std::function<void()>& f) {
    Lock lock(mutex_);
    while (for_caller_) lock.wait(to_ranks_);  // another rank's
    for_caller_ = &f;
    from_ranks_.notify_one();
    while (for_caller_ == &f) lock.wait(to_ranks_);
  };
  Status status;
  try {
    status = setup(&rank, on_caller);
  } catch (const std::exception& e) {
    status = Status::out_of_memory(std::string("loading the model: ") + e.what());
  }
  if (!status) group_.end(index, status);
  {
    Lock lock(mutex_);
    if (setup_status_.ok()) setup_status_ = status;
    ++set_up_;  // `setup` is gone when the last one is here
    from_ranks_.notify_one();
    to_ranks_.notify_all();
    while (set_up_ < int(seats_.size()) && setup_status_.ok()) lock.wait(to_ranks_);
    status = setup_status_;
    seat.decoder = rank.decoder.get();
  }
  if (status) run_steps(&seat, rank.decoder.get());
  Lock lock(mutex_);
  seat.decoder = nullptr;
  ++left_;
  to_ranks_.notify_all();
  while (left_ < int(seats_.size())) lock.wait(to_ranks_);
}

// Waits for a step only when the caller does: until then the next one may come, and has to reach
// the device while this one runs there.
void RankRunner::run_steps(Seat* seat, Decoder* decoder) {
  int running = 0;
  for (;;) {
    Launched next;
    {
      Lock lock(mutex_);
      while (!closing_ && seat->launched.empty() && !(running > 0 && seat->waiting)) {
        lock.wait(to_ranks_);
      }
      if (!seat->launched.empty()) {
        next = seat->launched.front();
        seat->launched.pop_front();
      } else if (!(running > 0 && seat->waiting)) {
        return;  // closing
      }
    }
    if (next.step) {
      run_step(next, seat, decoder, &running);
    } else {
      report(seat, decoder, &running);
    }
    // A device that runs a step while it is launched has done it: no word of it waits for the next.
    while (running > 0 && decoder->done()) report(seat, decoder, &running);
  }
}

// A late step begins to run; its draws are described when the caller has taken in what the steps
// before it drew.
void RankRunner::run_step(const Launched& next, Seat* seat, Decoder* decoder, int* running) {
  StepBuffer* step = next.step;
  decoder->forward(step->input, &step->output);
  if (next.is_late) {
    while (*running > 0) report(seat, decoder, running);
    Lock lock(mutex_);
    while (seat->completed != step && !closing_) lock.wait(to_ranks_);
    seat->completed = nullptr;
  }
  decoder->draw(step->input, &step->output);
  ++*running;
}

// Waits for the oldest step on the device and tells the caller.
void RankRunner::report(Seat* seat, Decoder* decoder, int* running) {
  Status status = decoder->wait();
  --*running;
  const Lock lock(mutex_);
  seat->done.push_back(std::move(status));
  seat->waiting = false;
  if (all_done()) from_ranks_.notify_one();
}

bool RankRunner::all_done() const {
  return std::ranges::none_of(seats_, [](const Seat& seat) { return seat.done.empty(); });
}

void RankRunner::launch(StepBuffer* buffer) {
  {
    const Lock lock(mutex_);
    for (Seat& seat : seats_) seat.launched.push_back({buffer, buffer->is_late()});
  }
  to_ranks_.notify_all();
}

void RankRunner::completed(StepBuffer* buffer) {
  NEMOTRON_ASSERT(!buffer->is_late());
  {
    const Lock lock(mutex_);
    for (Seat& seat : seats_) seat.completed = buffer;
  }
  to_ranks_.notify_all();
}

std::vector<Decoder::Progress> RankRunner::progress() const {
  std::vector<Decoder::Progress> all;
  const Lock lock(mutex_);
  for (const Seat& seat : seats_) {
    all.push_back(seat.decoder ? seat.decoder->progress() : Decoder::Progress());
  }
  return all;
}

Status RankRunner::wait() {
  Lock lock(mutex_);
  while (!all_done()) {
    for (Seat& seat : seats_) seat.waiting = seat.done.empty();
    to_ranks_.notify_all();
    lock.wait(from_ranks_);
  }
  Status first;
  for (Seat& seat : seats_) {
    if (first.ok()) first = std::move(seat.done.front());
    seat.done.pop_front();
  }
  return first;
}

}  // namespace nemotron
