// Mutex and Lock: std::mutex with words that clang checks (-Wthread-safety): a field marked
// GUARDED_BY(mutex_) is only touched under a Lock of it, a method marked REQUIRES_LOCK(mutex_) only
// called under one. Other compilers see plain classes. scripts/thread-safety.sh runs the check.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define NEMOTRON_THREAD_WORD(x) __attribute__((x))
#else
#define NEMOTRON_THREAD_WORD(x)
#endif
#define GUARDED_BY(mutex) NEMOTRON_THREAD_WORD(guarded_by(mutex))
#define REQUIRES_LOCK(mutex) NEMOTRON_THREAD_WORD(requires_capability(mutex))

namespace nemotron {

class NEMOTRON_THREAD_WORD(capability("mutex")) Mutex {
 public:
  void lock() NEMOTRON_THREAD_WORD(acquire_capability()) { mutex_.lock(); }
  void unlock() NEMOTRON_THREAD_WORD(release_capability()) { mutex_.unlock(); }

 private:
  friend class Lock;
  std::mutex mutex_;
};

// Holds a Mutex while it lives, but for the time between unlock() and lock().
class NEMOTRON_THREAD_WORD(scoped_lockable) Lock {
 public:
  explicit Lock(Mutex& mutex) NEMOTRON_THREAD_WORD(acquire_capability(mutex))
      : lock_(mutex.mutex_) {}
  ~Lock() NEMOTRON_THREAD_WORD(release_capability()) {}
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

  void lock() NEMOTRON_THREAD_WORD(acquire_capability()) { lock_.lock(); }
  void unlock() NEMOTRON_THREAD_WORD(release_capability()) { lock_.unlock(); }
  // In a loop that checks what is waited for: it may return for nothing.
  void wait(std::condition_variable& changed) { changed.wait(lock_); }
  // False: `end` has come.
  bool wait_until(std::condition_variable& changed, std::chrono::steady_clock::time_point end) {
    return changed.wait_until(lock_, end) == std::cv_status::no_timeout;
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

}  // namespace nemotron
