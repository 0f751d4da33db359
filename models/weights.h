// A decoder's weights on one device, packed, and how stored tensors become them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "device/device.h"
#include "models/checkpoint/checkpoint.h"
#include "models/config.h"
#include "models/shard.h"

namespace nemotron {

struct Sources;

struct LayerWeights {
  Norm input_norm, post_attention_norm;
  Linear qkv, gate_up;
  Linear o, down;         // the last product of attention and of the feed-forward part
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

struct LoadProgress {
  size_t bytes_done = 0, bytes_total = 0;
  const char* phase = "";  // "read and repack"
};

// Packs what the rank holds onto `device`, layer by layer. *out is empty, or has the weights of
// another checkpoint of the same layout on that device: then these are written in their place, and
// when that fails some are the old and some the new ones. `progress` is called from this thread.
struct LoadOptions {
  Shard shard = {};
  RankGroup* group = nullptr;  // of the other ranks, which load their parts meanwhile
  WeightFormat format = WeightFormat::stored;
  // A rank that fails still meets the others wherever they need it to come to their end; else the
  // group has to be ended.
  bool meets_to_the_end = false;
  std::function<void(const LoadProgress&)> progress = {};  // may be empty
};
// Whether all values of norms are finite, which load_weights() finds only at its end.
Status check_norms(const Checkpoint& checkpoint, const Sources& sources);
Status load_weights(const Checkpoint& checkpoint, const ModelConfig& config,
                    const LoadOptions& options, Device* device, DecoderWeights* out);

}  // namespace nemotron
