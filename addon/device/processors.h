// How many threads this process can keep busy: by the processors that it may run on, and by the
// share of their time that its control groups leave it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nemotron {

struct Processors {
  int count = 1;    // at least 1
  std::string why;  // for people
};

// How many processors' time a quota is: of cpu.max ("200000 100000"), or of cpu.cfs_quota_us and
// cpu.cfs_period_us beside each other. Nothing: it is none ("max 100000", "-1 100000", no text).
std::optional<double> parse_cpu_quota(std::string_view text);

// all: of the machine. allowed: of the mask of this process.
Processors choose_processors(int all, int allowed, std::optional<double> quota);

// Of this process. `root`: of the system's files.
Processors usable_processors(const std::string& root = "");

// `asked` of an option; 0: as many as usable_processors().
Processors choose_threads(int asked);

}  // namespace nemotron
