// CudaDevice: Device over StepOps.
//
// A step whose rows all have one product, and are few, is recorded instead of enqueued: up to its
// logits where the head takes all rows, else up to its head. When the same list of ops has come
// before for its bucket, one CUDA graph replays it: everything that differs from step to step is in
// the step's metadata, which a graph's kernels read from fixed memory.
#include "cuda/cuda_device.h"

#include <algorithm>
#include <memory>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include "cuda/context.h"
#include "cuda/graphs.h"
#include "cuda/kernels.h"
#include "cuda/products.h"
#include "cuda/ranks.h"
#include "cuda/results.h"
#include "cuda/sample_builder.h"
#include "cuda/step_builder.h"
#include "cuda/step_ops.h"
#include "cuda/switches.h"
#include "cuda/weights.h"
#include "cuda/workspace.h"
#include "device/assert.h"

namespace nemotron::cuda {
namespace {

class CudaDevice final : public Device {
 public:
  ~CudaDevice() override {
    context_.use();
    // Of a group that has ended not all that was enqueued ends by itself.
    if (const Status s = ranks_.status(); !s) ranks_.end(s);
    if (context_.stream()) cudaStreamSynchronize(context_.stream());
  }

  Status open(const DeviceOptions& options) {
    mark_cache_ = options.debug_checks;
    if (Status s = read_switches(&switches_); !s) return s;
    const int32_t gpu = Ranks::gpu_of(options, options.group ? options.rank : 0);
    if (Status s = context_.open(gpu); !s) return s;
    if (Status s = ranks_.open(options); !s) return s;
    context_.on_failure([this](const Status& s) { ranks_.end(s); });
    context_.meet_by([this] { return ranks_.meet(); });
    results_.set_rank(ranks_.rank(), ranks_.ranks());
    queue().pdl = queue().pdl && switches_.pdl;
    queue().synchronous = switches_.synchronous;
    for (const auto& load :
         {load_elementwise, load_gemm_decode, load_gemm_prompt, load_attention_decode,
          load_attention_prompt, load_ranks, load_sample}) {
      load(queue());
    }
    if (Status s = load_wgmma(); !s) return s;
    if (switches_.one_product) ops_.multiply_all_rows();
    const cudaError_t e = queue().error;
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction ||
        e == cudaErrorInvalidKernelImage || e == cudaErrorUnsupportedPtxVersion) {
      return wrong_architecture(e);
    }
    if (!context_.check_launches()) return context_.status().within("loading kernels");
    if (Status s = context_.reserve(&workspace_.slots, kSlots * sizeof(int32_t)); !s) return s;
    if (!switches_.one_product) return products_.open(options.fp8_activations);
    if (!options.fp8_activations) return {};
    return Status::unsupported(
        "FP8 activations are products of cuBLASLt: found NEMOTRON_PROMPT_PRODUCTS of decode, "
        "expected library");
  }

  std::string name() const override {
    const cudaDeviceProp& p = context_.properties();
    return std::string(p.name) + " (sm_" + std::to_string(p.major * 10 + p.minor) + ", " +
           (switches_.one_product ? "one product for all rows" : products_.name()) +
           (ranks_.alone() ? "" : ", ranks by " + ranks_.link()) + ")";
  }
  DType activation_dtype() const override { return DType::bf16; }
  size_t free_bytes() const override { return context_.free_bytes(); }
  size_t group_bytes() const override { return ranks_.bytes(); }
  size_t workspace_bytes(const StepLimits& limits, const KvConfig& kv,
                         NarrowWeights narrow) const override {
    return products_of_layers(limits, kv, narrow) + workspace_.bytes(limits, kv, kv.head_dim) +
           Results::bytes_for(results_of(limits)) +
           StepBuilder::reserved_bytes(limits, kv.block_size) +
           SampleBuilder::reserved_bytes(limits);
  }
  bool reads_rows() const override { return true; }
  Status check(const DecoderForm& form) const noexcept override {
    return check_heads(form.head_dim, form.rotary_dim);
  }

  Status alloc(size_t bytes, void** out) noexcept override {
    context_.use();
    return guarded([&] { return context_.alloc(bytes, out); });
  }
  void free(void* p) noexcept override {
    context_.use();
    context_.free(p);
  }
  void upload(void* dst, const void* host, size_t bytes) noexcept override {
    context_.use();
    caught([&] {
      run_recorded();
      context_.upload(dst, host, bytes);
    });
  }
  void download(void* host, const void* src, size_t bytes) noexcept override {
    context_.use();
    caught([&] {
      run_recorded();
      context_.download(host, src, bytes);
    });
  }

  Status pack_weight(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                     Weight* out) noexcept override {
    context_.use();
    return guarded([&]() -> Status {
      if (out->handle)
        return pack_matrix(&context_, parts, use, format, static_cast<Matrix*>(out->handle));
      auto m = std::make_unique<Matrix>();
      if (Status s = pack_matrix(&context_, parts, use, format, m.get()); !s) return s;
      packed_.emplace_back(m->packed);
      out->handle = m.get();
      out->rows = m->rows;
      out->cols = m->cols;
      out->first_row = m->first_row;
      out->bytes = m->packed ? m->packed->bytes
                             : size_t(m->rows) * size_t(m->stride) +
                                   (m->scale ? size_t(m->rows) * sizeof(float) : 0);
      weights_.push_back(std::move(m));
      return {};
    });
  }

  Status begin_packing() noexcept override {
    context_.use();
    const Status s = guarded([&] { return context_.take_staging(); });
    return s.ok() ? s : s.within("memory to pack weights in");
  }
  void end_packing() noexcept override {
    context_.use();
    context_.release_staging();
  }

  Status prepare(const StepLimits& limits, const KvConfig& kv,
                 const RopeTable& rope) noexcept override {
    NEMOTRON_ASSERT(!begun_ && results_.in_flight() == 0 && kv.num_blocks > 0 && kv.block_size > 0);
    NEMOTRON_ASSERT(limits.max_rows > 0 && limits.max_spans > 0 && limits.max_context > 0);
    context_.use();
    return guarded([&]() -> Status {
      size_t products = 0;
      NarrowWeights narrow;
      for (const auto& w : weights_) {
        products = std::max(products, products_.prepare(*w, limits.max_rows));
        narrow.fp8 = narrow.fp8 || w->fp8 || w->scale;
        narrow.groups = narrow.groups || w->packed;
      }
      // An embedding and a head are larger, and no prompt row meets them.
      products = std::min(products, products_of_layers(limits, kv, narrow));
      if (Status s = workspace_.prepare(
              limits, kv, rope, products,
              {.mark = mark_cache_, .wgmma = switches_.wgmma_attention, .ranks = !ranks_.alone()});
          !s) {
        return s;
      }
      if (Status s = results_.reserve(results_of(limits)); !s) return s.within("results");
      if (!builder_.reserve(limits, kv.block_size) || !samples_.reserve(limits)) {
        return context_.status();
      }
      context_.release_staging();
      // A tile holds the query heads of one KV head: the layer with the fewest of these counts.
      const int32_t fewest =
          kv.layer_kv_heads.empty() ? kv.kv_heads : std::ranges::min(kv.layer_kv_heads);
      const int32_t split =
          attention_decode_split_items(context_.queue(), limits.q_heads, kv.kv_heads, kv.head_dim);
      builder_.set_model({.block_size = kv.block_size,
                          .tile_tokens = prompt_tile_tokens(limits.q_heads, fewest),
                          .max_items = workspace_.max_items,
                          .split_items = std::min(split, workspace_.max_items / kDecodeParts)});
      samples_.set_vocab(limits.vocab);
      if (!context_.synchronize()) return context_.status();
      return ranks_.join(limits);
    });
  }

  void begin_step(const StepInput& in) noexcept override {
    context_.use();
    caught([&] { begin(in); });
  }

  void launch_step() noexcept override {
    NEMOTRON_ASSERT(begun_ || !context_.ok());
    context_.use();
    caught([&] {
      if (begun_) launch();
    });
  }
  bool step_done() noexcept override {
    context_.use();
    return !context_.ok() || results_.in_flight() == 0 || results_.done();
  }
  Status wait_step() noexcept override {
    NEMOTRON_ASSERT(results_.in_flight() > 0 || !context_.ok());
    context_.use();
    caught([&] {
      if (context_.ok() && results_.in_flight() > 0) wait_oldest();
    });
    return context_.status();
  }
  Status sync() noexcept override {
    context_.use();
    caught([&] {
      if (begun_) launch();
      while (context_.ok() && results_.in_flight() > 0) wait_oldest();
      context_.synchronize();
    });
    return context_.status();
  }

  void embed(Tensor x, const Weight& table) noexcept override {
    NEMOTRON_ASSERT(is_of_step(x));
    const int32_t vocab = ranks_.alone() ? matrix(table).rows : workspace_.limits.vocab;
    for (int32_t id : host_ids_) {
      if (id >= vocab) {
        context_.fail(Status::internal("token id " + std::to_string(id) +
                                       " is outside the embedding of " + std::to_string(vocab) +
                                       " rows"));
        return;
      }
    }
    submit({.kind = Op::Kind::embed, .n = rows_of(x), .weight = table.handle, .out = x.data});
  }
  void attention_input(Tensor q, Tensor x, const Norm& norm, const Linear& w,
                       int32_t kv_layer) noexcept override {
    NEMOTRON_ASSERT(is_of_step(x) && is_of_step(q) && is_kv_layer(kv_layer));
    submit({.kind = Op::Kind::attention_input,
            .layer = kv_layer,
            .n = rows_of(x),
            .number = norm.eps,
            .weight = w.weight.handle,
            .gain = norm.gain.data,
            .bias = bias_of(norm),
            .out = q.data,
            .in = x.data});
  }
  void attention(Tensor out, Tensor q, int32_t kv_layer, float scale) noexcept override {
    NEMOTRON_ASSERT(is_of_step(out) && is_of_step(q) && is_kv_layer(kv_layer));
    submit({.kind = Op::Kind::attention,
            .layer = kv_layer,
            .n = rows_of(q),
            .number = scale,
            .out = out.data,
            .in = q.data});
  }
  void gemm_residual(Tensor x, Tensor a, const Linear& w, const Norm* next) noexcept override {
    NEMOTRON_ASSERT(x.shape[0] == a.shape[0]);
    // Half of a LayerNorm cannot be made before the mean is known.
    if (next && next->kind != Norm::Kind::rms) next = nullptr;
    submit({.kind = Op::Kind::gemm_residual,
            .n = rows_of(a),
            .weight = w.weight.handle,
            .gain = next ? next->gain.data : nullptr,
            .out = x.data,
            .in = a.data});
  }
  void mlp_input(Tensor h, Tensor x, const Norm& norm, const Linear& w,
                 Activation activation) noexcept override {
    NEMOTRON_ASSERT(h.shape[0] == x.shape[0]);
    submit({.kind = Op::Kind::mlp_input,
            .n = rows_of(x),
            .relu2 = activation == Activation::relu2,
            .number = norm.eps,
            .weight = w.weight.handle,
            .gain = norm.gain.data,
            .bias = bias_of(norm),
            .out = h.data,
            .in = x.data});
  }
  void norm(Tensor out, Tensor x, const Norm& norm, int64_t first_col) noexcept override {
    NEMOTRON_ASSERT(out.shape[0] == x.shape[0]);
    NEMOTRON_ASSERT(first_col >= 0 && first_col + out.shape[1] <= x.shape[1]);
    submit({.kind = Op::Kind::norm,
            .layer = int32_t(x.shape[1]),
            .n = rows_of(x),
            .first = int32_t(first_col),
            .cols = int32_t(out.shape[1]),
            .number = norm.eps,
            .gain = norm.gain.data,
            .bias = bias_of(norm),
            .out = out.data,
            .in = x.data});
  }
  void head(Tensor out, Tensor x, std::span<const int32_t> rows, const Norm& norm,
            const Linear& w) noexcept override {
    const Op op = {.kind = Op::Kind::head,
                   .n = int32_t(rows.size()),
                   .cols = int32_t(out.shape[1]),
                   .number = norm.eps,
                   .weight = w.weight.handle,
                   .gain = norm.gain.data,
                   .bias = bias_of(norm),
                   .out = out.data,
                   .in = x.data};
    caught([&] {
      // A graph's head computes the first rows, one after another, and no others; ranks tell each
      // other all its logits at once.
      if (recording_ && context_.ok() &&
          (!rows_from_zero(rows) || bucket().rows > ranks_.logit_rows(op.cols))) {
        run_graph();
      }
    });
    submit(op, rows);
    // A graph ends here: the step runs up to its logits while its draws are described.
    caught([&] {
      if (recording_ && context_.ok()) run_graph();
    });
  }
  void sample(Tensor logits, int32_t first, int32_t n, SampleOutput* out) noexcept override {
    caught([&] {
      run_recorded();
      results_.want(out, first, n);
      // Described by now, and not before.
      if (const StepInput* in = std::exchange(undescribed_, nullptr)) samples_.build(in->samples);
    });
    submit({.kind = Op::Kind::sample,
            .n = n,
            .first = first,
            .cols = int32_t(logits.shape[1]),
            .in = logits.data});
  }

 private:
  gpu::Queue& queue() { return context_.queue(); }
  static const Matrix& matrix(const Weight& w) { return *static_cast<const Matrix*>(w.handle); }
  static const void* bias_of(const Norm& norm) {
    return norm.kind == Norm::Kind::layer ? norm.bias.data : nullptr;
  }
  static int32_t rows_of(const Tensor& t) { return int32_t(t.shape[0]); }
  // Most memory that a product of prompt rows takes.
  size_t products_of_layers(const StepLimits& limits, const KvConfig& kv,
                            NarrowWeights narrow) const {
    const int32_t q = limits.q_heads * kv.head_dim, hidden = limits.hidden;
    size_t most = 0;
    for (const Products::MatrixShape& of :
         {Products::MatrixShape{q + 2 * kv.kv_heads * kv.head_dim, hidden},
          {hidden, q},
          {2 * limits.intermediate, hidden},
          {hidden, limits.intermediate}}) {
      most = std::max(most, products_.most_bytes(of, limits.max_rows, narrow));
    }
    return most;
  }
  static size_t results_of(const StepLimits& limits) {
    return size_t(2 * std::max(limits.max_rows, limits.max_samples));
  }

  // For asserts. After an error no step begins, and ops do nothing.
  bool is_of_step(const Tensor& t) const {
    return !context_.ok() || (begun_ && rows_of(t) == rows_);
  }
  bool is_kv_layer(int32_t layer) const {
    return layer >= 0 && size_t(layer) < workspace_.layers.size();
  }

  // Exceptions stop here: memory for a vector, nothing else throws.
  template <class F>
  Status guarded(F&& body) noexcept {
    try {
      return body();
    } catch (const std::bad_alloc&) {
      context_.fail(Status::out_of_memory("no host memory"));
    } catch (...) {
      context_.fail(Status::internal("unexpected exception in the CUDA device"));
    }
    return context_.status();
  }

  template <class F>
  void caught(F&& body) noexcept {
    static_cast<void>(guarded([&]() -> Status {
      body();
      return {};
    }));
  }

  // The kernels that are for sm_90a, where they were asked for.
  Status load_wgmma() {
    if (!switches_.wgmma_attention && !switches_.wgmma_products) return {};
    const cudaDeviceProp& p = context_.properties();
    constexpr std::string_view kCompiled = NEMOTRON_CUDA_ARCHITECTURES;
    if (p.major != 9 || p.minor != 0 || kCompiled.find("90a") == std::string_view::npos) {
      return Status::unsupported(
          std::string(switches_.wgmma_attention ? "NEMOTRON_PROMPT_ATTENTION"
                                                : "NEMOTRON_DECODE_PRODUCTS") +
          " is wgmma, which needs a GPU of sm_90 and a library compiled for 90a: " +
          std::string(p.name) + " is sm_" + std::to_string(p.major * 10 + p.minor) +
          ", the library was compiled for " NEMOTRON_CUDA_ARCHITECTURES);
    }
    if (switches_.wgmma_attention) load_attention_prompt_wgmma(queue());
    if (switches_.wgmma_products) load_gemm_decode_wgmma(queue());
    queue().wgmma = switches_.wgmma_products;
    return {};
  }

  Status wrong_architecture(cudaError_t e) const {
    const cudaDeviceProp& p = context_.properties();
    return Status::unsupported(std::string(p.name) + " is sm_" +
                               std::to_string(p.major * 10 + p.minor) +
                               "; this library was compiled for " NEMOTRON_CUDA_ARCHITECTURES " (" +
                               cudaGetErrorString(e) + ")");
  }

  // --- a step ---

  void begin(const StepInput& in) {
    if (begun_ || results_.in_flight() == kMaxStepsInFlight) {
      context_.fail(Status::internal(begun_ ? "a step begins before the last one was launched"
                                            : "a step begins while two are in flight"));
      return;
    }
    if (Status s = ranks_.status(); !s) context_.fail(std::move(s));
    recorded_.clear();
    begun_ = true;
    undescribed_ = &in;
    rows_ = in.rows();
    ops_.set_generated(in.num_generated_rows);
    host_ids_.clear();
    for (size_t i = 0; i < in.token_ids.size(); ++i) {
      if (in.token_slots.empty() || in.token_slots[i] < 0) host_ids_.push_back(in.token_ids[i]);
    }
    for (const SampleInput& s : in.samples) {
      if (s.slot >= kSlots) {
        context_.fail(
            Status::internal("slot " + std::to_string(s.slot) + " of " + std::to_string(kSlots)));
      }
    }
    if (!context_.ok()) return;
    results_.begin(in.samples.size());
    if (!context_.ok()) return;
    builder_.build(in);
    if (!context_.ok()) return;
    recording_ = graph_possible(in);
    if (recording_) return;
    builder_.copy();
    ops_.begin(rows_, builder_.header().prompt_tiles);
  }

  void wait_oldest() {
    if (ranks_.by_nccl()) ranks_.wait(&results_);
    if (context_.ok()) results_.wait();
    const auto& in_vain = results_.waits_in_vain();
    if (context_.ok() && in_vain[1] != 0) context_.fail(ranks_.why_stopped(in_vain));
  }

  void launch() {
    run_recorded();
    recording_ = begun_ = false;
    if (context_.ok()) results_.launch();
  }

  bool graph_possible(const StepInput& in) const {
    if (!switches_.graphs || ranks_.by_nccl() || !workspace_.prepared() || rows_ == 0 ||
        rows_ > kMaxGraphRows || bucket().rows > workspace_.limits.max_rows ||
        bucket().rows > ranks_.sum_rows(workspace_.limits.hidden) || builder_.passes().size() > 1) {
      return false;
    }
    return in.num_generated_rows == rows_ || ops_.multiplies_all_rows();
  }

  Bucket bucket() const { return bucket_for(rows_, builder_.header().prompt_tiles); }

  bool rows_from_zero(std::span<const int32_t> rows) const {
    if (int32_t(rows.size()) != rows_) return false;
    for (int32_t i = 0; i < rows_; ++i) {
      if (rows[size_t(i)] != i) return false;
    }
    return true;
  }

  void submit(const Op& op, std::span<const int32_t> head_rows = {}) {
    if (!context_.ok() || op.n == 0) return;
    caught([&] {
      if (recording_) return recorded_.push_back(op);
      ops_.run(op, head_rows, 0);
      context_.check_launches();
    });
  }

  // Enqueues what was recorded, as ordinary launches; the rest of the step follows in the same way.
  void run_recorded() {
    if (!recording_) return;
    recording_ = false;
    if (!context_.ok()) return;
    builder_.copy();
    ops_.begin(rows_, builder_.header().prompt_tiles);
    std::vector<int32_t> rows(static_cast<size_t>(rows_));
    for (int32_t i = 0; i < rows_; ++i) rows[size_t(i)] = i;
    for (const Op& op : recorded_) ops_.run(op, rows, 0);
    recorded_.clear();
    context_.check_launches();
  }

  void run_graph() {
    const Bucket bucket = this->bucket();
    const int generation = builder_.generation() + workspace_.generation() + results_.generation();
    if (generation != generation_) {
      graphs_.drop();
      generation_ = generation;
    }
    // Ops of a bucket differ from step to step in nothing but the number of rows.
    for (Op& op : recorded_) op.n = bucket.rows;
    cudaGraphExec_t graph = graphs_.find(bucket, recorded_, [&] {
      ops_.begin(bucket.rows, bucket.tiles);
      for (const Op& op : recorded_) ops_.run(op, {}, bucket.rows);
    });
    if (!graph) {
      for (Op& op : recorded_) op.n = rows_;
      return run_recorded();
    }
    recording_ = false;
    builder_.copy();
    context_.check(cudaGraphLaunch(graph, context_.stream()), "launching a graph");
  }

  Context context_;  // first: the others' memory goes back to it
  StepBuilder builder_{&context_};
  SampleBuilder samples_{&context_};
  Products products_{&context_};
  Workspace workspace_{&context_};
  Results results_{&context_};
  Ranks ranks_{&context_};
  StepOps ops_{{&context_, &builder_, &samples_, &products_, &workspace_, &results_, &ranks_}};
  Graphs graphs_{&context_};
  std::vector<std::unique_ptr<Matrix>> weights_;
  std::vector<std::unique_ptr<const Packed>> packed_;  // theirs
  Switches switches_;
  bool mark_cache_ = false;

  bool begun_ = false;                      // a step, not yet launched
  bool recording_ = false;                  // its ops
  const StepInput* undescribed_ = nullptr;  // the step, until its draws are on their way
  int32_t rows_ = 0;
  std::vector<int32_t> host_ids_;
  std::vector<Op> recorded_;
  int generation_ = 0;  // of all memory that graphs point into
};

#ifdef NEMOTRON_COMPRESSED
constexpr OldestDriver kOldestDriver = oldest_driver(CUDART_VERSION, true);
#else
constexpr OldestDriver kOldestDriver = oldest_driver(CUDART_VERSION, false);
#endif

// "12.4" of 12040.
std::string cuda_version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

int32_t device_count(std::string* why) noexcept {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) {
    *why = "no NVIDIA driver is installed";
  } else if (driver < kOldestDriver.cuda) {
    *why = "the NVIDIA driver is for CUDA " + cuda_version(driver) + ", expected " +
           cuda_version(kOldestDriver.cuda) + " (" + std::to_string(kOldestDriver.branch) +
           ") or later";
  } else if (e == cudaSuccess && count > 0) {
    return count;
  } else if (e == cudaErrorNoDevice || e == cudaSuccess) {
    *why = "the NVIDIA driver sees no GPU";
  } else {
    *why = cudaGetErrorString(e);
  }
  return 0;
}

Status open_device(const DeviceOptions& options, std::unique_ptr<Device>* out) noexcept {
  try {
    auto device = std::make_unique<CudaDevice>();
    if (Status s = device->open(options); !s) return s;
    *out = std::move(device);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::out_of_memory("no host memory for the CUDA device");
  }
}

}  // namespace nemotron::cuda
