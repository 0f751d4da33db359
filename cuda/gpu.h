// The dialect that kernels are written in: small wrappers around what CUDA C++ has no word for.
// Under nvcc they are PTX; under g++ the same names come from the CPU emulation (test/emu), so that
// kernel source runs, checked, on a machine without a GPU. Kernel files contain no PTX of their
// own.
//
// Shared memory is one dynamic array, cut with Shared::take(); there are no __shared__ variables.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define GPU_WHERE
#define GPU_WHERE_ARG
#else
#include <bit>
#include <cmath>

#include "emu.h"
#define GPU_WHERE , const emu::Where& where = emu::Where::current()
#define GPU_WHERE_ARG , where
#define threadIdx (::emu::thread_index())
#define blockIdx (::emu::block_index())
#define blockDim (::emu::block_size())
#define gridDim (::emu::grid_size())
#endif

#define GPU_DEVICE __device__ __forceinline__

namespace nemotron::gpu {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

// --- bits ---

#if defined(__CUDACC__)
GPU_DEVICE float as_float(uint32_t u) { return __uint_as_float(u); }
GPU_DEVICE uint32_t as_uint(float f) { return __float_as_uint(f); }
#else
GPU_DEVICE float as_float(uint32_t u) { return std::bit_cast<float>(u); }
GPU_DEVICE uint32_t as_uint(float f) { return std::bit_cast<uint32_t>(f); }
#endif

// --- arithmetic ---

#if defined(__CUDACC__)
GPU_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
GPU_DEVICE float rsqrt_fast(float x) { return rsqrtf(x); }
// Two floats to two bf16 (round to nearest even), `lo` in the low half.
GPU_DEVICE uint32_t pack_bf16(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
// The same to F16.
GPU_DEVICE uint32_t pack_f16(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
GPU_DEVICE uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
  uint32_t r;
#if __CUDA_ARCH__ >= 900
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#else
  // sm_80 has the fused multiply-add only; adding -0 changes nothing.
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000u));
#endif
  return r;
}
// First non-zero bit from the top, 0..31; 32 for zero.
GPU_DEVICE int leading_zeros(uint32_t x) { return __clz(int(x)); }
// v, of which the compiler knows nothing: what is computed from it is not kept from one turn of a
// loop to the next.
GPU_DEVICE int forgotten(int v) {
  asm volatile("" : "+r"(v));
  return v;
}
#else
GPU_DEVICE float exp2_fast(float x) { return ::exp2f(x); }
GPU_DEVICE float rsqrt_fast(float x) { return 1.0f / ::sqrtf(x); }
GPU_DEVICE uint32_t bf16_bits(float f) {
  const uint32_t u = as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}
GPU_DEVICE uint32_t pack_bf16(float lo, float hi) { return bf16_bits(lo) | bf16_bits(hi) << 16; }
GPU_DEVICE uint32_t pack_f16(float lo, float hi) {
  return std::bit_cast<uint16_t>(_Float16(lo)) | uint32_t(std::bit_cast<uint16_t>(_Float16(hi)))
                                                     << 16;
}
GPU_DEVICE uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
  return pack_bf16(as_float(a << 16) * as_float(b << 16),
                   as_float(a & 0xffff0000u) * as_float(b & 0xffff0000u));
}
GPU_DEVICE int leading_zeros(uint32_t x) { return std::countl_zero(x); }
GPU_DEVICE int forgotten(int v) { return v; }
#endif

GPU_DEVICE float bf16_lo(uint32_t pair) { return as_float(pair << 16); }
GPU_DEVICE float bf16_hi(uint32_t pair) { return as_float(pair & 0xffff0000u); }
GPU_DEVICE uint16_t to_bf16(float f) { return uint16_t(pack_bf16(f, 0.0f)); }
GPU_DEVICE float from_bf16(uint16_t b) { return as_float(uint32_t(b) << 16); }

// --- E4M3 ---

// Bytes 1 and 3 of w, as E4M3, to a pair of bf16: exact. The bits of E4M3 put in place are a bf16
// with an exponent 120 too small (subnormals included), which the multiplication puts right. One
// path for all architectures: sm_80 has no conversion, and none goes to bf16 directly.
GPU_DEVICE uint32_t e4m3_odd_to_bf16(uint32_t w) {
  const uint32_t bits = ((w >> 4) & 0x07f007f0u) | (w & 0x80008000u);
  return mul_bf16x2(bits, 0x7b807b80u);  // 2^120
}
GPU_DEVICE uint32_t e4m3_even_to_bf16(uint32_t w) { return e4m3_odd_to_bf16(w << 8); }

// Round to nearest even, saturating at +-448; NaN stays NaN.
GPU_DEVICE uint8_t to_e4m3(float f) {
  const uint32_t u = as_uint(f), sign = (u >> 24) & 0x80u;
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return uint8_t(sign | 0x7fu);
  if (a >= 0x43e00000u) return uint8_t(sign | 0x7eu);  // 448 and more
  if (a < 0x3c800000u) {                               // below 2^-6: steps of 2^-9
    // Adding 2^14 leaves the value in units of 2^-9 in the low bits, rounded to even.
    return uint8_t(sign | (as_uint(as_float(a) + 16384.0f) & 0xfu));
  }
  const uint32_t r = a + 0x7ffffu + ((a >> 20) & 1u);  // to three bits of mantissa
  const uint32_t v = (r >> 20) - (120u << 3);
  return uint8_t(sign | (v > 0x7eu ? 0x7eu : v));
}
GPU_DEVICE float from_e4m3(uint8_t b) {
  if ((b & 0x7fu) == 0x7fu) return as_float(0x7fc00000u);
  return as_float(uint32_t(b & 0x80u) << 24 | uint32_t(b & 0x7fu) << 20) *
         as_float(0x7b800000u);  // 2^120
}

// --- memory ---

#if defined(__CUDACC__)
GPU_DEVICE uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }
GPU_DEVICE uint2 load8(const void* p) { return *static_cast<const uint2*>(p); }
GPU_DEVICE void store16(void* p, uint4 v) { *static_cast<uint4*>(p) = v; }
GPU_DEVICE void store8(void* p, uint2 v) { *static_cast<uint2*>(p) = v; }
GPU_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
// Sixteen bytes from global to shared memory, or sixteen zeros when not enabled. Visible to the
// issuing thread after cp_async_wait, to others after a barrier on top of it.
GPU_DEVICE void cp_async16(void* shared, const void* global, bool enabled = true) {
  const int bytes = enabled ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
GPU_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Asks for bytes of global memory to be brought to L2, on sm_90; both are multiples of sixteen.
GPU_DEVICE void prefetch_l2(const void* global, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
#endif
}
template <int kLeft>
GPU_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}
// Four 8x8 matrices of 16-bit elements; lane 8 j + i points at row i of matrix j. Lane 4 g + t gets
// elements 2 t and 2 t + 1 of row g of each; transposed, of column g.
GPU_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
GPU_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// c[16 x 8] += a[16 x 16] b[16 x 8], bf16 in, f32 sum.
// parameters: the operands of the instruction
GPU_DEVICE void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#else
GPU_DEVICE uint4 load16(const void* p GPU_WHERE) {
  emu::check_access(p, 16, false, where);
  uint4 v;
  __builtin_memcpy(&v, p, 16);
  return v;
}
GPU_DEVICE uint2 load8(const void* p GPU_WHERE) {
  emu::check_access(p, 8, false, where);
  uint2 v;
  __builtin_memcpy(&v, p, 8);
  return v;
}
GPU_DEVICE void store16(void* p, uint4 v GPU_WHERE) {
  emu::check_access(p, 16, true, where);
  __builtin_memcpy(p, &v, 16);
}
GPU_DEVICE void store8(void* p, uint2 v GPU_WHERE) {
  emu::check_access(p, 8, true, where);
  __builtin_memcpy(p, &v, 8);
}
GPU_DEVICE void cp_async16(void* shared, const void* global, bool enabled = true GPU_WHERE) {
  emu::cp_async(shared, global, enabled GPU_WHERE_ARG);
}
GPU_DEVICE void cp_async_commit() { emu::cp_async_commit(); }
GPU_DEVICE void prefetch_l2(const void* global, uint32_t bytes GPU_WHERE) {
  emu::prefetch(global, bytes GPU_WHERE_ARG);
}
template <int kLeft>
GPU_DEVICE void cp_async_wait(const emu::Where& where = emu::Where::current()) {
  emu::cp_async_wait(kLeft, where);
}
GPU_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row GPU_WHERE) {
  emu::ldmatrix_x4(r, row, false GPU_WHERE_ARG);
}
GPU_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row GPU_WHERE) {
  emu::ldmatrix_x4(r, row, true GPU_WHERE_ARG);
}
// parameters: the operands of the instruction
GPU_DEVICE void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1 GPU_WHERE) {
  const uint32_t a[4] = {a0, a1, a2, a3};
  emu::mma_bf16(c, a, b0, b1 GPU_WHERE_ARG);
}
#endif

// --- memory that several devices read and write ---

#if defined(__CUDACC__)
// What another device may be writing; each 32 bits are there as a whole or not at all.
GPU_DEVICE uint4 load16_peer(const void* p) {
  uint4 v;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
GPU_DEVICE uint32_t load4_peer(const void* p) {
  uint32_t v;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
GPU_DEVICE void store16_peer(void* p, uint4 v) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
GPU_DEVICE void store4_peer(void* p, uint32_t v) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
// In a loop that waits for another device.
GPU_DEVICE void peer_pause() { __nanosleep(20); }
GPU_DEVICE uint64_t nanoseconds() {
  uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}
#else
GPU_DEVICE uint4 load16_peer(const void* p GPU_WHERE) {
  uint4 v;
  emu::peer_load(&v, p, 16 GPU_WHERE_ARG);
  return v;
}
GPU_DEVICE uint32_t load4_peer(const void* p GPU_WHERE) {
  uint32_t v;
  emu::peer_load(&v, p, 4 GPU_WHERE_ARG);
  return v;
}
GPU_DEVICE void store16_peer(void* p, uint4 v GPU_WHERE) {
  emu::peer_store(p, &v, 16 GPU_WHERE_ARG);
}
GPU_DEVICE void store4_peer(void* p, uint32_t v GPU_WHERE) {
  emu::peer_store(p, &v, 4 GPU_WHERE_ARG);
}
GPU_DEVICE void peer_pause(const emu::Where& where = emu::Where::current()) {
  emu::peer_pause(where);
}
GPU_DEVICE uint64_t nanoseconds() { return emu::nanoseconds(); }
#endif

// Hands out the block's dynamic shared memory front to back, sixteen-byte aligned.
class Shared {
 public:
  template <class T>
  GPU_DEVICE T* take(size_t n) {
    T* p = reinterpret_cast<T*>(base() + used_);
    used_ += (n * sizeof(T) + 15) / 16 * 16;
    return p;
  }

 private:
#if defined(__CUDACC__)
  static GPU_DEVICE uint8_t* base() {
    extern __shared__ __align__(1024) uint8_t gpu_dynamic_shared[];
    return gpu_dynamic_shared;
  }
#else
  static uint8_t* base() { return emu::dynamic_shared(); }
#endif
  size_t used_ = 0;
};

// --- threads ---

#if defined(__CUDACC__)
GPU_DEVICE void block_sync() { __syncthreads(); }
GPU_DEVICE void warp_sync() { __syncwarp(); }
GPU_DEVICE uint32_t ballot(bool p) { return __ballot_sync(kAllLanes, p); }
GPU_DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(kAllLanes, v, mask); }
GPU_DEVICE uint32_t shuffle_xor(uint32_t v, int mask) {
  return __shfl_xor_sync(kAllLanes, v, mask);
}
GPU_DEVICE uint64_t shuffle_xor(uint64_t v, int mask) {
  return uint64_t(__shfl_xor_sync(kAllLanes, (unsigned long long)v, mask));
}
GPU_DEVICE uint32_t shuffle(uint32_t v, int lane) { return __shfl_sync(kAllLanes, v, lane); }
GPU_DEVICE uint64_t shuffle(uint64_t v, int lane) {
  return uint64_t(__shfl_sync(kAllLanes, (unsigned long long)v, lane));
}
GPU_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
GPU_DEVICE uint64_t atomic_add(uint64_t* p, uint64_t v) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(p), (unsigned long long)v);
}
// Called by all threads of a block once it has written its part: true in the last of `total` blocks
// to come, which may then read what the others wrote. `counter` is zero before and after. `flag`:
// shared, free again after the next block_sync.
GPU_DEVICE bool last_arrival(uint32_t* counter, uint32_t total, uint32_t* flag) {
  __syncthreads();
  if (threadIdx.x == 0) {  // its fences stand for the block's: barriers pass them on
    __threadfence();
    const bool last = atomicAdd(counter, 1u) == total - 1;
    __threadfence();
    if (last) *counter = 0;
    *flag = last;
  }
  __syncthreads();
  return *flag != 0;
}
// Programmatic dependent launch (sm_90): the next kernel of the stream may start; and: wait until
// all kernels before this one have finished and their writes can be seen. Both do nothing
// elsewhere.
GPU_DEVICE void pdl_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
GPU_DEVICE void pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#else
GPU_DEVICE void block_sync(const emu::Where& where = emu::Where::current()) {
  emu::block_barrier(where);
}
GPU_DEVICE void warp_sync(const emu::Where& where = emu::Where::current()) {
  emu::warp_barrier(kAllLanes, where);
}
GPU_DEVICE uint32_t ballot(bool p GPU_WHERE) { return emu::ballot(kAllLanes, p GPU_WHERE_ARG); }
GPU_DEVICE int lane_of_thread() { return int(threadIdx.x % kWarp); }
GPU_DEVICE uint64_t shuffle_xor(uint64_t v, int mask GPU_WHERE) {
  return emu::shuffle(kAllLanes, v, lane_of_thread() ^ mask GPU_WHERE_ARG);
}
GPU_DEVICE uint32_t shuffle_xor(uint32_t v, int mask GPU_WHERE) {
  return uint32_t(emu::shuffle(kAllLanes, v, lane_of_thread() ^ mask GPU_WHERE_ARG));
}
GPU_DEVICE float shuffle_xor(float v, int mask GPU_WHERE) {
  return as_float(
      uint32_t(emu::shuffle(kAllLanes, as_uint(v), lane_of_thread() ^ mask GPU_WHERE_ARG)));
}
GPU_DEVICE uint32_t shuffle(uint32_t v, int lane GPU_WHERE) {
  return uint32_t(emu::shuffle(kAllLanes, v, lane GPU_WHERE_ARG));
}
GPU_DEVICE uint64_t shuffle(uint64_t v, int lane GPU_WHERE) {
  return emu::shuffle(kAllLanes, v, lane GPU_WHERE_ARG);
}
template <class T>
GPU_DEVICE T atomic_add(T* p, T v GPU_WHERE) {
  return emu::atomic(p, [v](T old) { return T(old + v); } GPU_WHERE_ARG);
}
GPU_DEVICE bool last_arrival(uint32_t* counter, uint32_t total, uint32_t* flag GPU_WHERE) {
  block_sync(where);
  if (threadIdx.x == 0) *flag = emu::arrive(counter, total, where);
  block_sync(where);
  return *flag != 0;
}
GPU_DEVICE void pdl_launch_dependents() { emu::pdl_launch_dependents(); }
GPU_DEVICE void pdl_wait() { emu::pdl_wait(); }
#endif

// Sum, or maximum, over the warp: every lane gets it. The order is fixed.
GPU_DEVICE float warp_sum(float v) {
  for (int m = kWarp / 2; m > 0; m /= 2) v += shuffle_xor(v, m);
  return v;
}
GPU_DEVICE float warp_max(float v) {
  for (int m = kWarp / 2; m > 0; m /= 2) {
    const float o = shuffle_xor(v, m);
    v = o > v ? o : v;
  }
  return v;
}

}  // namespace nemotron::gpu
