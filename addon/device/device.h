// Device: the one interface between the model and the hardware.
//
// One Device is one rank: one GPU, or one share of the CPU. It is used by exactly one thread (the
// runner's rank thread). The devices of a group run the same steps; where an op says that it sums
// over ranks or gathers, they do it among themselves.
//
// Ops enqueue and return; nothing throws; an error is sticky and comes back from wait_step() and
// sync(). A layer of the decoder is five fused ops, which every backend implements.
//
// Activations between ops have the device's own dtype (activation_dtype()); the residual stream x
// and the logits are float32 everywhere. Dimension names: docs/architecture.md, glossary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "device/grouped.h"
#include "device/rank_group.h"
#include "device/status.h"
#include "device/step.h"
#include "device/tensor.h"

namespace nemotron {

// Most equal stretches of columns into which a product of gemm_residual() is cut: most ranks.
inline constexpr int32_t kMaxStretches = 8;

// Rows of a stored matrix that are still where they are stored.
class StoredRows {
 public:
  // Rows [first, first + n) of a part, of its columns alone, one after another at `to`. Several
  // threads may read.
  virtual Status read(int64_t first, int64_t n, uint8_t* to) const = 0;

 protected:
  ~StoredRows() = default;
};

// Rows [rows, cols] of a stored matrix, perhaps a part of it (tensor parallelism cuts here).
// Host memory of any alignment, valid during pack_weight only.
struct MatrixPart {
  const void* data = nullptr;
  DType dtype = DType::bf16;
  int64_t rows = 0, cols = 0;
  int64_t row_stride = 0;             // in elements
  std::span<const float> scale = {};  // real value = stored * scale; empty, one value, or [rows]

  // --- what a rank's part is of; one rank's is the whole ---
  int64_t first_row = 0;  // of an embedding or a head of the vocabulary: the id of its first row
  // Of gemm_residual: the sum over its columns is one over so many equal stretches, a power of two,
  // each added up on its own and then in pairs, ((s0 + s1) + (s2 + s3)) + ...
  int32_t stretches = 1;
  // Where `cols` are a part of the columns and the weight is quantised: the largest magnitude of
  // each whole stored row. [rows]
  std::span<const float> row_largest = {};

  // Of a weight in groups: the part are rows first_stored.. and
  // columns first_col.. of these, and data, dtype and row_stride mean nothing. first_col and cols
  // are multiples of the form's cut().
  const GroupedRows* grouped = nullptr;
  int64_t first_stored = 0, first_col = 0;

  // For a device that reads_rows(): data and row_stride mean nothing.
  const StoredRows* stored = nullptr;

  // Of the stored tensor, for messages; its rows count from first_row.
  std::string_view name = {};
};

enum class WeightUse : uint8_t {
  linear,     // [out, in]
  gate_up,    // two parts of equal shape: gate, up. Only mlp_input reads it
  embedding,  // [vocab, hidden], rows are looked up
  tied,       // [vocab, hidden], looked up and multiplied
};
// What becomes of wide weights while they are packed. fp8: with a scale of each output row; int4
// and int8: in groups of 32 (device/grouped.h).
enum class WeightFormat : uint8_t { stored, fp8, int4, int8 };
constexpr const char* weight_format_name(WeightFormat f) {
  constexpr const char* kNames[] = {"stored", "fp8", "int4", "int8"};
  return kNames[size_t(f)];
}

// A matrix as the backend wants it (panels, tiles, scales). Only the backend that made it reads it;
// it lives until the device closes.
struct Weight {
  void* handle = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t first_row = 0;  // MatrixPart's
  size_t bytes = 0;       // device memory it takes: what one multiplication streams
};

// A linear layer, y = x w^T: what an op multiplies by. Ops take this and not a Weight, so that what
// a layer may have beside its matrix (an adapter) needs no new argument.
struct Linear {
  Weight weight = {};
};

// Of rows of x [hidden], in float32. What it reads lies on the device.
struct Norm {
  enum class Kind : uint8_t {
    rms,    // x * rsqrt(mean(x^2) + eps) * gain
    layer,  // (x - mean(x)) * rsqrt(variance(x) + eps) * gain + bias
  } kind = Kind::rms;
  float eps = 0;
  // [hidden] f32. layernorm1p stores gain - 1: whoever loads it adds the 1.
  Tensor gain = {};
  Tensor bias = {};  // [hidden] f32; of Kind::layer alone
};

// What stands between the two matrices of a feed-forward layer.
enum class Activation : uint8_t {
  silu_gated,  // silu(gate) * up; the first matrix is packed as WeightUse::gate_up
  relu2,       // max(up, 0)^2; the first matrix is up alone, WeightUse::linear
};

// Rotation of pair (i, i + rotary_dim/2) of a head at position p by angle p * inv_freq[i]. The
// elements of a head from rotary_dim on stay as they are.
struct RopeTable {
  // [rotary_dim / 2] float32, scaling already applied. 0 < rotary_dim <= head_dim, even.
  std::span<const float> inv_freq;
};

struct KvConfig {
  int32_t layers = 0, kv_heads = 0, head_dim = 0;
  // Of each layer where they differ, kv_heads at most; empty: kv_heads each. [layers]
  std::span<const int32_t> layer_kv_heads = {};
  int32_t num_blocks = 0, block_size = 64;
  DType dtype = DType::bf16;  // bf16, fp8_e4m3; on the CPU f16 too
  // Per layer, real = stored * scale; empty: all 1.
  std::span<const float> k_scale = {}, v_scale = {};
  int32_t kv_heads_of(int32_t layer) const {
    return layer_kv_heads.empty() ? kv_heads : layer_kv_heads[size_t(layer)];
  }
  // The KV heads of all layers before this one.
  int64_t kv_heads_before(int32_t layer) const {
    int64_t heads = 0;
    for (int32_t i = 0; i < layer; ++i) heads += kv_heads_of(i);
    return heads;
  }
  size_t bytes_per_block() const {
    return size_t(kv_heads_before(layers)) * 2 * size_t(head_dim) * size_t(block_size) *
           dtype_bytes(dtype);
  }
};

// The largest step the runner will ever launch; the device sizes its workspace once from this.
struct StepLimits {
  int32_t max_rows = 0;     // token budget
  int32_t max_spans = 0;    // sequences in a step
  int32_t max_samples = 0;  // logit rows in a step
  int32_t max_context = 0;  // longest sequence
  int32_t q_heads = 0, kv_heads = 0, head_dim = 0, hidden = 0, intermediate = 0, vocab = 0;
};

// What of a decoder not every backend can compute.
struct DecoderForm {
  int32_t head_dim = 0, rotary_dim = 0;
};

// Which kinds of weights some matrices of the layers have, beside wide ones.
struct NarrowWeights {
  bool fp8 = false, groups = false;
};

// Steps that are launched and not yet waited for.
inline constexpr int kMaxStepsInFlight = 2;

class Device {
 public:
  virtual ~Device() = default;

  // --- what it is ---
  virtual std::string name() const = 0;  // "cpu (amx-bf16, 2 threads)", "NVIDIA H200 (sm_90a)"
  virtual DType activation_dtype() const = 0;
  // What the KV cache keeps where nobody chose.
  virtual DType kv_dtype() const { return DType::bf16; }
  virtual size_t free_bytes() const = 0;
  // Memory that prepare() takes for what the ranks of a group tell each other, beside the parts of
  // their sums.
  virtual size_t group_bytes() const { return 0; }
  // Most memory that prepare() takes beside the KV cache, group_bytes() and the parts of sums. Of
  // `kv` blocks do not count.
  virtual size_t workspace_bytes(const StepLimits&, const KvConfig& /*kv*/, NarrowWeights) const {
    return 0;
  }
  // Unsupported, with what is asked for and what is served, when steps of such a decoder cannot run
  // here. Asked before its weights are read.
  virtual Status check(const DecoderForm&) const noexcept { return {}; }

  // --- memory: all of it is taken before the first step ---
  virtual Status alloc(size_t bytes, void** out) noexcept = 0;  // zeroed, 64-byte aligned
  // REQUIRES: alloc() gave it, and it is given back once.
  virtual void free(void* p) noexcept = 0;
  virtual void upload(void* dst, const void* host, size_t bytes) noexcept = 0;
  virtual void download(void* host, const void* src, size_t bytes) noexcept = 0;  // waits
  // Whether steps may begin with copies of KV blocks (StepInput::copies). Worth it where each row
  // that need not be computed saves time.
  virtual bool copies_blocks() const { return false; }
  // Whether rows of weights are read piece by piece to where the device wants them, and need not
  // lie in memory before (MatrixPart::stored).
  virtual bool reads_rows() const { return false; }
  // Rows up to which a product takes not much longer than with one, since it waits for its weights:
  // of plain weights, or of weights in groups.
  virtual int32_t cheap_rows(bool /*in_groups*/) const { return 32; }
  // Puts the parts below each other: all of the same cols; for gate_up two of the same shape.
  // Where the form changes a multiple of 16 rows lies above, except between gate and up; those are
  // not in groups beside F32 or F16.
  // *out is empty, or a weight of this device that was packed from parts of the same shapes and
  // dtypes for the same use and format: then the new one is written in its place, also between
  // steps, and when that fails what it holds is undefined. REQUIRES then: no step is in flight.
  virtual Status pack_weight(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                             Weight* out) noexcept = 0;
  // Around weights that are written in place: takes the memory that this needs beside them, so that
  // it lacks none half way, and gives it back.
  virtual Status begin_packing() noexcept { return {}; }
  virtual void end_packing() noexcept {}
  // Takes the KV cache and the workspace. REQUIRES: every weight is packed, no step has begun;
  // limits and sizes are positive. kv's scales and rope are read before it returns.
  virtual Status prepare(const StepLimits& limits, const KvConfig& kv,
                         const RopeTable& rope) noexcept = 0;

  // --- a step ---
  // Steps run in the order in which they begin: begin_step(), ops, launch_step(), and some time
  // later wait_step(). A step is in flight from launch_step() until it has been waited for.
  //
  // Takes the step's metadata. `in` stays valid until the step has been waited for. Of in.samples
  // only their number, rows and slots are read: their descriptions are read by the first sample()
  // of the step, and another thread may write them until then.
  // REQUIRES: prepare() succeeded, the step before was launched, fewer than kMaxStepsInFlight are
  // in flight; rows, spans and contexts are within the limits, spans cover the rows in order, slots
  // are below max_spans, and block tables reach as far as their spans.
  virtual void begin_step(const StepInput& in) noexcept = 0;
  // The step is complete: it runs. Does not wait for it. REQUIRES: a step has begun.
  virtual void launch_step() noexcept = 0;
  // Whether wait_step() would return at once.
  virtual bool step_done() noexcept = 0;
  // Waits for the oldest step in flight: its results are now where its ops were told to put them.
  // Not ok: the device is unusable from now on. REQUIRES: a step is in flight.
  virtual Status wait_step() noexcept = 0;
  // Launches the step that has begun and waits for it and for everything else.
  virtual Status sync() noexcept = 0;

  // --- the ops of a layer, and the two ends ---
  // A backend that cannot do what a RopeTable asks for says so in check(), and to who did not ask
  // in prepare() (unsupported).
  // REQUIRES, for all: tensors of one call have the same rows, a weight has the use that the op
  // reads. Of embed, attention_input, attention and sample: a step has begun and these are its
  // rows, kv_layer is below KvConfig::layers. The products alone also run between steps.
  // x [rows, hidden] f32 = table[ids of the step]. A rank has a part of the table's rows, and
  // together they have all.
  virtual void embed(Tensor x, const Weight& table) noexcept = 0;
  // q [rows, q_heads, head_dim] = rope(norm(x) w^T), k and v of these rows into the cache.
  // w: rows are q, then k, then v heads.
  virtual void attention_input(Tensor q, Tensor x, const Norm& norm, const Linear& w,
                               int32_t kv_layer) noexcept = 0;
  // out [rows, q_heads, head_dim] = softmax(q k^T * scale) v over the row's own prefix
  virtual void attention(Tensor out, Tensor q, int32_t kv_layer, float scale) noexcept = 0;
  // x += a w^T, summed over ranks: the same bits on each. a [rows, in]. next: the norm that reads
  // x next, which a device may begin here; null where there is none. It is read before the call
  // returns.
  virtual void gemm_residual(Tensor x, Tensor a, const Linear& w, const Norm* next) noexcept = 0;
  // h [rows, intermediate] = activation(norm(x) w^T)
  virtual void mlp_input(Tensor h, Tensor x, const Norm& norm, const Linear& w,
                         Activation activation) noexcept = 0;
  // out [rows, n] = columns [first_col, first_col + n) of norm(x), for a gemm_residual() that takes
  // the place of attention or of a feed-forward part.
  virtual void norm(Tensor out, Tensor x, const Norm& norm, int64_t first_col) noexcept = 0;
  // out [n, w rows] f32 = norm(x[rows]) w^T for the given rows of the step: the vocabulary, or the
  // few rows of a reward head. `rows` is read before the call returns. REQUIRES: x has these rows.
  // A rank that has a part of the vocabulary is given an `out` with columns for all of it: row i is
  // whole on rank i % ranks when sample() reads it.
  virtual void head(Tensor out, Tensor x, std::span<const int32_t> rows, const Norm& norm,
                    const Linear& w) noexcept = 0;
  // logits [n, vocab] f32 (clobbered) of samples [first, first + n) of the step; ids go to their
  // slots, results to out[0..n) (host memory, valid once the step is waited for). `out` is one for
  // all ranks of a group: each draws its rows and writes their results; the ids reach every rank.
  // REQUIRES: the samples are the step's and are described.
  virtual void sample(Tensor logits, int32_t first, int32_t n, SampleOutput* out) noexcept = 0;
};

// --- backends ---

struct DeviceOptions {
  int32_t index = 0;    // which GPU
  int32_t threads = 0;  // CPU: 0 = as many as usable_processors() of processors.h
  std::string isa;      // CPU: "", "plain", "avx2", "avx512", "amx"; "" = the best this machine has
  // CPU: products as accurate as with float32 activations. Otherwise activations are rounded to
  // BF16 for them where the processor multiplies BF16, which is about twice as fast on prompts.
  // Attention is in float32 either way. Refused on CUDA, which rounds always.
  bool exact_activations = false;
  // CPU: activations of products with weights in groups are rounded to 8 bits, 32 at a time with a
  // scale, as llama.cpp has them: less accurate, and few rows are read at memory's rate. Refused on
  // CUDA, and beside exact_activations.
  bool int8_activations = false;
  // CUDA: round the activations of prompt rows that meet FP8 weights to FP8, each row with a scale
  // of its own. Twice the matrix peak at a loss of accuracy; refused where the GPU or cuBLASLt is
  // not up to it.
  bool fp8_activations = false;
  bool debug_checks = false;  // the KV cache starts as NaN
  // CUDA: bytes of what ranks tell each other at a time, a multiple of 16; larger sums and logits
  // take several turns. 0: 8 MiB.
  int64_t turn_bytes = 0;
  // Null: one rank. It outlives the device.
  RankGroup* group = nullptr;
  int32_t rank = 0;
};

// The CPU backend is linked in. check_cpu_device(): what it refuses of options by themselves.
Status check_cpu_device(const DeviceOptions& options);
Status open_cpu_device(const DeviceOptions& options, std::unique_ptr<Device>* out) noexcept;

// What a backend library (libnemotron_cuda.so) exports as `nemotron_backend`.
inline constexpr uint32_t kBackendAbi = 12;
struct Backend {
  uint32_t abi = kBackendAbi;
  const char* name = "";
  // Devices usable now; when 0, *why says what is missing.
  int32_t (*device_count)(std::string* why) noexcept = nullptr;
  Status (*open)(const DeviceOptions& options, std::unique_ptr<Device>* out) noexcept = nullptr;
};

}  // namespace nemotron
