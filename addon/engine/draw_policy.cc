#include "engine/draw_policy.h"

#include <algorithm>
#include <limits>

#include "device/random.h"

namespace nemotron {
namespace {

constexpr int32_t kNever = std::numeric_limits<int32_t>::max();

}  // namespace

uint64_t choice_seed(uint64_t seed, int32_t choice) {
  if (choice == 0) return seed;
  const Philox4 r = philox4x32(seed, 0x63686F696365ull, uint64_t(choice));  // "choice"
  return (uint64_t(r.v[0]) << 32) | r.v[1];
}

RequestSampling make_request_sampling(const SamplingParams& params,
                                      std::span<const int32_t> model_stop_ids, int32_t tokens,
                                      int32_t vocab) {
  RequestSampling s;
  if (!params.ignore_eos) s.stop_ids.assign(model_stop_ids.begin(), model_stop_ids.end());
  s.stop_ids.insert(s.stop_ids.end(), params.stop_token_ids.begin(), params.stop_token_ids.end());
  std::ranges::sort(s.stop_ids);
  s.stop_ids.erase(std::unique(s.stop_ids.begin(), s.stop_ids.end()), s.stop_ids.end());
  if (params.allowed_ids.empty()) {
    for (int32_t id = tokens; id < vocab; ++id) s.never.push_back(id);
  } else {
    s.allowed.assign(size_t(vocab + 31) / 32, 0);
    for (const int32_t id : params.allowed_ids) s.allowed[size_t(id) / 32] |= 1u << (id % 32);
  }
  if (params.min_tokens > 0) {
    s.never_early = s.never;
    s.never_early.insert(s.never_early.end(), s.stop_ids.begin(), s.stop_ids.end());
  }
  return s;
}

bool has_penalties(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

namespace {

TokenCount& count_of(int32_t id, SamplingState* state) {
  const auto [it, is_new] = state->index_of.try_emplace(id, int32_t(state->counts.size()));
  if (is_new) state->counts.push_back({.id = id});
  return state->counts[size_t(it->second)];
}

}  // namespace

SamplingState make_sampling_state(const SamplingParams& params, int32_t choice,
                                  std::span<const int32_t> prompt) {
  SamplingState state;
  state.seed = choice_seed(params.seed, choice);
  if (params.repetition_penalty != 1) {  // the other penalties look at the output alone
    for (const int32_t id : prompt) count_of(id, &state).in_prompt = true;
  }
  if (params.thinking_budget >= 0) state.think_end.emplace_back(params.think_end);
  return state;
}

void count_token(const SamplingParams& params, int32_t id, std::string_view bytes,
                 int32_t generated, SamplingState* state) {
  if (has_penalties(params)) ++count_of(id, state).output_count;
  if (generated > params.thinking_budget || state->think_closed) return;
  for (const char c : bytes) {
    if (state->think_end.front().push(uint8_t(c))) state->think_closed = true;
  }
}

int32_t forced_token(const SamplingParams& params, const SamplingState& state, int32_t index) {
  if (params.thinking_budget < 0 || state.think_closed || index < params.thinking_budget) return -1;
  const size_t at = size_t(index - params.thinking_budget);
  return at < params.think_close.size() ? params.think_close[at] : -1;
}

namespace {

// The first draw that the thinking budget may decide; kNever when it has had its say.
int32_t thinking_limit(const SamplingParams& params, const SamplingState& state,
                       int32_t generated) {
  if (params.thinking_budget < 0 || state.think_closed) return kNever;
  const bool over = generated >= params.thinking_budget + int32_t(params.think_close.size());
  return over ? kNever : params.thinking_budget;
}

}  // namespace

int32_t run_ahead_limit(const SamplingParams& params, const SamplingState& state,
                        int32_t generated) {
  if (has_penalties(params) || !params.bad_words.empty() || params.lookup_tokens > 0) return 0;
  return thinking_limit(params, state, generated);
}

int32_t draft_limit(const SamplingParams& params, const SamplingState& state, int32_t generated) {
  if (has_penalties(params) || !params.bad_words.empty()) return 0;
  const int32_t last_draw = thinking_limit(params, state, generated) - 1;
  return std::clamp(last_draw - generated, 0, params.lookup_tokens);
}

size_t describe_draw(const SamplingParams& p, const RequestSampling& request,
                     const SamplingState& state, std::span<const int32_t> tokens,
                     int32_t num_prompt, int32_t index, std::vector<int32_t>* arena,
                     SampleInput* out) {
  out->target = forced_token(p, state, index);
  out->num_top = p.num_logprobs;
  if (out->target >= 0) return 0;
  out->temperature = p.temperature;
  out->top_p = p.top_p;
  out->min_p = p.min_p;
  out->top_k = p.top_k;
  out->repetition_penalty = p.repetition_penalty;
  out->presence_penalty = p.presence_penalty;
  out->frequency_penalty = p.frequency_penalty;
  out->seed = state.seed;
  out->counts = state.counts;
  out->bias = p.logit_bias;
  out->allowed = request.allowed;
  const std::vector<int32_t>& banned = index < p.min_tokens ? request.never_early : request.never;
  out->banned = banned;
  if (p.bad_words.empty()) return 0;

  // A bad word's last token is banned where the output ends with the others.
  const size_t begin = arena->size();
  const auto output = tokens.subspan(size_t(num_prompt));
  for (const auto& word : p.bad_words) {
    const size_t before = word.size() - 1;
    if (before <= output.size() &&
        std::equal(word.begin(), word.end() - 1, output.end() - int64_t(before))) {
      arena->push_back(word.back());
    }
  }
  if (arena->size() == begin) return 0;
  arena->insert(arena->end(), banned.begin(), banned.end());
  return arena->size() - begin;
}

}  // namespace nemotron
