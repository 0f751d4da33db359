// Engine: one model on one device, serving many requests at once.
//
// One engine thread alone owns scheduler, blocks and sequences (no locks there). Any thread may
// call submit, abort, stats, drain_deltas and close. `wake` is called from the engine thread, at
// most once until the next drain_deltas().
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/device.h"
#include "engine/grammar/vocabulary.h"
#include "engine/request.h"
#include "models/config.h"
#include "models/memory_plan.h"
#include "models/weights.h"

namespace nemotron {

struct EngineOptions {
  std::string model_dir;
  std::string backend = "auto";  // auto | cpu | cuda
  // Of a group: index is the first GPU's, threads are those of all ranks; group and rank are set by
  // the engine.
  DeviceOptions device;
  int32_t ranks = 1;  // tensor_parallel_size: devices that compute one model together
  RankGroup::Seconds rank_patience = RankGroup::kPatience;
  WeightFormat format = WeightFormat::stored;  // --dtype fp8
  std::optional<DType> kv_dtype;               // nothing: the device's own
  int64_t kv_memory = 0;                       // bytes of each rank; 0: what is left
  double memory_utilization = 0.9;             // of the device's free memory
  int32_t max_model_len = 0;                   // 0: the checkpoint's
  int32_t max_seqs = 64;
  int32_t max_batched_tokens = 512;  // token budget of a step
  int32_t block_size = 64;
  // Admission. Sequences (choices) that may live beside the max_seqs that run, and prompt tokens
  // of requests that have not been scheduled.
  int32_t max_waiting = 256;
  int64_t max_waiting_tokens = 1 << 20;
  bool prefix_cache = true;
  bool run_ahead = true;      // plan a step before the ids of the one before are known
  std::string draft_dir;      // of the draft model (Drafter), of the same token ids; empty: none
  int32_t draft_tokens = 5;   // guesses of one sequence in a step, at most
  int32_t draft_rows = 0;     // of a step that guesses; fuller batches go without. 0: cheap_rows()
  bool debug_checks = false;  // verify every reference count each step
  std::vector<int32_t> reward_rows = {};  // see read_model_config
  // Token id -> its bytes; `special` ids give no text when skip_special_tokens. Ids beyond the
  // table (padding of the embedding) are never drawn.
  std::vector<std::string> token_bytes;
  std::vector<bool> token_special;
  std::vector<int32_t> stop_ids;  // beside config's eos ids (from names such as <|eot_id|>)
};

struct LoadReport {
  double open_seconds = 0, pack_seconds = 0, prepare_seconds = 0;
  size_t bytes = 0;
};

// What one device of the group holds and how long it took.
struct RankInfo {
  std::string device;  // Device::name()
  MemoryPlan plan;
  LoadReport load;
  bool copies_blocks = false;  // Device::copies_blocks()
};

struct DraftInfo {
  ModelConfig config;
  LoadReport load;  // of the slowest rank
  int32_t tokens = 0, rows = 0;
};

struct EngineInfo {
  ModelConfig config;
  std::optional<DraftInfo> draft;
  MemoryPlan plan;              // of the first rank; all have the same blocks
  LoadReport load;              // of the slowest rank
  std::string device;           // Device::name(), with the number of ranks where there are several
  std::vector<RankInfo> ranks;  // one each
  std::string backend_note;     // why this backend was chosen
  std::vector<int32_t> stop_ids;  // the config's eos ids and those of the options
  int32_t max_model_len = 0, max_seqs = 0, max_batched_tokens = 0, block_size = 0;
  bool copies_blocks = false;  // Device::copies_blocks()
  int64_t places = 0;          // for sequences that run or wait: max_seqs + max_waiting
};

// Bounds of a histogram of steps by their rows (those of vLLM's iteration_tokens_total).
inline constexpr std::array<int32_t, 13> kStepRowBounds = {1,   8,    16,   32,   64,   128,  256,
                                                           512, 1024, 2048, 4096, 8192, 16384};

struct EngineStats {  // counters since start, gauges now; readable from any thread
  int64_t steps = 0, prompt_tokens = 0, generated_tokens = 0, cached_tokens = 0, queried_tokens = 0;
  int64_t preemptions = 0, aborted = 0, finished_stop = 0, finished_length = 0, failed = 0,
          rejected = 0;
  // Guesses that went into steps, and those that were right; by DraftSource.
  struct Drafts {
    int64_t drafted = 0, accepted = 0;
  };
  std::array<Drafts, size_t(DraftSource::model) + 1> drafts{};
  int64_t miss_never_seen = 0, miss_evicted = 0;
  int32_t running = 0;  // sequences
  int32_t waiting = 0;  // those that are not in the background
  int32_t blocks_total = 0, blocks_used = 0, blocks_cached = 0;
  int64_t waiting_tokens = 0;  // of prompts that are not in the background
  int64_t rows = 0;            // of all steps
  // Steps with at most kStepRowBounds[i] rows and more than the bound before; the last: even more.
  std::array<int64_t, kStepRowBounds.size() + 1> steps_by_rows{};
  double step_seconds_sum = 0;  // time in steps
  // Seconds since the loop finished a step, or a rank a layer of one, while there was work; 0 when
  // idle.
  double last_step_age = 0;
  // Of the oldest step that is launched and not done.
  int32_t launched_rows = 0, launched_seqs = 0;
  bool drafting = false;  // it is the draft model's
  // That each rank has gone through, in the newest step that it began.
  std::vector<int32_t> rank_layers;
  int32_t last_step_rows = 0, last_step_seqs = 0;
  bool failed_device = false;
  std::string failure;
};

// What an engine does with its requests. Those that come while it is paused wait, as in a queue.
enum class Pause : uint8_t {
  none,
  later,  // those that came before it go on to their end, and what goes on with their work
  all,    // nothing runs; what was computed is kept
};

class Engine {
 public:
  // What create() refuses of options and of the headers of the files, whatever memory there is.
  // Opens no device and reads no weights.
  static Status check(const EngineOptions& options);
  // Blocks while it plans, loads and prepares. `progress` is called from this thread.
  static Status create(EngineOptions options, std::function<void()> wake,
                       const std::function<void(const LoadProgress&)>& progress,
                       const std::function<void(const MemoryPlan&)>& planned,
                       std::unique_ptr<Engine>* out);
  virtual ~Engine() = default;  // close()s

  virtual const EngineInfo& info() const = 0;
  // What Grammar::compile() needs for this engine's requests. It may outlive the engine.
  virtual const std::shared_ptr<const Vocabulary>& vocabulary() const = 0;
  // Validates against the model (ids in range, length, parameters) and queues. queue_full: see
  // is_full(), never of a background request; unavailable: draining, closed or failed;
  // invalid_argument: the message names the field. Never blocks on a step.
  virtual Status submit(Request request) = 0;
  // No place is free: as many sequences are live (submitted, not finished, not in the background)
  // as there are places. A request is admitted while one place is free, however many choices it
  // has, so that a large one is not kept out for ever by small ones.
  virtual bool is_full() const = 0;
  // Idempotent, never waits; each live choice ends with Finish::abort at the next step boundary.
  virtual void abort(uint64_t request_id) = 0;
  virtual void drain_deltas(std::vector<Delta>* out) = 0;
  virtual EngineStats stats() const = 0;
  // From the next step on. Aborts are obeyed in a pause too. Asked for again without another one in
  // between it changes nothing: those that are held stay so. Any thread; never waits.
  virtual void pause(Pause pause) = 0;
  // No steps from the next one on, whatever the pause is, while it is on: around a reload, so that
  // no token of the new weights comes before who asked for them knows. Any thread; never waits.
  virtual void stop_steps(bool on) = 0;
  // From the next step on with the weights of the checkpoint in `folder`, of the same model: equal
  // config, tensors of equal names, dtypes and shapes. What is computed of live requests is dropped
  // and computed again, their tokens stay; so is what is cached. Refused (`done` says why) it
  // changes nothing; where loading fails half-way the old weights are loaded again. unavailable:
  // closing, failed, or another one is under way, and `done` is not called. Else it is called once,
  // from the engine thread. Any thread; never waits.
  virtual Status reload(std::string folder, std::function<void(const Status&)> done) = 0;
  // Stops admitting (submit -> unavailable); running and waiting requests go on, a pause ends.
  virtual void drain() = 0;
  // Aborts what is left, joins the threads, frees the device. Idempotent.
  virtual void close() = 0;
};

}  // namespace nemotron
