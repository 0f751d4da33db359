// attention_input and attention over the paged cache. A case is a list of sequences and a schedule
// of steps that computes them; unused KV slots hold NaN. Every schedule of the same sequences must
// give the reference's numbers, and (same kinds of rows) the same bits.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

constexpr float kEps = 1e-5f;

struct Shape {
  int32_t q_heads = 4, kv_heads = 1, head_dim = 64, hidden = 48, block_size = 64;
  DType kv = DType::bf16;
  bool kv_scales = false;
  int32_t rotary_dim = 0;  // elements of a head that are turned; 0: all
  // Keys are zero, so that every key weighs the same: one key too many or too few, or one of them
  // counted twice, is far outside the tolerance. Values are one or minus one.
  bool flat = false;
  DType weights = DType::bf16;
};

std::string label(const Shape& s) {
  return std::to_string(s.q_heads) + ":" + std::to_string(s.kv_heads) + " d" +
         std::to_string(s.head_dim) + " b" + std::to_string(s.block_size) + " " + dtype_name(s.kv) +
         (s.kv_scales ? " scaled" : "") + (s.flat ? " flat" : "") +
         (s.weights == DType::bf16 ? "" : std::string(" by ") + dtype_name(s.weights)) +
         (s.rotary_dim > 0 ? " rotary " + std::to_string(s.rotary_dim) : "");
}

struct Sequence {
  uint64_t seed = 1;  // of its hidden states; equal seeds have equal prefixes
  int32_t tokens = 0;
  int32_t prompt = 0;   // tokens from here on are generated
  int32_t shares = -1;  // takes its first blocks from this sequence, already computed
  int32_t shared_tokens = 0;
};

struct SpanPlan {
  int32_t sequence, first, rows;
};
using StepPlan = std::vector<SpanPlan>;

// One layer's weights, and what the device makes of sequences.
class World {
 public:
  World(const DeviceUnderTest& under_test, Device* device, const Shape& shape,
        const std::vector<Sequence>& sequences, int32_t max_rows)
      : device_(device), s_(shape), sequences_(sequences), random_(99) {
    const int32_t d = s_.head_dim;
    const bool fp8 = s_.weights == DType::fp8_e4m3;
    rounds_ = fp8 && under_test.fp8_activations;
    const Scale scale = fp8 ? Scale::per_row : Scale::none;
    q_ = random_matrix(random_, s_.q_heads * d, s_.hidden, s_.weights, scale);
    k_ = random_matrix(random_, s_.kv_heads * d, s_.hidden, s_.weights, scale);
    v_ = random_matrix(random_, s_.kv_heads * d, s_.hidden, s_.weights, scale);
    // Queries and keys of about unit size times 1.5: weights that are neither flat nor one-hot.
    gain_ = random_.normals(s_.hidden, fp8 ? 0.001f : 0.05f,
                            (fp8 ? 0.024f : 1.2f) / std::sqrt(float(s_.hidden)));
    if (s_.flat) {
      gain_.assign(size_t(s_.hidden), 1.0f);
      set(&k_, [](int64_t, int64_t) { return false; });
      set(&v_, [&](int64_t row, int64_t col) { return row % s_.hidden == col; });
    }
    const int32_t rotary = s_.rotary_dim > 0 ? s_.rotary_dim : d;
    for (int32_t i = 0; i < rotary / 2; ++i)
      inv_freq_.push_back(float(std::pow(10000.0, -2.0 * i / rotary)));
    if (s_.kv_scales) k_scale_ = {0.05f, 0.03f}, v_scale_ = {0.04f, 0.02f};

    // Blocks in random order; a sequence that shares begins with the other's blocks.
    int32_t blocks = 0, context = 0;
    for (const Sequence& q : sequences_) {
      blocks += q.tokens / s_.block_size + 1;
      context = std::max(context, q.tokens);
    }
    std::vector<int32_t> order;
    for (int32_t i = 0; i < blocks + 3; ++i) order.push_back(i);
    for (size_t i = order.size() - 1; i > 0; --i)
      std::swap(order[i], order[size_t(random_.below(int64_t(i) + 1))]);
    for (const Sequence& q : sequences_) {
      std::vector<int32_t> table;
      if (q.shares >= 0) {
        const auto& from = tables_[size_t(q.shares)];
        table.assign(from.begin(), from.begin() + q.shared_tokens / s_.block_size);
      }
      while (int32_t(table.size()) * s_.block_size < q.tokens) {
        table.push_back(order.back());
        order.pop_back();
      }
      tables_.push_back(table);
    }

    KvConfig kv{.layers = 2,
                .kv_heads = s_.kv_heads,
                .head_dim = d,
                .num_blocks = blocks + 3,
                .block_size = s_.block_size,
                .dtype = s_.kv,
                .k_scale = k_scale_,
                .v_scale = v_scale_};
    StepLimits limits{.max_rows = max_rows,
                      .max_spans = int32_t(sequences_.size()),
                      .max_samples = 1,
                      .max_context = context,
                      .q_heads = s_.q_heads,
                      .kv_heads = s_.kv_heads,
                      .head_dim = d,
                      .hidden = s_.hidden,
                      .intermediate = 16,
                      .vocab = 16};
    const MatrixPart parts[] = {q_.part(), k_.part(), v_.part()};
    EXPECT_OK(device_->pack_weight(parts, WeightUse::linear, WeightFormat::stored, &qkv_));
    prepared_ = device_->prepare(limits, kv, {inv_freq_});
    EXPECT_OK(prepared_);
  }
  bool ok() const { return prepared_.ok(); }

  std::vector<float> hidden(int32_t sequence, int32_t position) const {
    Random r(sequences_[size_t(sequence)].seed * 1000003 + uint64_t(position));
    std::vector<float> row = r.normals(s_.hidden);
    // Rows whose largest values differ, and with them the scales of rounded rows.
    if (rounds_) row[0] *= float(1 + position % 4 * 3);
    if (s_.flat) {
      for (float& x : row) x = x < 0 ? -1.0f : 1.0f;
    }
    return row;
  }

  // Runs the steps; attention outputs [q_heads * head_dim] of each (sequence, position) from
  // `want_from` on.
  std::map<std::pair<int32_t, int32_t>, std::vector<float>> run(const std::vector<StepPlan>& steps,
                                                                int32_t want_from = 0) {
    std::map<std::pair<int32_t, int32_t>, std::vector<float>> out;
    const int64_t width = int64_t(s_.q_heads) * s_.head_dim;
    const DType act = device_->activation_dtype();
    Buffer gain(device_, DType::f32, {s_.hidden}, gain_);
    for (const StepPlan& step : steps) {
      std::vector<SpanInput> spans;
      std::vector<float> x;
      int32_t rows = 0, generated_rows = 0;
      bool wanted = false;
      for (const SpanPlan& p : step) {
        const bool generated = p.first >= sequences_[size_t(p.sequence)].prompt;
        spans.push_back({rows, p.rows, p.first, generated, tables_[size_t(p.sequence)]});
        rows += p.rows;
        if (generated) generated_rows = rows;
        wanted = wanted || p.first + p.rows > want_from;
        for (int32_t i = 0; i < p.rows; ++i) {
          const std::vector<float> row = hidden(p.sequence, p.first + i);
          x.insert(x.end(), row.begin(), row.end());
        }
      }
      const std::vector<int32_t> ids(size_t(rows), 0), slots(size_t(rows), -1);
      const StepInput in{.token_ids = ids,
                         .token_slots = slots,
                         .spans = spans,
                         .num_generated_rows = generated_rows};
      Buffer bx(device_, DType::f32, {rows, s_.hidden}, x);
      Buffer q(device_, act, {rows, s_.q_heads, s_.head_dim}),
          attn(device_, act, {rows, s_.q_heads, s_.head_dim});
      device_->begin_step(in);
      // The second of two layers, so that a wrong layer stride shows.
      device_->attention_input(q.tensor(), bx.tensor(), {.eps = kEps, .gain = gain.tensor()},
                               {qkv_}, 1);
      if (wanted) {
        device_->attention(attn.tensor(), q.tensor(), 1, 1 / std::sqrt(float(s_.head_dim)));
      }
      const Status status = device_->sync();
      EXPECT_OK(status);
      if (!status || !wanted) continue;
      const std::vector<float> got = attn.read();
      int64_t row = 0;
      for (const SpanPlan& p : step) {
        for (int32_t i = 0; i < p.rows; ++i, ++row) {
          if (p.first + i < want_from) continue;
          out[{p.sequence, p.first + i}] = {got.begin() + row * width,
                                            got.begin() + (row + 1) * width};
        }
      }
    }
    return out;
  }

  // The same in double; K and V rounded to the cache's type. It is that of any device that rounds
  // as this one does.
  const std::vector<double>& reference(int32_t sequence, int32_t position) {
    static std::map<std::tuple<std::string, uint64_t, int32_t, int32_t>, std::vector<double>> known;
    const Sequence& of = sequences_[size_t(sequence)];
    const std::string shape = label(s_) + " hidden " + std::to_string(s_.hidden);
    auto [at, fresh] = known.try_emplace({shape, of.seed, rounds_ ? of.prompt : -1, position});
    if (fresh) at->second = computed(sequence, position);
    return at->second;
  }

 private:
  struct Keys {
    std::vector<std::vector<double>> k, v;  // [position][kv_heads * head_dim]
  };

  std::vector<double> computed(int32_t sequence, int32_t position) {
    const Keys& kv = keys_of(sequence, position + 1);
    const int32_t d = s_.head_dim, group = s_.q_heads / s_.kv_heads;
    const std::vector<double> n = normed(sequence, position);
    const std::vector<double> q = reference_gemm(n, q_);
    std::vector<double> out(q.size());
    for (int32_t h = 0; h < s_.q_heads; ++h) {
      const std::vector<double> turned =
          rope({q.begin() + h * d, q.begin() + (h + 1) * d}, position);
      const size_t at = size_t(h / group * d);
      std::vector<double> w(size_t(position) + 1);
      double top = -1e300, sum = 0;
      for (size_t t = 0; t < w.size(); ++t) {
        w[t] = dot(turned.data(), &kv.k[t][at], size_t(d)) / std::sqrt(double(d));
        top = std::max(top, w[t]);
      }
      for (double& e : w) sum += e = std::exp(e - top);
      for (size_t t = 0; t < w.size(); ++t) {
        for (size_t i = 0; i < size_t(d); ++i)
          out[size_t(h * d) + i] += w[t] / sum * kv.v[t][at + i];
      }
    }
    return out;
  }

  std::vector<double> normed(int32_t sequence, int32_t position) const {
    const std::vector<double> n =
        reference_norm(to_double(hidden(sequence, position)), s_.hidden, gain_, double(kEps));
    if (!rounds_ || position >= sequences_[size_t(sequence)].prompt) return n;
    std::vector<float> stored;
    for (double v : n) stored.push_back(rounded(float(v), DType::bf16));
    return fp8_rows(stored, s_.hidden, 0);
  }
  // Ones and zeros.
  template <class Is>
  static void set(HostMatrix* m, Is is) {
    for (int64_t row = 0; row < m->rows; ++row) {
      for (int64_t col = 0; col < m->cols; ++col) {
        const float value = is(row, col) ? 1.0f : 0.0f;
        const auto i = size_t(row * m->cols + col);
        const uint16_t bits = f32_to_bf16(value);
        std::memcpy(m->data.data() + i * 2, &bits, 2);
        m->values[i] = double(value);
      }
    }
  }
  std::vector<double> rope(std::vector<double> x, int32_t position) const {
    const size_t half = inv_freq_.size();
    for (size_t i = 0; i < half; ++i) {
      const double angle = double(float(position) * inv_freq_[i]);
      const double a = x[i], b = x[i + half];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
    return x;
  }
  const Keys& keys_of(int32_t sequence, int32_t tokens) {
    Keys& kv = keys_[sequence];
    const size_t d = size_t(s_.head_dim);
    const double ks = k_scale_.empty() ? 1 : double(k_scale_[1]),
                 vs = v_scale_.empty() ? 1 : double(v_scale_[1]);
    while (int32_t(kv.k.size()) < tokens) {
      const int32_t position = int32_t(kv.k.size());
      const std::vector<double> n = normed(sequence, position);
      std::vector<double> k = reference_gemm(n, k_), v = reference_gemm(n, v_);
      for (size_t h = 0; h < size_t(s_.kv_heads); ++h) {
        const std::vector<double> t =
            rope({k.begin() + int64_t(h * d), k.begin() + int64_t(h * d + d)}, position);
        std::copy(t.begin(), t.end(), k.begin() + int64_t(h * d));
      }
      for (double& e : k) e = double(rounded(float(e / ks), s_.kv)) * ks;
      for (double& e : v) e = double(rounded(float(e / vs), s_.kv)) * vs;
      kv.k.push_back(std::move(k));
      kv.v.push_back(std::move(v));
    }
    return kv;
  }

  Device* device_;
  Shape s_;
  std::vector<Sequence> sequences_;
  Random random_;
  HostMatrix q_, k_, v_;
  Weight qkv_;
  std::vector<float> gain_, inv_freq_, k_scale_, v_scale_;
  std::vector<std::vector<int32_t>> tables_;
  std::map<int32_t, Keys> keys_;
  bool rounds_ = false;
  Status prepared_;
};

// A stored key or value may round to the other neighbour when its value differs in the last bits.
double tolerance_for(const DeviceUnderTest& d, const Shape& s) {
  if (s.flat) return 5e-4 + 0.4 * d.tolerance;  // every stored number is exact
  // Nor is an activation that rounds to FP8 the other way a fault.
  if (d.fp8_activations && s.weights == DType::fp8_e4m3) return 5e-2;
  const double cache = s.kv == DType::f16 ? 1.25e-4 : s.kv == DType::bf16 ? 1e-3 : 2.5e-2;
  return cache + 4 * d.tolerance;
}

using Outputs = std::map<std::pair<int32_t, int32_t>, std::vector<float>>;

void expect_reference(const DeviceUnderTest& d, const Shape& s, World* world, const Outputs& got) {
  std::vector<float> all;
  std::vector<double> want;
  for (const auto& [at, values] : got) {
    const std::vector<double>& w = world->reference(at.first, at.second);
    const double e = relative_error(values, w);
    if (!(e <= 4 * tolerance_for(d, s))) {
      fail(__FILE__, __LINE__,
           "sequence " + show(at.first) + " position " + show(at.second) + ": relative error " +
               show(e));
      return;
    }
    all.insert(all.end(), values.begin(), values.end());
    want.insert(want.end(), w.begin(), w.end());
  }
  EXPECT_CLOSE(all, want, tolerance_for(d, s));
}

void expect_equal(const Outputs& a, const Outputs& b, const char* what) {
  EXPECT_EQ(a.size(), b.size());
  for (const auto& [at, values] : a) {
    const auto other = b.find(at);
    if (other == b.end() || !same_bits(values, other->second)) {
      fail(__FILE__, __LINE__,
           std::string(what) + ": sequence " + show(at.first) + " position " + show(at.second) +
               " differs");
      return;
    }
  }
}

#define OPEN_WORLD(d, shape, sequences, max_rows)           \
  std::unique_ptr<Device> device;                           \
  REQUIRE_OK((d).open(&device));                            \
  World world(d, device.get(), shape, sequences, max_rows); \
  REQUIRE(world.ok())

// Prompts of every length around the edges of blocks and tiles, alone in one step each.
void test_prompts(const DeviceUnderTest& d, const Shape& s) {
  std::vector<Sequence> sequences;
  const int32_t b = s.block_size;
  for (int32_t n : {1, 2, 15, 16, 17, b - 1, b, b + 1, 2 * b, 2 * b + 3}) {
    sequences.push_back({uint64_t(n), n, n, -1, 0});
  }
  OPEN_WORLD(d, s, sequences, 2 * b + 3);
  std::vector<StepPlan> steps;
  for (size_t i = 0; i < sequences.size(); ++i)
    steps.push_back({{int32_t(i), 0, sequences[i].tokens}});
  expect_reference(d, s, &world, world.run(steps));
}

// Three sequences: a prompt in one piece then token by token; chunks and generated rows mixed;
// spans that start in the middle of a block. Same bits in every schedule.
void test_schedules(const DeviceUnderTest& d, const Shape& s) {
  const std::vector<Sequence> sequences = {
      {1, 75, 70, -1, 0}, {2, 133, 128, -1, 0}, {3, 40, 33, -1, 0}};
  std::vector<Outputs> all;
  for (int schedule = 0; schedule < 3; ++schedule) {
    OPEN_WORLD(d, s, sequences, 256);
    std::vector<StepPlan> steps;
    if (schedule == 0) {  // one sequence after the other
      for (int32_t q = 0; q < 3; ++q) {
        const Sequence& seq = sequences[size_t(q)];
        steps.push_back({{q, 0, seq.prompt}});
        for (int32_t t = seq.prompt; t < seq.tokens; ++t) steps.push_back({{q, t, 1}});
      }
    } else if (schedule == 1) {  // mixed: generated rows first, then prompt chunks
      steps = {{{2, 0, 33}},
               {{2, 33, 1}, {0, 0, 13}, {1, 0, 64}},
               {{2, 34, 1}, {0, 13, 1}, {1, 64, 17}},
               {{2, 35, 2}, {0, 14, 56}, {1, 81, 46}},
               {{2, 37, 1}, {0, 70, 1}, {1, 127, 1}},
               {{0, 71, 1}, {1, 128, 1}, {2, 38, 1}},
               {{0, 72, 3}, {1, 129, 3}, {2, 39, 1}},
               {{1, 132, 1}}};
    } else {  // small chunks
      for (int32_t q = 0; q < 3; ++q) {
        const Sequence& seq = sequences[size_t(q)];
        int32_t at = 0;
        for (int32_t step = 1; at < seq.prompt; step = step % 5 + 1) {
          const int32_t rows = std::min(step * (d.slow ? 9 : 5), seq.prompt - at);
          steps.push_back({{q, at, rows}});
          at += rows;
        }
        steps.push_back({{q, at, seq.tokens - at}});
      }
    }
    all.push_back(world.run(steps));
    EXPECT_EQ(all.back().size(), size_t(75 + 133 + 40));
    if (schedule == 1) expect_reference(d, s, &world, all.back());
  }
  expect_equal(all[0], all[1], "mixed steps");
  expect_equal(all[0], all[2], "small chunks");
}

// A sequence that begins with another's blocks computes only the rest.
void test_prefix_hit(const DeviceUnderTest& d, const Shape& s) {
  const int32_t b = s.block_size;
  const std::vector<Sequence> sequences = {{7, 3 * b + 5, 3 * b + 5, -1, 0},
                                           {7, 3 * b + 1, 3 * b + 1, 0, 2 * b},
                                           {7, 3 * b + 1, 3 * b + 1, -1, 0}};
  OPEN_WORLD(d, s, sequences, 4 * b);
  const Outputs hit = world.run({{{0, 0, 3 * b + 5}}, {{1, 2 * b, b + 1}}});
  const Outputs miss = world.run({{{2, 0, 3 * b + 1}}});
  REQUIRE(hit.contains({1, 3 * b}) && miss.contains({2, 3 * b}));  // a step that failed has none
  for (int32_t t = 2 * b; t < 3 * b + 1; ++t) {
    EXPECT(same_bits(hit.at({1, t}), miss.at({2, t})));
  }
  expect_reference(d, s, &world, {*hit.find({1, 2 * b}), *hit.find({1, 3 * b})});
}

// A block that another sequence filled before, now reused from its start.
void test_reuse(const DeviceUnderTest& d, const Shape& s) {
  std::vector<Sequence> sequences = {{1, 2 * s.block_size, 2 * s.block_size, -1, 0},
                                     {2, s.block_size + 2, s.block_size + 2, 0, 2 * s.block_size}};
  OPEN_WORLD(d, s, sequences, 2 * s.block_size);
  const Outputs got = world.run({{{0, 0, 2 * s.block_size}}, {{1, 0, s.block_size + 2}}});
  Outputs second;
  for (const auto& [at, values] : got) {
    if (at.first == 1) second[at] = values;
  }
  expect_reference(d, s, &world, second);
}

// Many sequences of one generated token each; of their prompts the last row is compared.
void test_many(const DeviceUnderTest& d, const Shape& s) {
  std::vector<Sequence> sequences;
  const int32_t step = d.slow ? 2 : 5;
  for (int32_t i = 0; i < 33; ++i)
    sequences.push_back({uint64_t(i + 1), i * step + 2, i * step + 1, -1, 0});
  OPEN_WORLD(d, s, sequences, 200);
  std::vector<StepPlan> steps;
  StepPlan last;
  for (int32_t i = 0; i < 33; ++i) {
    steps.push_back({{i, 0, sequences[size_t(i)].prompt}});
    last.push_back({i, sequences[size_t(i)].prompt, 1});
  }
  steps.push_back(last);
  Outputs got = world.run(steps);
  EXPECT_EQ(got.size(), size_t(33 * 2 + 33 * 32 / 2 * step));
  std::erase_if(got, [&](const auto& one) {
    const auto& [sequence, position] = one.first;
    return position + 1 < sequences[size_t(sequence)].prompt;
  });
  expect_reference(d, s, &world, got);
}

// One sequence as long as a model allows; attention of its last rows alone.
void test_long(const DeviceUnderTest& d, const Shape& s, int32_t tokens) {
  const std::vector<Sequence> sequences = {{1, tokens, tokens - 1, -1, 0}};
  OPEN_WORLD(d, s, sequences, 4096);
  std::vector<StepPlan> steps;
  for (int32_t at = 0; at < tokens - 4;) {
    const int32_t rows = std::min(4096, tokens - 4 - at);
    steps.push_back({{0, at, rows}});
    at += rows;
  }
  steps.push_back({{0, tokens - 4, 3}});
  steps.push_back({{0, tokens - 1, 1}});
  const Outputs got = world.run(steps, tokens - 4);
  EXPECT_EQ(got.size(), size_t(4));
  expect_reference(d, s, &world, got);
}

// Threads share the context of a few rows, and take a long prompt piece by piece.
void test_stretches(const DeviceUnderTest& d) {
  const Shape s{.q_heads = 4, .kv_heads = 1, .head_dim = 64, .hidden = 16};
  constexpr int32_t kTokens = 2500;
  // All prompt: rows of the other kind may differ in the last bits.
  const std::vector<Sequence> sequences = {{1, kTokens, kTokens, -1, 0}};
  const std::vector<std::vector<StepPlan>> schedules = {{{{0, 0, kTokens}}},
                                                        {{{0, 0, kTokens - 30}},
                                                         {{0, kTokens - 30, 27}},
                                                         {{0, kTokens - 3, 2}},
                                                         {{0, kTokens - 1, 1}}}};
  std::vector<Outputs> all;
  for (const std::vector<StepPlan>& steps : schedules) {
    OPEN_WORLD(d, s, sequences, 4096);
    all.push_back(world.run(steps, kTokens - 30));
    EXPECT_EQ(all.back().size(), size_t(30));
    expect_reference(d, s, &world, all.back());
  }
  expect_equal(all[0], all[1], "few rows");
}

// Generated rows of every length up to `tokens`, all in one step.
void test_generated(const DeviceUnderTest& d, const Shape& s, int32_t tokens) {
  const std::vector<Sequence> sequences = {{1, tokens, 1, -1, 0}};
  OPEN_WORLD(d, s, sequences, tokens);
  expect_reference(d, s, &world, world.run({{{0, 0, 1}}, {{0, 1, tokens - 1}}}));
}

// The last rows of a prompt in one step, and cut in two. Those before `from` are only cached.
void test_chunks(const DeviceUnderTest& d, const Shape& s, int32_t from, int32_t cut,
                 int32_t tokens) {
  const std::vector<Sequence> sequences = {{1, tokens, tokens, -1, 0}};
  std::vector<Outputs> all;
  for (const bool whole : {true, false}) {
    OPEN_WORLD(d, s, sequences, tokens);
    std::vector<StepPlan> steps;
    if (from > 0) steps.push_back({{0, 0, from}});
    if (whole) {
      steps.push_back({{0, from, tokens - from}});
    } else {
      steps.push_back({{0, from, cut - from}});
      steps.push_back({{0, cut, tokens - cut}});
    }
    all.push_back(world.run(steps, from));
    EXPECT_EQ(all.back().size(), size_t(tokens - from));
    expect_reference(d, s, &world, all.back());
  }
  expect_equal(all[0], all[1], "chunks");
}

// Sequences of several pieces of keys, two tokens generated in two steps: together and alone.
void test_pieces(const DeviceUnderTest& d, const Shape& s, int32_t tokens) {
  const int32_t prompt = tokens - 2;
  const std::vector<Sequence> sequences = {{1, tokens, prompt, -1, 0}, {2, tokens, prompt, -1, 0}};
  std::vector<Outputs> all;
  for (const bool together : {true, false}) {
    OPEN_WORLD(d, s, sequences, tokens);
    std::vector<StepPlan> steps = {{{0, 0, prompt}}, {{1, 0, prompt}}};
    if (together) {
      steps.push_back({{1, prompt, 1}, {0, prompt, 1}});
      steps.push_back({{0, prompt + 1, 1}, {1, prompt + 1, 1}});
    } else {
      for (int32_t q : {0, 1}) {
        for (int32_t t : {0, 1}) steps.push_back({{q, prompt + t, 1}});
      }
    }
    all.push_back(world.run(steps, prompt));
    EXPECT_EQ(all.back().size(), size_t(4));
    if (together) expect_reference(d, s, &world, all.back());
  }
  expect_equal(all[0], all[1], "alone");
}

// Generated rows around the edges of what a block, a warp and a tile take: in one step with those
// beside them, which keep the device busy, and each by itself.
void test_alone(const DeviceUnderTest& d, const Shape& s) {
  const std::vector<Sequence> sequences = {
      {1, 20, 1, -1, 0}, {2, 132, 120, -1, 0}, {3, 524, 502, -1, 0}};
  OPEN_WORLD(d, s, sequences, 600);
  for (int32_t q = 0; q < 3; ++q) {
    const auto [seed, tokens, prompt, shares, shared_tokens] = sequences[size_t(q)];
    const Outputs together = world.run({{{q, 0, prompt}}, {{q, prompt, tokens - prompt}}}, prompt);
    expect_reference(d, s, &world, together);
    std::vector<StepPlan> steps;
    for (int32_t t = prompt; t < tokens; ++t) steps.push_back({{q, t, 1}});
    expect_equal(together, world.run(steps), "alone");
  }
}

void test_refused(const DeviceUnderTest& d) {
  const std::vector<float> freq(20, 1.0f);
  std::vector<int32_t> layer_kv_heads;
  const auto prepare = [&](int32_t q, int32_t kv_heads, int32_t head_dim, int32_t block, DType t,
                           int32_t rotary_dim = 0) {
    std::unique_ptr<Device> device;
    EXPECT_OK(d.open(&device));
    const KvConfig kv{.layers = 1,
                      .kv_heads = kv_heads,
                      .head_dim = head_dim,
                      .layer_kv_heads = layer_kv_heads,
                      .num_blocks = 2,
                      .block_size = block,
                      .dtype = t};
    const StepLimits limits{.max_rows = 4,
                            .max_spans = 1,
                            .max_samples = 1,
                            .max_context = 16,
                            .q_heads = q,
                            .kv_heads = kv_heads,
                            .head_dim = head_dim,
                            .hidden = 16,
                            .intermediate = 16,
                            .vocab = 16};
    return device->prepare(limits, kv,
                           {{freq.data(), size_t((rotary_dim ? rotary_dim : head_dim) / 2)}});
  };
  EXPECT_ERROR(prepare(4, 1, 40, 64, DType::bf16), "head_dim");
  EXPECT_ERROR(prepare(4, 1, 32, 24, DType::bf16), "block_size");
  EXPECT_ERROR(prepare(4, 3, 32, 16, DType::bf16), "heads");
  EXPECT_ERROR(prepare(4, 1, 32, 16, DType::f32), "F32");
  if (!d.any_rotary) EXPECT_ERROR(prepare(4, 1, 64, 16, DType::bf16, 24), "rotary");
  if (!d.f16_kv) EXPECT_ERROR(prepare(4, 1, 32, 16, DType::f16), "F16");
  layer_kv_heads = {3};
  EXPECT_ERROR(prepare(4, 4, 32, 16, DType::bf16), "4 query heads cannot share 3");
  layer_kv_heads = {4};
  EXPECT_ERROR(prepare(4, 2, 32, 16, DType::bf16), "4 query heads cannot share 4");
  layer_kv_heads = {2, 2};
  EXPECT_ERROR(prepare(4, 2, 32, 16, DType::bf16), "KV heads of 2 layers, not of 1");
}

// Every group, head size, block size and dtype; on a slow device one of each, with kernels that are
// another's fewer.
std::vector<Shape> shapes_for(const DeviceUnderTest& d) {
  if (d.wgmma) {  // whole heads: groups of 1, 4, 8, both head sizes, all block sizes
    const DType fp8 = DType::fp8_e4m3;
    std::vector<Shape> shapes = {
        {.q_heads = 4, .kv_heads = 1, .head_dim = 64, .block_size = 32},
        {.q_heads = 2, .kv_heads = 2, .head_dim = 64, .block_size = 16, .kv_scales = true},
        {.q_heads = 8, .kv_heads = 1, .head_dim = 128},
        {.q_heads = 2, .kv_heads = 2, .head_dim = 64, .block_size = 16, .kv = fp8},
        {.q_heads = 4, .head_dim = 128, .kv = fp8, .kv_scales = true}};
    if (!d.slow) {
      shapes.push_back({.q_heads = 32, .kv_heads = 8, .head_dim = 128});
      shapes.push_back({.q_heads = 32, .kv_heads = 8, .head_dim = 128, .kv = fp8});
      shapes.push_back({.q_heads = 4, .kv_heads = 1, .head_dim = 64, .block_size = 32, .kv = fp8});
    }
    return shapes;
  }
  if (d.slow) {
    return {
        {.q_heads = 8, .kv_heads = 2, .head_dim = 64, .kv_scales = true},
        {.q_heads = 2, .kv_heads = 2, .head_dim = 64, .block_size = 16, .kv = DType::fp8_e4m3},
        {.q_heads = 3, .kv_heads = 1, .head_dim = 80, .block_size = 32},
        {.q_heads = 4, .head_dim = 128, .kv = DType::fp8_e4m3, .kv_scales = true},
        {.q_heads = 2, .kv_heads = 1, .head_dim = 16, .kv = DType::fp8_e4m3},
        {.q_heads = 3, .kv_heads = 1, .head_dim = 192, .rotary_dim = 96},
        {.q_heads = 4, .kv_heads = 2, .head_dim = 192, .kv = DType::fp8_e4m3, .rotary_dim = 96}};
  }
  if (d.borrows_attention) {
    return {{.q_heads = 8, .kv_heads = 2, .head_dim = 64, .kv = DType::f16},
            {.q_heads = 4, .head_dim = 128, .kv = DType::fp8_e4m3, .kv_scales = true},
            {.q_heads = 3, .kv_heads = 1, .head_dim = 96, .block_size = 32},
            {.q_heads = 3, .kv_heads = 1, .head_dim = 80, .block_size = 32}};
  }
  std::vector<Shape> shapes;
  std::vector<DType> types = {DType::bf16, DType::fp8_e4m3};
  if (d.f16_kv) types.push_back(DType::f16);
  for (DType kv : types) {
    for (const auto& [q, h] : {std::pair{2, 2}, {4, 1}, {8, 1}, {8, 2}}) {
      for (int32_t dim : {64, 128})
        shapes.push_back({.q_heads = q, .kv_heads = h, .head_dim = dim, .kv = kv});
    }
    shapes.push_back({.q_heads = 4, .kv_heads = 2, .head_dim = 64, .kv = kv, .kv_scales = true});
    shapes.push_back({.q_heads = 4, .kv_heads = 2, .head_dim = 64, .block_size = 16, .kv = kv});
    shapes.push_back({.q_heads = 4, .kv_heads = 2, .head_dim = 64, .block_size = 32, .kv = kv});
    shapes.push_back({.q_heads = 3, .kv_heads = 1, .head_dim = 80, .kv = kv});
    shapes.push_back({.q_heads = 6, .kv_heads = 2, .head_dim = 96, .kv = kv});
    shapes.push_back({.q_heads = 2, .kv_heads = 1, .head_dim = 16, .kv = kv});
  }
  shapes.push_back({.q_heads = 4, .kv_heads = 2, .head_dim = 64, .rotary_dim = 32});
  shapes.push_back({.q_heads = 3, .kv_heads = 1, .head_dim = 80, .rotary_dim = 20});
  shapes.push_back({.q_heads = 12, .kv_heads = 1, .head_dim = 192, .rotary_dim = 96});
  shapes.push_back({.q_heads = 4, .kv_heads = 2, .head_dim = 160});
  if (d.any_rotary) {
    shapes.push_back({.q_heads = 3, .kv_heads = 1, .head_dim = 80, .rotary_dim = 30});
  }
  return shapes;
}

void add_chunk_cases(const DeviceUnderTest& d) {
  const auto chunks = [&](Shape s, int32_t from, int32_t cut, int32_t tokens) {
    s.hidden = 16;
    add_case(d.name + " attention " + label(s) + " chunks " + std::to_string(from) + " " +
                 std::to_string(cut) + " " + std::to_string(tokens),
             [=] { test_chunks(d, s, from, cut, tokens); });
  };
  // Chunks that begin one key before a tile's last, of flat weights; groups that eight pairs of a
  // fragment's rows do not divide, and groups of more than its sixteen rows.
  chunks({.q_heads = 1, .head_dim = 64, .flat = true}, 0, 126, 250);
  chunks({.q_heads = 2, .head_dim = 128, .flat = true}, 0, 62, 129);
  chunks({.q_heads = 6, .kv_heads = 2, .head_dim = 64}, 0, 43, 86);
  chunks({.q_heads = 20, .head_dim = 64}, 110, 120, 133);
  const DType fp8 = DType::fp8_e4m3;
  if (d.wgmma) {  // more tiles than the rings hold, three times over
    chunks({.q_heads = 4, .head_dim = 128}, 880, 890, 900);
    chunks({.q_heads = 4, .head_dim = 128, .kv = fp8}, 880, 890, 900);
    chunks({.q_heads = 1, .head_dim = 64, .kv = fp8, .flat = true}, 0, 126, 250);
    return;
  }
  chunks({.q_heads = 2, .kv = fp8, .kv_scales = true, .flat = true}, 0, 126, 133);
  chunks({.q_heads = 1, .head_dim = 128, .kv = fp8, .flat = true}, 0, 62, 131);
}

void add_generated_cases(const DeviceUnderTest& d) {
  const std::string at = d.name + " attention ";
  for (const DType kv : {DType::bf16, DType::fp8_e4m3}) {
    for (const int32_t dim : {64, 128, 192}) {
      const Shape flat{.q_heads = 2, .head_dim = dim, .hidden = 16, .kv = kv, .flat = true};
      add_case(at + label(flat) + " generated", [=] { test_generated(d, flat, 150); });
    }
  }
  const auto pieces = [&](Shape s, int32_t tokens) {
    s.hidden = 16;
    add_case(at + label(s) + " pieces of " + std::to_string(tokens),
             [=] { test_pieces(d, s, tokens); });
  };
  pieces({.q_heads = 4, .kv_heads = 2, .head_dim = 16}, d.slow ? 530 : 1030);
  pieces({.q_heads = 40, .kv_heads = 2, .head_dim = 16}, 530);
  pieces({.q_heads = 1, .head_dim = 64, .flat = true}, 530);
  for (const Shape& s :
       {Shape{.q_heads = 4, .head_dim = 64, .hidden = 16},
        Shape{.q_heads = 2, .head_dim = 128, .hidden = 16, .kv = DType::fp8_e4m3}}) {
    add_case(at + label(s) + " alone", [=] { test_alone(d, s); });
  }
}

}  // namespace

void add_attention_cases(const DeviceUnderTest& d) {
  const std::string at = d.name + " attention ";
  if (d.fp8_activations) {
    add_case(at + "by FP8", [=] {
      test_schedules(d, {.q_heads = 4, .kv_heads = 2, .head_dim = 16, .weights = DType::fp8_e4m3});
    });
    return;
  }
  for (const Shape& s : shapes_for(d)) {
    add_case(at + label(s) + " prompts", [=] { test_prompts(d, s); });
    const bool is_long = std::getenv("NEMOTRON_TEST_LONG") != nullptr;
    const bool is_wide = s.head_dim == 192 && (s.kv == DType::fp8_e4m3 || !is_long);
    if (!(d.slow && ((d.wgmma && s.head_dim == 128) || is_wide)))
      add_case(at + label(s) + " schedules", [=] { test_schedules(d, s); });
    // Where blocks lie is read the same way for heads of any size.
    if (d.slow && s.head_dim > 80 && !is_long) continue;
    add_case(at + label(s) + " prefix hit", [=] { test_prefix_hit(d, s); });
    if (d.wgmma && d.slow) continue;
    add_case(at + label(s) + " block reuse", [=] { test_reuse(d, s); });
    if (s.head_dim == 64 && !(d.slow && s.kv_scales))
      add_case(at + label(s) + " many", [=] { test_many(d, s); });
  }
  add_chunk_cases(d);
  if (d.wgmma || d.borrows_attention) return;
  add_generated_cases(d);
  if (!d.slow) {
    const Shape narrow{.q_heads = 4, .kv_heads = 1, .head_dim = 64, .hidden = 16};
    add_case(at + "128K tokens", [=] { test_long(d, narrow, 131072); });
    add_case(at + "stretches", [=] { test_stretches(d); });
  }
  add_case(at + "refuses", [=] { test_refused(d); });
}

}  // namespace nemotron::test
