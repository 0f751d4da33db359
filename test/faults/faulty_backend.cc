// A backend library whose devices are those of the CPU, until a rank comes to the call that
// NEMOTRON_FAULT names: "RANK CALL KIND", CALL counted from 0 over all that the rank asks of its
// device from the first weight on.
//   fail   the call fails, as on a device that broke; all later ones fail too
//   stall  the call does nothing until the group has ended, then fails
//   hang   the call never comes back
//   once   the first packing of a weight from the call on has no memory; all else works
// nemotron_fault_reached() says whether the call came since the last device was opened.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "device/device.h"

namespace nemotron {
namespace {

std::atomic<bool> reached{false};

struct Fault {
  int32_t rank = -1;
  int64_t call = -1;
  std::string kind;
};

Fault told_fault() {
  Fault fault;
  if (const char* text = std::getenv("NEMOTRON_FAULT")) {
    std::istringstream(text) >> fault.rank >> fault.call >> fault.kind;
  }
  return fault;
}

class FaultyDevice final : public Device {
 public:
  FaultyDevice(std::unique_ptr<Device> device, const DeviceOptions& options)
      : device_(std::move(device)),
        group_(options.group),
        rank_(options.rank),
        fault_(told_fault()) {}

  std::string name() const override { return device_->name(); }
  DType activation_dtype() const override { return device_->activation_dtype(); }
  DType kv_dtype() const override { return device_->kv_dtype(); }
  size_t free_bytes() const override { return device_->free_bytes(); }
  size_t group_bytes() const override { return device_->group_bytes(); }
  size_t workspace_bytes(const StepLimits& limits, const KvConfig& kv,
                         NarrowWeights narrow) const override {
    return device_->workspace_bytes(limits, kv, narrow);
  }
  Status check(const DecoderForm& form) const noexcept override { return device_->check(form); }
  Status begin_packing() noexcept override { return device_->begin_packing(); }
  void end_packing() noexcept override { device_->end_packing(); }
  void free(void* p) noexcept override { device_->free(p); }
  void upload(void* dst, const void* host, size_t bytes) noexcept override {
    device_->upload(dst, host, bytes);
  }
  void download(void* host, const void* src, size_t bytes) noexcept override {
    device_->download(host, src, bytes);
  }
  bool step_done() noexcept override { return device_->step_done(); }

  Status alloc(size_t bytes, void** out) noexcept override {
    return works() ? device_->alloc(bytes, out) : status_;
  }
  Status pack_weight(std::span<const MatrixPart> parts, WeightUse use, WeightFormat format,
                     Weight* out) noexcept override {
    if (is_at_once()) return Status::out_of_memory("no memory for a weight, this once");
    return works() ? device_->pack_weight(parts, use, format, out) : status_;
  }
  Status prepare(const StepLimits& limits, const KvConfig& kv,
                 const RopeTable& rope) noexcept override {
    return works() ? device_->prepare(limits, kv, rope) : status_;
  }
  void begin_step(const StepInput& in) noexcept override {
    if (works()) device_->begin_step(in);
  }
  void launch_step() noexcept override {
    if (works()) device_->launch_step();
  }
  Status wait_step() noexcept override { return works() ? device_->wait_step() : status_; }
  Status sync() noexcept override { return works() ? device_->sync() : status_; }
  void embed(Tensor x, const Weight& table) noexcept override {
    if (works()) device_->embed(x, table);
  }
  void attention_input(Tensor q, Tensor x, const Norm& norm, const Linear& w,
                       int32_t layer) noexcept override {
    if (works()) device_->attention_input(q, x, norm, w, layer);
  }
  void attention(Tensor out, Tensor q, int32_t layer, float scale) noexcept override {
    if (works()) device_->attention(out, q, layer, scale);
  }
  void gemm_residual(Tensor x, Tensor a, const Linear& w, const Norm* next) noexcept override {
    if (works()) device_->gemm_residual(x, a, w, next);
  }
  void norm(Tensor out, Tensor x, const Norm& norm, int64_t first_col) noexcept override {
    if (works()) device_->norm(out, x, norm, first_col);
  }
  void mlp_input(Tensor h, Tensor x, const Norm& norm, const Linear& w,
                 Activation activation) noexcept override {
    if (works()) device_->mlp_input(h, x, norm, w, activation);
  }
  void head(Tensor out, Tensor x, std::span<const int32_t> rows, const Norm& norm,
            const Linear& w) noexcept override {
    if (works()) device_->head(out, x, rows, norm, w);
  }
  void sample(Tensor logits, int32_t first, int32_t n, SampleOutput* out) noexcept override {
    if (works()) device_->sample(logits, first, n, out);
  }

 private:
  // Counts a call. False: the device is broken.
  bool works() noexcept {
    if (!status_) return false;
    if (rank_ != fault_.rank || calls_++ != fault_.call || fault_.kind == "once") return true;
    reached = true;
    const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
    while (fault_.kind == "hang") pause();
    while (fault_.kind == "stall" && !group_->ended()) pause();
    status_ = Status::internal("a fault was injected");
    group_->end(rank_, status_);
    return false;
  }

  bool is_at_once() noexcept {
    if (fault_.kind != "once" || rank_ != fault_.rank) return false;
    if (calls_ < fault_.call || was_at_once_) return false;
    reached = was_at_once_ = true;
    return true;
  }

  const std::unique_ptr<Device> device_;
  RankGroup* const group_;
  const int32_t rank_;
  const Fault fault_;
  int64_t calls_ = 0;
  bool was_at_once_ = false;
  Status status_;
};

int32_t device_count(std::string*) noexcept { return kMaxStretches; }

Status open_faulty(const DeviceOptions& options, std::unique_ptr<Device>* out) noexcept {
  std::unique_ptr<Device> device;
  if (Status s = open_cpu_device(options, &device); !s) return s;
  reached = false;
  *out = std::make_unique<FaultyDevice>(std::move(device), options);
  return {};
}

}  // namespace
}  // namespace nemotron

extern "C" __attribute__((visibility("default"))) const nemotron::Backend*
nemotron_backend() noexcept {
  static constexpr nemotron::Backend kBackend = {
      .abi = nemotron::kBackendAbi,
      .name = "faulty",
      .device_count = nemotron::device_count,
      .open = nemotron::open_faulty,
  };
  return &kBackend;
}

extern "C" __attribute__((visibility("default"))) bool nemotron_fault_reached() noexcept {
  return nemotron::reached;
}
