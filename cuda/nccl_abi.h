// The part of NCCL that is used, declared here: its values are NVIDIA's stable ABI from 2.14 on, so
// that no header is needed to build. test/nccl_abi.cc compares them with the header where there is
// one.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace nemotron::cuda::nccl {

using Comm = void*;

// ncclResult_t
inline constexpr int kSuccess = 0, kInProgress = 7;
// ncclDataType_t: what is sent are words, whatever they mean.
inline constexpr int kInt32 = 2;

struct UniqueId {  // ncclUniqueId
  char internal[128];
};

// ncclConfig_t of 2.14. A later library reads as much as `size` says and takes what is new since
// `version` as its own defaults.
struct Config {
  size_t size = sizeof(Config);
  uint32_t magic = 0xcafebeef;
  uint32_t version = 21400;
  int blocking = 0;
  int undefined = INT32_MIN;
};

// Versions that these declarations are true of.
inline constexpr int kOldest = 21400, kNewest = 29999;

struct Functions {
  int (*version)(int*);
  const char* (*error)(int);
  int (*unique_id)(UniqueId*);
  int (*init)(Comm*, int ranks, UniqueId, int rank, Config*);
  int (*all_gather)(const void* send, void* to, size_t count, int type, Comm, cudaStream_t);
  int (*state)(Comm, int*);
  int (*abort)(Comm);
};

}  // namespace nemotron::cuda::nccl
