// A device without arithmetic. Its KV cache holds each token's id and a hash of all tokens up to
// there. A span fails the test when the cells before it are not one unbroken chain. It therefore
// detects blocks that are shared wrongly, reused too early or computed out of order. Each draw is a
// function of the hash and of SampleInput, so wrong tokens change the output.
#pragma once

#include <chrono>
#include <deque>
#include <set>
#include <thread>
#include <vector>

#include "../check.h"
#include "engine/step_runner.h"

namespace nemotron::test {

class ScriptedDevice {
 public:
  ScriptedDevice(int32_t num_blocks, int32_t block_size, int32_t vocab)
      : block_size_(block_size), vocab_(vocab), cells_(size_t(num_blocks) * size_t(block_size)) {}

  static uint64_t extend(uint64_t hash, int32_t id) {
    const uint64_t h = (hash ^ uint64_t(uint32_t(id))) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
  }
  static constexpr uint64_t kStart = 0x1234567;

  // The draw after tokens with this hash; -1: nothing may be drawn.
  static int32_t draw(uint64_t hash, const SampleInput& s, int32_t vocab) {
    if (s.given() >= 0) return s.given();
    uint64_t h = extend(extend(hash, int32_t(s.seed)), int32_t(s.position));
    for (const TokenCount& c : s.counts) {
      h += extend(uint64_t(c.id), c.output_count * 2 + c.in_prompt);  // in any order
    }
    const std::set<int32_t> banned(s.banned.begin(), s.banned.end());
    for (int32_t i = 0; i < vocab; ++i) {
      const auto id = int32_t((h + uint64_t(i)) % uint64_t(vocab));
      const bool allowed = s.allowed.empty() || (s.allowed[size_t(id) / 32] >> (id % 32) & 1);
      if (allowed && !banned.contains(id)) return id;
    }
    return -1;
  }

  void run(const StepInput& in, StepOutput* out) {
    for (const BlockCopy& copy : in.copies) {
      const auto from = cells_.begin() + int64_t(copy.from) * block_size_;
      std::copy(from, from + block_size_, cells_.begin() + int64_t(copy.to) * block_size_);
    }
    std::vector<uint64_t> after(in.token_ids.size());  // hash up to and with the row
    int32_t next_row = 0, generated = 0;
    bool prompts = false;
    for (const SpanInput& span : in.spans) {
      EXPECT_EQ(span.first_row, next_row);
      EXPECT(!(prompts && span.generated));
      prompts = !span.generated;
      generated += span.generated ? span.rows : 0;
      next_row += span.rows;
      REQUIRE(int64_t(span.block_table.size()) * block_size_ >= span.first_position + span.rows);
      const auto cell = [&](int32_t position) -> Cell& {
        const int32_t block = span.block_table[size_t(position / block_size_)];
        return cells_[size_t(block) * size_t(block_size_) + size_t(position % block_size_)];
      };
      uint64_t hash = kStart;
      for (int32_t position = 0; position < span.first_position; ++position) {
        const Cell& c = cell(position);
        hash = extend(hash, c.id);
        REQUIRE_EQ(hash, c.hash);
      }
      for (int32_t i = 0; i < span.rows; ++i) {
        const size_t row = size_t(span.first_row + i);
        const int32_t slot = in.token_slots[row];
        REQUIRE(slot < int32_t(slots_.size()));
        const int32_t id = slot >= 0 ? slots_[size_t(slot)] : in.token_ids[row];
        after[row] = hash = extend(hash, id);
        cell(span.first_position + i) = {hash, id};
      }
    }
    EXPECT_EQ(next_row, in.rows());
    EXPECT_EQ(generated, in.num_generated_rows);
    out->samples.clear();
    int32_t last_row = -1;
    for (const SampleInput& s : in.samples) {
      EXPECT_GT(s.row, last_row);
      last_row = s.row;
      SampleOutput o;
      const uint64_t hash = after[size_t(s.row)];
      o.id = draw(hash, s, vocab_);
      o.finite = o.id >= 0;
      o.logprob = -float(hash % 1000) / 100;
      o.rank = int32_t(hash % 50) + 1;
      for (const int32_t id : s.reported) {
        o.top_ids[o.num_logprobs] = id;
        o.top_logprobs[o.num_logprobs++] = -float((hash ^ uint64_t(id)) % 97);
      }
      for (; o.num_logprobs < s.num_logprobs; ++o.num_logprobs) {
        o.top_ids[o.num_logprobs] = int32_t((hash >> 8) % 97) + o.num_logprobs;
        o.top_logprobs[o.num_logprobs] = -float(o.num_logprobs);
      }
      if (s.slot >= 0) {
        if (size_t(s.slot) >= slots_.size()) slots_.resize(size_t(s.slot) + 1);
        slots_[size_t(s.slot)] = std::max(o.id, 0);
      }
      out->samples.push_back(o);
    }
    out->scores.clear();
    for (const int32_t row : in.score_rows)
      out->scores.push_back(float(after[size_t(row)] % 1000) / 10);
  }

 private:
  const int32_t block_size_, vocab_;
  struct Cell {
    uint64_t hash = 0;
    int32_t id = 0;
  };
  std::vector<Cell> cells_;  // [num_blocks, block_size]
  std::vector<int32_t> slots_;
};

// Runs a ScriptedDevice when waited for. `gate`, when set, is asked before each step: it may block,
// and what it returns is the step's status. `spoil` may change what comes out.
class ScriptedRunner final : public StepRunner {
 public:
  ScriptedRunner(int32_t num_blocks, int32_t block_size, int32_t vocab)
      : device_(num_blocks, block_size, vocab) {}
  void launch(StepBuffer* buffer) override {
    if (on_launch) on_launch(*buffer);
    for (const PlannedSpan& span : buffer->plan.spans) EXPECT(span.generated || span.drafts == 0);
    for (const StepBuffer* earlier : launched_) EXPECT(!earlier->is_late());
    launched_.push_back(buffer);
    EXPECT_LE(launched_.size(), size_t(kMaxInFlight));
  }
  void completed(StepBuffer* buffer) override {
    EXPECT_EQ(launched_.front(), buffer);  // everything before it has been waited for
    EXPECT(!buffer->is_late());
  }
  Status wait() override {
    EXPECT(!launched_.front()->is_late());
    StepBuffer& step = *launched_.front();
    launched_.pop_front();
    if (gate) {
      if (Status s = gate(); !s) return s;
    }
    device_.run(step.input, &step.output);
    if (spoil) spoil(step);
    return {};
  }
  Status reload(const std::string& folder, Status* refused) override {
    EXPECT(launched_.empty());
    return on_reload ? on_reload(folder, refused) : Status();
  }
  std::function<Status(const std::string&, Status*)> on_reload;
  std::vector<Decoder::Progress> progress() const override {
    return progress_of_ranks ? progress_of_ranks() : std::vector<Decoder::Progress>();
  }
  std::function<std::vector<Decoder::Progress>()> progress_of_ranks;
  std::function<Status()> gate;
  std::function<void(StepBuffer&)> spoil;
  std::function<void(const StepBuffer&)> on_launch;

 private:
  ScriptedDevice device_;
  std::deque<StepBuffer*> launched_;
};

}  // namespace nemotron::test
