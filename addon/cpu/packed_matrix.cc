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

float to_float(const uint8_t* p, DType t, int64_t i) {
  uint16_t h;
  float f;
  switch (t) {
    case DType::f32: std::memcpy(&f, p + i * 4, 4); return f;
    case DType::f16: std::memcpy(&h, p + i * 2, 2); return f16_to_f32(h);
    case DType::bf16: std::memcpy(&h, p + i * 2, 2); return bf16_to_f32(h);
    case DType::fp8_e4m3: return e4m3_to_f32(p[i]);
    case DType::i32: break;
  }
  return 0;
}

// An f16 that holds `f` exactly: only ever called for values that came from one.
uint16_t to_f16_exact(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f), sign = u >> 16 & 0x8000u;
  const uint32_t exp = u >> 23 & 255u, man = u & 0x7fffffu;
  if (exp == 255) return uint16_t(sign | 0x7c00u | man >> 13);
  if (exp < 113) return uint16_t(sign | uint32_t(std::ldexp(std::fabs(f), 24)));
  return uint16_t(sign | (exp - 112) << 10 | man >> 13);
}

void put(uint8_t* p, Format format, float f) {
  uint16_t h = 0;
  switch (format) {
    case Format::f32: std::memcpy(p, &f, 4); return;
    case Format::f16: h = to_f16_exact(f); break;
    case Format::bf16: h = f32_to_bf16(f); break;
    case Format::fp8: *p = f32_to_e4m3(f); return;
  }
  std::memcpy(p, &h, 2);
}

float get(const uint8_t* p, Format format) {
  switch (format) {
    case Format::f32: return to_float(p, DType::f32, 0);
    case Format::f16: return to_float(p, DType::f16, 0);
    case Format::bf16: return to_float(p, DType::bf16, 0);
    case Format::fp8: return e4m3_to_f32(*p);
  }
  return 0;
}

// The narrowest format that holds every part exactly.
Format format_of(std::span<const MatrixPart> parts) {
  const auto is = [](DType t) {
    return t == DType::f32    ? Format::f32
           : t == DType::f16  ? Format::f16
           : t == DType::bf16 ? Format::bf16
                              : Format::fp8;
  };
  Format f = is(parts[0].dtype);
  for (const MatrixPart& p : parts) {
    const Format g = is(p.dtype);
    if (g == f) continue;
    const bool bf16 =
        (f == Format::bf16 && g == Format::fp8) || (f == Format::fp8 && g == Format::bf16);
    const bool f16 =
        (f == Format::f16 && g == Format::fp8) || (f == Format::fp8 && g == Format::f16);
    f = bf16 ? Format::bf16 : f16 ? Format::f16 : Format::f32;
  }
  return f;
}

// out [cols] = the row as stored, as float32.
void widen_row(const SourceRow& s, int64_t cols, float* out) {
  const uint8_t* p = s.data();
  switch (s.part->dtype) {
    case DType::f32: std::memcpy(out, p, size_t(cols) * 4); return;
    case DType::bf16:
      for (int64_t k = 0; k < cols; ++k) out[k] = to_float(p, DType::bf16, k);
      return;
    default:
      for (int64_t k = 0; k < cols; ++k) out[k] = to_float(p, s.part->dtype, k);
  }
}

// Packs rows, one thread each.
class Packer {
 public:
  Packer(std::span<const MatrixPart> parts, bool quantise, PackedMatrix* m)
      : parts_(parts), quantise_(quantise), m_(*m), row_(size_t(m->cols)) {}

  // Row `row` of an embedding.
  void embedding_row(int64_t row) {
    const SourceRow s = source_row(parts_, row);
    const size_t bytes = size_t(m_.cols) * format_bytes(m_.format);
    uint8_t* out = m_.data.data() + size_t(row) * bytes;
    if (same(s)) {
      std::memcpy(out, s.data(), bytes);
    } else {
      convert(s, row);
      const size_t size = format_bytes(m_.format);
      for (size_t k = 0; k < size_t(m_.cols); ++k) put(out + k * size, m_.format, row_[k]);
    }
    if (!quantise_ && !m_.scale.empty()) m_.scale[size_t(row)] = s.scale;
  }

  // Output `row` of the checkpoint into its lane of its panel.
  void panel_row(int64_t row) {
    const SourceRow s = source_row(parts_, row);
    const int64_t packed = m_.packed_row(row);
    uint8_t* out = m_.data.data() + size_t(packed / kPanel) * m_.panel_bytes;
    const size_t lane = size_t(packed % kPanel);
    const uint8_t* in = s.data();
    const size_t cols = size_t(m_.cols);
    if (same(s) && m_.format == Format::bf16) {
      size_t k = 0;
      for (; k + 2 <= cols; k += 2) std::memcpy(out + k / 2 * 64 + lane * 4, in + k * 2, 4);
      if (k < cols) std::memcpy(out + k / 2 * 64 + lane * 4, in + k * 2, 2);
    } else if (same(s)) {
      const size_t size = format_bytes(m_.format);
      for (size_t k = 0; k < cols; ++k) {
        std::memcpy(out + panel_offset(m_.format, k, lane), in + k * size, size);
      }
    } else {
      convert(s, packed);
      if (m_.format == Format::fp8) {
        for (size_t k = 0; k < cols; ++k) {
          out[panel_offset(Format::fp8, k, lane)] = f32_to_e4m3(row_[k]);
        }
      } else {
        for (size_t k = 0; k < cols; ++k) {
          put(out + panel_offset(m_.format, k, lane), m_.format, row_[k]);
        }
      }
    }
    if (!quantise_ && !m_.scale.empty()) m_.scale[size_t(packed)] = s.scale;
  }

 private:
  bool same(const SourceRow& s) const {
    switch (s.part->dtype) {
      case DType::f32: return m_.format == Format::f32;
      case DType::f16: return m_.format == Format::f16;
      case DType::bf16: return m_.format == Format::bf16;
      case DType::fp8_e4m3: return m_.format == Format::fp8;
      case DType::i32: break;
    }
    return false;
  }

  // row_ = the row, ready to be rounded to the format; its scale goes to `packed`.
  void convert(const SourceRow& s, int64_t packed) {
    widen_row(s, m_.cols, row_.data());
    if (!quantise_) return;
    float most = 0;
    for (float v : row_) most = std::max(most, std::fabs(v));
    const float scale = most > 0 ? most / 448.0f : 1.0f;
    for (float& v : row_) v /= scale;
    m_.scale[size_t(packed)] = scale * s.scale;
  }

  std::span<const MatrixPart> parts_;
  const bool quantise_;
  PackedMatrix& m_;
  std::vector<float> row_;
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
                   ThreadPool* pool, PackedMatrix* out) {
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
  const int64_t lists = use == WeightUse::gate_up ? 2 : 1, each = m.rows / lists;
  m.panels = (each + kPanel - 1) / kPanel * lists;
  m.panel_bytes = size_t(m.k) * kPanel * format_bytes(m.format);
  const bool rows_only = use == WeightUse::embedding;
  const size_t bytes = rows_only ? size_t(m.rows) * size_t(m.cols) * format_bytes(m.format)
                                 : size_t(m.panels) * m.panel_bytes;
  if (Status s = HugeBuffer::create(bytes, &m.data); !s) return s;
  if (scaled || quantise) m.scale.assign(size_t(rows_only ? m.rows : m.panels * kPanel), 1.0f);

  // Small shares taken one by one: pages are touched in order, and no thread waits long at the end.
  std::atomic<int64_t> next{0};
  std::vector<Packer> packers(size_t(pool->size()), Packer(parts, quantise, &m));
  pool->run([&](int thread) {
    Packer& packer = packers[size_t(thread)];
    for (int64_t begin; (begin = next.fetch_add(kPanel)) < m.rows;) {
      for (int64_t row = begin; row < std::min(begin + kPanel, m.rows); ++row) {
        if (rows_only) {
          packer.embedding_row(row);
        } else {
          packer.panel_row(row);
        }
      }
    }
  });
  *out = std::move(m);
  return {};
}

}  // namespace nemotron::cpu
