// The part of the CUDA runtime that cuda/*.cc uses, over test/emu: compiling with this folder first
// in the include path turns the CUDA device into one that runs on the CPU. Device memory is host
// memory behind guard pages; a stream runs between the call and the wait for it, at a time that
// emu::Order chooses; a captured stream records and a graph replays.
//
// Errors found by the checker come back like a fault of a real device: sticky, from the next call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>

#include "emu.h"

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidClusterSize = 912,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidKernelImage = 200,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorPeerAccessAlreadyEnabled = 704,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
inline constexpr int cudaSharedmemCarveoutMaxShared = 100;
struct cudaFuncAttributes {
  int numRegs, ptxVersion;
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
  size_t sharedMemPerBlockOptin;
};

namespace emu {
// The machine that the runtime is on; tests change it. $EMU_GPUS and $EMU_PEER_ACCESS say how it
// begins where the runtime is inside a library.
struct Machine {
  cudaError_t count_error = cudaSuccess;  // of cudaGetDeviceCount
  bool peer_access = true;                // between GPUs
  int gpus = 1, driver = 13000, major = 9, minor = 0;
  size_t bytes = size_t(8) << 30;
  // Whether taking and giving back memory, and making graphs, wait for all GPUs that reach this
  // one's memory or whose memory it reaches, as they may on real ones.
  bool memory_waits = true;
  size_t multiprocessors = 3;            // few: persistent kernels loop
  size_t shared_bytes = 227u << 10;      // that a block can ask for
  cudaError_t load_error = cudaSuccess;  // of a kernel
  int ptx = 90;  // what kernels were compiled from; pdl_wait() does nothing before 90
  cudaError_t fault = cudaSuccess;  // what the next synchronisation reports, and all after it
};
Machine& machine();

struct Stream;
struct Graph;
struct Event;
}  // namespace emu
using cudaStream_t = emu::Stream*;
using cudaEvent_t = emu::Event*;
using cudaGraph_t = emu::Graph*;
using cudaGraphExec_t = emu::Graph*;

inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaHostAllocDefault = 0;

cudaError_t cudaGetDeviceCount(int* n);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int index);
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer);
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags);
enum cudaDeviceP2PAttr { cudaDevP2PAttrNativeAtomicSupported = 3 };
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr attribute, int device,
                                      int peer);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* dst, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
inline constexpr unsigned cudaEventDisableTiming = 2;
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
enum cudaDriverEntryPointQueryResult {
  cudaDriverEntryPointSuccess = 0,
  cudaDriverEntryPointSymbolNotFound = 1
};
inline constexpr unsigned long long cudaEnableDefault = 0;
#define CUDART_VERSION 13000
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);

namespace emu {
cudaError_t load_kernel(const void* kernel);
cudaError_t set_max_shared(const void* kernel, size_t bytes);
// Runs (or, while the stream is captured, records) body once per CUDA thread of the grid.
cudaError_t launch(const char* name, const void* kernel, dim3 grid, unsigned cluster, dim3 block,
                   size_t shared, bool pdl, cudaStream_t stream, std::function<void()> body);
// Of blocks that fill a multiprocessor each, and multiprocessors that all lie together.
cudaError_t clusters_at_once(int* clusters, const void* kernel, unsigned cluster, dim3 block,
                             size_t shared);
}  // namespace emu

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel* kernel) {
  *attributes = {.numRegs = 0, .ptxVersion = emu::machine().ptx};
  return emu::load_kernel(reinterpret_cast<const void*>(kernel));
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  return emu::set_max_shared(reinterpret_cast<const void*>(kernel), size_t(value));
}
