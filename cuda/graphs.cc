#include "cuda/graphs.h"

namespace nemotron::cuda {

int32_t bucket_for(int32_t rows) {
  if (rows <= 4) return rows == 3 ? 4 : rows;
  if (rows <= 64) return (rows + 7) / 8 * 8;
  return (rows + 15) / 16 * 16;
}

cudaGraphExec_t Graphs::find(int32_t bucket, const std::vector<Op>& ops,
                             const std::function<void()>& enqueue) {
  Graph& g = graphs_[bucket];
  if (g.ops != ops) {
    if (g.exec) cudaGraphExecDestroy(g.exec);
    g = Graph{ops, nullptr};
    return nullptr;
  }
  if (!g.exec) capture(&g, enqueue);
  return g.exec;
}

void Graphs::capture(Graph* g, const std::function<void()>& enqueue) {
  cudaStream_t stream = context_->stream();
  cudaGraph_t graph = nullptr;
  if (!context_->check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                       "capturing a graph")) {
    return;
  }
  enqueue();
  // Ends in any case: a stream left capturing refuses everything after.
  const bool ended = context_->check(cudaStreamEndCapture(stream, &graph), "capturing a graph");
  if (ended && context_->check_launches()) {
    context_->check(cudaGraphInstantiate(&g->exec, graph, 0), "instantiating a graph");
  }
  if (graph) cudaGraphDestroy(graph);
}

void Graphs::drop() {
  for (auto& [bucket, g] : graphs_) {
    if (g.exec) cudaGraphExecDestroy(g.exec);
  }
  graphs_.clear();
}

}  // namespace nemotron::cuda
