// What a model needs on GPUs that are not here: arithmetic on the config, but for weights that stay
// packed. The plan for the
// device at hand is plan_memory() of memory_plan.h.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "device/device.h"
#include "models/config.h"
#include "models/shard.h"

namespace nemotron {

int64_t parameter_count(const ModelConfig& config);

struct GpuFit {
  const char* gpu = "";  // "24 GB (RTX 4090)"
  size_t gpu_bytes = 0;
  int32_t ranks = 1;                           // GPUs in a tensor-parallel group
  WeightFormat format = WeightFormat::stored;  // of linear layers
  size_t weights = 0;                          // bytes on each GPU, the draft model's included
  // Tokens of KV cache that fit beside them, all sequences together; 0: the weights do not fit.
  int64_t kv_tokens_bf16 = 0, kv_tokens_fp8 = 0;
};

// Bytes of a rank's weights, where they stay as they are packed: by find_footprint(). Empty: they
// do not.
using PackedBytes = std::function<size_t(const Shard&)>;

// `draft`: of a draft model that lies beside it on the same GPUs; null: none.
// Every common GPU with 1, 2, 4 and 8 ranks (those that divide the heads), weights as 16-bit, FP8
// and int4 (a checkpoint stored as FP8 has FP8 alone, one that stays packed what is stored).
std::vector<GpuFit> fit_on_common_gpus(const ModelConfig& config,
                                       const ModelConfig* draft = nullptr,
                                       const PackedBytes& packed = {},
                                       const PackedBytes& packed_draft = {});

}  // namespace nemotron
