// OutputText against the plain definition on whole strings, at every cut, with random stop strings.
#include "engine/output_text.h"

#include <optional>
#include <random>

#include "../check.h"

namespace nemotron::test {
namespace {

// The WHATWG decoder, written from its definition by ranges: the longest prefix that could still
// become a scalar gives one U+FFFD.
std::string decode(const std::string& bytes) {
  struct Form {
    uint8_t first_low, first_high, second_low, second_high;
    size_t length;
  };
  static const Form forms[] = {{0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
                               {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3},
                               {0xEE, 0xEF, 0x80, 0xBF, 3}, {0xF0, 0xF0, 0x90, 0xBF, 4},
                               {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};
  std::string out;
  for (size_t i = 0; i < bytes.size();) {
    const auto at = [&](size_t k) { return uint8_t(bytes[i + k]); };
    if (at(0) < 0x80) {
      out += bytes[i++];
      continue;
    }
    const Form* form = nullptr;
    for (const Form& f : forms) {
      if (at(0) >= f.first_low && at(0) <= f.first_high) form = &f;
    }
    size_t good = form ? 1 : 0;
    while (form && good < form->length && i + good < bytes.size()) {
      const uint8_t low = good == 1 ? form->second_low : 0x80;
      const uint8_t high = good == 1 ? form->second_high : 0xBF;
      if (at(good) < low || at(good) > high) break;
      ++good;
    }
    if (form && good == form->length) {
      out.append(bytes, i, good);
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += std::max<size_t>(good, 1);
  }
  return out;
}

struct Expected {
  std::string text;
  int32_t stop = -1;
  size_t end = 0;  // bytes consumed
};

// The first place where a stop string ends; of several the longest.
Expected whole(const std::string& bytes, const std::vector<std::string>& stops, bool include,
               size_t may_stop_from) {
  for (size_t end = 1; end <= bytes.size(); ++end) {
    if (end <= may_stop_from) continue;
    int32_t best = -1;
    for (size_t i = 0; i < stops.size(); ++i) {
      const bool ends = end >= stops[i].size() &&
                        bytes.compare(end - stops[i].size(), stops[i].size(), stops[i]) == 0;
      if (ends && (best < 0 || stops[i].size() > stops[size_t(best)].size())) best = int32_t(i);
    }
    if (best < 0) continue;
    const size_t cut = include ? end : end - stops[size_t(best)].size();
    return {decode(bytes.substr(0, cut)), best, end};
  }
  return {decode(bytes), -1, bytes.size()};
}

bool is_whole_utf8(const std::string& s) { return decode(s) == s; }

// Pieces of `bytes` cut at `cuts`; checks every piece and the sum.
void check_cut(const std::string& bytes, const std::vector<size_t>& cuts,
               const std::vector<std::string>& stops, bool include, size_t free_pieces = 0) {
  OutputText out(stops, include, StopScope::all);
  std::string text;
  int32_t stop = -1;
  size_t begin = 0, piece = 0, may_stop_from = 0;
  for (size_t c = 0; c <= cuts.size() && stop < 0; ++c, ++piece) {
    const size_t end = c < cuts.size() ? cuts[c] : bytes.size();
    std::string delta;
    const bool may_stop = piece >= free_pieces;
    if (!may_stop) may_stop_from = end;
    stop = out.push(std::string_view(bytes).substr(begin, end - begin), may_stop, &delta);
    if (!is_whole_utf8(delta)) fail(__FILE__, __LINE__, "a piece is not whole UTF-8");
    text += delta;
    begin = end;
  }
  const Expected want = whole(bytes, stops, include, may_stop_from);
  std::string rest;
  if (stop < 0) out.finish(OutputText::Part::replaced, &rest);
  text += rest;
  EXPECT_EQ(stop, want.stop);
  EXPECT_EQ(text, want.text);
}

TEST(utf8_at_every_cut) {
  const std::string texts[] = {
      "plain",
      "h\xC3\xA9llo \xE2\x82\xAC \xF0\x9F\x98\x80 end",
      "\xF0\x9F\x98",
      "\xE2\x82",
      "\xC3",
      "a\xFF\xFE z",
      "\xC0\x80\xE0\x80\x80\xED\xA0\x80\xF5\x80\x80\x80\xF4\x90\x80\x80",
      "\xF0\x9F\x41\xE2\xE2\x82\xAC\xC3\xC3\xA9",
      "\x80\xBF mixed \xF1\x80\x80",
  };
  for (const std::string& s : texts) {
    check_cut(s, {}, {}, false);
    for (size_t i = 0; i <= s.size(); ++i) {
      for (size_t j = i; j <= s.size(); ++j) {
        check_cut(s, {i, j}, {}, false);
        check_cut(s, {i, j}, {"never there"}, false);
      }
    }
  }
}

TEST(known_values_of_the_decoder) {
  const auto text = [](const std::string& bytes) {
    OutputText out;
    std::string s;
    out.push(bytes, true, &s);
    out.finish(OutputText::Part::replaced, &s);
    return s;
  };
  // Examples of the Unicode standard, table 3-8 and its neighbours: U+FFFD for each maximal part.
  EXPECT_EQ(text("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
  EXPECT_EQ(text("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
  EXPECT_EQ(text("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41\uFFFD\uFFFD\x42");
  EXPECT_EQ(text("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), "\uFFFD\uFFFD\uFFFD\uFFFD\x41");
}

// Where the text has to be the beginning of something, what breaks off at its end is no part of it.
TEST(a_scalar_that_breaks_off_may_be_dropped) {
  for (const std::string part : {"\xC3", "\xE2\x82", "\xF0", "\xF0\x9F\x98"}) {
    for (const bool looks : {false, true}) {
      OutputText out(
          looks ? std::vector<std::string>{"\xF0\x9F\x98\x81"} : std::vector<std::string>{}, false,
          StopScope::all);
      std::string text;
      out.push("a\xFF" + part, true, &text);
      out.finish(OutputText::Part::dropped, &text);
      EXPECT_EQ(text, "a\uFFFD");
    }
  }
}

TEST(stop_strings_at_every_cut) {
  const std::vector<std::string> stops = {"END", "\n\n", "\xC3\xA9x", "aab"};
  const std::string texts[] = {
      "some text END more", "EENDD", "a\n\nb",      "h\xC3\xA9xtra", "aaaab!", "EN",
      "no stop here",       "\n",    "caf\xC3\xA9", "\xC3\xC3\xA9x"};
  for (const std::string& s : texts) {
    for (size_t i = 0; i <= s.size(); ++i) {
      for (size_t j = i; j <= s.size(); ++j) {
        check_cut(s, {i, j}, stops, false);
        check_cut(s, {i, j}, stops, true);
      }
    }
  }
}

TEST(of_two_stop_strings_that_end_together_the_longer_wins) {
  OutputText out(std::vector<std::string>{"c", "abc", "bc"}, false, StopScope::all);
  std::string text;
  EXPECT_EQ(out.push("xab", true, &text), -1);
  EXPECT_EQ(text, "x");
  EXPECT_EQ(out.push("c", true, &text), 1);
  EXPECT_EQ(text, "x");
}

// The text and the index of the stop that ended it, whole and at every two cuts.
void check_scope(StopScope scope, const std::string& bytes, int32_t stop, const std::string& want) {
  for (size_t i = 0; i <= bytes.size(); ++i) {
    for (size_t j = i; j <= bytes.size(); ++j) {
      OutputText out(std::vector<std::string>{"\n", "r", "k>a"}, false, scope);
      std::string text;
      int32_t ended = -1;
      const std::string parts[] = {bytes.substr(0, i), bytes.substr(i, j - i), bytes.substr(j)};
      for (const std::string& part : parts) {
        if (ended < 0) ended = out.push(part, true, &text);
      }
      if (ended < 0) out.finish(OutputText::Part::replaced, &text);
      EXPECT_EQ(ended, stop);
      EXPECT_EQ(text, want);
    }
  }
}

TEST(stops_are_looked_for_in_their_scope) {
  check_scope(StopScope::all, "\nr", 0, "");
  check_scope(StopScope::answer, "\n\n ab\nc", 0, "\n\n ab");
  check_scope(StopScope::answer, "\n\n", -1, "\n\n");
  check_scope(StopScope::after_thinking, "hm\nr</think>\n\nab\nc", 0, "hm\nr</think>\n\nab");
  check_scope(StopScope::after_thinking, "hm\nr</thin", -1, "hm\nr</thin");
  check_scope(StopScope::after_thinking, "r</think>ar", 1, "r</think>a");
  check_scope(StopScope::after_block, " <think>\nr</think>\nab\n", 0, " <think>\nr</think>\nab");
  check_scope(StopScope::after_block, "<thinr", 1, "<thin");
  check_scope(StopScope::after_block, "a<think>r", 1, "a<think>");
  check_scope(StopScope::after_block, " \nab", 0, " ");
  check_scope(StopScope::after_block, "  <thi", -1, "  <thi");
}

TEST(what_comes_next_is_in_the_scope_or_not) {
  const auto is_answer = [](StopScope scope, const std::string& before, const std::string& next) {
    OutputText out({}, false, scope);
    std::string text;
    out.push(before, true, &text);
    return out.is_answer(next);
  };
  EXPECT_EQ(is_answer(StopScope::all, "", "\n"), true);
  EXPECT_EQ(is_answer(StopScope::answer, "", "\n"), false);
  EXPECT_EQ(is_answer(StopScope::answer, "\n", "\na"), true);
  EXPECT_EQ(is_answer(StopScope::answer, "a", "\n"), true);
  EXPECT_EQ(is_answer(StopScope::after_thinking, "hm", "\n"), false);
  EXPECT_EQ(is_answer(StopScope::after_thinking, "hm</think", ">\n\n"), false);
  EXPECT_EQ(is_answer(StopScope::after_thinking, "hm</think>", "\n"), false);
  EXPECT_EQ(is_answer(StopScope::after_thinking, "hm</think>\n", "a"), true);
  EXPECT_EQ(is_answer(StopScope::after_block, "", "<think>"), false);
  EXPECT_EQ(is_answer(StopScope::after_block, " <th", "in"), false);
  EXPECT_EQ(is_answer(StopScope::after_block, "<th", "e"), true);
  EXPECT_EQ(is_answer(StopScope::after_block, "<think>hm", "\n"), false);
  EXPECT_EQ(is_answer(StopScope::after_block, "a", "\n"), true);
}

TEST(random_stops_and_cuts) {
  std::mt19937 rng(11);
  const std::string alphabet[] = {"a", "b", "\xC3\xA9", "\xE2\x82\xAC", "\xFF", "\xC3"};
  const auto random_text = [&](size_t most) {
    std::string s;
    for (size_t n = 1 + rng() % most; n > 0; --n) s += alphabet[rng() % std::size(alphabet)];
    return s;
  };
  for (int round = 0; round < 20000; ++round) {
    const std::string bytes = random_text(14);
    std::vector<std::string> stops;
    for (size_t n = rng() % 4; n > 0; --n) stops.push_back(random_text(3));
    std::vector<size_t> cuts;
    for (size_t n = rng() % 5; n > 0; --n) cuts.push_back(rng() % (bytes.size() + 1));
    std::sort(cuts.begin(), cuts.end());
    check_cut(bytes, cuts, stops, rng() % 2, rng() % 3);
  }
}

// The borders of a prefix have borders of their own: falling back once is not enough.
TEST(stop_strings_that_repeat_within_themselves) {
  struct Case {
    const char *stop, *bytes;
    size_t end;
  };
  const Case cases[] = {{"aabaaac", "aabaaabaaac", 11},   {"aabaaac", "aabaabaaac", 10},
                        {"abababc", "abababababc", 11},   {"aab", "aaaaaab", 7},
                        {"abacabad", "abacabacabad", 12}, {"aabaaab", "aabaabaaab", 10}};
  for (const Case& c : cases) {
    for (size_t step = 1; step <= c.end; ++step) {
      const std::string bytes = c.bytes, stops[] = {c.stop};
      OutputText text(stops, false, StopScope::all);
      std::string out;
      int32_t found = -1;
      for (size_t at = 0; at < bytes.size() && found < 0; at += step) {
        found = text.push(std::string_view(bytes).substr(at, step), true, &out);
      }
      EXPECT_EQ(found, 0);
      EXPECT_EQ(out, bytes.substr(0, c.end - std::string(c.stop).size()));
    }
  }
}

}  // namespace
}  // namespace nemotron::test
