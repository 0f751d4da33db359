// The plan of a device's memory, computed before anything is allocated.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "device/device.h"
#include "models/checkpoint/checkpoint.h"
#include "models/config.h"
#include "models/shard.h"
#include "models/sources.h"

namespace nemotron {

struct MemoryPlan {
  size_t weights = 0, kv = 0, activations = 0;
  size_t reserve = 0;  // the device's own workspace, code, stacks
  // Of the draft model: weights, activations and a reserve of its own; keys and values of as many
  // tokens. 0: there is none.
  size_t draft = 0, draft_kv = 0;
  size_t total = 0, available = 0;
  int32_t num_blocks = 0, block_size = 0;
  int64_t kv_tokens = 0;  // num_blocks * block_size
  size_t kv_bytes_per_token = 0, draft_kv_bytes_per_token = 0;
  DType kv_dtype = DType::bf16;
  bool in_groups = false;                   // most matrices of the layers are
  bool quantises = false;                   // some are, by the format that was asked for
  std::vector<std::string> unused_tensors;  // of the checkpoint: they take no memory
  std::vector<WidenedTensor> widened_tensors;
  // Fewer blocks, since another rank has no room for more. REQUIRES: at most num_blocks.
  void limit_blocks(int32_t blocks);
  std::string table() const;  // for people: one line an item
};

// A model that lies beside another one on the same device and has a block for each of its blocks.
struct DraftInput {
  const ModelConfig* config = nullptr;
  const Checkpoint* checkpoint = nullptr;
  StepLimits limits = {};  // of the rank
};

struct PlanInput {
  Shard shard = {};
  WeightFormat format = WeightFormat::stored;
  size_t group_bytes = 0;  // Device's, of this model's and of the draft model's alike
  // Device's; empty: 0.
  std::function<size_t(const StepLimits&, const KvConfig&, NarrowWeights)> workspace_bytes = {};
  DType kv_dtype = DType::bf16;
  int32_t block_size = 64;
  // Bytes asked for, the draft model's part included; 0: what is left of `available` after weights,
  // activations and a reserve (never more than max_seqs full contexts).
  int64_t kv_memory = 0;
  size_t available = 0;    // free memory of the device
  StepLimits limits = {};  // of the rank; max_context etc. already decided
  int32_t max_seqs = 0;
  const DraftInput* draft = nullptr;  // null: none
};

// Fails with numbers when weights + workspace + one full-length sequence do not fit.
Status plan_memory(const ModelConfig& config, const Checkpoint& checkpoint, const PlanInput& in,
                   MemoryPlan* out);

// What a model takes of a whole device beside activations. Of `in` the shard, the format, the KV
// dtype and what the device packs count.
struct Footprint {
  size_t weights = 0, kv_bytes_per_token = 0;
  bool in_groups = false;  // as in MemoryPlan
};
Status find_footprint(const ModelConfig& config, const Checkpoint& checkpoint, const PlanInput& in,
                      Footprint* out);

}  // namespace nemotron
