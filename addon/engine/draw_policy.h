// What the device is told about one draw: from a request's parameters and the tokens drawn so far.
// Engine thread.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "device/step.h"
#include "engine/output_text.h"
#include "engine/request.h"

namespace nemotron {

// The seed of choice i. Choice 0 draws as a request with n = 1 does, and
// choice_seed(choice_seed(s, i), 0) == choice_seed(s, i).
uint64_t choice_seed(uint64_t seed, int32_t choice);

// Worked out once a request.
struct RequestSampling {
  std::vector<uint32_t> allowed;     // bit mask; empty: all
  std::vector<int32_t> stop_ids;     // sorted: end the sequence when drawn
  std::vector<int32_t> never;        // banned at every draw: padding of the vocabulary
  std::vector<int32_t> never_early;  // the same and the stop ids, before min_tokens
};
RequestSampling make_request_sampling(const SamplingParams& params,
                                      std::span<const int32_t> model_stop_ids, int32_t tokens,
                                      int32_t vocab);

bool has_penalties(const SamplingParams& params);

// One sequence's history as far as draws depend on it.
struct SamplingState {
  uint64_t seed = 0;
  std::vector<TokenCount> counts;                 // only with penalties
  std::unordered_map<int32_t, int32_t> index_of;  // id -> index in counts
  std::vector<ByteMatcher> think_end;             // one, with a thinking budget
  bool think_closed = false;                      // the model ended its thinking within the budget
};
SamplingState make_sampling_state(const SamplingParams& params, int32_t choice,
                                  std::span<const int32_t> prompt);
// `id` is the sequence's `generated`-th token (1 for the first).
void count_token(const SamplingParams& params, int32_t id, std::string_view bytes,
                 int32_t generated, SamplingState* state);

// The token that the thinking budget puts in the place of draw `index` (0 for the first), or -1.
int32_t forced_token(const SamplingParams& params, const SamplingState& state, int32_t index);
// From this draw on the host must know the tokens before; see Sequence::run_ahead_until.
int32_t run_ahead_limit(const SamplingParams& params, const SamplingState& state,
                        int32_t generated);
// How many drafts may follow `generated` tokens: none where a draw depends on the tokens before it.
int32_t draft_limit(const SamplingParams& params, const SamplingState& state, int32_t generated);

// Everything of the draw but row, slot and position. `arena` gets the ids of a list made for this
// draw alone; the return value is how many of its last ids are out->banned (the caller sets the
// span when the arena has stopped growing). 0: out->banned is already set.
size_t describe_draw(const SamplingParams& params, const RequestSampling& request,
                     const SamplingState& state, std::span<const int32_t> tokens,
                     int32_t num_prompt, int32_t index, std::vector<int32_t>* arena,
                     SampleInput* out);

}  // namespace nemotron
