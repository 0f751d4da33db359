// The CUDA runtime calls of cuda_runtime.h.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
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
  const void* pinned = nullptr;  // host memory that `action` reads or writes when it runs
};
struct Graph {
  std::vector<Node> nodes;
};
// What was enqueued and has not run. A real stream may run it at any time between the call and the
// wait for it: natural order runs it at once, reverse order as late as it can, random order at
// either end. A null stream runs at once.
struct Stream {
  int device = 0;
  uint32_t complete_serial = 1;  // launches of it below are complete whatever PDL does
  bool running = false;          // a node, whose kernel may be parked (let_others_run)
  Graph* capture = nullptr;
  std::deque<Node> waiting;
  uint64_t enqueued = 0, done = 0;
};
struct Event {
  Stream* stream = nullptr;
  uint64_t until =
      0;  // what this many nodes of the stream do is in the past once it was waited for
};

namespace {

// Emulated devices, used by one thread at a time: each rank of a group has a thread of its own, and
// who is parked lets the others in.
std::recursive_mutex mutex;
std::condition_variable_any moved;  // something has run
std::map<const void*, size_t> max_shared;
std::set<const void*> loaded, launched;  // kernels
thread_local int current_device = 0;
struct Mapping {
  void* map;
  size_t map_bytes, bytes;
};
std::map<void*, Mapping> mappings;  // by device pointer
std::map<uintptr_t, size_t> pinned;
std::set<Stream*> streams;
size_t used_bytes = 0;
cudaError_t pending_error = cudaSuccess;
std::string error_text;
thread_local int capturing = 0;  // streams
Stream null_stream;
std::set<std::pair<int, int>> peer_access;  // (who reaches, whom)

cudaError_t fail(cudaError_t e, const std::string& why) {
  report(why, nullptr, nullptr);
  pending_error = e;
  return e;
}

// A memory operation of the stream waits for every kernel before it.
void fence(Stream* stream) { (stream ? stream : &null_stream)->complete_serial = next_serial(); }

void run(Node& node, Stream* stream) {
  if (node.action) {
    node.action();
    return;
  }
  if (node.launch.pdl) {
    ++counters().dependent;
  } else {
    fence(stream);
  }
  node.launch.complete_serial = (stream ? stream : &null_stream)->complete_serial;
  run_grid(node.launch, node.shared, node.body);
}

// Runs the first `until` nodes ever enqueued. After a fault nothing runs any more, as on a device.
void drain(Stream* stream, uint64_t until = UINT64_MAX) {
  while (stream && stream->done < until && (stream->running || !stream->waiting.empty())) {
    if (stream->running) {  // in another thread, which may destroy it before this one goes on
      moved.wait(mutex);
      if (!streams.contains(stream)) return;
      continue;
    }
    Node node = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    stream->running = true;
    if (!has_errors()) run(node, stream);
    stream->running = false;
    ++stream->done;
    moved.notify_all();
  }
}
void drain_device() {
  for (Stream* s : std::vector<Stream*>(streams.begin(), streams.end())) {
    if (s->device == current_device) drain(s);
  }
}

size_t free_memory() { return machine().bytes - std::min(machine().bytes, used_bytes); }

// See Machine::memory_waits. A kernel that waits for one of this thread's, which is not enqueued
// yet, keeps it here.
void drain_peers() {
  if (!machine().memory_waits) return;
  const int own = current_device;
  const auto reaches = [&](const auto& pair) { return pair.first == own || pair.second == own; };
  if (std::ranges::none_of(peer_access, reaches)) return;
  for (Stream* s : std::vector<Stream*>(streams.begin(), streams.end())) {
    if (!streams.contains(s)) continue;
    if (may_reach(s->device, own) || may_reach(own, s->device)) drain(s);
  }
}

void enqueue(Stream* stream, Node node) {
  if (!stream) {
    run(node, nullptr);
    return;
  }
  if (stream->capture) {
    stream->capture->nodes.push_back(std::move(node));
    return;
  }
  stream->waiting.push_back(std::move(node));
  ++stream->enqueued;
  const Order order = config().order;
  if (order == Order::natural || (order == Order::random && random_word() % 4 == 0)) drain(stream);
}

void enqueue(Stream* stream, std::function<void()> action, const void* pinned_memory = nullptr) {
  Node node;
  node.action = std::move(action);
  node.pinned = pinned_memory;
  enqueue(stream, std::move(node));
}

// Where the pinned block that [p, p + bytes) lies in begins; 0: in none.
uintptr_t pinned_block(const void* p, size_t bytes) {
  auto it = pinned.upper_bound(uintptr_t(p));
  if (it == pinned.begin()) return 0;
  --it;
  return uintptr_t(p) + bytes <= it->first + it->second ? it->first : 0;
}

}  // namespace

Machine& machine() {
  static Machine m = [] {
    Machine at_first;
    if (const char* gpus = std::getenv("EMU_GPUS")) at_first.gpus = std::atoi(gpus);
    if (const char* peers = std::getenv("EMU_PEER_ACCESS")) at_first.peer_access = *peers != '0';
    return at_first;
  }();
  return m;
}

void let_others_run() {
  moved.notify_all();
  moved.wait_for(mutex, std::chrono::milliseconds(1));
}
bool may_reach(int from, int to) { return from == to || peer_access.contains({from, to}); }

cudaError_t load_kernel(const void* kernel) {
  std::lock_guard lock(mutex);
  if (machine().load_error != cudaSuccess) return machine().load_error;
  loaded.insert(kernel);
  return cudaSuccess;
}

cudaError_t set_max_shared(const void* kernel, size_t bytes) {
  std::lock_guard lock(mutex);
  if (bytes > machine().shared_bytes)
    return fail(cudaErrorInvalidValue, "more than " + std::to_string(machine().shared_bytes >> 10) +
                                           " KiB of shared memory asked for");
  max_shared[kernel] = bytes;
  return cudaSuccess;
}

// parameters: those of a launch in CUDA, and the body that stands for the kernel
cudaError_t launch(const char* name, const void* kernel, dim3 grid, unsigned cluster, dim3 block,
                   size_t shared, bool pdl, cudaStream_t stream, std::function<void()> body) {
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
  if (cluster == 0 || cluster > 8 || (cluster > 1 && machine().major < 9) ||
      grid.y % cluster != 0) {
    return fail(cudaErrorInvalidClusterSize, who + "clusters of " + std::to_string(cluster) +
                                                 " in a grid of " + std::to_string(grid.y));
  }
  if (threads * cluster > kMostThreads) {  // the emulation's own limit
    return fail(cudaErrorInvalidConfiguration,
                who + std::to_string(threads * cluster) + " threads in a cluster");
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
  node.launch.cluster = cluster;
  node.launch.pdl = pdl;
  node.shared = shared;
  node.body = std::move(body);
  if (stream && stream->device != current_device)
    return fail(cudaErrorInvalidDevice, who + "the stream is another GPU's");
  node.launch.device = current_device;
  if (stream && stream->capture) {
    if (!loaded.contains(kernel)) {
      return fail(cudaErrorStreamCaptureUnsupported,
                  who + "the first launch of a kernel loads it, not while a stream is captured");
    }
  }
  launched.insert(kernel);
  enqueue(stream, std::move(node));
  return cudaSuccess;
}

cudaError_t clusters_at_once(int* clusters, const void* kernel, unsigned cluster, dim3 block,
                             size_t shared) {
  std::lock_guard lock(mutex);
  const auto it = max_shared.find(kernel);
  const size_t limit = it == max_shared.end() ? size_t(48) << 10 : it->second;
  if (shared > limit || size_t(block.x) * block.y * block.z > 1024)
    return fail(cudaErrorInvalidValue, "clusters of blocks that cannot be launched");
  *clusters = machine().major < 9 ? 0 : int(machine().multiprocessors / cluster);
  return cudaSuccess;
}

std::vector<const void*> never_launched() {
  std::lock_guard lock(mutex);
  std::vector<const void*> all;
  std::ranges::set_difference(loaded, launched, std::back_inserter(all));
  return all;
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
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (std::max(device, peer) >= machine().gpus) return cudaErrorInvalidDevice;
  *can = device != peer && machine().peer_access ? 1 : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr, int device, int peer) {
  return cudaDeviceCanAccessPeer(value, device, peer);
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  std::lock_guard lock(mutex);
  if (peer == current_device || !machine().peer_access)
    return fail(cudaErrorInvalidDevice, "cudaDeviceEnablePeerAccess: no way to this GPU");
  return peer_access.insert({current_device, peer}).second ? cudaSuccess
                                                           : cudaErrorPeerAccessAlreadyEnabled;
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
  prop->multiProcessorCount = int(machine().multiprocessors);
  prop->sharedMemPerBlockOptin = machine().shared_bytes;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  std::lock_guard lock(mutex);
  *free_bytes = free_memory();
  *total_bytes = machine().bytes;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  std::lock_guard lock(mutex);
  *p = nullptr;
  if (capturing > 0)
    return fail(cudaErrorStreamCaptureUnsupported, "cudaMalloc while a stream is captured");
  drain_peers();
  if (bytes > free_memory()) {
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
  add_memory(base, bytes, current_device);
  *p = base;
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  std::lock_guard lock(mutex);
  if (!p) return cudaSuccess;
  if (capturing > 0)
    return fail(cudaErrorStreamCaptureUnsupported, "cudaFree while a stream is captured");
  drain_device();  // it waits for the whole device
  drain_peers();
  auto it = mappings.find(p);
  if (it == mappings.end())
    return fail(cudaErrorInvalidValue, "cudaFree of a pointer that cudaMalloc did not give");
  remove_memory(p);
  // The place is not given away again: what still points there must not find other memory.
  mmap(it->second.map, it->second.map_bytes, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  used_bytes -= it->second.bytes;
  mappings.erase(it);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  std::lock_guard lock(mutex);
  drain_peers();
  *p = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (*p) pinned[uintptr_t(*p)] = bytes;
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* p) {
  std::lock_guard lock(mutex);
  for (const Stream* s : streams) {
    for (const Node& node : s->waiting) {
      if (node.pinned && pinned_block(node.pinned, 1) == uintptr_t(p))
        return fail(cudaErrorInvalidValue, "cudaFreeHost of memory that a copy will use");
    }
  }
  drain_peers();
  pinned.erase(uintptr_t(p));
  std::free(p);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  std::lock_guard lock(mutex);
  // Pinned memory is read and written when the copy runs. Other host memory is read before the call
  // returns, and written too.
  const void* host = kind == cudaMemcpyHostToDevice   ? src
                     : kind == cudaMemcpyDeviceToHost ? dst
                                                      : nullptr;
  const bool late = !host || pinned_block(host, bytes);
  std::shared_ptr<std::vector<uint8_t>> staged;
  if (kind == cudaMemcpyHostToDevice && !late) {
    const auto* from = static_cast<const uint8_t*>(src);
    staged = std::make_shared<std::vector<uint8_t>>(from, from + bytes);
  }
  enqueue(
      stream,
      [=] {
        fence(stream);
        std::string why;
        if (kind != cudaMemcpyHostToDevice && !host_reads(src, bytes, &why)) {
          fail(cudaErrorInvalidValue, "cudaMemcpyAsync: " + why);
          return;
        }
        if (kind != cudaMemcpyDeviceToHost && !host_wrote(dst, bytes)) {
          fail(cudaErrorInvalidValue, "cudaMemcpyAsync: the destination is not device memory");
          return;
        }
        std::memcpy(dst, staged ? staged->data() : src, bytes);
      },
      late ? host : nullptr);
  if (kind == cudaMemcpyDeviceToHost && !late && stream && !stream->capture) drain(stream);
  return pending_error;
}

cudaError_t cudaMemsetAsync(void* dst, int value, size_t bytes, cudaStream_t stream) {
  std::lock_guard lock(mutex);
  enqueue(stream, [=] {
    fence(stream);
    if (!host_wrote(dst, bytes)) {
      fail(cudaErrorInvalidValue, "cudaMemsetAsync: not device memory");
      return;
    }
    std::memset(dst, value, bytes);
  });
  return pending_error;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  std::lock_guard lock(mutex);
  streams.insert(*stream = new Stream);
  (*stream)->device = current_device;
  (*stream)->complete_serial = next_serial();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::lock_guard lock(mutex);
  drain(stream);
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::lock_guard lock(mutex);
  if (stream && stream->capture) return cudaErrorStreamCaptureUnsupported;
  drain(stream);
  fence(stream);
  return machine().fault != cudaSuccess ? machine().fault : cudaGetLastError();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  std::lock_guard lock(mutex);
  *event = {stream, stream ? stream->enqueued : 0};
  return cudaSuccess;
}
// Who asks lets the stream go on a little.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::lock_guard lock(mutex);
  Stream* stream = streams.contains(event->stream) ? event->stream : nullptr;
  if (stream && stream->done < event->until) {
    drain(stream, stream->done + 1);
    if (stream->done < event->until) return cudaErrorNotReady;
  }
  // Who waits is told the same again.
  if (machine().fault != cudaSuccess) return machine().fault;
  return has_errors() ? cudaErrorLaunchFailure : pending_error;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::lock_guard lock(mutex);
  if (streams.contains(event->stream)) drain(event->stream, event->until);
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
  std::lock_guard lock(mutex);
  drain_peers();
  *exec = new Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  std::lock_guard lock(mutex);
  drain_peers();
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  std::lock_guard lock(mutex);
  ++counters().graphs;
  enqueue(stream, [stream] { fence(stream); });
  for (const Node& node : exec->nodes) enqueue(stream, node);
  return pending_error;
}
