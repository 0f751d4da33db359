// What the devices of a group tell each other, kernel by kernel: a thread and an emulated GPU for
// each rank. Against sums on the host, bit for bit, and with ranks that never come.
#include <barrier>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

#include "cuda/context.h"
#include "cuda/kernels.h"
#include "emu_test.h"
#include "machine.h"
#include "test/ops/ops.h"

using namespace nemotron;
using namespace nemotron::cuda;
using test::Random;

namespace {

constexpr int64_t kSlot = 64 << 10, kOneShot = 4 << 10;

struct Rank {
  template <class T>
  T* memory(const std::vector<T>& values) {
    void* p = nullptr;
    EXPECT_OK(context.alloc(values.size() * sizeof(T), &p));
    context.upload(p, values.data(), values.size() * sizeof(T));
    return static_cast<T*>(p);
  }
  template <class T>
  std::vector<T> read(const T* p, size_t n) {
    context.check_launches();
    std::vector<T> out(n);
    context.download(out.data(), p, n * sizeof(T));
    EXPECT_OK(context.status());
    return out;
  }
  void open(int index, int ranks) {
    EXPECT_OK(context.open(index));
    for (const auto& load : {load_ranks, load_sample}) load(context.queue());
    peers.rank = index;
    peers.ranks = ranks;
    peers.slot_bytes = kSlot;
    peers.one_shot_bytes = kOneShot;
    peers.patience_ns = uint64_t(60e9);
    peers.stopped = memory<uint32_t>({0, 0});
    std::vector<uint8_t> fresh(peer_bytes(kSlot), 0xff);
    std::memset(fresh.data(), 0, kPeerHeaderBytes);
    own = memory(fresh);
    context.synchronize();
  }
  Context context;
  Peers peers;
  uint8_t* own = nullptr;
};

using Body = std::function<void(Rank&)>;
// Every rank's thread does `body`, once all ranks have their memory.
void on_ranks(int ranks, emu::Order order, const Body& body) {
  const emu::Machine before = emu::machine();
  emu::machine().gpus = ranks;
  emu::machine().memory_waits = false;  // bodies take memory beside others' kernels
  emu::config() = {};
  emu::config().order = order;
  std::vector<std::unique_ptr<Rank>> all;
  for (int r = 0; r < ranks; ++r) all.push_back(std::make_unique<Rank>());
  std::barrier here(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      Rank& own = *all[size_t(r)];
      own.open(r, ranks);
      here.arrive_and_wait();
      for (int i = 0; i < ranks; ++i) {
        own.peers.memory[i] = all[size_t(i)]->own;
        if (i != r) {
          const cudaError_t e = cudaDeviceEnablePeerAccess(i, 0);
          EXPECT(e == cudaSuccess || e == cudaErrorPeerAccessAlreadyEnabled);
        }
      }
      body(own);
      own.context.check_launches();
      own.context.synchronize();
      here.arrive_and_wait();
    });
  }
  for (std::thread& t : threads) t.join();
  for (auto& rank : all) EXPECT_OK(rank->context.status());
  emu::machine() = before;
}

constexpr emu::Order kOrders[] = {emu::Order::natural, emu::Order::reverse, emu::Order::random};

std::vector<float> normals(int seed, int rank, size_t n) {
  Random random(uint64_t(seed * 100 + rank));
  std::vector<float> v = random.normals(int64_t(n), 1.0f, 0.0f);
  for (size_t i = 0; i < n; i += 7) v[i] = -0.0f;
  return v;
}

// x after the sum of a turn, on the host.
std::vector<float> host_sum(int turn, int ranks, bool fresh, size_t n) {
  std::vector<float> x = normals(turn, 50, n);
  std::vector<std::vector<float>> parts;
  for (int r = 0; r < ranks; ++r) parts.push_back(normals(turn, r, n));
  for (size_t i = 0; i < n; ++i) {
    float sum = 0;
    for (const auto& part : parts) sum += part[i];
    x[i] = fresh ? sum : x[i] + sum;
  }
  return x;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

// The half of a norm that begins with x, of one tile of it.
float host_squares(const float* x) {
  float quads[4];
  for (int i = 0; i < 4; ++i) {
    const float* v = x + i * 4;
    quads[i] = (v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3]);
  }
  return (quads[0] + quads[1]) + (quads[2] + quads[3]);
}

struct Turn {
  int rows, cols;
  bool fresh = false, normed = false, counted = false;
};

void sum_turn(Rank& rank, int turn, const Turn& t) {
  const size_t n = size_t(t.rows) * size_t(t.cols), tiles = size_t(t.cols) / 16;
  const int stride = t.cols + 64;
  const std::vector<float> gain = normals(turn, 51, size_t(t.cols));
  SumOverRanks p;
  p.peers = rank.peers;
  p.partial = rank.memory(normals(turn, rank.peers.rank, std::max(n, size_t(1))));
  p.x = rank.memory(normals(turn, 50, std::max(n, size_t(1))));
  p.cols = t.cols;
  p.grid_rows = t.rows + (t.counted ? 3 : 0);
  if (t.counted) p.count = rank.memory(std::vector<int32_t>{t.rows});
  p.fresh = t.fresh;
  auto* squares = rank.memory(std::vector<float>(size_t(t.rows) * tiles));
  auto* scaled = rank.memory(std::vector<uint16_t>(size_t(t.rows) * size_t(stride)));
  if (t.normed) p.norm = {rank.memory(gain), scaled, stride, squares};
  EXPECT(t.rows <= rows_of_turn(p.peers, t.cols));
  sum_over_ranks(rank.context.queue(), p);
  const std::vector<float> x = host_sum(turn, rank.peers.ranks, t.fresh, n);
  EXPECT(same_bits(rank.read(p.x, n), x));
  if (!t.normed) return;
  const std::vector<float> got = rank.read(squares, size_t(t.rows) * tiles);
  const std::vector<uint16_t> bf16 = rank.read(scaled, size_t(t.rows) * size_t(stride));
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], host_squares(&x[i * 16]));
  for (size_t i = 0; i < n; ++i) {
    const size_t row = i / size_t(t.cols), col = i % size_t(t.cols);
    EXPECT_EQ(bf16[row * size_t(stride) + col], gpu::to_bf16(x[i] * gain[col]));
  }
}

// In one shot and in two, with more and fewer rows than the turn before: what a turn leaves in its
// slot is nothing.
TEST(ranks_add_the_same_sums) {
  const std::vector<Turn> turns = {{1, 64, false, true},
                                   {5, 64},
                                   {20, 112, false, true},
                                   {2, 64, true, false, true},
                                   {33, 64, true, true},
                                   {1, 48},
                                   {0, 64, false, false, true},
                                   {4, 64},
                                   {3, 64}};
  for (const int ranks : {2, 4, 8}) {
    for (const emu::Order order : kOrders) {
      on_ranks(ranks, order, [&](Rank& rank) {
        for (size_t i = 0; i < turns.size(); ++i) sum_turn(rank, int(i), turns[i]);
      });
    }
  }
}

// A graph's kernels have the same arguments each time: turns are counted on the device.
TEST(ranks_add_in_replayed_graphs) {
  for (const emu::Order order : kOrders) {
    on_ranks(2, order, [&](Rank& rank) {
      const size_t n = 3 * 32;
      SumOverRanks p;
      p.peers = rank.peers;
      p.partial = rank.memory(normals(0, rank.peers.rank, n));
      p.x = rank.memory(std::vector<float>(n));
      p.cols = 32;
      p.grid_rows = 3;
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      cudaStream_t stream = rank.context.stream();
      cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
      sum_over_ranks(rank.context.queue(), p);
      cudaStreamEndCapture(stream, &graph);
      cudaGraphInstantiate(&exec, graph, 0);
      for (int i = 0; i < 3; ++i) cudaGraphLaunch(exec, stream);
      const std::vector<float> once = host_sum(0, 2, true, n);
      std::vector<float> x(n);
      for (int i = 0; i < 3; ++i) {
        for (size_t k = 0; k < n; ++k) x[k] += once[k];
      }
      EXPECT(same_bits(rank.read(p.x, n), x));
      cudaGraphExecDestroy(exec);
      cudaGraphDestroy(graph);
    });
  }
}

// One turn: `counted`, of a launch for more rows.
void gather_turn(Rank& rank, int turn, int rows, bool counted) {
  constexpr int kVocab = 101;
  const int own = rank.peers.rank, ranks = rank.peers.ranks;
  GatherLogits p;
  p.peers = rank.peers;
  p.vocab = kVocab;
  p.grid_rows = rows + (counted ? 3 : 0);
  if (counted) p.count = rank.memory(std::vector<int32_t>{rows});
  p.first_col = kVocab * own / ranks;
  p.cols = kVocab * (own + 1) / ranks - p.first_col;
  EXPECT(p.grid_rows <= logit_rows_of_turn(p.peers, kVocab));
  const std::vector<float> all = normals(turn, 0, size_t(p.grid_rows) * kVocab);
  std::vector<float> part(all.size(), 1e9f);
  for (int i = 0; i < rows; ++i) {
    std::copy_n(&all[size_t(i * kVocab + p.first_col)], p.cols,
                &part[size_t(i * kVocab + p.first_col)]);
  }
  p.logits = rank.memory(part);
  gather_logits(rank.context.queue(), p);
  const std::vector<float> got = rank.read(p.logits, all.size());
  for (int i = own; i < rows; i += ranks) {
    const auto row = [&](const std::vector<float>& v) {
      return std::vector<float>(v.begin() + i * kVocab, v.begin() + (i + 1) * kVocab);
    };
    EXPECT(same_bits(row(got), row(all)));
  }
}

// Each slot several times, with other values: also where not every rank has a row to draw.
TEST(ranks_gather_whole_rows) {
  constexpr int kRows[] = {7, 3, 40, 33, 1, 1, 2, 1};
  for (const int ranks : {2, 4}) {
    for (const emu::Order order : kOrders) {
      on_ranks(ranks, order, [&](Rank& rank) {
        int turn = 0;
        for (const int rows : kRows) gather_turn(rank, turn++, rows, false);
        for (const int rows : {2, 0, 0, 5}) gather_turn(rank, turn++, rows, true);
      });
    }
  }
}

// A rank that has nothing to wait for in a turn still does not leave the others behind.
TEST(ranks_are_never_two_turns_apart) {
  std::atomic<bool> begun{false};
  on_ranks(2, emu::Order::natural, [&](Rank& rank) {
    if (rank.peers.rank == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      begun = true;
    }
    for (int turn = 0; turn < 3; ++turn) {
      gather_turn(rank, turn, 1, false);  // rank 0 draws it
      EXPECT(begun);
    }
  });
}

// What a library has gathered, in the place of words that come by themselves.
TEST(ranks_add_and_take_what_was_gathered) {
  constexpr int kRows = 5, kCols = 112, kVocab = 101;
  for (const int ranks : {2, 8}) {
    on_ranks(ranks, emu::Order::random, [&](Rank& rank) {
      const size_t n = size_t(kRows) * kCols;
      std::vector<float> parts;
      for (int r = 0; r < ranks; ++r) {
        const std::vector<float> part = normals(2, r, n);
        parts.insert(parts.end(), part.begin(), part.end());
      }
      for (const bool fresh : {false, true}) {
        SumOverRanks sum;
        sum.peers = rank.peers;
        sum.gathered = rank.memory(parts);
        sum.x = rank.memory(normals(2, 50, n));
        sum.cols = kCols;
        sum.grid_rows = kRows;
        sum.fresh = fresh;
        auto* squares = rank.memory(std::vector<float>(n / 16));
        auto* scaled = rank.memory(std::vector<uint16_t>(n));
        sum.norm = {rank.memory(normals(2, 51, kCols)), scaled, kCols, squares};
        add_gathered(rank.context.queue(), sum);
        const std::vector<float> x = host_sum(2, ranks, fresh, n);
        EXPECT(same_bits(rank.read(sum.x, n), x));
        const std::vector<float> got = rank.read(squares, n / 16);
        for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], host_squares(&x[i * 16]));
      }

      const std::vector<float> all = normals(3, 0, size_t(kRows) * kVocab);
      const int width = logit_width(kVocab, ranks);
      const auto first_of = [&](int r) { return kVocab * r / ranks; };
      std::vector<float> gathered(size_t(ranks * kRows * width));
      for (int r = 0; r < ranks; ++r) {
        for (int i = 0; i < kRows; ++i) {
          std::copy(&all[size_t(i * kVocab + first_of(r))],
                    &all[size_t(i * kVocab)] + first_of(r + 1),
                    &gathered[size_t((r * kRows + i) * width)]);
        }
      }
      GatherLogits p;
      p.peers = rank.peers;
      p.vocab = kVocab;
      p.grid_rows = kRows;
      p.first_col = first_of(rank.peers.rank);
      p.cols = first_of(rank.peers.rank + 1) - p.first_col;
      p.logits = rank.memory(all);
      const std::vector<float> unset(gathered.size(), -7.0f);
      p.gathered = rank.memory(unset);
      pack_logits(rank.context.queue(), p);
      std::vector<float> packed = unset;
      const auto own = ptrdiff_t(rank.peers.rank * kRows * width);
      std::copy_n(gathered.begin() + own, kRows * width, packed.begin() + own);
      EXPECT(same_bits(rank.read(p.gathered, packed.size()), packed));
      std::vector<float> part(all.size(), 1e9f);
      for (int i = 0; i < kRows; ++i) {
        std::copy_n(&all[size_t(i * kVocab + p.first_col)], p.cols,
                    &part[size_t(i * kVocab + p.first_col)]);
      }
      p.logits = rank.memory(part);
      p.gathered = rank.memory(gathered);
      unpack_logits(rank.context.queue(), p);
      for (int i = rank.peers.rank; i < kRows; i += ranks) {
        std::copy_n(&all[size_t(i * kVocab)], kVocab, &part[size_t(i * kVocab)]);
      }
      EXPECT(same_bits(rank.read(p.logits, part.size()), part));
    });
  }
}

constexpr int kIds = 6;
struct IdBlock {
  SampleHeader header;
  SampleRow rows[kIds + 1];
};
// Of 4 ranks. Sample i leaves 1000 * turn + i in slot 2 i; sample 3, and all when `none`, nowhere.
// What the slots are for this rank before; after, when all have told.
void ids_turn(Rank& rank, int turn, bool none, ShareIds* p, std::vector<int32_t>* slots) {
  IdBlock block = {};
  block.header = {kIds + 1, uint32_t(offsetof(IdBlock, rows))};
  std::vector<int32_t> before(16, -5), after(16, -5);
  // The first sample is of a slice before.
  for (int i = 0; i < kIds; ++i) {
    const bool leaves = !none && i != 3;
    block.rows[i + 1].slot = leaves ? 2 * i : -1;
    if (!leaves) continue;
    after[size_t(2 * i)] = 1000 * turn + i;
    if (i % 4 == rank.peers.rank) before[size_t(2 * i)] = after[size_t(2 * i)];
  }
  p->peers = rank.peers;
  p->first = 1;
  p->rows = kIds;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&block);
  p->block = rank.memory(std::vector<uint8_t>(bytes, bytes + sizeof block));
  p->slots = rank.memory(before);
  share_ids(rank.context.queue(), *p);
  EXPECT(rank.read(p->slots, after.size()) == after);
  *slots = before;
}

TEST(ranks_share_the_ids_that_each_drew) {
  for (const emu::Order order : kOrders) {
    on_ranks(4, order, [&](Rank& rank) {
      ShareIds p;
      std::vector<int32_t> slots;
      for (const int turn : {1, 2, 3, 4, 5, 6}) ids_turn(rank, turn, turn < 4, &p, &slots);
      for (const int turn : {7, 8}) ids_turn(rank, turn, turn < 8, &p, &slots);

      // And by a library: what the others have told lies in their places.
      constexpr int kRanks = 4;
      const std::vector<int32_t> shared = rank.read(p.slots, slots.size());
      std::vector<int32_t> told(size_t(kRanks * kIds), -9);
      for (int i = 0; i < kIds; ++i) told[size_t(i % kRanks * kIds + i)] = 8000 + i;
      p.slots = rank.memory(slots);
      p.gathered = rank.memory(std::vector<int32_t>(told.size(), -9));
      pack_ids(rank.context.queue(), p);
      const std::vector<int32_t> packed = rank.read(p.gathered, told.size());
      for (int i = 0; i < kRanks * kIds; ++i) {
        const bool own = i / kIds == rank.peers.rank;
        if (own && i % kIds != 3 && i % kIds % kRanks == rank.peers.rank)
          EXPECT_EQ(packed[size_t(i)], told[size_t(i)]);
        if (!own) EXPECT_EQ(packed[size_t(i)], -9);
      }
      p.gathered = rank.memory(told);
      unpack_ids(rank.context.queue(), p);
      EXPECT(rank.read(p.slots, slots.size()) == shared);
    });
  }
}

// Rank 1 of 4 never comes: one of the others loses patience and ends the group, and nobody waits
// any more, in that turn or in later ones.
TEST(ranks_do_not_wait_for_ever) {
  for (const emu::Order order : kOrders) {
    std::atomic<int> blamed{0};
    on_ranks(4, order, [&](Rank& rank) {
      if (rank.peers.rank == 1) return;
      // One of them: who is not running for a while is not to be blamed by the others.
      rank.peers.patience_ns = uint64_t(rank.peers.rank == 0 ? 0.3e9 : 60e9);
      SumOverRanks p;
      p.peers = rank.peers;
      p.x = rank.memory(normals(0, 50, 64));
      p.cols = 64;
      p.grid_rows = 1;
      for (int i = 0; i < 5; ++i) {  // after the end nothing is told, which nobody would read
        p.partial = rank.memory(normals(i, rank.peers.rank, 64));
        sum_over_ranks(rank.context.queue(), p);
      }
      const std::vector<uint32_t> stopped = rank.read(rank.peers.stopped, 2);
      EXPECT_EQ(stopped[1], 1u);
      EXPECT(stopped[0] == 0 || stopped[0] == 2);
      blamed += stopped[0] == 2;
    });
    EXPECT(blamed > 0);
  }
}

// A rank's host ends the group by a word in every rank's memory.
TEST(ranks_stop_waiting_when_the_group_ends) {
  on_ranks(2, emu::Order::natural, [&](Rank& rank) {
    if (rank.peers.rank == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const uint32_t ended = 1;
      rank.context.upload(rank.peers.memory[0] + offsetof(PeerHeader, ended), &ended, 4);
      rank.context.synchronize();
      return;
    }
    SumOverRanks p;
    p.peers = rank.peers;
    p.partial = rank.memory(normals(0, 0, 64));
    p.x = rank.memory(normals(0, 50, 64));
    p.cols = 64;
    p.grid_rows = 1;
    sum_over_ranks(rank.context.queue(), p);
    const std::vector<uint32_t> stopped = rank.read(rank.peers.stopped, 2);
    EXPECT_EQ(stopped[0], 0u);
    EXPECT_EQ(stopped[1], 1u);
  });
}

}  // namespace

NEMOTRON_TEST_MAIN
