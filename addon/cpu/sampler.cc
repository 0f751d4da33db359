#include "cpu/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "device/random.h"

namespace nemotron::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// gumbel() lies in [-2.9, 16.7]: an id further than that range below the best loses any draw.
constexpr float kGumbelRange = 20.0f;

}  // namespace

void Sampler::init(const Kernels* kernels, int64_t vocab) {
  kernels_ = kernels;
  vocab_ = vocab;
  changed_.resize(size_t(vocab));
  ids_.resize(size_t(vocab) + kPanel);
  values_.resize(size_t(vocab) + kPanel);
}

void Sampler::sample(float* logits, const SampleInput& in, SampleOutput* out) {
  *out = SampleOutput{};
  const int64_t best = kernels_->argmax(logits, vocab_);
  if (best < 0) {
    out->finite = false;
    return;
  }
  float top = logits[best];
  const bool reports = in.num_logprobs >= 0, processed = in.processed && in.scored < 0;
  float least = -kInfinity;
  if (const int32_t given = in.given(); given >= 0) {
    out->id = given;
    out->score = logits[given];
    if (processed && reports) {  // nothing else could be drawn
      std::fill(logits, logits + vocab_, -kInfinity);
      logits[given] = 0;
    }
  } else if (!reports || processed) {
    least = draw(logits, best, in, out);
  } else {
    std::copy(logits, logits + vocab_, changed_.begin());
    draw(changed_.data(), best, in, out);
  }
  if (!reports || !out->finite) return;
  if (least > -kInfinity) {
    std::replace_if(
        logits, logits + vocab_, [=](float l) { return l < least; }, -kInfinity);
  }
  if (processed) top = logits[kernels_->argmax(logits, vocab_)];
  report(logits, top, in, out);
}

void Sampler::adjust(float* logits, const SampleInput& in) const {
  for (const TokenBias& b : in.bias) logits[b.id] += b.bias;
  for (const TokenCount& c : in.counts) {
    float l = logits[c.id];
    if (in.repetition_penalty != 1 && (c.in_prompt || c.output_count > 0)) {
      l = l > 0 ? l / in.repetition_penalty : l * in.repetition_penalty;
    }
    if (c.output_count > 0) {
      l -= in.frequency_penalty * float(c.output_count);
      l -= in.presence_penalty;
    }
    logits[c.id] = l;
  }
  for (int32_t id : in.banned) logits[id] = -kInfinity;
  if (in.allowed.empty()) return;
  for (int64_t word = 0; word * 32 < vocab_; ++word) {
    const uint32_t bits = in.allowed[size_t(word)];
    if (bits == 0xffffffffu) continue;
    const int64_t end = std::min(vocab_, word * 32 + 32);
    for (int64_t id = word * 32; id < end; ++id) {
      if (!(bits >> (id % 32) & 1)) logits[id] = -kInfinity;
    }
  }
}

float Sampler::draw(float* logits, int64_t best, const SampleInput& in, SampleOutput* out) {
  if (!in.bias.empty() || !in.counts.empty() || !in.banned.empty() || !in.allowed.empty()) {
    adjust(logits, in);
    best = kernels_->argmax(logits, vocab_);
  }
  // A bias made a NaN, or nothing is left to choose from.
  if (best < 0 || logits[best] == -kInfinity) {
    out->finite = false;
    return -kInfinity;
  }
  out->id = int32_t(best);
  out->score = logits[best];
  if (in.temperature <= 0) return -kInfinity;
  const float top = logits[best] / in.temperature;
  if (!(std::fabs(top) < kInfinity)) return -kInfinity;  // so cold that it is greedy
  kernels_->divide(logits, in.temperature, vocab_);

  float threshold = -kInfinity;
  if (in.top_k > 0 && in.top_k < vocab_) threshold = top_k_threshold(logits, in.top_k);
  if (in.top_p < 1) threshold = top_p_threshold(logits, top, threshold, in.top_p);
  if (in.min_p > 0) threshold = std::max(threshold, top + std::log(in.min_p));
  const float least = std::min(threshold, top);
  threshold = std::max(least, top - kGumbelRange);

  // The best id draws first: its score lets almost all others go by the quick test.
  const auto noise = [&](int32_t id) {
    return gumbel(token_bits(in.seed, in.position, uint32_t(id)));
  };
  float score = logits[best] + noise(int32_t(best));
  int32_t some[64];
  for (int64_t first = 0; first < vocab_; first += 64) {
    const int n = int(std::min<int64_t>(64, vocab_ - first));
    const int found = kernels_->race({.x = logits + first,
                                      .n = n,
                                      .threshold = threshold,
                                      .score = score,
                                      .seed = in.seed,
                                      .position = in.position,
                                      .first = uint32_t(first)},
                                     some);
    for (int i = 0; i < found; ++i) {
      const float s = logits[some[i]] + noise(some[i]);
      // Ids come in order, but the best came first: a tie goes to the lower id.
      if (s > score || (s == score && some[i] < out->id)) score = s, out->id = some[i];
    }
  }
  out->score = score;
  return least;
}

// The k-th largest value. Keeps a pool of the largest seen; when it is full, the k best of it stay.
float Sampler::top_k_threshold(const float* x, int64_t k) {
  const int64_t room = int64_t(ids_.size());
  float threshold = -kInfinity;
  int64_t next = 0, kept = 0;
  const int64_t batch = std::max<int64_t>(256, k);
  while (next < vocab_) {
    const int64_t found =
        kernels_->find(x, vocab_, threshold, &next, ids_.data(), std::min(room, batch + kPanel));
    // Room for kept <= k and found <= batch + 16 values, or for the whole vocabulary.
    if (size_t(kept + found) > values_.size()) values_.resize(size_t(kept + found));
    for (int64_t i = 0; i < found; ++i) values_[size_t(kept + i)] = x[ids_[size_t(i)]];
    kept += found;
    if (kept >= k) {
      std::nth_element(values_.begin(), values_.begin() + (k - 1), values_.begin() + kept,
                       std::greater<float>());
      kept = k;
      threshold = values_[size_t(k - 1)];
    }
  }
  return threshold;
}

// The value of the last id that top_p keeps among those >= floor.
float Sampler::top_p_threshold(const float* x, float best, float floor, float p) {
  const auto collect = [&](float from) {
    int64_t next = 0;
    const int64_t n = kernels_->find(x, vocab_, from, &next, ids_.data(), int64_t(ids_.size()));
    for (int64_t i = 0; i < n; ++i) values_[size_t(i)] = x[ids_[size_t(i)]];
    std::sort(values_.begin(), values_.begin() + n, std::greater<float>());
    return n;
  };
  double total = 0;
  if (floor == -kInfinity) {
    total = kernels_->sum_exp(x, vocab_, best);
  } else {
    const int64_t n = collect(floor);
    for (int64_t i = 0; i < n; ++i) total += double(std::exp(values_[size_t(i)] - best));
  }
  // Widen the band below the best until it holds the wanted share.
  const double wanted = double(p) * total;
  for (float band = 4;; band *= 2) {
    const float from = std::max(floor, best - band);
    const int64_t n = collect(from);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += double(std::exp(values_[size_t(i)] - best));
      if (sum >= wanted) return values_[size_t(i)];
    }
    if (from == floor || band > 256) return floor;
  }
}

void Sampler::report(const float* logits, float best, const SampleInput& in, SampleOutput* out) {
  const float log_sum = best + float(std::log(kernels_->sum_exp(logits, vocab_, best)));
  const float own = logits[out->id];
  out->logprob = own - log_sum;
  int64_t next = 0, rank = 1;
  while (next < vocab_) {
    const int64_t found =
        kernels_->find(logits, vocab_, own, &next, ids_.data(), int64_t(ids_.size()));
    for (int64_t i = 0; i < found; ++i) {
      const int32_t id = ids_[size_t(i)];
      rank += logits[id] > own || id < out->id ? 1 : 0;
    }
  }
  out->rank = int32_t(rank);
  for (const int32_t id : in.reported) {
    if (out->num_logprobs == kMaxReported) break;
    out->top_ids[out->num_logprobs] = id;
    out->top_logprobs[out->num_logprobs++] = logits[id] - log_sum;
  }
  if (in.reported.empty()) report_likeliest(logits, log_sum, in.num_logprobs, out);
}

void Sampler::report_likeliest(const float* logits, float log_sum, int num_logprobs,
                               SampleOutput* out) {
  out->num_logprobs = int(std::min<int64_t>(std::min(num_logprobs, kMaxTopLogprobs), vocab_));
  if (out->num_logprobs <= 0) return;
  const float threshold = top_k_threshold(logits, out->num_logprobs);
  int64_t next = 0;
  const int64_t found =
      kernels_->find(logits, vocab_, threshold, &next, ids_.data(), int64_t(ids_.size()));
  std::partial_sort(
      ids_.begin(), ids_.begin() + out->num_logprobs, ids_.begin() + found,
      [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  for (int i = 0; i < out->num_logprobs; ++i) {
    out->top_ids[i] = ids_[size_t(i)];
    out->top_logprobs[i] = logits[ids_[size_t(i)]] - log_sum;
  }
}

}  // namespace nemotron::cpu
