#include "engine/drafter.h"

#include <algorithm>

#include "device/assert.h"

namespace nemotron {
namespace {

// Tokens without guesses after none of them was right for a while.
constexpr int32_t kRest = 16;

}  // namespace

Drafter::Drafter(const DrafterOptions& options, std::unique_ptr<StepRunner> runner,
                 BlockManager* blocks, std::span<const std::string> token_bytes)
    : options_(options),
      runner_(std::move(runner)),
      blocks_(blocks),
      token_bytes_(token_bytes),
      computed_(size_t(blocks->num_blocks())),
      claimed_(size_t(blocks->num_blocks())) {}

Drafter::~Drafter() {
  // A rank that hangs may come back to its step.
  if (runner_->lost()) static_cast<void>(step_.release());
}

// --- how many ---

// A full batch keeps the device busy without guesses.
int32_t Drafter::most(size_t batch) const {
  const int64_t each = options_.max_rows / int64_t(std::max<size_t>(batch, 1)) - 1;
  return int32_t(std::clamp<int64_t>(each, 0, options_.max_drafts));
}

bool Drafter::wants(Sequence& seq, size_t batch) const {
  if (!seq.draw || !seq.draw->may_draft() || most(batch) == 0) return false;
  if (seq.drafting.length > 0) return true;
  if (int32_t(seq.tokens.size()) < seq.drafting.rests_until) return false;
  seq.drafting.length = seq.drafting.rests_until == 0 ? options_.max_drafts : 1;
  return true;
}

void Drafter::learn(Sequence& seq, int32_t drafted, int32_t accepted) const {
  int32_t& length = seq.drafting.length;
  if (accepted == drafted) {
    length = std::min(length + 2, options_.max_drafts);
  } else {
    length = accepted > 0 ? std::min(length, accepted + 1) : length / 2;
  }
  if (length == 0) seq.drafting.rests_until = int32_t(seq.tokens.size()) + kRest;
}

// How many of the guesses find a place in blocks that nobody else will soon need.
int32_t Drafter::room(const Sequence& seq, int32_t wanted, size_t batch) const {
  const int32_t known = int32_t(seq.tokens.size());
  const int32_t held = int32_t(seq.prefix.block_table.size());
  const int32_t fresh = blocks_->blocks_for(known + wanted) - held;
  if (fresh <= blocks_->num_free() - int32_t(batch)) return wanted;
  return std::min(wanted, held * blocks_->block_size() - known);
}

// --- a call ---

Status Drafter::draft(std::span<Sequence* const> sequences, size_t batch) {
  works_.clear();
  catch_up_ = options_.max_batched_tokens;
  for (Sequence* seq : sequences) begin(*seq, most(batch), batch);
  while (plan_step()) {
    runner_->launch(&step_->buffer);
    if (Status s = runner_->wait(); !s) return s;
    take_step();
  }
  for (const Work& work : works_) {
    Sequence& seq = *work.seq;
    const int32_t fed = std::max(work.at - work.known(), 0);
    seq.drafting.fed.assign(seq.drafts.begin(), seq.drafts.begin() + fed);
  }
  return {};
}

void Drafter::begin(Sequence& seq, int32_t most, size_t batch) {
  NEMOTRON_ASSERT(seq.state == SequenceState::running && seq.pending == 0 && seq.drafts.empty());
  Sequence::Drafting& drafting = seq.drafting;
  const int32_t known = int32_t(seq.tokens.size());
  int32_t end = drafting.computed;
  for (const int32_t id : std::exchange(drafting.fed, {})) {
    if (end >= known || seq.tokens[size_t(end)] != id) break;
    ++end;
  }
  has_computed(seq, end);
  most = room(seq, std::min({drafting.length, most, seq.compute_end - known}), batch);
  if (most <= 0 || !blocks_->grow(seq, known + most) || !seq.draw->begin_drafts()) return;
  works_.push_back({.seq = &seq, .most = most, .at = std::min(drafting.computed, known - 1)});
}

// The sequence's known tokens before `end` are in the draft model's cache.
void Drafter::has_computed(Sequence& seq, int32_t end) {
  const int32_t size = blocks_->block_size();
  for (int32_t i = seq.drafting.computed / size; i < end / size; ++i) {
    const int32_t id = seq.prefix.block_table[size_t(i)];
    computed_[size_t(id)] = blocks_->tenancy(id);
  }
  seq.drafting.computed = end;
}

// Blocks that others have computed need not be computed again.
void Drafter::skip_shared(Work& work) const {
  const int32_t size = blocks_->block_size();
  Sequence& seq = *work.seq;
  while (work.at % size == 0 && work.at + size < work.known()) {
    const int32_t id = seq.prefix.block_table[size_t(work.at / size)];
    if (computed_[size_t(id)] != blocks_->tenancy(id)) return;
    seq.drafting.computed = work.at += size;
  }
}

// --- a step ---

// False: nothing is left to do.
bool Drafter::plan_step() {
  Step& step = *step_;
  step.token_ids.clear(), step.token_slots.clear(), step.tables.clear();
  step.spans.clear(), step.samples.clear(), in_step_.clear();
  ++steps_;
  int32_t left = options_.max_batched_tokens;
  size_t entries = 0;
  for (Work& work : works_) {
    plan_span(work, &left);
    if (work.rows > 0) entries += work.seq->prefix.block_table.size();
  }
  step.tables.reserve(entries);  // spans point into it
  StepInput& input = step.buffer.input;
  input = {};
  for (const bool generated : {true, false}) {
    for (Work& work : works_) {
      if (work.rows > 0 && (work.at >= work.seq->num_prompt) == generated) add_span(work);
    }
    if (generated) input.num_generated_rows = int32_t(step.token_ids.size());
  }
  input.token_ids = step.token_ids;
  input.token_slots = step.token_slots;
  input.spans = step.spans;
  input.samples = step.samples;
  step.buffer.output.samples.resize(step.samples.size());
  rows_ = input.rows();
  sequences_ = int32_t(step.spans.size());
  return !step.spans.empty();
}

// Sets work.rows.
void Drafter::plan_span(Work& work, int32_t* left) {
  work.rows = 0;
  if (work.done || *left == 0) return;
  skip_shared(work);
  // A span is of one kind, so a chunk ends where the prompt ends.
  const int32_t prompt = work.seq->num_prompt;
  const int32_t end = work.at < prompt ? std::min(prompt, work.end()) : work.end();
  const int32_t gap = end - work.at;
  const int32_t rows = gap == 1 ? 1 : std::min({gap, *left, catch_up_});
  if (rows == 0) work.done = true;
  if (rows == 0 || !claim(work, rows)) return;
  work.rows = rows;
  *left -= rows;
  if (gap > 1) catch_up_ -= rows;
}

// Two sequences that share a prefix do not write the same keys in one step. False: another one does
// in this step.
bool Drafter::claim(const Work& work, int32_t rows) {
  const int32_t size = blocks_->block_size();
  const auto table = std::span(work.seq->prefix.block_table);
  const auto written = table.subspan(size_t(work.at / size),
                                     size_t((work.at + rows - 1) / size - work.at / size + 1));
  const auto is_claimed = [this](int32_t id) { return claimed_[size_t(id)] == steps_; };
  if (std::ranges::any_of(written, is_claimed)) return false;
  for (const int32_t id : written) claimed_[size_t(id)] = steps_;
  return true;
}

void Drafter::add_span(Work& work) {
  Sequence& seq = *work.seq;
  Step& step = *step_;
  const int32_t first_row = int32_t(step.token_ids.size()), known = work.known();
  for (int32_t position = work.at; position < work.at + work.rows; ++position) {
    step.token_ids.push_back(position < known ? seq.tokens[size_t(position)]
                                              : seq.drafts[size_t(position - known)]);
    step.token_slots.push_back(-1);
  }
  const auto& blocks = seq.prefix.block_table;
  const size_t table = step.tables.size();
  step.tables.insert(step.tables.end(), blocks.begin(), blocks.end());
  step.spans.push_back({.first_row = first_row,
                        .rows = work.rows,
                        .first_position = work.at,
                        .generated = work.at >= seq.num_prompt,
                        .block_table = std::span(step.tables).subspan(table)});
  in_step_.push_back(&work);
  if (work.at + work.rows < work.end()) return;
  SampleInput sample;
  sample.row = first_row + work.rows - 1;
  sample.position = uint64_t(work.end());
  seq.draw->describe(work.end() - seq.num_prompt, &sample);
  sample.num_logprobs = -1;  // nobody reads them
  step.samples.push_back(sample);
}

void Drafter::take_step() {
  size_t drawn = 0;
  for (Work* work : in_step_) {
    work->at += work->rows;
    Sequence& seq = *work->seq;
    const int32_t computed = std::min(work->at, work->known());
    if (computed > seq.drafting.computed) has_computed(seq, computed);
    if (work->at == work->end()) take_draw(*work, step_->buffer.output.samples[drawn++]);
  }
}

// A guess that ends the text is of no use: nothing comes after it.
void Drafter::take_draw(Work& work, const SampleOutput& sample) {
  Sequence& seq = *work.seq;
  const int32_t id = sample.id;
  work.done = true;
  if (!sample.finite || id < 0 || size_t(id) >= token_bytes_.size()) return;
  if (std::ranges::binary_search(seq.request->rules.stop_ids, id)) return;
  if (!seq.draw->add_draft(id, token_bytes_[size_t(id)])) return;
  seq.drafts.push_back(id);
  work.done = int32_t(seq.drafts.size()) == work.most;
}

}  // namespace nemotron
