// The threads of a pool: what a run is shared among, and what becomes of one whose core is busy.
#include "cpu/thread_pool.h"

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "test/check.h"

namespace nemotron::test {
namespace {

using cpu::CoreTime;
using cpu::ThreadPool;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How many threads a run has; that each lane runs once, on both sides of a barrier, is checked.
int lanes_of(ThreadPool& pool) {
  std::vector<std::atomic<int>> ran(size_t(pool.size()));
  std::atomic<int> before{0}, lanes{0};
  bool all_met = true;
  pool.run([&](int lane) {
    ++before;
    ++ran[size_t(lane)];
    pool.barrier();
    if (before != pool.lanes()) all_met = false;
    if (lane == 0) lanes = pool.lanes();
  });
  EXPECT(all_met);
  for (int i = 0; i < pool.size(); ++i) EXPECT(ran[size_t(i)] == (i < lanes ? 1 : 0));
  return lanes;
}

// Runs until one has `lanes` threads, within a time that is long for any machine.
bool reaches(ThreadPool& pool, int lanes) {
  const auto end = steady_clock::now() + std::chrono::seconds(20);
  while (steady_clock::now() < end) {
    if (lanes_of(pool) == lanes) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

TEST(pool_rests_a_thread_that_waits_for_a_core) {
  std::atomic<bool> late{false};
  // Thread 2 has its core for a fifth of the time.
  ThreadPool pool(4, [&](int thread) -> ThreadPool::CoreClock {
    return [&late, thread, time = CoreTime(), then = steady_clock::now()]() mutable {
      const auto now = steady_clock::now();
      const auto passed = now - std::exchange(then, now);
      const bool waits = thread == 2 && late;
      time.ran += waits ? passed / 5 : passed;
      if (waits) time.waited += passed * 4 / 5;
      return time;
    };
  });
  EXPECT(lanes_of(pool) == 4);
  late = true;
  EXPECT(reaches(pool, 3));
  late = false;
  EXPECT(reaches(pool, 4));
}

TEST(pool_ends_while_a_thread_rests) {
  const auto all_late = [](int) -> ThreadPool::CoreClock {
    return [time = CoreTime()]() mutable {
      time.waited += std::chrono::hours(1);
      return time;
    };
  };
  ThreadPool pool(3, all_late);
  EXPECT(reaches(pool, 1));
}

TEST(pool_has_all_its_threads_where_no_clock_tells) {
  ThreadPool pool(3, [](int) { return nullptr; });
  for (int i = 0; i < 100; ++i) {
    EXPECT(lanes_of(pool) == 3);
    std::this_thread::sleep_for(milliseconds(1));
  }
  ThreadPool one(1);
  EXPECT(lanes_of(one) == 1);
}

#if defined(__linux__)
// Ops of some microseconds with a meeting in each, as a small model's step has them.
int64_t ops_in(ThreadPool& pool, steady_clock::duration time) {
  const auto compute = [](int64_t n) {
    volatile int64_t sum = 0;
    for (int64_t i = 0; i < n; ++i) sum = sum + i;
  };
  int64_t ops = 0;
  for (const auto end = steady_clock::now() + time; steady_clock::now() < end; ++ops) {
    pool.run([&](int) {
      compute(10000 / pool.lanes());
      pool.barrier();
      compute(10000 / pool.lanes());
    });
  }
  return ops;
}

// One core for all: two threads of a pool, and others that always want it.
TEST(pool_on_a_busy_core_is_not_much_slower_than_one_thread) {
  if (::access("/proc/thread-self/schedstat", R_OK) != 0) {
    std::printf("this system tells no thread what it waited: skipped\n");
    return;
  }
  cpu_set_t before, one;
  EXPECT(sched_getaffinity(0, sizeof before, &before) == 0);
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  EXPECT(sched_setaffinity(0, sizeof one, &one) == 0);
  {
    ThreadPool alone(1), pool(2);
    std::atomic<bool> end{false};
    std::thread busy([&] {
      while (!end) {
      }
    });
    // The first of its rests are short.
    ops_in(pool, std::chrono::seconds(1));
    // Whoever stands still for a while has lost: several tries.
    bool fast = false;
    for (int i = 0; i < 5 && !fast; ++i) {
      const int64_t by_one = ops_in(alone, std::chrono::seconds(1));
      const int64_t by_two = ops_in(pool, std::chrono::seconds(1));
      std::printf("  a busy core: %ld ops by one thread, %ld by two\n", long(by_one), long(by_two));
      fast = by_two * 2 > by_one;
    }
    EXPECT(fast);
    end = true;
    busy.join();
  }
  sched_setaffinity(0, sizeof before, &before);
}
#endif

}  // namespace
}  // namespace nemotron::test
