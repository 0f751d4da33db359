// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A draw is a pure function of (seed, position, token id): the same in any
// batch, after preemption, and on every device.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define NEMOTRON_HD __host__ __device__
#else
#define NEMOTRON_HD
#endif

namespace nemotron {

struct Philox4 {
  uint32_t v[4];
};

NEMOTRON_HD inline Philox4 philox4x32(uint64_t key, uint64_t counter_hi, uint64_t counter_lo) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  uint32_t c0 = uint32_t(counter_lo), c1 = uint32_t(counter_lo >> 32);
  uint32_t c2 = uint32_t(counter_hi), c3 = uint32_t(counter_hi >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c0 = n0, c1 = uint32_t(p1), c2 = n2, c3 = uint32_t(p0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in (0, 1): 23 random bits, centred, so that neither end is ever reached in float32.
NEMOTRON_HD inline float uniform_open(uint32_t bits) {
  return (float(bits >> 9) + 0.5f) * (1.0f / 8388608.0f);
}

// The random word of token `id`: word (id % 4) of the Philox block with counter (position, id / 4).
NEMOTRON_HD inline uint32_t token_bits(uint64_t seed, uint64_t position, uint32_t id) {
  return philox4x32(seed, position, id >> 2).v[id & 3];
}

// -log(-log(u)): adding it to scaled logits and taking the argmax draws from their softmax.
NEMOTRON_HD inline float gumbel(uint32_t bits) { return -logf(-logf(uniform_open(bits))); }

}  // namespace nemotron
