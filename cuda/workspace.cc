#include "cuda/workspace.h"

#include <algorithm>
#include <string>

namespace nemotron::cuda {
namespace {

constexpr size_t kMaxDecodeItems = 4096;    // of one launch of the decode attention,
constexpr size_t kDecodeMemoryShare = 512;  // whose sums may take this part of the GPU's memory

Status check(const StepLimits& limits, const KvConfig& kv, const RopeTable& rope) {
  if (Status s = check_heads(kv.head_dim, int32_t(rope.inv_freq.size()) * 2); !s) return s;
  if (kv.block_size != 16 && kv.block_size != 32 && kv.block_size != 64) {
    return Status::invalid("block_size " + std::to_string(kv.block_size) +
                           ": 16, 32 or 64 is possible");
  }
  if (!kv.layer_kv_heads.empty() && int32_t(kv.layer_kv_heads.size()) != kv.layers) {
    return Status::invalid("KV heads of " + std::to_string(kv.layer_kv_heads.size()) +
                           " layers, not of " + std::to_string(kv.layers));
  }
  for (int32_t i = 0; i < kv.layers; ++i) {
    const int32_t heads = kv.kv_heads_of(i);
    if (heads > 0 && heads <= kv.kv_heads && limits.q_heads % heads == 0 &&
        limits.q_heads / heads <= 128) {
      continue;
    }
    return Status::invalid(std::to_string(limits.q_heads) + " query heads cannot share " +
                           std::to_string(heads) + " KV heads");
  }
  if (kv.dtype != DType::bf16 && kv.dtype != DType::fp8_e4m3) {
    return Status::unsupported(std::string("KV cache of ") + dtype_name(kv.dtype) +
                               ": BF16 or F8_E4M3 is possible");
  }
  const int64_t tokens = int64_t(kv.num_blocks) * kv.block_size;
  if (tokens > INT32_MAX) {
    return Status::unsupported("a KV cache of " + std::to_string(tokens) + " tokens");
  }
  return {};
}

}  // namespace

Status check_heads(int32_t head_dim, int32_t rotary_dim) {
  if (head_dim % 16 != 0 || head_dim <= 0 || head_dim > 192) {
    return Status::unsupported("head_dim " + std::to_string(head_dim) +
                               ": the CUDA device serves multiples of 16 up to 192");
  }
  if (rotary_dim <= 0 || rotary_dim % 2 != 0 || head_dim % rotary_dim != 0) {
    return Status::unsupported("rotary embeddings of " + std::to_string(rotary_dim) + " of " +
                               std::to_string(head_dim) +
                               " elements of a head: the CUDA device turns an even number that "
                               "divides them; such a model runs on the CPU");
  }
  return {};
}

Workspace::~Workspace() {
  for (const Block* b : {&slots, &inv_freq, &angles, &normed, &scaled, &squares, &sums, &partial,
                         &partial_state, &arrivals, &products_out, &products, &cache_}) {
    context_->free(b->data);
  }
}

Status Workspace::reserve(Block* block, size_t bytes) {
  if (bytes > block->bytes) ++generation_;
  return context_->reserve(block, bytes);
}

bool Workspace::need(Block* block, size_t bytes) {
  Status s = reserve(block, bytes);
  if (!s) context_->fail(s.within("workspace"));
  return context_->ok();
}

Status Workspace::prepare_cache(const KvConfig& kv, bool mark, bool want_wgmma) {
  const size_t row = size_t(kv.head_dim) * dtype_bytes(kv.dtype);
  const size_t head = size_t(kv.num_blocks) * size_t(kv.block_size) * row;  // K or V of one
  if (Status s = reserve(&cache_, head * 2 * size_t(kv.kv_heads_before(kv.layers))); !s)
    return s.within("KV cache");
  if (mark) {
    context_->check(cudaMemsetAsync(cache_.data, 0xff, cache_.bytes, context_->stream()),
                    "marking the KV cache");
  }
  const int64_t rows = int64_t(head / row) * 2 * kv.kv_heads_before(kv.layers);
  const MappedCache mapped = {cache_.data, rows, kv.head_dim, kv.block_size,
                              kv.dtype == DType::fp8_e4m3};
  wgmma = want_wgmma && cache_map_possible(mapped);
  if (wgmma) {
    if (Status s = make_cache_map(mapped, &cache_map); !s) return s;
  }
  layers.clear();
  for (int32_t i = 0; i < kv.layers; ++i) {
    KvLayer l;
    l.kv_heads = kv.kv_heads_of(i);
    l.k = cache_.data + head * 2 * size_t(kv.kv_heads_before(i));
    l.v = l.k + head * size_t(l.kv_heads);
    l.k_scale = kv.k_scale.empty() ? 1.0f : kv.k_scale[size_t(i)];
    l.v_scale = kv.v_scale.empty() ? 1.0f : kv.v_scale[size_t(i)];
    l.block_size = kv.block_size;
    l.head_dim = kv.head_dim;
    l.fp8 = kv.dtype == DType::fp8_e4m3;
    layers.push_back(l);
  }
  return {};
}

// Of one launch of the decode attention.
int32_t Workspace::decode_items(const StepLimits& limits, const KvConfig& kv) const {
  const auto rows = size_t(std::max(limits.max_rows, 1));
  const size_t chunks = size_t(limits.max_context / kDecodeChunk + 1);
  const size_t item_bytes =
      size_t(limits.q_heads) * (size_t(kv.head_dim) * sizeof(float) + sizeof(float2));
  const size_t most = std::min(
      kMaxDecodeItems, context_->properties().totalGlobalMem / kDecodeMemoryShare / item_bytes);
  return int32_t(std::max(std::min(rows * chunks, most), chunks));
}

std::vector<Workspace::Need> Workspace::needs(const StepLimits& step, const KvConfig& kv,
                                              int32_t rotary) const {
  const size_t rows = size_t(std::max(step.max_rows, 1)), heads = size_t(step.q_heads);
  const int32_t q_cols = step.q_heads * kv.head_dim;
  const int32_t widest =
      std::max({padded_k(step.hidden), padded_k(step.intermediate), padded_k(q_cols)});
  const int32_t tallest =
      std::max(2 * step.intermediate, q_cols + 2 * kv.kv_heads * kv.head_dim) + 8;
  const size_t slice = std::min(rows, size_t(kPromptSlice));
  const size_t items = size_t(decode_items(step, kv)) * heads, freqs = size_t(rotary) / 2;
  return {{&Workspace::inv_freq, freqs * sizeof(float)},
          {&Workspace::angles, rows * freqs * sizeof(float2)},
          {&Workspace::normed, rows * size_t(widest) * 2},
          {&Workspace::scaled, rows * size_t(padded_k(step.hidden)) * 2},
          {&Workspace::squares, rows * size_t(norm_tiles(step.hidden)) * sizeof(float)},
          {&Workspace::partial, items * size_t(kv.head_dim) * sizeof(float)},
          {&Workspace::partial_state, items * sizeof(float2)},
          {&Workspace::arrivals, rows * heads * sizeof(uint32_t)},
          {&Workspace::products_out, slice * size_t(tallest) * 2}};
}

size_t Workspace::bytes(const StepLimits& step, const KvConfig& kv, int32_t rotary) const {
  size_t all = 0;
  for (const Need& n : needs(step, kv, rotary)) all += n.bytes;
  return all;
}

Status Workspace::prepare(const StepLimits& step, const KvConfig& kv, const RopeTable& rope,
                          size_t products_bytes, const Choices& choices) {
  if (Status s = check(step, kv, rope); !s) return s;
  limits = step;
  rotary_dim = int32_t(rope.inv_freq.size()) * 2;
  if (Status s = prepare_cache(kv, choices.mark, choices.wgmma); !s) return s;

  max_items = decode_items(limits, kv);
  std::vector<Need> all = needs(limits, kv, rotary_dim);
  all.push_back({&Workspace::products, products_bytes});
  if (choices.ranks) {
    const size_t rows = size_t(std::max(limits.max_rows, 1));
    all.push_back({&Workspace::sums, rows * size_t(limits.hidden) * sizeof(float)});
  }
  for (const Need& n : all) {
    if (Status s = reserve(&(this->*n.block), n.bytes); !s) return s.within("workspace");
  }
  // Columns beyond hidden, and counters, are zero from here on.
  for (const Block* b : {&scaled, &arrivals}) {
    context_->check(cudaMemsetAsync(b->data, 0, b->bytes, context_->stream()),
                    "clearing workspace");
  }
  context_->upload(inv_freq.data, rope.inv_freq.data(), rope.inv_freq.size() * sizeof(float));
  return context_->status();
}

}  // namespace nemotron::cuda
