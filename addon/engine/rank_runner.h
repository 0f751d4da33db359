// RankRunner: the StepRunner of one device or of a tensor-parallel group, each rank in a thread of
// its own. All that a rank has lives and ends there. Every rank runs every step; a step is done
// when all of them have done it.
//
// A rank that never comes back from a call is left behind: once the group has ended for that (see
// RankGroup), nobody waits for it any more, and its thread keeps what it may still touch.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "device/device.h"
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
  std::string folder;                         // of the checkpoint that they are from
  std::string stamp;                          // of its files, as they were
  std::map<std::string, std::string> layout;  // its tensors: name -> dtype and shape
  std::unique_ptr<Decoder> decoder;           // destroyed before the device
};

class RankRunner final : public StepRunner {
 public:
  // Runs a function on the thread that called start() and waits for it; at once and without it when
  // start() has returned.
  using OnCaller = std::function<void(const std::function<void()>&)>;
  // What it refers to lives as long as the function itself does.
  using Setup = std::function<Status(Rank*, const OnCaller&)>;
  // See StepRunner::reload(). Runs on each rank's thread.
  using Reload = std::function<Status(Rank*, const std::string& folder, Status* refused)>;
  // As RankGroup has them.
  struct Group {
    int ranks = 1, threads_per_rank = 1;
    RankGroup::Seconds patience = RankGroup::kPatience;
  };
  // Starts a thread for each rank, has it run `setup` and returns when all have. A rank whose setup
  // fails ends the group.
  static Status start(const Group& group, Setup setup, Reload reload,
                      std::unique_ptr<RankRunner>* out);
  ~RankRunner() override;

  void launch(StepBuffer* buffer) override;
  void completed(StepBuffer* buffer) override;
  Status reload(const std::string& folder, Status* refused) override;
  Status wait() override;
  bool lost() const override;
  std::vector<Decoder::Progress> progress() const override;

 private:
  class Crew;  // of the rank threads, each of which holds it
  explicit RankRunner(std::shared_ptr<Crew> crew) : crew_(std::move(crew)) {}

  const std::shared_ptr<Crew> crew_;
  std::vector<std::thread> threads_;
};

}  // namespace nemotron
