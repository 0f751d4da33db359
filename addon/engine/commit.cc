// EngineLoop: what a committed step means for its sequences: tokens, text, logprobs, ends.
#include <algorithm>
#include <utility>

#include "device/assert.h"
#include "engine/engine_loop.h"
#include "engine/prompt_lookup.h"

namespace nemotron {
namespace {

TokenLogprob token_logprob(int32_t id, const SampleOutput& sample) {
  TokenLogprob t{.id = id, .logprob = sample.logprob, .rank = sample.rank, .top = {}};
  t.top.reserve(size_t(sample.num_logprobs));
  for (int32_t i = 0; i < sample.num_logprobs; ++i) {
    t.top.emplace_back(sample.top_ids[i], sample.top_logprobs[i]);
  }
  return t;
}

// Whether the next draw may give an id below `tokens`.
bool leaves_any(DrawPolicy& draw, int32_t tokens) {
  SampleInput next;
  draw.describe(draw.taken(), &next);
  if (next.given() >= 0) return true;
  std::vector<bool> banned(size_t(tokens), false);
  for (const int32_t id : next.banned) {
    if (id < tokens) banned[size_t(id)] = true;
  }
  for (int32_t id = 0; id < tokens; ++id) {
    const bool allowed = next.allowed.empty() || (next.allowed[size_t(id) / 32] >> (id % 32) & 1);
    if (allowed && !banned[size_t(id)]) return true;
  }
  return false;
}

// `tokens`: ids that have bytes.
Status nothing_to_draw(Sequence& seq, int32_t tokens) {
  if (seq.draw && seq.draw->is_lost()) return too_ambiguous();
  if (!seq.draw || leaves_any(*seq.draw, tokens)) {
    return Status::internal("nothing could be drawn: the model's logits are not numbers");
  }
  if (seq.request->rules.constraint) {
    return Status::invalid("grammar: none of the tokens that may be drawn goes on with the text");
  }
  return Status::invalid("bad_words: every token that may be drawn would end one of them");
}

}  // namespace

void EngineLoop::take(const PlannedSpan& span, const StepBuffer::Part& part, const StepBuffer& step,
                      double now) {
  Sequence& seq = *span.seq;
  RequestState& request = *seq.request;
  const auto samples =
      std::span(step.output.samples).subspan(size_t(part.first_sample), size_t(part.num_samples));
  if (!std::ranges::all_of(samples.first(samples.size() - size_t(span.drafts)),
                           &SampleOutput::finite)) {
    return end_request(request, Finish::error, nothing_to_draw(seq, num_tokens_));
  }
  if (seq.wants_prompt_logprobs && !span.generated) take_prompt_logprobs(span, samples);
  if (span.draws) return take_draws(span, samples.last(size_t(span.drafts) + 1), now);
  if (seq.draws || span.first + span.rows < seq.num_prompt) return;

  // Nothing is drawn: the prompt was all.
  if (part.score < 0) {
    delta_for(seq).prompt_logprobs = std::exchange(request.prompt_logprobs, {});
    return finish(seq, Finish::length, now);
  }
  const size_t width = step.output.scores.size() / step.input.score_rows.size();
  const auto scores = std::span(step.output.scores).subspan(size_t(part.score) * width, width);
  if (!std::ranges::all_of(scores, [](float s) { return s == s; })) {
    return end_request(request, Finish::error,
                       Status::internal("the model's scores are not numbers"));
  }
  delta_for(seq).scores.assign(scores.begin(), scores.end());
  finish(seq, Finish::stop, now);
}

void EngineLoop::take_prompt_logprobs(const PlannedSpan& span,
                                      std::span<const SampleOutput> samples) {
  Sequence& seq = *span.seq;
  std::vector<TokenLogprob>& all = seq.request->prompt_logprobs;
  if (all.empty()) {
    all.resize(size_t(seq.num_prompt));
    all[0].id = seq.tokens[0];  // nothing precedes it, so it has no logprob
  }
  const int32_t end = std::min(span.first + span.rows, seq.num_prompt - 1);
  for (int32_t position = span.first; position < end; ++position) {
    const int32_t id = seq.tokens[size_t(position) + 1];
    all[size_t(position) + 1] = token_logprob(id, samples[size_t(position - span.first)]);
  }
  if (span.first + span.rows < seq.num_prompt) return;
  seq.wants_prompt_logprobs = false;
  seq.prefix.may_match = true;  // should it be computed again
}

void EngineLoop::take_draws(const PlannedSpan& span, std::span<const SampleOutput> samples,
                            double now) {
  Sequence& seq = *span.seq;
  --seq.pending;
  EngineStats::Drafts& drafts = counters_.drafts[size_t(seq.source)];
  drafts.drafted += span.drafts;
  int32_t accepted = 0;
  for (int32_t i = 0; i <= span.drafts; ++i) {
    // A draw behind a guess came to nothing: it is done again as the next draw, which counts.
    if (i > 0 && !samples[size_t(i)].finite) break;
    // The rows of rejected drafts hold nothing: they are computed again.
    if (span.drafts > 0) seq.num_computed = span.first + span.rows - span.drafts + i;
    const SampleOutput& sample = samples[size_t(i)];
    const int32_t id = sample.id;
    if (id < 0 || id >= num_tokens_) {
      return end_request(*seq.request, Finish::error, nothing_to_draw(seq, num_tokens_));
    }
    const bool guessed = i < span.drafts && id == seq.drafts[size_t(i)];
    seq.delivery.accepted += guessed;
    drafts.accepted += guessed;
    accepted += guessed;
    if (take_token(seq, id, sample, now)) return;
    if (seq.draw->is_lost()) return end_request(*seq.request, Finish::error, too_ambiguous());
    if (!guessed) break;
  }
  if (span.drafts > 0 && seq.source == DraftSource::model) {
    drafter_->learn(seq, span.drafts, accepted);
  }
  propose(seq);
}

// Guesses of what comes next: text that a grammar leaves no choice about, else what followed the
// same tokens before, else what the draft model says, which draft() asks later. For forced text a
// sequence gives up running ahead only where it saves steps.
void EngineLoop::propose(Sequence& seq) {
  constexpr int32_t kMostForced = 16, kLeastForced = 2;
  const SamplingParams& params = seq.request->request.sampling;
  const int32_t left = seq.compute_end - int32_t(seq.tokens.size());
  seq.draw->propose_forced(size_t(std::clamp(left, 0, kMostForced)), &seq.drafts);
  // A draw on its way takes the first of them.
  const bool jumps = int32_t(seq.drafts.size()) >= kLeastForced + seq.pending;
  if (!jumps) seq.drafts.clear();
  seq.source = jumps ? DraftSource::grammar : DraftSource::lookup;
  if (!jumps && seq.looks_up) {
    propose_drafts(seq.tokens, std::min(params.lookup_tokens, left), &seq.drafts);
  }
  const bool asks = drafter_ && left > 0 && drafter_->wants(seq, scheduler_.running().size());
  seq.guesses = jumps || seq.looks_up || asks;
  // Guesses follow the last token, so they wait until it is known.
  if (seq.pending > 0) seq.drafts.clear();
  seq.drafts.resize(size_t(seq.draw->draft_limit(seq.drafts, options_.token_bytes)));
}

// True: that was the sequence's last token.
bool EngineLoop::take_token(Sequence& seq, int32_t id, const SampleOutput& sample, double now) {
  RequestState& request = *seq.request;
  const SamplingParams& params = request.request.sampling;
  Delta& delta = delta_for(seq);
  if (seq.generated() == 0) {
    seq.delivery.first_token = now;
    // The choice that computes the prompt comes before the others, also in a step.
    NEMOTRON_ASSERT(!request.choices.front()->wants_prompt_logprobs);
    delta.prompt_logprobs = std::exchange(request.prompt_logprobs, {});
  }
  seq.tokens.push_back(id);
  ++counters_.generated_tokens;
  delta.ids.push_back(id);
  if (params.num_logprobs >= 0) delta.logprobs.push_back(token_logprob(id, sample));
  const std::string& bytes = options_.token_bytes[size_t(id)];
  seq.draw->take(id, bytes);

  const DrawRules& rules = request.rules;
  const bool waits = std::ranges::find(rules.answer_stop_ids, id) != rules.answer_stop_ids.end() &&
                     !seq.delivery.text.is_answer(bytes);
  const bool is_stop = !waits && std::ranges::binary_search(rules.stop_ids, id);
  const bool special =
      size_t(id) < options_.token_special.size() && options_.token_special[size_t(id)];
  const bool shown = !(special && params.skip_special_tokens) && (!is_stop || params.include_stop);
  const bool may_stop = seq.generated() >= params.min_tokens;
  const int32_t stop = shown ? seq.delivery.text.push(bytes, may_stop, &delta.text) : -1;
  const bool is_over = seq.draw->is_over();
  if (is_stop) {
    delta.stop_id = id;
  } else if (stop >= 0) {
    delta.stop_index = stop;
  } else if (!is_over && int32_t(seq.tokens.size()) <= seq.compute_end) {
    return false;
  }
  finish(seq, is_stop || stop >= 0 || is_over ? Finish::stop : Finish::length, now);
  return true;
}

}  // namespace nemotron
