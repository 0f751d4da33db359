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

int32_t RankShape::kv_layers() const {
  return int32_t(std::ranges::count_if(layers, [](const LayerSpec& l) { return l.attention; }));
}

int32_t RankShape::max_intermediate() const {
  int32_t most = 0;
  for (const LayerSpec& layer : layers) {
    if (layer.ffn) most = std::max(most, layer.intermediate);
  }
  return most;
}

Status rank_shape(const ModelConfig& config, const Shard& shard, RankShape* out) {
  const int32_t ranks = shard.ranks, kv = config.kv_heads();
  const auto cannot = [&](const std::string& what) {
    return Status::unsupported(what + " cannot be split over " + std::to_string(ranks) + " ranks");
  };
  if (ranks < 1 || shard.rank < 0 || shard.rank >= ranks) {
    return Status::internal("rank " + std::to_string(shard.rank) + " of " + std::to_string(ranks));
  }
  if (config.q_heads % ranks != 0) return cannot(std::to_string(config.q_heads) + " query heads");
  if (kv > 0 && kv % ranks != 0 && ranks % kv != 0) {
    return cannot(std::to_string(kv) + " KV heads");
  }
  RankShape shape{.shard = shard,
                  .hidden = config.hidden,
                  .vocab = config.vocab,
                  .q_heads = config.q_heads / ranks,
                  .kv_heads = int32_t(kv_heads_of(kv, shard).count),
                  .head_dim = config.head_dim,
                  .reward_outputs = config.reward.outputs(),
                  .layers = config.layers};
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    LayerSpec& layer = shape.layers[i];
    if (layer.attention && layer.kv_heads != kv) {
      return Status::unsupported("layer " + std::to_string(i) + " has " +
                                 std::to_string(layer.kv_heads) + " KV heads, the first has " +
                                 std::to_string(kv) + "; the KV cache has one number for all");
    }
    if (layer.ffn && layer.intermediate % ranks != 0) {
      return cannot("layer " + std::to_string(i) + ": an intermediate size of " +
                    std::to_string(layer.intermediate));
    }
    layer.kv_heads = shape.kv_heads;
    layer.intermediate /= ranks;
  }
  *out = std::move(shape);
  return {};
}

int32_t stretches_of(const ModelConfig& config, int64_t cols) {
  constexpr int64_t kStep = 32;  // what backends pad the columns of a matrix to
  int32_t stretches = 1;
  for (int32_t ranks = 2; ranks <= kMaxStretches; ranks *= 2) {
    RankShape shape;
    if (!rank_shape(config, {.rank = 0, .ranks = ranks}, &shape)) break;
    if (cols % (kStep * ranks) == 0) stretches = ranks;
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
  }
  return {};
}

}  // namespace nemotron
