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
  const MatrixPart parts[] = {first.part(), second.part(), third.part(), bf16.part(), fp8.part()};
  HostMatrix all;
  all.cols = kIn;
  for (const HostMatrix& m : {first.plain(), second.plain(), third.plain(), bf16, fp8}) {
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

// A rank's columns.
void test_cut(const DeviceUnderTest& d, const GroupedForm& f) {
  OPEN(d);
  Random random(9);
  const RandomGroups groups(random, f, 20, 640);
  const int64_t from = f.cut() * 2, cols = f.cut() * 3;
  const MatrixPart part = groups.part(from, cols);
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  Buffer a(device.get(), device->activation_dtype(), {6, cols}, random.normals(6 * cols));
  Buffer out(device.get(), DType::f32, {6, 20});
  multiply(device.get(), out, a, w);
  REQUIRE_OK(device->sync());
  EXPECT_CLOSE(out.read(), reference_gemm(taken(d, a), groups.plain(from, cols)), tolerance_of(d));
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
  const SpanInput span{0, int32_t(rows), 0, false, blocks};
  StepInput in;
  in.token_ids = ids, in.spans = {&span, 1};
  device->begin_step(in);
  device->mlp_input(out.tensor(), x.tensor(), {.eps = 1e-5f, .gain = gain.tensor()}, {w},
                    Activation::silu_gated);
  REQUIRE_OK(device->sync());
  const std::vector<double> n = reference_norm(to_double(x.read()), kIn, gain.read(), 1e-5);
  const std::vector<double> g = reference_gemm(n, of.gate), u = reference_gemm(n, of.up);
  std::vector<double> want;
  for (size_t i = 0; i < g.size(); ++i) want.push_back(g[i] / (1 + std::exp(-g[i])) * u[i]);
  EXPECT_CLOSE(out.read(), want, std::max(d.tolerance * 4, 1e-5));
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
  EXPECT(error < plain * (format == WeightFormat::int4 ? 0.95 : 1.0));
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
  std::unique_ptr<Device> device;
  if (!d.open(&device) || !device->packs_groups()) return;
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
}

}  // namespace nemotron::test
