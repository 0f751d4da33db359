// Speculation by prompt lookup: guesses that the text repeats itself. The tokens that followed the
// latest earlier occurrence of the last few tokens are the drafts. A draft is only ever accepted
// when it is the very token that would have been drawn, so output never depends on it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nemotron {

// Up to `max_drafts` guesses of what follows `tokens`; empty when nothing repeats.
void propose_drafts(std::span<const int32_t> tokens, int32_t max_drafts, std::vector<int32_t>* out);

}  // namespace nemotron
