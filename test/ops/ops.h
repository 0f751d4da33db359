// The op suite: one list of cases for every Device. A program that has a device registers the cases
// for it with add_op_cases() and runs them (ops_test.cc does so for each instruction set of the
// CPU). References are plain loops in double, written from device.h alone.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "test/check.h"

namespace nemotron::test {

struct DeviceUnderTest {
  std::string name;
  // A fresh device whose unused KV slots hold NaN (DeviceOptions::debug_checks).
  std::function<Status(std::unique_ptr<Device>*)> open;
  // Relative error of a product of long vectors of normal numbers: about 2^-9 where activations are
  // rounded to BF16, 1e-6 where they stay float32.
  double tolerance = 1e-5;
  bool f16_kv = false;  // serves a KV cache of F16; otherwise it has to refuse one
  // Turns any even number of a head's elements; otherwise it refuses what does not divide the head.
  bool any_rotary = false;
  bool slow = false;  // emulated: leave out the large shapes
  // Attention is by the kernels of another device of the suite, which is given every shape.
  bool borrows_attention = false;
  // And sampling: draws from large vocabularies, and thousands of draws, are that one's.
  bool borrows_sampling = false;
  // Outputs of a matrix so large that many rows may take another kernel.
  int64_t many_outputs = 12800;
  // A CUDA device whose prompt attention is by wgmma: the shapes that take it.
  bool wgmma = false;
  // Rounds the activations of prompt rows that meet FP8 weights (DeviceOptions::fp8_activations).
  bool fp8_activations = false;
  // Makes weights in groups BF16 as they are multiplied.
  bool rounds_groups = false;
  // Rounds those that meet weights in groups to 8 bits (DeviceOptions::int8_activations).
  bool int8_activations = false;
};

void add_op_cases(const DeviceUnderTest& device);

// The families add_op_cases() is made of.
void add_gemm_cases(const DeviceUnderTest& device);
void add_product_cases(const DeviceUnderTest& device);
void add_grouped_cases(const DeviceUnderTest& device);  // of a device that packs groups
void add_attention_cases(const DeviceUnderTest& device);
void add_sample_cases(const DeviceUnderTest& device);

// --- numbers from a seed ---

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  uint64_t bits() {  // splitmix64
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  double uniform() { return (double(bits() >> 11) + 0.5) * 0x1p-53; }
  float normal() {
    return float(std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()));
  }
  int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
  std::vector<float> normals(int64_t n, float scale = 1, float shift = 0) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = normal() * scale + shift;
    return v;
  }

 private:
  uint64_t state_;
};

// --- matrices and device memory ---

// A stored matrix and what its values mean.
struct HostMatrix {
  int64_t rows = 0, cols = 0;
  DType dtype = DType::bf16;
  std::vector<uint8_t> data;
  std::vector<float> scale;    // empty, 1 or rows
  std::vector<double> values;  // [rows, cols] real values
  MatrixPart part() const { return {data.data(), dtype, rows, cols, cols, scale}; }
};
enum class Scale : uint8_t { none, one, per_row };
HostMatrix random_matrix(Random& random, int64_t rows, int64_t cols, DType dtype,
                         Scale scale = Scale::none);
// Each row rounded to FP8 with the scale (largest / 448), as WeightFormat::fp8 asks.
HostMatrix quantised(const HostMatrix& m);

// A tensor on the device, freed with this object.
class Buffer {
 public:
  Buffer(Device* device, DType dtype, std::vector<int64_t> shape);
  // From float32, rounded to `dtype`.
  Buffer(Device* device, DType dtype, std::vector<int64_t> shape, const std::vector<float>& values);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Tensor tensor() const { return tensor_; }
  void write(const std::vector<float>& values);
  std::vector<float> read() const;  // as float32

 private:
  Device* device_;
  Tensor tensor_;
};
float rounded(float x, DType dtype);

// out [rows, rows of w] = a w^T, by gemm_residual: out has to be new, all zeros.
void multiply(Device* device, const Buffer& out, const Buffer& a, const Weight& w);

// Ready for steps of up to `rows` sequences: one layer, one head of 16, a cache block for each and
// one more.
Status prepare_small(Device* device, int32_t rows, int32_t hidden, int32_t vocab);

// --- comparisons ---

// Root of the mean squared error over that of the wanted values; NaN or infinity anywhere gives
// 1e30.
double relative_error(const std::vector<float>& got, const std::vector<double>& want);
void expect_close(const char* file, int line, const std::vector<float>& got,
                  const std::vector<double>& want, double tolerance);
#define EXPECT_CLOSE(got, want, tolerance) \
  ::nemotron::test::expect_close(__FILE__, __LINE__, got, want, tolerance)
bool same_bits(const std::vector<float>& a, const std::vector<float>& b);

// --- plain references ---

// Norm::Kind::layer
std::vector<double> reference_layer_norm(const std::vector<double>& x,
                                         const std::vector<float>& gain,
                                         const std::vector<float>& bias, double eps);
// [rows, cols] * rsqrt(mean of squares + eps) * gain
std::vector<double> reference_norm(const std::vector<double>& x, int64_t cols,
                                   const std::vector<float>& gain, double eps);
double dot(const double* a, const double* b, size_t n);
// [rows, k] x [n, k]^T
std::vector<double> reference_gemm(const std::vector<double>& a, const HostMatrix& w);
std::vector<double> to_double(const std::vector<float>& v);
// Rows of `cols` from first_row on as FP8 makes them, each with a scale of its own.
std::vector<double> fp8_rows(const std::vector<float>& a, int64_t cols, int64_t first_row);

}  // namespace nemotron::test
