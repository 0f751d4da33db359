// What each field of a request does to what comes out.
#include <algorithm>
#include <numeric>

#include "scripted_engine.h"

namespace nemotron::test {
namespace {

std::string text_of(const std::vector<int32_t>& ids) {
  std::string s;
  for (const int32_t id : ids) s += char('A' + id);
  return s;
}

Client& engine() {
  static Client client(scripted(script()));
  return client;
}

TEST(length_and_text) {
  const Outcome o = engine().run(request(4, 30));
  EXPECT_EQ(o.ids.size(), 30u);
  EXPECT(o.finish == Finish::length);
  EXPECT_EQ(o.text, text_of(o.ids));
  EXPECT_EQ(o.deltas, 30);
  EXPECT(o.logprobs.empty() && o.prompt_logprobs.empty());
  EXPECT(std::ranges::all_of(o.ids, [](int32_t id) { return id < kTokens; }));  // never padding
}

TEST(the_context_ends_a_text) {
  const Outcome o = engine().run(request(250, 100));
  EXPECT_EQ(o.ids.size(), 6u);
  EXPECT(o.finish == Finish::length);
}

TEST(seeds_decide) {
  Request r = request(4, 30);
  const Outcome a = engine().run(r);
  r.sampling.seed = 1;
  EXPECT(engine().run(r).ids != a.ids);
  r.sampling.seed = 0;
  EXPECT(engine().run(r).ids == a.ids);
}

TEST(stop_ids) {
  const Outcome free = engine().run(request(4, 30));
  Request r = request(4, 30);
  r.sampling.stop_token_ids = {free.ids[7]};
  const size_t at = size_t(std::ranges::find(free.ids, free.ids[7]) - free.ids.begin());
  Outcome o = engine().run(r);
  EXPECT(o.finish == Finish::stop);
  EXPECT_EQ(o.stop_id, free.ids[7]);
  EXPECT_EQ(o.ids.size(), at + 1);  // the id counts, its text does not show
  EXPECT_EQ(o.text, text_of(free.ids).substr(0, at));
  r.sampling.include_stop = true;
  o = engine().run(r);
  EXPECT_EQ(o.text, text_of(free.ids).substr(0, at + 1));
}

TEST(eos_and_ignore_eos) {
  Request r = request(4, 200);
  r.sampling.ignore_eos = false;
  const Outcome o = engine().run(r);
  EXPECT(o.finish == Finish::stop);
  EXPECT_EQ(o.stop_id, kEos);
  EXPECT_EQ(o.ids.back(), kEos);
  EXPECT_EQ(std::ranges::count(o.ids, kEos), 1);
  r.sampling.ignore_eos = true;
  const Outcome ignored = engine().run(r);
  EXPECT_EQ(ignored.ids.size(), 200u);
  EXPECT_GT(std::ranges::count(ignored.ids, kEos), 1);
  r.sampling.ignore_eos = false;
  r.sampling.min_tokens = int32_t(o.ids.size()) + 2;
  const Outcome longer = engine().run(r);
  EXPECT_GE(longer.ids.size(), o.ids.size() + 2);
  EXPECT(std::find(longer.ids.begin(), longer.ids.begin() + r.sampling.min_tokens, kEos) ==
         longer.ids.begin() + r.sampling.min_tokens);
}

TEST(stop_strings) {
  const Outcome free = engine().run(request(4, 30));
  const std::string whole = free.text;
  for (const size_t from : {size_t(0), size_t(3), size_t(20)}) {
    for (const size_t length : {size_t(1), size_t(2), size_t(5)}) {
      Request r = request(4, 30);
      r.sampling.stop = {"never", whole.substr(from, length)};
      const size_t at = whole.find(r.sampling.stop[1]);
      Outcome o = engine().run(r);
      EXPECT(o.finish == Finish::stop);
      EXPECT_EQ(o.stop_index, 1);
      EXPECT_EQ(o.stop_id, -1);
      EXPECT_EQ(o.text, whole.substr(0, at));
      EXPECT_EQ(o.ids.size(), at + length);
      r.sampling.include_stop = true;
      o = engine().run(r);
      EXPECT_EQ(o.text, whole.substr(0, at + length));
      r.sampling.min_tokens = int32_t(at + length) + 1;  // that one is ordinary text now
      o = engine().run(r);
      EXPECT_GT(o.ids.size(), at + length);
    }
  }
  // What is held back comes out when the text ends otherwise.
  Request r = request(4, 10);
  r.sampling.stop = {whole.substr(8, 2) + "?"};
  EXPECT_EQ(engine().run(r).text, whole.substr(0, 10));
}

// A stop string or stop id that ends with token k stops where min_tokens is at most k, and not
// where it is one more.
TEST(min_tokens_to_the_token) {
  const Outcome free = engine().run(request(4, 30));
  for (const int32_t k : {1, 5, 12}) {
    for (const int32_t length : {1, 3}) {
      if (length > k) continue;
      const std::string stop = free.text.substr(size_t(k - length), size_t(length));
      if (free.text.find(stop) != size_t(k - length)) continue;
      for (const int32_t min : {k - 1, k, k + 1}) {
        Request r = request(4, 30);
        r.sampling.stop = {stop};
        r.sampling.min_tokens = min;
        const Outcome o = engine().run(r);
        if (min <= k) {
          EXPECT_EQ(int32_t(o.ids.size()), k);
          EXPECT(o.finish == Finish::stop);
        } else {
          EXPECT_GT(int32_t(o.ids.size()), k);
          EXPECT(o.text.starts_with(free.text.substr(0, size_t(k))));
        }
      }
    }
    // A stop id may be drawn as token k where fewer than k are wanted before it.
    Request r = request(4, 30);
    r.sampling.stop_token_ids = {free.ids[size_t(k - 1)]};
    const auto first = std::ranges::find(free.ids, free.ids[size_t(k - 1)]);
    if (first - free.ids.begin() != k - 1) continue;
    r.sampling.min_tokens = k - 1;
    EXPECT_EQ(int32_t(engine().run(r).ids.size()), k);
    r.sampling.min_tokens = k;
    const Outcome later = engine().run(r);
    EXPECT_GT(int32_t(later.ids.size()), k);
    EXPECT_NE(later.ids[size_t(k - 1)], free.ids[size_t(k - 1)]);
  }
}

TEST(special_tokens) {
  Script s = script();
  s.options.token_special.resize(kTokens);
  for (int32_t id = 0; id < kTokens; id += 2) s.options.token_special[size_t(id)] = true;
  Client client(scripted(s));
  Request r = request(4, 40);
  const Outcome hidden = client.run(r);
  std::string odd;
  for (const int32_t id : hidden.ids) odd += id % 2 ? std::string(1, char('A' + id)) : "";
  EXPECT_EQ(hidden.text, odd);
  r.sampling.skip_special_tokens = false;
  const Outcome shown = client.run(r);
  EXPECT(shown.ids == hidden.ids);
  EXPECT_EQ(shown.text, text_of(shown.ids));
}

TEST(bad_words_and_allowed_ids) {
  Request r = request(4, 60);
  const Outcome free = engine().run(r);
  r.sampling.bad_words = {{free.ids[3]}, {free.ids[0], free.ids[1]}};
  Outcome o = engine().run(r);
  EXPECT(std::ranges::find(o.ids, free.ids[3]) == o.ids.end());
  EXPECT(std::ranges::search(o.ids, r.sampling.bad_words[1]).empty());
  r = request(4, 60);
  r.sampling.allowed_ids = {3, 5, 9};
  o = engine().run(r);
  EXPECT(std::ranges::all_of(o.ids, [](int32_t id) { return id == 3 || id == 5 || id == 9; }));
  // Nothing left: an error of this request, found while it runs.
  r.sampling.allowed_ids = {3};
  r.sampling.bad_words = {{3, 3}};
  o = engine().run(r);
  EXPECT(o.finish == Finish::error);
  EXPECT_ERROR(o.error, "bad_words: every token that may be drawn");
  EXPECT_EQ(engine().run(request()).ids.size(), 6u);
}

TEST(logprobs_and_prompt_logprobs) {
  Request r = request(30, 8);
  r.sampling.num_logprobs = 3;
  r.sampling.num_prompt_logprobs = 2;
  for (const int32_t budget : {512, 8}) {
    Script s = script();
    s.options.max_batched_tokens = budget;
    Client client(scripted(s));
    client.run(request(30, 2));  // in the cache, which this request must not use
    r.n = 3;
    const uint64_t id = client.submit(r);
    client.wait();
    int32_t told = 0;  // once for all choices
    for (const Outcome& o : client.outcomes(id)) {
      REQUIRE_EQ(o.logprobs.size(), 8u);
      for (size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(o.logprobs[i].id, o.ids[i]);
        EXPECT_EQ(o.logprobs[i].top.size(), 3u);
      }
      if (o.prompt_logprobs.empty()) continue;
      ++told;
      REQUIRE_EQ(o.prompt_logprobs.size(), 30u);
      uint64_t hash = ScriptedDevice::kStart;
      for (size_t i = 0; i < 30; ++i) {
        EXPECT_EQ(o.prompt_logprobs[i].id, r.prompt[i]);
        EXPECT_EQ(o.prompt_logprobs[i].top.size(), i == 0 ? 0u : 2u);
        EXPECT_EQ(o.prompt_logprobs[i].logprob, i == 0 ? 0.0f : -float(hash % 1000) / 100);
        hash = ScriptedDevice::extend(hash, r.prompt[i]);
      }
    }
    EXPECT_EQ(told, 1);
    EXPECT_EQ(client.outcomes(id)[0].timings.cached_tokens, 0);
    EXPECT_EQ(client.outcomes(id)[1].timings.cached_tokens, 16);
  }
}

TEST(no_tokens_at_all) {
  Request r = request(30, 0);
  Outcome o = engine().run(r);
  EXPECT(o.finish == Finish::length);
  EXPECT(o.ids.empty() && o.text.empty());
  EXPECT_EQ(o.deltas, 1);
  r.sampling.num_prompt_logprobs = 0;
  o = engine().run(r);
  EXPECT_EQ(o.prompt_logprobs.size(), 30u);
  r = request(1, 0);
  r.sampling.num_prompt_logprobs = 1;
  EXPECT_EQ(engine().run(r).prompt_logprobs.size(), 1u);
}

TEST(thinking_is_closed_at_its_budget) {
  for (const int32_t lookup : {0, 4}) {
    for (const int32_t budget : {0, 1, 5, 12}) {
      Request r = request(4, 30);
      r.sampling.lookup_tokens = lookup;
      r.sampling.num_logprobs = 0;
      const Outcome free = engine().run(r);
      r.sampling.thinking_budget = budget;
      r.sampling.think_open = true;
      r.sampling.think_begin = "nor this";
      r.sampling.think_end = "never";
      r.sampling.think_close = {1, 2, 3};
      Outcome o = engine().run(r);
      REQUIRE_EQ(o.ids.size(), 30u);
      EXPECT_EQ(o.logprobs.size(), 30u);
      EXPECT(std::equal(free.ids.begin(), free.ids.begin() + budget, o.ids.begin()));
      EXPECT(std::equal(o.ids.begin() + budget, o.ids.begin() + budget + 3,
                        r.sampling.think_close.begin()));
      EXPECT_NE(text_of(o.ids).substr(size_t(budget) + 3),
                text_of(free.ids).substr(size_t(budget) + 3));
      if (budget < 5) continue;
      r.sampling.think_end =
          free.text.substr(size_t(budget) - 2, 2);  // closed with its last free token
      EXPECT(engine().run(r).ids == free.ids);
    }
  }
}

TEST(a_callers_stop_id_ends_the_answer_and_not_the_thinking) {
  Request r = request(4, 12);
  const Outcome free = engine().run(r);
  const int32_t id = free.ids[3];
  r.sampling.stop_token_ids = {id};
  const auto first = std::ranges::find(free.ids, id) - free.ids.begin();
  EXPECT_EQ(engine().run(r).ids.size(), size_t(first) + 1);
  r.sampling.stop_scope = StopScope::after_thinking;
  const Outcome thinks = engine().run(r);
  EXPECT(thinks.ids == free.ids);
  EXPECT_EQ(thinks.text, free.text);
}

TEST(choices_of_one_request_share_its_prompt) {
  Request r = request(100, 10);
  r.n = 6;
  Script s = script();
  s.options.max_batched_tokens = 16;
  Client client(scripted(s));
  const uint64_t id = client.submit(r);
  client.wait();
  std::set<std::vector<int32_t>> distinct;
  for (int32_t i = 0; i < 6; ++i) {
    const Outcome& o = client.outcomes(id)[size_t(i)];
    EXPECT_EQ(o.ids.size(), 10u);
    EXPECT_EQ(o.timings.cached_tokens, i == 0 ? 0 : 96);
    distinct.insert(o.ids);
  }
  EXPECT_EQ(distinct.size(), 6u);
}

// A reward model on the real CPU device.
TEST(scores) {
  EngineOptions o = tiny_options();
  o.reward_rows = {5};
  Client client(o);
  REQUIRE_OK(client.status());
  Request r;
  r.kind = RequestKind::score;
  r.prompt = random_prompt(64, 3);
  const Outcome first = client.run(r);
  EXPECT(first.finish == Finish::stop);
  REQUIRE_EQ(first.scores.size(), 1u);
  const Outcome hit = client.run(r);  // all of it is cached but the last token
  EXPECT_EQ(hit.timings.cached_tokens, 63);
  EXPECT(hit.miss.reason == CacheMiss::Reason::last_token);
  REQUIRE_EQ(hit.scores.size(), 1u);
  EXPECT(same_bits(first.scores[0], hit.scores[0]));
  std::vector<uint64_t> ids;
  for (uint32_t i = 0; i < 20; ++i) {
    Request other = r;
    if (i % 2) other.prompt.resize(size_t(1 + i * 3));
    ids.push_back(client.submit(other));
  }
  client.wait();
  for (uint32_t i = 0; i < 20; i += 2)
    EXPECT(same_bits(client.outcome(ids[i]).scores.at(0), first.scores[0]));
  EXPECT(!same_bits(client.outcome(ids[1]).scores.at(0), first.scores[0]));
  r.kind = RequestKind::generate;
  r.id = 9999;
  EXPECT_ERROR(client.engine().submit(r), "reward model");
  EXPECT_EQ(client.engine().stats().blocks_used, 0);
}

// Two scores differ as the logprobs do that the same checkpoint gives these ids as a language
// model.
TEST(a_score_is_a_logit) {
  float score[2], logprob[2];
  for (const int32_t row : {0, 1}) {
    EngineOptions o = tiny_options();
    o.reward_rows = {5 + row * 90};
    Request r;
    r.kind = RequestKind::score;
    r.prompt = random_prompt(30, 4);
    score[row] = Client(o).run(r).scores.at(0);
    r.kind = RequestKind::generate;
    r.sampling.max_tokens = 1;
    r.sampling.num_logprobs = 0;
    r.sampling.allowed_ids = o.reward_rows;
    logprob[row] = Client(tiny_options()).run(r).logprobs.at(0).logprob;
  }
  EXPECT_NE(score[0], score[1]);
  EXPECT_NEAR(score[0] - score[1], logprob[0] - logprob[1], 1e-4);
}

TEST(wrong_options_are_refused) {
  // early: before any memory is looked at.
  const auto refused = [](auto&& change, const char* why, bool early = true) {
    EngineOptions o = tiny_options();
    change(o);
    if (early) {
      EXPECT_ERROR(Engine::check(o), why);
    } else {
      EXPECT_OK(Engine::check(o));
    }
    std::unique_ptr<Engine> engine;
    EXPECT_ERROR(Engine::create(std::move(o), {}, {}, {}, &engine), why);
    EXPECT(!engine);
  };
  refused([](EngineOptions& o) { o.block_size = 24; }, "block_size: found 24");
  refused([](EngineOptions& o) { o.max_seqs = 0; }, "max_num_seqs: found 0");
  refused([](EngineOptions& o) { o.max_batched_tokens = 0; }, "max_num_batched_tokens: found 0");
  refused([](EngineOptions& o) { o.max_waiting = -1; },
          "max_waiting: found -1, expected at least 0");
  refused([](EngineOptions& o) { o.max_waiting_tokens = 0; }, "max_waiting_tokens: found 0");
  refused([](EngineOptions& o) { o.max_model_len = -1; }, "max_model_len: found -1");
  refused([](EngineOptions& o) { o.memory_utilization = 1.01; }, "memory_utilization: found 1.01");
  refused([](EngineOptions& o) { o.memory_utilization = NAN; }, "memory_utilization: found nan");
  refused([](EngineOptions& o) { o.max_model_len = 641; },
          "max_model_len: found 641, the model's own limit is 640");
  refused([](EngineOptions& o) { o.memory_utilization = 0; }, "memory_utilization: found 0");
  refused([](EngineOptions& o) { o.token_bytes.resize(301); },
          "tokenizer: has token id 300, but the embedding ends");
  refused([](EngineOptions& o) { o.backend = "tpu"; }, "device: found \"tpu\"");
  refused([](EngineOptions& o) { o.backend = "cuda"; }, "no CUDA device");
  refused([](EngineOptions& o) { o.model_dir = "/nowhere"; }, "/nowhere");
  refused([](EngineOptions& o) { o.kv_memory = 1000; }, "KV cache is limited", false);
  EXPECT_OK(Engine::check(tiny_options()));
}

TEST(loading_reports) {
  size_t plans = 0, news = 0;
  std::unique_ptr<Engine> engine;
  const auto here = std::this_thread::get_id();
  REQUIRE_OK(Engine::create(
      tiny_options(), {},
      [&](const LoadProgress& p) {
        ++news;
        EXPECT(std::this_thread::get_id() == here);
        EXPECT_LE(p.bytes_done, p.bytes_total);
      },
      [&](const MemoryPlan& p) {
        ++plans;
        EXPECT(std::this_thread::get_id() == here);
        EXPECT_GT(p.num_blocks, 0);
      },
      &engine));
  EXPECT_EQ(plans, 1u);
  EXPECT_GT(news, 0u);
  EXPECT_EQ(engine->info().max_model_len, 512);
  EXPECT(engine->info().config.eos_ids == std::vector<int32_t>{kTinyEos});
  EXPECT_GT(engine->info().load.bytes, 0u);
  EXPECT(engine->info().backend_note.starts_with("cpu, as asked for; threads: "));
}

}  // namespace
}  // namespace nemotron::test
