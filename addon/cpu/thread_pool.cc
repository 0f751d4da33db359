#include "cpu/thread_pool.h"

#include <algorithm>
#include <utility>

#if defined(__linux__)
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#endif

namespace nemotron::cpu {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;

constexpr auto kSpin = std::chrono::microseconds(40);
// How often a thread looks at what it lost; short beside kRest, long beside a scheduler's turn.
constexpr auto kLook = milliseconds(20);
// A rest's length; doubled each time that the look after one is no better.
constexpr auto kRest = milliseconds(100), kLongestRest = milliseconds(1600);

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Returns when `value` is no longer `old`.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto give_up = steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (steady_clock::now() < give_up);
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

#if defined(__linux__)
// The scheduler's own account of the calling thread: nanoseconds on a core, and in a queue for one.
ThreadPool::CoreClock kernel_clock(int) {
  const int file = ::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  if (file < 0) return nullptr;
  const std::shared_ptr<const int> open(new int(file), [](const int* f) {
    ::close(*f);
    delete f;
  });
  return [open]() -> CoreTime {
    char text[64];
    const ssize_t n = ::pread(*open, text, sizeof text - 1, 0);
    if (n <= 0) return {};
    text[n] = 0;
    char* end = text;
    const uint64_t ran = std::strtoull(text, &end, 10), waited = std::strtoull(end, nullptr, 10);
    return {nanoseconds(ran), nanoseconds(waited)};
  };
}
#else
ThreadPool::CoreClock kernel_clock(int) { return nullptr; }
#endif

}  // namespace

// What a thread knows of its own core.
struct ThreadPool::Watch {
  CoreClock clock;
  CoreTime then = clock ? clock() : CoreTime();
  Time looked = steady_clock::now();
  nanoseconds next_rest{0};

  // How long to rest after a run with others; mostly 0.
  nanoseconds look(int lanes) {
    if (!clock) return nanoseconds(0);
    const Time now = steady_clock::now();
    if (now - looked < kLook) return nanoseconds(0);
    const CoreTime all = clock();
    const nanoseconds waited = all.waited - then.waited, ran = all.ran - then.ran;
    const nanoseconds passed = now - std::exchange(looked, now);
    then = all;
    // n threads that wait for one with a share f of its core do n * f in the time in which n - 1
    // do n - 1. Late threads meet late ones too, so a thread goes at two thirds of that loss. A
    // tenth of the time may be a hiccup.
    const bool late = waited * 10 > passed && waited * lanes * 3 > (waited + ran) * 2;
    if (!late) {
      next_rest = nanoseconds(0);
      return nanoseconds(0);
    }
    next_rest = std::clamp<nanoseconds>(next_rest * 2, kRest, kLongestRest);
    return next_rest;
  }
  void back() {
    then = clock();
    looked = steady_clock::now();
  }
};

ThreadPool::ThreadPool(int threads) : ThreadPool(threads, kernel_clock) {}

ThreadPool::ThreadPool(int threads, MakeClock clock)
    : size_(std::max(threads, 1)), clock_(std::move(clock)), seats_(new Seat[size_t(size_)]) {
  threads_.reserve(size_t(size_ - 1));
  try {
    for (int t = 1; t < size_; ++t) threads_.emplace_back([this, t] { work(t); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    const Lock lock(resting_);
    stop_ = true;
  }
  stopped_.notify_all();
  for (int t = 1; t < size_; ++t) {
    seats_[size_t(t)].runs.fetch_add(1, std::memory_order_release);
    seats_[size_t(t)].runs.notify_one();
  }
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::start(Entry entry, void* body) {
  if (size_ == 1) return entry(body, 0);
  entry_ = entry;
  body_ = body;
  lanes_ = 1;
  for (int t = 1; t < size_; ++t) {
    Seat& seat = seats_[size_t(t)];
    seat.lane = seat.rests.load(std::memory_order_acquire) ? 0 : lanes_++;
  }
  running_.store(uint32_t(lanes_ - 1), std::memory_order_relaxed);
  for (int t = 1; t < size_; ++t) {
    Seat& seat = seats_[size_t(t)];
    if (seat.lane == 0) continue;
    seat.runs.store(seat.runs.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    seat.runs.notify_one();
  }
  entry(body, 0);
  for (uint32_t left; (left = running_.load(std::memory_order_acquire)) != 0;) {
    wait_while(running_, left);
  }
}

void ThreadPool::work(int thread) {
  Seat& seat = seats_[size_t(thread)];
  Watch watch{.clock = clock_ ? clock_(thread) : nullptr};
  for (uint32_t seen = 0;;) {
    wait_while(seat.runs, seen);
    ++seen;
    if (stop_) return;
    entry_(body_, seat.lane);
    const nanoseconds time = watch.look(lanes_);
    // Before the run ends: the next one is planned without it.
    if (time > nanoseconds(0)) seat.rests.store(true, std::memory_order_release);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
    if (time > nanoseconds(0)) {
      rest(thread, time);
      watch.back();
    }
  }
}

void ThreadPool::rest(int thread, nanoseconds time) {
  // Not all at once when they come back.
  const Time end = steady_clock::now() + time + time * thread / size_;
  Lock lock(resting_);
  while (!stop_ && lock.wait_until(stopped_, end)) {
  }
  seats_[size_t(thread)].rests.store(false, std::memory_order_release);
}

void ThreadPool::barrier() {
  if (lanes_ == 1) return;
  const uint32_t round = barrier_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == uint32_t(lanes_)) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_.fetch_add(1, std::memory_order_release);
    barrier_.notify_all();
  } else {
    wait_while(barrier_, round);
  }
}

}  // namespace nemotron::cpu
