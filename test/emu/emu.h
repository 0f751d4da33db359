// The CPU emulation of a CUDA device: what kernel code may call. The kernels' own source compiles
// with g++ against this header (through cuda/gpu.h) and runs here, one fiber per CUDA thread,
// blocks one after another (those of a cluster side by side), in an order that the test chooses.
//
// Everything here is called from inside a running kernel, on the thread that called launch(). The
// other half (launching, memory, graphs) looks like the CUDA runtime: test/emu/cuda_runtime.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emu {

using Where = std::source_location;

// --- what a test sets ---

enum class Order { natural, reverse, random };
struct Config {
  Order order = Order::natural;
  uint64_t seed = 1;
  // Random order: chance that a checked memory access gives way to another fiber.
  double preempt = 0;
  bool check = true;  // races, bounds, uninitialised reads, transfers in flight
};
inline Config& config() {
  static constinit Config c;
  return c;
}

// What the checker found since the last call, each with kernel, thread and source line.
std::vector<std::string> take_errors();
bool has_errors();

struct Counters {
  uint64_t launches = 0, blocks = 0, switches = 0, accesses = 0;
  uint64_t dependent = 0;  // launches with the PDL attribute
  uint64_t triggers = 0;   // threads that let the next launch begin
  uint64_t graphs = 0;     // launches of graphs
};
inline Counters& counters() {
  static constinit Counters c;
  return c;
}

// Kernels that were loaded and have not run.
std::vector<const void*> never_launched();
// Of a kernel of this program, with the arguments of its template, through the binutils.
std::string function_name(const void* kernel);

// --- identity ---

dim3 thread_index();
dim3 block_index();
dim3 block_size();
dim3 grid_size();
uint8_t* dynamic_shared();

// --- barriers and warp collectives ---

void block_barrier(const Where& where);
void warp_barrier(uint32_t mask, const Where& where);
// One of 1 to 15, of so many threads; without `waits` the thread only arrives.
void named_barrier(int id, int threads, bool waits, const Where& where);
// Of all threads of a cluster.
void cluster_arrive(const Where& where);
void cluster_wait(const Where& where);
uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane, const Where& where);
uint32_t ballot(uint32_t mask, bool predicate, const Where& where);
// Fragment layouts as PTX defines them for m16n8k16, bf16 in, f32 accumulate.
void mma_bf16(float* c, const uint32_t* a, uint32_t b0, uint32_t b1, const Where& where);
// Four 8x8 matrices of 16-bit elements; lane 8 j + i gives the address of row i of matrix j.
void ldmatrix_x4(uint32_t* r, const void* row, bool transposed, const Where& where);

// --- memory ---

// Tells the checker about an access that the compiler's hooks do not see.
void check_access(const void* p, size_t bytes, bool write, const Where& where);
void cp_async(void* shared, const void* global, bool enabled, const Where& where);
void cp_async_commit();
void prefetch(const void* global, size_t bytes, const Where& where);
void cp_async_wait(int groups_left, const Where& where);
// Applies `f` to the value at p in one indivisible step and returns the old value.
void atomic_begin(const void* p, size_t bytes, const Where& where);
template <class T, class F>
__attribute__((no_sanitize("thread"))) T atomic(T* p, F f, const Where& where) {
  atomic_begin(p, sizeof(T), where);
  T old;
  __builtin_memcpy(&old, p, sizeof(T));
  const T next = f(old);
  __builtin_memcpy(p, &next, sizeof(T));
  return old;
}
// --- memory that several devices read and write ---

// Reads what another device may be writing, and is ordered after the write of what it reads.
void peer_load(void* value, const void* p, size_t bytes, const Where& where);
void peer_store(void* p, const void* value, size_t bytes, const Where& where);
// Who spins on such a word: parks the thread; when no other thread of its block can run, other
// devices' kernels do.
void peer_pause(const Where& where);
uint64_t nanoseconds();

// One more block has passed the barrier before this call: true for the last of `total`, and what
// the others did before theirs is then ordered before what this block does. The counter starts
// again.
bool arrive(uint32_t* counter, uint32_t total, const Where& where);

// The checker's hooks work between these two only (called around the kernel's body).
void enter_kernel();
void leave_kernel();

// --- programmatic dependent launch ---
// Before pdl_wait() a kernel launched with the PDL attribute may overlap its predecessors: the
// checker refuses what would then be a race. A thread that ends without it is an error too.
void pdl_wait();
// Starts nothing: launches overlap by pdl_wait() alone. It is counted.
void pdl_launch_dependents();

}  // namespace emu
