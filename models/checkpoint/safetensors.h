// The header of one safetensors file: 8 bytes of length (little-endian), that many bytes of JSON,
// then the data of the tensors, one after the other without a gap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/checkpoint/checkpoint.h"

namespace nemotron {

// The bytes that have to be there to know the header's length, or all of a shorter file.
inline constexpr size_t kSafetensorsPrefix = 9;
// The bytes from the start of the file to the end of its header. Looks at the prefix alone.
Status safetensors_header(std::span<const uint8_t> file, const std::string& path, size_t* bytes);

// Looks at the header alone. Appends the tensors of the file whose bytes are `file`; they point
// into it. Everything the header says is checked against the file's size, the dtypes and the other
// tensors. `path` is for messages.
Status read_safetensors(std::span<const uint8_t> file, const std::string& path,
                        std::vector<StoredTensor>* out);

}  // namespace nemotron
