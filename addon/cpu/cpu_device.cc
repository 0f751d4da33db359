#include "cpu/cpu_device.h"

#include <algorithm>
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

namespace nemotron::cpu {
namespace {

class CpuDevice final : public Device {
 public:
  CpuDevice(const Kernels* kernels, int threads, bool round, bool debug_checks)
      : kernels_(kernels),
        round_(round && exact_kernels(kernels) != kernels),
        debug_checks_(debug_checks),
        pool_(threads),
        gemm_(kernels, &pool_, round) {}

  std::string name() const override {
    return std::string("cpu (") + isa_name(kernels_->isa) +
           (round_ ? ", activations rounded to BF16, " : ", ") + std::to_string(pool_.size()) +
           (pool_.size() == 1 ? " thread" : " threads") +
           (amx_is_distrusted() ? "; amx multiplied wrongly and is not used)" : ")");
  }
  DType activation_dtype() const override { return DType::f32; }
  DType kv_dtype() const override { return round_ ? DType::bf16 : DType::f16; }
  size_t free_bytes() const override { return available_bytes(); }

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

  Status pack_weight(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                     Weight* out) noexcept override {
    return guarded([&]() -> Status {
      auto m = std::make_unique<PackedMatrix>();
      if (Status s = pack_matrix(parts, use, format, kernels_, &pool_, m.get()); !s) return s;
      if (Status s = gemm_.reserve(m->k); !s) return s;
      *out = {.handle = m.get(), .rows = m->rows, .cols = m->cols, .bytes = m->data.bytes()};
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
      // F16 does not fit BF16 products.
      const bool round = round_ && kv.dtype != DType::f16;
      if (Status s = attention_.init(round ? kernels_ : exact_kernels(kernels_), &pool_, limits, kv,
                                     rope, debug_checks_);
          !s)
        return s;
      const size_t qkv =
          size_t(limits.max_rows) * size_t((limits.q_heads + 2 * kv.kv_heads) * limits.head_dim);
      if (Status s = HugeBuffer::create(qkv * sizeof(float), &qkv_); !s) return s;
      samplers_.resize(size_t(pool_.size()));
      for (Sampler& s : samplers_) s.init(kernels_, limits.vocab);
      ids_.reserve(size_t(limits.max_rows));
      slots_.assign(size_t(limits.max_spans), -1);
      return {};
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
    for (int32_t id : ids_) {
      if (id < 0 || id >= m.rows) {
        return failed(Status::internal("token id " + std::to_string(id) +
                                       " is outside the embedding of " + std::to_string(m.rows) +
                                       " rows"));
      }
    }
    pool_.run([&](int thread) {
      const Range mine = share(int64_t(ids_.size()), thread, pool_.size());
      for (int64_t r = mine.begin; r < mine.end; ++r) {
        m.read_row(ids_[size_t(r)], x.as<float>() + r * m.cols);
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
    gemm_.multiply({.x = a.as<float>(), .stride = m.cols}, a.shape[0], m,
                   {.kind = GemmOutput::Kind::add, .data = x.as<float>(), .stride = m.rows});
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

  void head(Tensor out, Tensor x, std::span<const int32_t> rows, const Norm& norm,
            const Linear& w) noexcept override {
    NEMOTRON_ASSERT(
        std::ranges::all_of(rows, [&](int32_t row) { return row >= 0 && row < x.shape[0]; }));
    if (!status_) return;
    GemmInput in = normed(x, norm);
    in.rows = rows.data();
    gemm_.multiply(in, int64_t(rows.size()), matrix(w.weight),
                   {.data = out.as<float>(), .stride = w.weight.rows});
  }

  void sample(Tensor logits, int32_t first, int32_t n, SampleOutput* out) noexcept override {
    NEMOTRON_ASSERT(begun_ && first >= 0 && size_t(first + n) <= step_->samples.size());
    if (!status_) return;
    const int64_t vocab = logits.shape[1];
    std::atomic<int32_t> next{0};
    pool_.run([&](int thread) {
      for (int32_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
        samplers_[size_t(thread)].sample(logits.as<float>() + i * vocab,
                                         step_->samples[size_t(first + i)], &out[i]);
      }
    });
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
    if (status_) status_ = std::move(s);
  }

  const Kernels* kernels_;
  const bool round_;
  const bool debug_checks_;
  ThreadPool pool_;
  Gemm gemm_;
  Attention attention_;
  std::vector<Sampler> samplers_;  // one a thread
  HugeBuffer qkv_;                 // [max_rows, (q_heads + 2 kv_heads) * head_dim]
  std::vector<std::unique_ptr<PackedMatrix>> weights_;
  std::unordered_map<void*, HugeBuffer> buffers_;
  std::vector<int32_t> ids_;    // of the step, slots resolved
  std::vector<int32_t> slots_;  // ids left by earlier steps
  const StepInput* step_ = nullptr;
  StepLimits limits_;
  int32_t kv_layers_ = 0, block_size_ = 0;
  bool begun_ = false;  // a step, not yet launched
  int in_flight_ = 0;   // steps that are launched and not waited for
  Status status_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(const Kernels* kernels, int threads, bool round_activations,
                                        bool debug_checks) {
  return std::make_unique<CpuDevice>(kernels, threads, round_activations, debug_checks);
}

}  // namespace nemotron::cpu

namespace nemotron {

Status open_cpu_device(const DeviceOptions& options, std::unique_ptr<Device>* out) noexcept {
  try {
    cpu::Isa isa;
    if (Status s = cpu::parse_isa(options.isa, &isa); !s) return s;
    const int hardware = std::max(1, int(std::thread::hardware_concurrency()));
    const int threads = options.threads > 0 ? options.threads : hardware;
    *out = cpu::make_cpu_device(cpu::kernels_for(isa), threads, options.round_activations,
                                options.debug_checks);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::out_of_memory("no memory for the CPU device");
  } catch (const std::system_error& e) {
    return Status::internal(std::string("cannot start the CPU device's threads: ") + e.what());
  }
}

}  // namespace nemotron
