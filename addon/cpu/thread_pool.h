// ThreadPool: the threads of one CPU device. Thread 0 is the caller of run(); the others wait for
// work by spinning for some tens of microseconds (ops of a step follow each other within a few) and
// then sleep, because two threads may share one core. run() may be called from one thread only.
//
// All that take part in a run wait for the slowest, some hundred times a step. A thread whose core
// other processes use is late by milliseconds each time, and then all together are slower than the
// others by themselves. So a thread that waits for a core too often rests: for some tenths of a
// second runs are shared among the others. Who takes part changes no result.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "device/mutex.h"

namespace nemotron::cpu {

// Of a thread since it began: how long it ran, and how long it could have but had no core.
struct CoreTime {
  std::chrono::nanoseconds ran{0}, waited{0};
};

class ThreadPool {
 public:
  // What tells a thread of the pool its own time; called by that thread alone, now and then. Null:
  // not to be known, so none rests.
  using CoreClock = std::function<CoreTime()>;
  using MakeClock = std::function<CoreClock(int thread)>;

  explicit ThreadPool(int threads);  // throws std::system_error when a thread cannot be made
  ThreadPool(int threads, MakeClock clock);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // The most threads that a run may have.
  int size() const { return size_; }
  // Inside run(): how many threads this one has.
  int lanes() const { return lanes_; }

  // body(lane) once for each of lanes(), each on a thread of its own; returns when all have
  // finished. body must not throw.
  template <class Body>
  void run(Body&& body) {
    start([](void* b, int lane) { (*static_cast<Body*>(b))(lane); },
          const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Inside run(): nobody goes on before everybody is here.
  void barrier();

 private:
  using Entry = void (*)(void*, int);
  using Time = std::chrono::steady_clock::time_point;
  // A thread's place, on its own cache line.
  struct alignas(64) Seat {
    std::atomic<uint32_t> runs{0};  // that it was given
    int lane = 0;                   // in the last of them; 0: not part of it
    std::atomic<bool> rests{false};
  };
  struct Watch;

  void start(Entry entry, void* body);
  void work(int thread);
  void rest(int thread, std::chrono::nanoseconds time);
  void stop();

  int size_ = 1;
  int lanes_ = 1;
  Entry entry_ = nullptr;
  void* body_ = nullptr;
  MakeClock clock_;
  std::atomic<bool> stop_{false};
  std::unique_ptr<Seat[]> seats_;
  // Each on its own cache line: everybody spins on one of them.
  alignas(64) std::atomic<uint32_t> running_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> barrier_{0};
  Mutex resting_;  // of nothing but stop_'s news to who rests
  std::condition_variable stopped_;
  std::vector<std::thread> threads_;
};

// The part of `items` that thread `t` of `n` takes: contiguous, sizes differ by one at most.
struct Range {
  int64_t begin = 0, end = 0;
};
inline Range share(int64_t items, int t, int n) { return {items * t / n, items * (t + 1) / n}; }

}  // namespace nemotron::cpu
