// The rank thread: what reaches the device when, and when the caller hears of it.
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "../check.h"
#include "engine/rank_runner.h"

namespace nemotron::test {
namespace {

// What a device was told and may do, seen from the test's thread.
class Events {
 public:
  void add(const std::string& what) {
    const std::lock_guard lock(mutex_);
    text_ += (text_.empty() ? "" : " ") + what;
    changed_.notify_all();
  }
  // Within a time that is long for any machine.
  bool reach(const std::string& text) {
    std::unique_lock lock(mutex_);
    const bool reached =
        changed_.wait_for(lock, std::chrono::seconds(20), [&] { return text_ == text; });
    if (!reached) std::fprintf(stderr, "  events: %s\n  wanted: %s\n", text_.c_str(), text.c_str());
    return reached;
  }
  void allow(int n) {
    const std::lock_guard lock(mutex_);
    allowed_ += n;
    changed_.notify_all();
  }
  bool is_allowed() {
    const std::lock_guard lock(mutex_);
    return allowed_ > 0;
  }
  void pass() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return allowed_ > 0; });
    --allowed_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  int allowed_ = 0;
};

// `at_once`: a step runs while it is launched, as on the CPU; otherwise it runs until it is allowed
// to end, as on a GPU.
class StepDevice final : public Device {
 public:
  StepDevice(Events* events, bool at_once) : events_(*events), at_once_(at_once) {}
  Status status;

  std::string name() const override { return "steps"; }
  DType activation_dtype() const override { return DType::f32; }
  size_t free_bytes() const override { return size_t(1) << 30; }
  Status alloc(size_t bytes, void** out) noexcept override {
    return *out = std::malloc(bytes + 1), Status();
  }
  void free(void* p) noexcept override { std::free(p); }
  void upload(void*, const void*, size_t) noexcept override {}
  void download(void*, const void*, size_t) noexcept override {}
  Status pack_weight(std::span<const MatrixPart>, WeightUse, WeightFormat,
                     Weight*) noexcept override {
    return {};
  }
  Status prepare(const StepLimits&, const KvConfig&, const RopeTable&) noexcept override {
    return {};
  }
  void begin_step(const StepInput& in) noexcept override {
    events_.add("begin" + std::to_string(in.token_ids[0]));
  }
  void launch_step() noexcept override {
    if (at_once_) events_.pass();
    events_.add("launch");
  }
  bool step_done() noexcept override { return at_once_ || events_.is_allowed(); }
  Status wait_step() noexcept override {
    events_.add("wait");
    if (!at_once_) events_.pass();
    return status;
  }
  Status sync() noexcept override { return status; }
  void embed(Tensor, const Weight&) noexcept override {}
  void attention_input(Tensor, Tensor, const Norm&, const Linear&, int32_t) noexcept override {}
  void attention(Tensor, Tensor, int32_t, float) noexcept override {}
  void gemm_residual(Tensor, Tensor, const Linear&, const Norm*) noexcept override {}
  void mlp_input(Tensor, Tensor, const Norm&, const Linear&, Activation) noexcept override {}
  void norm(Tensor, Tensor, const Norm&, int64_t) noexcept override {}
  void head(Tensor, Tensor, std::span<const int32_t>, const Norm&,
            const Linear&) noexcept override {}
  void sample(Tensor, int32_t, int32_t, SampleOutput*) noexcept override { events_.add("sample"); }

 private:
  Events& events_;
  const bool at_once_;
};

struct Steps {
  explicit Steps(bool at_once, Status status = {}) {
    const Status started = RankRunner::start(
        {},
        [&](Rank* rank, const RankRunner::OnCaller&) -> Status {
          auto d = std::make_unique<StepDevice>(&events, at_once);
          d->status = status;
          rank->device = std::move(d);
          StepLimits limits;
          limits.max_rows = limits.max_spans = limits.max_samples = limits.vocab = 1;
          rank->shape.hidden = rank->shape.vocab = rank->shape.head_dim = 1;
          return Decoder::create(rank->shape, rank->weights, rank->device.get(), limits,
                                 &rank->decoder);
        },
        {}, &runner);
    EXPECT_OK(started);
    for (int32_t i = 0; i < 3; ++i) buffers[i].input.token_ids = {&ids[i], 1};
  }
  void launch(int i) { runner->launch(&buffers[i]); }
  Events events;
  const int32_t ids[3] = {0, 1, 2};
  StepBuffer buffers[3];
  std::unique_ptr<RankRunner> runner;
};

}  // namespace
}  // namespace nemotron::test

using namespace nemotron;
using namespace nemotron::test;

// The second step is on the device before anybody waits for the first, and the third before anybody
// waits for the second: a GPU is never without work.
TEST(two_steps_are_in_flight) {
  Steps s(false);
  s.launch(0);
  s.launch(1);
  REQUIRE(s.events.reach("begin0 launch begin1 launch"));
  s.events.allow(1);
  EXPECT_OK(s.runner->wait());
  s.launch(2);
  REQUIRE(s.events.reach("begin0 launch begin1 launch wait begin2 launch"));
  s.events.allow(2);
  EXPECT_OK(s.runner->wait());
  EXPECT_OK(s.runner->wait());
}

// A step that ran while it was launched is reported although the next one is in the queue and takes
// its time.
TEST(a_done_step_is_reported_at_once) {
  Steps s(true);
  s.events.allow(1);
  s.launch(0);
  s.launch(1);
  EXPECT_OK(s.runner->wait());
  REQUIRE(s.events.reach("begin0 launch wait begin1"));
  s.events.allow(1);
  EXPECT_OK(s.runner->wait());
}

TEST(a_failed_step_is_reported) {
  Steps s(false, Status::internal("it broke"));
  s.launch(0);
  s.launch(1);
  s.events.allow(2);
  EXPECT_ERROR(s.runner->wait(), "it broke");
  EXPECT_ERROR(s.runner->wait(), "it broke");
}

// A group's step is done when all have done it, and fails when one has failed.
TEST(a_step_of_a_group) {
  Events events[2];
  std::unique_ptr<RankRunner> runner;
  REQUIRE_OK(RankRunner::start(
      {.ranks = 2},
      [&](Rank* rank, const RankRunner::OnCaller&) -> Status {
        auto d = std::make_unique<StepDevice>(&events[rank->index], false);
        if (rank->index == 1) d->status = Status::internal("it broke");
        rank->device = std::move(d);
        StepLimits limits;
        limits.max_rows = limits.max_spans = limits.max_samples = limits.vocab = 1;
        rank->shape.hidden = rank->shape.vocab = rank->shape.head_dim = 1;
        return Decoder::create(rank->shape, rank->weights, rank->device.get(), limits,
                               &rank->decoder);
      },
      {}, &runner));
  const int32_t id = 0;
  StepBuffer buffer;
  buffer.input.token_ids = {&id, 1};
  runner->launch(&buffer);
  for (Events& e : events) REQUIRE(e.reach("begin0 launch"));
  std::atomic<bool> done{false};
  std::thread waiting([&] {
    EXPECT_ERROR(runner->wait(), "it broke");
    done = true;
  });
  events[0].allow(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT(!done.load());
  events[1].allow(1);
  waiting.join();
}

// Who waits for a rank that cannot be set up is told why.
TEST(a_rank_that_cannot_be_set_up_ends_the_others) {
  std::unique_ptr<RankRunner> runner;
  const Status s = RankRunner::start(
      {.ranks = 3},
      [&](Rank* rank, const RankRunner::OnCaller& on_caller) -> Status {
        on_caller([] {});
        int64_t value = 1;
        if (rank->index == 2) return Status::out_of_memory("no room for 3 bytes");
        const bool agreed = rank->group->smallest(rank->index, "its plan", &value);
        return agreed ? Status() : rank->group->status();
      },
      {}, &runner);
  EXPECT_ERROR(s, "no room for 3 bytes");
  EXPECT(!runner);
}

#ifdef __GLIBC__
namespace {

// Stacks that no machine has room for, while it lives.
class NoThreads {
 public:
  NoThreads() {
    pthread_getattr_default_np(&before_);
    pthread_attr_t huge;
    pthread_attr_init(&huge);
    pthread_attr_setstacksize(&huge, size_t(1) << 50);
    pthread_setattr_default_np(&huge);
    pthread_attr_destroy(&huge);
  }
  ~NoThreads() {
    pthread_setattr_default_np(&before_);
    pthread_attr_destroy(&before_);
  }

 private:
  pthread_attr_t before_;
};

}  // namespace

TEST(a_machine_without_threads_is_no_hang) {
  std::unique_ptr<RankRunner> runner;
  const auto never = [](Rank*, const RankRunner::OnCaller&) -> Status {
    return Status::internal("it is not there");
  };
  const NoThreads none;
  EXPECT_ERROR(RankRunner::start({}, never, {}, &runner), "no thread can be made");
  EXPECT_ERROR(RankRunner::start({.ranks = 2}, never, {}, &runner),
               "rank 0 of 2, last at its start: no thread can be made");
  EXPECT(!runner);
}

// Those that are there wait for the others: at a meeting, for the caller, or for their end.
TEST(a_machine_without_threads_for_all_ranks_is_no_hang) {
  for (const bool meets : {true, false}) {
    bool some_were_missing = false;
    for (int round = 0; round < 1000 && !some_were_missing; ++round) {
      std::unique_ptr<NoThreads> none;  // as soon as the first rank is there
      std::unique_ptr<RankRunner> runner;
      const Status s = RankRunner::start(
          {.ranks = 64},
          [&](Rank* rank, const RankRunner::OnCaller& on_caller) -> Status {
            if (rank->index == 0) none = std::make_unique<NoThreads>();
            if (rank->index == 1) on_caller([] {});
            int64_t value = 1;
            if (!meets || rank->group->smallest(rank->index, "its plan", &value)) return {};
            return rank->group->status();
          },
          {}, &runner);
      runner.reset();
      some_were_missing = s.message().find("no thread can be made") != std::string::npos;
      EXPECT(s.ok() || some_were_missing);
    }
    EXPECT(some_were_missing);
  }
}
#endif

// Steps that nobody waited for end with the runner.
TEST(closing_with_steps_in_flight) {
  Steps s(false);
  s.launch(0);
  s.launch(1);
  s.runner.reset();
  EXPECT(s.events.reach("begin0 launch begin1 launch"));
}

namespace {

// Step 1 draws a token under a penalty, after one that step 0 draws.
struct LateSteps : Steps {
  explicit LateSteps(bool at_once) : Steps(at_once) {
    state.request.sampling.presence_penalty = 1;
    seq.request = &state;
    seq.tokens = {0};
    seq.num_prompt = 1;
    seq.draw.emplace(&state.request.sampling, &state.rules, 0, seq.tokens);
    for (int32_t i = 0; i < 2; ++i) {
      buffers[i].plan.spans = {
          {.seq = &seq, .first = i, .rows = 1, .drafts = 0, .generated = i > 0, .draws = true}};
      seq.pending = i;
      buffers[i].build();
    }
  }
  RequestState state;
  Sequence seq;
};

}  // namespace

// The forward pass of a late step is under way before the step before it is done; the sampling
// waits until its draws are described.
TEST(a_late_step_runs_before_its_draws_are_described) {
  LateSteps s(false);
  EXPECT(!s.buffers[0].is_late());
  REQUIRE(s.buffers[1].is_late());
  s.launch(0);
  s.launch(1);
  REQUIRE(s.events.reach("begin0 sample launch begin0 wait"));
  s.events.allow(1);
  EXPECT_OK(s.runner->wait());
  s.seq.tokens.push_back(3);
  s.seq.draw->take(3, "");
  EXPECT(s.buffers[1].input.samples[0].counts.empty());
  s.buffers[1].complete();
  REQUIRE_EQ(s.buffers[1].input.samples[0].counts.size(), 1u);
  EXPECT_EQ(s.buffers[1].input.samples[0].counts[0].id, 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  REQUIRE(s.events.reach("begin0 sample launch begin0 wait"));
  s.runner->completed(&s.buffers[1]);
  REQUIRE(s.events.reach("begin0 sample launch begin0 wait sample launch"));
  s.events.allow(1);
  EXPECT_OK(s.runner->wait());
}

TEST(a_late_step_on_a_device_that_runs_at_once) {
  LateSteps s(true);
  s.events.allow(2);
  s.launch(0);
  s.launch(1);
  EXPECT_OK(s.runner->wait());
  REQUIRE(s.events.reach("begin0 sample launch wait begin0"));
  s.seq.tokens.push_back(3);
  s.seq.draw->take(3, "");
  s.buffers[1].complete();
  s.runner->completed(&s.buffers[1]);
  EXPECT_OK(s.runner->wait());
  REQUIRE(s.events.reach("begin0 sample launch wait begin0 sample launch wait"));
}
