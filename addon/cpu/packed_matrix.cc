#include "cpu/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "device/group_rows.h"
#include "device/weight_parts.h"

namespace nemotron::cpu {
namespace {

// One row of the checkpoint: whose it is and what its values are multiplied by.
struct SourceRow {
  const MatrixPart* part = nullptr;
  int64_t row = 0;
  float scale = 1;
};

// Bytes of source rows. Those of a part that is stored are read as many at a time as a panel takes,
// which stay in the caches until they are packed.
class RowReader {
 public:
  // Null when they cannot be read: status(). Valid until the next call.
  const uint8_t* bytes_of(const SourceRow& s) {
    const MatrixPart& part = *s.part;
    const size_t size = dtype_bytes(part.dtype);
    if (!part.stored) {
      return static_cast<const uint8_t*>(part.data) +
             size_t(s.row) * size_t(part.row_stride) * size;
    }
    const size_t row_bytes = size_t(part.cols) * size;
    if (part_ != &part || s.row < first_ || s.row >= end_) {
      part_ = &part, first_ = s.row, end_ = std::min(part.rows, s.row + kPanel);
      bytes_.resize(std::max(bytes_.size(), kPanel * row_bytes));
      if (Status read = part.stored->read(first_, end_ - first_, bytes_.data()); !read) {
        status_ = std::move(read), part_ = nullptr;
        return nullptr;
      }
    }
    return bytes_.data() + size_t(s.row - first_) * row_bytes;
  }
  const Status& status() const { return status_; }

 private:
  std::vector<uint8_t> bytes_;
  const MatrixPart* part_ = nullptr;
  int64_t first_ = 0, end_ = 0;
  Status status_;
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
    default: return;
  }
}
float get(const uint8_t* p, Format format) {
  switch (format) {
    case Format::f32: return stored_at<float>(p, 0);
    case Format::f16: return f16_to_f32(stored_at<uint16_t>(p, 0));
    case Format::bf16: return bf16_to_f32(stored_at<uint16_t>(p, 0));
    case Format::fp8: return e4m3_to_f32(*p);
    default: return 0;
  }
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

// What a segment is made of.
struct SegmentPlan {
  int64_t end_row = 0;
  std::optional<GroupedForm> grouped = {};
};

// Packs 16 rows at a time, one thread each: each row in turn as the format has it, then all of them
// woven into a panel while they lie in the caches. The weaving moves words of 4 bytes, 64 bytes of
// every row at a time, so that each line of memory is read and written once; writing row after row
// into the lanes of a panel took 15 ns a word.
class Packer {
 public:
  // quantise: to FP8; null where every value keeps its own.
  // bad_row: the first row that cannot be quantised in groups, or the number of rows.
  Packer(std::span<const MatrixPart> parts, const std::vector<SegmentPlan>& plans,
         decltype(Kernels::quantise) quantise, std::atomic<int64_t>* bad_row, PackedMatrix* m)
      : parts_(parts),
        plans_(plans),
        quantise_(quantise),
        bad_row_(*bad_row),
        m_(*m),
        row_(size_t(m->cols) + 1) {
    if (m->is_rows()) return;
    size_t widest = 0;
    for (size_t i = 0; i < plans.size(); ++i) {
      if (!plans[i].grouped) widest = std::max(widest, format_bytes(m->segments[i].format));
      if (plans[i].grouped && lanes_.empty()) lanes_.resize(kPanel);
    }
    // A whole line more than the row: rows 4 KiB apart would fall on the same lines of the cache.
    row_bytes_ = size_t(m->k) * widest + 64;
    rows_.resize(widest ? kPanel * row_bytes_ : 0);
  }

  // Row `row` of an embedding.
  void embedding_row(int64_t row) {
    const size_t bytes = size_t(m_.cols) * format_bytes(m_.format());
    convert(row, row, m_.format(), m_.data.data() + size_t(row) * bytes);
  }

  // Ok, or why rows could not be read: what was packed since then is nothing.
  const Status& status() const { return reader_.status(); }

  void panel(int64_t panel) {
    // In a gate_up matrix even panels are gates and odd ones are ups.
    const int64_t lists = m_.use == WeightUse::gate_up ? 2 : 1, each = m_.rows / lists;
    const int64_t first = panel / lists * kPanel, list = panel % lists;
    const auto [place, in_segments] = m_.place(panel);
    const Segment& segment = *place;
    const SegmentPlan& plan = plans_[size_t(&segment - m_.segments.data())];
    const int64_t end = std::min(each, plan.end_row);
    GroupedRow lane_rows[kPanel];
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      const int64_t row = list * each + first + lane;
      const bool used = first + lane < end;
      if (plan.grouped) {
        lane_rows[lane] = group_lane(used ? row : -1, *plan.grouped, lane);
        continue;
      }
      uint8_t* to = rows_.data() + size_t(lane) * row_bytes_;
      if (used) {
        convert(row, panel * kPanel + lane, segment.format, to);
      } else {
        std::memset(to, 0, row_bytes_);
      }
    }
    uint8_t* out = m_.data.data() + segment.begin +
                   size_t(in_segments - segment.first_panel) * segment.panel_bytes;
    if (plan.grouped) {
      weave_groups(lane_rows, *plan.grouped, out);
    } else {
      weave(segment.format, out);
    }
  }

 private:
  // out [cols] = row `row` of the checkpoint in the format; its scale goes to `packed`.
  void convert(int64_t row, int64_t packed, Format format, uint8_t* out) {
    const SourceRow s = source_row(parts_, row);
    const uint8_t* const from = reader_.bytes_of(s);
    if (!from) return;
    const size_t cols = size_t(m_.cols);
    float scale = 1;
    if (same_format(s.part->dtype) == format) {
      std::memcpy(out, from, cols * format_bytes(format));
    } else {
      widen(from, s.part->dtype, cols, row_.data());
      if (quantise_ && !s.part->row_largest.empty()) {
        // The largest of the whole row goes along; `out` has room behind the row, which stays 0.
        row_[cols] = s.part->row_largest[size_t(s.row)];
        scale = quantise_(row_.data(), m_.cols + 1, out);
        out[cols] = 0;
      } else if (quantise_) {
        scale = quantise_(row_.data(), m_.cols, out);
      } else {
        narrow(row_.data(), format, cols, out);
      }
    }
    if (!m_.scale.empty()) m_.scale[size_t(packed)] = scale * s.scale;
  }

  // Row `row` in groups, of the part's first column on; -1: zeros.
  GroupedRow group_lane(int64_t row, const GroupedForm& form, int64_t lane) {
    GroupedLane& to = lanes_[size_t(lane)];
    if (row < 0) {
      to.reserve(form, m_.cols);
      return to.from(form, 0);
    }
    const SourceRow s = source_row(parts_, row);
    const GroupedRows* rows = s.part->grouped;
    to.reserve(form, rows ? rows->cols() : m_.cols);
    if (rows) {
      rows->read(s.part->first_stored + s.row, to.from(form, 0));
      return to.from(form, s.part->first_col);
    }
    if (const uint8_t* const from = reader_.bytes_of(s)) {
      widen(from, s.part->dtype, size_t(m_.cols), row_.data());
    }
    if (!all_finite(row_.data(), m_.cols)) {
      int64_t first = bad_row_;
      while (row < first && !bad_row_.compare_exchange_weak(first, row)) {
      }
    }
    quantise_groups(row_.data(), m_.cols, form.bits, to.from(form, 0));
    return to.from(form, 0);
  }

  // The layout of kernels.h.
  void weave_groups(const GroupedRow (&lanes)[kPanel], const GroupedForm& form,
                    uint8_t* out) const {
    const auto blocks = int64_t(form.panel_bytes(m_.k) / form.block_bytes());
    const int64_t halves = kGroupedBlock / form.scale_every(), steps = kGroupedBlock / form.group;
    for (int64_t block = 0; block < blocks; ++block, out += form.block_bytes()) {
      uint8_t* to = out;
      const auto put_halves = [&](uint16_t* GroupedRow::*of) {
        for (int64_t i = 0; i < halves; ++i, to += 2 * kPanel) {
          for (int64_t lane = 0; lane < kPanel; ++lane) {
            std::memcpy(to + 2 * lane, lanes[lane].*of + block * halves + i, 2);
          }
        }
      };
      const auto put_steps = [&](int8_t* GroupedRow::*of) {
        for (int64_t i = 0; i < steps; ++i, to += kPanel) {
          for (int64_t lane = 0; lane < kPanel; ++lane) {
            to[lane] = uint8_t((lanes[lane].*of)[block * steps + i]);
          }
        }
      };
      put_halves(&GroupedRow::scale);
      if (form.has_least) put_halves(&GroupedRow::least);
      if (form.has_steps) put_steps(&GroupedRow::steps);
      if (form.has_steps && form.has_least) put_steps(&GroupedRow::least_steps);
      to = out + form.scales_bytes();
      for (int64_t chunk = 0; chunk < kGroupedBlock; chunk += kGroupedChunk) {
        for (int64_t lane = 0; lane < kPanel; ++lane) {
          put_codes(lanes[lane].codes + block * kGroupedBlock + chunk, form.bits, size_t(lane), to);
        }
        to += form.chunk_bytes();
      }
    }
  }

  // The lowest four bits of bytes 0, 2, 4 and 6 of x, one behind the other.
  static uint32_t four(uint64_t x) {
    uint64_t e = x & 0x000f000f000f000fu;
    e = (e | e >> 12) & 0x000000ff000000ffu;
    return uint32_t(e | e >> 24) & 0xffffu;
  }

  // A lane's 32 codes of a chunk.
  static void put_codes(const uint8_t* codes, int bits, size_t lane, uint8_t* out) {
    if (bits == 8) {
      for (size_t k = 0; k < kGroupedChunk; ++k) out[k * kPanel + lane] = codes[k];
      return;
    }
    for (size_t k = 0; k < kGroupedChunk; k += 8) {
      uint64_t eight = 0;
      std::memcpy(&eight, codes + k, 8);
      const uint32_t words = four(eight) | four(eight >> 8) << 16;
      std::memcpy(out + 8 * k + 4 * lane, &words, 4);
    }
    if (bits > 4) put_plane(codes, bits - 4, out + 256 + 4 * lane);
  }

  // The high bits of a lane's 32 codes, where plane_shift() says.
  static void put_plane(const uint8_t* codes, int width, uint8_t* out) {
    const uint64_t one = (1u << width) - 1, two = (1u << 2 * width) - 1;
    uint32_t word = 0;
    for (int k = 0, at = 0; k < kGroupedChunk; k += 8) {
      uint64_t x = 0;
      std::memcpy(&x, codes + k, 8);
      x = x >> 4 & one * 0x0101010101010101u;
      x |= x >> (16 - width);  // bytes 0, 1, 4 and 5 with those two further on
      const uint64_t in_order =
          (x & two) | (x >> 24 & two << 8) | (x << 8 & two << 16) | (x >> 16 & two << 24);
      word |= uint32_t(in_order) << at;
      at = (at + 2 * width) % 8;
      if (at != 0) continue;
      std::memcpy(out, &word, 4);
      out += 64, word = 0;
    }
  }

  void weave(Format format, uint8_t* out) const {
    constexpr size_t kWords = 16;  // of 4 bytes: a line
    const size_t words = size_t(m_.k) * format_bytes(format) / 4;
    for (size_t first = 0; first < words; first += kWords) {
      const size_t n = std::min(kWords, words - first);
      alignas(64) uint32_t line[kWords][kPanel];
      for (size_t lane = 0; lane < kPanel; ++lane) {
        uint32_t word[kWords];
        std::memcpy(word, rows_.data() + lane * row_bytes_ + first * 4, sizeof word);
        for (size_t i = 0; i < kWords; ++i) line[i][lane] = word[i];
      }
      for (size_t i = 0; i < n; ++i) order(line[i], format, out + (first + i) * 64);
    }
  }

  // The 16 lanes' words in the order of the format's panel (kernels.h).
  static void order(const uint32_t* line, Format format, uint8_t* out) {
    const uint8_t* in = reinterpret_cast<const uint8_t*>(line);
    switch (format) {
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
      default: std::memcpy(out, line, 64); return;  // f32 and bf16
    }
  }

  RowReader reader_;
  std::span<const MatrixPart> parts_;
  const std::vector<SegmentPlan>& plans_;
  const decltype(Kernels::quantise) quantise_;
  std::atomic<int64_t>& bad_row_;
  PackedMatrix& m_;
  std::vector<float> row_;     // [cols], and one more
  std::vector<uint8_t> rows_;  // [16][row_bytes_]; what lies behind cols stays 0
  size_t row_bytes_ = 0;
  std::vector<GroupedLane> lanes_;  // [16]
};

// Runs of parts that can lie in one panel, and what becomes of them.
void plan_segments(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                   std::vector<SegmentPlan>* out, std::vector<Format>* formats) {
  int64_t row = 0;
  for (size_t first = 0, end; first < parts.size(); first = end) {
    for (end = first; end < parts.size() && same_form(parts[end], parts[first]); ++end) {
      row += parts[end].rows;
    }
    SegmentPlan plan{.end_row = row};
    if (parts[first].grouped) {
      plan.grouped = parts[first].grouped->form();
      formats->push_back(grouped_format(plan.grouped->bits));
    } else {
      const Format stored = format_of(parts.subspan(first, end - first));
      const bool quantise = format != WeightFormat::stored && stored != Format::fp8;
      if (quantise && format != WeightFormat::fp8) plan.grouped = int_form(format);
      formats->push_back(!quantise      ? stored
                         : plan.grouped ? grouped_format(plan.grouped->bits)
                                        : Format::fp8);
    }
    out->push_back(plan);
  }
  if (use != WeightUse::gate_up) return;
  for (SegmentPlan& plan : *out) plan.end_row = INT64_MAX;  // each of its two lists ends by itself
}

// Where the segments of `m`, whose panels are known, lie in so many bytes.
Status place_segments(const std::vector<SegmentPlan>& plans, const std::vector<Format>& formats,
                      PackedMatrix* m, size_t* bytes) {
  for (size_t i = 0; i < plans.size(); ++i) {
    Segment& segment = m->segments.emplace_back();
    segment.format = formats[i];
    const auto& grouped = plans[i].grouped;
    if (grouped) {
      if (m->cols % kGroupedChunk != 0) {
        return Status::invalid("rows of " + std::to_string(m->cols) +
                               " values in groups; expected a multiple of " +
                               std::to_string(kGroupedChunk));
      }
      segment.groups = Groups(*grouped);
      m->has_least = m->has_least || grouped->has_least;
    }
    segment.panel_bytes =
        grouped ? grouped->panel_bytes(m->k) : size_t(m->k) * kPanel * format_bytes(segment.format);
    segment.begin = *bytes;
    segment.first_panel = i == 0 ? 0 : m->segments[i - 1].first_panel + m->segments[i - 1].panels;
    const int64_t last = i + 1 == plans.size()          ? m->panels
                         : m->use == WeightUse::gate_up ? m->panels / 2
                                                        : plans[i].end_row / kPanel;
    segment.panels = last - segment.first_panel;
    *bytes += size_t(segment.panels) * segment.panel_bytes;
  }
  return {};
}

// Row `lane` of a panel in groups.
void read_grouped(const Segment& segment, const uint8_t* panel, size_t lane, int64_t cols,
                  float* out) {
  const Groups& g = segment.groups;
  const int bits = format_bits(segment.format);
  const auto half = [&](const uint8_t* p) { return f16_to_f32(stored_at<uint16_t>(p, lane)); };
  const auto step = [&](const uint8_t* p) { return float(int8_t(p[lane])); };
  for (int64_t k = 0; k < cols; ++k) {
    const uint8_t* block = panel + k / kGroupedBlock * g.block_bytes;
    const int64_t in = k % kGroupedBlock, group = in / g.group;
    const size_t chunk = size_t(in / kGroupedChunk), at = size_t(in % kGroupedChunk);
    const uint8_t* codes = block + g.scales_bytes + chunk * 64 * size_t(bits);
    float value = 0;
    if (bits == 8) {
      value = float(int8_t(codes[at * kPanel + lane]));
    } else {
      const size_t pair = at / 2, word = 2 * lane + at % 2;
      int code = stored_at<uint16_t>(codes + pair / 4 * 64, word) >> (pair % 4 * 4) & 15;
      if (bits > 4) {
        const int width = bits - 4;
        const size_t pairs = 16 / size_t(width);
        const int plane = stored_at<uint16_t>(codes + 256 + pair / pairs * 64, word);
        code |= (plane >> plane_shift(int(pair), width) & ((1 << width) - 1)) << 4;
      }
      value = g.numbers[code];
    }
    if (!g.has_steps) {
      value *= half(block + group * 32);
      if (g.has_least) value -= half(block + 128 + group * 32);
    } else {
      const uint8_t* steps = block + (g.has_least ? 64 : 32) + group * kPanel;
      value *= half(block) * step(steps);
      if (g.has_least) value -= half(block + 32) * step(steps + kGroupedBlock / g.group * kPanel);
    }
    out[k] = value;
  }
}

}  // namespace

void PackedMatrix::read_row(int64_t row, float* out) const {
  const size_t packed = size_t(is_rows() ? row : packed_row(row));
  const float s = scale.empty() ? 1.0f : scale[packed];
  if (is_rows()) {
    const size_t size = format_bytes(format());
    const uint8_t* p = data.data() + packed * size_t(cols) * size;
    for (int64_t k = 0; k < cols; ++k) out[k] = get(p + size_t(k) * size, format()) * s;
    return;
  }
  const auto [of, panel] = place(int64_t(packed / kPanel));
  const Segment& segment = *of;
  const uint8_t* p = segment.panel(data.data(), panel);
  const size_t lane = packed % kPanel;
  if (is_grouped(segment.format)) return read_grouped(segment, p, lane, cols, out);
  for (int64_t k = 0; k < cols; ++k) {
    out[k] = get(p + panel_offset(segment.format, size_t(k), lane), segment.format) * s;
  }
}

namespace {

// Of a row that has a value that is not finite.
Status not_finite(std::span<const MatrixPart> parts, int64_t row) {
  const SourceRow s = source_row(parts, row);
  std::vector<float> values(size_t(s.part->cols));
  RowReader reader;
  const uint8_t* const from = reader.bytes_of(s);
  if (!from) return reader.status();
  widen(from, s.part->dtype, values.size(), values.data());
  const auto at = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
  return not_finite_row(*s.part, s.row, *at);
}

}  // namespace

Status pack_matrix(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                   const PackWith& with, PackedMatrix* out) {
  if (Status s = check_parts(parts, use); !s) return s;
  std::vector<SegmentPlan> plans;
  std::vector<Format> formats;
  plan_segments(parts, use, format, &plans, &formats);
  PackedMatrix m;
  m.use = use;
  m.cols = parts[0].cols;
  bool scaled = false;
  for (const MatrixPart& p : parts) {
    m.rows += p.rows;
    scaled = scaled || !p.scale.empty();
  }
  m.k = (m.cols + kKStep - 1) / kKStep * kKStep;
  m.first_row = parts[0].first_row;
  m.stretches = parts[0].stretches;
  if (m.stretches > 1 && m.cols % (m.stretches * kKStep) != 0) {
    return Status::invalid("stretches of " + std::to_string(m.cols / m.stretches) +
                           " columns; expected a multiple of " + std::to_string(kKStep));
  }
  const int64_t lists = use == WeightUse::gate_up ? 2 : 1, each = m.rows / lists;
  m.panels = (each + kPanel - 1) / kPanel * lists;
  size_t bytes = 0;
  if (Status s = place_segments(plans, formats, &m, &bytes); !s) return s;
  const bool fp8 = format == WeightFormat::fp8 && std::ranges::count(formats, Format::fp8) > 0;
  const bool rows_only = m.is_rows();
  if (rows_only) bytes = size_t(m.rows) * size_t(m.cols) * format_bytes(m.format());
  m.index = out->index;
  if (out->data.size() == bytes) {
    m.data = out->data;
  } else if (Status s = with.memory->take(bytes, &m.data); !s) {
    return s;
  }
  if (scaled || fp8) m.scale.assign(size_t(rows_only ? m.rows : m.panels * kPanel), 1.0f);

  // Small shares taken one by one: pages are touched in order, and no thread waits long at the end.
  const int64_t items = rows_only ? m.rows : m.panels, step = rows_only ? kPanel : 1;
  std::atomic<int64_t> next{0}, bad_row{m.rows};
  const auto quantise = format == WeightFormat::fp8 ? with.kernels->quantise : nullptr;
  std::vector<Packer> packers(size_t(with.pool->size()),
                              Packer(parts, plans, quantise, &bad_row, &m));
  with.pool->run([&](int thread) {
    Packer& packer = packers[size_t(thread)];
    for (int64_t begin; packer.status().ok() && (begin = next.fetch_add(step)) < items;) {
      for (int64_t i = begin; i < std::min(begin + step, items); ++i) {
        if (rows_only) {
          packer.embedding_row(i);
        } else {
          packer.panel(i);
        }
      }
    }
  });
  *out = std::move(m);  // with its memory, whatever is in it
  for (const Packer& packer : packers) {
    if (!packer.status()) return packer.status();
  }
  return bad_row < out->rows ? not_finite(parts, bad_row) : Status();
}

}  // namespace nemotron::cpu
