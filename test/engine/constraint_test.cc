#include "engine/constraint.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "../check.h"

namespace nemotron::test {
namespace {

std::string random_text(std::mt19937* rng, size_t size) {
  std::string text;
  while (text.size() < size) text += char('a' + (*rng)() % 2);
  return text;
}

// Of the words that end a text the longest, of equal words the first.
int32_t slowly_found(const std::vector<std::string>& words, std::string_view text) {
  int32_t best = -1;
  for (size_t i = 0; i < words.size(); ++i) {
    if (!text.ends_with(words[i])) continue;
    if (best < 0 || words[i].size() > words[size_t(best)].size()) best = int32_t(i);
  }
  return best;
}

TEST(words_are_found_wherever_they_end) {
  std::mt19937 rng(5);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> words;
    for (size_t n = 1 + rng() % 5; words.size() < n;) {
      words.push_back(random_text(&rng, 1 + rng() % 5));
    }
    const WordFinder finder(words);
    const std::string text = random_text(&rng, 40);
    uint32_t state = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      state = finder.next(state, uint8_t(text[i]));
      EXPECT_EQ(finder.found(state), slowly_found(words, std::string_view(text).substr(0, i + 1)));
    }
  }
}

struct Tokens {
  std::vector<std::string> bytes = {
      "a",    "b",   "ab", "<",  "<th", "ink>", "<think>", "</think>", "</think", ">",  "\n",
      "\n\n", "go:", "g",  "o:", "",    "x",    "",        "th",       "a<",      ">b", "<|end|>"};
  std::vector<bool> special = std::vector<bool>(bytes.size());
  std::vector<int32_t> stop_ids = {int32_t(bytes.size()) - 1};
  std::shared_ptr<const Vocabulary> vocabulary;
  Tokens() {
    special[6] = special[7] = special[17] = special[21] = true;
    vocabulary = std::make_shared<Vocabulary>(bytes, special, stop_ids);
  }
};

// The mask of all ids and the answer about one come by different ways.
TEST(a_mask_has_the_ids_that_are_admitted) {
  const Tokens tokens;
  for (int kind = 0; kind < 8; ++kind) {
    SamplingParams params;
    REQUIRE_OK(
        Grammar::compile("root ::= [ab]{1,3} (\"<\" [ab])?", tokens.vocabulary, &params.grammar));
    if (kind & 1) params.grammar_after = {"go:", "x"};
    if (kind & 2) params.think_begin = "<think>", params.think_end = "</think>";
    params.think_open = (kind & 4) != 0;
    const ConstraintRules rules(params, {});
    std::mt19937 rng(uint32_t(kind) + 1);
    for (int round = 0; round < 60; ++round) {
      Constraint constraint(&rules);
      for (int step = 0; step < 12; ++step) {
        std::vector<uint32_t> mask;
        constraint.write_mask(&mask);
        std::vector<int32_t> may;
        for (int32_t id = 0; id < int32_t(tokens.bytes.size()); ++id) {
          const bool set = mask[size_t(id) / 32] >> (id % 32) & 1;
          if (set) may.push_back(id);
          const bool admitted = constraint.admits(id, tokens.bytes[size_t(id)]);
          // An end inside a block may be a draft: the mask of its row refuses it then.
          if (set != admitted && (set || !rules.is_end(id))) {
            fail(__FILE__, __LINE__,
                 "kind " + std::to_string(kind) + ", step " + std::to_string(step) + ", id " +
                     std::to_string(id) + ": the mask says " + std::to_string(set));
          }
        }
        REQUIRE(!may.empty());
        const int32_t id = may[rng() % may.size()];
        constraint.take(id, tokens.bytes[size_t(id)]);
        EXPECT(!constraint.is_lost());
      }
    }
  }
}

// What takes too much work loses a text; behind a guess it says nothing of the grammar.
TEST(too_much_work_loses_the_text_and_its_grammar) {
  const Tokens tokens;
  std::string text = "root ::= \"a\" (\"b\" r0 \"!\" | \"x\")\nr60 ::= \"a\" | \"\"\n";
  for (int i = 0; i < 60; ++i) {
    const std::string next = "r" + std::to_string(i + 1);
    text += "r" + std::to_string(i) + " ::= " + next + " " + next + "\n";
  }
  for (const bool is_guess : {true, false}) {
    SamplingParams params;
    REQUIRE_OK(Grammar::compile(text, tokens.vocabulary, &params.grammar));
    const ConstraintRules rules(params, {});
    Constraint constraint(&rules), other(&rules);
    if (is_guess) constraint.suppose();
    constraint.take(0, "a");
    EXPECT(!constraint.is_lost());
    constraint.take(1, "b");
    EXPECT(constraint.is_lost());
    EXPECT_EQ(params.grammar->is_too_ambiguous(), !is_guess);
    other.take(0, "a");
    EXPECT_EQ(other.is_lost(), !is_guess);
    if (!is_guess) continue;
    std::vector<uint32_t> mask;
    other.write_mask(&mask);
    EXPECT_EQ(mask[0], 0u);  // a mask looks at "b" for itself
    EXPECT(params.grammar->is_too_ambiguous());
  }
}

}  // namespace
}  // namespace nemotron::test
