#include <immintrin.h>

#include <cstring>

#include "bench/cpu/bench.h"

namespace nemotron::bench {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_a_row[16] = {};
  uint8_t rows[16] = {};
};

void full_tiles() {
  static TileConfig config = [] {
    TileConfig c;
    for (int i = 0; i < 8; ++i) c.bytes_a_row[i] = 64, c.rows[i] = 16;
    return c;
  }();
  // GCC 12 declares only the first 8 of the 64 bytes as read: an asm with the whole as input.
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  alignas(64) static const uint8_t zeros[1024] = {};
  _tile_loadd(4, zeros, 64);
  _tile_loadd(5, zeros, 64);
  _tile_loadd(6, zeros, 64);
  _tile_loadd(7, zeros, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

double bf16(int64_t count) {
  full_tiles();
  for (int64_t n = 0; n < count; n += 4) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return double(count) * 16 * 16 * 32 * 2;
}

double int8(int64_t count) {
  full_tiles();
  for (int64_t n = 0; n < count; n += 4) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return double(count) * 16 * 16 * 64 * 2;
}

}  // namespace

std::vector<NamedLoop> amx_peaks() { return {{"bf16 amx", bf16}, {"int8 amx", int8}}; }

}  // namespace nemotron::bench
