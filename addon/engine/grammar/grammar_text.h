// Grammar text (docs/decisions/0013-grammar-text.md) as a tree. Pure, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "device/status.h"

namespace nemotron {

// What a reader of grammar text takes. More is refused by name.
inline constexpr size_t kMaxGrammarBytes = 1 << 20;
inline constexpr int kMaxGrammarDepth = 1000;  // of parts in parts
inline constexpr uint32_t kMaxGrammarCount = 1'000'000'000;
inline constexpr uint32_t kUnboundedCount = UINT32_MAX;

struct CharacterRange {  // code points, both ends included
  uint32_t first = 0, last = 0;
};

// A part of a rule's body. Parts name each other by index, and a part is behind its own parts.
struct GrammarPart {
  enum class Kind : uint8_t { text, characters, sequence, choice, repeat, rule } kind = Kind::text;
  std::string text = {};                    // text: UTF-8
  std::vector<CharacterRange> ranges = {};  // characters: ascending, disjoint, no surrogates
  std::vector<uint32_t> parts = {};         // sequence, choice: one or more; repeat: one
  uint32_t min = 0, max = 0;                // repeat: max may be kUnboundedCount
  uint32_t rule = 0;                        // rule: index
};

struct GrammarRule {
  std::string name;
  uint32_t body = 0;  // a part
};

struct GrammarTree {
  std::vector<GrammarPart> parts;
  std::vector<GrammarRule> rules;
  uint32_t root = 0;  // a rule
};

// Errors (invalid_argument) say line, column and rule, what was found and what would be right.
Status read_grammar(std::string_view text, GrammarTree* out);

// Appends a code point's UTF-8.
void append_utf8(uint32_t point, std::string* out);

}  // namespace nemotron
