// The reader of grammar text, the automaton, and texts on their way through it. An input is the
// text of a grammar. A text that is not refused has to be served: no state is a dead end, masks say
// what can be taken, and memory stays within its bound.
#include <cstdio>
#include <cstdlib>
#include <random>

#include "engine/grammar/grammar.h"
#include "fuzz.h"

namespace {

using namespace nemotron;

constexpr int kWalks = 3, kSteps = 40;
// Of memory after a walk: what is kept, and what the last token has added.
constexpr size_t kMostBytes = kGrammarMemoryBytes + (size_t(32) << 20);

void require(bool ok) {
  if (!ok) std::abort();
}

// Every byte is a token, so what may come is never nothing for want of one.
const std::vector<std::string>& tokens() {
  static const auto* all = [] {
    auto* t = new std::vector<std::string>();
    for (int byte = 0; byte < 256; ++byte) t->emplace_back(1, char(byte));
    for (const char* word :
         {"ab",     "abc",    "aaaa",       " a",       "\"a",      "\":", "\",\"",
          "{\"",    "}}",     "]]",         "[[",       "\n  ",     "12",  "0.5",
          "\u00E9", "\u4E2D", "\U0001F600", "\xB8\xAD", "\xF0\x9F", "true"})
      t->push_back(word);
    return t;
  }();
  return *all;
}

std::shared_ptr<const Vocabulary> vocabulary() {
  static const auto* one = new std::shared_ptr<const Vocabulary>(
      std::make_shared<Vocabulary>(tokens(), std::vector<bool>{}, std::vector<int32_t>{}));
  return *one;
}

void walk(const std::shared_ptr<const Grammar>& grammar, GrammarMatcher::From from,
          std::mt19937_64& random) {
  GrammarMatcher matcher(grammar, from);
  require(!matcher.is_dead());  // a grammar that admits nothing is refused
  for (int step = 0; step < kSteps; ++step) {
    const auto bits = matcher.mask();
    const std::vector<uint32_t> mask(bits.begin(), bits.end());
    const auto may = [&](size_t id) { return (mask[id / 32] >> (id % 32) & 1) != 0; };
    std::vector<size_t> open;
    for (size_t id = 0; id < tokens().size(); ++id) {
      if (may(id)) open.push_back(id);
    }
    require(matcher.must_end() == (matcher.may_end() && open.empty()));
    const std::string forced = matcher.forced_text(8);
    if (open.empty()) {
      require(matcher.must_end() && forced.empty());
      return;
    }
    if (!forced.empty()) {
      require(!matcher.may_end());
      for (const size_t id : open) require(tokens()[id][0] == forced[0]);
    }
    // One token that the mask has and one of any kind.
    const size_t other = random() % tokens().size();
    GrammarMatcher copy = matcher;
    require(copy.take(tokens()[other]) == may(other));
    require(matcher.take(tokens()[open[random() % open.size()]]));
    require(grammar->memory()->bytes() <= kMostBytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::shared_ptr<const Grammar> grammar;
  const Status s = Grammar::compile(text, vocabulary(), &grammar);
  if (!s) {
    require(!grammar && !s.message().empty() && s.message().size() < 1000);
    return -1;
  }
  std::mt19937_64 random(std::hash<std::string>()(text));
  for (int i = 0; i < kWalks; ++i) {
    walk(grammar, i == 0 ? GrammarMatcher::From::root_after_lines : GrammarMatcher::From::root,
         random);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  return {
      // Every construct of the text.
      R"(# a comment
root ::= (
  "a" | "\n\t\r\"\\\x41\u00E9\U0001F600" # another
  | [a-z] [^a-zA-Z\]\-\^] . | b-1_x{2} b-1_x{2,} b-1_x{2,5} b-1_x? b-1_x* b-1_x+
)
b-1_x ::= "q" | [0-9_] | ("x" | "y")
)",
      // JSON: rules in rules, white space that is bounded.
      R"(root ::= "{" ws "\"name\":" ws string "," ws "\"n\":" ws number ws "}"
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair)*)? ws "}"
pair ::= string ":" ws value
array ::= "[" ws (value ("," ws value)*)? ws "]"
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
string ::= "\"" char{0,1000} "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,18}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
ws ::= (" " | "\n" " "{0,32})?
)",
      // Recursion: at the end, in the middle, ambiguous, and through rules that may be empty.
      "root ::= \"a\" root | b\nb ::= \"b\" b | \"c\"",
      "root ::= \"[\" root{0,5} \"]\" | \"x\"",
      "root ::= r\nr ::= \"a\" r \"b\" | \"a\" r \"c\" | \"a\"",
      "root ::= \"(\" e root e \")\" | \"x\"\ne ::= \"\" | \" \"",
      // Counters in counters, exact ones and such that overlap.
      "root ::= (([a-z]{2,100000} \",\"){0,100000} \";\"){1,100000}",
      "root ::= ([a-z]{1,5}){3,100000} ([a-z]{0,3}){0,9}",
      "root ::= \"a\"{1000} (\"a\" | \"aa\"){0,1000000000}",
      "root ::= (\"a\"? \"a\"?){10} (\"\" | \"b\"*)* \"c\"",
      // Automata of characters of one to four bytes, and words that share their beginnings.
      "root ::= [^\\x00-\\u07FF\\U00010000-\\U0010FFFE] [\\u0080-\\U00010000]* | s\n"
      "s ::= \"a\" s | [bc] t\nt ::= \"\" | [^a-c] s",
      "root ::= \"red\" | \"reed\" | \"re\" | \"green\" | \"\u00E9\u4E2D\" | \"\u00E9\u6587\"",
  };
}

std::vector<std::string> fuzz_words() {
  return {"root",
          " ::= ",
          "\n",
          "|",
          "(",
          ")",
          "\"\"",
          "\"a\"",
          "[a-z]",
          "[^a]",
          ".",
          "*",
          "+",
          "?",
          "{0}",
          "{0,0}",
          "{,}",
          "{2,}",
          "{0,1000000000}",
          "{1000000001}",
          "{3,2}",
          "\\x00",
          "\\xFF",
          "\\uD800",
          "\\U0010FFFF",
          "\\U00110000",
          "#",
          "\xc3\x28",
          "\xF0\x9F\x98\x80",
          "[]",
          "[^\\x00-\\U0010FFFF]",
          "((((((((((((((((((((",
          "))))))))))))))))))))",
          "********************",
          " root ",
          " root{2,5} ",
          "\nroot ::= ",
          " | root \"a\"",
          "(\"\" | \"a\")*",
          "{1000}{1000}{1000}",
          "value",
          "string",
          "ws"};
}

bool fuzz_has_length_prefix() { return false; }
