// StepBuilder: turns a StepInput, but for its draws, into the metadata that kernels read
// (step_layout.h). Owned by the device; used by its thread.
#pragma once

#include <vector>

#include "cuda/metadata.h"
#include "cuda/step_layout.h"
#include "device/device.h"

namespace nemotron::cuda {

class StepBuilder {
 public:
  explicit StepBuilder(Context* context) : context_(context), data_(context) {}
  ~StepBuilder();

  // What rows refer to. Zero block_size: no cache yet. tile_tokens: tokens of one PromptTile.
  struct Model {
    int32_t block_size = 0, tile_tokens = 1;
    int32_t max_items = 1;    // decode items of one launch
    int32_t split_items = 0;  // most decode items of a step that several blocks share each of
  };
  void set_model(const Model& m) { model_ = m; }

  // Rows [first_row, ...) and items of one launch of the decode attention.
  struct Pass {
    int32_t first_item, items;
  };

  // Room for every step of these limits of one generated row a sequence, and for head rows, so that
  // hardly any step has to take memory. False: the context has failed.
  bool reserve(const StepLimits& limits, int32_t block_size);
  // What that takes on the device.
  static size_t reserved_bytes(const StepLimits& limits, int32_t block_size);

  // Fills pinned memory. The copy is separate: a step that is recorded is enqueued later.
  void build(const StepInput& in);
  void copy() { data_.copy(); }
  // Puts `rows` into the head area, in stream order.
  void set_head_rows(const int32_t* rows, int32_t n);

  const StepHeader& header() const { return *reinterpret_cast<const StepHeader*>(data_.host()); }
  const std::vector<Pass>& passes() const { return passes_; }
  const StepHeader* device() const { return reinterpret_cast<const StepHeader*>(data_.device()); }
  const int32_t* head_rows() const {
    return reinterpret_cast<const int32_t*>(data_.device() + kHeadOffset);
  }
  static constexpr int32_t kMaxHeadRows = 1024;
  int generation() const { return data_.generation(); }

 private:
  bool reserve(size_t bytes);
  void write_rows(const StepInput& in);
  void write_span(const SpanInput& span, int32_t table);

  Context* context_;
  Metadata data_;
  Model model_;
  // Of the step that is being built.
  RowInfo* rows_ = nullptr;
  DecodeItem* items_ = nullptr;
  PromptTile* tiles_ = nullptr;
  int32_t num_items_ = 0, num_tiles_ = 0, most_items_ = 0;  // the last: of a row
  // Pinned, a ring of head lists: a copy may still read the last ones.
  int32_t* head_host_ = nullptr;
  int head_turn_ = 0;
  std::vector<Pass> passes_;
};

}  // namespace nemotron::cuda
