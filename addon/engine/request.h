// What goes into the engine and what comes out: plain data, no pointers into the engine.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/status.h"
#include "device/step.h"
#include "engine/output_text.h"

namespace nemotron {

class Grammar;

struct SamplingParams {
  int32_t max_tokens = 16;  // of output, for each choice; 0: only prompt logprobs
  int32_t min_tokens = 0;   // no stop id may be drawn and no stop string ends it before that many
  float temperature = 1, top_p = 1, min_p = 0;
  int32_t top_k = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;  // the caller draws one when the user gave none; choice i uses mix(seed, i)
  bool ignore_eos = false;
  int32_t num_logprobs = -1;  // -1: none; k: that many likeliest ids beside the drawn one
  // With num_logprobs = 0: these ids beside the drawn one. Up to kMaxReported.
  std::vector<int32_t> logprob_ids;
  bool processed_logprobs = false;  // see SampleInput::processed; the prompt's are raw
  // The same for the prompt's tokens (turns the prefix cache off).
  int32_t num_prompt_logprobs = -1;
  std::vector<int32_t> stop_token_ids;  // beside the model's eos ids
  std::vector<std::string> stop;        // matched on bytes of the output text
  bool include_stop = false;            // keep the matched stop string in the text
  StopScope stop_scope = StopScope::all;
  bool skip_special_tokens = true;  // special tokens give no text
  std::vector<TokenBias> logit_bias;
  std::vector<std::vector<int32_t>> bad_words;  // token sequences that must not appear
  std::vector<int32_t> allowed_ids;             // empty: all
  // What the answer has to be (constraint.h says where it begins); null: anything. Stop ids
  // may come where its text may end, and do where nothing else may, whatever min_tokens says.
  std::shared_ptr<const Grammar> grammar;
  std::vector<std::string> grammar_after;  // the triggers; empty: the grammar's text from the start
  // After this many tokens inside a block that `think_begin` opens and `think_end` closes,
  // `think_close` is forced, token by token. Outside a block nothing happens. -1: no budget.
  int32_t thinking_budget = -1;
  // With a budget or a grammar. Empty tags: the answer has no such blocks.
  bool think_open = false;  // the prompt ends inside a block
  std::string think_begin;
  std::vector<int32_t> think_close;
  std::string think_end;
  int32_t lookup_tokens = 0;  // speculation by prompt lookup: drafts a step; 0: off
};

enum class RequestKind : uint8_t { generate, score };

struct Request {
  uint64_t id = 0;  // chosen by the caller, unique among live requests
  RequestKind kind = RequestKind::generate;
  std::vector<int32_t> prompt;
  int32_t n = 1;         // choices; each is a sequence of its own on the shared prompt
  int32_t priority = 0;  // lower runs first (vLLM's sense)
  // Belongs to work that has been admitted already (one more prompt of it, its judge's part): is
  // not refused for a full queue.
  bool admitted = false;
  // Belongs to work that was there before the pause that is on: Pause::later does not hold it.
  bool goes_on = false;
  // Nobody waits for it: it gives way to all others, whatever their priority, and takes none of the
  // queue's places. Who submits such requests bounds their number.
  bool background = false;
  std::string cache_salt;  // requests share cached blocks only with the same salt
  SamplingParams sampling;
};

// Whose guesses go into a step: text that a grammar leaves no choice about, prompt lookup, the
// draft model.
enum class DraftSource : uint8_t { grammar, lookup, model };

enum class Finish : uint8_t { none, stop, length, abort, error };

struct TokenLogprob {
  int32_t id = -1;
  float logprob = 0;
  int32_t rank = 0;
  std::vector<std::pair<int32_t, float>> top;  // descending, or in the order of logprob_ids
};

struct Timings {  // seconds
  double queue = 0, prefill = 0, decode = 0;
  int32_t cached_tokens = 0, preemptions = 0;
  int32_t drafted_tokens = 0, accepted_tokens = 0;
};

// Why the prefix cache did not serve more of a prompt: the first block that missed.
struct CacheMiss {
  enum class Reason : uint8_t { none, never_seen, evicted, last_token } reason = Reason::none;
  // never_seen: the first token that differs from everything cached after the same beginning; else
  // the first prompt token that had to be computed.
  int32_t position = 0;
};

// News of one choice since the last delta. Text is whole UTF-8 and never shows a held-back stop
// string. At most one delta a choice a step.
struct Delta {
  uint64_t request = 0;
  int32_t choice = 0;
  std::string text;
  std::vector<int32_t> ids;
  std::vector<TokenLogprob> logprobs;  // one per id, when asked
  // In the first delta of all choices; [0] has id and no logprob.
  std::vector<TokenLogprob> prompt_logprobs;
  std::vector<float> scores;  // kind score: the head's raw outputs
  Finish finish = Finish::none;
  int32_t stop_id = -1;     // the stop token, when one ended it
  int32_t stop_index = -1;  // which stop string, when one ended it
  Timings timings;          // valid when finish != none
  CacheMiss miss;           // valid when finish != none
  Status error;             // finish == error
};

}  // namespace nemotron
