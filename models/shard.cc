#include "models/shard.h"

#include <algorithm>
#include <string>

namespace nemotron {
namespace {

struct Span {
  int64_t first = 0, count = 0;
};

// Of n things in a row, as evenly as possible.
Span share(int64_t n, const Shard& s) {
  const int64_t first = n * s.rank / s.ranks;
  return {first, n * (s.rank + 1) / s.ranks - first};
}

Span kv_heads_of(int32_t kv_heads, const Shard& s) {
  if (kv_heads % s.ranks == 0) return share(kv_heads, s);
  return {int64_t(s.rank) * kv_heads / s.ranks, 1};
}

MatrixRange rows_of(Span rows, int64_t cols) { return {rows.first, rows.count, 0, cols}; }
MatrixRange cols_of(int64_t rows, Span cols) { return {0, rows, cols.first, cols.count}; }

}  // namespace

std::vector<int32_t> RankShape::kv_heads() const {
  std::vector<int32_t> heads;
  for (const LayerSpec& layer : layers) {
    if (layer.attention) heads.push_back(layer.kv_heads);
  }
  return heads;
}

KvConfig kv_config(const RankShape& shape, const std::vector<int32_t>& kv_heads) {
  return {.layers = int32_t(kv_heads.size()),
          .kv_heads = kv_heads.empty() ? 0 : std::ranges::max(kv_heads),
          .head_dim = shape.head_dim,
          .layer_kv_heads = kv_heads};
}

int32_t RankShape::max_intermediate() const {
  int32_t most = 0;
  for (const LayerSpec& layer : layers) {
    if (layer.ffn) most = std::max(most, layer.intermediate);
    if (layer.linear_attention || layer.linear_ffn) most = std::max(most, hidden / shard.ranks);
  }
  return most;
}

Status rank_shape(const ModelConfig& config, const Shard& shard, RankShape* out) {
  const int32_t ranks = shard.ranks;
  const auto cannot = [&](const std::string& what) {
    return Status::unsupported(what + " cannot be split over " + std::to_string(ranks) + " ranks");
  };
  if (ranks < 1 || shard.rank < 0 || shard.rank >= ranks) {
    return Status::internal("rank " + std::to_string(shard.rank) + " of " + std::to_string(ranks));
  }
  if (config.q_heads % ranks != 0) return cannot(std::to_string(config.q_heads) + " query heads");
  RankShape shape{.shard = shard,
                  .hidden = config.hidden,
                  .vocab = config.vocab,
                  .q_heads = config.q_heads / ranks,
                  .head_dim = config.head_dim,
                  .score_scale = float(config.rope.attention_factor * config.rope.attention_factor),
                  .reward_outputs = config.reward.outputs(),
                  .layers = config.layers};
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    LayerSpec& layer = shape.layers[i];
    const std::string name = "layer " + std::to_string(i) + ": ";
    const int32_t kv = layer.kv_heads;
    if (layer.attention && kv % ranks != 0 && ranks % kv != 0) {
      return cannot(name + std::to_string(kv) + " KV heads");
    }
    if (layer.ffn && layer.intermediate % ranks != 0) {
      return cannot(name + "an intermediate size of " + std::to_string(layer.intermediate));
    }
    if ((layer.linear_attention || layer.linear_ffn) && config.hidden % ranks != 0) {
      return cannot(name + "a matrix of " + std::to_string(config.hidden) + " columns");
    }
    if (layer.attention) layer.kv_heads = int32_t(kv_heads_of(kv, shard).count);
    layer.intermediate /= ranks;
  }
  *out = std::move(shape);
  return {};
}

int32_t stretches_of(const ModelConfig& config, int64_t cols, int64_t cut) {
  int32_t stretches = 1;
  for (int32_t ranks = 2; ranks <= kMaxStretches; ranks *= 2) {
    RankShape shape;
    if (!rank_shape(config, {.rank = 0, .ranks = ranks}, &shape)) break;
    if (cols % (cut * ranks) == 0) stretches = ranks;
  }
  return stretches;
}

MatrixRange held_by(const Shard& shard, const ModelConfig& config, const LayerSpec& spec,
                    MatrixKind kind) {
  const int64_t hidden = config.hidden, dim = config.head_dim;
  const auto heads = [&](Span of) { return Span{of.first * dim, of.count * dim}; };
  switch (kind) {
    case MatrixKind::embedding: return rows_of(share(config.vocab, shard), hidden);
    case MatrixKind::head:
      if (config.reward.kind == RewardHead::Kind::classification) {
        return {0, config.reward.outputs(), 0, hidden};
      }
      return rows_of(share(config.vocab, shard), hidden);
    case MatrixKind::q: return rows_of(heads(share(config.q_heads, shard)), hidden);
    case MatrixKind::k:
    case MatrixKind::v: return rows_of(heads(kv_heads_of(spec.kv_heads, shard)), hidden);
    case MatrixKind::o: return cols_of(hidden, heads(share(config.q_heads, shard)));
    case MatrixKind::gate:
    case MatrixKind::up: return rows_of(share(spec.intermediate, shard), hidden);
    case MatrixKind::down: return cols_of(hidden, share(spec.intermediate, shard));
    case MatrixKind::square: return cols_of(hidden, share(hidden, shard));
  }
  return {};
}

}  // namespace nemotron
