// The sampler: every field of SampleInput against a plain reference, and the distribution of draws.
#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "device/random.h"
#include "test/ops/ops.h"

namespace nemotron::test {
namespace {

struct Request {
  SampleInput in;
  std::vector<TokenCount> counts;
  std::vector<TokenBias> bias;
  std::vector<int32_t> banned, reported;
  std::vector<uint32_t> allowed;
};

constexpr float kMinus = -std::numeric_limits<float>::infinity();

struct Reference {
  std::vector<float> scaled;  // after all changes, -infinity where filtered
  std::vector<double> logprobs;
  std::vector<int32_t> order;  // by what is reported, ties by lower id
  int32_t id = -1;
  float margin = 0;  // between the best and the second score
};

// What is reported of these logits.
void report(const std::vector<float>& logits, Reference* out) {
  const size_t n = logits.size();
  double top = -1e300, sum = 0;
  for (float l : logits) top = std::max(top, double(l));
  for (float l : logits) sum += std::exp(double(l) - top);
  for (float l : logits) out->logprobs.push_back(double(l) - top - std::log(sum));
  out->order.resize(n);
  std::iota(out->order.begin(), out->order.end(), 0);
  std::stable_sort(out->order.begin(), out->order.end(),
                   [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
}

Reference reference(const std::vector<float>& raw, const Request& r) {
  const SampleInput& in = r.in;
  const size_t n = raw.size();
  Reference out;

  std::vector<float> l = raw;
  for (const TokenBias& b : r.bias) l[size_t(b.id)] += b.bias;
  for (const TokenCount& c : r.counts) {
    float& v = l[size_t(c.id)];
    if (c.in_prompt || c.output_count > 0) {
      v = v > 0 ? v / in.repetition_penalty : v * in.repetition_penalty;
    }
    v -= in.frequency_penalty * float(c.output_count);
    if (c.output_count > 0) v -= in.presence_penalty;
  }
  for (int32_t id : r.banned) l[size_t(id)] = kMinus;
  if (!r.allowed.empty()) {
    for (size_t i = 0; i < n; ++i) {
      if (!(r.allowed[i / 32] >> (i % 32) & 1)) l[i] = kMinus;
    }
  }
  if (in.temperature > 0) {
    for (float& v : l) v /= in.temperature;
    std::vector<float> sorted = l;
    if (in.top_k > 0 || in.top_p < 1 || in.min_p > 0)
      std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    const auto cut = [&](float from) {
      for (float& v : l) v = v >= from ? v : kMinus;
      std::replace_if(
          sorted.begin(), sorted.end(), [&](float v) { return v < from; }, kMinus);
    };
    if (in.top_k > 0 && size_t(in.top_k) < n) cut(sorted[size_t(in.top_k) - 1]);
    if (in.top_p < 1) {
      double total = 0, part = 0;
      for (float v : sorted) total += std::exp(double(v) - double(sorted[0]));
      size_t i = 0;
      for (; i + 1 < n; ++i) {
        part += std::exp(double(sorted[i]) - double(sorted[0]));
        if (part >= double(in.top_p) * total) break;
      }
      cut(sorted[i]);
    }
    if (in.min_p > 0) cut(sorted[0] + std::log(in.min_p));
  }
  out.scaled = l;
  if (in.processed && in.forced >= 0) {
    l.assign(n, kMinus);
    l[size_t(in.forced)] = 0;
  }
  if (in.num_logprobs >= 0) report(in.processed && in.scored < 0 ? l : raw, &out);
  l = out.scaled;
  float best = kMinus, second = kMinus;
  for (size_t i = 0; i < n; ++i) {
    float score = l[i];
    if (score == kMinus) continue;
    if (in.temperature > 0) score += gumbel(token_bits(in.seed, in.position, uint32_t(i)));
    if (score > best) {
      second = best, best = score, out.id = int32_t(i);
    } else {
      second = std::max(second, score);
    }
  }
  out.margin = best - second;
  return out;
}

// Sampling needs a prepared device and a step whose rows carry the samples.
class Sampling {
 public:
  Sampling(const DeviceUnderTest& d, int32_t vocab, int32_t most) : vocab_(vocab) {
    EXPECT_OK(d.open(&device_));
    EXPECT_OK(prepare_small(device_.get(), most, 16, vocab));
  }

  std::vector<SampleOutput> run(const std::vector<std::vector<float>>& logits,
                                std::vector<Request>& requests) {
    const int32_t n = int32_t(requests.size());
    std::vector<SampleInput> samples;
    std::vector<SpanInput> spans;
    std::vector<float> flat;
    for (int32_t i = 0; i < n; ++i) {
      Request& r = requests[size_t(i)];
      r.in.row = i;
      r.in.counts = r.counts, r.in.bias = r.bias, r.in.banned = r.banned, r.in.allowed = r.allowed;
      r.in.reported = r.reported;
      samples.push_back(r.in);
      spans.push_back({i, 1, 0, true, table_});
      const auto& l = logits[size_t(i) % logits.size()];
      flat.insert(flat.end(), l.begin(), l.end());
    }
    const std::vector<int32_t> ids(size_t(n), 0), slots(size_t(n), -1);
    const StepInput in{.token_ids = ids,
                       .token_slots = slots,
                       .spans = spans,
                       .samples = samples,
                       .num_generated_rows = n};
    Buffer buffer(device_.get(), DType::f32, {n, vocab_}, flat);
    std::vector<SampleOutput> out(requests.size());
    device_->begin_step(in);
    device_->sample(buffer.tensor(), 0, n, out.data());
    EXPECT_OK(device_->sync());
    return out;
  }
  Device* device() { return device_.get(); }

 private:
  std::unique_ptr<Device> device_;
  int32_t vocab_;
  std::vector<int32_t> table_ = {0};
};

void check_one(const std::vector<float>& raw, const Request& r, const SampleOutput& got,
               int index) {
  const Reference want = reference(raw, r);
  const auto wrong = [&](const std::string& what) {
    fail(__FILE__, __LINE__, "request " + show(index) + ": " + what);
  };
  if (!got.finite) return wrong("not finite");
  if (got.id < 0 || size_t(got.id) >= raw.size()) return wrong("id " + show(got.id));
  const int32_t given = r.in.given(), wanted_id = given >= 0 ? given : want.id;
  if (given < 0 && want.scaled[size_t(got.id)] == kMinus) return wrong("drew a filtered id");
  if (got.id != wanted_id && (given >= 0 || want.margin > 1e-4f)) {
    return wrong("id " + show(got.id) + ", wanted " + show(wanted_id) + ", margin " +
                 show(want.margin));
  }
  if (r.in.num_logprobs < 0) return;
  const auto is_logprob = [&](double found, int32_t id) {
    const double expected = want.logprobs[size_t(id)];
    return found == expected || std::fabs(found - expected) < 2e-4;
  };
  if (!is_logprob(got.logprob, got.id)) {
    return wrong("logprob " + show(got.logprob) + ", wanted " +
                 show(want.logprobs[size_t(got.id)]));
  }
  const auto place = std::find(want.order.begin(), want.order.end(), got.id) - want.order.begin();
  if (got.rank != place + 1) return wrong("rank " + show(got.rank) + ", wanted " + show(place + 1));
  const std::vector<int32_t>& ids = r.reported.empty() ? want.order : r.reported;
  const size_t most = r.reported.empty() ? size_t(r.in.num_logprobs) : ids.size();
  if (size_t(got.num_logprobs) != std::min(most, ids.size()))
    return wrong("num_logprobs " + show(got.num_logprobs));
  for (int i = 0; i < got.num_logprobs; ++i) {
    const int32_t id = ids[size_t(i)];
    if (got.top_ids[i] != id) {
      return wrong("top " + show(i) + " is " + show(got.top_ids[i]) + ", wanted " + show(id));
    }
    if (!is_logprob(got.top_logprobs[i], id)) {
      return wrong("top logprob " + show(i) + " is " + show(got.top_logprobs[i]) + ", wanted " +
                   show(want.logprobs[size_t(id)]));
    }
  }
}

void test_random_requests(const DeviceUnderTest& d, int32_t vocab, int count, float spread) {
  Sampling sampling(d, vocab, 8);
  Random random{uint64_t(vocab)};
  for (int done = 0; done < count; done += 8) {
    std::vector<std::vector<float>> logits;
    std::vector<Request> requests;
    for (int i = 0; i < 8; ++i) {
      std::vector<float> l = random.normals(vocab, spread);
      // Ties, as low-precision logits have them.
      if (i % 2 == 0) {
        for (float& x : l) x = std::round(x * 4) / 4;
      }
      logits.push_back(std::move(l));
      Request r;
      const auto maybe = [&](double p) { return random.uniform() < p; };
      r.in.temperature = maybe(0.25) ? 0.0f : float(0.2 + 1.5 * random.uniform());
      r.in.top_k = maybe(0.4) ? int32_t(random.below(vocab + 3)) + 1 : 0;
      if (maybe(0.4)) r.in.top_k = std::min(r.in.top_k, 40);
      r.in.top_p = maybe(0.4) ? float(0.05 + 0.95 * random.uniform()) : 1.0f;
      r.in.min_p = maybe(0.3) ? float(0.3 * random.uniform()) : 0.0f;
      r.in.seed = random.bits();
      r.in.position = uint64_t(random.below(100000));
      r.in.num_logprobs = maybe(0.5) ? int(random.below(kMaxTopLogprobs + 1)) : -1;
      r.in.processed = maybe(0.5);
      if (maybe(0.3)) {
        r.reported.resize(size_t(random.below(kMaxReported)) + 1);
        for (int32_t& id : r.reported) id = int32_t(random.below(vocab));
      }
      if (maybe(0.15)) {
        (maybe(0.5) ? r.in.forced : r.in.scored) = int32_t(random.below(vocab));
      }
      if (maybe(0.4)) {
        r.in.repetition_penalty = float(0.7 + random.uniform());
        r.in.presence_penalty = float(random.uniform() * 2 - 0.5);
        r.in.frequency_penalty = float(random.uniform() * 2 - 0.5);
        for (int32_t id = 0; id < vocab; id += 1 + int32_t(random.below(vocab / 4 + 1))) {
          r.counts.push_back({id, int32_t(random.below(3)), maybe(0.5)});
        }
      }
      for (int k = 0; maybe(0.3) && k < 4; ++k) {
        r.bias.push_back(
            {int32_t(random.below(vocab / 4 + 1)) + k * (vocab / 4), float(random.normal() * 5)});
        if (r.bias.back().id >= vocab) r.bias.pop_back();
      }
      if (maybe(0.3)) {
        for (int32_t id = 0; id + 1 < vocab; id += 3) r.banned.push_back(id);
      }
      if (maybe(0.3)) {
        r.allowed.assign(size_t(vocab + 31) / 32, 0);
        for (uint32_t& w : r.allowed) w = uint32_t(random.bits()) & uint32_t(random.bits());
        r.allowed[size_t(vocab - 1) / 32] |= 1u << ((vocab - 1) % 32);
        r.banned.clear();
      }
      requests.push_back(std::move(r));
    }
    const std::vector<SampleOutput> out = sampling.run(logits, requests);
    for (int i = 0; i < 8; ++i)
      check_one(logits[size_t(i)], requests[size_t(i)], out[size_t(i)], done + i);
  }
}

// A likely id and a hundred unlikely ones that only together reach top_p: sums of many weights,
// each less than 2^32 of the units they are counted in.
void test_small_weights(const DeviceUnderTest& d) {
  Sampling sampling(d, 102, 8);
  std::vector<float> l(102, -30.0f);
  for (size_t i = 0; i < 100; ++i) l[i] = i % 2 ? -5.6f : -5.7f;
  l[100] = 0;
  for (int done = 0; done < 64; done += 8) {
    std::vector<Request> requests(8);
    for (int i = 0; i < 8; ++i) {
      requests[size_t(i)].in.temperature = 1;
      requests[size_t(i)].in.top_p = 0.8f;  // 0.74 and a part of those at -5.6
      requests[size_t(i)].in.seed = uint64_t(done + i);
    }
    const std::vector<SampleOutput> out = sampling.run({l}, requests);
    for (int i = 0; i < 8; ++i) check_one(l, requests[size_t(i)], out[size_t(i)], done + i);
  }
}

void test_greedy_ties(const DeviceUnderTest& d) {
  Sampling sampling(d, 200, 1);
  std::vector<float> l(200, 1.0f);
  l[150] = l[37] = l[199] = 2.5f;
  std::vector<Request> r(1);
  EXPECT_EQ(sampling.run({l}, r)[0].id, 37);
  l.assign(200, -3.0f);
  EXPECT_EQ(sampling.run({l}, r)[0].id, 0);
}

// A penalty above 1 makes a token that was seen less likely on either side of zero, one below 1
// more likely. Greedy, between the seen id 0 and id 1.
void test_repetition_penalty(const DeviceUnderTest& d) {
  struct Case {
    float penalty, seen, other;
    int32_t id;
  };
  const Case cases[] = {{2, 2, 1.5f, 1},      {2, 4, 1.5f, 0},      {2, -1, -1.5f, 1},
                        {2, -1, -2.5f, 0},    {0.5f, 1, 1.5f, 0},   {0.5f, 1, 2.5f, 1},
                        {0.5f, -2, -1.5f, 0}, {0.5f, -4, -1.5f, 1}, {2, 0, -0.1f, 0},
                        {2, 0, 0.1f, 1},      {0.5f, 0, 0.1f, 1},   {1, 2, 1.5f, 0}};
  for (const Case& c : cases) {
    for (const bool in_prompt : {true, false}) {
      Sampling sampling(d, 40, 1);
      std::vector<float> l(40, -9.0f);
      l[0] = c.seen, l[1] = c.other;
      std::vector<Request> r(1);
      r[0].in.repetition_penalty = c.penalty;
      r[0].counts.push_back({0, in_prompt ? 0 : 1, in_prompt});
      EXPECT_EQ(sampling.run({l}, r)[0].id, c.id);
    }
  }
}

void test_not_finite(const DeviceUnderTest& d) {
  Sampling sampling(d, 100, 1);
  for (size_t at : {size_t(0), size_t(50), size_t(99)}) {
    for (float temperature : {0.0f, 0.8f}) {
      std::vector<float> l(100, 1.0f);
      l[at] = std::numeric_limits<float>::quiet_NaN();
      std::vector<Request> r(1);
      r[0].in.temperature = temperature;
      EXPECT(!sampling.run({l}, r)[0].finite);
    }
  }
  // Nothing allowed: an id would be a lie.
  std::vector<Request> r(1);
  r[0].allowed.assign(4, 0);
  EXPECT(!sampling.run({std::vector<float>(100, 1.0f)}, r)[0].finite);
  // Minus infinity is an ordinary way to say never.
  std::vector<float> l(100, kMinus);
  l[64] = -5;
  std::vector<Request> ok(2);
  ok[0].in.temperature = 1;
  Sampling two(d, 100, 2);
  const auto out = two.run({l}, ok);
  EXPECT(out[0].finite && out[0].id == 64);
  EXPECT(out[1].finite && out[1].id == 64);
}

// The draw is a function of (seed, position, id): the same whatever other rows are drawn beside it.
void test_same_in_any_batch(const DeviceUnderTest& d) {
  const int32_t vocab = d.slow ? 300 : 1000;
  Random random(3);
  std::vector<std::vector<float>> logits;
  std::vector<Request> requests(16);
  for (Request& r : requests) {
    logits.push_back(random.normals(vocab, 2));
    r.in.temperature = 0.9f, r.in.top_p = 0.95f, r.in.top_k = 200;
    r.in.seed = random.bits(), r.in.position = 12, r.in.num_logprobs = 3;
  }
  Sampling sampling(d, vocab, 16);
  const auto all = sampling.run(logits, requests);
  for (size_t i = 0; i < 16; ++i) {
    std::vector<Request> one = {requests[i]};
    const SampleOutput alone = sampling.run({logits[i]}, one)[0];
    EXPECT_EQ(alone.id, all[i].id);
    EXPECT_EQ(alone.score, all[i].score);
    EXPECT_EQ(alone.logprob, all[i].logprob);
  }
}

// 16,384 draws from 24 ids: chi-square against the softmax, with and without filters.
void test_distribution(const DeviceUnderTest& d, float temperature, int32_t top_k, float top_p,
                       float min_p) {
  constexpr int32_t kVocab = 24, kBatch = 256, kDraws = 16384;
  Random random(8);
  const std::vector<float> l = random.normals(kVocab, 1.2f);
  Sampling sampling(d, kVocab, kBatch);
  std::vector<double> seen(kVocab);
  Request proto;
  proto.in.temperature = temperature, proto.in.top_k = top_k, proto.in.top_p = top_p,
  proto.in.min_p = min_p;
  for (int32_t done = 0; done < kDraws; done += kBatch) {
    std::vector<Request> requests(kBatch, proto);
    for (int32_t i = 0; i < kBatch; ++i) {
      // Half differ in the position, half in the seed.
      requests[size_t(i)].in.seed = i % 2 ? 77 : uint64_t(done + i) * 0x123456789ull;
      requests[size_t(i)].in.position = uint64_t(done + i);
    }
    for (const SampleOutput& o : sampling.run({l}, requests)) ++seen[size_t(o.id)];
  }
  const Reference ref = reference(l, proto);
  double total = 0, chi = 0;
  int kept = 0;
  for (float s : ref.scaled) total += s == kMinus ? 0 : std::exp(double(s));
  for (size_t i = 0; i < kVocab; ++i) {
    const double want =
        ref.scaled[i] == kMinus ? 0 : std::exp(double(ref.scaled[i])) / total * kDraws;
    if (want == 0) {
      EXPECT_EQ(seen[i], 0.0);
      continue;
    }
    ++kept;
    chi += (seen[i] - want) * (seen[i] - want) / want;
  }
  // Mean kept - 1, variance twice that: five standard deviations.
  EXPECT_LT(chi, kept - 1 + 5 * std::sqrt(2.0 * (kept - 1)));
  EXPECT_GT(kept, 2);
}

// An id left in a slot is the next step's token.
void test_slots(const DeviceUnderTest& d) {
  Random random(13);
  Sampling sampling(d, 64, 4);
  const HostMatrix table = random_matrix(random, 64, 16, DType::bf16);
  const MatrixPart part = table.part();
  Weight w;
  REQUIRE_OK(
      sampling.device()->pack_weight({&part, 1}, WeightUse::embedding, WeightFormat::stored, &w));
  std::vector<std::vector<float>> logits(3, std::vector<float>(64, 0.0f));
  logits[0][9] = logits[1][63] = logits[2][5] = 1;
  std::vector<Request> r(3);
  r[0].in.slot = 2, r[2].in.slot = 0;
  sampling.run(logits, r);
  const std::vector<int32_t> ids = {1, 2, 3}, slots = {-1, 0, 2}, blocks = {0};
  std::vector<SpanInput> spans;
  for (int32_t i = 0; i < 3; ++i) spans.push_back({i, 1, 0, true, blocks});
  const StepInput in{
      .token_ids = ids, .token_slots = slots, .spans = spans, .num_generated_rows = 3};
  Buffer x(sampling.device(), DType::f32, {3, 16});
  sampling.device()->begin_step(in);
  sampling.device()->embed(x.tensor(), w);
  REQUIRE_OK(sampling.device()->sync());
  std::vector<double> want;
  for (int32_t id : {1, 5, 9})
    want.insert(want.end(), table.values.begin() + id * 16, table.values.begin() + id * 16 + 16);
  EXPECT_CLOSE(x.read(), want, 1e-7);
}

// A draw that failed leaves some valid id in its slot: the step that takes it may be on its way.
void test_slot_of_a_failed_draw(const DeviceUnderTest& d) {
  Random random(14);
  Sampling sampling(d, 64, 2);
  const HostMatrix table = random_matrix(random, 64, 16, DType::bf16);
  const MatrixPart part = table.part();
  Weight w;
  REQUIRE_OK(
      sampling.device()->pack_weight({&part, 1}, WeightUse::embedding, WeightFormat::stored, &w));
  std::vector<std::vector<float>> logits(2, std::vector<float>(64, 0.0f));
  logits[0][30] = std::numeric_limits<float>::quiet_NaN();
  std::vector<Request> r(2);
  r[0].in.slot = 0, r[1].in.slot = 1;
  r[1].allowed.assign(2, 0);
  for (const SampleOutput& o : sampling.run(logits, r)) EXPECT(!o.finite);
  const std::vector<int32_t> ids = {0, 0}, slots = {0, 1}, blocks = {0};
  const SpanInput spans[] = {{0, 1, 0, true, blocks}, {1, 1, 0, true, blocks}};
  const StepInput in{
      .token_ids = ids, .token_slots = slots, .spans = spans, .num_generated_rows = 2};
  Buffer x(sampling.device(), DType::f32, {2, 16});
  sampling.device()->begin_step(in);
  sampling.device()->embed(x.tensor(), w);
  EXPECT_OK(sampling.device()->sync());
}

struct How {
  int32_t piece = INT32_MAX;  // samples at a time
  size_t banned = 0;          // ids of each sample
  int which = 0;              // of two places of x, of two gains
  int32_t times = 1;          // samples of each row
  size_t blocks = 1;          // of each row's table
};

// Of two filters the narrower one counts.
void test_filters_meet(const DeviceUnderTest& d) {
  Sampling sampling(d, 50, 8);
  std::vector<float> l(50, 1.0f);
  l[31] = 1.01f;
  std::vector<Request> requests(8);
  for (size_t i = 0; i < requests.size(); ++i) {
    SampleInput& in = requests[i].in;
    in.temperature = 1, in.seed = i;
    in.top_k = i % 2 ? 1 : 40;
    in.min_p = i % 2 ? 0.01f : 0.999f;
  }
  for (const SampleOutput& o : sampling.run({l}, requests)) EXPECT_EQ(o.id, 31);
}

// A model that is nothing but embedding, norm and head, for steps of generated rows: on a CUDA
// device these are recorded, captured and replayed as graphs.
class Steps {
 public:
  Steps(const DeviceUnderTest& d, int32_t most) : most_(most) {
    EXPECT_OK(d.open(&device_));
    const HostMatrix m = random_matrix(random_, kVocab, kHidden, DType::bf16);
    const MatrixPart part = m.part();
    EXPECT_OK(device_->pack_weight({&part, 1}, WeightUse::tied, WeightFormat::stored, &table_));
    EXPECT_OK(prepare_small(device_.get(), most, kHidden, kVocab));
    for (auto& gain : gain_) {
      gain = std::make_unique<Buffer>(device_.get(), DType::f32, std::vector<int64_t>{kHidden},
                                      random_.normals(kHidden, 0.1f, 0.5f));
    }
    for (auto& x : x_) x = std::make_unique<Buffer>(device_.get(), DType::f32, shape(kHidden));
    logits_ = std::make_unique<Buffer>(device_.get(), DType::f32,
                                       std::vector<int64_t>{kTimes * most, kVocab});
  }

  std::vector<SampleOutput> run(const std::vector<int32_t>& ids, const How& how) {
    const int32_t rows = int32_t(ids.size()), n = rows * how.times;
    const std::vector<int32_t> slots(ids.size(), -1), table(how.blocks, 0), banned(how.banned, 3);
    std::vector<SpanInput> spans;
    for (int32_t i = 0; i < rows; ++i) spans.push_back({i, 1, 0, true, table});
    std::vector<SampleInput> samples(static_cast<size_t>(n));
    std::vector<int32_t> sampled(static_cast<size_t>(n));
    for (int32_t i = 0; i < n; ++i) {
      SampleInput& s = samples[size_t(i)];
      s.row = sampled[size_t(i)] = i / how.times;
      s.num_logprobs = 2, s.temperature = 8.0f, s.seed = 5;  // hot: draws differ
      s.position = uint64_t(ids[size_t(s.row)]);
      s.banned = banned;
    }
    const StepInput in{.token_ids = ids,
                       .token_slots = slots,
                       .spans = spans,
                       .samples = samples,
                       .num_generated_rows = rows};
    std::vector<SampleOutput> out(samples.size());
    Tensor x = x_[how.which]->tensor(), logits = logits_->tensor();
    x.shape[0] = rows;
    device_->begin_step(in);
    device_->embed(x, table_);
    for (int32_t at = 0; at < n; at += logits.shape[0]) {
      logits.shape[0] = std::min(how.piece, n - at);
      const std::vector<int32_t> some(sampled.begin() + at, sampled.begin() + at + logits.shape[0]);
      device_->head(logits, x, some, {.eps = 1e-5f, .gain = gain_[how.which]->tensor()}, {table_});
      device_->sample(logits, at, int32_t(some.size()), out.data() + at);
    }
    EXPECT_OK(device_->sync());
    return out;
  }
  // The same tokens give what they gave alone.
  void check(int32_t rows, const How& how = {}) {
    const std::vector<int32_t> tokens = ids(rows);
    const std::vector<SampleOutput> got = run(tokens, how);
    for (size_t i = 0; i < got.size(); ++i) {
      const int32_t id = tokens[i / size_t(how.times)];
      auto [at, fresh] = alone_.try_emplace({id, how.banned > 0, how.which});
      if (fresh) at->second = run({id}, {.banned = how.banned, .which = how.which})[0];
      EXPECT_EQ(got[i].id, at->second.id);
      EXPECT_EQ(got[i].logprob, at->second.logprob);
      EXPECT_EQ(got[i].top_ids[1], at->second.top_ids[1]);
    }
  }

 private:
  std::vector<int32_t> ids(int32_t n) {
    std::vector<int32_t> v(static_cast<size_t>(n));
    for (int32_t& id : v) id = int32_t(random_.below(8));
    return v;
  }
  static constexpr int32_t kVocab = 40, kHidden = 32, kTimes = 4;
  std::vector<int64_t> shape(int64_t cols) const { return {most_, cols}; }

  int32_t most_;
  Random random_{31};
  std::unique_ptr<Device> device_;
  Weight table_;
  std::unique_ptr<Buffer> gain_[2], x_[2], logits_;
  std::map<std::tuple<int32_t, bool, int>, SampleOutput> alone_;
};

// Steps of many sizes, each several times, from two places in memory; the largest number of rows is
// no size that graphs come in.
void test_steps(const DeviceUnderTest& d) {
  Steps steps(d, 18);
  for (int32_t rows : {1, 3, 6, 9, 18}) {
    for (int i = 0; i < 3; ++i) steps.check(rows);
  }
  // Fewer rows of the same bucket, other memory and back, and in pieces.
  steps.check(5);
  steps.check(6, {.which = 1});
  steps.check(6);
  steps.check(6);
  steps.check(9, {.piece = 4});
  EXPECT_NE(steps.run({3}, {})[0].logprob, steps.run({3}, {.which = 1})[0].logprob);
}

// Steps after one whose metadata, draws or results need more memory than there was.
void test_growth(const DeviceUnderTest& d) {
  Steps steps(d, 18);
  const auto again = [&] {
    for (int i = 0; i < 3; ++i) steps.check(3);
  };
  again();
  steps.check(3, {.blocks = 200000});
  again();
  steps.check(3, {.banned = 200000});
  again();
  steps.check(18, {.piece = 18, .times = 4});
  again();
}

}  // namespace

void add_sample_cases(const DeviceUnderTest& d) {
  const std::string at = d.name + " sample ";
  for (int32_t vocab : {1, 7, 16, 33, 100, 1000}) {
    add_case(at + "vocab " + std::to_string(vocab),
             [=] { test_random_requests(d, vocab, d.slow ? 40 : 240, 2.0f); });
  }
  if (!d.slow && !d.borrows_sampling) {
    add_case(at + "vocab 128256", [=] { test_random_requests(d, 128256, 40, 2.0f); });
    add_case(at + "vocab 128256 flat", [=] { test_random_requests(d, 128256, 16, 0.1f); });
  }
  add_case(at + "small weights", [=] { test_small_weights(d); });
  add_case(at + "greedy ties", [=] { test_greedy_ties(d); });
  add_case(at + "repetition penalty", [=] { test_repetition_penalty(d); });
  add_case(at + "not finite", [=] { test_not_finite(d); });
  add_case(at + "any batch", [=] { test_same_in_any_batch(d); });
  add_case(at + "slots", [=] { test_slots(d); });
  add_case(at + "filters meet", [=] { test_filters_meet(d); });
  add_case(at + "steps", [=] { test_steps(d); });
  add_case(at + "steps after growth", [=] { test_growth(d); });
  add_case(at + "slots of failed draws", [=] { test_slot_of_a_failed_draw(d); });
  if (d.slow || d.borrows_sampling) return;  // the rest draws thousands of times
  add_case(at + "distribution", [=] { test_distribution(d, 1.0f, 0, 1.0f, 0.0f); });
  add_case(at + "distribution warm", [=] { test_distribution(d, 1.7f, 0, 1.0f, 0.0f); });
  add_case(at + "distribution top-k", [=] { test_distribution(d, 1.0f, 7, 1.0f, 0.0f); });
  add_case(at + "distribution top-p", [=] { test_distribution(d, 1.0f, 0, 0.7f, 0.0f); });
  add_case(at + "distribution min-p", [=] { test_distribution(d, 1.0f, 12, 0.9f, 0.1f); });
}

}  // namespace nemotron::test
