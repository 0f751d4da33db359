// GPTQ and AWQ folders: integers of 4 or 8 bits in groups along a row, each with a scale and zero.
// Three tensors stand for one matrix [out, in]:
//
//   GPTQ   qweight I32 [in * bits / 32, out]   consecutive inputs in one word, the first lowest
//   AWQ    qweight I32 [in, out * bits / 32]   eight outputs in a word: 0, 2, 4, 6, 1, 3, 5, 7
//   both   qzeros  I32 [in / group, out * bits / 32]   packed along the outputs, AWQ in that order
//          scales  F16 or BF16 [in / group, out]
//   GPTQ   g_idx   I32 [in], the group of each input; optional
//
// The value is (integer - zero) * scale. GPTQ's files have the zero less one, except those whose
// checkpoint_format is "gptq_v2".
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "device/status.h"
#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/json.h"

namespace nemotron {

struct IntGroups {
  enum class Method : uint8_t { gptq, awq } method = Method::gptq;
  int32_t bits = 4;         // 4 or 8
  int32_t group = 128;      // 32, 64 or 128
  bool symmetric = false;   // all zeros are half of the range
  int32_t zero_offset = 0;  // what a stored zero lacks
};

// `block` is a quantization_config whose quant_method is "gptq" or "awq"; `where` opens messages.
Status read_int_groups(const Json& block, const std::string& where, IntGroups* out);

// Whether the checkpoint has such matrices.
bool has_int_groups(const Checkpoint& stored);

// `stored` with one tensor MODULE.weight in the place of each three. It is in groups (grouped()),
// and BF16 to who fetches it.
Status open_int_groups(std::unique_ptr<Checkpoint> stored, const IntGroups& groups,
                       std::unique_ptr<Checkpoint>* out);

}  // namespace nemotron
