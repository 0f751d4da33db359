// What the configs of all architectures have in common, so that a family's file says only what is
// its own. Each reads fields of config.json; what is wrong or not served becomes f's status.
#pragma once

#include <cstdint>

#include "models/checkpoint/json_fields.h"
#include "models/config.h"

namespace nemotron {

// Bounds of what is accepted, far above any model of the family: with them every product of sizes
// fits an int64_t (vocab * hidden * 4 < 2^47, layers * 3 * intermediate * hidden * 4 < 2^57).
inline constexpr int64_t kMaxHidden = 1 << 18, kMaxLayers = 1 << 12, kMaxHeads = 1 << 12;
inline constexpr int64_t kMaxHeadDim = 1 << 10, kMaxIntermediate = 1 << 21, kMaxVocab = 1 << 24;
inline constexpr int64_t kMaxPosition = int64_t(1) << 27, kMaxLabels = 1 << 10;

// Features whose numbers would be wrong without a word: biases, windows, other layer types.
void refuse_unserved(JsonFields* f);
// hidden_size, vocab_size, num_attention_heads, head_dim, max_position_embeddings,
// tie_word_embeddings.
void read_sizes(JsonFields* f, ModelConfig* out);
// num_hidden_layers equal layers of num_key_value_heads and intermediate_size. After read_sizes().
void read_equal_layers(JsonFields* f, Activation activation, ModelConfig* out);
// `rope_theta` with `rope_scaling`, or `rope_parameters` of newer files, with rope_theta inside.
// The rotated share of a head by any of its three names. After read_sizes().
void read_rope(JsonFields* f, ModelConfig* out);
// The same where heads are rotated whole.
void read_whole_rope(JsonFields* f, ModelConfig* out);
// A head of classes: its labels, id2label {"0": "LABEL_0", ...} in the order of its numbers.
void read_classification_head(JsonFields* f, RewardHead* out);

}  // namespace nemotron
