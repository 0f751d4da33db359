#include "cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

namespace nemotron::cpu {
namespace {

constexpr int32_t kMaxHeadDim = 512;
constexpr int64_t kAlignment = 64, kPage = 4096;
constexpr size_t kSharedBytes = size_t(16) << 20;  // one row of 128 K tokens and 8 KV heads: 1.4 MB

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

Status check(const StepLimits& l, const KvConfig& kv, const RopeTable& rope) {
  const auto wrong = [](const std::string& what) {
    return Status::unsupported("KV cache: " + what);
  };
  if (kv.head_dim <= 0 || kv.head_dim % 16 != 0 || kv.head_dim > kMaxHeadDim) {
    return wrong("head_dim must be a multiple of 16 up to " + std::to_string(kMaxHeadDim) +
                 ", not " + std::to_string(kv.head_dim));
  }
  if (kv.block_size <= 0 || kv.block_size % 16 != 0) {
    return wrong("block_size must be a multiple of 16, not " + std::to_string(kv.block_size));
  }
  if (!kv.layer_kv_heads.empty() && int32_t(kv.layer_kv_heads.size()) != kv.layers) {
    return wrong("KV heads of " + std::to_string(kv.layer_kv_heads.size()) + " layers, not of " +
                 std::to_string(kv.layers));
  }
  for (int32_t i = 0; i < kv.layers; ++i) {
    const int32_t heads = kv.kv_heads_of(i);
    if (heads > 0 && heads <= kv.kv_heads && l.q_heads % heads == 0) continue;
    return wrong(std::to_string(l.q_heads) + " query heads cannot share " + std::to_string(heads) +
                 " KV heads");
  }
  if (kv.dtype != DType::f16 && kv.dtype != DType::bf16 && kv.dtype != DType::fp8_e4m3) {
    return wrong(std::string("dtype must be F16, BF16 or F8_E4M3, not ") + dtype_name(kv.dtype));
  }
  if (rope.inv_freq.empty() || int32_t(rope.inv_freq.size()) > kv.head_dim / 2) {
    return wrong("rope has " + std::to_string(rope.inv_freq.size()) + " frequencies for head_dim " +
                 std::to_string(kv.head_dim));
  }
  for (std::span<const float> scale : {kv.k_scale, kv.v_scale}) {
    if (!scale.empty() && int32_t(scale.size()) != kv.layers) {
      return wrong(std::to_string(scale.size()) + " scales for " + std::to_string(kv.layers) +
                   " layers");
    }
  }
  return {};
}

// A row in the cache's format. F16 and E4M3 saturate: what one token stores must not make the sums
// over it infinite. Loops that the compiler turns into vectors.
template <Format format>
void narrow(uint8_t* to, const float* x, int64_t n, float by) {
  if constexpr (format == Format::fp8) {
    for (int64_t i = 0; i < n; ++i) to[i] = f32_to_e4m3(x[i] * by);
  } else {
    uint16_t bits[kMaxHeadDim];
    for (int64_t i = 0; i < n; ++i) {
      bits[i] = format == Format::f16 ? f32_to_f16(x[i] * by) : f32_to_bf16(x[i] * by);
    }
    std::memcpy(to, bits, size_t(n) * 2);
  }
}

// Puts row `slot` of a block's keys, or values, where its panels have it. bits: of narrow().
template <Format format>
void put_keys(uint8_t* block, const uint8_t* bits, size_t head_dim, size_t slot) {
  constexpr size_t kBytes = format_bytes(format);
  uint8_t* panel = block + slot / kPanel * head_dim * kPanel * kBytes;
  for (size_t d = 0; d < head_dim; ++d) {
    std::memcpy(panel + panel_offset(format, d, slot % kPanel), bits + d * kBytes, kBytes);
  }
}
template <Format format>
void put_values(uint8_t* block, const uint8_t* bits, size_t head_dim, size_t block_size,
                size_t slot) {
  constexpr size_t kBytes = format_bytes(format);
  for (size_t d = 0; d < head_dim; ++d) {
    uint8_t* panel = block + d / kPanel * block_size * kPanel * kBytes;
    std::memcpy(panel + panel_offset(format, slot, d % kPanel), bits + d * kBytes, kBytes);
  }
}

}  // namespace

Status Attention::init(const Kernels* kernels, ThreadPool* pool, const StepLimits& limits,
                       const KvConfig& kv, const RopeTable& rope, bool poison) {
  if (Status s = check(limits, kv, rope); !s) return s;
  kernels_ = kernels;
  pool_ = pool;
  layer_kv_heads_.assign(kv.layer_kv_heads.begin(), kv.layer_kv_heads.end());
  kv_ = kv;
  kv_.layer_kv_heads = layer_kv_heads_;
  k_scale_.assign(kv.k_scale.begin(), kv.k_scale.end());
  v_scale_.assign(kv.v_scale.begin(), kv.v_scale.end());
  k_scale_.resize(size_t(kv.layers), 1.0f);
  v_scale_.resize(size_t(kv.layers), 1.0f);
  inv_freq_.assign(rope.inv_freq.begin(), rope.inv_freq.end());
  format_ = kv.dtype == DType::f16    ? Format::f16
            : kv.dtype == DType::bf16 ? Format::bf16
                                      : Format::fp8;
  q_heads_ = limits.q_heads, head_dim_ = kv.head_dim, block_size_ = kv.block_size;
  most_group_ = 1;
  layer_begin_.clear();
  for (int32_t i = 0; i < kv.layers; ++i) {
    most_group_ = std::max(most_group_, q_heads_ / kv_heads(i));
    layer_begin_.push_back(size_t(kv.kv_heads_before(i)) * 2 * size_t(kv.num_blocks));
  }
  piece_rows_ = std::max<int64_t>(1, kernels_->piece_rows / most_group_);
  head_bytes_ = size_t(head_dim_ * block_size_) * format_bytes(format_);
  const size_t cache =
      size_t(kv.kv_heads_before(kv.layers)) * 2 * size_t(kv.num_blocks) * head_bytes_;
  if (Status s = HugeBuffer::create(cache, &cache_); !s) return s.within("KV cache");
  if (poison) std::memset(cache_.data(), 0xff, cache_.bytes());  // NaN in every format

  if (Status s =
          HugeBuffer::create(size_t(limits.max_rows) * size_t(head_dim_) * sizeof(float), &angles_);
      !s) {
    return s;
  }
  own_bytes_ = room_bytes();
  if (Status s = HugeBuffer::create(own_bytes_ * size_t(pool->size()), &own_); !s) return s;
  if (Status s = HugeBuffer::create(pool->size() > 1 ? kSharedBytes : 1, &shared_); !s) return s;
  pieces_.reserve(size_t(limits.max_spans) + size_t(limits.max_rows / piece_rows_ + 1));
  return {};
}

uint8_t* Attention::keys(int32_t layer, int32_t block, int64_t head) const {
  const size_t at = layer_begin_[size_t(layer)] + size_t(block) * 2 * size_t(kv_heads(layer));
  return cache_.data() + (at + size_t(head)) * head_bytes_;
}

uint8_t* Attention::values(int32_t layer, int32_t block, int64_t head) const {
  return keys(layer, block, head) + size_t(kv_heads(layer)) * head_bytes_;
}

void Attention::copy(const BlockCopy& blocks) {
  for (int32_t layer = 0; layer < kv_.layers; ++layer) {
    std::memcpy(keys(layer, blocks.to, 0), keys(layer, blocks.from, 0),
                2 * size_t(kv_heads(layer)) * head_bytes_);
  }
}

void Attention::begin_step(const StepInput& in) {
  for (const BlockCopy& blocks : in.copies) copy(blocks);
  const int64_t half = int64_t(inv_freq_.size());
  pieces_.clear();
  for (size_t i = 0; i < in.spans.size(); ++i) {
    const SpanInput& s = in.spans[i];
    for (int32_t r = 0; r < s.rows; r += int32_t(piece_rows_)) {
      pieces_.push_back({int32_t(i), r, std::min(int32_t(piece_rows_), s.rows - r)});
    }
  }
  // The angle is a float32 product, as the models were trained with.
  pool_->run([&](int thread) {
    for (const SpanInput& s : in.spans) {
      const Range mine = share(s.rows, thread, pool_->lanes());
      for (int64_t r = mine.begin; r < mine.end; ++r) {
        float* cosine = angles_.as<float>() + (s.first_row + r) * head_dim_;
        for (int64_t i = 0; i < half; ++i) {
          const float angle = float(s.first_position + r) * inv_freq_[size_t(i)];
          cosine[i] = std::cos(angle);
          cosine[half + i] = std::sin(angle);
        }
      }
    }
  });
}

// One head of row `row` of the step.
void Attention::rope(float* out, const float* x, int64_t row) const {
  const auto half = int64_t(inv_freq_.size());
  const float* cosine = angles_.as<float>() + row * head_dim_;
  kernels_->rope(out, x, cosine, cosine + half, half);
  std::copy(x + 2 * half, x + head_dim_, out + 2 * half);
}

// The tokens of the span that lie in its `block`-th block, one KV head.
template <Format format>
void Attention::store_block(const SpanInput& s, const float* qkv, int32_t layer, int64_t head,
                            int32_t block) {
  const int64_t stride = (q_heads_ + 2 * kv_heads(layer)) * head_dim_;
  const int32_t id = s.block_table[size_t(block)];
  uint8_t* k_block = keys(layer, id, head);
  uint8_t* v_block = values(layer, id, head);
  const float k_by = 1.0f / k_scale_[size_t(layer)], v_by = 1.0f / v_scale_[size_t(layer)];
  const int64_t begin = std::max<int64_t>(block * block_size_, s.first_position);
  const int64_t end =
      std::min<int64_t>((block + 1) * block_size_, int64_t(s.first_position) + s.rows);
  for (int64_t position = begin; position < end; ++position) {
    const int64_t row = s.first_row + position - s.first_position;
    const size_t slot = size_t(position % block_size_);
    if (slot == 0) std::memset(v_block, 0, head_bytes_);
    const float* k = qkv + row * stride + (q_heads_ + head) * head_dim_;
    const float* v = k + kv_heads(layer) * head_dim_;
    float turned[kMaxHeadDim];
    rope(turned, k, row);
    uint8_t bits[kMaxHeadDim * 2];
    narrow<format>(bits, turned, head_dim_, k_by);
    put_keys<format>(k_block, bits, size_t(head_dim_), slot);
    narrow<format>(bits, v, head_dim_, v_by);
    put_values<format>(v_block, bits, size_t(head_dim_), size_t(block_size_), slot);
  }
}

void Attention::store(const StepInput& in, const float* qkv, float* q, int32_t layer) {
  const int64_t stride = (q_heads_ + 2 * kv_heads(layer)) * head_dim_;
  pool_->run([&](int thread) {
    const Range mine = share(in.rows(), thread, pool_->lanes());
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      for (int64_t h = 0; h < q_heads_; ++h) {
        rope(q + (r * q_heads_ + h) * head_dim_, qkv + r * stride + h * head_dim_, r);
      }
    }
    // One thread writes all of a block that the step writes: the first token clears the others.
    int64_t unit = 0;
    for (const SpanInput& s : in.spans) {
      const int32_t last = int32_t((int64_t(s.first_position) + s.rows - 1) / block_size_);
      for (int32_t b = int32_t(s.first_position / block_size_); b <= last; ++b) {
        for (int64_t h = 0; h < kv_heads(layer); ++h, ++unit) {
          if (unit % pool_->lanes() != thread) continue;
          if (format_ == Format::f16) store_block<Format::f16>(s, qkv, layer, h, b);
          if (format_ == Format::bf16) store_block<Format::bf16>(s, qkv, layer, h, b);
          if (format_ == Format::fp8) store_block<Format::fp8>(s, qkv, layer, h, b);
        }
      }
    }
  });
}

size_t Attention::room_bytes() const {
  // Of a row: queries and two sums [head_dim], scores and weights [block_size], maximum and total
  // of both sums.
  const size_t floats = size_t(room_rows() * (3 * head_dim_ + 2 * block_size_ + 4));
  return size_t(
      round_up(int64_t(floats * sizeof(float) + kernels_->scratch_bytes + kAlignment), kPage));
}

Attention::Room Attention::room_of(int thread) const {
  const int64_t rows = room_rows(), sums = rows * (head_dim_ + 2);
  float* at = reinterpret_cast<float*>(own_.data() + own_bytes_ * size_t(thread));
  Room room;
  room.all = sums_at(at, rows, head_dim_);
  room.more = sums_at(at += sums, rows, head_dim_);
  room.queries = at += sums;
  room.scores = at += rows * head_dim_;
  room.weights = at += rows * block_size_;
  at += rows * block_size_;
  room.scratch = reinterpret_cast<void*>(round_up(reinterpret_cast<intptr_t>(at), kAlignment));
  return room;
}

void Attention::attend(const StepInput& in, float* out, const float* q, int32_t layer,
                       float scale) {
  const int64_t kv_heads = this->kv_heads(layer);
  const Call call{in, out, q, layer, scale, kv_heads, q_heads_ / kv_heads};
  if (attend_shared(call)) return;
  // The longest first would be better still; pieces of one span grow with their position, so the
  // list is taken from its end.
  const int64_t items = int64_t(pieces_.size()) * kv_heads;
  std::atomic<int64_t> next{items};
  pool_->run([&](int thread) {
    if (kernels_->enter) kernels_->enter();
    const Room room = room_of(thread);
    for (int64_t item; (item = next.fetch_sub(1, std::memory_order_relaxed) - 1) >= 0;) {
      const Piece& piece = pieces_[size_t(item / kv_heads)];
      attend_piece(call, {in.spans[size_t(piece.span)], piece, item % kv_heads}, room);
    }
    if (kernels_->leave) kernels_->leave();
  });
}

int64_t Attention::stretches(const Unit& unit) const {
  return (unit.first_position() + unit.piece.rows + stretch_keys() - 1) / stretch_keys();
}

// Where there is less than two pieces of work a thread: stretch by stretch, on all threads.
bool Attention::attend_shared(const Call& call) {
  const int64_t pieces = int64_t(pieces_.size()), kv_heads = call.kv_heads;
  if (pool_->size() == 1 || pieces * kv_heads >= 2 * pool_->size()) return false;
  const auto unit = [&](int64_t i) -> Unit {
    const Piece& piece = pieces_[size_t(i / kv_heads)];
    return {call.in.spans[size_t(piece.span)], piece, i % kv_heads};
  };
  int64_t most = 0, rows = 0;
  for (int64_t i = 0; i < pieces; ++i) {
    most = std::max(most, stretches(unit(i * kv_heads)));
    rows = std::max<int64_t>(rows, pieces_[size_t(i)].rows);
  }
  const int64_t room_rows = rows * call.group + kernels_->row_step,
                each = room_rows * (head_dim_ + 2);
  if (most < 2 || size_t(pieces * kv_heads * most * each) * sizeof(float) > kSharedBytes)
    return false;
  const auto sums = [&](int64_t item) {
    return sums_at(shared_.as<float>() + item * each, room_rows, head_dim_);
  };
  const int64_t items = pieces * kv_heads * most;
  std::atomic<int64_t> next{items};
  pool_->run([&](int thread) {
    if (kernels_->enter) kernels_->enter();
    const Room room = room_of(thread);
    for (int64_t item; (item = next.fetch_sub(1, std::memory_order_relaxed) - 1) >= 0;) {
      const Unit u = unit(item / most);
      if (item % most < stretches(u)) attend_stretch(call, u, item % most, room, sums(item));
    }
    if (kernels_->leave) kernels_->leave();
    pool_->barrier();
    const Range mine = share(pieces * kv_heads, thread, pool_->lanes());
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const Unit u = unit(i);
      const Sums all = sums(i * most);
      for (int64_t n = 1; n < stretches(u); ++n) {
        add_stretch(all, sums(i * most + n), u.piece.rows * call.group);
      }
      write(call, u, all);
    }
  });
  return true;
}

void Attention::attend_piece(const Call& call, const Unit& unit, const Room& room) {
  for (int64_t n = 0; n < stretches(unit); ++n) {
    attend_stretch(call, unit, n, room, n == 0 ? room.all : room.more);
    if (n > 0) add_stretch(room.all, room.more, unit.piece.rows * call.group);
  }
  write(call, unit, room.all);
}

// Rows whose context ends before a stretch have a total of 0 in it.
void Attention::add_stretch(const Sums& all, const Sums& more, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    if (more.total[r] == 0) continue;
    const float maximum = std::max(all.maximum[r], more.maximum[r]);
    const float by = std::exp(all.maximum[r] - maximum),
                by_more = std::exp(more.maximum[r] - maximum);
    float* to = all.values + r * head_dim_;
    float* from = more.values + r * head_dim_;
    kernels_->multiply(to, by, head_dim_);
    kernels_->multiply(from, by_more, head_dim_);
    kernels_->add(to, from, nullptr, head_dim_);
    all.total[r] = all.total[r] * by + more.total[r] * by_more;
    all.maximum[r] = maximum;
  }
}

void Attention::write(const Call& call, const Unit& unit, const Sums& all) {
  for (int64_t r = 0; r < unit.piece.rows * call.group; ++r) {
    const int64_t row = unit.span.first_row + unit.piece.first + r / call.group;
    float* to = call.out + (row * q_heads_ + unit.head * call.group + r % call.group) * head_dim_;
    std::memcpy(to, all.values + r * head_dim_, size_t(head_dim_) * sizeof(float));
    kernels_->multiply(to, v_scale_[size_t(call.layer)] / all.total[r], head_dim_);
  }
}

// The piece's queries as the products take them; sums of nothing.
void Attention::take_queries(const Call& call, const Unit& unit, const Room& room, const Sums& to) {
  for (int64_t r = 0; r < unit.piece.rows * call.group; ++r) {
    const int64_t row = unit.span.first_row + unit.piece.first + r / call.group;
    const float* from =
        call.q + (row * q_heads_ + unit.head * call.group + r % call.group) * head_dim_;
    std::memcpy(room.queries + r * head_dim_, from, size_t(head_dim_) * sizeof(float));
    to.maximum[r] = -std::numeric_limits<float>::infinity();
    to.total[r] = 0;
  }
}

// The scores of the rows that reach the sequence's `block`-th block become weights.
void Attention::weigh(const Call& call, const Unit& unit, int64_t block, const Room& room,
                      const Sums& to) {
  const int64_t first_position = unit.first_position();
  const int64_t skip = std::max<int64_t>(0, block * block_size_ - first_position) * call.group;
  for (int64_t r = skip; r < unit.piece.rows * call.group; ++r) {
    SoftmaxArgs a;
    a.scores = room.scores + r * block_size_;
    a.probs = room.weights + r * block_size_;
    a.valid = int(std::min(block_size_, first_position + r / call.group + 1 - block * block_size_));
    a.padded = int(block_size_);
    a.scale = call.scale * k_scale_[size_t(call.layer)];
    a.maximum = to.maximum[r];
    a.sum = to.total[r];
    const float factor = kernels_->softmax(&a);
    to.maximum[r] = a.maximum;
    to.total[r] = a.sum;
    const bool has_sums = block % (stretch_keys() / block_size_) > 0;
    if (has_sums && factor != 1.0f)
      kernels_->multiply(to.values + r * head_dim_, factor, head_dim_);
  }
}

// The piece's rows over the keys of one stretch, from nothing.
void Attention::attend_stretch(const Call& call, const Unit& unit, int64_t stretch,
                               const Room& room, const Sums& to) {
  ticks_->fetch_add(1, std::memory_order_relaxed);
  take_queries(call, unit, room, to);
  const auto tile = kernels_->tile[int(format_)];
  const int64_t rows = unit.piece.rows * call.group;
  const int64_t first_position = unit.first_position();
  const int64_t last_position = first_position + unit.piece.rows - 1;
  const int64_t first_block = stretch * stretch_keys() / block_size_;
  const int64_t end_block = first_block + stretch_keys() / block_size_;
  for (int64_t b = first_block; b < end_block && b * block_size_ <= last_position; ++b) {
    const auto keys_of = [&](int64_t block) {
      return keys(call.layer, unit.span.block_table[size_t(block)], unit.head);
    };
    // Blocks lie anywhere, so the processor cannot guess the next one.
    const bool more = (b + 1) * block_size_ <= last_position;
    const int64_t to_next = more ? keys_of(b + 1) - keys_of(b) : 0;
    // Rows before `skip` end before this block: it must not touch them.
    const int64_t skip = std::max<int64_t>(0, b * block_size_ - first_position) * call.group;
    // Always the whole block, so that a row's sums are the same however far the others reach.
    tile({.a = room.queries + skip * head_dim_,
          .a_stride = head_dim_,
          .rows = int(rows - skip),
          .b = keys_of(b),
          .b_stride = head_dim_ * kPanel * int64_t(format_bytes(format_)),
          .panels = int(block_size_ / kPanel),
          .k = int(head_dim_),
          .c = room.scores + skip * block_size_,
          .c_stride = block_size_,
          .accumulate = false,
          .scratch = room.scratch,
          .ahead = to_next});
    weigh(call, unit, b, room, to);
    tile({.a = room.weights + skip * block_size_,
          .a_stride = block_size_,
          .rows = int(rows - skip),
          .b = values(call.layer, unit.span.block_table[size_t(b)], unit.head),
          .b_stride = block_size_ * kPanel * int64_t(format_bytes(format_)),
          .panels = int(head_dim_ / kPanel),
          .k = int(block_size_),
          .c = to.values + skip * head_dim_,
          .c_stride = head_dim_,
          .accumulate = b > first_block,
          .scratch = room.scratch,
          .ahead = to_next});
  }
}

}  // namespace nemotron::cpu
