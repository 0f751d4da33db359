// grammar_bench FILE [repeats]: what a grammar costs beside a vocabulary of 128,256 tokens, as one
// line of JSON. FILE has the grammar's text. All is on one thread, by the wall clock.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <unordered_set>
#include <vector>

#include "engine/constraint.h"
#include "engine/grammar/grammar.h"

namespace {

using namespace nemotron;

constexpr size_t kTokens = 128'256;
constexpr int kWalks = 6, kSteps = 400;

double now_us() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::micro>(now).count();
}

// All bytes, then words of the kinds that a vocabulary has, no word twice. The same each time.
std::vector<std::string> make_tokens() {
  constexpr const char* kPieces[] = {
      "the", "ing", "er",  "a",  "e",   "s",      "on",     "tion",   "re",     "in", "st",
      "en",  "de",  "or",  "al", "it",  "ar",     "ed",     "th",  // of words; the others are rarer
      "\"",  "\",", "\":", "{",  "}",   "[",      "]",      ", ",     "  ",     "\n", "_",
      "-",   "0",   "1",   "23", "456", "\u00E9", "\u00FC", "\u4E2D", "\u6587", "."};
  constexpr size_t kOfWords = 19;
  std::mt19937 random(1);
  std::vector<std::string> tokens;
  std::unordered_set<std::string> known;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, char(byte));
  known.insert(tokens.begin(), tokens.end());
  while (tokens.size() < kTokens) {
    std::string word = random() % 2 ? " " : "";
    for (size_t parts = 1 + random() % 4; parts > 0; --parts) {
      if (random() % 3 == 0) {
        for (size_t letters = 1 + random() % 4; letters > 0; --letters)
          word += char('a' + random() % 26);
      } else {
        word += kPieces[random() % (random() % 4 ? kOfWords : std::size(kPieces))];
      }
    }
    if (known.insert(word).second) tokens.push_back(word);
  }
  return tokens;
}

// Any token that may come; now and then one that ends a text or a list, so that walks get on.
size_t choose(std::mt19937& random, const std::vector<uint32_t>& mask) {
  const auto may = [&](size_t id) { return (mask[id / 32] >> (id % 32) & 1) != 0; };
  if (random() % 4 == 0) {
    for (const char c : {'"', ',', '}'}) {
      if (may(uint8_t(c))) return uint8_t(c);
    }
  }
  std::vector<size_t> ids;
  for (size_t id = 0; id < kTokens; ++id) {
    if (may(id)) ids.push_back(id);
  }
  return ids.empty() ? kTokens : ids[random() % ids.size()];
}

struct Times {
  std::vector<double> first, cached, taking;  // microseconds
  std::vector<double> slowest;                // first visit of each walk
  size_t bytes = 0;                           // the largest memory
};

// One text through a grammar whose memory is empty. A mask is copied, as a draw does.
void walk(const std::shared_ptr<const Grammar>& grammar, const std::vector<std::string>& tokens,
          unsigned seed, Times* times) {
  GrammarMatcher matcher(grammar, GrammarMatcher::From::root);
  std::mt19937 random(seed);
  std::vector<uint32_t> mask;
  std::vector<Pushdown::State> states;
  std::unordered_set<Pushdown::State> seen;
  const auto time_mask = [&] {
    const double start = now_us();
    const auto bits = matcher.mask();
    mask.assign(bits.begin(), bits.end());
    return now_us() - start;
  };
  double slowest = 0;
  mask.reserve(grammar->vocabulary().words());
  for (int step = 0; step < kSteps; ++step) {
    const double us = time_mask();
    if (seen.insert(matcher.state()).second) {
      times->first.push_back(us);
      slowest = std::max(slowest, us);
      states.push_back(matcher.state());
    }
    const size_t id = choose(random, mask);
    if (id == kTokens) break;
    const double start = now_us();
    matcher.take(tokens[id]);
    times->taking.push_back(now_us() - start);
  }
  times->slowest.push_back(slowest);
  for (const Pushdown::State state : states) {
    matcher.set_state(state);
    times->cached.push_back(time_mask());
  }
  times->bytes = std::max(times->bytes, grammar->memory()->bytes());
}

// The first mask of a request that thinks before its text.
double time_thinking(const std::shared_ptr<const Grammar>& grammar) {
  SamplingParams params;
  params.grammar = grammar;
  params.think_begin = "<think>", params.think_end = "</think>", params.think_open = true;
  std::vector<uint32_t> mask;
  const double start = now_us();
  const ConstraintRules rules(params, {});
  Constraint(&rules).write_mask(&mask);
  return now_us() - start;
}

void print(const char* name, std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) { return values[size_t(share * double(values.size() - 1))]; };
  std::printf(",\"%s\":{\"count\":%zu,\"p50\":%.2f,\"p99\":%.2f,\"max\":%.2f}", name, values.size(),
              at(0.5), at(0.99), at(1));
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 5;
  std::ostringstream text;
  if (argc < 2 || repeats < 1 || !(text << std::ifstream(argv[1], std::ios::binary).rdbuf())) {
    std::fprintf(stderr, "grammar_bench FILE [repeats]: FILE has the text of a grammar\n");
    return 2;
  }
  const std::vector<std::string> tokens = make_tokens();
  std::shared_ptr<const Vocabulary> vocabulary;
  std::vector<double> trees, compiles;
  for (int i = 0; i < repeats; ++i) {
    const double start = now_us();
    vocabulary = std::make_shared<Vocabulary>(tokens, std::vector<bool>{}, std::vector<int32_t>{});
    trees.push_back(now_us() - start);
  }
  std::shared_ptr<const Grammar> grammar;
  const auto compile = [&] {
    const double start = now_us();
    const Status s = Grammar::compile(text.str(), vocabulary, &grammar);
    compiles.push_back(now_us() - start);
    if (!s) std::fprintf(stderr, "%s: %s\n", argv[1], s.message().c_str());
    return bool(s);
  };
  for (int i = 0; i < repeats; ++i) {
    if (!compile()) return 1;
  }
  Times times;
  for (unsigned seed = 0; seed < kWalks; ++seed) {
    if (!compile()) return 1;
    walk(grammar, tokens, seed, &times);
  }
  std::vector<double> thinking;
  for (int i = 0; i < 8 * repeats; ++i) thinking.push_back(time_thinking(grammar));
  std::printf("{\"tokens\":%zu,\"nodes\":%u,\"grammar_bytes\":%zu,\"memory_bytes\":%zu",
              tokens.size(), vocabulary->num_nodes(), grammar->bytes(), times.bytes);
  print("tree", trees);
  print("compile", compiles);
  print("first", times.first);
  print("slowest", times.slowest);
  print("cached", times.cached);
  print("take", times.taking);
  print("thinking", thinking);
  std::printf("}\n");
  return 0;
}
