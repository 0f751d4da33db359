// A rank that fails or stalls at any call of loading and of a step: the engine says which rank and
// where it stood, requests get that error, nothing hangs. On ranks of faulty_backend.cc.
#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>

#include "../engine/parallel.h"

namespace nemotron::test {
namespace {

// Of tests that wait for it: on a busy machine a rank may not run for a while.
constexpr double kPatience = 1;

bool fault_reached() {
  static const auto reached = [] {
    void* library = dlopen(std::getenv("NEMOTRON_CUDA_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
    return reinterpret_cast<bool (*)() noexcept>(library ? dlsym(library, "nemotron_fault_reached")
                                                         : nullptr);
  }();
  return reached && reached();
}

enum class When { loading, running, never };

// Loads, answers two requests at once, closes. `when`: the fault came; checks what was said of it.
When run_with_fault(const TempDir& dir, int ranks, int rank, int64_t call, const char* kind) {
  const std::string fault = std::to_string(rank) + " " + std::to_string(call) + " " + kind;
  setenv("NEMOTRON_FAULT", fault.c_str(), 1);
  EngineOptions o = tiny_options();
  o.model_dir = dir.path();
  o.backend = "cuda";
  o.ranks = ranks;
  o.device.threads = ranks;
  o.kv_memory = int64_t(4) << 20;
  const auto start = std::chrono::steady_clock::now();
  const bool stalls = std::string(kind) != "fail";
  if (stalls) o.rank_patience = RankGroup::Seconds(kPatience);
  const std::string who = "rank " + std::to_string(rank) + " of " + std::to_string(ranks);
  const std::string what = stalls ? "did nothing for" : "a fault was injected";
  const auto expect_told = [&](const Status& s) {
    EXPECT_ERROR(s, who);
    EXPECT_ERROR(s, what);
  };
  When when = When::loading;
  {
    Client client(o);
    if (!client.status()) {
      expect_told(client.status());
    } else {
      when = When::never;
      std::vector<uint64_t> ids;
      for (uint32_t i = 0; i < 2; ++i) {
        Request r;
        r.prompt = random_prompt(20, i);
        r.sampling.max_tokens = 4;
        r.sampling.ignore_eos = true;
        r.sampling.temperature = float(i);
        // The engine may fail at the first before the second is there.
        Status refused;
        const uint64_t id = client.submit(std::move(r), &refused);
        EXPECT(refused.ok() || (i > 0 && refused.code() == Code::unavailable));
        if (refused) ids.push_back(id);
      }
      client.wait();
      for (const uint64_t id : ids) {
        const Outcome& outcome = client.outcome(id);
        if (outcome.finish != Finish::error) continue;
        when = When::running;
        expect_told(outcome.error);
      }
      if (when == When::running) {
        EXPECT(client.engine().stats().failed_device);
        EXPECT_EQ(client.engine().stats().rank_layers.size(), size_t(ranks));
        Request r;
        r.prompt = {1};
        const Status refused = client.engine().submit(std::move(r));
        EXPECT(refused.code() == Code::unavailable);
      }
    }
  }
  EXPECT_EQ(fault_reached(), when != When::never);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_LT(took.count(), 30.0);
  unsetenv("NEMOTRON_FAULT");
  return when;
}

// Every `step`th call, until one is beyond all that are made.
void run_with_faults(const char* kind, int ranks, int rank, int64_t step) {
  const TempDir dir;
  write_checkpoint(dir, {});
  int loading = 0, running = 0;
  for (int64_t call = 0;; call += step) {
    const When when = run_with_fault(dir, ranks, rank, call, kind);
    if (when == When::never) break;
    ++(when == When::loading ? loading : running);
    REQUIRE(call < 1000);
  }
  EXPECT(loading > 0 && running > 0);
  EXPECT(step > 1 || (loading > 10 && running > 50));
}

TEST(the_first_rank_fails_anywhere) { run_with_faults("fail", 2, 0, 1); }
TEST(the_last_rank_fails_anywhere) { run_with_faults("fail", 2, 1, 1); }
TEST(one_of_four_ranks_fails) { run_with_faults("fail", 4, 2, 7); }
TEST(a_rank_stalls_anywhere) {
  run_with_faults("stall", 2, 0, 23);
  run_with_faults("stall", 2, 1, 29);
}

// New weights that stop half-way: the old ones are back, on all ranks, or the engine has failed in
// words where their files are not what they were.
void expect_to_go_back(WeightFormat format) {
  const TempDir one, two;
  write_checkpoint(one, {});
  write_checkpoint(two, {.seed = 100});
  int loads = 0, went_back = 0, failed = 0;
  for (int64_t call = 0;; ++call) {
    const bool spoils = call % 3 == 2;
    const TempDir copy;
    std::filesystem::copy(one.path(), copy.path());
    setenv("NEMOTRON_FAULT", ("1 " + std::to_string(call) + " once").c_str(), 1);
    EngineOptions o = tiny_options();
    o.model_dir = copy.path();
    o.backend = "cuda";
    o.format = format;
    o.ranks = o.device.threads = 2;
    o.rank_patience = RankGroup::Seconds(20);
    o.kv_memory = int64_t(4) << 20;
    Client client(o);
    if (!client.status()) {
      EXPECT_ERROR(client.status(), "this once");
      ++loads;
      continue;
    }
    const auto answer = [&] {
      Request r;
      r.prompt = random_prompt(20, 1);
      r.sampling.max_tokens = 4;
      r.sampling.ignore_eos = true;
      const uint64_t id = client.submit(std::move(r));
      client.wait();
      return client.outcome(id).ids;
    };
    const std::vector<int32_t> before = answer();
    // Other numbers of the same shapes in the file that it was loaded from.
    if (spoils) write_checkpoint(copy, {.seed = 200});
    std::promise<Status> over;
    REQUIRE_OK(client.engine().reload(two.path(), [&](const Status& s) { over.set_value(s); }));
    const Status status = over.get_future().get();
    unsetenv("NEMOTRON_FAULT");
    if (status.ok()) {
      EXPECT(!fault_reached());
      EXPECT(answer() != before);
      break;
    }
    EXPECT(fault_reached());
    if (spoils) {
      EXPECT_ERROR(status, "has been written over since it was loaded");
      ++failed;
    } else {
      EXPECT(answer() == before);
      EXPECT_OK(client.engine().reload(two.path(), [](const Status&) {}));
      EXPECT(answer() != before);
      ++went_back;
    }
  }
  EXPECT(loads > 5 && went_back > 5 && failed > 2);
}

TEST(a_load_that_fails_goes_back) { expect_to_go_back(WeightFormat::stored); }
// The ranks meet for the scales of matrices.
TEST(a_load_of_fp8_that_fails_goes_back) { expect_to_go_back(WeightFormat::fp8); }

// Its thread is left behind, and with it what it may touch.
TEST(a_rank_hangs_for_good) {
  const TempDir dir;
  write_checkpoint(dir, {});
  EXPECT(run_with_fault(dir, 2, 1, 5, "hang") == When::loading);
  EXPECT(run_with_fault(dir, 2, 0, 40, "hang") == When::running);
  EXPECT(run_with_fault(dir, 4, 3, 61, "hang") == When::running);
}

}  // namespace
}  // namespace nemotron::test

NEMOTRON_TEST_MAIN
