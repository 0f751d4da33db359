// The metadata of one step as kernels read it: two blocks of device memory, each filled by one copy
// from pinned memory (metadata.h). The first has what the forward pass needs: StepHeader lies at
// its start, then the list of rows that the head is wanted for, then arrays whose offsets the
// header gives. The second has the draws: SampleHeader, then its arrays.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nemotron::cuda {

struct RowInfo {      // of one row
  int32_t id = 0;     // token, used when slot < 0
  int32_t slot = -1;  // >= 0: the token that an earlier step left there
  int32_t position = 0;
  int32_t kv_slot = 0;     // block * block_size + place in the block
  int32_t table = 0;       // where its block table begins, in ints from StepHeader::tables
  int32_t first_item = 0;  // generated rows: its decode items are consecutive
  int32_t items = 0;
  int32_t settled = 0;  // keys before this one were there before the step
};

// A generated row's keys [first_key, first_key + kDecodeChunk), cut at the row's position. The cut
// is a constant, so that a row's sums never depend on what else runs.
inline constexpr int kDecodeChunk = 512;
// Blocks that share an item where the step has few, with the same bits as one. Not of rows of more
// than kMostSplitItems, whose parts one block would merge for longer than the others save, nor of
// heads of more than kMostSplitHead columns.
inline constexpr int kDecodeParts = 4, kMostSplitItems = 8, kMostSplitHead = 128;
struct DecodeItem {
  int32_t row = 0;
  int32_t first_key = 0;
};

// Prompt rows that one block of the prompt attention works on.
struct PromptTile {
  int32_t first_row = 0, rows = 0;
  int32_t first_position = 0;
  int32_t table = 0;
};

struct SampleRow {  // SampleInput, with offsets (bytes from the header) instead of spans
  int32_t slot, given, num_logprobs;
  float temperature, top_p, min_p, log_min_p;
  int32_t top_k;
  float repetition_penalty, presence_penalty, frequency_penalty;
  uint64_t seed, position;
  uint32_t counts, bias, banned, allowed;  // allowed 0: no mask
  int32_t num_counts, num_bias, num_banned;
  uint32_t reported;  // int32_t [num_reported]
  int32_t num_reported;
  int32_t processed;  // 0 or 1
  uint32_t undo;      // float [num_counts + num_bias + num_banned], beyond what is copied
};
struct SampleCount {
  int32_t id, output_count, in_prompt;
};
struct SampleBias {
  int32_t id;
  float bias;
};

struct StepHeader {
  int32_t rows = 0;
  int32_t generated_rows = 0;
  int32_t decode_items = 0;
  int32_t prompt_tiles = 0;
  int32_t decode_parts = 1;  // blocks that share a decode item: 1, or kDecodeParts
  uint32_t row_info = 0;     // byte offsets from the header
  uint32_t tables = 0;
  uint32_t items = 0;
  uint32_t tiles = 0;
};

struct SampleHeader {
  int32_t samples = 0;
  uint32_t sample_rows = 0;
};

inline constexpr size_t kHeadOffset = 64;
static_assert(sizeof(StepHeader) <= kHeadOffset);

template <class T>
#if defined(__CUDACC__)
__host__ __device__ __forceinline__
#else
inline
#endif
    const T*
    step_array(const void* header, uint32_t offset) {
  return reinterpret_cast<const T*>(static_cast<const uint8_t*>(header) + offset);
}

}  // namespace nemotron::cuda
