// The asynchronous half of the emulated device: barriers in shared memory, the copy engine, wgmma.
//
// Who may touch a line (128 bytes) of shared memory is decided by what has been waited for, not by
// what happened to run first: every warp has a vector of clocks, one for each warp of the cluster
// and one for the copy engine of each of its blocks. Arriving at a barrier publishes the warp's
// clocks, waiting takes them over; a copy's landing ticks the engine's. A copy must know of all
// reads of the lines that it overwrites, whichever block's, a product of all writes to the lines
// that it reads, and a block that ends of all that its peers have done to it.
#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <map>
#include <memory>

#include "cuda_runtime.h"
#include "emu_hopper.h"
#include "internal.h"

namespace emu {
namespace {

constexpr uint32_t kLine = 128, kNever = 0xffffffffu;
constexpr size_t kWarpgroup = 128;

using Clocks = std::vector<uint32_t>;
void join(Clocks* into, const Clocks& from) {
  for (size_t i = 0; i < from.size(); ++i) (*into)[i] = std::max((*into)[i], from[i]);
}

struct Barrier {
  uint32_t arrivals = 0, pending = 0;
  int64_t bytes = 0;    // expected and not yet landed
  uint32_t phases = 0;  // that have ended
  Clocks clocks, published;
  std::vector<uint16_t> waiting;
  uint16_t owner = 0, member = 0;    // the thread that made it, its block
  bool ready = false, done = false;  // done: mbarrier_init_done, ready: and a block barrier
  uint32_t made = kNever;            // done: the owner's warp's clock
};

struct BoxCopy {
  uint16_t from = 0, member = 0;  // blocks: who asked for it, where it goes
  uint32_t to = 0;
  const uint8_t* base = nullptr;  // null: outside the tensor
  uint64_t stride = 0;
  int64_t row = 0, rows = 0, column = 0, columns = 0;
  uint32_t box_rows = 0;
  Barrier* barrier = nullptr;
};

struct Line {
  uint32_t landed = 0;   // the engine's clock
  uint32_t written = 0;  // by a thread: its warp's clock, kNever until it was published
  uint16_t writer = 0;   // warp of the cluster
  bool in_flight = false, fenced = false;
  uint16_t barriers = 0;  // which of its sixteen words of eight bytes are
  // By products of each warp of its block: the warp's clock, kNever while in flight.
  std::vector<uint32_t> read;
  std::vector<uint32_t> used;  // by threads: the clock of each warp when it last did
};

struct Product {
  ProductKind kind{};
  uint64_t b = 0;
  bool done = false;
  size_t arrived = 0, retired = 0, users = 0;  // threads; users: of later products that add to it
  std::array<bool, 4>
      over{};  // a thread of this warp has waited for it, so all have: they wait together
  std::array<float*, kWarpgroup> d{};
  std::array<const uint32_t*, kWarpgroup> a_at{};
  std::array<std::array<uint32_t, 4>, kWarpgroup> a{};
  std::array<int, kWarpgroup> before{};  // the product that makes what this one adds to; -1: value
  std::vector<float> value;              // [thread][n]
};
struct Warpgroup {
  std::vector<std::unique_ptr<Product>> products;
  std::vector<uint16_t> waiting;
};
struct Named {  // registers, as a wgmma_fence found them
  Registers where;
  std::vector<uint8_t> bytes;
};
struct Thread {
  size_t issued = 0, retired = 0;  // products
  std::deque<size_t> groups;       // where they end
  bool fenced = false;
  std::vector<Named> named;     // the latest first
  std::vector<uint32_t> wrote;  // lines, not yet published
};

struct Async {
  bool used = false;
  size_t warps = 0, each = 0;                                 // of the cluster, of a block
  std::vector<uint32_t> engine;                               // by block, as all that follows it
  std::map<std::pair<uint16_t, uint32_t>, Barrier> barriers;  // block, offset
  std::vector<BoxCopy> copies;                                // not yet landed
  std::vector<std::vector<Line>> lines;
  std::vector<Clocks> told;         // of each warp when it last arrived at a barrier of the block
  std::vector<Clocks> landed;       // of each engine when the block's last copy there landed
  Clocks arrived, published;        // at the cluster's barrier
  std::vector<Clocks> clocks;       // by warp
  uint32_t registers_begin = 0;     // of a thread
  std::vector<uint32_t> registers;  // by thread, as it last said
  std::vector<Thread> threads;
  std::vector<Warpgroup> groups;  // as many of each block
};
thread_local Async async;

// Where the clock of a block's copy engine stands.
size_t engine_of(size_t member) { return async.warps + member; }

size_t threads_of_block() {
  const dim3 b = current_launch->block;
  return size_t(b.x) * b.y * b.z;
}

void begin() {
  if (async.used) return;
  const size_t threads = threads_of_block(), members = cluster.size();
  async = Async{};
  async.used = true;
  async.each = (threads + 31) / 32;
  async.warps = async.each * members;
  async.engine.assign(members, 0);
  async.lines.resize(members);
  for (auto& lines : async.lines) {
    lines.resize((block->shared_bytes + kLine - 1) / kLine);
    for (Line& l : lines) {
      l.read.assign(async.each, 0);
      l.used.assign(async.each, 0);
    }
  }
  const Clocks none(async.warps + members, 0);
  async.arrived = async.published = none;
  async.told.assign(members, none);
  async.landed.assign(members, none);
  async.clocks.assign(async.warps, none);
  for (size_t w = 0; w < async.warps; ++w) async.clocks[w][w] = 1;
  async.threads.resize(async.warps * 32);
  // A kernel that deals in registers is alone on its multiprocessor, and compiled for all it has.
  async.registers_begin = std::min(uint32_t(65536 / threads / 8 * 8), 255u);
  async.registers.assign(async.warps * 32, async.registers_begin);
  async.groups.resize(members * ((threads + kWarpgroup - 1) / kWarpgroup));
}

size_t warp_of(const Fiber& f) { return f.id / 32u; }
size_t warp_in_block(const Fiber& f) { return f.index / 32u; }
Clocks& clocks() { return async.clocks[warp_of(*current)]; }
Line& line_of(uint32_t offset) { return async.lines[block->member][offset / kLine]; }
Warpgroup& group_of(const Fiber& f) {
  return async.groups[async.groups.size() / cluster.size() * f.member + f.index / kWarpgroup];
}

void wake(std::vector<uint16_t>* waiting) {
  for (uint16_t i : *waiting) make_ready(i);
  waiting->clear();
}

// What a thread wrote can be known to others from now on.
void publish(size_t thread) {
  const size_t warp = thread / 32;
  for (uint32_t l : async.threads[thread].wrote) {
    Line& line = async.lines[warp / async.each][l];
    if (line.written == kNever) line.written = async.clocks[warp][warp];
  }
  async.threads[thread].wrote.clear();
}

void end_phase(Barrier* b) {
  if (b->pending != 0 || b->bytes != 0) return;
  ++b->phases;
  b->pending = b->arrivals;
  b->published = b->clocks;
  wake(&b->waiting);
}

Barrier* barrier_at(const uint64_t* p, const char* doing, const Where& where) {
  begin();
  auto it = async.barriers.find({block->member, shared_offset(p)});
  if (it == async.barriers.end()) {
    report(std::string(doing) + " without mbarrier_init", &where, nullptr);
    abandon_launch();
  }
  if (!it->second.ready && it->second.owner != current->id) {
    report(std::string(doing) + " before a block_sync after mbarrier_init_done", &where, nullptr);
  }
  return &it->second;
}

// The barrier of another block in the place of this one's.
Barrier* barrier_of_peer(const uint64_t* p, size_t peer, const char* doing, const Where& where) {
  begin();
  if (peer >= cluster.size()) {
    report(std::string(doing) + " of a block that the cluster has not", &where, nullptr);
    abandon_launch();
  }
  if (cluster[peer].alive == 0) {
    report(std::string(doing) + " of a block that has ended while peers still use it", &where,
           nullptr);
    abandon_launch();
  }
  auto it = async.barriers.find({uint16_t(peer), shared_offset(p)});
  if (it == async.barriers.end() || clocks()[it->second.owner / 32u] < it->second.made) {
    report(std::string(doing) +
               " of a peer that may not have made it: no cluster_wait() after the peer's "
               "mbarrier_init_done() and cluster_arrive()",
           &where, nullptr);
    abandon_launch();
  }
  return &it->second;
}

void land(size_t i) {
  const BoxCopy c = async.copies[i];
  async.copies.erase(async.copies.begin() + long(i));
  const uint32_t now = ++async.engine[c.member];
  uint8_t* shared = cluster[c.member].shared;
  for (uint32_t r = 0; r < c.box_rows; ++r) {
    const uint32_t line = c.to / kLine + r;
    for (uint32_t chunk = 0; chunk < 8; ++chunk) {
      const int64_t row = c.row + r, column = c.column + chunk * 8;
      uint8_t* to = shared + line * kLine + (chunk ^ (line & 7)) * 16;
      if (row >= 0 && row < c.rows && column >= 0 && column < c.columns) {
        std::memcpy(to, c.base + uint64_t(row) * c.stride + uint64_t(column) * 2, 16);
      } else {
        std::memset(to, 0, 16);
      }
    }
    async.lines[c.member][line].in_flight = false;
    async.lines[c.member][line].landed = now;
    mark_landed(c.member, shared + line * kLine, kLine);
  }
  async.landed[c.from][engine_of(c.member)] = now;
  c.barrier->bytes -= int64_t(c.box_rows) * kLine;
  c.barrier->clocks[engine_of(c.member)] = now;
  end_phase(c.barrier);
}

// Calls f(offset) for each piece of b that lies together: 16 elements of K (columns), or 64 columns
// of one row of K.
template <class F>
void pieces(const Product& p, F f) {
  const uint32_t start = uint32_t(p.b & 0x3fff) << 4, leading = uint32_t(p.b >> 16 & 0x3fff) << 4,
                 stride = uint32_t(p.b >> 32 & 0x3fff) << 4;
  const uint32_t columns = uint32_t(p.kind.n) * 2;
  if (p.kind.columns) {
    for (uint32_t c = 0; c < columns; ++c) f(start + c % 8 * kLine + c / 8 * stride, c, 0u);
  } else {
    for (uint32_t k = 0; k < 16; ++k) {
      for (uint32_t c = 0; c < columns; c += 64)
        f(start + k % 8 * kLine + k / 8 * stride + c / 64 * leading, c, k);
    }
  }
}

double value_of(uint16_t bits, bool f16) {
  return f16 ? double(std::bit_cast<_Float16>(bits))
             : double(std::bit_cast<float>(uint32_t(bits) << 16));
}

double element(uint32_t offset, bool f16) {  // at the place that the 128-byte swizzle gives it
  const uint32_t at = offset ^ (offset >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, block->shared + at, 2);
  return value_of(bits, f16);
}

void check_reads(const Product& p, const Where& where) {
  const Clocks& known = clocks();
  if (p.b >> 62 != 1 || (p.b >> 49 & 7) != 0) {
    report("wgmma descriptor without the 128-byte swizzle", &where, nullptr);
    abandon_launch();
  }
  pieces(p, [&](uint32_t offset, uint32_t, uint32_t) {
    if (offset + (p.kind.columns ? 32 : kLine) > block->shared_bytes) {
      report("wgmma reads past the end of shared memory", &where, nullptr);
      abandon_launch();
    }
    Line& l = line_of(offset);
    const char* what = nullptr;
    if (l.barriers) {
      what = "where a barrier lies";
    } else if (l.in_flight) {
      what = "while a copy to it is in flight";
    } else if (l.landed == 0 && l.written == 0) {
      what = "that nobody has written";
    } else if (known[engine_of(block->member)] < l.landed) {
      what = "without having waited for the copy to it";
    } else if (l.written != 0 && known[l.writer] < l.written) {
      what = "that another warp wrote, with no barrier between";
    } else if (l.written != 0 && !l.fenced) {
      what = "that threads wrote without fence_proxy_async()";
    }
    if (what) report(std::string("wgmma reads shared memory ") + what, &where, nullptr);
    l.read[warp_in_block(*current)] = kNever;
  });
}

bool covers(const Registers& all, const void* p, size_t bytes) {
  const uintptr_t from = uintptr_t(p) - uintptr_t(all.at);
  return from < all.bytes && from + bytes <= all.bytes;
}

// Registers that a product is about to read are as a wgmma_fence that names them left them: else
// nothing keeps the compiler from writing them after it.
void check_named(const Thread& thread, const void* p, size_t bytes, const char* what,
                 const Where& where) {
  for (const Named& n : thread.named) {
    if (!covers(n.where, p, bytes)) continue;
    const size_t from = uintptr_t(p) - uintptr_t(n.where.at);
    if (std::memcmp(n.bytes.data() + from, p, bytes) != 0)
      report(std::string("registers of ") + what + " changed after their wgmma_fence", &where,
             nullptr);
    return;
  }
  report(std::string("registers of ") + what + " that no wgmma_fence has named", &where, nullptr);
}

EMU_WIDE void add_multiple(double* row, double a, const double* from, uint32_t columns) {
  for (uint32_t c = 0; c < columns; ++c) row[c] += a * from[c];
}

void forget_if_done(Product* p) {
  if (p->retired == kWarpgroup && p->users == 0) std::vector<float>().swap(p->value);
}

// All 128 threads have issued it, and what it adds to is known.
void multiply(Warpgroup* group, Product* p) {
  const auto [n, f16, side_by_side, add] = p->kind;
  const uint32_t columns = uint32_t(n) * 2;
  std::vector<double> b(16 * columns), row(columns);
  pieces(*p, [&](uint32_t offset, uint32_t c, uint32_t k) {
    if (side_by_side) {
      for (uint32_t i = 0; i < 16; ++i) b[i * columns + c] = element(offset + 2 * i, f16);
    } else {
      for (uint32_t i = 0; i < 64; ++i) b[k * columns + c + i] = element(offset + 2 * i, f16);
    }
  });
  for (size_t t = 0; t < kWarpgroup; ++t) {
    if (p->before[t] < 0) continue;
    Product& from = *group->products[size_t(p->before[t])];
    std::copy_n(from.value.begin() + long(t) * n, n, p->value.begin() + long(t) * n);
    --from.users;
    forget_if_done(&from);
  }
  for (size_t w = 0; w < 4; ++w) {
    for (size_t r = 0; r < 16;
         ++r) {  // row 16 w + r: lanes 4 g .. 4 g + 3, of registers h and h + 2
      const size_t g = r % 8, h = r / 8;
      std::fill(row.begin(), row.end(), 0.0);
      for (uint32_t k = 0; k < 16; ++k) {
        const size_t t = k % 8 / 2;
        const uint32_t pair = p->a[w * 32 + g * 4 + t][h + k / 8 * 2];
        const double a = value_of(uint16_t(pair >> 16 * (k % 2)), f16);
        add_multiple(row.data(), a, &b[k * columns], columns);
      }
      for (uint32_t c = 0; c < columns; ++c) {
        float& out = p->value[(w * 32 + g * 4 + c % 8 / 2) * size_t(n) + c / 8 * 4 + h * 2 + c % 2];
        out = float(double(out) + row[c]);
      }
    }
  }
  p->done = true;
}

}  // namespace

// --- what fibers.cc and checker.cc tell ---

void begin_async_cluster() { async = Async{}; }

void end_async_cluster() {
  if (async.used && !async.copies.empty())
    report("block ends with a copy in flight", nullptr, nullptr);
}

namespace {
// What peers did to a block that ends, and it to them, must be known to be over.
void check_peers_at_end() {
  const size_t own = block->member;
  Clocks known(async.warps + cluster.size(), 0);
  for (size_t w = 0; w < async.each; ++w) join(&known, async.clocks[own * async.each + w]);
  for (size_t w = 0; w < async.warps; ++w) {
    if (known[w] >= async.told[own][w]) continue;
    report("block ends while peers still use it: a peer may arrive at its barriers", nullptr,
           nullptr);
    break;
  }
  const auto reaches = [&](const BoxCopy& c) { return c.member == own || c.from == own; };
  bool late =
      std::ranges::any_of(async.copies, reaches) || known[engine_of(own)] < async.engine[own];
  for (size_t m = 0; m < cluster.size(); ++m)
    late = late || known[engine_of(m)] < async.landed[own][engine_of(m)];
  if (late)
    report("block ends while peers still use it: a copy of the cluster may be in flight", nullptr,
           nullptr);
}
}  // namespace

void end_async_block() {
  if (!async.used) return;
  if (cluster.size() > 1) check_peers_at_end();
  uint64_t all = 0;
  const size_t threads = threads_of_block(), first = current->id - current->index;
  for (size_t t = 0; t < threads; ++t) {
    all += async.registers[first + t];
    if (async.registers[first + t] == async.registers[first + t / kWarpgroup * kWarpgroup])
      continue;
    report("threads of a warpgroup give or take different numbers of registers", nullptr, nullptr);
    return;
  }
  const uint64_t has = uint64_t(async.registers_begin) * threads;
  if (all > has) {  // whoever takes waits for others to give
    report("deadlock: waits forever for registers: " + std::to_string(all) +
               " are taken of the block's " + std::to_string(has),
           nullptr, nullptr);
  }
}

void end_async_thread() {
  if (!async.used) return;
  const Thread& t = async.threads[current->id];
  if (t.issued != t.retired) report("thread ends with a wgmma in flight", nullptr, nullptr);
}

bool land_late() {
  if (!async.used || async.copies.empty()) return false;
  const size_t n = async.copies.size();
  const Order order = config().order;
  land(order == Order::natural ? 0 : order == Order::reverse ? n - 1 : random_word() % n);
  return true;
}

void land_early() {
  if (async.used && !async.copies.empty() && random_word() % 8 == 0)
    land(random_word() % async.copies.size());
}

void async_warp_barrier(size_t warp) {
  if (!async.used) return;
  const size_t first = current->id - current->index + warp * 32;
  for (size_t i = first; i < first + 32; ++i) publish(i);
}

void async_block_barrier() {
  if (!async.used) return;
  const size_t first = block->member * async.each, end = first + async.each;
  for (size_t i = first * 32; i < end * 32; ++i) publish(i);
  Clocks all(async.warps + cluster.size(), 0);
  for (size_t w = first; w < end; ++w) join(&all, async.clocks[w]);
  for (size_t w = first; w < end; ++w) {
    async.clocks[w] = all;
    ++async.clocks[w][w];
  }
  for (auto& [at, b] : async.barriers) b.ready = b.ready || (b.done && b.member == block->member);
}

void async_cluster_arrive() {
  begin();
  publish(current->id);
  join(&async.arrived, clocks());
  ++clocks()[warp_of(*current)];
}
void async_cluster_barrier() {
  if (async.used) async.published = async.arrived;
}
void async_cluster_wait() { join(&clocks(), async.published); }

const char* async_access(const void* p, size_t bytes, bool write) {
  if (!async.used) return nullptr;
  const size_t warp = warp_of(*current), own = warp_in_block(*current);
  const size_t first_warp = warp - own;
  const auto first = shared_offset(p), last = uint32_t(first + bytes - 1);
  for (uint32_t l = first / kLine; l <= last / kLine; ++l) {
    Line& line = async.lines[block->member][l];
    for (uint32_t word = first / 8; line.barriers && word <= last / 8; ++word) {
      if (word / 16 == l && (line.barriers >> word % 16 & 1)) return "where a barrier lies";
    }
    if (clocks()[engine_of(block->member)] < line.landed)
      return "without having waited for the copy to it";
    if (!write) {
      line.used[own] = clocks()[warp];
      continue;
    }
    for (size_t w = 0; w < async.each; ++w) {
      if (w != own && clocks()[first_warp + w] < line.read[w]) return "that a wgmma may still read";
    }
    line.written = kNever;
    line.writer = uint16_t(warp);
    line.fenced = false;
    async.threads[current->id].wrote.push_back(l);
  }
  return nullptr;
}

// --- what kernels call ---

uint32_t shared_offset(const void* p) {
  return uint32_t(static_cast<const uint8_t*>(p) - block->shared);
}

void mbarrier_init(uint64_t* barrier, uint32_t arrivals, const Where& where) {
  Inside inside;
  begin();
  const uint32_t at = shared_offset(barrier);
  if (at % 8 != 0 || at + 8 > block->shared_bytes || arrivals == 0) {
    report("mbarrier_init of no barrier in shared memory", &where, nullptr);
    abandon_launch();
  }
  uint16_t& barriers = line_of(at).barriers;
  const auto word = uint16_t(1u << at % kLine / 8);
  if (barriers & word) report("mbarrier_init where a barrier lies", &where, nullptr);
  barriers |= word;
  Barrier b;
  b.arrivals = b.pending = arrivals;
  b.clocks.assign(async.warps + cluster.size(), 0);
  b.published = b.clocks;
  b.owner = current->id;
  b.member = block->member;
  async.barriers[{block->member, at}] = b;
}

void mbarrier_init_done() {
  Inside inside;
  for (auto& [at, b] : async.barriers) {
    if (b.done || b.owner != current->id) continue;
    b.done = true;
    b.made = clocks()[warp_of(*current)];
  }
}

namespace {
void arrive_at(Barrier* b, uint32_t bytes, const Where& where) {
  publish(current->id);
  join(&b->clocks, clocks());
  ++clocks()[warp_of(*current)];
  if (b->pending == 0) {
    report("more arrivals at a barrier than it was made for", &where, nullptr);
    return;
  }
  b->bytes += bytes;
  --b->pending;
  end_phase(b);
}
}  // namespace

void mbarrier_arrive(uint64_t* barrier, uint32_t bytes, const Where& where) {
  Inside inside;
  arrive_at(barrier_at(barrier, "arrival at a barrier", where), bytes, where);
}

void mbarrier_arrive_peer(uint64_t* barrier, int peer, const Where& where) {
  Inside inside;
  Barrier* b = barrier_of_peer(barrier, size_t(peer), "arrival at a barrier", where);
  const size_t warp = warp_of(*current);
  if (b->member != block->member) async.told[b->member][warp] = clocks()[warp];
  arrive_at(b, 0, where);
}

void mbarrier_wait(uint64_t* barrier, uint32_t parity, const Where& where) {
  Inside inside;
  Barrier* b = barrier_at(barrier, "wait at a barrier", where);
  while ((b->phases & 1) == parity) {
    b->waiting.push_back(current->id);
    park(Wait::mbarrier, where);
  }
  join(&clocks(), b->published);
}

void fence_proxy_async() {
  Inside inside;
  if (!async.used) return;
  for (uint32_t l : async.threads[current->id].wrote) async.lines[block->member][l].fenced = true;
}

namespace {
// One block's of a copy.
void copy_to(Barrier* barrier, void* shared, const CUtensorMap& map, int column, int row,
             const Where& where) {
  BoxCopy c;
  c.barrier = barrier;
  c.from = block->member, c.member = barrier->member;
  c.to = shared_offset(shared);
  c.base = reinterpret_cast<const uint8_t*>(map.opaque[0]);
  c.columns = int64_t(map.opaque[1]), c.rows = int64_t(map.opaque[2]);
  c.stride = map.opaque[3], c.box_rows = uint32_t(map.opaque[4]);
  c.column = column, c.row = row;
  if (c.to % 1024 != 0 || c.to + c.box_rows * kLine > block->shared_bytes || c.box_rows == 0) {
    report("copy to no place in shared memory, or not on 1024 bytes", &where, nullptr);
    abandon_launch();
  }
  for (uint32_t r = 0; r < c.box_rows; ++r) {
    const int64_t at = c.row + r, columns = std::min<int64_t>(64, c.columns - column);
    if (at >= 0 && at < c.rows && column >= 0 && columns > 0) {
      check_kernel_access(c.base + uint64_t(at) * c.stride + size_t(column) * 2,
                          size_t(columns) * 2, false, false, &where, nullptr);
    }
    Line& l = async.lines[c.member][c.to / kLine + r];
    const char* what = nullptr;
    if (l.in_flight || clocks()[engine_of(c.member)] < l.landed) what = "that another copy writes";
    if (l.written != 0 && clocks()[l.writer] < l.written) what = "that another warp wrote";
    for (size_t w = 0; w < async.each; ++w) {
      const uint32_t known = clocks()[c.member * async.each + w];
      if (known < l.read[w]) what = "that a wgmma may still read";
      if (known < l.used[w]) what = "that another warp may still read";
    }
    if (l.barriers) what = "where a barrier lies";
    const char* whose =
        c.member == c.from ? "copy to shared memory " : "copy to a peer's shared memory ";
    if (what) report(std::string(whose) + what, &where, nullptr);
    l.in_flight = true;
    l.written = 0;
    for (uint32_t i = 0; i < kLine; i += 16)
      mark_in_flight(c.member, cluster[c.member].shared + c.to + r * kLine + i, true);
  }
  async.copies.push_back(c);
}
}  // namespace

void copy_box(void* shared, const CUtensorMap& map, int column, int row, uint64_t* barrier,
              const Where& where) {
  Inside inside;
  copy_to(barrier_at(barrier, "copy", where), shared, map, column, row, where);
}

// parameters: those of copy_box, and whose
void copy_box_to(uint16_t blocks, void* shared, const CUtensorMap& map, int column, int row,
                 uint64_t* barrier, const Where& where) {
  Inside inside;
  for (size_t m = 0; m < 16; ++m) {
    if (blocks >> m & 1)
      copy_to(barrier_of_peer(barrier, m, "copy", where), shared, map, column, row, where);
  }
}

void set_registers(uint32_t n, bool take, const Where& where) {
  Inside inside;
  begin();
  uint32_t& own = async.registers[current->id];
  if (n % 8 != 0 || n < 24 || n > 256) {
    report(std::to_string(n) + " registers: multiples of 8 from 24 to 256 are possible", &where,
           nullptr);
  }
  if (take ? n < own : n > own) {
    report(std::string(take ? "takes" : "gives") + " registers to have " + std::to_string(n) +
               ", has " + std::to_string(own),
           &where, nullptr);
  }
  own = n;
}

void wgmma_fence(std::initializer_list<Registers> used) {
  Inside inside;
  begin();
  Thread& thread = async.threads[current->id];
  thread.fenced = true;
  for (const Registers& r : used) {
    const auto* from = static_cast<const uint8_t*>(r.at);
    std::erase_if(thread.named, [&](const Named& n) { return covers(r, n.where.at, 1); });
    thread.named.insert(thread.named.begin(), {r, {from, from + r.bytes}});
  }
}

void wgmma(const ProductKind& kind, float* d, const uint32_t* a, uint64_t b, const Where& where) {
  Inside inside;
  begin();
  Thread& thread = async.threads[current->id];
  Warpgroup& group = group_of(*current);
  const size_t t = current->index % kWarpgroup, index = thread.issued++;
  if (!thread.fenced) report("wgmma without a wgmma_fence before it", &where, nullptr);
  if (group.products.size() <= index) {
    group.products.push_back(std::make_unique<Product>());
    Product& fresh = *group.products[index];
    fresh.kind = kind, fresh.b = b;
    fresh.value.assign(kWarpgroup * size_t(kind.n), 0.0f);
  }
  Product& p = *group.products[index];
  if (p.kind != kind || p.b != b)
    report("wgmma differs among the threads of a warpgroup", &where, nullptr);
  p.d[t] = d;
  p.a_at[t] = a;
  std::copy_n(a, 4, p.a[t].begin());
  p.before[t] = -1;
  check_named(thread, a, 16, "A", where);
  const auto n = size_t(kind.n);
  if (kind.add) {
    for (size_t i = thread.retired; i < index; ++i) {
      if (group.products[i]->d[t] == d) p.before[t] = int(i);
    }
    if (p.before[t] >= 0) {
      ++group.products[size_t(p.before[t])]->users;
    } else {
      check_named(thread, d, n * sizeof(float), "a sum", where);
      std::copy_n(d, n, p.value.begin() + long(t * n));
    }
  }
  std::memset(static_cast<void*>(d), 0xff, n * sizeof(float));
  if (t % 32 == 0) check_reads(p, where);
  current->where = where;
  if (++p.arrived == kWarpgroup) wake(&group.waiting);
}

void wgmma_commit() {
  Inside inside;
  Thread& thread = async.threads[current->id];
  thread.groups.push_back(thread.issued);
}

void wgmma_wait(int groups_left, std::initializer_list<Registers> ready) {
  Inside inside;
  begin();
  Thread& thread = async.threads[current->id];
  Warpgroup& group = group_of(*current);
  const size_t t = current->index % kWarpgroup, warp = warp_of(*current);
  thread.fenced = false;
  size_t target = thread.retired;
  while (int(thread.groups.size()) > groups_left) {
    target = thread.groups.front();
    thread.groups.pop_front();
  }
  bool first = false;  // of its warp
  for (size_t i = thread.retired; i < target; ++i) {
    while (group.products[i]->arrived < kWarpgroup) {
      group.waiting.push_back(current->id);
      park(Wait::wgmma, current->where);
    }
    Product& p = *group.products[i];
    if (!p.done) multiply(&group, &p);
    if (std::memcmp(p.a_at[t], p.a[t].data(), 16) != 0)
      report("the registers of A changed while a wgmma was reading them", &current->where, nullptr);
    bool last = true;
    for (size_t j = i + 1; j < thread.issued; ++j) last = last && group.products[j]->d[t] != p.d[t];
    if (last) {
      std::copy_n(p.value.begin() + long(t) * p.kind.n, p.kind.n, p.d[t]);
      const size_t bytes = size_t(p.kind.n) * sizeof(float);
      if (std::ranges::none_of(ready, [&](const Registers& r) { return covers(r, p.d[t], bytes); }))
        report("wgmma_wait does not name the sum of a wgmma that it ends", &current->where,
               nullptr);
    }
    if (!p.over[t / 32]) {
      p.over[t / 32] = first = true;
      pieces(p, [&](uint32_t offset, uint32_t, uint32_t) {
        line_of(offset).read[warp_in_block(*current)] = clocks()[warp];
      });
    }
  }
  // A product that still runs may read the same lines.
  for (size_t i = target; first && i < thread.issued; ++i) {
    if (group.products[i]->over[t / 32]) continue;
    pieces(*group.products[i], [&](uint32_t offset, uint32_t, uint32_t) {
      line_of(offset).read[warp_in_block(*current)] = kNever;
    });
  }
  for (size_t i = thread.retired; i < target; ++i) {
    Product& p = *group.products[i];
    ++p.retired;
    forget_if_done(&p);
  }
  thread.retired = target;
  for (size_t i = target; i < thread.issued; ++i) {
    const Product& p = *group.products[i];
    const auto uses = [&](const Registers& r) {
      return covers(r, p.d[t], 1) || covers(r, p.a_at[t], 1);
    };
    if (std::ranges::any_of(ready, uses))
      report("registers are used while a wgmma on them is in flight", &current->where, nullptr);
  }
}

}  // namespace emu

// --- the driver's function ---

// parameters: the driver's own
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* address, const cuuint64_t* dims, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  // The limits of the real one, for the one kind of map that the emulation knows.
  if (uintptr_t(map) % 64 != 0 || type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || rank != 2 ||
      uintptr_t(address) % 16 != 0 || strides[0] % 16 != 0 || strides[0] < dims[0] * 2 ||
      dims[0] == 0 || dims[0] > (1ull << 32) || dims[1] == 0 || dims[1] > (1ull << 32) ||
      box[0] != 64 || box[1] == 0 || box[1] > 256 || element_strides[0] != 1 ||
      element_strides[1] != 1 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      swizzle != CU_TENSOR_MAP_SWIZZLE_128B || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *map = {};
  map->opaque[0] = uintptr_t(address);
  map->opaque[1] = dims[0];
  map->opaque[2] = dims[1];
  map->opaque[3] = strides[0];
  map->opaque[4] = box[1];
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool known = std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(cuTensorMapEncodeTiled) : nullptr;
  *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
