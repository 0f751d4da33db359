// A request's tokens, text and logprobs do not depend on anything but the request.
#include "tiny.h"

namespace nemotron::test {
namespace {

// A mix of everything that can change what is drawn.
Request mixed_request(uint32_t seed) {
  std::mt19937 rng(seed);
  Request r;
  r.prompt = random_prompt(1 + rng() % 150, seed);
  SamplingParams& p = r.sampling;
  p.max_tokens = int32_t(1 + rng() % 40);
  p.seed = seed;
  p.num_logprobs = rng() % 2 ? int32_t(rng() % 4) : -1;
  if (rng() % 3)
    p.temperature = 0.5f + float(rng() % 8) / 8;
  else
    p.temperature = 0;
  if (rng() % 4 == 0) p.top_k = 20;
  if (rng() % 4 == 0) p.top_p = 0.8f;
  if (rng() % 5 == 0) p.repetition_penalty = 1.3f;
  if (rng() % 5 == 0) p.frequency_penalty = 0.5f;
  if (rng() % 5 == 0) p.min_tokens = std::min(4, p.max_tokens);
  if (rng() % 5 == 0) p.stop = {"a", "w1"};
  if (rng() % 5 == 0) p.bad_words = {{65}, {66, 67}};
  if (rng() % 6 == 0) p.ignore_eos = true;
  if (rng() % 8 == 0) p.num_prompt_logprobs = 2;
  if (rng() % 6 == 0) {
    p.thinking_budget = int32_t(rng() % 10);
    p.think_end = "</think>";
    p.think_close = {10, 60, 47, 116, 104, 105, 110, 107, 62};
  }
  return r;
}

std::vector<Outcome> alone(const std::vector<Request>& requests) {
  EngineOptions o = tiny_options();
  o.prefix_cache = false;
  o.run_ahead = false;
  o.max_batched_tokens = 512;
  Client client(o);
  std::vector<Outcome> all;
  for (const Request& r : requests) all.push_back(client.run(r));
  return all;
}

const std::vector<Request>& requests() {
  static const std::vector<Request> all = [] {
    std::vector<Request> v;
    for (uint32_t seed = 1; seed <= 40; ++seed) v.push_back(mixed_request(seed));
    return v;
  }();
  return all;
}

const std::vector<Outcome>& expected() {
  static const std::vector<Outcome> all = alone(requests());
  return all;
}

void expect_all_free(Client& client) {
  const EngineStats s = client.engine().stats();
  EXPECT_EQ(s.blocks_used, 0);
  EXPECT_EQ(s.running, 0);
  EXPECT_EQ(s.waiting, 0);
  EXPECT_EQ(s.waiting_tokens, 0);
  EXPECT(!s.failed_device);
}

EngineStats expect_equal(const EngineOptions& options) {
  Client client(options);
  EXPECT_OK(client.status());
  if (!client.status()) return {};
  std::vector<uint64_t> ids;
  for (const Request& r : requests()) ids.push_back(client.submit(r));
  client.wait();
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string different = difference(client.outcome(ids[i]), expected()[i]);
    if (!different.empty())
      fail(__FILE__, __LINE__, "request " + std::to_string(i) + ": " + different);
  }
  expect_all_free(client);
  return client.engine().stats();
}

TEST(a_request_runs) {
  Client client(tiny_options());
  REQUIRE_OK(client.status());
  Request r;
  r.prompt = {1, 2, 3};
  r.sampling.max_tokens = 5;
  r.sampling.temperature = 0;
  r.sampling.ignore_eos = true;
  const Outcome o = client.run(r);
  EXPECT_EQ(o.ids.size(), 5u);
  EXPECT(o.finish == Finish::length);
  expect_all_free(client);
}

TEST(the_mix_is_worth_its_name) {
  int stopped = 0, tokens = 0;
  std::set<int32_t> distinct;
  for (const Outcome& o : expected()) {
    EXPECT(o.finish == Finish::stop || o.finish == Finish::length);
    stopped += o.finish == Finish::stop;
    tokens += int(o.ids.size());
    distinct.insert(o.ids.begin(), o.ids.end());
  }
  EXPECT_GT(stopped, 3);
  EXPECT_GT(tokens, 300);
  EXPECT_GT(distinct.size(), 80u);
}

TEST(alone_equals_in_a_batch) {
  for (const bool run_ahead : {false, true}) {
    EngineOptions o = tiny_options();
    o.run_ahead = run_ahead;
    expect_equal(o);
  }
}

TEST(alone_equals_chunked) {
  for (const int32_t budget : {1, 7, 16, 64, 512}) {
    EngineOptions o = tiny_options();
    o.max_batched_tokens = budget;
    expect_equal(o);
  }
}

}  // namespace
}  // namespace nemotron::test
