// The engine's life: what is refused, aborted, drained, closed, and what a failure does to whom.
#include <atomic>
#include <optional>
#include <set>
#include <thread>

#include "scripted_engine.h"

namespace nemotron::test {
namespace {

// Lets steps through one at a time, or all.
class Gate {
 public:
  Status pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_ || tickets_ > 0; });
    if (!open_) --tickets_;
    return status_;
  }
  void let(int steps) {
    const std::lock_guard lock(mutex_);
    tickets_ += steps;
    changed_.notify_all();
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void set_status(Status s) {
    const std::lock_guard lock(mutex_);
    status_ = std::move(s);
  }
  void wait_for_arrivals(int n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= n; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int tickets_ = 0, arrived_ = 0;
  bool open_ = false;
  Status status_;
};

void expect_idle(Engine& engine) {
  const EngineStats s = engine.stats();
  EXPECT_EQ(s.running, 0);
  EXPECT_EQ(s.waiting, 0);
  EXPECT_EQ(s.blocks_used, 0);
  EXPECT_EQ(s.waiting_tokens, 0);
}

TEST(wrong_requests_are_refused_by_name) {
  Script s = script();
  s.num_blocks = 10;  // 160 tokens, though the model would take 256
  Client client(scripted(s));
  Engine& engine = client.engine();
  const auto refused = [&](auto&& change, const char* why) {
    Request r = request();
    r.id = 77;
    change(r);
    const Status status = engine.submit(std::move(r));
    EXPECT_ERROR(status, why);
    EXPECT(status.code() == Code::invalid_argument);
  };
  refused([](Request& r) { r.prompt.clear(); }, "prompt: is empty");
  refused(
      [](Request& r) {
        r.prompt = {1, kVocab};
      },
      "prompt: found token id 40 at index 1, expected 0 to 39");
  refused([](Request& r) { r.prompt = {-1}; }, "prompt: found token id -1");
  refused(
      [](Request& r) { r = request(256); },
      "prompt: 256 tokens and at least one to generate exceed the maximum context length of 256");
  refused([](Request& r) { r = request(257, 0); }, "prompt: 257 tokens exceed the maximum context");
  refused([](Request& r) { r = request(100, 90); },
          "190 in all) exceed the KV cache of 160 tokens");
  refused([](Request& r) { r.n = 0; }, "n: found 0, expected 1 to 128");
  refused([](Request& r) { r.n = 129; }, "n: found 129");
  refused([](Request& r) { r.kind = RequestKind::score; }, "kind: this model generates");
  refused([](Request& r) { r.sampling.max_tokens = -1; }, "max_tokens: found -1");
  refused([](Request& r) { r.sampling.min_tokens = 7; }, "min_tokens: found 7, expected 0 to 6");
  refused([](Request& r) { r.sampling.temperature = -0.1f; }, "temperature: found -0.1");
  refused([](Request& r) { r.sampling.temperature = NAN; }, "temperature: found nan");
  refused([](Request& r) { r.sampling.temperature = INFINITY; }, "temperature: found inf");
  refused([](Request& r) { r.sampling.top_p = 0; }, "top_p: found 0");
  refused([](Request& r) { r.sampling.top_p = 1.1f; }, "top_p: found 1.1");
  refused([](Request& r) { r.sampling.min_p = -1; }, "min_p: found -1");
  refused([](Request& r) { r.sampling.top_k = -1; }, "top_k: found -1");
  refused([](Request& r) { r.sampling.repetition_penalty = 0; }, "repetition_penalty: found 0");
  refused([](Request& r) { r.sampling.presence_penalty = 2.5f; },
          "presence_penalty: found 2.5, expected -2 to 2");
  refused([](Request& r) { r.sampling.frequency_penalty = -3; }, "frequency_penalty: found -3");
  refused([](Request& r) { r.sampling.num_logprobs = 21; },
          "logprobs: found 21, expected -1 to 20");
  refused([](Request& r) { r.sampling.num_prompt_logprobs = -2; }, "prompt_logprobs: found -2");
  refused([](Request& r) { r.sampling.lookup_tokens = 17; }, "lookup_tokens: found 17");
  refused(
      [](Request& r) {
        r.sampling.stop_token_ids = {1, 36};
      },
      "stop_token_ids: found token id 36 at index 1, expected 0 to 35");
  refused([](Request& r) { r.sampling.allowed_ids = {40}; },
          "allowed_token_ids: found token id 40");
  refused(
      [](Request& r) {
        r.sampling.num_logprobs = 0;
        r.sampling.logprob_ids = {3, 40};
      },
      "logprob_ids: found token id 40");
  refused(
      [](Request& r) {
        r.sampling.num_logprobs = 0;
        r.sampling.logprob_ids.resize(129);
      },
      "logprob_ids: found 129 ids, expected at most 128");
  refused([](Request& r) { r.sampling.logprob_ids = {3}; }, "logprob_ids: found logprobs = -1");
  refused([](Request& r) { r.sampling.logit_bias = {{.id = 50, .bias = 1}}; },
          "logit_bias: found token id 50");
  refused([](Request& r) { r.sampling.logit_bias = {{.id = 5, .bias = NAN}}; },
          "logit_bias: the bias of token id 5");
  refused([](Request& r) { r.sampling.bad_words = {{1}, {}}; }, "bad_words: a word has no tokens");
  refused([](Request& r) { r.sampling.bad_words = {{99}}; }, "bad_words: found token id 99");
  refused([](Request& r) { r.sampling.stop = {"a", ""}; }, "stop: found a string of 0 bytes");
  refused([](Request& r) { r.sampling.stop.resize(65, "x"); }, "stop: found 65 strings");
  refused([](Request& r) { r.sampling.thinking_budget = 3; }, "thinking_budget: think_close");
  refused(
      [](Request& r) {
        r.sampling.thinking_budget = 3;
        r.sampling.think_close = {1};
        r.sampling.think_end = "x";
      },
      "thinking_budget: think_begin is empty");
  refused(
      [](Request& r) {
        r.sampling.thinking_budget = 3;
        r.sampling.think_close = {1};
        r.sampling.think_begin = "x";
      },
      "thinking_budget: think_end is empty");
  refused(
      [](Request& r) {
        r.sampling.ignore_eos = false;
        r.sampling.min_tokens = 1;
        r.sampling.allowed_ids = {kEos};
      },
      "allowed_token_ids: every one of them is banned");
  EXPECT_EQ(client.run(request()).ids.size(), 6u);  // and a good one passes
  expect_idle(engine);
}

TEST(wrong_grammars_are_refused_by_name) {
  Client client(scripted(script()));
  Engine& engine = client.engine();
  const auto tried = [&](auto&& change) {
    Request r = request();
    r.id = 78;
    r.sampling.grammar = grammar_of("root ::= [A-Z]{1,50}", engine.vocabulary());
    change(r.sampling);
    return engine.submit(std::move(r));
  };
  const auto refused = [&](auto&& change, const char* why) {
    const Status status = tried(change);
    EXPECT_ERROR(status, why);
    EXPECT(status.code() == Code::invalid_argument);
  };
  const auto text = [](size_t size) { return std::string(size, 'x'); };
  refused([](SamplingParams& p) { p.grammar_after = {"x"}, p.grammar = nullptr; },
          "grammar_after: there is no grammar");
  refused([](SamplingParams& p) { p.grammar = grammar_of("root ::= \"A\""); },
          "grammar: was compiled by another engine");
  refused([](SamplingParams& p) { p.grammar_after.resize(17, "x"); },
          "grammar_after: found 17 strings, expected at most 16");
  refused(
      [](SamplingParams& p) {
        p.grammar_after = {"x", ""};
      },
      "grammar_after: found a string of 0 bytes, expected 1 to 256");
  refused([&](SamplingParams& p) { p.grammar_after = {text(257)}; },
          "grammar_after: found a string of 257 bytes");
  refused([](SamplingParams& p) { p.think_begin = "x"; }, "must both be there or both not");
  refused([](SamplingParams& p) { p.think_end = "x"; }, "must both be there or both not");
  refused([&](SamplingParams& p) { p.think_begin = text(257), p.think_end = "x"; },
          "of 256 bytes at most");
  refused([&](SamplingParams& p) { p.think_begin = "x", p.think_end = text(257); },
          "of 256 bytes at most");
  for (const size_t most : {16, 1}) {
    const Status status = tried([&](SamplingParams& p) {
      p.grammar_after.resize(most, text(256));
      p.think_begin = p.think_end = text(256);
    });
    EXPECT_EQ(status.message(), "");
    // What is in the inbox counts by its tokens alone.
    for (EngineStats now = engine.stats(); now.running + now.waiting > 0 || now.waiting_tokens > 0;
         now = engine.stats()) {
      std::this_thread::yield();
    }
    client.wait();
  }
  expect_idle(engine);
}

// A grammar and a list of allowed ids hold both; where they leave nothing, that is said.
TEST(a_grammar_and_allowed_ids_hold_together) {
  Client client(scripted(script()));
  Request r = request(4, 12);
  r.sampling.grammar = grammar_of("root ::= [A-F]{12,50}");
  r.sampling.allowed_ids = {2, 3, 30};
  std::set<int32_t> seen;
  for (int32_t prompt = 1; prompt <= 20; ++prompt) {
    r.prompt = request(prompt).prompt;
    const Outcome both = client.run(r);
    EXPECT_EQ(both.ids.size(), 12u);
    seen.insert(both.ids.begin(), both.ids.end());
  }
  EXPECT((seen == std::set<int32_t>{2, 3}));
  r.sampling.allowed_ids = {20, 30};
  const uint64_t none = client.submit(r), other = client.submit(request(4, 12));
  client.wait();
  EXPECT(client.outcome(none).finish == Finish::error);
  EXPECT_ERROR(client.outcome(none).error, "grammar: none of the tokens that may be drawn");
  EXPECT(client.outcome(other).finish == Finish::length);
  expect_idle(client.engine());
}

// A prompt may hold ids that have no bytes: nothing is ever guessed from there on.
TEST(lookup_guesses_no_padding) {
  for (const bool has_grammar : {false, true}) {
    Client client(scripted(script()));
    Request r = request(0, 3);
    r.prompt = {0, 1, kTokens, 2, 0};
    r.sampling.allowed_ids = {1};
    r.sampling.lookup_tokens = 3;
    if (has_grammar) r.sampling.grammar = grammar_of("root ::= [AB]+");
    const Outcome got = client.run(r);  // after 0 1 the prompt goes on with padding
    EXPECT_EQ(got.text, "BBB");
    EXPECT_EQ(got.timings.drafted_tokens, 0);
    expect_idle(client.engine());
  }
}

TEST(a_right_guess_counts_though_it_is_the_last_token) {
  Client client(scripted(script()));
  Request r = request(0, 50);
  r.prompt = {0, 1, 2, 0};
  r.sampling.lookup_tokens = 3;
  r.sampling.grammar = grammar_of("root ::= \"BC\" [D-Z]*");
  r.sampling.stop = {"BC"};
  const Outcome got = client.run(r);
  EXPECT(got.finish == Finish::stop);
  EXPECT_EQ(got.ids.size(), 2u);
  EXPECT_EQ(got.timings.drafted_tokens, 1);
  EXPECT_EQ(got.timings.accepted_tokens, 1);
}

TEST(places_are_counted_by_sequences) {
  Gate gate;
  Script s = script();
  s.options.max_seqs = 1;
  s.options.max_waiting = 3;
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  Engine& engine = client.engine();
  const auto refused = [&] {
    Request r = request(1);
    r.id = 1000;
    const Status status = engine.submit(r);
    EXPECT(status.code() == Code::queue_full);
    return status;
  };
  client.submit(request(4, 3));
  gate.wait_for_arrivals(1);
  Request two = request(4, 9);
  two.n = 2;
  const uint64_t pair = client.submit(two);
  EXPECT(!engine.is_full());
  EXPECT_EQ(engine.stats().waiting, 2);
  // One place is left, and a request may have more choices than that.
  client.submit(two);
  EXPECT(engine.is_full());
  EXPECT_EQ(engine.stats().waiting, 4);
  EXPECT_ERROR(refused(), "the queue is full: 5 sequences run or wait, the limit is 4");
  EXPECT_EQ(engine.stats().rejected, 1);
  // More of what has been admitted.
  Request more = request(4, 2);
  more.admitted = true;
  const uint64_t last = client.submit(more);
  // An end gives places back, with the delta that tells of it: six are live, four may be.
  client.abort(pair);
  gate.let(1);
  gate.wait_for_arrivals(2);
  EXPECT(engine.is_full());
  EXPECT_ERROR(refused(), "the queue is full: 4 sequences run or wait, the limit is 4");
  client.abort(last);
  gate.let(1);
  gate.wait_for_arrivals(3);
  EXPECT(!engine.is_full());
  client.submit(request(1));
  gate.open();
  client.wait();
  EXPECT(!engine.is_full());
  expect_idle(engine);
}

TEST(a_background_request_takes_no_place_and_gives_way) {
  Gate gate;
  Script s = script();
  s.options.max_seqs = 2;
  s.options.max_waiting = 0;
  s.gate = [&] { return gate.pass(); };
  std::atomic<int32_t> most = 0;
  s.on_launch = [&](const StepBuffer& step) {
    const bool mixed = step.plan.background_rows < step.plan.rows;
    if (mixed) most = std::max(most.load(), step.plan.background_rows);
  };
  Client client(scripted(s));
  Engine& engine = client.engine();
  Request line = request(20, 40);
  line.background = true;
  std::vector<uint64_t> lines;
  for (int i = 0; i < 5; ++i) {
    line.sampling.seed = uint64_t(i);
    lines.push_back(client.submit(line));
  }
  gate.wait_for_arrivals(1);
  EXPECT_EQ(engine.stats().waiting_tokens, 0);
  EXPECT_EQ(engine.stats().waiting, 0);
  const uint64_t urgent = client.submit(request(6, 30));
  EXPECT(!engine.is_full());
  EXPECT_EQ(engine.stats().waiting, 1);
  client.submit(request(6, 30));
  EXPECT(engine.is_full());
  // Those that are full of others go on with lines.
  lines.push_back(client.submit(line));
  gate.open();
  client.wait();
  EXPECT_EQ(client.outcome(urgent).ids.size(), 30u);
  for (const uint64_t id : lines) EXPECT_EQ(client.outcome(id).ids.size(), 40u);
  EXPECT_GT(engine.stats().preemptions, 0);
  EXPECT_LE(most.load(), 1);  // max_seqs / 8, and at least one
  expect_idle(engine);
}

TEST(no_place_waits_where_nobody_may) {
  Gate gate;
  Script s = script();
  s.options.max_seqs = 2;
  s.options.max_waiting = 0;
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  client.submit(request());
  client.submit(request());
  EXPECT(client.engine().is_full());
  gate.open();
  client.wait();
  EXPECT_EQ(client.run(request()).ids.size(), 6u);
}

TEST(waiting_prompt_tokens_are_bounded) {
  Gate gate;
  Script s = script();
  s.options.max_seqs = 1;
  s.options.max_waiting_tokens = 30;
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  client.submit(request(4, 3));
  gate.wait_for_arrivals(1);  // in a step, so it does not wait any more
  client.submit(request(10));
  client.submit(request(10));
  Request r = request(11);
  r.id = 1000;
  const Status refused = client.engine().submit(r);
  EXPECT(refused.code() == Code::queue_full);
  EXPECT_ERROR(refused,
               "the queue is full: 20 prompt tokens are waiting, 11 more exceed the limit of 30");
  EXPECT_EQ(client.engine().stats().rejected, 1);
  client.submit(request(10));
  EXPECT_EQ(client.engine().stats().waiting_tokens, 30);
  r.admitted = true;
  client.submit(r);
  gate.open();
  client.wait();
  // A request larger than the limit is served when nobody waits.
  EXPECT_EQ(client.run(request(40, 2)).ids.size(), 2u);
  expect_idle(client.engine());
}

TEST(an_id_is_unique_among_live_requests) {
  Gate gate;
  Script s = script();
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  const uint64_t id = client.submit(request());
  Request again = request();
  again.id = id;
  EXPECT_ERROR(client.engine().submit(again), "id: 1 is in use");
  gate.open();
  client.wait();
  EXPECT_OK(client.engine().submit(again));
}

TEST(an_abort_ends_every_choice_within_a_step) {
  Gate gate;
  Script s = script();
  s.options.max_seqs = 2;  // two of the three choices run, one waits
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  Request r = request(20, 100);
  r.n = 3;
  const uint64_t id = client.submit(r);
  const uint64_t waiting = client.submit(request(10));
  gate.let(4);
  gate.wait_for_arrivals(5);
  client.abort(id);
  client.abort(waiting);
  client.abort(id);      // again
  client.abort(999999);  // nobody
  gate.let(1);
  client.wait();
  for (const Outcome& o : client.outcomes(id)) EXPECT(o.finish == Finish::abort);
  EXPECT(client.outcome(waiting).finish == Finish::abort);
  EXPECT(client.outcome(id).ids.size() >= 3 && client.outcome(id).ids.size() <= 5);
  expect_idle(client.engine());
  EXPECT_EQ(client.engine().stats().aborted, 2);
  gate.open();
  EXPECT_EQ(client.run(request()).ids.size(), 6u);
}

TEST(a_drained_engine_finishes_what_it_has) {
  Gate gate;
  Script s = script();
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  const uint64_t a = client.submit(request(4, 20));
  gate.wait_for_arrivals(1);
  client.engine().drain();
  Request r = request();
  r.id = 1000;
  const Status refused = client.engine().submit(r);
  EXPECT(refused.code() == Code::unavailable);
  EXPECT_ERROR(refused, "shutting down");
  gate.open();
  client.wait();
  EXPECT_EQ(client.outcome(a).ids.size(), 20u);
}

// Until the loop has taken in what was asked of it and sleeps.
void wait_for(Engine& engine, int32_t running, int32_t waiting) {
  while (true) {
    const EngineStats s = engine.stats();
    if (s.running == running && s.waiting == waiting && s.last_step_age == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST(a_pause_of_all_keeps_everything_and_changes_no_token) {
  Request r = request(40, 200);
  r.n = 2;
  Client free(scripted(script()));
  const uint64_t undisturbed = free.submit(r);
  free.wait();

  std::atomic<int64_t> steps = 0;
  Script s = script();
  s.gate = [&] {
    ++steps;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return Status();
  };
  Client client(scripted(s));
  Engine& engine = client.engine();
  const uint64_t a = client.submit(r);
  for (int pauses = 1; pauses <= 5; ++pauses) {
    while (steps < 10 * pauses) std::this_thread::yield();
    engine.pause(Pause::all);
    wait_for(engine, 2, 0);
    const int64_t before = steps;
    const uint64_t later = client.submit(request(4, 2));
    wait_for(engine, 2, 1);
    engine.abort(later);
    wait_for(engine, 2, 0);
    EXPECT_EQ(steps.load(), before);
    if (pauses < 5) engine.pause(Pause::none);
  }
  engine.drain();  // ends the pause
  client.wait();
  for (size_t i = 0; i < 2; ++i) {
    EXPECT(client.outcomes(a)[i].ids == free.outcomes(undisturbed)[i].ids);
  }
  expect_idle(engine);
}

TEST(a_pause_of_what_comes_later_lets_the_rest_end) {
  Gate gate;
  Script s = script();
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  Engine& engine = client.engine();
  std::vector<uint64_t> before, after;
  for (int i = 0; i < 6; ++i) before.push_back(client.submit(request(4 + i, 20)));  // four places
  gate.wait_for_arrivals(1);
  engine.pause(Pause::later);
  gate.let(2);
  gate.wait_for_arrivals(3);  // the pause has been taken in
  Request urgent = request(8, 3);
  urgent.priority = -1;
  after.push_back(client.submit(urgent));
  after.push_back(client.submit(request(4, 3)));
  gate.open();
  wait_for(engine, 0, 2);
  EXPECT_EQ(engine.stats().finished_length, 6);
  engine.abort(after[1]);  // obeyed in a pause
  wait_for(engine, 0, 1);
  engine.pause(Pause::none);
  client.wait();
  for (const uint64_t id : before) EXPECT_EQ(client.outcome(id).ids.size(), 20u);
  EXPECT_EQ(client.outcome(after[0]).ids.size(), 3u);
  EXPECT(client.outcome(after[1]).finish == Finish::abort);
  expect_idle(engine);
}

TEST(a_paused_engine_closes) {
  Client client(scripted(script()));
  client.engine().pause(Pause::all);
  const uint64_t a = client.submit(request());
  wait_for(client.engine(), 0, 1);
  client.engine().close();
  client.wait();
  EXPECT(client.outcome(a).finish == Finish::abort);
}

// What a reload came to; waits for it.
class Reloaded {
 public:
  std::function<void(const Status&)> done() {
    return [this](const Status& s) {
      const std::lock_guard lock(mutex_);
      status_ = s;
      changed_.notify_all();
    };
  }
  Status wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return status_.has_value(); });
    return *std::exchange(status_, std::nullopt);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Status> status_;
};

TEST(a_reload_computes_again_and_a_refused_one_changes_nothing) {
  Request r = request(40, 150);
  r.n = 2;
  Client free(scripted(script()));
  const uint64_t undisturbed = free.submit(r);
  free.wait();

  std::atomic<int64_t> steps = 0;
  std::atomic<bool> refuses = false;
  Script s = script();
  s.gate = [&] {
    ++steps;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return Status();
  };
  s.on_reload = [&](const std::string& folder, Status* refused) {
    EXPECT_EQ(folder, "there");
    if (refuses) *refused = Status::invalid("other shapes");
    return Status();
  };
  Client client(scripted(s));
  Engine& engine = client.engine();
  Reloaded reloaded;
  const uint64_t a = client.submit(r);
  for (int64_t round = 1; round <= 6; ++round) {
    while (steps < 10 * round) std::this_thread::yield();
    refuses = round % 2 == 0;
    if (round == 5) engine.pause(Pause::all);
    const int64_t before = engine.stats().cached_tokens;
    REQUIRE_OK(engine.reload("there", reloaded.done()));
    const Status status = reloaded.wait();
    EXPECT_EQ(status.message(), refuses ? "other shapes" : "");
    if (round != 5) continue;
    wait_for(engine, 0, 2);  // in the pause nothing runs, and nothing is cached
    EXPECT_EQ(engine.stats().blocks_cached, 0);
    EXPECT_EQ(engine.stats().blocks_used, 0);
    EXPECT_EQ(engine.stats().cached_tokens, before);
    engine.pause(Pause::none);
  }
  client.wait();
  for (size_t i = 0; i < 2; ++i) {
    const auto& outcome = client.outcomes(a)[i];
    EXPECT(outcome.ids == free.outcomes(undisturbed)[i].ids);
    EXPECT_EQ(outcome.timings.preemptions, 3);
  }
  EXPECT_EQ(engine.stats().preemptions, 6);
  expect_idle(engine);
}

// A model that is tied by its config and stores both matrices is tied where they are equal.
TEST(a_reload_of_an_embedding_that_is_the_head_and_one_that_is_not_is_refused) {
  const auto write = [](const TempDir& dir, bool equal, uint32_t seed) {
    RawTensors t = tiny_tensors(0.35f, seed);
    if (equal) t["model.embed_tokens.weight"] = t["lm_head.weight"];
    dir.write("config.json", tiny_config().set("tie_word_embeddings", "true").text());
    dir.write("model.safetensors", safetensors_bytes(t));
  };
  const TempDir equal, also_equal, apart, also_apart;
  write(equal, true, 1), write(also_equal, true, 100);
  write(apart, false, 200), write(also_apart, false, 300);
  struct Case {
    const TempDir &runs, &next, &wrong;
    const char* why;
  };
  for (const Case& c : {Case{equal, also_equal, apart,
                             "lm_head.weight has other values than model.embed_tokens.weight"},
                        Case{apart, also_apart, equal,
                             "lm_head.weight has the values of model.embed_tokens.weight"}}) {
    EngineOptions o = tiny_options();
    o.model_dir = c.runs.path();
    Client client(o);
    REQUIRE_OK(client.status());
    const Outcome before = client.run(request(20, 16));
    Reloaded reloaded;
    REQUIRE_OK(client.engine().reload(c.wrong.path(), reloaded.done()));
    EXPECT_ERROR(reloaded.wait(), c.why);
    EXPECT_EQ(difference(client.run(request(20, 16)), before), "");
    REQUIRE_OK(client.engine().reload(c.next.path(), reloaded.done()));
    EXPECT_OK(reloaded.wait());
    o.model_dir = c.next.path();
    Client anew(o);
    REQUIRE_OK(anew.status());
    const Outcome expected = anew.run(request(20, 16));
    EXPECT_EQ(difference(client.run(request(20, 16)), expected), "");
    EXPECT(difference(before, expected) != "");
  }
}

TEST(one_reload_at_a_time_and_none_of_a_closed_engine) {
  Gate gate;
  Script s = script();
  s.on_reload = [&](const std::string&, Status*) { return gate.pass(); };
  Client client(scripted(s));
  Engine& engine = client.engine();
  Reloaded first;
  REQUIRE_OK(engine.reload("a", first.done()));
  gate.wait_for_arrivals(1);
  EXPECT_ERROR(engine.reload("b", [](const Status&) { EXPECT(false); }), "other weights");
  const uint64_t waits = client.submit(request());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(engine.stats().last_step_age, 0);  // it stalls nobody
  gate.open();
  EXPECT_OK(first.wait());
  client.wait();
  EXPECT_EQ(client.outcome(waits).ids.size(), 6u);
  engine.close();
  EXPECT_ERROR(engine.reload("c", [](const Status&) { EXPECT(false); }), "shutting down");
}

// Ended and asked for again while one step runs: who came between goes on to its end.
TEST(a_pause_that_is_asked_for_again_is_another_one_only_after_its_end) {
  Gate gate;
  Script s = script();
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  Engine& engine = client.engine();
  const uint64_t first = client.submit(request(4, 20));
  gate.wait_for_arrivals(1);
  engine.pause(Pause::later);
  gate.let(2);
  gate.wait_for_arrivals(3);  // the pause has been taken in
  const uint64_t between = client.submit(request(5, 3));
  engine.pause(Pause::none);
  engine.pause(Pause::later);
  const uint64_t after = client.submit(request(6, 3));
  gate.open();
  wait_for(engine, 0, 1);
  EXPECT_EQ(engine.stats().finished_length, 2);
  engine.pause(Pause::later);  // is on
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  wait_for(engine, 0, 1);
  EXPECT_EQ(engine.stats().finished_length, 2);
  engine.pause(Pause::none);
  client.wait();
  EXPECT_EQ(client.outcome(first).ids.size(), 20u);
  EXPECT_EQ(client.outcome(between).ids.size(), 3u);
  EXPECT_EQ(client.outcome(after).ids.size(), 3u);
  expect_idle(engine);
}

TEST(steps_that_are_stopped_do_not_begin_whatever_the_pause) {
  for (const Pause pause : {Pause::none, Pause::later}) {
    std::atomic<int64_t> steps = 0;
    Script s = script();
    s.gate = [&] {
      ++steps;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return Status();
    };
    Client client(scripted(s));
    Engine& engine = client.engine();
    Reloaded reloaded;
    const uint64_t a = client.submit(request(4, 100));
    while (steps < 5) std::this_thread::yield();
    engine.pause(pause);
    engine.stop_steps(true);
    REQUIRE_OK(engine.reload("there", reloaded.done()));
    EXPECT_OK(reloaded.wait());
    const int64_t before = steps;
    wait_for(engine, 0, 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(steps.load(), before);
    engine.stop_steps(false);
    client.wait();
    EXPECT_EQ(client.outcome(a).ids.size(), 100u);
    engine.stop_steps(true);
    const uint64_t b = client.submit(request());
    wait_for(engine, 0, 1);
    client.abort(b);  // obeyed, too
    client.wait();
    EXPECT(client.outcome(b).finish == Finish::abort);
    EXPECT(client.outcome(b).ids.empty());
  }
}

// Asked for while a step runs, and taken with who has come since.
TEST(a_pause_of_later_ones_holds_who_comes_right_after_it) {
  Gate gate;
  Script s = script();
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  Engine& engine = client.engine();
  const uint64_t first = client.submit(request());
  gate.wait_for_arrivals(1);
  const uint64_t before = client.submit(request());
  engine.pause(Pause::later);
  const uint64_t after = client.submit(request());
  gate.open();
  wait_for(engine, 0, 1);
  EXPECT_EQ(engine.stats().finished_length + engine.stats().finished_stop, 2);
  engine.pause(Pause::none);
  client.wait();
  for (const uint64_t id : {first, before, after}) {
    EXPECT_EQ(client.outcome(id).ids.size(), 6u);
  }
}

// Who is asked whether steps go on is told that they do not, whatever else is asked for.
TEST(a_reload_that_waits_for_a_stuck_step_hides_nothing) {
  Gate gate;
  Script s = script();
  s.gate = [&] { return gate.pass(); };
  s.on_reload = [](const std::string&, Status*) { return Status(); };
  Client client(scripted(s));
  Engine& engine = client.engine();
  client.submit(request());
  gate.wait_for_arrivals(1);
  Reloaded reloaded;
  REQUIRE_OK(engine.reload("a", reloaded.done()));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT(engine.stats().last_step_age >= 0.03);
  gate.open();
  EXPECT_OK(reloaded.wait());
  client.wait();
}

TEST(weights_that_are_lost_fail_the_engine) {
  Script s = script();
  s.on_reload = [](const std::string&, Status*) { return Status::internal("half of them"); };
  Client client(scripted(s));
  Reloaded reloaded;
  client.engine().pause(Pause::all);
  const uint64_t a = client.submit(request());
  REQUIRE_OK(client.engine().reload("a", reloaded.done()));
  EXPECT_ERROR(reloaded.wait(), "half of them");
  client.wait();
  EXPECT(client.outcome(a).finish == Finish::error);
  EXPECT(client.engine().stats().failed_device);
  EXPECT_ERROR(client.engine().reload("a", reloaded.done()), "has failed");
}

TEST(close_ends_everything_from_any_thread) {
  Gate gate;
  Script s = script();
  s.options.max_seqs = 2;
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  std::vector<uint64_t> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(client.submit(request(4, 100)));
  gate.wait_for_arrivals(1);
  std::vector<std::thread> closers;
  for (int i = 0; i < 3; ++i) closers.emplace_back([&] { client.engine().close(); });
  Request probe = request();  // refused as a copy, and then because the engine is closing
  probe.id = ids[0];
  while (client.engine().submit(probe).code() != Code::unavailable) std::this_thread::yield();
  gate.open();
  for (std::thread& t : closers) t.join();
  client.collect();
  for (const uint64_t id : ids) EXPECT(client.outcome(id).finish == Finish::abort);
  Request r = request();
  r.id = 1000;
  EXPECT(client.engine().submit(r).code() == Code::unavailable);
  client.engine().abort(ids[0]);
  expect_idle(client.engine());
}

TEST(a_device_failure_fails_everybody_and_refuses_the_rest) {
  Gate gate;
  Script s = script();
  s.options.max_seqs = 2;
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  std::vector<uint64_t> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(client.submit(request(4, 100)));
  gate.let(3);
  gate.wait_for_arrivals(4);
  gate.set_status(Status::internal("the cable was pulled"));
  gate.open();
  client.wait();
  for (const uint64_t id : ids) {
    EXPECT(client.outcome(id).finish == Finish::error);
    EXPECT_ERROR(client.outcome(id).error, "the device failed: the cable was pulled");
    EXPECT(client.outcome(id).error.code() == Code::unavailable);
  }
  EXPECT_GE(client.outcome(ids[0]).ids.size(), 2u);  // what was drawn before is not lost
  Request r = request();
  r.id = 1000;
  const Status refused = client.engine().submit(r);
  EXPECT(refused.code() == Code::unavailable);
  EXPECT_ERROR(refused, "the cable was pulled");
  EXPECT(client.engine().stats().failed_device);
  EXPECT_EQ(client.engine().stats().failed, 5);
  expect_idle(client.engine());
}

// A step that stands still makes the age grow, and a layer of any rank that goes on makes it small.
TEST(a_stalled_step_is_told_from_a_slow_one_and_names_its_rank) {
  Gate gate;
  std::atomic<int32_t> layers{0};
  std::atomic<double> layer_at{0};
  Script s = script();
  s.gate = [&] { return gate.pass(); };
  s.progress_of_ranks = [&]() -> std::vector<Decoder::Progress> {
    return {{7, layer_at}, {layers, layer_at}};
  };
  Client client(scripted(s));
  EXPECT_EQ(client.engine().stats().last_step_age, 0);
  client.submit(request(5, 3));
  gate.wait_for_arrivals(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EngineStats stats = client.engine().stats();
  EXPECT_GE(stats.last_step_age, 0.05);
  EXPECT_EQ(stats.launched_rows, 5);
  EXPECT_EQ(stats.launched_seqs, 1);
  EXPECT(stats.rank_layers == std::vector<int32_t>({7, 0}));
  layers = 3;
  layer_at = now_seconds();
  const double before = stats.last_step_age;
  stats = client.engine().stats();
  EXPECT(stats.last_step_age < before);
  EXPECT(stats.rank_layers == std::vector<int32_t>({7, 3}));
  gate.open();
  client.wait();
  expect_idle(client.engine());
  for (int i = 0; i < 1000 && client.engine().stats().last_step_age > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(client.engine().stats().last_step_age, 0);
}

TEST(an_exception_on_the_engine_thread_is_a_failure_too) {
  Script s = script();
  int wakes = 0;
  std::atomic<bool> submitted{false};
  std::unique_ptr<Engine> engine = scripted(s)([&] {
    while (!submitted) std::this_thread::yield();
    if (++wakes == 1) throw std::bad_alloc();
  });
  for (uint64_t id = 1; id <= 2; ++id) {
    Request r = request(4, 200);
    r.id = id;
    EXPECT_OK(engine->submit(r));
  }
  submitted = true;
  int ended = 0;
  std::vector<Delta> deltas;
  while (ended < 2) {
    engine->drain_deltas(&deltas);
    for (const Delta& d : deltas) {
      if (d.finish == Finish::none) continue;
      ++ended;
      EXPECT_ERROR(d.error, "the engine failed: std::bad_alloc");
    }
    std::this_thread::yield();
  }
  EXPECT(engine->stats().failed_device);
  expect_idle(*engine);
}

TEST(a_nan_fails_its_request_alone) {
  for (const bool run_ahead : {true, false}) {
    Script s = script();
    s.options.run_ahead = run_ahead;
    s.spoil = [](StepBuffer& step) {
      for (size_t i = 0; i < step.plan.spans.size(); ++i) {
        const Sequence& seq = *step.plan.spans[i].seq;
        if (seq.tokens[0] != 9 || seq.generated() < 2) continue;
        const StepBuffer::Part& part = step.parts[i];
        for (int32_t k = 0; k < part.num_samples; ++k) {
          step.output.samples[size_t(part.first_sample + k)].finite = false;
        }
      }
    };
    Client client(scripted(s));
    Request bad = request(40, 20);
    bad.prompt[0] = 9;
    bad.n = 2;
    const uint64_t a = client.submit(request(4, 20)), b = client.submit(bad),
                   c = client.submit(request(5, 20));
    client.wait();
    for (const Outcome& o : client.outcomes(b)) {
      EXPECT(o.finish == Finish::error);
      EXPECT_ERROR(o.error, "the model's logits are not numbers");
    }
    EXPECT_EQ(client.outcome(a).ids.size(), 20u);
    EXPECT_EQ(client.outcome(c).ids.size(), 20u);
    EXPECT(!client.engine().stats().failed_device);
    expect_idle(client.engine());
    // What it computed is not trusted.
    EXPECT_EQ(client.run(bad).timings.cached_tokens, 0);
  }
}

// A sequence under a penalty costs nobody a step ahead, nor itself: its draws are described when
// the step is on its way.
TEST(a_penalised_sequence_and_free_ones_launch_ahead) {
  for (const bool mixed : {false, true}) {
    Script s = script();
    std::atomic<int> launched{0}, late{0}, both{0};
    s.on_launch = [&](const StepBuffer& step) {
      ++launched;
      if (!step.is_late()) return;
      ++late;
      both += step.plan.spans.size() == 2;
    };
    Client client(scripted(s));
    Request penalised = request(4, 20), free = request(5, 20);
    penalised.sampling.frequency_penalty = 1;
    client.engine().pause(Pause::all);  // both begin at once
    const uint64_t a = client.submit(penalised), b = mixed ? client.submit(free) : 0;
    client.engine().pause(Pause::none);
    client.wait();
    EXPECT_EQ(client.outcome(a).ids.size(), 20u);
    if (mixed) EXPECT_EQ(client.outcome(b).ids.size(), 20u);
    // Every draw but the first, and nearly every step had the other sequence in it. One step is
    // launched for nothing: the sequence's last token is drawn by then.
    EXPECT_GE(late.load(), 18);
    if (mixed) EXPECT_GE(both.load(), 15);
    EXPECT_LE(launched.load(), mixed ? 24 : 22);
    expect_idle(client.engine());
  }
}

// A device that fails, or a request that is aborted, while a late step is on its way.
TEST(a_late_step_survives_the_end_of_its_sequence) {
  for (const bool fails : {false, true}) {
    Gate gate;
    Script s = script();
    s.gate = [&] { return gate.pass(); };
    Client client(scripted(s));
    Request penalised = request(4, 100);
    penalised.sampling.frequency_penalty = 1;
    penalised.sampling.bad_words = {{1, 2}, {3, 4}};
    const uint64_t a = client.submit(penalised), b = client.submit(request(5, 30));
    gate.let(3);
    gate.wait_for_arrivals(4);
    if (fails) {
      gate.set_status(Status::internal("the cable was pulled"));
    } else {
      client.abort(a);
    }
    gate.open();
    client.wait();
    EXPECT(client.outcome(a).finish == (fails ? Finish::error : Finish::abort));
    EXPECT(client.outcome(b).finish == (fails ? Finish::error : Finish::length));
    expect_idle(client.engine());
  }
}

TEST(a_slow_reader_gets_one_wake_and_everything) {
  Script s = script();
  std::atomic<int> wakes{0};
  std::unique_ptr<Engine> engine = scripted(s)([&] { ++wakes; });
  Request r = request(4, 100);
  r.id = 1;
  REQUIRE_OK(engine->submit(r));
  while (engine->stats().generated_tokens < 100)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  engine->close();
  EXPECT_EQ(wakes.load(), 1);
  std::vector<Delta> deltas;
  engine->drain_deltas(&deltas);
  size_t tokens = 0;
  for (const Delta& d : deltas) tokens += d.ids.size();
  EXPECT_EQ(tokens, 100u);
  EXPECT(deltas.back().finish == Finish::length);
}

TEST(several_threads_submit_abort_and_read_stats) {
  Script s = script();
  s.options.max_waiting = 10000;
  Client client(scripted(s));
  Engine& engine = client.engine();
  std::atomic<int> ended{0}, accepted{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 1; t <= 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 100; ++i) {
        Request r = request(int32_t(1 + i % 40), int32_t(1 + i % 9));
        r.id = t * 1000 + i;
        accepted += bool(engine.submit(std::move(r)));
        if (i % 3 == 0) engine.abort(t * 1000 + i);
        static_cast<void>(engine.stats());
      }
    });
  }
  for (std::thread& t : threads) t.join();
  std::vector<Delta> deltas;
  while (ended < accepted) {
    engine.drain_deltas(&deltas);
    for (const Delta& d : deltas) ended += d.finish != Finish::none;
    std::this_thread::yield();
  }
  EXPECT_EQ(accepted.load(), 300);
  EXPECT_EQ(ended.load(), 300);
  expect_idle(engine);
}

// What the scripted device draws, one token after another, by the policy alone.
std::vector<int32_t> one_by_one(Request r, const std::string& text) {
  const auto vocabulary = std::make_shared<const Vocabulary>(
      script().options.token_bytes, std::vector<bool>{}, std::vector<int32_t>{kEos});
  r.sampling.grammar = grammar_of(text, vocabulary);
  const DrawRules rules(r.sampling, std::vector<int32_t>{kEos}, kTokens, kVocab);
  DrawPolicy policy(&r.sampling, &rules, 0, r.prompt);
  policy.begin();
  uint64_t hash = ScriptedDevice::kStart;
  for (const int32_t id : r.prompt) hash = ScriptedDevice::extend(hash, id);
  std::vector<int32_t> ids;
  while (int32_t(ids.size()) < r.sampling.max_tokens) {
    SampleInput s;
    policy.describe(policy.taken(), &s);
    s.position = r.prompt.size() + ids.size();
    const int32_t id = ScriptedDevice::draw(hash, s, kVocab);
    ids.push_back(id);
    if (id == kEos) break;
    policy.take(id, script().options.token_bytes[size_t(id)]);
    hash = ScriptedDevice::extend(hash, id);
  }
  return ids;
}

// A grammar's text that a limit cuts ends with a whole character; another text shows that one was
// cut.
TEST(a_cut_text_of_a_grammar_has_no_half_character) {
  Script s = script();
  const std::string_view euro = "\u20AC";
  for (size_t i = 0; i < euro.size(); ++i) s.options.token_bytes[i] = euro[i];
  Client client(scripted(s));
  const std::string_view texts[] = {"", "", "\u20AC", "\u20AC", "\u20AC", "\u20AC\u20AC"};
  for (int32_t most = 1; most <= 6; ++most) {
    Request r = request(4, most);
    r.sampling.grammar = grammar_of("root ::= \"\\u20AC\"{9}");
    const Outcome got = client.run(r);
    EXPECT(got.finish == Finish::length);
    EXPECT_EQ(int32_t(got.ids.size()), most);
    EXPECT_EQ(got.text, texts[most - 1]);
  }
  Request free = request(4, 2);
  free.sampling.allowed_ids = {0};
  EXPECT_EQ(client.run(free).text, "\uFFFD\uFFFD");
  expect_idle(client.engine());
}

// Text that a grammar leaves no choice about goes into one step, with the same tokens; a sequence
// beside it that is free has its own.
TEST(forced_text_is_jumped_over) {
  const std::string text = R"(root ::= [A-H] "IJKLMNOPQRST" ([A-H] "UVWXYZ" | "[\\]^_`abc") [A-C])";
  int steps = 0;
  Script s = script();
  s.on_launch = [&](const StepBuffer&) { ++steps; };
  Client client(scripted(s));
  const Outcome free = client.run(request(6, 30));
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Request r = request(int32_t(3 + seed), 40);
    r.sampling.ignore_eos = false;
    r.sampling.seed = seed;
    const std::vector<int32_t> want = one_by_one(r, text);
    r.sampling.grammar = grammar_of(text);
    steps = 0;
    const Outcome got = client.run(r);
    EXPECT(got.ids == want);
    EXPECT(got.finish == Finish::stop);
    EXPECT_GE(got.timings.accepted_tokens, 12);
    EXPECT_LT(steps, int(got.ids.size()) - 8);
    // In company, and behind each other.
    std::vector<uint64_t> ids;
    for (int i = 0; i < 3; ++i) ids.push_back(client.submit(r));
    const uint64_t beside = client.submit(request(6, 30));
    client.wait();
    for (const uint64_t id : ids) EXPECT(client.outcome(id).ids == want);
    EXPECT(client.outcome(beside).ids == free.ids);
  }
  // A limit inside it.
  Request cut = request(4, 9);
  cut.sampling.grammar = grammar_of(text);
  const Outcome got = client.run(cut);
  EXPECT_EQ(got.ids.size(), 9u);
  EXPECT(got.finish == Finish::length);
  expect_idle(client.engine());
}

// Where ways multiply later on, the request ends with an error in bounded time, and others go on.
TEST(a_grammar_that_becomes_too_ambiguous_ends_its_request_alone) {
  std::string doubling = "root ::= [A-B] r0 \"C\"\nr40 ::= [A-B] | \"\"\n";
  for (int i = 0; i < 40; ++i) {
    const std::string next = "r" + std::to_string(i + 1);
    doubling += "r" + std::to_string(i) + " ::= " + next + " " + next + "\n";
  }
  std::string counted = "root ::= " + std::string(60, '(') + "[A-Z] | \"AB\"";
  for (int i = 0; i < 60; ++i) counted += "){1,3}";
  for (const std::string& text : {doubling, counted}) {
    Client client(scripted(script()));
    Request r = request(4, 30);
    r.sampling.grammar = grammar_of(text);
    const uint64_t bad = client.submit(r), good = client.submit(request(6, 30));
    client.wait();
    EXPECT(client.outcome(bad).finish == Finish::error);
    EXPECT_ERROR(client.outcome(bad).error, "it is too ambiguous");
    EXPECT(client.outcome(good).finish == Finish::length);
    EXPECT_EQ(client.engine().stats().failed, 0);
    expect_idle(client.engine());
  }
}

// What is banned by the tokens before is found while it runs: an error of the caller's.
TEST(a_request_that_bans_all_it_allows_ends_alone_with_an_error_of_its_own) {
  for (const int32_t before : {1, 3}) {
    Client client(scripted(script()));
    Request r = request(4, 30);
    r.n = 2;
    r.sampling.allowed_ids = {7};
    r.sampling.bad_words = {std::vector<int32_t>(size_t(before) + 1, 7)};
    const uint64_t bad = client.submit(r), good = client.submit(request(6, 30));
    client.wait();
    EXPECT(client.outcome(bad).finish == Finish::error);
    EXPECT_EQ(client.outcome(bad).ids.size(), size_t(before));
    EXPECT(client.outcome(bad).error.code() == Code::invalid_argument);
    EXPECT_ERROR(client.outcome(bad).error, "bad_words: every token that may be drawn");
    EXPECT(client.outcome(good).finish == Finish::length);
    EXPECT_EQ(client.engine().stats().failed, 0);
    expect_idle(client.engine());
  }
}

TEST(stats_say_what_happened) {
  Script s = script();
  Client client(scripted(s));
  EXPECT_EQ(client.engine().stats().last_step_age, 0);
  client.run(request(40, 5));
  const Outcome again = client.run(request(40, 5));
  EXPECT_EQ(again.timings.cached_tokens, 32);
  EXPECT(again.miss.reason == CacheMiss::Reason::none);
  const EngineStats stats = client.engine().stats();
  EXPECT_EQ(stats.prompt_tokens, 80);
  EXPECT_EQ(stats.queried_tokens, 80);
  EXPECT_EQ(stats.cached_tokens, 32);
  EXPECT_EQ(stats.generated_tokens, 10);
  EXPECT_EQ(stats.finished_length, 2);
  EXPECT_EQ(stats.miss_never_seen, 1);
  EXPECT_EQ(stats.blocks_total, 64);
  EXPECT_EQ(stats.blocks_used, 0);
  EXPECT_GE(stats.blocks_cached, 2);
  EXPECT_EQ(stats.last_step_seqs, 1);
  while (client.engine().stats().last_step_age > 0) std::this_thread::yield();  // until it is idle
  const Timings& t = again.timings;
  EXPECT(t.queue >= 0 && t.prefill >= 0);
  EXPECT(t.decode > 0);  // four steps came after the first token
  EXPECT_LT(t.queue + t.prefill + t.decode, 30);
}

TEST(a_stuck_device_shows_in_the_age) {
  Gate gate;
  Script s = script();
  s.gate = [&] { return gate.pass(); };
  Client client(scripted(s));
  client.submit(request());
  gate.wait_for_arrivals(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GE(client.engine().stats().last_step_age, 0.015);
  gate.open();
  client.wait();
}

}  // namespace
}  // namespace nemotron::test
