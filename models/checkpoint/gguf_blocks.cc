#include "models/checkpoint/gguf_blocks.h"

#include <bit>
#include <cstring>

#include "device/tensor.h"
#include "models/checkpoint/gguf_grids.h"
#include "models/checkpoint/widened.h"

namespace nemotron {
namespace {

// Elements of the blocks that share 8 or 16 scales under one or two of their own ("K" types).
constexpr int kSuper = 256;

uint16_t u16(const uint8_t* p) { return uint16_t(p[0] | p[1] << 8); }
uint32_t u32(const uint8_t* p) { return uint32_t(u16(p)) | uint32_t(u16(p + 2)) << 16; }
float half(const uint8_t* p) { return f16_to_f32(u16(p)); }

// Where the next block of a row goes.
struct To : GroupedRow {
  void advance(int elements, const GroupedForm& form) {
    codes += elements;
    const auto scales = elements / form.scale_every();
    scale += scales, least += scales;
    if (form.has_steps) steps += elements / form.group, least_steps += elements / form.group;
  }
  // Of a block of 256, for both of its halves.
  void halves(const uint8_t* d) const { scale[0] = scale[1] = u16(d); }
  void least_halves(const uint8_t* d) const { least[0] = least[1] = u16(d); }
};

void f32(const uint8_t* from, int64_t n, float* to) { std::memcpy(to, from, size_t(n) * 4); }
void f16(const uint8_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = half(from + 2 * i);
}
void bf16(const uint8_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = bf16_to_f32(u16(from + 2 * i));
}

// --- forms ---

// `value` of each code is a whole number or a fraction that BF16 holds exactly.
template <class F>
GroupedForm form_of(int bits, int group, bool has_steps, bool has_least, F&& value) {
  GroupedForm form{.bits = bits, .group = group, .has_steps = has_steps, .has_least = has_least};
  for (int i = 0; bits < 8 && i < 1 << bits; ++i) form.values[size_t(i)] = f32_to_bf16(value(i));
  return form;
}
auto from(int first) {
  return [first](int code) { return float(code + first); };
}
// The lower three bits name a magnitude, the fourth is the sign.
template <size_t kCount>
auto signed_one(const uint8_t (&magnitudes)[kCount], float by) {
  return [&magnitudes, by](int code) {
    const float value = float(magnitudes[size_t(code) & (kCount - 1)]) * by;
    return code & 8 ? -value : value;
  };
}

// A nibble names one of these sixteen values.
constexpr int8_t kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

// --- blocks of 32 ---
// A scale, in some a least value, and the quants: the first half of the elements lies in the low
// nibbles, the second in the high ones.

void nibbles(const uint8_t* q, const To& to) {
  for (int i = 0; i < 16; ++i) {
    to.codes[i] = q[i] & 15;
    to.codes[i + 16] = q[i] >> 4;
  }
}
// The fifth bits of all 32 lie together in one word.
void fifth_bits(uint32_t word, const To& to) {
  for (int i = 0; i < 32; ++i) to.codes[i] |= uint8_t((word >> i & 1) << 4);
}
// It is added here, where GroupedForm subtracts.
uint16_t minus(const uint8_t* b) { return uint16_t(u16(b) ^ 0x8000); }

void q4_0(const uint8_t* b, const To& to) {  // and iq4_nl
  to.scale[0] = u16(b);
  nibbles(b + 2, to);
}
void q4_1(const uint8_t* b, const To& to) {
  to.scale[0] = u16(b), to.least[0] = minus(b + 2);
  nibbles(b + 4, to);
}
void q5_0(const uint8_t* b, const To& to) {
  to.scale[0] = u16(b);
  nibbles(b + 6, to);
  fifth_bits(u32(b + 2), to);
}
void q5_1(const uint8_t* b, const To& to) {
  to.scale[0] = u16(b), to.least[0] = minus(b + 2);
  nibbles(b + 8, to);
  fifth_bits(u32(b + 4), to);
}
void q8_0(const uint8_t* b, const To& to) {
  to.scale[0] = u16(b);
  std::memcpy(to.codes, b + 2, 32);
}

// --- blocks of 256 ---
// Half floats for the block, a few bits of scale for each 16 or 32 elements.

// scales[16] (low nibble scale, high nibble least value, each for 16), qs[64], d, dmin.
void q2_k(const uint8_t* b, const To& to) {
  to.halves(b + 80), to.least_halves(b + 82);
  for (int part = 0; part < kSuper / 16; ++part) {
    to.steps[part] = int8_t(b[part] & 15), to.least_steps[part] = int8_t(b[part] >> 4);
    // 128 elements lie in 32 bytes, two bits a byte for each stretch of 32.
    const uint8_t* q = b + 16 + part / 8 * 32 + part % 2 * 16;
    const int shift = part % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) to.codes[part * 16 + i] = q[i] >> shift & 3;
  }
}

// hmask[32] (the third bits, one bit plane for each 32), qs[64], scales[12] (six bits each), d.
void q3_k(const uint8_t* b, const To& to) {
  const uint8_t* scales = b + 96;
  to.halves(b + 108);
  for (int part = 0; part < kSuper / 16; ++part) {
    const int low = part < 8 ? scales[part] & 15 : scales[part - 8] >> 4;
    const int high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
    to.steps[part] = int8_t((low | high << 4) - 32);
    const uint8_t* q = b + 32 + part / 8 * 32 + part % 2 * 16;
    const uint8_t* third = b + part % 2 * 16;
    const int shift = part % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      to.codes[part * 16 + i] = uint8_t((q[i] >> shift & 3) | (third[i] >> (part / 2) & 1) << 2);
    }
  }
}

// Scale and least value `i` of eight, six bits each, of twelve bytes.
void six_bits(const uint8_t* s, int i, const To& to) {
  const int scale = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
  const int least = i < 4 ? s[i + 4] & 63 : (s[i + 4] >> 4) | (s[i] >> 6) << 4;
  to.steps[i] = int8_t(scale), to.least_steps[i] = int8_t(least);
}

// d, dmin, scales[12], qs[128]: 64 elements in 32 bytes, the first 32 in the low nibbles.
void q4_k(const uint8_t* b, const To& to) {
  to.halves(b), to.least_halves(b + 2);
  for (int part = 0; part < kSuper / 32; ++part) {
    six_bits(b + 4, part, to);
    const uint8_t* q = b + 16 + part / 2 * 32;
    for (int i = 0; i < 32; ++i) to.codes[part * 32 + i] = q[i] >> (part % 2 * 4) & 15;
  }
}

// As q4_k with the fifth bits between, qh[32], one bit plane for each 32 elements.
void q5_k(const uint8_t* b, const To& to) {
  to.halves(b), to.least_halves(b + 2);
  for (int part = 0; part < kSuper / 32; ++part) {
    six_bits(b + 4, part, to);
    const uint8_t *fifth = b + 16, *q = b + 48 + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      to.codes[part * 32 + i] = uint8_t((q[i] >> shift & 15) | (fifth[i] >> part & 1) << 4);
    }
  }
}

// ql[128], qh[64], scales[16] of eight bits, d. 128 elements are four stretches of 32: nibbles of
// 64 bytes, and two more bits of 32.
void q6_k(const uint8_t* b, const To& to) {
  to.halves(b + 208);
  for (int part = 0; part < kSuper / 16; ++part) {
    to.steps[part] = int8_t(b[192 + part]);
    const int stretch = part % 8 / 2, first = part % 2 * 16;
    const uint8_t* low = b + part / 8 * 64 + stretch % 2 * 32 + first;
    const uint8_t* high = b + 128 + part / 8 * 32 + first;
    for (int i = 0; i < 16; ++i) {
      to.codes[part * 16 + i] =
          uint8_t((low[i] >> (stretch / 2 * 4) & 15) | (high[i] >> (stretch * 2) & 3) << 4);
    }
  }
}

// d, scales_h (two bits each), scales_l[4] (nibbles), qs[128]: blocks of 32 as iq4_nl has them.
void iq4_xs(const uint8_t* b, const To& to) {
  to.halves(b);
  const uint16_t high = u16(b + 2);
  for (int part = 0; part < kSuper / 32; ++part) {
    const int low = b[4 + part / 2] >> (part % 2 * 4) & 15;
    to.steps[part] = int8_t((low | (high >> (2 * part) & 3) << 4) - 32);
    To of = to;
    of.codes += part * 32;
    nibbles(b + 8 + part * 16, of);
  }
}

// --- codebooks ---
// An index names the magnitudes of eight or four elements; their signs lie beside. Scales are odd
// multiples of a fraction of d, which the values take along.

// Seven bits of signs; the eighth makes their number even.
uint32_t eight_signs(uint32_t seven) { return seven | uint32_t(std::popcount(seven) & 1) << 7; }

// The elements of one entry of a codebook: kCount, kBits of an index each.
template <int kCount, int kBits>
void entry(uint16_t packed, uint32_t signs, uint8_t* codes) {
  for (int i = 0; i < kCount; ++i) {
    codes[i] = uint8_t((packed >> (kBits * i) & ((1 << kBits) - 1)) | int(signs >> i & 1) << 3);
  }
}
int8_t odd(uint32_t n) { return int8_t(2 * n + 1); }
// Of 16 elements each, two nibbles in a byte.
void nibble_steps(const uint8_t* b, const To& to) {
  for (int i = 0; i < kSuper / 16; ++i) to.steps[i] = odd(b[i / 2] >> (i % 2 * 4) & 15);
}

// d, then eight bytes for each 32 elements: four indices, four times seven signs and a scale.
void iq2_xxs(const uint8_t* b, const To& to) {
  to.halves(b);
  for (int part = 0; part < kSuper / 32; ++part) {
    const uint8_t* q = b + 2 + part * 8;
    const uint32_t word = u32(q + 4);
    to.steps[part] = odd(word >> 28);
    for (int i = 0; i < 4; ++i) {
      entry<8, 2>(kIq2XxsGrid[q[i]], eight_signs(word >> (7 * i) & 127),
                  to.codes + part * 32 + i * 8);
    }
  }
}

// d, 32 words of nine bits of index and seven signs, a nibble of scale for each 16 elements.
void iq2_xs(const uint8_t* b, const To& to) {
  to.halves(b);
  nibble_steps(b + 66, to);
  for (int i = 0; i < kSuper / 8; ++i) {
    const uint32_t word = u16(b + 2 + 2 * i);
    entry<8, 2>(kIq2XsGrid[word & 511], eight_signs(word >> 9), to.codes + i * 8);
  }
}

// d, qs[32], signs[32], qh[8] (two more bits of index), scales as iq2_xs.
void iq2_s(const uint8_t* b, const To& to) {
  to.halves(b);
  nibble_steps(b + 74, to);
  for (int i = 0; i < kSuper / 8; ++i) {
    const int index = b[2 + i] | (b[66 + i / 4] >> (i % 4 * 2) & 3) << 8;
    entry<8, 2>(kIq2SGrid[index], b[34 + i], to.codes + i * 8);
  }
}

// d, qs[64], then a word for each 32 elements: four times seven signs and a scale.
void iq3_xxs(const uint8_t* b, const To& to) {
  to.halves(b);
  for (int i = 0; i < kSuper / 4; ++i) {
    const uint32_t word = u32(b + 66 + i / 8 * 4);
    to.steps[i / 8] = odd(word >> 28);
    const uint32_t signs = eight_signs(word >> (i / 2 % 4 * 7) & 127) >> (i % 2 * 4);
    entry<4, 3>(kIq3XxsGrid[b[2 + i]], signs, to.codes + i * 4);
  }
}

// d, qs[64], qh[8] (a ninth bit of index), signs[32], a nibble of scale for each 32 elements.
void iq3_s(const uint8_t* b, const To& to) {
  to.halves(b);
  for (int i = 0; i < kSuper / 4; ++i) {
    const int index = b[2 + i] | (b[66 + i / 8] >> (i % 8) & 1) << 8;
    to.steps[i / 8] = odd(b[106 + i / 16] >> (i / 8 % 2 * 4) & 15);
    entry<4, 3>(kIq3SGrid[index], uint32_t(b[74 + i / 2]) >> (i % 2 * 4), to.codes + i * 4);
  }
}

template <void (*kBlock)(const uint8_t*, const To&)>
void each(const GgufType& type, const uint8_t* from, int64_t blocks, const GroupedRow& row) {
  To to{row};
  for (int64_t i = 0; i < blocks; ++i, from += type.bytes) {
    kBlock(from, to);
    to.advance(int(type.elements), type.form);
  }
}

auto non_linear(int code) { return float(kNonLinear[code]); }

const GgufType kTypes[] = {
    {0, "F32", 1, 4, f32},
    {1, "F16", 1, 2, f16},
    {2, "Q4_0", 32, 18, nullptr, each<q4_0>, form_of(4, 32, false, false, from(-8))},
    {3, "Q4_1", 32, 20, nullptr, each<q4_1>, form_of(4, 32, false, true, from(0))},
    {6, "Q5_0", 32, 22, nullptr, each<q5_0>, form_of(5, 32, false, false, from(-16))},
    {7, "Q5_1", 32, 24, nullptr, each<q5_1>, form_of(5, 32, false, true, from(0))},
    {8, "Q8_0", 32, 34, nullptr, each<q8_0>, form_of(8, 32, false, false, from(0))},
    {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84, nullptr, each<q2_k>, form_of(4, 16, true, true, from(0))},
    {11, "Q3_K", 256, 110, nullptr, each<q3_k>, form_of(4, 16, true, false, from(-4))},
    {12, "Q4_K", 256, 144, nullptr, each<q4_k>, form_of(4, 32, true, true, from(0))},
    {13, "Q5_K", 256, 176, nullptr, each<q5_k>, form_of(5, 32, true, true, from(0))},
    {14, "Q6_K", 256, 210, nullptr, each<q6_k>, form_of(6, 16, true, false, from(-32))},
    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66, nullptr, each<iq2_xxs>,
     form_of(4, 32, true, false, signed_one(kIq2Magnitudes, 0.125f))},
    {17, "IQ2_XS", 256, 74, nullptr, each<iq2_xs>,
     form_of(4, 16, true, false, signed_one(kIq2Magnitudes, 0.125f))},
    {18, "IQ3_XXS", 256, 98, nullptr, each<iq3_xxs>,
     form_of(4, 32, true, false, signed_one(kIq3XxsMagnitudes, 0.25f))},
    {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18, nullptr, each<q4_0>, form_of(4, 32, false, false, non_linear)},
    {21, "IQ3_S", 256, 110, nullptr, each<iq3_s>,
     form_of(4, 32, true, false, signed_one(kIq3SMagnitudes, 1))},
    {22, "IQ2_S", 256, 82, nullptr, each<iq2_s>,
     form_of(4, 16, true, false, signed_one(kIq2Magnitudes, 0.125f))},
    {23, "IQ4_XS", 256, 136, nullptr, each<iq4_xs>, form_of(4, 32, true, false, non_linear)},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2, bf16},
    {31, "Q4_0_4_4"},
    {32, "Q4_0_4_8"},
    {33, "Q4_0_8_8"},
    {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},
    {36, "IQ4_NL_4_4"},
    {37, "IQ4_NL_4_8"},
    {38, "IQ4_NL_8_8"},
    {39, "MXFP4", 32, 17},
    {40, "NVFP4"},
    {41, "Q1_0"},
    {42, "Q2_0"},
};

}  // namespace

void GgufType::widen(const uint8_t* from, int64_t blocks, float* to) const {
  if (whole) return whole(from, blocks * elements, to);
  uint8_t codes[kSuper];
  uint16_t scale[2], least[2] = {};
  int8_t steps[16], least_steps[16];
  const GroupedRow row{codes, scale, least, steps, least_steps};
  for (int64_t block = 0; block < blocks; ++block, from += bytes) {
    split(*this, from, 1, row);
    widen_groups(form, row, elements, to);
    to += elements;
  }
}

const GgufType* gguf_type(uint32_t number) {
  for (const GgufType& type : kTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

std::string served_gguf_types() {
  std::string text;
  for (const GgufType& type : kTypes) {
    if (type.is_served()) text += (text.empty() ? "" : ", ") + std::string(type.name);
  }
  return text;
}

}  // namespace nemotron
