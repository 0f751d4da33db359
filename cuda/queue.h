// Queue: where a device's kernels go. Plain C++, for host code and kernel files alike.
#pragma once

#include <cuda_runtime.h>

#include <unordered_set>

namespace nemotron::gpu {

// Where and how a device's kernels run. Owned by the device; one thread.
struct Queue {
  cudaStream_t stream = nullptr;
  bool pdl = false;  // programmatic dependent launch (sm_90 and later), of these kernels:
  std::unordered_set<const void*> waiting;  // their loaded code waits for the kernel before
  bool synchronous = false;                 // every launch is waited for
  bool wgmma = false;                       // products of generated rows by gemm_decode_wgmma.cu
  int multiprocessors = 1;
  int clusters_of_four = 0;  // of blocks that fill a multiprocessor each: how many run at once
  size_t shared_limit = 0;   // bytes of shared memory that a block may have
  cudaError_t error = cudaSuccess;  // the first launch that failed
  const char* failed = "";          // and its kernel
};

}  // namespace nemotron::gpu
