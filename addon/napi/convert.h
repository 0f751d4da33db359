// JavaScript values to the engine's plain data and back. Node's thread only.
#pragma once

#include <napi.h>

#include "engine/engine.h"
#include "models/gpu_fit.h"
#include "models/memory_plan.h"
#include "models/weights.h"

namespace nemotron {

// Missing and undefined fields keep their defaults; a field of the wrong type or out of its type's
// range is invalid_argument and named. What the numbers mean is checked by the engine.
Status read_engine_options(const Napi::Object& object, EngineOptions* out);
// Grammars are instances of GrammarHandle (grammar_handle.h).
Status read_request(const Napi::Object& object, Request* out);

Napi::Object plan_object(Napi::Env env, const MemoryPlan& plan);
// A checkpoint and what it needs on common GPUs.
struct CpuNeed {
  WeightFormat format = WeightFormat::stored;
  Footprint model = {}, draft = {};
};
// cpu: what the model and the draft model beside it need there.
Napi::Object model_object(Napi::Env env, const ModelConfig& config, const Checkpoint& checkpoint,
                          const std::vector<GpuFit>& fits, const std::vector<CpuNeed>& cpu,
                          const std::vector<WidenedTensor>& widened);
Napi::Object info_object(Napi::Env env, const EngineInfo& info);
Napi::Object stats_object(Napi::Env env, const EngineStats& stats);

// The names of the numbers in packed deltas (pack.h): {finishes, missReasons, codes}, each a list
// whose index is the number.
Napi::Object packed_names(Napi::Env env);
// {code, message}
Napi::Object error_object(Napi::Env env, const Status& status);

}  // namespace nemotron
