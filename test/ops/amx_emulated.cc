#include "test/ops/amx_emulated.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cpu/amx_body.h"

namespace nemotron::test {
namespace {

struct Tiles {
  uint8_t data[8][16][64];
  int bytes = 64;  // of k, of tiles 4 to 7
  bool configured = false;
};
thread_local Tiles tiles;

// A use outside configure() .. release() is a fault on the processor.
Tiles& mine() {
  if (!tiles.configured) std::abort();
  return tiles;
}

float wide(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  const uint32_t u = uint32_t(h) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

struct EmulatedTiles {
  static void configure() { tiles.configured = true, tiles.bytes = 64; }
  // Loses what is in the tiles, as on the processor.
  static void shape(int bytes) {
    std::memset(mine().data, 0xff, sizeof tiles.data);
    tiles.bytes = bytes;
  }
  static void release() {
    tiles.configured = false;
    std::memset(tiles.data, 0xff, sizeof tiles.data);
  }
  template <int t>
  static void zero() {
    std::memset(mine().data[t], 0, sizeof tiles.data[t]);
  }
  template <int t>
  static void load(const void* from, int64_t stride) {
    const int bytes = mine().bytes;
    const int rows = t >= 6 ? bytes / 4 : 16, width = t == 4 || t == 5 ? bytes : 64;
    for (int r = 0; r < rows; ++r) {
      std::memcpy(mine().data[t][r], static_cast<const uint8_t*>(from) + r * stride, size_t(width));
    }
  }
  template <int t>
  static void load_once(const void* from, int64_t stride) {
    load<t>(from, stride);
  }
  template <int t>
  static void store(void* to, int64_t stride) {
    for (int r = 0; r < 16; ++r) {
      std::memcpy(static_cast<uint8_t*>(to) + r * stride, mine().data[t][r], 64);
    }
  }
  template <int c, int a, int b>
  static void dot_int8() {
    Tiles& t = mine();
    for (int row = 0; row < 16; ++row) {
      int32_t sum[16];
      std::memcpy(sum, t.data[c][row], 64);
      for (int k = 0; k < t.bytes; ++k) {
        const int x = int8_t(t.data[a][row][k]);
        for (int n = 0; n < 16; ++n) sum[n] += x * int8_t(t.data[b][k / 4][n * 4 + k % 4]);
      }
      std::memcpy(t.data[c][row], sum, 64);
    }
  }
  // Pairs along k: even and odd products have sums of their own, added to the tile at the end.
  template <int c, int a, int b>
  static void dot() {
    Tiles& t = mine();
    for (int row = 0; row < 16; ++row) {
      float even[16] = {}, odd[16] = {};
      for (int k = 0; k < 16; ++k) {
        const float x = wide(&t.data[a][row][k * 4]), y = wide(&t.data[a][row][k * 4 + 2]);
        for (int n = 0; n < 16; ++n) {
          even[n] = __builtin_fmaf(x, wide(&t.data[b][k][n * 4]), even[n]);
          odd[n] = __builtin_fmaf(y, wide(&t.data[b][k][n * 4 + 2]), odd[n]);
        }
      }
      float sum[16];
      std::memcpy(sum, t.data[c][row], 64);
      for (int n = 0; n < 16; ++n) sum[n] += even[n] + odd[n];
      std::memcpy(t.data[c][row], sum, 64);
    }
  }
};

}  // namespace

const cpu::Kernels* emulated_amx_kernels() {
  static const cpu::Kernels k = cpu::AmxBody<EmulatedTiles>::table();
  return &k;
}

}  // namespace nemotron::test
