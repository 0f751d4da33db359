// Ranks: a device's place in its group: its memory that the other ranks write to, and theirs. Owned
// by a CudaDevice; used by its thread. Without a group, or in one of one rank, it does nothing.
#pragma once

#include "cuda/context.h"
#include "cuda/kernels.h"
#include "device/device.h"

namespace nemotron::cuda {

class Ranks {
 public:
  explicit Ranks(Context* context) : context_(context) {}
  // Waits for the other ranks, which may still write here.
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  // Which GPU a rank of a group has that begins at GPU options.index.
  static int32_t gpu_of(const DeviceOptions& options, int32_t rank);
  // Refuses GPUs of several kinds, and GPUs that do not reach each other's memory.
  Status open(const DeviceOptions& options);
  // Takes the memory and meets the others.
  Status join(const StepLimits& limits);

  bool alone() const { return group_ == nullptr; }
  int32_t rank() const { return peers_.rank; }
  int32_t ranks() const { return peers_.ranks; }
  // `stopped`: where kernels say that a wait was in vain.
  Peers peers(uint32_t* stopped) const {
    Peers p = peers_;
    p.stopped = stopped;
    return p;
  }
  std::string link() const;  // "NVLink", "PCIe"

  // This rank has failed: no rank waits any more.
  void end(const Status& why);
  // Not ok: the group has ended.
  Status status() const;
  // Why a step's waits were in vain, of what the kernels wrote to `stopped`.
  Status why_stopped(const uint32_t (&stopped)[2]) const;

 private:
  Status check_gpus(const DeviceOptions& options);

  Context* context_;
  RankGroup* group_ = nullptr;
  Peers peers_;  // memory of nobody before join()
  cudaStream_t end_stream_ = nullptr;
  bool nvlink_ = true;
};

}  // namespace nemotron::cuda
