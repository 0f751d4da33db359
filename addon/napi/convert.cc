#include "napi/convert.h"

#include "models/gpu_fit.h"
#include "napi/fields.h"
#include "napi/grammar_handle.h"

namespace nemotron {
namespace {

void read_token_table(JsFields* fields, EngineOptions* out) {
  Napi::Uint8Array bytes, special;
  Napi::Uint32Array ends;
  if (!fields->array("tokenBytes", "a Uint8Array", napi_uint8_array, &bytes) ||
      !fields->array("tokenEnds", "a Uint32Array", napi_uint32_array, &ends) ||
      !fields->array("tokenSpecial", "a Uint8Array", napi_uint8_array, &special)) {
    return;
  }
  if (special.ElementLength() != ends.ElementLength()) {
    return fields->fail("tokenSpecial", "must be as long as tokenEnds");
  }
  size_t begin = 0;
  out->token_bytes.reserve(ends.ElementLength());
  out->token_special.reserve(ends.ElementLength());
  for (size_t i = 0; i < ends.ElementLength(); ++i) {
    const size_t end = ends[i];
    if (end < begin || end > bytes.ElementLength()) {
      return fields->fail("tokenEnds", "must rise and end within tokenBytes");
    }
    out->token_bytes.emplace_back(reinterpret_cast<const char*>(bytes.Data()) + begin, end - begin);
    out->token_special.push_back(special[i] != 0);
    begin = end;
  }
}

Status read_sampling(const Napi::Object& object, SamplingParams* out) {
  JsFields fields(object, "sampling.");
  fields.number("maxTokens", &out->max_tokens);
  fields.number("minTokens", &out->min_tokens);
  fields.number("temperature", &out->temperature);
  fields.number("topP", &out->top_p);
  fields.number("topK", &out->top_k);
  fields.number("minP", &out->min_p);
  fields.number("repetitionPenalty", &out->repetition_penalty);
  fields.number("presencePenalty", &out->presence_penalty);
  fields.number("frequencyPenalty", &out->frequency_penalty);
  fields.bigint("seed", &out->seed);
  fields.boolean("ignoreEos", &out->ignore_eos);
  fields.number("logprobs", &out->num_logprobs);
  fields.ids("logprobIds", &out->logprob_ids);
  fields.boolean("processedLogprobs", &out->processed_logprobs);
  fields.number("promptLogprobs", &out->num_prompt_logprobs);
  fields.ids("stopTokenIds", &out->stop_token_ids);
  fields.strings("stop", &out->stop);
  fields.boolean("includeStop", &out->include_stop);
  int32_t stop_scope = 0;
  fields.number("stopScope", &stop_scope);
  if (stop_scope < 0 || stop_scope > int32_t(StopScope::after_block)) {
    fields.fail("stopScope", "must be 0, 1, 2 or 3");
  } else {
    out->stop_scope = StopScope(stop_scope);
  }
  fields.boolean("skipSpecialTokens", &out->skip_special_tokens);
  fields.id_lists("badWordIds", &out->bad_words);
  fields.ids("allowedTokenIds", &out->allowed_ids);
  fields.number("thinkingBudget", &out->thinking_budget);
  fields.boolean("thinkOpen", &out->think_open);
  fields.ids("thinkClose", &out->think_close);
  fields.string("thinkBegin", &out->think_begin);
  fields.string("thinkEnd", &out->think_end);
  fields.number("lookupTokens", &out->lookup_tokens);
  std::vector<int32_t> bias_ids;
  Napi::Float32Array bias;
  fields.ids("logitBiasIds", &bias_ids);
  if (fields.array("logitBias", "a Float32Array", napi_float32_array, &bias)) {
    if (bias.ElementLength() != bias_ids.size()) {
      fields.fail("logitBias", "must be as long as logitBiasIds");
    } else {
      for (size_t i = 0; i < bias_ids.size(); ++i) {
        out->logit_bias.push_back({bias_ids[i], bias[i]});
      }
    }
  }
  return fields.status();
}

// Sets plain values by name, in the order of the calls.
class Builder {
 public:
  explicit Builder(Napi::Env env) : env_(env), object_(Napi::Object::New(env)) {}
  Builder& set(const char* key, double value) { return put(key, Napi::Number::New(env_, value)); }
  Builder& set(const char* key, const std::string& value) {
    return put(key, Napi::String::New(env_, value));
  }
  Builder& put(const char* key, Napi::Value value) {
    object_.Set(key, value);
    return *this;
  }
  Napi::Object object() const { return object_; }

 private:
  Napi::Env env_;
  Napi::Object object_;
};

const char* quant_name(QuantKind kind) {
  switch (kind) {
    case QuantKind::none: return "none";
    case QuantKind::modelopt_fp8: return "modelopt_fp8";
    case QuantKind::compressed_fp8: return "compressed_fp8";
    case QuantKind::vllm_fp8: return "vllm_fp8";
  }
  return "unknown";
}

const char* rope_scaling(RopeConfig::Kind kind) {
  switch (kind) {
    case RopeConfig::Kind::none: return "none";
    case RopeConfig::Kind::llama3: return "llama3";
    case RopeConfig::Kind::yarn: return "yarn";
    case RopeConfig::Kind::divided: return "divided";
  }
  return "";
}

const char* reward_name(RewardHead::Kind kind) {
  switch (kind) {
    case RewardHead::Kind::none: return "none";
    case RewardHead::Kind::lm_head_rows: return "lm_head_rows";
    case RewardHead::Kind::classification: return "classification";
  }
  return "unknown";
}

}  // namespace

Status read_engine_options(const Napi::Object& object, EngineOptions* out) {
  JsFields fields(object, "");
  fields.string("model", &out->model_dir);
  fields.string("device", &out->backend);
  fields.number("deviceIndex", &out->device.index);
  fields.number("threads", &out->device.threads);
  fields.number("tensorParallelSize", &out->ranks);
  fields.string("isa", &out->device.isa);
  fields.boolean("exactActivations", &out->device.exact_activations);
  fields.boolean("int8Activations", &out->device.int8_activations);
  fields.boolean("fp8Activations", &out->device.fp8_activations);
  fields.boolean("debugChecks", &out->debug_checks);
  out->device.debug_checks = out->debug_checks;
  size_t format = 0, kv_dtype = 0;
  fields.choice("dtype", {"stored", "fp8", "int4", "int8"}, &format);
  fields.choice("kvCacheDtype", {"auto", "bf16", "fp8"}, &kv_dtype);
  out->format = WeightFormat(format);
  if (kv_dtype > 0) out->kv_dtype = kv_dtype == 1 ? DType::bf16 : DType::fp8_e4m3;
  fields.number("kvCacheMemory", &out->kv_memory);
  fields.number("memoryUtilization", &out->memory_utilization);
  fields.number("maxModelLen", &out->max_model_len);
  fields.number("maxNumSeqs", &out->max_seqs);
  fields.number("maxNumBatchedTokens", &out->max_batched_tokens);
  fields.number("blockSize", &out->block_size);
  fields.number("maxWaiting", &out->max_waiting);
  fields.number("maxWaitingTokens", &out->max_waiting_tokens);
  fields.boolean("prefixCache", &out->prefix_cache);
  fields.string("draftModel", &out->draft_dir);
  fields.number("draftTokens", &out->draft_tokens);
  fields.number("draftRows", &out->draft_rows);
  fields.ids("rewardRows", &out->reward_rows);
  fields.ids("stopIds", &out->stop_ids);
  read_token_table(&fields, out);
  return fields.status();
}

Status read_request(const Napi::Object& object, Request* out) {
  JsFields fields(object, "");
  size_t kind = 0;
  fields.number("id", &out->id);
  fields.choice("kind", {"generate", "score"}, &kind);
  out->kind = kind == 0 ? RequestKind::generate : RequestKind::score;
  fields.ids("prompt", &out->prompt);
  fields.number("n", &out->n);
  fields.number("priority", &out->priority);
  fields.string("cacheSalt", &out->cache_salt);
  fields.boolean("admitted", &out->admitted);
  fields.boolean("goesOn", &out->goes_on);
  fields.boolean("background", &out->background);
  Napi::Object grammar;
  if (fields.instance("grammar", "what compileGrammar() gives", GrammarHandle::of(object.Env()),
                      &grammar)) {
    out->sampling.grammar = GrammarHandle::Unwrap(grammar)->grammar();
  }
  fields.strings("grammarAfter", &out->sampling.grammar_after);
  if (!fields.status()) return fields.status();
  const Napi::Value sampling = object.Get("sampling");
  if (sampling.IsUndefined()) return {};
  if (!sampling.IsObject()) return Status::invalid("sampling must be an object");
  return read_sampling(sampling.As<Napi::Object>(), &out->sampling);
}

namespace {

Napi::Array strings(Napi::Env env, const std::vector<std::string>& list) {
  const auto array = Napi::Array::New(env, list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    array.Set(uint32_t(i), Napi::String::New(env, list[i]));
  }
  return array;
}

}  // namespace

static Napi::Array widened(Napi::Env env, const std::vector<WidenedTensor>& list) {
  const auto array = Napi::Array::New(env, list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    array.Set(uint32_t(i), Builder(env).set("name", list[i].name).set("why", list[i].why).object());
  }
  return array;
}

Napi::Object plan_object(Napi::Env env, const MemoryPlan& plan) {
  return Builder(env)
      .set("weights", double(plan.weights))
      .set("kv", double(plan.kv))
      .set("activations", double(plan.activations))
      .set("draft", double(plan.draft))
      .set("draftKv", double(plan.draft_kv))
      .set("total", double(plan.total))
      .set("available", double(plan.available))
      .set("numBlocks", plan.num_blocks)
      .set("blockSize", plan.block_size)
      .set("kvTokens", double(plan.kv_tokens))
      .set("kvBytesPerToken", double(plan.kv_bytes_per_token))
      .set("draftKvBytesPerToken", double(plan.draft_kv_bytes_per_token))
      .set("quantizes", plan.quantises)
      .put("unusedTensors", strings(env, plan.unused_tensors))
      .put("widenedTensors", widened(env, plan.widened_tensors))
      .set("table", plan.table())
      .object();
}

namespace {

Napi::Object defaults_object(Napi::Env env, const GenerationDefaults& d) {
  Napi::Object object = Napi::Object::New(env);
  const auto set = [&](const char* name, const auto& value) {
    if (value) object.Set(name, Napi::Number::New(env, double(*value)));
  };
  set("temperature", d.temperature);
  set("topP", d.top_p);
  set("topK", d.top_k);
  set("minP", d.min_p);
  set("repetitionPenalty", d.repetition_penalty);
  object.Set("greedy", Napi::Boolean::New(env, d.greedy));
  return object;
}

// `stop_ids`: the config's own, or with those of the engine's options.
Napi::Object config_object(Napi::Env env, const ModelConfig& config,
                           const std::vector<int32_t>& stop_ids) {
  const auto eos = Napi::Array::New(env, stop_ids.size());
  for (size_t i = 0; i < stop_ids.size(); ++i) {
    eos.Set(uint32_t(i), Napi::Number::New(env, stop_ids[i]));
  }
  return Builder(env)
      .set("architecture", config.architecture)
      .set("hidden", config.hidden)
      .set("vocab", config.vocab)
      .set("layers", double(config.layers.size()))
      .set("qHeads", config.q_heads)
      .set("kvHeads", config.kv_heads())
      .set("headDim", config.head_dim)
      .set("intermediate", config.max_intermediate())
      .set("maxPosition", config.max_position)
      .set("ropeTheta", config.rope.theta)
      .set("ropeScaling", rope_scaling(config.rope.kind))
      .put("tied", Napi::Boolean::New(env, config.tied))
      .set("dtype", dtype_name(config.dtype))
      .set("quantization", quant_name(config.quant))
      .put("kvScales", Napi::Boolean::New(env, config.kv_scales))
      .set("reward", reward_name(config.reward.kind))
      .put("rewardLabels", strings(env, config.reward.labels))
      .set("rewardOutputs", config.reward.outputs())
      .set("bosId", config.bos_id)
      .put("eosIds", eos)
      .put("generation", defaults_object(env, config.generation))
      .object();
}

}  // namespace

Napi::Object model_object(Napi::Env env, const ModelConfig& config, const Checkpoint& checkpoint,
                          const std::vector<GpuFit>& fits, const std::vector<CpuNeed>& cpu,
                          const std::vector<WidenedTensor>& widened_tensors) {
  const auto gpus = Napi::Array::New(env, fits.size());
  for (size_t i = 0; i < fits.size(); ++i) {
    const GpuFit& fit = fits[i];
    gpus.Set(uint32_t(i), Builder(env)
                              .set("gpu", fit.gpu)
                              .set("gpuBytes", double(fit.gpu_bytes))
                              .set("ranks", fit.ranks)
                              .set("format", weight_format_name(fit.format))
                              .set("weights", double(fit.weights))
                              .set("kvTokensBf16", double(fit.kv_tokens_bf16))
                              .set("kvTokensFp8", double(fit.kv_tokens_fp8))
                              .object());
  }
  const auto needs = Napi::Array::New(env, cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) {
    const auto& [format, own, of_draft] = cpu[i];
    needs.Set(uint32_t(i), Builder(env)
                               .set("format", weight_format_name(format))
                               .set("weights", double(own.weights))
                               .set("kvBytesPerToken", double(own.kv_bytes_per_token))
                               .set("draftWeights", double(of_draft.weights))
                               .set("draftKvBytesPerToken", double(of_draft.kv_bytes_per_token))
                               .object());
  }
  return Builder(env)
      .put("config", config_object(env, config, config.eos_ids))
      .set("parameters", double(parameter_count(config)))
      .set("bytes", double(checkpoint.total_bytes()))
      .set("tensors", double(checkpoint.tensors().size()))
      .set("layout", std::to_string(layout_hash(checkpoint)))
      .put("gpus", gpus)
      .put("cpu", needs)
      .put("widened", widened(env, widened_tensors))
      .object();
}

static Napi::Object load_object(Napi::Env env, const LoadReport& load) {
  return Builder(env)
      .set("openSeconds", load.open_seconds)
      .set("packSeconds", load.pack_seconds)
      .set("prepareSeconds", load.prepare_seconds)
      .set("bytes", double(load.bytes))
      .object();
}

static Napi::Value draft_value(Napi::Env env, const EngineInfo& info) {
  if (!info.draft) return env.Null();
  const DraftInfo& draft = *info.draft;
  return Builder(env)
      .put("config", config_object(env, draft.config, draft.config.eos_ids))
      .put("load", load_object(env, draft.load))
      .set("tokens", draft.tokens)
      .set("rows", draft.rows)
      .object();
}

Napi::Object info_object(Napi::Env env, const EngineInfo& info) {
  auto ranks = Napi::Array::New(env, info.ranks.size());
  for (uint32_t i = 0; i < info.ranks.size(); ++i) {
    const RankInfo& rank = info.ranks[i];
    ranks[i] = Builder(env)
                   .set("device", rank.device)
                   .put("plan", plan_object(env, rank.plan))
                   .put("load", load_object(env, rank.load))
                   .object();
  }
  return Builder(env)
      .put("config", config_object(env, info.config, info.stop_ids))
      .put("plan", plan_object(env, info.plan))
      .put("load", load_object(env, info.load))
      .put("ranks", ranks)
      .put("draft", draft_value(env, info))
      .set("device", info.device)
      .set("deviceNote", info.backend_note)
      .set("maxModelLen", info.max_model_len)
      .set("maxNumSeqs", info.max_seqs)
      .set("places", double(info.places))
      .set("maxNumBatchedTokens", info.max_batched_tokens)
      .object();
}

static Napi::Object drafts_object(Napi::Env env, const EngineStats& s) {
  Builder all(env);
  const auto put = [&](const char* name, DraftSource source) {
    const EngineStats::Drafts& d = s.drafts[size_t(source)];
    all.put(name, Builder(env)
                      .set("drafted", double(d.drafted))
                      .set("accepted", double(d.accepted))
                      .object());
  };
  put("grammar", DraftSource::grammar);
  put("lookup", DraftSource::lookup);
  put("model", DraftSource::model);
  return all.object();
}

Napi::Object stats_object(Napi::Env env, const EngineStats& s) {
  auto steps_by_rows = Napi::Array::New(env, s.steps_by_rows.size());
  for (size_t i = 0; i < s.steps_by_rows.size(); ++i) {
    steps_by_rows.Set(uint32_t(i), double(s.steps_by_rows[i]));
  }
  auto rank_layers = Napi::Array::New(env, s.rank_layers.size());
  for (size_t i = 0; i < s.rank_layers.size(); ++i) {
    rank_layers.Set(uint32_t(i), double(s.rank_layers[i]));
  }
  return Builder(env)
      .set("steps", double(s.steps))
      .set("promptTokens", double(s.prompt_tokens))
      .set("generatedTokens", double(s.generated_tokens))
      .set("cachedTokens", double(s.cached_tokens))
      .set("queriedTokens", double(s.queried_tokens))
      .set("preemptions", double(s.preemptions))
      .set("aborted", double(s.aborted))
      .set("finishedStop", double(s.finished_stop))
      .set("finishedLength", double(s.finished_length))
      .set("failed", double(s.failed))
      .set("rejected", double(s.rejected))
      .put("drafts", drafts_object(env, s))
      .set("missNeverSeen", double(s.miss_never_seen))
      .set("missEvicted", double(s.miss_evicted))
      .set("running", s.running)
      .set("waiting", s.waiting)
      .set("waitingTokens", double(s.waiting_tokens))
      .set("blocksTotal", s.blocks_total)
      .set("blocksUsed", s.blocks_used)
      .set("blocksCached", s.blocks_cached)
      .set("rows", double(s.rows))
      .put("stepsByRows", steps_by_rows)
      .set("stepSecondsSum", s.step_seconds_sum)
      .set("lastStepAge", s.last_step_age)
      .set("lastStepRows", s.last_step_rows)
      .set("lastStepSeqs", s.last_step_seqs)
      .set("launchedRows", s.launched_rows)
      .set("launchedSeqs", s.launched_seqs)
      .put("drafting", Napi::Boolean::New(env, s.drafting))
      .put("rankLayers", rank_layers)
      .put("failure", s.failed_device ? Napi::Value(Napi::String::New(env, s.failure)) : env.Null())
      .object();
}

namespace {

// The names that JavaScript knows values by. null: there is no such value.
const char* name_of(Code code) {
  switch (code) {
    case Code::ok: return "ok";
    case Code::invalid_argument: return "invalid_argument";
    case Code::not_found: return "not_found";
    case Code::unsupported: return "unsupported";
    case Code::out_of_memory: return "out_of_memory";
    case Code::unavailable: return "unavailable";
    case Code::queue_full: return "queue_full";
    case Code::aborted: return "aborted";
    case Code::internal: return "internal";
  }
  return nullptr;
}

const char* name_of(Finish finish) {
  switch (finish) {
    case Finish::none: return "none";
    case Finish::stop: return "stop";
    case Finish::length: return "length";
    case Finish::abort: return "abort";
    case Finish::error: return "error";
  }
  return nullptr;
}

const char* name_of(CacheMiss::Reason reason) {
  switch (reason) {
    case CacheMiss::Reason::none: return "none";
    case CacheMiss::Reason::never_seen: return "never_seen";
    case CacheMiss::Reason::evicted: return "evicted";
    case CacheMiss::Reason::last_token: return "last_token";
  }
  return nullptr;
}

template <class Enum>
Napi::Array names_of(Napi::Env env) {
  Napi::Array names = Napi::Array::New(env);
  for (uint32_t i = 0; const char* name = name_of(Enum(i)); ++i) {
    names.Set(i, Napi::String::New(env, name));
  }
  return names;
}

}  // namespace

Napi::Object packed_names(Napi::Env env) {
  return Builder(env)
      .put("finishes", names_of<Finish>(env))
      .put("missReasons", names_of<CacheMiss::Reason>(env))
      .put("codes", names_of<Code>(env))
      .object();
}

Napi::Object error_object(Napi::Env env, const Status& status) {
  return Builder(env).set("code", name_of(status.code())).set("message", status.message()).object();
}

}  // namespace nemotron
