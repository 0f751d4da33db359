// Grouped weights: a few bits for each value and a scale for each group of values along a row, as
// GGUF files and 4-bit checkpoints have them. The real value is
//
//   value of its code * scale of its group - least of its group
//
// and the scale (the least alike) either a half float for every 32 values, or a half float for
// every 128 times a small integer, the step, for every group.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace nemotron {

inline constexpr int kGroupedBlock = 128;  // values of a row that are packed together
inline constexpr int kGroupedChunk = 32;   // ranks and stretches cut rows at multiples of this

struct GroupedForm {
  int bits = 4;            // 4, 5, 6 or 8
  int group = 32;          // values that share a scale: 32, or with steps also 16
  bool has_steps = false;  // rows are a multiple of 128 then
  bool has_least = false;
  // What a code stands for, in BF16, of fewer than 8 bits. Those of 5 and 6 bits are consecutive
  // integers. A code of 8 bits is an int8 itself.
  std::array<uint16_t, 64> values{};
  bool operator==(const GroupedForm&) const = default;

  constexpr int64_t scale_every() const { return has_steps ? kGroupedBlock : kGroupedChunk; }
  // Where a row of such values may be cut.
  constexpr int64_t cut() const { return has_steps ? kGroupedBlock : kGroupedChunk; }

  // --- of a packed block: 16 outputs times 128 values ---
  constexpr size_t scales_bytes() const {
    const size_t halves = 32 * size_t(kGroupedBlock / scale_every());
    const size_t one = halves + (has_steps ? 16 * size_t(kGroupedBlock / group) : 0);
    return (one * (has_least ? 2 : 1) + 63) / 64 * 64;
  }
  constexpr size_t chunk_bytes() const { return 64 * size_t(bits); }
  constexpr size_t block_bytes() const { return scales_bytes() + 4 * chunk_bytes(); }
  // A panel of 16 outputs times k values.
  constexpr size_t panel_bytes(int64_t k) const {
    return size_t((k + kGroupedBlock - 1) / kGroupedBlock) * block_bytes();
  }
};

// A row's codes and scales, one after the other; where each begins belongs to the caller.
struct GroupedRow {
  uint8_t* codes = nullptr;       // [cols]
  uint16_t* scale = nullptr;      // half floats [cols / scale_every()]
  uint16_t* least = nullptr;      // alike, of has_least
  int8_t* steps = nullptr;        // [cols / group], of has_steps
  int8_t* least_steps = nullptr;  // alike, of both
};

// Rows of a stored matrix in this form. Read by several threads at once.
class GroupedRows {
 public:
  virtual ~GroupedRows() = default;
  virtual const GroupedForm& form() const = 0;
  virtual int64_t cols() const = 0;  // a multiple of form().cut()
  virtual void read(int64_t row, const GroupedRow& to) const = 0;
};

}  // namespace nemotron
