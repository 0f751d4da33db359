#include "cuda/weights.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/packed_weights.h"
#include "device/assert.h"
#include "device/shares.h"
#include "device/weight_parts.h"

namespace nemotron::cuda {
namespace {

// One part, in pieces that fit the staging memory: rows, then (sixteen-byte aligned) their scales.
Status pack_part(Context* context, const MatrixPart& p, PackRows args) {
  const size_t row_bytes = size_t(p.cols) * dtype_bytes(p.dtype);
  const int64_t most = std::max<int64_t>(
      1, int64_t((Context::kStagingBytes - 32) / (row_bytes + 2 * sizeof(float))));
  for (int64_t at = 0; at < p.rows && context->ok();) {
    const int64_t n = std::min(most, p.rows - at);
    Context::Staging* s = nullptr;
    if (Status taken = context->next_staging(&s); !taken) return taken;
    if (p.stored) {  // while the GPU takes what was read before
      if (Status read = p.stored->read(at, n, s->pinned); !read) return read;
    } else {
      const auto* from =
          static_cast<const uint8_t*>(p.data) + size_t(at * p.row_stride) * dtype_bytes(p.dtype);
      copy_rows(s->pinned, from, size_t(n), row_bytes, size_t(p.row_stride) * dtype_bytes(p.dtype));
    }
    size_t bytes = (size_t(n) * row_bytes + 15) / 16 * 16;
    args.source_scales = p.scale.empty() ? 0 : p.scale.size() == 1 ? 1 : int32_t(n);
    args.source_scale = reinterpret_cast<const float*>(s->device + bytes);
    if (args.source_scales > 0) {
      const size_t first = p.scale.size() == 1 ? 0 : size_t(at);
      std::memcpy(s->pinned + bytes, p.scale.data() + first,
                  size_t(args.source_scales) * sizeof(float));
      bytes += size_t(args.source_scales) * sizeof(float);
    }
    args.source_largest = nullptr;
    if (!p.row_largest.empty()) {
      args.source_largest = reinterpret_cast<const float*>(s->device + bytes);
      std::memcpy(s->pinned + bytes, p.row_largest.data() + at, size_t(n) * sizeof(float));
      bytes += size_t(n) * sizeof(float);
    }
    context->check(
        cudaMemcpyAsync(s->device, s->pinned, bytes, cudaMemcpyHostToDevice, context->stream()),
        "copying weights to the GPU");
    args.source = s->device;
    args.dtype = p.dtype;
    args.rows = int32_t(n);
    pack_rows(context->queue(), args);
    context->staging_used(s);
    args.out += n * args.out_stride;
    if (args.out_scale) args.out_scale += n;
    at += n;
  }
  return context->status();
}

// Of parts none of which is in groups.
Status pack_plain(Context* context, std::span<const MatrixPart> parts, WeightFormat format,
                  Matrix* out) {
  Matrix m;
  int64_t rows = 0;
  bool all_fp8 = true, scaled = false;
  for (const MatrixPart& p : parts) {
    rows += p.rows;
    all_fp8 = all_fp8 && p.dtype == DType::fp8_e4m3;
    scaled = scaled || !p.scale.empty();
  }
  const int64_t cols = parts[0].cols;
  if (rows > (int64_t(1) << 30) || cols > (int64_t(1) << 30)) {
    return Status::unsupported("a weight of " + std::to_string(rows) + " x " +
                               std::to_string(cols));
  }
  const bool quantise = format == WeightFormat::fp8 && !all_fp8;
  m.fp8 = all_fp8 || quantise;
  m.rows = int32_t(rows);
  m.cols = int32_t(cols);
  m.first_row = int32_t(parts[0].first_row);
  m.k = padded_k(cols);
  m.stride = int64_t(m.k) * (m.fp8 ? 1 : 2);

  void *data = const_cast<uint8_t*>(out->data), *scale = const_cast<float*>(out->scale);
  const bool in_place = data != nullptr;
  if (in_place) {
    NEMOTRON_ASSERT(m.rows == out->rows && m.stride == out->stride && m.fp8 == out->fp8 &&
                    (scaled || quantise) == (scale != nullptr));
  } else if (Status s = context->alloc(size_t(rows * m.stride), &data); !s) {
    return s.within("a weight");
  }
  if (!in_place && (scaled || quantise)) {
    if (Status s = context->alloc(size_t(rows) * sizeof(float), &scale); !s) {
      context->free(data);
      return s.within("a weight's scales");
    }
  }
  m.data = static_cast<const uint8_t*>(data);
  m.scale = static_cast<const float*>(scale);

  PackRows args;
  args.cols = m.cols;
  args.k = m.k;
  args.out = static_cast<uint8_t*>(data);
  args.out_stride = m.stride;
  args.out_scale = static_cast<float*>(scale);
  args.fp8 = m.fp8;
  for (const MatrixPart& p : parts) {
    args.quantise = quantise;
    if (Status s = pack_part(context, p, args); !s) {
      if (!in_place) context->free(data), context->free(scale);
      return s;
    }
    args.out += p.rows * m.stride;
    if (args.out_scale) args.out_scale += p.rows;
  }
  context->check_launches();
  // Other ranks may read it as soon as this one says that it is there.
  if (in_place) static_cast<void>(context->synchronize());
  if (!context->ok()) return context->status();
  if (!in_place) *out = m;
  return {};
}

}  // namespace

Status pack_matrix(Context* context, std::span<const MatrixPart> parts, WeightUse use,
                   WeightFormat format, Matrix* out) {
  if (Status s = check_parts(parts, use); !s) return s;
  if (packs(parts, use, format)) return pack_groups(context, parts, format, out);
  // Groups beside rows of another kind are BF16.
  std::vector<MatrixPart> plain(parts.begin(), parts.end());
  std::vector<WidenedRows> widened;
  widened.reserve(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].grouped) continue;
    plain[i].stored = &widened.emplace_back(parts[i]);
    plain[i].grouped = nullptr;
    plain[i].dtype = DType::bf16;
  }
  return pack_plain(context, plain, format, out);
}

}  // namespace nemotron::cuda
