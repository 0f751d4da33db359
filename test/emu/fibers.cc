// One fiber per CUDA thread, the block's barriers and the warp's collectives.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "cuda_runtime.h"
#include "internal.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

constinit thread_local Fiber* current = nullptr;
constinit thread_local Block* block = nullptr;
constinit thread_local Launch* current_launch = nullptr;
constinit thread_local bool hooks_on = false;

enum class Op : uint8_t { sync, shuffle, ballot, mma, ldmatrix, ldmatrix_trans };
struct Collective {
  Op op;
  uint32_t mask = 0, arrived = 0;
  Where where;
  uint8_t in[32][40];

  Collective() {}  // which leaves `in` as it is
};
thread_local std::vector<Block> cluster;

void enter_kernel() { hooks_on = true; }
void leave_kernel() { hooks_on = false; }

namespace {

// --- switching ---

#if defined(__x86_64__)
extern "C" void emu_switch(void** save, void* load);
asm(R"(
.text
.globl emu_switch
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
)");
void* make_context(uint8_t* stack, uint16_t id, void (*entry)()) {
  // As if emu_switch had saved six registers just before `entry`; the slot above it keeps the ABI's
  // alignment (rsp is 16 n + 8 when a function begins). Stacks are a power of two apart: how
  // far down each begins keeps what they have in use in different lines of the processor's caches.
  const size_t down = size_t(id) * 13 % 256 * 64;
  auto** sp = reinterpret_cast<void**>(stack + kStackBytes - 64 - down);
  *--sp = nullptr;
  *--sp = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  return sp;
}
#else
void emu_switch(void** save, void* load) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(load));
}
void* make_context(uint8_t* stack, uint16_t, void (*entry)()) {
  auto* c = reinterpret_cast<ucontext_t*>(stack);
  getcontext(c);
  c->uc_stack.ss_sp = stack + sizeof(ucontext_t);
  c->uc_stack.ss_size = kStackBytes - sizeof(ucontext_t);
  c->uc_link = nullptr;
  makecontext(c, entry, 0);
  return c;
}
#endif

// --- the state of the running cluster ---

constexpr const char* kOpNames[] = {"warp_sync", "shuffle",  "ballot",
                                    "mma",       "ldmatrix", "ldmatrix (trans)"};

// SplitMix64.
struct Random {
  using result_type = uint64_t;
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return UINT64_MAX; }
  uint64_t operator()() {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  uint64_t state = 0;
};

thread_local std::vector<Fiber> fibers;  // by id: each block's from a whole warp on
thread_local std::vector<uint16_t> ready;
thread_local size_t next = 0;                   // of them: natural order takes from the front
thread_local std::vector<uint16_t> at_peers;    // in peer_pause()
thread_local std::vector<uint16_t> at_cluster;  // in cluster_wait()
thread_local int in_cluster = 0, arrived = 0;   // threads that have not ended; at its barrier
thread_local void* scheduler_sp = nullptr;
thread_local bool abandoned = false;
thread_local const std::function<void()>* body = nullptr;
constinit thread_local Random rng;
uint32_t last_serial = 0;

// A host thread's stacks, for as long as it lives; the lowest page of every stack is a guard.
struct Stacks {
  static constexpr size_t kBytes = kMostThreads * kStackBytes;
  Stacks() {
    void* p = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    data = static_cast<uint8_t*>(p);
  }
  ~Stacks() { munmap(data, kBytes); }
  uint8_t* data;
  size_t guarded = 0;
};

uint8_t* stack_of(size_t i) {
  static thread_local Stacks stacks;
  for (; stacks.guarded <= i; ++stacks.guarded)
    mprotect(stacks.data + stacks.guarded * kStackBytes, 4096, PROT_NONE);
  return stacks.data + i * kStackBytes;
}

Fiber* first_of(size_t warp) {  // of the running block
  return &fibers[current->id - current->index + warp * 32];
}

// Whether there is one that can run; it becomes the current one.
bool take_next() {
  const Order order = config().order;
  if (next >= ready.size()) return false;
  if (order == Order::random) land_early();
  size_t pick = next;
  if (order == Order::reverse) pick = ready.size() - 1;
  if (order == Order::random) pick = next + rng() % (ready.size() - next);
  const uint16_t id = ready[pick];
  if (order == Order::natural) {
    ++next;
    if (next > 4096) {
      ready.erase(ready.begin(), ready.begin() + long(next));
      next = 0;
    }
  } else {
    ready[pick] = ready.back();
    ready.pop_back();
  }
  ++counters().switches;
  current = &fibers[id];
  block = &cluster[current->member];
  return true;
}

// To the next that can run, or to the scheduler where there is none.
void leave(Wait why) {
  Fiber& own = *current;
  own.wait = why;
  if (abandoned || !take_next()) {
    emu_switch(&own.sp, scheduler_sp);
  } else if (current != &own) {
    emu_switch(&own.sp, current->sp);
  }
}

void release_barrier() {
  ++block->epoch;
  async_block_barrier();
  for (uint16_t i : block->at_barrier) make_ready(i);
  block->at_barrier.clear();
}

// The cluster's barrier waits for those that have not ended.
void release_cluster() {
  if (arrived < in_cluster) return;
  arrived = 0;
  async_cluster_barrier();
  for (uint16_t i : at_cluster) make_ready(i);
  for (Fiber& f : fibers) f.arrived = false;
  at_cluster.clear();
}

void end_block() {
  end_async_block();
  for (const auto& [id, barrier] : block->named) {
    if (barrier.come.any())
      report("block ends with arrivals at named barrier " + std::to_string(id) +
                 " that nobody has waited for",
             nullptr, nullptr);
  }
}

void fiber_main() {
  (*body)();
  Fiber& f = *current;
  if (!f.open.empty() || !f.groups.empty())
    report("thread ends with a cp.async in flight", nullptr, nullptr);
  if (current_launch->pdl && !f.pdl_waited) {
    report("thread of a kernel launched with PDL ends without pdl_wait()", nullptr, nullptr);
  }
  end_async_thread();
  if (--block->alive == 0) end_block();
  if (block->alive > 0 && int(block->at_barrier.size()) == block->alive) release_barrier();
  if (f.waits_cluster)
    report("thread ends between cluster_arrive() and cluster_wait()", nullptr, nullptr);
  if (f.arrived) --arrived;
  --in_cluster;
  if (arrived > 0) release_cluster();
  leave(Wait::done);
  std::abort();
}

float bf16(uint32_t reg, int half) { return std::bit_cast<float>((reg >> (16 * half)) << 16); }

EMU_WIDE void multiply(const double (&a)[16][16], const double (&b)[16][8], double (&d)[16][8]) {
  for (int i = 0; i < 16; ++i) {
    double row[8] = {};
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) row[j] += a[i][k] * b[k][j];
    }
    for (int j = 0; j < 8; ++j) d[i][j] = row[j];
  }
}

void finish_mma(Collective& c, Fiber* lanes) {
  // Registers of lane 4 g + t, as the PTX manual draws them: a0/a1 are rows g and g+8 at columns
  // 2t, a2/a3 the same rows at columns 2t+8; b0/b1 are column g at rows 2t and 2t+8; c: rows g,
  // g+8.
  struct In {
    uint32_t a[4], b[2];
    float c[4];
  };
  double a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    In in;
    std::memcpy(&in, c.in[lane], sizeof in);
    const int g = lane >> 2, t = lane & 3;
    for (int h = 0; h < 2; ++h) {
      a[g][2 * t + h] = double(bf16(in.a[0], h));
      a[g + 8][2 * t + h] = double(bf16(in.a[1], h));
      a[g][2 * t + 8 + h] = double(bf16(in.a[2], h));
      a[g + 8][2 * t + 8 + h] = double(bf16(in.a[3], h));
      b[2 * t + h][g] = double(bf16(in.b[0], h));
      b[2 * t + 8 + h][g] = double(bf16(in.b[1], h));
    }
  }
  double d[16][8];
  multiply(a, b, d);
  for (int lane = 0; lane < 32; ++lane) {
    In in;
    std::memcpy(&in, c.in[lane], sizeof in);
    const int g = lane >> 2, t = lane & 3;
    for (int i = 0; i < 4; ++i) {
      const double sum = double(in.c[i]) + d[g + 8 * (i >> 1)][2 * t + (i & 1)];
      lanes[lane].result[size_t(i)] = std::bit_cast<uint32_t>(float(sum));
    }
  }
}

void finish_ldmatrix(Collective& c, Fiber* lanes, bool transposed) {
  const uint8_t* rows[32];
  for (int lane = 0; lane < 32; ++lane) {
    std::memcpy(&rows[lane], c.in[lane], sizeof(void*));
  }
  for (int j = 0; j < 4; ++j) {
    uint16_t m[8][8];
    for (int i = 0; i < 8; ++i) std::memcpy(m[i], rows[8 * j + i], 16);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane >> 2, t = lane & 3;
      const uint16_t lo = transposed ? m[2 * t][g] : m[g][2 * t];
      const uint16_t hi = transposed ? m[2 * t + 1][g] : m[g][2 * t + 1];
      lanes[lane].result[size_t(j)] = uint32_t(lo) | uint32_t(hi) << 16;
    }
  }
}

void finish(Collective& c, size_t warp) {
  Fiber* lanes = first_of(warp);
  switch (c.op) {
    case Op::sync:
      ++block->warp_epoch[warp];
      async_warp_barrier(warp);
      break;
    case Op::shuffle:
      for (int lane = 0; lane < 32; ++lane) {
        if (!(c.mask >> lane & 1)) continue;
        uint64_t source = 0, value = 0;
        std::memcpy(&source, c.in[lane] + 8, 8);
        if (source > 31 || !(c.mask >> source & 1)) {
          report("shuffle reads lane " + std::to_string(source) + ", which is not in the mask",
                 &c.where, nullptr);
          source = uint64_t(lane);
        }
        std::memcpy(&value, c.in[source], 8);
        lanes[lane].result[0] = uint32_t(value);
        lanes[lane].result[1] = uint32_t(value >> 32);
      }
      break;
    case Op::ballot: {
      uint32_t bits = 0;
      for (int lane = 0; lane < 32; ++lane) {
        if (c.mask >> lane & 1) bits |= uint32_t(c.in[lane][0]) << lane;
      }
      for (int lane = 0; lane < 32; ++lane) {
        if (c.mask >> lane & 1) lanes[lane].result[0] = bits;
      }
      break;
    }
    case Op::mma: finish_mma(c, lanes); break;
    case Op::ldmatrix: finish_ldmatrix(c, lanes, false); break;
    case Op::ldmatrix_trans: finish_ldmatrix(c, lanes, true); break;
  }
}

void collective(Op op, uint32_t mask, const void* in, size_t bytes, const Where& where) {
  Inside inside;
  const size_t warp = current->index / 32u, lane = current->index % 32u;
  if (!(mask >> lane & 1)) {
    report(std::string(kOpNames[size_t(op)]) + " by a lane that is not in its own mask", &where,
           nullptr);
    return;
  }
  auto& list = block->pending[warp];
  auto it = std::find_if(list.begin(), list.end(), [&](const Collective& c) {
    return c.op == op && c.mask == mask && !(c.arrived >> lane & 1) &&
           c.where.line() == where.line();
  });
  if (it == list.end()) {
    list.emplace_back();
    it = list.end() - 1;
    it->op = op;
    it->mask = mask;
    it->where = where;
  }
  it->arrived |= 1u << lane;
  std::memcpy(it->in[lane], in, bytes);
  if (it->arrived != mask) {
    current->where = where;
    leave(Wait::collective);
    return;
  }
  finish(*it, warp);
  list.erase(it);
  for (size_t l = 0; l < 32; ++l) {
    if (l == lane || !(mask >> l & 1)) continue;
    make_ready(first_of(warp)[l].id);
  }
}

// Nothing else of the cluster can run: other threads' kernels may, then those who wait look again.
// After a fault on any GPU what they wait for may never come.
bool look_at_peers() {
  if (at_peers.empty()) return false;
  let_others_run();
  abandoned = abandoned || has_errors();
  if (abandoned) return false;
  for (uint16_t i : at_peers) make_ready(i);
  at_peers.clear();
  return true;
}

void start_threads(const Launch& launch) {
  const size_t n = size_t(launch.block.x) * launch.block.y * launch.block.z;
  const size_t each = (n + 31) / 32 * 32;
  fibers.resize(each * cluster.size());
  for (Fiber& f : fibers) {
    static_cast<ThreadState&>(f) = {};
    f.open.clear();
    f.groups.clear();
  }
  in_cluster = int(n * cluster.size());
  arrived = 0;
  at_cluster.clear();
  for (Block& b : cluster) {
    b.alive = int(n);
    for (size_t i = 0; i < n; ++i) {
      const size_t id = b.member * each + i;
      Fiber& f = fibers[id];
      f.index = uint16_t(i);
      f.member = b.member;
      f.id = uint16_t(id);
      f.tid = {unsigned(i % launch.block.x), unsigned(i / launch.block.x % launch.block.y),
               unsigned(i / launch.block.x / launch.block.y)};
      f.stack = stack_of(id);
      f.sp = make_context(f.stack, f.id, fiber_main);
      ready.push_back(f.id);
    }
  }
}

// Nothing can run: says who waits where, once per place.
void report_waiting() {
  std::vector<std::string> places;
  for (Fiber& f : fibers) {
    if (!f.sp || f.wait == Wait::done) continue;
    current = &f;
    block = &cluster[f.member];
    const std::string what = f.wait == Wait::block      ? "block barrier"
                             : f.wait == Wait::named    ? "named barrier"
                             : f.wait == Wait::mbarrier ? "barrier in shared memory"
                             : f.wait == Wait::wgmma    ? "wgmma_wait"
                             : f.wait == Wait::cluster  ? "cluster_wait"
                                                        : "warp collective";
    const std::string place = what + std::to_string(f.where.line());
    if (std::find(places.begin(), places.end(), place) == places.end()) {
      places.push_back(place);
      report("deadlock: waits forever at a " + what, &f.where, nullptr);
    }
  }
  current = nullptr;
}

void run_cluster(Launch& launch) {
  begin_cluster_check();
  begin_async_cluster();
  start_threads(launch);
  while (next < ready.size() || land_late() || look_at_peers()) {
    if (!take_next()) continue;  // what landed woke nobody
    emu_switch(&scheduler_sp, current->sp);
    current = nullptr;
    if (abandoned) break;
  }
  ready.clear();
  next = 0;
  at_peers.clear();
  if (abandoned) return;
  const auto ended = [](const Block& b) { return b.alive == 0; };
  if (std::ranges::all_of(cluster, ended)) {
    end_async_cluster();
  } else {
    report_waiting();
  }
}

}  // namespace

uint64_t nanoseconds() {
  return uint64_t(std::chrono::steady_clock::now().time_since_epoch() /
                  std::chrono::nanoseconds(1));
}
uint64_t random_word() { return rng(); }
uint32_t next_serial() { return last_serial + 1; }

void abandon_launch() {
  abandoned = true;
  leave(Wait::done);
  std::abort();
}

void give_way() {
  if (!current) return;
  ready.push_back(current->id);
  leave(Wait::none);
}

void park(Wait why, const Where& where) {
  current->where = where;
  leave(why);
}

void make_ready(uint16_t id) {
  fibers[id].wait = Wait::none;
  ready.push_back(id);
}

void peer_pause(const Where& where) {
  Inside inside;
  at_peers.push_back(current->id);
  park(Wait::peer, where);
}

void run_grid(Launch& launch, size_t shared, const std::function<void()>& kernel) {
  const size_t threads = size_t(launch.block.x) * launch.block.y * launch.block.z;
  // Clusters lie along y.
  const unsigned members = launch.cluster;
  const dim3 grid = {launch.grid.x, launch.grid.y / members, launch.grid.z};
  rng.state = config().seed;
  std::vector<uint32_t> order(size_t(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = uint32_t(i);
  if (config().order == Order::reverse) std::reverse(order.begin(), order.end());
  if (config().order == Order::random) std::shuffle(order.begin(), order.end(), rng);
  // Shared memory begins at a fixed alignment, filled with NaNs.
  const size_t each = (shared + 1023) / 1024 * 1024;
  std::vector<uint8_t> memory(each * members + 1024);
  uint8_t* first =
      memory.data() + (1024 - reinterpret_cast<uintptr_t>(memory.data()) % 1024) % 1024;
  body = &kernel;
  launch.first_serial = last_serial + 1;
  current_launch = &launch;
  ++counters().launches;
  for (uint32_t id : order) {
    std::memset(first, 0xff, each * members);
    cluster.assign(members, Block{});
    for (unsigned m = 0; m < members; ++m) {
      ++counters().blocks;
      Block& b = cluster[m];
      b.index = {id % grid.x, id / grid.x % grid.y * members + m, id / grid.x / grid.y};
      b.member = uint16_t(m);
      b.serial = ++last_serial;
      b.shared = first + m * each;
      b.shared_bytes = shared;
      b.warp_epoch.assign((threads + 31) / 32, 0);
      b.pending.resize((threads + 31) / 32);
    }
    run_cluster(launch);
    if (abandoned) break;
  }
  abandoned = false;
  block = nullptr;
  current_launch = nullptr;
}

dim3 thread_index() { return current->tid; }
dim3 block_index() { return block->index; }
dim3 block_size() { return current_launch->block; }
dim3 grid_size() { return current_launch->grid; }
uint8_t* dynamic_shared() { return block->shared; }

void block_barrier(const Where& where) {
  Inside inside;
  auto& waiting = block->at_barrier;
  if (!waiting.empty()) {
    const Where& first = fibers[waiting.front()].where;
    if (first.line() != where.line()) {
      report("divergent block barrier: others wait at line " + std::to_string(first.line()), &where,
             nullptr);
    }
  }
  current->where = where;
  waiting.push_back(current->id);
  if (int(waiting.size()) == block->alive) release_barrier();
  leave(waiting.empty() ? Wait::none : Wait::block);
}

void named_barrier(int id, int threads, bool waits, const Where& where) {
  Inside inside;
  const std::string name = "named barrier " + std::to_string(id);
  const dim3 all = current_launch->block;
  const auto refuse = [&](const std::string& why) {
    report(name + why, &where, nullptr);
    abandon_launch();
  };
  if (id < 1 || id > 15) refuse(" is none of 1 to 15");
  if (threads <= 0 || threads % 32 != 0 || unsigned(threads) > all.x * all.y * all.z)
    refuse(" of " + std::to_string(threads) + " threads: not whole warps of the block");
  NamedBarrier& barrier = block->named[id];
  if (barrier.come.none()) barrier.threads = threads;
  if (barrier.threads != threads)
    refuse(": others say that it is of " + std::to_string(barrier.threads) + " threads");
  if (barrier.come[current->index]) refuse(": a thread comes again before it is complete");
  barrier.come.set(current->index);
  if (int(barrier.come.count()) < threads) {
    if (!waits) return;
    barrier.waiting.push_back(current->id);
    return park(Wait::named, where);
  }
  if (barrier.users.none()) barrier.users = barrier.come;
  if (barrier.users != barrier.come) refuse(" has been other threads'");
  barrier.come.reset();
  for (uint16_t i : barrier.waiting) make_ready(i);
  barrier.waiting.clear();
}

void cluster_arrive(const Where& where) {
  Inside inside;
  if (current->waits_cluster)
    report("cluster_arrive() twice without cluster_wait()", &where, nullptr);
  if (!current->arrived) ++arrived;
  current->arrived = current->waits_cluster = true;
  async_cluster_arrive();
  release_cluster();
}

void cluster_wait(const Where& where) {
  Inside inside;
  if (!current->waits_cluster) {
    report("cluster_wait() without cluster_arrive()", &where, nullptr);
    return;
  }
  if (current->arrived) {
    at_cluster.push_back(current->id);
    park(Wait::cluster, where);
  }
  current->waits_cluster = false;
  async_cluster_wait();
}

void warp_barrier(uint32_t mask, const Where& where) { collective(Op::sync, mask, "", 0, where); }

uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane, const Where& where) {
  const uint64_t in[2] = {value, uint64_t(source_lane)};
  collective(Op::shuffle, mask, in, sizeof in, where);
  return uint64_t(current->result[0]) | uint64_t(current->result[1]) << 32;
}

uint32_t ballot(uint32_t mask, bool predicate, const Where& where) {
  const uint8_t in = predicate;
  collective(Op::ballot, mask, &in, 1, where);
  return current->result[0];
}

void mma_bf16(float* c, const uint32_t* a, uint32_t b0, uint32_t b1, const Where& where) {
  uint32_t in[10];
  std::memcpy(in, a, 16);
  in[4] = b0;
  in[5] = b1;
  std::memcpy(in + 6, c, 16);
  collective(Op::mma, ~0u, in, sizeof in, where);
  std::memcpy(c, current->result.data(), 16);
}

void ldmatrix_x4(uint32_t* r, const void* row, bool transposed, const Where& where) {
  // Every lane checks the row that it names: sixteen bytes of shared memory.
  check_access(row, 16, false, where);
  collective(transposed ? Op::ldmatrix_trans : Op::ldmatrix, ~0u, &row, sizeof row, where);
  std::memcpy(r, current->result.data(), 16);
}

// --- cp.async ---

namespace {
void land(Copy& c) {
  if (c.landed) return;
  if (c.enabled) {
    std::memcpy(c.dst, c.src, 16);
  } else {
    std::memset(c.dst, 0, 16);
  }
  c.landed = true;
}
}  // namespace

void cp_async(void* shared, const void* global, bool enabled, const Where& where) {
  Inside inside;
  if ((reinterpret_cast<uintptr_t>(shared) | (enabled ? reinterpret_cast<uintptr_t>(global) : 0)) %
      16) {
    report("cp.async address not 16-byte aligned", &where, nullptr);
    return;
  }
  if (enabled) check_kernel_access(global, 16, false, false, &where, nullptr);
  check_kernel_access(shared, 16, true, false, &where, nullptr);
  mark_in_flight(block->member, shared, true);
  Copy c{static_cast<uint8_t*>(shared), static_cast<const uint8_t*>(global), enabled, false};
  // A real copy lands at any time between here and the wait; random order tries both ends.
  if (config().order == Order::random && (rng() & 1)) land(c);
  current->open.push_back(c);
}

void cp_async_commit() {
  Inside inside;
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

void cp_async_wait(int groups_left, const Where& where) {
  Inside inside;
  while (int(current->groups.size()) > groups_left) {
    for (Copy& c : current->groups.front()) {
      land(c);
      mark_in_flight(block->member, c.dst, false);
      check_kernel_access(c.dst, 16, true, false, &where, nullptr);
    }
    current->groups.pop_front();
  }
}

void pdl_launch_dependents() { ++counters().triggers; }
void pdl_wait() {
  if (machine().ptx >= 90) current->pdl_waited = true;
}

}  // namespace emu
