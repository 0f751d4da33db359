#include "cpu/thread_pool.h"

#include <chrono>

namespace nemotron::cpu {
namespace {

constexpr auto kSpin = std::chrono::microseconds(40);

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Returns when `value` is no longer `old`.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto give_up = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < give_up);
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads < 1 ? 1 : threads) {
  threads_.reserve(size_t(size_ - 1));
  try {
    for (int t = 1; t < size_; ++t) threads_.emplace_back([this, t] { work(t); });
  } catch (...) {
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& t : threads_) t.join();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::start(Entry entry, void* body) {
  if (size_ == 1) return entry(body, 0);
  entry_ = entry;
  body_ = body;
  running_.store(uint32_t(size_ - 1), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  entry(body, 0);
  for (uint32_t left; (left = running_.load(std::memory_order_acquire)) != 0;) {
    wait_while(running_, left);
  }
}

void ThreadPool::work(int thread) {
  for (uint32_t seen = 0;;) {
    wait_while(generation_, seen);
    ++seen;
    if (stop_) return;
    entry_(body_, thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void ThreadPool::barrier() {
  if (size_ == 1) return;
  const uint32_t round = barrier_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == uint32_t(size_)) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_.fetch_add(1, std::memory_order_release);
    barrier_.notify_all();
  } else {
    wait_while(barrier_, round);
  }
}

}  // namespace nemotron::cpu
