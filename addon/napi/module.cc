// The addon's exports: createEngine, modelInfo, packedNames. Loaded once in every
// environment (the main thread, each worker thread); what is per environment is in AddonData.
#include <napi.h>

#include "models/gpu_fit.h"
#include "models/sources.h"
#include "napi/convert.h"
#include "napi/engine_host.h"
#include "napi/grammar_handle.h"

namespace nemotron {
namespace {

// The engine as JavaScript sees it. Collected without close(), it closes by itself.
class EngineHandle : public Napi::ObjectWrap<EngineHandle> {
 public:
  static Napi::FunctionReference define(Napi::Env env) {
    return Napi::Persistent(DefineClass(env, "NativeEngine",
                                        {InstanceMethod<&EngineHandle::submit>("submit"),
                                         InstanceMethod<&EngineHandle::is_full>("isFull"),
                                         InstanceMethod<&EngineHandle::compile>("compileGrammar"),
                                         InstanceMethod<&EngineHandle::abort>("abort"),
                                         InstanceMethod<&EngineHandle::stats>("stats"),
                                         InstanceMethod<&EngineHandle::pause>("pause"),
                                         InstanceMethod<&EngineHandle::stop_steps>("stopSteps"),
                                         InstanceMethod<&EngineHandle::reload>("reload"),
                                         InstanceMethod<&EngineHandle::drain>("drain"),
                                         InstanceMethod<&EngineHandle::close>("close"),
                                         InstanceMethod<&EngineHandle::info>("info")}));
  }

  explicit EngineHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineHandle>(info) {
    if (!info[0].IsExternal()) {
      throw Napi::TypeError::New(info.Env(), "an engine is made by createEngine()");
    }
    host_ = *info[0].As<Napi::External<std::shared_ptr<EngineHost>>>().Data();
  }
  ~EngineHandle() override {
    if (host_) host_->abandon();
  }

 private:
  // undefined, or why not: {code, message}
  Napi::Value submit(const Napi::CallbackInfo& info) {
    Request request;
    Status status = read_request(info[0].As<Napi::Object>(), &request);
    if (status) status = host_->submit(std::move(request));
    return status ? info.Env().Undefined() : Napi::Value(error_object(info.Env(), status));
  }
  Napi::Value is_full(const Napi::CallbackInfo& info) {
    const Engine* engine = host_->engine();
    return Napi::Boolean::New(info.Env(), engine && engine->is_full());
  }
  // compileGrammar(text): promise of a Grammar; rejects with {code, message}.
  Napi::Value compile(const Napi::CallbackInfo& info) {
    const Engine* engine = host_->engine();
    if (engine == nullptr) {
      const auto closed = Napi::Promise::Deferred::New(info.Env());
      closed.Reject(error_object(info.Env(), Status::unavailable("the engine is closed")));
      return closed.Promise();
    }
    return GrammarHandle::compile(info.Env(), info[0].As<Napi::String>().Utf8Value(),
                                  engine->vocabulary());
  }
  void abort(const Napi::CallbackInfo& info) {
    if (Engine* engine = host_->engine()) {
      engine->abort(uint64_t(info[0].As<Napi::Number>().DoubleValue()));
    }
  }
  Napi::Value stats(const Napi::CallbackInfo& info) {
    return stats_object(info.Env(), host_->stats());
  }
  // pause('none' | 'later' | 'all')
  void pause(const Napi::CallbackInfo& info) {
    Engine* engine = host_->engine();
    if (engine == nullptr) return;
    const std::string what = info[0].As<Napi::String>().Utf8Value();
    engine->pause(what == "all" ? Pause::all : what == "later" ? Pause::later : Pause::none);
  }
  void stop_steps(const Napi::CallbackInfo& info) {
    if (Engine* engine = host_->engine()) engine->stop_steps(info[0].As<Napi::Boolean>());
  }
  // reload(folder): promise; rejects with {code, message}.
  Napi::Value reload(const Napi::CallbackInfo& info) {
    return host_->reload(info[0].As<Napi::String>().Utf8Value());
  }
  void drain(const Napi::CallbackInfo&) {
    if (Engine* engine = host_->engine()) engine->drain();
  }
  Napi::Value close(const Napi::CallbackInfo&) { return host_->close(); }
  Napi::Value info(const Napi::CallbackInfo& info) {
    Engine* engine = host_->engine();
    return engine ? Napi::Value(info_object(info.Env(), engine->info())) : info.Env().Undefined();
  }

  std::shared_ptr<EngineHost> host_;
};

Napi::Value wrap_host(Napi::Env env, std::shared_ptr<EngineHost> host) {
  return env.GetInstanceData<AddonData>()->engine_class.New(
      {Napi::External<std::shared_ptr<EngineHost>>::New(env, &host)});
}

// createEngine(options, listeners): promise of a NativeEngine; rejects with {code, message}.
Napi::Value create_engine(const Napi::CallbackInfo& info) {
  EngineOptions options;
  const Status status = read_engine_options(info[0].As<Napi::Object>(), &options);
  if (!status) {
    const auto deferred = Napi::Promise::Deferred::New(info.Env());
    deferred.Reject(error_object(info.Env(), status));
    return deferred.Promise();
  }
  return EngineHost::open(info.Env(), std::move(options), info[1].As<Napi::Object>(), wrap_host);
}

// checkEngine(options): {code, message} of what createEngine() would refuse before it loads
// weights, whatever memory there is; undefined: nothing.
Napi::Value check_engine(const Napi::CallbackInfo& info) {
  EngineOptions options;
  Status status = read_engine_options(info[0].As<Napi::Object>(), &options);
  if (status) status = Engine::check(options);
  return status ? info.Env().Undefined() : Napi::Value(error_object(info.Env(), status));
}

Status open_model(const std::string& folder, const std::vector<int32_t>& rows, ModelConfig* config,
                  std::unique_ptr<Checkpoint>* checkpoint, Sources* sources) {
  if (Status s = read_model_config(folder, rows, config); !s) return s;
  if (Status s = Checkpoint::open(folder, checkpoint); !s) return s;
  return find_sources(**checkpoint, *config, sources);
}

// modelInfo(folder, rewardRows, draftFolder?): {config, ...} from the headers of the files alone,
// or {code, message}.
Napi::Value model_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string folder = info[0].As<Napi::String>().Utf8Value();
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;
  std::vector<int32_t> rows;
  const auto given = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < given.Length(); ++i) {
    rows.push_back(given.Get(i).As<Napi::Number>().Int32Value());
  }
  Sources sources;
  Status status = open_model(folder, rows, &config, &checkpoint, &sources);
  ModelConfig draft_config;
  std::unique_ptr<Checkpoint> draft;
  if (status && info[2].IsString()) {
    Sources of_draft;
    status =
        open_model(info[2].As<Napi::String>().Utf8Value(), {}, &draft_config, &draft, &of_draft);
    if (!status) status = status.within("draft_model");
  }
  std::vector<CpuNeed> cpu;
  using enum WeightFormat;
  for (const WeightFormat format : {stored, fp8, int8, int4}) {
    const PlanInput in{.format = format};
    CpuNeed need{.format = format};
    if (status) status = find_footprint(config, *checkpoint, in, &need.model);
    if (status && draft) status = find_footprint(draft_config, *draft, in, &need.draft);
    cpu.push_back(need);
  }
  if (!status) return error_object(env, status);
  const auto packed_of = [&](const ModelConfig& of, const Checkpoint& from,
                             bool in_groups) -> PackedBytes {
    if (!in_groups) return {};
    return [&](const Shard& shard) {
      Footprint footprint;
      return find_footprint(of, from, {.shard = shard}, &footprint) ? footprint.weights : 0;
    };
  };
  const Footprint &model = cpu[0].model, &of_draft = cpu[0].draft;
  const auto packed_draft =
      draft ? packed_of(draft_config, *draft, of_draft.in_groups) : PackedBytes{};
  const auto fits =
      fit_on_common_gpus(config, draft ? &draft_config : nullptr,
                         packed_of(config, *checkpoint, model.in_groups), packed_draft);
  const auto groups = packed_groups(*checkpoint, sources, config, Shard::whole());
  return model_object(env, config, *checkpoint, fits, cpu,
                      widened_tensors(groups, *checkpoint, WeightFormat::stored));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* data = new AddonData;
  data->engine_class = EngineHandle::define(env);
  data->grammar_class = GrammarHandle::define(env);
  env.SetInstanceData(data);
  exports.Set("createEngine", Napi::Function::New<create_engine>(env));
  exports.Set("checkEngine", Napi::Function::New<check_engine>(env));
  exports.Set("modelInfo", Napi::Function::New<model_info>(env));
  exports.Set("packedNames", packed_names(env));
  return exports;
}

}  // namespace
}  // namespace nemotron

Napi::Object init_nemotron(Napi::Env env, Napi::Object exports) {
  return nemotron::init(env, exports);
}
NODE_API_MODULE(nemotron, init_nemotron)
