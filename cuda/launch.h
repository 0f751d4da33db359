// Launching a kernel, the same way on a device and under the emulation.
#pragma once

#include "cuda/gpu.h"
#include "cuda/queue.h"

namespace nemotron::gpu {

// A grid whose blocks, `cluster` after another in y, are clusters: sm_90 runs a cluster's side by
// side, where they reach each other's shared memory (hopper.h). The grid holds whole clusters.
struct Clusters {
  dim3 grid;
  unsigned cluster;
};

// parameters: those of a launch in CUDA, and whatever the kernel takes
template <class... Parameters, class... Arguments>
void launch(Queue& queue, const char* name, void (*kernel)(Parameters...), Clusters of,
            unsigned threads, size_t shared, Arguments... arguments) {
  cudaError_t e = cudaSuccess;
  const auto* id = reinterpret_cast<const void*>(kernel);
  const bool pdl = queue.pdl && queue.waiting.contains(id);
#if defined(__CUDACC__)
  cudaLaunchConfig_t config = {};
  config.gridDim = of.grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = queue.stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (pdl) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (of.cluster > 1) {
    cudaLaunchAttribute& shape = attributes[config.numAttrs++];
    shape.id = cudaLaunchAttributeClusterDimension;
    shape.val.clusterDim.x = shape.val.clusterDim.z = 1;
    shape.val.clusterDim.y = of.cluster;
  }
  e = cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
#else
  e = emu::launch(
      name, id, of.grid, of.cluster, dim3(threads), shared, pdl,
      queue.stream, [=]() __attribute__((no_sanitize("thread"))) {
        emu::enter_kernel();
        kernel(arguments...);
        emu::leave_kernel();
      });
#endif
  if (e == cudaSuccess && queue.synchronous) e = cudaStreamSynchronize(queue.stream);
  if (e != cudaSuccess && queue.error == cudaSuccess) {
    queue.error = e;
    queue.failed = name;
  }
}

// parameters: those of a launch in CUDA, and whatever the kernel takes
template <class... Parameters, class... Arguments>
void launch(Queue& queue, const char* name, void (*kernel)(Parameters...), dim3 grid,
            unsigned threads, size_t shared, Arguments... arguments) {
  launch(queue, name, kernel, Clusters{grid, 1}, threads, shared, arguments...);
}

// How many clusters of so many blocks a GPU has room for at once: it depends on how many
// multiprocessors each of its parts (GPC) has, in one of which a cluster stays.
template <class Kernel>
int clusters_at_once(Queue& queue, Kernel* kernel, unsigned cluster, unsigned threads,
                     size_t shared) {
  int clusters = 0;
  cudaError_t e = cudaSuccess;
#if defined(__CUDACC__)
  cudaLaunchAttribute shape = {};
  shape.id = cudaLaunchAttributeClusterDimension;
  shape.val.clusterDim.x = shape.val.clusterDim.z = 1;
  shape.val.clusterDim.y = cluster;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1, cluster);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.attrs = &shape;
  config.numAttrs = 1;
  e = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
#else
  e = emu::clusters_at_once(&clusters, reinterpret_cast<const void*>(kernel), cluster,
                            dim3(threads), shared);
#endif
  if (e != cudaSuccess && queue.error == cudaSuccess) {
    queue.error = e;
    queue.failed = "cudaOccupancyMaxActiveClusters";
  }
  return clusters;
}

// Makes a kernel ready, once per device and before its first use. The driver loads kernels at their
// first launch, which must not happen while a stream is captured; more than 48 KiB of shared memory
// have to be asked for; and all kernels ask for the same division of a multiprocessor's memory,
// since those that differ cannot run side by side. Code that the driver made of older PTX has no
// wait for the kernel before it (gpu.h): such a kernel must not be launched before that one has
// ended.
template <class Kernel>
void load_kernel(Queue& queue, const char* name, Kernel* kernel, size_t shared) {
  cudaFuncAttributes attributes;
  cudaError_t e = cudaFuncGetAttributes(&attributes, kernel);
  if (e == cudaSuccess && attributes.ptxVersion >= 90) {
    queue.waiting.insert(reinterpret_cast<const void*>(kernel));
  }
  if (e == cudaSuccess) {
    e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared);
  }
  if (e == cudaSuccess && shared > (size_t(48) << 10)) {
    e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
  }
  if (e != cudaSuccess && queue.error == cudaSuccess) {
    queue.error = e;
    queue.failed = name;
  }
}

}  // namespace nemotron::gpu
