// Ranks: a device's place in its group: its memory that the other ranks write to, and theirs; or,
// where GPUs do not reach each other's memory, NCCL. Owned by a CudaDevice; used by its thread.
// Without a group, or in one of one rank, it does nothing.
#pragma once

#include <deque>

#include "cuda/context.h"
#include "cuda/kernels.h"
#include "cuda/nccl.h"
#include "cuda/results.h"
#include "device/device.h"

namespace nemotron::cuda {

class Ranks {
 public:
  explicit Ranks(Context* context) : context_(context), nccl_(context) {}
  // Waits for the other ranks, which may still write here.
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  // Which GPU a rank of a group has that begins at GPU options.index.
  static int32_t gpu_of(const DeviceOptions& options, int32_t rank);
  // Refuses GPUs of several kinds, and GPUs that do not reach each other's memory where there is no
  // NCCL either.
  Status open(const DeviceOptions& options);
  // Takes the memory and meets the others. One group of the process at a time launches what follows
  // a wait for other ranks before the wait is over: parked blocks of two could keep each other's
  // ranks from running, each on another GPU, for good.
  Status join(const StepLimits& limits);

  // What join() takes.
  size_t bytes() const;
  // Waits for the others; before join() for nobody.
  Status meet() const;

  // Rows of a sum over ranks, and of logits, that a turn has room for. The latter is a multiple of
  // the ranks: row i of a turn becomes whole on rank i % ranks, as row i of the step does.
  int32_t sum_rows(int32_t cols) const;
  int32_t logit_rows(int32_t vocab) const;

  bool alone() const { return group_ == nullptr; }
  int32_t rank() const { return peers_.rank; }
  int32_t ranks() const { return peers_.ranks; }
  // `stopped`: where kernels say that a wait was in vain.
  Peers peers(uint32_t* stopped) const {
    Peers p = peers_;
    p.stopped = stopped;
    return p;
  }
  std::string link() const;  // "NVLink", "PCIe", "NCCL 2.27.7"

  // By NCCL: no kernel waits for another rank's memory, and no step is a graph (NCCL warns of
  // graphs of several GPUs in one process).
  bool by_nccl() const { return by_nccl_; }
  // Every rank's `words`, by rank, in memory of this rank that is free again at the next call.
  // Where `send` is null they lie in this rank's place already (gathered()).
  const void* gather(const void* send, size_t words);
  uint8_t* gathered() const { return peers_.memory[peers_.rank] + kPeerHeaderBytes; }
  // By NCCL: waits for the oldest step in flight, as long as ranks come on; else the context fails.
  void wait(Results* results);

  // This rank has failed: no rank waits any more.
  void end(const Status& why);
  // Not ok: the group has ended.
  Status status() const;
  // Why a step's waits were in vain, of what the kernels wrote to `stopped`.
  Status why_stopped(const uint32_t (&stopped)[2]) const;

 private:
  Status check_gpus(const DeviceOptions& options);
  Status check_kind(int32_t own, int32_t index);
  // Whether each GPU of the group reaches the memory of each other one; else two that do not.
  bool reaches(const DeviceOptions& options, std::string* which);
  void enable_peer(int32_t own, int32_t index);
  // By NCCL: rows of so many words a rank that are gathered at a time.
  int32_t gathered_rows(int32_t words) const;

  Context* context_;
  Nccl nccl_;
  bool by_nccl_ = false;
  // What was gathered and has not been seen to end; events that are free.
  std::deque<cudaEvent_t> under_way_, free_events_;
  RankGroup* group_ = nullptr;
  Peers peers_;  // memory of nobody before join()
  cudaStream_t end_stream_ = nullptr;
  bool nvlink_ = true;
  bool is_early_ = false;  // launches what follows a wait before it is over (join())
  bool is_told_ = false;   // all kernels of the group, that it has ended
};

}  // namespace nemotron::cuda
