#include "cpu/isa.h"

#include "cpu/kernels.h"
#include "cpu/tile_check.h"

#if defined(NEMOTRON_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace nemotron::cpu {
namespace {

#if defined(NEMOTRON_X86)
uint64_t xcr0() {
  uint32_t lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return uint64_t(hi) << 32 | lo;
}

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false, intel = false;
};

// Linux gives a process the 8 KiB of tile state only when it asks: ARCH_REQ_XCOMP_PERM, XTILEDATA.
bool request_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Features detect() {
  Features f;
  uint32_t a, b, c, d, max = __get_cpuid_max(0, &b);
  f.intel = b == 0x756e6547;  // "Genu"
  if (max < 7) return f;
  __cpuid(1, a, b, c, d);
  const bool osxsave = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
  if (!osxsave || !avx) return f;
  const uint64_t state = xcr0();
  const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6;
  const bool tiles = (state & 0x60000) == 0x60000;
  uint32_t b7, c7, d7;
  __cpuid_count(7, 0, a, b7, c7, d7);
  const uint32_t subleaves = a;
  f.avx2 = ymm && fma && f16c && (b7 >> 5 & 1);
  f.avx512 = f.avx2 && zmm && (b7 >> 16 & 1) && (b7 >> 17 & 1) && (b7 >> 30 & 1) &&
             (b7 >> 31 & 1) && (c7 >> 1 & 1) && (c7 >> 11 & 1);  // F, DQ, BW, VL, VBMI, VNNI
  const bool amx_bf16 = d7 >> 22 & 1, amx_tile = d7 >> 24 & 1, amx_int8 = d7 >> 25 & 1;
  if (subleaves >= 1) {
    __cpuid_count(7, 1, a, b, c, d);
    f.avx512bf16 = f.avx512 && (a >> 5 & 1);
  }
  f.amx = f.avx512bf16 && amx_bf16 && amx_int8 && amx_tile && tiles && request_amx();
  return f;
}

const Features& features() {
  static const Features f = detect();
  return f;
}

bool amx_is_right() {
  static const bool right = same_products(*amx_kernels(), *avx512bf16_kernels()) &&
                            same_products(*amx_kernels()->exact, *avx512_kernels()) &&
                            same_row_bits(*amx_kernels());
  return right;
}
#endif

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::plain: return "plain";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512bf16: return "avx512bf16";
    case Isa::amx: return "amx";
  }
  return "?";
}

bool isa_available(Isa isa) {
#if defined(NEMOTRON_X86)
  // Never by kernels_for(): a table of kernels is made by code of its own instruction set.
  const Features& f = features();
  switch (isa) {
    case Isa::plain: return true;
    case Isa::avx2: return f.avx2;
    case Isa::avx512: return f.avx512;
    case Isa::avx512bf16: return f.avx512bf16;
    case Isa::amx: return f.amx && amx_is_right();
  }
#endif
  return isa == Isa::plain;
}

bool amx_is_distrusted() {
#if defined(NEMOTRON_X86)
  return features().amx && !amx_is_right();
#else
  return false;
#endif
}

Isa best_isa() {
  Isa best = Isa::plain;
  for (Isa isa : kAllIsas) {
#if defined(NEMOTRON_X86)
    // Intel runs vdpbf16ps at half the rate of two FP32 FMAs; AMD at twice that rate.
    if (isa == Isa::avx512bf16 && features().intel) continue;
#endif
    if (isa_available(isa)) best = isa;
  }
  return best;
}

Status parse_isa(const std::string& name, Isa* out) {
  *out = best_isa();
  if (name.empty()) return {};
  std::string have;
  for (Isa isa : kAllIsas) {
    if (!isa_available(isa)) continue;
    if (name == isa_name(isa)) {
      *out = isa;
      return {};
    }
    have += have.empty() ? isa_name(isa) : std::string(", ") + isa_name(isa);
  }
  return Status::invalid("instruction set \"" + name + "\" is not available; this machine has " +
                         have);
}

}  // namespace nemotron::cpu
