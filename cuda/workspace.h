// Workspace: the device memory of a step beside weights and activations: the KV cache, and room for
// everything that a step of the stated limits can need. Owned by a CudaDevice; used by its thread.
#pragma once

#include <vector>

#include "cuda/cache_map.h"
#include "cuda/context.h"
#include "cuda/kernels.h"
#include "device/device.h"

namespace nemotron::cuda {

// Prompt rows whose qkv or gate and up are in memory at a time.
inline constexpr int32_t kPromptSlice = 1024;
inline constexpr int32_t kSlots = 65536;  // ids that stay on the device

// Unsupported when no attention kernel serves such heads.
Status check_heads(int32_t head_dim, int32_t rotary_dim);

class Workspace {
 public:
  struct Choices {
    bool mark = false;   // the cache starts as NaN
    bool wgmma = false;  // prompt attention by wgmma where the cache allows it
    bool ranks = false;  // there are several
  };
  explicit Workspace(Context* context) : context_(context) {}
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // `products`: bytes that the products of prompt rows want.
  Status prepare(const StepLimits& limits, const KvConfig& kv, const RopeTable& rope,
                 size_t products, const Choices& choices);
  // What prepare() takes beside the cache, sums over ranks and what products want.
  size_t bytes(const StepLimits& limits, const KvConfig& kv, int32_t rotary_dim) const;
  // In a step, for steps beyond the limits: a failure is sticky.
  bool need(Block* block, size_t bytes);

  bool prepared() const { return !layers.empty(); }
  // Changes when memory moved: captured graphs are void.
  int generation() const { return generation_; }

  StepLimits limits;
  std::vector<KvLayer> layers;
  CacheMap cache_map;     // with `wgmma`
  bool wgmma = false;     // prompt attention takes attention_prompt_wgmma
  int32_t max_items = 1;  // of one launch of the decode attention
  int32_t rotary_dim = 0;
  Block slots;  // int32 [kSlots]
  Block inv_freq, angles;
  Block normed;                  // bf16 [rows, the widest k]
  Block scaled, squares;         // SplitNorm's
  Block sums;                    // f32 [rows, hidden]: a rank's part of a sum over ranks
  Block partial, partial_state;  // of decode items
  Block arrivals;                // of the blocks of rows with several
  Block products_out;            // bf16 [kPromptSlice, the tallest matrix]
  Block products;                // what Products asked for

 private:
  struct Need {
    Block Workspace::*block;
    size_t bytes;
  };
  // For all steps of these limits, but for sums and products.
  std::vector<Need> needs(const StepLimits& limits, const KvConfig& kv, int32_t rotary_dim) const;
  int32_t decode_items(const StepLimits& limits, const KvConfig& kv) const;
  Status reserve(Block* block, size_t bytes);
  Status prepare_cache(const KvConfig& kv, bool mark, bool wgmma);

  Context* context_;
  Block cache_;
  int generation_ = 0;
};

}  // namespace nemotron::cuda
