// How products would be launched on an H200, counted without a GPU: those of generated rows, and
// where they take all rows of a step; and the attention of generated rows. A line of JSON for each
// product or attention of each case, of which `npm run bench -- gpu --counts` makes tables.
#include <cstdio>
#include <utility>
#include <vector>

#include "bench/gpu/bench.h"
#include "cuda/kernels.h"

namespace nemotron::bench {
namespace {

// An H200: multiprocessors, and bytes of shared memory that one block may have.
constexpr int kMultiprocessors = 132;
constexpr size_t kSharedLimit = 227 << 10;

struct Product {
  const char* name;
  int64_t rows, cols;
  bool paired, stored, after_attention;  // stored: BF16 in a model of FP8 weights too
};

struct Way {
  bool wgmma, fp8;
};

// Rows of a step, and how many of them are generated: the others are a prompt's.
struct Rows {
  int32_t all, generated;
};

void print(const Shape& s, const Way& way, const Rows& rows, const Product& product) {
  const auto [wgmma, fp8] = way;
  gpu::Queue queue;
  queue.wgmma = wgmma;
  queue.multiprocessors = kMultiprocessors;
  queue.clusters_of_four = kClustersOfFour;
  queue.shared_limit = kSharedLimit;
  cuda::DecodeGemm p;
  p.grid_rows = rows.all;
  p.w.rows = int32_t(product.rows);
  p.w.cols = p.w.k = int32_t(product.cols);
  p.w.fp8 = fp8 && !product.stored;
  p.idle_before = product.after_attention;
  const cuda::DecodeLaunch l = cuda::gemm_decode_launch(queue, p, product.paired);
  std::printf(
      "{\"model\": \"%s\", \"fp8\": %s, \"wgmma\": %s, \"batch\": %d, \"generated\": %d, "
      "\"product\": \"%s\", "
      "\"rows\": %d, "
      "\"cols\": %d, \"weightBytes\": %d, \"kernel\": \"%s\", \"blockRows\": %d, \"blockTokens\": "
      "%d, "
      "\"warps\": %d, \"stageColumns\": %d, \"stages\": %d, \"shared\": %d, \"tiles\": %d, "
      "\"blocks\": %d, \"cluster\": %d, "
      "\"early\": %d}\n",
      s.name, fp8 ? "true" : "false", wgmma ? "true" : "false", rows.all, rows.generated,
      product.name, p.w.rows, p.w.cols, p.w.fp8 ? 1 : 2, l.kernel.c_str(), l.rows, l.tokens,
      l.warps, l.stage_columns, l.stages, int(l.shared), l.tiles, l.blocks, l.cluster, l.early);
}

void print_attention(const Shape& s, bool fp8, int32_t batch, int32_t context) {
  gpu::Queue queue;
  queue.multiprocessors = kMultiprocessors;
  cuda::AttentionArgs p;
  p.q_heads = s.q_heads;
  p.kv.kv_heads = s.kv_heads;
  p.kv.head_dim = s.head_dim;
  p.kv.fp8 = fp8;
  const cuda::DecodeAttentionLaunch l = cuda::attention_decode_launch(queue, p, batch, context);
  std::printf(
      "{\"model\": \"%s\", \"fp8\": %s, \"batch\": %d, \"context\": %d, \"parts\": %d, "
      "\"units\": %d, \"tiles\": %d, \"askedFor\": %d, \"shared\": %d}\n",
      s.name, fp8 ? "true" : "false", batch, context, l.parts, l.units, l.tiles, l.asked_for,
      int(l.shared));
}

}  // namespace

void print_launches() {
  // 70B in BF16 is more than an H200 has.
  const std::pair<const Shape&, Way> ways[] = {
      {k8B, {false, false}}, {k8B, {false, true}}, {k70B, {false, true}}, {k70BOf8, {false, true}},
      {k8B, {true, false}},  {k8B, {true, true}},  {k70B, {true, true}}};
  for (const auto& [s, way] : ways) {
    if (!way.wgmma) {  // the same attention with either
      for (const int32_t batch : {1, 2, 4, 8, 16, 32, 64, 256}) {
        for (const int32_t context : {512, 1024, 2048, 4096, 32768})
          print_attention(s, way.fp8, batch, context);
      }
    }
    std::vector<Rows> cases;
    for (const int32_t batch : {1, 8, 16, 32, 64, 256}) cases.push_back({batch, batch});
    for (const int32_t prompt : {32, 96, 224, 992, 2016}) cases.push_back({32 + prompt, 32});
    for (const Rows& rows : cases) {
      for (const Product& product : {
               Product{"qkv", s.q_cols() + 2 * s.kv_cols(), s.hidden, true, false, false},
               Product{"o", s.hidden, s.q_cols(), false, false, true},
               Product{"gate_up", 2 * int64_t(s.inner), s.hidden, true, false, false},
               Product{"down", s.hidden, s.inner, false, false, false},
               Product{"head", s.vocab, s.hidden, false, true, false},
           })
        print(s, way, rows, product);
    }
  }
}

}  // namespace nemotron::bench
