// The CUDA runtime calls of cuda_runtime.h.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "cuda_runtime.h"
#include "internal.h"

namespace emu {

struct Node {
  Launch launch;
  size_t shared = 0;
  std::function<void()> body;  // a kernel; otherwise `action`
  std::function<void()> action;
};
struct Graph {
  std::vector<Node> nodes;
};
struct Stream {
  Graph* capture = nullptr;
};

namespace {

// One emulated device, used by one thread at a time.
std::recursive_mutex mutex;
std::map<const void*, size_t> max_shared;
std::set<const void*> loaded;
thread_local int current_device = 0;
struct Mapping {
  void* map;
  size_t map_bytes, bytes;
};
std::map<void*, Mapping> mappings;  // by device pointer
std::map<void*, size_t> pinned;
size_t used_bytes = 0;
cudaError_t pending_error = cudaSuccess;
std::string error_text;
int capturing = 0;             // streams
uint32_t complete_serial = 1;  // launches below are complete whatever PDL does

cudaError_t fail(cudaError_t e, const std::string& why) {
  report(why, nullptr, nullptr);
  pending_error = e;
  return e;
}

// A memory operation of the stream waits for every kernel before it.
void fence() { complete_serial = next_serial(); }

void enqueue(cudaStream_t stream, std::function<void()> action) {
  if (stream && stream->capture) {
    Node node;
    node.action = std::move(action);
    stream->capture->nodes.push_back(std::move(node));
  } else {
    action();
  }
}

void run(Node& node) {
  if (node.action) {
    node.action();
    return;
  }
  if (node.launch.pdl) {
    ++counters().dependent;
  } else {
    fence();
  }
  node.launch.complete_serial = complete_serial;
  run_grid(node.launch, node.shared, node.body);
}

}  // namespace

Machine& machine() {
  static Machine m;
  return m;
}

cudaError_t load_kernel(const void* kernel) {
  std::lock_guard lock(mutex);
  if (machine().load_error != cudaSuccess) return machine().load_error;
  loaded.insert(kernel);
  return cudaSuccess;
}

cudaError_t set_max_shared(const void* kernel, size_t bytes) {
  std::lock_guard lock(mutex);
  if (bytes > (227u << 10))
    return fail(cudaErrorInvalidValue, "more than 227 KiB of shared memory asked for");
  max_shared[kernel] = bytes;
  return cudaSuccess;
}

// parameters: those of a launch in CUDA, and the body that stands for the kernel
cudaError_t launch(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared,
                   bool pdl, cudaStream_t stream, std::function<void()> body) {
  std::lock_guard lock(mutex);
  const std::string who = std::string("launch of ") + name + ": ";
  const size_t threads = size_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024) {
    return fail(cudaErrorInvalidConfiguration,
                who + std::to_string(threads) + " threads in a block");
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535) {
    return fail(cudaErrorInvalidConfiguration, who + "grid " + std::to_string(grid.x) + " x " +
                                                   std::to_string(grid.y) + " x " +
                                                   std::to_string(grid.z));
  }
  const auto it = max_shared.find(kernel);
  const size_t limit =
      it == max_shared.end() ? size_t(48) << 10 : std::max(size_t(48) << 10, it->second);
  if (shared > limit) {
    return fail(cudaErrorInvalidValue, who + std::to_string(shared) +
                                           " bytes of shared memory, limit set is " +
                                           std::to_string(limit));
  }
  Node node;
  node.launch.name = name;
  node.launch.grid = grid;
  node.launch.block = block;
  node.launch.pdl = pdl;
  node.shared = shared;
  node.body = std::move(body);
  if (current_device != 0) return fail(cudaErrorInvalidDevice, who + "the stream is another GPU's");
  if (stream && stream->capture) {
    if (!loaded.contains(kernel)) {
      return fail(cudaErrorStreamCaptureUnsupported,
                  who + "the first launch of a kernel loads it, not while a stream is captured");
    }
    stream->capture->nodes.push_back(std::move(node));
  } else {
    run(node);
  }
  return cudaSuccess;
}

}  // namespace emu

using namespace emu;

cudaError_t cudaGetDeviceCount(int* n) {
  *n = machine().count_error == cudaSuccess ? machine().gpus : 0;
  return machine().count_error;
}
cudaError_t cudaSetDevice(int index) {
  if (index < 0 || index >= machine().gpus) return cudaErrorInvalidDevice;
  current_device = index;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine().driver;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int index) {
  if (index < 0 || index >= machine().gpus) return cudaErrorInvalidDevice;
  *prop = cudaDeviceProp{};
  std::snprintf(prop->name, sizeof prop->name, "emulated");
  prop->totalGlobalMem = machine().bytes;
  prop->major = machine().major;
  prop->minor = machine().minor;
  prop->multiProcessorCount = 3;  // small: persistent kernels loop
  prop->sharedMemPerBlockOptin = 227u << 10;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = machine().bytes - used_bytes;
  *total_bytes = machine().bytes;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  std::lock_guard lock(mutex);
  *p = nullptr;
  if (capturing > 0)
    return fail(cudaErrorStreamCaptureUnsupported, "cudaMalloc while a stream is captured");
  if (bytes > machine().bytes - used_bytes) {
    pending_error = cudaErrorMemoryAllocation;
    return cudaErrorMemoryAllocation;
  }
  // The end lies against a guard page (256-byte aligned as on the device), so that even code that
  // the checker does not see faults when it runs past.
  const size_t body = (bytes + 255) / 256 * 256, pages = (body + 4095) / 4096 * 4096;
  auto* map = static_cast<uint8_t*>(mmap(nullptr, pages + 8192, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (map == MAP_FAILED) return cudaErrorMemoryAllocation;
  mprotect(map, 4096, PROT_NONE);
  mprotect(map + 4096 + pages, 4096, PROT_NONE);
  uint8_t* base = map + 4096 + pages - body;
  std::memset(base, 0xff,
              std::min(body, size_t(1) << 20));  // NaNs, where anybody is likely to look
  mappings[base] = {map, pages + 8192, bytes};
  used_bytes += bytes;
  add_memory(base, bytes);
  *p = base;
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  std::lock_guard lock(mutex);
  if (!p) return cudaSuccess;
  if (capturing > 0)
    return fail(cudaErrorStreamCaptureUnsupported, "cudaFree while a stream is captured");
  auto it = mappings.find(p);
  if (it == mappings.end())
    return fail(cudaErrorInvalidValue, "cudaFree of a pointer that cudaMalloc did not give");
  remove_memory(p);
  munmap(it->second.map, it->second.map_bytes);
  used_bytes -= it->second.bytes;
  mappings.erase(it);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  std::lock_guard lock(mutex);
  *p = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (*p) pinned[*p] = bytes;
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* p) {
  std::lock_guard lock(mutex);
  pinned.erase(p);
  std::free(p);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  std::lock_guard lock(mutex);
  enqueue(stream, [=] {
    fence();
    std::string why;
    if (kind != cudaMemcpyHostToDevice && !host_reads(src, bytes, &why)) {
      fail(cudaErrorInvalidValue, "cudaMemcpyAsync: " + why);
      return;
    }
    if (kind != cudaMemcpyDeviceToHost && !host_wrote(dst, bytes)) {
      fail(cudaErrorInvalidValue, "cudaMemcpyAsync: the destination is not device memory");
      return;
    }
    std::memcpy(dst, src, bytes);
  });
  return pending_error;
}

cudaError_t cudaMemsetAsync(void* dst, int value, size_t bytes, cudaStream_t stream) {
  std::lock_guard lock(mutex);
  enqueue(stream, [=] {
    fence();
    if (!host_wrote(dst, bytes)) {
      fail(cudaErrorInvalidValue, "cudaMemsetAsync: not device memory");
      return;
    }
    std::memset(dst, value, bytes);
  });
  return pending_error;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new Stream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::lock_guard lock(mutex);
  if (stream && stream->capture) return cudaErrorStreamCaptureUnsupported;
  fence();
  return machine().fault != cudaSuccess ? machine().fault : cudaGetLastError();
}

cudaError_t cudaGetLastError() {
  std::lock_guard lock(mutex);
  const cudaError_t e = has_errors() ? cudaErrorLaunchFailure : pending_error;
  if (has_errors()) {
    error_text.clear();
    for (const std::string& s : take_errors())
      error_text += (error_text.empty() ? "" : "\n    ") + s;
  }
  pending_error = cudaSuccess;
  return e;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for the device";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return error_text.c_str();
    default: return "error of the emulated runtime";
  }
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  std::lock_guard lock(mutex);
  stream->capture = new Graph;
  ++capturing;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::lock_guard lock(mutex);
  *graph = stream->capture;
  stream->capture = nullptr;
  --capturing;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  std::lock_guard lock(mutex);
  ++counters().graphs;
  fence();
  for (Node& node : exec->nodes) run(node);
  return pending_error;
}
