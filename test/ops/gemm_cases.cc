// Norm, embedding and the matrix products: every weight dtype and scale, shapes on and off every
// tile size, and equality of a row's bits whatever rows are beside it.
#include <algorithm>
#include <cstring>

#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

constexpr float kEps = 1e-5f;

struct GemmCase {
  int64_t rows, n, k;
  DType dtype = DType::bf16;
  Scale scale = Scale::none;
  WeightFormat format = WeightFormat::stored;
};

// Every dtype on a shape that fits nothing; every edge of rows, outputs and inputs on BF16 and FP8;
// K long enough that rings of stages are filled more than once.
std::vector<GemmCase> gemm_cases(bool slow) {
  std::vector<GemmCase> c;
  for (DType t : {DType::f32, DType::f16, DType::bf16, DType::fp8_e4m3}) {
    for (Scale s : {Scale::none, Scale::one, Scale::per_row}) c.push_back({5, 37, 83, t, s});
    if (t != DType::fp8_e4m3) {
      c.push_back({5, 37, 83, t, Scale::none, WeightFormat::fp8});
      c.push_back({5, 37, 83, t, Scale::per_row, WeightFormat::fp8});
    }
  }
  std::vector<int64_t> rows = {1, 2, 3, 4, 6, 7, 8, 12, 13, 15, 16, 17, 31, 32, 33, 48, 65},
                       outputs = {1, 2, 15, 16, 17, 31, 33, 47, 64, 65, 127, 129, 257},
                       inputs = {1, 2, 3, 4, 15, 31, 32, 33, 63, 100, 511, 512, 513, 1023, 1056};
  if (slow) rows = {1, 8, 9, 17, 33, 65}, outputs = {1, 17, 47, 129}, inputs = {1, 31, 63, 513};
  for (DType t : {DType::bf16, DType::fp8_e4m3}) {
    for (int64_t r : rows) c.push_back({r, 80, 96, t});
    for (int64_t n : outputs) c.push_back({3, n, 64, t});
    for (int64_t k : inputs) {
      c.push_back({3, 40, k, t});
      c.push_back({19, 40, k, t});
    }
    c.push_back({3, 40, 2100, t});
    // More rows than blocks that stay take at a time.
    for (const int64_t rows : {3, 9}) c.push_back({rows, 200, 700, t});
    // Many generated rows of a matrix that is large, for a GPU of three multiprocessors.
    for (const int64_t rows : {17, 40}) c.push_back({rows, 272, 700, t});
    for (const int64_t rows : {70, 130}) c.push_back({rows, 150, 700, t});
  }
  if (slow) return c;
  c.push_back({700, 48, 64, DType::bf16});
  c.push_back({513, 272, 1100, DType::bf16});
  c.push_back({70, 160, 2100, DType::f32});
  c.push_back({70, 160, 2100, DType::f16, Scale::per_row});
  c.push_back({70, 160, 2100, DType::fp8_e4m3, Scale::per_row});
  return c;
}

std::string label(const GemmCase& c) {
  static const char* const kScales[] = {"", " scalar", " per-row"};
  return std::to_string(c.rows) + "x" + std::to_string(c.n) + "x" + std::to_string(c.k) + " " +
         dtype_name(c.dtype) + kScales[int(c.scale)] +
         (c.format == WeightFormat::fp8 ? " as fp8" : "");
}

// F32 and F16 weights keep float32 activations on a device whose activations are float32; one whose
// activations are not may store such weights as BF16.
double tolerance_for(const DeviceUnderTest& d, const Device& device, DType weight,
                     double otherwise) {
  const bool wide = weight == DType::f32 || weight == DType::f16;
  if (!wide) return otherwise;
  return device.activation_dtype() == DType::f32 ? std::min(otherwise, 1e-5) : d.tolerance;
}

Norm rms(const Buffer& gain, float eps = kEps) { return {.eps = eps, .gain = gain.tensor()}; }

#define OPEN(d)                   \
  std::unique_ptr<Device> device; \
  REQUIRE_OK((d).open(&device))

void test_gemm(const DeviceUnderTest& d, const GemmCase& c) {
  OPEN(d);
  Random random(uint64_t(c.rows * 7919 + c.n * 31 + c.k));
  const HostMatrix stored = random_matrix(random, c.n, c.k, c.dtype, c.scale);
  const MatrixPart part = stored.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, c.format, &w));
  EXPECT_EQ(w.rows, c.n);
  EXPECT_EQ(w.cols, c.k);
  const HostMatrix m = c.format == WeightFormat::fp8 ? quantised(stored) : stored;
  Buffer a(device.get(), device->activation_dtype(), {c.rows, c.k}, random.normals(c.rows * c.k));
  Buffer out(device.get(), DType::f32, {c.rows, c.n});
  multiply(device.get(), out, a, w);
  REQUIRE_OK(device->sync());
  const double tolerance = c.format == WeightFormat::fp8
                               ? std::max(d.tolerance, 1e-3)
                               : tolerance_for(d, *device, c.dtype, d.tolerance);
  const std::vector<double> want = reference_gemm(to_double(a.read()), m);
  EXPECT_CLOSE(out.read(), want, tolerance);

  // x += a w^T
  const std::vector<float> before = random.normals(c.rows * c.n, 10.0f);
  Buffer x(device.get(), DType::f32, {c.rows, c.n}, before);
  device->gemm_residual(x.tensor(), a.tensor(), {w}, nullptr);
  REQUIRE_OK(device->sync());
  std::vector<double> sum = want;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += double(before[i]);
  EXPECT_CLOSE(x.read(), sum, tolerance);
}

void test_mixed_parts(const DeviceUnderTest& d) {
  OPEN(d);
  Random random(5);
  const HostMatrix parts[] = {random_matrix(random, 19, 70, DType::bf16),
                              random_matrix(random, 5, 70, DType::fp8_e4m3, Scale::one),
                              random_matrix(random, 33, 70, DType::f32, Scale::per_row),
                              random_matrix(random, 2, 70, DType::f16)};
  for (size_t count : {size_t(2), size_t(4)}) {
    std::vector<MatrixPart> list;
    HostMatrix all;
    all.cols = 70;
    for (size_t i = 0; i < count; ++i) {
      list.push_back(parts[i].part());
      all.rows += parts[i].rows;
      all.values.insert(all.values.end(), parts[i].values.begin(), parts[i].values.end());
    }
    Weight w;
    REQUIRE_OK(device->pack_weight(list, WeightUse::linear, WeightFormat::stored, &w));
    Buffer a(device.get(), device->activation_dtype(), {4, 70}, random.normals(4 * 70));
    Buffer out(device.get(), DType::f32, {4, all.rows});
    multiply(device.get(), out, a, w);
    REQUIRE_OK(device->sync());
    EXPECT_CLOSE(out.read(), reference_gemm(to_double(a.read()), all), d.tolerance);
  }
}

// A slice of a larger matrix, as tensor parallelism cuts it.
void test_stride(const DeviceUnderTest& d) {
  OPEN(d);
  Random random(6);
  const HostMatrix whole = random_matrix(random, 24, 90, DType::bf16);
  HostMatrix slice;
  slice.rows = 17, slice.cols = 40;
  for (int64_t r = 0; r < 17; ++r) {
    for (int64_t c = 0; c < 40; ++c)
      slice.values.push_back(whole.values[size_t((r + 3) * 90 + c + 21)]);
  }
  const MatrixPart part{whole.data.data() + (3 * 90 + 21) * 2, DType::bf16, 17, 40, 90, {}};
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  Buffer a(device.get(), device->activation_dtype(), {6, 40}, random.normals(240));
  Buffer out(device.get(), DType::f32, {6, 17});
  multiply(device.get(), out, a, w);
  REQUIRE_OK(device->sync());
  EXPECT_CLOSE(out.read(), reference_gemm(to_double(a.read()), slice), d.tolerance);
}

// A weight in the place of another gives the bits that it gives in a place of its own.
void test_in_place(const DeviceUnderTest& d, DType dtype, Scale scale, WeightFormat format) {
  OPEN(d);
  Random random(8);
  const HostMatrix first = random_matrix(random, 19, 70, dtype, scale),
                   second = random_matrix(random, 19, 70, dtype, scale);
  const MatrixPart parts[] = {first.part(), second.part()};
  Weight w, fresh;
  REQUIRE_OK(device->pack_weight({&parts[0], 1}, WeightUse::linear, format, &w));
  REQUIRE_OK(device->pack_weight({&parts[1], 1}, WeightUse::linear, format, &fresh));
  Buffer a(device.get(), device->activation_dtype(), {4, 70}, random.normals(4 * 70));
  // A product is added to what is there.
  Buffer old(device.get(), DType::f32, {4, 19}), out(device.get(), DType::f32, {4, 19}),
      wanted(device.get(), DType::f32, {4, 19});
  multiply(device.get(), old, a, w);
  multiply(device.get(), wanted, a, fresh);
  REQUIRE_OK(device->sync());
  EXPECT(old.read() != wanted.read());
  const Weight before = w;
  REQUIRE_OK(device->pack_weight({&parts[1], 1}, WeightUse::linear, format, &w));
  EXPECT_EQ(w.handle, before.handle);
  EXPECT_EQ(w.bytes, before.bytes);
  multiply(device.get(), out, a, w);
  REQUIRE_OK(device->sync());
  EXPECT(out.read() == wanted.read());
}

// Rows of a part that are still in a file.
class RowsElsewhere final : public StoredRows {
 public:
  explicit RowsElsewhere(const MatrixPart& part) : part_(part) {}
  Status read(int64_t first, int64_t n, uint8_t* to) const override {
    if (first < 0 || n <= 0 || first + n > part_.rows) return Status::internal("no such rows");
    if (first + n > left) return Status::invalid("the file ends");
    const size_t row = size_t(part_.cols) * dtype_bytes(part_.dtype);
    std::memcpy(to, static_cast<const uint8_t*>(part_.data) + size_t(first) * row, size_t(n) * row);
    return {};
  }
  int64_t left = INT64_MAX;

 private:
  MatrixPart part_;
};

// Rows that the device reads itself give the bits of those that lie in memory; rows that cannot be
// read are an error, and the weight can be packed after it.
void test_stored_rows(const DeviceUnderTest& d, WeightUse use, DType dtype, WeightFormat format) {
  OPEN(d);
  if (!device->reads_rows()) return;
  Random random(9);
  const int64_t cols = 96;
  const HostMatrix first = random_matrix(random, 37, cols, dtype),
                   second = random_matrix(random, 37, cols, dtype);
  const MatrixPart there[] = {first.part(), second.part()};
  RowsElsewhere rows[] = {RowsElsewhere(there[0]), RowsElsewhere(there[1])};
  MatrixPart elsewhere[] = {there[0], there[1]};
  for (size_t i = 0; i < 2; ++i) {
    elsewhere[i].data = nullptr, elsewhere[i].row_stride = 0, elsewhere[i].stored = &rows[i];
  }
  Weight w, wanted;
  REQUIRE_OK(device->pack_weight(there, use, format, &wanted));
  rows[1].left = 36;
  EXPECT_ERROR(device->pack_weight(elsewhere, use, format, &w), "the file ends");
  rows[1].left = INT64_MAX;
  REQUIRE_OK(device->pack_weight(elsewhere, use, format, &w));
  EXPECT_EQ(w.bytes, wanted.bytes);
  Buffer a(device.get(), device->activation_dtype(), {5, cols}, random.normals(5 * cols));
  if (use == WeightUse::gate_up) {
    Buffer gain(device.get(), DType::f32, {cols}, random.normals(cols, 0.03f, 0.1f));
    const Norm norm{.eps = 1e-5f, .gain = gain.tensor()};
    Buffer x(device.get(), DType::f32, {5, cols}, random.normals(5 * cols));
    Buffer out(device.get(), device->activation_dtype(), {5, 37}),
        from_memory(device.get(), device->activation_dtype(), {5, 37});
    device->mlp_input(out.tensor(), x.tensor(), norm, {w}, Activation::silu_gated);
    device->mlp_input(from_memory.tensor(), x.tensor(), norm, {wanted}, Activation::silu_gated);
    REQUIRE_OK(device->sync());
    EXPECT(out.read() == from_memory.read());
    return;
  }
  Buffer out(device.get(), DType::f32, {5, 74}), from_memory(device.get(), DType::f32, {5, 74});
  multiply(device.get(), out, a, w);
  multiply(device.get(), from_memory, a, wanted);
  REQUIRE_OK(device->sync());
  EXPECT(out.read() == from_memory.read());
}

void test_bad_parts(const DeviceUnderTest& d) {
  OPEN(d);
  Random random(7);
  const HostMatrix a = random_matrix(random, 4, 8, DType::bf16),
                   b = random_matrix(random, 4, 9, DType::bf16);
  const std::vector<float> two(2, 1.0f);
  Weight w;
  MatrixPart uneven[] = {a.part(), b.part()};
  EXPECT_ERROR(device->pack_weight(uneven, WeightUse::linear, WeightFormat::stored, &w), "columns");
  MatrixPart scales = a.part();
  scales.scale = two;
  EXPECT_ERROR(device->pack_weight({&scales, 1}, WeightUse::linear, WeightFormat::stored, &w),
               "scales");
  MatrixPart half = a.part();
  EXPECT_ERROR(device->pack_weight({&half, 1}, WeightUse::gate_up, WeightFormat::stored, &w),
               "gate");
}

// A matrix that takes `n` of `cols` columns as they are, the first and the last among them.
HostMatrix picking(int64_t n, int64_t cols) {
  HostMatrix m;
  m.rows = n, m.cols = cols, m.dtype = DType::bf16;
  m.data.resize(size_t(n * cols) * 2);
  m.values.resize(size_t(n * cols));
  for (int64_t r = 0; r < n; ++r) {
    const size_t at = size_t(r * cols + (n > 1 ? r * (cols - 1) / (n - 1) : 0));
    const uint16_t one = f32_to_bf16(1.0f);
    std::memcpy(&m.data[at * 2], &one, 2);
    m.values[at] = 1;
  }
  return m;
}

// The norm by itself: through a head that takes columns of it. Rows of a small `size` are mostly
// eps.
void test_norm(const DeviceUnderTest& d, Norm::Kind kind, int64_t cols, float size) {
  OPEN(d);
  const int64_t rows = 3, n = std::min<int64_t>(cols, 70);
  Random random(uint64_t(rows * 100 + cols));
  const HostMatrix m = picking(n, cols);
  const MatrixPart part = m.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  REQUIRE_OK(prepare_small(device.get(), int32_t(rows), int32_t(cols), int32_t(n)));
  Buffer x(device.get(), DType::f32, {rows, cols}, random.normals(rows * cols, size, 0.5f * size));
  const std::vector<float> gain = random.normals(cols, 0.3f, 1.0f), bias = random.normals(cols);
  Buffer g(device.get(), DType::f32, {cols}, gain), b(device.get(), DType::f32, {cols}, bias);
  Buffer out(device.get(), DType::f32, {rows, n});
  const std::vector<int32_t> all = {0, 1, 2};
  const Norm norm{.kind = kind, .eps = kEps, .gain = g.tensor(), .bias = b.tensor()};
  device->head(out.tensor(), x.tensor(), all, norm, {w});
  const bool layer = kind == Norm::Kind::layer;
  REQUIRE_OK(device->sync());
  const std::vector<double> in = to_double(x.read());
  const std::vector<double> want = layer ? reference_layer_norm(in, gain, bias, double(kEps))
                                         : reference_norm(in, cols, gain, double(kEps));
  EXPECT_CLOSE(out.read(), reference_gemm(want, m), std::max(d.tolerance, 1e-6));
  // The norm alone, of some of its columns.
  const int64_t first = cols / 3, some = cols - first - cols / 4;
  Buffer some_of(device.get(), device->activation_dtype(), {rows, some});
  device->norm(some_of.tensor(), x.tensor(), norm, first);
  REQUIRE_OK(device->sync());
  std::vector<double> columns;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < some; ++c) columns.push_back(want[size_t(r * cols + first + c)]);
  }
  EXPECT_CLOSE(some_of.read(), columns, std::max(d.tolerance, 1e-6));
}

double silu(double g) { return g / (1 + std::exp(-g)); }

void test_mlp(const DeviceUnderTest& d, int64_t rows, int64_t hidden, int64_t inner, DType dtype) {
  OPEN(d);
  Random random(uint64_t(rows * 1000 + inner));
  const Scale scale = dtype == DType::fp8_e4m3 ? Scale::per_row : Scale::none;
  const HostMatrix gate = random_matrix(random, inner, hidden, dtype, scale);
  const HostMatrix up = random_matrix(random, inner, hidden, dtype, scale);
  const MatrixPart parts[] = {gate.part(), up.part()};
  Weight w;
  REQUIRE_OK(device->pack_weight(parts, WeightUse::gate_up, WeightFormat::stored, &w));
  Buffer x(device.get(), DType::f32, {rows, hidden}, random.normals(rows * hidden, 2.0f));
  // Small gains: pre-activations of a few units, as in a model.
  const float size = dtype == DType::fp8_e4m3 ? 0.001f : 0.1f;
  const std::vector<float> gain = random.normals(hidden, size * 0.3f, size);
  Buffer g(device.get(), DType::f32, {hidden}, gain);
  Buffer h(device.get(), device->activation_dtype(), {rows, inner});
  device->mlp_input(h.tensor(), x.tensor(), rms(g), {w}, Activation::silu_gated);
  REQUIRE_OK(device->sync());
  const std::vector<double> n = reference_norm(to_double(x.read()), hidden, gain, double(kEps));
  std::vector<double> want = reference_gemm(n, gate), factor = reference_gemm(n, up);
  for (size_t i = 0; i < want.size(); ++i) want[i] = silu(want[i]) * factor[i];
  EXPECT_CLOSE(h.read(), want, 3 * d.tolerance);
}

// A feed-forward layer without a gate: one matrix, max(up, 0)^2.
void test_relu2(const DeviceUnderTest& d, int64_t rows, int64_t inner, DType dtype) {
  OPEN(d);
  const int64_t hidden = 96;
  Random random(uint64_t(rows * 1000 + inner));
  const HostMatrix up = random_matrix(random, inner, hidden, dtype,
                                      dtype == DType::fp8_e4m3 ? Scale::per_row : Scale::none);
  const MatrixPart part = up.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  Buffer x(device.get(), DType::f32, {rows, hidden}, random.normals(rows * hidden, 2.0f));
  const float size = dtype == DType::fp8_e4m3 ? 0.001f : 0.1f;
  const std::vector<float> gain = random.normals(hidden, size * 0.3f, size);
  Buffer g(device.get(), DType::f32, {hidden}, gain);
  Buffer h(device.get(), device->activation_dtype(), {rows, inner});
  device->mlp_input(h.tensor(), x.tensor(), rms(g), {w}, Activation::relu2);
  REQUIRE_OK(device->sync());
  std::vector<double> want =
      reference_gemm(reference_norm(to_double(x.read()), hidden, gain, double(kEps)), up);
  for (double& v : want) v = v > 0 ? v * v : 0;
  const std::vector<float> got = h.read();
  EXPECT_CLOSE(got, want, 4 * d.tolerance);  // a square has twice the error
  EXPECT(std::ranges::all_of(got, [](float v) { return v >= 0; }));
}

// A residual that is told the next norm: the norm is the same as without, of that gain only, and a
// row's bits do not depend on the others.
void test_norm_after_residual(const DeviceUnderTest& d, int64_t rows, int64_t hidden, int64_t inner,
                              DType dtype) {
  OPEN(d);
  const int64_t k = 40;
  REQUIRE_OK(prepare_small(device.get(), int32_t(rows), int32_t(hidden), 77));
  Random random(uint64_t(rows * 1000 + hidden));
  const Scale scale = dtype == DType::fp8_e4m3 ? Scale::per_row : Scale::none;
  const HostMatrix out = random_matrix(random, hidden, k, dtype, scale);
  const HostMatrix gate = random_matrix(random, inner, hidden, dtype, scale);
  const HostMatrix up = random_matrix(random, inner, hidden, dtype, scale);
  const MatrixPart out_part = out.part(), parts[] = {gate.part(), up.part()};
  Weight o, gate_up;
  REQUIRE_OK(device->pack_weight({&out_part, 1}, WeightUse::linear, WeightFormat::stored, &o));
  REQUIRE_OK(device->pack_weight(parts, WeightUse::gate_up, WeightFormat::stored, &gate_up));
  const float size = dtype == DType::fp8_e4m3 ? 0.001f : 0.1f;
  const std::vector<float> gains = random.normals(hidden, size * 0.3f, size),
                           others = random.normals(hidden, size * 0.3f, size);
  Buffer gain(device.get(), DType::f32, {hidden}, gains);
  Buffer other(device.get(), DType::f32, {hidden}, others);
  const std::vector<float> a = random.normals(rows * k), before = random.normals(rows * hidden, 9);

  // x += a o^T for rows [first, first + n), told `next`; then the norm and product of `read`.
  const auto run = [&](int64_t first, int64_t n, const Buffer& next, const Buffer& read,
                       std::vector<float>* x_out) {
    Buffer in(device.get(), device->activation_dtype(), {n, k},
              {a.begin() + first * k, a.begin() + (first + n) * k});
    Buffer x(device.get(), DType::f32, {n, hidden},
             {before.begin() + first * hidden, before.begin() + (first + n) * hidden});
    Buffer h(device.get(), device->activation_dtype(), {n, inner});
    const Norm begun = rms(next);
    device->gemm_residual(x.tensor(), in.tensor(), {o}, &begun);
    device->mlp_input(h.tensor(), x.tensor(), rms(read), {gate_up}, Activation::silu_gated);
    EXPECT_OK(device->sync());
    *x_out = x.read();
    return h.read();
  };
  const auto reference = [&](const std::vector<float>& x, const std::vector<float>& g) {
    const std::vector<double> n = reference_norm(to_double(x), hidden, g, double(kEps));
    std::vector<double> want = reference_gemm(n, gate), factor = reference_gemm(n, up);
    for (size_t i = 0; i < want.size(); ++i) want[i] = silu(want[i]) * factor[i];
    return want;
  };
  std::vector<float> x, x_row;
  const std::vector<float> h = run(0, rows, gain, gain, &x);
  EXPECT_CLOSE(h, reference(x, gains), 3 * d.tolerance);
  EXPECT_CLOSE(run(0, rows, gain, other, &x_row), reference(x, others), 3 * d.tolerance);
  EXPECT(same_bits(x, x_row));
  for (int64_t r : {int64_t(0), rows / 2, rows - 1}) {
    const std::vector<float> h_row = run(r, 1, gain, gain, &x_row);
    EXPECT(same_bits(h_row, {h.begin() + r * inner, h.begin() + (r + 1) * inner}));
    EXPECT(same_bits(x_row, {x.begin() + r * hidden, x.begin() + (r + 1) * hidden}));
  }
}

// silu far from zero: neither overflow nor NaN.
void test_silu_range(const DeviceUnderTest& d) {
  OPEN(d);
  HostMatrix gate, up;
  gate.rows = gate.cols = up.rows = up.cols = 32;
  gate.dtype = up.dtype = DType::f32;
  std::vector<float> g(32 * 32), u(32 * 32);
  for (size_t i = 0; i < 32; ++i) {
    g[i * 32 + i] = (float(i) - 16) * 20;
    u[i * 32 + i] = 1;
  }
  const MatrixPart parts[] = {{g.data(), DType::f32, 32, 32, 32, {}},
                              {u.data(), DType::f32, 32, 32, 32, {}}};
  Weight w;
  REQUIRE_OK(device->pack_weight(parts, WeightUse::gate_up, WeightFormat::stored, &w));
  Buffer x(device.get(), DType::f32, {1, 32}, std::vector<float>(32, 1.0f));
  Buffer gain(device.get(), DType::f32, {32}, std::vector<float>(32, 1.0f));
  Buffer h(device.get(), device->activation_dtype(), {1, 32});
  device->mlp_input(h.tensor(), x.tensor(), rms(gain, 0), {w}, Activation::silu_gated);
  REQUIRE_OK(device->sync());
  const std::vector<float> got = h.read();
  for (size_t i = 0; i < 32; ++i) {
    const double want = silu((double(i) - 16) * 20);
    EXPECT_NEAR(got[i], want, std::fabs(want) * 4e-3 + 1e-7);
  }
}

void test_embed_and_head(const DeviceUnderTest& d, DType dtype, WeightFormat format,
                         WeightUse use) {
  OPEN(d);
  Random random(11);
  const int64_t vocab = 77, hidden = 58;
  const HostMatrix stored = random_matrix(random, vocab, hidden, dtype,
                                          dtype == DType::fp8_e4m3 ? Scale::per_row : Scale::none);
  const HostMatrix m = format == WeightFormat::fp8 ? quantised(stored) : stored;
  const MatrixPart part = stored.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, use, format, &w));
  REQUIRE_OK(prepare_small(device.get(), 16, int32_t(hidden), int32_t(vocab)));
  const std::vector<int32_t> ids = {0, 76, 5, 16, 15, 31, 5, 64, 33}, slots(9, -1), table = {1};
  const SpanInput span{.first_row = 0, .rows = 9, .block_table = table};
  const StepInput step{.token_ids = ids, .token_slots = slots, .spans = {&span, 1}};
  Buffer x(device.get(), DType::f32, {9, hidden});
  device->begin_step(step);
  device->embed(x.tensor(), w);
  REQUIRE_OK(device->sync());
  std::vector<double> want;
  for (int32_t id : ids) {
    const auto row = m.values.begin() + id * hidden;
    want.insert(want.end(), row, row + hidden);
  }
  EXPECT_CLOSE(x.read(), want,
               format == WeightFormat::fp8 ? 1e-3 : tolerance_for(d, *device, dtype, 1e-6));
  if (use != WeightUse::tied) return;

  const std::vector<float> gain = random.normals(hidden, 0.2f, 1.0f);
  Buffer g(device.get(), DType::f32, {hidden}, gain);
  const std::vector<int32_t> rows = {1, 4, 8};
  Buffer out(device.get(), DType::f32, {3, vocab});
  device->head(out.tensor(), x.tensor(), rows, rms(g), {w});
  REQUIRE_OK(device->sync());
  std::vector<double> some;
  for (int32_t r : rows)
    some.insert(some.end(), want.begin() + r * hidden, want.begin() + (r + 1) * hidden);
  EXPECT_CLOSE(out.read(), reference_gemm(reference_norm(some, hidden, gain, double(kEps)), m),
               std::max(d.tolerance, format == WeightFormat::fp8 ? 1e-3 : 0.0));
}

// Every FP8 code is its value exactly, subnormals included, in every place of a word: activations
// that pick one column of the weights, as generated rows in every size of batch and as prompt rows.
void test_fp8_codes(const DeviceUnderTest& d, bool scaled) {
  OPEN(d);
  constexpr int64_t kRows = 32, kCols = 64;
  HostMatrix m;
  m.rows = kRows, m.cols = kCols, m.dtype = DType::fp8_e4m3;
  m.data.resize(kRows * kCols);
  const auto is_nan = [](int code) { return (code & 0x7f) == 0x7f; };
  std::vector<float> want(kRows * kCols);
  for (int64_t r = 0; r < kRows; ++r) {
    m.scale.push_back(r % 2 ? 0.125f : 2.0f);
    for (int64_t c = 0; c < kCols; ++c) {
      int code = int(r % 16 * 16 + (c + c / 16) % 16);
      if (is_nan(code)) code = 0;  // times 0 it is NaN in every other product
      m.data[size_t(r * kCols + c)] = uint8_t(code);
      want[size_t(r * kCols + c)] =
          e4m3_to_f32(uint8_t(code)) * (scaled ? m.scale[size_t(r)] : 1.0f);
    }
  }
  if (!scaled) m.scale.clear();
  const MatrixPart part = m.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  REQUIRE_OK(prepare_small(device.get(), kCols, kCols, kRows));
  const std::vector<int32_t> ids(kCols, 0), slots(kCols, -1), table = {0, 1, 2, 3};
  const auto check = [&](int64_t rows, bool prompt) {
    for (int64_t first = 0; first < kCols; first += rows) {
      std::vector<float> one(size_t(rows * kCols));
      for (int64_t r = 0; r < rows; ++r) one[size_t(r * kCols + first + r)] = 1;
      Buffer a(device.get(), device->activation_dtype(), {rows, kCols}, one);
      Buffer out(device.get(), DType::f32, {rows, kRows});
      const SpanInput span{
          .first_row = 0, .rows = int32_t(rows), .generated = !prompt, .block_table = table};
      const StepInput step{.token_ids = std::span(ids).first(size_t(rows)),
                           .token_slots = std::span(slots).first(size_t(rows)),
                           .spans = {&span, 1},
                           .num_generated_rows = prompt ? 0 : int32_t(rows)};
      device->begin_step(step);
      device->gemm_residual(out.tensor(), a.tensor(), {w}, nullptr);
      REQUIRE_OK(device->sync());
      const std::vector<float> got = out.read();
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < kRows; ++n)
          EXPECT_EQ(got[size_t(r * kRows + n)], want[size_t(n * kCols + first + r)]);
      }
    }
  };
  for (int64_t rows : {8, 16, 32, 64}) check(rows, false);
  check(64, true);
}

// The bits of a row do not depend on how many rows there are or where it stands among them.
void test_row_equality(const DeviceUnderTest& d, DType dtype, int64_t n, int64_t k, int64_t most) {
  OPEN(d);
  Random random(21);
  const HostMatrix m = random_matrix(random, n, k, dtype);
  const MatrixPart part = m.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  const std::vector<float> all = random.normals(most * k);
  const DType act = device->activation_dtype();
  Buffer a(device.get(), act, {most, k}, all), out(device.get(), DType::f32, {most, n});
  multiply(device.get(), out, a, w);
  REQUIRE_OK(device->sync());
  const std::vector<float> whole = out.read();
  for (int64_t rows : {1, 2, 3, 5, 8, 11, 12, 13, 16, 17, 24, 33, 47, 64, 65, 100, 129}) {
    if (rows > most) break;
    const int64_t first = (most - rows) / 2;
    Buffer some(device.get(), act, {rows, k},
                {all.begin() + first * k, all.begin() + (first + rows) * k});
    Buffer part_out(device.get(), DType::f32, {rows, n});
    multiply(device.get(), part_out, some, w);
    REQUIRE_OK(device->sync());
    EXPECT(same_bits(part_out.read(),
                     {whole.begin() + first * n, whole.begin() + (first + rows) * n}));
  }
}

// Of hidden columns more than a warp sums up at once, and pieces of sixteen that no instance's
// tiles end with; of inner ones as many as the instances for so many rows want.
void add_norm_after_residual(const DeviceUnderTest& d, DType t) {
  if (d.slow && (t == DType::f32 || t == DType::f16)) return;
  struct NormCase {
    int64_t rows, hidden, inner;
  };
  for (const NormCase& c : {NormCase{1, 600, 33},
                            {8, 128, 33},
                            {19, 90, 33},
                            {24, 90, 130},
                            {34, 600, 33},
                            {65, 90, 80},
                            {130, 128, 80}}) {
    add_case(d.name + " norm after residual " + dtype_name(t) + " " + std::to_string(c.rows) + "x" +
                 std::to_string(c.hidden),
             [=] { test_norm_after_residual(d, c.rows, c.hidden, c.inner, t); });
  }
}

}  // namespace

void add_gemm_cases(const DeviceUnderTest& d) {
  const std::string at = d.name + " ";
  for (const GemmCase& c : gemm_cases(d.slow)) {
    add_case(at + "gemm " + label(c), [=] { test_gemm(d, c); });
  }
  add_case(at + "gemm mixed parts", [=] { test_mixed_parts(d); });
  add_case(at + "gemm slice", [=] { test_stride(d); });
  add_case(at + "in place", [=] {
    test_in_place(d, DType::bf16, Scale::none, WeightFormat::stored);
    test_in_place(d, DType::bf16, Scale::none, WeightFormat::fp8);
    test_in_place(d, DType::fp8_e4m3, Scale::per_row, WeightFormat::stored);
  });
  for (const auto use : {WeightUse::linear, WeightUse::gate_up}) {
    const std::string name = use == WeightUse::linear ? "" : " of a gate and its up";
    add_case(at + "stored rows" + name, [=] {
      test_stored_rows(d, use, DType::bf16, WeightFormat::stored);
      test_stored_rows(d, use, DType::f32, WeightFormat::fp8);
      test_stored_rows(d, use, DType::bf16, WeightFormat::int8);
    });
  }
  add_case(at + "pack_weight refuses", [=] { test_bad_parts(d); });
  for (int64_t cols : {1, 15, 16, 17, 64, 100, 333, 2048}) {
    for (const float size : {3.0f, 0.003f}) {
      const std::string what = std::to_string(cols) + (size < 1 ? " of small rows" : "");
      add_case(at + "rms_norm " + what, [=] { test_norm(d, Norm::Kind::rms, cols, size); });
      add_case(at + "layer_norm " + what, [=] { test_norm(d, Norm::Kind::layer, cols, size); });
    }
  }
  for (DType t : {DType::f32, DType::f16, DType::bf16, DType::fp8_e4m3}) {
    for (int64_t inner : {1, 16, 17, 40, 177}) {
      if (d.slow && inner == 16) continue;
      for (int64_t rows : {1, 9, 34}) {
        if (d.slow && inner == 40 && rows == 9) continue;
        add_case(at + "mlp_input " + dtype_name(t) + " " + std::to_string(rows) + "x" +
                     std::to_string(inner),
                 [=] { test_mlp(d, rows, 96, inner, t); });
      }
    }
    for (int64_t inner : {1, 17, 40, 177}) {
      for (int64_t rows : {1, 9}) {
        add_case(at + "relu2 " + dtype_name(t) + " " + std::to_string(rows) + "x" +
                     std::to_string(inner),
                 [=] { test_relu2(d, rows, inner, t); });
      }
    }
    add_norm_after_residual(d, t);
    for (WeightUse use : {WeightUse::embedding, WeightUse::tied}) {
      const std::string what =
          std::string(use == WeightUse::tied ? "tied " : "embed ") + dtype_name(t);
      add_case(at + what, [=] { test_embed_and_head(d, t, WeightFormat::stored, use); });
      if (t == DType::bf16) {
        add_case(at + what + " as fp8", [=] { test_embed_and_head(d, t, WeightFormat::fp8, use); });
      }
    }
    add_case(at + "row equality " + dtype_name(t),
             [=] { test_row_equality(d, t, d.slow ? 40 : 100, 2100, 70); });
    if (t == DType::f32 || t == DType::f16) continue;
    // So large that GPUs take another kernel for many rows.
    add_case(at + "row equality of many " + dtype_name(t),
             [=] { test_row_equality(d, t, d.slow ? 272 : d.many_outputs, 330, 150); });
  }
  for (bool scaled : {false, true}) {
    add_case(at + "fp8 codes" + (scaled ? " scaled" : ""), [=] { test_fp8_codes(d, scaled); });
  }
  add_case(at + "silu range", [=] { test_silu_range(d); });
}

}  // namespace nemotron::test
