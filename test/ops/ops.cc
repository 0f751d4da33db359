#include "test/ops/ops.h"

#include <cstring>

namespace nemotron::test {
namespace {

double stored_value(const uint8_t* p, DType t) {
  uint16_t h;
  float f;
  switch (t) {
    case DType::f32: std::memcpy(&f, p, 4); return double(f);
    case DType::f16: std::memcpy(&h, p, 2); return double(f16_to_f32(h));
    case DType::bf16: std::memcpy(&h, p, 2); return double(bf16_to_f32(h));
    case DType::fp8_e4m3: return double(e4m3_to_f32(*p));
    case DType::i32: break;
  }
  return 0;
}

uint16_t to_f16(float x) {
  // Nearest even among the f16 values around x, by trying them.
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double a = std::fabs(double(x));
  uint16_t low = 0, high = 0x7c00;
  while (high - low > 1) {
    const uint16_t mid = uint16_t((low + high) / 2);
    (double(f16_to_f32(mid)) <= a ? low : high) = mid;
  }
  const double below = a - double(f16_to_f32(low));
  const double above = (high == 0x7c00 ? 65536.0 : double(f16_to_f32(high))) - a;
  return uint16_t(sign | (below < above || (below == above && low % 2 == 0) ? low : high));
}

void put(uint8_t* p, DType t, float x) {
  uint16_t h = 0;
  switch (t) {
    case DType::f32: std::memcpy(p, &x, 4); return;
    case DType::f16: h = to_f16(x); break;
    case DType::bf16: h = f32_to_bf16(x); break;
    case DType::fp8_e4m3: *p = f32_to_e4m3(x); return;
    case DType::i32: return;
  }
  std::memcpy(p, &h, 2);
}

}  // namespace

HostMatrix random_matrix(Random& random, int64_t rows, int64_t cols, DType dtype, Scale scale) {
  HostMatrix m;
  m.rows = rows, m.cols = cols, m.dtype = dtype;
  m.data.resize(size_t(rows * cols) * dtype_bytes(dtype));
  m.values.resize(size_t(rows * cols));
  if (scale == Scale::one) m.scale = {0.37f};
  if (scale == Scale::per_row) {
    for (int64_t r = 0; r < rows; ++r) m.scale.push_back(0.01f + float(random.uniform()));
  }
  for (int64_t i = 0; i < rows * cols; ++i) {
    float x = random.normal();
    // FP8: every stored byte but the two NaNs, subnormals included.
    if (dtype == DType::fp8_e4m3) {
      uint8_t b = uint8_t(random.bits());
      if ((b & 0x7f) == 0x7f) b = 0;
      m.data[size_t(i)] = b;
    } else {
      put(m.data.data() + size_t(i) * dtype_bytes(dtype), dtype, x);
    }
    const float s = m.scale.empty() ? 1.0f : m.scale[m.scale.size() == 1 ? 0 : size_t(i / cols)];
    m.values[size_t(i)] =
        stored_value(m.data.data() + size_t(i) * dtype_bytes(dtype), dtype) * double(s);
  }
  return m;
}

HostMatrix quantised(const HostMatrix& m) {
  HostMatrix q;
  q.rows = m.rows, q.cols = m.cols, q.dtype = DType::fp8_e4m3;
  q.data.resize(size_t(m.rows * m.cols));
  q.values.resize(q.data.size());
  const size_t size = dtype_bytes(m.dtype);
  for (int64_t r = 0; r < m.rows; ++r) {
    float most = 0;
    for (int64_t c = 0; c < m.cols; ++c) {
      const float v = float(stored_value(m.data.data() + size_t(r * m.cols + c) * size, m.dtype));
      most = std::max(most, std::fabs(v));
    }
    const float scale = most > 0 ? most / 448.0f : 1.0f;
    const float own = m.scale.empty() ? 1.0f : m.scale[m.scale.size() == 1 ? 0 : size_t(r)];
    q.scale.push_back(scale * own);
    for (int64_t c = 0; c < m.cols; ++c) {
      const size_t i = size_t(r * m.cols + c);
      const float v = float(stored_value(m.data.data() + i * size, m.dtype));
      q.data[i] = f32_to_e4m3(v / scale);
      q.values[i] = double(e4m3_to_f32(q.data[i])) * double(q.scale.back());
    }
  }
  return q;
}

float rounded(float x, DType dtype) {
  uint8_t bytes[4] = {};
  put(bytes, dtype, x);
  return float(stored_value(bytes, dtype));
}

Buffer::Buffer(Device* device, DType dtype, std::vector<int64_t> shape) : device_(device) {
  tensor_.dtype = dtype;
  tensor_.rank = int(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) tensor_.shape[i] = shape[i];
  EXPECT_OK(device->alloc(tensor_.bytes(), &tensor_.data));
}
Buffer::Buffer(Device* device, DType dtype, std::vector<int64_t> shape,
               const std::vector<float>& values)
    : Buffer(device, dtype, std::move(shape)) {
  write(values);
}
Buffer::~Buffer() { device_->free(tensor_.data); }

void Buffer::write(const std::vector<float>& values) {
  const size_t size = dtype_bytes(tensor_.dtype);
  std::vector<uint8_t> bytes(values.size() * size);
  for (size_t i = 0; i < values.size(); ++i) put(&bytes[i * size], tensor_.dtype, values[i]);
  EXPECT_LE(bytes.size(), tensor_.bytes());
  device_->upload(tensor_.data, bytes.data(), bytes.size());
}
std::vector<float> Buffer::read() const {
  std::vector<uint8_t> bytes(tensor_.bytes());
  device_->download(bytes.data(), tensor_.data, bytes.size());
  std::vector<float> out(size_t(tensor_.elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = float(stored_value(&bytes[i * dtype_bytes(tensor_.dtype)], tensor_.dtype));
  }
  return out;
}

void multiply(Device* device, const Buffer& out, const Buffer& a, const Weight& w) {
  device->gemm_residual(out.tensor(), a.tensor(), {w}, nullptr);
}

double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
  if (got.size() != want.size()) return 1e30;
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return 1e30;
    error += (double(got[i]) - want[i]) * (double(got[i]) - want[i]);
    size += want[i] * want[i];
  }
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

void expect_close(const char* file, int line, const std::vector<float>& got,
                  const std::vector<double>& want, double tolerance) {
  const double e = relative_error(got, want);
  if (!(e <= tolerance)) {
    fail(file, line, "relative error " + show(e) + ", tolerance " + show(tolerance));
  }
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

std::vector<double> to_double(const std::vector<float>& v) { return {v.begin(), v.end()}; }

std::vector<double> reference_layer_norm(const std::vector<double>& x,
                                         const std::vector<float>& gain,
                                         const std::vector<float>& bias, double eps) {
  const size_t cols = gain.size();
  std::vector<double> out(x.size());
  for (size_t at = 0; at < x.size(); at += cols) {
    double mean = 0, variance = 0;
    for (size_t c = 0; c < cols; ++c) mean += x[at + c] / double(cols);
    for (size_t c = 0; c < cols; ++c) {
      variance += (x[at + c] - mean) * (x[at + c] - mean) / double(cols);
    }
    for (size_t c = 0; c < cols; ++c) {
      out[at + c] =
          (x[at + c] - mean) / std::sqrt(variance + eps) * double(gain[c]) + double(bias[c]);
    }
  }
  return out;
}

std::vector<double> reference_norm(const std::vector<double>& x, int64_t cols,
                                   const std::vector<float>& gain, double eps) {
  std::vector<double> out(x.size());
  for (size_t r = 0; r < x.size() / size_t(cols); ++r) {
    double sum = 0;
    for (size_t c = 0; c < size_t(cols); ++c)
      sum += x[r * size_t(cols) + c] * x[r * size_t(cols) + c];
    const double by = 1 / std::sqrt(sum / double(cols) + eps);
    for (size_t c = 0; c < size_t(cols); ++c) {
      out[r * size_t(cols) + c] = x[r * size_t(cols) + c] * by * double(gain[c]);
    }
  }
  return out;
}

// In eight sums, which a processor adds up side by side.
double dot(const double* a, const double* b, size_t n) {
  double part[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (size_t j = 0; j < 8; ++j) part[j] += a[i + j] * b[i + j];
  }
  double sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const double p : part) sum += p;
  return sum;
}

std::vector<double> reference_gemm(const std::vector<double>& a, const HostMatrix& w) {
  const size_t k = size_t(w.cols), n = size_t(w.rows), rows = a.size() / k;
  std::vector<double> out(rows * n);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t j = 0; j < n; ++j) out[r * n + j] = dot(&a[r * k], &w.values[j * k], k);
  }
  return out;
}

void add_op_cases(const DeviceUnderTest& device) {
  add_gemm_cases(device);
  add_product_cases(device);
  add_grouped_cases(device);
  add_attention_cases(device);
  add_sample_cases(device);
}

Status prepare_small(Device* device, int32_t rows, int32_t hidden, int32_t vocab) {
  static const std::vector<float> inv_freq(8, 1.0f);
  const KvConfig kv{
      .layers = 1, .kv_heads = 1, .head_dim = 16, .num_blocks = rows + 1, .block_size = 16};
  const StepLimits limits{.max_rows = rows,
                          .max_spans = rows,
                          .max_samples = rows,
                          .max_context = 16 * (rows + 1),
                          .q_heads = 1,
                          .kv_heads = 1,
                          .head_dim = 16,
                          .hidden = hidden,
                          .intermediate = 64,
                          .vocab = vocab};
  return device->prepare(limits, kv, {inv_freq});
}

}  // namespace nemotron::test
