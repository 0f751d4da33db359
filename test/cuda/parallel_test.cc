// The engine on several emulated GPUs: a rank's thread, its weights, its steps. For a number of
// ranks the bits of a request are the same alone and in any batch; and near those of one rank.
#include "test/engine/parallel.h"

#include <cmath>
#include <thread>

#include "test/check.h"
#include "test/cuda/emulated_library.h"

namespace nemotron::test {
namespace {

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
    r.prompt = random_prompt(3 + i * 4, i);
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

// The likeliest id is the same wherever it is clearly the likeliest.
void expect_near(const Outcome& got, const Outcome& one) {
  double sum = 0;
  size_t n = 0;
  for (; n < std::min(got.logprobs.size(), one.logprobs.size()); ++n) {
    const auto& top = one.logprobs[n].top;
    if (got.ids[n] != one.ids[n]) {
      EXPECT(top.size() > 1 && top[0].second - top[1].second < 1e-2f);
      break;
    }
    sum += std::abs(double(got.logprobs[n].logprob) - double(one.logprobs[n].logprob));
  }
  EXPECT(n > 0);
  if (n > 0) EXPECT_LT(sum / double(n), 5e-3);
}

void expect_ranks(int32_t ranks, WeightFormat format,
                  const std::string& architecture = "LlamaForCausalLM") {
  const TempDir dir;
  ParallelShape shape;
  shape.architecture = architecture;
  write_checkpoint(dir, shape);
  const std::vector<Request> all = short_requests();
  EngineOptions o = options_of(dir, ranks, format);
  const std::vector<Outcome> expected = alone(o, all);
  REQUIRE(expected.size() == all.size());
  expect_equal(o, all, expected);  // in a batch, ahead of what is drawn
  o.max_batched_tokens = 7;        // chunked
  o.run_ahead = false;
  expect_equal(o, all, expected);
  const std::vector<Outcome> one =
      alone(options_of(dir, 1, format), {all.begin(), all.begin() + 2});
  for (size_t i = 0; i < one.size(); ++i) expect_near(expected[i], one[i]);
}

TEST(two_ranks_agree) { expect_ranks(2, WeightFormat::stored); }
TEST(four_ranks_agree_with_fp8_weights) { expect_ranks(4, WeightFormat::fp8); }
TEST(two_ranks_agree_on_nemotron) { expect_ranks(2, WeightFormat::stored, "NemotronForCausalLM"); }

// Two models on one GPU, and on each of two.
TEST(a_draft_model_changes_no_bit) {
  const TempDir dir;
  write_checkpoint(dir, {});
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
  ParallelShape shape;
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

TEST(more_ranks_than_gpus_are_refused) {
  const TempDir dir;
  write_checkpoint(dir, {});
  const Client client(options_of(dir, 8, WeightFormat::stored));  // the machine has four
  EXPECT(!client.status().ok());
  EXPECT(client.status().message().find("GPU") != std::string::npos);
}

}  // namespace
}  // namespace nemotron::test

NEMOTRON_TEST_MAIN
