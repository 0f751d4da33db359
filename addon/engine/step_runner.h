// StepRunner: carries steps to what runs them, one device or several. The engine knows no more.
#pragma once

#include <string>
#include <vector>

#include "device/device.h"
#include "device/status.h"
#include "engine/step_buffer.h"
#include "models/decoder.h"

namespace nemotron {

// Runs steps in launch order. The engine thread alone calls it.
class StepRunner {
 public:
  static constexpr int kMaxInFlight = kMaxStepsInFlight;
  virtual ~StepRunner() = default;
  // `buffer` is left alone until wait() has returned for it; but for a late one's completion.
  // REQUIRES: fewer than kMaxInFlight steps are in flight, and none of them is late.
  virtual void launch(StepBuffer* buffer) = 0;
  // `buffer` was launched late and is complete now. The runner waits for this before it samples.
  virtual void completed(StepBuffer* buffer) = 0;
  // Puts the weights of the checkpoint in `folder` in the place of those that it has. Not ok: the
  // device is unusable. *refused not ok: why not; the weights are what they were.
  // REQUIRES: no step is in flight.
  virtual Status reload(const std::string& folder, Status* refused) = 0;
  // For the oldest launched step. Not ok: the device is unusable.
  virtual Status wait() = 0;
  // wait() has failed for good although a step is still running: its buffer may be touched for as
  // long as the process lives.
  virtual bool lost() const { return false; }
  // Of each rank. From any thread, while the runner lives.
  virtual std::vector<Decoder::Progress> progress() const = 0;
};

}  // namespace nemotron
