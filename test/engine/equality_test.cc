// A request's tokens, text and logprobs do not depend on anything but the request.
#include <cstdlib>

#include "engine/draw_policy.h"
#include "mix.h"

namespace nemotron::test {
namespace {

const std::vector<Outcome>& expected() {
  static const std::vector<Outcome> all = alone(requests());
  return all;
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
    expect_equal(o, requests(), expected());
  }
}

TEST(alone_equals_chunked) {
  for (const int32_t budget : {1, 7, 16, 64, 512}) {
    EngineOptions o = tiny_options();
    o.max_batched_tokens = budget;
    expect_equal(o, requests(), expected());
  }
}

TEST(alone_equals_after_a_prefix_hit) {
  for (const bool run_ahead : {true, false}) {
    EngineOptions o = tiny_options();
    o.run_ahead = run_ahead;
    Client client(o);
    REQUIRE_OK(client.status());
    // Once to fill the cache, then again, then with the output as part of the prompt.
    int64_t cached = 0;
    for (int round = 0; round < 2; ++round) {
      for (size_t i = 0; i < requests().size(); ++i) {
        const Outcome got = client.run(requests()[i]);
        EXPECT_EQ(difference(got, expected()[i]), "");
        if (requests()[i].sampling.num_prompt_logprobs < 0) cached += got.timings.cached_tokens;
      }
    }
    EXPECT_GT(cached, 500);
    Request first;
    first.prompt = random_prompt(40, 7);
    first.sampling.max_tokens = 60;
    first.sampling.ignore_eos = true;
    first.sampling.seed = 3;
    first.sampling.num_logprobs = 1;
    const Outcome a = client.run(first);
    Request rest = first;  // the draws at the same positions, with half the output given
    rest.prompt.insert(rest.prompt.end(), a.ids.begin(), a.ids.begin() + 30);
    rest.sampling.max_tokens = 30;
    const Outcome b = client.run(rest);
    EXPECT_EQ(b.timings.cached_tokens, 69);  // all but the last token of what is given
    EXPECT(std::equal(b.ids.begin(), b.ids.end(), a.ids.begin() + 30, a.ids.end()));
    EXPECT(same_logprobs(b.logprobs, {a.logprobs.begin() + 30, a.logprobs.end()}));
    expect_all_free(client);
  }
}

TEST(alone_equals_after_preemption) {
  const std::vector<Request> all = growing_requests();
  const std::vector<Outcome> plain = alone(all);
  for (const bool prefix_cache : {true, false}) {
    for (const bool run_ahead : {true, false}) {
      EngineOptions o = crowded_options();
      o.prefix_cache = prefix_cache;
      o.run_ahead = run_ahead;
      const EngineStats stats = expect_equal(o, all, plain);
      EXPECT_GT(stats.preemptions, 10);
    }
  }
}

TEST(alone_equals_in_the_background) {
  std::vector<Request> all = growing_requests();
  const std::vector<Outcome> plain = alone(all);
  for (const bool prefix_cache : {true, false}) {
    EngineOptions o = crowded_options();
    o.prefix_cache = prefix_cache;
    o.max_seqs = 3;
    for (size_t i = 0; i < all.size(); ++i) all[i].background = i < all.size() / 2 || i % 3 == 0;
    const EngineStats stats = expect_equal(o, all, plain);
    EXPECT_GT(stats.preemptions, 3);
  }
}

TEST(lookup_drafts_change_nothing) {
  // With few tokens to choose from the text repeats itself, so that drafts are accepted.
  std::vector<Request> all;
  for (uint32_t seed = 1; seed <= 24; ++seed) {
    Request r = mixed_request(seed);
    if (seed % 2) {
      r.sampling = {};
      r.sampling.max_tokens = 100;
      r.sampling.allowed_ids = {97, 98, 99};
      r.sampling.seed = seed;
      r.sampling.num_logprobs = 2;
      r.sampling.temperature = seed % 4 == 1 ? 0 : 0.3f;
    }
    all.push_back(r);
  }
  const std::vector<Outcome> plain = alone(all);
  for (const int32_t budget : {7, 64}) {
    EngineOptions o = tiny_options();
    o.max_batched_tokens = budget;
    Client client(o);
    REQUIRE_OK(client.status());
    std::vector<uint64_t> ids;
    for (size_t i = 0; i < all.size(); ++i) {
      Request r = all[i];
      r.sampling.lookup_tokens = int32_t(1 + i % 6);
      ids.push_back(client.submit(r));
    }
    client.wait();
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(difference(client.outcome(ids[i]), plain[i]), "");
    }
    const EngineStats stats = client.engine().stats();
    const EngineStats::Drafts& lookup = stats.drafts[size_t(DraftSource::lookup)];
    EXPECT_GT(lookup.drafted, 100);
    EXPECT_GT(lookup.accepted, 10);
    EXPECT_LT(lookup.accepted, lookup.drafted);
    expect_all_free(client);
  }
}

TEST(choices_equal_single_requests) {
  for (const bool run_ahead : {true, false}) {
    EngineOptions o = tiny_options();
    o.run_ahead = run_ahead;
    for (size_t i = 0; i < 12; ++i) {
      Request many = requests()[i];
      many.n = 5;
      many.sampling.temperature = 1;
      Client client(o);
      REQUIRE_OK(client.status());
      const uint64_t id = client.submit(many);
      client.wait();
      std::vector<Outcome> choices = client.outcomes(id);
      // Those of the prompt are told once, with the first choice.
      for (size_t c = 1; c < choices.size(); ++c) {
        EXPECT(choices[c].prompt_logprobs.empty());
        choices[c].prompt_logprobs = choices[0].prompt_logprobs;
      }
      std::set<std::vector<int32_t>> distinct;
      for (int32_t choice = 0; choice < many.n; ++choice) {
        Request one = many;
        one.n = 1;
        one.sampling.seed = choice_seed(many.sampling.seed, choice);
        EXPECT_EQ(difference(client.run(one), choices[size_t(choice)]), "");
        distinct.insert(choices[size_t(choice)].ids);
        // Siblings take the shared prompt from the cache, all but its last token, or all but its
        // last block where they are admitted with the first.
        const int32_t length = int32_t(many.prompt.size());
        const int32_t cached = choices[size_t(choice)].timings.cached_tokens;
        const int32_t whole = choice == 0 ? 0 : (length - 1) / o.block_size * o.block_size;
        EXPECT(cached == whole || (choice > 0 && cached == length - 1));
      }
      // A grammar may leave no choice.
      if (!many.sampling.grammar) EXPECT_GT(distinct.size(), 1u);
    }
  }
}

// The others run with activations rounded where the processor multiplies BF16.
TEST(alone_equals_batch_with_exact_activations) {
  EngineOptions single = tiny_options();
  single.device.exact_activations = true;
  single.prefix_cache = false;
  single.run_ahead = false;
  single.max_batched_tokens = 512;
  const std::vector<Request> all(requests().begin(), requests().begin() + 16);
  std::vector<Outcome> alone;
  {
    Client client(single);
    REQUIRE_OK(client.status());
    for (const Request& r : all) alone.push_back(client.run(r));
  }
  for (const int32_t budget : {64, 7}) {
    EngineOptions o = tiny_options();
    o.device.exact_activations = true;
    o.max_batched_tokens = budget;
    expect_equal(o, all, alone);
  }
}

// Everything at once: submits and aborts at random moments, small pool, shared prompts, drafts.
TEST(alone_equals_under_random_load) {
  const uint32_t seeds = std::getenv("NEMOTRON_TEST_LONG") ? 24 : 2;
  for (uint32_t seed = 1; seed <= seeds; ++seed) {
    std::mt19937 rng(seed);
    EngineOptions o = crowded_options();
    o.max_batched_tokens = int32_t(8 + rng() % 60);
    o.max_seqs = int32_t(2 + rng() % 7);
    o.device.threads = int32_t(1 + rng() % 2);
    Client client(o);
    REQUIRE_OK(client.status());
    std::map<uint64_t, size_t> which;
    std::set<uint64_t> aborted;
    for (int turn = 0; turn < 150; ++turn) {
      const size_t i = rng() % requests().size();
      Request r = requests()[i];
      r.priority = int32_t(rng() % 3);
      r.background = rng() % 3 == 0;
      r.cache_salt = rng() % 4 ? "" : "salt";
      if (rng() % 3 == 0) r.sampling.lookup_tokens = 4;
      const uint64_t id = client.submit(r);
      which[id] = i;
      if (rng() % 5 == 0) {
        const uint64_t victim = 1 + rng() % id;
        client.abort(victim);
        aborted.insert(victim);
      }
      while (rng() % 3 == 0 && !client.idle()) client.wait(false);
    }
    client.wait();
    for (const auto& [id, i] : which) {
      const Outcome& got = client.outcome(id);
      const Outcome& whole = expected()[i];
      if (got.finish == Finish::abort) {
        EXPECT(aborted.contains(id));
        EXPECT(got.ids.size() <= whole.ids.size() &&
               std::equal(got.ids.begin(), got.ids.end(), whole.ids.begin()));
      } else {
        EXPECT_EQ(difference(got, whole), "");
      }
    }
    expect_all_free(client);
  }
}

}  // namespace
}  // namespace nemotron::test
