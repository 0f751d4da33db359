// Shard: which part of a model one rank of a tensor-parallel group holds. ModelConfig has the
// checkpoint's dimensions, RankShape those of what a rank computes; for one rank they are equal.
//
// Query heads, and the matrices of a feed-forward layer by their inner dimension, are split evenly.
// KV heads are split as long as there are enough; then every rank has one that others have too.
// The embedding and a head of the vocabulary are split by rows, as evenly as possible; the few rows
// of a reward head are everywhere, and so are norms. What `o` and `down` give is a part of a sum.
#pragma once

#include <cstdint>
#include <vector>

#include "device/status.h"
#include "models/checkpoint/checkpoint.h"
#include "models/config.h"

namespace nemotron {

struct Shard {
  int32_t rank = 0, ranks = 1;
  static Shard whole() { return {}; }
};

// What a rank computes. `vocab` is the whole vocabulary: a token is drawn from all logits.
struct RankShape {
  Shard shard;
  int32_t hidden = 0, vocab = 0, q_heads = 0, head_dim = 0;
  float score_scale = 1;          // of attention's scores, beside 1 / sqrt(head_dim): rope's
  int32_t reward_outputs = 0;     // rows of a reward head; 0: the head is of the vocabulary
  std::vector<LayerSpec> layers;  // kv_heads and intermediate of this rank

  std::vector<int32_t> kv_heads() const;  // of each layer with attention, in order
  // Columns of what the last product of a layer's part reads: the most of them, attention apart.
  int32_t max_intermediate() const;
};

// What a rank's KV cache keeps of a token; `kv_heads` outlives it. Blocks, dtype and scales are to
// be filled in.
KvConfig kv_config(const RankShape& shape, const std::vector<int32_t>& kv_heads);

// Fails when the model cannot be cut so: `ranks` has to divide the query heads, every intermediate
// size and the hidden size of a layer with a matrix in the place of a part; and to divide each
// layer's KV heads or be a multiple of them.
Status rank_shape(const ModelConfig& config, const Shard& shard, RankShape* out);

// Into how many stretches the sums of `o` and `down` are cut (MatrixPart::stretches): the most
// ranks, of 1, 2, 4 and 8, that can hold the model. So they are the same sums on one rank and on
// each of these numbers. `cols` of the whole matrix; a stretch is a multiple of `cut` of them, and
// `cut` one of 32: a weight in groups stays so only where no sum ends inside of a group.
int32_t stretches_of(const ModelConfig& config, int64_t cols, int64_t cut);

// The stored matrices, each [out, in].
// `square` takes the place of attention or of a feed-forward part.
enum class MatrixKind : uint8_t { embedding, head, q, k, v, o, gate, up, down, square };

// The part of such a matrix of layer `spec` (of no matter for the ends) that the rank holds. Of the
// head of lm_head_rows every rank holds the same rows, which are no range: packed_groups(). The
// config and the shard have a rank_shape().
MatrixRange held_by(const Shard& shard, const ModelConfig& config, const LayerSpec& spec,
                    MatrixKind kind);

}  // namespace nemotron
