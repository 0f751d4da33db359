// Several ranks compute what one computes, to the last bit: weights in, step out, sums, draws. And
// what becomes of a group when a rank fails.
#include "parallel.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "device/rank_group.h"

namespace nemotron::test {
namespace {

using Shape = ParallelShape;

EngineOptions options_of(const TempDir& dir, int32_t ranks, const Shape& shape = {}) {
  EngineOptions o = tiny_options();
  o.model_dir = dir.path();
  o.ranks = ranks;
  o.format = shape.format;
  o.device.threads = ranks > 2 ? ranks : 2;
  o.kv_memory = int64_t(8) << 20;
  return o;
}

std::vector<Outcome> alone_on_one_rank(const EngineOptions& options,
                                       const std::vector<Request>& all) {
  EngineOptions o = options;
  o.ranks = 1;
  o.prefix_cache = o.run_ahead = false;
  Client client(o);
  std::vector<Outcome> outcomes;
  for (const Request& r : all) outcomes.push_back(client.run(r));
  return outcomes;
}

using Numbers = std::vector<int32_t>;

// `some` is enough for what the shape alone reaches; all of them are ranks_give_the_bits_of_one's.
Numbers or_in_long_runs(const Numbers& some, const Numbers& all) {
  return std::getenv("NEMOTRON_TEST_LONG") ? all : some;
}

void expect_same_on_ranks(const Shape& shape, const Numbers& numbers,
                          std::optional<DType> kv_dtype = {}) {
  const TempDir dir;
  write_checkpoint(dir, shape);
  const std::vector<Request> all(requests().begin(), requests().begin() + 20);
  EngineOptions one = options_of(dir, 1, shape);
  one.kv_dtype = kv_dtype;
  const std::vector<Outcome> expected = alone_on_one_rank(one, all);
  for (const int32_t ranks : numbers) {
    EngineOptions o = options_of(dir, ranks, shape);
    o.kv_dtype = kv_dtype;
    expect_equal(o, all, expected);  // in a batch, ahead of what is drawn
    o.max_batched_tokens = 7;        // chunked
    o.run_ahead = false;
    expect_equal(o, all, expected);
  }
}

TEST(ranks_give_the_bits_of_one) { expect_same_on_ranks({}, {2, 4, 8}); }

TEST(ranks_give_the_bits_of_one_with_fp8_weights) {
  expect_same_on_ranks({.format = WeightFormat::fp8}, or_in_long_runs({4}, {2, 4, 8}));
}

TEST(ranks_give_the_bits_of_one_with_4_bit_weights) {
  expect_same_on_ranks({.format = WeightFormat::int4}, or_in_long_runs({2, 8}, {2, 4, 8}));
}

TEST(ranks_give_the_bits_of_one_with_an_fp8_cache) {
  expect_same_on_ranks({}, or_in_long_runs({8}, {2, 8}), DType::fp8_e4m3);
}

TEST(ranks_give_the_bits_of_one_for_nemotron) {
  expect_same_on_ranks({.architecture = "NemotronForCausalLM"}, or_in_long_runs({4}, {2, 4}));
}

// On one rank too: layers of every kind, alone and in a batch, whole and in chunks. Of four ranks
// some share a KV head, some have one and some have two.
TEST(ranks_give_the_bits_of_one_for_deci) {
  expect_same_on_ranks({.architecture = "DeciLMForCausalLM"},
                       or_in_long_runs({1, 4}, {1, 2, 4, 8}));
}

TEST(ranks_give_the_bits_of_one_for_deci_in_fp8) {
  expect_same_on_ranks({.architecture = "DeciLMForCausalLM", .format = WeightFormat::fp8},
                       or_in_long_runs({4}, {1, 4}), DType::fp8_e4m3);
}

// Requests that together want more blocks than there are, and that begin alike.
void expect_same_when_crowded(const Shape& shape, const Numbers& numbers) {
  const TempDir dir;
  write_checkpoint(dir, shape);
  std::vector<Request> all;
  for (uint32_t seed = 1; seed <= 10; ++seed) {
    Request r = mixed_request(seed);
    r.prompt = random_prompt(32, 5);
    const std::vector<int32_t> own = random_prompt(1 + seed % 20, seed);
    r.prompt.insert(r.prompt.end(), own.begin(), own.end());
    r.sampling.max_tokens = int32_t(60 + seed * 4);
    r.sampling.stop.clear();
    r.sampling.ignore_eos = true;
    all.push_back(r);
  }
  const std::vector<Outcome> expected = alone_on_one_rank(options_of(dir, 1, shape), all);
  for (const int32_t ranks : numbers) {
    EngineOptions o = options_of(dir, ranks, shape);
    o.max_model_len = 192;
    {
      Client client(o);
      REQUIRE_OK(client.status());
      o.kv_memory = 14 * 16 * int64_t(client.engine().info().plan.kv_bytes_per_token);
    }
    EXPECT_GT(expect_equal(o, all, expected).preemptions, 3);
    o.kv_memory = int64_t(8) << 20;
    Client client(o);
    int64_t cached = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const Outcome got = client.run(all[i]);
      EXPECT_EQ(difference(got, expected[i]), "");
      cached += got.timings.cached_tokens;
    }
    EXPECT_GT(cached, 100);
  }
}

TEST(ranks_preempt_and_find_prefixes_as_one) {
  expect_same_when_crowded({}, or_in_long_runs({4}, {2, 4}));
}
TEST(ranks_preempt_and_find_prefixes_as_one_for_nemotron) {
  expect_same_when_crowded({.architecture = "NemotronForCausalLM"},
                           or_in_long_runs({1, 2}, {1, 2, 4}));
}
TEST(ranks_preempt_and_find_prefixes_as_one_for_deci) {
  expect_same_when_crowded({.architecture = "DeciLMForCausalLM"},
                           or_in_long_runs({1, 4}, {1, 2, 4}));
}

// A layer takes as much of the cache as it has KV heads, and one without attention nothing.
TEST(a_layer_keeps_its_own_kv_heads) {
  const TempDir dir;
  const Shape shape{.architecture = "DeciLMForCausalLM"};
  write_checkpoint(dir, shape);
  constexpr size_t kHead = 2 * 32 * 2;  // K and V of one head and token, F16
  for (const auto& [ranks, heads] : {std::pair(1, 15), std::pair(2, 8), std::pair(4, 5)}) {
    Client client(options_of(dir, ranks, shape));
    REQUIRE_OK(client.status());
    EXPECT_EQ(client.engine().info().plan.kv_bytes_per_token, heads * kHead);
  }
}

// Three ranks are no part of a tree of two, four and eight: their own bits, the same in any batch.
TEST(three_ranks_agree_with_themselves) {
  const TempDir dir;
  Shape shape;
  shape.heads = 6, shape.kv_heads = 3, shape.inner = 96 * 3;
  write_checkpoint(dir, shape);
  const std::vector<Request> all(requests().begin(), requests().begin() + 12);
  EngineOptions o = options_of(dir, 3);
  Client client(o);
  REQUIRE_OK(client.status());
  std::vector<Outcome> expected;
  for (const Request& r : all) expected.push_back(client.run(r));
  o.max_batched_tokens = 16;
  expect_equal(o, all, expected);
}

TEST(ranks_score_as_one) {
  const TempDir dir;
  Shape shape;
  shape.architecture = "LlamaForSequenceClassification";
  shape.classes = 5;
  write_checkpoint(dir, shape);
  std::vector<std::vector<float>> scores;
  for (const int32_t ranks : {1, 2, 8}) {
    Client client(options_of(dir, ranks));
    REQUIRE_OK(client.status());
    Request r;
    r.kind = RequestKind::score;
    r.prompt = random_prompt(50, 3);
    scores.push_back(client.run(r).scores);
    EXPECT_EQ(scores.back().size(), size_t(5));
  }
  EXPECT(scores[1] == scores[0]);
  EXPECT(scores[2] == scores[0]);
}

TEST(time_that_nobody_saw_is_no_waiting) {
  using std::chrono::milliseconds;
  const auto start = Waited::Clock::now();
  Waited waited(start);
  EXPECT(waited.look(start + milliseconds(100)) == milliseconds(100));
  EXPECT(waited.look(start + milliseconds(3'600'000)) == milliseconds(100) + Waited::kMost);
  EXPECT(waited.look(start + milliseconds(3'600'050)) == milliseconds(150) + Waited::kMost);
}

TEST(a_process_that_is_stopped_for_a_while_loses_no_rank) {
  const pid_t child = fork();
  if (child == 0) {
    RankGroup group(2, 1, RankGroup::Seconds(2));
    std::thread other([&] {
      for (int i = 0; i < 20; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(25));
      group.meet(1, "there");
    });
    const bool met = group.meet(0, "here");
    other.join();
    _exit(met ? 0 : 1);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  kill(child, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  kill(child, SIGCONT);
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(ranks_hold_their_share) {
  const TempDir dir;
  Shape shape;
  shape.kv_heads = 4;
  write_checkpoint(dir, shape);
  Client client(options_of(dir, 4));
  REQUIRE_OK(client.status());
  const EngineInfo& info = client.engine().info();
  EXPECT_EQ(info.ranks.size(), size_t(4));
  EXPECT(info.device.starts_with("4 x cpu"));
  Client one(options_of(dir, 1));
  REQUIRE_OK(one.status());
  const MemoryPlan& whole = one.engine().info().plan;
  for (const RankInfo& rank : info.ranks) {
    EXPECT_EQ(rank.plan.num_blocks, info.plan.num_blocks);
    // Norms are everywhere, and the embedding's 300 rows are padded to panels of 16.
    EXPECT_LT(rank.plan.weights, whole.weights / 4 + 8192);
    EXPECT_EQ(rank.plan.kv_bytes_per_token, whole.kv_bytes_per_token / 4);
  }
}

// Two KV heads on eight ranks: each has one, as three others have.
TEST(ranks_beyond_the_kv_heads_share_them) {
  const TempDir dir;
  write_checkpoint(dir, {});
  Client one(options_of(dir, 1)), eight(options_of(dir, 8));
  REQUIRE_OK(one.status());
  REQUIRE_OK(eight.status());
  EXPECT_EQ(eight.engine().info().plan.kv_bytes_per_token,
            one.engine().info().plan.kv_bytes_per_token / 2);
}

TEST(ranks_that_cannot_be_are_refused_by_name) {
  const TempDir dir;
  write_checkpoint(dir, {});
  for (const int32_t ranks : {0, 3, 5, 9, -1}) {
    const Client client(options_of(dir, ranks));
    EXPECT_ERROR(client.status(),
                 "tensor_parallel_size: found " + std::to_string(ranks) + ", expected 1, 2, 4, 8");
  }
}

TEST(a_group_meets_again_and_again) {
  constexpr int kRanks = 6, kRounds = 2000;
  RankGroup group(kRanks, 4);  // more threads than there are: who waits sleeps
  std::vector<std::thread> threads;
  std::vector<int64_t> written(kRanks);
  std::atomic<int> wrong{0};
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      for (int64_t round = 1; round <= kRounds; ++round) {
        written[size_t(rank)] = round;
        if (!group.meet(rank, "a round")) ++wrong;
        for (const int64_t other : written) wrong += other != round;
        if (!group.meet(rank, "its end")) ++wrong;
      }
      int64_t value = 100 - rank;
      if (!group.smallest(rank, "values", &value) || value != 100 - (kRanks - 1)) ++wrong;
      float values[] = {float(rank), -float(rank)};
      if (!group.largest(rank, "values", values) || values[0] != kRanks - 1 || values[1] != 0)
        ++wrong;
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_OK(group.status());
}

TEST(who_fails_ends_the_group) {
  RankGroup group(3, 1);
  std::vector<std::thread> threads;
  std::atomic<int> told{0};
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      group.meet(rank, "the first sum");
      if (rank == 1) return group.end(1, Status::internal("a broken device"));
      told += !group.meet(rank, "the second sum");
      told += !group.meet(rank, "never");
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(told.load(), 4);
  EXPECT_ERROR(group.status(), "rank 1 of 3, last at the first sum: a broken device");
}

TEST(who_stalls_ends_the_group_and_who_works_does_not) {
  RankGroup group(2, 1, RankGroup::Seconds(0.5));
  std::atomic<bool> met{false};
  std::thread waiting([&] {
    met = group.meet(0, "the sum");
    EXPECT(!group.meet(0, "the next"));
  });
  // At work for longer than a second and a half.
  for (int i = 0; i < 16; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    group.ticks_of(1)->fetch_add(1);
  }
  EXPECT(group.meet(1, "the sum"));
  waiting.join();  // rank 1 comes no more
  EXPECT(met.load());
  EXPECT_ERROR(group.status(),
               "rank 1 of 2, last at the sum: did nothing for 0 s while rank 0 "
               "waited at the next");
}

}  // namespace
}  // namespace nemotron::test
