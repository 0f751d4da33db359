#include "engine/prompt_lookup.h"

#include <algorithm>

namespace nemotron {
namespace {

constexpr size_t kLongestContext = 4, kShortestContext = 2;

}  // namespace

void propose_drafts(std::span<const int32_t> tokens, int32_t max_drafts,
                    std::vector<int32_t>* out) {
  out->clear();
  const size_t size = tokens.size();
  if (max_drafts <= 0 || size <= kShortestContext) return;
  const int32_t last = tokens[size - 1];
  size_t best = 0, best_end = 0;  // agreement, and where the drafts start
  for (size_t end = size - 1; end >= kShortestContext && best < kLongestContext; --end) {
    if (tokens[end - 1] != last) continue;
    size_t agree = 1;
    while (agree < std::min(end, kLongestContext) &&
           tokens[end - 1 - agree] == tokens[size - 1 - agree]) {
      ++agree;
    }
    if (agree > best) best = agree, best_end = end;  // of equal ones the latest
  }
  if (best < kShortestContext) return;
  const size_t count = std::min(size_t(max_drafts), size - best_end);
  out->assign(tokens.begin() + int64_t(best_end), tokens.begin() + int64_t(best_end + count));
}

}  // namespace nemotron
