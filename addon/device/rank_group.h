// RankGroup: what the ranks of a tensor-parallel group have in common on the host: a place to meet,
// and one word that ends all waiting. Ranks never decide anything: a failure of one is the failure
// of the group, and whoever waits or comes later is told at once.
//
// Each rank calls from its own thread (a device's one thread) and calls the same functions in the
// same order as all others. The group outlives its devices.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "device/mutex.h"
#include "device/status.h"

namespace nemotron {

// How long one who looks again and again has waited. Of the time between two looks no more counts
// than kMost: a process that was stopped and goes on has not waited meanwhile.
class Waited {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::duration kMost = std::chrono::milliseconds(200);
  explicit Waited(Clock::time_point now) : last_(now) {}
  Clock::duration look(Clock::time_point now) {
    so_far_ += std::min(now - last_, kMost);
    last_ = now;
    return so_far_;
  }

 private:
  Clock::time_point last_;
  Clock::duration so_far_{};
};

class RankGroup {
 public:
  using Seconds = std::chrono::duration<double>;
  // A rank that has waited for so long (Waited), while no rank did anything, ends the group.
  static constexpr Seconds kPatience = Seconds(8);

  // threads_per_rank: of the host, busy while others wait. With more of them than there are
  // processors for this process, who waits sleeps at once.
  RankGroup(int ranks, int threads_per_rank, Seconds patience = kPatience);
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  int ranks() const { return int(seats_.size()); }
  Seconds patience() const { return patience_; }

  // Waits until every rank is here; what they wrote before is seen after. `where` (a literal) is
  // for messages. False: the group has ended.
  bool meet(int rank, const char* where) noexcept;
  // Every rank's pointer, by rank. Meets.
  bool exchange(int rank, const char* where, void* mine, std::span<void*> all) noexcept;
  // values[i] becomes the largest of all ranks' values[i]. Meets.
  bool largest(int rank, const char* where, std::span<float> values) noexcept;
  // *value becomes the smallest of all ranks'. Meets.
  bool smallest(int rank, const char* where, int64_t* value) noexcept;
  // What a rank counts up while it is at work: whoever waits for it goes on waiting.
  std::atomic<uint64_t>* ticks_of(int rank) noexcept { return &seats_[size_t(rank)].ticks; }

  // The first reason stays. Wakes everybody.
  void end(int rank, const Status& why) noexcept;
  bool ended() const noexcept { return ended_.load(std::memory_order_acquire); }
  // Why it ended, with the rank and where it stood; ok while it has not.
  Status status() const;

 private:
  struct alignas(64) Seat {
    std::atomic<uint64_t> ticks{0};
    std::atomic<const char*> where{"its start"};  // the last place that it came to
    std::atomic<uint32_t> round{0};               // how many times it has come to one
    void* shared = nullptr;                       // of exchange()
    std::vector<float> values;                    // of largest()
    int64_t value = 0;                            // of smallest()
  };
  uint64_t ticks() const;
  void give_up(int rank, const char* where, uint32_t round);

  std::vector<Seat> seats_;
  const bool spins_;
  const Seconds patience_;
  alignas(64) std::atomic<uint32_t> round_{0};  // meetings that are over
  alignas(64) std::atomic<int> arrived_{0};
  std::atomic<int> asleep_{0};
  std::atomic<bool> ended_{false};
  mutable Mutex mutex_;
  std::condition_variable wake_;
  Status status_ GUARDED_BY(mutex_);
};

}  // namespace nemotron
