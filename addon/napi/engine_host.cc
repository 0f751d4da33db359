#include "napi/engine_host.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#ifdef __linux__
#include <unistd.h>
#endif

#include "napi/convert.h"

namespace nemotron {
namespace {

// How long the end of an environment waits for the engine's threads. A step may take longer (a
// large model on few cores); then the process goes on to end without them.
constexpr double kExitWaitSeconds = 2;
// The words of a wake are kept for the next one up to this size.
constexpr size_t kKeptWords = 1 << 16;

// The engine's threads take every processor while they compute a prompt; Node's thread, which has a
// few milliseconds of work at a time, should not wait behind them. Added to the nice value; a
// thread has its own on Linux, and the threads that it starts inherit it. It counts among the
// threads of one control group, so a container or a service loses nothing to other processes by it.
constexpr int kEngineNice = 5;

void step_back() {
#ifdef __linux__
  // -1 may be a nice value; should it fail, the engine merely runs as before.
  static_cast<void>(::nice(kEngineNice));
#endif
}

// These threads are detached: they own all that they touch, and the library is never unloaded.
void load(EngineOptions options, std::shared_ptr<Mailbox> mailbox) {
  step_back();
  std::unique_ptr<Engine> engine;
  Status status;
  try {
    status = Engine::create(
        std::move(options), [mailbox] { mailbox->wake(); },
        [&](const LoadProgress& progress) {
          mailbox->post([&](News* news) { news->progress = progress; });
        },
        [&](const MemoryPlan& plan) { mailbox->post([&](News* news) { news->plan = plan; }); },
        &engine);
  } catch (const std::exception& e) {  // no memory or no thread, most likely
    status = Status::out_of_memory(std::string("loading the model: ") + e.what());
  }
  mailbox->post([&](News* news) {
    news->opened = true;
    news->status = std::move(status);
    news->engine = std::move(engine);
  });
  // When nobody listens any more, `engine` is still here and is closed now.
}

void close(std::shared_ptr<Engine> engine, std::shared_ptr<Mailbox> mailbox) {
  engine->close();
  std::vector<Delta> last;
  engine->drain_deltas(&last);
  engine.reset();
  mailbox->set_closed();
  mailbox->post([&](News* news) {
    news->closed = true;
    news->last = std::move(last);
  });
}

}  // namespace

void on_wake(Napi::Env env, Napi::Function, EngineHost* host, void*) {
  // No environment: it is going away, and on_environment_exit has seen to everything.
  if (static_cast<napi_env>(env) == nullptr || host == nullptr) return;
  const Napi::HandleScope scope(env);
  const std::shared_ptr<EngineHost> alive = host->shared_from_this();
  host->handle_news(host->mailbox_->take());
}

EngineHost::EngineHost(Napi::Env env, const Napi::Object& listeners, Wrap wrap)
    : env_(env),
      wrap_(wrap),
      on_progress_(Napi::Persistent(listeners.Get("onProgress").As<Napi::Function>())),
      on_plan_(Napi::Persistent(listeners.Get("onPlan").As<Napi::Function>())),
      on_deltas_(Napi::Persistent(listeners.Get("onDeltas").As<Napi::Function>())),
      opened_(Napi::Promise::Deferred::New(env)) {}

EngineHost::~EngineHost() = default;

Napi::Promise EngineHost::open(Napi::Env env, EngineOptions options, const Napi::Object& listeners,
                               Wrap wrap) {
  const std::shared_ptr<EngineHost> host(new EngineHost(env, listeners, wrap));
  // The wake function owns the host until it is released.
  const auto release = [](Napi::Env, std::shared_ptr<EngineHost>* owner, EngineHost*) {
    delete owner;
  };
  const auto function =
      WakeFunction::New(env, Napi::Function(), Napi::Object(), "nemotron engine", 0, 1, host.get(),
                        release, new std::shared_ptr<EngineHost>(host));
  host->mailbox_->connect(function);
  host->connected_ = true;
  napi_add_env_cleanup_hook(env, &EngineHost::on_environment_exit, host.get());
  const Napi::Promise promise = host->opened_->Promise();
  try {
    std::thread(load, std::move(options), host->mailbox_).detach();
  } catch (const std::exception& e) {
    host->disconnect();
    const auto why = Status::out_of_memory(std::string("no thread can be made: ") + e.what());
    host->opened_->Reject(error_object(env, why));
  }
  return promise;
}

Status EngineHost::submit(Request request) {
  if (!engine()) return Status::unavailable("the engine is closed");
  const uint64_t id = request.id;
  const int32_t choices = request.kind == RequestKind::score ? 1 : request.n;
  Status status = engine_->submit(std::move(request));
  if (!status) return status;
  if (live_.empty()) hold_loop(true);
  live_[id] = choices;
  return {};
}

EngineStats EngineHost::stats() const { return engine_ ? engine_->stats() : last_stats_; }

Napi::Promise EngineHost::reload(std::string folder) {
  const auto asked = Napi::Promise::Deferred::New(env_);
  Status status = Status::unavailable("the engine is closed");
  if (reloaded_) {  // over for the engine perhaps, but whoever asked has not heard of it
    status = Status::unavailable("other weights are being loaded");
  } else if (engine()) {
    status = engine_->reload(std::move(folder), [mailbox = mailbox_](const Status& s) {
      mailbox->post([&](News* news) { news->reloaded = s; });
    });
  }
  if (!status) {
    asked.Reject(error_object(env_, status));
  } else {
    reloaded_ = asked;
    hold_loop(true);
  }
  return asked.Promise();
}

void EngineHost::settle_reload(const Status& status) {
  const Napi::Promise::Deferred asked = *std::exchange(reloaded_, std::nullopt);
  if (live_.empty() && !closing_) hold_loop(false);
  if (status) {
    asked.Resolve(env_.Undefined());
  } else {
    asked.Reject(error_object(env_, status));
  }
}

Napi::Promise EngineHost::close() {
  if (!closed_) {
    closed_ = Napi::Promise::Deferred::New(env_);
    if (engine_) {
      hold_loop(true);
      start_closing();
    }
  }
  return closed_->Promise();
}

void EngineHost::abandon() {
  disconnect();
  start_closing();
}

void EngineHost::start_closing() {
  if (!engine()) return;
  closing_ = true;
  try {
    std::thread(nemotron::close, engine_, mailbox_).detach();
  } catch (const std::exception&) {
    nemotron::close(engine_, mailbox_);  // here, then
  }
}

void EngineHost::on_environment_exit(void* data) {
  auto* host = static_cast<EngineHost*>(data);
  const std::shared_ptr<EngineHost> alive = host->shared_from_this();
  host->abandon();
  if (host->closing_) host->mailbox_->wait_closed(kExitWaitSeconds);
}

void EngineHost::disconnect() {
  if (!connected_) return;
  connected_ = false;
  napi_remove_env_cleanup_hook(env_, &EngineHost::on_environment_exit, this);
  mailbox_->disconnect();
}

void EngineHost::hold_loop(bool on) {
  if (!connected_) return;
  if (on) {
    mailbox_->function().Ref(env_);
  } else {
    mailbox_->function().Unref(env_);
  }
}

void EngineHost::handle_news(News news) {
  if (news.plan) on_plan_.Call({plan_object(env_, *news.plan)});
  if (news.progress) {
    on_progress_.Call({Napi::String::New(env_, news.progress->phase),
                       Napi::Number::New(env_, double(news.progress->bytes_done)),
                       Napi::Number::New(env_, double(news.progress->bytes_total))});
  }
  if (news.opened) {
    engine_ = std::move(news.engine);
    hold_loop(false);
    if (news.status) {
      opened_->Resolve(wrap_(env_, shared_from_this()));
    } else {
      disconnect();
      opened_->Reject(error_object(env_, news.status));
    }
    opened_.reset();
    on_progress_.Reset();
    on_plan_.Reset();
  }
  if (engine()) {
    deltas_.clear();
    engine_->drain_deltas(&deltas_);
    deliver(deltas_);
  }
  if (news.reloaded && reloaded_) settle_reload(*news.reloaded);
  if (news.closed) {
    disconnect();
    last_stats_ = std::exchange(engine_, nullptr)->stats();
    closed_->Resolve(env_.Undefined());
    deliver(news.last);
  }
}

void EngineHost::deliver(const std::vector<Delta>& deltas) {
  if (deltas.empty()) return;
  pack_deltas(deltas, &packed_);
  for (const Delta& delta : deltas) {
    if (delta.finish == Finish::none) continue;
    const auto found = live_.find(delta.request);
    if (found != live_.end() && --found->second == 0) live_.erase(found);
  }
  if (live_.empty() && !closing_ && !reloaded_) hold_loop(false);
  const size_t count = packed_.words.size();
  if (words_.IsEmpty() || words_.Value().ElementLength() < count) {
    words_ = Napi::Persistent(Napi::Float64Array::New(env_, std::max<size_t>(2 * count, 1024)));
  }
  Napi::Float64Array words = words_.Value();
  std::memcpy(words.Data(), packed_.words.data(), count * sizeof(double));
  if (words.ElementLength() > kKeptWords) words_.Reset();
  on_deltas_.Call(
      {words, Napi::Number::New(env_, double(count)), Napi::String::New(env_, packed_.text)});
}

}  // namespace nemotron
