// The types of tensors in a GGUF file, and how their blocks become codes and scales or float32. A
// row of a tensor is a whole number of blocks; a block holds the quants and the scales of its
// elements.
// Layouts: https://github.com/ggml-org/ggml, ggml-common.h and docs/gguf.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "device/grouped.h"

namespace nemotron {

struct GgufType {
  uint32_t number = 0;    // ggml's
  const char* name = "";  // "Q4_K"
  uint32_t elements = 0;  // of a block; 0: known by its name alone
  uint32_t bytes = 0;     // of a block
  // Of F32, F16 and BF16: n values.
  void (*whole)(const uint8_t* from, int64_t n, float* to) = nullptr;
  // Of the others that are served: blocks as `form` has them.
  void (*split)(const GgufType& type, const uint8_t* from, int64_t blocks,
                const GroupedRow& to) = nullptr;
  GroupedForm form = {};

  bool is_served() const { return whole || split; }
  // `blocks` blocks at `from` become blocks * elements values.
  void widen(const uint8_t* from, int64_t blocks, float* to) const;
};

// Null: ggml has no such type, or it is newer than this table.
const GgufType* gguf_type(uint32_t number);
// For messages: "F32, F16, ...".
std::string served_gguf_types();

}  // namespace nemotron
