// Which instruction sets this processor (and its operating system) lets us use. Compiled without
// any of their flags. Thread-safe: pure functions of the machine, but request_amx() asks the kernel
// for the tile registers once per process.
#pragma once

#include <cstdint>
#include <string>

#include "device/status.h"

namespace nemotron::cpu {

enum class Isa : uint8_t { plain, avx2, avx512, avx512bf16, amx };
inline constexpr Isa kAllIsas[] = {Isa::plain, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx};

const char* isa_name(Isa isa);
bool isa_available(Isa isa);
// The processor has AMX, but its tiles multiplied wrongly when they were asked (tile_check.h): not
// available, and said in the device's name.
bool amx_is_distrusted();
// The fastest of the available ones.
Isa best_isa();
// "" chooses best_isa(); a name that is unknown or not available is an error that says what is.
Status parse_isa(const std::string& name, Isa* out);

}  // namespace nemotron::cpu
