#include "models/checkpoint/gguf.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "models/checkpoint/file_bytes.h"
#include "models/checkpoint/gguf_head.h"
#include "models/checkpoint/widened.h"

namespace nemotron {
namespace {

constexpr std::string_view kSuffix = ".gguf";
constexpr const char* kRopeFreqs = "rope_freqs.weight";
constexpr int64_t kMaxParts = 99999;

struct Family {
  const char* name;          // general.architecture
  const char* architecture;  // Hugging Face's class
  const char* model_type;
  const char* activation;
  bool permuted;       // rows of q and k
  bool gain_less_one;  // Hugging Face stores gains of norms less one, GGUF whole
};
constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", "llama", "silu", true, false},
    {"deci", "DeciLMForCausalLM", "nemotron-nas", "silu", true, false},
    {"nemotron", "NemotronForCausalLM", "nemotron", "relu2", false, true},
};

// One file or the parts of one, opened.
struct Part {
  FileBytes file;
  GgufHead head;
};

std::string part_path(const std::string& stem, int64_t part, int64_t of) {
  char text[32];
  std::snprintf(text, sizeof text, "-%05d-of-%05d", int(part), int(of));
  return stem + text + std::string(kSuffix);
}

Status open_part(const std::string& path, Part* out) {
  if (Status s = FileBytes::open(path, &out->file); !s) return s;
  return GgufHead::read(out->file, &out->head);
}

// A split model's first part holds the metadata and says how many there are.
Status open_parts(const std::string& path, std::vector<Part>* out) {
  std::vector<Part> parts(1);
  if (Status s = open_part(path, &parts[0]); !s) return s;
  const int64_t* count = parts[0].head.integer("split.count");
  const int64_t* number = parts[0].head.integer("split.no");
  if (count && *count > 1) {
    const std::string tail = part_path("", number ? *number + 1 : 1, *count);
    if (*count > kMaxParts || !path.ends_with(tail)) {
      return Status::invalid(path + ": it is part " + std::to_string(number ? *number + 1 : 1) +
                             " of " + std::to_string(*count) + "; expected a name that ends in " +
                             tail);
    }
    const std::string stem = path.substr(0, path.size() - tail.size());
    if (number && *number != 0) {
      return Status::invalid(path + ": it is part " + std::to_string(*number + 1) + " of " +
                             std::to_string(*count) + "; name the first, " +
                             part_path(stem, 1, *count));
    }
    parts.reserve(size_t(*count));
    const int64_t all = *count;
    for (int64_t i = 2; i <= all; ++i) {
      const std::string name = part_path(stem, i, all);
      if (Status s = open_part(name, &parts.emplace_back()); !s) return s.within(path);
      const int64_t* own = parts.back().head.integer("split.no");
      if (!own || *own != i - 1) {
        return Status::invalid(name + ": its split.no is " +
                               (own ? std::to_string(*own) : "missing") + "; expected " +
                               std::to_string(i - 1));
      }
    }
    if (const int64_t* tensors = parts[0].head.integer("split.tensors.count")) {
      size_t found = 0;
      for (const Part& part : parts) found += part.head.tensors.size();
      if (int64_t(found) != *tensors) {
        return Status::invalid(path + ": its parts have " + std::to_string(found) +
                               " tensors; expected " + std::to_string(*tensors));
      }
    }
  }
  *out = std::move(parts);
  return {};
}

Status find_family(const Part& first, const Family** out) {
  const std::string* name = first.head.text("general.architecture");
  for (const Family& family : kFamilies) {
    if (name && *name == family.name) {
      *out = &family;
      return {};
    }
  }
  return Status::unsupported(first.file.path() + ": general.architecture is " +
                             (name ? Json(*name).brief() : "missing") +
                             "; served: \"llama\", \"deci\" and \"nemotron\"");
}

constexpr std::pair<std::string_view, std::string_view> kEnds[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
constexpr std::pair<std::string_view, std::string_view> kInLayer[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},       {"attn_output", "self_attn.linear_attn"}};

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; names unknown here stay.
std::string hugging_face_name(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return name;
  const std::string_view whole(name), module = whole.substr(0, dot), kind = whole.substr(dot);
  for (const auto& [from, to] : kEnds) {
    if (module == from) return std::string(to) + std::string(kind);
  }
  if (!module.starts_with("blk.")) return name;
  const std::string_view rest = module.substr(4);
  const size_t end = rest.find('.');
  if (end == std::string_view::npos) return name;
  for (const auto& [from, to] : kInLayer) {
    if (rest.substr(end + 1) != from) continue;
    return "model.layers." + std::string(rest.substr(0, end)) + "." + std::string(to) +
           std::string(kind);
  }
  return name;
}

// The same the other way.
std::string gguf_name(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::string(name);
  const std::string_view module = name.substr(0, dot), kind = name.substr(dot);
  for (const auto& [to, from] : kEnds) {
    if (module == from) return std::string(to) + std::string(kind);
  }
  if (!module.starts_with(kLayers)) return std::string(name);
  const std::string_view rest = module.substr(kLayers.size());
  const size_t end = rest.find('.');
  for (const auto& [to, from] : kInLayer) {
    if (end == std::string_view::npos || rest.substr(end + 1) != from) continue;
    return "blk." + std::string(rest.substr(0, end + 1)) + std::string(to) + std::string(kind);
  }
  return std::string(name);
}

// Where a tensor of the checkpoint comes from.
struct Origin {
  const Part* part = nullptr;
  const GgufTensor* tensor = nullptr;
  bool is_raw = false;  // read as it is stored, in place
  bool is_gain_less_one = false;
  int64_t heads = 0;  // of permuted rows; 0: they are in order
  size_t place = 0;   // among the widened ones

  const uint8_t* data() const { return part->file.data() + tensor->begin; }
  // llama.cpp rotates neighbours where Hugging Face rotates the halves of a head: row `i` of half
  // `h` lies at 2 i + h.
  int64_t stored_row(int64_t row) const {
    if (heads == 0) return row;
    const int64_t dim = tensor->rows() / heads, in = row % dim, half = dim / 2;
    return row - in + in % half * 2 + in / half;
  }
  // Reads the stored bytes of rows [begin, end), and what lies between them where rows change
  // places within their head.
  Status fetch_rows(int64_t begin, int64_t end) const {
    const int64_t dim = heads > 0 ? tensor->rows() / heads : 1;
    const size_t first = size_t(begin / dim * dim) * tensor->row_bytes();
    const size_t last = size_t((end + dim - 1) / dim * dim) * tensor->row_bytes();
    return part->file.fetch(data() + first, last - first);
  }
};

// A tensor of codes and scales, row by row in Hugging Face's order.
class GgufRows final : public GroupedRows {
 public:
  explicit GgufRows(const Origin& from) : from_(from) {}
  const GroupedForm& form() const override { return from_.tensor->type->form; }
  int64_t cols() const override { return from_.tensor->row(); }
  void read(int64_t row, const GroupedRow& to) const override {
    const GgufTensor& t = *from_.tensor;
    t.type->split(*t.type, from_.data() + size_t(from_.stored_row(row)) * t.row_bytes(),
                  t.row() / t.type->elements, to);
  }

 private:
  const Origin from_;
};

class GgufCheckpoint final : public Checkpoint {
 public:
  Status open(const std::string& path) {
    path_ = path;
    if (Status s = open_parts(path, &parts_); !s) return s;
    const Family* family = nullptr;
    if (Status s = find_family(parts_[0], &family); !s) return s;
    size_t widened = 0;
    for (const Part& part : parts_) {
      for (const GgufTensor& t : part.head.tensors) {
        if (t.name == kRopeFreqs) continue;
        if (Status s = add(part, t, *family, &widened); !s) return s;
      }
    }
    if (Status s = widened_.reserve(widened); !s) return s.within(path);
    for (size_t i = 0; i < tensors_.size(); ++i) {
      StoredTensor& t = tensors_[i];
      const Origin& from = origins_[i];
      t.data =
          from.is_raw ? from.part->file.data() + from.tensor->begin : widened_.data() + from.place;
      if (!by_name_.try_emplace(t.name, i).second) {
        return Status::invalid(t.file + ": tensor " + Json(from.tensor->name).brief() +
                               " is also in another part; expected it once");
      }
    }
    return {};
  }

  const StoredTensor* find(std::string_view name) const override {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? nullptr : &tensors_[it->second];
  }
  size_t total_bytes() const override { return total_bytes_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const std::string& path() const override { return path_; }
  std::string shown(std::string_view name) const override { return gguf_name(name); }

  Status fetch(const StoredTensor& t, size_t first, size_t bytes) const override {
    if (bytes == 0) return {};
    const Origin& from = origin_of(t);
    if (from.is_raw) return from.part->file.fetch(t.data + first, bytes);
    const GgufTensor& stored = *from.tensor;
    const size_t wide = size_t(stored.row()) * dtype_bytes(t.dtype), narrow = stored.row_bytes();
    std::vector<float> values(size_t(stored.row()));
    auto* to = const_cast<uint8_t*>(t.data);
    const uint8_t* file = from.data();
    const auto end = int64_t((first + bytes + wide - 1) / wide);
    const auto begin = int64_t(first / wide);
    if (Status s = from.fetch_rows(begin, end); !s) return s;
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* source = file + size_t(from.stored_row(row)) * narrow;
      uint8_t* row_to = to + size_t(row) * wide;
      if (wide == narrow && !from.is_gain_less_one) {
        std::memcpy(row_to, source, wide);
        continue;
      }
      stored.type->widen(source, stored.row() / stored.type->elements, values.data());
      if (t.dtype == DType::f32) {
        for (float& value : values) value -= 1;
        std::memcpy(row_to, values.data(), wide);
      } else {
        auto* half = reinterpret_cast<uint16_t*>(row_to);
        for (const float value : values) *half++ = f32_to_bf16(value);
      }
    }
    from.part->file.release(file, stored.bytes);
    return {};
  }
  bool reads(const StoredTensor& t) const override { return origin_of(t).is_raw; }
  Status read(const StoredTensor& t, const MatrixRange& range, uint8_t* to) const override {
    return read_range(origin_of(t).part->file, t, range, to);
  }
  const GroupedRows* grouped(const StoredTensor& t) const override {
    return rows_[size_t(&t - tensors_.data())].get();
  }
  Status fetch_grouped(const StoredTensor& t, const MatrixRange& range) const override {
    return origin_of(t).fetch_rows(range.first_row, range.first_row + range.rows);
  }
  void will_need(const StoredTensor& t) const override {
    const Origin& from = origin_of(t);
    from.part->file.will_need(from.data(), from.tensor->bytes);
  }
  void release(const StoredTensor& t) const override {
    const Origin& from = origin_of(t);
    if (from.is_raw) return from.part->file.release(t.data, t.bytes);
    from.part->file.release(from.data(), from.tensor->bytes);
    Widened::release(t.data, t.bytes);
  }

 private:
  Status add(const Part& part, const GgufTensor& t, const Family& family, size_t* widened) {
    const auto bad = [&](const std::string& what) {
      return Status::unsupported(part.file.path() + ": tensor " + Json(t.name).brief() + " " +
                                 what);
    };
    Origin from{.part = &part, .tensor = &t};
    if (family.permuted && t.name.starts_with("blk.")) {
      const bool is_q = t.name.ends_with(".attn_q.weight");
      if (is_q || t.name.ends_with(".attn_k.weight")) {
        const std::string dim = std::string(family.name) + ".attention.key_length";
        const int64_t* head_dim = parts_[0].head.integer(dim);
        from.heads =
            head_dim ? t.rows() / std::max<int64_t>(1, *head_dim) : t.rows() / head_dim_of(family);
        if (from.heads < 1 || t.rows() % (2 * from.heads) != 0) {
          return bad("has " + std::to_string(t.rows()) + " rows; expected whole heads");
        }
      }
    }
    from.is_gain_less_one = family.gain_less_one && t.name.ends_with("norm.weight");
    const bool is_half = t.type == gguf_type(1) || t.type == gguf_type(30);
    from.is_raw = from.heads == 0 && !from.is_gain_less_one && (is_half || t.type == gguf_type(0));
    StoredTensor& out = tensors_.emplace_back();
    out.name = hugging_face_name(t.name);
    out.dtype_name = t.type->name;
    out.served = t.type->is_served();
    out.dtype = from.is_gain_less_one || t.type == gguf_type(0) ? DType::f32
                : t.type == gguf_type(1)                        ? DType::f16
                                                                : DType::bf16;
    out.shape = t.shape;
    out.elements = t.elements;
    out.bytes = size_t(t.elements) * dtype_bytes(out.dtype);
    out.file = part.file.path();
    if (!from.is_raw) {
      from.place = *widened;
      *widened += whole_pages(out.bytes);
    }
    origins_.push_back(from);
    rows_.push_back(t.type->split ? std::make_unique<GgufRows>(from) : nullptr);
    total_bytes_ += t.bytes;
    return {};
  }

  // Of a file that does not say it.
  int64_t head_dim_of(const Family& family) const {
    const std::string base(family.name);
    const int64_t* hidden = parts_[0].head.integer(base + ".embedding_length");
    const int64_t* heads = parts_[0].head.integer(base + ".attention.head_count");
    if (!hidden || !heads || *heads < 1) return 1;  // the config names what is missing
    return std::max<int64_t>(1, *hidden / *heads);
  }

  const Origin& origin_of(const StoredTensor& t) const {
    return origins_[size_t(&t - tensors_.data())];
  }

  std::string path_;
  std::vector<Part> parts_;
  std::vector<StoredTensor> tensors_;
  std::vector<Origin> origins_;                  // of the tensors, in their order
  std::vector<std::unique_ptr<GgufRows>> rows_;  // alike; null: not in groups
  std::unordered_map<std::string_view, size_t> by_name_;
  Widened widened_;
  size_t total_bytes_ = 0;
};

// Reads metadata by the keys of one architecture and keeps the first failure.
class Metadata {
 public:
  Metadata(const Part& part, std::string family)
      : head_(part.head), path_(part.file.path()), family_(std::move(family)) {}
  const Status& status() const { return status_; }
  void fail(const std::string& what) {
    if (status_.ok()) status_ = Status::invalid(path_ + ": " + what);
  }
  void unsupported(const std::string& what) {
    if (status_.ok()) status_ = Status::unsupported(path_ + ": " + what);
  }
  std::string own(const char* key) const { return family_ + "." + key; }
  bool has(const char* key) const { return head_.metadata.contains(own(key)); }

  int64_t integer(const char* key) {
    const int64_t* value = head_.integer(own(key));
    if (!value) fail(own(key) + (has(key) ? " is no integer" : " is missing"));
    return value ? *value : 1;
  }
  double real(const char* key) {
    const auto it = head_.metadata.find(own(key));
    const double* value = it == head_.metadata.end() ? nullptr : std::get_if<double>(&it->second);
    if (!value) fail(own(key) + (has(key) ? " is no float" : " is missing"));
    return value ? *value : 1;
  }
  // A value for each layer: a list, or one for all.
  std::vector<int64_t> each_layer(const char* key, int64_t layers) {
    const GgufList* list = head_.list(own(key));
    if (!list) return std::vector<int64_t>(size_t(layers), integer(key));
    if (int64_t(list->length) != layers || list->numbers.size() != size_t(layers)) {
      fail(own(key) + " has " + std::to_string(list->length) + " values; expected " +
           std::to_string(layers) + ", one a layer");
      return std::vector<int64_t>(size_t(layers), 1);
    }
    std::vector<int64_t> values;
    for (const double value : list->numbers) values.push_back(int64_t(value));
    return values;
  }

 private:
  const GgufHead& head_;
  std::string path_, family_;
  Status status_;
};

// The number that a float was written as, 0.6 and not the 0.60000002 that it is; others stay.
Json advice(const GgufValue& value) {
  if (const int64_t* whole = std::get_if<int64_t>(&value)) return Json(*whole);
  if (const bool* flag = std::get_if<bool>(&value)) return Json(*flag);
  if (const std::string* text = std::get_if<std::string>(&value)) return Json(*text);
  const double* real = std::get_if<double>(&value);
  if (!real) return Json(Json::Array());
  char text[32];
  const auto written = std::to_chars(std::begin(text), std::end(text), float(*real));
  double shortest = *real;
  std::from_chars(text, written.ptr, shortest);
  return Json(shortest);
}

// Of requests that say nothing of it: Hugging Face's names, and those of GGUF.
constexpr std::pair<const char*, const char*> kSampling[] = {
    {"temperature", "general.sampling.temp"},
    {"top_p", "general.sampling.top_p"},
    {"top_k", "general.sampling.top_k"},
    {"min_p", "general.sampling.min_p"},
    {"repetition_penalty", "general.sampling.penalty_repeat"}};

class ConfigWriter {
 public:
  ConfigWriter(const std::vector<Part>& parts, const Family& family)
      : parts_(parts), family_(family), m_(parts[0], family.name) {}

  Status write(Documents* out) {
    set("architectures", Json(Json::Array{Json(std::string(family_.architecture))}));
    set("model_type", Json(std::string(family_.model_type)));
    set("hidden_act", Json(std::string(family_.activation)));
    set("hidden_size", Json(m_.integer("embedding_length")));
    set("max_position_embeddings", Json(m_.integer("context_length")));
    const char* eps = m_.has("attention.layer_norm_rms_epsilon")
                          ? "attention.layer_norm_rms_epsilon"
                          : "attention.layer_norm_epsilon";
    set(family_.gain_less_one ? "norm_eps" : "rms_norm_eps", Json(m_.real(eps)));
    vocabulary();
    layers();
    rope();
    if (!m_.status()) return m_.status();
    out->config = {parts_[0].file.path(), Json(std::move(config_))};
    out->generation = {parts_[0].file.path(), Json(generation())};
    out->names = names(eps);
    return {};
  }

 private:
  void set(const char* name, Json value) { config_.emplace_back(name, std::move(value)); }

  const GgufTensor* tensor(std::string_view name, const Part** in = nullptr) const {
    for (const Part& part : parts_) {
      for (const GgufTensor& t : part.head.tensors) {
        if (t.name != name) continue;
        if (in) *in = &part;
        return &t;
      }
    }
    return nullptr;
  }

  void vocabulary() {
    const GgufTensor* embedding = tensor("token_embd.weight");
    if (!embedding) return m_.fail("tensor \"token_embd.weight\" is missing");
    set("vocab_size", Json(embedding->rows()));
    set("tie_word_embeddings", Json(tensor("output.weight") == nullptr));
    const GgufList* tokens = parts_[0].head.list("tokenizer.ggml.tokens");
    if (tokens && int64_t(tokens->length) > embedding->rows()) {
      m_.fail("tokenizer.ggml.tokens has " + std::to_string(tokens->length) +
              " tokens; expected at most " + std::to_string(embedding->rows()) +
              ", the rows of token_embd.weight");
    }
  }

  void layers() {
    const int64_t count = m_.integer("block_count");
    if (!m_.status()) return;
    if (count < 1 || count > (1 << 12)) {
      return m_.fail(m_.own("block_count") + " is " + std::to_string(count) +
                     "; expected 1 to 4096");
    }
    const std::vector<int64_t> heads = m_.each_layer("attention.head_count", count);
    const std::vector<int64_t> kv_heads =
        m_.has("attention.head_count_kv") ? m_.each_layer("attention.head_count_kv", count) : heads;
    const std::vector<int64_t> ffn = m_.each_layer("feed_forward_length", count);
    // Where a layer has no attention its heads are 0.
    heads_ = *std::ranges::max_element(heads);
    set("num_hidden_layers", Json(count));
    set("num_attention_heads", Json(heads_));
    if (m_.has("attention.key_length")) {
      head_dim_ = m_.integer("attention.key_length");
      if (m_.has("attention.value_length") && m_.integer("attention.value_length") != head_dim_) {
        m_.unsupported(m_.own("attention.value_length") + " is not " +
                       m_.own("attention.key_length"));
      }
      set("head_dim", Json(head_dim_));
    } else {
      head_dim_ = m_.integer("embedding_length") / std::max<int64_t>(1, heads_);
    }
    if (std::string(family_.name) == "deci") return blocks(heads, kv_heads, ffn);
    const auto equal = [&](const char* key, const std::vector<int64_t>& values) {
      for (const int64_t value : values) {
        if (value == values[0]) continue;
        return m_.unsupported(m_.own(key) + " differs from layer to layer; served: equal layers");
      }
    };
    equal("attention.head_count", heads);
    equal("attention.head_count_kv", kv_heads);
    equal("feed_forward_length", ffn);
    set("num_key_value_heads", Json(kv_heads[0]));
    set("intermediate_size", Json(ffn[0]));
  }

  // As llama.cpp's conversion writes them: no heads, no attention; heads and no KV heads, a matrix
  // in the place of attention; no feed-forward length, no feed-forward part.
  void blocks(const std::vector<int64_t>& heads, const std::vector<int64_t>& kv_heads,
              const std::vector<int64_t>& ffn) {
    Json::Array list;
    for (size_t i = 0; i < heads.size(); ++i) {
      Json::Object attention, feed_forward;
      if (heads[i] == 0) {
        attention.emplace_back("no_op", Json(true));
      } else if (kv_heads[i] == 0) {
        attention.emplace_back("replace_with_linear", Json(true));
      } else if (kv_heads[i] < 0 || heads[i] != heads_ || heads_ % kv_heads[i] != 0) {
        return m_.fail(m_.own("attention.head_count_kv") + " of layer " + std::to_string(i) +
                       " is " + std::to_string(kv_heads[i]) + " of " + std::to_string(heads[i]) +
                       " heads; expected a divisor of " + std::to_string(heads_));
      } else {
        attention.emplace_back("n_heads_in_group", Json(heads_ / kv_heads[i]));
      }
      if (ffn[i] == 0) {
        feed_forward.emplace_back("no_op", Json(true));
      } else {
        feed_forward.emplace_back("intermediate_size", Json(ffn[i]));
      }
      Json::Object block;
      block.emplace_back("attention", Json(std::move(attention)));
      block.emplace_back("ffn", Json(std::move(feed_forward)));
      list.emplace_back(std::move(block));
    }
    set("block_configs", Json(std::move(list)));
  }

  void rope() {
    set("rope_theta", Json(m_.has("rope.freq_base") ? m_.real("rope.freq_base") : 10000.0));
    if (m_.has("rope.dimension_count")) {
      const int64_t rotated = m_.integer("rope.dimension_count");
      set("partial_rotary_factor", Json(double(rotated) / double(std::max<int64_t>(1, head_dim_))));
    }
    const std::string* scaling = parts_[0].head.text(m_.own("rope.scaling.type"));
    if (scaling && *scaling != "none" && *scaling != "linear") {
      m_.unsupported(m_.own("rope.scaling.type") + " is " + Json(*scaling).brief() +
                     "; served: \"none\", and tensor rope_freqs.weight (Llama 3.1)");
    }
    if (m_.has("rope.scaling.factor") && m_.real("rope.scaling.factor") != 1) {
      m_.unsupported(m_.own("rope.scaling.factor") +
                     " is not 1; served: 1, and tensor "
                     "rope_freqs.weight (Llama 3.1)");
    }
    const Part* in = nullptr;
    const GgufTensor* freqs = tensor(kRopeFreqs, &in);
    if (!freqs || !m_.status()) return;
    if (freqs->type != gguf_type(0) || freqs->elements > head_dim_) {
      return m_.fail("tensor \"rope_freqs.weight\" is " + std::string(freqs->type->name) + " [" +
                     std::to_string(freqs->elements) + "]; expected F32 [" +
                     std::to_string(head_dim_ / 2) + "]");
    }
    const uint8_t* data = in->file.data() + freqs->begin;
    if (Status s = in->file.fetch(data, freqs->bytes); !s) return m_.fail(s.message());
    std::vector<float> divisors(size_t(freqs->elements));
    std::memcpy(divisors.data(), data, freqs->bytes);
    Json::Array list;
    for (const float divisor : divisors) list.emplace_back(double(divisor));
    Json::Object block;
    block.emplace_back("rope_type", Json(std::string("divided")));
    block.emplace_back("divisors", Json(std::move(list)));
    set("rope_scaling", Json(std::move(block)));
  }

  Json::Object generation() const {
    Json::Array ends;
    const GgufHead& head = parts_[0].head;
    for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                            "tokenizer.ggml.eom_token_id"}) {
      if (const int64_t* id = head.integer(key)) ends.emplace_back(*id);
    }
    for (const int64_t id : head.end_ids) ends.emplace_back(id);
    Json::Object object;
    object.emplace_back("eos_token_id", Json(std::move(ends)));
    if (const int64_t* id = head.integer("tokenizer.ggml.bos_token_id")) {
      object.emplace_back("bos_token_id", Json(*id));
    }
    for (const auto& [name, key] : kSampling) {
      const auto it = head.metadata.find(key);
      if (it != head.metadata.end()) object.emplace_back(name, advice(it->second));
    }
    return object;
  }

  // Where the file has what config() says in Hugging Face's names.
  FieldNames names(const char* eps) const {
    const auto own = [&](const char* key) { return m_.own(key); };
    const std::string heads = own("attention.head_count"),
                      kv_heads = own("attention.head_count_kv"), ffn = own("feed_forward_length"),
                      dim = own("attention.key_length"), layers = own("block_count"),
                      theta = own("rope.freq_base");
    std::vector<std::pair<std::string, std::string>> all = {
        {"architectures", "general.architecture"},
        {"model_type", "general.architecture"},
        {"hidden_size", own("embedding_length")},
        {"max_position_embeddings", own("context_length")},
        {"rms_norm_eps", own(eps)},
        {"norm_eps", own(eps)},
        {"vocab_size", "the number of rows of token_embd.weight"},
        {"tie_word_embeddings", "whether there is an output.weight"},
        {"num_hidden_layers", layers},
        {"num_hidden_layers, or one of its layers", layers + ", or one of its layers"},
        {"num_attention_heads", heads},
        {"num_key_value_heads", kv_heads},
        {"head_dim", dim},
        {"intermediate_size", ffn},
        {"block_configs", heads},
        {"block_configs.attention", kv_heads},
        {"block_configs.ffn", ffn},
        {"rope_theta", theta},
        {"rope_theta or rope_scaling", theta + " or rope_freqs.weight"},
        {"partial_rotary_factor", own("rope.dimension_count") + " / " + dim},
        {"divisors", "rope_freqs.weight"},
        {"eos_token_id", "tokenizer.ggml.eos_token_id"},
        {"bos_token_id", "tokenizer.ggml.bos_token_id"}};
    for (const auto& [name, key] : kSampling) all.emplace_back(name, key);
    return FieldNames(std::move(all));
  }

  const std::vector<Part>& parts_;
  const Family& family_;
  Metadata m_;
  Json::Object config_;
  int64_t heads_ = 1, head_dim_ = 1;
};

}  // namespace

bool is_gguf(std::string_view path) { return path.ends_with(kSuffix); }

Status open_gguf(const std::string& path, std::unique_ptr<Checkpoint>* out) {
  auto checkpoint = std::make_unique<GgufCheckpoint>();
  if (Status s = checkpoint->open(path); !s) return s;
  *out = std::move(checkpoint);
  return {};
}

Status read_gguf_documents(const std::string& path, Documents* out) {
  std::vector<Part> parts;
  if (Status s = open_parts(path, &parts); !s) return s;
  const Family* family = nullptr;
  if (Status s = find_family(parts[0], &family); !s) return s;
  return ConfigWriter(parts, *family).write(out);
}

}  // namespace nemotron
