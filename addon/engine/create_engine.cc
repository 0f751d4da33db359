// Engine::create(): checkpoint -> plan of memory -> weights on the device -> a running loop.
#include <algorithm>

#include "device/open_device.h"
#include "engine/engine_loop.h"
#include "engine/rank_runner.h"
#include "models/checkpoint/checkpoint.h"
#include "models/rope.h"
#include "models/sources.h"

namespace nemotron {
namespace {

Status check_options(const EngineOptions& o, const ModelConfig& config) {
  const auto positive = [](const char* name, int64_t value) {
    return value > 0 ? Status()
                     : Status::invalid(std::string(name) + ": found " + std::to_string(value) +
                                       ", expected at least 1");
  };
  if (Status s = positive("max_num_seqs", o.max_seqs); !s) return s;
  if (Status s = positive("max_num_batched_tokens", o.max_batched_tokens); !s) return s;
  if (o.max_waiting < 0) {
    return Status::invalid("max_waiting: found " + std::to_string(o.max_waiting) +
                           ", expected at least 0");
  }
  if (Status s = positive("max_waiting_tokens", o.max_waiting_tokens); !s) return s;
  if (o.block_size != 16 && o.block_size != 32 && o.block_size != 64 && o.block_size != 128) {
    return Status::invalid("block_size: found " + std::to_string(o.block_size) +
                           ", expected 16, 32, 64 or 128");
  }
  if (!(o.memory_utilization > 0 && o.memory_utilization <= 1)) {
    return Status::invalid("memory_utilization: found " + std::to_string(o.memory_utilization) +
                           ", expected above 0 and at most 1");
  }
  if (o.max_model_len < 0 || o.max_model_len > config.max_position) {
    return Status::invalid("max_model_len: found " + std::to_string(o.max_model_len) +
                           ", the model's own limit is " + std::to_string(config.max_position));
  }
  if (o.token_bytes.size() > size_t(config.vocab)) {
    return Status::invalid("tokenizer: has token id " + std::to_string(o.token_bytes.size() - 1) +
                           ", but the embedding ends at id " + std::to_string(config.vocab - 1));
  }
  return {};
}

StepLimits step_limits(const RankShape& shape, const EngineInfo& info) {
  return {.max_rows = info.max_batched_tokens,
          .max_spans = info.max_seqs,
          .max_samples = info.max_batched_tokens,  // prompt logprobs want every row
          .max_context = info.max_model_len,
          .q_heads = shape.q_heads,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .hidden = shape.hidden,
          .intermediate = shape.max_intermediate(),
          .vocab = shape.vocab};
}

// Runs on the rank thread. `planned` and `progress` come back on the caller's.
Status set_up(const EngineOptions& options,
              const std::function<void(const LoadProgress&)>& progress,
              const std::function<void(const MemoryPlan&)>& planned, EngineInfo* info, Rank* rank) {
  double since = now_seconds();
  const auto lap = [&since] {
    const double now = now_seconds();
    return now - std::exchange(since, now);
  };
  ModelConfig& config = info->config;
  if (Status s = read_model_config(options.model_dir, options.reward_rows, &config); !s) return s;
  if (Status s = check_options(options, config); !s) return s;
  std::unique_ptr<Checkpoint> checkpoint;
  if (Status s = Checkpoint::open(options.model_dir, &checkpoint); !s) return s;
  if (Status s = check_checkpoint(*checkpoint, config); !s) return s;
  const Shard shard = Shard::whole();
  if (Status s = rank_shape(config, shard, &rank->shape); !s) return s;
  if (Status s = open_device(options.backend, options.device, &rank->device, &info->backend_note);
      !s) {
    return s;
  }
  Device& device = *rank->device;
  if (Status s = device.check(decoder_form(config)); !s) return s;
  info->device = device.name();
  info->stop_ids = config.eos_ids;
  for (const int32_t id : options.stop_ids) {
    if (std::ranges::find(info->stop_ids, id) == info->stop_ids.end()) info->stop_ids.push_back(id);
  }
  info->max_model_len = options.max_model_len > 0 ? options.max_model_len : config.max_position;
  info->max_seqs = options.max_seqs;
  info->places = int64_t(options.max_seqs) + options.max_waiting;
  info->max_batched_tokens = options.max_batched_tokens;
  info->block_size = options.block_size;

  const StepLimits limits = step_limits(rank->shape, *info);
  const DType kv_dtype = options.kv_dtype.value_or(device.kv_dtype());
  const PlanInput plan{
      .shard = shard,
      .format = options.format,
      .kv_dtype = kv_dtype,
      .block_size = options.block_size,
      .kv_memory = options.kv_memory,
      .available = size_t(double(device.free_bytes()) * options.memory_utilization),
      .limits = limits,
      .max_seqs = options.max_seqs};
  if (Status s = plan_memory(config, *checkpoint, plan, &info->plan); !s) return s;
  planned(info->plan);
  info->load.open_seconds = lap();

  const LoadOptions load{.shard = shard, .format = options.format, .progress = progress};
  if (Status s = load_weights(*checkpoint, config, load, &device, &rank->weights); !s) return s;
  info->load.bytes = checkpoint->total_bytes();
  info->load.pack_seconds = lap();

  const std::vector<float> inv_freq = rope_inv_freq(config.rope, config.rotary_dim);
  KvConfig kv{.layers = rank->shape.kv_layers(),
              .kv_heads = rank->shape.kv_heads,
              .head_dim = rank->shape.head_dim,
              .num_blocks = info->plan.num_blocks,
              .block_size = options.block_size,
              .dtype = kv_dtype};
  if (kv_dtype == DType::fp8_e4m3) {  // which the checkpoint's scales are for
    kv.k_scale = rank->weights.k_scale;
    kv.v_scale = rank->weights.v_scale;
  }
  if (Status s = device.prepare(limits, kv, {.inv_freq = inv_freq}); !s) return s;
  if (Status s = Decoder::create(rank->shape, rank->weights, &device, limits, &rank->decoder); !s)
    return s;
  info->load.prepare_seconds = lap();
  return {};
}

}  // namespace

Status Engine::create(EngineOptions options, std::function<void()> wake,
                      const std::function<void(const LoadProgress&)>& progress,
                      const std::function<void(const MemoryPlan&)>& planned,
                      std::unique_ptr<Engine>* out) {
  EngineInfo info;
  std::unique_ptr<RankRunner> runner;
  const auto setup = [&](Rank* rank, const RankRunner::OnCaller& on_caller) {
    return set_up(
        options,
        [&](const LoadProgress& p) {
          on_caller([&] {
            if (progress) progress(p);
          });
        },
        [&](const MemoryPlan& p) {
          on_caller([&] {
            if (planned) planned(p);
          });
        },
        &info, rank);
  };
  if (Status s = RankRunner::start(setup, &runner); !s) return s;
  // Without a table every id may be drawn, and none has text.
  if (options.token_bytes.empty()) options.token_bytes.resize(size_t(info.config.vocab));
  *out = std::make_unique<EngineLoop>(std::move(options), std::move(info), std::move(runner),
                                      std::move(wake));
  return {};
}

}  // namespace nemotron
