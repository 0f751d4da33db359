#include "cuda/context.h"

#include <algorithm>
#include <cstring>

namespace nemotron::cuda {

Status Context::open(int32_t index) {
  int count = 0;
  if (cudaError_t e = cudaGetDeviceCount(&count); e != cudaSuccess) {
    return Status(Code::unavailable, std::string("CUDA: ") + cudaGetErrorString(e));
  }
  if (index < 0 || index >= count) {
    return Status::invalid("GPU " + std::to_string(index) + " was asked for, this machine has " +
                           std::to_string(count));
  }
  if (!check(cudaSetDevice(index), "choosing the GPU") ||
      !check(cudaGetDeviceProperties(&properties_, index), "asking for the GPU's properties") ||
      !check(cudaStreamCreateWithFlags(&queue_.stream, cudaStreamNonBlocking), "making a stream")) {
    return status_;
  }
  index_ = index;
  queue_.multiprocessors = properties_.multiProcessorCount;
  queue_.shared_limit = properties_.sharedMemPerBlockOptin;
  queue_.pdl = properties_.major >= 9;
  return {};
}

Context::~Context() {
  if (!queue_.stream) return;
  cudaSetDevice(index_);
  cudaStreamSynchronize(queue_.stream);
  release_staging();
  for (void* p : memory_) cudaFree(p);
  cudaStreamDestroy(queue_.stream);
}

bool Context::check(cudaError_t e, const char* doing) {
  if (e == cudaSuccess) return true;
  std::string text = std::string(doing) + ": " + cudaGetErrorString(e);
  fail(e == cudaErrorMemoryAllocation ? Status::out_of_memory(std::move(text))
                                      : Status::internal(std::move(text)));
  return false;
}

bool Context::check_launches() {
  if (ticks_) ticks_->fetch_add(1, std::memory_order_relaxed);
  const cudaError_t e = queue_.error;
  queue_.error = cudaSuccess;
  return check(e, (std::string("kernel ") + queue_.failed).c_str());
}

size_t Context::free_bytes() const {
  size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

Status Context::alloc(size_t bytes, void** out, bool zeroed) {
  *out = nullptr;
  if (!ok()) return status_;
  void* p = nullptr;
  const cudaError_t e = cudaMalloc(&p, std::max<size_t>(bytes, 1));
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky
    return Status::out_of_memory("the GPU has " + std::to_string(free_bytes()) + " bytes free, " +
                                 std::to_string(bytes) + " are needed");
  }
  if (!check(e, "allocating GPU memory")) return status_;
  memory_.insert(p);
  if (zeroed && !check(cudaMemsetAsync(p, 0, std::max<size_t>(bytes, 1), queue_.stream),
                       "clearing GPU memory"))
    return status_;
  *out = p;
  return {};
}

void Context::free(void* p) {
  if (!p || memory_.erase(p) == 0) return;
  cudaStreamSynchronize(queue_.stream);
  cudaFree(p);
}

Status Context::reserve(Block* block, size_t bytes) {
  if (bytes <= block->bytes) return {};
  free(block->data);
  *block = Block{};
  void* p = nullptr;
  if (Status s = alloc(bytes, &p); !s) return s;
  *block = {static_cast<uint8_t*>(p), bytes};
  return {};
}

Status Context::alloc_pinned(size_t bytes, void** out) {
  if (cudaHostAlloc(out, std::max<size_t>(bytes, 1), cudaHostAllocDefault) == cudaSuccess)
    return {};
  cudaGetLastError();
  return Status::out_of_memory(std::to_string(bytes) + " bytes of pinned memory cannot be had");
}

Status Context::take(Staging* s) {
  if (s->pinned || !ok()) return status_;
  void *pinned = nullptr, *device = nullptr;
  if (Status status = alloc_pinned(kStagingBytes, &pinned); !status) return status;
  if (Status status = alloc(kStagingBytes, &device, false); !status) {
    free_pinned(pinned);
    return status;
  }
  s->pinned = static_cast<uint8_t*>(pinned);
  s->device = static_cast<uint8_t*>(device);
  check(cudaEventCreateWithFlags(&s->free, cudaEventDisableTiming), "making an event");
  return status_;
}

Status Context::take_staging() {
  Status s = take(&staging_[0]);
  return s.ok() ? take(&staging_[1]) : s;
}

Status Context::next_staging(Staging** out) {
  if (ticks_) ticks_->fetch_add(1, std::memory_order_relaxed);
  Staging& s = staging_[turn_];
  if (Status status = take(&s); !status) return status;
  turn_ ^= 1;
  *out = &s;
  // One that has just been taken waits for nothing.
  check(cudaEventSynchronize(s.free), "waiting for a transfer");
  return status_;
}

void Context::staging_used(Staging* s) {
  check(cudaEventRecord(s->free, queue_.stream), "marking a transfer");
}

void Context::release_staging() {
  for (Staging& s : staging_) {
    free(s.device);
    if (s.pinned) cudaFreeHost(s.pinned);
    if (s.free) cudaEventDestroy(s.free);
    s = Staging{};
  }
}

void Context::upload(void* dst, const void* host, size_t bytes) {
  for (size_t at = 0; at < bytes && ok();) {
    const size_t n = std::min(kStagingBytes, bytes - at);
    Staging* s = nullptr;
    if (Status status = next_staging(&s); !status) return fail(std::move(status));
    std::memcpy(s->pinned, static_cast<const uint8_t*>(host) + at, n);
    check(cudaMemcpyAsync(static_cast<uint8_t*>(dst) + at, s->pinned, n, cudaMemcpyHostToDevice,
                          queue_.stream),
          "copying to the GPU");
    staging_used(s);
    at += n;
  }
}

void Context::download(void* host, const void* src, size_t bytes) {
  if (!ok()) return;
  check(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, queue_.stream),
        "copying from the GPU");
  synchronize();
}

bool Context::synchronize() {
  return ok() && check(cudaStreamSynchronize(queue_.stream), "running on the GPU");
}

bool Context::meet() {
  if (ok() && meet_) {
    if (Status s = meet_(); !s) fail(std::move(s));
  }
  return ok();
}

}  // namespace nemotron::cuda
