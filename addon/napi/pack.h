// Deltas as one array of numbers and one string, so that a wake costs one call into JavaScript.
// server/engine/addon.ts unpacks them: the two files change together.
//
// words: one record after another, each
//   request, choice, finish, text length, ids, logprobs, prompt logprobs, scores (counts),
//   stop id, stop index, error code, error length
//   and, when finish is not `none`: queue, prefill, decode seconds, cached tokens, preemptions,
//   drafted, accepted, cache miss reason, cache miss position;
//   then the ids; the logprobs (id, logprob, rank, count, then count x (id, logprob)); the prompt
//   logprobs, alike; the scores.
// Finish, error code and cache miss reason are indices of packed_names() (convert.h).
// text: the deltas' texts and error messages in the order of the records. Lengths are in UTF-16
// units.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/request.h"

namespace nemotron {

struct PackedDeltas {
  std::vector<double> words;
  std::string text;  // UTF-8
};

// Replaces what is in `out`, keeping its memory.
void pack_deltas(const std::vector<Delta>& deltas, PackedDeltas* out);

}  // namespace nemotron
