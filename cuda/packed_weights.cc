#include "cuda/packed_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "device/assert.h"
#include "device/group_rows.h"
#include "device/processors.h"
#include "device/weight_parts.h"

namespace nemotron::cuda {
namespace {

constexpr int64_t kTile = 16;  // rows

GroupedForm form_of(const MatrixPart& p, WeightFormat format) {
  return p.grouped ? p.grouped->form() : int_form(format);
}

// Parts of one form, one below the other.
struct Run {
  GroupedForm form;
  std::vector<const MatrixPart*> parts;
  int64_t rows = 0;
};
std::vector<Run> runs_of(std::span<const MatrixPart> parts, WeightFormat format) {
  std::vector<Run> runs;
  for (const MatrixPart& p : parts) {
    const GroupedForm form = form_of(p, format);
    if (runs.empty() || !(runs.back().form == form)) runs.push_back({form, {}, 0});
    runs.back().parts.push_back(&p);
    runs.back().rows += p.rows;
  }
  return runs;
}

PackedRows packed_rows(const GroupedForm& form) {
  PackedRows r;
  r.scale_bytes = int32_t(form.scales_bytes());
  r.block_bytes = int32_t(form.block_bytes());
  r.bits = form.bits;
  r.group = form.group;
  r.has_steps = form.has_steps;
  r.has_least = form.has_least;
  r.first = form.bits == 8 ? -128.0f : bf16_to_f32(form.values[0]);
  for (int i = 0; form.bits == 4 && i < 16; ++i) {
    r.table[i] = bf16_to_f32(form.values[size_t(i)]);
    r.is_table = r.is_table || r.table[i] != r.first + float(i) || r.first != std::floor(r.first);
  }
  return r;
}

float stored_value(const uint8_t* row, DType dtype, int64_t i) {
  uint16_t half = 0;
  float value = 0;
  switch (dtype) {
    case DType::f32: std::memcpy(&value, row + i * 4, 4); return value;
    case DType::f16: std::memcpy(&half, row + i * 2, 2); return f16_to_f32(half);
    case DType::bf16: std::memcpy(&half, row + i * 2, 2); return bf16_to_f32(half);
    default: return e4m3_to_f32(row[i]);
  }
}

// Reads rows in groups, or quantises them, and weaves sixteen of them into a panel; one thread.
class Weaver {
 public:
  Weaver(const Run& run, int64_t cols) : run_(run), form_(run.form), cols_(cols), lanes_(kTile) {}

  // Row tile `tile` of the run.
  Status panel(int64_t tile, uint8_t* out) {
    GroupedRow rows[kTile];
    for (int64_t i = 0; i < kTile; ++i) {
      if (Status s = read(tile * kTile + i, &lanes_[size_t(i)], &rows[i]); !s) return s;
    }
    const int64_t blocks = (cols_ + kGroupedBlock - 1) / kGroupedBlock;
    for (int64_t block = 0; block < blocks; ++block, out += form_.block_bytes()) {
      put_scales(rows, block, out);
      for (int64_t half = 0; half < 2; ++half) {
        uint8_t* to = out + form_.scales_bytes() + size_t(half * 128 * form_.bits);
        std::memset(to, 0, size_t(128 * form_.bits));
        for (int64_t row = 0; row < kTile; ++row)
          put_codes(rows[row].codes + block * kGroupedBlock + half * 64, row, to);
      }
    }
    return {};
  }

 private:
  // Behind the last row: zeros.
  Status read(int64_t row, GroupedLane* lane, GroupedRow* out) {
    const MatrixPart* part = nullptr;
    for (const MatrixPart* p : run_.parts) {
      if (row < p->rows) {
        part = p;
        break;
      }
      row -= p->rows;
    }
    if (!part) {
      lane->reserve(form_, cols_);
      *out = lane->from(form_, 0);
      return {};
    }
    lane->reserve(form_, part->grouped ? part->grouped->cols() : cols_);
    if (part->grouped) {
      part->grouped->read(part->first_stored + row, lane->from(form_, 0));
      *out = lane->from(form_, part->first_col);
      return {};
    }
    *out = lane->from(form_, 0);
    return quantise(*part, row, *out);
  }

  Status quantise(const MatrixPart& part, int64_t row, const GroupedRow& to) {
    const size_t bytes = dtype_bytes(part.dtype);
    const uint8_t* from = static_cast<const uint8_t*>(part.data);
    if (part.stored) {
      // As many at a time as a panel takes.
      if (part_ != &part || row < first_ || row >= first_ + kTile) {
        const int64_t n = std::min(kTile, part.rows - row);
        bytes_.resize(size_t(kTile * cols_) * bytes);
        part_ = nullptr;
        if (Status s = part.stored->read(row, n, bytes_.data()); !s) return s;
        part_ = &part, first_ = row;
      }
      from = bytes_.data() + size_t((row - first_) * cols_) * bytes;
    } else {
      from += size_t(row * part.row_stride) * bytes;
    }
    values_.resize(size_t(cols_));
    for (int64_t i = 0; i < cols_; ++i) values_[size_t(i)] = stored_value(from, part.dtype, i);
    if (!all_finite(values_.data(), cols_)) {
      const auto bad = std::ranges::find_if(values_, [](float v) { return !std::isfinite(v); });
      return not_finite_row(part, row, *bad);
    }
    quantise_groups(values_.data(), cols_, form_.bits, to);
    return {};
  }

  void put_scales(const GroupedRow (&rows)[kTile], int64_t block, uint8_t* to) const {
    const uint8_t* const end = to + form_.scales_bytes();
    const int64_t halves = kGroupedBlock / form_.scale_every(), steps = kGroupedBlock / form_.group;
    const auto put_halves = [&](uint16_t* GroupedRow::*of) {
      for (int64_t i = 0; i < halves; ++i) {
        for (const GroupedRow& row : rows) {
          std::memcpy(to, row.*of + block * halves + i, 2);
          to += 2;
        }
      }
    };
    const auto put_steps = [&](int8_t* GroupedRow::*of) {
      for (int64_t i = 0; i < steps; ++i) {
        for (const GroupedRow& row : rows) *to++ = uint8_t((row.*of)[block * steps + i]);
      }
    };
    put_halves(&GroupedRow::scale);
    if (form_.has_least) put_halves(&GroupedRow::least);
    if (form_.has_steps) put_steps(&GroupedRow::steps);
    if (form_.has_steps && form_.has_least) put_steps(&GroupedRow::least_steps);
    while (to < end) *to++ = 0;
  }

  // A row's 64 codes, those of 8 bits without a sign.
  void put_codes(const uint8_t* codes, int64_t row, uint8_t* out) const {
    const int64_t g = row % 8, upper = row / 8;
    const int width = form_.bits - 4;
    for (int64_t half = 0; half < 2; ++half) {
      for (int64_t t = 0; t < 4; ++t) {
        uint32_t low = 0, high = 0;
        for (int i = 0; i < 8; ++i) {
          uint32_t code = codes[32 * half + 8 * t + i];
          if (width == 4) code ^= 0x80u;
          low |= (code & 15u) << (4 * i);
          high |= (code >> 4) << (width * i);
        }
        const int64_t lane = 4 * g + t;
        std::memcpy(out + lane * 16 + (2 * half + upper) * 4, &low, 4);
        if (width > 0)
          std::memcpy(out + 512 + lane * 4 * width + (2 * half + upper) * width, &high,
                      size_t(width));
      }
    }
  }

  const Run& run_;
  const GroupedForm form_;
  const int64_t cols_;
  std::vector<GroupedLane> lanes_;  // [16]
  std::vector<uint8_t> bytes_;      // of the rows from first_ on of part_
  const MatrixPart* part_ = nullptr;
  int64_t first_ = 0;
  std::vector<float> values_;
};

// part(begin, end) of n items on all processors: quantising computes, and takes minutes of one. The
// first error.
template <class Part>
Status by_threads(int64_t n, const Part& part) {
  const int64_t of = std::min<int64_t>(n, std::max(1, usable_processors().count));
  std::vector<Status> ended(static_cast<size_t>(of));
  const auto share = [&](int64_t i) { ended[size_t(i)] = part(n * i / of, n * (i + 1) / of); };
  std::vector<std::thread> threads;
  int64_t begun = 1;
  try {
    for (; begun < of; ++begun) threads.emplace_back(share, begun);
  } catch (const std::system_error&) {  // no more threads: their shares are done here
  }
  share(0);
  for (int64_t i = begun; i < of; ++i) share(i);
  for (std::thread& t : threads) t.join();
  const auto failed = std::ranges::find_if(ended, [](const Status& s) { return !s.ok(); });
  return failed == ended.end() ? Status() : std::move(*failed);
}

// A run's panels to `to` in device memory, as many at a time as the staging memory holds: they are
// woven while those before are on their way.
Status pack_run(Context* context, const Run& run, int64_t cols, uint8_t* to) {
  const size_t panel = run.form.panel_bytes(cols);
  const int64_t tiles = (run.rows + kTile - 1) / kTile;
  if (panel > Context::kStagingBytes) {
    return Status::unsupported("rows in groups of " + std::to_string(cols) + " columns");
  }
  const auto at_once = int64_t(Context::kStagingBytes / panel);
  for (int64_t first = 0; first < tiles && context->ok(); first += at_once) {
    const int64_t n = std::min(at_once, tiles - first);
    Context::Staging* s = nullptr;
    if (Status taken = context->next_staging(&s); !taken) return taken;
    Status woven = by_threads(n, [&](int64_t begin, int64_t end) -> Status {
      Weaver weaver(run, cols);
      for (int64_t i = begin; i < end; ++i) {
        Status tile = weaver.panel(first + i, s->pinned + size_t(i) * panel);
        if (!tile) return tile;
      }
      return {};
    });
    if (!woven) return woven;
    context->check(cudaMemcpyAsync(to + size_t(first) * panel, s->pinned, size_t(n) * panel,
                                   cudaMemcpyHostToDevice, context->stream()),
                   "copying weights to the GPU");
    context->staging_used(s);
  }
  return context->status();
}

}  // namespace

bool packs(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format) {
  const bool quantise = format == WeightFormat::int4 || format == WeightFormat::int8;
  for (const MatrixPart& p : parts) {
    if (!p.grouped && (!quantise || p.dtype == DType::fp8_e4m3 || !p.scale.empty())) return false;
  }
  if (runs_of(parts, format).size() > size_t(kMostPacked)) return false;
  return use != WeightUse::gate_up || parts[0].rows % kTile == 0;
}

Status pack_groups(Context* context, std::span<const MatrixPart> parts, WeightFormat format,
                   Matrix* out) {
  const int64_t cols = parts[0].cols;
  if (cols % kGroupedChunk != 0) {
    return Status::invalid("rows of " + std::to_string(cols) +
                           " values in groups; expected a multiple of " +
                           std::to_string(kGroupedChunk));
  }
  const std::vector<Run> runs = runs_of(parts, format);
  auto packed = std::make_unique<Packed>();
  PackedForms& forms = packed->forms;
  Matrix m;
  m.cols = int32_t(cols);
  m.k = padded_k(cols);
  m.first_row = int32_t(parts[0].first_row);
  std::vector<size_t> begins;
  size_t bytes = 0;
  for (const Run& run : runs) {
    PackedRows& r = forms.rows[forms.count++] = packed_rows(run.form);
    r.first_tile = forms.tiles;
    forms.tiles += int32_t((run.rows + kTile - 1) / kTile);
    m.rows += int32_t(run.rows);
    packed->scale_slot = std::max(packed->scale_slot, r.scale_bytes);
    packed->code_slot = std::max(packed->code_slot, 128 * r.bits);
    begins.push_back(bytes);
    bytes += size_t((run.rows + kTile - 1) / kTile) * run.form.panel_bytes(cols);
  }
  packed->bytes = bytes;

  const bool in_place = out->packed != nullptr;
  NEMOTRON_ASSERT(!in_place || out->packed->bytes == bytes);
  void *data = const_cast<uint8_t*>(out->data), *device = nullptr;
  if (!in_place) {
    if (Status s = context->alloc(bytes, &data); !s) return s.within("a weight");
    if (Status s = context->alloc(sizeof(PackedForms), &device); !s) {
      context->free(data);
      return s.within("a weight's forms");
    }
  }
  auto* const to = static_cast<uint8_t*>(data);
  for (size_t i = 0; i < runs.size(); ++i) {
    forms.rows[i].data = to + begins[i];
    if (Status s = pack_run(context, runs[i], cols, to + begins[i]); !s) {
      if (!in_place) context->free(data), context->free(device);
      return s;
    }
  }
  // Other ranks may read it as soon as this one says that it is there.
  if (in_place) {
    static_cast<void>(context->synchronize());
    return context->status();
  }
  context->upload(device, &forms, sizeof forms);
  if (!context->ok()) return context->status();
  packed->device = static_cast<const PackedForms*>(device);
  m.data = to;
  m.packed = packed.release();
  *out = m;
  return {};
}

Status WidenedRows::read(int64_t first, int64_t n, uint8_t* to) const {
  const GroupedForm& form = part_.grouped->form();
  GroupedLane lane;
  for (int64_t row = first; row < first + n; ++row) {
    lane.reserve(form, part_.grouped->cols());
    part_.grouped->read(part_.first_stored + row, lane.from(form, 0));
    const GroupedRow r = lane.from(form, part_.first_col);
    for (int64_t c = 0; c < part_.cols; ++c, to += 2) {
      const uint8_t code = r.codes[c];
      const float number = form.bits == 8 ? float(int8_t(code)) : bf16_to_f32(form.values[code]);
      float by = f16_to_f32(r.scale[c / form.scale_every()]);
      float least = form.has_least ? f16_to_f32(r.least[c / form.scale_every()]) : 0.0f;
      if (form.has_steps) {
        by *= float(r.steps[c / form.group]);
        if (form.has_least) least *= float(r.least_steps[c / form.group]);
      }
      const uint16_t value = f32_to_bf16(number * by - least);
      std::memcpy(to, &value, 2);
    }
  }
  return {};
}

}  // namespace nemotron::cuda
