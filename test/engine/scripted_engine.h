// An EngineLoop on a ScriptedDevice: ids below 36 are the letters from 'A' on, 36 to 39 padding.
#pragma once

#include "engine/engine_loop.h"
#include "scripted.h"
#include "tiny.h"

namespace nemotron::test {

inline constexpr int32_t kVocab = 40, kTokens = 36, kEos = 35;

struct Script {
  int32_t num_blocks = 64, block_size = 16, max_model_len = 256;
  EngineOptions options;
  std::function<std::unique_ptr<StepRunner>()> make_draft;  // empty: no draft model
  std::function<Status()> gate;
  std::function<void(StepBuffer&)> spoil;
  std::function<void(const StepBuffer&)> on_launch;
  std::function<std::vector<Decoder::Progress>()> progress_of_ranks;
  std::function<Status(const std::string&, Status*)> on_reload;
};

inline Script script() {
  Script s;
  s.options.max_seqs = 4;
  s.options.debug_checks = true;
  for (int i = 0; i < kTokens; ++i) s.options.token_bytes.push_back(std::string(1, char('A' + i)));
  return s;
}

inline std::function<std::unique_ptr<Engine>(std::function<void()>)> scripted(const Script& s) {
  return [s](std::function<void()> wake) {
    EngineInfo info;
    info.config.vocab = kVocab;
    info.config.eos_ids = {kEos};
    info.stop_ids = {kEos};
    info.plan.num_blocks = s.num_blocks;
    info.max_model_len = s.max_model_len;
    info.max_seqs = s.options.max_seqs;
    info.places = int64_t(s.options.max_seqs) + s.options.max_waiting;
    info.max_batched_tokens = s.options.max_batched_tokens;
    info.block_size = s.block_size;
    auto runner = std::make_unique<ScriptedRunner>(s.num_blocks, s.block_size, kVocab);
    runner->gate = s.gate;
    runner->spoil = s.spoil;
    runner->on_launch = s.on_launch;
    runner->progress_of_ranks = s.progress_of_ranks;
    runner->on_reload = s.on_reload;
    return std::make_unique<EngineLoop>(s.options, std::move(info), std::move(runner),
                                        s.make_draft ? s.make_draft() : nullptr, std::move(wake));
  };
}

inline Request request(int32_t prompt = 4, int32_t max_tokens = 6) {
  Request r;
  for (int32_t i = 0; i < prompt; ++i) r.prompt.push_back(i % 7);
  r.sampling.max_tokens = max_tokens;
  r.sampling.ignore_eos = true;
  return r;
}

}  // namespace nemotron::test
