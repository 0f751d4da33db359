// StepBuffer: one step on its way: its plan, what the device reads, what comes out. Reused; its
// vectors keep their memory.
//
// A step may be launched while the one before it runs. Then the tokens that that one draws are not
// known yet, and a draw that depends on them (DrawPolicy::needs_history) cannot be described. Such
// a draw is late: build() leaves its SampleInput without a description, the step is launched all
// the same, and complete() describes it when the steps before have been committed. The device reads
// descriptions only when it samples, which is after the forward pass.
//
// Engine thread, but for what a device reads between launch and wait.
#pragma once

#include <vector>

#include "device/step.h"
#include "engine/scheduler.h"

namespace nemotron {

struct StepBuffer {
  StepPlan plan;
  StepInput input;
  StepOutput output;

  // What of `output` is of the span with the same index.
  struct Part {
    int32_t first_sample = 0, num_samples = 0;
    int32_t score = -1;  // index among score_rows; -1: none
  };
  std::vector<Part> parts;

  // Fills in `input` and `parts` from `plan`.
  void build();
  // Some draws are late: complete() has to be called before the device samples.
  bool is_late() const { return !late_.empty(); }
  // Describes the late draws. Those of sequences that have finished since are left as they are:
  // nobody reads what comes of them.
  // REQUIRES: every step launched before this one has been committed.
  void complete();

 private:
  struct LateDraw {
    size_t sample;
    Sequence* seq;
    int32_t index;  // of the draw
  };
  void add_samples(const PlannedSpan& span, int32_t first_row);

  std::vector<int32_t> token_ids_, token_slots_, tables_, score_rows_;
  std::vector<SpanInput> spans_;
  std::vector<SampleInput> samples_;
  std::vector<LateDraw> late_;
};

}  // namespace nemotron
