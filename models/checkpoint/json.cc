#include "models/checkpoint/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace nemotron {
namespace {

std::string printable(unsigned char c) {
  if (c >= 0x20 && c < 0x7f) return std::string("'") + char(c) + "'";
  char text[16];
  std::snprintf(text, sizeof text, "byte 0x%02x", c);
  return text;
}

void append_utf8(uint32_t code, std::string* out) {
  if (code < 0x80) {
    out->push_back(char(code));
  } else if (code < 0x800) {
    out->push_back(char(0xc0 | (code >> 6)));
    out->push_back(char(0x80 | (code & 0x3f)));
  } else if (code < 0x10000) {
    out->push_back(char(0xe0 | (code >> 12)));
    out->push_back(char(0x80 | ((code >> 6) & 0x3f)));
    out->push_back(char(0x80 | (code & 0x3f)));
  } else {
    out->push_back(char(0xf0 | (code >> 18)));
    out->push_back(char(0x80 | ((code >> 12) & 0x3f)));
    out->push_back(char(0x80 | ((code >> 6) & 0x3f)));
    out->push_back(char(0x80 | (code & 0x3f)));
  }
}

// Length of the UTF-8 sequence at the front of `s`; 0: not one (overlong forms, surrogates and
// codes above U+10FFFF included).
size_t utf8_length(std::string_view s) {
  const auto at = [&](size_t i) { return i < s.size() ? uint8_t(s[i]) : uint8_t(0); };
  const auto tail = [&](size_t i) { return (at(i) & 0xc0) == 0x80; };
  const uint8_t c = at(0);
  if (c < 0x80) return 1;
  if (c >= 0xc2 && c <= 0xdf) return tail(1) ? 2 : 0;
  if (c >= 0xe0 && c <= 0xef) {
    if (c == 0xe0 && at(1) < 0xa0) return 0;
    if (c == 0xed && at(1) > 0x9f) return 0;
    return tail(1) && tail(2) ? 3 : 0;
  }
  if (c >= 0xf0 && c <= 0xf4) {
    if (c == 0xf0 && at(1) < 0x90) return 0;
    if (c == 0xf4 && at(1) > 0x8f) return 0;
    return tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

class Parser {
 public:
  Parser(std::string_view text, const Json::Limits& limits) : text_(text), limits_(limits) {}

  Status run(Json* out) {
    if (text_.size() > limits_.bytes) {
      return Status::invalid("JSON of " + std::to_string(text_.size()) + " bytes; at most " +
                             std::to_string(limits_.bytes) + " are read");
    }
    skip_space();
    if (!value(0, out)) return std::move(error_);
    skip_space();
    if (pos_ != text_.size()) {
      fail("the end of the document");
      return std::move(error_);
    }
    return {};
  }

 private:
  // Every function returns false after error_ was set.
  bool fail_at(size_t where, const std::string& what) {
    const std::string_view before = text_.substr(0, where);
    const size_t line = 1 + size_t(std::count(before.begin(), before.end(), '\n'));
    const size_t start = before.rfind('\n');
    const size_t column = where - (start == std::string_view::npos ? 0 : start + 1) + 1;
    error_ = Status::invalid("line " + std::to_string(line) + ", column " + std::to_string(column) +
                             " (byte " + std::to_string(where) + "): " + what);
    return false;
  }
  bool fail(const std::string& expected) {
    const std::string found =
        pos_ < text_.size() ? printable(uint8_t(text_[pos_])) : std::string("the end of the input");
    return fail_at(pos_, "expected " + expected + ", found " + found);
  }

  void skip_space() {
    while (pos_ < text_.size() && (text_[pos_] == ' ' || text_[pos_] == '\n' ||
                                   text_[pos_] == '\r' || text_[pos_] == '\t')) {
      ++pos_;
    }
  }
  bool at(char c) const { return pos_ < text_.size() && text_[pos_] == c; }
  bool digit() const { return pos_ < text_.size() && text_[pos_] >= '0' && text_[pos_] <= '9'; }
  bool word(std::string_view w) {
    if (text_.substr(pos_, w.size()) != w) return false;
    pos_ += w.size();
    return true;
  }

  bool value(int depth, Json* out) {
    if (++values_ > limits_.values) {
      return fail_at(pos_, "more than " + std::to_string(limits_.values) + " values");
    }
    if (at('{') || at('[')) {
      if (depth >= limits_.depth) {
        return fail_at(pos_, "nested deeper than " + std::to_string(limits_.depth) + " levels");
      }
      return at('{') ? object(depth, out) : array(depth, out);
    }
    if (at('"')) {
      std::string s;
      if (!string(&s)) return false;
      *out = Json(std::move(s));
      return true;
    }
    if (at('-') || digit()) return number(out);
    if (word("true")) return *out = Json(true), true;
    if (word("false")) return *out = Json(false), true;
    if (word("null")) return *out = Json(), true;
    return fail("a value");
  }

  bool array(int depth, Json* out) {
    ++pos_;
    Json::Array items;
    skip_space();
    if (!at(']')) {
      for (;;) {
        skip_space();
        if (!value(depth + 1, &items.emplace_back())) return false;
        skip_space();
        if (at(']')) break;
        if (!at(',')) return fail("',' or ']'");
        ++pos_;
      }
    }
    ++pos_;
    *out = Json(std::move(items));
    return true;
  }

  bool object(int depth, Json* out) {
    ++pos_;
    Json::Object members;
    std::vector<size_t> offsets;
    skip_space();
    if (!at('}')) {
      for (;;) {
        skip_space();
        if (!at('"')) return fail("a member name in quotes");
        offsets.push_back(pos_);
        auto& member = members.emplace_back();
        if (!string(&member.first)) return false;
        skip_space();
        if (!at(':')) return fail("':'");
        ++pos_;
        skip_space();
        if (!value(depth + 1, &member.second)) return false;
        skip_space();
        if (at('}')) break;
        if (!at(',')) return fail("',' or '}'");
        ++pos_;
      }
    }
    ++pos_;
    std::vector<size_t> order(members.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      const int c = members[a].first.compare(members[b].first);
      return c != 0 ? c < 0 : a < b;
    });
    for (size_t i = 1; i < order.size(); ++i) {
      if (members[order[i]].first == members[order[i - 1]].first) {
        return fail_at(offsets[order[i]],
                       "duplicate member " + Json(members[order[i]].first).brief());
      }
    }
    *out = Json(std::move(members));
    return true;
  }

  bool number(Json* out) {
    const size_t start = pos_;
    bool integral = true;
    if (at('-')) ++pos_;
    if (!digit()) return fail("a digit");
    if (at('0')) {
      ++pos_;
      if (digit()) return fail_at(start, "a number must not have leading zeros");
    }
    while (digit()) ++pos_;
    if (at('.')) {
      integral = false;
      ++pos_;
      if (!digit()) return fail("a digit");
      while (digit()) ++pos_;
    }
    if (at('e') || at('E')) {
      integral = false;
      ++pos_;
      if (at('+') || at('-')) ++pos_;
      if (!digit()) return fail("a digit");
      while (digit()) ++pos_;
    }
    const char* first = text_.data() + start;
    const char* last = text_.data() + pos_;
    if (integral) {
      int64_t i = 0;
      if (std::from_chars(first, last, i).ec == std::errc()) return *out = Json(i), true;
    }
    double d = 0;
    if (std::from_chars(first, last, d).ec != std::errc() || !std::isfinite(d)) {
      return fail_at(start, "number out of range: " +
                                std::string(first, std::min<size_t>(size_t(last - first), 40)));
    }
    *out = Json(d);
    return true;
  }

  bool hex4(uint32_t* out) {
    *out = 0;
    for (int i = 0; i < 4; ++i, ++pos_) {
      const char c = pos_ < text_.size() ? text_[pos_] : '\0';
      uint32_t digit_value = 0;
      if (c >= '0' && c <= '9')
        digit_value = uint32_t(c - '0');
      else if (c >= 'a' && c <= 'f')
        digit_value = uint32_t(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        digit_value = uint32_t(c - 'A' + 10);
      else
        return fail("four hexadecimal digits");
      *out = *out * 16 + digit_value;
    }
    return true;
  }

  bool escape(std::string* out) {
    const size_t start = pos_ - 1;  // of the backslash
    const char c = pos_ < text_.size() ? text_[pos_] : '\0';
    switch (c) {
      case '"':
      case '\\':
      case '/': out->push_back(c); break;
      case 'b': out->push_back('\b'); break;
      case 'f': out->push_back('\f'); break;
      case 'n': out->push_back('\n'); break;
      case 'r': out->push_back('\r'); break;
      case 't': out->push_back('\t'); break;
      case 'u': {
        ++pos_;
        uint32_t code = 0, low = 0;
        if (!hex4(&code)) return false;
        if (code >= 0xdc00 && code <= 0xdfff)
          return fail_at(start, "low surrogate without a high one");
        if (code >= 0xd800 && code <= 0xdbff) {
          if (!word("\\u")) return fail_at(start, "high surrogate without a low one");
          if (!hex4(&low)) return false;
          if (low < 0xdc00 || low > 0xdfff)
            return fail_at(start, "high surrogate without a low one");
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        append_utf8(code, out);
        return true;
      }
      default: return fail("an escape (one of \"\\/bfnrtu)");
    }
    ++pos_;
    return true;
  }

  bool string(std::string* out) {
    ++pos_;
    for (;;) {
      if (pos_ >= text_.size()) return fail("'\"'");
      const auto c = uint8_t(text_[pos_]);
      if (c == '"') return ++pos_, true;
      if (c < 0x20) return fail("no control character in a string");
      if (c == '\\') {
        ++pos_;
        if (!escape(out)) return false;
        continue;
      }
      const size_t n = utf8_length(text_.substr(pos_, 4));
      if (n == 0) return fail_at(pos_, "not UTF-8: " + printable(c));
      out->append(text_.substr(pos_, n));
      pos_ += n;
    }
  }

  std::string_view text_;
  const Json::Limits& limits_;
  size_t pos_ = 0, values_ = 0;
  Status error_;
};

}  // namespace

Status Json::parse(std::string_view text, const Limits& limits, Json* out) {
  return Parser(text, limits).run(out);
}

bool Json::number(double* out) const {
  if (const int64_t* i = integer()) return *out = double(*i), true;
  if (const double* d = std::get_if<double>(&value_)) return *out = *d, true;
  return false;
}

const Json* Json::find(std::string_view key) const {
  const Object* members = object();
  if (!members) return nullptr;
  for (const auto& [name, value] : *members) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string Json::brief() const {
  constexpr size_t kMaxShown = 60;
  if (is_null()) return "null";
  if (const bool* b = boolean()) return *b ? "true" : "false";
  if (const int64_t* i = integer()) return std::to_string(*i);
  if (const double* d = std::get_if<double>(&value_)) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", *d);
    return text;
  }
  if (const std::string* s = string()) {
    std::string shown = "\"";
    for (size_t i = 0; i < s->size();) {
      const size_t n = std::max<size_t>(utf8_length(std::string_view(*s).substr(i, 4)), 1);
      if (shown.size() + n > kMaxShown) return shown + "...\"";
      // A message is one line whatever a hostile file puts into a name.
      if (n == 1 && (uint8_t((*s)[i]) < 0x20 || (*s)[i] == 0x7f))
        shown += '?';
      else
        shown.append(*s, i, n);
      i += n;
    }
    return shown + "\"";
  }
  return array() ? "an array" : "an object";
}

}  // namespace nemotron
