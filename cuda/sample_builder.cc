#include "cuda/sample_builder.h"

#include <algorithm>
#include <cmath>

namespace nemotron::cuda {
namespace {

// Most bytes that they can need.
size_t bytes_for(std::span<const SampleInput> samples) {
  const auto aligned = Metadata::aligned;
  size_t n = aligned(sizeof(SampleHeader)) + aligned(samples.size() * sizeof(SampleRow));
  for (const SampleInput& s : samples) {
    n += aligned(s.counts.size() * sizeof(SampleCount)) +
         aligned(s.bias.size() * sizeof(SampleBias)) + aligned(s.banned.size() * 4) +
         aligned(s.allowed.size() * 4) + aligned(s.reported.size() * 4) +
         aligned((s.counts.size() + s.bias.size() + s.banned.size()) * 4);
  }
  return n;
}

}  // namespace

size_t SampleBuilder::most_bytes(const StepLimits& limits) {
  const auto aligned = Metadata::aligned;
  return aligned(sizeof(SampleHeader)) + aligned(size_t(limits.max_samples) * sizeof(SampleRow)) +
         size_t(limits.max_spans) * aligned((size_t(limits.vocab) + 31) / 32 * 4);
}

void SampleBuilder::build(std::span<const SampleInput> samples) {
  if (!data_.begin(bytes_for(samples), sizeof(SampleHeader))) return;
  auto* header = reinterpret_cast<SampleHeader*>(data_.host());
  header->samples = int32_t(samples.size());
  auto* rows = data_.place<SampleRow>(samples.size(), &header->sample_rows);
  for (size_t i = 0; i < samples.size(); ++i) {
    if (write(samples[i], &rows[i])) continue;
    context_->fail(Status::internal("a sampled row names a token id outside the vocabulary of " +
                                    std::to_string(vocab_)));
    return;
  }
  data_.end_of_copy();
  // Room for the logits that edits replace.
  for (size_t i = 0; i < samples.size(); ++i) {
    SampleRow& r = rows[i];
    data_.place<float>(size_t(r.num_counts) + size_t(r.num_bias) + size_t(r.num_banned), &r.undo);
  }
  data_.copy();
}

bool SampleBuilder::write(const SampleInput& s, SampleRow* out) {
  const auto good = [this](int32_t id) { return id >= 0 && (vocab_ == 0 || id < vocab_); };
  SampleRow& r = *out = {};
  r.slot = s.slot;
  r.given = s.given();
  r.num_logprobs = s.num_logprobs;
  r.processed = s.processed && s.scored < 0;
  r.temperature = s.temperature;
  r.top_p = s.top_p;
  r.min_p = s.min_p;
  r.log_min_p = s.min_p > 0 ? std::log(s.min_p) : 0.0f;
  r.top_k = s.top_k;
  r.repetition_penalty = s.repetition_penalty;
  r.presence_penalty = s.presence_penalty;
  r.frequency_penalty = s.frequency_penalty;
  r.seed = s.seed;
  r.position = s.position;

  bool all_good = good(std::max(r.given, 0));
  auto* counts = data_.place<SampleCount>(s.counts.size(), &r.counts);
  for (const TokenCount& c : s.counts) {
    all_good = all_good && good(c.id);
    *counts++ = {c.id, c.output_count, c.in_prompt};
  }
  r.num_counts = int32_t(s.counts.size());

  // The kernel wants each id once in a list.
  auto* bias = data_.place<SampleBias>(s.bias.size(), &r.bias);
  for (const TokenBias& b : s.bias) {
    all_good = all_good && good(b.id);
    auto* same =
        std::find_if(bias, bias + r.num_bias, [&](const SampleBias& x) { return x.id == b.id; });
    if (same != bias + r.num_bias) {
      same->bias += b.bias;
    } else {
      bias[r.num_bias++] = {b.id, b.bias};
    }
  }
  ids_.assign(s.banned.begin(), s.banned.end());
  std::sort(ids_.begin(), ids_.end());
  ids_.erase(std::unique(ids_.begin(), ids_.end()), ids_.end());
  all_good = all_good && std::all_of(ids_.begin(), ids_.end(), good);
  std::copy(ids_.begin(), ids_.end(), data_.place<int32_t>(ids_.size(), &r.banned));
  r.num_banned = int32_t(ids_.size());
  if (!s.allowed.empty()) {
    std::copy(s.allowed.begin(), s.allowed.end(),
              data_.place<uint32_t>(s.allowed.size(), &r.allowed));
  }
  const auto reported = s.reported.first(std::min(s.reported.size(), size_t(kMaxReported)));
  all_good = all_good && std::all_of(reported.begin(), reported.end(), good);
  std::copy(reported.begin(), reported.end(), data_.place<int32_t>(reported.size(), &r.reported));
  r.num_reported = int32_t(reported.size());
  return all_good;
}

}  // namespace nemotron::cuda
