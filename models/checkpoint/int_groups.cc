#include "models/checkpoint/int_groups.h"

#include <cmath>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device/tensor.h"
#include "models/checkpoint/json_fields.h"
#include "models/checkpoint/widened.h"

namespace nemotron {
namespace {

constexpr std::string_view kCodes = ".qweight";
// Where output `i` of eight lies in a word of AWQ.
constexpr int kAwqPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}
std::string about(const StoredTensor& t) { return t.file + ": tensor " + Json(t.name).brief(); }

// The tensors of one matrix, in the shapes that they should have.
struct Origin {
  const StoredTensor* codes = nullptr;
  const StoredTensor* zeros = nullptr;
  const StoredTensor* scales = nullptr;
  int64_t rows = 0, cols = 0;
  size_t place = 0;  // among the widened ones
};

class IntRows final : public GroupedRows {
 public:
  IntRows(const IntGroups& groups, const Origin& from) : groups_(groups), from_(from) {
    const int32_t half = 1 << (groups.bits - 1);
    form_.bits = groups.bits;
    if (!groups.symmetric && groups.group == kGroupedBlock) {
      // Scale and zero of 128: integer * scale - zero * scale.
      form_.has_steps = form_.has_least = true;
      first_ = groups.bits == 8 ? half : 0;
    } else if (!groups.symmetric) {
      form_.bits = 5;  // integer - zero: -16..15
    }
    const float first = groups.symmetric ? -float(half) : form_.bits == 5 ? -16.0f : 0.0f;
    for (int i = 0; form_.bits < 8 && i < 1 << form_.bits; ++i) {
      form_.values[size_t(i)] = f32_to_bf16(float(i) + first);
    }
  }
  const GroupedForm& form() const override { return form_; }
  int64_t cols() const override { return from_.cols; }

  void read(int64_t row, const GroupedRow& to) const override {
    for (int64_t col = 0; col < from_.cols; col += groups_.group) {
      const int64_t group = col / groups_.group;
      const int zero = zero_of(group, row);
      const uint16_t scale = scale_of(group, row);
      for (int64_t i = col; i < col + groups_.group; ++i) to.codes[i] = code(integer(i, row), zero);
      for (int64_t i = col; i < col + groups_.group; i += form_.scale_every()) {
        to.scale[i / form_.scale_every()] = scale;
        if (form_.has_least) to.least[i / form_.scale_every()] = scale;
      }
      for (int64_t i = col; form_.has_steps && i < col + groups_.group; i += form_.group) {
        to.steps[i / form_.group] = 1;
        to.least_steps[i / form_.group] = int8_t(zero - first_);
      }
    }
  }

  // What the tensors hold has to fit the form. Reads all zeros and scales.
  Status check() const {
    const int32_t most = (1 << groups_.bits) - 1;
    for (int64_t group = 0; group < from_.cols / groups_.group; ++group) {
      for (int64_t row = 0; row < from_.rows; ++row) {
        const std::string at = "[" + std::to_string(group) + ", " + std::to_string(row) + "]";
        const int zero = zero_of(group, row);
        if (zero > most) {
          return Status::invalid(about(*from_.zeros) + " has " + std::to_string(most) + " at " +
                                 at + ", a zero of " + std::to_string(zero) +
                                 "; expected at most " +
                                 std::to_string(most - groups_.zero_offset));
        }
        if (groups_.symmetric && zero != 1 << (groups_.bits - 1)) {
          return Status::invalid(
              about(*from_.zeros) + " has " + std::to_string(zero - groups_.zero_offset) + " at " +
              at + "; expected " + std::to_string((1 << (groups_.bits - 1)) - groups_.zero_offset) +
              ", since config.json says \"sym\"");
        }
        const float stored = stored_scale(group, row), kept = f16_to_f32(scale_of(group, row));
        if (!std::isfinite(kept) || (kept != stored && std::abs(kept - stored) > 0x1p-24f)) {
          return Status::invalid(about(*from_.scales) + " has " + std::to_string(stored) + " at " +
                                 at + "; expected a number that a half float holds");
        }
      }
    }
    return {};
  }

 private:
  bool is_awq() const { return groups_.method == IntGroups::Method::awq; }
  static uint32_t word(const StoredTensor& t, int64_t row, int64_t col) {
    uint32_t w = 0;
    std::memcpy(&w, t.data + size_t(row * t.shape[1] + col) * 4, 4);
    return w;
  }
  // Output `row` of a tensor that is packed along the outputs.
  int along_outputs(const StoredTensor& t, int64_t at, int64_t row) const {
    const int64_t each = 32 / groups_.bits;
    const auto in = int(row % each), place = is_awq() ? kAwqPlace[in] : in;
    return int(word(t, at, row / each) >> (place * groups_.bits)) & ((1 << groups_.bits) - 1);
  }
  int integer(int64_t col, int64_t row) const {
    if (is_awq()) return along_outputs(*from_.codes, col, row);
    const int64_t each = 32 / groups_.bits;
    return int(word(*from_.codes, col / each, row) >> (int(col % each) * groups_.bits)) &
           ((1 << groups_.bits) - 1);
  }
  int zero_of(int64_t group, int64_t row) const {
    return along_outputs(*from_.zeros, group, row) + groups_.zero_offset;
  }
  float stored_scale(int64_t group, int64_t row) const {
    uint16_t half = 0;
    std::memcpy(&half, from_.scales->data + size_t(group * from_.rows + row) * 2, 2);
    return from_.scales->dtype == DType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
  }
  uint16_t scale_of(int64_t group, int64_t row) const {
    return f32_to_f16(stored_scale(group, row));
  }
  // In the form's codes.
  uint8_t code(int integer, int zero) const {
    if (form_.bits == 4) return uint8_t(integer);
    if (form_.bits == 5) return uint8_t(integer - zero + 16);
    return uint8_t(integer - 128);
  }

  const IntGroups groups_;
  const Origin from_;
  GroupedForm form_;
  int32_t first_ = 0;  // what code 0 of a form with steps stands for, above the integer
};

class IntGroupsCheckpoint final : public Checkpoint {
 public:
  IntGroupsCheckpoint(std::unique_ptr<Checkpoint> stored, const IntGroups& groups)
      : stored_(std::move(stored)), groups_(groups) {}

  Status open() {
    size_t widened = 0;
    for (const StoredTensor& t : stored_->tensors()) {
      if (is_part(t.name)) continue;
      if (!t.name.ends_with(kCodes)) {
        tensors_.push_back(t);
        origins_.emplace_back();
        rows_.emplace_back();
      } else if (Status s = add(t, &widened); !s) {
        return s;
      }
    }
    if (Status s = widened_.reserve(widened); !s) return s.within(path());
    for (size_t i = 0; i < tensors_.size(); ++i) {
      StoredTensor& t = tensors_[i];
      if (rows_[i]) t.data = widened_.data() + origins_[i].place;
      if (!by_name_.try_emplace(t.name, i).second) {
        return Status::invalid(t.file + ": " + Json(t.name).brief() +
                               " is there as .weight and as .qweight; expected one of them");
      }
    }
    return {};
  }

  const StoredTensor* find(std::string_view name) const override {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? nullptr : &tensors_[it->second];
  }
  size_t total_bytes() const override { return stored_->total_bytes(); }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const std::string& path() const override { return stored_->path(); }

  Status fetch(const StoredTensor& t, size_t first, size_t bytes) const override {
    const size_t at = index(t);
    if (!rows_[at]) return stored_->fetch(stored(t), first, bytes);
    if (bytes == 0) return {};
    if (Status s = fetch_parts(at); !s) return s;
    const IntRows& rows = *rows_[at];
    const GroupedForm& form = rows.form();
    const auto cols = size_t(rows.cols());
    std::vector<uint8_t> codes(cols);
    std::vector<uint16_t> scale(cols / size_t(form.scale_every())), least(scale.size());
    std::vector<int8_t> steps(cols / size_t(form.group)), least_steps(steps.size());
    const GroupedRow row{codes.data(), scale.data(), least.data(), steps.data(),
                         least_steps.data()};
    std::vector<float> values(cols);
    auto* out = reinterpret_cast<uint16_t*>(const_cast<uint8_t*>(t.data));
    for (size_t r = first / (2 * cols); r * 2 * cols < first + bytes; ++r) {
      rows.read(int64_t(r), row);
      widen_groups(form, row, int64_t(cols), values.data());
      for (size_t i = 0; i < cols; ++i) out[r * cols + i] = f32_to_bf16(values[i]);
    }
    return {};
  }
  Status fetch(const StoredTensor& t, const MatrixRange& range) const override {
    return rows_[index(t)] ? Checkpoint::fetch(t, range) : stored_->fetch(stored(t), range);
  }
  const GroupedRows* grouped(const StoredTensor& t) const override { return rows_[index(t)].get(); }
  // All of it: a row of the matrix is a column of the stored one.
  Status fetch_grouped(const StoredTensor& t, const MatrixRange&) const override {
    return fetch_parts(index(t));
  }
  void will_need(const StoredTensor& t) const override {
    each_stored(t, [&](const StoredTensor& part) { stored_->will_need(part); });
  }
  void release(const StoredTensor& t) const override {
    each_stored(t, [&](const StoredTensor& part) { stored_->release(part); });
    if (rows_[index(t)]) Widened::release(t.data, t.bytes);
  }

 private:
  static std::string module_of(const std::string& name) { return name.substr(0, name.rfind('.')); }
  // Of a matrix whose codes are there.
  bool is_part(const std::string& name) const {
    for (const char* end : {".qzeros", ".scales", ".g_idx"}) {
      if (name.ends_with(end))
        return stored_->find(module_of(name) + std::string(kCodes)) != nullptr;
    }
    return false;
  }

  Status part_of(const StoredTensor& codes, const char* name, std::vector<int64_t> shape,
                 const char* types, const StoredTensor** out) const {
    const StoredTensor* t = stored_->find(module_of(codes.name) + name);
    if (!t) {
      return Status::not_found(about(codes) + " has no " + name + " beside it; expected " + types +
                               " " + shape_text(shape));
    }
    const bool is_type = std::string_view(types).find(t->dtype_name) != std::string_view::npos;
    if (!is_type || t->shape != shape) {
      return Status::invalid(about(*t) + " is " + t->dtype_name + " " + shape_text(t->shape) +
                             "; expected " + types + " " + shape_text(shape));
    }
    *out = t;
    return {};
  }

  Status add(const StoredTensor& codes, size_t* widened) {
    const bool awq = groups_.method == IntGroups::Method::awq;
    const int64_t each = 32 / groups_.bits;
    if (codes.dtype_name != "I32" || codes.shape.size() != 2) {
      return Status::invalid(about(codes) + " is " + codes.dtype_name + " " +
                             shape_text(codes.shape) + "; expected I32 of two dimensions");
    }
    Origin from{.codes = &codes};
    from.rows = awq ? codes.shape[1] * each : codes.shape[1];
    from.cols = awq ? codes.shape[0] : codes.shape[0] * each;
    if (from.rows < 1 || from.rows % each != 0 || from.cols < 1 || from.cols % groups_.group != 0) {
      return Status::invalid(about(codes) + " is " + shape_text(codes.shape) + ", a matrix " +
                             shape_text({from.rows, from.cols}) + "; expected rows in groups of " +
                             std::to_string(groups_.group) + ", and a multiple of " +
                             std::to_string(each) + " rows");
    }
    const int64_t in_groups = from.cols / groups_.group;
    if (Status s = part_of(codes, ".qzeros", {in_groups, from.rows / each}, "I32", &from.zeros); !s)
      return s;
    if (Status s = part_of(codes, ".scales", {in_groups, from.rows}, "F16 or BF16", &from.scales);
        !s) {
      return s;
    }
    if (stored_->find(module_of(codes.name) + ".g_idx")) {
      if (Status s = check_order(codes, from); !s) return s;
    }
    StoredTensor& out = tensors_.emplace_back();
    out.name = module_of(codes.name) + ".weight";
    out.dtype_name = std::string(awq ? "AWQ" : "GPTQ") + " of " + std::to_string(groups_.bits) +
                     " bits in " + std::to_string(groups_.group) +
                     (groups_.symmetric ? " symmetric" : "");
    out.served = true;
    out.dtype = DType::bf16;
    out.shape = {from.rows, from.cols};
    out.elements = from.rows * from.cols;
    out.bytes = size_t(out.elements) * 2;
    out.file = codes.file;
    from.place = *widened;
    *widened += whole_pages(out.bytes);
    origins_.push_back(from);
    rows_.push_back(std::make_unique<IntRows>(groups_, from));
    return {};
  }

  // Groups in any other order ("desc_act") would need activations in that order.
  Status check_order(const StoredTensor& codes, const Origin& from) const {
    const StoredTensor* order = nullptr;
    if (Status s = part_of(codes, ".g_idx", {from.cols}, "I32", &order); !s) return s;
    if (Status s = stored_->fetch(*order); !s) return s;
    for (int64_t i = 0; i < from.cols; ++i) {
      int32_t group = 0;
      std::memcpy(&group, order->data + size_t(i) * 4, 4);
      if (group == i / groups_.group) continue;
      return Status::unsupported(about(*order) + " has " + std::to_string(group) + " at " +
                                 std::to_string(i) + "; expected " +
                                 std::to_string(i / groups_.group) +
                                 ": groups ordered by activation (\"desc_act\") are not served");
    }
    stored_->release(*order);
    return {};
  }

  Status fetch_parts(size_t at) const {
    const Origin& from = origins_[at];
    for (const StoredTensor* t : {from.codes, from.zeros, from.scales}) {
      if (Status s = stored_->fetch(*t); !s) return s;
    }
    return rows_[at]->check();
  }

  size_t index(const StoredTensor& t) const { return size_t(&t - tensors_.data()); }
  const StoredTensor& stored(const StoredTensor& t) const { return *stored_->find(t.name); }
  template <class F>
  void each_stored(const StoredTensor& t, F&& f) const {
    const size_t at = index(t);
    if (!rows_[at]) return f(stored(t));
    for (const StoredTensor* part : {origins_[at].codes, origins_[at].zeros, origins_[at].scales}) {
      f(*part);
    }
  }

  const std::unique_ptr<Checkpoint> stored_;
  const IntGroups groups_;
  std::vector<StoredTensor> tensors_;
  std::vector<Origin> origins_;                 // of the tensors, in their order
  std::vector<std::unique_ptr<IntRows>> rows_;  // alike; null: stored as it is
  std::unordered_map<std::string_view, size_t> by_name_;
  Widened widened_;
};

}  // namespace

Status read_int_groups(const Json& block, const std::string& where, IntGroups* out) {
  JsonFields f(block, where);
  IntGroups groups;
  const bool awq = f.text("quant_method", "") == "awq";
  groups.method = awq ? IntGroups::Method::awq : IntGroups::Method::gptq;
  const auto served = [&](const char* name, int64_t found, const std::string& expected) {
    f.unsupported("\"" + std::string(name) + "\" is " + std::to_string(found) +
                  "; served: " + expected);
  };
  groups.bits = f.integer(f.find("w_bit") ? "w_bit" : "bits", 1, 64);
  if (groups.bits != 4 && (awq || groups.bits != 8)) {
    served("bits", groups.bits, awq ? "4" : "4 and 8");
  }
  groups.group = f.integer(f.find("q_group_size") ? "q_group_size" : "group_size", -1, 1 << 20);
  if (groups.group != 32 && groups.group != 64 && groups.group != 128) {
    served("group_size", groups.group, "32, 64 and 128");
  }
  if (awq) {
    if (!f.boolean("zero_point", true)) f.unsupported("\"zero_point\" is false; served: true");
    f.only("version", {"gemm", "GEMM"});
  } else {
    groups.symmetric = f.boolean("sym", true);
    f.only("checkpoint_format", {"gptq", "gptq_v2"});
    groups.zero_offset = f.text("checkpoint_format", "gptq") == "gptq" ? 1 : 0;
    if (f.boolean("is_marlin_format", false)) {
      f.unsupported("\"is_marlin_format\" is true; served: \"checkpoint_format\" gptq or gptq_v2");
    }
    f.only("pack_dtype", {"int32"});
    if (const Json* v = f.find("dynamic"); v && !(v->object() && v->object()->empty())) {
      f.unsupported("\"dynamic\" is set; served: one kind of groups for all modules");
    }
    if (groups.bits == 8 && !groups.symmetric && groups.group != kGroupedBlock) {
      f.unsupported("8 bits with \"sym\" false in groups of " + std::to_string(groups.group) +
                    "; served: \"sym\" true, or groups of 128");
    }
  }
  if (f.status()) *out = groups;
  return f.status();
}

bool has_int_groups(const Checkpoint& stored) {
  for (const StoredTensor& t : stored.tensors()) {
    if (t.name.ends_with(kCodes)) return true;
  }
  return false;
}

Status open_int_groups(std::unique_ptr<Checkpoint> stored, const IntGroups& groups,
                       std::unique_ptr<Checkpoint>* out) {
  auto checkpoint = std::make_unique<IntGroupsCheckpoint>(std::move(stored), groups);
  if (Status s = checkpoint->open(); !s) return s;
  *out = std::move(checkpoint);
  return {};
}

}  // namespace nemotron
