#include "models/checkpoint/json.h"

#include "../check.h"

namespace nemotron {
namespace {

Status parse(const std::string& text) {
  Json json;
  return Json::parse(text, &json);
}

TEST(json_values) {
  Json j;
  REQUIRE_OK(Json::parse(
      R"( {"a": [1, -2, 3.5, true, false, null, "x"], "b": {"c": 9007199254740993}} )", &j));
  const Json::Array& a = *j.find("a")->array();
  REQUIRE_EQ(a.size(), size_t(7));
  EXPECT_EQ(*a[0].integer(), 1);
  EXPECT_EQ(*a[1].integer(), -2);
  double d = 0;
  EXPECT(a[2].integer() == nullptr);
  EXPECT(a[2].number(&d));
  EXPECT_EQ(d, 3.5);
  EXPECT(a[0].number(&d));
  EXPECT_EQ(d, 1.0);
  EXPECT(*a[3].boolean());
  EXPECT(!*a[4].boolean());
  EXPECT(a[5].is_null());
  EXPECT_EQ(*a[6].string(), "x");
  // Not a double anywhere on the way: 2^53 + 1 keeps its last bit.
  EXPECT_EQ(*j.find("b")->find("c")->integer(), int64_t(9007199254740993));
  EXPECT(j.find("zzz") == nullptr);
}

TEST(json_numbers_beyond_int64_are_doubles) {
  Json j;
  REQUIRE_OK(Json::parse("[9223372036854775807, 9223372036854775808, 1e3, -0]", &j));
  const Json::Array& a = *j.array();
  EXPECT_EQ(*a[0].integer(), INT64_MAX);
  EXPECT(a[1].integer() == nullptr);
  EXPECT(a[2].integer() == nullptr);
  EXPECT_EQ(*a[3].integer(), 0);
  EXPECT_ERROR(parse("[1e999]"), "number out of range: 1e999");
}

TEST(json_strings) {
  Json j;
  REQUIRE_OK(
      Json::parse(R"(["\"\\\/\b\f\n\r\t", "\u00e9\u4f60\ud83d\ude00", "é你😀", "\u0000"])", &j));
  const Json::Array& a = *j.array();
  EXPECT_EQ(*a[0].string(), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(*a[1].string(), *a[2].string());
  EXPECT_EQ(*a[3].string(), std::string(1, '\0'));
}

TEST(json_errors_say_where_and_what) {
  EXPECT_ERROR(parse("{\n  \"a\": 1,\n  \"b\" 2\n}"),
               "line 3, column 7 (byte 18): expected ':', found '2'");
  EXPECT_ERROR(parse(""),
               "line 1, column 1 (byte 0): expected a value, found the end of the input");
  EXPECT_ERROR(parse("[1, 2"), "expected ',' or ']', found the end of the input");
  EXPECT_ERROR(parse("{\"a\": 1, }"), "expected a member name in quotes, found '}'");
  EXPECT_ERROR(parse("[1,]"), "expected a value, found ']'");
  EXPECT_ERROR(parse("{'a': 1}"), "expected a member name in quotes, found '''");
  EXPECT_ERROR(parse("{} {}"), "expected the end of the document, found '{'");
  EXPECT_ERROR(parse("nul"), "expected a value");
  EXPECT_ERROR(parse("NaN"), "expected a value, found 'N'");
  EXPECT_ERROR(parse("[01]"), "leading zeros");
  EXPECT_ERROR(parse("[1.]"), "expected a digit");
  EXPECT_ERROR(parse("[-]"), "expected a digit");
  EXPECT_ERROR(parse("[1e]"), "expected a digit");
  EXPECT_ERROR(parse("// no\n1"), "expected a value, found '/'");
  EXPECT_ERROR(parse("\"abc"), "expected '\"', found the end of the input");
  EXPECT_ERROR(parse("\"a\nb\""), "expected no control character in a string, found byte 0x0a");
  EXPECT_ERROR(parse("\"\\x\""), "expected an escape");
  EXPECT_ERROR(parse("\"\\u12g4\""), "expected four hexadecimal digits, found 'g'");
  EXPECT_ERROR(parse("\xef\xbb\xbf{}"), "expected a value, found byte 0xef");
}

TEST(json_refuses_bad_unicode) {
  for (const char* bad : {"\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"",
                          "\"\xe4\xbd\"", "\"\x80\"", "\"\xf0\x80\x80\x80\""}) {
    EXPECT_ERROR(parse(bad), "not UTF-8");
  }
  EXPECT_ERROR(parse(R"("\ud83d")"), "high surrogate without a low one");
  EXPECT_ERROR(parse(R"("\ud83d\u0041")"), "high surrogate without a low one");
  EXPECT_ERROR(parse(R"("\ude00")"), "low surrogate without a high one");
}

TEST(json_duplicate_members) {
  EXPECT_ERROR(parse(R"({"a": 1, "b": 2, "a": 3})"), "(byte 17): duplicate member \"a\"");
  EXPECT_ERROR(parse(R"({"a": 1, "\u0061": 3})"), "duplicate member \"a\"");
  EXPECT_OK(parse(R"([{"a": 1}, {"a": 2}])"));
}

TEST(json_bounds) {
  const auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_OK(parse(nested(64)));
  EXPECT_ERROR(parse(nested(65)), "nested deeper than 64 levels");
  EXPECT_ERROR(parse(std::string(1000000, '[')), "nested deeper than 64 levels");
  Json j;
  const Json::Limits small{.bytes = 100, .values = 5, .depth = 3};
  EXPECT_ERROR(Json::parse("[1,2,3,4,5]", small, &j), "more than 5 values");
  EXPECT_OK(Json::parse("[1,2,3,4]", small, &j));
  EXPECT_ERROR(Json::parse(std::string(101, ' '), small, &j), "JSON of 101 bytes; at most 100");
}

TEST(json_brief_is_one_short_line) {
  EXPECT_EQ(Json(std::string("a\nb")).brief(), "\"a?b\"");
  EXPECT_LT(Json(std::string(500, 'x')).brief().size(), size_t(70));
  EXPECT_EQ(Json(Json::Array{}).brief(), "an array");
  EXPECT_EQ(Json(1.5).brief(), "1.5");
}

}  // namespace
}  // namespace nemotron
