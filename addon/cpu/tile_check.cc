#include "cpu/tile_check.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/memory.h"
#include "device/tensor.h"

namespace nemotron::cpu {
namespace {

constexpr int kWidth = 96, kPanels = 5, kMostRows = 45;

// Small numbers of many values, all exact in BF16 and E4M3; times kLonger they are not.
constexpr float kLonger = 1.00390625f;
float value(uint32_t i) { return float(int32_t(i * 2654435761u >> 27) - 16) / 16.0f; }

// Of many sizes, down to the smallest normal ones: where sums are rounded, and cut to zero.
uint16_t wide_value(uint32_t i) {
  const int size = int(i * 2246822519u >> 26) - 32;
  return f32_to_bf16(std::ldexp(value(i) * kLonger, i % 7 == 0 ? size - 90 : size / 4));
}

constexpr int kStride = kPanels * kPanel;

// Some rows times kPanels panels of so many bytes.
struct Product {
  const Kernels& k;
  const int rows;
  const size_t panel_bytes;
  const int padded = (rows + k.row_step - 1) / k.row_step * k.row_step;
  HugeBuffer a = {}, b = {}, c = {}, scratch = {};

  bool reserve() {
    static_assert(sizeof(Int8Row) > kWidth * sizeof(float));
    return HugeBuffer::create(size_t(padded) * sizeof(Int8Row), &a) &&
           HugeBuffer::create(panel_bytes * kPanels, &b) &&
           HugeBuffer::create(size_t(padded) * kStride * sizeof(float), &c) &&
           HugeBuffer::create(k.scratch_bytes + 64, &scratch);
  }
  TileArgs args() const {
    return {.a = a.data(),
            .a_stride = kWidth,
            .rows = rows,
            .b = b.data(),
            .b_stride = int64_t(panel_bytes),
            .panels = kPanels,
            .k = kWidth,
            .c = c.as<float>(),
            .c_stride = kStride,
            .scratch = scratch.data()};
  }
  // out [rows][kStride]
  void multiply(Format format, const TileArgs& t, std::vector<float>* out) const {
    if (k.enter) k.enter();
    k.tile[int(format)](t);
    if (k.leave) k.leave();
    out->assign(t.c, t.c + rows * kStride);
  }
};

struct Case {
  Format format;
  int rows;
  bool accumulate;
  float a_by = 1;     // what the activations are multiplied by
  bool wide = false;  // they are wide_value(): of the kinds that take BF16
};

bool make(const Kernels& k, const Case& of, std::vector<float>* out) {
  const auto [format, rows, accumulate, a_by, wide] = of;
  const size_t panel_bytes = size_t(kWidth) * kPanel * format_bytes(format);
  Product p{k, rows, panel_bytes};
  if (!p.reserve()) return false;
  for (int i = 0; i < p.padded * kWidth; ++i) {
    if (k.takes[int(format)] == Activations::bf16) {
      p.a.as<uint16_t>()[i] = wide ? wide_value(uint32_t(i)) : f32_to_bf16(value(uint32_t(i)));
    } else {
      p.a.as<float>()[i] = value(uint32_t(i)) * a_by;
    }
  }
  for (int panel = 0; panel < kPanels; ++panel) {
    for (int n = 0; n < kPanel; ++n) {
      for (int at = 0; at < kWidth; ++at) {
        const float w = value(uint32_t((panel * kPanel + n) * kWidth + at) + 7919u);
        uint8_t* to =
            p.b.data() + size_t(panel) * panel_bytes + panel_offset(format, size_t(at), size_t(n));
        if (format == Format::bf16 || format == Format::f16) {
          const bool half = format == Format::f16;
          const uint16_t bits = half ? f32_to_f16(w * kLonger) : f32_to_bf16(w);
          std::memcpy(to, &bits, 2);
        } else {
          *to = f32_to_e4m3(w);
        }
      }
    }
  }
  for (int i = 0; i < p.padded * kStride; ++i) p.c.as<float>()[i] = 0.25f;
  TileArgs t = p.args();
  t.accumulate = accumulate;
  p.multiply(format, t, out);
  return true;
}

// Rows of wide_value() times panels of any codes.
bool make_grouped(const Kernels& k, const GroupedForm& form, int rows, std::vector<float>* out) {
  const Groups groups(form);
  const size_t panel_bytes = form.panel_bytes(kWidth);
  Product p{k, rows, panel_bytes};
  HugeBuffer sums;
  const size_t sums_bytes = size_t(p.padded) * kWidth / 16 * sizeof(float);
  if (!p.reserve() || !HugeBuffer::create(sums_bytes, &sums)) return false;
  const Format format = grouped_format(form.bits);
  const Activations takes = k.takes[int(format)];
  for (int r = 0; r < rows; ++r) {
    float row[kWidth];
    for (int i = 0; i < kWidth; ++i) {
      const uint16_t a = wide_value(uint32_t(r * kWidth + i));
      row[i] = bf16_to_f32(a);
      if (takes == Activations::bf16) p.a.as<uint16_t>()[r * kWidth + i] = a;
      if (takes == Activations::f32) p.a.as<float>()[r * kWidth + i] = row[i];
    }
    if (takes == Activations::int8) {
      k.round_int8(p.a.as<Int8Row>() + r, row, nullptr, 1, kWidth, kWidth);
    }
  }
  for (size_t i = 0; i < panel_bytes * kPanels; ++i) {
    // Half floats of about 0.01 wherever a scale is; steps and codes of any kind.
    const bool scale = i % panel_bytes % groups.block_bytes < size_t(groups.scales_bytes);
    const uint8_t any = uint8_t(uint32_t(i) * 2654435761u >> 24);
    p.b.data()[i] = scale && i % 2 ? uint8_t(0x20 | (any & 3)) : any;
  }
  for (int r = 0; takes != Activations::int8 && r < rows; ++r) {
    const size_t row_bytes = kWidth * (takes == Activations::bf16 ? 2 : 4);
    k.sums(sums.as<float>() + r, p.padded, p.a.data() + size_t(r) * row_bytes, kWidth);
  }
  TileArgs t = p.args();
  if (takes == Activations::int8) t.a_stride = sizeof(Int8Row);
  t.groups = &groups;
  t.sums = sums.as<float>(), t.sums_stride = p.padded;
  p.multiply(format, t, out);
  return true;
}

}  // namespace

namespace {

bool same_grouped_bits(const Kernels& tested) {
  GroupedForm halves{.bits = 6, .group = 16, .has_steps = true, .has_least = true};
  for (size_t i = 0; i < 64; ++i) halves.values[i] = f32_to_bf16(float(i) - 32);
  for (const GroupedForm& form : {GroupedForm{.bits = 8}, halves}) {
    std::vector<float> many, few;
    if (!make_grouped(tested, form, kMostRows, &many)) return false;
    for (const int rows : {1, 2, 3, 5, 17}) {
      if (!make_grouped(tested, form, rows, &few)) return false;
      if (std::memcmp(few.data(), many.data(), few.size() * sizeof(float)) != 0) return false;
    }
  }
  return true;
}

}  // namespace

bool same_row_bits(const Kernels& tested) {
  if (!same_grouped_bits(tested) || !same_grouped_bits(*tested.int8)) return false;
  for (const Format format : {Format::bf16, Format::fp8}) {
    for (const bool accumulate : {false, true}) {
      std::vector<float> many, few;
      const auto rows_of = [&](int rows) {
        return Case{.format = format, .rows = rows, .accumulate = accumulate, .wide = true};
      };
      if (!make(tested, rows_of(kMostRows), &many)) return false;
      for (const int rows : {1, 2, 3, 17}) {
        if (!make(tested, rows_of(rows), &few)) return false;
        if (std::memcmp(few.data(), many.data(), few.size() * sizeof(float)) != 0) return false;
      }
    }
  }
  return true;
}

bool same_products(const Kernels& tested, const Kernels& trusted) {
  for (const Format format : {Format::f16, Format::bf16, Format::fp8}) {
    for (const int rows : {1, 16, 17, kMostRows}) {
      for (const bool accumulate : {false, true}) {
        const bool rounds = tested.takes[int(format)] == Activations::bf16 ||
                            trusted.takes[int(format)] == Activations::bf16;
        const Case of{format, rows, accumulate, rounds ? 1.0f : kLonger};
        std::vector<float> got, want;
        if (!make(tested, of, &got) || !make(trusted, of, &want)) return false;
        for (size_t i = 0; i < want.size(); ++i) {
          if (!(std::fabs(got[i] - want[i]) <= 1e-3f)) return false;
        }
      }
    }
  }
  return true;
}

}  // namespace nemotron::cpu
