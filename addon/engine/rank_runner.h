// RankRunner: the StepRunner with one device, in a thread of its own. All that a rank has lives and
// ends there. Several ranks will be several of these behind one StepRunner.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "device/device.h"
#include "device/mutex.h"
#include "engine/step_runner.h"
#include "models/decoder.h"

namespace nemotron {

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
  void completed(StepBuffer* buffer) override;
  Status wait() override;

 private:
  RankRunner() = default;
  void run(const Setup& setup);
  void run_steps(Decoder* decoder);
  void run_step(StepBuffer* step, bool is_late, Decoder* decoder);
  void report(Decoder* decoder);

  Mutex mutex_;
  std::condition_variable to_rank_, from_rank_;
  struct Launched {
    StepBuffer* step = nullptr;
    bool is_late = false;  // when it was launched: the engine thread changes the step's own word
  };
  std::deque<Launched> launched_ GUARDED_BY(mutex_);    // not yet taken by the rank thread
  StepBuffer* completed_ GUARDED_BY(mutex_) = nullptr;  // the late step that is complete now
  std::deque<Status> done_ GUARDED_BY(mutex_);          // not yet asked for
  bool waiting_ GUARDED_BY(mutex_) = false;             // the caller, for the oldest step
  bool closing_ GUARDED_BY(mutex_) = false;
  int running_ = 0;  // steps on the device; the rank thread's alone
  // While setting up.
  bool ready_ GUARDED_BY(mutex_) = false;
  const std::function<void()>* for_caller_ GUARDED_BY(mutex_) = nullptr;
  Status setup_status_ GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace nemotron
