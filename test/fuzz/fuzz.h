// What a fuzz target gives to the driver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// libFuzzer's entry point: crashes when something is wrong. Returns 0 when the input was read, -1
// when it was refused.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Inputs to start from: valid ones, so that mutations get past the first check.
std::vector<std::string> fuzz_seeds();
// Pieces that inputs are made of: names, numbers, brackets.
std::vector<std::string> fuzz_words();
// Whether the first 8 bytes are the length of a header that mutations should mostly keep right.
bool fuzz_has_length_prefix();
