// Kernels called one by one on the emulated device, for what the Device interface rounds away: the
// float32 that pass between kernels, bit for bit the same for a row alone and among others.
#include "cuda/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda/context.h"
#include "cuda/graphs.h"
#include "cuda/step_builder.h"
#include "cuda/weights.h"
#include "emu_test.h"
#include "machine.h"
#include "test/ops/ops.h"

using namespace nemotron;
using namespace nemotron::cuda;
using test::Random;

namespace {

// Device memory and a queue.
struct Gpu {
  explicit Gpu(emu::Order order) {
    emu::config() = {};
    emu::config().order = order;
    EXPECT_OK(context.open(0));
    for (const auto& load :
         {load_elementwise, load_gemm_decode, load_attention_decode, load_attention_prompt})
      load(context.queue());
    EXPECT(context.check_launches());
  }
  ~Gpu() { EXPECT(finish()); }
  bool finish() {
    context.check_launches();
    context.synchronize();
    EXPECT_OK(context.status());
    return context.ok();
  }
  template <class T>
  T* memory(size_t n) {
    void* p = nullptr;
    EXPECT_OK(context.alloc(n * sizeof(T), &p));
    return static_cast<T*>(p);
  }
  // Of which hardly any is used.
  uint8_t* untouched(size_t bytes) {
    void* p = nullptr;
    EXPECT_OK(context.alloc(bytes, &p, false));
    return static_cast<uint8_t*>(p);
  }
  template <class T>
  T* memory(const std::vector<T>& values) {
    T* p = memory<T>(values.size());
    context.upload(p, values.data(), values.size() * sizeof(T));
    return p;
  }
  template <class T>
  std::vector<T> read(const T* p, size_t n) {
    context.check_launches();
    std::vector<T> out(n);
    context.download(out.data(), p, n * sizeof(T));
    EXPECT_OK(context.status());
    return out;
  }
  Context context;
};

std::vector<uint16_t> bf16(const std::vector<float>& v) {
  std::vector<uint16_t> out;
  for (float x : v) out.push_back(f32_to_bf16(x));
  return out;
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}
template <class T>
std::vector<T> part(const std::vector<T>& v, size_t first, size_t n) {
  return {v.begin() + long(first), v.begin() + long(first + n)};
}

constexpr emu::Order kOrders[] = {emu::Order::natural, emu::Order::reverse, emu::Order::random};

// The first half of a norm, made by the product that writes x: x * gain in BF16, and the sums of
// squares of sixteen columns each.
// `next_rows`: of the matrix that reads it. Many are the wide product's.
void check_split_norm(int32_t hidden, int32_t next_rows) {
  const auto next_stride = size_t(next_rows);
  constexpr int32_t kMost = 130, kIn = 128;  // more tokens than a block of any instance takes
  Random random(41);
  const std::vector<float> a = random.normals(kMost * kIn), before = random.normals(kMost * hidden),
                           gains = random.normals(hidden);
  const std::vector<uint16_t> weights = bf16(random.normals(int64_t(hidden) * kIn));
  const int32_t tiles = norm_tiles(hidden);
  struct Norm {
    std::vector<float> x, squares, product;
    std::vector<uint16_t> scaled;
  };
  auto run = [&, opened = 0](int32_t first, int32_t rows) mutable {
    Gpu gpu(kOrders[opened++ % 3]);
    SplitNorm norm;
    norm.gain = gpu.memory(gains);
    norm.stride = padded_k(hidden);
    norm.scaled = gpu.memory<uint16_t>(size_t(rows) * size_t(norm.stride));
    norm.squares = gpu.memory<float>(size_t(rows * tiles));
    DecodeGemm p;
    p.grid_rows = rows;
    p.a = gpu.memory(bf16(part(a, size_t(first * kIn), size_t(rows * kIn))));
    p.a_stride = kIn;
    p.w.data = reinterpret_cast<uint8_t*>(gpu.memory(weights));
    p.w.rows = hidden, p.w.cols = p.w.k = kIn, p.w.stride = kIn * 2;
    float* x = gpu.memory(part(before, size_t(first * hidden), size_t(rows * hidden)));
    gemm_decode_add(gpu.context.queue(), p, x, hidden, norm);
    // The second half: the sum of a row's columns, many times.
    Matrix next;
    const std::vector<uint16_t> ones(next_stride * size_t(norm.stride), f32_to_bf16(1));
    next.data = reinterpret_cast<uint8_t*>(gpu.memory(ones));
    next.rows = next_rows, next.cols = hidden, next.k = int32_t(norm.stride),
    next.stride = norm.stride * 2;
    DecodeGemm q;
    q.grid_rows = rows;
    q.a = norm.scaled, q.a_stride = norm.stride, q.w = next;
    q.squares = norm.squares, q.eps = 1e-5f;
    float* product = gpu.memory<float>(size_t(rows) * next_stride);
    gemm_decode_store(gpu.context.queue(), q, product, next_rows);
    return Norm{gpu.read(x, size_t(rows * hidden)), gpu.read(norm.squares, size_t(rows * tiles)),
                gpu.read(product, size_t(rows) * next_stride),
                gpu.read(norm.scaled, size_t(rows) * size_t(norm.stride))};
  };
  const size_t stride = size_t(padded_k(hidden));
  const Norm all = run(0, kMost);
  for (int32_t r = 0; r < kMost; ++r) {
    double total = 0, sum = 0;
    for (int32_t i = 0; i < tiles; ++i) {
      double want = 0;
      for (int32_t c = i * 16; c < std::min(hidden, i * 16 + 16); ++c) {
        const double v = double(all.x[size_t(r * hidden + c)]);
        want += v * v;
        sum += double(bf16_to_f32(f32_to_bf16(float(v) * gains[size_t(c)])));
      }
      EXPECT_NEAR(all.squares[size_t(r * tiles + i)], want, want * 1e-6);
      total += want;
    }
    const double want = sum / std::sqrt(total / hidden + 1e-5);
    EXPECT_NEAR(all.product[size_t(r) * next_stride + 15], want, 1e-5 * std::sqrt(double(hidden)));
  }
  for (int32_t rows : {1, 3, 8, 9, 17, 33, 65, 129}) {
    const int32_t first = (kMost - rows) / 2;
    const Norm some = run(first, rows);
    EXPECT(same(some.x, part(all.x, size_t(first * hidden), size_t(rows * hidden))));
    EXPECT(same(some.squares, part(all.squares, size_t(first * tiles), size_t(rows * tiles))));
    EXPECT(same(some.scaled, part(all.scaled, size_t(first) * stride, size_t(rows) * stride)));
    EXPECT(same(some.product,
                part(all.product, size_t(first) * next_stride, size_t(rows) * next_stride)));
  }
}

// The sums of the decode attention's pieces, before they are merged and rounded.
struct Piece {
  std::vector<float> sums;
  std::vector<float2> states;
  std::vector<uint16_t> out;
};

class Pieces {
 public:
  Pieces(bool fp8, int32_t q_heads, int32_t kv_heads, int32_t dim, float scale = 0.1f)
      : heads_(size_t(q_heads)), width_(size_t(q_heads * dim)), scale_(scale) {
    kv_.kv_heads = kv_heads, kv_.block_size = kBlock, kv_.head_dim = dim, kv_.fp8 = fp8;
    const size_t cache = size_t(kBlocks * kBlock * kv_heads * dim);
    for (auto* half : {&k_, &v_}) {
      half->resize(cache * (fp8 ? 1 : 2));
      for (size_t i = 0; i < cache; ++i) {
        const uint16_t b = f32_to_bf16(random_.normal());
        if (fp8) {
          (*half)[i] = f32_to_e4m3(bf16_to_f32(b));
        } else {
          std::memcpy(half->data() + i * 2, &b, 2);
        }
      }
    }
    q_ = bf16(random_.normals(int64_t(kRows) * int64_t(width_)));
  }

  // A step of these rows, in this order; where `split`, several blocks share each item.
  std::vector<Piece> run(const std::vector<int32_t>& rows, bool split = false) {
    Gpu gpu(kOrders[opened_++ % 3]);
    StepBuilder builder(&gpu.context);
    const size_t items = build(&builder, rows, split);
    const size_t units = items * size_t(builder.header().decode_parts);
    EXPECT_EQ(units, items * (split ? kDecodeParts : 1));
    std::vector<uint16_t> q;
    for (int32_t r : rows) {
      const std::vector<uint16_t> own = part(q_, size_t(r) * width_, width_);
      q.insert(q.end(), own.begin(), own.end());
    }
    AttentionArgs p;
    p.step = builder.device();
    p.q = gpu.memory(q);
    p.out = gpu.memory<uint16_t>(rows.size() * width_);
    p.kv = kv_;
    p.kv.k = gpu.memory(k_), p.kv.v = gpu.memory(v_);
    p.q_heads = int32_t(heads_);
    p.scale = scale_;
    p.partial = gpu.memory<float>(units * width_);
    p.partial_state = gpu.memory<float2>(units * heads_);
    p.arrivals = gpu.memory<uint32_t>(rows.size() * heads_);
    attention_decode(gpu.context.queue(), p);
    std::vector<Piece> out(rows.size());
    size_t at = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t n = items_of(rows[i]);
      if (n > 1) {  // a single one is never stored
        const size_t parts = units / items;
        out[i].sums = gpu.read(p.partial + at * parts * width_, n * parts * width_);
        out[i].states = gpu.read(p.partial_state + at * parts * heads_, n * parts * heads_);
        if (split) merge_parts(&out[i]);
      }
      out[i].out = gpu.read(p.out + i * width_, width_);
      at += n;
    }
    gpu.finish();
    return out;
  }

 private:
  // What blocks that take whole items store, from what those that share them do.
  void merge_parts(Piece* p) const {
    constexpr size_t kParts = kDecodeParts;
    const size_t items = p->states.size() / heads_ / kParts, dim = width_ / heads_;
    Piece whole;
    whole.sums.resize(items * width_), whole.states.resize(items * heads_);
    for (size_t at = 0; at < items * heads_; ++at) {
      const size_t first = at / heads_ * kParts * heads_ + at % heads_;
      float2& state = whole.states[at];
      state = {p->states[first].x, 0};
      for (size_t i = 1; i < kParts; ++i)
        state.x = std::max(state.x, p->states[first + i * heads_].x);
      for (size_t i = 0; i < kParts; ++i) {
        const float2 part = p->states[first + i * heads_];
        const float by = ::exp2f(part.x - state.x);
        state.y += part.y * by;
        for (size_t d = 0; d < dim; ++d)
          whole.sums[at * dim + d] += p->sums[(first + i * heads_) * dim + d] * by;
      }
    }
    *p = whole;
  }

  static constexpr int32_t kBlock = 16, kBlocks = 72, kRows = 4;
  static constexpr int32_t kPositions[kRows] = {1040, 5, 511, 700};
  static size_t items_of(int32_t row) { return size_t(kPositions[row] / kDecodeChunk + 1); }

  static size_t build(StepBuilder* builder, const std::vector<int32_t>& rows, bool split) {
    std::vector<int32_t> table;
    for (int32_t i = 0; i < kBlocks; ++i) table.push_back((i * 5) % kBlocks);
    std::vector<SpanInput> spans;
    size_t items = 0;
    for (int32_t r : rows) {
      spans.push_back({int32_t(spans.size()), 1, kPositions[r], true, table});
      items += items_of(r);
    }
    const std::vector<int32_t> ids(rows.size(), 0);
    StepInput in;
    in.token_ids = ids, in.spans = spans, in.num_generated_rows = int32_t(rows.size());
    const auto n = int32_t(items);
    builder->set_model({.block_size = kBlock, .max_items = n, .split_items = split ? n : n - 1});
    builder->build(in);
    builder->copy();
    return items;
  }

  size_t heads_, width_;
  float scale_;
  Random random_{42};
  KvLayer kv_;
  std::vector<uint8_t> k_, v_;
  std::vector<uint16_t> q_;
  int opened_ = 0;
};

void check_pieces(Pieces pieces) {
  const std::vector<Piece> all = pieces.run({0, 1, 2, 3});
  for (const std::vector<int32_t>& rows : {std::vector<int32_t>{0}, {3}, {3, 0}, {2, 1, 3}, {1}}) {
    const std::vector<Piece> some = pieces.run(rows);
    for (size_t i = 0; i < some.size(); ++i) {
      const Piece& want = all[size_t(rows[i])];
      EXPECT(same(some[i].sums, want.sums));
      EXPECT(same(some[i].states, want.states));
      EXPECT(same(some[i].out, want.out));
    }
  }
  for (const std::vector<int32_t>& rows : {std::vector<int32_t>{0, 1, 2, 3}, {2, 3}, {0}, {1}}) {
    const std::vector<Piece> shared = pieces.run(rows, true);
    for (size_t i = 0; i < shared.size(); ++i) {
      const Piece& want = all[size_t(rows[i])];
      EXPECT(same(shared[i].sums, want.sums));
      EXPECT(same(shared[i].states, want.states));
      EXPECT(same(shared[i].out, want.out));
    }
  }
}

}  // namespace

TEST(split_norm) {
  check_split_norm(600, 272);
  check_split_norm(90, 48);
}
TEST(decode_pieces_bf16) { check_pieces({false, 4, 2, 64}); }
// Weights of one piece beyond what float32 holds of those of another.
TEST(decode_pieces_far_apart) { check_pieces({false, 4, 2, 64, 20.0f}); }
TEST(decode_pieces_fp8) { check_pieces({true, 20, 1, 32}); }

// Blocks share an item where all of them are there at once, and no row has so many that merging
// them would take longer.
TEST(decode_pieces_are_shared_where_it_pays) {
  Gpu gpu(emu::Order::natural);
  Queue queue;
  queue.multiprocessors = 132;
  EXPECT_EQ(attention_decode_split_items(queue, 32, 8, 128), 8);
  EXPECT_EQ(attention_decode_split_items(queue, 8, 1, 128), 66);
  EXPECT_EQ(attention_decode_split_items(queue, 40, 2, 64), 16);
  EXPECT_EQ(attention_decode_split_items(queue, 12, 1, 192), 0);
  const std::vector<int32_t> table(400, 0);
  const auto parts_of = [&](const std::vector<int32_t>& positions) {
    StepBuilder builder(&gpu.context);
    std::vector<SpanInput> spans;
    for (int32_t p : positions) spans.push_back({int32_t(spans.size()), 1, p, true, table});
    const std::vector<int32_t> ids(positions.size(), 0);
    StepInput in;
    in.token_ids = ids, in.spans = spans, in.num_generated_rows = int32_t(positions.size());
    builder.set_model({.block_size = 16, .max_items = 100, .split_items = 10});
    builder.build(in);
    return builder.header().decode_parts;
  };
  constexpr int32_t kEight = kMostSplitItems * kDecodeChunk - 1;  // the last of as many items
  EXPECT_EQ(parts_of({kEight}), kDecodeParts);
  EXPECT_EQ(parts_of({kEight + 1}), 1);
  EXPECT_EQ(parts_of({kEight + 1, 5}), 1);
  EXPECT_EQ(parts_of({kEight, 1023}), kDecodeParts);
  EXPECT_EQ(parts_of({kEight, 1024}), 1);
}

// What L2 is asked for while memory is idle lies within the matrix, and changes no result.
TEST(early_weights) {
  constexpr int32_t kRows = 24, kCols = 2048;
  Random random(42);
  const std::vector<uint16_t> weights = bf16(random.normals(int64_t(kRows) * kCols)),
                              a = bf16(random.normals(kCols));
  std::vector<float> results[2];
  for (const bool idle : {false, true}) {
    for (const bool fp8 : {false, true}) {
      Gpu gpu(emu::Order::natural);
      DecodeGemm p;
      p.grid_rows = 1, p.a = gpu.memory(a), p.a_stride = kCols, p.idle_before = idle;
      p.w.data = reinterpret_cast<uint8_t*>(gpu.memory(weights));
      p.w.rows = fp8 ? kRows * 2 - 16 : kRows, p.w.cols = p.w.k = kCols, p.w.fp8 = fp8;
      p.w.stride = fp8 ? kCols : kCols * 2;
      float* out = gpu.memory<float>(size_t(p.w.rows));
      gemm_decode_store(gpu.context.queue(), p, out, p.w.rows);
      const std::vector<float> got = gpu.read(out, size_t(p.w.rows));
      results[idle].insert(results[idle].end(), got.begin(), got.end());
    }
  }
  EXPECT(same(results[0], results[1]));
}

// Graphs are as many as there is room for: those that were asked for last.
TEST(graphs_make_room) {
  Gpu gpu(emu::Order::natural);
  Graphs graphs(&gpu.context);
  float* out = gpu.memory<float>(1);
  const auto find = [&](int32_t rows) {
    return graphs.find({.rows = rows}, {{.n = rows}},
                       [&] { cudaMemsetAsync(out, 0, sizeof(float), gpu.context.stream()); });
  };
  constexpr auto kMost = int32_t(Graphs::kMost);
  for (int32_t rows = 1; rows <= kMost; ++rows) {
    EXPECT(find(rows) == nullptr);
    EXPECT(find(rows) != nullptr);
  }
  EXPECT(find(1) != nullptr);          // so that 2 is the oldest,
  EXPECT(find(kMost + 1) == nullptr);  // which makes room
  for (const int32_t rows : {1, 3, kMost, kMost + 1}) EXPECT(find(rows) != nullptr);
  EXPECT(find(2) == nullptr);  // 4 makes room
  EXPECT(find(2) != nullptr);
  EXPECT(find(4) == nullptr);
}

// What the device makes of wide weights while it packs them: the CPU's codes and scales, bit for
// bit, of whole rows and of a rank's columns, which share the scale of the whole row.
TEST(packed_fp8) {
  constexpr int64_t kRows = 6, kCols = 83, kFirst = 16, kOwn = 48;
  Random random(43);
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    test::HostMatrix m = test::random_matrix(random, kRows, kCols, dtype);
    const size_t size = dtype_bytes(dtype);
    const auto set = [&](int64_t row, int64_t col, float value, uint16_t as_f16) {
      const uint16_t half = dtype == DType::f16 ? as_f16 : f32_to_bf16(value);
      std::memcpy(m.data.data() + size_t(row * kCols + col) * size,
                  dtype == DType::f32 ? static_cast<const void*>(&value) : &half, size);
      m.values[size_t(row * kCols + col)] = double(value);
    };
    for (int64_t col = 0; col < kCols; ++col) set(1, col, 0, 0);
    // The largest of a row lies outside the rank's columns, which are zeros.
    for (int64_t col = 0; col < 70; ++col) set(2, col, -0.0f, 0x8000);
    // 175 / 7 lies between two codes; 175 * (1 / 7) does not.
    set(3, 0, 448 * 7, 0x6a20);
    set(3, 20, 175, 0x5978);
    const test::HostMatrix want = test::quantised(m);
    std::vector<float> largest(kRows);
    for (size_t i = 0; i < m.values.size(); ++i) {
      float& most = largest[i / size_t(kCols)];
      most = std::max(most, std::abs(float(m.values[i])));
    }
    for (const bool cut : {false, true}) {
      Gpu gpu(cut ? emu::Order::random : emu::Order::natural);
      MatrixPart part = m.part();
      if (cut) {
        part.data = m.data.data() + size_t(kFirst) * size;
        part.cols = kOwn;
        part.row_largest = largest;
      }
      Matrix packed;
      REQUIRE_OK(
          pack_matrix(&gpu.context, {&part, 1}, WeightUse::linear, WeightFormat::fp8, &packed));
      EXPECT(packed.fp8 && packed.stride == padded_k(part.cols));
      EXPECT(same(gpu.read(packed.scale, kRows), want.scale));
      const std::vector<uint8_t> got = gpu.read(packed.data, size_t(kRows) * size_t(packed.stride));
      for (int64_t row = 0; row < kRows; ++row) {
        for (int64_t col = 0; col < packed.stride; ++col) {
          const int64_t from = row * kCols + col + (cut ? kFirst : 0);
          EXPECT_EQ(int(got[size_t(row * packed.stride + fp8_weight_place(col))]),
                    col < part.cols ? int(want.data[size_t(from)]) : 0);
        }
      }
    }
  }
}

// Rows that are read to where the device wants them lie there like those that were in memory; who
// cannot read says so, and the device goes on.
TEST(stored_rows) {
  class Rows final : public StoredRows {
   public:
    explicit Rows(const MatrixPart& part) : part_(part) {}
    Status read(int64_t first, int64_t n, uint8_t* to) const override {
      if (fails) return Status::invalid("no such file");
      const size_t row = size_t(part_.cols) * dtype_bytes(part_.dtype);
      std::memcpy(to, static_cast<const uint8_t*>(part_.data) + size_t(first) * row,
                  size_t(n) * row);
      return {};
    }
    bool fails = false;

   private:
    MatrixPart part_;
  };
  Random random(44);
  test::HostMatrix m = test::random_matrix(random, 21, 83, DType::bf16);
  Gpu gpu(emu::Order::random);
  Rows rows(m.part());
  MatrixPart part = m.part();
  Matrix want, got;
  const auto pack = [&](Matrix* out) {
    return pack_matrix(&gpu.context, {&part, 1}, WeightUse::linear, WeightFormat::stored, out);
  };
  REQUIRE_OK(pack(&want));
  const test::HostMatrix other = test::random_matrix(random, 21, 83, DType::bf16);
  for (int turn = 0; turn < 2; ++turn) {  // both pieces of pinned memory hold something else
    part = other.part();
    REQUIRE_OK(pack(&got));
    got = {};
  }
  part = m.part();
  part.data = nullptr, part.row_stride = 0, part.stored = &rows;
  rows.fails = true;
  EXPECT_ERROR(pack(&got), "no such file");
  rows.fails = false;
  REQUIRE_OK(pack(&got));
  const size_t bytes = size_t(want.rows) * size_t(want.stride);
  EXPECT(same(gpu.read(got.data, bytes), gpu.read(want.data, bytes)));
}

// Rows go along a grid's y, in several launches where there are more than it takes.
TEST(widen_many_rows) {
  constexpr int32_t kRows = 32768 + 3, kCols = 64;
  Gpu gpu(emu::Order::natural);
  std::vector<uint8_t> stored(size_t(kRows) * kCols);
  for (size_t i = 0; i < stored.size(); ++i) stored[i] = uint8_t((i * 31 + i / 64) % 0x7f);
  Matrix w;
  w.data = gpu.memory(stored);
  w.rows = kRows, w.cols = w.k = w.stride = kCols, w.fp8 = true;
  auto* out = gpu.memory<uint16_t>(stored.size());
  widen(gpu.context.queue(), w, out);
  for (const int32_t row : {0, 32767, 32768, kRows - 1}) {
    const std::vector<uint16_t> got = gpu.read(out + size_t(row) * kCols, kCols);
    for (int32_t c = 0; c < kCols; ++c) {
      EXPECT_EQ(bf16_to_f32(got[size_t(c)]),
                e4m3_to_f32(stored[size_t(row) * kCols + size_t(fp8_weight_place(c))]));
    }
  }
}

// What lies further than 32 bits can say from where its memory begins is found like what lies near.
constexpr size_t kFar = size_t(5) << 30;

TEST(far_weight_rows) {
  constexpr int32_t kRows = 48, kCols = 64;
  Random random(45);
  const std::vector<uint16_t> weights = bf16(random.normals(kRows * kCols));
  for (const int32_t tokens :
       {1, 17}) {  // of which one multiprocessor takes many by the wide product
    const std::vector<uint16_t> a = bf16(random.normals(int64_t(tokens) * kCols));
    std::vector<float> results[2];
    for (const bool far : {false, true}) {
      Gpu gpu(emu::Order::natural);
      gpu.context.queue().multiprocessors = 1;
      DecodeGemm p;
      p.grid_rows = tokens, p.a = gpu.memory(a), p.a_stride = kCols;
      p.w.rows = kRows, p.w.cols = p.w.k = kCols;
      p.w.stride = far ? int64_t(kFar / kRows / 16 * 16) : kCols * 2;
      uint8_t* data = gpu.untouched(size_t(kRows * p.w.stride));
      for (int64_t r = 0; r < kRows; ++r)
        gpu.context.upload(data + r * p.w.stride, &weights[size_t(r * kCols)], kCols * 2);
      p.w.data = data;
      float* out = gpu.memory<float>(size_t(tokens * kRows));
      gemm_decode_store(gpu.context.queue(), p, out, kRows);
      results[far] = gpu.read(out, size_t(tokens * kRows));
    }
    EXPECT(same(results[0], results[1]));
  }
}

// A prompt's keys and values, then its last row once more as a generated one.
TEST(far_cache_blocks) {
  constexpr int32_t kBlock = 16, kDim = 64, kRows = 21, kBlocks = 2;
  constexpr size_t kBlockBytes = kBlock * kDim * 2;
  Random random(46);
  const std::vector<uint16_t> qkv = bf16(random.normals(kRows * 3 * kDim));
  std::vector<uint16_t> results[2];
  for (const bool far : {false, true}) {
    Gpu gpu(emu::Order::natural);
    const size_t first = far ? kFar / kBlockBytes : 0;
    const std::vector<int32_t> table = {int32_t(first) + 1, int32_t(first)};
    KvLayer kv;
    kv.kv_heads = 1, kv.block_size = kBlock, kv.head_dim = kDim;
    kv.k = gpu.untouched((first + 2 * kBlocks) * kBlockBytes);
    kv.v = kv.k + kBlocks * kBlockBytes;
    AttentionArgs p;
    p.kv = kv, p.q_heads = 1, p.scale = 0.1f;
    auto* q = gpu.memory<uint16_t>(kRows * kDim);
    p.q = q, p.out = gpu.memory<uint16_t>(kRows * kDim);
    const auto begin = [&](StepBuilder* builder, int32_t rows, bool generated) {
      const std::vector<int32_t> ids(size_t(rows), 0);
      const SpanInput span{0, rows, kRows - rows, generated, table};
      StepInput in;
      in.token_ids = ids, in.spans = {&span, 1}, in.num_generated_rows = generated ? rows : 0;
      builder->set_model({.block_size = kBlock, .tile_tokens = prompt_tile_tokens(1, 1)});
      builder->build(in);
      builder->copy();
      p.step = builder->device();
    };
    StepBuilder prompt(&gpu.context), token(&gpu.context);
    begin(&prompt, kRows, false);
    RopeStore rope;
    rope.step = p.step, rope.qkv = gpu.memory(qkv), rope.stride = 3 * kDim, rope.q = q;
    rope.kv = kv, rope.q_heads = 1, rope.rows = kRows, rope.rotary = kDim;
    rope.angles = gpu.memory(std::vector<float2>(kRows * kDim / 2, float2{1, 0}));
    rope_store(gpu.context.queue(), rope);
    attention_prompt(gpu.context.queue(), p, prompt.header().prompt_tiles);
    results[far] = gpu.read(p.out, kRows * kDim);
    begin(&token, 1, true);
    p.q = q + (kRows - 1) * kDim;
    p.partial = gpu.memory<float>(kDim), p.partial_state = gpu.memory<float2>(1);
    p.arrivals = gpu.memory<uint32_t>(1);
    attention_decode(gpu.context.queue(), p);
    const std::vector<uint16_t> last = gpu.read(p.out, kDim);
    results[far].insert(results[far].end(), last.begin(), last.end());
  }
  EXPECT(same(results[0], results[1]));
}

NEMOTRON_TEST_MAIN
