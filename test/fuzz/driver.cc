// Runs a fuzz target on mutations of its seeds. Input i depends on i alone, so a crash can be
// replayed:
//   fuzz_config [--seconds S] [--first I] [--inputs N]
//   fuzz_config FILE...          runs these files instead
// Without arguments: 3 seconds of processor time, or 120 with NEMOTRON_TEST_LONG=1. Ends with "1
// passed, 0 failed".
#include <sanitizer/common_interface_defs.h>
#include <sys/time.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <random>
#include <sstream>

#include "fuzz.h"

// An abort() of a target is reported like any other crash, and so is memory without end.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() {
  return "handle_abort=1:hard_rss_limit_mb=4096";
}

namespace {

using Random = std::mt19937_64;

uint64_t current_input = 0;

size_t below(Random& random, size_t n) { return n == 0 ? 0 : size_t(random() % n); }

constexpr const char* kNumbers[] = {"0",
                                    "-1",
                                    "1",
                                    "2",
                                    "3",
                                    "7",
                                    "8",
                                    "255",
                                    "65536",
                                    "2147483647",
                                    "2147483648",
                                    "4294967296",
                                    "9223372036854775807",
                                    "9223372036854775808",
                                    "18446744073709551615",
                                    "1e308",
                                    "1e999",
                                    "-0.0",
                                    "0.5",
                                    "1e-320",
                                    "null",
                                    "true",
                                    "[]",
                                    "{}",
                                    "\"\""};

// A run of digits becomes another number.
void replace_number(Random& random, std::string* s) {
  const size_t start = s->find_first_of("0123456789", below(random, s->size()));
  if (start == std::string::npos) return;
  const size_t end = std::min(s->find_first_not_of("0123456789.eE+-", start), s->size());
  s->replace(start, end - start, kNumbers[below(random, std::size(kNumbers))]);
}

void mutate(Random& random, const std::vector<std::string>& seeds,
            const std::vector<std::string>& words, std::string* s) {
  const size_t at = below(random, s->size() + 1), length = below(random, 16) + 1;
  switch (random() % 9) {
    case 0:
      if (at < s->size()) (*s)[at] = char((*s)[at] ^ (1 << below(random, 8)));
      break;
    case 1:
      if (at < s->size()) (*s)[at] = char(random());
      break;
    case 2: s->erase(at, length); break;
    case 3: s->insert(at, std::string(length, char(random()))); break;
    case 4: s->insert(at, s->substr(below(random, s->size() + 1), below(random, 64))); break;
    case 5: s->insert(at, words[below(random, words.size())]); break;
    case 6: replace_number(random, s); break;
    case 7: replace_number(random, s); break;
    case 8: {  // the tail of another seed
      const std::string& other = seeds[below(random, seeds.size())];
      *s = s->substr(0, at) + other.substr(below(random, other.size() + 1));
      break;
    }
  }
  if (s->size() > 1 << 16) s->resize(1 << 16);
}

uint64_t get_length(const std::string& s) {
  uint64_t n = 0;
  for (size_t i = 0; i < 8; ++i) n |= uint64_t(uint8_t(s[i])) << (8 * i);
  return n;
}

std::string make_input(uint64_t index, const std::vector<std::string>& seeds,
                       const std::vector<std::string>& words) {
  Random random(index);
  std::string s = seeds[below(random, seeds.size())];
  const size_t mutations = below(random, 5);
  if (!fuzz_has_length_prefix() || random() % 8 == 0) {
    for (size_t i = 0; i < mutations; ++i) mutate(random, seeds, words, &s);
    return s;
  }
  // Header and data apart, and the length made right again.
  const size_t length = size_t(std::min<uint64_t>(get_length(s), s.size() - 8));
  std::string header = s.substr(8, length);
  const std::string data = s.substr(8 + length);
  for (size_t i = 0; i < mutations; ++i) mutate(random, seeds, words, &header);
  std::string out;
  for (size_t i = 0; i < 8; ++i) out.push_back(char(uint64_t(header.size()) >> (8 * i)));
  return out + header + data;
}

void report_crash() {
  std::printf("input %llu: replay with --first %llu --inputs 1\n0 passed, 1 failed\n",
              static_cast<unsigned long long>(current_input),
              static_cast<unsigned long long>(current_input));
  std::fflush(stdout);
}

// Of processor time for one input, which may be of 64 KiB; more is an input without an end.
constexpr time_t kMostSeconds = 60;

int run(const std::string& s) {
  const itimerval limit{.it_interval = {}, .it_value = {.tv_sec = kMostSeconds, .tv_usec = 0}};
  setitimer(ITIMER_VIRTUAL, &limit, nullptr);
  return LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(s.data()), s.size());
}

}  // namespace

int main(int argc, char** argv) {
  __sanitizer_set_death_callback(report_crash);
  std::signal(SIGVTALRM, [](int) { std::abort(); });
  double seconds = std::getenv("NEMOTRON_TEST_LONG") ? 120 : 3;
  uint64_t first = 0, count = UINT64_MAX;
  for (int i = 1; i < argc; ++i) {
    const auto is = [&](const char* name) {
      return std::strcmp(argv[i], name) == 0 && i + 1 < argc;
    };
    if (is("--seconds"))
      seconds = std::atof(argv[++i]);
    else if (is("--first"))
      first = std::strtoull(argv[++i], nullptr, 10);
    else if (is("--inputs"))
      count = std::strtoull(argv[++i], nullptr, 10);
    else {
      std::ostringstream text;
      text << std::ifstream(argv[i], std::ios::binary).rdbuf();
      std::printf("%s: %s\n", argv[i], run(text.str()) == 0 ? "read" : "refused");
      count = 0;
    }
  }
  const std::vector<std::string> seeds = fuzz_seeds(), words = fuzz_words();
  for (const std::string& seed : seeds) {
    if (run(seed) != 0) {
      std::printf("a seed was refused: the mutations would not get far\n0 passed, 1 failed\n");
      return 1;
    }
  }
  const auto end = std::clock() + std::clock_t(seconds * CLOCKS_PER_SEC);
  uint64_t done = 0, read = 0;
  for (; done < count && (done % 64 != 0 || std::clock() < end); ++done) {
    current_input = first + done;
    read += run(make_input(current_input, seeds, words)) == 0;
  }
  std::printf("%llu inputs, %llu of them read\n1 passed, 0 failed\n",
              static_cast<unsigned long long>(done), static_cast<unsigned long long>(read));
  return 0;
}
