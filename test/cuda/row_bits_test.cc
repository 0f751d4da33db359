// A prompt row's products have the same bits among any number of rows, wherever it stands among
// them: that is what lets a sequence be computed alone, in a batch, in chunks and after a prefix
// hit with one result. By cuBLASLt, which promises nothing of the kind, and by the own kernels.
// The rows are a step's: outside one, the device takes its rows for generated ones.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "test/cuda/under_test.h"
#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

enum class Way : uint8_t { bf16, fp8, w8a8 };
const char* way_name(Way way) {
  return way == Way::bf16 ? "BF16" : way == Way::fp8 ? "FP8" : "W8A8";
}

struct Shape {
  int32_t n, k;
};
// qkv, o, gate_up and down of 8B; and as small as the emulation wants them.
const std::vector<Shape> kReal = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
const std::vector<Shape> kSmall = {{48, 96}, {32, 256}};
const std::vector<int32_t> kRealRows = {1,   2,   7,   16,   64,   100,  127,
                                        128, 129, 500, 1000, 1024, 2048, 8192};
const std::vector<int32_t> kSmallRows = {1, 2, 7, 16, 17, 33, 130};

// Random numbers without end: a block of them over and over, of a length that no row has.
class Noise {
 public:
  Noise(DType dtype, uint64_t seed) : bytes_(kPeriod * dtype_bytes(dtype)) {
    Random random(seed);
    for (size_t i = 0; i < kPeriod; ++i) {
      const uint64_t x = random.bits();
      uint8_t* at = bytes_.data() + i * dtype_bytes(dtype);
      if (dtype == DType::fp8_e4m3) {
        *at = uint8_t(x & 0xbf);  // below 2, and no NaN
        continue;
      }
      const uint16_t half = uint16_t((x & 0x81ff) | 0x3e00);  // 0.125 to 0.5, either sign
      const float single = bf16_to_f32(half);
      if (dtype == DType::f32) {
        std::memcpy(at, &single, sizeof single);
      } else {
        std::memcpy(at, &half, sizeof half);
      }
    }
  }
  template <class Write>
  void fill(size_t bytes, const Write& write) const {
    for (size_t at = 0; at < bytes; at += bytes_.size())
      write(at, bytes_.data(), std::min(bytes_.size(), bytes - at));
  }

 private:
  static constexpr size_t kPeriod = (size_t(1) << 20) - 3;
  std::vector<uint8_t> bytes_;
};

class Products {
 public:
  Products(Device* device, Way way, const Shape& shape, int32_t most)
      : device_(device), shape_(shape), most_(most) {
    const DType dtype = way == Way::bf16 ? DType::bf16 : DType::fp8_e4m3;
    std::vector<uint8_t> weights(size_t(shape.n) * size_t(shape.k) * dtype_bytes(dtype));
    Noise(dtype, 1).fill(weights.size(), [&](size_t at, const uint8_t* from, size_t bytes) {
      std::memcpy(weights.data() + at, from, bytes);
    });
    std::vector<float> scales;
    if (way != Way::bf16) {
      Random random(2);
      for (int32_t i = 0; i < shape.n; ++i) scales.push_back(float(0.5 + random.uniform()));
    }
    const auto part = [&](int32_t first, int32_t rows) {
      return MatrixPart{weights.data() + size_t(first) * size_t(shape.k) * dtype_bytes(dtype),
                        dtype,
                        rows,
                        shape.k,
                        shape.k,
                        scales.empty()
                            ? std::span<const float>()
                            : std::span<const float>(scales).subspan(size_t(first), size_t(rows))};
    };
    const MatrixPart whole = part(0, shape.n),
                     halves[] = {part(0, shape.n / 2), part(shape.n / 2, shape.n / 2)};
    EXPECT_OK(device->pack_weight({&whole, 1}, WeightUse::linear, WeightFormat::stored, &linear_));
    EXPECT_OK(device->pack_weight(halves, WeightUse::gate_up, WeightFormat::stored, &gate_up_));
    a_ = filled(DType::bf16, most, shape.k, 3);
    x_ = filled(DType::f32, most, shape.k, 4);
    gain_ = filled(DType::f32, 1, shape.k, 5);
    gain_ = Tensor{gain_.data, DType::f32, 1, {shape.k}};
    sum_ = memory(DType::f32, most, shape.n);
    h_ = memory(DType::bf16, most, shape.n / 2);
    KvConfig kv;
    kv.layers = 1, kv.kv_heads = 1, kv.head_dim = 64, kv.block_size = kBlock;
    kv.num_blocks = most / kBlock + 1;
    StepLimits limits;
    limits.max_rows = limits.max_spans = most, limits.max_context = most + kBlock;
    limits.q_heads = 1, limits.kv_heads = 1, limits.head_dim = 64;
    limits.hidden = shape.k, limits.intermediate = shape.n / 2, limits.vocab = 16;
    const std::vector<float> turns(32, 0.01f);
    EXPECT_OK(device->prepare(limits, kv, {turns}));
  }

  // As float32 added to what is there; as the BF16 gates and ups of an MLP.
  enum class Out : uint8_t { added, bf16 };
  static const char* out_name(Out out) { return out == Out::added ? "F32 added" : "BF16"; }
  int64_t row_bytes(Out out) const { return out == Out::bf16 ? shape_.n : 4 * int64_t(shape_.n); }

  // Rows [first, first + rows), in a step of their own.
  std::vector<uint8_t> run(Out out, int32_t first, int32_t rows) {
    if (out == Out::added) fill(&sum_, 6);
    const std::vector<int32_t> ids(size_t(rows), 0), table(size_t(most_ / kBlock + 1), 0);
    const SpanInput span{0, rows, 0, false, table};
    StepInput in;
    in.token_ids = ids;
    in.spans = {&span, 1};
    device_->begin_step(in);
    Tensor to = out == Out::bf16 ? h_.rows(rows) : sum_.rows(rows);
    if (out == Out::added) {
      device_->gemm_residual(to, from(a_, first, rows), {linear_}, nullptr);
    } else {
      device_->mlp_input(to, from(x_, first, rows), {.eps = 1e-5f, .gain = gain_}, {gate_up_},
                         Activation::silu_gated);
    }
    std::vector<uint8_t> got(size_t(rows) * size_t(row_bytes(out)));
    device_->download(got.data(), to.data, got.size());
    EXPECT_OK(device_->sync());
    return got;
  }

 private:
  static constexpr int32_t kBlock = 64;

  static Tensor from(const Tensor& t, int32_t first, int32_t rows) {
    Tensor part = t.rows(rows);
    part.data =
        static_cast<uint8_t*>(t.data) + size_t(first) * size_t(t.shape[1]) * dtype_bytes(t.dtype);
    return part;
  }
  Tensor memory(DType dtype, int64_t rows, int64_t cols) {
    Tensor t{nullptr, dtype, 2, {rows, cols}};
    EXPECT_OK(device_->alloc(t.bytes(), &t.data));
    return t;
  }
  Tensor filled(DType dtype, int64_t rows, int64_t cols, uint64_t seed) {
    Tensor t = memory(dtype, rows, cols);
    if (t.data) fill(&t, seed);
    return t;
  }
  void fill(Tensor* t, uint64_t seed) {
    Noise(t->dtype, seed).fill(t->bytes(), [&](size_t at, const uint8_t* bytes, size_t n) {
      device_->upload(static_cast<uint8_t*>(t->data) + at, bytes, n);
    });
    EXPECT_OK(device_->sync());
  }

  Device* device_;
  Shape shape_;
  int32_t most_;
  Weight linear_, gate_up_;
  Tensor a_, x_, gain_, sum_, h_;
};

// True when all rows are alike; says which are not.
bool same_rows(const std::string& what, const uint8_t* got, const uint8_t* want, int32_t rows,
               int64_t bytes) {
  int32_t apart = 0, first = 0;
  for (int32_t i = rows - 1; i >= 0; --i) {
    if (std::memcmp(got + i * bytes, want + i * bytes, size_t(bytes)) == 0) continue;
    ++apart;
    first = i;
  }
  if (apart == 0) return true;
  std::printf("  %s: %d of %d rows have other bits, row %d first\n", what.c_str(), apart, rows,
              first);
  return false;
}

void test_row_bits(Library library, Way way, const Shape& shape) {
  DeviceOptions options;
  options.fp8_activations = way == Way::w8a8;
  std::unique_ptr<Device> device;
  const Status opened = open_under_test(library, options, &device);
  if (is_skipped(opened, device.get(), library)) return;
  REQUIRE_OK(opened);
  const std::vector<int32_t>& sizes = kEmulated ? kSmallRows : kRealRows;
  const int32_t most = sizes.back();
  const int before = failures().load();
  Products products(device.get(), way, shape, most);
  if (failures().load() != before) return;
  using Out = Products::Out;
  for (const Out out : {Out::added, Out::bf16}) {
    if (out == Out::added && shape.n > 2 * shape.k) continue;  // no model adds so many columns
    const int64_t bytes = products.row_bytes(out);
    const std::vector<uint8_t> whole = products.run(out, 0, most);
    for (const int32_t rows : sizes) {
      // Of what is added to, a row meets the same numbers only where it stands.
      const int32_t first = rows == most || out == Out::added ? 0 : (most - rows) / 2 | 1;
      const std::vector<uint8_t> some = products.run(out, first, rows);
      if (failures().load() != before) return;
      EXPECT(same_rows(std::string(Products::out_name(out)) + ", M " + std::to_string(rows),
                       some.data(), whole.data() + first * bytes, rows, bytes));
    }
    if (failures().load() != before) return;
  }
}

bool add_cases() {
  for (const Library library : {Library::cublaslt, Library::none}) {
    for (const Way way : {Way::bf16, Way::fp8, Way::w8a8}) {
      if (library == Library::none && way == Way::w8a8) continue;  // the library's alone
      for (const Shape& shape : kEmulated ? kSmall : kReal) {
        add_case(std::string("row bits ") + (library == Library::none ? "own " : "cuBLASLt ") +
                     way_name(way) + " " + std::to_string(shape.n) + "x" + std::to_string(shape.k),
                 [=] { test_row_bits(library, way, shape); });
      }
    }
  }
  return true;
}
[[maybe_unused]] const bool kAdded = add_cases();

}  // namespace
}  // namespace nemotron::test
