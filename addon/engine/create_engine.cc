// Engine::create(): checkpoint -> plan of memory -> weights on the device -> a running loop.
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>

#include "device/open_device.h"
#include "device/processors.h"
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

constexpr int32_t kMaxDraftTokens = 32;

StepLimits step_limits(const RankShape& shape, const EngineInfo& info) {
  const std::vector<int32_t> kv_heads = shape.kv_heads();
  return {.max_rows = info.max_batched_tokens,
          .max_spans = info.max_seqs,
          .max_samples = info.max_batched_tokens,  // prompt logprobs want every row
          .max_context = info.max_model_len,
          .q_heads = shape.q_heads,
          .kv_heads = std::ranges::max(kv_heads),
          .head_dim = shape.head_dim,
          .hidden = shape.hidden,
          .intermediate = shape.max_intermediate(),
          .vocab = shape.vocab};
}

// Which numbers of ranks can hold the model, for messages.
std::string possible_ranks(const ModelConfig& config) {
  std::string list;
  for (int32_t ranks = 1; ranks <= kMaxStretches; ++ranks) {
    RankShape shape;
    if (rank_shape(config, {.rank = 0, .ranks = ranks}, &shape)) {
      list += (list.empty() ? "" : ", ") + std::to_string(ranks);
    }
  }
  return list;
}

Status check_ranks(const EngineOptions& o, const ModelConfig& config) {
  RankShape shape;
  Status s = Status::invalid("out of range");
  if (o.ranks >= 1 && o.ranks <= kMaxStretches) {
    s = rank_shape(config, {.rank = 0, .ranks = o.ranks}, &shape);
  }
  if (s.ok()) return {};
  return Status::invalid("tensor_parallel_size: found " + std::to_string(o.ranks) + ", expected " +
                         possible_ranks(config) + " (" + s.message() + ")");
}

// Of the draft model, before anything is loaded.
Status check_draft(const EngineOptions& o, const EngineInfo& info, const ModelConfig& draft) {
  const auto wrong = [](const std::string& what) {
    return Status::invalid("draft_model: " + what);
  };
  if (info.config.reward.kind != RewardHead::Kind::none) {
    return wrong("a reward model scores and draws nothing that could be guessed; serve it without");
  }
  if (draft.reward.kind != RewardHead::Kind::none) {
    return wrong("is a reward model, which generates no text; expected a model that does");
  }
  if (draft.vocab != info.config.vocab) {
    return wrong("its vocabulary has " + std::to_string(draft.vocab) + " ids, expected the " +
                 std::to_string(info.config.vocab) + " of the model that it drafts for");
  }
  if (draft.max_position < info.max_model_len) {
    return wrong("its context of " + std::to_string(draft.max_position) +
                 " tokens is shorter than max_model_len, " + std::to_string(info.max_model_len) +
                 "; expected a max_model_len of at most " + std::to_string(draft.max_position));
  }
  RankShape shape;
  if (Status s = rank_shape(draft, {.rank = 0, .ranks = o.ranks}, &shape); !s) {
    return Status::invalid("tensor_parallel_size: found " + std::to_string(o.ranks) +
                           ", expected " + possible_ranks(draft) + " with this draft_model (" +
                           s.message() + ")");
  }
  if (o.draft_tokens < 1 || o.draft_tokens > kMaxDraftTokens) {
    return Status::invalid("draft_tokens: found " + std::to_string(o.draft_tokens) +
                           ", expected 1 to " + std::to_string(kMaxDraftTokens));
  }
  if (o.draft_rows != 0 && o.draft_rows < 2) {
    return Status::invalid("draft_rows: found " + std::to_string(o.draft_rows) +
                           ", expected at least 2: a draw and a guess");
  }
  return {};
}

// What all ranks have in common, before any of them begins.
Status read_model(const EngineOptions& options, EngineInfo* info) {
  ModelConfig& config = info->config;
  if (Status s = read_model_config(options.model_dir, options.reward_rows, &config); !s) return s;
  if (Status s = check_options(options, config); !s) return s;
  if (Status s = check_ranks(options, config); !s) return s;
  info->stop_ids = config.eos_ids;
  for (const int32_t id : options.stop_ids) {
    if (std::ranges::find(info->stop_ids, id) == info->stop_ids.end()) info->stop_ids.push_back(id);
  }
  info->max_model_len = options.max_model_len > 0 ? options.max_model_len : config.max_position;
  info->max_seqs = options.max_seqs;
  info->places = int64_t(options.max_seqs) + options.max_waiting;
  info->max_batched_tokens = options.max_batched_tokens;
  info->block_size = options.block_size;
  info->ranks.resize(size_t(options.ranks));
  if (options.draft_dir.empty()) return {};
  DraftInfo draft{
      .config = {}, .load = {}, .tokens = options.draft_tokens, .rows = options.draft_rows};
  if (Status s = read_model_config(options.draft_dir, {}, &draft.config); !s) {
    return s.within("draft_model");
  }
  if (Status s = check_draft(options, *info, draft.config); !s) return s;
  info->draft = std::move(draft);
  return {};
}

// What is wanted, and what has been found out. Ranks write into places of their own.
struct Model {
  EngineOptions options;
  EngineInfo info;
  std::vector<LoadReport> draft_loads;  // of the draft model's ranks
};

struct Listeners {
  std::function<void(const LoadProgress&)> progress;
  std::function<void(const MemoryPlan&)> planned;
};

Shard shard_of(const EngineOptions& options, const Rank& rank) {
  return {.rank = rank.index, .ranks = options.ranks};
}

Status open_rank(const EngineOptions& options, Rank* rank, std::string* note) {
  DeviceOptions device = options.device;
  device.group = rank->group;
  device.rank = rank->index;
  return open_device(options.backend, device, &rank->device, note);
}

// in_groups: MemoryPlan's.
Status check_int8(const EngineOptions& options, bool in_groups) {
  if (!options.device.int8_activations || in_groups) return {};
  return Status::invalid(
      "int8_activations: found weights that are not in groups, or most of them; expected a GGUF "
      "file of packed types, or dtype int8 or int4");
}

// The rank's device, which can run the model and the draft model.
Status open_first(const EngineOptions& options, EngineInfo* info, Rank* rank) {
  std::string note;
  if (Status s = open_rank(options, rank, &note); !s) return s;
  if (rank->index == 0) info->backend_note = note;
  info->ranks[size_t(rank->index)].device = rank->device->name();
  info->ranks[size_t(rank->index)].copies_blocks = rank->device->copies_blocks();
  if (Status s = rank->device->check(decoder_form(info->config)); !s) return s;
  if (!info->draft) return {};
  const Status s = rank->device->check(decoder_form(info->draft->config));
  return s.ok() ? s : s.within("draft_model");
}

double lap(double* since) {
  const double now = now_seconds();
  return now - std::exchange(*since, now);
}

// A checkpoint that fits its config.
Status open_checkpoint(const std::string& dir, const ModelConfig& config,
                       std::unique_ptr<Checkpoint>* out) {
  if (Status s = Checkpoint::open(dir, out); !s) return s;
  return check_checkpoint(**out, config);
}

// Of the whole memory of a rank, the draft model's part included.
Status plan_rank(const Model& model, const Checkpoint& checkpoint, const Rank& rank,
                 MemoryPlan* out) {
  const EngineOptions& options = model.options;
  DraftInput draft;
  std::unique_ptr<Checkpoint> draft_checkpoint;
  if (model.info.draft) {
    draft.config = &model.info.draft->config;
    Status s = open_checkpoint(options.draft_dir, *draft.config, &draft_checkpoint);
    if (!s) return s.within("draft_model");
    draft.checkpoint = draft_checkpoint.get();
    RankShape shape;
    if (s = rank_shape(*draft.config, shard_of(options, rank), &shape); !s) return s;
    draft.limits = step_limits(shape, model.info);
  }
  const Device& device = *rank.device;
  const PlanInput plan{
      .shard = shard_of(options, rank),
      .format = options.format,
      .group_bytes = device.group_bytes(),
      .workspace_bytes =
          [&device](const StepLimits& limits, const KvConfig& kv, NarrowWeights narrow) {
            return device.workspace_bytes(limits, kv, narrow);
          },
      .kv_dtype = options.kv_dtype.value_or(device.kv_dtype()),
      .block_size = options.block_size,
      .kv_memory = options.kv_memory,
      .available = size_t(double(device.free_bytes()) * options.memory_utilization),
      .limits = step_limits(rank.shape, model.info),
      .max_seqs = options.max_seqs,
      .draft = model.info.draft ? &draft : nullptr};
  return plan_memory(model.info.config, checkpoint, plan, out);
}

std::map<std::string, std::string> layout_of(const Checkpoint& checkpoint) {
  std::map<std::string, std::string> all;
  for (const StoredTensor& t : checkpoint.tensors()) {
    std::string form = t.dtype_name + " [";
    for (const int64_t n : t.shape) form += (form.back() == '[' ? "" : ", ") + std::to_string(n);
    all.emplace(t.name, form + "]");
  }
  return all;
}

// Another one where a file has been written over, or stands in the place of another. Empty: a file
// is not there.
std::string stamp_of(const Checkpoint& checkpoint) {
  std::set<std::string> files = {checkpoint.path()};
  for (const StoredTensor& t : checkpoint.tensors()) files.insert(t.file);
  std::string stamp;
  for (const std::string& file : files) {
    struct stat s {};
    if (stat(file.c_str(), &s) != 0) return "";
    for (const auto n : {uint64_t(s.st_dev), uint64_t(s.st_ino), uint64_t(s.st_size),
                         uint64_t(s.st_mtim.tv_sec), uint64_t(s.st_mtim.tv_nsec)}) {
      stamp += std::to_string(n) + " ";
    }
  }
  return stamp;
}

// Weights, cache and decoder. REQUIRES: the rank has its shape and device, its memory is planned.
Status load_rank(const Model& model, const Checkpoint& checkpoint, const ModelConfig& config,
                 const Listeners& listeners, Rank* rank, LoadReport* report) {
  double since = now_seconds();
  const EngineOptions& options = model.options;
  const StepLimits limits = step_limits(rank->shape, model.info);
  Device& device = *rank->device;
  const LoadOptions load{.shard = shard_of(options, *rank),
                         .group = rank->group,
                         .format = options.format,
                         .progress = rank->index == 0 ? listeners.progress : nullptr};
  if (Status s = load_weights(checkpoint, config, load, &device, &rank->weights); !s) return s;
  report->bytes = checkpoint.total_bytes();
  report->pack_seconds = lap(&since);

  const std::vector<float> inv_freq = rope_inv_freq(config.rope, config.rotary_dim);
  const std::vector<int32_t> kv_heads = rank->shape.kv_heads();
  KvConfig kv = kv_config(rank->shape, kv_heads);
  kv.num_blocks = model.info.ranks[size_t(rank->index)].plan.num_blocks;
  kv.block_size = options.block_size;
  kv.dtype = options.kv_dtype.value_or(device.kv_dtype());
  if (kv.dtype == DType::fp8_e4m3) {  // which the checkpoint's scales are for
    kv.k_scale = rank->weights.k_scale;
    kv.v_scale = rank->weights.v_scale;
  }
  if (Status s = device.prepare(limits, kv, {.inv_freq = inv_freq}); !s) return s;
  if (Status s = Decoder::create(rank->shape, rank->weights, &device, limits, &rank->decoder); !s)
    return s;
  report->prepare_seconds = lap(&since);
  return {};
}

// Runs on each rank's thread. Listeners hear of the first rank, on the caller's thread: the others
// do the same at the same time.
Status set_up(Model* model, const Listeners& listeners, Rank* rank) {
  double since = now_seconds();
  const EngineOptions& options = model->options;
  EngineInfo& info = model->info;
  RankInfo& own = info.ranks[size_t(rank->index)];
  std::unique_ptr<Checkpoint> checkpoint;
  if (Status s = open_checkpoint(options.model_dir, info.config, &checkpoint); !s) return s;
  if (Status s = rank_shape(info.config, shard_of(options, *rank), &rank->shape); !s) return s;
  if (Status s = open_first(options, &info, rank); !s) return s;
  if (Status s = plan_rank(*model, *checkpoint, *rank, &own.plan); !s) return s;
  if (Status s = check_int8(options, own.plan.in_groups); !s) return s;
  if (rank->index == 0 && info.draft && info.draft->rows == 0) {
    info.draft->rows = rank->device->cheap_rows(own.plan.in_groups);
  }
  // One scheduler hands out the blocks of all ranks.
  int64_t blocks = own.plan.num_blocks;
  if (!rank->group->smallest(rank->index, "its plan of memory", &blocks)) {
    return rank->group->status();
  }
  own.plan.limit_blocks(int32_t(blocks));
  if (rank->index == 0) listeners.planned(own.plan);
  own.load.open_seconds = lap(&since);
  rank->folder = options.model_dir;
  rank->stamp = stamp_of(*checkpoint);
  rank->layout = layout_of(*checkpoint);
  return load_rank(*model, *checkpoint, info.config, listeners, rank, &own.load);
}

// The same for the draft model, whose memory has been planned with the other's.
Status set_up_draft(Model* model, const Listeners& listeners, Rank* rank) {
  double since = now_seconds();
  const EngineOptions& options = model->options;
  const ModelConfig& config = model->info.draft->config;
  LoadReport& report = model->draft_loads[size_t(rank->index)];
  std::unique_ptr<Checkpoint> checkpoint;
  std::string note;
  if (Status s = open_checkpoint(options.draft_dir, config, &checkpoint); !s) return s;
  if (Status s = rank_shape(config, shard_of(options, *rank), &rank->shape); !s) return s;
  if (Status s = open_rank(options, rank, &note); !s) return s;
  report.open_seconds = lap(&since);
  return load_rank(*model, *checkpoint, config, listeners, rank, &report);
}

// Ok where they are the same.
Status compare_layouts(const std::map<std::string, std::string>& mine, const Checkpoint& other) {
  const std::map<std::string, std::string> theirs = layout_of(other);
  for (const auto& [name, form] : mine) {
    const auto found = theirs.find(name);
    if (found == theirs.end()) {
      return Status::invalid(other.path() + ": tensor " + other.shown(name) +
                             " is missing; the weights that run have it as " + form);
    }
    if (found->second == form) continue;
    return Status::invalid(other.path() + ": tensor " + other.shown(name) + " is " + found->second +
                           "; the weights that run have " + form);
  }
  for (const auto& [name, form] : theirs) {
    if (mine.contains(name)) continue;
    return Status::invalid(other.path() + ": tensor " + other.shown(name) + " (" + form +
                           ") is not among the weights that run");
  }
  return {};
}

// What weights have to fit into.
struct Loaded {
  ModelConfig config;
  std::vector<int32_t> reward_rows;
  int32_t ranks = 1;
  WeightFormat format = WeightFormat::stored;
  std::optional<DType> kv_dtype;
};

// Whether the checkpoint in `folder` can take the place of the one that runs. Touches nothing.
Status check_reload(const Loaded& loaded, const Rank& rank, const std::string& folder,
                    ModelConfig* config, std::unique_ptr<Checkpoint>* out) {
  if (Status s = read_model_config(folder, loaded.reward_rows, config); !s) return s;
  if (const char* field = config_difference(*config, loaded.config)) {
    return Status::invalid(folder + ": " + config->names.plain(field) +
                           " is another than that of the model that runs; only weights of the same "
                           "model can take their place");
  }
  if (Status s = Checkpoint::open(folder, out); !s) return s;
  if (Status s = compare_layouts(rank.layout, **out); !s) return s;
  Sources sources;
  if (Status s = find_sources(**out, *config, &sources); !s) return s;
  if (Status s = check_norms(**out, sources); !s) return s;
  const Shard shard{.rank = rank.index, .ranks = loaded.ranks};
  const bool is_tied = packed_groups(**out, sources, *config, shard)[0].use == WeightUse::tied;
  const DecoderWeights& runs = rank.weights;
  if (is_tied != (runs.head.weight.handle == runs.embedding.handle)) {
    return Status::unsupported(
        (*out)->path() + ": tensor " + (*out)->shown("lm_head.weight") +
        (is_tied ? " has the values of " : " has other values than ") +
        (*out)->shown("model.embed_tokens.weight") + "; in the weights that run it has " +
        (is_tied ? "others" : "the same") + "; start the engine with these weights");
  }
  if (loaded.kv_dtype.value_or(rank.device->kv_dtype()) != DType::fp8_e4m3) return {};
  // The device has read the cache's scales.
  size_t i = 0;
  for (size_t layer = 0; layer < config->layers.size(); ++layer) {
    if (!config->layers[layer].attention || rank.weights.k_scale.empty()) continue;
    const LayerSource& source = sources.layers[layer];
    if (source.k_scale == rank.weights.k_scale[i] && source.v_scale == rank.weights.v_scale[i]) {
      ++i;
      continue;
    }
    return Status::unsupported((*out)->path() + ": k_scale or v_scale of layer " +
                               std::to_string(layer) +
                               " differ from those that run; start the engine with these weights");
  }
  return {};
}

// See StepRunner::reload(). The ranks go through it side by side.
Status load_again(const Loaded& loaded, Rank* rank, const std::string& folder, Status* refused) {
  // False: one of them has failed.
  const auto all_of_them = [&](bool mine, bool* all) -> Status {
    int64_t least = mine ? 1 : 0;
    if (!rank->group->smallest(rank->index, "new weights", &least)) return rank->group->status();
    *all = least == 1;
    return {};
  };
  const LoadOptions load{.shard = {.rank = rank->index, .ranks = loaded.ranks},
                         .group = rank->group,
                         .format = loaded.format,
                         .meets_to_the_end = true};
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;
  struct Packing {
    Device* device;
    ~Packing() { device->end_packing(); }
  };
  *refused = check_reload(loaded, *rank, folder, &config, &checkpoint);
  const Packing packing{rank->device.get()};
  if (refused->ok()) *refused = packing.device->begin_packing();
  bool fine = false;
  if (Status s = all_of_them(refused->ok(), &fine); !s || !fine) return s;
  std::string stamp = stamp_of(*checkpoint);

  *refused = load_weights(*checkpoint, config, load, rank->device.get(), &rank->weights);
  if (Status s = all_of_them(refused->ok(), &fine); !s) return s;
  if (fine) {
    rank->folder = folder;
    rank->stamp = std::move(stamp);
    return {};
  }
  // Some are new and some are old: back to the old ones.
  Status back = Checkpoint::open(rank->folder, &checkpoint);
  if (back && stamp_of(*checkpoint) != rank->stamp) {
    back = Status::invalid(checkpoint->path() + ": has been written over since it was loaded");
  }
  if (back)
    back = load_weights(*checkpoint, loaded.config, load, rank->device.get(), &rank->weights);
  if (Status s = all_of_them(back.ok(), &fine); !s || fine) return s;
  return back.ok() ? Status::internal("another rank could not load its old weights again")
                   : back.within("loading the old weights again, after new ones failed (" +
                                 refused->message() + ")");
}

void count_slowest(const LoadReport& rank, LoadReport* out) {
  out->open_seconds = std::max(out->open_seconds, rank.open_seconds);
  out->pack_seconds = std::max(out->pack_seconds, rank.pack_seconds);
  out->prepare_seconds = std::max(out->prepare_seconds, rank.prepare_seconds);
  out->bytes = std::max(out->bytes, rank.bytes);
}

// What is said of the whole group.
void sum_up(Model* model) {
  EngineInfo& info = model->info;
  const std::vector<RankInfo>& ranks = info.ranks;
  info.plan = ranks[0].plan;
  info.copies_blocks = ranks[0].copies_blocks;
  info.device = (ranks.size() > 1 ? std::to_string(ranks.size()) + " x " : "") + ranks[0].device;
  for (const RankInfo& rank : ranks) count_slowest(rank.load, &info.load);
  for (const LoadReport& load : model->draft_loads) count_slowest(load, &info.draft->load);
}

using SetUp = Status (*)(Model*, const Listeners&, Rank*);

// Has every rank set up. What ranks that hang may still touch lives as long as they.
Status start(const std::shared_ptr<Model>& model, SetUp set_up, RankRunner::Reload reload,
             const Listeners& listeners, std::unique_ptr<RankRunner>* out) {
  const auto setup = [model, set_up, listeners](Rank* rank, const RankRunner::OnCaller& on_caller) {
    const Listeners there{.progress =
                              [&](const LoadProgress& p) {
                                on_caller([&] {
                                  if (listeners.progress) listeners.progress(p);
                                });
                              },
                          .planned =
                              [&](const MemoryPlan& p) {
                                on_caller([&] {
                                  if (listeners.planned) listeners.planned(p);
                                });
                              }};
    return set_up(model.get(), there, rank);
  };
  const EngineOptions& o = model->options;
  const int threads = choose_threads(o.device.threads).count;
  const RankRunner::Group group{.ranks = o.ranks,
                                .threads_per_rank = std::max(1, threads / o.ranks),
                                .patience = o.rank_patience};
  return RankRunner::start(group, setup, std::move(reload), out);
}

}  // namespace

Status Engine::check(const EngineOptions& options) {
  EngineInfo info;
  if (Status s = read_model(options, &info); !s) return s;
  Status s = check_device(options.backend, options.device, options.ranks);
  if (!s) return s;
  std::unique_ptr<Checkpoint> checkpoint;
  if (s = open_checkpoint(options.model_dir, info.config, &checkpoint); !s) return s;
  Footprint footprint;
  const PlanInput plan{.format = options.format};
  if (s = find_footprint(info.config, *checkpoint, plan, &footprint); !s) return s;
  return check_int8(options, footprint.in_groups);
}

Status Engine::create(EngineOptions options, std::function<void()> wake,
                      const std::function<void(const LoadProgress&)>& progress,
                      const std::function<void(const MemoryPlan&)>& planned,
                      std::unique_ptr<Engine>* out) {
  const auto model = std::make_shared<Model>();
  EngineOptions& o = model->options = std::move(options);
  EngineInfo& info = model->info;
  if (Status s = read_model(o, &info); !s) return s;
  std::unique_ptr<RankRunner> runner, draft;
  const Listeners listeners{.progress = progress, .planned = planned};
  const auto loaded = std::make_shared<const Loaded>(Loaded{.config = info.config,
                                                            .reward_rows = o.reward_rows,
                                                            .ranks = o.ranks,
                                                            .format = o.format,
                                                            .kv_dtype = o.kv_dtype});
  const auto reload = [loaded](Rank* rank, const std::string& folder, Status* refused) {
    return load_again(*loaded, rank, folder, refused);
  };
  if (Status s = start(model, set_up, reload, listeners, &runner); !s) return s;
  if (info.draft) {
    model->draft_loads.resize(size_t(o.ranks));
    const auto never_reloaded = [](Rank*, const std::string&, Status*) {
      return Status::internal("a draft model keeps its weights");
    };
    if (Status s = start(model, set_up_draft, never_reloaded, listeners, &draft); !s) {
      return s.within("draft_model");
    }
  }
  sum_up(model.get());
  if (info.draft) o.draft_rows = info.draft->rows;
  // Without a table every id may be drawn, and none has text.
  if (o.token_bytes.empty()) o.token_bytes.resize(size_t(info.config.vocab));
  *out = std::make_unique<EngineLoop>(std::move(o), std::move(info), std::move(runner),
                                      std::move(draft), std::move(wake));
  return {};
}

}  // namespace nemotron
