#include "models/checkpoint/gguf_blocks.h"

#include <bit>
#include <cstring>

#include "device/tensor.h"
#include "models/checkpoint/gguf_grids.h"

namespace nemotron {
namespace {

// Elements of the blocks that share 8 or 16 scales under one or two of their own ("K" types).
constexpr int kSuper = 256;

uint16_t u16(const uint8_t* p) { return uint16_t(p[0] | p[1] << 8); }
uint32_t u32(const uint8_t* p) { return uint32_t(u16(p)) | uint32_t(u16(p + 2)) << 16; }
float half(const uint8_t* p) { return f16_to_f32(u16(p)); }

// Turns a function of one block into one of many.
template <void (*kBlock)(const uint8_t*, float*), int kBytes, int kElements>
void each(const uint8_t* from, int64_t blocks, float* to) {
  for (int64_t i = 0; i < blocks; ++i) kBlock(from + i * kBytes, to + i * kElements);
}

void f32(const uint8_t* from, int64_t n, float* to) { std::memcpy(to, from, size_t(n) * 4); }
void f16(const uint8_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = half(from + 2 * i);
}
void bf16(const uint8_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = bf16_to_f32(u16(from + 2 * i));
}

// --- blocks of 32 ---
// A scale, in some a least value, and the quants: the first half of the elements lies in the low
// nibbles, the second in the high ones.

void q4_0(const uint8_t* b, float* to) {
  const float d = half(b);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * float((b[2 + i] & 15) - 8);
    to[i + 16] = d * float((b[2 + i] >> 4) - 8);
  }
}

void q4_1(const uint8_t* b, float* to) {
  const float d = half(b), least = half(b + 2);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * float(b[4 + i] & 15) + least;
    to[i + 16] = d * float(b[4 + i] >> 4) + least;
  }
}

// The fifth bits of all 32 lie together in one word.
void q5_0(const uint8_t* b, float* to) {
  const float d = half(b);
  const uint32_t high = u32(b + 2);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * float(((b[6 + i] & 15) | int(high >> i & 1) << 4) - 16);
    to[i + 16] = d * float(((b[6 + i] >> 4) | int(high >> (i + 16) & 1) << 4) - 16);
  }
}

void q5_1(const uint8_t* b, float* to) {
  const float d = half(b), least = half(b + 2);
  const uint32_t high = u32(b + 4);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * float((b[8 + i] & 15) | int(high >> i & 1) << 4) + least;
    to[i + 16] = d * float((b[8 + i] >> 4) | int(high >> (i + 16) & 1) << 4) + least;
  }
}

void q8_0(const uint8_t* b, float* to) {
  const float d = half(b);
  for (int i = 0; i < 32; ++i) to[i] = d * float(int8_t(b[2 + i]));
}

// A nibble names one of these sixteen values.
constexpr int8_t kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

void iq4_nl(const uint8_t* b, float* to) {
  const float d = half(b);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * float(kNonLinear[b[2 + i] & 15]);
    to[i + 16] = d * float(kNonLinear[b[2 + i] >> 4]);
  }
}

// --- blocks of 256 ---
// Half floats for the block, a few bits of scale for each 16 or 32 elements.

// scales[16] (low nibble scale, high nibble least value, each for 16), qs[64], d, dmin.
void q2_k(const uint8_t* b, float* to) {
  const float d = half(b + 80), dmin = half(b + 82);
  for (int part = 0; part < kSuper / 16; ++part) {
    const float scale = d * float(b[part] & 15), least = dmin * float(b[part] >> 4);
    // 128 elements lie in 32 bytes, two bits a byte for each stretch of 32.
    const uint8_t* q = b + 16 + part / 8 * 32 + part % 2 * 16;
    const int shift = part % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) to[part * 16 + i] = scale * float(q[i] >> shift & 3) - least;
  }
}

// hmask[32] (the third bits, one bit plane for each 32), qs[64], scales[12] (six bits each), d.
void q3_k(const uint8_t* b, float* to) {
  const uint8_t* scales = b + 96;
  const float d = half(b + 108);
  for (int part = 0; part < kSuper / 16; ++part) {
    const int low = part < 8 ? scales[part] & 15 : scales[part - 8] >> 4;
    const int high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
    const float scale = d * float((low | high << 4) - 32);
    const uint8_t* q = b + 32 + part / 8 * 32 + part % 2 * 16;
    const uint8_t* third = b + part % 2 * 16;
    const int shift = part % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      const int value = (q[i] >> shift & 3) - (third[i] >> (part / 2) & 1 ? 0 : 4);
      to[part * 16 + i] = scale * float(value);
    }
  }
}

// Scale and least value `i` of eight, six bits each, of twelve bytes.
void six_bits(const uint8_t* s, int i, int* scale, int* least) {
  if (i < 4) {
    *scale = s[i] & 63;
    *least = s[i + 4] & 63;
  } else {
    *scale = (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
    *least = (s[i + 4] >> 4) | (s[i] >> 6) << 4;
  }
}

// d, dmin, scales[12], qs[128]: 64 elements in 32 bytes, the first 32 in the low nibbles.
void q4_k(const uint8_t* b, float* to) {
  const float d = half(b), dmin = half(b + 2);
  for (int part = 0; part < kSuper / 32; ++part) {
    int scale = 0, least = 0;
    six_bits(b + 4, part, &scale, &least);
    const float ds = d * float(scale), dm = dmin * float(least);
    const uint8_t* q = b + 16 + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i) to[part * 32 + i] = ds * float(q[i] >> shift & 15) - dm;
  }
}

// As q4_k with the fifth bits between, qh[32], one bit plane for each 32 elements.
void q5_k(const uint8_t* b, float* to) {
  const float d = half(b), dmin = half(b + 2);
  for (int part = 0; part < kSuper / 32; ++part) {
    int scale = 0, least = 0;
    six_bits(b + 4, part, &scale, &least);
    const float ds = d * float(scale), dm = dmin * float(least);
    const uint8_t *fifth = b + 16, *q = b + 48 + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      to[part * 32 + i] = ds * float((q[i] >> shift & 15) | (fifth[i] >> part & 1) << 4) - dm;
    }
  }
}

// ql[128], qh[64], scales[16] of eight bits, d. 128 elements are four stretches of 32: nibbles of
// 64 bytes, and two more bits of 32.
void q6_k(const uint8_t* b, float* to) {
  const float d = half(b + 208);
  for (int part = 0; part < kSuper / 16; ++part) {
    const float scale = d * float(int8_t(b[192 + part]));
    const int stretch = part % 8 / 2, first = part % 2 * 16;
    const uint8_t* low = b + part / 8 * 64 + stretch % 2 * 32 + first;
    const uint8_t* high = b + 128 + part / 8 * 32 + first;
    for (int i = 0; i < 16; ++i) {
      const int value = (low[i] >> (stretch / 2 * 4) & 15) | (high[i] >> (stretch * 2) & 3) << 4;
      to[part * 16 + i] = scale * float(value - 32);
    }
  }
}

// d, scales_h (two bits each), scales_l[4] (nibbles), qs[128]: blocks of 32 as iq4_nl has them.
void iq4_xs(const uint8_t* b, float* to) {
  const float d = half(b);
  const uint16_t high = u16(b + 2);
  for (int part = 0; part < kSuper / 32; ++part) {
    const int low = b[4 + part / 2] >> (part % 2 * 4) & 15;
    const float scale = d * float((low | (high >> (2 * part) & 3) << 4) - 32);
    const uint8_t* q = b + 8 + part * 16;
    for (int i = 0; i < 16; ++i) {
      to[part * 32 + i] = scale * float(kNonLinear[q[i] & 15]);
      to[part * 32 + i + 16] = scale * float(kNonLinear[q[i] >> 4]);
    }
  }
}

// --- codebooks ---
// An index names the magnitudes of eight or four elements; their signs lie beside.

// Seven bits of signs; the eighth makes their number even.
uint32_t eight_signs(uint32_t seven) { return seven | uint32_t(std::popcount(seven) & 1) << 7; }

// The elements of one entry of a codebook: kCount, kBits of an index each.
template <int kCount, int kBits>
void entry(uint16_t packed, const uint8_t* magnitudes, uint32_t signs, float scale, float* to) {
  for (int i = 0; i < kCount; ++i) {
    const float value = scale * float(magnitudes[packed >> (kBits * i) & ((1 << kBits) - 1)]);
    to[i] = signs >> i & 1 ? -value : value;
  }
}

// d, then eight bytes for each 32 elements: four indices, four times seven signs and a scale.
void iq2_xxs(const uint8_t* b, float* to) {
  const float d = half(b);
  for (int part = 0; part < kSuper / 32; ++part) {
    const uint8_t* q = b + 2 + part * 8;
    const uint32_t word = u32(q + 4);
    const float scale = d * (0.5f + float(word >> 28)) * 0.25f;
    for (int i = 0; i < 4; ++i) {
      entry<8, 2>(kIq2XxsGrid[q[i]], kIq2Magnitudes, eight_signs(word >> (7 * i) & 127), scale,
                  to + part * 32 + i * 8);
    }
  }
}

// d, 32 words of nine bits of index and seven signs, a nibble of scale for each 16 elements.
void iq2_xs(const uint8_t* b, float* to) {
  const float d = half(b);
  for (int i = 0; i < kSuper / 8; ++i) {
    const uint32_t word = u16(b + 2 + 2 * i);
    const int nibble = b[66 + i / 4] >> (i / 2 % 2 * 4) & 15;
    entry<8, 2>(kIq2XsGrid[word & 511], kIq2Magnitudes, eight_signs(word >> 9),
                d * (0.5f + float(nibble)) * 0.25f, to + i * 8);
  }
}

// d, qs[32], signs[32], qh[8] (two more bits of index), scales as iq2_xs.
void iq2_s(const uint8_t* b, float* to) {
  const float d = half(b);
  for (int i = 0; i < kSuper / 8; ++i) {
    const int index = b[2 + i] | (b[66 + i / 4] >> (i % 4 * 2) & 3) << 8;
    const int nibble = b[74 + i / 4] >> (i / 2 % 2 * 4) & 15;
    entry<8, 2>(kIq2SGrid[index], kIq2Magnitudes, b[34 + i], d * (0.5f + float(nibble)) * 0.25f,
                to + i * 8);
  }
}

// d, qs[64], then a word for each 32 elements: four times seven signs and a scale.
void iq3_xxs(const uint8_t* b, float* to) {
  const float d = half(b);
  for (int i = 0; i < kSuper / 4; ++i) {
    const uint32_t word = u32(b + 66 + i / 8 * 4);
    const uint32_t signs = eight_signs(word >> (i / 2 % 4 * 7) & 127) >> (i % 2 * 4);
    entry<4, 3>(kIq3XxsGrid[b[2 + i]], kIq3XxsMagnitudes, signs,
                d * (0.5f + float(word >> 28)) * 0.5f, to + i * 4);
  }
}

// d, qs[64], qh[8] (a ninth bit of index), signs[32], a nibble of scale for each 32 elements.
void iq3_s(const uint8_t* b, float* to) {
  const float d = half(b);
  for (int i = 0; i < kSuper / 4; ++i) {
    const int index = b[2 + i] | (b[66 + i / 8] >> (i % 8) & 1) << 8;
    const int nibble = b[106 + i / 16] >> (i / 8 % 2 * 4) & 15;
    entry<4, 3>(kIq3SGrid[index], kIq3SMagnitudes, uint32_t(b[74 + i / 2]) >> (i % 2 * 4),
                d * float(1 + 2 * nibble), to + i * 4);
  }
}

constexpr GgufType kTypes[] = {
    {0, "F32", 1, 4, f32},
    {1, "F16", 1, 2, f16},
    {2, "Q4_0", 32, 18, each<q4_0, 18, 32>},
    {3, "Q4_1", 32, 20, each<q4_1, 20, 32>},
    {6, "Q5_0", 32, 22, each<q5_0, 22, 32>},
    {7, "Q5_1", 32, 24, each<q5_1, 24, 32>},
    {8, "Q8_0", 32, 34, each<q8_0, 34, 32>},
    {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84, each<q2_k, 84, 256>},
    {11, "Q3_K", 256, 110, each<q3_k, 110, 256>},
    {12, "Q4_K", 256, 144, each<q4_k, 144, 256>},
    {13, "Q5_K", 256, 176, each<q5_k, 176, 256>},
    {14, "Q6_K", 256, 210, each<q6_k, 210, 256>},
    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66, each<iq2_xxs, 66, 256>},
    {17, "IQ2_XS", 256, 74, each<iq2_xs, 74, 256>},
    {18, "IQ3_XXS", 256, 98, each<iq3_xxs, 98, 256>},
    {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18, each<iq4_nl, 18, 32>},
    {21, "IQ3_S", 256, 110, each<iq3_s, 110, 256>},
    {22, "IQ2_S", 256, 82, each<iq2_s, 82, 256>},
    {23, "IQ4_XS", 256, 136, each<iq4_xs, 136, 256>},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2, bf16},
    {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},
    {39, "MXFP4", 32, 17},
};

}  // namespace

const GgufType* gguf_type(uint32_t number) {
  for (const GgufType& type : kTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

std::string served_gguf_types() {
  std::string text;
  for (const GgufType& type : kTypes) {
    if (type.widen) text += (text.empty() ? "" : ", ") + std::string(type.name);
  }
  return text;
}

}  // namespace nemotron
