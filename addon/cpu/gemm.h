// Gemm: rows of float32 times a packed matrix, on all threads of the device, with what comes before
// (norm, rounding) and after (scale, residual, activation). Owned by the device; one caller.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/packed_matrix.h"
#include "cpu/thread_pool.h"

namespace nemotron::cpu {

struct GemmInput {
  const float* x = nullptr;  // [rows, stride]
  int64_t stride = 0;
  const int32_t* rows = nullptr;  // which rows of x; null: 0, 1, 2, ...
  const Norm* norm = nullptr;     // of each row; null: rows are multiplied as they are
};

struct GemmOutput {
  enum class Kind : uint8_t { store, add, silu_mul, relu2 } kind = Kind::store;
  float* data = nullptr;  // [rows, stride]
  int64_t stride = 0;
  float* const* rows = nullptr;  // where each row goes; null: data + row * stride
  bool is_part = false;          // of a sum: the weight's scale is left to whoever adds it up
};

class Gemm {
 public:
  // kernels: Kernels::int8 where weights in groups take activations of 8 bits.
  // round: BF16 products take activations rounded to BF16. Otherwise each row goes in twice, as
  // what rounding gives and as what it leaves, and the two products are added: float32's accuracy
  // at twice the multiplications (docs/decisions/0004-activations.md).
  // ticks: counted up while a long product goes on (RankGroup).
  Gemm(const Kernels* kernels, ThreadPool* pool, bool round, std::atomic<uint64_t>* ticks)
      : kernels_(kernels), pool_(pool), round_(round), ticks_(*ticks) {}
  // Room for matrices of up to `k` inputs.
  Status reserve(int64_t k);
  void multiply(const GemmInput& in, int64_t rows, const PackedMatrix& w, const GemmOutput& out);
  // out [rows, n] = columns [first_col, first_col + n) of the normed rows of `in`, of `cols` each.
  void norm(const GemmInput& in, int64_t rows, int64_t cols, float* out, int64_t first_col,
            int64_t n);

 private:
  // How many rows of BF16 are multiplied together, and by how many panels at a time.
  struct Block {
    int64_t rows, panels;
  };
  Block block_of(int64_t k) const;
  // Rows of a_ that a row of activations makes.
  int64_t terms_of(Activations kind) const;
  // A chunk of rows: `rows` of them, `terms` rows of a_ for each, `padded` rows of a_ in all.
  struct Chunk {
    int64_t first, rows, terms, padded, panels;
    Activations kind;              // what it holds
    size_t begin = 0;              // byte of a_
    const Chunk* other = nullptr;  // the same rows in the other kind, behind it, for two lists
  };
  // A row of x as the products take it: `x` times `by`, times `gain` where there is one.
  struct Row {
    const float* x = nullptr;
    const float* gain = nullptr;
    float by = 1;
  };
  Row normed(const Norm* norm, const float* x, int64_t n, int thread);
  // All panels that take `first`; of two lists that take different kinds, of both.
  struct Kinds {
    Activations first;
    std::optional<Activations> other;
  };
  void multiply_in(const GemmInput& in, int64_t rows, const PackedMatrix& w, const GemmOutput& out,
                   const Kinds& kinds);
  void pack(const GemmInput& in, const Chunk& chunk, const PackedMatrix& w, int thread);
  // Panels whose format takes the chunk's kind of activations; of two lists all.
  void panels(const Chunk& chunk, const PackedMatrix& w, const GemmOutput& out, int thread);
  // The thread's share of panels [first, first + n).
  void share_of(const Chunk& chunk, const PackedMatrix& w, int64_t first, int64_t n,
                const GemmOutput& out, int thread);
  // Sums of panels [panel, panel + n), [rows][n * 16].
  const float* strip(const Chunk& chunk, const PackedMatrix& w, int64_t panel, int64_t n,
                     int64_t end, uint8_t* own);
  const float* two_lists(const Chunk& chunk, const PackedMatrix& w, int64_t panel, int64_t n,
                         int64_t end, uint8_t* own);
  // Panels [panel, panel + n) of a segment from `first_k` to `end_k`: sums to c.
  struct Strip {
    const Segment* segment;
    int64_t panel, n, next_panel, first_k, end_k;
  };
  void multiply_strip(const Chunk& chunk, const PackedMatrix& w, const Strip& strip, float* c,
                      uint8_t* scratch);
  float* buffer(uint8_t* own, int i) const {
    return reinterpret_cast<float*>(own + scratch_bytes_ + size_t(i) * buffer_bytes_);
  }
  // The sum over the weight's stretches. Returns which of the thread's buffers has it.
  float* sum_stretches(const Chunk& chunk, const PackedMatrix& w, const Strip& whole, uint8_t* own);

  const Kernels* const kernels_;
  ThreadPool* const pool_;
  const bool round_;
  std::atomic<uint64_t>& ticks_;
  int64_t max_k_ = 0;
  // [k blocks][rows][kRowStride] f32 or bf16, or an Int8Row in the place of such a row of bf16: the
  // chunk of rows being multiplied. For two lists that take different kinds, one after the other.
  HugeBuffer a_;
  HugeBuffer sums_;  // [k / 16][rows] f32: Kernels::sums of a_
  HugeBuffer rows_;  // [threads][max_k_] f32: the row that a thread is norming
  // A thread's share of c_: tile scratch, then buffers of [rows][block of outputs] f32. One for
  // each level of the tree of stretches, and one for what is being multiplied.
  HugeBuffer c_;
  static constexpr int kBuffers = 4;
  size_t scratch_bytes_ = 0, buffer_bytes_ = 0;
};

}  // namespace nemotron::cpu
