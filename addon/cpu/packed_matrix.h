// PackedMatrix: a weight as the kernels read it (layout: kernels.h). Made once by pack_matrix()
// from the parts of a checkpoint, immutable afterwards, owned by the device, as the memory that it
// lies in; read by all its threads.
#pragma once

#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/thread_pool.h"
#include "device/device.h"

namespace nemotron::cpu {

// Panels of one format. A matrix of parts that are stored differently has several. Where a gate_up
// matrix has two, the first has the gates' panels and the second the ups'.
struct Segment {
  Format format = Format::bf16;
  Groups groups;  // of a format in groups
  int64_t first_panel = 0, panels = 0;
  size_t panel_bytes = 0, begin = 0;  // begin: byte of the data
  const uint8_t* panel(const uint8_t* data, int64_t panel) const {
    return data + begin + size_t(panel - first_panel) * panel_bytes;
  }
};

struct PackedMatrix {
  WeightUse use = WeightUse::linear;
  int64_t rows = 0, cols = 0;  // as the checkpoint has it: [out, in]
  int64_t k = 0;               // cols padded to kKStep
  int64_t first_row = 0;       // MatrixPart's
  size_t index = 0;            // among the device's weights: the same on all ranks of a group
  int32_t stretches = 1;       // MatrixPart's; each is a multiple of kKStep where there are several
  int64_t panels = 0;
  std::vector<Segment> segments;  // in order; one or more
  bool has_least = false;         // of any segment
  std::vector<float> scale;       // one an output of the panels (padding included); empty: all 1
  std::span<uint8_t> data;        // panels; is_rows: rows [rows, cols], one after the other

  Format format() const { return segments[0].format; }
  bool has_two_lists() const { return use == WeightUse::gate_up && segments.size() > 1; }
  // Where a panel lies: in a segment, by the segments' count of panels.
  struct Place {
    const Segment* segment;
    int64_t panel;
  };
  Place place(int64_t panel) const {
    if (has_two_lists()) panel = segments[size_t(panel % 2)].first_panel + panel / 2;
    size_t i = 0;
    while (panel >= segments[i].first_panel + segments[i].panels) ++i;
    return {&segments[i], panel};
  }
  // An embedding that is not in groups: only looked up.
  bool is_rows() const { return use == WeightUse::embedding && !is_grouped(format()); }

  // Where output `row` of the checkpoint lies: panel * 16 + lane. Gate and up panels alternate, so
  // that one pass yields both factors of silu(gate) * up.
  int64_t packed_row(int64_t row) const {
    if (use != WeightUse::gate_up) return row;
    const int64_t half = rows / 2, up = row >= half ? 1 : 0, i = row - up * half;
    return i / kPanel * (2 * kPanel) + up * kPanel + i % kPanel;
  }
  // out [cols] = row `row`, scale applied (embedding and tied).
  void read_row(int64_t row, float* out) const;
};

// *out is empty, or a matrix whose memory is used where it fits; else it comes from `memory`.
struct PackWith {
  const Kernels* kernels;
  ThreadPool* pool;
  HugeArena* memory;
};
Status pack_matrix(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                   const PackWith& with, PackedMatrix* out);

}  // namespace nemotron::cpu
