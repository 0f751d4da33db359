// Attention: the paged KV cache and the attention over it. Owned by the device; one caller.
//
// Per layer and block and KV head, K is a packed matrix [block_size outputs, head_dim] and V one of
// [head_dim outputs, block_size], both as kernels.h has them: so scores and weighted sums are the
// same tile() as every other product. Slots that hold no token may hold anything, NaN included:
// scores beyond a row's context are replaced, and the first token written to a block clears the V
// of the block's other slots (0 times NaN would be NaN).
//
// A row's keys are taken in stretches of kStretch, each with a softmax of its own, and the
// stretches' sums are added in order: always, so that a long context can be shared out among
// threads where a step has too few rows and heads for them, with the same result.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/thread_pool.h"
#include "device/device.h"

namespace nemotron::cpu {

class Attention {
 public:
  // kernels: exact ones; queries and weights of keys are float32.
  Status init(const Kernels* kernels, ThreadPool* pool, const StepLimits& limits,
              const KvConfig& kv, const RopeTable& rope, bool poison);
  // What is counted up while a long call goes on (RankGroup); before the first step.
  void count(std::atomic<uint64_t>* ticks) { ticks_ = ticks; }

  // Angles of the step's rows.
  void begin_step(const StepInput& in);

  // qkv [rows, (q_heads + 2 kv_heads) * head_dim]: q turned into `q`, k and v into the cache.
  void store(const StepInput& in, const float* qkv, float* q, int32_t layer);

  // out, q [rows, q_heads, head_dim]
  void attend(const StepInput& in, float* out, const float* q, int32_t layer, float scale);

 private:
  // Long enough that adding stretches costs nothing beside them.
  static constexpr int64_t kStretch = 1024;

  // The arguments of one attend().
  struct Call {
    const StepInput& in;
    float* out;
    const float* q;
    int32_t layer;
    float scale;
    int64_t kv_heads;
    int64_t group;  // query heads a KV head
  };
  // Some query rows of one span; with one KV head, what a thread does at a time.
  struct Piece {
    int32_t span = 0, first = 0, rows = 0;
  };
  struct Unit {
    const SpanInput& span;
    const Piece& piece;
    int64_t head;
    int64_t first_position() const { return int64_t(span.first_position) + piece.first; }
  };
  // Of the rows of a piece: what their keys so far come to.
  struct Sums {
    float* values = nullptr;   // [rows, head_dim], not yet divided by the totals
    float* maximum = nullptr;  // [rows]
    float* total = nullptr;    // [rows]
  };
  // A thread's memory, for pieces of up to room_rows() rows.
  struct Room {
    Sums all, more;            // the stretches so far, and the next one
    float* queries = nullptr;  // [rows, head_dim], f32 or bf16
    float* scores = nullptr;   // [rows, block_size]
    float* weights = nullptr;  // [rows, block_size], f32 or bf16
    void* scratch = nullptr;   // of the kernels, 64-byte aligned
  };

  uint8_t* keys(int32_t layer, int32_t block, int64_t head) const;
  uint8_t* values(int32_t layer, int32_t block, int64_t head) const;
  void copy(const BlockCopy& blocks);
  void rope(float* out, const float* x, int64_t row) const;
  template <Format format>
  void store_block(const SpanInput& s, const float* qkv, int32_t layer, int64_t head,
                   int32_t block);
  int64_t kv_heads(int32_t layer) const { return kv_.kv_heads_of(layer); }
  int64_t stretch_keys() const { return (kStretch + block_size_ - 1) / block_size_ * block_size_; }
  int64_t stretches(const Unit& unit) const;
  int64_t room_rows() const { return piece_rows_ * most_group_ + kernels_->row_step; }
  size_t room_bytes() const;
  Room room_of(int thread) const;
  static Sums sums_at(float* p, int64_t rows, int64_t head_dim) {
    return {p, p + rows * head_dim, p + rows * (head_dim + 1)};
  }

  void attend_piece(const Call& call, const Unit& unit, const Room& room);
  bool attend_shared(const Call& call);
  void attend_stretch(const Call& call, const Unit& unit, int64_t stretch, const Room& room,
                      const Sums& to);
  void take_queries(const Call& call, const Unit& unit, const Room& room, const Sums& to);
  void weigh(const Call& call, const Unit& unit, int64_t block, const Room& room, const Sums& to);
  void add_stretch(const Sums& all, const Sums& more, int64_t rows);
  void write(const Call& call, const Unit& unit, const Sums& all);

  const Kernels* kernels_ = nullptr;
  std::atomic<uint64_t>* ticks_ = nullptr;
  ThreadPool* pool_ = nullptr;
  KvConfig kv_;
  std::vector<int32_t> layer_kv_heads_;  // kv_.layer_kv_heads
  std::vector<size_t> layer_begin_;      // in the cache, in heads of one block's K or V
  std::vector<float> k_scale_, v_scale_, inv_freq_;
  Format format_ = Format::f16;
  int64_t q_heads_ = 0, head_dim_ = 0, block_size_ = 0;
  int64_t most_group_ = 1;  // query heads a KV head, of the layer with the fewest of these
  int64_t piece_rows_ = 1;  // most query rows of a piece
  size_t head_bytes_ = 0;   // K (or V) of one block of one head
  HugeBuffer cache_;        // by layers: [block][k, v][kv_head][head_bytes_]
  HugeBuffer angles_;       // [rows][head_dim]: cosines, then sines, of the rotary pairs
  HugeBuffer own_;          // [threads][own_bytes_]: a Room
  HugeBuffer shared_;       // sums of stretches that threads share
  size_t own_bytes_ = 0;
  std::vector<Piece> pieces_;
};

}  // namespace nemotron::cpu
