#include "engine/step_buffer.h"

#include "device/assert.h"

namespace nemotron {

void StepBuffer::build() {
  token_ids_.clear(), token_slots_.clear(), tables_.clear(), score_rows_.clear();
  spans_.clear(), samples_.clear(), late_.clear(), parts.clear();
  input = {};
  size_t table_entries = 0;
  for (const PlannedSpan& span : plan.spans) table_entries += span.seq->prefix.block_table.size();
  tables_.reserve(table_entries);  // spans point into it: a table may change while the step runs

  for (const PlannedSpan& span : plan.spans) {
    const Sequence& seq = *span.seq;
    const int32_t first_row = int32_t(token_ids_.size()), known = int32_t(seq.tokens.size());
    for (int32_t position = span.first; position < span.first + span.rows; ++position) {
      const bool is_known = position < known;
      const bool in_slot = !is_known && span.drafts == 0;  // drawn by the step before
      token_ids_.push_back(is_known  ? seq.tokens[size_t(position)]
                           : in_slot ? 0
                                     : seq.drafts[size_t(position - known)]);
      token_slots_.push_back(in_slot ? seq.slot : -1);
    }
    const size_t table = tables_.size();
    tables_.insert(tables_.end(), seq.prefix.block_table.begin(), seq.prefix.block_table.end());
    spans_.push_back({.first_row = first_row,
                      .rows = span.rows,
                      .first_position = span.first,
                      .generated = span.generated,
                      .block_table = std::span(tables_).subspan(table)});
    if (span.generated) input.num_generated_rows += span.rows;
    add_samples(span, first_row);
  }
  input.token_ids = token_ids_;
  input.token_slots = token_slots_;
  input.spans = spans_;
  input.copies = plan.copies;
  input.samples = samples_;
  input.score_rows = score_rows_;
  output.samples.resize(samples_.size());
}

void StepBuffer::add_samples(const PlannedSpan& span, int32_t first_row) {
  Sequence& seq = *span.seq;
  const Request& request = seq.request->request;
  Part& part = parts.emplace_back();
  part.first_sample = int32_t(samples_.size());
  if (seq.wants_prompt_logprobs && !span.generated) {
    for (int32_t i = 0; i < span.rows && span.first + i + 1 < seq.num_prompt; ++i) {
      SampleInput s;
      s.row = first_row + i;
      s.scored = seq.tokens[size_t(span.first + i + 1)];
      s.num_logprobs = request.sampling.num_prompt_logprobs;
      samples_.push_back(s);
    }
  }
  if (span.draws) {
    const int32_t first_draw = span.rows - 1 - span.drafts;
    for (int32_t i = first_draw; i < span.rows; ++i) {
      const int32_t position = span.first + i + 1, index = position - seq.num_prompt;
      SampleInput s;
      s.row = first_row + i;
      s.slot = span.drafts == 0 ? seq.slot : -1;
      s.position = uint64_t(position);
      // Draws after drafts depend on nothing that is not known: DrawPolicy::draft_limit().
      if (span.drafts == 0 && seq.draw->needs_history(index)) {
        late_.push_back({samples_.size(), &seq, index});
      } else {
        seq.draw->describe(index, &s);
      }
      samples_.push_back(s);
    }
  }
  if (request.kind == RequestKind::score && span.first + span.rows == seq.num_prompt) {
    part.score = int32_t(score_rows_.size());
    score_rows_.push_back(first_row + span.rows - 1);
  }
  part.num_samples = int32_t(samples_.size()) - part.first_sample;
}

void StepBuffer::complete() {
  for (const LateDraw& late : late_) {
    if (late.seq->state == SequenceState::finished) continue;
    NEMOTRON_ASSERT(late.index == late.seq->draw->taken());
    late.seq->draw->describe(late.index, &samples_[late.sample]);
  }
  late_.clear();
}

}  // namespace nemotron
