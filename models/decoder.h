// Decoder: THE forward pass, written once for all devices. Llama family; layers by LayerSpec.
// Owned by a runner; used by its rank thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device/device.h"
#include "models/config.h"

namespace nemotron {

// A decoder's weights on one device, packed. Made by load_weights().
struct LayerWeights {
  Norm input_norm, post_attention_norm;
  Linear qkv, o, gate_up, down;
  int32_t kv_layer = -1;  // index into the KV cache; -1: no attention
};
struct DecoderWeights {
  Weight embedding;  // tied: also the head
  Linear head;       // [vocab, hidden], or the rows of a reward head
  Norm final_norm;
  std::vector<LayerWeights> layers;
  std::vector<float> k_scale, v_scale;  // [kv layers], empty: all 1
  size_t bytes = 0;
};

class Decoder {
 public:
  // Allocates the activations for steps within `limits` on `device`. All three outlive the decoder.
  static Status create(const ModelConfig& config, const DecoderWeights& weights, Device* device,
                       const StepLimits& limits, std::unique_ptr<Decoder>* out);
  ~Decoder();

  // Runs one step, without waiting for it; at most kMaxStepsInFlight at a time. `in` and `out` stay
  // where they are until the step has been waited for.
  void launch(const StepInput& in, StepOutput* out) noexcept;
  // Whether wait() would return at once.
  bool done() noexcept { return device_->step_done(); }
  // Waits for the oldest launched step. On an error the device is unusable.
  Status wait() noexcept { return device_->wait_step(); }
  Status step(const StepInput& in, StepOutput* out) noexcept {
    launch(in, out);
    return wait();
  }

  // Bytes of activations that create() will allocate.
  static size_t activation_bytes(const ModelConfig& config, const StepLimits& limits,
                                 DType activation);

 private:
  Decoder() = default;
  const ModelConfig* config_ = nullptr;
  const DecoderWeights* weights_ = nullptr;
  Device* device_ = nullptr;
  Tensor x_, q_, attn_, h_, logits_;
  // The norms that read x after a layer's attention and after its FFN; null: none does.
  struct NextNorms {
    const Norm* after_attention = nullptr;
    const Norm* after_ffn = nullptr;
  };
  std::vector<NextNorms> next_norms_;  // by layer
  std::vector<int32_t> rows_;          // scratch: logit rows of a slice
};

}  // namespace nemotron
