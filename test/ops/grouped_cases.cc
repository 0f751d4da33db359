// Products of weights in groups: every form, every width, beside each other and beside BF16, cut by
// columns, and the same bits of a row whatever rows are beside it. Quantising to them.
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "device/grouped.h"
#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

// Random codes and scales, and what they mean.
class RandomGroups final : public GroupedRows {
 public:
  RandomGroups(Random& random, const GroupedForm& form, int64_t rows, int64_t cols)
      : form_(form), rows_(rows), cols_(cols) {
    const auto whole = [&](int least, int most) {
      const auto v = double(random.normal()) * double(most - least) / 4 + double(most + least) / 2;
      return std::clamp(int(std::lround(v)), least, most);
    };
    for (int64_t i = 0; i < rows * cols; ++i) {
      codes_.push_back(uint8_t(whole(0, (1 << form.bits) - 1)));
    }
    for (int64_t i = 0; i < rows * cols / form.scale_every(); ++i) {
      scale_.push_back(f32_to_f16(random.normal() * 0.01f));
      least_.push_back(f32_to_f16(random.normal() * 0.05f));
    }
    for (int64_t i = 0; form.has_steps && i < rows * cols / form.group; ++i) {
      steps_.push_back(int8_t(whole(-128, 127)));
      least_steps_.push_back(int8_t(whole(0, 63)));
    }
  }
  const GroupedForm& form() const override { return form_; }
  int64_t cols() const override { return cols_; }
  void read(int64_t row, const GroupedRow& to) const override {
    const int64_t scales = cols_ / form_.scale_every(), steps = cols_ / form_.group;
    std::copy_n(codes_.begin() + row * cols_, cols_, to.codes);
    std::copy_n(scale_.begin() + row * scales, scales, to.scale);
    std::copy_n(least_.begin() + row * scales, scales, to.least);
    if (!form_.has_steps) return;
    std::copy_n(steps_.begin() + row * steps, steps, to.steps);
    std::copy_n(least_steps_.begin() + row * steps, steps, to.least_steps);
  }

  double value(int64_t row, int64_t col) const {
    const auto at = size_t(row * cols_ + col);
    const size_t scale = at / size_t(form_.scale_every()), group = at / size_t(form_.group);
    const uint8_t code = codes_[at];
    double v = form_.bits < 8 ? double(bf16_to_f32(form_.values[code])) : double(int8_t(code));
    double by = double(f16_to_f32(scale_[scale])), less = double(f16_to_f32(least_[scale]));
    if (form_.has_steps) by *= steps_[group], less *= least_steps_[group];
    return v * by - (form_.has_least ? less : 0);
  }
  // Columns [first, first + cols) as a part, and as plain values.
  MatrixPart part(int64_t first, int64_t cols) const {
    MatrixPart p;
    p.rows = rows_, p.cols = cols;
    p.grouped = this;
    p.first_col = first;
    return p;
  }
  MatrixPart part() const { return part(0, cols_); }
  HostMatrix plain(int64_t first, int64_t cols) const {
    HostMatrix m;
    m.rows = rows_, m.cols = cols;
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = first; c < first + cols; ++c) m.values.push_back(value(r, c));
    }
    return m;
  }
  HostMatrix plain() const { return plain(0, cols_); }
  // In float32, as whoever widens it would, then BF16.
  HostMatrix widened() const {
    HostMatrix m;
    m.rows = rows_, m.cols = cols_;
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      const auto at = size_t(i), scale = at / size_t(form_.scale_every()),
                 group = at / size_t(form_.group);
      float by = f16_to_f32(scale_[scale]), least = f16_to_f32(least_[scale]);
      if (form_.has_steps) by *= float(steps_[group]), least *= float(least_steps_[group]);
      float v = form_.bits < 8 ? bf16_to_f32(form_.values[codes_[at]]) : float(int8_t(codes_[at]));
      v = v * by - (form_.has_least ? least : 0.0f);
      const uint16_t bits = f32_to_bf16(v);
      m.data.push_back(uint8_t(bits));
      m.data.push_back(uint8_t(bits >> 8));
      m.values.push_back(double(bf16_to_f32(bits)));
    }
    return m;
  }

 private:
  const GroupedForm form_;
  const int64_t rows_, cols_;
  std::vector<uint8_t> codes_;
  std::vector<uint16_t> scale_, least_;
  std::vector<int8_t> steps_, least_steps_;
};

// Integers from `first` on; of four bits any table: here one that no arithmetic gives, in quarters
// where there are groups of 16.
GroupedForm form(int bits, int group, bool steps, bool least) {
  GroupedForm f{.bits = bits, .group = group, .has_steps = steps, .has_least = least};
  for (int i = 0; bits < 8 && i < 1 << bits; ++i) {
    const bool table = bits == 4 && !least;
    const int value = table ? i * i - 9 * i : i - (1 << bits) / 2;
    f.values[size_t(i)] = f32_to_bf16(float(value) * (table && group == 16 ? 0.25f : 1.0f));
  }
  return f;
}
std::vector<GroupedForm> all_forms() {
  std::vector<GroupedForm> all;
  for (const int bits : {4, 5, 6, 8}) {
    for (const bool least : {false, true}) {
      all.push_back(form(bits, 32, false, least));
      all.push_back(form(bits, 32, true, least));
      all.push_back(form(bits, 16, true, least));
    }
  }
  return all;
}
std::string label(const GroupedForm& f) {
  return std::to_string(f.bits) + " bits" + (f.group == 16 ? " of 16" : " of 32") +
         (f.has_steps ? " steps" : "") + (f.has_least ? " least" : "");
}

// Those of a form and a shape, made once for all devices.
struct Known {
  RandomGroups groups;
  HostMatrix plain;
};
const Known& known(const GroupedForm& f, int64_t n, int64_t k) {
  static std::map<std::tuple<std::string, int64_t, int64_t>, Known> all;
  auto at = all.find({label(f), n, k});
  if (at == all.end()) {
    Random random(uint64_t(n * 7 + k));
    const RandomGroups groups(random, f, n, k);
    at = all.insert({{label(f), n, k}, {groups, groups.plain()}}).first;
  }
  return at->second;
}

// What a product is of: activations of 8 bits (kernels.h: Int8Row), where the device rounds them.
constexpr double kExact = 2e-5;
std::vector<double> taken(const DeviceUnderTest& d, const Buffer& a) {
  std::vector<float> x = a.read();
  if (!d.int8_activations) return to_double(x);
  std::vector<double> out;
  for (size_t i = 0; i < x.size(); i += 32) {
    float peak = 0;
    for (size_t j = i; j < i + 32; ++j) peak = std::max(peak, std::abs(x[j]));
    for (size_t j = i; j < i + 32; ++j) {
      out.push_back(double(std::nearbyint(x[j] * (127.0f / peak))) * double(peak / 127.0f));
    }
  }
  return out;
}
double tolerance_of(const DeviceUnderTest& d) { return d.int8_activations ? kExact : d.tolerance; }

#define OPEN(d)                   \
  std::unique_ptr<Device> device; \
  REQUIRE_OK((d).open(&device))

void test_form(const DeviceUnderTest& d, const GroupedForm& f, int64_t rows, int64_t n, int64_t k) {
  OPEN(d);
  Random random(uint64_t(rows * 31 + n * 7 + k));
  const auto& [groups, plain] = known(f, n, k);
  const MatrixPart part = groups.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  // What a product streams: at most a twentieth and the padding above what its form says.
  EXPECT(w.bytes <= size_t((n + 15) / 16) * f.panel_bytes(k) + 4096);
  Buffer a(device.get(), device->activation_dtype(), {rows, k}, random.normals(rows * k));
  Buffer out(device.get(), DType::f32, {rows, n});
  multiply(device.get(), out, a, w);
  REQUIRE_OK(device->sync());
  EXPECT_CLOSE(out.read(), reference_gemm(taken(d, a), plain), tolerance_of(d));
}

void test_row_bits(const DeviceUnderTest& d, const GroupedForm& f) {
  OPEN(d);
  constexpr int64_t kMost = 37, kOut = 112, kIn = 1152;
  Random random(7);
  const auto& [groups, plain] = known(f, kOut, kIn);
  MatrixPart part = groups.part();
  const std::vector<float> all = random.normals(kMost * kIn);
  const Buffer whole_a(device.get(), device->activation_dtype(), {kMost, kIn}, all);
  const std::vector<double> want = reference_gemm(taken(d, whole_a), plain);
  for (const int32_t stretches : {1, 4}) {
    part.stretches = stretches;  // of 288: none begins with a block
    Weight w;
    REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
    const auto run = [&](int64_t first, int64_t rows) {
      Buffer a(device.get(), device->activation_dtype(), {rows, kIn},
               {all.begin() + first * kIn, all.begin() + (first + rows) * kIn});
      Buffer out(device.get(), DType::f32, {rows, kOut});
      multiply(device.get(), out, a, w);
      EXPECT_OK(device->sync());
      return out.read();
    };
    const std::vector<float> whole = run(0, kMost);
    for (int64_t rows : {1, 2, 3, 4, 5, 7, 8, 12, 13, 17, 25}) {
      const int64_t first = kMost - rows;
      EXPECT(same_bits(run(first, rows), {whole.begin() + first * kOut, whole.end()}));
    }
    EXPECT_CLOSE(whole, want, tolerance_of(d));
  }
}

// q and k of one form, v of another, then BF16 rows and FP8 rows.
void test_mixed_parts(const DeviceUnderTest& d) {
  OPEN(d);
  Random random(8);
  constexpr int64_t kIn = 256;
  const RandomGroups first(random, form(4, 32, true, true), 40, kIn),
      second(random, form(4, 32, true, true), 24, kIn),
      third(random, form(6, 16, true, false), 48, kIn);
  const HostMatrix bf16 = random_matrix(random, 32, kIn, DType::bf16),
                   fp8 = random_matrix(random, 19, kIn, DType::fp8_e4m3, Scale::per_row);
  MatrixPart parts[] = {first.part(), second.part(), third.part(), bf16.part(), fp8.part()};
  HostMatrix last = third.plain();
  // Of the third one the rows of a rank.
  parts[2].first_stored = 16, parts[2].rows = last.rows = 32;
  last.values.erase(last.values.begin(), last.values.begin() + 16 * kIn);
  HostMatrix all;
  all.cols = kIn;
  for (const HostMatrix& m : {first.plain(), second.plain(), last, bf16, fp8}) {
    all.rows += m.rows;
    all.values.insert(all.values.end(), m.values.begin(), m.values.end());
  }
  Weight w;
  REQUIRE_OK(device->pack_weight(parts, WeightUse::linear, WeightFormat::stored, &w));
  for (const int64_t rows : {1, 5, 20}) {
    Buffer a(device.get(), device->activation_dtype(), {rows, kIn}, random.normals(rows * kIn));
    Buffer out(device.get(), DType::f32, {rows, all.rows});
    multiply(device.get(), out, a, w);
    REQUIRE_OK(device->sync());
    EXPECT_CLOSE(out.read(), reference_gemm(to_double(a.read()), all), d.tolerance);
  }
}

// A rank's rows and columns.
void test_cut(const DeviceUnderTest& d, const GroupedForm& f) {
  OPEN(d);
  Random random(9);
  constexpr int64_t kBefore = 5, kRows = 20;  // rows of other ranks
  const RandomGroups groups(random, f, kBefore + kRows, 640);
  const int64_t from = f.cut() * 2, cols = f.cut() * 3;
  MatrixPart part = groups.part(from, cols);
  part.first_stored = kBefore;
  part.rows = kRows;
  HostMatrix mine = groups.plain(from, cols);
  mine.values.erase(mine.values.begin(), mine.values.begin() + kBefore * cols);
  mine.rows = kRows;
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  Buffer a(device.get(), device->activation_dtype(), {6, cols}, random.normals(6 * cols));
  Buffer out(device.get(), DType::f32, {6, 20});
  multiply(device.get(), out, a, w);
  REQUIRE_OK(device->sync());
  EXPECT_CLOSE(out.read(), reference_gemm(taken(d, a), mine), tolerance_of(d));
}

// Looked up to the bit of float32, and multiplied where it is tied.
void test_embedding(const DeviceUnderTest& d, const GroupedForm& f, WeightUse use) {
  OPEN(d);
  constexpr int32_t kVocab = 50, kHidden = 256;
  REQUIRE_OK(prepare_small(device.get(), 4, kHidden, kVocab));
  Random random(10);
  const RandomGroups groups(random, f, kVocab, kHidden);
  const MatrixPart part = groups.part();
  Weight table;
  REQUIRE_OK(device->pack_weight({&part, 1}, use, WeightFormat::stored, &table));
  const std::vector<int32_t> ids = {49, 0, 17, 17}, blocks(64, 0);
  std::vector<SpanInput> spans;
  for (int32_t i = 0; i < 4; ++i) spans.push_back({i, 1, 0, true, blocks});
  StepInput in;
  in.token_ids = ids, in.spans = spans, in.num_generated_rows = 4;
  Buffer x(device.get(), DType::f32, {4, kHidden});
  device->begin_step(in);
  device->embed(x.tensor(), table);
  REQUIRE_OK(device->sync());
  std::vector<double> want;
  for (const int32_t id : ids) {
    for (int32_t c = 0; c < kHidden; ++c) want.push_back(groups.value(id, c));
  }
  EXPECT_CLOSE(x.read(), want, 1e-6);
}

// parts: gate and up, [kInner, kIn] each.
constexpr int64_t kInner = 40, kIn = 256;
struct GateUp {
  std::vector<MatrixPart> parts;
  HostMatrix gate, up;
  int64_t rows = 9;
};

void expect_gate_up(const DeviceUnderTest& d, Random& random, const GateUp& of) {
  OPEN(d);
  const int64_t rows = of.rows;
  Weight w;
  REQUIRE_OK(device->pack_weight(of.parts, WeightUse::gate_up, WeightFormat::stored, &w));
  REQUIRE_OK(prepare_small(device.get(), int32_t(rows), kIn, 64));
  Buffer gain(device.get(), DType::f32, {kIn}, std::vector<float>(kIn, 1.0f));
  Buffer x(device.get(), DType::f32, {rows, kIn}, random.normals(rows * kIn));
  Buffer out(device.get(), device->activation_dtype(), {rows, kInner});
  const std::vector<int32_t> ids(size_t(rows), 0), blocks(64, 0);
  std::vector<float> got[2];  // of a prompt, of generated rows
  for (const bool generated : {false, true}) {
    const SpanInput span{0, int32_t(rows), 0, generated, blocks};
    StepInput in;
    in.token_ids = ids, in.spans = {&span, 1},
    in.num_generated_rows = generated ? int32_t(rows) : 0;
    device->begin_step(in);
    device->mlp_input(out.tensor(), x.tensor(), {.eps = 1e-5f, .gain = gain.tensor()}, {w},
                      Activation::silu_gated);
    REQUIRE_OK(device->sync());
    got[generated] = out.read();
  }
  const std::vector<double> n = reference_norm(to_double(x.read()), kIn, gain.read(), 1e-5);
  const std::vector<double> g = reference_gemm(n, of.gate), u = reference_gemm(n, of.up);
  std::vector<double> want;
  for (size_t i = 0; i < g.size(); ++i) want.push_back(g[i] / (1 + std::exp(-g[i])) * u[i]);
  for (const auto& h : got) EXPECT_CLOSE(h, want, std::max(d.tolerance * 4, 1e-5));
}

void test_gate_up(const DeviceUnderTest& d, const GroupedForm& f) {
  Random random(11);
  const RandomGroups gate(random, f, kInner, kIn), up(random, f, kInner, kIn);
  expect_gate_up(d, random, {{gate.part(), up.part()}, gate.plain(), up.plain()});
}

// Only one of the two in groups: they may take different kinds of activations.
void test_gate_or_up(const DeviceUnderTest& d, DType other, int64_t rows) {
  Random random(14);
  const RandomGroups groups(random, form(4, 32, true, true), kInner, kIn);
  const HostMatrix m = random_matrix(random, kInner, kIn, other);
  expect_gate_up(d, random, {{groups.part(), m.part()}, groups.plain(), m, rows});
  expect_gate_up(d, random, {{m.part(), groups.part()}, m, groups.plain(), rows});
}

// The squared error of 4 bits is below that of the plain choice, the largest value as -8 or 7.
void test_quantised(const DeviceUnderTest& d, WeightFormat format) {
  OPEN(d);
  constexpr int64_t kOut = 32, kIn = 512;
  Random random(12);
  const HostMatrix m = random_matrix(random, kOut, kIn, DType::bf16);
  const MatrixPart part = m.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, format, &w));
  EXPECT_EQ(w.bytes,
            size_t(kOut / 16) *
                GroupedForm{.bits = format == WeightFormat::int4 ? 4 : 8}.panel_bytes(kIn));
  // Rows of the unit matrix read the weights back.
  double error = 0, plain = 0;
  std::vector<float> unit(size_t(kIn * kIn), 0.0f);
  for (int64_t i = 0; i < kIn; ++i) unit[size_t(i * kIn + i)] = 1;
  Buffer a(device.get(), device->activation_dtype(), {kIn, kIn}, unit);
  Buffer out(device.get(), DType::f32, {kIn, kOut});
  multiply(device.get(), out, a, w);
  REQUIRE_OK(device->sync());
  const std::vector<float> got = out.read();
  for (int64_t n = 0; n < kOut; ++n) {
    for (int64_t first = 0; first < kIn; first += 32) {
      double peak = 0;
      for (int64_t k = first; k < first + 32; ++k) {
        const double v = m.values[size_t(n * kIn + k)];
        peak = std::abs(v) > std::abs(peak) ? v : peak;
      }
      const double most = format == WeightFormat::int4 ? 7 : 127;
      const double scale = format == WeightFormat::int4 ? peak / -8 : peak / 127;
      for (int64_t k = first; k < first + 32; ++k) {
        const double v = m.values[size_t(n * kIn + k)];
        const double q = std::clamp(std::nearbyint(v / scale), -most - 1, most) * scale;
        plain += (v - q) * (v - q);
        error += std::pow(double(got[size_t(k * kOut + n)]) - v, 2);
      }
    }
  }
  // BF16 has a bit less than the codes of 8 bits times their scales.
  const double least = format == WeightFormat::int4 ? 0.95 : d.rounds_groups ? 1.25 : 1.0;
  EXPECT(error < plain * least);
  EXPECT(error > 0);
}

// Of several rows the first is named; a weight that was packed before keeps its memory.
void test_not_finite(const DeviceUnderTest& d, WeightFormat format) {
  OPEN(d);
  constexpr int64_t kOut = 48, kIn = 96;
  Random random(14);
  const HostMatrix right = random_matrix(random, kOut, kIn, DType::bf16);
  const MatrixPart part = right.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, format, &w));
  const auto bits = [](HostMatrix m, int64_t row, int64_t col, uint16_t value) {
    std::memcpy(m.data.data() + (row * kIn + col) * 2, &value, sizeof value);
    return m;
  };
  const HostMatrix infinite = bits(right, 37, 5, 0x7f80), negative = bits(right, 0, 95, 0xff80),
                   both = bits(bits(right, 40, 0, 0x7fc0), 3, 64, 0x7f80);
  for (const auto& [m, expected] : {std::pair(&infinite, "tensor \"x\": row 107 has inf"),
                                    std::pair(&negative, "tensor \"x\": row 70 has -inf"),
                                    std::pair(&both, "tensor \"x\": row 73 has inf")}) {
    MatrixPart wrong = m->part();
    wrong.name = "x", wrong.first_row = 70;
    EXPECT_ERROR(device->pack_weight({&wrong, 1}, WeightUse::linear, format, &w), expected);
  }
  const HostMatrix nan = bits(right, 20, 31, 0x7fc0);
  const MatrixPart parts[] = {right.part(), nan.part()};
  Weight two;
  EXPECT_ERROR(device->pack_weight(parts, WeightUse::linear, format, &two), "row 20 has nan");
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, format, &w));
}

// Rows of zeros, of numbers that vanish, and of numbers that are not finite, beside right ones.
void test_odd_rows(const DeviceUnderTest& d, const GroupedForm& f) {
  OPEN(d);
  constexpr int64_t kRows = 7, kOut = 40, kIn = 256;
  Random random(16);
  const auto& [groups, plain] = known(f, kOut, kIn);
  const MatrixPart part = groups.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  for (const int64_t rows : {int64_t(3), kRows}) {  // by few rows and by many
    std::vector<float> x = random.normals(rows * kIn);
    const auto fill = [&](int64_t row, float with) {
      std::fill_n(x.begin() + row * kIn, kIn, with);
    };
    fill(0, 0.0f);
    fill(1, 1e-38f);
    x[size_t(2 * kIn + 77)] = NAN;
    if (rows > 3) x[size_t(4 * kIn + 200)] = INFINITY, x[size_t(5 * kIn)] = -INFINITY;
    Buffer a(device.get(), device->activation_dtype(), {rows, kIn}, x);
    Buffer out(device.get(), DType::f32, {rows, kOut});
    multiply(device.get(), out, a, w);
    REQUIRE_OK(device->sync());
    const std::vector<float> got = out.read();
    for (int64_t row = 0; row < rows; ++row) {
      const bool finite = row != 2 && row != 4 && row != 5;
      for (int64_t i = 0; i < kOut; ++i) {
        const float y = got[size_t(row * kOut + i)];
        EXPECT(std::isfinite(y) == finite);
        if (row < 2) EXPECT(std::abs(y) < 1e-30f);
      }
    }
  }
}

// --- a device that makes them BF16 gives the bits of the matrix that was widened before ---

// Forms that take different paths: numbers and a table of four bits, bits above those, groups of
// 16, halves of every 32.
std::vector<GroupedForm> widened_forms() {
  return {form(4, 32, true, true), form(4, 16, true, false), form(5, 32, false, true),
          form(6, 16, true, false), form(8, 32, false, false)};
}

// The same parts packed, and as BF16.
struct Pair {
  Weight packed, widened;
};
Status pack_both(Device* device, const std::vector<const RandomGroups*>& parts, WeightUse use,
                 Pair* out) {
  std::vector<MatrixPart> grouped, plain;
  std::vector<HostMatrix> widened;
  for (const RandomGroups* p : parts) widened.push_back(p->widened());
  for (size_t i = 0; i < parts.size(); ++i) {
    grouped.push_back(parts[i]->part());
    plain.push_back(widened[i].part());
  }
  const auto stored = WeightFormat::stored;
  if (Status s = device->pack_weight(grouped, use, stored, &out->packed); !s) return s;
  if (Status s = device->pack_weight(plain, use, stored, &out->widened); !s) return s;
  EXPECT(out->packed.bytes < out->widened.bytes * 3 / 4);
  return {};
}

// Two query heads and one of keys and values, of `head_dim`, of which `rotary` elements are turned.
struct Heads {
  int32_t head_dim, rotary;
};
constexpr int32_t kWidth = 256, kMiddle = 80;
Status prepare_heads(Device* device, int32_t rows, const Heads& heads) {
  const std::vector<float> inv_freq(size_t(heads.rotary / 2), 0.3f);
  const KvConfig kv{.layers = 1,
                    .kv_heads = 1,
                    .head_dim = heads.head_dim,
                    .num_blocks = rows / 16 + 2,
                    .block_size = 16};
  const StepLimits limits{.max_rows = rows,
                          .max_spans = rows,
                          .max_samples = rows,
                          .max_context = 16 * (rows / 16 + 2),
                          .q_heads = 2,
                          .kv_heads = 1,
                          .head_dim = heads.head_dim,
                          .hidden = kWidth,
                          .intermediate = kMiddle,
                          .vocab = 64};
  return device->prepare(limits, kv, {inv_freq});
}

// One sequence of `rows` tokens, all of them generated or all of a prompt.
struct OneStep {
  OneStep(Device* device, int32_t rows, bool generated) : ids(size_t(rows), 0) {
    for (int32_t i = 0; i < rows / 16 + 1; ++i) blocks.push_back(i);
    spans.push_back({0, rows, 0, generated, blocks});
    in.token_ids = ids, in.spans = spans, in.num_generated_rows = generated ? rows : 0;
    device->begin_step(in);
  }
  std::vector<int32_t> ids, blocks;
  std::vector<SpanInput> spans;
  StepInput in;
};

struct Rows {
  int32_t n;
  bool generated;
};

void test_widened_sum(const DeviceUnderTest& d, const GroupedForm& f, const Rows& rows) {
  OPEN(d);
  REQUIRE_OK(prepare_heads(device.get(), rows.n, {32, 32}));
  Random random(21);
  const RandomGroups groups(random, f, kWidth, 384);
  Pair w;
  REQUIRE_OK(pack_both(device.get(), {&groups}, WeightUse::linear, &w));
  Buffer a(device.get(), DType::bf16, {rows.n, 384}, random.normals(rows.n * 384));
  Buffer gain(device.get(), DType::f32, {kWidth}, random.normals(kWidth));
  const std::vector<float> before = random.normals(rows.n * kWidth);
  const RandomGroups next(random, f, kMiddle, kWidth);
  Pair after;
  REQUIRE_OK(pack_both(device.get(), {&next}, WeightUse::linear, &after));
  const auto run = [&](const Weight& of, const Weight& then) {
    Buffer x(device.get(), DType::f32, {rows.n, kWidth}, before);
    Buffer h(device.get(), DType::bf16, {rows.n, kMiddle});
    const OneStep step(device.get(), rows.n, rows.generated);
    const Norm norm{.eps = 1e-5f, .gain = gain.tensor()};
    device->gemm_residual(x.tensor(), a.tensor(), {of}, &norm);
    device->mlp_input(h.tensor(), x.tensor(), norm, {then}, Activation::relu2);
    EXPECT_OK(device->sync());
    std::vector<float> all = x.read();
    const std::vector<float> more = h.read();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  EXPECT(same_bits(run(w.packed, after.packed), run(w.widened, after.widened)));
}

void test_widened_gate_up(const DeviceUnderTest& d, const GroupedForm& f, const Rows& rows) {
  OPEN(d);
  REQUIRE_OK(prepare_heads(device.get(), rows.n, {32, 32}));
  Random random(22);
  const RandomGroups gate(random, f, kMiddle, 256),
      up(random, form(6, 16, true, false), kMiddle, 256);
  Pair w;
  REQUIRE_OK(pack_both(device.get(), {&gate, &up}, WeightUse::gate_up, &w));
  Buffer gain(device.get(), DType::f32, {256}, random.normals(256));
  Buffer x(device.get(), DType::f32, {rows.n, 256}, random.normals(rows.n * 256));
  const auto run = [&](const Weight& of) {
    Buffer h(device.get(), DType::bf16, {rows.n, kMiddle});
    const OneStep step(device.get(), rows.n, rows.generated);
    device->mlp_input(h.tensor(), x.tensor(), {.eps = 1e-5f, .gain = gain.tensor()}, {of},
                      Activation::silu_gated);
    EXPECT_OK(device->sync());
    return h.read();
  };
  EXPECT(same_bits(run(w.packed), run(w.widened)));
}

// v of another form than q and k.
void test_widened_heads(const DeviceUnderTest& d, const GroupedForm& f, const Rows& rows,
                        const Heads& heads) {
  OPEN(d);
  REQUIRE_OK(prepare_heads(device.get(), rows.n, heads));
  Random random(23);
  const int64_t dim = heads.head_dim;
  const RandomGroups q(random, f, 2 * dim, kWidth), k(random, f, dim, kWidth),
      v(random, form(5, 32, false, true), dim, kWidth);
  Pair w;
  REQUIRE_OK(pack_both(device.get(), {&q, &k, &v}, WeightUse::linear, &w));
  Buffer gain(device.get(), DType::f32, {kWidth}, random.normals(kWidth));
  Buffer x(device.get(), DType::f32, {rows.n, kWidth}, random.normals(rows.n * kWidth));
  const auto run = [&](const Weight& of) {
    Buffer out(device.get(), DType::bf16, {rows.n, 2 * dim}),
        queries(device.get(), DType::bf16, {rows.n, 2 * dim});
    const OneStep step(device.get(), rows.n, rows.generated);
    device->attention_input(queries.tensor(), x.tensor(), {.eps = 1e-5f, .gain = gain.tensor()},
                            {of}, 0);
    device->attention(out.tensor(), queries.tensor(), 0, 0.2f);
    EXPECT_OK(device->sync());
    std::vector<float> all = queries.read();
    const std::vector<float> more = out.read();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  EXPECT(same_bits(run(w.packed), run(w.widened)));
}

// The largest matrix, whose last row tile is not whole, and a prompt.
void test_widened_edge(const DeviceUnderTest& d, const GroupedForm& f) {
  OPEN(d);
  constexpr int64_t kOut = 83, kIn = 384, kTokens = 21;
  Random random(24);
  const RandomGroups groups(random, f, kOut, kIn);
  Pair w;
  REQUIRE_OK(pack_both(device.get(), {&groups}, WeightUse::linear, &w));
  REQUIRE_OK(prepare_heads(device.get(), kTokens, {32, 32}));
  Buffer a(device.get(), DType::bf16, {kTokens, kIn}, random.normals(kTokens * kIn));
  const auto run = [&](const Weight& of) {
    Buffer x(device.get(), DType::f32, {kTokens, kOut});
    const OneStep step(device.get(), kTokens, false);
    multiply(device.get(), x, a, of);
    EXPECT_OK(device->sync());
    return x.read();
  };
  EXPECT(same_bits(run(w.packed), run(w.widened)));
}

// A matrix that is packed in several pieces: of each row the first value is its number.
void test_large_table(const DeviceUnderTest& d, WeightFormat format) {
  OPEN(d);
  constexpr int32_t kHidden = 4096;
  const int32_t vocab = format == WeightFormat::stored ? 4113 : 8209;
  std::vector<uint16_t> stored(size_t(vocab) * kHidden, f32_to_bf16(1.0f));
  const auto number = [](int32_t row) { return float(row % 100 + 20); };
  for (int32_t row = 0; row < vocab; ++row) {
    stored[size_t(row) * kHidden + size_t(row % kHidden)] = f32_to_bf16(number(row));
  }
  MatrixPart part;
  part.data = stored.data();
  part.rows = vocab, part.cols = part.row_stride = kHidden;
  Weight table;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::embedding, format, &table));
  REQUIRE_OK(prepare_small(device.get(), 6, kHidden, vocab));
  const std::vector<int32_t> ids = {0, vocab - 2, 4111, vocab - 1, vocab - 211, 2040},
                             blocks(64, 0);
  std::vector<SpanInput> spans;
  for (int32_t i = 0; i < 6; ++i) spans.push_back({i, 1, 0, true, blocks});
  StepInput in;
  in.token_ids = ids, in.spans = spans, in.num_generated_rows = 6;
  Buffer x(device.get(), DType::f32, {6, kHidden});
  device->begin_step(in);
  device->embed(x.tensor(), table);
  REQUIRE_OK(device->sync());
  const std::vector<float> got = x.read();
  for (size_t i = 0; i < ids.size(); ++i) {
    const float* const row = got.data() + i * kHidden;
    EXPECT_NEAR(row[ids[i] % kHidden], number(ids[i]), 0.02 * double(number(ids[i])));
    EXPECT_EQ(std::max_element(row, row + kHidden) - row, ids[i] % kHidden);
  }
}

// A drawn id outside a packed table is a fault.
void test_unknown_id(const DeviceUnderTest& d) {
  OPEN(d);
  REQUIRE_OK(prepare_small(device.get(), 1, 256, 50));
  Random random(25);
  const RandomGroups groups(random, form(4, 32, true, true), 50, 256);
  const MatrixPart part = groups.part();
  Weight table;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::embedding, WeightFormat::stored, &table));
  // One row too few: what was drawn of a larger vocabulary.
  const std::vector<int32_t> ids = {-1}, slots = {0}, blocks(64, 0);
  const SpanInput span{0, 1, 0, true, blocks};
  StepInput in;
  in.token_ids = ids, in.token_slots = slots, in.spans = {&span, 1}, in.num_generated_rows = 1;
  Buffer x(device.get(), DType::f32, {1, 256});
  Buffer logits(device.get(), DType::f32, {1, 60}, [] {
    std::vector<float> v(60, 0.0f);
    v[55] = 9;
    return v;
  }());
  SampleInput draw;
  draw.slot = 0;
  SampleOutput drawn;
  StepInput first = in;
  const std::vector<int32_t> known = {0};
  first.token_ids = known, first.token_slots = {};
  first.samples = {&draw, 1};
  device->begin_step(first);
  device->sample(logits.tensor(), 0, 1, &drawn);
  REQUIRE_OK(device->sync());
  EXPECT_EQ(drawn.id, 55);
  device->begin_step(in);
  device->embed(x.tensor(), table);
  EXPECT(!device->sync().ok());
}

void add_widened_cases(const DeviceUnderTest& d) {
  add_case(d.name + " groups: a large table, int8",
           [=] { test_large_table(d, WeightFormat::int8); });
  add_case(d.name + " groups: a large table", [=] { test_large_table(d, WeightFormat::stored); });
  add_case(d.name + " groups: an unknown id", [=] { test_unknown_id(d); });
  for (const GroupedForm& f : widened_forms()) {
    for (const Rows& rows : {Rows{1, true}, Rows{9, true}, Rows{37, true}, Rows{21, false}}) {
      const std::string name = d.name + " groups as widened: " + label(f) + ", " +
                               std::to_string(rows.n) + (rows.generated ? " rows" : " of a prompt");
      add_case(name + ", heads", [=] { test_widened_heads(d, f, rows, {32, 32}); });
      add_case(name + ", half-turned heads", [=] { test_widened_heads(d, f, rows, {64, 32}); });
      add_case(name + ", small heads", [=] { test_widened_heads(d, f, rows, {16, 16}); });
      if (!rows.generated) add_case(name + ", edge", [=] { test_widened_edge(d, f); });
      add_case(name + ", sum", [=] { test_widened_sum(d, f, rows); });
      add_case(name + ", gate and up", [=] { test_widened_gate_up(d, f, rows); });
    }
  }
}

void test_refusals(const DeviceUnderTest& d) {
  OPEN(d);
  Random random(13);
  const RandomGroups a(random, form(4, 32, true, false), 20, 256),
      b(random, form(5, 32, true, false), 20, 256);
  const MatrixPart parts[] = {a.part(), b.part()};
  Weight w;
  const auto linear = WeightUse::linear;
  EXPECT_ERROR(device->pack_weight(parts, linear, WeightFormat::stored, &w), "multiple of 16");
  const MatrixPart cut = a.part(32, 128), beyond = a.part(128, 256);
  EXPECT_ERROR(device->pack_weight({&cut, 1}, linear, WeightFormat::stored, &w), "of 128");
  EXPECT_ERROR(device->pack_weight({&beyond, 1}, linear, WeightFormat::stored, &w), "128 to 384");
  const HostMatrix m = random_matrix(random, 16, 40, DType::bf16);
  const MatrixPart narrow = m.part();
  EXPECT_ERROR(device->pack_weight({&narrow, 1}, linear, WeightFormat::int4, &w), "of 32");
}

}  // namespace

void add_grouped_cases(const DeviceUnderTest& d) {
  const std::string at = d.name + " groups: ";
  for (const GroupedForm& f : all_forms()) {
    const std::string name = at + label(f);
    for (const int64_t rows : {1, 3, 4, 7, 40}) {
      add_case(name + " " + std::to_string(rows) + " rows",
               [=] { test_form(d, f, rows, 83, rows == 3 ? 640 : 1280); });
    }
    if (!f.has_steps) {
      for (const int64_t k : {32, 96, 544}) {
        for (const int64_t rows : {1, 5, 20}) {
          add_case(name + " k " + std::to_string(k) + ", " + std::to_string(rows) + " rows",
                   [=] { test_form(d, f, rows, 40, k); });
        }
      }
    }
    add_case(name + " row bits", [=] { test_row_bits(d, f); });
    add_case(name + " cut", [=] { test_cut(d, f); });
    add_case(name + " odd rows", [=] { test_odd_rows(d, f); });
    add_case(name + " gate and up", [=] { test_gate_up(d, f); });
    add_case(name + " embedding", [=] { test_embedding(d, f, WeightUse::embedding); });
    add_case(name + " tied", [=] { test_embedding(d, f, WeightUse::tied); });
  }
  add_case(at + "mixed parts", [=] { test_mixed_parts(d); });
  for (const int64_t rows : {1, 9, 150}) {
    for (const DType other : {DType::f16, DType::bf16}) {
      const std::string name = other == DType::f16 ? "f16" : "bf16";
      add_case(at + "gate or up of " + name + ", " + std::to_string(rows) + " rows",
               [=] { test_gate_or_up(d, other, rows); });
    }
  }
  add_case(at + "int4", [=] { test_quantised(d, WeightFormat::int4); });
  add_case(at + "int8", [=] { test_quantised(d, WeightFormat::int8); });
  add_case(at + "int4 of what is not finite", [=] { test_not_finite(d, WeightFormat::int4); });
  add_case(at + "int8 of what is not finite", [=] { test_not_finite(d, WeightFormat::int8); });
  add_case(at + "refusals", [=] { test_refusals(d); });
  if (d.rounds_groups) add_widened_cases(d);
}

}  // namespace nemotron::test
