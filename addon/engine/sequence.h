// Sequence: one stream of tokens, and RequestState: the request that it is a choice of. Plain
// records of the engine thread; the runner reads them while it builds a step, on the same thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/draw_policy.h"
#include "engine/output_text.h"
#include "engine/request.h"

namespace nemotron {

inline double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct RequestState;

enum class SequenceState : uint8_t { waiting, running, finished };

struct Sequence {
  RequestState* request = nullptr;
  int32_t choice = 0;
  std::vector<int32_t> tokens;  // [0, num_prompt) is the prompt
  int32_t num_prompt = 0;
  bool draws = true;                   // false: the prompt is computed and nothing is drawn
  bool wants_prompt_logprobs = false;  // of choice 0, until the prompt has been computed
  bool looks_up = false;               // guesses that its text repeats itself
  bool guesses = false;                // its next step may have drafts: it is not planned before
                                       // the last draw is known
  std::vector<int32_t> drafts;         // guesses of the tokens after the last known one
  DraftSource source = DraftSource::grammar;  // of these

  // --- of the Scheduler ---
  // Order: background last, lower priority value first, then arrival, then choice.
  bool background = false;
  int32_t priority = 0;
  uint64_t arrival = 0;
  bool goes_on = false;  // is not held back
  SequenceState state = SequenceState::waiting;
  const Sequence* after = nullptr;  // is not admitted before that one has computed its prompt
  // A drawn token is pending until the host knows its id; until then it is in the device's slot.
  int32_t pending = 0;       // tokens that steps in flight draw
  int32_t num_computed = 0;  // positions whose K and V are in the cache once all launched steps ran
  int32_t compute_end = 0;   // positions from here on are never computed (length limit)
  int32_t slot = -1;         // while running: unique among running sequences, below max_seqs
  int32_t preemptions = 0, drafted = 0;
  bool admitted = false;  // once; these two are of that moment
  int32_t cached_tokens = 0;
  CacheMiss miss;

  // --- of the BlockManager ---
  struct Prefix {
    bool may_match = true;  // may use cached blocks
    uint64_t root = 0;      // identity of the chain's root: chain_root()
    std::vector<int32_t> block_table;
    std::vector<uint64_t> hashes;  // of the full blocks of known tokens
    uint64_t chain = 0;            // serial of the last published block's content
    int32_t published = 0;         // blocks offered to the cache or taken from it
    int32_t promised_end = 0;      // blocks [published, promised_end) are promised
    uint64_t waits_for = 0;        // hash of a promised block that this waiting sequence wants
  };
  Prefix prefix;

  // --- of the Drafter ---
  struct Drafting {
    int32_t length = 0;        // guesses that it asks for
    int32_t rests_until = 0;   // tokens; where the length has come down to 0
    int32_t computed = 0;      // positions whose K and V the draft model has, of known tokens
    std::vector<int32_t> fed;  // guesses of the positions from there on that it has computed
  };
  Drafting drafting;

  // Where it draws.
  std::optional<DrawPolicy> draw;

  // --- of the EngineLoop ---
  struct Delivery {
    OutputText text;
    double first_scheduled = 0, first_token = 0;
    int32_t accepted = 0;  // drafts
    int32_t delta = -1;    // index of its undelivered delta
  };
  Delivery delivery;

  int32_t total() const { return int32_t(tokens.size()) + pending; }
  // Rows to compute before the next draw (or, without draws, before the end).
  int32_t gap() const { return std::min(total(), compute_end) - num_computed; }
  int32_t generated() const { return int32_t(tokens.size()) - num_prompt; }
};

// A request and its choices; lives until every choice has finished and left the steps in flight.
struct RequestState {
  Request request;
  double submitted = 0;
  bool queued = true;     // counts as waiting until its first choice is scheduled
  int32_t live = 0;       // choices that have not finished
  int32_t in_flight = 0;  // spans of launched steps
  std::vector<std::unique_ptr<Sequence>> choices;
  DrawRules rules;
  std::vector<TokenLogprob> prompt_logprobs;  // filled in by choice 0's prefill, until it is told
};

}  // namespace nemotron
