// ThreadPool: the threads of one CPU device. Thread 0 is the caller of run(); the others wait for
// work by spinning for some tens of microseconds (ops of a step follow each other within a few) and
// then sleep, because two threads may share one core. run() may be called from one thread only.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace nemotron::cpu {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // throws std::system_error when a thread cannot be made
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // body(thread) on every thread; returns when all have finished. body must not throw.
  template <class Body>
  void run(Body&& body) {
    start([](void* b, int thread) { (*static_cast<Body*>(b))(thread); },
          const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Inside run(): nobody goes on before everybody is here.
  void barrier();

 private:
  using Entry = void (*)(void*, int);
  void start(Entry entry, void* body);
  void work(int thread);

  int size_ = 1;
  Entry entry_ = nullptr;
  void* body_ = nullptr;
  bool stop_ = false;
  // Each on its own cache line: everybody spins on one of them.
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> running_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> barrier_{0};
  std::vector<std::thread> threads_;
};

// The part of `items` that thread `t` of `n` takes: contiguous, sizes differ by one at most.
struct Range {
  int64_t begin = 0, end = 0;
};
inline Range share(int64_t items, int t, int n) { return {items * t / n, items * (t + 1) / n}; }

}  // namespace nemotron::cpu
