// From a row of logits to a SampleOutput, as device/step.h says; ties and filters as in
// addon/cpu/sampler.h.
//
//   bytes  vocab * 4 a pass, from L2 after the first: 3 passes for greedy, 4 for a plain draw, 3
//          more for top_k, 4 more for top_p, 5 for logprobs
//   bound  L2 bandwidth of one multiprocessor (a block a row; rows run side by side)
//
// Nothing is sorted. Thresholds are found digit by digit on keys that order like the floats: top_k
// counts ids, top_p adds up weights in fixed point, so that the sums do not depend on the order of
// the additions.
#include "cuda/block.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "device/random.h"

namespace nemotron::cuda {

using namespace gpu;

namespace {

constexpr int kThreads = 1024;
constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
constexpr float kGumbelRange = 20.0f;  // gumbel() lies in [-2.9, 16.7]

GPU_DEVICE float infinity() { return as_float(0x7f800000u); }

// Orders like the float (the zeros are equal); NaN above everything.
GPU_DEVICE uint32_t float_key(float f) {
  const uint32_t u = f == 0 ? 0 : as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
GPU_DEVICE float key_float(uint32_t k) { return as_float(k & 0x80000000u ? k & 0x7fffffffu : ~k); }
// The larger value wins, then the lower id.
GPU_DEVICE uint64_t candidate(float f, int id) {
  return uint64_t(float_key(f)) << 32 | uint32_t(~uint32_t(id));
}

struct Work {        // shared memory of a row
  uint32_t* count;   // [kDigits], or the lower half of sums
  uint32_t* upper;   // [kDigits], their upper half
  uint64_t* reduce;  // [32]
  float* reduce_f;   // [32]
  uint64_t* chosen;  // [4]: what one thread tells the others
  uint64_t* top;     // [kMaxTopLogprobs]
  uint32_t* found;   // [1]
};
struct Row {  // what is drawn from
  float* x;   // [vocab] logits
  int vocab;
  const uint8_t* step;  // the step's block, in which s counts its offsets
  const SampleRow& s;   // read where it lies: a copy in registers spills
};
constexpr size_t kSharedBytes =
    kDigits * 8 + 32 * 8 + 32 * 4 + 4 * 8 + (kMaxTopLogprobs * 8 + 15) / 16 * 16 + 16;

// f(id, logit) for this thread's share of the row, in any order: four logits at a time where the
// row lies so.
template <class F>
GPU_DEVICE void for_each_logit(const float* x, int vocab, F f) {
  const int fours = reinterpret_cast<uintptr_t>(x) % 16 == 0 ? vocab / 4 : 0;
  for (int i = int(threadIdx.x); i < fours; i += kThreads) {
    const uint4 v = load16(x + i * 4);
    f(i * 4, as_float(v.x));
    f(i * 4 + 1, as_float(v.y));
    f(i * 4 + 2, as_float(v.z));
    f(i * 4 + 3, as_float(v.w));
  }
  for (int id = fours * 4 + int(threadIdx.x); id < vocab; id += kThreads) f(id, x[id]);
}

// What find_threshold adds up: ids, or 64-bit weights. Shared memory adds 32 bits in one operation
// and 64 bits in a loop of compare and swap, which is slow where many threads meet in one sum; so a
// sum is two words, and whoever makes the lower one overflow carries.
struct CountIds {
  GPU_DEVICE void add(const Work& w, int digit, int, float) const {
    atomic_add(&w.count[digit], 1u);
  }
  GPU_DEVICE void clear(const Work& w, int digit) const { w.count[digit] = 0; }
  GPU_DEVICE uint64_t sum(const Work& w, int digit) const { return w.count[digit]; }
};
template <class Weight>
struct AddWeights {
  Weight weight;  // (id, logit)
  GPU_DEVICE void add(const Work& w, int digit, int id, float logit) const {
    const uint64_t v = weight(id, logit);
    const uint32_t low = uint32_t(v);
    uint32_t high = uint32_t(v >> 32);
    if (low > 0 && atomic_add(&w.count[digit], low) > 0xffffffffu - low) ++high;
    if (high > 0) atomic_add(&w.upper[digit], high);
  }
  GPU_DEVICE void clear(const Work& w, int digit) const { w.count[digit] = w.upper[digit] = 0; }
  GPU_DEVICE uint64_t sum(const Work& w, int digit) const {
    return uint64_t(w.upper[digit]) << 32 | w.count[digit];
  }
};

// The key of the last id needed so that the sums of all ids at least as large reach `wanted` (> 0).
// value(id, logit) is what orders them.
template <class Value, class Sums>
GPU_DEVICE uint32_t find_threshold(const Work& w, const float* x, int vocab, uint64_t wanted,
                                   Value value, const Sums& sums) {
  uint32_t prefix = 0;  // the digits found so far
  int known = 0;
  while (known < 32) {
    const int bits = 32 - known < kDigitBits ? 32 - known : kDigitBits, shift = 32 - known - bits;
    for (int i = int(threadIdx.x); i < kDigits; i += kThreads) sums.clear(w, i);
    block_sync();
    for_each_logit(x, vocab, [&](int id, float logit) {
      const uint32_t key = float_key(value(id, logit));
      if (known > 0 && key >> (32 - known) != prefix) return;
      sums.add(w, int((key >> shift) & ((1u << bits) - 1)), id, logit);
    });
    block_sync();
    // One warp walks the digits from the top, 32 at a time.
    if (threadIdx.x < 32) {
      const int lane = int(threadIdx.x);
      uint64_t before = 0;
      int digit = -1;
      for (int base = (1 << bits) - 32; base >= 0 && digit < 0; base -= 32) {
        const uint64_t own = sums.sum(w, base + 31 - lane);  // lane 0 has the highest digit
        uint64_t sum = own;
        for (int d = 1; d < 32; d *= 2) {
          const uint64_t o = shuffle(sum, lane >= d ? lane - d : lane);
          if (lane >= d) sum += o;
        }
        const uint32_t reached = ballot(before + sum >= wanted);
        if (reached) {
          const int first = 31 - leading_zeros(reached & (0u - reached));
          digit = base + 31 - first;
          before += shuffle(sum, first) - shuffle(own, first);
        } else {
          before += shuffle(sum, 31);
        }
      }
      if (lane == 0) {
        w.chosen[0] =
            digit < 0 ? 0 : uint64_t(digit);  // fewer than wanted in all: every one of them
        w.chosen[1] = digit < 0 ? wanted : before;
      }
    }
    block_sync();
    prefix = prefix << bits | uint32_t(w.chosen[0]);
    wanted -= w.chosen[1] < wanted ? w.chosen[1] : wanted - 1;
    known += bits;
    block_sync();
  }
  return prefix;
}

// Best of value(id, logit), lowest id first.
template <class Value>
GPU_DEVICE uint64_t best_of(const Work& w, const float* x, int vocab, Value value) {
  uint64_t best = 0;
  for_each_logit(x, vocab, [&](int id, float logit) {
    const uint64_t c = candidate(value(id, logit), id);
    best = c > best ? c : best;
  });
  best = block_max(best, w.reduce);
  block_sync();
  return best;
}

// Bias, penalties and bans in place; what was there goes to `undo`.
GPU_DEVICE void adjust(const Row& r, float* undo) {
  float* x = r.x;
  const SampleRow& s = r.s;
  const auto* bias = reinterpret_cast<const SampleBias*>(r.step + s.bias);
  for (int i = int(threadIdx.x); i < s.num_bias; i += kThreads) {
    undo[i] = x[bias[i].id];
    x[bias[i].id] = undo[i] + bias[i].bias;
  }
  block_sync();
  undo += s.num_bias;
  const auto* counts = reinterpret_cast<const SampleCount*>(r.step + s.counts);
  for (int i = int(threadIdx.x); i < s.num_counts; i += kThreads) {
    const SampleCount c = counts[i];
    float l = x[c.id];
    undo[i] = l;
    if (s.repetition_penalty != 1 && (c.in_prompt || c.output_count > 0)) {
      l = l > 0 ? l / s.repetition_penalty : l * s.repetition_penalty;
    }
    if (c.output_count > 0) {
      l -= s.frequency_penalty * float(c.output_count);
      l -= s.presence_penalty;
    }
    x[c.id] = l;
  }
  block_sync();
  undo += s.num_counts;
  const auto* banned = reinterpret_cast<const int32_t*>(r.step + s.banned);
  for (int i = int(threadIdx.x); i < s.num_banned; i += kThreads) {
    undo[i] = x[banned[i]];
    x[banned[i]] = -infinity();
  }
  block_sync();
}

// Ids are unique within each list, so that undoing the lists last to first gives the raw logits
// back.
GPU_DEVICE void restore(const Row& r, const float* undo) {
  float* x = r.x;
  const SampleRow& s = r.s;
  const auto* banned = reinterpret_cast<const int32_t*>(r.step + s.banned);
  const float* from = undo + s.num_bias + s.num_counts;
  for (int i = int(threadIdx.x); i < s.num_banned; i += kThreads) x[banned[i]] = from[i];
  block_sync();
  const auto* counts = reinterpret_cast<const SampleCount*>(r.step + s.counts);
  from = undo + s.num_bias;
  for (int i = int(threadIdx.x); i < s.num_counts; i += kThreads) x[counts[i].id] = from[i];
  block_sync();
  const auto* bias = reinterpret_cast<const SampleBias*>(r.step + s.bias);
  for (int i = int(threadIdx.x); i < s.num_bias; i += kThreads) x[bias[i].id] = undo[i];
  block_sync();
}

struct Draw {
  int id;
  float score;
  bool finite;
  float most;  // the largest logit of what is reported
};

// With s.processed and logprobs leaves in x what was drawn from.
GPU_DEVICE Draw draw(const Work& w, const Row& r) {
  float* x = r.x;
  const int vocab = r.vocab;
  const SampleRow& s = r.s;
  const auto* allowed = s.allowed ? reinterpret_cast<const uint32_t*>(r.step + s.allowed) : nullptr;
  const auto masked = [&](int id, float logit) {
    return allowed && !(allowed[id / 32] >> (id % 32) & 1) ? -infinity() : logit;
  };
  const uint64_t best = best_of(w, x, vocab, masked);
  const uint32_t best_key = uint32_t(best >> 32);
  const float most = key_float(best_key);
  // A bias made a NaN, or nothing is left to choose from.
  if (best_key == 0xffffffffu || most == -infinity()) return {-1, 0, false, 0};
  const int best_id = int(~uint32_t(best));
  const auto keep = [&](const auto& kept) {
    if (!s.processed || s.num_logprobs < 0) return;
    for (int i = int(threadIdx.x); i < vocab; i += kThreads) x[i] = kept(i, x[i]);
    block_sync();
  };
  const float top = most / s.temperature;
  // So cold that it is greedy.
  if (s.temperature <= 0 || !(fabsf(top) < infinity())) {
    keep(masked);
    return {best_id, most, true, most};
  }

  const auto scaled = [&](int id, float logit) { return masked(id, logit) / s.temperature; };
  float threshold = -infinity();
  if (s.top_k > 0 && s.top_k < vocab) {
    threshold = key_float(find_threshold(w, x, vocab, uint64_t(s.top_k), scaled, CountIds{}));
  }
  if (s.top_p < 1) {
    // Weights relative to the likeliest, in units of 2^-40: what is smaller cannot tip a sum.
    const auto weight = [&](int id, float logit) {
      const float v = scaled(id, logit);
      return v >= threshold ? uint64_t(expf(v - top) * 1099511627776.0f) : uint64_t(0);
    };
    uint64_t sum = 0;
    for_each_logit(x, vocab, [&](int id, float logit) { sum += weight(id, logit); });
    for (int m = 16; m > 0; m /= 2) sum += shuffle_xor(sum, m);
    if (threadIdx.x % 32 == 0) w.reduce[threadIdx.x / 32] = sum;
    block_sync();
    uint64_t total = 0;
    for (int i = 0; i < kThreads / 32; ++i) total += w.reduce[i];
    block_sync();
    double wanted = ceil(double(s.top_p) * double(total));
    wanted = wanted < 1 ? 1 : wanted > double(total) ? double(total) : wanted;
    threshold = key_float(find_threshold(w, x, vocab, uint64_t(wanted), scaled,
                                         AddWeights<decltype(weight)>{weight}));
  }
  if (s.min_p > 0) threshold = fmaxf(threshold, top + s.log_min_p);
  const float least = fminf(threshold, top);
  threshold = fmaxf(least, top - kGumbelRange);

  const uint64_t won = best_of(w, x, vocab, [&](int id, float logit) {
    const float v = scaled(id, logit);
    return v >= threshold ? v + gumbel(token_bits(s.seed, s.position, uint32_t(id))) : -infinity();
  });
  keep([&](int id, float logit) {
    const float v = scaled(id, logit);
    return v >= least ? v : -infinity();
  });
  return {int(~uint32_t(won)), key_float(uint32_t(won >> 32)), true, top};
}

// By insertion: there are at most twenty.
GPU_DEVICE void sort_down(uint64_t* values, int count) {
  for (int i = 1; i < count; ++i) {
    const uint64_t v = values[i];
    int j = i;
    for (; j > 0 && values[j - 1] < v; --j) values[j] = values[j - 1];
    values[j] = v;
  }
}

// Logprob and rank of what was drawn, and the logprobs of the other ids that the row asks for.
GPU_DEVICE void report(const Work& w, const Row& r, const Draw& drawn, SampleOutput* out) {
  const float* x = r.x;
  const int vocab = r.vocab;
  const SampleRow& s = r.s;
  const int id = drawn.id;
  const float own = x[id], most = drawn.most;
  float sum = 0;
  uint64_t rank = 0;
  for (int i = int(threadIdx.x); i < vocab; i += kThreads) {
    const float v = x[i];
    sum += expf(v - most);
    rank += v > own || (v == own && i < id) ? 1 : 0;
  }
  sum = block_sum(sum, w.reduce_f);
  const float log_sum = most + logf(sum);
  for (int m = 16; m > 0; m /= 2) rank += shuffle_xor(rank, m);
  if (threadIdx.x % 32 == 0) w.reduce[threadIdx.x / 32] = rank;
  block_sync();
  if (threadIdx.x == 0) {
    uint64_t all = 1;
    for (int i = 0; i < kThreads / 32; ++i) all += w.reduce[i];
    out->logprob = own - log_sum;
    out->rank = int32_t(all);
    w.found[0] = 0;
  }
  if (s.num_reported > 0) {
    const auto* reported = reinterpret_cast<const int32_t*>(r.step + s.reported);
    for (int i = int(threadIdx.x); i < s.num_reported; i += kThreads) {
      out->top_ids[i] = reported[i];
      out->top_logprobs[i] = x[reported[i]] - log_sum;
    }
    if (threadIdx.x == 0) out->num_logprobs = s.num_reported;
    return;
  }
  int wanted = s.num_logprobs < kMaxTopLogprobs ? s.num_logprobs : kMaxTopLogprobs;
  wanted = wanted < vocab ? wanted : vocab;
  if (threadIdx.x == 0) out->num_logprobs = wanted;
  block_sync();
  if (wanted <= 0) return;

  const uint32_t last = find_threshold(
      w, x, vocab, uint64_t(wanted), [](int, float logit) { return logit; }, CountIds{});
  // Fewer than `wanted` lie above the last one's value; then those equal to it, lowest id first.
  for (int i = int(threadIdx.x); i < vocab; i += kThreads) {
    if (float_key(x[i]) > last) w.top[atomic_add(w.found, 1u)] = candidate(x[i], i);
  }
  block_sync();
  const int above = int(w.found[0]);
  block_sync();
  uint64_t previous = ~uint64_t(0);
  for (int k = above; k < wanted; ++k) {
    uint64_t next = 0;
    for (int i = int(threadIdx.x); i < vocab; i += kThreads) {
      const uint64_t c = candidate(x[i], i);
      if (uint32_t(c >> 32) == last && c < previous && c > next) next = c;
    }
    previous = block_max(next, w.reduce);
    if (threadIdx.x == 0) w.top[k] = previous;
    block_sync();
  }
  if (threadIdx.x != 0) return;
  sort_down(w.top, wanted);
  for (int i = 0; i < wanted; ++i) {
    out->top_ids[i] = int(~uint32_t(w.top[i]));
    out->top_logprobs[i] = key_float(uint32_t(w.top[i] >> 32)) - log_sum;
  }
}

__global__ void __launch_bounds__(kThreads, 1) sample_kernel(Sample p) {
  pdl_launch_dependents();
  uint8_t* block = p.block;
  const int vocab = p.vocab;
  const auto* header = reinterpret_cast<const SampleHeader*>(block);
  // Row `row` of the logits is drawn on rank row % ranks.
  const int row = p.rank + int(blockIdx.x) * p.ranks, place = p.first + row;
  const bool mine = place < header->samples;
  pdl_wait();
  if (!mine) return;
  const SampleRow& s = step_array<SampleRow>(header, header->sample_rows)[place];
  Shared smem;
  Work w;
  w.count = smem.take<uint32_t>(kDigits);
  w.upper = smem.take<uint32_t>(kDigits);
  w.reduce = smem.take<uint64_t>(32);
  w.reduce_f = smem.take<float>(32);
  w.chosen = smem.take<uint64_t>(4);
  w.top = smem.take<uint64_t>(kMaxTopLogprobs);
  w.found = smem.take<uint32_t>(1);
  float* x = p.logits + int64_t(row) * vocab;
  const Row r = {x, vocab, block, s};
  SampleOutput* out = p.out + place;

  const uint64_t best = best_of(w, x, vocab, [](int, float logit) { return logit; });
  const float most = key_float(uint32_t(best >> 32));
  const bool reports = s.num_logprobs >= 0, processed = s.processed != 0;
  Draw d = {-1, 0, uint32_t(best >> 32) != 0xffffffffu, most};
  if (d.finite && s.given >= 0) {
    d = {s.given, x[s.given], true, processed ? 0.0f : most};
    if (processed && reports) {  // nothing else could be drawn
      block_sync();
      for (int i = int(threadIdx.x); i < vocab; i += kThreads)
        x[i] = i == s.given ? 0.0f : -infinity();
      block_sync();
    }
  } else if (d.finite) {
    float* undo = reinterpret_cast<float*>(block + s.undo);
    adjust(r, undo);
    d = draw(w, r);
    if (reports && d.finite && !processed) {
      restore(r, undo);
      d.most = most;
    }
  }
  if (threadIdx.x == 0) {
    out->id = d.id;
    out->score = d.score;
    out->logprob = 0;
    out->rank = 0;
    out->num_logprobs = 0;
    out->finite = d.finite;
    // Some valid id whatever happened: the step that takes it may already be on its way.
    if (s.slot >= 0) p.slots[s.slot] = d.finite ? d.id : 0;
  }
  if (reports && d.finite) report(w, r, d, out);
}

}  // namespace

void sample(Queue& queue, const Sample& p, int grid_rows) {
  const int own = (grid_rows - p.rank + p.ranks - 1) / p.ranks;  // rows of this rank
  if (own <= 0) return;
  launch(queue, "sample", sample_kernel, unsigned(own), kThreads, kSharedBytes, p);
}

void load_sample(Queue& queue) { load_kernel(queue, "sample", sample_kernel, kSharedBytes); }

}  // namespace nemotron::cuda
