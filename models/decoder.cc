#include "models/decoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace nemotron {
namespace {

// Logits of one head call: enough rows to stream the head's weights once for a large batch, small
// enough to be a footnote in the memory plan.
constexpr size_t kMaxLogitBytes = size_t(128) << 20;

int64_t logit_rows(const StepLimits& limits) {
  const int64_t fit = int64_t(kMaxLogitBytes / (sizeof(float) * size_t(limits.vocab)));
  return std::clamp<int64_t>(fit, 1, std::max(limits.max_samples, 1));
}

struct BufferPlan {
  DType dtype;
  int64_t rows, cols;
  size_t bytes() const { return size_t(rows) * size_t(cols) * dtype_bytes(dtype); }
};

struct ActivationPlan {
  BufferPlan x, q, attn, h, logits;
  size_t bytes() const { return x.bytes() + q.bytes() + attn.bytes() + h.bytes() + logits.bytes(); }
};

// A reward head has a few outputs for each scored row; the vocabulary head one row a sample.
ActivationPlan plan(const RankShape& shape, const StepLimits& limits, DType act) {
  const int64_t rows = limits.max_rows, heads = int64_t(shape.q_heads) * shape.head_dim;
  const bool reward = shape.reward_outputs > 0;
  const int64_t outputs = reward ? shape.reward_outputs : shape.vocab;
  return {
      .x = {DType::f32, rows, shape.hidden},
      .q = {act, rows, heads},
      .attn = {act, rows, heads},
      .h = {act, rows, shape.max_intermediate()},
      .logits = {DType::f32, reward ? limits.max_spans : logit_rows(limits), outputs},
  };
}

Tensor matrix(const Tensor& buffer, int64_t rows, int64_t cols) {
  return {.data = buffer.data, .dtype = buffer.dtype, .rank = 2, .shape = {rows, cols}};
}

}  // namespace

DecoderForm decoder_form(const ModelConfig& config) {
  return {.head_dim = config.head_dim, .rotary_dim = config.rotary_dim};
}

size_t Decoder::activation_bytes(const RankShape& shape, const StepLimits& limits,
                                 DType activation) {
  return plan(shape, limits, activation).bytes();
}

Status Decoder::create(const RankShape& shape, const DecoderWeights& weights, Device* device,
                       const StepLimits& limits, std::unique_ptr<Decoder>* out) {
  auto decoder = std::unique_ptr<Decoder>(new Decoder());
  decoder->shape_ = &shape;
  decoder->weights_ = &weights;
  decoder->device_ = device;
  const ActivationPlan p = plan(shape, limits, device->activation_dtype());
  const auto allocate = [&](const BufferPlan& b, Tensor* t) -> Status {
    void* data = nullptr;
    if (Status s = device->alloc(b.bytes(), &data); !s) return s.within("activations");
    *t = {.data = data, .dtype = b.dtype, .rank = 2, .shape = {b.rows, b.cols}};
    return {};
  };
  for (auto [b, t] : {std::pair{&p.x, &decoder->x_},
                      {&p.q, &decoder->q_},
                      {&p.attn, &decoder->attn_},
                      {&p.h, &decoder->h_},
                      {&p.logits, &decoder->logits_}}) {
    if (Status s = allocate(*b, t); !s) return s;
  }
  NormOf next;
  decoder->next_norms_.resize(shape.layers.size());
  for (size_t i = shape.layers.size(); i-- > 0;) {
    decoder->next_norms_[i].after_ffn = next;
    const LayerSpec& spec = shape.layers[i];
    if (spec.ffn) next = {i, &LayerWeights::post_attention_norm};
    if (spec.linear_ffn) next = {};  // norm() makes it whole
    decoder->next_norms_[i].after_attention = next;
    if (spec.attention) next = {i, &LayerWeights::input_norm};
    if (spec.linear_attention) next = {};
  }
  decoder->rows_.reserve(size_t(std::max(limits.max_samples, limits.max_spans)));
  *out = std::move(decoder);
  return {};
}

Decoder::~Decoder() {
  for (Tensor* t : {&x_, &q_, &attn_, &h_, &logits_}) {
    if (t->data) device_->free(t->data);
  }
}

void Decoder::forward(const StepInput& in, StepOutput* out) noexcept {
  const RankShape& c = *shape_;
  const DecoderWeights& w = *weights_;
  Device& d = *device_;
  const int64_t rows = in.rows();
  const Tensor x = matrix(x_, rows, c.hidden);
  const Tensor q{
      .data = q_.data, .dtype = q_.dtype, .rank = 3, .shape = {rows, c.q_heads, c.head_dim}};
  const Tensor attn{
      .data = attn_.data, .dtype = attn_.dtype, .rank = 3, .shape = {rows, c.q_heads, c.head_dim}};
  const Tensor attn_rows = matrix(attn_, rows, int64_t(c.q_heads) * c.head_dim);
  const float scale = c.score_scale / std::sqrt(float(c.head_dim));
  // Of a normed row, what this rank multiplies where one matrix is all of a layer's part.
  const Tensor own = matrix(h_, rows, c.hidden / c.shard.ranks);
  const int64_t first_own = own.shape[1] * c.shard.rank;

  reached(0);
  d.begin_step(in);
  d.embed(x, w.embedding);
  for (size_t i = 0; i < w.layers.size(); ++i) {
    const LayerSpec& spec = c.layers[i];
    const LayerWeights& layer = w.layers[i];
    if (spec.attention) {
      d.attention_input(q, x, layer.input_norm, layer.qkv, layer.kv_layer);
      d.attention(attn, q, layer.kv_layer, scale);
      d.gemm_residual(x, attn_rows, layer.o, norm_at(next_norms_[i].after_attention));
    } else if (spec.linear_attention) {
      d.norm(own, x, layer.input_norm, first_own);
      d.gemm_residual(x, own, layer.o, norm_at(next_norms_[i].after_attention));
    }
    if (spec.ffn) {
      const Tensor h = matrix(h_, rows, spec.intermediate);
      d.mlp_input(h, x, layer.post_attention_norm, layer.gate_up, spec.activation);
      d.gemm_residual(x, h, layer.down, norm_at(next_norms_[i].after_ffn));
    } else if (spec.linear_ffn) {
      d.norm(own, x, layer.post_attention_norm, first_own);
      d.gemm_residual(x, own, layer.down, norm_at(next_norms_[i].after_ffn));
    }
    reached(int32_t(i) + 1);
  }

  if (out->samples.size() != in.samples.size()) out->samples.resize(in.samples.size());
  if (!in.samples.empty()) head(in, 0);
}

void Decoder::reached(int32_t layers) noexcept {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  layers_done_.store(layers, std::memory_order_relaxed);
  layer_at_.store(std::chrono::duration<double>(now).count(), std::memory_order_relaxed);
}

int64_t Decoder::outputs() const {
  return shape_->reward_outputs > 0 ? shape_->reward_outputs : shape_->vocab;
}

// Only the rows that somebody asked for go through the head, in slices of the logits buffer: those
// of samples [first, ...).
void Decoder::head(const StepInput& in, size_t first) noexcept {
  const size_t n = std::min(in.samples.size() - first, size_t(logits_.shape[0]));
  rows_.clear();
  for (size_t i = 0; i < n; ++i) rows_.push_back(in.samples[first + i].row);
  const DecoderWeights& w = *weights_;
  device_->head(matrix(logits_, int64_t(n), outputs()), matrix(x_, in.rows(), shape_->hidden),
                rows_, w.final_norm, w.head);
}

void Decoder::draw(const StepInput& in, StepOutput* out) noexcept {
  const DecoderWeights& w = *weights_;
  Device& d = *device_;
  for (size_t first = 0; first < in.samples.size();) {
    const size_t n = std::min(in.samples.size() - first, size_t(logits_.shape[0]));
    if (first > 0) head(in, first);
    d.sample(matrix(logits_, int64_t(n), outputs()), int32_t(first), int32_t(n),
             out->samples.data() + first);
    first += n;
  }
  // Every rank has the rows of a reward head; the first says what comes of them.
  if (shape_->shard.rank == 0) out->scores.resize(in.score_rows.size() * size_t(outputs()));
  if (!in.score_rows.empty() && shape_->shard.rank == 0) {
    const Tensor scores = matrix(logits_, int64_t(in.score_rows.size()), outputs());
    d.head(scores, matrix(x_, in.rows(), shape_->hidden), in.score_rows, w.final_norm, w.head);
    d.download(out->scores.data(), scores.data, scores.bytes());
  }
  d.launch_step();
}

}  // namespace nemotron
