#include "cuda/step_ops.h"

#include <algorithm>
#include <string>

#include "device/assert.h"

namespace nemotron::cuda {
namespace {

const Matrix& matrix(const Op& op) { return *static_cast<const Matrix*>(op.weight); }

PromptGemm prompt(const uint16_t* a, int64_t stride, const Matrix& w, int32_t first, int32_t end) {
  PromptGemm p;
  p.a = a + first * stride;
  p.a_stride = stride;
  p.rows = end - first;
  p.w = w;
  return p;
}

}  // namespace

// The first rows, whose products are those of generated rows.
int32_t StepOps::multiplied_of(int32_t rows, int32_t bucket) const {
  return bucket > 0 || all_rows_ ? rows : std::min(rows, generated_);
}

void StepOps::begin(int32_t rows, int32_t tiles) {
  tiles_ = tiles;
  products_->forget();
  begun_x_ = begun_gain_ = attended_ = nullptr;
  if (!workspace_->prepared()) return;
  rope_angles(queue(), builder_->device(), rows, workspace_->inv_freq.as<const float>(),
              workspace_->rotary_dim / 2, workspace_->angles.as<float2>());
}

void StepOps::run(const Op& op, std::span<const int32_t> head_rows, int32_t bucket) {
  switch (op.kind) {
    case Op::Kind::embed: embed_rows(op, bucket); break;
    case Op::Kind::attention_input: attention_input(op, bucket); break;
    case Op::Kind::attention: attention(op, bucket); break;
    case Op::Kind::gemm_residual: residual(op, bucket); break;
    case Op::Kind::mlp_input: mlp(op, bucket); break;
    case Op::Kind::norm: norm(op, bucket); break;
    case Op::Kind::head: head(op, head_rows, bucket); break;
    case Op::Kind::sample: draw(op); break;
  }
}

const int32_t* StepOps::count(int32_t bucket) const {
  return bucket > 0 ? &builder_->device()->rows : nullptr;
}

void StepOps::sum_over_ranks(const Op& op, int32_t cols, int32_t bucket, SumOverRanks sum) {
  sum.peers = ranks_->peers(results_->stopped());
  sum.count = count(bucket);
  sum.cols = cols;
  const SplitNorm norm = sum.norm;
  const bool by_nccl = ranks_->by_nccl();
  const int32_t most = ranks_->sum_rows(cols), multiplied = multiplied_of(op.n, bucket);
  NEMOTRON_ASSERT(bucket <= most);  // a turn counts its rows from the first on
  for (int32_t at = 0; at < op.n; at += most) {
    sum.grid_rows = std::min(most, op.n - at);
    sum.partial = workspace_->sums.as<const float>() + int64_t(at) * cols;
    sum.x = static_cast<float*>(op.out) + int64_t(at) * cols;
    sum.norm = {};
    if (norm.gain && at < multiplied) {
      sum.norm = norm;
      sum.norm.scaled += at * norm.stride;
      sum.norm.squares += int64_t(at) * norm_tiles(cols);
    }
    if (by_nccl) {
      sum.gathered = static_cast<const float*>(
          ranks_->gather(sum.partial, size_t(sum.grid_rows) * size_t(cols)));
      if (!context_->ok()) return;
      add_gathered(queue(), sum);
    } else {
      cuda::sum_over_ranks(queue(), sum);
    }
  }
}

void StepOps::embed_rows(const Op& op, int32_t bucket) {
  const Matrix& table = matrix(op);
  Embed p = {.step = builder_->device(),
             .table = table,
             .vocab = table.rows,
             .slots = workspace_->slots.as<int32_t>(),
             .x = static_cast<float*>(op.out),
             .fault = results_->faults()};
  const auto look_up = table.packed ? embed_packed : embed;
  if (ranks_->alone()) return look_up(queue(), p, op.n);
  // A row is its owner's, and zeros everywhere else.
  p.vocab = workspace_->limits.vocab;
  p.x = workspace_->sums.as<float>();
  look_up(queue(), p, op.n);
  SumOverRanks sum;
  sum.fresh = true;
  sum_over_ranks(op, table.cols, bucket, sum);
}

// Each rank draws its rows; their ids go to all.
void StepOps::draw(const Op& op) {
  auto* slots = workspace_->slots.as<int32_t>();
  sample(queue(),
         {.block = samples_->device(),
          .first = op.first,
          .logits = static_cast<float*>(op.in),
          .vocab = op.cols,
          .slots = slots,
          .out = results_->samples(),
          .rank = ranks_->rank(),
          .ranks = ranks_->ranks()},
         op.n);
  if (ranks_->alone()) return;
  ShareIds ids = {.peers = ranks_->peers(results_->stopped()),
                  .block = samples_->device(),
                  .first = op.first,
                  .rows = op.n,
                  .slots = slots};
  if (!ranks_->by_nccl()) return share_ids(queue(), ids);
  ids.gathered = reinterpret_cast<int32_t*>(ranks_->gathered());
  pack_ids(queue(), ids);
  ranks_->gather(nullptr, size_t(op.n));
  if (context_->ok()) unpack_ids(queue(), ids);
}

DecodeGemm StepOps::decode(const Activations& a, const Matrix& w, int32_t rows,
                           int32_t bucket) const {
  DecodeGemm p;
  p.count = count(bucket);
  p.grid_rows = rows;
  p.a = a.data;
  p.a_stride = a.stride;
  p.w = w;
  return p;
}

// norm(x) * gain in BF16, padded for w: rows [first, end), of x or of those listed.
StepOps::Activations StepOps::normed(const Op& op, const Matrix& w, int32_t first, int32_t end,
                                     const int32_t* rows, int32_t bucket) {
  if (!workspace_->need(&workspace_->normed, size_t(op.n) * size_t(w.k) * 2)) return {};
  auto* out = workspace_->normed.as<uint16_t>();
  if (end > first) {
    norm_rows(queue(),
              {.count = count(bucket),
               .rows = rows,
               .x = static_cast<const float*>(op.in) + int64_t(first) * w.cols,
               .gain = static_cast<const float*>(op.gain),
               .bias = static_cast<const float*>(op.bias),
               .eps = op.number,
               .cols = w.cols,
               .out = out + int64_t(first) * w.k,
               .out_stride = w.k},
              end - first);
  }
  return {out, w.k};
}

// Of the generated rows that a residual writes. None outside a model's steps (the op suite).
SplitNorm StepOps::split_norm(const Op& op, const Matrix& w) const {
  SplitNorm norm;
  const StepLimits& limits = workspace_->limits;
  if (!workspace_->prepared() || w.rows != limits.hidden || op.n > limits.max_rows) return norm;
  norm.gain = static_cast<const float*>(op.gain);
  norm.scaled = workspace_->scaled.as<uint16_t>();
  norm.stride = padded_k(w.rows);
  norm.squares = workspace_->squares.as<float>();
  return norm;
}

// The product of the generated rows' norm: half of it is there, or a kernel of its own makes all.
DecodeGemm StepOps::decode_normed(const Op& op, const Matrix& w, int32_t rows, int32_t bucket) {
  const bool begun = begun_gain_ && begun_x_ == op.in && begun_gain_ == op.gain;
  begun_x_ = begun_gain_ = nullptr;
  if (!begun) return decode(normed(op, w, 0, rows, nullptr, bucket), w, rows, bucket);
  DecodeGemm p = decode({workspace_->scaled.as<uint16_t>(), w.k}, w, rows, bucket);
  p.squares = workspace_->squares.as<const float>();
  p.eps = op.number;
  return p;
}

// Activations as products want them: rows of w.k columns.
StepOps::Activations StepOps::padded(const uint16_t* a, int32_t rows, const Matrix& w) {
  if (w.cols == w.k) return {a, w.k};
  if (!workspace_->need(&workspace_->normed, size_t(rows) * size_t(w.k) * 2)) return {};
  auto* out = workspace_->normed.as<uint16_t>();
  pad_rows(queue(), rows, a, w.cols, out, w.k);
  return {out, w.k};
}

bool StepOps::need_products(const Matrix& w, int32_t rows) {
  if (!workspace_->need(&workspace_->products, products_->prepare(w, rows))) return false;
  products_->set_workspace(workspace_->products.data);
  return true;
}

bool StepOps::need_slice(const Matrix& w, int32_t rows) {
  return need_products(w, rows) &&
         workspace_->need(&workspace_->products_out,
                          size_t(std::min(rows, kPromptSlice)) * size_t(unscaled_stride(w)) * 2);
}

void StepOps::attention_input(const Op& op, int32_t bucket) {
  const Matrix& w = matrix(op);
  const int32_t multiplied = multiplied_of(op.n, bucket);
  RopeStore rope;
  rope.step = builder_->device();
  rope.scale = w.scale;
  rope.angles = workspace_->angles.as<const float2>();
  rope.q = static_cast<uint16_t*>(op.out);
  rope.kv = workspace_->layers[size_t(op.layer)];
  rope.q_heads = workspace_->limits.q_heads;
  rope.rotary = workspace_->rotary_dim;
  if (multiplied > 0) {
    DecodeGemm p = decode_normed(op, w, multiplied, bucket);
    // Halves of a head that are no whole row tiles cannot be taken from packed rows. The product
    // asks for weights before the kernel in front of it has ended: not for these, which it makes.
    const bool early = queue().pdl;
    if (w.packed && rope.rotary / 2 % 16 != 0) {
      if (!need_products(w, multiplied)) return;
      p.w = products_->plain(w);
      queue().pdl = false;
    }
    if (p.a) gemm_decode_rope(queue(), p, rope);
    queue().pdl = early;
  }
  if (op.n == multiplied || !need_slice(w, op.n - multiplied)) return;
  const Activations a = normed(op, w, multiplied, op.n, nullptr, 0);
  if (!a.data) return;
  auto* qkv = workspace_->products_out.as<uint16_t>();
  rope.qkv = qkv;
  rope.stride = unscaled_stride(w);
  for (int32_t at = multiplied; at < op.n; at += kPromptSlice) {
    rope.first_row = at;
    rope.rows = std::min(kPromptSlice, op.n - at);
    rope.row_scale =
        products_->bf16(prompt(a.data, a.stride, w, at, at + rope.rows), qkv, rope.stride);
    rope_store(queue(), rope);
  }
}

void StepOps::attention(const Op& op, int32_t bucket) {
  AttentionArgs p;
  p.step = builder_->device();
  p.q = static_cast<const uint16_t*>(op.in);
  p.out = static_cast<uint16_t*>(op.out);
  attended_ = p.out;
  p.kv = workspace_->layers[size_t(op.layer)];
  p.q_heads = workspace_->limits.q_heads;
  p.scale = op.number;
  p.partial = workspace_->partial.as<float>();
  p.partial_state = workspace_->partial_state.as<float2>();
  p.arrivals = workspace_->arrivals.as<uint32_t>();
  if (bucket > 0) {
    attention_decode(queue(), p);
  } else {
    for (const StepBuilder::Pass& pass : builder_->passes()) {
      p.first_item = pass.first_item;
      p.items = pass.items;
      attention_decode(queue(), p);
    }
  }
  if (tiles_ == 0) return;
  if (workspace_->wgmma) {
    attention_prompt_wgmma(queue(), p, workspace_->cache_map, tiles_);
  } else {
    attention_prompt(queue(), p, tiles_);
  }
}

void StepOps::residual(const Op& op, int32_t bucket) {
  const Matrix& w = matrix(op);
  const int32_t multiplied = multiplied_of(op.n, bucket);
  const Activations a = padded(static_cast<const uint16_t*>(op.in), op.n, w);
  if (!a.data) return;
  auto* x = static_cast<float*>(op.out);
  DecodeGemm p = decode(a, w, multiplied, bucket);
  p.idle_before = attended_ == op.in && op.n == multiplied;
  attended_ = nullptr;
  if (!ranks_->alone()) {
    auto* sums = workspace_->sums.as<float>();
    if (multiplied > 0) gemm_decode_store(queue(), p, sums, w.rows);
    if (op.n > multiplied) {
      if (!need_products(w, op.n - multiplied)) return;
      float* to = sums + int64_t(multiplied) * w.rows;
      context_->check(cudaMemsetAsync(to, 0, size_t(op.n - multiplied) * size_t(w.rows) * 4,
                                      context_->stream()),
                      "clearing a rank's part of a sum");
      products_->add(prompt(a.data, a.stride, w, multiplied, op.n), to);
    }
    SumOverRanks sum;
    sum.norm = split_norm(op, w);
    sum_over_ranks(op, w.rows, bucket, sum);
    if (multiplied > 0) {
      begun_x_ = x;
      begun_gain_ = sum.norm.gain;
    }
    return;
  }
  if (multiplied > 0) {
    const SplitNorm norm = split_norm(op, w);
    gemm_decode_add(queue(), p, x, w.rows, norm);
    begun_x_ = x;
    begun_gain_ = norm.gain;
  }
  if (op.n == multiplied || !need_products(w, op.n - multiplied)) return;
  products_->add(prompt(a.data, a.stride, w, multiplied, op.n), x + int64_t(multiplied) * w.rows);
}

void StepOps::mlp(const Op& op, int32_t bucket) {
  const Matrix& w = matrix(op);
  const int32_t multiplied = multiplied_of(op.n, bucket);
  const int32_t inner = op.relu2 ? w.rows : w.rows / 2;
  auto* h = static_cast<uint16_t*>(op.out);
  if (multiplied > 0) {
    const DecodeGemm p = decode_normed(op, w, multiplied, bucket);
    if (p.a) (op.relu2 ? gemm_decode_relu2 : gemm_decode_silu)(queue(), p, h, inner);
  }
  if (op.n == multiplied || !need_slice(w, op.n - multiplied)) return;
  const Activations a = normed(op, w, multiplied, op.n, nullptr, 0);
  if (!a.data) return;
  auto* product = workspace_->products_out.as<uint16_t>();
  const int64_t stride = unscaled_stride(w);
  for (int32_t at = multiplied; at < op.n; at += kPromptSlice) {
    const int32_t n = std::min(kPromptSlice, op.n - at);
    const float* row_scale =
        products_->bf16(prompt(a.data, a.stride, w, at, at + n), product, stride);
    uint16_t* to = h + int64_t(at) * inner;
    if (op.relu2) {
      relu2_rows(queue(), {product, stride, w.scale, row_scale, n, inner, to});
    } else {
      silu_mul(queue(), {product, stride, w.scale, row_scale, n, inner, to});
    }
  }
}

void StepOps::norm(const Op& op, int32_t bucket) {
  norm_rows(queue(),
            {.count = count(bucket),
             .x = static_cast<const float*>(op.in),
             .gain = static_cast<const float*>(op.gain),
             .bias = static_cast<const float*>(op.bias),
             .eps = op.number,
             .cols = op.layer,
             .first_col = op.first,
             .out = static_cast<uint16_t*>(op.out),
             .out_stride = op.cols},
            op.n);
}

// Always the same two kernels: what a row's logits are does not depend on its kind.
void StepOps::head(const Op& op, std::span<const int32_t> rows, int32_t bucket) {
  const Matrix& w = matrix(op);
  auto* out = static_cast<float*>(op.out) + w.first_row;
  if (bucket > 0) {  // rows 0, 1, ...: no list
    const Activations a = normed(op, w, 0, op.n, nullptr, bucket);
    if (a.data) gemm_decode_store(queue(), decode(a, w, op.n, bucket), out, op.cols);
    return gather(op, bucket);
  }
  for (int32_t at = 0; at < op.n; at += StepBuilder::kMaxHeadRows) {
    Op piece = op;
    piece.n = std::min(op.n - at, StepBuilder::kMaxHeadRows);
    builder_->set_head_rows(rows.data() + at, piece.n);
    if (!context_->ok()) return;
    const Activations a = normed(piece, w, 0, piece.n, builder_->head_rows(), 0);
    if (!a.data) return;
    gemm_decode_store(queue(), decode(a, w, piece.n, 0), out + int64_t(at) * op.cols, op.cols);
  }
  gather(op, 0);
}

// Of a head whose rows the ranks share: row i of the logits becomes whole on rank i % ranks.
void StepOps::gather(const Op& op, int32_t bucket) {
  const Matrix& w = matrix(op);
  if (op.cols == w.rows || !context_->ok()) return;
  GatherLogits p = {.peers = ranks_->peers(results_->stopped()),
                    .count = count(bucket),
                    .vocab = op.cols,
                    .first_col = w.first_row,
                    .cols = w.rows};
  const bool by_nccl = ranks_->by_nccl();
  const int32_t width = logit_width(op.cols, p.peers.ranks);
  if (by_nccl && p.first_col != int64_t(op.cols) * p.peers.rank / p.peers.ranks) {
    return context_->fail(Status::internal("a head that begins at row " +
                                           std::to_string(p.first_col) + " of " +
                                           std::to_string(op.cols)));
  }
  const int32_t most = ranks_->logit_rows(op.cols);
  NEMOTRON_ASSERT(bucket <= most);
  for (int32_t at = 0; at < op.n; at += most) {
    p.grid_rows = std::min(most, op.n - at);
    p.logits = static_cast<float*>(op.out) + int64_t(at) * op.cols;
    if (!by_nccl) {
      gather_logits(queue(), p);
      continue;
    }
    p.gathered = reinterpret_cast<float*>(ranks_->gathered());
    pack_logits(queue(), p);
    ranks_->gather(nullptr, size_t(p.grid_rows) * size_t(width));
    if (!context_->ok()) return;
    unpack_logits(queue(), p);
  }
}

}  // namespace nemotron::cuda
