#include "cpu/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>

#include "device/weight_parts.h"

namespace nemotron::cpu {
namespace {

// One row of the checkpoint: where it is and what its values are multiplied by.
struct SourceRow {
  const MatrixPart* part = nullptr;
  int64_t row = 0;
  float scale = 1;
  const uint8_t* data() const {
    return static_cast<const uint8_t*>(part->data) +
           size_t(row) * size_t(part->row_stride) * dtype_bytes(part->dtype);
  }
};

SourceRow source_row(std::span<const MatrixPart> parts, int64_t row) {
  for (const MatrixPart& p : parts) {
    if (row < p.rows) {
      const float scale = p.scale.empty() ? 1.0f : p.scale[p.scale.size() == 1 ? 0 : size_t(row)];
      return {&p, row, scale};
    }
    row -= p.rows;
  }
  return {};
}

// Rows of numbers from one type to another; the compiler makes vectors of the loops. Stored rows
// have no alignment.
template <class T>
T stored_at(const uint8_t* p, size_t i) {
  T v;
  std::memcpy(&v, p + i * sizeof(T), sizeof(T));
  return v;
}
void widen(const uint8_t* p, DType t, size_t n, float* out) {
  switch (t) {
    case DType::f32: std::memcpy(out, p, n * 4); return;
    case DType::f16:
      for (size_t i = 0; i < n; ++i) out[i] = f16_to_f32(stored_at<uint16_t>(p, i));
      return;
    case DType::bf16:
      for (size_t i = 0; i < n; ++i) out[i] = bf16_to_f32(stored_at<uint16_t>(p, i));
      return;
    case DType::fp8_e4m3:
      for (size_t i = 0; i < n; ++i) out[i] = e4m3_to_f32(p[i]);
      return;
    case DType::i32: return;
  }
}
// Of values that the format holds exactly.
void narrow(const float* x, Format format, size_t n, uint8_t* out) {
  const auto each = [&](auto&& convert) {
    for (size_t i = 0; i < n; ++i) {
      const auto v = convert(x[i]);
      std::memcpy(out + i * sizeof v, &v, sizeof v);
    }
  };
  switch (format) {
    case Format::f32: std::memcpy(out, x, n * 4); return;
    case Format::f16: each(f32_to_f16); return;
    case Format::bf16: each(f32_to_bf16); return;
    case Format::fp8: each(f32_to_e4m3); return;
  }
}
float get(const uint8_t* p, Format format) {
  switch (format) {
    case Format::f32: return stored_at<float>(p, 0);
    case Format::f16: return f16_to_f32(stored_at<uint16_t>(p, 0));
    case Format::bf16: return bf16_to_f32(stored_at<uint16_t>(p, 0));
    case Format::fp8: return e4m3_to_f32(*p);
  }
  return 0;
}

Format same_format(DType t) {
  return t == DType::f32    ? Format::f32
         : t == DType::f16  ? Format::f16
         : t == DType::bf16 ? Format::bf16
                            : Format::fp8;
}

// The narrowest format that holds every part exactly.
Format format_of(std::span<const MatrixPart> parts) {
  Format f = same_format(parts[0].dtype);
  for (const MatrixPart& p : parts) {
    const Format g = same_format(p.dtype);
    if (g == f) continue;
    const bool bf16 =
        (f == Format::bf16 && g == Format::fp8) || (f == Format::fp8 && g == Format::bf16);
    const bool f16 =
        (f == Format::f16 && g == Format::fp8) || (f == Format::fp8 && g == Format::f16);
    f = bf16 ? Format::bf16 : f16 ? Format::f16 : Format::f32;
  }
  return f;
}

// Packs 16 rows at a time, one thread each: each row in turn as the format has it, then all of them
// woven into a panel while they lie in the caches. The weaving moves words of 4 bytes, 64 bytes of
// every row at a time, so that each line of memory is read and written once; writing row after row
// into the lanes of a panel took 15 ns a word.
class Packer {
 public:
  // quantise: null where every value keeps its own.
  Packer(std::span<const MatrixPart> parts, decltype(Kernels::quantise) quantise, PackedMatrix* m)
      : parts_(parts), quantise_(quantise), m_(*m), row_(size_t(m->cols) + 1) {
    if (m->use == WeightUse::embedding) return;
    // A whole line more than the row: rows 4 KiB apart would fall on the same lines of the cache.
    row_bytes_ = size_t(m->k) * format_bytes(m->format) + 64;
    rows_.resize(kPanel * row_bytes_);
  }

  // Row `row` of an embedding.
  void embedding_row(int64_t row) {
    const size_t bytes = size_t(m_.cols) * format_bytes(m_.format);
    convert(row, row, m_.data.data() + size_t(row) * bytes);
  }

  void panel(int64_t panel) {
    // In a gate_up matrix even panels are gates and odd ones are ups.
    const int64_t lists = m_.use == WeightUse::gate_up ? 2 : 1, each = m_.rows / lists;
    const int64_t first = panel / lists * kPanel, list = panel % lists;
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      uint8_t* to = rows_.data() + size_t(lane) * row_bytes_;
      if (first + lane < each) {
        convert(list * each + first + lane, panel * kPanel + lane, to);
      } else {
        std::memset(to, 0, row_bytes_);
      }
    }
    weave(m_.data.data() + size_t(panel) * m_.panel_bytes);
  }

 private:
  // out [cols] = row `row` of the checkpoint in the format; its scale goes to `packed`.
  void convert(int64_t row, int64_t packed, uint8_t* out) {
    const SourceRow s = source_row(parts_, row);
    const size_t cols = size_t(m_.cols);
    float scale = 1;
    if (same_format(s.part->dtype) == m_.format) {
      std::memcpy(out, s.data(), cols * format_bytes(m_.format));
    } else {
      widen(s.data(), s.part->dtype, cols, row_.data());
      if (quantise_ && !s.part->row_largest.empty()) {
        // The largest of the whole row goes along; `out` has room behind the row, which stays 0.
        row_[cols] = s.part->row_largest[size_t(s.row)];
        scale = quantise_(row_.data(), m_.cols + 1, out);
        out[cols] = 0;
      } else if (quantise_) {
        scale = quantise_(row_.data(), m_.cols, out);
      } else {
        narrow(row_.data(), m_.format, cols, out);
      }
    }
    if (!m_.scale.empty()) m_.scale[size_t(packed)] = scale * s.scale;
  }

  void weave(uint8_t* out) const {
    constexpr size_t kWords = 16;  // of 4 bytes: a line
    const size_t words = size_t(m_.k) * format_bytes(m_.format) / 4;
    for (size_t first = 0; first < words; first += kWords) {
      const size_t n = std::min(kWords, words - first);
      alignas(64) uint32_t line[kWords][kPanel];
      for (size_t lane = 0; lane < kPanel; ++lane) {
        uint32_t word[kWords];
        std::memcpy(word, rows_.data() + lane * row_bytes_ + first * 4, sizeof word);
        for (size_t i = 0; i < kWords; ++i) line[i][lane] = word[i];
      }
      for (size_t i = 0; i < n; ++i) order(line[i], out + (first + i) * 64);
    }
  }

  // The 16 lanes' words in the order of the format's panel (kernels.h).
  void order(const uint32_t* line, uint8_t* out) const {
    const uint8_t* in = reinterpret_cast<const uint8_t*>(line);
    switch (m_.format) {
      case Format::f32:
      case Format::bf16: std::memcpy(out, line, 64); return;
      case Format::f16:
        for (size_t lane = 0; lane < kPanel; ++lane) {
          std::memcpy(out + lane * 2, in + lane * 4, 2);
          std::memcpy(out + 32 + lane * 2, in + lane * 4 + 2, 2);
        }
        return;
      case Format::fp8:
        for (size_t lane = 0; lane < kPanel; ++lane) {
          uint8_t* to = out + lane / 4 * 16 + lane % 4 * 2;
          std::memcpy(to, in + lane * 4, 2);
          std::memcpy(to + 8, in + lane * 4 + 2, 2);
        }
        return;
    }
  }

  std::span<const MatrixPart> parts_;
  const decltype(Kernels::quantise) quantise_;
  PackedMatrix& m_;
  std::vector<float> row_;     // [cols], and one more
  std::vector<uint8_t> rows_;  // [16][row_bytes_]; what lies behind cols stays 0
  size_t row_bytes_ = 0;
};

}  // namespace

void PackedMatrix::read_row(int64_t row, float* out) const {
  const size_t size = format_bytes(format);
  const float s =
      scale.empty() ? 1.0f : scale[size_t(use == WeightUse::embedding ? row : packed_row(row))];
  if (use == WeightUse::embedding) {
    const uint8_t* p = data.data() + size_t(row) * size_t(cols) * size;
    for (int64_t k = 0; k < cols; ++k) out[k] = get(p + size_t(k) * size, format) * s;
    return;
  }
  const int64_t packed = packed_row(row);
  const uint8_t* p = data.data() + size_t(packed / kPanel) * panel_bytes;
  for (int64_t k = 0; k < cols; ++k) {
    out[k] = get(p + panel_offset(format, size_t(k), size_t(packed % kPanel)), format) * s;
  }
}

Status pack_matrix(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                   const Kernels* kernels, ThreadPool* pool, PackedMatrix* out) {
  if (Status s = check_parts(parts, use); !s) return s;
  PackedMatrix m;
  m.use = use;
  m.cols = parts[0].cols;
  bool scaled = false;
  for (const MatrixPart& p : parts) {
    m.rows += p.rows;
    scaled = scaled || !p.scale.empty();
  }
  const Format stored = format_of(parts);
  const bool quantise = format == WeightFormat::fp8 && stored != Format::fp8;
  m.format = quantise ? Format::fp8 : stored;
  m.k = (m.cols + kKStep - 1) / kKStep * kKStep;
  m.first_row = parts[0].first_row;
  m.stretches = parts[0].stretches;
  if (m.stretches > 1 && m.cols % (m.stretches * kKStep) != 0) {
    return Status::invalid("stretches of " + std::to_string(m.cols / m.stretches) +
                           " columns; expected a multiple of " + std::to_string(kKStep));
  }
  const int64_t lists = use == WeightUse::gate_up ? 2 : 1, each = m.rows / lists;
  m.panels = (each + kPanel - 1) / kPanel * lists;
  m.panel_bytes = size_t(m.k) * kPanel * format_bytes(m.format);
  const bool rows_only = use == WeightUse::embedding;
  const size_t bytes = rows_only ? size_t(m.rows) * size_t(m.cols) * format_bytes(m.format)
                                 : size_t(m.panels) * m.panel_bytes;
  if (Status s = HugeBuffer::create(bytes, &m.data); !s) return s;
  if (scaled || quantise) m.scale.assign(size_t(rows_only ? m.rows : m.panels * kPanel), 1.0f);

  // Small shares taken one by one: pages are touched in order, and no thread waits long at the end.
  const int64_t items = rows_only ? m.rows : m.panels, step = rows_only ? kPanel : 1;
  std::atomic<int64_t> next{0};
  std::vector<Packer> packers(size_t(pool->size()),
                              Packer(parts, quantise ? kernels->quantise : nullptr, &m));
  pool->run([&](int thread) {
    Packer& packer = packers[size_t(thread)];
    for (int64_t begin; (begin = next.fetch_add(step)) < items;) {
      for (int64_t i = begin; i < std::min(begin + step, items); ++i) {
        if (rows_only) {
          packer.embedding_row(i);
        } else {
          packer.panel(i);
        }
      }
    }
  });
  *out = std::move(m);
  return {};
}

}  // namespace nemotron::cpu
