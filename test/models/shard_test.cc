// Shards of 1, 2, 4 and 8 ranks: every stored element is on the ranks that it should be on.
#include "models/shard.h"

#include "test/check.h"

namespace nemotron {
namespace {

// 70B: 64 query heads, 8 KV heads; and one with fewer KV heads than ranks.
ModelConfig model(int32_t q_heads, int32_t kv_heads) {
  ModelConfig c;
  c.hidden = 48, c.vocab = 1003, c.q_heads = q_heads, c.head_dim = 6;
  c.layers.assign(3, LayerSpec{.kv_heads = kv_heads, .intermediate = 40});
  c.layers[1].attention = false, c.layers[1].kv_heads = 0;
  c.layers[2].intermediate = 64;
  return c;
}

struct Size {
  int64_t rows, cols;
};
Size stored(const ModelConfig& c, const LayerSpec& l, MatrixKind kind) {
  const int64_t hidden = c.hidden, q = int64_t(c.q_heads) * c.head_dim,
                kv = int64_t(l.kv_heads) * c.head_dim, inner = l.intermediate;
  switch (kind) {
    case MatrixKind::embedding:
    case MatrixKind::head: return {c.vocab, hidden};
    case MatrixKind::q: return {q, hidden};
    case MatrixKind::k:
    case MatrixKind::v: return {kv, hidden};
    case MatrixKind::o: return {hidden, q};
    case MatrixKind::gate:
    case MatrixKind::up: return {inner, hidden};
    case MatrixKind::down: return {hidden, inner};
    case MatrixKind::square: return {hidden, hidden};
  }
  return {};
}

// How many ranks hold each element.
std::vector<int> holders(const ModelConfig& c, const LayerSpec& l, MatrixKind kind, int32_t ranks) {
  const Size size = stored(c, l, kind);
  std::vector<int> count(size_t(size.rows * size.cols), 0);
  for (int32_t rank = 0; rank < ranks; ++rank) {
    const MatrixRange r = held_by({rank, ranks}, c, l, kind);
    EXPECT(r.first_row >= 0 && r.first_row + r.rows <= size.rows);
    EXPECT(r.first_col >= 0 && r.first_col + r.cols <= size.cols);
    for (int64_t i = r.first_row; i < r.first_row + r.rows; ++i) {
      for (int64_t j = r.first_col; j < r.first_col + r.cols; ++j)
        ++count[size_t(i * size.cols + j)];
    }
  }
  return count;
}

constexpr MatrixKind kKinds[] = {
    MatrixKind::embedding, MatrixKind::head, MatrixKind::q,  MatrixKind::k,    MatrixKind::v,
    MatrixKind::o,         MatrixKind::gate, MatrixKind::up, MatrixKind::down, MatrixKind::square};

TEST(shards_tile_every_matrix) {
  const ModelConfig c = model(64, 8);
  for (const int32_t ranks : {1, 2, 4, 8}) {
    for (const LayerSpec& l : c.layers) {
      for (const MatrixKind kind : kKinds) {
        for (const int n : holders(c, l, kind, ranks)) EXPECT_EQ(n, 1);
      }
    }
  }
}

TEST(shards_repeat_kv_heads_when_there_are_too_few) {
  const ModelConfig c = model(16, 2);
  for (const int32_t ranks : {4, 8, 16}) {
    for (const int n : holders(c, c.layers[0], MatrixKind::k, ranks)) EXPECT_EQ(n, ranks / 2);
    for (const int n : holders(c, c.layers[0], MatrixKind::q, ranks)) {
      if (ranks <= 8) EXPECT_EQ(n, 1);
    }
    // A rank's query heads read the KV head that it holds.
    const int32_t group = c.q_heads / 2;
    for (int32_t rank = 0; rank < ranks; ++rank) {
      const MatrixRange q = held_by({rank, ranks}, c, c.layers[0], MatrixKind::q);
      const MatrixRange k = held_by({rank, ranks}, c, c.layers[0], MatrixKind::k);
      EXPECT_EQ(q.first_row / c.head_dim / group, k.first_row / c.head_dim);
      EXPECT_EQ((q.first_row + q.rows - 1) / c.head_dim / group, k.first_row / c.head_dim);
    }
  }
}

TEST(shards_have_the_shape_of_what_they_hold) {
  const ModelConfig c = model(64, 8);
  for (const int32_t ranks : {1, 2, 4, 8}) {
    for (int32_t rank = 0; rank < ranks; ++rank) {
      const Shard shard{rank, ranks};
      RankShape s;
      REQUIRE_OK(rank_shape(c, shard, &s));
      EXPECT_EQ(s.kv_heads().size(), size_t(2));
      EXPECT_EQ(s.max_intermediate(), 64 / ranks);
      EXPECT_EQ(s.vocab, c.vocab);
      for (size_t i = 0; i < s.layers.size(); ++i) {
        const auto rows = [&](MatrixKind kind) {
          return held_by(shard, c, c.layers[i], kind).rows;
        };
        EXPECT_EQ(rows(MatrixKind::q), int64_t(s.q_heads) * s.head_dim);
        EXPECT_EQ(rows(MatrixKind::up), int64_t(s.layers[i].intermediate));
        if (s.layers[i].attention) {
          EXPECT_EQ(rows(MatrixKind::k), int64_t(s.layers[i].kv_heads) * s.head_dim);
        }
      }
    }
  }
}

TEST(a_reward_head_is_on_every_rank) {
  ModelConfig c = model(64, 8);
  RankShape s;
  c.reward = {.kind = RewardHead::Kind::lm_head_rows, .vocab_ids = {7, 3, 9}, .labels = {}};
  REQUIRE_OK(rank_shape(c, {3, 4}, &s));
  EXPECT_EQ(s.reward_outputs, 3);
  c.reward = {.kind = RewardHead::Kind::classification, .vocab_ids = {}, .labels = {"a", "b"}};
  EXPECT(held_by({3, 4}, c, {}, MatrixKind::head) == (MatrixRange{0, 2, 0, 48}));
  REQUIRE_OK(rank_shape(c, {3, 4}, &s));
  EXPECT_EQ(s.reward_outputs, 2);
}

TEST(shards_that_cannot_be_are_refused) {
  RankShape s;
  EXPECT_ERROR(rank_shape(model(64, 8), {0, 3}, &s), "64 query heads");
  EXPECT_ERROR(rank_shape(model(24, 8), {0, 12}, &s), "8 KV heads");
  EXPECT_ERROR(rank_shape(model(64, 8), {0, 16}, &s), "intermediate size of 40");
  EXPECT_ERROR(rank_shape(model(64, 8), {4, 4}, &s), "rank 4 of 4");
  ModelConfig mixed = model(64, 8);
  mixed.layers[2].kv_heads = 4;
  EXPECT_OK(rank_shape(mixed, {0, 2}, &s));
  EXPECT(s.kv_heads() == std::vector<int32_t>({4, 2}));
  mixed.layers[2].kv_heads = 3;
  EXPECT_ERROR(rank_shape(mixed, {0, 2}, &s), "layer 2: 3 KV heads cannot be split over 2 ranks");
  mixed = model(64, 8);
  mixed.layers[1].linear_attention = true;
  EXPECT_OK(rank_shape(mixed, {0, 8}, &s));
  EXPECT_EQ(s.max_intermediate(), 8);
  mixed.hidden = 50;
  EXPECT_ERROR(rank_shape(mixed, {0, 4}, &s), "layer 1: a matrix of 50 columns");
}

}  // namespace
}  // namespace nemotron
