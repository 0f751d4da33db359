// What sm_90a adds, for cuda/hopper.h: barriers in shared memory, the copy engine, the products of
// a warpgroup. Asynchronous as on the device: a copy lands as late as it can (or at any time, in
// random order), and the registers of a product hold NaNs until it has been waited for.
#pragma once

#include <cuda.h>

#include <initializer_list>

#include "emu.h"

#define __grid_constant__

namespace emu {

// Where p lies in the block's shared memory.
uint32_t shared_offset(const void* p);

void mbarrier_init(uint64_t* barrier, uint32_t arrivals, const Where& where);
void mbarrier_init_done();
void mbarrier_arrive(uint64_t* barrier, uint32_t bytes, const Where& where);
// At the barrier in the same place of block `peer` of the cluster.
void mbarrier_arrive_peer(uint64_t* barrier, int peer, const Where& where);
void mbarrier_wait(uint64_t* barrier, uint32_t parity, const Where& where);
void fence_proxy_async();
void copy_box(void* shared, const CUtensorMap& map, int column, int row, uint64_t* barrier,
              const Where& where);
// To the same place of each block of the cluster whose bit is set, counted by its barrier there.
void copy_box_to(uint16_t blocks, void* shared, const CUtensorMap& map, int column, int row,
                 uint64_t* barrier, const Where& where);

// setmaxnreg: this thread's warpgroup has n registers a thread from here on.
void set_registers(uint32_t n, bool take, const Where& where);

struct Registers {  // of this thread
  const void* at;
  size_t bytes;
};
// Before products that read these, which are not written any more.
void wgmma_fence(std::initializer_list<Registers> used);
// d [64 x 2 n] (+)= a [64 x 16] b [16 x 2 n]; this thread's n registers of d and four of a.
struct ProductKind {
  int n;
  bool f16;      // a and b; BF16 otherwise
  bool columns;  // of b lie side by side
  bool add;
  bool operator==(const ProductKind&) const = default;
};
void wgmma(const ProductKind& kind, float* d, const uint32_t* a, uint64_t b, const Where& where);
void wgmma_commit();
// The kernel is about to use the registers that are `ready`.
void wgmma_wait(int groups_left, std::initializer_list<Registers> ready);

}  // namespace emu
