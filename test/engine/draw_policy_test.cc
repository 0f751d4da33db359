#include "engine/draw_policy.h"

#include <algorithm>
#include <random>

#include "../check.h"
#include "engine/prompt_lookup.h"

namespace nemotron::test {
namespace {

using Ids = std::vector<int32_t>;

Ids drafts(const Ids& tokens, int32_t most) {
  Ids out = {99};  // must be cleared
  propose_drafts(tokens, most, &out);
  return out;
}

TEST(lookup_continues_the_latest_longest_repetition) {
  EXPECT(drafts({}, 4).empty());
  EXPECT(drafts({1, 2}, 4).empty());
  EXPECT(drafts({1, 2, 3, 4, 5}, 4).empty());
  EXPECT(drafts({1, 2, 3, 1}, 4).empty());  // one token in common is too little
  EXPECT(drafts({1, 2, 3, 4, 1, 2}, 4) == Ids({3, 4, 1, 2}));
  EXPECT(drafts({1, 2, 3, 4, 1, 2}, 1) == Ids({3}));
  EXPECT(drafts({1, 2, 3, 4, 1, 2}, 0).empty());
  EXPECT(drafts({1, 2, 7, 1, 2, 8, 1, 2}, 1) == Ids({8}));        // the later of two equal ones
  EXPECT(drafts({5, 1, 2, 7, 1, 2, 8, 5, 1, 2}, 1) == Ids({7}));  // the longer before the later
  EXPECT(drafts({4, 4, 4, 4}, 3) == Ids({4}));
}

Ids banned(const SamplingParams& p, const Ids& tokens, int32_t num_prompt) {
  const RequestSampling request = make_request_sampling(p, std::vector<int32_t>{7}, 10, 12);
  const SamplingState state = make_sampling_state(p, 0, tokens);
  Ids arena = {-1};
  SampleInput s;
  const size_t n = describe_draw(p, request, state, tokens, num_prompt,
                                 int32_t(tokens.size()) - num_prompt, &arena, &s);
  Ids out(s.banned.begin(), s.banned.end());
  if (n > 0) out.assign(arena.end() - int64_t(n), arena.end());
  std::sort(out.begin(), out.end());
  return out;
}

TEST(banned_ids) {
  SamplingParams p;
  EXPECT(banned(p, {1, 2, 3}, 2) == Ids({10, 11}));  // padding of the vocabulary
  p.min_tokens = 2;
  p.stop_token_ids = {3};
  EXPECT(banned(p, {1, 2, 3}, 2) == Ids({3, 7, 10, 11}));
  EXPECT(banned(p, {1, 2, 3, 4}, 2) == Ids({10, 11}));
  p.ignore_eos = true;
  EXPECT(banned(p, {1, 2, 3}, 2) == Ids({3, 10, 11}));
  p = {};
  p.bad_words = {{5}, {1, 6}, {2, 3, 8}};
  EXPECT(banned(p, {2, 3, 1}, 0) == Ids({5, 6, 10, 11}));
  EXPECT(banned(p, {2, 3}, 0) == Ids({5, 8, 10, 11}));
  EXPECT(banned(p, {2, 3}, 1) ==
         Ids({5, 10, 11}));  // words of the output, not across the prompt's end
  EXPECT(banned(p, {2, 3}, 2) == Ids({5, 10, 11}));
  p.allowed_ids = {1, 5};
  EXPECT(banned(p, {9}, 1) == Ids({5}));  // the mask bans the padding
}

TEST(allowed_mask) {
  SamplingParams p;
  p.allowed_ids = {0, 31, 32, 69};
  const RequestSampling r = make_request_sampling(p, {}, 70, 70);
  EXPECT_EQ(r.allowed.size(), 3u);
  EXPECT_EQ(r.allowed[0], 0x80000001u);
  EXPECT_EQ(r.allowed[1], 1u);
  EXPECT_EQ(r.allowed[2], 0x20u);
}

// The counts of the penalties, kept one by one, against a count of the whole.
TEST(counts_equal_a_recount) {
  std::mt19937 rng(5);
  for (int round = 0; round < 200; ++round) {
    SamplingParams p;
    if (rng() % 2) p.repetition_penalty = 1.2f;
    if (rng() % 2) p.presence_penalty = 0.3f;
    if (rng() % 2) p.frequency_penalty = 0.3f;
    Ids prompt, output;
    for (size_t n = rng() % 20; n > 0; --n) prompt.push_back(int32_t(rng() % 10));
    SamplingState state = make_sampling_state(p, 0, prompt);
    for (int32_t n = 1; n < int32_t(rng() % 30); ++n) {
      output.push_back(int32_t(rng() % 10));
      count_token(p, output.back(), "x", n, &state);
    }
    if (!has_penalties(p)) {
      EXPECT(state.counts.empty());
      continue;
    }
    for (int32_t id = 0; id < 10; ++id) {
      const auto in_output = int32_t(std::count(output.begin(), output.end(), id));
      const bool in_prompt =
          p.repetition_penalty != 1 && std::find(prompt.begin(), prompt.end(), id) != prompt.end();
      const auto c = std::find_if(state.counts.begin(), state.counts.end(),
                                  [&](const TokenCount& t) { return t.id == id; });
      EXPECT_EQ(c != state.counts.end(), in_prompt || in_output > 0);
      if (c == state.counts.end()) continue;
      EXPECT_EQ(c->in_prompt, in_prompt);
      EXPECT_EQ(c->output_count, in_output);
    }
  }
}

TEST(thinking_budget) {
  SamplingParams p;
  p.thinking_budget = 3;
  p.think_end = "</t>";
  p.think_close = {41, 42};
  p.lookup_tokens = 4;
  SamplingState state = make_sampling_state(p, 0, {});
  EXPECT_EQ(draft_limit(p, state, 0), 2);  // draws 0, 1 and 2 are free
  EXPECT_EQ(draft_limit(p, state, 2), 0);
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(forced_token(p, state, i), -1);
    count_token(p, 1, "x", i + 1, &state);
  }
  EXPECT_EQ(forced_token(p, state, 3), 41);
  EXPECT_EQ(draft_limit(p, state, 3), 0);
  count_token(p, 41, "</t>", 4, &state);  // within the forced tokens: all of them come
  EXPECT_EQ(forced_token(p, state, 4), 42);
  count_token(p, 42, "\n", 5, &state);
  EXPECT_EQ(forced_token(p, state, 5), -1);
  EXPECT_EQ(draft_limit(p, state, 5), 4);

  p.lookup_tokens = 0;
  EXPECT_GT(run_ahead_limit(p, state, 5), 1000);
  SamplingState closed = make_sampling_state(p, 0, {});
  EXPECT_EQ(run_ahead_limit(p, closed, 0), 3);
  count_token(p, 1, "<", 1, &closed);
  count_token(p, 1, "/t", 2, &closed);
  count_token(p, 1, ">", 3, &closed);  // the model closed it itself, just in time
  EXPECT_EQ(forced_token(p, closed, 3), -1);
  EXPECT_GT(run_ahead_limit(p, closed, 3), 1000);

  p.thinking_budget = 0;
  EXPECT_EQ(forced_token(p, make_sampling_state(p, 0, {}), 0), 41);
}

TEST(what_must_wait_for_the_host) {
  SamplingParams p;
  const SamplingState none;
  EXPECT_GT(run_ahead_limit(p, none, 0), 1000);
  p.lookup_tokens = 2;
  EXPECT_EQ(run_ahead_limit(p, none, 0), 0);
  EXPECT_EQ(draft_limit(p, none, 0), 2);
  p.presence_penalty = 1;
  EXPECT_EQ(draft_limit(p, none, 0), 0);
  p = {};
  p.bad_words = {{1}};
  EXPECT_EQ(run_ahead_limit(p, none, 0), 0);
}

TEST(choice_seeds) {
  EXPECT_EQ(choice_seed(5, 0), 5u);
  EXPECT_NE(choice_seed(5, 1), choice_seed(5, 2));
  EXPECT_NE(choice_seed(5, 1), choice_seed(6, 1));
}

}  // namespace
}  // namespace nemotron::test
