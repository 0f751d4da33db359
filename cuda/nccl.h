// Nccl: a rank's place among ranks whose GPUs do not reach each other's memory. NCCL moves words
// and adds nothing: the order of its own sums depends on their size. Owned by Ranks; used by its
// device's thread.
//
// No call waits for other ranks but join(): what is enqueued and never ends is ended by abort(),
// which each rank calls for itself.
#pragma once

#include <string>

#include "cuda/context.h"
#include "cuda/library.h"
#include "cuda/nccl_abi.h"
#include "device/rank_group.h"

namespace nemotron::cuda {

class Nccl {
 public:
  explicit Nccl(Context* context) : context_(context) {}
  ~Nccl() { abort(); }
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;

  // Unavailable, and why, when there is no such library; unsupported when it is of another version.
  Status open();
  std::string version() const;  // "2.27.7"

  // Meets the other ranks. Fails when one of them fails, or does not come within the group's
  // patience.
  Status join(RankGroup* group, int32_t rank);

  // to [ranks, words] = every rank's `words` of four bytes at `send`, by rank; on the context's
  // stream. send may be this rank's place in `to`. A failure is the context's.
  void all_gather(const void* send, void* to, size_t words);
  // Not ok: what was enqueued has failed. *busy: a call is still on its way to the GPU.
  Status state(bool* busy) const;
  // What was enqueued ends, finished or not.
  void abort();

 private:
  Status check(int result, const char* doing) const;
  // Waits until what was called is enqueued.
  Status settle(int result, const char* doing) const;

  Context* context_;
  Library library_;
  nccl::Functions nccl_{};
  nccl::UniqueId id_{};
  nccl::Comm comm_ = nullptr;
  RankGroup* group_ = nullptr;
  int version_ = 0;
};

}  // namespace nemotron::cuda
