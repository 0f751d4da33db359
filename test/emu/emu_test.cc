// The emulator itself: what its collectives compute and what its checker finds. Most kernels here
// are wrong on purpose; each must be reported, in every order, and its right form must not be.
#include "emu_test.h"

using namespace emu_test;

namespace {

// --- kernels ---

__global__ void exchange(uint32_t* out, int barriers) {
  Shared smem;
  uint32_t* s = smem.take<uint32_t>(blockDim.x);
  s[threadIdx.x] = threadIdx.x;
  if (barriers > 0) block_sync();
  const uint32_t v = s[blockDim.x - 1 - threadIdx.x];
  if (barriers > 1) block_sync();
  s[threadIdx.x] = v + 1;
  if (barriers > 2) block_sync();
  out[blockIdx.x * blockDim.x + threadIdx.x] = s[(threadIdx.x + 1) % blockDim.x];
}

__global__ void warp_exchange(uint32_t* out, bool sync) {
  Shared smem;
  uint32_t* s = smem.take<uint32_t>(32);
  s[threadIdx.x] = threadIdx.x * 3;
  if (sync) warp_sync();
  out[threadIdx.x] = s[31 - threadIdx.x];
}

__global__ void touch(uint32_t* out, uint32_t read_at, uint32_t write_at) {
  out[write_at] = out[read_at];
}

// One access at `at` bytes from p, which lies on 256.
enum class Way { load16, load8, store16, store8, word, pair, peer, atomic };
__global__ void access_at(uint32_t* out, uint32_t* p, Way way, int at) {
  uint8_t* to = reinterpret_cast<uint8_t*>(p) + at;
  switch (way) {
    case Way::load16: out[0] = load16(to).x; break;
    case Way::load8: out[0] = load8(to).x; break;
    case Way::store16: store16(to, uint4{1, 2, 3, 4}); break;
    case Way::store8: store8(to, uint2{1, 2}); break;
    case Way::word: out[0] = *reinterpret_cast<uint32_t*>(to); break;
    case Way::pair: *reinterpret_cast<uint64_t*>(to) = 1; break;
    case Way::peer: store16_peer(to, load16_peer(to)); break;
    case Way::atomic: atomic_add(reinterpret_cast<uint32_t*>(to), 1u); break;
  }
}

__global__ void all_blocks_write(uint32_t* out, bool atomically) {
  if (threadIdx.x != 0) return;
  if (atomically) {
    atomic_add(out, 1u);
  } else {
    out[0] = blockIdx.x;
  }
}

// Every block writes its part; the last to come adds them up. late: a part comes after the arrival;
// early: everybody adds up.
enum class Merge { right, late, early };
__global__ void merge(uint32_t* parts, uint32_t* counter, uint32_t* out, Merge how) {
  Shared smem;
  uint32_t* flag = smem.take<uint32_t>(1);
  uint32_t* mine = parts + blockIdx.x * blockDim.x;
  if (how != Merge::late) mine[threadIdx.x] = blockIdx.x + 1;
  const bool last = last_arrival(counter, gridDim.x, flag);
  if (how == Merge::late) mine[threadIdx.x] = blockIdx.x + 1;
  if (!last && how != Merge::early) return;
  uint32_t sum = 0;
  for (uint32_t i = 0; i < gridDim.x; ++i) sum += parts[i * blockDim.x + threadIdx.x];
  if (last) out[threadIdx.x] = sum;
}

__global__ void shared_past_end(uint32_t* out, int n) {
  Shared smem;
  uint32_t* s = smem.take<uint32_t>(32);
  s[threadIdx.x + n] = 1;
  out[threadIdx.x] = 1;
}

template <int kLeft>
__global__ void ring(uint32_t* out, const uint32_t* in, int steps) {
  Shared smem;
  uint32_t* s = smem.take<uint32_t>(2 * 4 * 32);
  const int lane = int(threadIdx.x);
  for (int i = 0; i < 2; ++i) {
    cp_async16(s + (i * 32 + lane) * 4, in + (i * 32 + lane) * 4);
    cp_async_commit();
  }
  uint32_t sum = 0;
  for (int i = 0; i < steps; ++i) {
    cp_async_wait<kLeft>();
    uint32_t* mine = s + (i % 2 * 32 + lane) * 4;
    sum += mine[0] + mine[3];
    if (i + 2 < steps) cp_async16(mine, in + ((i + 2) * 32 + lane) * 4);
    cp_async_commit();
  }
  cp_async_wait<0>();
  out[lane] = sum;
}

// Halves of a word, each written by a thread of its own warp; then words read by other threads.
// late: one half is written once more, after the barrier; unwritten: only the lower halves are.
enum class Halves { right, late, unwritten };
__global__ void halves(uint32_t* out, Halves how) {
  Shared smem;
  uint16_t* s = smem.take<uint16_t>(128);
  const uint32_t half = threadIdx.x / 32, at = threadIdx.x % 32 * 2 + half;
  if (how != Halves::unwritten || half == 0) s[at] = uint16_t(threadIdx.x);
  block_sync();
  if (how == Halves::late && threadIdx.x == 63) s[at] = 7;
  if (threadIdx.x < 32) out[threadIdx.x] = reinterpret_cast<uint32_t*>(s)[31 - threadIdx.x];
}

__global__ void divergent(uint32_t* out) {
  if (threadIdx.x < 7) block_sync();
  out[threadIdx.x] = ballot(true);
}
__global__ void half_warp_shuffle(uint32_t* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = shuffle(1u, 0);
}

__global__ void chain(uint32_t* out, const uint32_t* in, bool wait_first, bool wait_at_all) {
  if (wait_first) pdl_wait();
  const uint32_t v = in[threadIdx.x];
  if (!wait_first && wait_at_all) pdl_wait();
  out[threadIdx.x] = v + 1;
}

__global__ void tensor_core(float* c, const uint16_t* a, const uint16_t* b) {
  // a [16, 16] row-major, b [16, 8] row-major, c [16, 8].
  Shared smem;
  uint16_t* s = smem.take<uint16_t>(16 * 16);
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  for (int i = lane; i < 256; i += 32) s[i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : uint16_t(0);
  warp_sync();
  uint32_t f[4];
  ldmatrix_x4_trans(f, s + lane % 16 * 16 + lane / 16 * 8);
  float d[4] = {};
  const auto pair = [&](int row, int col) {
    return uint32_t(a[row * 16 + col]) | uint32_t(a[row * 16 + col + 1]) << 16;
  };
  mma_bf16(d, pair(g, 2 * t), pair(g + 8, 2 * t), pair(g, 2 * t + 8), pair(g + 8, 2 * t + 8), f[0],
           f[1]);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

}  // namespace

TEST(emu_block_barriers) {
  Buffer out(3 * 96);
  in_all_orders("", [&] { run(3, 96, 96 * 4, false, exchange, out.data, 3); });
  EXPECT_EQ(out.data[0], 95u);  // thread 1 held 94 + 1
  in_all_orders("uninitialised shared", [&] { run(1, 96, 96 * 4, false, exchange, out.data, 0); });
  in_all_orders("race on shared memory: write after a read",
                [&] { run(1, 96, 96 * 4, false, exchange, out.data, 1); });
  in_all_orders("race on shared memory", [&] { run(1, 96, 96 * 4, false, exchange, out.data, 2); });
}

TEST(emu_warp_barriers) {
  Buffer out(32);
  in_all_orders("", [&] { run(1, 32, 128, false, warp_exchange, out.data, true); });
  EXPECT_EQ(out.data[0], 93u);
  in_all_orders("shared memory", [&] { run(1, 32, 128, false, warp_exchange, out.data, false); });
}

// The checker has one cell for a word, until its bytes have different pasts.
TEST(emu_halves_of_words) {
  Buffer out(32);
  in_all_orders("", [&] { run(1, 64, 128, false, halves, out.data, Halves::right); });
  EXPECT_EQ(out.data[0], (31u | 63u << 16));
  in_all_orders("race on shared memory",
                [&] { run(1, 64, 128, false, halves, out.data, Halves::late); });
  in_all_orders("read of uninitialised shared memory",
                [&] { run(1, 64, 128, false, halves, out.data, Halves::unwritten); });
}

TEST(emu_bounds) {
  Buffer a(64), b(64);
  in_all_orders("", [&] { run(1, 1, 0, false, touch, a.data, 63, 0); });
  in_all_orders("read out of bounds: 0 bytes past",
                [&] { run(1, 1, 0, false, touch, a.data, 64, 0); });
  in_all_orders("write out of bounds: 4 bytes past",
                [&] { run(1, 1, 0, false, touch, a.data, 0, 65); });
  in_all_orders("shared memory", [&] { run(1, 32, 128, false, shared_past_end, a.data, 1); });
  uint32_t host = 0;
  in_all_orders("out of bounds", [&] { run(1, 1, 0, false, touch, &host, 0, 0); });
}

TEST(emu_alignment) {
  Buffer out(1), a(64);
  const std::pair<Way, int> ways[] = {{Way::load16, 16}, {Way::load8, 8}, {Way::store16, 16},
                                      {Way::store8, 8},  {Way::word, 4},  {Way::pair, 8},
                                      {Way::peer, 16},   {Way::atomic, 4}};
  for (const auto& [way, bytes] : ways) {
    in_all_orders("", [&] { run(1, 1, 0, false, access_at, out.data, a.data, way, 32 + bytes); });
    in_all_orders("not on " + std::to_string(bytes) + " bytes",
                  [&] { run(1, 1, 0, false, access_at, out.data, a.data, way, 32 + bytes / 2); });
  }
}

TEST(emu_uninitialised_global) {
  Buffer a(64, false);
  in_all_orders("", [&] {
    cudaMemsetAsync(a.data, 0, 32, nullptr);
    run(1, 1, 0, false, touch, a.data, 7, 0);
  });
  Buffer b(64, false);
  emu::take_errors();
  run(1, 1, 0, false, touch, b.data, 8, 0);
  const auto errors = emu::take_errors();
  REQUIRE_EQ(errors.size(), size_t(1));
  EXPECT(errors[0].find("uninitialised device allocation") != std::string::npos);
  EXPECT(errors[0].find("emu_test.cc:") != std::string::npos);  // the source line
}

TEST(emu_blocks_are_not_ordered) {
  Buffer out(64);
  in_all_orders("of another block",
                [&] { run(4, 32, 0, false, all_blocks_write, out.data, false); });
  in_all_orders("", [&] { run(4, 32, 0, false, all_blocks_write, out.data, true); });
}

TEST(emu_last_arrival_orders_blocks) {
  Buffer parts(4 * 64), counter(1), out(64);
  const auto merged = [&](Merge how) {
    run(4, 64, 16, false, merge, parts.data, counter.data, out.data, how);
  };
  in_all_orders("", [&] {
    merged(Merge::right);
    merged(Merge::right);  // the counter is zero again
  });
  EXPECT_EQ(out.data[0], 10u);
  EXPECT_EQ(out.data[63], 10u);
  EXPECT_EQ(counter.data[0], 0u);
  in_all_orders("of another block", [&] { merged(Merge::late); });
  in_all_orders("of another block", [&] { merged(Merge::early); });
}

TEST(emu_cp_async) {
  Buffer in(8 * 128), out(32);
  for (size_t i = 0; i < in.count; ++i) in.data[i] = uint32_t(i);
  in_all_orders("", [&] { run(1, 32, 1024, false, ring<1>, out.data, in.data, 8); });
  uint32_t want = 0;
  for (uint32_t i = 0; i < 8; ++i) want += 2 * (i * 128) + 3;
  EXPECT_EQ(out.data[0], want);
  in_all_orders("while a copy to it is in flight",
                [&] { run(1, 32, 1024, false, ring<2>, out.data, in.data, 8); });
}

TEST(emu_deadlocks) {
  Buffer out(32);
  in_all_orders("deadlock", [&] { run(1, 32, 0, false, divergent, out.data); });
  in_all_orders("deadlock: waits forever at a warp collective",
                [&] { run(1, 32, 0, false, half_warp_shuffle, out.data); });
}

TEST(emu_programmatic_dependent_launch) {
  Buffer a(32), b(32), c(32);
  const auto pair = [&](bool first, bool at_all) {
    cudaStreamSynchronize(nullptr);
    run(1, 32, 0, true, chain, b.data, a.data, first, at_all);
    run(1, 32, 0, true, chain, c.data, b.data, first, at_all);
  };
  in_all_orders("", [&] { pair(true, true); });
  in_all_orders("of an earlier launch, before pdl_wait()", [&] { pair(false, true); });
  in_all_orders("ends without pdl_wait()", [&] { pair(false, false); });
}

// Pinned memory is read when the stream gets there: at the latest when somebody waits for it. Other
// memory is read before the call returns.
TEST(emu_copies_are_late) {
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  uint32_t *host = nullptr, *device = nullptr, *back = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  cudaHostAlloc(reinterpret_cast<void**>(&host), 64, cudaHostAllocDefault);
  cudaHostAlloc(reinterpret_cast<void**>(&back), 64, cudaHostAllocDefault);
  cudaMalloc(reinterpret_cast<void**>(&device), 64);
  // What of `source` reaches the device when it is written over before `wait`.
  const auto sent = [&](uint32_t* source, auto wait) {
    *source = 1;
    *back = 9;
    cudaMemcpyAsync(device, source, 4, cudaMemcpyHostToDevice, stream);
    cudaEventRecord(event, stream);
    wait();
    *source = 2;
    cudaMemcpyAsync(back, device, 4, cudaMemcpyDeviceToHost, stream);
    if (emu::config().order == Order::reverse) EXPECT_EQ(*back, 9u);
    cudaStreamSynchronize(stream);
    return *back;
  };
  for (Order order : {Order::natural, Order::reverse}) {
    emu::config().order = order;
    const bool late = order == Order::reverse;
    uint32_t pageable = 0;
    EXPECT_EQ(sent(host, [] {}), late ? 2u : 1u);
    EXPECT_EQ(sent(host, [&] { cudaStreamSynchronize(stream); }), 1u);
    EXPECT_EQ(sent(host, [&] { cudaEventSynchronize(event); }), 1u);
    EXPECT_EQ(sent(&pageable, [] {}), 1u);
  }
  emu::config().order = Order::reverse;
  cudaMemcpyAsync(device, host, 4, cudaMemcpyHostToDevice, stream);
  EXPECT_EQ(cudaEventRecord(event, stream), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(host), cudaErrorInvalidValue);
  emu::config() = emu::Config{};
  cudaStreamSynchronize(stream);
  cudaGetLastError();
  EXPECT_EQ(cudaFreeHost(host), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(back), cudaSuccess);
  cudaFree(device);
  cudaEventDestroy(event);
  cudaStreamDestroy(stream);
}

// A word that one GPU writes and another takes: the next one may come when the second has said so.
void put(uint32_t* word, uint32_t value) { store4_peer(word, value); }
void take(uint32_t* word) {
  if (load4_peer(word) != 0) store4_peer(word, 0);
}

TEST(emu_words_of_other_gpus) {
  const auto on = [](int gpu, auto kernel, auto... a) {
    cudaSetDevice(gpu);
    run(1, 1, 0, false, kernel, a...);
  };
  const int before = emu::machine().gpus;
  emu::machine().gpus = 2;
  {
    cudaSetDevice(1);
    cudaDeviceEnablePeerAccess(0, 0);
    Buffer answers(1);
    cudaSetDevice(0);
    cudaDeviceEnablePeerAccess(1, 0);
    Buffer words(1);
    const auto zeros = [&] {
      for (Buffer* b : {&words, &answers}) cudaMemsetAsync(b->data, 0, 4, nullptr);
    };
    in_all_orders("", [&] {
      zeros();
      for (uint32_t turn = 1; turn < 4; ++turn) {
        on(1, put, words.data, turn);
        on(0, take, words.data);
        on(0, put, answers.data, turn);
        on(1, take, answers.data);
      }
    });
    in_all_orders("that its GPU has not read", [&] {
      zeros();
      on(1, put, words.data, 1u);
      on(1, put, words.data, 2u);
    });
    in_all_orders("may be earlier than its GPU's own store", [&] {
      zeros();
      on(1, put, words.data, 1u);
      on(0, take, words.data);
      on(1, put, words.data, 2u);
    });
    // An answer that was stored before the word was taken says nothing.
    in_all_orders("may be earlier than its GPU's own store", [&] {
      zeros();
      on(1, put, words.data, 1u);
      on(0, put, answers.data, 1u);
      on(0, take, words.data);
      on(1, take, answers.data);
      on(1, put, words.data, 2u);
    });
  }
  emu::machine().gpus = before;
}

TEST(emu_launch_limits) {
  Buffer out(32);
  in_all_orders("2048 threads", [&] { run(1, 2048, 0, false, divergent, out.data); });
  in_all_orders("limit set is 49152", [&] { run(1, 32, 50000, false, divergent, out.data); });
  in_all_orders("227 KiB", [&] {
    Queue queue;
    load_kernel(queue, "kernel", divergent, 300 << 10);
  });
}

TEST(emu_tensor_core_layouts) {
  Buffer a(128), b(64), c(128);
  auto* ha = reinterpret_cast<uint16_t*>(a.data);
  auto* hb = reinterpret_cast<uint16_t*>(b.data);
  for (int i = 0; i < 256; ++i) ha[i] = to_bf16(float(i * 7 % 31) - 15);
  for (int i = 0; i < 128; ++i) hb[i] = to_bf16(float(i * 5 % 23) - 11);
  in_all_orders(
      "", [&] { run(1, 32, 512, false, tensor_core, reinterpret_cast<float*>(c.data), ha, hb); });
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += from_bf16(ha[i * 16 + k]) * from_bf16(hb[k * 8 + j]);
      EXPECT_EQ(reinterpret_cast<float*>(c.data)[i * 8 + j], sum);
    }
  }
}

TEST(emu_e4m3_matches_the_hosts) {
  for (int i = 0; i < 256; ++i) {
    const float f = from_e4m3(uint8_t(i));
    if ((i & 0x7f) == 0x7f) {
      EXPECT(std::isnan(f));
      continue;
    }
    EXPECT_EQ(int(to_e4m3(f)), i);
    EXPECT_EQ(bf16_hi(e4m3_odd_to_bf16(uint32_t(i) << 24)), f);
    EXPECT_EQ(bf16_lo(e4m3_even_to_bf16(uint32_t(i))), f);
  }
}

NEMOTRON_TEST_MAIN
