#include "cuda/step_builder.h"

#include <algorithm>

namespace nemotron::cuda {
namespace {

constexpr size_t kFixedBytes = kHeadOffset + StepBuilder::kMaxHeadRows * sizeof(int32_t);
constexpr int kHeadLists = 64;

struct Sizes {
  size_t tables = 0, items = 0, tiles = 0;
};

size_t bytes_for(size_t rows, const Sizes& n) {
  const auto aligned = Metadata::aligned;
  return aligned(kFixedBytes) + aligned(rows * sizeof(RowInfo)) + aligned(n.tables * 4) +
         aligned(n.items * sizeof(DecodeItem)) + aligned(n.tiles * sizeof(PromptTile));
}

size_t bytes_for(const StepLimits& limits, int32_t block_size) {
  const auto spans = size_t(limits.max_spans), rows = size_t(limits.max_rows);
  const Sizes most = {.tables = spans * size_t(limits.max_context / block_size + 1),
                      .items = spans * size_t(limits.max_context / kDecodeChunk + 1),
                      .tiles = rows};
  return bytes_for(rows, most);
}

Sizes sizes_of(const StepInput& in, int32_t tile_tokens) {
  Sizes n;
  for (const SpanInput& s : in.spans) {
    n.tables += s.block_table.size();
    if (s.generated) {
      for (int32_t i = 0; i < s.rows; ++i) {
        n.items += size_t((s.first_position + i) / kDecodeChunk + 1);
      }
    } else {
      n.tiles += size_t((s.rows + tile_tokens - 1) / tile_tokens);
    }
  }
  return n;
}

}  // namespace

StepBuilder::~StepBuilder() {
  if (head_host_) context_->free_pinned(head_host_);
}

size_t StepBuilder::reserved_bytes(const StepLimits& limits, int32_t block_size) {
  return Metadata::capacity_for(bytes_for(limits, block_size));
}

bool StepBuilder::reserve(const StepLimits& limits, int32_t block_size) {
  return reserve(bytes_for(limits, block_size));
}

bool StepBuilder::reserve(size_t bytes) {
  if (!data_.reserve(bytes) || head_host_) return context_->ok();
  void* p = nullptr;
  const Status s = context_->alloc_pinned(kHeadLists * size_t(kMaxHeadRows) * sizeof(int32_t), &p);
  if (!s) context_->fail(s.within("step metadata"));
  head_host_ = static_cast<int32_t*>(p);
  return context_->ok();
}

void StepBuilder::build(const StepInput& in) {
  const Sizes n = sizes_of(in, model_.tile_tokens);
  const size_t rows = size_t(in.rows());
  if (!data_.begin(bytes_for(rows, n), kFixedBytes)) return;
  auto* h = reinterpret_cast<StepHeader*>(data_.host());
  h->rows = in.rows();
  h->generated_rows = in.num_generated_rows;
  h->decode_items = int32_t(n.items);
  h->prompt_tiles = int32_t(n.tiles);
  rows_ = data_.place<RowInfo>(rows, &h->row_info);
  auto* tables = data_.place<int32_t>(n.tables, &h->tables);
  items_ = data_.place<DecodeItem>(n.items, &h->items);
  tiles_ = data_.place<PromptTile>(n.tiles, &h->tiles);
  data_.end_of_copy();
  write_rows(in);
  passes_.clear();
  num_items_ = num_tiles_ = most_items_ = 0;
  int32_t table = 0;
  for (const SpanInput& s : in.spans) {
    std::copy(s.block_table.begin(), s.block_table.end(), tables + table);
    write_span(s, table);
    table += int32_t(s.block_table.size());
  }
  const bool splits = num_items_ <= model_.split_items && most_items_ <= kMostSplitItems;
  h->decode_parts = splits ? kDecodeParts : 1;
}

void StepBuilder::write_rows(const StepInput& in) {
  for (int32_t i = 0; i < in.rows(); ++i) {
    rows_[i] = RowInfo{};
    rows_[i].id = in.token_ids[size_t(i)];
    rows_[i].slot = in.token_slots.empty() ? -1 : in.token_slots[size_t(i)];
  }
}

// `table`: where its block table begins.
void StepBuilder::write_span(const SpanInput& s, int32_t table) {
  const int32_t bs = model_.block_size;
  for (int32_t i = 0; i < s.rows; ++i) {
    RowInfo& r = rows_[s.first_row + i];
    r.position = s.first_position + i;
    r.settled = s.first_position;
    r.table = table;
    if (bs > 0) r.kv_slot = s.block_table[size_t(r.position / bs)] * bs + r.position % bs;
    if (!s.generated) continue;
    r.first_item = num_items_;
    r.items = r.position / kDecodeChunk + 1;
    most_items_ = std::max(most_items_, r.items);
    for (int32_t k = 0; k < r.items; ++k) {
      items_[num_items_++] = {s.first_row + i, k * kDecodeChunk};
    }
    if (passes_.empty() || passes_.back().items + r.items > model_.max_items) {
      passes_.push_back({r.first_item, 0});
    }
    passes_.back().items += r.items;
  }
  if (s.generated) return;
  for (int32_t at = 0; at < s.rows; at += model_.tile_tokens) {
    tiles_[num_tiles_++] = {s.first_row + at, std::min(model_.tile_tokens, s.rows - at),
                            s.first_position + at, table};
  }
}

void StepBuilder::set_head_rows(const int32_t* rows, int32_t n) {
  if (!reserve(Metadata::aligned(kFixedBytes))) return;
  if (head_turn_ == kHeadLists) {  // the ring is full of lists that may not have left yet
    if (!context_->synchronize()) return;
    head_turn_ = 0;
  }
  int32_t* list = head_host_ + size_t(head_turn_++) * kMaxHeadRows;
  std::copy(rows, rows + n, list);
  context_->check(cudaMemcpyAsync(data_.device() + kHeadOffset, list, size_t(n) * sizeof(int32_t),
                                  cudaMemcpyHostToDevice, context_->stream()),
                  "copying the head's rows");
}

}  // namespace nemotron::cuda
