#include "cuda/nccl.h"

#include <chrono>
#include <thread>
#include <vector>

namespace nemotron::cuda {
namespace {

std::string text_of(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace

Status Nccl::open() {
  std::string why;
  if (!library_.open("NEMOTRON_NCCL", {"libnccl.so.2"}, &why) ||
      !library_.bind(&nccl_.version, "ncclGetVersion", &why)) {
    return Status::unavailable(why);
  }
  if (const int result = nccl_.version(&version_); result != nccl::kSuccess) {
    return Status::unavailable("ncclGetVersion fails with status " + std::to_string(result));
  }
  // Before the others are looked for: an old library may lack them.
  if (version_ < nccl::kOldest || version_ > nccl::kNewest) {
    return Status::unsupported("found NCCL " + text_of(version_) + ", expected " +
                               text_of(nccl::kOldest) + " or a later 2.x");
  }
  if (!library_.bind(&nccl_.error, "ncclGetErrorString", &why) ||
      !library_.bind(&nccl_.unique_id, "ncclGetUniqueId", &why) ||
      !library_.bind(&nccl_.init, "ncclCommInitRankConfig", &why) ||
      !library_.bind(&nccl_.all_gather, "ncclAllGather", &why) ||
      !library_.bind(&nccl_.state, "ncclCommGetAsyncError", &why) ||
      !library_.bind(&nccl_.abort, "ncclCommAbort", &why)) {
    return Status::unavailable(why);
  }
  return {};
}

std::string Nccl::version() const { return text_of(version_); }

Status Nccl::check(int result, const char* doing) const {
  if (result == nccl::kSuccess) return {};
  return Status::internal(std::string("NCCL, ") + doing + ": " + nccl_.error(result));
}

Status Nccl::settle(int result, const char* doing) const {
  using Clock = std::chrono::steady_clock;
  Waited waited(Clock::now());
  while (result == nccl::kInProgress) {
    if (group_->ended()) return group_->status();
    if (waited.look(Clock::now()) > group_->patience()) {
      return Status::internal(std::string("NCCL, ") + doing + ": waited in vain for other ranks");
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    if (const int failed = nccl_.state(comm_, &result); failed != nccl::kSuccess) result = failed;
  }
  return check(result, doing);
}

Status Nccl::join(RankGroup* group, int32_t rank) {
  group_ = group;
  if (rank == 0) {
    if (Status s = check(nccl_.unique_id(&id_), "naming the group"); !s) return s;
  }
  std::vector<void*> all(size_t(group->ranks()));
  if (!group->exchange(rank, "its preparation", &id_, all)) return group->status();
  // Rank 0 does not come out of the start before all have called it.
  const nccl::UniqueId id = *static_cast<const nccl::UniqueId*>(all[0]);
  nccl::Config config;
  return settle(nccl_.init(&comm_, group->ranks(), id, rank, &config), "starting");
}

void Nccl::all_gather(const void* send, void* to, size_t words) {
  if (!context_->ok()) return;
  Status s = settle(nccl_.all_gather(send, to, words, nccl::kInt32, comm_, context_->stream()),
                    "gathering from all ranks");
  if (!s) context_->fail(std::move(s));
}

Status Nccl::state(bool* busy) const {
  int result = nccl::kSuccess;
  if (Status s = check(nccl_.state(comm_, &result), "asking for its state"); !s) return s;
  *busy = result == nccl::kInProgress;
  return *busy ? Status() : check(result, "gathering from all ranks");
}

void Nccl::abort() {
  if (comm_) nccl_.abort(comm_);
  comm_ = nullptr;
}

}  // namespace nemotron::cuda
