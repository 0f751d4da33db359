// Sums over ranks, with all ranks on one GPU: what the protocol costs beside the trip of NVLink.
#include <barrier>
#include <chrono>
#include <thread>

#include "bench/gpu/bench.h"
#include "cuda/context.h"
#include "cuda/kernels.h"

namespace nemotron::bench {
namespace {

constexpr int64_t kSlotBytes = 8 << 20, kOneShotBytes = 256 << 10;

// One row of `cols` columns, the norm begun; seconds of one sum, with each rank's in a stream.
double sum_seconds(Bench& b, int ranks, int cols, int times) {
  using namespace cuda;
  const auto n = static_cast<size_t>(ranks);
  std::vector<uint8_t*> memory(n, nullptr);
  std::barrier here(ranks);
  std::vector<Status> failed(n);
  std::vector<double> seconds(n, 0.0);
  const auto rank = [&](int r) {
    Context context;
    Status s = context.open(0);
    const auto floats = [&](size_t n) {
      void* p = nullptr;
      if (s) s = context.alloc(n * sizeof(float), &p);
      return static_cast<float*>(p);
    };
    load_ranks(context.queue());
    SumOverRanks p;
    p.partial = floats(size_t(cols));
    p.x = floats(size_t(cols));
    p.cols = cols;
    p.grid_rows = 1;
    p.norm = {floats(size_t(cols)), reinterpret_cast<uint16_t*>(floats(size_t(padded_k(cols)) / 2)),
              padded_k(cols), floats(size_t(norm_tiles(cols)))};
    p.peers.rank = r;
    p.peers.ranks = ranks;
    p.peers.slot_bytes = kSlotBytes;
    p.peers.one_shot_bytes = kOneShotBytes;
    p.peers.patience_ns = uint64_t(8e9);
    p.peers.stopped = reinterpret_cast<uint32_t*>(floats(2));
    const size_t bytes = peer_bytes(kSlotBytes);
    auto* own = reinterpret_cast<uint8_t*>(floats(bytes / sizeof(float)));
    if (s) {
      context.check(
          cudaMemsetAsync(own + kPeerHeaderBytes, 0xff, bytes - kPeerHeaderBytes, context.stream()),
          "clearing slots");
      context.synchronize();
    }
    memory[size_t(r)] = s && context.ok() ? own : nullptr;
    here.arrive_and_wait();
    bool all = true;
    for (int i = 0; i < ranks; ++i) {
      p.peers.memory[i] = memory[size_t(i)];
      all = all && memory[size_t(i)];
    }
    for (int turn = 0; turn < 2 && all; ++turn) {  // the first warms up
      here.arrive_and_wait();
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < times; ++i) sum_over_ranks(context.queue(), p);
      context.check_launches();
      context.synchronize();
      seconds[size_t(r)] =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    uint32_t stopped[2] = {};
    if (all) context.download(stopped, p.peers.stopped, sizeof stopped);
    if (s) s = context.status();
    if (s && stopped[1] != 0) s = Status::internal("a rank waited in vain");
    here.arrive_and_wait();  // nobody's memory goes while others write to it
    failed[size_t(r)] = s;
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back(rank, r);
  for (std::thread& t : threads) t.join();
  for (const Status& s : failed) b.check(s, "sums over ranks");
  return seconds[0] / times;
}

}  // namespace

void bench_rank_share(Bench& b) {
  const Shape& s = b.tiny ? kTiny : k70BOf8;
  const int sums = 2 * s.layers;
  const double seconds = sum_seconds(b, 8, s.hidden, b.tiny ? 3 : 200) * sums;
  if (b.failed()) return;
  // The rest of the step at its best: a rank's weights, FP8 and the head BF16, from memory once.
  const double rest = (s.linear_weights() + 2 * s.head_weights()) / b.limits.read;
  const std::string what = std::to_string(sums) + " sums over 8 ranks on one GPU, " +
                           std::to_string(s.hidden * 4 / 1024) + " KB each";
  b.measure(what, seconds, 0, "ms", seconds * 1e3);
  b.measure(what + ": share of a step whose weights come at the limit", seconds, 0, "%",
            100 * seconds / (seconds + rest));
}

void bench_ranks(Bench& b) {
  const int cols = b.tiny ? 64 : 4096, times = b.tiny ? 3 : 200;
  for (const int ranks : {2, 8}) {
    const double seconds = sum_seconds(b, ranks, cols, times);
    if (b.failed()) return;
    b.measure("sum over " + std::to_string(ranks) + " ranks on one GPU, residual and norm, " +
                  std::to_string(cols * 4 / 1024) + " KB",
              seconds, 0, "us", seconds * 1e6);
  }
}

}  // namespace nemotron::bench
