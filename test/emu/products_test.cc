// Products of prompt rows on the emulated device, by own kernels, by cuBLASLt (its stand-in), and
// with FP8 activations; then whole attention through them.
#include <dlfcn.h>

#include <algorithm>
#include <cmath>

#include "cuda/cuda_device.h"
#include "cuda_runtime.h"
#include "machine.h"
#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

enum class Way { own, library, fp8 };
const char* way_name(Way way) {
  return way == Way::own ? "own" : way == Way::library ? "library" : "fp8";
}

Status open(Way way, std::unique_ptr<Device>* out) {
  static int opened = 0;
  static constexpr emu::Order kOrders[] = {emu::Order::natural, emu::Order::reverse,
                                           emu::Order::random};
  emu::config().order = kOrders[opened++ % 3];
  emu::config().seed = uint64_t(opened);
  if (way == Way::own) {
    without_cublaslt();
  } else {
    with_fake_cublaslt();
  }
  DeviceOptions options;
  options.debug_checks = true;
  options.fp8_activations = way == Way::fp8;
  return cuda::open_device(options, out);
}

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

// Rows of weights for which the stand-in has no algorithm; and one that refuses 7 rows only when
// they come.
constexpr int32_t kNoAlgorithm = 24, kUnreliable = 56;

// How often the stand-in has multiplied.
int library_products() {
  static const auto count = [] {
    void* library = dlopen(EMU_FAKE_CUBLASLT, RTLD_NOW | RTLD_LOCAL);
    return reinterpret_cast<int (*)()>(dlsym(library, "fake_cublaslt_products"));
  }();
  return count();
}

struct Shape {
  int32_t rows, generated, n, k;
  DType dtype;
  Scale scale;
  bool rounded = true;  // with FP8 activations, where asked for
};

void test_product(Way way, const Shape& c) {
  std::unique_ptr<Device> device;
  REQUIRE_OK(open(way, &device));
  Random random(uint64_t(c.rows * 31 + c.n * 7 + c.k));
  const HostMatrix m = random_matrix(random, c.n, c.k, c.dtype, c.scale);
  const MatrixPart part = m.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  std::vector<float> values = random.normals(int64_t(c.rows) * c.k);
  if (c.rows > 2) std::fill(values.begin() + 2 * c.k, values.begin() + 3 * c.k, 0.0f);
  Buffer a(device.get(), DType::bf16, {c.rows, c.k}, values);
  const bool rounded = way == Way::fp8 && c.dtype == DType::fp8_e4m3 && c.rounded;
  const std::vector<double> want =
      reference_gemm(rounded ? fp8_rows(a.read(), c.k, c.generated) : to_double(a.read()), m);

  const int before_library = library_products();
  const std::vector<float> before = random.normals(int64_t(c.rows) * c.n, 10.0f);
  Buffer x(device.get(), DType::f32, {c.rows, c.n}, before);
  {
    const Step step(device.get(), c.rows, c.generated);
    device->gemm_residual(x.tensor(), a.tensor(), {w}, nullptr);
    REQUIRE_OK(device->sync());
  }
  std::vector<double> sum = want;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += double(before[i]);
  EXPECT_CLOSE(x.read(), sum, 1e-4);
  EXPECT_EQ(library_products() > before_library, way != Way::own && c.n != kNoAlgorithm);
}

// A product that the library refuses although it said that it takes it is an error: our own kernel
// would give other bits. The same matrix was multiplied before.
void test_late_refusal() {
  std::unique_ptr<Device> device;
  REQUIRE_OK(open(Way::library, &device));
  Random random(3);
  const HostMatrix m = random_matrix(random, kUnreliable, 64, DType::bf16);
  const MatrixPart part = m.part();
  Weight w;
  REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  const auto multiply = [&](int32_t rows) {
    Buffer a(device.get(), DType::bf16, {rows, 64}, random.normals(rows * 64));
    Buffer out(device.get(), DType::f32, {rows, kUnreliable});
    const Step step(device.get(), rows, 0);
    test::multiply(device.get(), out, a, w);
    return device->sync();
  };
  REQUIRE_OK(multiply(8));
  const char* refused =
      "cuBLASLt refuses a product of 7 rows with 56 x 64 BF16 weights, of a kind that it accepted: "
      "status 15";
  EXPECT_ERROR(multiply(7), refused);
  EXPECT_ERROR(device->sync(), refused);  // and stays
}

// What multiplies is in the device's name: shapes that the library has nothing for are counted.
void test_name() {
  std::unique_ptr<Device> device;
  REQUIRE_OK(open(Way::library, &device));
  EXPECT_EQ(device->name(), "emulated (sm_90, cuBLASLt 13.1)");
  Random random(3);
  for (const int32_t n : {kNoAlgorithm, 16}) {
    const HostMatrix m = random_matrix(random, n, 64, DType::bf16);
    const MatrixPart part = m.part();
    Weight w;
    REQUIRE_OK(device->pack_weight({&part, 1}, WeightUse::linear, WeightFormat::stored, &w));
  }
  REQUIRE_OK(prepare_small(device.get(), 4, 64, 64));
  EXPECT_EQ(device->name(),
            "emulated (sm_90, cuBLASLt 13.1, which lacks 2 of 4 kinds of products)");
}

void test_mlp(Way way, int32_t rows, int32_t generated, DType dtype) {
  constexpr int32_t kHidden = 96, kInner = 40;
  std::unique_ptr<Device> device;
  REQUIRE_OK(open(way, &device));
  Random random(4);
  const HostMatrix gate = random_matrix(random, kInner, kHidden, dtype, Scale::per_row),
                   up = random_matrix(random, kInner, kHidden, dtype, Scale::per_row);
  const MatrixPart parts[] = {gate.part(), up.part()};
  Weight w;
  REQUIRE_OK(device->pack_weight(parts, WeightUse::gate_up, WeightFormat::stored, &w));
  const std::vector<float> gain(kHidden, 1.0f);
  Buffer g(device.get(), DType::f32, {kHidden}, gain);
  Buffer x(device.get(), DType::f32, {rows, kHidden}, random.normals(rows * kHidden, 0.5f));
  Buffer h(device.get(), DType::bf16, {rows, kInner});
  {
    const Step step(device.get(), rows, generated);
    device->mlp_input(h.tensor(), x.tensor(), {.eps = 1e-5f, .gain = g.tensor()}, {w},
                      Activation::silu_gated);
    REQUIRE_OK(device->sync());
  }
  std::vector<float> normed;
  for (double v : reference_norm(to_double(x.read()), kHidden, gain, 1e-5))
    normed.push_back(bf16_to_f32(f32_to_bf16(float(v))));
  const std::vector<double> a = way == Way::fp8 && dtype == DType::fp8_e4m3
                                    ? fp8_rows(normed, kHidden, generated)
                                    : to_double(normed);
  const std::vector<double> gates = reference_gemm(a, gate), ups = reference_gemm(a, up);
  std::vector<double> want;
  for (size_t i = 0; i < gates.size(); ++i)
    want.push_back(gates[i] / (1 + std::exp(-gates[i])) * ups[i]);
  // A value of the norm that rounds the other way to BF16 may be one step of FP8 away.
  EXPECT_CLOSE(h.read(), want, way == Way::fp8 ? 2e-2 : 1e-2);
}

}  // namespace
}  // namespace nemotron::test

int main(int argc, char** argv) {
  using namespace nemotron;
  using namespace nemotron::test;
  for (const Way way : {Way::own, Way::library, Way::fp8}) {
    const std::string at = std::string(way_name(way)) + " ";
    const Shape cases[] = {
        {.rows = 9, .generated = 0, .n = 48, .k = 96, .dtype = DType::bf16, .scale = Scale::none},
        {9, 3, 40, 70, DType::bf16, Scale::per_row},
        {5, 0, 33, 64, DType::fp8_e4m3, Scale::one, false},  // not sixteen rows of weights
        {20, 4, 48, 128, DType::fp8_e4m3, Scale::per_row},
        {6, 0, kNoAlgorithm, 64, DType::bf16, Scale::none},
        {1032, 0, 16, 64, DType::fp8_e4m3, Scale::per_row},  // two slices
        {1032, 1, 16, 64, DType::bf16, Scale::per_row},
        {1601, 1, 16, 64, DType::bf16, Scale::none},  // more rows than one algorithm takes
    };
    for (const Shape& c : cases) {
      add_case(at + "product " + std::to_string(c.rows) + "x" + std::to_string(c.n) + "x" +
                   std::to_string(c.k) + " " + dtype_name(c.dtype),
               [=] { test_product(way, c); });
    }
    for (const DType t : {DType::bf16, DType::fp8_e4m3})
      add_case(at + "mlp " + dtype_name(t), [=] { test_mlp(way, 11, 2, t); });
  }
  add_case("library refuses late", test_late_refusal);
  add_case("library name", test_name);
  // Attention through the library's products, and every FP8 code; the op suite runs them on own
  // kernels.
  const DeviceUnderTest library = {
      .name = "library",
      .open = [](std::unique_ptr<Device>* out) { return open(Way::library, out); },
      .tolerance = 4e-3,
      .slow = true};
  add_attention_cases(library);
  add_gemm_cases(library);
  if (argc > 1) return run_all(argc, argv);
  const char* some[] = {argv[0],        "own ",
                        "fp8 ",         "library product",
                        "library mlp ", "library refuses",
                        "library name", "library fp8 codes",
                        "d64 b64"};
  return run_all(std::size(some), const_cast<char**>(some));
}
