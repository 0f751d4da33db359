// CudaDevice: Device over kernels.h.
//
// Generated rows and prompt rows take different kernels, chosen by the row's kind alone. A step of
// generated rows that are all sampled is recorded instead of enqueued; when the same list of ops
// has come before for its bucket of rows, one CUDA graph replays it: everything that differs from
// step to step is in the step's metadata, which a graph's kernels read from fixed memory.
#include "cuda/cuda_device.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <new>
#include <vector>

#include "cuda/context.h"
#include "cuda/kernels.h"
#include "cuda/products.h"
#include "cuda/step_builder.h"
#include "cuda/weights.h"

namespace nemotron::cuda {
namespace {

constexpr int32_t kSlots = 65536;          // ids that stay on the device
constexpr int32_t kMaxDecodeItems = 4096;  // of one launch of the decode attention
constexpr int32_t kMaxGraphRows = 256;

// Rows a graph is captured for: as many, or the next larger of these.
int32_t bucket_for(int32_t rows) {
  if (rows <= 4) return rows == 3 ? 4 : rows;
  if (rows <= 64) return (rows + 7) / 8 * 8;
  return (rows + 15) / 16 * 16;
}

struct Op {
  enum class Kind : uint8_t {
    embed,
    attention_input,
    attention,
    gemm_residual,
    mlp_input,
    head,
    sample
  };
  Kind kind = Kind::embed;
  int32_t layer = 0, n = 0, first = 0, cols = 0;
  float number = 0;  // eps or scale
  const void* weight = nullptr;
  const void* gain = nullptr;
  void *out = nullptr, *in = nullptr;
  bool operator==(const Op&) const = default;
};

struct Graph {
  std::vector<Op> ops;
  cudaGraphExec_t exec = nullptr;  // null: seen once
};

class CudaDevice final : public Device {
 public:
  ~CudaDevice() override {
    context_.synchronize();
    drop_graphs();
    if (results_host_) context_.free_pinned(results_host_);
  }

  Status open(const DeviceOptions& options) {
    debug_checks_ = options.debug_checks;
    if (Status s = context_.open(options.index); !s) return s;
    allow_gemm_decode(queue(), context_.properties().sharedMemPerBlockOptin);
    allow_gemm_prompt(queue());
    allow_attention_decode(queue());
    allow_attention_prompt(queue());
    if (!context_.check_launches()) return wrong_architecture();
    if (Status s = reserve(slots_, kSlots * sizeof(int32_t)); !s) return s;
    products_.open();
    return {};
  }

  std::string name() const override {
    const cudaDeviceProp& p = context_.properties();
    return std::string(p.name) + " (sm_" + std::to_string(p.major * 10 + p.minor) + ", " +
           products_.name() + ")";
  }
  DType activation_dtype() const override { return DType::bf16; }
  size_t free_bytes() const override { return context_.free_bytes(); }

  Status alloc(size_t bytes, void** out) noexcept override {
    return guarded([&] { return context_.alloc(bytes, out); });
  }
  void free(void* p) noexcept override { context_.free(p); }
  void upload(void* dst, const void* host, size_t bytes) noexcept override {
    run_recorded();
    context_.upload(dst, host, bytes);
  }
  void download(void* host, const void* src, size_t bytes) noexcept override {
    run_recorded();
    context_.download(host, src, bytes);
  }

  Status pack_weight(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                     Weight* out) noexcept override {
    return guarded([&]() -> Status {
      auto m = std::make_unique<Matrix>();
      if (Status s = pack_matrix(&context_, parts, use, format, m.get()); !s) return s;
      out->handle = m.get();
      out->rows = m->rows;
      out->cols = m->cols;
      out->bytes =
          size_t(m->rows) * size_t(m->stride) + (m->scale ? size_t(m->rows) * sizeof(float) : 0);
      weights_.push_back(std::move(m));
      return {};
    });
  }

  Status prepare(const StepLimits& limits, const KvConfig& kv,
                 const RopeTable& rope) noexcept override {
    return guarded([&] { return prepare_checked(limits, kv, rope); });
  }

  void begin_step(const StepInput& in) noexcept override {
    caught([&] { begin(in); });
  }

  Status sync() noexcept override {
    caught([&] { finish(); });
    return context_.status();
  }

  void embed(Tensor x, const Weight& table) noexcept override {
    for (int32_t id : host_ids_) {
      if (id >= matrix(table).rows) {
        context_.fail(Status::internal("token id " + std::to_string(id) +
                                       " is outside the embedding of " +
                                       std::to_string(matrix(table).rows) + " rows"));
        return;
      }
    }
    submit({.kind = Op::Kind::embed, .n = rows_of(x), .weight = table.handle, .out = x.data});
  }
  void attention_input(Tensor q, Tensor x, Tensor gain, float eps, const Weight& w,
                       int32_t kv_layer) noexcept override {
    submit({.kind = Op::Kind::attention_input,
            .layer = kv_layer,
            .n = rows_of(x),
            .number = eps,
            .weight = w.handle,
            .gain = gain.data,
            .out = q.data,
            .in = x.data});
  }
  void attention(Tensor out, Tensor q, int32_t kv_layer, float scale) noexcept override {
    submit({.kind = Op::Kind::attention,
            .layer = kv_layer,
            .n = rows_of(q),
            .number = scale,
            .out = out.data,
            .in = q.data});
  }
  void gemm_residual(Tensor x, Tensor a, const Weight& w) noexcept override {
    submit({.kind = Op::Kind::gemm_residual,
            .n = rows_of(a),
            .weight = w.handle,
            .out = x.data,
            .in = a.data});
  }
  void mlp_input(Tensor h, Tensor x, Tensor gain, float eps, const Weight& w) noexcept override {
    submit({.kind = Op::Kind::mlp_input,
            .n = rows_of(x),
            .number = eps,
            .weight = w.handle,
            .gain = gain.data,
            .out = h.data,
            .in = x.data});
  }
  void head(Tensor out, Tensor x, std::span<const int32_t> rows, Tensor gain, float eps,
            const Weight& w) noexcept override {
    head_rows_.assign(rows.begin(), rows.end());
    submit({.kind = Op::Kind::head,
            .n = int32_t(rows.size()),
            .number = eps,
            .weight = w.handle,
            .gain = gain.data,
            .out = out.data,
            .in = x.data});
  }
  void sample(Tensor logits, int32_t first, int32_t n, SampleOutput* out) noexcept override {
    outputs_.push_back({out, first, n});
    submit({.kind = Op::Kind::sample,
            .n = n,
            .first = first,
            .cols = int32_t(logits.shape[1]),
            .in = logits.data});
  }

  void rms_norm(Tensor out, Tensor x, Tensor gain, float eps) noexcept override {
    run_recorded();
    if (!context_.ok()) return;
    cuda::rms_norm(queue(), nullptr, rows_of(x), nullptr, x.as<float>(), gain.as<float>(), eps,
                   int(x.shape[1]), out.as<uint16_t>(), int(x.shape[1]));
    context_.check_launches();
  }
  void gemm(Tensor out, Tensor a, const Weight& w) noexcept override {
    run_recorded();
    if (!context_.ok()) return;
    const Matrix& m = matrix(w);
    const int32_t rows = rows_of(a), generated = generated_of(rows);
    const Activations in = padded(a.as<uint16_t>(), rows, m);
    if (!in.data) return;
    auto* to = out.as<float>();
    if (generated > 0) gemm_decode_store(queue(), decode(in, m, generated, false), to, m.rows);
    if (rows > generated) {
      if (!need_products(m, rows - generated)) return;
      products_.store(prompt(in, m, generated, rows), to + int64_t(generated) * m.rows);
    }
    context_.check_launches();
  }

 private:
  struct Block {  // memory that grows before the first step, never after
    uint8_t* data = nullptr;
    size_t bytes = 0;
    template <class T>
    T* as() const {
      return reinterpret_cast<T*>(data);
    }
  };
  struct Activations {
    const uint16_t* data = nullptr;
    int64_t stride = 0;
  };
  struct Output {
    SampleOutput* out;
    int32_t first, n;
  };

  gpu::Queue& queue() { return context_.queue(); }
  static const Matrix& matrix(const Weight& w) { return *static_cast<const Matrix*>(w.handle); }
  static int32_t rows_of(const Tensor& t) { return int32_t(t.shape[0]); }
  // Rows of a kind; without a step all count as generated.
  int32_t generated_of(int32_t rows) const { return has_step_ ? std::min(rows, generated_) : rows; }

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

  Status wrong_architecture() {
    const cudaDeviceProp& p = context_.properties();
    return Status::unsupported(std::string(p.name) + " is sm_" +
                               std::to_string(p.major * 10 + p.minor) +
                               "; this library was compiled for " NEMOTRON_CUDA_ARCHITECTURES " (" +
                               context_.status().message() + ")");
  }

  Status reserve(Block& b, size_t bytes) {
    if (bytes <= b.bytes) return {};
    context_.free(b.data);
    b = Block{};
    void* p = nullptr;
    if (Status s = context_.alloc(bytes, &p); !s) return s;
    b.data = static_cast<uint8_t*>(p);
    b.bytes = bytes;
    drop_graphs();
    return {};
  }
  // What prompt rows times w take beside their operands; prepare() has reserved it for all weights.
  bool need_products(const Matrix& w, int32_t rows) {
    if (!need(products_work_, products_.workspace_bytes(w, rows))) return false;
    products_.set_workspace(products_work_.data);
    return true;
  }
  // In a step: a failure is sticky.
  bool need(Block& b, size_t bytes) {
    Status s = reserve(b, bytes);
    if (!s) context_.fail(s.within("workspace"));
    return context_.ok();
  }

  Status prepare_checked(const StepLimits& limits, const KvConfig& kv, const RopeTable& rope) {
    if (kv.head_dim % 16 != 0 || kv.head_dim <= 0 || kv.head_dim > 128) {
      return Status::unsupported("head_dim " + std::to_string(kv.head_dim) +
                                 ": the CUDA device serves multiples of 16 up to 128");
    }
    if (kv.block_size != 16 && kv.block_size != 32 && kv.block_size != 64) {
      return Status::invalid("block_size " + std::to_string(kv.block_size) +
                             ": 16, 32 or 64 is possible");
    }
    if (kv.kv_heads <= 0 || limits.q_heads % kv.kv_heads != 0 ||
        limits.q_heads / kv.kv_heads > 128) {
      return Status::invalid(std::to_string(limits.q_heads) + " query heads cannot share " +
                             std::to_string(kv.kv_heads) + " KV heads");
    }
    if (kv.dtype != DType::bf16 && kv.dtype != DType::fp8_e4m3) {
      return Status::unsupported(std::string("KV cache of ") + dtype_name(kv.dtype) +
                                 ": BF16 or F8_E4M3 is possible");
    }
    if (int64_t(kv.num_blocks) * kv.block_size > INT32_MAX) {
      return Status::unsupported(
          "a KV cache of " + std::to_string(int64_t(kv.num_blocks) * kv.block_size) + " tokens");
    }
    limits_ = limits;
    const size_t half = size_t(kv.num_blocks) * size_t(kv.block_size) * size_t(kv.kv_heads) *
                        size_t(kv.head_dim) * dtype_bytes(kv.dtype);
    if (Status s = reserve(cache_, half * 2 * size_t(kv.layers)); !s) return s.within("KV cache");
    if (debug_checks_) {  // whatever reads a slot that holds no token gets NaN
      context_.check(cudaMemsetAsync(cache_.data, 0xff, cache_.bytes, context_.stream()),
                     "marking the KV cache");
    }
    layers_.clear();
    for (int32_t i = 0; i < kv.layers; ++i) {
      KvLayer l;
      l.k = cache_.data + half * 2 * size_t(i);
      l.v = l.k + half;
      l.k_scale = kv.k_scale.empty() ? 1.0f : kv.k_scale[size_t(i)];
      l.v_scale = kv.v_scale.empty() ? 1.0f : kv.v_scale[size_t(i)];
      l.kv_heads = kv.kv_heads;
      l.block_size = kv.block_size;
      l.head_dim = kv.head_dim;
      l.fp8 = kv.dtype == DType::fp8_e4m3;
      layers_.push_back(l);
    }
    if (Status s = reserve(inv_freq_, rope.inv_freq.size() * sizeof(float)); !s) return s;
    context_.upload(inv_freq_.data, rope.inv_freq.data(), rope.inv_freq.size() * sizeof(float));

    // The workspace, once: a step finds everything it can need.
    const size_t rows = size_t(std::max(limits.max_rows, 1)), heads = size_t(limits.q_heads);
    const int32_t q_cols = limits.q_heads * kv.head_dim;
    const int32_t widest =
        std::max({padded_k(limits.hidden), padded_k(limits.intermediate), padded_k(q_cols)});
    const size_t chunks = size_t(limits.max_context / kDecodeChunk + 1);
    const size_t items =
        std::clamp(size_t(limits.max_rows) * chunks, chunks, size_t(kMaxDecodeItems));
    max_items_ = int32_t(std::max(items, chunks));
    Status s = reserve(normed_, rows * size_t(widest) * 2);
    if (s) s = reserve(angles_, rows * size_t(kv.head_dim / 2) * sizeof(float2));
    if (s) s = reserve(partial_, size_t(max_items_) * heads * size_t(kv.head_dim) * sizeof(float));
    if (s) s = reserve(partial_state_, size_t(max_items_) * heads * sizeof(float2));
    if (s)
      s = reserve(products_out_, size_t(std::min<int32_t>(limits.max_rows, kPromptSlice)) *
                                     size_t(std::max(2 * limits.intermediate,
                                                     q_cols + 2 * kv.kv_heads * kv.head_dim) +
                                            8) *
                                     2);
    size_t most = 0;
    for (const auto& w : weights_)
      most = std::max(most, products_.workspace_bytes(*w, limits.max_rows));
    if (s) s = reserve(products_work_, most);
    if (s) s = reserve(results_, results_bytes(2 * rows + size_t(limits.max_samples)));
    if (s) s = reserve_results_host(results_.bytes);
    if (!s) return s.within("workspace");
    context_.release_staging();
    builder_.set_model(
        {kv.block_size, prompt_tile_tokens(limits.q_heads, kv.kv_heads), limits.vocab, max_items_});
    context_.synchronize();
    return context_.status();
  }

  static size_t results_bytes(size_t n) { return 16 + n * sizeof(SampleOutput); }
  Status reserve_results_host(size_t bytes) {
    if (results_host_) context_.free_pinned(results_host_);
    results_host_ = nullptr;
    void* p = nullptr;
    if (Status s = context_.alloc_pinned(bytes, &p); !s) return s;
    results_host_ = static_cast<uint8_t*>(p);
    return {};
  }

  // --- a step
  // ---------------------------------------------------------------------------------------

  void begin(const StepInput& in) {
    outputs_.clear();
    ops_.clear();
    has_step_ = true;
    rows_ = in.rows();
    generated_ = in.num_generated_rows;
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
    const size_t bytes = results_bytes(in.samples.size());
    if (bytes > results_.bytes || !results_host_) {
      const size_t room = std::max(bytes, results_bytes(64));
      if (!need(results_, room)) return;
      if (Status s = reserve_results_host(results_.bytes); !s) return context_.fail(std::move(s));
    }
    builder_.build(in);
    if (!context_.ok()) return;
    recording_ = graph_possible(in);
    if (!recording_) {
      builder_.copy();
      begin_rows(rows_);
    }
  }

  bool graph_possible(const StepInput& in) const {
    if (layers_.empty() || rows_ == 0 || rows_ > kMaxGraphRows || generated_ != rows_ ||
        !in.score_rows.empty() || bucket_for(rows_) > limits_.max_rows ||
        builder_.passes().size() > 1 || in.samples.size() != size_t(rows_)) {
      return false;
    }
    for (int32_t i = 0; i < rows_; ++i) {
      if (in.samples[size_t(i)].row != i) return false;
    }
    return true;
  }

  void begin_rows(int32_t grid_rows) {
    if (layers_.empty()) return;
    rope_angles(queue(), builder_.device(), grid_rows, inv_freq_.as<const float>(),
                layers_[0].head_dim / 2, angles_.as<float2>());
  }

  void submit(const Op& op) {
    if (!context_.ok() || op.n == 0) return;
    if (recording_) {
      // A head of other rows than the sampled ones is none of the graph's.
      bool same = op.kind != Op::Kind::head || op.n == rows_;
      for (int32_t i = 0; same && op.kind == Op::Kind::head && i < op.n; ++i)
        same = head_rows_[size_t(i)] == i;
      if (same) {
        caught([&] { ops_.push_back(op); });
        return;
      }
      const std::vector<int32_t> rows = head_rows_;
      run_recorded();
      head_rows_ = rows;
    }
    run(op, 0);
    context_.check_launches();
  }

  // Enqueues what was recorded, as ordinary launches; the rest of the step follows in the same way.
  void run_recorded() {
    if (!recording_) return;
    recording_ = false;
    if (!context_.ok()) return;
    builder_.copy();
    begin_rows(rows_);
    for (const Op& op : ops_) {
      head_rows_.resize(size_t(op.n));
      for (int32_t i = 0; i < op.n; ++i) head_rows_[size_t(i)] = i;
      run(op, 0);
    }
    ops_.clear();
    context_.check_launches();
  }

  void run_graph() {
    const int32_t bucket = bucket_for(rows_);
    if (builder_.generation() != generation_) {
      drop_graphs();
      generation_ = builder_.generation();
    }
    // Ops of a bucket differ from step to step in nothing but the number of rows.
    for (Op& op : ops_) op.n = bucket;
    Graph& g = graphs_[bucket];
    if (g.ops != ops_) {
      if (g.exec) cudaGraphExecDestroy(g.exec);
      g = Graph{ops_, nullptr};
      for (Op& op : ops_) op.n = rows_;
      run_recorded();
      return;
    }
    recording_ = false;
    if (!g.exec && !capture(bucket, &g)) return;
    builder_.copy();
    context_.check(cudaGraphLaunch(g.exec, context_.stream()), "launching a graph");
  }

  bool capture(int32_t bucket, Graph* g) {
    cudaStream_t stream = context_.stream();
    cudaGraph_t graph = nullptr;
    if (!context_.check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                        "capturing a graph"))
      return false;
    begin_rows(bucket);
    for (const Op& op : g->ops) run(op, bucket);
    const bool ended = context_.check(cudaStreamEndCapture(stream, &graph), "capturing a graph");
    if (ended && context_.check_launches()) {
      context_.check(cudaGraphInstantiate(&g->exec, graph, 0), "instantiating a graph");
    }
    if (graph) cudaGraphDestroy(graph);
    return context_.ok();
  }

  void drop_graphs() {
    for (auto& [bucket, g] : graphs_) {
      if (g.exec) cudaGraphExecDestroy(g.exec);
    }
    graphs_.clear();
  }

  void finish() {
    if (recording_ && context_.ok()) run_graph();
    recording_ = false;
    if (!context_.ok()) return;
    size_t samples = 0;
    for (const Output& o : outputs_) samples = std::max(samples, size_t(o.first + o.n));
    if (results_host_) {
      context_.check(cudaMemcpyAsync(results_host_, results_.data, results_bytes(samples),
                                     cudaMemcpyDeviceToHost, context_.stream()),
                     "copying results");
    }
    if (!context_.synchronize() || !results_host_) return;
    uint32_t faults = 0;
    std::memcpy(&faults, results_host_, sizeof faults);
    if (faults > 0) {
      context_.fail(Status::internal(std::to_string(faults) +
                                     " token ids of a step are outside the embedding"));
      return;
    }
    for (const Output& o : outputs_) {
      const auto* from = reinterpret_cast<const SampleOutput*>(results_host_ + 16) + o.first;
      std::copy(from, from + o.n, o.out);
    }
    outputs_.clear();
  }

  // --- ops
  // ------------------------------------------------------------------------------------------

  // `bucket` > 0: in a graph, for that many generated rows; how many there are is in the metadata.
  void run(const Op& op, int32_t bucket) {
    switch (op.kind) {
      case Op::Kind::embed:
        cuda::embed(queue(), builder_.device(), op.n, *static_cast<const Matrix*>(op.weight),
                    slots_.as<int32_t>(), static_cast<float*>(op.out), results_.as<uint32_t>());
        break;
      case Op::Kind::attention_input: run_attention_input(op, bucket); break;
      case Op::Kind::attention: run_attention(op, bucket); break;
      case Op::Kind::gemm_residual: run_residual(op, bucket); break;
      case Op::Kind::mlp_input: run_mlp(op, bucket); break;
      case Op::Kind::head: run_head(op, bucket); break;
      case Op::Kind::sample:
        cuda::sample(queue(), builder_.device_bytes(), op.first, op.n, static_cast<float*>(op.in),
                     op.cols, slots_.as<int32_t>(),
                     reinterpret_cast<SampleOutput*>(results_.data + 16));
        break;
    }
  }

  const int32_t* count(int32_t bucket) const {
    return bucket > 0 ? &builder_.device()->generated_rows : nullptr;
  }

  DecodeGemm decode(const Activations& a, const Matrix& w, int32_t rows, int32_t bucket) const {
    DecodeGemm p;
    p.count = count(bucket);
    p.grid_rows = rows;
    p.a = a.data;
    p.a_stride = a.stride;
    p.w = w;
    return p;
  }
  static PromptGemm prompt(const Activations& a, const Matrix& w, int32_t first, int32_t end) {
    PromptGemm p;
    p.a = a.data + first * a.stride;
    p.a_stride = a.stride;
    p.rows = end - first;
    p.w = w;
    return p;
  }

  // norm(x) * gain in BF16, padded for w. rows null: all of x.
  Activations normed(const Op& op, const Matrix& w, const int32_t* rows, int32_t bucket) {
    if (!need(normed_, size_t(op.n) * size_t(w.k) * 2)) return {};
    cuda::rms_norm(queue(), count(bucket), op.n, rows, static_cast<const float*>(op.in),
                   static_cast<const float*>(op.gain), op.number, w.cols, normed_.as<uint16_t>(),
                   w.k);
    return {normed_.as<uint16_t>(), w.k};
  }
  // Activations as products want them: rows of w.k columns.
  Activations padded(const uint16_t* a, int32_t rows, const Matrix& w) {
    if (w.cols == w.k) return {a, w.k};
    if (!need(normed_, size_t(rows) * size_t(w.k) * 2)) return {};
    pad_rows(queue(), rows, a, w.cols, normed_.as<uint16_t>(), w.k);
    return {normed_.as<uint16_t>(), w.k};
  }

  bool need_slice(const Matrix& w, int32_t rows, int64_t stride) {
    return need_products(w, rows) &&
           need(products_out_, size_t(std::min(rows, kPromptSlice)) * size_t(stride) * 2);
  }

  void run_attention_input(const Op& op, int32_t bucket) {
    const Matrix& w = *static_cast<const Matrix*>(op.weight);
    const int32_t generated = bucket > 0 ? op.n : generated_of(op.n);
    const Activations a = normed(op, w, nullptr, bucket);
    if (!a.data) return;
    RopeStore rope;
    rope.step = builder_.device();
    rope.scale = w.scale;
    rope.angles = angles_.as<const float2>();
    rope.q = static_cast<uint16_t*>(op.out);
    rope.kv = layers_[size_t(op.layer)];
    rope.q_heads = limits_.q_heads;
    if (generated > 0) gemm_decode_rope(queue(), decode(a, w, generated, bucket), rope);
    rope.stride = (int64_t(w.rows) + 7) / 8 * 8;
    if (op.n > generated && !need_slice(w, op.n - generated, rope.stride)) return;
    rope.qkv = products_out_.as<const uint16_t>();
    for (int32_t at = generated; at < op.n; at += kPromptSlice) {
      rope.first_row = at;
      rope.rows = std::min(kPromptSlice, op.n - at);
      products_.bf16(prompt(a, w, at, at + rope.rows), products_out_.as<uint16_t>(), rope.stride);
      rope_store(queue(), rope);
    }
  }

  void run_attention(const Op& op, int32_t bucket) {
    AttentionArgs p;
    p.step = builder_.device();
    p.q = static_cast<const uint16_t*>(op.in);
    p.out = static_cast<uint16_t*>(op.out);
    p.kv = layers_[size_t(op.layer)];
    p.q_heads = limits_.q_heads;
    p.scale = op.number;
    p.partial = partial_.as<float>();
    p.partial_state = partial_state_.as<float2>();
    if (bucket > 0) {
      attention_decode(queue(), p);
      attention_merge(queue(), p, bucket);
      return;
    }
    for (const StepBuilder::Pass& pass : builder_.passes()) {
      p.first_row = pass.first_row;
      p.first_item = pass.first_item;
      p.items = pass.items;
      attention_decode(queue(), p);
      if (pass.items > pass.rows) attention_merge(queue(), p, pass.rows);
    }
    if (builder_.header().prompt_tiles > 0)
      attention_prompt(queue(), p, builder_.header().prompt_tiles);
  }

  void run_residual(const Op& op, int32_t bucket) {
    const Matrix& w = *static_cast<const Matrix*>(op.weight);
    const int32_t generated = bucket > 0 ? op.n : generated_of(op.n);
    const Activations a = padded(static_cast<const uint16_t*>(op.in), op.n, w);
    if (!a.data) return;
    auto* x = static_cast<float*>(op.out);
    if (generated > 0) gemm_decode_add(queue(), decode(a, w, generated, bucket), x, w.rows);
    if (op.n == generated || !need_products(w, op.n - generated)) return;
    products_.add(prompt(a, w, generated, op.n), x + int64_t(generated) * w.rows);
  }

  void run_mlp(const Op& op, int32_t bucket) {
    const Matrix& w = *static_cast<const Matrix*>(op.weight);
    const int32_t generated = bucket > 0 ? op.n : generated_of(op.n), inner = w.rows / 2;
    const Activations a = normed(op, w, nullptr, bucket);
    if (!a.data) return;
    auto* h = static_cast<uint16_t*>(op.out);
    if (generated > 0) gemm_decode_silu(queue(), decode(a, w, generated, bucket), h, inner);
    const int64_t stride = (int64_t(w.rows) + 7) / 8 * 8;
    if (op.n > generated && !need_slice(w, op.n - generated, stride)) return;
    for (int32_t at = generated; at < op.n; at += kPromptSlice) {
      const int32_t n = std::min(kPromptSlice, op.n - at);
      products_.bf16(prompt(a, w, at, at + n), products_out_.as<uint16_t>(), stride);
      silu_mul(queue(), products_out_.as<const uint16_t>(), stride, w.scale, n, inner,
               h + int64_t(at) * inner);
    }
  }

  // Always the decode kernel: what a row's logits are does not depend on its kind.
  void run_head(const Op& op, int32_t bucket) {
    const Matrix& w = *static_cast<const Matrix*>(op.weight);
    auto* out = static_cast<float*>(op.out);
    if (bucket > 0) {  // rows 0, 1, ...: no list
      const Activations a = normed(op, w, nullptr, bucket);
      if (a.data) gemm_decode_store(queue(), decode(a, w, op.n, bucket), out, w.rows);
      return;
    }
    for (int32_t at = 0; at < op.n; at += StepBuilder::kMaxHeadRows) {
      Op piece = op;
      piece.n = std::min(op.n - at, StepBuilder::kMaxHeadRows);
      builder_.set_head_rows(head_rows_.data() + at, piece.n);
      if (!context_.ok()) return;
      const Activations a = normed(piece, w, builder_.head_rows(), 0);
      if (!a.data) return;
      gemm_decode_store(queue(), decode(a, w, piece.n, 0), out + int64_t(at) * w.rows, w.rows);
    }
  }

  // Prompt rows whose qkv or gate and up are in memory at a time.
  static constexpr int32_t kPromptSlice = 1024;

  Context context_;
  Products products_{&context_};
  StepBuilder builder_{&context_};
  bool debug_checks_ = false;
  StepLimits limits_;
  std::vector<KvLayer> layers_;
  std::vector<std::unique_ptr<Matrix>> weights_;
  Block cache_, inv_freq_, slots_, normed_, angles_, partial_, partial_state_, products_out_,
      products_work_;
  Block results_;                    // uint32 faults, then SampleOutput from byte 16
  uint8_t* results_host_ = nullptr;  // pinned
  int32_t max_items_ = 1;

  bool has_step_ = false, recording_ = false;
  int32_t rows_ = 0, generated_ = 0;
  std::vector<int32_t> host_ids_, head_rows_;
  std::vector<Op> ops_;
  std::vector<Output> outputs_;
  std::map<int32_t, Graph> graphs_;
  int generation_ = 0;
};

}  // namespace

int32_t device_count(std::string* why) noexcept {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e == cudaSuccess && count > 0) return count;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (e == cudaErrorInsufficientDriver || driver == 0) {
    *why = driver == 0 ? "no NVIDIA driver is installed"
                       : "the NVIDIA driver is for CUDA " + std::to_string(driver / 1000) + "." +
                             std::to_string(driver % 1000 / 10) + ", older than this library's";
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
