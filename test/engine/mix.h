// A mix of everything that can change what is drawn, and what it must come to.
#pragma once

#include "tiny.h"

namespace nemotron::test {

inline const std::shared_ptr<const Grammar>& grammar(size_t which) {
  static const std::vector<std::shared_ptr<const Grammar>> all = {
      grammar_of("root ::= \"{\" pair (\",\" pair)* \"}\"\n"
                 "pair ::= \"\\\"\" [a-z]{1,3} \"\\\":\" ([0-9]{1,3} | \"forced text\" | root)"),
      grammar_of("root ::= [\\x00-\\x7F]{5,30} \"end\""),
      grammar_of("root ::= (\"always the same words, \" | \"other words, \" [w0-9])+ \".\""),
  };
  return all[which];
}

// A mix of everything that can change what is drawn.
inline Request mixed_request(uint32_t seed) {
  std::mt19937 rng(seed);
  Request r;
  r.prompt = random_prompt(1 + rng() % 150, seed);
  SamplingParams& p = r.sampling;
  p.max_tokens = int32_t(1 + rng() % 40);
  p.seed = seed;
  p.num_logprobs = rng() % 2 ? int32_t(rng() % 4) : -1;
  p.processed_logprobs = rng() % 3 == 0;
  if (p.num_logprobs == 0) p.logprob_ids = {int32_t(rng() % 60), 5};
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
    p.think_open = rng() % 3 != 0;
    p.think_begin = rng() % 2 ? "<think>" : "w";
    p.think_end = "</think>";
    p.think_close = {10, 60, 47, 116, 104, 105, 110, 107, 62};
  }
  if (rng() % 2) {
    p.grammar = grammar(rng() % 3);
    p.max_tokens = std::min(40, p.max_tokens + 20);
    if (rng() % 3 == 0) p.grammar_after = {"a", "bc", "w1"};
    if (p.think_begin.empty() && rng() % 3 == 0) {
      p.think_open = rng() % 2;
      p.think_begin = "<t>";
      p.think_end = "z";
    }
  }
  return r;
}

inline const std::vector<Request>& requests() {
  static const std::vector<Request> all = [] {
    std::vector<Request> v;
    for (uint32_t seed = 1; seed <= 40; ++seed) v.push_back(mixed_request(seed));
    return v;
  }();
  return all;
}

inline void expect_all_free(Client& client) {
  const EngineStats s = client.engine().stats();
  EXPECT_EQ(s.blocks_used, 0);
  EXPECT_EQ(s.running, 0);
  EXPECT_EQ(s.waiting, 0);
  EXPECT_EQ(s.waiting_tokens, 0);
  EXPECT(!s.failed_device);
}

inline EngineStats expect_equal(const EngineOptions& options, const std::vector<Request>& requests,
                                const std::vector<Outcome>& expected) {
  Client client(options);
  EXPECT_OK(client.status());
  if (!client.status()) return {};
  std::vector<uint64_t> ids;
  for (const Request& r : requests) ids.push_back(client.submit(r));
  client.wait();
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string different = difference(client.outcome(ids[i]), expected[i]);
    if (!different.empty())
      fail(__FILE__, __LINE__, "request " + std::to_string(i) + ": " + different);
  }
  expect_all_free(client);
  return client.engine().stats();
}

// What each comes to on an engine of its own: nothing cached, nothing in flight beside it.
inline std::vector<Outcome> alone(const std::vector<Request>& requests) {
  EngineOptions o = tiny_options();
  o.prefix_cache = false;
  o.run_ahead = false;
  o.max_batched_tokens = 512;
  Client client(o);
  std::vector<Outcome> all;
  for (const Request& r : requests) all.push_back(client.run(r));
  return all;
}

// A pool that holds few of the requests at once.
inline EngineOptions crowded_options() {
  EngineOptions o = tiny_options();
  o.max_model_len = 192;
  o.kv_memory = 12 * 16 * (2 * 2 * 2 * 16 * 2);  // 12 blocks of 16 tokens
  return o;
}

// Short prompts that grow long.
inline std::vector<Request> growing_requests() {
  std::vector<Request> all;
  for (uint32_t seed = 1; seed <= 16; ++seed) {
    Request r = mixed_request(seed);
    r.prompt = random_prompt(1 + seed % 20, seed);
    r.sampling.max_tokens = int32_t(60 + seed * 4);
    r.sampling.stop.clear();
    r.sampling.ignore_eos = true;
    all.push_back(r);
  }
  return all;
}

}  // namespace nemotron::test
