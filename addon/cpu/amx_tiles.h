// The AMX instructions behind AmxBody. The tiles belong to the calling thread between configure()
// and release(); the kernel has to have granted them first (isa.cc).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nemotron::cpu {

struct AmxTiles {
  struct alignas(64) Config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  static void configure() {
    static constexpr Config kConfig = {
        1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    // Not _tile_loadconfig: GCC 12 declares 8 of the 64 bytes as read and may drop the rest.
    __asm__ volatile("ldtilecfg %0" : : "m"(kConfig));
  }
  // Operands of so many bytes of k, 64, 32 or 16, in tiles 4 to 7: rows of one, [k / 4] of the
  // other. Sums stay [16][64].
  static void shape(int bytes) {
    Config c = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    c.row_bytes[4] = c.row_bytes[5] = uint16_t(bytes);
    c.rows[6] = c.rows[7] = uint8_t(bytes / 4);
    __asm__ volatile("ldtilecfg %0" : : "m"(c));
  }
  static void release() {
    _tile_release();
    _mm_sfence();
  }

  // The tile number has to be a literal of the instruction, which GCC 12's macros only take as
  // text.
  template <int t>
  static inline void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "n"(t));
  }
  template <int t>
  static inline void load(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "n"(t), "r"(from), "r"(stride) : "memory");
  }
  // Past the first-level cache: what is read once leaves there what is read again.
  template <int t>
  static inline void load_once(const void* from, int64_t stride) {
    __asm__ volatile("tileloaddt1 (%1,%2,1), %%tmm%c0"
                     :
                     : "n"(t), "r"(from), "r"(stride)
                     : "memory");
  }
  template <int t>
  static inline void store(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "n"(t), "r"(to), "r"(stride) : "memory");
  }
  // Bytes with a sign.
  template <int c, int a, int b>
  static inline void dot_int8() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "n"(c), "n"(a), "n"(b));
  }
  template <int c, int a, int b>
  static inline void dot() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "n"(c), "n"(a), "n"(b));
  }
};

}  // namespace nemotron::cpu
