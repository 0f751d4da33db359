// A draft model changes how many steps a text takes, and no bit of it.
#include "engine/drafter.h"

#include "mix.h"
#include "parallel.h"
#include "scripted_engine.h"

namespace nemotron::test {
namespace {

const EngineStats::Drafts& by_model(const EngineStats& stats) {
  return stats.drafts[size_t(DraftSource::model)];
}

// The tiny model with a head that is a little flatter: it often draws what the other one draws.
const std::string& near_model_dir() {
  static const TempDir dir;
  static const bool written = (write_tiny_checkpoint(dir, 0.30f), true);
  static_cast<void>(written);
  return dir.path();
}

// Other weights altogether.
const std::string& far_model_dir() {
  static const TempDir dir;
  static const bool written = (write_tiny_checkpoint(dir, 0.35f, 1000), true);
  static_cast<void>(written);
  return dir.path();
}

const std::vector<Outcome>& expected() {
  static const std::vector<Outcome> all = alone(requests());
  return all;
}

TEST(a_draft_model_changes_no_bit) {
  for (const std::string& dir : {tiny_model_dir(), near_model_dir(), far_model_dir()}) {
    for (const int32_t budget : {7, 64}) {
      EngineOptions o = tiny_options();
      o.draft_dir = dir;
      o.max_batched_tokens = budget;
      o.max_seqs = budget == 7 ? 3 : 8;
      const EngineStats s = expect_equal(o, requests(), expected());
      EXPECT_GT(by_model(s).drafted, budget == 64 ? 50 : 0);
      EXPECT(by_model(s).accepted <= by_model(s).drafted);
      if (dir == near_model_dir() && budget == 64) EXPECT_GT(by_model(s).accepted, 50);
    }
  }
}

TEST(a_draft_model_changes_no_bit_after_preemption) {
  const std::vector<Request> all = growing_requests();
  const std::vector<Outcome> plain = alone(all);
  for (const bool prefix_cache : {true, false}) {
    EngineOptions o = crowded_options();
    o.kv_memory *= 2;  // a block has a part for each model
    o.prefix_cache = prefix_cache;
    o.draft_dir = near_model_dir();
    const EngineStats stats = expect_equal(o, all, plain);
    EXPECT_GT(stats.preemptions, 10);
    EXPECT_GT(by_model(stats).accepted, 10);
  }
}

TEST(a_draft_model_changes_no_bit_of_ranks) {
  const TempDir dir;
  write_checkpoint(dir, {});
  EngineOptions o = tiny_options();
  o.model_dir = dir.path();
  o.prefix_cache = false;
  std::vector<Outcome> plain;
  {
    Client client(o);
    REQUIRE_OK(client.status());
    for (const Request& r : requests()) plain.push_back(client.run(r));
  }
  o.ranks = o.device.threads = 2;
  o.draft_dir = dir.path();
  const EngineStats stats = expect_equal(o, requests(), plain);
  EXPECT_GT(by_model(stats).accepted, 50);
}

// A model that drafts for itself is always right, drawn or greedy, unless its keys are wrong: with
// prompts in chunks, shared prefixes, texts that grow through many blocks.
TEST(a_model_knows_what_it_will_draw) {
  for (const int32_t budget : {5, 64}) {
    EngineOptions o = tiny_options();
    o.max_batched_tokens = budget;
    o.max_seqs = budget == 5 ? 2 : 8;
    o.draft_dir = o.model_dir;
    o.draft_tokens = 4;
    o.draft_rows = 40;
    Client client(o);
    REQUIRE_OK(client.status());
    for (int round = 0; round < 2; ++round) {
      for (uint32_t seed = 0; seed < 12; ++seed) {
        Request r;
        r.prompt = random_prompt(90, seed / 3);  // by threes the same
        r.prompt.resize(30 + 5 * (seed % 3) + seed);
        r.n = seed % 4 == 0 ? 2 : 1;
        r.sampling.max_tokens = 50;
        r.sampling.ignore_eos = true;
        r.sampling.seed = seed;
        r.sampling.temperature = seed % 3 == 0 ? 0 : 1;
        if (seed % 4 == 1) r.sampling.top_p = 0.9f;
        if (seed % 4 == 2) r.sampling.logit_bias = {{65, 3.0f}};
        client.submit(r);
      }
      client.wait();
    }
    const EngineStats s = client.engine().stats();
    EXPECT_GT(s.cached_tokens, 100);
    EXPECT_GT(by_model(s).drafted, 300);
    EXPECT_EQ(by_model(s).accepted, by_model(s).drafted);
    expect_all_free(client);
  }
}

TEST(lookup_goes_before_the_draft_model) {
  EngineOptions o = tiny_options();
  o.draft_dir = o.model_dir;
  Client client(o);
  REQUIRE_OK(client.status());
  Request r;
  r.prompt = random_prompt(20, 1);
  r.sampling.max_tokens = 100;
  r.sampling.ignore_eos = true;
  r.sampling.allowed_ids = {97, 98, 99};
  r.sampling.temperature = 0.3f;
  r.sampling.seed = 5;
  const Outcome plain = client.run(r);
  r.sampling.lookup_tokens = 3;
  EXPECT_EQ(difference(client.run(r), plain), "");
  const EngineStats s = client.engine().stats();
  EXPECT_GT(s.drafts[size_t(DraftSource::lookup)].accepted, 5);
  EXPECT_GT(by_model(s).accepted, 5);
}

// --- with a script: the draft's device checks that what it reads of the cache is unbroken ---

struct Drafted {
  Script script = test::script();
  std::atomic<int> launches{0}, targets{0};
  // May change what the draft model draws.
  std::function<void(StepBuffer&)> spoil;
  std::function<Status()> gate;
  int32_t layers = 0;  // of its progress

  Drafted() {
    script.options.draft_tokens = 4;
    script.options.draft_rows = 20;
    script.make_draft = [this] {
      auto runner = std::make_unique<ScriptedRunner>(script.num_blocks, script.block_size, kVocab);
      runner->on_launch = [this](const StepBuffer& step) {
        ++launches;
        EXPECT_LE(step.input.rows(), script.options.max_batched_tokens);
        EXPECT_LE(step.input.spans.size(), size_t(script.options.max_seqs));
      };
      runner->spoil = spoil;
      runner->gate = gate;
      runner->progress_of_ranks = [this] {
        return std::vector<Decoder::Progress>{{.layers = layers, .at = 0}};
      };
      return runner;
    };
    script.on_launch = [this](const StepBuffer&) { ++targets; };
  }
};

// Wrong in so many of a hundred draws.
std::function<void(StepBuffer&)> wrong_in(uint32_t percent) {
  return [percent, rng = std::mt19937(7)](StepBuffer& step) mutable {
    for (SampleOutput& o : step.output.samples) {
      if (rng() % 100 < percent) o.id = (o.id + 1) % kTokens;
    }
  };
}

TEST(a_right_draft_saves_most_steps) {
  Drafted d;
  Client client(scripted(d.script));
  const Outcome plain = Client(scripted(script())).run(request(20, 100));
  const Outcome got = client.run(request(20, 100));
  EXPECT_EQ(difference(got, plain), "");
  EXPECT_LE(d.targets.load(), 25);  // of 100
  EXPECT_EQ(got.timings.accepted_tokens, got.timings.drafted_tokens);
  EXPECT_GE(got.timings.accepted_tokens, 75);
}

TEST(a_wrong_draft_is_soon_left_alone) {
  Drafted d;
  d.spoil = wrong_in(100);
  Client client(scripted(d.script));
  const Outcome plain = Client(scripted(script())).run(request(20, 200));
  const Outcome got = client.run(request(20, 200));
  EXPECT_EQ(difference(got, plain), "");
  EXPECT_EQ(got.timings.accepted_tokens, 0);
  EXPECT_GE(got.timings.drafted_tokens, 4 + 2 + 1 + 8);  // and is tried again
  EXPECT_LE(got.timings.drafted_tokens, 4 + 2 + 1 + 12);
}

TEST(guesses_get_as_long_as_they_are_right) {
  Drafted d;
  int number = 0;
  d.spoil = [&](StepBuffer& step) {  // right from the fiftieth on
    for (SampleOutput& o : step.output.samples) {
      if (++number < 50) o.id = (o.id + 1) % kTokens;
    }
  };
  Client client(scripted(d.script));
  Request r = request(20, 230);
  r.sampling.max_tokens = 230;
  d.script.max_model_len = 256;
  const Outcome got = client.run(r);
  const Outcome plain = Client(scripted(script())).run(r);
  EXPECT_EQ(difference(got, plain), "");
  EXPECT_EQ(got.timings.accepted_tokens, 0);  // 14 tries in 230 tokens do not get there
  number = 50;
  const Outcome again = client.run(r);
  EXPECT_EQ(difference(again, plain), "");
  EXPECT_GE(again.timings.accepted_tokens, 170);
}

TEST(a_full_batch_goes_without_drafts_and_they_come_back) {
  Drafted d;
  d.script.options.max_seqs = 8;
  d.script.options.draft_rows = 8;
  bool full = false, drafted = false, came_back = false;
  d.script.on_launch = [&](const StepBuffer& step) {
    int32_t drafts = 0;
    for (const PlannedSpan& span : step.plan.spans) drafts += span.drafts;
    full = full || step.plan.spans.size() == 8;
    if (drafts > 0) {
      EXPECT_LE(step.plan.rows, 8);
      EXPECT_LE(step.plan.spans.size(), 4u);
      drafted = true;
      came_back = came_back || full;
    }
  };
  Client client(scripted(d.script));
  const Outcome plain = Client(scripted(script())).run(request(10, 200));
  client.engine().pause(Pause::all);  // until all are there
  std::vector<uint64_t> ids = {client.submit(request(10, 200))};
  for (int i = 0; i < 7; ++i) ids.push_back(client.submit(request(10 + i, 40)));
  client.engine().pause(Pause::none);
  client.wait();
  EXPECT_EQ(difference(client.outcome(ids[0]), plain), "");
  EXPECT(full);
  EXPECT(drafted);
  EXPECT(came_back);
  expect_all_free(client);
}

TEST(a_draft_without_numbers_is_no_draft) {
  Drafted d;
  d.spoil = [](StepBuffer& step) {
    for (SampleOutput& o : step.output.samples) o.finite = false;
  };
  Client client(scripted(d.script));
  const Outcome plain = Client(scripted(script())).run(request(20, 60));
  const Outcome got = client.run(request(20, 60));
  EXPECT_EQ(difference(got, plain), "");
  EXPECT_EQ(got.timings.drafted_tokens, 0);
  expect_all_free(client);
}

TEST(a_draft_device_that_fails_fails_the_engine) {
  Drafted d;
  std::atomic<int> steps{0};
  d.gate = [&] { return ++steps > 3 ? Status::internal("no power") : Status(); };
  Client client(scripted(d.script));
  const Outcome got = client.run(request(20, 60));
  EXPECT(got.finish == Finish::error);
  EXPECT_ERROR(got.error, "the draft model's device failed: no power");
  EXPECT(client.engine().stats().failed_device);
  EXPECT_ERROR(client.engine().submit(request()), "no power");
}

// The first draw is the prompt's last row, which the prompt's kernels compute.
TEST(no_guess_is_a_row_of_a_prompt) {
  Drafted d;
  d.script.options.max_batched_tokens = 32;
  d.script.options.run_ahead = false;
  Client client(scripted(d.script));
  client.engine().pause(Pause::all);  // until both are there
  const uint64_t beside = client.submit(request(20, 100));
  Request r = request(13, 20);  // takes a step and a row
  r.prompt[0] = 8;
  r.sampling.lookup_tokens = 3;
  const uint64_t looks_up = client.submit(r);
  client.engine().pause(Pause::none);
  client.wait();
  EXPECT_EQ(client.outcome(beside).ids.size(), 100u);
  EXPECT_EQ(difference(client.outcome(looks_up), Client(scripted(script())).run(r)), "");
}

// A draft model that stands still is told apart from the model that it drafts for.
TEST(stats_tell_of_the_step_of_the_draft_model) {
  Drafted d;
  std::atomic<bool> stands{false}, goes_on{false};
  d.layers = 3;
  d.script.progress_of_ranks = [] {
    return std::vector<Decoder::Progress>{{.layers = 7, .at = 0}};
  };
  d.gate = [&] {
    stands = true;
    while (!goes_on) std::this_thread::yield();
    return Status();
  };
  Client client(scripted(d.script));
  EXPECT(!client.engine().stats().drafting);
  const uint64_t id = client.submit(request(20, 30));
  while (!stands) std::this_thread::yield();
  const EngineStats s = client.engine().stats();
  EXPECT(s.drafting);
  EXPECT_EQ(s.launched_rows, 20);  // the first guess follows the prompt: it computes that first
  EXPECT_EQ(s.launched_seqs, 1);
  EXPECT(s.rank_layers == std::vector<int32_t>{3});
  goes_on = true;
  client.wait();
  EXPECT_EQ(client.outcome(id).ids.size(), 30u);
  const EngineStats after = client.engine().stats();
  EXPECT(!after.drafting);
  EXPECT(after.rank_layers == std::vector<int32_t>{7});
}

// Steps that begin again begin with the draft model: where it stands still, that shows too.
TEST(a_draft_model_that_stands_still_after_a_pause_shows_in_the_age) {
  using Change = std::function<void(Engine&)>;
  const std::pair<Change, Change> ways[] = {
      {[](Engine& e) { e.pause(Pause::all); }, [](Engine& e) { e.pause(Pause::none); }},
      {[](Engine& e) { e.pause(Pause::all); }, [](Engine& e) { e.drain(); }},
      {[](Engine& e) { e.stop_steps(true); }, [](Engine& e) { e.stop_steps(false); }},
  };
  for (const auto& [halt, go_on] : ways) {
    Drafted d;
    std::atomic<int> steps{0};
    std::atomic<bool> armed{false}, stands{false};
    d.gate = [&] {
      ++steps;
      while (armed) stands = true, std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return Status();
    };
    Client client(scripted(d.script));
    Engine& engine = client.engine();
    const uint64_t id = client.submit(request(20, 200));
    while (steps < 3) std::this_thread::yield();
    halt(engine);
    while (engine.stats().last_step_age > 0) std::this_thread::yield();  // until it sleeps
    armed = true;
    go_on(engine);
    while (!stands) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const EngineStats s = engine.stats();
    EXPECT(s.drafting);
    EXPECT_GE(s.last_step_age, 0.05);
    armed = false;
    client.wait();
    EXPECT_EQ(client.outcome(id).ids.size(), 200u);
  }
}

// Everything at once, in a small pool: the hashes of both devices hold, and so do the texts.
TEST(drafts_under_random_load) {
  int64_t launches = 0;
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    std::mt19937 rng(seed);
    Drafted d;
    d.spoil = wrong_in(rng() % 3 == 0 ? 0 : rng() % 100);
    d.script.num_blocks = int32_t(20 + rng() % 20);
    d.script.options.max_seqs = int32_t(2 + rng() % 6);
    d.script.options.max_batched_tokens = int32_t(3 + rng() % 60);
    d.script.options.draft_tokens = int32_t(1 + rng() % 8);
    d.script.options.draft_rows = int32_t(2 + rng() % 30);
    d.script.options.prefix_cache = rng() % 4 != 0;
    d.script.options.run_ahead = rng() % 4 != 0;
    Client client(scripted(d.script)), plain(scripted(script()));
    std::map<uint64_t, Request> sent;
    std::set<uint64_t> aborted;
    for (int turn = 0; turn < 120; ++turn) {
      Request r = request(int32_t(1 + rng() % 120), int32_t(1 + rng() % 80));
      for (int32_t& id : r.prompt) id = int32_t(rng() % 50 == 0 ? rng() % kTokens : id);
      r.sampling.seed = rng() % 5;
      r.sampling.ignore_eos = rng() % 2;
      r.priority = int32_t(rng() % 3);
      if (rng() % 4 == 0) r.sampling.lookup_tokens = 3;
      if (rng() % 6 == 0) r.sampling.frequency_penalty = 0.5f;
      if (rng() % 6 == 0) r.sampling.num_prompt_logprobs = 1;
      if (rng() % 5 == 0) r.sampling.grammar = grammar_of("root ::= ([A-H] \"IJKL\")+");
      if (rng() % 5 == 0) r.sampling.stop = {"AB", "C"};
      const uint64_t id = client.submit(r);
      sent[id] = r;
      if (rng() % 6 == 0) {
        aborted.insert(1 + rng() % id);
        client.abort(*std::prev(aborted.end()));
      }
      while (rng() % 3 == 0 && !client.idle()) client.wait(false);
    }
    client.wait();
    for (const auto& [id, r] : sent) {
      if (client.outcome(id).finish == Finish::abort) continue;
      EXPECT_EQ(difference(client.outcome(id), plain.run(r)), "");
    }
    launches += d.launches;
    expect_all_free(client);
  }
  EXPECT_GT(launches, 2000);
}

// A wrong guess may stand before draws that nothing is left for: they end no request.
TEST(nothing_to_draw_behind_a_guess_ends_nothing) {
  Drafted d;
  Client client(scripted(d.script));
  const Outcome plain = client.run(request(20, 60));
  int number = 0;
  d.script.spoil = [&](StepBuffer& step) {
    for (size_t i = 1; i < step.output.samples.size(); ++i) {
      if (++number % 3 == 0) step.output.samples[i].finite = false;
    }
  };
  Client spoilt(scripted(d.script));
  EXPECT_EQ(difference(spoilt.run(request(20, 60)), plain), "");
  EXPECT_GT(number, 20);
  expect_all_free(spoilt);
}

// --- what cannot be a draft model ---

std::string refusal(EngineOptions o) {
  Client client(o);
  EXPECT(!client.status());
  return client.status().message();
}

// A CPU's: fewer where the weights are packed, since more rows cost more there.
TEST(draft_rows_follow_the_weights) {
  EngineOptions o = tiny_options();
  o.draft_dir = o.model_dir;
  const auto rows = [&] {
    Client client(o);
    EXPECT_OK(client.status());
    return client.status() ? client.engine().info().draft->rows : 0;
  };
  EXPECT_EQ(rows(), 16);
  o.format = WeightFormat::int4;
  EXPECT_EQ(rows(), 4);
  o.draft_rows = 9;
  EXPECT_EQ(rows(), 9);
}

TEST(draft_models_that_do_not_fit_are_refused) {
  const auto contains = [](const std::string& text, const std::string& part) {
    if (text.find(part) == std::string::npos) fail(__FILE__, __LINE__, text + "\n  no: " + part);
  };
  EngineOptions o = tiny_options();
  o.draft_dir = "/nowhere";
  contains(refusal(o), "draft_model: ");
  o.draft_dir = o.model_dir;
  o.draft_tokens = 0;
  contains(refusal(o), "draft_tokens: found 0, expected 1 to 32");
  o.draft_tokens = 4;
  o.draft_rows = 1;
  contains(refusal(o), "draft_rows: found 1, expected at least 2");
  o.draft_rows = 8;
  o.reward_rows = {5};
  contains(refusal(o), "draft_model: a reward model scores and draws nothing");
  o.reward_rows = {};

  const auto changed = [](const char* field, const char* value) {
    auto dir = std::make_unique<TempDir>();
    write_tiny_checkpoint(*dir);
    Members config = llama_config();
    config.set("hidden_size", "64").set("intermediate_size", "96").set("head_dim", "16");
    config.set("vocab_size", std::to_string(kTinyVocab));
    config.set("max_position_embeddings", std::to_string(kTinyContext));
    config.set("eos_token_id", std::to_string(kTinyEos));
    config.set(field, value);
    dir->write("config.json", config.text());
    return dir;
  };
  const auto other = changed("vocab_size", "301");
  o.draft_dir = other->path();
  contains(refusal(o), "draft_model: its vocabulary has 301 ids, expected the 300 of");
  const auto shorter = changed("max_position_embeddings", "128");
  o.draft_dir = shorter->path();
  contains(refusal(o), "its context of 128 tokens is shorter than max_model_len, 512; expected");
  const auto wrong = changed("num_hidden_layers", "3");
  o.draft_dir = wrong->path();
  contains(refusal(o), "draft_model: ");
}

TEST(the_plan_of_memory_has_the_draft_model) {
  EngineOptions o = tiny_options();
  Client plain(o);
  o.draft_dir = o.model_dir;
  Client drafted(o);
  REQUIRE_OK(drafted.status());
  const MemoryPlan& a = plain.engine().info().plan;
  const MemoryPlan& b = drafted.engine().info().plan;
  EXPECT_EQ(a.draft + a.draft_kv + a.draft_kv_bytes_per_token, 0u);
  EXPECT_EQ(b.draft, b.weights + b.activations + b.reserve);
  EXPECT_EQ(b.draft_kv, b.kv);
  EXPECT_EQ(b.draft_kv_bytes_per_token, b.kv_bytes_per_token);
  EXPECT_EQ(b.total, b.weights + b.activations + b.reserve + b.kv + b.draft + b.draft_kv);
  EXPECT(b.table().find("draft model") != std::string::npos);
  EXPECT(a.table().find("draft") == std::string::npos);
  // Asked for, it is for both.
  o.kv_memory = int64_t(b.kv + b.draft_kv) / 2;
  Client half(o);
  REQUIRE_OK(half.status());
  EXPECT_EQ(half.engine().info().plan.num_blocks, b.num_blocks / 2);
  REQUIRE(half.engine().info().draft.has_value());
  EXPECT_EQ(half.engine().info().draft->tokens, o.draft_tokens);
  EXPECT_GT(half.engine().info().draft->load.bytes, 0u);
}

}  // namespace
}  // namespace nemotron::test
