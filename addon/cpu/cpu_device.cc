#include "cpu/cpu_device.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <unordered_map>
#include <vector>

#include "cpu/attention.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/packed_matrix.h"
#include "cpu/sampler.h"
#include "cpu/thread_pool.h"
#include "device/assert.h"
#include "device/device.h"
#include "device/processors.h"

namespace nemotron::cpu {
namespace {

class CpuDevice final : public Device {
 public:
  CpuDevice(const Kernels* kernels, int threads, const DeviceOptions& options)
      : kernels_(options.int8_activations ? kernels->int8 : kernels),
        int8_(options.int8_activations),
        round_(!options.exact_activations && exact_kernels(kernels) != kernels),
        debug_checks_(options.debug_checks),
        group_(options.group && options.group->ranks() > 1 ? options.group : nullptr),
        rank_(options.rank),
        pool_(threads),
        gemm_(kernels_, &pool_, round_, group_ ? group_->ticks_of(rank_) : &own_ticks_) {}

  std::string name() const override {
    return std::string("cpu (") + isa_name(kernels_->isa) +
           (round_ ? ", activations rounded to BF16" : "") +
           (int8_ ? ", of weights in groups to 8 bits, " : ", ") + std::to_string(pool_.size()) +
           (pool_.size() == 1 ? " thread" : " threads") +
           (amx_is_distrusted() ? "; amx multiplied wrongly and is not used)" : ")");
  }
  DType activation_dtype() const override { return DType::f32; }
  DType kv_dtype() const override { return DType::f16; }
  // Ranks share the machine's memory.
  size_t free_bytes() const override {
    return available_bytes() / size_t(group_ ? group_->ranks() : 1);
  }

  Status alloc(size_t bytes, void** out) noexcept override {
    return guarded([&]() -> Status {
      HugeBuffer b;
      if (Status s = HugeBuffer::create(std::max<size_t>(bytes, 1), &b); !s) return s;
      *out = b.data();
      buffers_.emplace(b.data(), std::move(b));
      return {};
    });
  }
  void free(void* p) noexcept override {
    [[maybe_unused]] const size_t freed = buffers_.erase(p);
    NEMOTRON_ASSERT(freed == 1);
  }
  void upload(void* dst, const void* host, size_t bytes) noexcept override {
    std::memcpy(dst, host, bytes);
  }
  void download(void* host, const void* src, size_t bytes) noexcept override {
    std::memcpy(host, src, bytes);
  }

  bool copies_blocks() const override { return true; }
  bool reads_rows() const override { return true; }
  // Measured (docs/decisions/0019-draft-model.md).
  int32_t cheap_rows(bool in_groups) const override { return in_groups ? 4 : 16; }
  Status pack_weight(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                     Weight* out) noexcept override {
    return guarded([&]() -> Status {
      const PackWith packing{kernels_, &pool_, &weight_memory_};
      if (out->handle) {
        auto* old = static_cast<PackedMatrix*>(out->handle);
        const int64_t rows = old->rows, cols = old->cols;
        const uint8_t* const data = old->data.data();
        if (Status s = pack_matrix(parts, use, format, packing, old); !s) return s;
        NEMOTRON_ASSERT(old->rows == rows && old->cols == cols && old->data.data() == data);
        return {};
      }
      auto m = std::make_unique<PackedMatrix>();
      if (Status s = pack_matrix(parts, use, format, packing, m.get()); !s) return s;
      if (Status s = gemm_.reserve(m->k); !s) return s;
      *out = {.handle = m.get(),
              .rows = m->rows,
              .cols = m->cols,
              .first_row = m->first_row,
              .bytes = m->data.size()};
      m->index = weights_.size();
      weights_.push_back(std::move(m));
      return {};
    });
  }

  Status prepare(const StepLimits& limits, const KvConfig& kv,
                 const RopeTable& rope) noexcept override {
    NEMOTRON_ASSERT(!begun_ && in_flight_ == 0 && kv.num_blocks > 0 && kv.block_size > 0);
    NEMOTRON_ASSERT(limits.max_rows > 0 && limits.max_spans > 0 && limits.max_context > 0);
    limits_ = limits;
    kv_layers_ = kv.layers;
    block_size_ = kv.block_size;
    return guarded([&]() -> Status {
      if (Status s =
              attention_.init(exact_kernels(kernels_), &pool_, limits, kv, rope, debug_checks_);
          !s)
        return s;
      attention_.count(group_ ? group_->ticks_of(rank_) : &own_ticks_);
      const size_t qkv =
          size_t(limits.max_rows) * size_t((limits.q_heads + 2 * kv.kv_heads) * limits.head_dim);
      if (Status s = HugeBuffer::create(qkv * sizeof(float), &qkv_); !s) return s;
      samplers_.resize(size_t(pool_.size()));
      for (Sampler& s : samplers_) s.init(kernels_, limits.vocab);
      ids_.reserve(size_t(limits.max_rows));
      slots_.assign(size_t(limits.max_spans), -1);
      return group_ ? join(size_t(limits.max_rows) * size_t(limits.hidden)) : Status();
    });
  }

  void begin_step(const StepInput& in) noexcept override {
    NEMOTRON_ASSERT(!begun_ && in_flight_ < kMaxStepsInFlight);
    check(in);
    begun_ = true;
    step_ = &in;
    ids_.assign(in.token_ids.begin(), in.token_ids.end());
    for (size_t i = 0; i < in.token_slots.size(); ++i) {
      const int32_t slot = in.token_slots[i];
      if (slot >= 0) ids_[i] = slots_[size_t(slot)];
    }
    attention_.begin_step(in);
  }
  // Ops run at once: a step is done when it is complete.
  void launch_step() noexcept override {
    NEMOTRON_ASSERT(begun_);
    begun_ = false;
    ++in_flight_;
  }
  bool step_done() noexcept override { return true; }
  Status wait_step() noexcept override {
    NEMOTRON_ASSERT(in_flight_ > 0);
    --in_flight_;
    return status_;
  }
  Status sync() noexcept override {
    begun_ = false;
    in_flight_ = 0;
    return status_;
  }

  void embed(Tensor x, const Weight& table) noexcept override {
    NEMOTRON_ASSERT(is_of_step(x));
    const PackedMatrix& m = matrix(table);
    tables_.assign(1, &m);
    // The other ranks' parts lie in the same memory.
    if (group_) {
      tables_.clear();
      for (const CpuDevice* peer : peers_) tables_.push_back(peer->weights_[m.index].get());
    }
    const int64_t vocab = tables_.back()->first_row + tables_.back()->rows;
    for (int32_t id : ids_) {
      if (id < 0 || id >= vocab) {
        return failed(Status::internal("token id " + std::to_string(id) +
                                       " is outside the embedding of " + std::to_string(vocab) +
                                       " rows"));
      }
    }
    pool_.run([&](int thread) {
      const Range mine = share(int64_t(ids_.size()), thread, pool_.lanes());
      for (int64_t r = mine.begin; r < mine.end; ++r) {
        const int64_t id = ids_[size_t(r)];
        const auto of = std::ranges::find_if(
            tables_, [&](const PackedMatrix* t) { return id < t->first_row + t->rows; });
        (*of)->read_row(id - (*of)->first_row, x.as<float>() + r * m.cols);
      }
    });
  }

  void attention_input(Tensor q, Tensor x, const Norm& norm, const Linear& w,
                       int32_t kv_layer) noexcept override {
    NEMOTRON_ASSERT(is_of_step(x) && is_of_step(q) && is_kv_layer(kv_layer));
    if (!status_) return;
    const PackedMatrix& m = matrix(w.weight);
    gemm_.multiply(normed(x, norm), x.shape[0], m, {.data = qkv_.as<float>(), .stride = m.rows});
    attention_.store(*step_, qkv_.as<float>(), q.as<float>(), kv_layer);
  }

  void attention(Tensor out, Tensor q, int32_t kv_layer, float scale) noexcept override {
    NEMOTRON_ASSERT(is_of_step(out) && is_of_step(q) && is_kv_layer(kv_layer));
    if (!status_) return;
    attention_.attend(*step_, out.as<float>(), q.as<float>(), kv_layer, scale);
  }

  void gemm_residual(Tensor x, Tensor a, const Linear& w, const Norm*) noexcept override {
    NEMOTRON_ASSERT(x.shape[0] == a.shape[0]);
    if (!status_) return;
    const PackedMatrix& m = matrix(w.weight);
    const GemmInput in{.x = a.as<float>(), .stride = m.cols};
    if (!group_) {
      return gemm_.multiply(
          in, a.shape[0], m,
          {.kind = GemmOutput::Kind::add, .data = x.as<float>(), .stride = m.rows});
    }
    // Two buffers in turn: who writes the next sum may be ahead of who still reads this one.
    turn_ ^= 1;
    gemm_.multiply(in, a.shape[0], m,
                   {.data = partial_[turn_].as<float>(), .stride = m.rows, .is_part = true});
    if (meet("a sum over ranks")) add_partials(x, m);
  }

  void mlp_input(Tensor h, Tensor x, const Norm& norm, const Linear& w,
                 Activation activation) noexcept override {
    NEMOTRON_ASSERT(h.shape[0] == x.shape[0]);
    if (!status_) return;
    const auto kind =
        activation == Activation::relu2 ? GemmOutput::Kind::relu2 : GemmOutput::Kind::silu_mul;
    gemm_.multiply(normed(x, norm), x.shape[0], matrix(w.weight),
                   {.kind = kind, .data = h.as<float>(), .stride = h.shape[1]});
  }

  void norm(Tensor out, Tensor x, const Norm& norm, int64_t first_col) noexcept override {
    NEMOTRON_ASSERT(out.shape[0] == x.shape[0]);
    NEMOTRON_ASSERT(first_col >= 0 && first_col + out.shape[1] <= x.shape[1]);
    if (!status_) return;
    gemm_.norm(normed(x, norm), x.shape[0], x.shape[1], out.as<float>(), first_col, out.shape[1]);
  }

  void head(Tensor out, Tensor x, std::span<const int32_t> rows, const Norm& norm,
            const Linear& w) noexcept override {
    NEMOTRON_ASSERT(
        std::ranges::all_of(rows, [&](int32_t row) { return row >= 0 && row < x.shape[0]; }));
    if (!status_) return;
    GemmInput in = normed(x, norm);
    in.rows = rows.data();
    const PackedMatrix& m = matrix(w.weight);
    GemmOutput to{.data = out.as<float>(), .stride = out.shape[1]};
    if (out.shape[1] != m.rows) {
      // Nobody draws from the logits of before any more.
      logits_ = out.as<float>();
      if (!meet("the head")) return;
      head_rows_.clear();
      for (size_t i = 0; i < rows.size(); ++i) {
        float* owner = peers_[i % peers_.size()]->logits_;
        head_rows_.push_back(owner + int64_t(i) * out.shape[1] + m.first_row);
      }
      to.rows = head_rows_.data();
    }
    gemm_.multiply(in, int64_t(rows.size()), m, to);
  }

  void sample(Tensor logits, int32_t first, int32_t n, SampleOutput* out) noexcept override {
    NEMOTRON_ASSERT(begun_ && first >= 0 && size_t(first + n) <= step_->samples.size());
    if (!status_) return;
    if (group_ && !meet("the logits")) return;
    const int64_t vocab = logits.shape[1];
    const int32_t ranks = group_ ? group_->ranks() : 1;
    std::atomic<int32_t> next{rank_};
    pool_.run([&](int thread) {
      for (int32_t i; (i = next.fetch_add(ranks, std::memory_order_relaxed)) < n;) {
        samplers_[size_t(thread)].sample(logits.as<float>() + i * vocab,
                                         step_->samples[size_t(first + i)], &out[i]);
      }
    });
    if (group_ && !meet("the drawn ids")) return;
    for (int32_t i = 0; i < n; ++i) {
      const int32_t slot = step_->samples[size_t(first + i)].slot;
      // After a draw that failed the next step may already be planned: it runs on some token.
      if (slot >= 0) slots_[size_t(slot)] = std::max(out[i].id, 0);
    }
  }

 private:
  // --- the promises of device/device.h ---
  bool is_of_step(const Tensor& t) const { return begun_ && t.shape[0] == step_->rows(); }
  bool is_kv_layer(int32_t layer) const { return layer >= 0 && layer < kv_layers_; }
  void check(const StepInput& in) const {
    int32_t row = 0;
    for (const SpanInput& span : in.spans) {
      [[maybe_unused]] const int64_t end = int64_t(span.first_position) + span.rows;
      NEMOTRON_ASSERT(span.first_row == row && end <= limits_.max_context);
      NEMOTRON_ASSERT(end <= int64_t(span.block_table.size()) * block_size_);
      row += span.rows;
    }
    NEMOTRON_ASSERT(row == in.rows() && row <= limits_.max_rows);
    NEMOTRON_ASSERT(in.spans.size() <= size_t(limits_.max_spans));
    NEMOTRON_ASSERT(in.token_slots.empty() || in.token_slots.size() == in.token_ids.size());
    for ([[maybe_unused]] const int32_t slot : in.token_slots)
      NEMOTRON_ASSERT(slot < limits_.max_spans);
    for ([[maybe_unused]] const SampleInput& s : in.samples)
      NEMOTRON_ASSERT(s.slot < limits_.max_spans);
  }

  static const PackedMatrix& matrix(const Weight& w) {
    return *static_cast<const PackedMatrix*>(w.handle);
  }
  static GemmInput normed(const Tensor& x, const Norm& norm) {
    return {.x = x.as<float>(), .stride = x.shape[1], .norm = &norm};
  }

  // Exceptions stop here.
  template <class F>
  static Status guarded(F&& body) noexcept {
    try {
      return body();
    } catch (const std::bad_alloc&) {
      return Status(Code::out_of_memory, "out of memory");
    } catch (...) {
      return Status(Code::internal, "unexpected exception");
    }
  }
  void failed(Status s) {
    if (!status_) return;
    if (group_) group_->end(rank_, s);
    status_ = std::move(s);
  }

  // --- the group ---
  bool meet(const char* where) {
    if (group_->meet(rank_, where)) return true;
    if (status_) status_ = group_->status();
    return false;
  }
  // `values`: of the largest sum over ranks.
  Status join(size_t values) {
    for (HugeBuffer& buffer : partial_) {
      if (Status s = HugeBuffer::create(values * sizeof(float), &buffer); !s) return s;
    }
    std::vector<void*> all(size_t(group_->ranks()));
    if (!group_->exchange(rank_, "its preparation", this, all)) return group_->status();
    for (void* peer : all) peers_.push_back(static_cast<CpuDevice*>(peer));
    return {};
  }
  // x [rows, hidden] += the sum of all ranks' parts, in pairs as stretches are; in the order of the
  // ranks where they are no power of two. Every rank adds the same.
  void add_partials(const Tensor& x, const PackedMatrix& m) {
    constexpr int64_t kColumns = 256;
    const int64_t blocks = (m.rows + kColumns - 1) / kColumns, ranks = group_->ranks();
    const bool in_pairs = (ranks & (ranks - 1)) == 0;
    pool_.run([&](int thread) {
      const Range mine = share(x.shape[0] * blocks, thread, pool_.lanes());
      std::array<std::array<float, kColumns>, kMaxStretches> sum;
      for (int64_t b = mine.begin; b < mine.end; ++b) {
        const int64_t row = b / blocks, col = b % blocks * kColumns;
        const int64_t n = std::min(kColumns, m.rows - col), at = row * m.rows + col;
        for (int64_t r = 0; r < ranks; ++r) {
          std::memcpy(sum[size_t(r)].data(), peers_[size_t(r)]->partial_[turn_].as<float>() + at,
                      size_t(n) * sizeof(float));
        }
        const auto add = [&](int64_t to, int64_t from) {
          kernels_->add(sum[size_t(to)].data(), sum[size_t(from)].data(), nullptr, n);
        };
        if (in_pairs) {
          for (int64_t step = 1; step < ranks; step *= 2) {
            for (int64_t r = 0; r < ranks; r += 2 * step) add(r, r + step);
          }
        } else {
          for (int64_t r = 1; r < ranks; ++r) add(0, r);
        }
        const float* scale = m.scale.empty() ? nullptr : m.scale.data() + col;
        kernels_->add(x.as<float>() + at, sum[0].data(), scale, n);
      }
    });
  }

  const Kernels* kernels_;
  const bool int8_;
  const bool round_;
  const bool debug_checks_;
  RankGroup* const group_;  // null: one rank
  const int32_t rank_;
  std::atomic<uint64_t> own_ticks_{0};  // of one rank: nobody reads them
  ThreadPool pool_;
  Gemm gemm_;
  Attention attention_;
  std::vector<Sampler> samplers_;  // one a thread
  HugeBuffer qkv_;                 // [max_rows, (q_heads + 2 kv_heads) * head_dim]
  HugeArena weight_memory_;
  std::vector<std::unique_ptr<PackedMatrix>> weights_;
  std::unordered_map<void*, HugeBuffer> buffers_;
  std::vector<int32_t> ids_;    // of the step, slots resolved
  std::vector<int32_t> slots_;  // ids left by earlier steps
  // Of the group. Peers read partial_, logits_ and weights_ between two meetings.
  std::vector<CpuDevice*> peers_;            // all ranks, this one too
  HugeBuffer partial_[2];                    // [max_rows, hidden]
  int turn_ = 0;                             // which of them is being added up
  float* logits_ = nullptr;                  // of the head that is being computed
  std::vector<float*> head_rows_;            // scratch
  std::vector<const PackedMatrix*> tables_;  // scratch: the parts of an embedding
  const StepInput* step_ = nullptr;
  StepLimits limits_;
  int32_t kv_layers_ = 0, block_size_ = 0;
  bool begun_ = false;  // a step, not yet launched
  int in_flight_ = 0;   // steps that are launched and not waited for
  Status status_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(const Kernels* kernels, int threads,
                                        const DeviceOptions& options) {
  return std::make_unique<CpuDevice>(kernels, threads, options);
}

}  // namespace nemotron::cpu

namespace nemotron {

Status check_cpu_device(const DeviceOptions& options) {
  if (options.int8_activations && options.exact_activations) {
    return Status::invalid(
        "int8_activations: found exact_activations beside it; expected one of the two");
  }
  cpu::Isa isa;
  return cpu::parse_isa(options.isa, &isa);
}

Status open_cpu_device(const DeviceOptions& options, std::unique_ptr<Device>* out) noexcept {
  try {
    if (Status s = check_cpu_device(options); !s) return s;
    cpu::Isa isa;
    if (Status s = cpu::parse_isa(options.isa, &isa); !s) return s;
    const int threads = choose_threads(options.threads).count;
    const int ranks = options.group ? options.group->ranks() : 1;
    *out = cpu::make_cpu_device(cpu::kernels_for(isa), std::max(1, threads / ranks), options);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::out_of_memory("no memory for the CPU device");
  } catch (const std::system_error& e) {
    return Status::internal(std::string("cannot start the CPU device's threads: ") + e.what());
  }
}

}  // namespace nemotron
