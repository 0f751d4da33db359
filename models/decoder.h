// Decoder: THE forward pass, written once for all devices. Llama family; layers by LayerSpec.
// Owned by a runner; used by its rank thread only.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "device/device.h"
#include "models/shard.h"
#include "models/weights.h"

namespace nemotron {

// For Device::check().
DecoderForm decoder_form(const ModelConfig& config);

class Decoder {
 public:
  // Allocates the activations for steps within `limits` on `device`. Shape, weights and
  // device outlive the decoder.
  static Status create(const RankShape& shape, const DecoderWeights& weights, Device* device,
                       const StepLimits& limits, std::unique_ptr<Decoder>* out);
  ~Decoder();

  // Runs one step, without waiting for it; at most kMaxStepsInFlight at a time. `in` and `out` stay
  // where they are until the step has been waited for, and are one for all ranks of a group: there
  // out->samples has a place for each of in.samples already. forward() runs it up to the logits of
  // the first rows and reads nothing of in.samples but rows and slots; draw() samples and launches.
  void forward(const StepInput& in, StepOutput* out) noexcept;
  void draw(const StepInput& in, StepOutput* out) noexcept;
  void launch(const StepInput& in, StepOutput* out) noexcept {
    forward(in, out);
    draw(in, out);
  }
  // Whether wait() would return at once.
  bool done() noexcept { return device_->step_done(); }
  // Waits for the oldest launched step. On an error the device is unusable.
  Status wait() noexcept { return device_->wait_step(); }
  Status step(const StepInput& in, StepOutput* out) noexcept {
    launch(in, out);
    return wait();
  }

  // How far forward() is in the newest step; from any thread.
  struct Progress {
    int32_t layers = 0;  // gone through, or given to a device that runs them later
    double at = 0;       // of the last one: seconds of the steady clock; 0: none yet
  };
  Progress progress() const noexcept { return {layers_done_.load(), layer_at_.load()}; }

  // Bytes of activations that create() will allocate.
  static size_t activation_bytes(const RankShape& shape, const StepLimits& limits,
                                 DType activation);

 private:
  Decoder() = default;
  void head(const StepInput& in, size_t first) noexcept;
  void reached(int32_t layers) noexcept;
  int64_t outputs() const;  // of the head
  const RankShape* shape_ = nullptr;
  const DecoderWeights* weights_ = nullptr;
  Device* device_ = nullptr;
  Tensor x_, q_, attn_, h_, logits_;
  // A layer's norm. Not a pointer: a reload may move the layers.
  struct NormOf {
    size_t layer = 0;
    const Norm LayerWeights::*norm = nullptr;  // null: none
  };
  const Norm* norm_at(const NormOf& of) const noexcept {
    return of.norm ? &(weights_->layers[of.layer].*of.norm) : nullptr;
  }
  // The norms that read x after a layer's attention and after its FFN.
  struct NextNorms {
    NormOf after_attention, after_ffn;
  };
  std::vector<NextNorms> next_norms_;  // by layer
  std::vector<int32_t> rows_;          // scratch: logit rows of a slice
  std::atomic<int32_t> layers_done_{0};
  std::atomic<double> layer_at_{0};
};

}  // namespace nemotron
