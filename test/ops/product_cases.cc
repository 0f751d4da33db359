// Products of prompt rows, alone in a step and beside generated rows: shapes of several tiles and
// slices, matrices in turns, and equality of a row's bits in any prompt.
#include <algorithm>

#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

#define OPEN(d, rows)             \
  std::unique_ptr<Device> device; \
  REQUIRE_OK((d).open(&device));  \
  REQUIRE_OK(prepare_small(device.get(), rows, 64, 64))

// A step whose first `generated` rows are generated tokens and whose others are prompt tokens.
struct Step {
  Step(Device* device, int32_t rows, int32_t generated) {
    ids.assign(size_t(rows), 0);
    if (generated > 0) spans.push_back({0, generated, 0, true, table});
    if (rows > generated) spans.push_back({generated, rows - generated, 0, false, table});
    in.token_ids = ids, in.spans = spans, in.num_generated_rows = generated;
    device->begin_step(in);
  }
  std::vector<int32_t> ids, table = std::vector<int32_t>(128, 0);
  std::vector<SpanInput> spans;
  StepInput in;
};

struct Product {
  int32_t rows, generated, n, k;
  DType dtype;
  Scale scale;
};

bool rounds(const DeviceUnderTest& d, DType weight, int64_t outputs) {
  return d.fp8_activations && weight == DType::fp8_e4m3 && outputs % 16 == 0;
}

void test_product(const DeviceUnderTest& d, const Product& c) {
  OPEN(d, c.rows);
  Random random(uint64_t(c.rows * 31 + c.n * 7 + c.k));
  const HostMatrix m = random_matrix(random, c.n, c.k, c.dtype, c.scale);
  const MatrixPart part = m.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  Buffer a(device.get(), device->activation_dtype(), {c.rows, c.k},
           random.normals(int64_t(c.rows) * c.k));
  const std::vector<double> want = reference_gemm(
      rounds(d, c.dtype, c.n) ? fp8_rows(a.read(), c.k, c.generated) : to_double(a.read()), m);
  Buffer out(device.get(), DType::f32, {c.rows, c.n});
  const std::vector<float> before = random.normals(int64_t(c.rows) * c.n, 10.0f);
  Buffer x(device.get(), DType::f32, {c.rows, c.n}, before);
  const Step step(device.get(), c.rows, c.generated);
  device->gemm_residual(out.tensor(), a.tensor(), {w}, nullptr);  // memory begins as zeros
  device->gemm_residual(x.tensor(), a.tensor(), {w}, nullptr);
  REQUIRE_OK(device->sync());
  EXPECT_CLOSE(out.read(), want, d.tolerance);
  std::vector<double> sum = want;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += double(before[i]);
  EXPECT_CLOSE(x.read(), sum, d.tolerance);
}

// The bits of a prompt row do not depend on the rows beside it, nor on its place among them.
void test_row_equality(const DeviceUnderTest& d, DType dtype) {
  constexpr int32_t kMost = 131, kOut = 48, kIn = 330;
  OPEN(d, kMost);
  Random random(22);
  const HostMatrix m = random_matrix(random, kOut, kIn, dtype, Scale::per_row);
  const MatrixPart part = m.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  const std::vector<float> all = random.normals(kMost * kIn);
  const auto run = [&](int32_t first, int32_t rows) {
    Buffer a(device.get(), device->activation_dtype(), {rows, kIn},
             {all.begin() + first * kIn, all.begin() + (first + rows) * kIn});
    Buffer out(device.get(), DType::f32, {rows, kOut});
    const Step step(device.get(), rows, 0);
    device->gemm_residual(out.tensor(), a.tensor(), {w}, nullptr);  // memory begins as zeros
    EXPECT_OK(device->sync());
    return out.read();
  };
  const std::vector<float> whole = run(0, kMost);
  for (int32_t rows : {1, 2, 9, 65, 129}) {
    const int32_t first = kMost - rows;
    EXPECT(same_bits(run(first, rows), {whole.begin() + first * kOut, whole.end()}));
  }
}

// Matrices one after the other in a step: what is kept of one is not taken for another's. One has
// rows for FP8 products, one has not.
void test_turns(const DeviceUnderTest& d) {
  constexpr int32_t kRows = 20, kIn = 64;
  OPEN(d, kRows);
  Random random(23);
  std::vector<HostMatrix> matrices;
  std::vector<Weight> weights(4);
  for (int32_t rows : {33, 48, 35, 64}) {
    matrices.push_back(random_matrix(random, rows, kIn, DType::fp8_e4m3, Scale::per_row));
    const MatrixPart part = matrices.back().part();
    REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored,
                                   &weights[matrices.size() - 1]));
  }
  Buffer a(device.get(), device->activation_dtype(), {kRows, kIn}, random.normals(kRows * kIn));
  std::vector<std::unique_ptr<Buffer>> outs;
  const int order[] = {0, 1, 0, 3, 2, 3, 2, 0};  // the last turns need no more memory
  const Step step(device.get(), kRows, 3);
  for (int i : order) {
    outs.push_back(std::make_unique<Buffer>(device.get(), DType::f32,
                                            std::vector<int64_t>{kRows, matrices[size_t(i)].rows}));
    device->gemm_residual(outs.back()->tensor(), a.tensor(), {weights[size_t(i)]}, nullptr);
  }
  REQUIRE_OK(device->sync());
  for (size_t i = 0; i < outs.size(); ++i) {
    const HostMatrix& m = matrices[size_t(order[i])];
    const bool rounded = rounds(d, DType::fp8_e4m3, m.rows);
    EXPECT_CLOSE(outs[i]->read(),
                 reference_gemm(rounded ? fp8_rows(a.read(), kIn, 3) : to_double(a.read()), m),
                 d.tolerance);
  }
}

void test_mlp(const DeviceUnderTest& d, int32_t rows, int32_t generated, DType dtype,
              Activation activation) {
  constexpr int32_t kHidden = 40;
  // More rows of weights than prepare_small() makes room for, so that the room is as large as a
  // slice needs and no larger. Those of BF16 begin on sixteen bytes only with padding.
  const int32_t inner = dtype == DType::fp8_e4m3 ? 72 : 69;
  OPEN(d, rows);
  Random random(24);
  const HostMatrix gate = random_matrix(random, inner, kHidden, dtype, Scale::per_row),
                   up = random_matrix(random, inner, kHidden, dtype, Scale::per_row);
  const bool gated = activation == Activation::silu_gated;
  const MatrixPart parts[] = {gate.part(), up.part()};
  Weight w;
  if (gated) {
    REQUIRE_OK(device->pack_weight(parts, WeightUse::gate_up, WeightFormat::stored, &w));
  } else {
    REQUIRE_OK(device->pack_weight({&parts[1], 1}, WeightUse::linear, WeightFormat::stored, &w));
  }
  const float size = dtype == DType::fp8_e4m3 ? 0.01f : 0.3f;
  const std::vector<float> gain(kHidden, size);
  Buffer g(device.get(), DType::f32, {kHidden}, gain);
  // Rows whose largest values differ, and with them the scales of rounded rows.
  std::vector<float> values = random.normals(int64_t(rows) * kHidden, 0.5f);
  for (int32_t r = 0; r < rows; ++r) values[size_t(r) * kHidden] *= float(1 + r % 5 * 2);
  Buffer x(device.get(), DType::f32, {rows, kHidden}, values);
  Buffer h(device.get(), device->activation_dtype(), {rows, inner});
  const Step step(device.get(), rows, generated);
  const Norm norm{.eps = 1e-5f, .gain = g.tensor()};
  device->mlp_input(h.tensor(), x.tensor(), norm, {w}, activation);
  REQUIRE_OK(device->sync());
  const std::vector<double> exact = reference_norm(to_double(values), kHidden, gain, 1e-5);
  std::vector<float> normed;
  for (double v : exact) normed.push_back(rounded(float(v), DType::bf16));
  const bool fp8 = rounds(d, dtype, gated ? 2 * inner : inner);
  const std::vector<double> a = fp8 ? fp8_rows(normed, kHidden, generated) : exact;
  const std::vector<double> gates = reference_gemm(a, gate), ups = reference_gemm(a, up);
  std::vector<double> want;
  for (size_t i = 0; i < gates.size(); ++i) {
    const double relu = std::max(ups[i], 0.0);
    want.push_back(gated ? gates[i] / (1 + std::exp(-gates[i])) * ups[i] : relu * relu);
  }
  // A value of the norm that rounds the other way to BF16 may be one step of FP8 away.
  EXPECT_CLOSE(h.read(), want, fp8 ? 2e-2 : std::max((gated ? 3 : 4) * d.tolerance, 1e-4));
}

}  // namespace

std::vector<double> fp8_rows(const std::vector<float>& a, int64_t cols, int64_t first_row) {
  std::vector<double> out = to_double(a);
  for (size_t row = size_t(first_row); row * size_t(cols) < a.size(); ++row) {
    float most = 0;
    for (int64_t i = 0; i < cols; ++i)
      most = std::max(most, std::fabs(a[row * size_t(cols) + size_t(i)]));
    const float scale = most > 0 ? most / 448.0f : 1.0f;
    for (int64_t i = 0; i < cols; ++i) {
      const size_t at = row * size_t(cols) + size_t(i);
      out[at] = double(e4m3_to_f32(f32_to_e4m3(a[at] / scale))) * double(scale);
    }
  }
  return out;
}

void add_product_cases(const DeviceUnderTest& d) {
  const std::string at = d.name + " prompt ";
  for (const Product& c : {Product{9, 0, 48, 520, DType::bf16, Scale::none},
                           {9, 1, 48, 520, DType::fp8_e4m3, Scale::per_row},
                           {130, 0, 144, 200, DType::bf16, Scale::per_row},
                           {131, 1, 144, 330, DType::fp8_e4m3, Scale::per_row}}) {
    add_case(at + "product " + std::to_string(c.rows) + "x" + std::to_string(c.n) + "x" +
                 std::to_string(c.k) + " " + dtype_name(c.dtype),
             [=] { test_product(d, c); });
  }
  for (DType t : {DType::bf16, DType::fp8_e4m3}) {
    add_case(at + "row equality " + dtype_name(t), [=] { test_row_equality(d, t); });
    // More rows than are worked on at a time.
    add_case(at + "mlp of 1030 rows " + dtype_name(t),
             [=] { test_mlp(d, 1030, 2, t, Activation::silu_gated); });
    add_case(at + "relu2 of 20 rows " + dtype_name(t),
             [=] { test_mlp(d, 20, 3, t, Activation::relu2); });
  }
  add_case(at + "matrices in turns", [=] { test_turns(d); });
}

}  // namespace nemotron::test
