// A tiny random checkpoint on disk, an engine on it, and a client that collects what comes out.
#pragma once

#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "../check.h"
#include "../models/fixture.h"
#include "engine/engine.h"
#include "engine/grammar/grammar.h"

namespace nemotron::test {

inline constexpr int32_t kTinyVocab = 300, kTinyTokens = 290, kTinyContext = 640;
inline constexpr int32_t kTinyEos = 257, kTinySpecial = 258;

inline RawTensor random_bf16(std::vector<int64_t> shape, float deviation, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, deviation);
  RawTensor t{"BF16", shape, {}};
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t h = f32_to_bf16(normal(rng));
    t.bytes.append(reinterpret_cast<const char*>(&h), 2);
  }
  return t;
}

inline Members tiny_config() {
  Members config = llama_config();
  config.set("hidden_size", "64").set("intermediate_size", "96").set("head_dim", "16");
  config.set("vocab_size", std::to_string(kTinyVocab));
  config.set("max_position_embeddings", std::to_string(kTinyContext));
  config.set("eos_token_id", std::to_string(kTinyEos));
  return config;
}

// Weights whose next-token distributions are neither flat nor one-sided.
inline RawTensors tiny_tensors(float head_scale = 0.35f, uint32_t seed = 1) {
  constexpr int64_t hidden = 64, inner = 96, heads = 4, kv_heads = 2, head_dim = 16, layers = 2;
  RawTensors t;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float deviation) {
    t[name] = random_bf16(std::move(shape), deviation, seed++);
  };
  add("model.embed_tokens.weight", {kTinyVocab, hidden}, 1);
  add("lm_head.weight", {kTinyVocab, hidden}, head_scale);
  t["model.norm.weight"] = bf16_tensor({hidden}, 1, 0);
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    t[layer + "input_layernorm.weight"] = bf16_tensor({hidden}, 1, 0);
    t[layer + "post_attention_layernorm.weight"] = bf16_tensor({hidden}, 1, 0);
    add(layer + "self_attn.q_proj.weight", {heads * head_dim, hidden}, 0.2f);
    add(layer + "self_attn.k_proj.weight", {kv_heads * head_dim, hidden}, 0.2f);
    add(layer + "self_attn.v_proj.weight", {kv_heads * head_dim, hidden}, 0.2f);
    add(layer + "self_attn.o_proj.weight", {hidden, heads * head_dim}, 0.2f);
    add(layer + "mlp.gate_proj.weight", {inner, hidden}, 0.2f);
    add(layer + "mlp.up_proj.weight", {inner, hidden}, 0.2f);
    add(layer + "mlp.down_proj.weight", {hidden, inner}, 0.2f);
  }
  return t;
}

inline void write_tiny_checkpoint(const TempDir& dir, float head_scale = 0.35f, uint32_t seed = 1) {
  dir.write("config.json", tiny_config().text());
  dir.write("model.safetensors", safetensors_bytes(tiny_tensors(head_scale, seed)));
}

// One engine-wide checkpoint folder for all tests of the process.
inline const std::string& tiny_model_dir() {
  static const TempDir dir;
  static const bool written = (write_tiny_checkpoint(dir), true);
  static_cast<void>(written);
  return dir.path();
}

// Token ids below 256 are single bytes (so UTF-8 is often broken), the others have longer texts.
inline std::vector<std::string> tiny_token_bytes() {
  std::vector<std::string> bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(std::string(1, char(i)));
  bytes.resize(size_t(kTinyTokens));
  for (size_t i = 256; i < bytes.size(); ++i) bytes[i] = "w" + std::to_string(i % 7) + "\xC3";
  bytes[kTinyEos] = "<eos>";
  bytes[kTinySpecial] = "<special>";
  return bytes;
}

inline EngineOptions tiny_options() {
  EngineOptions o;
  o.model_dir = tiny_model_dir();
  o.backend = "cpu";
  o.device.threads = 1;
  o.kv_memory = 0;
  o.max_model_len = 512;
  o.max_seqs = 8;
  o.max_batched_tokens = 64;
  o.block_size = 16;
  o.debug_checks = true;
  o.token_bytes = tiny_token_bytes();
  o.token_special.resize(o.token_bytes.size());
  o.token_special[kTinyEos] = o.token_special[kTinySpecial] = true;
  return o;
}

// A grammar is of one engine, and a request of these tests runs on many: a client compiles the text
// of a request's grammar again for its own.
inline std::map<const Grammar*, std::string>& grammar_texts() {
  static std::map<const Grammar*, std::string> texts;
  return texts;
}
inline std::shared_ptr<const Grammar> grammar_of(
    const std::string& text,
    const std::shared_ptr<const Vocabulary>& vocabulary = std::make_shared<Vocabulary>(
        std::vector<std::string>{}, std::vector<bool>{}, std::vector<int32_t>{})) {
  std::shared_ptr<const Grammar> grammar;
  const Status s = Grammar::compile(text, vocabulary, &grammar);
  if (!s) fail(__FILE__, __LINE__, s.message());
  grammar_texts()[grammar.get()] = text;
  return grammar;
}

// What a choice got, all deltas together.
struct Outcome {
  std::vector<int32_t> ids;
  std::string text;
  std::vector<TokenLogprob> logprobs, prompt_logprobs;
  std::vector<float> scores;
  Finish finish = Finish::none;
  int32_t stop_id = -1, stop_index = -1;
  Timings timings;
  CacheMiss miss;
  Status error;
  int32_t deltas = 0;
};

inline bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

inline bool same_logprobs(const std::vector<TokenLogprob>& a, const std::vector<TokenLogprob>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].id != b[i].id || a[i].rank != b[i].rank || !same_bits(a[i].logprob, b[i].logprob))
      return false;
    if (a[i].top.size() != b[i].top.size()) return false;
    for (size_t j = 0; j < a[i].top.size(); ++j) {
      if (a[i].top[j].first != b[i].top[j].first ||
          !same_bits(a[i].top[j].second, b[i].top[j].second)) {
        return false;
      }
    }
  }
  return true;
}

// Empty, or the first thing in which they differ. Everything a user sees but the timings.
inline std::string difference(const Outcome& a, const Outcome& b) {
  for (size_t i = 0; i < std::min(a.ids.size(), b.ids.size()); ++i) {
    if (a.ids[i] != b.ids[i]) {
      return "id " + std::to_string(i) + ": " + std::to_string(a.ids[i]) + " and " +
             std::to_string(b.ids[i]);
    }
  }
  if (a.ids.size() != b.ids.size()) {
    return "lengths " + std::to_string(a.ids.size()) + " and " + std::to_string(b.ids.size());
  }
  if (a.text != b.text) return "text \"" + a.text + "\" and \"" + b.text + "\"";
  if (!same_logprobs(a.logprobs, b.logprobs)) return "logprobs";
  if (!same_logprobs(a.prompt_logprobs, b.prompt_logprobs)) return "prompt logprobs";
  if (a.finish != b.finish) return "finish " + show(a.finish) + " and " + show(b.finish);
  if (a.stop_id != b.stop_id || a.stop_index != b.stop_index) return "stop";
  return {};
}

// How long an answer may take: only what hangs takes so long, even instrumented and not alone.
inline constexpr std::chrono::minutes kPatience(10);

// An engine and the thread that reads from it (the test's own).
class Client {
 public:
  explicit Client(EngineOptions options) {
    status_ = Engine::create(
        std::move(options), [this] { woken(); }, {}, {}, &engine_);
  }
  template <class Make>  // make(wake) -> std::unique_ptr<Engine>
  explicit Client(const Make& make) : engine_(make([this] { woken(); })) {}
  ~Client() {
    if (engine_) engine_->close();
  }

  const Status& status() const { return status_; }
  Engine& engine() { return *engine_; }

  // `refused`: where it may be; 0 is returned then.
  uint64_t submit(Request request, Status* refused = nullptr) {
    request.id = ++last_id_;
    if (request.sampling.grammar) {
      const std::string& text = grammar_texts().at(request.sampling.grammar.get());
      auto& mine = grammars_[text];
      if (!mine) mine = grammar_of(text, engine_->vocabulary());
      request.sampling.grammar = mine;
    }
    const int32_t n = request.n;
    if (Status s = engine_->submit(std::move(request)); !s) {
      if (!refused) fail(__FILE__, __LINE__, "submit: " + s.message());
      if (refused) *refused = std::move(s);
      return 0;
    }
    open_.insert(last_id_);
    outcomes_[last_id_].resize(size_t(n));
    return last_id_;
  }
  void abort(uint64_t id) { engine_->abort(id); }

  // Takes in deltas until everything submitted has ended (or for one wake, when `all` is false).
  void wait(bool all = true) {
    while (!open_.empty()) {
      {
        std::unique_lock lock(mutex_);
        if (!changed_.wait_for(lock, kPatience, [this] { return wakes_ > 0; })) {
          fail(__FILE__, __LINE__, "nothing came for minutes");
          return;
        }
        wakes_ = 0;
      }
      collect();
      if (!all) return;
    }
  }
  void collect() {
    engine_->drain_deltas(&deltas_);
    for (Delta& d : deltas_) add(d);
  }
  bool idle() const { return open_.empty(); }

  const std::vector<Outcome>& outcomes(uint64_t id) { return outcomes_[id]; }
  const Outcome& outcome(uint64_t id) { return outcomes_[id].at(0); }
  Outcome run(Request request) {
    const uint64_t id = submit(std::move(request));
    wait();
    return outcomes_[id].empty() ? Outcome() : outcomes_[id][0];
  }

 private:
  void woken() {
    const std::lock_guard lock(mutex_);
    ++wakes_;
    changed_.notify_one();
  }
  void add(Delta& d) {
    Outcome& o = outcomes_.at(d.request).at(size_t(d.choice));
    if (o.finish != Finish::none) fail(__FILE__, __LINE__, "a delta after the last one");
    ++o.deltas;
    o.ids.insert(o.ids.end(), d.ids.begin(), d.ids.end());
    o.text += d.text;
    o.logprobs.insert(o.logprobs.end(), d.logprobs.begin(), d.logprobs.end());
    if (!d.prompt_logprobs.empty()) o.prompt_logprobs = d.prompt_logprobs;
    if (!d.scores.empty()) o.scores = d.scores;
    o.finish = d.finish;
    o.stop_id = d.stop_id;
    o.stop_index = d.stop_index;
    o.timings = d.timings;
    o.miss = d.miss;
    o.error = d.error;
    const auto& all = outcomes_[d.request];
    bool ended = true;
    for (const Outcome& each : all) ended = ended && each.finish != Finish::none;
    if (ended) open_.erase(d.request);
  }

  Status status_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int wakes_ = 0;
  std::unique_ptr<Engine> engine_;
  uint64_t last_id_ = 0;
  std::set<uint64_t> open_;
  std::map<uint64_t, std::vector<Outcome>> outcomes_;
  std::map<std::string, std::shared_ptr<const Grammar>> grammars_;  // by text
  std::vector<Delta> deltas_;
};

inline std::vector<int32_t> random_prompt(size_t size, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> prompt;
  for (size_t i = 0; i < size; ++i) prompt.push_back(int32_t(rng() % 256));
  return prompt;
}

}  // namespace nemotron::test
