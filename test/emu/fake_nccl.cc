// A stand-in for libnccl.so.2 on emulated GPUs: the same functions by the same names, over threads.
// Opened by the backend through $NEMOTRON_NCCL. Like the real one without blocking: a rank's start
// and what it gathers are on their way until all have come, and other ranks' failures do not end
// them.
//
//   FAKE_NCCL_VERSION   what ncclGetVersion says
//   FAKE_NCCL_FAULT     "RANK N KIND": what rank RANK's gathering N, counted from 0, does:
//                         lost    it never comes to the others, nor they to it
//                         error   its communicator is in error
//                       and N = -1 is its start
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/nccl_abi.h"
#include "cuda_runtime.h"

namespace {

using namespace nemotron::cuda::nccl;

constexpr int kUnhandledCudaError = 1, kInvalidArgument = 4, kInvalidUsage = 5, kRemoteError = 6;
// A real gathering is the stream's to wait for. This one is the caller's, which must not wait for
// ever: where a fault is told, one that has waited so long stays on its way.
constexpr auto kPatience = std::chrono::seconds(60), kPatienceWithFault = std::chrono::seconds(1);

struct Fault {
  int rank = -1;
  int64_t call = 0;
  std::string kind;
};
Fault told_fault() {
  Fault fault;
  if (const char* text = std::getenv("FAKE_NCCL_FAULT"))
    std::istringstream(text) >> fault.rank >> fault.call >> fault.kind;
  return fault;
}

// Ranks of one id. What each gives to gathering i lies here until all have taken it.
struct Clique {
  struct Gathering {
    std::vector<std::vector<uint8_t>> given;
    int came = 0, left = 0;
  };
  int ranks = 0, joined = 0;
  std::map<int64_t, Gathering> gatherings;
};
struct Communicator {
  std::shared_ptr<Clique> clique;
  int rank = 0;
  int64_t calls = 0;
  bool lost = false, error = false;
  Fault fault;
  // Whether the fault comes now.
  bool strikes() {
    if (fault.rank != rank || fault.call != calls || fault.kind.empty()) return false;
    (fault.kind == "error" ? error : lost) = true;
    return true;
  }
};

std::mutex mutex;
std::condition_variable moved;
std::map<std::string, std::shared_ptr<Clique>> cliques;
int64_t names = 0;

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int ncclGetVersion(int* version) {
  const char* text = std::getenv("FAKE_NCCL_VERSION");
  *version = text ? std::atoi(text) : 22707;
  return kSuccess;
}

const char* ncclGetErrorString(int result) {
  switch (result) {
    case kSuccess: return "no error";
    case kUnhandledCudaError: return "unhandled cuda error";
    case kInvalidArgument: return "invalid argument";
    case kInvalidUsage: return "invalid usage";
    case kRemoteError: return "remote process exited or there was a network error";
    case kInProgress: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}

int ncclGetUniqueId(UniqueId* id) {
  std::lock_guard lock(mutex);
  *id = {};
  std::strcpy(id->internal, ("emulated " + std::to_string(names++)).c_str());
  return kSuccess;
}

int ncclCommInitRankConfig(Comm* out, int ranks, UniqueId id, int rank, Config* config) {
  if (config->magic != 0xcafebeef || config->size < sizeof(Config) || config->blocking != 0)
    return kInvalidArgument;
  if (ranks < 1 || rank < 0 || rank >= ranks) return kInvalidArgument;
  std::lock_guard lock(mutex);
  std::shared_ptr<Clique>& clique = cliques[id.internal];
  if (!clique) clique = std::make_shared<Clique>();
  if (clique->joined > 0 && clique->ranks != ranks) return kInvalidArgument;
  auto* c = new Communicator{.clique = clique, .rank = rank, .calls = -1, .fault = told_fault()};
  clique->ranks = ranks;
  if (!c->strikes()) ++clique->joined;
  c->calls = 0;
  *out = c;
  return kInProgress;
}

int ncclCommGetAsyncError(Comm comm, int* state) {
  std::lock_guard lock(mutex);
  const auto* c = static_cast<const Communicator*>(comm);
  const bool busy = c->lost || c->clique->joined < c->clique->ranks;
  *state = c->error ? kRemoteError : busy ? kInProgress : kSuccess;
  return kSuccess;
}

int ncclAllGather(const void* send, void* to, size_t count, int type, Comm comm,
                  cudaStream_t stream) {
  auto* c = static_cast<Communicator*>(comm);
  if (type != kInt32 || count == 0) return kInvalidArgument;
  const size_t bytes = count * 4;
  std::vector<uint8_t> given(bytes);
  // No stream that is captured can be waited for.
  if (cudaMemcpyAsync(given.data(), send, bytes, cudaMemcpyDeviceToHost, stream) != cudaSuccess ||
      cudaStreamSynchronize(stream) != cudaSuccess) {
    return kUnhandledCudaError;
  }
  std::vector<uint8_t> all;
  {
    std::unique_lock lock(mutex);
    Clique& clique = *c->clique;
    if (clique.joined < clique.ranks) return kInvalidUsage;
    if (c->lost || c->error || c->strikes()) return kSuccess;  // the state tells
    const int64_t call = c->calls++;
    Clique::Gathering& g = clique.gatherings[call];
    g.given.resize(size_t(clique.ranks));
    g.given[size_t(c->rank)] = std::move(given);
    ++g.came;
    moved.notify_all();
    const auto patience = c->fault.kind.empty() ? kPatience : kPatienceWithFault;
    if (!moved.wait_for(lock, patience, [&] { return g.came == clique.ranks; })) {
      c->lost = true;
      return kSuccess;
    }
    for (const std::vector<uint8_t>& part : g.given) {
      if (part.size() != bytes) return kInvalidArgument;  // ranks disagree about how much
      all.insert(all.end(), part.begin(), part.end());
    }
    if (++g.left == clique.ranks) clique.gatherings.erase(call);
  }
  if (cudaMemcpyAsync(to, all.data(), all.size(), cudaMemcpyHostToDevice, stream) != cudaSuccess ||
      cudaStreamSynchronize(stream) != cudaSuccess) {
    return kUnhandledCudaError;
  }
  return kSuccess;
}

int ncclCommAbort(Comm comm) {
  std::lock_guard lock(mutex);
  delete static_cast<Communicator*>(comm);
  return kSuccess;
}

}  // extern "C"
#pragma GCC visibility pop
