// The engine on several emulated GPUs: a rank's thread, its weights, its steps. For a number of
// ranks the bits of a request are the same alone and in any batch; and near those of one rank.
#include "test/engine/parallel.h"

#include <cmath>
#include <future>
#include <thread>

#include "test/check.h"
#include "test/cuda/emulated_library.h"

namespace nemotron::test {
namespace {

// Of inner columns as many as four ranks can share: they are most of what a step computes.
ParallelShape small_shape() { return {.inner = 128}; }

EngineOptions options_of(const TempDir& dir, int32_t ranks, WeightFormat format) {
  share_emulated_runtime();
  EngineOptions o = tiny_options();
  o.backend = "cuda";
  o.model_dir = dir.path();
  o.ranks = ranks;
  o.format = format;
  o.kv_memory = int64_t(1) << 20;
  o.max_model_len = 128;
  o.max_seqs = 4;
  return o;
}

// Short ones: every kernel runs thread by thread. The first two are greedy.
std::vector<Request> short_requests() {
  std::vector<Request> all;
  for (uint32_t i = 0; i < 4; ++i) {
    Request r = mixed_request(i + 1);
    r.prompt = random_prompt(3 + i * 6, i);
    SamplingParams& p = r.sampling;
    p.max_tokens = 4;
    p.min_tokens = std::min(p.min_tokens, 3);
    p.num_logprobs = 2;
    if (i < 2) {
      p = {};
      p.max_tokens = 4;
      p.temperature = 0;
      p.num_logprobs = 2;
      p.ignore_eos = true;
    }
    all.push_back(r);
  }
  return all;
}

std::vector<Outcome> alone(const EngineOptions& options, const std::vector<Request>& all) {
  EngineOptions o = options;
  o.prefix_cache = o.run_ahead = false;
  Client client(o);
  EXPECT_OK(client.status());
  std::vector<Outcome> outcomes;
  if (!client.status()) return outcomes;
  for (const Request& r : all) outcomes.push_back(client.run(r));
  return outcomes;
}

// How far the logprobs of a number of ranks are from those of one, in the mean.
struct Difference {
  double sum = 0;
  int tokens = 0;
};

// Up to the first id that differs: the likeliest is the same wherever it is clearly the likeliest.
void add_difference(const Outcome& got, const Outcome& one, bool greedy, Difference* d) {
  for (size_t n = 0; n < std::min(got.logprobs.size(), one.logprobs.size()); ++n) {
    const auto& top = one.logprobs[n].top;
    if (got.ids[n] != one.ids[n]) {
      EXPECT(!greedy || (top.size() > 1 && top[0].second - top[1].second < 1e-2f));
      return;
    }
    d->sum += std::abs(double(got.logprobs[n].logprob) - double(one.logprobs[n].logprob));
    ++d->tokens;
  }
}

struct Group {
  int32_t ranks;
  WeightFormat format = WeightFormat::stored;
  std::string architecture = "LlamaForCausalLM";
  DType kv = DType::bf16;
  double most = 1e-3;   // mean difference of logprobs to one rank
  size_t requests = 4;  // fewer where each takes long
};

void expect_ranks(const Group& group) {
  const TempDir dir;
  ParallelShape shape = small_shape();
  shape.architecture = group.architecture;
  write_checkpoint(dir, shape);
  std::vector<Request> all = short_requests();
  all.resize(group.requests);
  EngineOptions o = options_of(dir, group.ranks, group.format);
  o.kv_dtype = group.kv;
  const std::vector<Outcome> expected = alone(o, all);
  REQUIRE(expected.size() == all.size());
  // In a batch, ahead of what is drawn; the last prompt again, which finds its prefix.
  std::vector<Request> twice = all;
  twice.push_back(all.back());
  std::vector<Outcome> expected_twice = expected;
  expected_twice.push_back(expected.back());
  o.max_seqs = int32_t(all.size());  // it waits for one of the others
  const EngineStats stats = expect_equal(o, twice, expected_twice);
  EXPECT(all.back().prompt.size() < size_t(o.block_size) || stats.cached_tokens > 0);
  o.max_batched_tokens = 7;  // chunked
  o.run_ahead = false;
  expect_equal(o, all, expected);
  EngineOptions alone_options = options_of(dir, 1, group.format);
  alone_options.kv_dtype = group.kv;
  const std::vector<Outcome> one = alone(alone_options, all);
  REQUIRE(one.size() == all.size());
  Difference d;
  for (size_t i = 0; i < all.size(); ++i) {
    add_difference(expected[i], one[i], all[i].sampling.temperature == 0, &d);
  }
  EXPECT(d.tokens >= 8);
  EXPECT_LT(d.sum / d.tokens, group.most);
}

TEST(two_ranks_agree) { expect_ranks({.ranks = 2}); }
TEST(four_ranks_agree) { expect_ranks({.ranks = 4, .requests = 2}); }
TEST(four_ranks_agree_on_nemotron) {
  expect_ranks({.ranks = 4, .architecture = "NemotronForCausalLM", .requests = 2});
}
TEST(four_ranks_agree_on_deci) {
  expect_ranks({.ranks = 4, .architecture = "DeciLMForCausalLM", .requests = 2});
}
TEST(four_ranks_agree_with_fp8_weights) { expect_ranks({.ranks = 4, .format = WeightFormat::fp8}); }
TEST(two_ranks_agree_with_weights_in_groups) {
  expect_ranks({.ranks = 2, .format = WeightFormat::int4});
}
TEST(four_ranks_agree_with_an_fp8_cache) {
  expect_ranks({.ranks = 4, .kv = DType::fp8_e4m3, .most = 5e-3});
}
TEST(two_ranks_agree_on_nemotron) {
  expect_ranks({.ranks = 2, .architecture = "NemotronForCausalLM"});
}
TEST(two_ranks_agree_on_deci) {
  expect_ranks({.ranks = 2, .architecture = "DeciLMForCausalLM", .requests = 2});
}

// Six generated rows, the graph of eight: a turn has room for the sums of eight rows and for the
// logits of two, then for the sums of four. The same bits as in turns that hold everything.
TEST(steps_of_more_rows_than_a_turn) {
  const TempDir dir;
  ParallelShape shape = small_shape();
  shape.vocab = 650;
  write_checkpoint(dir, shape);
  std::vector<Request> all;
  for (uint32_t i = 0; i < 6; ++i) {
    Request r;
    r.prompt = random_prompt(2 + i, i);
    r.sampling = {};
    r.sampling.max_tokens = 4;
    r.sampling.temperature = float(i % 2);
    r.sampling.seed = i;
    r.sampling.num_logprobs = 2;
    r.sampling.ignore_eos = true;
    all.push_back(r);
  }
  EngineOptions o = options_of(dir, 2, WeightFormat::stored);
  o.max_seqs = int32_t(all.size());
  const std::vector<Outcome> expected = alone(o, all);
  REQUIRE(expected.size() == all.size());
  for (const int64_t bytes : {5120, 2608}) {
    o.device.turn_bytes = bytes;
    expect_equal(o, all, expected);
  }
}

// Two models on one GPU, and on each of two.
TEST(a_draft_model_changes_no_bit) {
  const TempDir dir;
  write_checkpoint(dir, small_shape());
  const std::vector<Request> all = short_requests();
  for (const int32_t ranks : {1, 2}) {
    EngineOptions o = options_of(dir, ranks, WeightFormat::stored);
    const std::vector<Outcome> expected = alone(o, all);
    REQUIRE(expected.size() == all.size());
    o.draft_dir = dir.path();
    o.kv_memory *= 2;
    const EngineStats stats = expect_equal(o, all, expected);
    EXPECT_GT(stats.drafts[size_t(DraftSource::model)].accepted, 0);
  }
}

TEST(ranks_score_on_several_gpus) {
  const TempDir dir;
  ParallelShape shape = small_shape();
  shape.architecture = "LlamaForSequenceClassification";
  shape.classes = 5;
  write_checkpoint(dir, shape);
  std::vector<std::vector<float>> scores;
  for (const int32_t ranks : {1, 2}) {
    Client client(options_of(dir, ranks, WeightFormat::stored));
    REQUIRE_OK(client.status());
    Request r;
    r.kind = RequestKind::score;
    r.prompt = random_prompt(20, 3);
    scores.push_back(client.run(r).scores);
    EXPECT_EQ(scores.back().size(), size_t(5));
  }
  for (size_t i = 0; i < scores[0].size(); ++i) {
    EXPECT_LT(std::abs(scores[1][i] - scores[0][i]), 0.02f);
  }
}

// A GPU without room for what packing needs: new weights are refused, and the old ones go on.
TEST(a_reload_without_memory_is_refused) {
  const TempDir dir, other;
  write_checkpoint(dir, small_shape());
  write_checkpoint(other, {.inner = 128, .seed = 100});
  for (const int32_t ranks : {1, 2}) {
    Client client(options_of(dir, ranks, WeightFormat::stored));
    REQUIRE_OK(client.status());
    const Request r = short_requests()[0];
    const Outcome before = client.run(r);
    const auto reload = [&] {
      std::promise<Status> over;
      const Status s =
          client.engine().reload(other.path(), [&](const Status& end) { over.set_value(end); });
      return s.ok() ? over.get_future().get() : s;
    };
    const size_t bytes = emulated_machine().bytes;
    emulated_machine().bytes = 0;  // less than is in use: nothing is free
    const Status s = reload();
    emulated_machine().bytes = bytes;
    EXPECT(s.code() == Code::out_of_memory);
    EXPECT_ERROR(s, "memory to pack weights in");
    EXPECT_EQ(difference(client.run(r), before), "");
    EXPECT_OK(reload());
    EXPECT_NE(difference(client.run(r), before), "");
  }
}

TEST(more_ranks_than_gpus_are_refused) {
  const TempDir dir;
  write_checkpoint(dir, small_shape());
  const Client client(options_of(dir, 8, WeightFormat::stored));  // the machine has four
  EXPECT(!client.status().ok());
  EXPECT(client.status().message().find("GPU") != std::string::npos);
}

}  // namespace
}  // namespace nemotron::test

NEMOTRON_TEST_MAIN
