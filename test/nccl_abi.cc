// Our declarations of NCCL against NVIDIA's header; compiled by test/cuda_compile.sh where the
// header is installed, never linked.
#include "cuda/nccl_abi.h"

#include <nccl.h>

#include "abi_alike.h"

namespace ours = nemotron::cuda::nccl;

static_assert(ours::kSuccess == ncclSuccess && ours::kInProgress == ncclInProgress);
static_assert(ours::kInt32 == ncclInt32);
static_assert(sizeof(ours::UniqueId) == sizeof(ncclUniqueId));
static_assert(ours::Config{}.magic == 0xcafebeef && ours::Config{}.size == 24);
static_assert(offsetof(ours::Config, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(ours::Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(ours::Config, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(ours::Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(ours::Config, undefined) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(ours::Config{}.undefined == NCCL_CONFIG_UNDEF_INT);
static_assert(NCCL_VERSION(2, 14, 0) == ours::kOldest && NCCL_VERSION_CODE <= ours::kNewest);
#ifdef NCCL_API_MAGIC
static_assert(ours::Config{}.magic == NCCL_API_MAGIC);
#endif

static_assert(kAlike<decltype(ours::Functions::version), decltype(&ncclGetVersion)>);
static_assert(kAlike<decltype(ours::Functions::error), decltype(&ncclGetErrorString)>);
static_assert(kAlike<decltype(ours::Functions::unique_id), decltype(&ncclGetUniqueId)>);
static_assert(kAlike<decltype(ours::Functions::init), decltype(&ncclCommInitRankConfig)>);
static_assert(kAlike<decltype(ours::Functions::all_gather), decltype(&ncclAllGather)>);
static_assert(kAlike<decltype(ours::Functions::state), decltype(&ncclCommGetAsyncError)>);
static_assert(kAlike<decltype(ours::Functions::abort), decltype(&ncclCommAbort)>);
