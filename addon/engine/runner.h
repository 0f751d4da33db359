// Runner: carries a plan to the device. StepBuffer turns a StepPlan into the StepInput that every
// device reads; StepRunner runs it; RankRunner is the StepRunner with a device.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "device/device.h"
#include "engine/scheduler.h"
#include "models/decoder.h"

namespace nemotron {

// One step: its plan, what the device reads, what comes out. Reused; its vectors keep their memory.
struct StepBuffer {
  StepPlan plan;
  StepInput input;
  StepOutput output;

  // Fills in `input` from `plan`.
  void build();

 private:
  void add_samples(PlannedSpan& span, int32_t first_row);

  struct Range {
    size_t index, begin, size;
  };
  std::vector<int32_t> token_ids_, token_slots_, tables_, banned_, score_rows_;
  std::vector<SpanInput> spans_;
  std::vector<SampleInput> samples_;
  std::vector<Range> banned_ranges_;  // parts of banned_, by sample
};

// Runs steps in launch order. One thread launches and waits.
class StepRunner {
 public:
  static constexpr int kMaxInFlight = kMaxStepsInFlight;
  virtual ~StepRunner() = default;
  // `buffer` is left alone until wait() has returned for it.
  virtual void launch(StepBuffer* buffer) = 0;
  // For the oldest launched step. Not ok: the device is unusable.
  virtual Status wait() = 0;
};

// What a rank thread owns; made, used and destroyed on it.
struct Rank {
  RankShape shape;
  std::unique_ptr<Device> device;
  DecoderWeights weights;
  std::unique_ptr<Decoder> decoder;  // destroyed before the device
};

class RankRunner final : public StepRunner {
 public:
  // Runs a function on the thread that called start() and waits for it.
  using OnCaller = std::function<void(const std::function<void()>&)>;
  using Setup = std::function<Status(Rank*, const OnCaller&)>;
  // Starts the rank thread, has it run `setup` and returns when that is done.
  static Status start(const Setup& setup, std::unique_ptr<RankRunner>* out);
  ~RankRunner() override;

  void launch(StepBuffer* buffer) override;
  Status wait() override;

 private:
  RankRunner() = default;
  void run(const Setup& setup);
  void run_steps(Decoder* decoder);

  std::mutex mutex_;
  std::condition_variable to_rank_, from_rank_;
  std::deque<StepBuffer*> launched_;  // and not yet taken by the rank thread
  std::deque<Status> done_;           // and not yet asked for
  bool waiting_ = false;              // the caller, for the oldest step
  bool closing_ = false;
  // While setting up.
  bool ready_ = false;
  const std::function<void()>* for_caller_ = nullptr;
  Status setup_status_;
  std::thread thread_;
};

}  // namespace nemotron
