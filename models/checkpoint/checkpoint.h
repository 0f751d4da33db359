// Checkpoint: the tensors of a Hugging Face folder, memory-mapped and checked, and how they become
// a decoder's weights. Every error names file, tensor, found and expected.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "models/config.h"
#include "models/decoder.h"

namespace nemotron {

struct StoredTensor {
  std::string name;
  std::string dtype_name;  // as the file spells it: "BF16"
  bool served = false;  // false: no DType stands for it ("I64"); such a tensor can only be ignored
  DType dtype = DType::bf16;
  std::vector<int64_t> shape;
  int64_t elements = 0;
  const uint8_t* data = nullptr;  // in the mapping; valid while the Checkpoint lives
  size_t bytes = 0;
  std::string file;
};

class Checkpoint {
 public:
  // Maps model.safetensors, or every shard that model.safetensors.index.json names.
  static Status open(const std::string& dir, std::unique_ptr<Checkpoint>* out);
  virtual ~Checkpoint() = default;
  virtual const StoredTensor* find(std::string_view name) const = 0;  // null: not there
  virtual size_t total_bytes() const = 0;
  virtual const std::vector<StoredTensor>& tensors() const = 0;
  // The file that names the tensors, for messages: model.safetensors, or the index of the shards.
  virtual const std::string& path() const = 0;
  // Hints (madvise): this tensor is read next; its pages are not needed any more.
  virtual void will_need(const StoredTensor& tensor) const = 0;
  virtual void release(const StoredTensor& tensor) const = 0;
};

struct LoadProgress {
  size_t bytes_done = 0, bytes_total = 0;
  const char* phase = "";  // "read and repack"
};

// Checks every tensor the config asks for (presence, shape, dtype, scales) before packing any.
Status check_checkpoint(const Checkpoint& checkpoint, const ModelConfig& config);

// Packs everything onto `device`, layer by layer. `progress` is called from this thread.
Status load_weights(const Checkpoint& checkpoint, const ModelConfig& config, WeightFormat format,
                    Device* device, const std::function<void(const LoadProgress&)>& progress,
                    DecoderWeights* out);

// --- the plan of memory, computed before anything is allocated ---

struct MemoryPlan {
  size_t weights = 0, kv = 0, activations = 0;
  size_t reserve = 0;  // the device's own workspace, code, stacks
  size_t total = 0, available = 0;
  int32_t num_blocks = 0, block_size = 0;
  int64_t kv_tokens = 0;  // num_blocks * block_size
  size_t kv_bytes_per_token = 0;
  DType kv_dtype = DType::bf16;
  std::string table() const;  // for people: one line an item
};

struct PlanInput {
  WeightFormat format = WeightFormat::stored;
  DType kv_dtype = DType::bf16;
  int32_t block_size = 64;
  int64_t kv_memory = 0;  // bytes asked for; 0: what is left of `available` after weights,
                          // activations and a reserve (never more than max_seqs full contexts)
  size_t available = 0;   // free memory of the device
  StepLimits limits;      // max_context etc. already decided
  int32_t max_seqs = 0;
};

// Fails with numbers when weights + workspace + one full-length sequence do not fit.
Status plan_memory(const ModelConfig& config, const Checkpoint& checkpoint, const PlanInput& in,
                   MemoryPlan* out);

}  // namespace nemotron
