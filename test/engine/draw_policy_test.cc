#include "engine/draw_policy.h"

#include <algorithm>
#include <random>
#include <set>

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

// A policy with what it is made from.
struct Policy {
  Policy(const SamplingParams& p, const Ids& prompt = {}, const Ids& output = {},
         int32_t tokens = 10, int32_t vocab = 12)
      : params(p), rules(params, Ids{7}, tokens, vocab), policy(&params, &rules, 0, prompt) {
    for (const int32_t id : output) policy.take(id, "x");
  }
  SampleInput next() {
    SampleInput s;
    policy.describe(policy.taken(), &s);
    return s;
  }
  const SamplingParams params;
  const DrawRules rules;
  DrawPolicy policy;
};

Ids banned(const SamplingParams& p, const Ids& tokens, size_t num_prompt) {
  Policy policy(p, {tokens.begin(), tokens.begin() + int64_t(num_prompt)},
                {tokens.begin() + int64_t(num_prompt), tokens.end()});
  const SampleInput s = policy.next();
  Ids out(s.banned.begin(), s.banned.end());
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
  Policy policy(p, {}, {}, 70, 70);
  const auto allowed = policy.next().allowed;
  REQUIRE_EQ(allowed.size(), 3u);
  EXPECT_EQ(allowed[0], 0x80000001u);
  EXPECT_EQ(allowed[1], 1u);
  EXPECT_EQ(allowed[2], 0x20u);
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
    for (size_t n = rng() % 30; n > 0; --n) output.push_back(int32_t(rng() % 10));
    Policy policy(p, prompt, output);
    const SampleInput s = policy.next();
    EXPECT_EQ(s.repetition_penalty, p.repetition_penalty);
    EXPECT_EQ(s.presence_penalty, p.presence_penalty);
    EXPECT_EQ(s.frequency_penalty, p.frequency_penalty);
    if (p.repetition_penalty == 1 && p.presence_penalty == 0 && p.frequency_penalty == 0) {
      EXPECT(s.counts.empty());
      continue;
    }
    for (int32_t id = 0; id < 10; ++id) {
      const auto in_output = int32_t(std::count(output.begin(), output.end(), id));
      const bool in_prompt =
          p.repetition_penalty != 1 && std::find(prompt.begin(), prompt.end(), id) != prompt.end();
      const auto c = std::find_if(s.counts.begin(), s.counts.end(),
                                  [&](const TokenCount& t) { return t.id == id; });
      EXPECT_EQ(c != s.counts.end(), in_prompt || in_output > 0);
      if (c == s.counts.end()) continue;
      EXPECT_EQ(c->in_prompt, in_prompt);
      EXPECT_EQ(c->output_count, in_output);
    }
  }
}

SamplingParams budget(int32_t tokens, bool open) {
  SamplingParams p;
  p.thinking_budget = tokens;
  p.think_open = open;
  p.think_begin = "<t>";
  p.think_end = "</t>";
  p.think_close = {4, 5};
  return p;
}

TEST(thinking_budget_in_a_block_that_the_prompt_left_open) {
  Policy p(budget(3, true));
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(p.next().forced, -1);
    p.policy.take(1, "x");
  }
  EXPECT_EQ(p.next().forced, 4);
  p.policy.take(4, "</t>");  // within the forced tokens: all of them come
  EXPECT_EQ(p.next().forced, 5);
  p.policy.take(5, "\n");
  EXPECT_EQ(p.next().forced, -1);

  Policy closed(budget(3, true));
  for (const char* bytes : {"<", "/t", ">"}) closed.policy.take(1, bytes);  // just in time
  for (int32_t i = 0; i < 20; ++i) {
    EXPECT_EQ(closed.next().forced, -1);
    closed.policy.take(1, "x");
  }

  EXPECT_EQ(Policy(budget(0, true)).next().forced, 4);
}

TEST(a_thinking_budget_does_nothing_where_nothing_thinks) {
  for (const int32_t tokens : {0, 1, 5}) {
    Policy p(budget(tokens, false));
    for (const char* bytes : {"x", "</t>", "<t", "x>", "<", "t"}) {
      EXPECT_EQ(p.next().forced, -1);
      p.policy.take(1, bytes);
    }
  }
}

TEST(a_thinking_budget_counts_from_where_the_model_opens_a_block) {
  Policy p(budget(2, false));
  for (const char* bytes : {"x", "x", "x<", "t", ">y"}) {
    EXPECT_EQ(p.next().forced, -1);
    p.policy.take(1, bytes);
  }
  for (int32_t i = 0; i < 2; ++i) {
    EXPECT_EQ(p.next().forced, -1);
    p.policy.take(1, "x");
  }
  for (const int32_t forced : {4, 5}) {
    EXPECT_EQ(p.next().forced, forced);
    p.policy.take(forced, "");
  }
  EXPECT_EQ(p.next().forced, -1);
  // Another block has nothing left to spend.
  p.policy.take(1, "<t>");
  EXPECT_EQ(p.next().forced, 4);

  // Two blocks share the budget.
  Policy two(budget(3, true));
  for (const char* bytes : {"x", "</t>", "x", "x", "<t>"}) {
    EXPECT_EQ(two.next().forced, -1);
    two.policy.take(1, bytes);
  }
  EXPECT_EQ(two.next().forced, -1);
  two.policy.take(1, "x");
  EXPECT_EQ(two.next().forced, 4);

  Policy none(budget(0, false));
  none.policy.take(1, "<t>");
  EXPECT_EQ(none.next().forced, 4);
}

TEST(drafts_end_where_the_budget_may) {
  const std::vector<std::string> bytes = {"x", "<t>", "</t>", "y"};
  const Ids four = {0, 3, 0, 3};
  EXPECT_EQ(Policy(budget(3, true)).policy.draft_limit(four, bytes), 2);  // draws 0, 1, 2 are free
  EXPECT_EQ(Policy(budget(1, true)).policy.draft_limit(four, bytes), 0);
  EXPECT_EQ(Policy(budget(0, true)).policy.draft_limit(four, bytes), 0);
  EXPECT_EQ(Policy(budget(3, true)).policy.draft_limit(Ids{0, 2, 0, 3, 0}, bytes), 5);
  EXPECT_EQ(Policy(budget(3, false)).policy.draft_limit(four, bytes), 4);
  EXPECT_EQ(Policy(budget(1, false)).policy.draft_limit(Ids{0, 1, 0, 3}, bytes), 2);
  EXPECT_EQ(Policy(budget(0, false)).policy.draft_limit(Ids{0, 1, 0, 3}, bytes), 1);
  SamplingParams p;
  EXPECT_EQ(Policy(p).policy.draft_limit(four, bytes), 4);
  p.bad_words = {{1}};
  EXPECT_EQ(Policy(p).policy.draft_limit(four, bytes), 4);
  EXPECT(Policy(p).policy.may_draft());
  p.bad_words = {{1, 2}};
  EXPECT_EQ(Policy(p).policy.draft_limit(four, bytes), 0);
  EXPECT(!Policy(p).policy.may_draft());
  p = {};
  p.presence_penalty = 1;
  EXPECT_EQ(Policy(p).policy.draft_limit(four, bytes), 0);
}

// Which draws wait for tokens that are not known: with `taken` tokens known, the draw `ahead`
// tokens after the next.
TEST(what_depends_on_the_tokens_before) {
  const auto waits = [](const SamplingParams& p, int32_t taken, int32_t ahead) {
    Policy policy(p, {1, 2}, Ids(size_t(taken), 1));
    return policy.policy.needs_history(taken + ahead);
  };
  SamplingParams p;
  p.min_tokens = 3;
  p.allowed_ids = {1, 2};
  p.bad_words = {{1}};
  p.logit_bias = {{1, 2}};
  for (int32_t ahead = 0; ahead < 5; ++ahead) EXPECT(!waits(p, 1, ahead));
  for (int kind = 0; kind < 4; ++kind) {
    p = {};
    if (kind == 0) p.repetition_penalty = 1.1f;
    if (kind == 1) p.presence_penalty = 1;
    if (kind == 2) p.frequency_penalty = 1;
    if (kind == 3) p.bad_words = {{1}, {1, 2}};
    EXPECT(!waits(p, 0, 0));
    EXPECT(!waits(p, 3, 0));
    EXPECT(waits(p, 0, 1));
    EXPECT(waits(p, 3, 2));
  }
  EXPECT(!waits(budget(3, true), 0, 2));
  EXPECT(waits(budget(3, true), 0, 3));
  EXPECT(waits(budget(3, true), 2, 1));
  EXPECT(waits(budget(3, true), 3, 1));  // forced
  EXPECT(!waits(budget(3, true), 3, 0));
  EXPECT(!waits(budget(3, false), 9, 3));  // the next may open a block, the three after it count
  EXPECT(waits(budget(3, false), 9, 4));
}

// Choices of one request and of requests with neighbouring seeds are all different.
TEST(choice_seeds) {
  EXPECT_EQ(choice_seed(5, 0), 5u);
  std::set<uint64_t> seen;
  constexpr uint64_t kSeeds = 50;
  constexpr int32_t kChoices = 20;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    for (int32_t choice = 0; choice < kChoices; ++choice) seen.insert(choice_seed(seed, choice));
  }
  EXPECT_EQ(seen.size(), kSeeds * kChoices);
}

}  // namespace
}  // namespace nemotron::test
