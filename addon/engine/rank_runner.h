// RankRunner: the StepRunner of one device or of a tensor-parallel group, each rank in a thread of
// its own. All that a rank has lives and ends there. Every rank runs every step; a step is done
// when all of them have done it.
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
  int32_t index = 0;
  RankGroup* group = nullptr;
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
  // Starts a thread for each rank, has it run `setup` and returns when all have. threads_per_rank:
  // of the host (RankGroup). A rank whose setup fails ends the group.
  static Status start(int ranks, int threads_per_rank, const Setup& setup,
                      std::unique_ptr<RankRunner>* out);
  ~RankRunner() override;

  void launch(StepBuffer* buffer) override;
  void completed(StepBuffer* buffer) override;
  Status wait() override;
  std::vector<Decoder::Progress> progress() const override;

 private:
  struct Launched {
    StepBuffer* step = nullptr;
    bool is_late = false;  // when it was launched: the engine thread changes the step's own word
  };
  struct Seat {
    std::deque<Launched> launched;     // not yet taken by the rank thread
    StepBuffer* completed = nullptr;   // the late step that is complete now
    std::deque<Status> done;           // not yet asked for
    bool waiting = false;              // the caller, for the oldest step
    const Decoder* decoder = nullptr;  // while it runs steps
    std::thread thread;
  };

  RankRunner(int ranks, int threads_per_rank)
      : group_(ranks, threads_per_rank), seats_(size_t(group_.ranks())) {}
  void run(int32_t index, const Setup& setup);
  // Returns when the runner closes. `running`: steps on the device.
  void run_steps(Seat* seat, Decoder* decoder);
  void run_step(const Launched& next, Seat* seat, Decoder* decoder, int* running);
  void report(Seat* seat, Decoder* decoder, int* running);
  bool all_done() const REQUIRES_LOCK(mutex_);

  RankGroup group_;
  mutable Mutex mutex_;
  std::condition_variable to_ranks_, from_ranks_;
  std::vector<Seat> seats_;  // their contents under mutex_, but for the threads
  bool closing_ GUARDED_BY(mutex_) = false;
  // While setting up, and while ending: a rank's memory may be read by the others.
  int set_up_ GUARDED_BY(mutex_) = 0, left_ GUARDED_BY(mutex_) = 0;
  const std::function<void()>* for_caller_ GUARDED_BY(mutex_) = nullptr;
  Status setup_status_ GUARDED_BY(mutex_);
};

}  // namespace nemotron
