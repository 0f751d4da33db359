#include "device/rank_group.h"

#include <algorithm>
#include <string>

#include "device/processors.h"

namespace nemotron {
namespace {

constexpr auto kSpin = std::chrono::microseconds(60);

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

RankGroup::RankGroup(int ranks, int threads_per_rank, Seconds patience)
    : seats_(size_t(std::max(ranks, 1))),
      spins_(ranks * threads_per_rank <= usable_processors().count),
      patience_(patience) {}

uint64_t RankGroup::ticks() const {
  uint64_t sum = 0;
  for (const Seat& seat : seats_) sum += seat.ticks.load(std::memory_order_relaxed);
  return sum;
}

bool RankGroup::meet(int rank, const char* where) noexcept {
  Seat& seat = seats_[size_t(rank)];
  seat.where.store(where, std::memory_order_relaxed);
  seat.ticks.fetch_add(1, std::memory_order_relaxed);
  if (ended()) return false;
  const uint32_t round = round_.load(std::memory_order_acquire);
  seat.round.store(round + 1, std::memory_order_release);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == ranks()) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) > 0) {
      const Lock lock(mutex_);
      wake_.notify_all();
    }
    return !ended();
  }
  const auto over = [&] { return round_.load(std::memory_order_acquire) != round || ended(); };
  const auto start = std::chrono::steady_clock::now();
  while (spins_ && std::chrono::steady_clock::now() - start < kSpin) {
    for (int i = 0; i < 64; ++i) {
      if (over()) return !ended();
      pause();
    }
  }
  uint64_t seen = ticks();
  Waited waited(std::chrono::steady_clock::now());
  Lock lock(mutex_);
  asleep_.fetch_add(1, std::memory_order_seq_cst);
  while (round_.load(std::memory_order_seq_cst) == round && !ended()) {
    lock.wait_until(wake_, std::chrono::steady_clock::now() + std::chrono::milliseconds(100));
    const auto now = std::chrono::steady_clock::now();
    if (const uint64_t all = ticks(); all != seen) {
      seen = all;
      waited = Waited(now);
    } else if (waited.look(now) > patience_) {
      lock.unlock();
      give_up(rank, where, round);
      lock.lock();
    }
  }
  asleep_.fetch_sub(1, std::memory_order_seq_cst);
  return !ended();
}

void RankGroup::give_up(int rank, const char* where, uint32_t round) {
  for (size_t r = 0; r < seats_.size(); ++r) {
    if (seats_[r].round.load(std::memory_order_acquire) == round + 1) continue;
    const std::string waited = std::to_string(int(patience_.count()));
    end(int(r), Status::internal("did nothing for " + waited + " s while rank " +
                                 std::to_string(rank) + " waited at " + where));
    return;
  }
}

bool RankGroup::exchange(int rank, const char* where, void* mine, std::span<void*> all) noexcept {
  seats_[size_t(rank)].shared = mine;
  if (!meet(rank, where)) return false;
  for (size_t r = 0; r < seats_.size(); ++r) all[r] = seats_[r].shared;
  // Nobody shares the next pointer before everybody has read this one.
  return meet(rank, where);
}

bool RankGroup::largest(int rank, const char* where, std::span<float> values) noexcept {
  if (ended()) return false;
  seats_[size_t(rank)].values.assign(values.begin(), values.end());
  if (!meet(rank, where)) return false;
  for (const Seat& seat : seats_) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::max(values[i], seat.values[i]);
  }
  return meet(rank, where);
}

bool RankGroup::smallest(int rank, const char* where, int64_t* value) noexcept {
  seats_[size_t(rank)].value = *value;
  if (!meet(rank, where)) return false;
  for (const Seat& seat : seats_) *value = std::min(*value, seat.value);
  return meet(rank, where);
}

void RankGroup::end(int rank, const Status& why) noexcept {
  const Lock lock(mutex_);
  if (!status_.ok()) return;
  const Seat& seat = seats_[size_t(rank)];
  status_ = why.within("rank " + std::to_string(rank) + " of " + std::to_string(ranks()) +
                       ", last at " + seat.where.load(std::memory_order_relaxed));
  ended_.store(true, std::memory_order_release);
  wake_.notify_all();
}

Status RankGroup::status() const {
  const Lock lock(mutex_);
  return status_;
}

}  // namespace nemotron
