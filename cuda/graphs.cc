#include "cuda/graphs.h"

#include <algorithm>
#include <bit>

namespace nemotron::cuda {

Bucket bucket_for(int32_t rows, int32_t tiles) {
  const auto up = [&](int32_t step) { return (rows + step - 1) / step * step; };
  return {.rows = rows <= 4    ? (rows == 3 ? 4 : rows)
                  : rows <= 64 ? up(8)
                               : up(16),
          .tiles = tiles <= 0 ? 0 : int32_t(std::bit_ceil(uint32_t(tiles)))};
}

cudaGraphExec_t Graphs::find(const Bucket& bucket, const std::vector<Op>& ops,
                             const std::function<void()>& enqueue) {
  Graph& g = graphs_[{bucket, ops.size()}];
  g.asked = ++times_asked_;
  if (g.ops != ops) {
    destroy(g.exec);
    g = Graph{ops, g.asked, nullptr};
    make_room();
    return nullptr;
  }
  if (!g.exec) capture(&g, enqueue);
  return context_->ok() ? g.exec : nullptr;  // it may have been made, and a rank never come
}

void Graphs::make_room() {
  if (graphs_.size() <= kMost) return;
  const auto oldest =
      std::ranges::min_element(graphs_, {}, [](const auto& entry) { return entry.second.asked; });
  destroy(oldest->second.exec);
  graphs_.erase(oldest);
}

// Waits: a step in flight may be its.
void Graphs::destroy(cudaGraphExec_t exec) {
  if (!exec || !context_->synchronize()) return;
  cudaGraphExecDestroy(exec);
  context_->meet();
}

void Graphs::capture(Graph* g, const std::function<void()>& enqueue) {
  cudaStream_t stream = context_->stream();
  cudaGraph_t graph = nullptr;
  if (!context_->synchronize()) return;
  if (!context_->check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                       "capturing a graph")) {
    return;
  }
  enqueue();
  // Ends in any case: a stream left capturing refuses everything after.
  const bool ended = context_->check(cudaStreamEndCapture(stream, &graph), "capturing a graph");
  if (ended && context_->check_launches() && context_->ok()) {
    context_->check(cudaGraphInstantiate(&g->exec, graph, 0), "instantiating a graph");
  }
  if (graph) cudaGraphDestroy(graph);
  context_->meet();
}

void Graphs::drop() {
  if (graphs_.empty() || !context_->synchronize()) return;
  destroy_all();
  context_->meet();
}

void Graphs::destroy_all() {
  for (auto& [key, g] : graphs_) {
    if (g.exec) cudaGraphExecDestroy(g.exec);
  }
  graphs_.clear();
}

}  // namespace nemotron::cuda
