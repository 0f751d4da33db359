// What sm_90a adds to the dialect of gpu.h: barriers in shared memory, the copy engine (TMA) and
// the matrix products of a warpgroup (wgmma). Under g++ the same names come from
// test/emu/emu_hopper.h.
//
// All of it is asynchronous. What a copy writes may be read after mbarrier_wait; what a product
// reads may be written, and its registers used, after wgmma_wait. Both go through the "async
// proxy": shared memory that threads wrote themselves needs fence_proxy_async() before a product
// reads it.
#pragma once

#include <cuda.h>

#include "cuda/gpu.h"

// Kernels of this dialect have a body only here.
#if defined(__CUDACC__) && defined(__CUDA_ARCH__)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GPU_HOPPER 1
#else
#define GPU_HOPPER 0
#endif
#else
#define GPU_HOPPER 1
#endif

#if !defined(__CUDACC__)
#include "emu_hopper.h"
#endif

namespace nemotron::gpu {

inline constexpr int kWarpgroup = 128;

// Where a matrix of BF16 or F16 lies in shared memory, for wgmma: pieces of eight rows of 128
// bytes, whose sixteen-byte chunks are turned as the copy engine's 128-byte swizzle does (chunk ^
// row % 8; the memory begins on 1024 bytes). `stride` leads from piece to piece down the rows,
// `leading` to the next 64 columns where a product takes more than 64 of them (values; keys ignore
// it).
GPU_DEVICE uint64_t wgmma_descriptor(uint32_t shared_address, uint32_t leading, uint32_t stride) {
  return uint64_t((shared_address & 0x3ffffu) >> 4) | uint64_t(leading >> 4) << 16 |
         uint64_t(stride >> 4) << 32 | uint64_t(1) << 62;
}
// The descriptor of the same matrix `bytes` further on.
GPU_DEVICE uint64_t wgmma_advance(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

#if defined(__CUDACC__)

// --- barriers ---

GPU_DEVICE void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
// After the last mbarrier_init and before the block_sync that publishes them.
GPU_DEVICE void mbarrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::
                   : "memory");
}
GPU_DEVICE void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
// Arrives, and holds the phase until `bytes` have been copied too.
GPU_DEVICE void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
// Waits for the end of the phase of this parity: 0 for the first, 1 for the second, 0 ...
GPU_DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.b32 %0, 1, 0, p;\n\t}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}
// The same, where arrivals or copies come from other blocks of the cluster too.
GPU_DEVICE void mbarrier_wait_peers(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.b32 %0, 1, 0, p;\n\t}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}
// At the barrier in the same place of block `peer` of the cluster, which may be this one.
GPU_DEVICE void mbarrier_arrive_peer(uint64_t* barrier, int peer) {
  asm volatile(
      "{\n\t.reg .b32 there;\n\t"
      "mapa.shared::cluster.u32 there, %0, %1;\n\t"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n\t}" ::"r"(
          shared_address(barrier)),
      "r"(peer)
      : "memory");
}
// The barrier of all threads of a cluster. Between its two halves: after cluster_wait() peers have
// made the barriers that they made before cluster_arrive(). A block must not end before its peers
// are done with its memory.
GPU_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
GPU_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
GPU_DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// One of the block's barriers 1 to 15 (block_sync's is 0), complete when so many threads have come,
// whole warps. Who waits is counted, too; who arrives goes on.
GPU_DEVICE void named_barrier_wait(int id, int threads) {
  asm volatile("barrier.cta.sync.aligned %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
GPU_DEVICE void named_barrier_arrive(int id, int threads) {
  asm volatile("barrier.cta.arrive.aligned %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- copies ---

// One box of a two-dimensional tensor map, from (column, row) on, counted by `barrier`.
GPU_DEVICE void copy_box(void* shared, const CUtensorMap& map, int column, int row,
                         uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}
// The same to each block of the cluster whose bit is set: to the same place, counted by the barrier
// in the same place.
// parameters: those of copy_box, and whose
GPU_DEVICE void copy_box_to(uint16_t blocks, void* shared, const CUtensorMap& map, int column,
                            int row, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(shared)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier)), "h"(blocks)
      : "memory");
}

// --- numbers ---

// The lower two bytes of w, as E4M3, to a pair of F16: exact.
GPU_DEVICE uint32_t e4m3_to_f16(uint32_t w) {
  uint32_t r;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(uint16_t(w)));
  return r;
}

// --- products of a warpgroup ---

// The compiler takes an accumulator for finished as soon as its product has been issued: these pin
// it on the right side of fence and wait.
template <int n>
GPU_DEVICE void pin(float (&v)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(v[i])::"memory");
}
template <int m, int n>
GPU_DEVICE void pin(uint32_t (&v)[m][n]) {
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int j = 0; j < n; ++j) asm volatile("" : "+r"(v[i][j])::"memory");
  }
}

// Before the first product after registers that products use have been written: `used` are they.
template <class... Registers>
GPU_DEVICE void wgmma_fence(Registers&... used) {
  (pin(used), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
GPU_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most kLeft groups are in flight. `ready`: registers that are used from here on.
template <int kLeft, class... Registers>
GPU_DEVICE void wgmma_wait(Registers&... ready) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
  (pin(ready), ...);
}

#define GPU_F4(v, i) "+f"(v[i]), "+f"(v[i + 1]), "+f"(v[i + 2]), "+f"(v[i + 3])
#define GPU_F16(v, i) GPU_F4(v, i), GPU_F4(v, i + 4), GPU_F4(v, i + 8), GPU_F4(v, i + 12)
#define GPU_F64(v, i) GPU_F16(v, i), GPU_F16(v, i + 16), GPU_F16(v, i + 32), GPU_F16(v, i + 48)

// d [64 x 2 * n] (+)= a [64 x 16] b [16 x 2 * n] for n registers a thread, BF16 in, f32 sum;
// without `add` what d held before does not count. Rows 16 w .. 16 w + 15 are warp w's, fragments
// as of mma_bf16. b: kColumns, columns lie side by side as rows of K (keys, tokens); otherwise rows
// of b do (values).
template <bool kColumns>
GPU_DEVICE void wgmma_bf16(float (&d)[4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %9, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, %8, p, 1, 1, %10;\n\t}"
      : GPU_F4(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(kColumns ? 0 : 1));
}
template <bool kColumns>
GPU_DEVICE void wgmma_bf16(float (&d)[8], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %13, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7}, "
      "{%8,%9,%10,%11}, %12, p, 1, 1, %14;\n\t}"
      : GPU_F4(d, 0), GPU_F4(d, 4)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(kColumns ? 0 : 1));
}
template <bool kColumns>
GPU_DEVICE void wgmma_bf16(float (&d)[16], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %21, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
      "{%16,%17,%18,%19}, %20, p, 1, 1, %22;\n\t}"
      : GPU_F16(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(kColumns ? 0 : 1));
}
#define GPU_WGMMA_64(name, type)                                                               \
  template <bool kColumns>                                                                     \
  GPU_DEVICE void name(float(&d)[32], const uint32_t(&a)[4], uint64_t b, bool add) {           \
    asm volatile(                                                                              \
        "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %37, 0;\n\t"                                     \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                            \
        " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22," \
        "%23,%24,%25,%26,%27,%28,%29,%30,%31}, "                                               \
        "{%32,%33,%34,%35}, %36, p, 1, 1, %38;\n\t}"                                           \
        : GPU_F16(d, 0), GPU_F16(d, 16)                                                        \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)),                   \
          "n"(kColumns ? 0 : 1));                                                              \
  }
#define GPU_WGMMA_128(name, type)                                                              \
  template <bool kColumns>                                                                     \
  GPU_DEVICE void name(float(&d)[64], const uint32_t(&a)[4], uint64_t b, bool add) {           \
    asm volatile(                                                                              \
        "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %69, 0;\n\t"                                     \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                           \
        " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22," \
        "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43," \
        "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "   \
        "{%64,%65,%66,%67}, %68, p, 1, 1, %70;\n\t}"                                           \
        : GPU_F64(d, 0)                                                                        \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)),                   \
          "n"(kColumns ? 0 : 1));                                                              \
  }
GPU_WGMMA_64(wgmma_bf16, "bf16")
GPU_WGMMA_128(wgmma_bf16, "bf16")
// The same of F16, where a kernel takes it.
GPU_WGMMA_64(wgmma_f16, "f16")
GPU_WGMMA_128(wgmma_f16, "f16")
#undef GPU_WGMMA_128
#undef GPU_WGMMA_64
template <bool kColumns>
GPU_DEVICE void wgmma_bf16(float (&d)[128], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %133, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
      "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,"
      "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,"
      "%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,"
      "%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,"
      "%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,"
      "%121,%122,%123,%124,%125,%126,%127}, "
      "{%128,%129,%130,%131}, %132, p, 1, 1, %134;\n\t}"
      : GPU_F64(d, 0), GPU_F64(d, 64)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(kColumns ? 0 : 1));
}
#undef GPU_F64
#undef GPU_F16
#undef GPU_F4

// --- registers: a warpgroup gives some back, another takes more ---

template <int kRegisters>
GPU_DEVICE void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
GPU_DEVICE void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#else

GPU_DEVICE uint32_t shared_address(const void* p) { return emu::shared_offset(p); }
GPU_DEVICE void mbarrier_init(uint64_t* barrier, uint32_t arrivals GPU_WHERE) {
  emu::mbarrier_init(barrier, arrivals GPU_WHERE_ARG);
}
GPU_DEVICE void mbarrier_init_done() { emu::mbarrier_init_done(); }
GPU_DEVICE void mbarrier_arrive(uint64_t* barrier GPU_WHERE) {
  emu::mbarrier_arrive(barrier, 0 GPU_WHERE_ARG);
}
GPU_DEVICE void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes GPU_WHERE) {
  emu::mbarrier_arrive(barrier, bytes GPU_WHERE_ARG);
}
GPU_DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity GPU_WHERE) {
  emu::mbarrier_wait(barrier, parity GPU_WHERE_ARG);
}
GPU_DEVICE void mbarrier_wait_peers(uint64_t* barrier, uint32_t parity GPU_WHERE) {
  emu::mbarrier_wait(barrier, parity GPU_WHERE_ARG);
}
GPU_DEVICE void mbarrier_arrive_peer(uint64_t* barrier, int peer GPU_WHERE) {
  emu::mbarrier_arrive_peer(barrier, peer GPU_WHERE_ARG);
}
GPU_DEVICE void cluster_arrive(const emu::Where& where = emu::Where::current()) {
  emu::cluster_arrive(where);
}
GPU_DEVICE void cluster_wait(const emu::Where& where = emu::Where::current()) {
  emu::cluster_wait(where);
}
GPU_DEVICE void fence_proxy_async() { emu::fence_proxy_async(); }
GPU_DEVICE void named_barrier_wait(int id, int threads GPU_WHERE) {
  emu::named_barrier(id, threads, true GPU_WHERE_ARG);
}
GPU_DEVICE void named_barrier_arrive(int id, int threads GPU_WHERE) {
  emu::named_barrier(id, threads, false GPU_WHERE_ARG);
}
GPU_DEVICE void copy_box(void* shared, const CUtensorMap& map, int column, int row,
                         uint64_t* barrier GPU_WHERE) {
  emu::copy_box(shared, map, column, row, barrier GPU_WHERE_ARG);
}
// parameters: those of copy_box, and whose
GPU_DEVICE void copy_box_to(uint16_t blocks, void* shared, const CUtensorMap& map, int column,
                            int row, uint64_t* barrier GPU_WHERE) {
  emu::copy_box_to(blocks, shared, map, column, row, barrier GPU_WHERE_ARG);
}
template <class... Registers>
GPU_DEVICE void wgmma_fence(Registers&... used) {
  emu::wgmma_fence({{&used, sizeof used}...});
}
GPU_DEVICE void wgmma_commit() { emu::wgmma_commit(); }
template <int kLeft, class... Registers>
GPU_DEVICE void wgmma_wait(Registers&... ready) {
  emu::wgmma_wait(kLeft, {{&ready, sizeof ready}...});
}
GPU_DEVICE uint32_t e4m3_to_f16(uint32_t w) {
  return pack_f16(from_e4m3(uint8_t(w)), from_e4m3(uint8_t(w >> 8)));
}
template <bool kColumns, int n>
GPU_DEVICE void wgmma_bf16(float (&d)[n], const uint32_t (&a)[4], uint64_t b, bool add GPU_WHERE) {
  static_assert(n == 4 || n == 8 || n == 16 || n == 32 || n == 64 || n == 128);
  emu::wgmma({n, false, kColumns, add}, d, a, b GPU_WHERE_ARG);
}
template <bool kColumns, int n>
GPU_DEVICE void wgmma_f16(float (&d)[n], const uint32_t (&a)[4], uint64_t b, bool add GPU_WHERE) {
  static_assert(n == 32 || n == 64);
  emu::wgmma({n, true, kColumns, add}, d, a, b GPU_WHERE_ARG);
}
template <int kRegisters>
GPU_DEVICE void registers_take(const emu::Where& where = emu::Where::current()) {
  emu::set_registers(kRegisters, true, where);
}
template <int kRegisters>
GPU_DEVICE void registers_give(const emu::Where& where = emu::Where::current()) {
  emu::set_registers(kRegisters, false, where);
}

#endif

}  // namespace nemotron::gpu
