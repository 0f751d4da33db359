// What the CUDA device says on machines that cannot run it, and after faults: injected into the
// emulated runtime.
#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <latch>
#include <optional>
#include <set>
#include <thread>

#include "cuda/cuda_device.h"
#include "cuda_runtime.h"
#include "machine.h"
#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

// The machine as it was, at the end of a test.
struct Restore {
  Restore() { without_cublaslt(); }
  ~Restore() { emu::machine() = before; }
  emu::Machine before = emu::machine();
};

Status open(int32_t index = 0) {
  std::unique_ptr<Device> device;
  DeviceOptions options;
  options.index = index;
  return cuda::open_device(options, &device);
}

Status open_fp8(std::unique_ptr<Device>* out) {
  DeviceOptions options;
  options.fp8_activations = true;
  return cuda::open_device(options, out);
}
Status open_fp8() {
  std::unique_ptr<Device> device;
  return open_fp8(&device);
}

struct Tiny {  // a device that has something to compute
  Tiny() {
    EXPECT_OK(cuda::open_device({}, &device));
    const HostMatrix m = random_matrix(random, 16, 64, DType::bf16);
    const MatrixPart part = m.part();
    EXPECT_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  }
  // `fault`: what the GPU reports from here on.
  Status multiply(cudaError_t fault = cudaSuccess) {
    Buffer a(device.get(), DType::bf16, {2, 64}, random.normals(128));
    Buffer out(device.get(), DType::f32, {2, 16});
    emu::machine().fault = fault;
    test::multiply(device.get(), out, a, w);
    return device->sync();
  }
  Random random{1};
  std::unique_ptr<Device> device;
  Weight w;
};

// A rank of a group that has a GPU and half of a vocabulary of sixteen. Its memory is taken before
// the ranks meet: the others' kernels may wait for this one's from then on.
struct RankUnderTest {
  RankUnderTest(RankGroup* group, int32_t rank) : group(group) {
    DeviceOptions options;
    options.group = group;
    options.rank = rank;
    EXPECT_OK(cuda::open_device(options, &device));
    Random random{7};
    const HostMatrix all = random_matrix(random, 16, 64, DType::bf16);
    MatrixPart part = all.part();
    part.first_row = 8 * rank;
    part.rows = 8;
    part.data = all.data.data() + size_t(part.first_row) * 64 * 2;
    EXPECT_OK(device->pack_weight({&part, 1}, WeightUse::embedding, WeightFormat::stored, &table));
    EXPECT_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &head));
    x.emplace(device.get(), DType::f32, std::vector<int64_t>{2, 64});
    gain.emplace(device.get(), DType::f32, std::vector<int64_t>{64}, std::vector<float>(64, 1.0f));
    logits.emplace(device.get(), DType::f32, std::vector<int64_t>{2, 16},
                   std::vector<float>(32, 0.5f));
    for (int i = 0; i < 64; ++i) {
      const auto* values = reinterpret_cast<const uint16_t*>(all.data.data());
      rows[0][i] = bf16_to_f32(values[3 * 64 + i]);
      rows[1][i] = bf16_to_f32(values[12 * 64 + i]);
    }
    EXPECT_OK(prepare_small(device.get(), 2, 64, 16));
  }
  // A step that embeds tokens 3 and 12, one of each rank.
  Status embed(int32_t second = 12) {
    const int32_t ids[] = {3, second}, blocks[] = {0};
    SpanInput span;
    span.rows = 2;
    span.block_table = blocks;
    StepInput in;
    in.token_ids = ids;
    in.spans = {&span, 1};
    device->begin_step(in);
    device->embed(x->tensor(), table);
    device->launch_step();
    if (Status s = device->wait_step(); !s) return s;
    const std::vector<float> got = x->read();
    for (int i = 0; i < 128; ++i) EXPECT_EQ(got[size_t(i)], rows[i / 64][i % 64]);
    return device->sync();
  }
  // A step of two generated tokens, up to their logits; `between` comes before those. Its graph is
  // made when it comes for the second time. Another eps makes that void, and a table that the
  // step's metadata have no room for.
  Status generate(const std::function<void()>& between, float eps = 1e-5f, size_t table_size = 1) {
    const int32_t ids[] = {3, 12}, block = 1, all[] = {0, 1};
    const std::vector<int32_t> long_table(table_size);
    const SpanInput spans[] = {{0, 1, 0, true, long_table}, {1, 1, 0, true, {&block, 1}}};
    StepInput in;
    in.token_ids = ids;
    in.spans = spans;
    in.num_generated_rows = 2;
    device->begin_step(in);
    device->embed(x->tensor(), table);
    between();
    device->head(logits->tensor(), x->tensor(), all, {.eps = eps, .gain = gain->tensor()}, {head});
    return device->sync();
  }
  // A step that draws two tokens with masks of so many bytes; `between` comes before the draws.
  Status draw(size_t mask_bytes, const std::function<void()>& between) {
    const int32_t ids[] = {3, 12}, blocks[] = {0};
    const SpanInput span{0, 2, 0, false, blocks};
    const std::vector<uint32_t> mask(mask_bytes / 4, 0xfff0u);
    SampleInput samples[2];
    for (int i = 0; i < 2; ++i) samples[i].row = samples[i].slot = i, samples[i].allowed = mask;
    StepInput in;
    in.token_ids = ids;
    in.spans = {&span, 1};
    in.samples = samples;
    device->begin_step(in);
    device->embed(x->tensor(), table);
    between();
    device->sample(logits->tensor(), 0, 2, drawn);
    return device->sync();
  }
  RankGroup* group;
  std::unique_ptr<Device> device;
  Weight table, head;
  std::optional<Buffer> x, gain, logits;
  SampleOutput drawn[2];
  float rows[2][64];
};

// Each rank's thread. Both are prepared before either goes on: one that fails ends the other's
// preparation, too.
void on_two_ranks(double patience, const std::function<void(int, RankUnderTest&)>& body) {
  const Restore restore;
  emu::machine().gpus = 2;
  static std::deque<RankGroup> groups;  // each at an address that no other ever has
  RankGroup& group = groups.emplace_back(2, 1, RankGroup::Seconds(patience));
  std::latch prepared(2);
  const auto run = [&](int index) {
    RankUnderTest rank(&group, index);
    prepared.arrive_and_wait();
    body(index, rank);
  };
  std::thread other(run, 1);
  run(0);
  other.join();
}

}  // namespace
}  // namespace nemotron::test

using namespace nemotron;
using namespace nemotron::test;

TEST(why_there_is_no_device) {
  const Restore restore;
  std::string why;
  EXPECT_EQ(cuda::device_count(&why), 1);
  emu::machine().count_error = cudaErrorInsufficientDriver;
  emu::machine().driver = 0;
  EXPECT_EQ(cuda::device_count(&why), 0);
  EXPECT_EQ(why, "no NVIDIA driver is installed");
  emu::machine().driver = 11080;
  EXPECT_EQ(cuda::device_count(&why), 0);
  EXPECT_EQ(why, "the NVIDIA driver is for CUDA 11.8, expected 13.0 (580) or later");
  // One that the runtime of a library of CUDA 12 would go on with.
  emu::machine().count_error = cudaSuccess;
  emu::machine().driver = 12020;
  EXPECT_EQ(cuda::device_count(&why), 0);
  EXPECT_EQ(why, "the NVIDIA driver is for CUDA 12.2, expected 13.0 (580) or later");
  emu::machine().driver = 13000;
  emu::machine().count_error = cudaErrorNoDevice;
  EXPECT_EQ(cuda::device_count(&why), 0);
  EXPECT_EQ(why, "the NVIDIA driver sees no GPU");
}

TEST(how_old_a_driver_may_be) {
  const auto oldest = [](int runtime, bool compressed) {
    const cuda::OldestDriver d = cuda::oldest_driver(runtime, compressed);
    return std::pair(d.cuda, d.branch);
  };
  EXPECT(oldest(12040, false) == std::pair(12000, 525));  // its nvcc compresses nothing so
  EXPECT(oldest(12080, true) == std::pair(12040, 550));
  EXPECT(oldest(13000, true) == std::pair(13000, 580));
  EXPECT(oldest(13000, false) == std::pair(13000, 580));
}

TEST(wgmma_is_chosen_by_name) {
  for (const std::string variable : {"NEMOTRON_PROMPT_ATTENTION", "NEMOTRON_DECODE_PRODUCTS"}) {
    const Restore restore;
    const auto open_with = [&](const char* name) {
      setenv(variable.c_str(), name, 1);
      const Status s = open();
      unsetenv(variable.c_str());
      return s;
    };
    EXPECT_OK(open_with("mma"));
    EXPECT_OK(open_with("wgmma"));
    EXPECT_ERROR(open_with("fast"), variable + " is \"fast\": mma or wgmma is possible");
    emu::machine().major = 8;
    EXPECT_OK(open_with("mma"));
    EXPECT_ERROR(open_with("wgmma"), variable + " is wgmma, which needs a GPU of sm_90");
  }
}

TEST(one_product_is_chosen_by_name) {
  const Restore restore;
  setenv("NEMOTRON_PROMPT_PRODUCTS", "fast", 1);
  EXPECT_ERROR(open(), "NEMOTRON_PROMPT_PRODUCTS is \"fast\": library or decode is possible");
  setenv("NEMOTRON_PROMPT_PRODUCTS", "decode", 1);
  std::unique_ptr<Device> device;
  EXPECT_OK(cuda::open_device({}, &device));
  EXPECT(device->name().find("one product for all rows") != std::string::npos);
  EXPECT_ERROR(open_fp8(), "found NEMOTRON_PROMPT_PRODUCTS of decode, expected library");
  unsetenv("NEMOTRON_PROMPT_PRODUCTS");
  EXPECT_OK(cuda::open_device({}, &device));
  EXPECT(device->name().find("one product") == std::string::npos);
}

// What may be switched off in the environment, and what it is then.
struct Variable {
  Variable(const char* name, const char* value) : name(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name); }
  const char* name;
};

TEST(switches_are_refused_with_what_is_possible) {
  const Restore restore;
  for (const char* name : {"NEMOTRON_CUDA_GRAPHS", "NEMOTRON_CUDA_PDL", "NEMOTRON_CUDA_SYNC"}) {
    const Variable off(name, "off");
    EXPECT_ERROR(open(), std::string(name) + " is \"off\": 0 or 1 is possible");
  }
  for (const char* value : {"", "0", "1"}) {
    const Variable v("NEMOTRON_CUDA_PDL", value);
    EXPECT_OK(open());
  }
}

// Whether a product is launched so that it may overlap the kernel before it.
bool overlaps() {
  Tiny t;
  const uint64_t before = emu::counters().dependent;
  EXPECT_OK(t.multiply());
  return emu::counters().dependent > before;
}

TEST(dependent_launch) {
  const Restore restore;
  EXPECT(overlaps());
  {
    const Variable off("NEMOTRON_CUDA_PDL", "0");
    EXPECT(!overlaps());
  }
  // A newer GPU that runs what the driver made of PTX of sm_80: nothing in it waits.
  emu::machine().major = 10;
  EXPECT(overlaps());
  emu::machine().ptx = 80;
  EXPECT(!overlaps());
  emu::machine().ptx = 90;
  emu::machine().major = 8;
  EXPECT(!overlaps());
}

// Whether a step of generated rows that comes again and again is replayed as a graph.
bool replays() {
  const uint64_t before = emu::counters().graphs;
  Tiny t;
  EXPECT_OK(prepare_small(t.device.get(), 1, 16, 32));
  const std::vector<int32_t> ids = {0}, slots = {-1}, table = {0};
  const SpanInput span{0, 1, 0, true, table};
  const SampleInput sample;
  const StepInput in{.token_ids = ids,
                     .token_slots = slots,
                     .spans = {&span, 1},
                     .samples = {&sample, 1},
                     .num_generated_rows = 1};
  // A graph ends with the head.
  const std::vector<uint16_t> zeros(32 * 16);
  const MatrixPart part{.data = zeros.data(), .rows = 32, .cols = 16, .row_stride = 16};
  Linear head;
  EXPECT_OK(
      t.device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &head.weight));
  Buffer x(t.device.get(), DType::f32, {1, 16}, std::vector<float>(16, 1.0f));
  Buffer gain(t.device.get(), DType::f32, {16}, std::vector<float>(16, 1.0f));
  Buffer logits(t.device.get(), DType::f32, {1, 32}, std::vector<float>(32, 1.0f));
  const Norm norm{.eps = 1e-5f, .gain = gain.tensor()};
  const int32_t row = 0;
  for (int i = 0; i < 3; ++i) {
    SampleOutput out;
    t.device->begin_step(in);
    t.device->head(logits.tensor(), x.tensor(), {&row, 1}, norm, head);
    t.device->sample(logits.tensor(), 0, 1, &out);
    EXPECT_OK(t.device->sync());
    EXPECT_EQ(out.id, 0);
  }
  return emu::counters().graphs > before;
}

TEST(graphs) {
  const Restore restore;
  EXPECT(replays());
  for (const auto& [name, value] :
       {std::pair{"NEMOTRON_CUDA_GRAPHS", "0"}, {"NEMOTRON_CUDA_SYNC", "1"}}) {
    const Variable off(name, value);
    EXPECT(!replays());
  }
}

TEST(synchronous_errors_name_the_kernel) {
  const Restore restore;
  {
    Tiny t;
    EXPECT_ERROR(t.multiply(cudaErrorIllegalAddress),
                 "running on the GPU: an illegal memory access was encountered");
  }
  emu::machine().fault = cudaSuccess;
  const Variable synchronous("NEMOTRON_CUDA_SYNC", "1");
  Tiny t;
  EXPECT_ERROR(t.multiply(cudaErrorIllegalAddress),
               "kernel gemm_decode: an illegal memory access was encountered");
}

TEST(wrong_index) {
  const Restore restore;
  EXPECT_ERROR(open(3), "GPU 3 was asked for, this machine has 1");
}

TEST(wrong_architecture) {
  const Restore restore;
  emu::machine().major = 7, emu::machine().minor = 5;
  for (const cudaError_t e : {cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction,
                              cudaErrorInvalidKernelImage, cudaErrorUnsupportedPtxVersion}) {
    emu::machine().load_error = e;
    EXPECT_ERROR(open(), "emulated is sm_75; this library was compiled for emulated");
  }
}

TEST(out_of_memory) {
  const Restore restore;
  Tiny t;
  void* p = nullptr;
  const Status s = t.device->alloc(size_t(1) << 40, &p);
  EXPECT(s.code() == Code::out_of_memory);
  EXPECT_ERROR(s, "bytes free, 1099511627776 are needed");
  EXPECT_OK(t.multiply());  // asking for too much breaks nothing
  // A cache that does not fit: what it is for, what was free.
  const std::vector<float> freq(32, 0.1f);
  const KvConfig kv{.layers = 4, .kv_heads = 8, .head_dim = 64, .num_blocks = 1 << 20};
  const StepLimits limits{.max_rows = 8,
                          .max_spans = 8,
                          .max_samples = 8,
                          .max_context = 64,
                          .q_heads = 8,
                          .kv_heads = 8,
                          .head_dim = 64,
                          .hidden = 64,
                          .intermediate = 64,
                          .vocab = 64};
  const Status cache = t.device->prepare(limits, kv, {freq});
  EXPECT(cache.code() == Code::out_of_memory);
  EXPECT_ERROR(cache, "KV cache: the GPU has ");
}

// What a plan of memory counts is what prepare() takes.
TEST(workspace_is_what_was_told) {
  const Restore restore;
  const KvConfig kv{.layers = 2, .kv_heads = 2, .head_dim = 16, .num_blocks = 9, .block_size = 16};
  const StepLimits limits{.max_rows = 40,
                          .max_spans = 5,
                          .max_samples = 7,
                          .max_context = 1100,
                          .q_heads = 4,
                          .kv_heads = 2,
                          .head_dim = 16,
                          .hidden = 64,
                          .intermediate = 96,
                          .vocab = 16};
  // Of the layers: q, k and v; o; gate and up; down. A head, which no prompt row meets.
  const std::pair<int64_t, int64_t> shapes[] = {
      {128, 64}, {64, 64}, {192, 64}, {64, 96}, {999, 64}};
  const std::vector<float> freq(8, 0.1f);
  std::set<size_t> told;
  for (const char* library : {"none", EMU_FAKE_CUBLASLT}) {
    setenv("NEMOTRON_CUBLASLT", library, 1);
    for (const WeightFormat format :
         {WeightFormat::stored, WeightFormat::fp8, WeightFormat::int4}) {
      const NarrowWeights narrow{.fp8 = format == WeightFormat::fp8,
                                 .groups = format == WeightFormat::int4};
      std::unique_ptr<Device> device;
      EXPECT_OK(cuda::open_device({}, &device));
      Random random(1);
      for (const auto& [rows, cols] : shapes) {
        const HostMatrix m = random_matrix(random, rows, cols, DType::bf16);
        const MatrixPart part = m.part();
        Weight w;
        EXPECT_OK(device->pack_weight({&part, 1}, WeightUse::linear, format, &w));
      }
      device->end_packing();
      const size_t before = device->free_bytes();
      EXPECT_OK(device->prepare(limits, kv, {freq}));
      const size_t workspace = device->workspace_bytes(limits, kv, narrow);
      told.insert(workspace);
      EXPECT_EQ(before - device->free_bytes(), 9 * kv.bytes_per_block() + workspace);
    }
  }
  // Weights in groups are widened in any case, FP8 ones for the library, whose sums are scaled.
  EXPECT_EQ(told.size(), size_t(3));
  without_cublaslt();
}

// New weights in the place of the old ones: what that needs beside them cannot be had, which is
// told before anything is written, and leaves everything as it was.
TEST(no_memory_to_pack_weights_in_place) {
  const Restore restore;
  Tiny t;
  EXPECT_OK(prepare_small(t.device.get(), 1, 64, 16));
  const HostMatrix m = random_matrix(t.random, 16, 64, DType::bf16);
  const MatrixPart part = m.part();
  const auto pack = [&] {
    return t.device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &t.w);
  };
  const size_t all = emu::machine().bytes;
  const auto leave = [&](size_t bytes) {
    emu::machine().bytes = all;
    emu::machine().bytes -= t.device->free_bytes() - bytes;
  };
  constexpr size_t kMiB = size_t(1) << 20;
  leave(40 * kMiB);  // room for one of two pieces
  EXPECT_ERROR(t.device->begin_packing(), "memory to pack weights in: the GPU has ");
  t.device->end_packing();
  EXPECT_EQ(t.device->free_bytes(), 40 * kMiB);
  leave(0);
  EXPECT(pack().code() == Code::out_of_memory);
  emu::machine().bytes = all;
  EXPECT_OK(t.multiply());
  EXPECT_OK(t.device->begin_packing());
  leave(0);
  EXPECT_OK(pack());
  t.device->end_packing();
  EXPECT_EQ(t.device->free_bytes(), 64 * kMiB);
  emu::machine().bytes = all;
  EXPECT_OK(t.multiply());
}

TEST(fault_is_sticky) {
  const Restore restore;
  Tiny t;
  EXPECT_OK(t.multiply());
  EXPECT_ERROR(t.multiply(cudaErrorIllegalAddress), "an illegal memory access was encountered");
  emu::machine().fault = cudaSuccess;
  EXPECT_ERROR(t.device->sync(), "an illegal memory access was encountered");
  void* p = nullptr;
  EXPECT_ERROR(t.device->alloc(16, &p), "an illegal memory access was encountered");
  t.device->begin_step({});
  EXPECT_ERROR(t.device->sync(), "an illegal memory access was encountered");
}

// A step is built over the pinned memory of the step before the last one: that one has to be done.
TEST(steps_are_begun_in_turn) {
  const Restore restore;
  {
    Tiny t;
    for (int i = 0; i < kMaxStepsInFlight; ++i) {
      t.device->begin_step({});
      t.device->launch_step();
    }
    EXPECT_OK(t.device->wait_step());
    t.device->begin_step({});
    t.device->launch_step();
    EXPECT_OK(t.device->sync());
    EXPECT(t.device->step_done());
    for (int i = 0; i < kMaxStepsInFlight; ++i) {
      t.device->begin_step({});
      t.device->launch_step();
    }
    t.device->begin_step({});
    EXPECT(t.device->step_done());
    EXPECT_ERROR(t.device->wait_step(), "a step begins while two are in flight");
  }
  Tiny t;
  t.device->begin_step({});
  t.device->begin_step({});
  EXPECT_ERROR(t.device->sync(), "a step begins before the last one was launched");
}

// A thread starts with GPU 0: the device has to choose its own.
TEST(another_thread) {
  const Restore restore;
  emu::machine().gpus = 2;
  Tiny t;
  std::thread([&] {
    cudaSetDevice(1);
    EXPECT_OK(t.multiply());
  }).join();
}

TEST(ranks_embed_the_whole_vocabulary) {
  on_two_ranks(60, [](int, RankUnderTest& rank) {
    for (int i = 0; i < 3; ++i) EXPECT_OK(rank.embed());
  });
}

// Blocks that take their places while others' words are awaited: those of two groups could keep
// each other's ranks from running. One group's do, and the next one's when it is closed, also after
// a failure.
TEST(one_group_at_a_time_launches_early) {
  const auto triggers = [] {
    const uint64_t before = emu::counters().triggers;
    on_two_ranks(60, [](int, RankUnderTest& rank) { EXPECT_OK(rank.embed()); });
    return emu::counters().triggers - before;
  };
  const uint64_t alone = triggers();
  std::atomic<bool> both{false};
  on_two_ranks(60, [&](int index, RankUnderTest&) {
    if (index == 1) {
      both = true;
      return;
    }
    while (!both) std::this_thread::yield();
    EXPECT_LT(triggers(), alone);
  });
  EXPECT_EQ(triggers(), alone);
  on_two_ranks(60, [](int index, RankUnderTest& rank) {
    EXPECT_ERROR(rank.embed(index == 1 ? 99 : 12), "token id 99 is outside the embedding");
  });
  EXPECT_EQ(triggers(), alone);
}

// Its kernels wait for a rank that has failed: they are told, and it is named.
TEST(a_rank_that_fails_ends_the_others_steps) {
  on_two_ranks(60, [](int index, RankUnderTest& rank) {
    EXPECT_OK(rank.embed());
    if (index == 1) {
      EXPECT_ERROR(rank.embed(99), "token id 99 is outside the embedding of 16 rows");
      return;
    }
    EXPECT_ERROR(rank.embed(), "rank 1 of 2, last at its preparation: token id 99");
    EXPECT_ERROR(rank.device->sync(), "rank 1 of 2");
  });
}

TEST(a_rank_that_stalls_ends_the_group) {
  std::atomic<bool> over{false};
  // Longer than preparing takes where the processors are busy.
  on_two_ranks(6, [&](int index, RankUnderTest& rank) {
    if (index == 1) {
      while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      EXPECT_ERROR(rank.embed(), "rank 0 of 2");
      return;
    }
    EXPECT_ERROR(rank.embed(), "waited 6 s for rank 1 in a step");
    over = true;
  });
}

// Ended without a word to anybody's kernels: the first rank that sees it tells them.
TEST(kernels_are_told_of_a_group_that_ended_on_the_host) {
  on_two_ranks(5, [&](int index, RankUnderTest& rank) {
    EXPECT_OK(rank.embed());
    if (index == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));  // rank 1's kernel waits
      rank.group->end(0, Status::internal("the cable was pulled"));
    }
    EXPECT_ERROR(rank.embed(), "the cable was pulled");
  });
}

// Rank 1 is late: when it takes memory, a kernel of rank 0 that waits for it must not be running.
TEST(memory_is_taken_in_a_step_when_no_rank_waits) {
  for (const size_t mask_bytes : {size_t(64), size_t(2) << 20}) {
    on_two_ranks(10, [&](int index, RankUnderTest& rank) {
      EXPECT_OK(rank.draw(mask_bytes, [&] {
        if (index == 1) std::this_thread::sleep_for(std::chrono::milliseconds(200));
      }));
      EXPECT_EQ(rank.drawn[index].id, 4);  // the first that the mask allows
    });
  }
}

TEST(graphs_are_made_when_no_rank_waits) {
  on_two_ranks(10, [&](int index, RankUnderTest& rank) {
    const uint64_t before = emu::counters().graphs;
    std::vector<float> first;
    for (int step = 0; step < 4; ++step) {
      EXPECT_OK(rank.generate([&] {
        if (index == 1) std::this_thread::sleep_for(std::chrono::milliseconds(200));
      }));
      const std::vector<float> all = rank.logits->read();
      const std::vector<float> own(all.begin() + index * 16, all.begin() + (index + 1) * 16);
      if (step == 0) first = own;
      EXPECT(own == first);
    }
    EXPECT_NE(first[0], 0.5f);
    EXPECT(emu::counters().graphs > before);
  });
}

// By another list of ops in its place, and by memory that moves.
TEST(graphs_are_dropped_when_no_rank_waits) {
  on_two_ranks(10, [&](int index, RankUnderTest& rank) {
    const auto at_once = [] {};
    const auto late = [&] {
      if (index == 1) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    };
    const auto make = [&] {
      const uint64_t before = emu::counters().graphs;
      for (int i = 0; i < 3; ++i) EXPECT_OK(rank.generate(at_once));
      EXPECT(emu::counters().graphs > before);
    };
    make();
    EXPECT_OK(rank.generate(late, 1e-3f));
    make();
    EXPECT_OK(rank.generate(late, 1e-5f, 300000));
  });
}

// A rank that never comes to where the others make theirs: nothing is launched that waits for it.
TEST(a_graph_is_not_launched_where_a_rank_is_missing) {
  const uint64_t before = emu::counters().graphs;
  std::atomic<bool> over{false};
  on_two_ranks(5, [&](int index, RankUnderTest& rank) {
    EXPECT_OK(rank.generate([] {}));
    if (index == 1) {
      while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return;
    }
    EXPECT_ERROR(rank.generate([] {}), "did nothing for 5 s while rank 0 waited at room in a step");
    over = true;
  });
  EXPECT_EQ(emu::counters().graphs, before);
}

TEST(groups_that_cannot_be_are_refused_by_name) {
  const Restore restore;
  RankGroup group(2, 1);
  std::unique_ptr<Device> device;
  DeviceOptions options;
  options.group = &group;
  EXPECT_ERROR(cuda::open_device(options, &device),
               "tensor_parallel_size: found 2, expected at most 1: this machine has 1 GPUs");
  emu::machine().gpus = 2;
  emu::machine().peer_access = false;
  EXPECT_ERROR(cuda::open_device(options, &device),
               "tensor_parallel_size: GPU 0 does not reach the memory of GPU 1 (no peer access)");
}

TEST(fp8_activations_are_refused_with_a_reason) {
  const Restore restore;
  EXPECT_ERROR(open_fp8(), "FP8 activations need cuBLASLt: none");
  with_fake_cublaslt();
  EXPECT_OK(open_fp8());
  emu::machine().major = 8, emu::machine().minor = 0;
  EXPECT_ERROR(open_fp8(), "found sm_80, expected sm_89 or later");
}

TEST(names_what_multiplies_prompts) {
  const Restore restore;
  std::unique_ptr<Device> device;
  EXPECT_OK(cuda::open_device({}, &device));
  EXPECT(device->name().starts_with("emulated (sm_90, own kernels for prompts: none: cannot open"));
  with_fake_cublaslt();
  EXPECT_OK(open_fp8(&device));
  EXPECT_EQ(device->name(), "emulated (sm_90, cuBLASLt 13.1, FP8 activations)");
}

NEMOTRON_TEST_MAIN
