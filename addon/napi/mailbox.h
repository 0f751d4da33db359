// Mailbox: where the threads of one engine leave news for Node's thread, and the one coalesced wake
// that fetches it. Shared by Node's thread, the load thread, the close thread and, through wake(),
// the engine thread; it outlives them all.
#pragma once

#include <napi.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <optional>
#include <vector>

#include "device/mutex.h"
#include "engine/engine.h"

namespace nemotron {

class EngineHost;
void on_wake(Napi::Env env, Napi::Function callback, EngineHost* host, void* data);
using WakeFunction = Napi::TypedThreadSafeFunction<EngineHost, void, on_wake>;

struct News {
  std::optional<LoadProgress> progress;  // the latest
  std::optional<MemoryPlan> plan;
  bool opened = false;  // loading has ended, well (engine) or not (status)
  Status status;
  std::unique_ptr<Engine> engine;
  std::optional<Status> reloaded;  // new weights are there (ok), or not
  bool closed = false;
  std::vector<Delta> last;  // what the engine said while it closed
};

class Mailbox {
 public:
  // Any thread. Node's thread calls on_wake() soon; wakes before that are one.
  void wake() noexcept {
    if (woken_.exchange(true)) return;
    const Lock lock(mutex_);
    if (connected_) function_.NonBlockingCall();
  }

  // Any thread: change the news, then wake. False: nobody listens any more, the news are lost.
  template <class Change>
  bool post(Change change) {
    {
      const Lock lock(mutex_);
      if (!connected_) return false;
      change(&news_);
    }
    wake();
    return true;
  }

  // Node's thread.
  News take() {
    woken_ = false;
    const Lock lock(mutex_);
    News news = std::move(news_);
    news_ = {};
    return news;
  }
  void connect(WakeFunction function) {
    const Lock lock(mutex_);
    function_ = function;
    connected_ = true;
  }
  void disconnect() {
    const Lock lock(mutex_);
    if (connected_) function_.Abort();
    connected_ = false;
  }
  WakeFunction& function() { return function_; }

  // The close thread, at its end.
  void set_closed() {
    const Lock lock(mutex_);
    closed_ = true;
    closed_changed_.notify_all();
  }
  // False: the engine was still closing after `seconds`.
  bool wait_closed(double seconds) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(seconds));
    Lock lock(mutex_);
    while (!closed_ && lock.wait_until(closed_changed_, end)) {
    }
    return closed_;
  }

 private:
  Mutex mutex_;
  std::condition_variable closed_changed_;
  std::atomic<bool> woken_ = false;
  WakeFunction function_;
  bool connected_ GUARDED_BY(mutex_) = false;
  bool closed_ GUARDED_BY(mutex_) = false;
  News news_ GUARDED_BY(mutex_);
};

}  // namespace nemotron
