// EngineHost: one native engine as one JavaScript environment holds it. It loads and closes the
// engine on threads of its own, turns wakes into calls of the JavaScript listeners, and keeps the
// event loop alive exactly while something is under way (a load, a request, a close).
//
// Every method is for the environment's own thread. Owned by its wake function and by the
// JavaScript handle; nothing here is global, so environments (worker threads) do not meet.
#pragma once

#include <napi.h>

#include <memory>
#include <optional>
#include <unordered_map>

#include "engine/engine.h"
#include "napi/mailbox.h"
#include "napi/pack.h"

namespace nemotron {

class EngineHost : public std::enable_shared_from_this<EngineHost> {
 public:
  // Starts to load. `listeners` has onProgress(phase, done, total), onPlan(plan) and
  // onDeltas(words, count, text). `opened` resolves with wrap(host), or rejects with {code,
  // message}.
  using Wrap = Napi::Value (*)(Napi::Env env, std::shared_ptr<EngineHost> host);
  static Napi::Promise open(Napi::Env env, EngineOptions options, const Napi::Object& listeners,
                            Wrap wrap);
  ~EngineHost();

  Engine* engine() { return closing_ ? nullptr : engine_.get(); }  // null once closing has begun
  Status submit(Request request);
  EngineStats stats() const;  // while it closes, too: whether it gets on with it
  // Promise of nothing; rejects with {code, message}.
  Napi::Promise reload(std::string folder);
  // At most once: the promise is JavaScript's to keep.
  Napi::Promise close();
  // The JavaScript handle is gone: close without anyone waiting.
  void abandon();

 private:
  friend void on_wake(Napi::Env, Napi::Function, EngineHost*, void*);
  EngineHost(Napi::Env env, const Napi::Object& listeners, Wrap wrap);

  static void on_environment_exit(void* host);
  void handle_news(News news);
  void settle_reload(const Status& status);
  void deliver(const std::vector<Delta>& deltas);
  void start_closing();
  void disconnect();
  void hold_loop(bool on);

  Napi::Env env_;
  Wrap wrap_;
  Napi::FunctionReference on_progress_, on_plan_, on_deltas_;
  std::optional<Napi::Promise::Deferred> opened_, closed_, reloaded_;
  std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  std::shared_ptr<Engine> engine_;              // the thread that closes it holds it, too
  EngineStats last_stats_;                      // once it is closed
  std::unordered_map<uint64_t, int32_t> live_;  // request -> choices that have not finished
  bool closing_ = false, connected_ = false;

  // Scratch of deliver().
  std::vector<Delta> deltas_;
  PackedDeltas packed_;
  Napi::Reference<Napi::Float64Array> words_;
};

}  // namespace nemotron
