#include "cuda/ranks.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device/mutex.h"

namespace nemotron::cuda {
namespace {

constexpr int64_t kSlotBytes = int64_t(8) << 20;
constexpr int64_t kOneShotBytes = int64_t(256) << 10;

// The group whose kernels may be launched early, while ranks of it are there. The groups of a
// process share its GPUs and know nothing of each other, so this is the process's.
class EarlyGroup {
 public:
  // A rank of the group joins it. False: the place is another group's.
  bool enter(const RankGroup* group) {
    const Lock lock(mutex_);
    if (ranks_ > 0 && group != group_) return false;
    group_ = group;
    ++ranks_;
    return true;
  }
  // One that was let in has seen the end of all that it launched. A rank that hangs never has, and
  // its kernels may be there for good.
  void leave() {
    const Lock lock(mutex_);
    --ranks_;
  }

 private:
  Mutex mutex_;
  const RankGroup* group_ GUARDED_BY(mutex_) = nullptr;
  int ranks_ GUARDED_BY(mutex_) = 0;
} early_group;

std::string gpu(int32_t index) { return "GPU " + std::to_string(index); }

}  // namespace

Ranks::~Ranks() {
  uint8_t* own = peers_.memory[peers_.rank];
  if (by_nccl_) {
    // What others still send to this rank is its own library's to end.
    if (group_ && own) group_->meet(peers_.rank, "its end");
    nccl_.abort();
    context_->free(own);
  } else if (group_ && own) {
    // Of a group that has ended nobody knows when its kernels will: their memory stays.
    if (group_->meet(peers_.rank, "its end")) {
      context_->free(own);
    } else {
      context_->abandon(own);
    }
    if (is_early_) early_group.leave();
  }
  if (end_stream_) cudaStreamDestroy(end_stream_);
  for (cudaEvent_t e : under_way_) cudaEventDestroy(e);
  for (cudaEvent_t e : free_events_) cudaEventDestroy(e);
}

int32_t Ranks::gpu_of(const DeviceOptions& options, int32_t rank) { return options.index + rank; }

Status Ranks::open(const DeviceOptions& options) {
  if (!options.group || options.group->ranks() == 1) return {};
  const int32_t ranks = options.group->ranks();
  if (ranks > kMostRanks) {
    return Status::unsupported("tensor_parallel_size: found " + std::to_string(ranks) +
                               ", expected at most " + std::to_string(kMostRanks));
  }
  peers_.rank = options.rank;
  peers_.ranks = ranks;
  peers_.slot_bytes = options.turn_bytes > 0 ? options.turn_bytes : kSlotBytes;
  peers_.one_shot_bytes = std::min(kOneShotBytes, peers_.slot_bytes / ranks);
  peers_.patience_ns = uint64_t(options.group->patience().count() * 1e9);
  if (Status s = check_gpus(options); !s) return s;
  if (!context_->check(cudaStreamCreateWithFlags(&end_stream_, cudaStreamNonBlocking),
                       "making a stream")) {
    return context_->status();
  }
  group_ = options.group;
  context_->count_on(group_->ticks_of(options.rank));
  return {};
}

Status Ranks::check_gpus(const DeviceOptions& options) {
  int count = 0;
  context_->check(cudaGetDeviceCount(&count), "counting GPUs");
  const int32_t own = gpu_of(options, peers_.rank);
  for (int32_t r = 0; r < peers_.ranks && context_->ok(); ++r) {
    const int32_t index = gpu_of(options, r);
    if (index >= count) {
      return Status::invalid("tensor_parallel_size: found " + std::to_string(peers_.ranks) +
                             ", expected at most " + std::to_string(count - options.index) +
                             ": this machine has " + std::to_string(count) +
                             " GPUs, and the first rank has " + gpu(options.index));
    }
    if (Status s = check_kind(own, index); !s) return s;
  }
  std::string which;
  if (reaches(options, &which)) {
    for (int32_t r = 0; r < peers_.ranks && context_->ok(); ++r) {
      if (r != peers_.rank) enable_peer(own, gpu_of(options, r));
    }
    return context_->status();
  }
  if (!context_->ok()) return context_->status();
  by_nccl_ = true;
  const Status s = nccl_.open();
  return s.ok() ? s
                : s.within("tensor_parallel_size: " + which +
                           " (no peer access), which takes NCCL (NEMOTRON_NCCL names its file)");
}

Status Ranks::check_kind(int32_t own, int32_t index) {
  cudaDeviceProp other{};
  context_->check(cudaGetDeviceProperties(&other, index), "asking for a GPU's properties");
  const cudaDeviceProp& mine = context_->properties();
  if (std::strcmp(other.name, mine.name) == 0 &&
      other.multiProcessorCount == mine.multiProcessorCount) {
    return context_->status();
  }
  return Status::unsupported("tensor_parallel_size: " + gpu(own) + " is " + mine.name + ", " +
                             gpu(index) + " is " + other.name +
                             ": the GPUs of a group are of one kind");
}

// Asked for all pairs, so that every rank comes to the same answer.
bool Ranks::reaches(const DeviceOptions& options, std::string* which) {
  for (int32_t a = 0; a < peers_.ranks; ++a) {
    for (int32_t b = 0; b < peers_.ranks; ++b) {
      if (a == b) continue;
      const int32_t from = gpu_of(options, a), to = gpu_of(options, b);
      int reaches = 0;
      if (!context_->check(cudaDeviceCanAccessPeer(&reaches, from, to), "asking for peer access"))
        return false;
      if (reaches) continue;
      *which = gpu(from) + " does not reach the memory of " + gpu(to);
      return false;
    }
  }
  return true;
}

void Ranks::enable_peer(int32_t own, int32_t index) {
  const cudaError_t e = cudaDeviceEnablePeerAccess(index, 0);
  if (e == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();  // not sticky
  } else {
    context_->check(e, "enabling peer access");
  }
  // What tells NVLink from PCIe.
  int atomics = 0;
  context_->check(
      cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, own, index),
      "asking for the link between GPUs");
  nvlink_ = nvlink_ && atomics != 0;
}

std::string Ranks::link() const {
  if (by_nccl_) return "NCCL " + nccl_.version();
  return nvlink_ ? "NVLink" : "PCIe";
}

size_t Ranks::bytes() const { return alone() ? 0 : peer_bytes(peers_.slot_bytes); }

Status Ranks::join(const StepLimits& limits) {
  if (alone()) return {};
  if (limits.hidden % kRankColumns != 0) {
    return Status::unsupported("tensor_parallel_size: found " + std::to_string(peers_.ranks) +
                               ", expected 1: the CUDA backend adds over ranks in tiles of " +
                               std::to_string(kRankColumns) + " columns, the model has " +
                               std::to_string(limits.hidden));
  }
  const bool ids_fit = by_nccl_ ? gathered_rows(limits.max_samples) > 0
                                : int64_t(limits.max_samples) * 4 <= peers_.slot_bytes;
  if (!ids_fit || sum_rows(limits.hidden) == 0 || logit_rows(limits.vocab) == 0) {
    return Status::unsupported("several ranks on CUDA with rows of " +
                               std::to_string(std::max(limits.hidden, limits.vocab)) + " values");
  }
  void* own = nullptr;
  if (Status s = context_->alloc(bytes(), &own); !s) return s.within("what ranks tell each other");
  context_->check(cudaMemsetAsync(static_cast<uint8_t*>(own) + kPeerHeaderBytes, 0xff,
                                  bytes() - kPeerHeaderBytes, context_->stream()),
                  "clearing what ranks tell each other");
  if (!context_->synchronize()) return context_->status();
  peers_.memory[peers_.rank] = static_cast<uint8_t*>(own);
  if (by_nccl_) return nccl_.join(group_, peers_.rank);
  peers_.dependents_early = is_early_ = early_group.enter(group_);
  std::vector<void*> all(size_t(peers_.ranks));
  if (!group_->exchange(peers_.rank, "its preparation", own, all)) return group_->status();
  for (size_t r = 0; r < all.size(); ++r) peers_.memory[r] = static_cast<uint8_t*>(all[r]);
  return {};
}

Status Ranks::meet() const {
  if (alone() || !peers_.memory[peers_.rank] || group_->meet(peers_.rank, "room in a step")) {
    return {};
  }
  return group_->status();
}

void Ranks::end(const Status& why) {
  if (alone()) return;
  if (by_nccl_) {
    group_->end(peers_.rank, why);
    nccl_.abort();
    return;
  }
  if (std::exchange(is_told_, true)) return;
  group_->end(peers_.rank, why);
  // On a stream of its own: the other one may be waiting. Where this fails, the others' clocks end
  // their waits.
  static const uint32_t kEnded = 1;
  for (int32_t r = 0; r < peers_.ranks; ++r) {
    if (!peers_.memory[r]) continue;
    cudaMemcpyAsync(peers_.memory[r] + offsetof(PeerHeader, ended), &kEnded, sizeof kEnded,
                    cudaMemcpyHostToDevice, end_stream_);
  }
  cudaStreamSynchronize(end_stream_);
}

int32_t Ranks::gathered_rows(int32_t words) const {
  return int32_t(2 * peers_.slot_bytes / (int64_t(words) * 4 * peers_.ranks));
}

int32_t Ranks::sum_rows(int32_t cols) const {
  if (alone()) return INT32_MAX;
  return by_nccl_ ? gathered_rows(cols) : rows_of_turn(peers_, cols);
}

int32_t Ranks::logit_rows(int32_t vocab) const {
  if (alone()) return INT32_MAX;
  if (!by_nccl_) return logit_rows_of_turn(peers_, vocab);
  return gathered_rows(logit_width(vocab, peers_.ranks)) / peers_.ranks * peers_.ranks;
}

const void* Ranks::gather(const void* send, size_t words) {
  uint8_t* to = gathered();
  if (!context_->check_launches()) return to;
  nccl_.all_gather(send ? send : to + size_t(peers_.rank) * words * 4, to, words);
  cudaEvent_t done = nullptr;
  if (free_events_.empty()) {
    if (!context_->check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming),
                         "making an event")) {
      return to;
    }
  } else {
    done = free_events_.back();
    free_events_.pop_back();
  }
  under_way_.push_back(done);
  if (context_->ok()) {
    context_->check(cudaEventRecord(done, context_->stream()), "marking what was gathered");
  }
  return to;
}

// A long step is no reason to give up; a gathering that does not end is.
void Ranks::wait(Results* results) {
  using Clock = std::chrono::steady_clock;
  Waited waited(Clock::now());
  bool busy = false;
  while (context_->ok()) {
    if (Status s = nccl_.state(&busy); !s) return context_->fail(std::move(s));
    while (!under_way_.empty() && cudaEventQuery(under_way_.front()) != cudaErrorNotReady) {
      free_events_.push_back(under_way_.front());
      under_way_.pop_front();
      waited = Waited(Clock::now());
    }
    if (results->done() && !busy) return;
    if (group_->ended()) return context_->fail(group_->status());
    if (waited.look(Clock::now()) > group_->patience()) {
      return context_->fail(Status::internal("waited " +
                                             std::to_string(int64_t(group_->patience().count())) +
                                             " s for another rank in a step, by NCCL"));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

Status Ranks::status() const { return alone() || !group_->ended() ? Status() : group_->status(); }

Status Ranks::why_stopped(const uint32_t (&stopped)[2]) const {
  if (stopped[0] == 0) {
    const Status s = status();
    return s.ok() ? Status::internal("another rank ended the group") : s;
  }
  const int32_t from = int32_t(stopped[0]) - 1;
  const std::string whom =
      from < kMostRanks ? "rank " + std::to_string(from) : std::string("another rank");
  return Status::internal("waited " + std::to_string(peers_.patience_ns / 1000000000) + " s for " +
                          whom + " in a step");
}

}  // namespace nemotron::cuda
