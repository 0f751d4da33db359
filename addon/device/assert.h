// NEMOTRON_ASSERT: a condition that our own code promises (a `REQUIRES:` line of a header, an
// invariant). Never for input: that is refused with a Status. Checked where NEMOTRON_ASSERTS is
// defined (debug builds, the C++ tests, sanitizer builds); elsewhere it is compiled and not run.
#pragma once

#ifdef NEMOTRON_ASSERTS
#include <cstdio>
#include <cstdlib>

namespace nemotron {

[[noreturn]] inline void assert_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: broken promise: %s\n", file, line, condition);
  std::abort();
}

}  // namespace nemotron

#define NEMOTRON_ASSERT(condition) \
  ((condition) ? void() : ::nemotron::assert_failed(#condition, __FILE__, __LINE__))
#else
#define NEMOTRON_ASSERT(condition) static_cast<void>(sizeof((condition) ? 1 : 0))
#endif
