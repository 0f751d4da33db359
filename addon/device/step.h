// What one forward pass works on: plain host data that the scheduler made and every device reads.
//
// A step mixes rows of many sequences. A row is one token of one sequence. Rows of a sequence are
// consecutive and form a *span*; spans of generated tokens come first, then spans of prompt tokens
// (the row's kind, never the batch size, picks a CUDA kernel: docs/decisions/0003-equality.md).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nemotron {

inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxReported = 128;  // ids whose logprobs are asked for by name

// Consecutive rows of one sequence. Keys before first_position are of earlier steps: no other span
// of this one computes them.
struct SpanInput {
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t first_position = 0;  // position of first_row; its keys are 0..first_position
  bool generated = false;      // all rows are generated tokens (drafts included)
  // Block ids that cover at least first_position + rows tokens.
  std::span<const int32_t> block_table = {};
};

struct TokenCount {  // a token already in the sequence, for the penalties
  int32_t id = 0;
  int32_t output_count = 0;  // times it was generated (presence and frequency look at these alone)
  bool in_prompt = false;    // repetition_penalty looks at prompt and output
};
struct TokenBias {
  int32_t id = 0;
  float bias = 0;
};

// One row whose logits are wanted: a draw, or just the logprob of a known id.
// Order of operations on the logits (all float32): bias -> penalties -> banned / allowed ->
// temperature -> top-k -> top-p -> min-p -> draw. Logprobs are log_softmax of the raw logits, or of
// what is left when min-p is done (without temperature and filters where the draw is greedy).
struct SampleInput {
  // Known when the step begins.
  int32_t row = 0;    // row of the step
  int32_t slot = -1;  // below max_spans: where the drawn id stays for the next step; -1: nowhere
  // The description: may be filled in while the forward pass runs (see Device::begin_step).
  //
  // At most one of these is >= 0. Then nothing is drawn, and the logprob is that id's.
  int32_t forced = -1;  // the outcome of the draw: goes to the slot like a drawn id
  int32_t scored = -1;  // a token of the prompt; no slot
  int32_t given() const { return forced >= 0 ? forced : scored; }
  int32_t num_logprobs = -1;  // -1: no logprobs; 0..kMaxTopLogprobs: that many of the likeliest ids
  // With num_logprobs >= 0: these ids in place of the likeliest, in this order. Up to kMaxReported.
  std::span<const int32_t> reported = {};
  // Logprobs of what may be drawn: what is filtered out has -infinity, a forced id has 0. Of a
  // scored id they are of the raw logits all the same.
  bool processed = false;
  float temperature = 0;  // 0: greedy (lowest id wins a tie)
  float top_p = 1, min_p = 0;
  int32_t top_k = 0;  // 0: off
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;      // the draw is a function of (seed, position, token id) alone:
  uint64_t position = 0;  // Gumbel noise from Philox, so the same in any batch and on any device
  std::span<const TokenCount> counts = {};
  std::span<const TokenBias> bias = {};
  std::span<const int32_t> banned = {};    // ids that must not be drawn here
  std::span<const uint32_t> allowed = {};  // bit mask over the vocabulary; empty: all allowed
};

// All of one KV block, in every layer, for the tokens that both begin with.
struct BlockCopy {
  int32_t from = 0, to = 0;
};

struct StepInput {
  std::span<const int32_t> token_ids = {};  // [rows]
  // [rows] >= 0: take the id that an earlier step left in that slot.
  std::span<const int32_t> token_slots = {};
  std::span<const SpanInput> spans = {};
  // Done before the rows, in this order. Empty for a device without copies_blocks().
  std::span<const BlockCopy> copies = {};
  std::span<const SampleInput> samples = {};  // in row order
  std::span<const int32_t> score_rows = {};   // rows whose reward scores are wanted
  int32_t num_generated_rows = 0;             // rows [0, num_generated_rows) are generated tokens
  int32_t rows() const { return int32_t(token_ids.size()); }
};

// What came of one SampleInput.
struct SampleOutput {
  int32_t id = -1;
  float score = 0;    // the winner's (scaled logit + Gumbel noise)
  float logprob = 0;  // of id, valid when num_logprobs >= 0
  int32_t rank = 0;   // 1 = the likeliest id; valid when num_logprobs >= 0
  int32_t num_logprobs = 0;
  // The likeliest, descending, ties by lower id; or those of SampleInput::reported in their order.
  int32_t top_ids[kMaxReported];
  float top_logprobs[kMaxReported];
  // false: a NaN was among the logits or every id is banned. The id means nothing, but the slot
  // holds some valid id all the same: the step after may already be on its way, and is dropped.
  bool finite = true;
};

struct StepOutput {
  std::vector<SampleOutput> samples;  // as StepInput::samples
  std::vector<float> scores;          // [score_rows, scores per row]
};

}  // namespace nemotron
