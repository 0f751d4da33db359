// What every backend asks of the parts of a weight before it packs them. Header only: the CUDA
// library shares headers with the engine, not objects.
#pragma once

#include <span>
#include <string>

#include "device/device.h"

namespace nemotron {

// That have one form.
inline constexpr int64_t kPanelRows = 16;

// Whether they can lie in one panel: in groups alike, or neither.
inline bool same_form(const MatrixPart& a, const MatrixPart& b) {
  if (!a.grouped || !b.grouped) return a.grouped == b.grouped;
  return a.grouped->form() == b.grouped->form();
}

inline Status check_parts(std::span<const MatrixPart> parts, WeightUse use) {
  if (parts.empty()) return Status::invalid("a weight without parts");
  for (const MatrixPart& p : parts) {
    if (p.grouped) {
      const int64_t cut = p.grouped->form().cut();
      if (p.rows <= 0 || p.cols <= 0 || p.cols % cut != 0 || p.first_col % cut != 0 ||
          p.first_col + p.cols > p.grouped->cols()) {
        return Status::invalid("weight part of columns " + std::to_string(p.first_col) + " to " +
                               std::to_string(p.first_col + p.cols) + " of " +
                               std::to_string(p.grouped->cols()) +
                               " in groups; expected multiples of " + std::to_string(cut));
      }
    } else if ((!p.stored && (!p.data || p.row_stride < p.cols)) || p.rows <= 0 || p.cols <= 0 ||
               p.dtype == DType::i32) {
      return Status::invalid("weight part [" + std::to_string(p.rows) + ", " +
                             std::to_string(p.cols) + "] " + dtype_name(p.dtype) + " with stride " +
                             std::to_string(p.row_stride) + " is not a matrix");
    }
    if (p.cols != parts[0].cols) {
      return Status::invalid("weight parts have " + std::to_string(parts[0].cols) + " and " +
                             std::to_string(p.cols) + " columns");
    }
    if (p.stretches < 1 || p.stretches > kMaxStretches || p.cols % p.stretches != 0 ||
        (p.stretches & (p.stretches - 1)) != 0) {
      return Status::invalid("weight part of " + std::to_string(p.cols) + " columns in " +
                             std::to_string(p.stretches) + " stretches");
    }
    if (!p.row_largest.empty() && int64_t(p.row_largest.size()) != p.rows) {
      return Status::invalid("weight part of " + std::to_string(p.rows) + " rows has " +
                             std::to_string(p.row_largest.size()) + " magnitudes");
    }
    if (p.scale.size() > 1 && int64_t(p.scale.size()) != p.rows) {
      return Status::invalid("weight part of " + std::to_string(p.rows) + " rows has " +
                             std::to_string(p.scale.size()) + " scales");
    }
  }
  int64_t row = 0;
  for (size_t i = 0; i + 1 < parts.size() && use != WeightUse::gate_up; ++i) {
    row += parts[i].rows;
    if (row % kPanelRows != 0 && !same_form(parts[i], parts[i + 1])) {
      return Status::invalid("a part in groups ends at row " + std::to_string(row) +
                             "; expected a multiple of " + std::to_string(kPanelRows));
    }
  }
  if (use == WeightUse::gate_up && (parts.size() != 2 || parts[0].rows != parts[1].rows)) {
    return Status::invalid("gate and up must be two parts of equal shape");
  }
  return {};
}

}  // namespace nemotron
