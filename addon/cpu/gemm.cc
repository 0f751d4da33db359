#include "cpu/gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "device/assert.h"

namespace nemotron::cpu {
namespace {

// Most rows of activations that a row makes.
constexpr int64_t kMostTerms = 2;

// Elements from row to row of a block of activations. A stride of kKBlock would put the rows that
// are loaded together into few sets of a cache.
constexpr int64_t kRowStride = kKBlock + 32;
static_assert(sizeof(Int8Row) <= size_t(kRowStride) * sizeof(uint16_t));

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Elements of BF16 that a value of a row takes.
int64_t width_of(Activations kind) { return kind == Activations::f32 ? 2 : 1; }

void relu2(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float positive = x[i] < 0 ? 0.0f : x[i];  // NaN stays
    x[i] = positive * positive;
  }
}

}  // namespace

Status Gemm::reserve(int64_t k) {
  if (k <= max_k_) return {};
  const int64_t rows = round_up(kernels_->block_rows, kernels_->row_step);
  const int64_t padded = round_up(k, kKStep);
  const int64_t blocks = round_up(k, kKBlock) / kKBlock;
  HugeBuffer a;
  const size_t a_bytes = size_t(rows * blocks * kRowStride) * sizeof(uint16_t);
  if (Status s = HugeBuffer::create(a_bytes, &a); !s) return s;
  HugeBuffer sums;
  const size_t sums_bytes = size_t(rows * padded / 16) * sizeof(float);
  if (Status s = HugeBuffer::create(sums_bytes, &sums); !s) return s;
  HugeBuffer own;
  const size_t own_bytes = size_t(padded * pool_->size()) * sizeof(float);
  if (Status s = HugeBuffer::create(own_bytes, &own); !s) return s;
  if (c_.bytes() == 0) {
    static_assert(kMaxStretches <= 1 << (kBuffers - 1));
    scratch_bytes_ = size_t(round_up(int64_t(kernels_->scratch_bytes), 64));
    buffer_bytes_ = size_t(rows * kernels_->block_panels * kPanel) * sizeof(float);
    const size_t bytes = scratch_bytes_ + kBuffers * buffer_bytes_;
    if (Status s = HugeBuffer::create(bytes * size_t(pool_->size()), &c_); !s) return s;
  }
  a_ = std::move(a);
  sums_ = std::move(sums);
  rows_ = std::move(own);
  max_k_ = padded;
  return {};
}

void Gemm::multiply(const GemmInput& in, int64_t rows, const PackedMatrix& w,
                    const GemmOutput& out) {
  const auto takes = [&](Activations kind) {
    return std::ranges::any_of(w.segments, [&](const Segment& segment) {
      return kernels_->takes[int(segment.format)] == kind;
    });
  };
  // Formats that take different kinds of activations are rare in one matrix: each kind goes over
  // the rows by itself. A gate and its up are needed together, so their rows are there in both.
  std::optional<Activations> before;
  for (const auto kind : {Activations::int8, Activations::bf16, Activations::f32}) {
    if (!takes(kind)) continue;
    if (!w.has_two_lists()) {
      multiply_in(in, rows, w, out, {kind, {}});
    } else if (before) {
      return multiply_in(in, rows, w, out, {*before, kind});
    }
    before = kind;
  }
  if (w.has_two_lists()) multiply_in(in, rows, w, out, {*before, {}});
}

void Gemm::multiply_in(const GemmInput& in, int64_t rows, const PackedMatrix& w,
                       const GemmOutput& out, const Kinds& kinds) {
  const Block block = block_of(w.k);
  const int64_t blocks = round_up(w.k, kKBlock) / kKBlock;
  // A block's rows are of BF16. Of both kinds a_ then has room for what rounding up adds, too.
  const int64_t most =
      block.rows / (kinds.other ? 4 : width_of(kinds.first) * terms_of(kinds.first));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t n = std::min(most, rows - first);
    const auto chunk_of = [&](Activations kind) {
      const int64_t terms = terms_of(kind);
      return Chunk{first, n, terms, round_up(n * terms, kernels_->row_step), block.panels, kind};
    };
    Chunk chunk = chunk_of(kinds.first), other = chunk;
    if (kinds.other) {
      other = chunk_of(*kinds.other);
      const auto bytes = [&](const Chunk& c) {
        return size_t(c.padded * blocks * kRowStride * width_of(c.kind)) * sizeof(uint16_t);
      };
      other.begin = bytes(chunk);
      NEMOTRON_ASSERT(other.begin + bytes(other) <= a_.bytes());
      chunk.other = &other;
    }
    ticks_.fetch_add(1, std::memory_order_relaxed);
    pool_->run([&](int thread) {
      pack(in, chunk, w, thread);
      if (chunk.other) pack(in, other, w, thread);
      pool_->barrier();
      panels(chunk, w, out, thread);
    });
  }
}

int64_t Gemm::terms_of(Activations kind) const {
  return kind == Activations::bf16 && !round_ ? kMostTerms : 1;
}

Gemm::Block Gemm::block_of(int64_t k) const {
  const int64_t fit = kernels_->resident_bytes / (k * int64_t(sizeof(uint16_t))) / 32 * 32;
  if (fit < kResidentRows) return {kernels_->block_rows, kernels_->block_panels};
  return {std::min<int64_t>(fit, kernels_->block_rows), kResidentPanels};
}

Gemm::Row Gemm::normed(const Norm* norm, const float* x, int64_t n, int thread) {
  if (!norm) return {.x = x};
  const float* gain = norm->gain.as<float>();
  if (norm->kind == Norm::Kind::rms) {
    const float by = 1.0f / std::sqrt(kernels_->sum_squares(x, n) / float(n) + norm->eps);
    return {.x = x, .gain = gain, .by = by};
  }
  float* y = rows_.as<float>() + max_k_ * thread;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]);
  const float mean = float(sum / double(n));
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] - mean;
  const float by = 1.0f / std::sqrt(kernels_->sum_squares(y, n) / float(n) + norm->eps);
  const float* bias = norm->bias.as<float>();
  for (int64_t i = 0; i < n; ++i) y[i] = y[i] * by * gain[i] + bias[i];
  return {.x = y};
}

void Gemm::norm(const GemmInput& in, int64_t rows, int64_t cols, float* out, int64_t first_col,
                int64_t n) {
  pool_->run([&](int thread) {
    const Range mine = share(rows, thread, pool_->lanes());
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      const Row row = normed(in.norm, in.x + r * in.stride, cols, thread);
      const float* gain = row.gain ? row.gain + first_col : nullptr;
      kernels_->scale_f32(out + r * n, row.x + first_col, gain, row.by, n, n);
    }
  });
}

// a_ [block][row][kRowStride]; the second terms of all rows follow the first ones.
void Gemm::pack(const GemmInput& in, const Chunk& chunk, const PackedMatrix& w, int thread) {
  const bool bf16 = chunk.kind == Activations::bf16, int8 = chunk.kind == Activations::int8;
  const bool least = w.has_least && !int8 && chunk.kind == kernels_->takes[int(Format::i4)];
  const Range mine = share(chunk.rows, thread, pool_->lanes());
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const int64_t from = chunk.first + r;
    const float* x = in.x + (in.rows ? in.rows[from] : from) * in.stride;
    const Row row = normed(in.norm, x, w.cols, thread);
    for (int64_t k = 0; k < w.k; k += kKBlock) {
      const int64_t width = std::min<int64_t>(kKBlock, w.k - k);
      const int64_t at = (k / kKBlock * chunk.padded + r) * kRowStride;
      const int64_t used = std::min(width, w.cols - k);
      const float* gain = row.gain ? row.gain + k : nullptr;
      uint8_t* const to = a_.data() + chunk.begin;
      uint16_t* const high = reinterpret_cast<uint16_t*>(to) + at;
      if (int8) {
        kernels_->round_int8(reinterpret_cast<Int8Row*>(high), row.x + k, gain, row.by, used,
                             width);
      } else if (!bf16) {
        kernels_->scale_f32(reinterpret_cast<float*>(to) + at, row.x + k, gain, row.by, used,
                            width);
      } else if (chunk.terms == 1) {
        kernels_->scale_bf16(high, row.x + k, gain, row.by, used, width);
      } else {
        kernels_->split_bf16(high, high + chunk.rows * kRowStride, row.x + k, gain, row.by, used,
                             width);
      }
      for (int64_t term = 0; least && term < chunk.terms; ++term) {
        const int64_t of = at + term * chunk.rows * kRowStride;
        kernels_->sums(sums_.as<float>() + k / 16 * chunk.padded + r + term * chunk.rows,
                       chunk.padded, to + size_t(of) * (bf16 ? 2 : 4), width);
      }
    }
  }
}

void Gemm::multiply_strip(const Chunk& chunk, const PackedMatrix& w, const Strip& strip, float* c,
                          uint8_t* scratch) {
  const Segment& segment = *strip.segment;
  const bool grouped = is_grouped(segment.format);
  const bool int8 = chunk.kind == Activations::int8;
  const size_t a_size = size_t(width_of(chunk.kind)) * sizeof(uint16_t);
  const auto tile = kernels_->tile[int(segment.format)];
  const auto at = [&](int64_t p, int64_t k) {
    const size_t offset = grouped ? size_t(k / kGroupedBlock * segment.groups.block_bytes)
                                  : size_t(k) * kPanel * format_bytes(segment.format);
    return segment.panel(w.data.data(), p) + offset;
  };
  // Blocks of activations lie where pack() put them; a stretch may begin or end within one.
  for (int64_t k = strip.first_k; k < strip.end_k;) {
    const int64_t block = k / kKBlock * kKBlock;
    const int64_t block_width = std::min<int64_t>(kKBlock, w.k - block);
    const int64_t end = std::min(strip.end_k, block + block_width);
    // Fetching the block that comes next, not what lies so many bytes further, is worth a fifth
    // of the rate of FP8 weights: a panel of 2048 inputs is only 32 KiB long.
    const uint8_t* b = at(strip.panel, k);
    const uint8_t* next = end < w.k               ? at(strip.panel, end)
                          : strip.next_panel >= 0 ? at(strip.next_panel, 0)
                                                  : b;
    const int64_t from = block / kKBlock * chunk.padded * kRowStride + (int8 ? 0 : k - block);
    tile({.a = a_.data() + chunk.begin + size_t(from) * a_size,
          .a_stride = int8 ? kRowStride * int64_t(sizeof(uint16_t)) : kRowStride,
          .rows = int(chunk.rows * chunk.terms),
          .b = b,
          .b_stride = int64_t(segment.panel_bytes),
          .panels = int(strip.n),
          .k = int(end - k),
          .c = c,
          .c_stride = strip.n * kPanel,
          .accumulate = k > strip.first_k,
          .scratch = scratch,
          .ahead = next - b,
          .groups = &segment.groups,
          .skip = grouped ? int(k % kGroupedBlock) : 0,
          .sums = sums_.as<float>() + k / 16 * chunk.padded,
          .sums_stride = chunk.padded,
          .int8_from = int(k - block)});
    k = end;
  }
  if (chunk.terms < 2) return;
  const int64_t stride = strip.n * kPanel;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    kernels_->add(c + r * stride, c + (r + chunk.rows) * stride, nullptr, stride);
  }
}

// Like counting in binary: two sums of a level make one of the next.
float* Gemm::sum_stretches(const Chunk& chunk, const PackedMatrix& w, const Strip& whole,
                           uint8_t* own) {
  float* level[kBuffers];
  for (int i = 0; i < kBuffers; ++i) level[i] = buffer(own, i);
  float*& c = level[kBuffers - 1];
  const int64_t width = whole.end_k / w.stretches, n = chunk.rows * whole.n * kPanel;
  for (int64_t i = 0; i < w.stretches; ++i) {
    Strip strip = whole;
    strip.first_k = i * width, strip.end_k = (i + 1) * width;
    multiply_strip(chunk, w, strip, c, own);
    int l = 0;
    for (; i >> l & 1; ++l) kernels_->add(c, level[l], nullptr, n);
    std::swap(c, level[i + 1 < w.stretches ? l : kBuffers - 1]);
  }
  return c;
}

void Gemm::panels(const Chunk& chunk, const PackedMatrix& w, const GemmOutput& out, int thread) {
  if (kernels_->enter) kernels_->enter();
  if (w.has_two_lists()) {
    share_of(chunk, w, 0, w.panels, out, thread);
  } else {
    for (const Segment& segment : w.segments) {
      if (kernels_->takes[int(segment.format)] != chunk.kind) continue;
      share_of(chunk, w, segment.first_panel, segment.panels, out, thread);
    }
  }
  if (kernels_->leave) kernels_->leave();
}

const float* Gemm::strip(const Chunk& chunk, const PackedMatrix& w, int64_t panel, int64_t n,
                         int64_t end, uint8_t* own) {
  const Strip whole{.segment = w.place(panel).segment,
                    .panel = panel,
                    .n = n,
                    .next_panel = panel + n < end ? panel + n : -1,
                    .first_k = 0,
                    .end_k = w.k};
  return sum_stretches(chunk, w, whole, own);
}

// Gates and ups of different formats: each list by itself, and then panel by panel in turn.
const float* Gemm::two_lists(const Chunk& chunk, const PackedMatrix& w, int64_t panel, int64_t n,
                             int64_t end, uint8_t* own) {
  float* const to = buffer(own, kBuffers - 1);
  for (int64_t list = 0; list < 2; ++list) {
    float* const c = buffer(own, int(list));
    const auto [segment, first] = w.place(panel + list);
    const Strip half{.segment = segment,
                     .panel = first,
                     .n = n / 2,
                     .next_panel = panel + n < end ? first + n / 2 : -1,
                     .first_k = 0,
                     .end_k = w.k};
    const bool first_kind = kernels_->takes[int(segment->format)] == chunk.kind;
    multiply_strip(first_kind ? chunk : *chunk.other, w, half, c, own);
    for (int64_t from = 0; from < chunk.rows * n / 2; ++from) {
      std::memcpy(to + (2 * from + list) * kPanel, c + from * kPanel, kPanel * sizeof(float));
    }
  }
  return to;
}

void Gemm::share_of(const Chunk& chunk, const PackedMatrix& w, int64_t first, int64_t panels,
                    const GemmOutput& out, int thread) {
  // Pairs, so that a thread's share does not end between a gate and its up.
  const Range mine = share((panels + 1) / 2, thread, pool_->lanes());
  const int64_t end = first + std::min(mine.end * 2, panels);
  // A few rows are bound by memory: panels that are read side by side, each from end to end.
  const Format format = w.place(first).segment->format;
  const int64_t few = kernels_->few_panels(format, int(chunk.rows * chunk.terms));
  const int64_t step = few > 0 ? few : chunk.panels;
  const int64_t width = out.kind == GemmOutput::Kind::silu_mul ? w.rows / 2 : w.rows;
  const bool far = chunk.rows * width * int64_t(sizeof(float)) > kernels_->far_bytes;
  uint8_t* own = c_.data() + (scratch_bytes_ + kBuffers * buffer_bytes_) * size_t(thread);
  for (int64_t panel = first + mine.begin * 2, next; panel < end; panel = next) {
    const int64_t n = std::min(step, end - panel), stride = n * kPanel;
    next = panel + n;
    const float* c = w.has_two_lists() ? two_lists(chunk, w, panel, n, end, own)
                                       : strip(chunk, w, panel, n, end, own);
    const float* scale = w.scale.empty() || out.is_part ? nullptr : w.scale.data() + panel * kPanel;
    for (int64_t r = 0; r < chunk.rows; ++r) {
      const float* sums = c + r * stride;
      const int64_t row = chunk.first + r;
      float* to = out.rows ? out.rows[row] : out.data + row * out.stride;
      if (out.kind == GemmOutput::Kind::silu_mul) {
        const int64_t at = panel / 2 * kPanel;
        kernels_->silu_mul(to + at, sums, scale, std::min(stride / 2, width - at), far);
        continue;
      }
      const int64_t at = panel * kPanel, used = std::min(stride, w.rows - at);
      if (out.kind == GemmOutput::Kind::add) {
        kernels_->add(to + at, sums, scale, used);
      } else {
        const bool done = out.kind != GemmOutput::Kind::relu2;
        kernels_->store(to + at, sums, scale, used, far && done);
        if (!done) relu2(to + at, used);
      }
    }
  }
}

}  // namespace nemotron::cpu
