#include "engine/rank_runner.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>

#include "device/assert.h"
#include "device/mutex.h"

namespace nemotron {
namespace {

using Clock = std::chrono::steady_clock;

// Between the group's end and the moment from which nobody waits for a rank any more.
constexpr auto kGrace = std::chrono::seconds(1);
constexpr auto kLook = std::chrono::milliseconds(100);

}  // namespace

class RankRunner::Crew {
 public:
  Crew(const Group& group, Setup setup, Reload reload)
      : setup_(std::move(setup)),
        reload_(std::move(reload)),
        group_(group.ranks, group.threads_per_rank, group.patience),
        seats_(size_t(group_.ranks())),
        made_(group_.ranks()) {}

  int ranks() const { return group_.ranks(); }
  // A rank's thread.
  void run(int32_t index);

  // --- the runner's caller ---
  Status wait_for_setup();
  // In place of that: only the first `made` threads could be made. Why, as it is to be told.
  Status without_threads(int made, const std::string& why);
  void close();
  // False: a rank has not come to its end.
  bool wait_for_end();
  void launch(StepBuffer* buffer);
  void completed(StepBuffer* buffer);
  Status reload(const std::string& folder, Status* refused);
  Status wait_for_step();
  bool lost() const {
    const Lock lock(mutex_);
    return lost_;
  }
  std::vector<Decoder::Progress> progress() const;

 private:
  struct Launched {
    StepBuffer* step = nullptr;
    const std::string* folder = nullptr;  // in place of a step: weights from there
    bool is_late = false;  // when it was launched: the engine thread changes the step's own word
  };
  struct Seat {
    std::deque<Launched> launched;     // not yet taken by the rank thread
    StepBuffer* completed = nullptr;   // the late step that is complete now
    std::deque<Status> done;           // not yet asked for
    bool waiting = false;              // the caller, for the oldest step
    const Decoder* decoder = nullptr;  // while it runs steps
  };

  // Returns when the runner closes. `running`: steps on the device.
  void run_steps(Seat* seat, Rank* rank);
  void load_again(const std::string& folder, Seat* seat, Rank* rank);
  void run_step(const Launched& next, Seat* seat, Decoder* decoder, int* running);
  void report(Seat* seat, Decoder* decoder, int* running);
  bool all_done() const REQUIRES_LOCK(mutex_);
  Status failed(int32_t index, Status status);
  bool set_up_or_calling() const REQUIRES_LOCK(mutex_) { return set_up_ == ranks() || for_caller_; }
  bool all_left() const REQUIRES_LOCK(mutex_) { return left_ == made_; }
  // Until `over`, which ranks bring about. False: some have not come back although the group has
  // ended.
  bool wait_for_ranks(Lock* lock, bool (Crew::*over)() const) REQUIRES_LOCK(mutex_);

  const Setup setup_;
  const Reload reload_;
  RankGroup group_;
  mutable Mutex mutex_;
  std::condition_variable to_ranks_, from_ranks_;
  std::vector<Seat> seats_;  // their contents under mutex_
  bool closing_ GUARDED_BY(mutex_) = false, lost_ GUARDED_BY(mutex_) = false;
  int made_ GUARDED_BY(mutex_);  // rank threads
  // While setting up, and while ending: a rank's memory may be read by the others.
  int set_up_ GUARDED_BY(mutex_) = 0, left_ GUARDED_BY(mutex_) = 0;
  const std::function<void()>* for_caller_ GUARDED_BY(mutex_) = nullptr;
  bool caller_waits_ GUARDED_BY(mutex_) = true;  // in wait_for_setup()
  Status setup_status_ GUARDED_BY(mutex_);
  Status refused_ GUARDED_BY(mutex_);  // the last reload: why
  std::string folder_;                 // and from where: a rank that hangs may read it later
};

// --- the caller ---

Status RankRunner::start(const Group& group, Setup setup, Reload reload,
                         std::unique_ptr<RankRunner>* out) {
  auto crew = std::make_shared<Crew>(group, std::move(setup), std::move(reload));
  auto runner = std::unique_ptr<RankRunner>(new RankRunner(crew));
  for (int32_t i = 0; i < crew->ranks(); ++i) {
    try {
      runner->threads_.emplace_back([crew, i] { crew->run(i); });
    } catch (const std::exception& e) {
      return crew->without_threads(i, e.what());
    }
  }
  Status status = crew->wait_for_setup();
  if (status) *out = std::move(runner);
  return status;
}

RankRunner::~RankRunner() {
  crew_->close();
  const bool ended = crew_->wait_for_end();
  for (std::thread& thread : threads_) ended ? thread.join() : thread.detach();
}

void RankRunner::launch(StepBuffer* buffer) { crew_->launch(buffer); }
void RankRunner::completed(StepBuffer* buffer) { crew_->completed(buffer); }
Status RankRunner::reload(const std::string& folder, Status* refused) {
  return crew_->reload(folder, refused);
}
Status RankRunner::wait() { return crew_->wait_for_step(); }
bool RankRunner::lost() const { return crew_->lost(); }
std::vector<Decoder::Progress> RankRunner::progress() const { return crew_->progress(); }

Status RankRunner::Crew::wait_for_setup() {
  Lock lock(mutex_);
  while (wait_for_ranks(&lock, &Crew::set_up_or_calling) && for_caller_) {
    const std::function<void()>& call = *for_caller_;
    lock.unlock();
    call();
    lock.lock();
    for_caller_ = nullptr;
    to_ranks_.notify_all();
  }
  caller_waits_ = false;
  for_caller_ = nullptr;
  to_ranks_.notify_all();
  return lost_ ? group_.status() : setup_status_;
}

Status RankRunner::Crew::without_threads(int made, const std::string& why) {
  Status status = failed(made, Status::out_of_memory("no thread can be made: " + why));
  const Lock lock(mutex_);
  made_ = made;
  if (setup_status_.ok()) setup_status_ = status;
  caller_waits_ = false;
  for_caller_ = nullptr;
  to_ranks_.notify_all();
  return status;
}

void RankRunner::Crew::close() {
  const Lock lock(mutex_);
  closing_ = true;
  to_ranks_.notify_all();
}

bool RankRunner::Crew::wait_for_end() {
  Lock lock(mutex_);
  return wait_for_ranks(&lock, &Crew::all_left);
}

void RankRunner::Crew::launch(StepBuffer* buffer) {
  {
    const Lock lock(mutex_);
    for (Seat& seat : seats_)
      seat.launched.push_back({.step = buffer, .is_late = buffer->is_late()});
  }
  to_ranks_.notify_all();
}

void RankRunner::Crew::completed(StepBuffer* buffer) {
  NEMOTRON_ASSERT(!buffer->is_late());
  {
    const Lock lock(mutex_);
    for (Seat& seat : seats_) seat.completed = buffer;
  }
  to_ranks_.notify_all();
}

Status RankRunner::Crew::reload(const std::string& folder, Status* refused) {
  {
    const Lock lock(mutex_);
    refused_ = {};
    folder_ = folder;
    for (Seat& seat : seats_) seat.launched.push_back({.folder = &folder_});
  }
  to_ranks_.notify_all();
  Status status = wait_for_step();
  const Lock lock(mutex_);
  *refused = refused_;
  return status;
}

Status RankRunner::Crew::wait_for_step() {
  Lock lock(mutex_);
  if (!all_done()) {
    for (Seat& seat : seats_) seat.waiting = seat.done.empty();
    to_ranks_.notify_all();
  }
  if (!wait_for_ranks(&lock, &Crew::all_done)) return group_.status();
  Status first;
  for (Seat& seat : seats_) {
    if (first.ok()) first = std::move(seat.done.front());
    seat.done.pop_front();
  }
  return first;
}

std::vector<Decoder::Progress> RankRunner::Crew::progress() const {
  std::vector<Decoder::Progress> all;
  const Lock lock(mutex_);
  for (const Seat& seat : seats_) {
    all.push_back(seat.decoder ? seat.decoder->progress() : Decoder::Progress());
  }
  return all;
}

// One rank alone is waited for: there is nobody who would see that it stands still.
bool RankRunner::Crew::wait_for_ranks(Lock* lock, bool (Crew::*over)() const) {
  Clock::time_point ended{};
  while (!(this->*over)() && !lost_) {
    if (ranks() == 1) {
      lock->wait(from_ranks_);
      continue;
    }
    lock->wait_until(from_ranks_, Clock::now() + kLook);
    if (!group_.ended()) continue;
    if (ended == Clock::time_point{}) ended = Clock::now();
    lost_ = !(this->*over)() && Clock::now() - ended > kGrace;
  }
  return (this->*over)();
}

bool RankRunner::Crew::all_done() const {
  return std::ranges::none_of(seats_, [](const Seat& seat) { return seat.done.empty(); });
}

// --- a rank ---

void RankRunner::Crew::run(int32_t index) {
  Seat& seat = seats_[size_t(index)];
  Rank rank;
  rank.index = index;
  rank.group = &group_;
  const OnCaller on_caller = [this](const std::function<void()>& f) {
    Lock lock(mutex_);
    while (for_caller_ && caller_waits_) lock.wait(to_ranks_);  // another rank's
    if (!caller_waits_) return;
    for_caller_ = &f;
    from_ranks_.notify_one();
    while (for_caller_ == &f) lock.wait(to_ranks_);
  };
  Status status;
  try {
    status = setup_(&rank, on_caller);
  } catch (const std::exception& e) {
    status = Status::out_of_memory(std::string("loading the model: ") + e.what());
  }
  if (!status) status = failed(index, std::move(status));
  {
    Lock lock(mutex_);
    if (setup_status_.ok()) setup_status_ = status;
    ++set_up_;
    from_ranks_.notify_one();
    to_ranks_.notify_all();
    while (set_up_ < ranks() && setup_status_.ok()) lock.wait(to_ranks_);
    status = setup_status_;
    seat.decoder = rank.decoder.get();
  }
  if (status) run_steps(&seat, &rank);
  Lock lock(mutex_);
  seat.decoder = nullptr;
  ++left_;
  from_ranks_.notify_one();
  to_ranks_.notify_all();
  while (left_ < made_) lock.wait(to_ranks_);
}

// Waits for a step only when the caller does: until then the next one may come, and has to reach
// the device while this one runs there.
void RankRunner::Crew::run_steps(Seat* seat, Rank* rank) {
  Decoder* decoder = rank->decoder.get();
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
    if (next.folder) {
      load_again(*next.folder, seat, rank);
    } else if (next.step) {
      run_step(next, seat, decoder, &running);
    } else {
      report(seat, decoder, &running);
    }
    // A device that runs a step while it is launched has done it: no word of it waits for the next.
    while (running > 0 && decoder->done()) report(seat, decoder, &running);
  }
}

void RankRunner::Crew::load_again(const std::string& folder, Seat* seat, Rank* rank) {
  Status status, refused;
  try {
    status = reload_(rank, folder, &refused);
  } catch (const std::exception& e) {
    status = Status::internal(std::string("loading weights: ") + e.what());
  }
  if (!status) status = failed(rank->index, std::move(status));
  const Lock lock(mutex_);
  if (refused_.ok()) refused_ = std::move(refused);
  seat->done.push_back(std::move(status));
  seat->waiting = false;
  if (all_done()) from_ranks_.notify_one();
}

// A late step begins to run; its draws are described when the caller has taken in what the steps
// before it drew.
void RankRunner::Crew::run_step(const Launched& next, Seat* seat, Decoder* decoder, int* running) {
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
void RankRunner::Crew::report(Seat* seat, Decoder* decoder, int* running) {
  Status status = decoder->wait();
  if (!status) status = failed(int32_t(seat - seats_.data()), std::move(status));
  --*running;
  const Lock lock(mutex_);
  seat->done.push_back(std::move(status));
  seat->waiting = false;
  if (all_done()) from_ranks_.notify_one();
}

// Ends the group. What is said is why it ended: which rank was the first to fail, and where.
Status RankRunner::Crew::failed(int32_t index, Status status) {
  if (ranks() == 1) return status;
  group_.end(index, status);
  return group_.status();
}

}  // namespace nemotron
