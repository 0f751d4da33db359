// Graphs: the CUDA graphs of a device, one a bucket of rows and tiles and a number of ops, each
// with the list of ops that it replays. Owned by a CudaDevice; used by its thread.
#pragma once

#include <cuda_runtime.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "cuda/context.h"
#include "cuda/op.h"

namespace nemotron::cuda {

inline constexpr int32_t kMaxGraphRows = 256;

// What a graph is captured for: as many rows and tiles of prompt rows as a step has, or the next
// larger of these.
struct Bucket {
  int32_t rows = 0, tiles = 0;
  auto operator<=>(const Bucket&) const = default;
};
Bucket bucket_for(int32_t rows, int32_t tiles);

class Graphs {
 public:
  // Each takes memory of the device. With prompt rows there are more buckets than that; the one
  // that was asked for longest ago makes room.
  static constexpr size_t kMost = 64;

  explicit Graphs(Context* context) : context_(context) {}
  ~Graphs() { destroy_all(); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // The graph that replays `ops` (whose numbers of rows are all the bucket's), captured from what
  // `enqueue` launches when the same list has been asked for before. Null: this list is new in its
  // bucket, so run it in the ordinary way once (which also makes every buffer large enough); or the
  // context failed.
  cudaGraphExec_t find(const Bucket& bucket, const std::vector<Op>& ops,
                       const std::function<void()>& enqueue);
  // Device memory has moved: nothing captured is valid.
  void drop();

 private:
  struct Graph {
    std::vector<Op> ops;
    uint64_t asked = 0;              // when, last
    cudaGraphExec_t exec = nullptr;  // null: seen once
  };
  // A graph takes memory, as everything does that Context::meet() is for.
  void destroy(cudaGraphExec_t exec);
  void destroy_all();
  void make_room();
  void capture(Graph* graph, const std::function<void()>& enqueue);

  Context* context_;
  uint64_t times_asked_ = 0;
  std::map<std::pair<Bucket, size_t>, Graph> graphs_;
};

}  // namespace nemotron::cuda
