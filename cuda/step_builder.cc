#include "cuda/step_builder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace nemotron::cuda {
namespace {

constexpr size_t kFixedBytes = kHeadOffset + StepBuilder::kMaxHeadRows * sizeof(int32_t);
constexpr int kHeadLists = 64;

size_t aligned(size_t n) { return (n + 15) / 16 * 16; }

// Most bytes that `in` can need; the parts are placed one after the other in write().
size_t bytes_for(const StepInput& in, int32_t tile_tokens) {
  size_t n = aligned(kFixedBytes) + aligned(size_t(in.rows()) * sizeof(RowInfo));
  size_t tables = 0, items = 0, tiles = 0;
  for (const SpanInput& s : in.spans) {
    tables += s.block_table.size();
    if (s.generated) {
      items += size_t(s.rows) * size_t((s.first_position + s.rows - 1) / kDecodeChunk + 1);
    } else {
      tiles += size_t((s.rows + tile_tokens - 1) / tile_tokens);
    }
  }
  n += aligned(tables * 4) + aligned(items * sizeof(DecodeItem)) +
       aligned(tiles * sizeof(PromptTile));
  n += aligned(in.samples.size() * sizeof(SampleRow));
  for (const SampleInput& s : in.samples) {
    n += aligned(s.counts.size() * sizeof(SampleCount)) +
         aligned(s.bias.size() * sizeof(SampleBias)) + aligned(s.banned.size() * 4) +
         aligned(s.allowed.size() * 4) +
         aligned((s.counts.size() + s.bias.size() + s.banned.size()) * 4);
  }
  return n;
}

}  // namespace

StepBuilder::~StepBuilder() {
  for (uint8_t* host : turns_) {
    if (host) context_->free_pinned(host);
  }
  if (head_host_) context_->free_pinned(head_host_);
}

bool StepBuilder::reserve(size_t bytes) {
  if (bytes <= capacity_) return true;
  // Grows by doubling: the first steps, and penalties over long histories.
  const size_t capacity = std::max(bytes + bytes / 2, size_t(1) << 20);
  if (!context_->synchronize()) return false;
  context_->free(device_);
  device_ = nullptr;
  capacity_ = 0;
  Status s;
  for (uint8_t*& turn : turns_) {
    if (turn) context_->free_pinned(turn);
    turn = nullptr;
    void* host = nullptr;
    if (s) s = context_->alloc_pinned(capacity, &host);
    turn = static_cast<uint8_t*>(host);
  }
  host_ = turns_[turn_];
  void* device = nullptr;
  if (s) s = context_->alloc(capacity, &device);
  device_ = static_cast<uint8_t*>(device);
  if (s && !head_host_) {
    void* p = nullptr;
    s = context_->alloc_pinned(kHeadLists * size_t(kMaxHeadRows) * sizeof(int32_t), &p);
    head_host_ = static_cast<int32_t*>(p);
  }
  if (!s) {
    context_->fail(s.within("step metadata"));
    return false;
  }
  capacity_ = capacity;
  ++generation_;
  return true;
}

template <class T>
T* StepBuilder::place(size_t n, uint32_t* offset) {
  *offset = uint32_t(used_);
  used_ += aligned(n * sizeof(T));
  return reinterpret_cast<T*>(host_ + *offset);
}

void StepBuilder::build(const StepInput& in) {
  turn_ = (turn_ + 1) % kMaxStepsInFlight;
  host_ = turns_[turn_];
  const size_t most = bytes_for(in, model_.tile_tokens);
  if (!reserve(most)) return;
  std::memset(host_, 0, aligned(kFixedBytes));
  used_ = aligned(kFixedBytes);
  write(in);
  // Compared with what was asked for, since blocks are larger than that.
  if (used_ > most) {
    context_->fail(Status::internal("step metadata takes " + std::to_string(used_) + " bytes, " +
                                    std::to_string(most) + " were reserved"));
  }
}

// false: it names an id outside the vocabulary.
bool StepBuilder::write_sample(const SampleInput& s, SampleRow* to) {
  const auto bad_id = [&](int32_t id) {
    return id < 0 || (model_.vocab > 0 && id >= model_.vocab);
  };
  SampleRow& r = *to;
  r = {};
  r.slot = s.slot;
  r.target = s.target;
  r.num_top = s.num_top;
  r.temperature = s.temperature;
  r.top_p = s.top_p;
  r.min_p = s.min_p;
  r.log_min_p = s.min_p > 0 ? std::log(s.min_p) : 0.0f;
  r.top_k = s.top_k;
  r.repetition_penalty = s.repetition_penalty;
  r.presence_penalty = s.presence_penalty;
  r.frequency_penalty = s.frequency_penalty;
  r.seed = s.seed;
  r.position = s.position;

  bool bad = bad_id(std::max(s.target, 0));
  auto* counts = place<SampleCount>(s.counts.size(), &r.counts);
  for (const TokenCount& c : s.counts) {
    bad = bad || bad_id(c.id);
    *counts++ = {c.id, c.output_count, c.in_prompt};
  }
  r.num_counts = int32_t(s.counts.size());

  // The kernel wants each id once in a list.
  auto* bias = place<SampleBias>(s.bias.size(), &r.bias);
  for (const TokenBias& b : s.bias) {
    bad = bad || bad_id(b.id);
    auto* same =
        std::find_if(bias, bias + r.num_bias, [&](const SampleBias& x) { return x.id == b.id; });
    if (same != bias + r.num_bias) {
      same->bias += b.bias;
    } else {
      bias[r.num_bias++] = {b.id, b.bias};
    }
  }
  ids_.assign(s.banned.begin(), s.banned.end());
  std::sort(ids_.begin(), ids_.end());
  ids_.erase(std::unique(ids_.begin(), ids_.end()), ids_.end());
  for (int32_t id : ids_) bad = bad || bad_id(id);
  std::copy(ids_.begin(), ids_.end(), place<int32_t>(ids_.size(), &r.banned));
  r.num_banned = int32_t(ids_.size());

  if (!s.allowed.empty()) {
    std::copy(s.allowed.begin(), s.allowed.end(), place<uint32_t>(s.allowed.size(), &r.allowed));
  }
  return !bad;
}

void StepBuilder::write(const StepInput& in) {
  auto* h = reinterpret_cast<StepHeader*>(host_);
  h->rows = in.rows();
  h->generated_rows = in.num_generated_rows;
  h->samples = int32_t(in.samples.size());
  passes_.clear();

  size_t blocks = 0, tiles = 0, items = 0;
  for (const SpanInput& s : in.spans) {
    blocks += s.block_table.size();
    if (s.generated) {
      for (int32_t i = 0; i < s.rows; ++i)
        items += size_t((s.first_position + i) / kDecodeChunk + 1);
    } else {
      tiles += size_t((s.rows + model_.tile_tokens - 1) / model_.tile_tokens);
    }
  }
  auto* rows = place<RowInfo>(size_t(in.rows()), &h->row_info);
  auto* tables = place<int32_t>(blocks, &h->tables);
  auto* item = place<DecodeItem>(items, &h->items);
  auto* tile = place<PromptTile>(tiles, &h->tiles);
  for (int32_t i = 0; i < in.rows(); ++i) {
    const int32_t slot = in.token_slots.empty() ? -1 : in.token_slots[size_t(i)];
    rows[i] = {.id = in.token_ids[size_t(i)], .slot = slot};
  }
  int32_t table = 0, items_done = 0;
  const int32_t bs = model_.block_size;
  for (const SpanInput& s : in.spans) {
    std::copy(s.block_table.begin(), s.block_table.end(), tables + table);
    for (int32_t i = 0; i < s.rows; ++i) {
      RowInfo& r = rows[s.first_row + i];
      r.position = s.first_position + i;
      r.table = table;
      if (bs > 0) r.kv_slot = s.block_table[size_t(r.position / bs)] * bs + r.position % bs;
      if (!s.generated) continue;
      r.first_item = items_done;
      r.items = r.position / kDecodeChunk + 1;
      for (int32_t k = 0; k < r.items; ++k)
        item[items_done++] = {s.first_row + i, k * kDecodeChunk};
      if (passes_.empty() || passes_.back().items + r.items > model_.max_items) {
        passes_.push_back({r.first_item, 0});
      }
      passes_.back().items += r.items;
    }
    if (!s.generated) {
      for (int32_t at = 0; at < s.rows; at += model_.tile_tokens) {
        *tile++ = {s.first_row + at, std::min(model_.tile_tokens, s.rows - at),
                   s.first_position + at, table};
      }
    }
    table += int32_t(s.block_table.size());
  }
  h->decode_items = items_done;
  h->prompt_tiles = int32_t(tiles);

  auto* samples = place<SampleRow>(in.samples.size(), &h->sample_rows);
  for (const SampleInput& s : in.samples) {
    if (write_sample(s, samples++)) continue;
    context_->fail(Status::internal("a sampled row names a token id outside the vocabulary of " +
                                    std::to_string(model_.vocab)));
    return;
  }
  copied_ = used_;
  // Room for the logits that edits replace; nothing to copy.
  samples = reinterpret_cast<SampleRow*>(host_ + h->sample_rows);
  for (size_t i = 0; i < in.samples.size(); ++i) {
    SampleRow& r = samples[i];
    place<float>(size_t(r.num_counts) + size_t(r.num_bias) + size_t(r.num_banned), &r.undo);
  }
}

void StepBuilder::copy() {
  if (!context_->ok()) return;
  context_->check(
      cudaMemcpyAsync(device_, host_, copied_, cudaMemcpyHostToDevice, context_->stream()),
      "copying the step's metadata");
}

void StepBuilder::set_head_rows(const int32_t* rows, int32_t n) {
  if (!reserve(aligned(kFixedBytes))) return;
  if (head_turn_ == kHeadLists) {  // the ring is full of lists that may not have left yet
    if (!context_->synchronize()) return;
    head_turn_ = 0;
  }
  int32_t* list = head_host_ + size_t(head_turn_++) * kMaxHeadRows;
  std::copy(rows, rows + n, list);
  context_->check(cudaMemcpyAsync(device_ + kHeadOffset, list, size_t(n) * sizeof(int32_t),
                                  cudaMemcpyHostToDevice, context_->stream()),
                  "copying the head's rows");
}

}  // namespace nemotron::cuda
