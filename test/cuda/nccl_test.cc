// GPUs that do not reach each other's memory: ranks by NCCL, of which there is a stand-in; which
// libraries are refused, and ranks that do not come.
#include <chrono>
#include <cstdlib>

#include "test/check.h"
#include "test/cuda/emulated_library.h"
#include "test/engine/parallel.h"

namespace nemotron::test {
namespace {

// A variable of the environment while this lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_.empty()) {
      unsetenv(name_);
    } else {
      setenv(name_, before_.c_str(), 1);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string before_;
};

EngineOptions options_of(const TempDir& dir) {
  share_emulated_runtime();
  EngineOptions o = tiny_options();
  o.backend = "cuda";
  o.model_dir = dir.path();
  o.ranks = 2;
  o.kv_memory = int64_t(1) << 20;
  o.max_model_len = 128;
  o.max_seqs = 4;
  return o;
}

// Of few inner columns, which are most of what a step computes.
void write_small(const TempDir& dir) { write_checkpoint(dir, {.inner = 128}); }

Request request(uint32_t seed) {
  Request r;
  r.prompt = random_prompt(5 + seed * 6, seed);
  r.sampling.max_tokens = 4;
  r.sampling.ignore_eos = true;
  r.sampling.temperature = float(seed % 2);
  r.sampling.num_logprobs = 3;
  return r;
}

TEST(nccl_gives_the_bits_that_peer_access_gives) {
  const TempDir dir;
  write_small(dir);
  const std::vector<Request> all = {request(0), request(1), request(2)};
  EngineOptions o = options_of(dir);
  std::vector<Outcome> expected;
  {
    emulated_machine().peer_access = true;
    Client client(o);
    emulated_machine().peer_access = false;
    REQUIRE_OK(client.status());
    EXPECT(client.engine().info().device.find("ranks by NVLink") != std::string::npos);
    for (const Request& r : all) expected.push_back(client.run(r));
  }
  {
    Client client(o);
    REQUIRE_OK(client.status());
    EXPECT(client.engine().info().device.find("ranks by NCCL 2.27.7") != std::string::npos);
  }
  expect_equal(o, all, expected);
}

// What is gathered at a time has room for three rows of logits of two ranks, of which one has to
// wait: row i is whole on rank i % 2, and drawn there.
TEST(turns_by_nccl_begin_with_the_first_rank) {
  const TempDir dir;
  write_small(dir);
  std::vector<Request> all;
  for (uint32_t i = 0; i < 6; ++i) {
    all.push_back(request(i));
    all.back().prompt.resize(4);
    all.back().sampling.max_tokens = 8;
  }
  EngineOptions o = options_of(dir);
  o.max_seqs = int32_t(all.size());
  std::vector<Outcome> expected;
  {
    Client client(o);
    REQUIRE_OK(client.status());
    for (const Request& r : all) expected.push_back(client.run(r));
  }
  o.device.turn_bytes = 2000;  // a row: 150 words of each of two ranks
  expect_equal(o, all, expected);
  // And none of a turn that holds less than a row of each rank.
  o.device.turn_bytes = 1008;
  const Client client(o);
  EXPECT_ERROR(client.status(), "several ranks on CUDA with rows of 300 values");
}

// --- what is refused, before a weight is read ---

Status refused(const TempDir& dir) {
  const Client client(options_of(dir));
  EXPECT(!client.status().ok());
  EXPECT_ERROR(client.status(), "GPU 0 does not reach the memory of GPU 1 (no peer access)");
  EXPECT_ERROR(client.status(), "NEMOTRON_NCCL");
  return client.status();
}

TEST(a_missing_library_is_named) {
  const TempDir dir;
  write_small(dir);
  const Variable file("NEMOTRON_NCCL", "/nowhere/libnccl.so.2");
  EXPECT_ERROR(refused(dir), "/nowhere/libnccl.so.2");
}

TEST(a_library_of_another_kind_is_named) {
  const TempDir dir;
  write_small(dir);
  const Variable file("NEMOTRON_NCCL", std::getenv("NEMOTRON_CUDA_LIBRARY"));
  EXPECT_ERROR(refused(dir), "has no ncclGetVersion");
}

TEST(a_library_of_another_version_is_named) {
  const TempDir dir;
  write_small(dir);
  for (const auto& [number, text] : {std::pair("21304", "2.13.4"), std::pair("30100", "3.1.0")}) {
    const Variable version("FAKE_NCCL_VERSION", number);
    EXPECT_ERROR(refused(dir),
                 std::string("found NCCL ") + text + ", expected 2.14.0 or a later 2.x");
  }
}

// --- ranks that do not come ---

struct Told {
  Status status;
  bool loading = false;
};

Told run_with_fault(const std::string& fault) {
  const TempDir dir;
  write_small(dir);
  const Variable variable("FAKE_NCCL_FAULT", fault);
  EngineOptions o = options_of(dir);
  // All of it passes where a rank is lost; the others' steps fit in it on a busy machine too.
  o.rank_patience = RankGroup::Seconds(fault.ends_with("lost") ? 4 : 60);
  const auto start = std::chrono::steady_clock::now();
  Told told;
  {
    Client client(o);
    if (!client.status()) {
      told = {client.status(), true};
    } else {
      told.status = client.run(request(1)).error;
      EXPECT(client.engine().stats().failed_device);
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_LT(took.count(), 30.0);
  EXPECT(!told.status.ok());
  return told;
}

TEST(a_rank_that_does_not_come_to_the_start_ends_it) {
  const Told told = run_with_fault("1 -1 lost");
  EXPECT(told.loading);
  EXPECT_ERROR(told.status, "NCCL, starting: waited in vain for other ranks");
}

TEST(a_start_that_fails_is_told) {
  const Told told = run_with_fault("0 -1 error");
  EXPECT(told.loading);
  EXPECT_ERROR(told.status, "NCCL, starting: remote process exited");
}

// The first sum, one of the second step, an exchange of logits or ids between them.
TEST(a_rank_that_does_not_come_to_a_step_ends_it) {
  for (const char* fault : {"0 0 lost", "1 6 lost", "0 9 lost"}) {
    const Told told = run_with_fault(fault);
    EXPECT(!told.loading);
    EXPECT_ERROR(told.status, "waited 4 s for another rank in a step, by NCCL");
  }
}

TEST(a_failure_of_the_library_is_told) {
  const Told told = run_with_fault("1 7 error");
  EXPECT(!told.loading);
  EXPECT_ERROR(told.status, "NCCL, gathering from all ranks: remote process exited");
  EXPECT_ERROR(told.status, "rank 1 of 2");
}

}  // namespace
}  // namespace nemotron::test

NEMOTRON_TEST_MAIN
