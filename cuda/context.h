// Context: one GPU as its device uses it: a stream, memory, transfers, and the first error. Owned
// by a CudaDevice, used by its thread only. After an error everything does nothing; status() says
// why.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <functional>
#include <string>
#include <unordered_set>

#include "cuda/queue.h"
#include "device/status.h"

namespace nemotron::cuda {

// Device memory that may have to grow.
struct Block {
  uint8_t* data = nullptr;
  size_t bytes = 0;
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

class Context {
 public:
  Context() = default;
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Status open(int32_t index);

  // Makes this GPU the calling thread's: a thread starts with GPU 0.
  void use() { check(cudaSetDevice(index_), "choosing the GPU"); }

  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  void fail(Status s) {
    if (!status_.ok()) return;
    status_ = std::move(s);
    if (on_failure_) on_failure_(status_);
  }
  // What counts up while there is work for the GPU: RankGroup's.
  void count_on(std::atomic<uint64_t>* ticks) { ticks_ = ticks; }
  // How the ranks of a group meet, for meet().
  void meet_by(std::function<Status()> meet) { meet_ = std::move(meet); }
  // Told of the first error.
  void on_failure(std::function<void(const Status&)> f) { on_failure_ = std::move(f); }
  // False, and the status set, when e is an error.
  bool check(cudaError_t e, const char* doing);
  // Collects what launches since the last call reported.
  bool check_launches();

  gpu::Queue& queue() { return queue_; }
  cudaStream_t stream() const { return queue_.stream; }
  const cudaDeviceProp& properties() const { return properties_; }
  size_t free_bytes() const;

  // A failure is not sticky: the caller may ask for less.
  Status alloc(size_t bytes, void** out, bool zeroed = true);
  void free(void* p);
  void abandon(void* p) { memory_.erase(p); }  // stays until the process ends
  // At least so many bytes; what was there is lost when it grows.
  Status reserve(Block* block, size_t bytes);
  Status alloc_pinned(size_t bytes, void** out);
  void free_pinned(void* p) { cudaFreeHost(p); }

  // A piece of pinned memory and one of device memory of kStagingBytes each, free to be
  // overwritten: two take turns, so that the host fills one while the other is on its way.
  static constexpr size_t kStagingBytes = size_t(32) << 20;
  struct Staging {
    uint8_t* pinned = nullptr;
    uint8_t* device = nullptr;
    cudaEvent_t free = nullptr;
  };
  // A failure for want of memory is not sticky.
  Status next_staging(Staging** out);
  Status take_staging();          // both, before they are asked for
  void staging_used(Staging* s);  // everything enqueued so far may still read it
  void release_staging();

  void upload(void* dst, const void* host, size_t bytes);    // `host` may change on return
  void download(void* host, const void* src, size_t bytes);  // waits
  bool synchronize();
  // Waits for the ranks of the group, after memory was taken or given back in a step, before which
  // each has waited for its own GPU. The driver may wait then for all GPUs that reach each other's
  // memory: nobody goes on to kernels that wait for those of a rank that is still at it. All ranks
  // call it at the same places of the same steps. False: the context has failed.
  bool meet();

 private:
  Status take(Staging* s);

  int32_t index_ = 0;
  gpu::Queue queue_;
  cudaDeviceProp properties_{};
  Status status_;
  std::function<void(const Status&)> on_failure_;
  std::function<Status()> meet_;
  std::atomic<uint64_t>* ticks_ = nullptr;
  std::unordered_set<void*> memory_;
  Staging staging_[2];
  int turn_ = 0;
};

}  // namespace nemotron::cuda
