// Shared by the emulator's own files (fibers.cc, checker.cc, runtime.cc).
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "emu.h"

// Arithmetic, the same to the bit with wider registers where the machine has them.
#if defined(__x86_64__)
#define EMU_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define EMU_WIDE
#endif

namespace emu {

struct Copy {  // a cp.async that has been issued
  uint8_t* dst;
  const uint8_t* src;
  bool enabled;  // false: sixteen zeros
  bool landed;
};

enum class Wait : uint8_t { none, block, named, collective, mbarrier, wgmma, cluster, peer, done };

struct ThreadState {
  void* sp = nullptr;
  uint8_t* stack = nullptr;
  dim3 tid;
  uint16_t index = 0;   // in its block
  uint16_t member = 0;  // its block, in the cluster
  uint16_t id = 0;      // among all threads of the cluster
  Wait wait = Wait::none;
  bool pdl_waited = false;
  bool arrived = false;              // at the cluster's barrier, at which others are missing
  bool waits_cluster = false;        // has arrived and not waited yet
  Where where;                       // of the barrier or collective it waits at
  std::array<uint32_t, 4> result{};  // of the last collective
};
struct Fiber : ThreadState {
  std::vector<Copy> open;  // cp.async not yet committed
  std::deque<std::vector<Copy>> groups;
};

struct Collective;  // of a warp, not yet complete

struct NamedBarrier {
  int threads = 0;                // that complete it, as the first of them has said
  std::bitset<1024> come, users;  // threads of the block; users: those who completed it first
  std::vector<uint16_t> waiting;  // ids
};

struct Block {
  dim3 index;
  uint16_t member = 0;  // of the cluster
  uint32_t serial = 0;  // of all blocks ever run, from 1: names launch and block at once
  uint16_t epoch = 0;   // block barriers passed
  std::vector<uint16_t> warp_epoch;
  uint8_t* shared = nullptr;
  size_t shared_bytes = 0;
  int alive = 0;                     // threads
  std::vector<uint16_t> at_barrier;  // ids
  std::map<int, NamedBarrier> named;
  std::vector<std::vector<Collective>> pending;  // by warp
  // Blocks of the launch whose work before this epoch of theirs has been waited for, by serial.
  std::map<uint32_t, uint16_t> awaited;
};

struct Launch {
  std::string name;
  dim3 grid, block;
  unsigned cluster = 1;  // blocks, one after another in y, that run side by side
  bool pdl = false;
  int device = 0;
  uint32_t first_serial = 0;     // serials from here on belong to this launch
  uint32_t complete_serial = 0;  // launches below this one are complete when this one starts
  std::map<const void*, std::map<uint32_t, uint16_t>> arrivals;  // by counter: block, its epoch
};

// Null outside a kernel. The block is that of the running thread.
extern constinit thread_local Fiber* current;
extern constinit thread_local Block* block;
extern thread_local std::vector<Block> cluster;  // all that run side by side
extern constinit thread_local Launch* current_launch;

// True while kernel code runs, false inside the emulator: templates of the standard library may be
// shared with instrumented code by the linker, and their accesses are nobody's business.
extern constinit thread_local bool hooks_on;
struct Inside {
  Inside() { hooks_on = false; }
  ~Inside() { hooks_on = before; }
  bool before = hooks_on;
};

inline constexpr size_t kStackBytes = 64 << 10;
inline constexpr size_t kMostThreads = 2048;  // that run side by side

// fibers.cc
void run_grid(Launch& launch, size_t shared, const std::function<void()>& body);
void give_way();  // lets another fiber of the cluster run
[[noreturn]] void
abandon_launch();  // after an access that would fault: like a device, stop everything
// Waits for make_ready() by somebody else.
void park(Wait why, const Where& where);
void make_ready(uint16_t id);
uint64_t random_word();
uint32_t next_serial();  // the serial that the next block will get

// runtime.cc
void let_others_run();             // the kernel is parked: another thread's may run for a while
bool may_reach(int from, int to);  // devices

// checker.cc
void report(const std::string& what, const Where* where, const void* pc);
void add_memory(void* p, size_t bytes, int device);
void remove_memory(void* p);
// Host code wrote these bytes of device memory (or: check that they are device memory).
bool host_wrote(void* p, size_t bytes);
bool host_reads(const void* p, size_t bytes, std::string* why);
void begin_cluster_check();
void check_kernel_access(const void* p, size_t bytes, bool write, bool atomic, const Where* where,
                         const void* pc);
// Of a member of the cluster.
void mark_in_flight(size_t member, const void* shared16, bool in_flight);
void mark_landed(size_t member, const void* shared, size_t bytes);  // a copy has: by nobody

// hopper.cc
void begin_async_cluster();
void end_async_cluster();
void end_async_thread();
void end_async_block();  // the last of its threads has ended
bool land_late();        // nothing else can run: a copy lands (false: there is none)
void land_early();       // random order: now and then
void async_warp_barrier(size_t warp);
void async_block_barrier();
void async_cluster_arrive();
void async_cluster_barrier();  // all have arrived
void async_cluster_wait();
// Null when this thread may touch these bytes of shared memory.
const char* async_access(const void* shared, size_t bytes, bool write);

}  // namespace emu
