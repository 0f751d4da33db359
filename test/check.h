// A test file is a list of TEST(name) { ... } bodies; EXPECT* report and go on, REQUIRE* report and
// leave the test. One main per executable: NEMOTRON_TEST_MAIN in exactly one of its files.
//
//   ops_test [--list] [--exact] [--tell] [--times] [text...]
//
// Runs the tests whose name contains any of the texts, or is one of them (--exact). --tell says
// each name before its test runs: where a program ends or hangs, that test did it. --times says
// what processor time each took.
//
// Used from one thread; a check made on another thread must be joined before the test ends.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace nemotron::test {

struct Case {
  std::string name;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
inline std::atomic<int>& failures() {
  static std::atomic<int> count{0};
  return count;
}

// Tests made at run time (one per device, per shape) register through this too.
inline bool add_case(std::string name, std::function<void()> body) {
  cases().push_back({std::move(name), std::move(body)});
  return true;
}

inline void fail(const char* file, int line, const std::string& what) {
  failures().fetch_add(1);
  std::printf("  %s:%d: %s\n", file, line, what.c_str());
}

template <class T>
std::string show(const T& v) {
  if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<long long>(v));
  } else if constexpr (requires(std::ostringstream & o) { o << v; }) {
    std::ostringstream o;
    o.precision(9);
    o << v;
    return o.str();
  } else {
    return "(value)";
  }
}

inline int run_all(int argc, char** argv) {
  bool list = false, exact = false, tell = false, times = false;
  std::vector<std::string> texts;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--list") {
      list = true;
    } else if (arg == "--exact") {
      exact = true;
    } else if (arg == "--tell") {
      tell = true;
    } else if (arg == "--times") {
      times = true;
    } else {
      texts.push_back(arg);
    }
  }
  int passed = 0, failed = 0;
  for (const Case& c : cases()) {
    bool wanted = texts.empty();
    for (const std::string& text : texts)
      wanted = wanted || (exact ? c.name == text : c.name.find(text) != std::string::npos);
    if (!wanted) continue;
    if (list) {
      std::printf("%s\n", c.name.c_str());
      continue;
    }
    if (tell) std::printf("RUNS %s\n", c.name.c_str());
    std::fflush(stdout);
    const int before = failures().load();
    const std::clock_t began = std::clock();
    c.body();
    if (times) {
      std::printf("%8.3f s %s\n", double(std::clock() - began) / CLOCKS_PER_SEC, c.name.c_str());
    }
    if (failures().load() == before) {
      ++passed;
    } else {
      ++failed;
      std::printf("FAILED %s\n", c.name.c_str());
    }
    std::fflush(stdout);
  }
  if (list) return 0;
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace nemotron::test

#define TEST(name)                                       \
  static void test_##name();                             \
  [[maybe_unused]] static const bool registered_##name = \
      ::nemotron::test::add_case(#name, test_##name);    \
  static void test_##name()

#define NEMOTRON_CHECK_AT(ok, text, leave)                \
  do {                                                    \
    if (!(ok)) {                                          \
      ::nemotron::test::fail(__FILE__, __LINE__, (text)); \
      leave;                                              \
    }                                                     \
  } while (0)

#define NEMOTRON_COMPARE(a, op, b, leave)                                                      \
  do {                                                                                         \
    const auto check_a_ = (a);                                                                 \
    const auto check_b_ = (b);                                                                 \
    NEMOTRON_CHECK_AT(check_a_ op check_b_,                                                    \
                      std::string(#a " " #op " " #b ": ") + ::nemotron::test::show(check_a_) + \
                          " and " + ::nemotron::test::show(check_b_),                          \
                      leave);                                                                  \
  } while (0)

#define EXPECT(cond) NEMOTRON_CHECK_AT(cond, "false: " #cond, (void)0)
#define EXPECT_EQ(a, b) NEMOTRON_COMPARE(a, ==, b, (void)0)
#define EXPECT_NE(a, b) NEMOTRON_COMPARE(a, !=, b, (void)0)
#define EXPECT_LT(a, b) NEMOTRON_COMPARE(a, <, b, (void)0)
#define EXPECT_LE(a, b) NEMOTRON_COMPARE(a, <=, b, (void)0)
#define EXPECT_GT(a, b) NEMOTRON_COMPARE(a, >, b, (void)0)
#define EXPECT_GE(a, b) NEMOTRON_COMPARE(a, >=, b, (void)0)
// False for NaN on either side.
#define EXPECT_NEAR(a, b, tolerance)                                                         \
  NEMOTRON_CHECK_AT(std::fabs(double(a) - double(b)) <= double(tolerance),                   \
                    std::string(#a " near " #b ": ") + ::nemotron::test::show(a) + " and " + \
                        ::nemotron::test::show(b) + ", tolerance " +                         \
                        ::nemotron::test::show(tolerance),                                   \
                    (void)0)
// A Status: ok, or failed with a message that contains `part`.
#define EXPECT_OK(status)                                                                       \
  do {                                                                                          \
    const auto& check_s_ = (status);                                                            \
    NEMOTRON_CHECK_AT(bool(check_s_), std::string(#status ": ") + check_s_.message(), (void)0); \
  } while (0)
#define EXPECT_ERROR(status, part)                                                               \
  do {                                                                                           \
    const auto& check_s_ = (status);                                                             \
    NEMOTRON_CHECK_AT(!bool(check_s_) && check_s_.message().find(part) != std::string::npos,     \
                      std::string(#status ": wanted an error with \"") + (part) + "\", got \"" + \
                          check_s_.message() + "\"",                                             \
                      (void)0);                                                                  \
  } while (0)
#define REQUIRE(cond) NEMOTRON_CHECK_AT(cond, "false: " #cond, return )
#define REQUIRE_EQ(a, b) NEMOTRON_COMPARE(a, ==, b, return )
#define REQUIRE_OK(status)                                                                      \
  do {                                                                                          \
    const auto& check_s_ = (status);                                                            \
    NEMOTRON_CHECK_AT(bool(check_s_), std::string(#status ": ") + check_s_.message(), return ); \
  } while (0)

#define NEMOTRON_TEST_MAIN \
  int main(int argc, char** argv) { return ::nemotron::test::run_all(argc, argv); }
