#include "engine/grammar/grammar_text.h"

#include <algorithm>
#include <unordered_map>

namespace nemotron {

void append_utf8(uint32_t point, std::string* out) {
  const auto add = [&](uint32_t byte) { out->push_back(char(byte)); };
  if (point < 0x80) return add(point);
  if (point < 0x800) {
    add(0xC0 | point >> 6);
  } else {
    if (point < 0x10000) {
      add(0xE0 | point >> 12);
    } else {
      add(0xF0 | point >> 18);
      add(0x80 | (point >> 12 & 0x3F));
    }
    add(0x80 | (point >> 6 & 0x3F));
  }
  add(0x80 | (point & 0x3F));
}

namespace {

constexpr uint32_t kLastPoint = 0x10FFFF;
using Kind = GrammarPart::Kind;

bool is_surrogate(uint32_t point) { return point >= 0xD800 && point <= 0xDFFF; }

// Ascending, disjoint, not touching, no surrogates.
std::vector<CharacterRange> tidy(std::vector<CharacterRange> ranges, bool negative) {
  std::ranges::sort(ranges, {}, &CharacterRange::first);
  std::vector<CharacterRange> joined;
  for (const CharacterRange& r : ranges) {
    if (!joined.empty() && r.first <= joined.back().last + 1) {
      joined.back().last = std::max(joined.back().last, r.last);
    } else {
      joined.push_back(r);
    }
  }
  if (negative) {
    std::vector<CharacterRange> rest;
    uint32_t next = 0;
    for (const CharacterRange& r : joined) {
      if (r.first > next) rest.push_back({next, r.first - 1});
      next = r.last + 1;
    }
    if (next <= kLastPoint) rest.push_back({next, kLastPoint});
    joined.swap(rest);
  }
  std::vector<CharacterRange> out;
  for (const CharacterRange& r : joined) {
    if (r.first < 0xD800) out.push_back({r.first, std::min(r.last, 0xD7FFu)});
    if (r.last > 0xDFFF) out.push_back({std::max(r.first, 0xE000u), r.last});
  }
  return out;
}

class Reader {
 public:
  Reader(std::string_view text, GrammarTree* out) : text_(text), tree_(*out) {}

  Status read() {
    if (text_.size() > kMaxGrammarBytes) {
      return Status::invalid("grammar: has " + std::to_string(text_.size()) +
                             " bytes, expected at most " + std::to_string(kMaxGrammarBytes));
    }
    for (skip(true); ok() && at_ < text_.size(); skip(true)) rule();
    if (!ok()) return status_;
    for (size_t i = 0; i < tree_.rules.size(); ++i) {
      if (defined_[i]) continue;
      at_ = first_use_[i];
      fail("no rule has the name '" + tree_.rules[i].name + "'",
           "write \"" + tree_.rules[i].name + "\" in quotes if it is text, or add '" +
               tree_.rules[i].name + " ::= ...'");
      return status_;
    }
    const auto root = names_.find("root");
    if (root == names_.end()) {
      return Status::invalid("grammar: has no rule 'root', expected 'root ::= ...'");
    }
    tree_.root = root->second;
    return {};
  }

 private:
  bool ok() const { return status_.ok(); }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool more() const { return at_ < text_.size(); }
  bool sees(std::string_view word) const { return text_.substr(at_, word.size()) == word; }

  // Line and column (in characters) of the place that is being read.
  std::string place() const {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < std::min(at_, text_.size()); ++i) {
      if (text_[i] == '\n') {
        ++line, column = 1;
      } else if ((uint8_t(text_[i]) & 0xC0) != 0x80) {
        ++column;
      }
    }
    return "line " + std::to_string(line) + ", column " + std::to_string(column);
  }
  void fail(const std::string& what, const std::string& advice) {
    if (!ok()) return;
    std::string message = "grammar: " + place();
    if (!rule_name_.empty()) message += " (rule '" + rule_name_ + "')";
    status_ = Status::invalid(message + ": " + what + "; " + advice);
  }
  std::string shown() const {
    if (!more()) return "the end of the text";
    if (text_[at_] == '\n') return "the end of the line";
    size_t end = at_ + 1;
    while (end < text_.size() && (uint8_t(text_[end]) & 0xC0) == 0x80) ++end;
    return "'" + std::string(text_.substr(at_, end - at_)) + "'";
  }

  void too_deep() {
    fail(
        "groups and repetitions are nested more than " + std::to_string(kMaxGrammarDepth) + " deep",
        "name some of them as rules");
  }

  // Blanks and comments; `lines`: line feeds too.
  void skip(bool lines) {
    for (; more(); ++at_) {
      const char c = text_[at_];
      if (c == '#') {
        while (more() && text_[at_] != '\n') ++at_;
        if (!more()) return;
      }
      if (text_[at_] == '\n' ? !lines
                             : text_[at_] != ' ' && text_[at_] != '\t' && text_[at_] != '\r')
        return;
    }
  }
  // Where a rule may end: goes over line feeds only when a '|' follows.
  void skip_to_branch(bool lines) {
    skip(lines);
    if (lines) return;
    const size_t before = at_;
    skip(true);
    if (peek() != '|') at_ = before;
  }

  static bool begins_name(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  std::string name() {
    size_t end = at_;
    while (end < text_.size() &&
           (begins_name(text_[end]) || is_digit(text_[end]) || text_[end] == '-')) {
      ++end;
    }
    const std::string found(text_.substr(at_, end - at_));
    at_ = end;
    return found;
  }
  uint32_t rule_index(const std::string& name) {
    const auto [it, is_new] = names_.try_emplace(name, uint32_t(tree_.rules.size()));
    if (is_new) {
      tree_.rules.push_back({name, 0});
      defined_.push_back(false);
      first_use_.push_back(at_);
    }
    return it->second;
  }

  void rule() {
    rule_name_.clear();
    if (!begins_name(peek())) {
      return fail("found " + shown(), "expected a rule, as in 'name ::= \"text\"'");
    }
    const size_t begin = at_;
    const std::string head = name();
    skip(false);
    if (!sees("::="))
      return fail("found " + shown(), "expected '::=' behind the name '" + head + "'");
    at_ += 3;
    const uint32_t index = rule_index(head);
    if (defined_[index]) {
      at_ = begin;
      return fail("the rule '" + head + "' is there twice", "join both with '|'");
    }
    defined_[index] = true;
    rule_name_ = head;
    skip(true);
    const uint32_t body = choice(false, 0);
    if (!ok()) return;
    tree_.rules[index].body = body;
    skip(false);
    if (more() && peek() != '\n') {
      fail("found " + shown(),
           peek() == ')' ? "no group is open here" : "expected the end of the line");
    }
  }

  uint32_t add(GrammarPart part) {
    int depth = 0;
    for (const uint32_t one : part.parts) depth = std::max(depth, depths_[one] + 1);
    if (depth > kMaxGrammarDepth) too_deep();
    depths_.push_back(depth);
    tree_.parts.push_back(std::move(part));
    return uint32_t(tree_.parts.size() - 1);
  }

  uint32_t choice(bool lines, int depth) {
    GrammarPart part{.kind = Kind::choice};
    for (;;) {
      part.parts.push_back(sequence(lines, depth));
      if (!ok()) return 0;
      skip_to_branch(lines);
      if (peek() != '|') break;
      ++at_;
      skip(true);
    }
    return part.parts.size() == 1 ? part.parts[0] : add(std::move(part));
  }

  uint32_t sequence(bool lines, int depth) {
    GrammarPart part{.kind = Kind::sequence};
    for (;;) {
      skip(lines);
      uint32_t one = 0;
      if (!primary(depth, &one)) break;
      skip(lines);
      for (uint32_t min = 0, max = 0; ok() && count(&min, &max); skip(lines)) {
        one = add({.kind = Kind::repeat, .parts = {one}, .min = min, .max = max});
      }
      if (!ok()) return 0;
      part.parts.push_back(one);
    }
    if (!ok()) return 0;
    if (part.parts.empty()) {
      fail("found " + shown() + " where an alternative begins", "write \"\" for an empty one");
      return 0;
    }
    return part.parts.size() == 1 ? part.parts[0] : add(std::move(part));
  }

  // False: no part begins here, or it is wrong.
  bool primary(int depth, uint32_t* out) {
    const char c = peek();
    if (c == '"') {
      *out = literal();
    } else if (c == '[') {
      *out = characters();
    } else if (c == '.') {
      ++at_;
      *out = add({.kind = Kind::characters, .ranges = tidy({}, true)});
    } else if (c == '(') {
      if (depth >= kMaxGrammarDepth) {
        too_deep();
        return false;
      }
      ++at_;
      *out = choice(true, depth + 1);
      if (ok() && peek() != ')') fail("found " + shown(), "expected ')' or '|' inside a group");
      ++at_;
    } else if (begins_name(c)) {
      const size_t begin = at_;
      const std::string found = name();
      const size_t end = at_;
      skip(false);
      if (sees("::=")) {  // the next rule, behind a line feed that a '|' or a '(' went over
        at_ = begin;
        return false;
      }
      at_ = begin;
      *out = add({.kind = Kind::rule, .rule = rule_index(found)});
      at_ = end;
    } else {
      return false;
    }
    return ok();
  }

  bool count(uint32_t* min, uint32_t* max) {
    const char c = peek();
    if (c == '*' || c == '+' || c == '?') {
      ++at_;
      *min = c == '+';
      *max = c == '?' ? 1 : kUnboundedCount;
      return true;
    }
    if (c != '{') return false;
    const size_t begin = at_++;
    if (!number(min)) return false;
    *max = *min;
    if (peek() == ',') {
      ++at_;
      *max = kUnboundedCount;
      if (is_digit(peek()) && !number(max)) return false;
    }
    if (peek() != '}') {
      fail("found " + shown() + " in a count", "expected '{2}', '{2,}' or '{2,5}'");
      return false;
    }
    ++at_;
    if (*max >= *min) return true;
    at_ = begin;
    fail("the count {" + std::to_string(*min) + "," + std::to_string(*max) + "} goes down",
         "expected the smaller number first");
    return false;
  }
  bool number(uint32_t* out) {
    uint64_t value = 0;
    if (!is_digit(peek())) {
      fail("found " + shown() + " in a count", "expected '{2}', '{2,}' or '{2,5}'");
      return false;
    }
    for (; is_digit(peek()); ++at_) {
      value = value * 10 + uint64_t(peek() - '0');
      if (value <= kMaxGrammarCount) continue;
      fail("a count is above " + std::to_string(kMaxGrammarCount), "leave it away: '{2,}'");
      return false;
    }
    *out = uint32_t(value);
    return true;
  }

  // A code point of a literal or a class, escaped or not.
  bool point(uint32_t* out) {
    if (!more() || peek() == '\n') {
      fail("found " + shown(), "close it on its line, and write \\n for a line feed");
      return false;
    }
    if (peek() == '\\') return escape(out);
    return utf8(out);
  }
  bool utf8(uint32_t* out) {
    const auto byte = [&](size_t i) { return uint32_t(uint8_t(peek(i))); };
    const uint32_t first = byte(0);
    if (first < 0x80) {
      ++at_;
      *out = first;
      return true;
    }
    const size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    uint32_t value = first & (0xFF >> (size + 1));
    bool good = first >= 0xC2 && first <= 0xF4 && at_ + size <= text_.size();
    for (size_t i = 1; good && i < size; ++i) {
      good = (byte(i) & 0xC0) == 0x80;
      value = value << 6 | (byte(i) & 0x3F);
    }
    constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (!good || value < kLeast[size] || value > kLastPoint || is_surrogate(value)) {
      fail("the text is not UTF-8", "expected UTF-8");
      return false;
    }
    at_ += size;
    *out = value;
    return true;
  }
  bool escape(uint32_t* out) {
    const size_t begin = at_++;
    const char c = peek();
    size_t digits = 0;
    switch (c) {
      case 'n': *out = '\n'; break;
      case 'r': *out = '\r'; break;
      case 't': *out = '\t'; break;
      case '\\':
      case '"':
      case ']':
      case '[':
      case '-':
      case '^': *out = uint8_t(c); break;
      case 'x': digits = 2; break;
      case 'u': digits = 4; break;
      case 'U': digits = 8; break;
      default:
        fail("there is no escape '\\" + std::string(more() && c != '\n' ? 1 : 0, c) + "'",
             R"(expected \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH or \UHHHHHHHH)");
        return false;
    }
    ++at_;
    if (digits == 0) return true;
    uint64_t value = 0;
    for (size_t i = 0; i < digits; ++i, ++at_) {
      const char d = peek();
      const int digit = is_digit(d)            ? d - '0'
                        : d >= 'a' && d <= 'f' ? d - 'a' + 10
                        : d >= 'A' && d <= 'F' ? d - 'A' + 10
                                               : -1;
      if (digit < 0) {
        fail("found " + shown() + " in an escape", std::string("expected ") +
                                                       std::to_string(digits) +
                                                       " hexadecimal digits behind \\" + c);
        return false;
      }
      value = value << 4 | uint64_t(digit);
    }
    if (value > kLastPoint) {
      at_ = begin;
      fail("the escape is no code point", "expected at most \\U0010FFFF");
      return false;
    }
    *out = uint32_t(value);
    return true;
  }

  uint32_t literal() {
    GrammarPart part{.kind = Kind::text};
    ++at_;
    while (peek() != '"') {
      const size_t begin = at_;
      uint32_t one = 0;
      if (!point(&one)) return 0;
      if (is_surrogate(one)) {
        at_ = begin;
        fail("half of a surrogate pair is no character", "write the whole one as \\UHHHHHHHH");
        return 0;
      }
      append_utf8(one, &part.text);
    }
    ++at_;
    return add(std::move(part));
  }

  uint32_t characters() {
    std::vector<CharacterRange> ranges;
    ++at_;
    const bool negative = peek() == '^';
    at_ += negative;
    if (peek() == ']' && !negative) {
      fail("the class is empty, no character is in it", R"(write \] for a ']' in it)");
      return 0;
    }
    while (peek() != ']') {
      const size_t begin = at_;
      CharacterRange range;
      if (!point(&range.first)) return 0;
      range.last = range.first;
      if (peek() == '-' && peek(1) != ']') {
        ++at_;
        if (!point(&range.last)) return 0;
      }
      if (range.last < range.first) {
        at_ = begin;
        fail("the range goes down", "expected the smaller character first");
        return 0;
      }
      ranges.push_back(range);
    }
    ++at_;
    return add({.kind = Kind::characters, .ranges = tidy(std::move(ranges), negative)});
  }

  const std::string_view text_;
  GrammarTree& tree_;
  Status status_;
  size_t at_ = 0;
  std::string rule_name_;  // of the rule that is being read
  std::unordered_map<std::string, uint32_t> names_;
  std::vector<bool> defined_;
  std::vector<size_t> first_use_;
  std::vector<int> depths_;  // of parts
};

}  // namespace

Status read_grammar(std::string_view text, GrammarTree* out) {
  *out = {};
  return Reader(text, out).read();
}

}  // namespace nemotron
