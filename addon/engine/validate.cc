#include "engine/validate.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "engine/grammar/grammar.h"

namespace nemotron {
namespace {

template <class T>
std::string text(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

template <class T>
Status in_range(const char* field, T value, T low, T high) {
  if (value >= low && value <= high) return {};  // false for NaN
  return Status::invalid(std::string(field) + ": found " + text(value) + ", expected " + text(low) +
                         " to " + text(high));
}

Status valid_ids(const char* field, const std::vector<int32_t>& ids, int32_t num_tokens) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < num_tokens) continue;
    return Status::invalid(std::string(field) + ": found token id " + text(ids[i]) + " at index " +
                           text(i) + ", expected 0 to " + text(num_tokens - 1));
  }
  return {};
}

Status valid_length(const Request& r, const EngineInfo& info) {
  const size_t prompt = r.prompt.size();
  const size_t most = size_t(info.max_model_len);
  const bool draws = r.kind == RequestKind::generate && r.sampling.max_tokens > 0;
  if (prompt == 0) return Status::invalid("prompt: is empty, expected at least one token");
  if (prompt + draws > most) {
    return Status::invalid("prompt: " + text(prompt) + " tokens" +
                           (draws ? " and at least one to generate" : "") +
                           " exceed the maximum context length of " + text(most) + " tokens");
  }
  const size_t end = std::min(most, prompt + size_t(draws ? r.sampling.max_tokens : 0));
  const size_t capacity = size_t(info.plan.num_blocks) * size_t(info.block_size);
  if (end > capacity) {
    return Status::invalid("prompt: " + text(prompt) + " tokens and what max_tokens allows (" +
                           text(end) + " in all) exceed the KV cache of " + text(capacity) +
                           " tokens");
  }
  return {};
}

Status valid_numbers(const SamplingParams& p) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  constexpr float kSmallest = std::numeric_limits<float>::min();
  constexpr int32_t kMany = std::numeric_limits<int32_t>::max();
  const Status checks[] = {
      in_range("max_tokens", p.max_tokens, 0, kMany),
      in_range("min_tokens", p.min_tokens, 0, p.max_tokens),
      in_range("temperature", p.temperature, 0.0f, kLargest),
      in_range("top_p", p.top_p, kSmallest, 1.0f),
      in_range("min_p", p.min_p, 0.0f, 1.0f),
      in_range("top_k", p.top_k, 0, kMany),
      in_range("repetition_penalty", p.repetition_penalty, kSmallest, kLargest),
      in_range("presence_penalty", p.presence_penalty, -2.0f, 2.0f),
      in_range("frequency_penalty", p.frequency_penalty, -2.0f, 2.0f),
      in_range("logprobs", p.num_logprobs, -1, int32_t(kMaxTopLogprobs)),
      in_range("prompt_logprobs", p.num_prompt_logprobs, -1, int32_t(kMaxTopLogprobs)),
      in_range("lookup_tokens", p.lookup_tokens, 0, kMaxLookupTokens),
      in_range("thinking_budget", p.thinking_budget, -1, kMany),
  };
  const auto wrong = std::ranges::find_if(checks, [](const Status& s) { return !s; });
  return wrong == std::end(checks) ? Status() : *wrong;
}

Status valid_lists(const SamplingParams& p, int32_t num_tokens) {
  if (Status s = valid_ids("stop_token_ids", p.stop_token_ids, num_tokens); !s) return s;
  if (Status s = valid_ids("allowed_token_ids", p.allowed_ids, num_tokens); !s) return s;
  if (Status s = valid_ids("logprob_ids", p.logprob_ids, num_tokens); !s) return s;
  if (p.logprob_ids.size() > size_t(kMaxReported)) {
    return Status::invalid("logprob_ids: found " + text(p.logprob_ids.size()) +
                           " ids, expected at most " + text(kMaxReported));
  }
  if (!p.logprob_ids.empty() && p.num_logprobs != 0) {
    return Status::invalid("logprob_ids: found logprobs = " + text(p.num_logprobs) +
                           ", expected 0: the ids stand in the place of the likeliest");
  }
  for (const TokenBias& b : p.logit_bias) {
    if (Status s = valid_ids("logit_bias", {b.id}, num_tokens); !s) return s;
    if (!std::isfinite(b.bias)) {
      return Status::invalid("logit_bias: the bias of token id " + text(b.id) + " is not finite");
    }
  }
  for (const auto& word : p.bad_words) {
    if (word.empty()) return Status::invalid("bad_words: a word has no tokens");
    if (Status s = valid_ids("bad_words", word, num_tokens); !s) return s;
  }
  if (p.stop.size() > kMaxStopStrings) {
    return Status::invalid("stop: found " + text(p.stop.size()) + " strings, expected at most " +
                           text(kMaxStopStrings));
  }
  for (const std::string& stop : p.stop) {
    if (!stop.empty() && stop.size() <= kMaxStopBytes) continue;
    return Status::invalid("stop: found a string of " + text(stop.size()) +
                           " bytes, expected 1 to " + text(kMaxStopBytes));
  }
  if (p.thinking_budget >= 0) {
    if (p.think_close.empty()) return Status::invalid("thinking_budget: think_close has no tokens");
    if (p.think_begin.empty()) return Status::invalid("thinking_budget: think_begin is empty");
    if (p.think_end.empty()) return Status::invalid("thinking_budget: think_end is empty");
    if (Status s = valid_ids("think_close", p.think_close, num_tokens); !s) return s;
  }
  return {};
}

Status valid_grammar(const SamplingParams& p, const Vocabulary* vocabulary) {
  if (!p.grammar) {
    if (p.grammar_after.empty()) return {};
    return Status::invalid("grammar_after: there is no grammar");
  }
  if (&p.grammar->vocabulary() != vocabulary) {
    return Status::invalid("grammar: was compiled by another engine");
  }
  if (p.grammar->is_too_ambiguous()) return too_ambiguous();
  if (p.grammar_after.size() > kMaxGrammarTriggers) {
    return Status::invalid("grammar_after: found " + text(p.grammar_after.size()) +
                           " strings, expected at most " + text(kMaxGrammarTriggers));
  }
  for (const std::string& trigger : p.grammar_after) {
    if (!trigger.empty() && trigger.size() <= kMaxTagBytes) continue;
    return Status::invalid("grammar_after: found a string of " + text(trigger.size()) +
                           " bytes, expected 1 to " + text(kMaxTagBytes));
  }
  const size_t most = std::max(p.think_begin.size(), p.think_end.size());
  if (p.think_begin.empty() != p.think_end.empty() || most > kMaxTagBytes) {
    return Status::invalid(
        "grammar: think_begin and think_end must both be there or both not, of " +
        text(kMaxTagBytes) + " bytes at most");
  }
  return {};
}

// Something must be left to draw, at least where the tokens before do not matter.
Status something_left(const SamplingParams& p, const std::vector<int32_t>& stop_ids) {
  if (p.allowed_ids.empty()) return {};
  const auto left = [&](int32_t id) {
    const bool stops = p.min_tokens > 0 && std::ranges::find(stop_ids, id) != stop_ids.end();
    return !stops && std::ranges::find(p.bad_words, std::vector<int32_t>{id}) == p.bad_words.end();
  };
  if (std::ranges::any_of(p.allowed_ids, left)) return {};
  return Status::invalid(
      "allowed_token_ids: every one of them is banned by bad_words, or ends the text before "
      "min_tokens");
}

}  // namespace

Status validate(const Request& r, const EngineInfo& info, int32_t num_tokens,
                const Vocabulary* vocabulary) {
  const bool reward = info.config.reward.kind != RewardHead::Kind::none;
  if (reward != (r.kind == RequestKind::score)) {
    return Status::invalid(reward ? "kind: this is a reward model, it scores and does not generate"
                                  : "kind: this model generates text and has no reward head");
  }
  if (Status s = in_range("n", r.n, 1, reward ? 1 : kMaxChoices); !s) return s;
  if (Status s = valid_ids("prompt", r.prompt, info.config.vocab); !s) return s;
  if (Status s = valid_length(r, info); !s) return s;
  if (reward) return {};
  if (Status s = valid_numbers(r.sampling); !s) return s;
  if (Status s = valid_lists(r.sampling, num_tokens); !s) return s;
  if (Status s = valid_grammar(r.sampling, vocabulary); !s) return s;
  std::vector<int32_t> stop_ids = r.sampling.stop_token_ids;
  if (!r.sampling.ignore_eos) {
    stop_ids.insert(stop_ids.end(), info.stop_ids.begin(), info.stop_ids.end());
  }
  return something_left(r.sampling, stop_ids);
}

}  // namespace nemotron
