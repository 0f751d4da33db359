// StepBuilder: turns a StepInput into the metadata that kernels read (step_layout.h), in pinned
// memory and with one copy. Two steps take turns with the pinned memory, so that one may be built
// while the copy of the other waits for its turn on the device; there one block is enough, since a
// copy waits for the kernels before it. Owned by the device; used by its thread.
#pragma once

#include <vector>

#include "cuda/context.h"
#include "cuda/step_layout.h"
#include "device/device.h"

namespace nemotron::cuda {

class StepBuilder {
 public:
  explicit StepBuilder(Context* context) : context_(context) {}
  ~StepBuilder();

  // What rows refer to. Zero block_size: no cache yet. tile_tokens: tokens of one PromptTile.
  struct Model {
    int32_t block_size = 0, tile_tokens = 1, vocab = 0;
    int32_t max_items = 1;  // decode items of one launch
  };
  void set_model(const Model& m) { model_ = m; }

  // Rows [first_row, ...) and items of one launch of the decode attention.
  struct Pass {
    int32_t first_item, items;
  };

  // Fills pinned memory: that of the step before the last one, which is done. The copy is separate:
  // a step that is recorded is enqueued when it is complete.
  void build(const StepInput& in);
  void copy();
  // Puts `rows` into the head area, in stream order.
  void set_head_rows(const int32_t* rows, int32_t n);

  const StepHeader& header() const { return *reinterpret_cast<const StepHeader*>(host_); }
  const std::vector<Pass>& passes() const { return passes_; }
  const StepHeader* device() const { return reinterpret_cast<const StepHeader*>(device_); }
  uint8_t* device_bytes() const { return device_; }
  const int32_t* head_rows() const {
    return reinterpret_cast<const int32_t*>(device_ + kHeadOffset);
  }
  static constexpr int32_t kMaxHeadRows = 1024;
  // Changes when the device's block moved (it grew): captured graphs are void.
  int generation() const { return generation_; }

 private:
  bool reserve(size_t bytes);
  template <class T>
  T* place(size_t n, uint32_t* offset);  // null while only counting
  void write(const StepInput& in);
  bool write_sample(const SampleInput& s, SampleRow* to);

  Context* context_;
  Model model_;
  uint8_t* turns_[kMaxStepsInFlight] = {};  // pinned
  int turn_ = 0;
  uint8_t* host_ = nullptr;  // of turns_: this step's
  uint8_t* device_ = nullptr;
  size_t capacity_ = 0, used_ = 0, copied_ = 0;
  // Pinned, a ring of head lists: a copy may still read the last ones.
  int32_t* head_host_ = nullptr;
  int head_turn_ = 0;
  int generation_ = 0;
  std::vector<Pass> passes_;
  std::vector<int32_t> ids_;  // scratch
};

}  // namespace nemotron::cuda
