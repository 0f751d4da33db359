// What the ranks of a group tell each other: partial sums, logits, drawn ids. All of it is words in
// each other's memory (kernels.h): one trip, no flags, no barrier.
//
//   bytes  of a rank's sum of B bytes: (ranks - 1) B out and as many in, at once; above
//          one_shot_bytes 2 B (ranks - 1) / ranks in each direction, in two trips
//   bound  latency of NVLink for generated rows, its bandwidth for prompts
//
// Blocks are few, so that all of a kernel's run at once: one that waits for another rank's block
// must not keep it from running. Nor may blocks of the next kernel of two groups, each in the place
// that the other's needs on another GPU (Peers::dependents_early). A block first writes all that it
// has for others and waits then, and block b waits for nothing but what the others' blocks b write.
#include "cuda/block.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kThreads = 256;
constexpr unsigned kBlocks = 32;
constexpr uint32_t kTriesPerLook = 16;  // at a word, before the clock and the group's end

GPU_DEVICE PeerHeader* header_of(const Peers& p, int rank) {
  return reinterpret_cast<PeerHeader*>(p.memory[rank]);
}
GPU_DEVICE uint8_t* slot_of(const Peers& p, int rank, uint32_t turn) {
  return p.memory[rank] + kPeerHeaderBytes + kGreetingBytes + int64_t(turn % 2) * p.slot_bytes;
}
// Rank `from`'s.
GPU_DEVICE uint8_t* greeting_of(const Peers& p, int rank, uint32_t turn, int from) {
  return p.memory[rank] + kPeerHeaderBytes + (turn % 2 * kMostRanks + unsigned(from)) * 4;
}

struct Turn {
  uint32_t number;
  bool goes_on;  // false: the group has ended
};
GPU_DEVICE Turn begin_turn(const Peers& p) {
  const PeerHeader* own = header_of(p, p.rank);
  const uint32_t number = load4_peer(&own->turn), ended = load4_peer(&own->ended);
  if (ended != 0) store4_peer(&p.stopped[1], 1);
  return {number, ended == 0};
}

// The end of a turn, for all threads of every block.
GPU_DEVICE void end_turn(const Peers& p, const Turn& turn, uint32_t* flag) {
  PeerHeader* own = header_of(p, p.rank);
  if (last_arrival(&own->arrivals, gridDim.x, flag) && threadIdx.x == 0) {
    store4_peer(&own->turn, turn.number + 1);
  }
}

// NaN with the bits of kNotCome becomes another one.
GPU_DEVICE uint32_t sendable(uint32_t word) { return word == kNotCome ? 0x7fffffffu : word; }
GPU_DEVICE uint4 sendable(uint4 v) {
  return uint4{sendable(v.x), sendable(v.y), sendable(v.z), sendable(v.w)};
}
GPU_DEVICE bool has_come(uint32_t word) { return word != kNotCome; }
GPU_DEVICE bool has_come(uint4 v) {
  return has_come(v.x) && has_come(v.y) && has_come(v.z) && has_come(v.w);
}

// Whether a thread that has looked `tries` times for a word of rank `from` gives up: the group has
// ended, or has to end now.
GPU_DEVICE bool gives_up(const Peers& p, int from, uint32_t tries, uint64_t* since) {
  if (tries % kTriesPerLook != 0) return false;
  const bool ended = load4_peer(&header_of(p, p.rank)->ended) != 0;
  const uint64_t now = nanoseconds();
  if (*since == 0) *since = now;
  if (!ended && now - *since < p.patience_ns) return false;
  store4_peer(&p.stopped[1], 1);
  if (ended) return true;
  store4_peer(&p.stopped[0], uint32_t(1 + from));
  for (int r = 0; r < p.ranks; ++r) store4_peer(&header_of(p, r)->ended, 1);
  return true;
}

// The word at `at` of this rank's slot, which rank `from` writes; `v` is what lay there a moment
// ago. The place is free again after. Zeros when it never comes.
GPU_DEVICE uint4 receive16(const Peers& p, uint8_t* at, uint4 v, int from) {
  uint64_t since = 0;
  for (uint32_t tries = 1; !has_come(v); ++tries) {
    if (gives_up(p, from, tries, &since)) return uint4{0, 0, 0, 0};
    peer_pause();
    v = load16_peer(at);
  }
  store16_peer(at, uint4{kNotCome, kNotCome, kNotCome, kNotCome});
  return v;
}
GPU_DEVICE uint32_t receive4(const Peers& p, uint8_t* at, uint32_t v, int from) {
  uint64_t since = 0;
  for (uint32_t tries = 1; !has_come(v); ++tries) {
    if (gives_up(p, from, tries, &since)) return 0;
    peer_pause();
    v = load4_peer(at);
  }
  store4_peer(at, kNotCome);
  return v;
}

// Of turns in which a rank may be told nothing: all ranks greet before they wait for anything, and
// wait for the others' greetings at the end.
GPU_DEVICE bool greets(const Peers& p) {
  return blockIdx.x == 0 && int(threadIdx.x) < p.ranks && int(threadIdx.x) != p.rank;
}
GPU_DEVICE void greet(const Peers& p, const Turn& turn) {
  if (!turn.goes_on || !greets(p)) return;
  store4_peer(greeting_of(p, int(threadIdx.x), turn.number, p.rank), 0);
}
GPU_DEVICE void await_greetings(const Peers& p, const Turn& turn) {
  if (!greets(p)) return;
  const int from = int(threadIdx.x);
  uint8_t* at = greeting_of(p, p.rank, turn.number, from);
  receive4(p, at, load4_peer(at), from);
}

GPU_DEVICE float4 floats(uint4 v) {
  return float4{as_float(v.x), as_float(v.y), as_float(v.z), as_float(v.w)};
}
GPU_DEVICE uint4 words(float4 v) {
  return uint4{as_uint(v.x), as_uint(v.y), as_uint(v.z), as_uint(v.w)};
}

// --- sums ---

// Columns are taken in tiles of kRankColumns, four threads a tile, four columns each (a quad). In
// two shots, a rank owns the tiles of a row from first_tile(rank) on.
struct Quad {
  int index;  // in [rows, cols / 4]
  int row, tile, in_tile, owner;
};
struct Sum {
  const SumOverRanks& p;
  int rows, tiles, quads;
  bool two_shots;
  Turn turn;
};

GPU_DEVICE Quad quad_of(const Sum& s, int index) {
  Quad q;
  q.index = index;
  q.row = index / (s.tiles * 4);
  q.tile = index / 4 % s.tiles;
  q.in_tile = index % 4;
  q.owner = q.tile * s.p.peers.ranks / s.tiles;
  return q;
}
// Where rank `from`'s part lies in the slot of the quad's owner (two shots), or of every rank.
GPU_DEVICE int64_t part_place(const Sum& s, const Quad& q, int from) {
  if (!s.two_shots) return (int64_t(from) * s.quads + q.index) * 16;
  const int ranks = s.p.peers.ranks, first_tile = (q.owner * s.tiles + ranks - 1) / ranks;
  const int width = (s.tiles + ranks - 1) / ranks;
  const int64_t tile = (int64_t(from) * s.rows + q.row) * width + (q.tile - first_tile);
  return (tile * 4 + q.in_tile) * 16;
}
// Where the sum of it comes to from its owner.
GPU_DEVICE int64_t sum_place(const Sum& s, const Quad& q) {
  const int ranks = s.p.peers.ranks, width = (s.tiles + ranks - 1) / ranks;
  return (int64_t(ranks) * s.rows * width * 4 + q.index) * 16;
}

GPU_DEVICE void send_part(const Sum& s, const Quad& q) {
  const Peers& peers = s.p.peers;
  const uint4 part = sendable(load16(s.p.partial + int64_t(q.index) * 4));
  const int64_t place = part_place(s, q, peers.rank);
  for (int r = 0; r < peers.ranks; ++r) {
    if (r == peers.rank || (s.two_shots && r != q.owner)) continue;
    store16_peer(slot_of(peers, r, s.turn.number) + place, part);
  }
}

// What x becomes of the sum of a quad's parts.
GPU_DEVICE float4 residual(const Sum& s, const Quad& q, float4 sum) {
  if (s.p.fresh) return sum;
  const float4 x = floats(load16(s.p.x + int64_t(q.index) * 4));
  return float4{x.x + sum.x, x.y + sum.y, x.z + sum.z, x.w + sum.w};
}

// x + p0 + p1 + ... of a quad. All parts are asked for before the first is waited for.
GPU_DEVICE float4 add_parts(const Sum& s, const Quad& q) {
  const Peers& peers = s.p.peers;
  uint8_t* own = slot_of(peers, peers.rank, s.turn.number);
  uint4 parts[kMostRanks];
#pragma unroll
  for (int r = 0; r < kMostRanks; ++r) {
    if (r >= peers.ranks) break;
    parts[r] = r == peers.rank ? load16(s.p.partial + int64_t(q.index) * 4)
                               : load16_peer(own + part_place(s, q, r));
  }
  float4 sum = {0, 0, 0, 0};
#pragma unroll
  for (int r = 0; r < kMostRanks; ++r) {
    if (r >= peers.ranks) break;
    if (r != peers.rank) parts[r] = receive16(peers, own + part_place(s, q, r), parts[r], r);
    const float4 part = floats(parts[r]);
    sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
  }
  return residual(s, q, sum);
}

// Writes a quad of x, where `mine`, and the half of the norm that begins here; for all lanes of a
// warp at once. A tile's squares are added in one order whatever the number of rows.
GPU_DEVICE void finish(const Sum& s, const Quad& q, bool mine, float4 v) {
  if (mine) store16(s.p.x + int64_t(q.index) * 4, words(v));
  const SplitNorm& norm = s.p.norm;
  if (!norm.gain) return;
  float squares = 0;
  if (mine) {
    const int column = q.tile * kRankColumns + q.in_tile * 4;
    const float4 gain = floats(load16(norm.gain + column));
    store8(norm.scaled + int64_t(q.row) * norm.stride + column,
           uint2{pack_bf16(v.x * gain.x, v.y * gain.y), pack_bf16(v.z * gain.z, v.w * gain.w)});
    squares = (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
  }
  squares += shuffle_xor(squares, 1);
  squares += shuffle_xor(squares, 2);
  if (mine && q.in_tile == 0) norm.squares[int64_t(q.row) * s.tiles + q.tile] = squares;
}

__global__ void __launch_bounds__(kThreads, 1)
    sum_over_ranks_kernel(SumOverRanks p, bool two_shots) {
  if (p.peers.dependents_early) pdl_launch_dependents();
  pdl_wait();
  Shared smem;
  uint32_t* flag = smem.take<uint32_t>(1);
  const Peers& peers = p.peers;
  const int rows = p.count ? *p.count : p.grid_rows, tiles = p.cols / kRankColumns;
  const Sum s = {p, rows, tiles, rows * tiles * 4, two_shots, begin_turn(peers)};
  const int first = int(blockIdx.x) * kThreads + int(threadIdx.x), step = int(gridDim.x) * kThreads;
  // Warps stay together: their first lane says when they are through.
  const auto each = [&](auto&& body) {
    for (int i = first; i - i % kWarp < s.quads; i += step) body(quad_of(s, i), i < s.quads);
  };
  // Of any row every rank is told each other's part, or a sum with it.
  const bool told = s.quads > 0;
  if (!told) greet(peers, s.turn);
  each([&](const Quad& q, bool real) {
    if (real && s.turn.goes_on && (!two_shots || q.owner != peers.rank)) send_part(s, q);
  });
  each([&](const Quad& q, bool real) {
    const bool mine = real && (!two_shots || q.owner == peers.rank);
    float4 v = {0, 0, 0, 0};
    if (mine) v = add_parts(s, q);
    if (mine && two_shots && s.turn.goes_on) {
      const uint4 sum = sendable(words(v));
      for (int r = 0; r < peers.ranks; ++r) {
        if (r == peers.rank) continue;
        store16_peer(slot_of(peers, r, s.turn.number) + sum_place(s, q), sum);
      }
    }
    finish(s, q, mine, v);
  });
  if (two_shots) {
    each([&](const Quad& q, bool real) {
      const bool mine = real && q.owner != peers.rank;
      float4 v = {0, 0, 0, 0};
      if (mine) {
        uint8_t* at = slot_of(peers, peers.rank, s.turn.number) + sum_place(s, q);
        v = floats(receive16(peers, at, load16_peer(at), q.owner));
      }
      finish(s, q, mine, v);
    });
  }
  if (!told) await_greetings(peers, s.turn);
  end_turn(peers, s.turn, flag);
}

// The same of parts that have come already.
__global__ void __launch_bounds__(kThreads) add_gathered_kernel(SumOverRanks p) {
  pdl_launch_dependents();
  pdl_wait();
  const int rows = p.grid_rows, tiles = p.cols / kRankColumns;
  const Sum s = {p, rows, tiles, rows * tiles * 4, false, {}};
  const int index = int(blockIdx.x) * kThreads + int(threadIdx.x);
  const bool mine = index < s.quads;
  const Quad q = quad_of(s, index);
  float4 sum = {0, 0, 0, 0};
  for (int r = 0; mine && r < p.peers.ranks; ++r) {
    const float4 part = floats(load16(p.gathered + (int64_t(r) * s.quads + index) * 4));
    sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
  }
  if (mine) sum = residual(s, q, sum);
  finish(s, q, mine, sum);
}

// --- logits ---

// Which values of the logits a rank sends, and which it waits for: all, of several rows, in one
// row of threads, so that each asks for several at a time.
struct Logits {
  const GatherLogits& p;
  int rows, own_rows, others;

  GPU_DEVICE Logits(const GatherLogits& p, int rows) : p(p), rows(rows) {
    own_rows = (rows - p.peers.rank + p.peers.ranks - 1) / p.peers.ranks;
    others = p.vocab - p.cols;
  }
  struct Value {
    int row, column;
  };
  // Value i of this rank's columns of the rows that others draw.
  GPU_DEVICE int sent() const { return (rows - own_rows) * p.cols; }
  GPU_DEVICE Value sent(int i) const {
    const int ranks = p.peers.ranks, at = i / p.cols, in_turn = at % (ranks - 1);
    return {at / (ranks - 1) * ranks + in_turn + (in_turn >= p.peers.rank ? 1 : 0),
            p.first_col + i % p.cols};
  }
  // Value i of the others' columns of the rows that this rank draws.
  GPU_DEVICE int received() const { return own_rows * others; }
  GPU_DEVICE Value received(int i) const {
    const int column = i % others;
    return {i / others * p.peers.ranks + p.peers.rank,
            column < p.first_col ? column : column + p.cols};
  }
  GPU_DEVICE float* at(Value v) const { return p.logits + int64_t(v.row) * p.vocab + v.column; }
};
constexpr int kValuesAtOnce = 4;

// Sends the other ranks' rows of this rank's columns, then waits for its own rows of theirs.
__global__ void __launch_bounds__(kThreads) gather_logits_kernel(GatherLogits p) {
  if (p.peers.dependents_early) pdl_launch_dependents();
  pdl_wait();
  Shared smem;
  uint32_t* flag = smem.take<uint32_t>(1);
  const Peers& peers = p.peers;
  const Turn turn = begin_turn(peers);
  greet(peers, turn);
  const Logits all(p, p.count ? *p.count : p.grid_rows);
  const int first = int(blockIdx.x) * kThreads + int(threadIdx.x), step = int(gridDim.x) * kThreads;
  const auto place = [&](Logits::Value v) {
    return (int64_t(v.row / peers.ranks) * p.vocab + v.column) * 4;
  };
  for (int i = first; turn.goes_on && i < all.sent(); i += step * kValuesAtOnce) {
    uint32_t values[kValuesAtOnce];
#pragma unroll
    for (int u = 0; u < kValuesAtOnce; ++u) {
      if (i + u * step < all.sent()) values[u] = as_uint(*all.at(all.sent(i + u * step)));
    }
#pragma unroll
    for (int u = 0; u < kValuesAtOnce; ++u) {
      if (i + u * step >= all.sent()) break;
      const Logits::Value v = all.sent(i + u * step);
      store4_peer(slot_of(peers, v.row % peers.ranks, turn.number) + place(v), sendable(values[u]));
    }
  }
  uint8_t* own = slot_of(peers, peers.rank, turn.number);
  for (int i = first; i < all.received(); i += step * kValuesAtOnce) {
    uint32_t values[kValuesAtOnce];
#pragma unroll
    for (int u = 0; u < kValuesAtOnce; ++u) {
      if (i + u * step < all.received())
        values[u] = load4_peer(own + place(all.received(i + u * step)));
    }
#pragma unroll
    for (int u = 0; u < kValuesAtOnce; ++u) {
      if (i + u * step >= all.received()) break;
      const Logits::Value v = all.received(i + u * step);
      *all.at(v) = as_float(receive4(peers, own + place(v), values[u], kMostRanks));
    }
  }
  await_greetings(peers, turn);
  end_turn(peers, turn, flag);
}

// This rank's columns of all rows, in its place.
__global__ void __launch_bounds__(kThreads) pack_logits_kernel(GatherLogits p) {
  pdl_launch_dependents();
  pdl_wait();
  const int width = logit_width(p.vocab, p.peers.ranks);
  float* to = p.gathered + int64_t(p.peers.rank) * p.grid_rows * width;
  const int row = int(blockIdx.y), column = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (column >= width) return;
  // A rank of fewer columns sends a zero where others have one more.
  to[int64_t(row) * width + column] =
      column < p.cols ? p.logits[int64_t(row) * p.vocab + p.first_col + column] : 0.0f;
}

// The others' columns of the rows that this rank draws: a block one rank's of a row.
__global__ void __launch_bounds__(kThreads) unpack_logits_kernel(GatherLogits p) {
  pdl_launch_dependents();
  pdl_wait();
  const int ranks = p.peers.ranks, from = int(blockIdx.z), row = int(blockIdx.y);
  if (from == p.peers.rank || row % ranks != p.peers.rank) return;
  const int width = logit_width(p.vocab, ranks);
  const int first = int(int64_t(p.vocab) * from / ranks),
            end = int(int64_t(p.vocab) * (from + 1) / ranks);
  const int column = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (first + column >= end) return;
  p.logits[int64_t(row) * p.vocab + first + column] =
      p.gathered[(int64_t(from) * p.grid_rows + row) * width + column];
}

// --- ids ---

__global__ void __launch_bounds__(kThreads) share_ids_kernel(ShareIds p) {
  if (p.peers.dependents_early) pdl_launch_dependents();
  pdl_wait();
  Shared smem;
  uint32_t* flag = smem.take<uint32_t>(1);
  const Peers& peers = p.peers;
  const Turn turn = begin_turn(peers);
  greet(peers, turn);
  const auto* header = reinterpret_cast<const SampleHeader*>(p.block);
  const auto* samples = step_array<SampleRow>(header, header->sample_rows) + p.first;
  for (int i = int(threadIdx.x); i < p.rows; i += kThreads) {
    const int slot = samples[i].slot;
    if (!turn.goes_on || slot < 0 || i % peers.ranks != peers.rank) continue;
    for (int r = 0; r < peers.ranks; ++r) {
      if (r == peers.rank) continue;
      store4_peer(slot_of(peers, r, turn.number) + i * 4, uint32_t(p.slots[slot]));
    }
  }
  for (int i = int(threadIdx.x); i < p.rows; i += kThreads) {
    const int slot = samples[i].slot, from = i % peers.ranks;
    if (slot < 0 || from == peers.rank) continue;
    uint8_t* at = slot_of(peers, peers.rank, turn.number) + i * 4;
    p.slots[slot] = int32_t(receive4(peers, at, load4_peer(at), from));
  }
  await_greetings(peers, turn);
  end_turn(peers, turn, flag);
}

// The slot of sample i of a launch; below 0: none.
GPU_DEVICE int slot_of_sample(const ShareIds& p, int i) {
  const auto* header = reinterpret_cast<const SampleHeader*>(p.block);
  return step_array<SampleRow>(header, header->sample_rows)[p.first + i].slot;
}
// Into this rank's place: its ids, and nothing of use beside them.
__global__ void __launch_bounds__(kThreads) pack_ids_kernel(ShareIds p) {
  pdl_launch_dependents();
  pdl_wait();
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i >= p.rows) return;
  const int slot = slot_of_sample(p, i);
  p.gathered[int64_t(p.peers.rank) * p.rows + i] = slot < 0 ? 0 : p.slots[slot];
}
__global__ void __launch_bounds__(kThreads) unpack_ids_kernel(ShareIds p) {
  pdl_launch_dependents();
  pdl_wait();
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i >= p.rows) return;
  const int slot = slot_of_sample(p, i);
  if (slot >= 0) p.slots[slot] = p.gathered[int64_t(i % p.peers.ranks) * p.rows + i];
}

unsigned all_blocks_for(int64_t threads) { return unsigned((threads + kThreads - 1) / kThreads); }
// Of a kernel whose blocks wait for other ranks'.
unsigned blocks_for(int64_t threads) {
  const unsigned n = all_blocks_for(threads);
  return n < 1 ? 1 : n < kBlocks ? n : kBlocks;
}
constexpr size_t kFlagBytes = 16;

}  // namespace

// A slot in two shots: parts, of which each rank may have a tile more than its share, then sums.
int32_t rows_of_turn(const Peers& peers, int32_t cols) {
  const int64_t row_bytes = (2 * int64_t(cols / kRankColumns) + peers.ranks) * kRankColumns * 4;
  return int32_t(peers.slot_bytes / row_bytes);
}
void sum_over_ranks(Queue& queue, const SumOverRanks& p) {
  const int64_t quads = int64_t(p.grid_rows) * p.cols / 4;
  launch(queue, "sum_over_ranks", sum_over_ranks_kernel, blocks_for(quads), kThreads, kFlagBytes, p,
         quads * 16 > p.peers.one_shot_bytes);
}

void add_gathered(Queue& queue, const SumOverRanks& p) {
  launch(queue, "add_gathered", add_gathered_kernel,
         all_blocks_for(int64_t(p.grid_rows) * p.cols / 4), kThreads, 0, p);
}

int32_t logit_rows_of_turn(const Peers& peers, int32_t vocab) {
  return int32_t(peers.slot_bytes / (int64_t(vocab) * 4)) * peers.ranks;
}
void gather_logits(Queue& queue, const GatherLogits& p) {
  launch(queue, "gather_logits", gather_logits_kernel, blocks_for(p.vocab), kThreads, kFlagBytes,
         p);
}
void pack_logits(Queue& queue, const GatherLogits& p) {
  const unsigned blocks = all_blocks_for(logit_width(p.vocab, p.peers.ranks));
  launch(queue, "pack_logits", pack_logits_kernel, dim3(blocks, unsigned(p.grid_rows)), kThreads, 0,
         p);
}
void unpack_logits(Queue& queue, const GatherLogits& p) {
  const unsigned blocks = all_blocks_for(logit_width(p.vocab, p.peers.ranks));
  launch(queue, "unpack_logits", unpack_logits_kernel,
         dim3(blocks, unsigned(p.grid_rows), unsigned(p.peers.ranks)), kThreads, 0, p);
}

void share_ids(Queue& queue, const ShareIds& p) {
  launch(queue, "share_ids", share_ids_kernel, 1, kThreads, kFlagBytes, p);
}
void pack_ids(Queue& queue, const ShareIds& p) {
  launch(queue, "pack_ids", pack_ids_kernel, all_blocks_for(p.rows), kThreads, 0, p);
}
void unpack_ids(Queue& queue, const ShareIds& p) {
  launch(queue, "unpack_ids", unpack_ids_kernel, all_blocks_for(p.rows), kThreads, 0, p);
}

void load_ranks(Queue& queue) {
  load_kernel(queue, "sum_over_ranks", sum_over_ranks_kernel, kFlagBytes);
  load_kernel(queue, "gather_logits", gather_logits_kernel, kFlagBytes);
  load_kernel(queue, "share_ids", share_ids_kernel, kFlagBytes);
  load_kernel(queue, "add_gathered", add_gathered_kernel, 0);
  load_kernel(queue, "pack_logits", pack_logits_kernel, 0);
  load_kernel(queue, "unpack_logits", unpack_logits_kernel, 0);
  load_kernel(queue, "pack_ids", pack_ids_kernel, 0);
  load_kernel(queue, "unpack_ids", unpack_ids_kernel, 0);
}

}  // namespace nemotron::cuda
