// Drafter: a small model that guesses what a large one will draw. A guess is what the draft model
// itself draws at that place, with the request's own parameters, masks and noise: two models that
// agree on a distribution agree on the draw. A guess is only ever accepted when it is the very
// token that would have been drawn, so output never depends on it.
//
// The draft model's keys and values lie under the same block ids as the large one's: a sequence has
// one block table, and blocks of a shared prefix are shared by both models. What of a block the
// draft model has computed is its own matter: it catches up on the rest before it guesses.
//
// Engine thread alone. Runs its steps one after another and waits for each: the mask of a guess
// depends on the guess before it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/block_manager.h"
#include "engine/sequence.h"
#include "engine/step_runner.h"

namespace nemotron {

struct DrafterOptions {
  int32_t max_drafts = 0;          // of one sequence in a step
  int32_t max_rows = 0;            // of a step that verifies: the next draws and all guesses
  int32_t max_batched_tokens = 0;  // rows of a step of the draft model
};

class Drafter {
 public:
  // `blocks` and `token_bytes` (of every id that can be drawn) outlive it.
  Drafter(const DrafterOptions& options, std::unique_ptr<StepRunner> runner, BlockManager* blocks,
          std::span<const std::string> token_bytes);
  ~Drafter();

  // Whether the sequence has use for guesses of its next tokens in a batch of so many sequences.
  bool wants(Sequence& seq, size_t batch) const;
  // Appends guesses to the drafts of these sequences, which are of a batch of that size. One that
  // the draft model is far behind gets them some calls later. Not ok: the device is unusable.
  // REQUIRES: each is running, its last token is known and its drafts are empty.
  Status draft(std::span<Sequence* const> sequences, size_t batch);
  // What became of the sequence's guesses.
  void learn(Sequence& seq, int32_t drafted, int32_t accepted) const;

  // See StepRunner.
  bool lost() const { return runner_->lost(); }

  // From any thread.
  std::vector<Decoder::Progress> progress() const { return runner_->progress(); }
  // Of the newest step.
  int32_t rows() const { return rows_; }
  int32_t sequences() const { return sequences_; }

 private:
  struct Work {
    Sequence* seq = nullptr;
    int32_t most = 0;  // guesses
    int32_t at = 0;    // the next position to compute
    int32_t rows = 0;  // of the step
    bool done = false;
    int32_t known() const { return int32_t(seq->tokens.size()); }
    int32_t end() const { return known() + int32_t(seq->drafts.size()); }
  };

  int32_t most(size_t batch) const;
  void begin(Sequence& seq, int32_t most, size_t batch);
  int32_t room(const Sequence& seq, int32_t wanted, size_t batch) const;
  void skip_shared(Work& work) const;
  void has_computed(Sequence& seq, int32_t end);
  bool plan_step();
  void plan_span(Work& work, int32_t* left);
  bool claim(const Work& work, int32_t rows);
  void add_span(Work& work);
  void take_step();
  void take_draw(Work& work, const SampleOutput& sample);

  const DrafterOptions options_;
  const std::unique_ptr<StepRunner> runner_;
  BlockManager* const blocks_;
  const std::span<const std::string> token_bytes_;
  std::vector<uint32_t> computed_;  // by block: its tenancy whose every token has been computed
  std::vector<uint64_t> claimed_;   // by block: the last step that wrote into it
  uint64_t steps_ = 0;
  int32_t catch_up_ = 0;  // rows of this call that remain for tokens of the past

  std::atomic<int32_t> rows_{0}, sequences_{0};

  // A step, with all that its input points to.
  struct Step {
    StepBuffer buffer;
    std::vector<int32_t> token_ids, token_slots, tables;
    std::vector<SpanInput> spans;
    std::vector<SampleInput> samples;
  };

  // Scratch of a call.
  std::vector<Work> works_;
  std::unique_ptr<Step> step_ = std::make_unique<Step>();
  std::vector<Work*> in_step_;  // as its spans
};

}  // namespace nemotron
