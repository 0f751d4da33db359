// SampleBuilder: the draws of a step as the sampling kernel reads them (step_layout.h): a block of
// metadata of its own, because draws may be described when the rest of the step is under way. Owned
// by the device; used by its thread.
#pragma once

#include <span>
#include <vector>

#include "cuda/metadata.h"
#include "cuda/step_layout.h"
#include "device/device.h"

namespace nemotron::cuda {

class SampleBuilder {
 public:
  explicit SampleBuilder(Context* context) : context_(context), data_(context) {}
  void set_vocab(int32_t vocab) { vocab_ = vocab; }
  // Room for a draw of each logit row, each sequence's with a mask: what penalties over long
  // histories and long lists take on top is taken when it comes. False: the context has failed.
  bool reserve(const StepLimits& limits) { return data_.reserve(most_bytes(limits)); }
  // What that takes on the device.
  static size_t reserved_bytes(const StepLimits& limits) {
    return Metadata::capacity_for(most_bytes(limits));
  }

  // Fills the block and enqueues its copy. Once a step.
  void build(std::span<const SampleInput> samples);
  uint8_t* device() const { return data_.device(); }

 private:
  static size_t most_bytes(const StepLimits& limits);
  // False: it names an id outside the vocabulary.
  bool write(const SampleInput& s, SampleRow* r);

  Context* context_;
  Metadata data_;
  int32_t vocab_ = 0;         // 0: any
  std::vector<int32_t> ids_;  // scratch
};

}  // namespace nemotron::cuda
