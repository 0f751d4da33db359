// Graphs: the CUDA graphs of a device, one a bucket of rows, each with the list of ops that it
// replays. Owned by a CudaDevice; used by its thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "cuda/context.h"
#include "cuda/op.h"

namespace nemotron::cuda {

inline constexpr int32_t kMaxGraphRows = 256;

// Rows a graph is captured for: as many, or the next larger of these.
int32_t bucket_for(int32_t rows);

class Graphs {
 public:
  explicit Graphs(Context* context) : context_(context) {}
  ~Graphs() { drop(); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // The graph that replays `ops` (whose numbers of rows are all `bucket`), captured from what
  // `enqueue` launches when the same list has been asked for before. Null: this list is new in its
  // bucket, so run it in the ordinary way once (which also makes every buffer large enough); or the
  // context failed.
  cudaGraphExec_t find(int32_t bucket, const std::vector<Op>& ops,
                       const std::function<void()>& enqueue);
  // Device memory has moved: nothing captured is valid.
  void drop();

 private:
  struct Graph {
    std::vector<Op> ops;
    cudaGraphExec_t exec = nullptr;  // null: seen once
  };
  void capture(Graph* graph, const std::function<void()>& enqueue);

  Context* context_;
  std::map<int32_t, Graph> graphs_;
};

}  // namespace nemotron::cuda
