// gpu_bench: how close the CUDA backend comes to what the GPU can do (bench/gpu.sh runs it).
//
//   gpu_bench [--part NAME]... [--json FILE] [--tiny]
//   gpu_bench --list | --needs PART | --plan GB | --launches | --help
//
// Every number stands beside its limit: bytes over the read bandwidth, or FLOPs over the matrix
// peak, both measured in this run. Medians of wall times of whole steps after a warm-up. No
// checkpoint and no Node are needed. --json appends a line of JSON for every number as soon as it
// is known. --tiny takes every path in tiny shapes. --needs says how many gigabytes of a GPU a part
// needs; --plan says it of each model and fails when that is more than GB; --launches says how
// products would be launched on an H200. These need no GPU.
#include "bench/gpu/bench.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "bench/gpu/peaks.h"
#include "cuda/context.h"
#include "cuda/cublaslt.h"
#include "cuda/cuda_device.h"
#include "cuda/kernels.h"
#include "cuda/nccl.h"

namespace nemotron::bench {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c >= 0 && c < ' ' ? ' ' : c;
  }
  return out + "\"";
}

}  // namespace

double time_of(int times, const std::function<void()>& f, int warm) {
  for (int i = 0; i < warm; ++i) f();
  std::vector<double> v;
  for (int i = 0; i < times; ++i) {
    const double t = now();
    f();
    v.push_back(now() - t);
  }
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

void Bench::line(const std::string& json) {
  if (!file_) return;
  std::fprintf(file_, "%s\n", json.c_str());
  std::fflush(file_);
}

void Bench::machine(const std::string& device, int driver, double free_bytes) {
  std::printf("%s, driver for CUDA %d.%d, %.1f GB free\n", device.c_str(), driver / 1000,
              driver % 1000 / 10, free_bytes / 1e9);
  cuda::Nccl library(nullptr);
  const Status found = library.open();
  const std::string nccl = found.ok() ? library.version() : "";
  std::printf("NCCL %s\n", found.ok() ? nccl.c_str() : found.message().c_str());
  line("{\"kind\": \"machine\", \"device\": " + quoted(device) +
       ", \"driver_cuda\": " + std::to_string(driver) +
       ", \"free_bytes\": " + std::to_string(free_bytes) + ", \"nccl\": " + quoted(nccl) + "}");
}

void Bench::measure(const std::string& name, double seconds, double limit_seconds, const char* unit,
                    double value) {
  const double percent = limit_seconds > 0 ? 100 * limit_seconds / seconds : 0;
  char text[320];
  std::snprintf(text, sizeof text,
                percent > 0 ? "%-46s %12.1f us  %10.1f %-8s %5.1f %% of limit"
                            : "%-46s %12.1f us  %10.1f %-8s",
                name.c_str(), seconds * 1e6, value, unit, percent);
  std::printf("%s\n", text);
  std::fflush(stdout);
  std::snprintf(text, sizeof text,
                ", \"us\": %.3f, \"value\": %.5g, \"unit\": \"%s\", \"percent\": %.2f}",
                seconds * 1e6, value, unit, percent);
  line("{\"kind\": \"measure\", \"by\": \"ours\", \"name\": " + quoted(name) + text);
}

void Bench::note(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
  line("{\"kind\": \"note\", \"text\": " + quoted(text) + "}");
}

bool Bench::check(const Status& s, const std::string& what) {
  if (s) return true;
  if (!failed_) note(what + ": " + s.message());
  failed_ = any_failed_ = true;
  return false;
}

// --- ceilings ---

namespace {

// What the GPU allows: reads, copies, products, and how fast kernels follow each other.
class Ceilings {
 public:
  Ceilings(Bench& b, bool report) : b_(b), report_(report) {}

  void measure() {
    if (!b_.check(context_.open(0), "opening the GPU")) return;
    load_peaks(context_.queue());
    if (!b_.check(context_.alloc(bytes_, &p_), "memory")) return;
    if (!b_.check(context_.alloc(bytes_, &q_), "memory")) return;
    launch_fill(context_.queue(), p_, bytes_, false);
    memory();
    if (report_) cache();
    products();
    if (report_) launches();
    if (report_) clusters();
    b_.check(context_.status(), "ceilings");
  }

 private:
  double seconds_of(const std::function<void()>& f) {
    return time_of(b_.tiny ? 1 : 9, [&] {
      f();
      context_.check_launches();
      context_.synchronize();
    });
  }
  void show(const std::string& name, double seconds, double limit, const char* unit, double v) {
    if (report_ && context_.ok()) b_.measure(name, seconds, limit, unit, v);
  }
  double read_seconds(size_t bytes, int turns) {
    return seconds_of(
        [&] { launch_read(context_.queue(), p_, bytes, turns, static_cast<uint32_t*>(q_)); });
  }

  void memory() {
    const double read = read_seconds(bytes_, 1);
    b_.limits.read = double(bytes_) / read;
    show("read only", read, read, "GB/s", b_.limits.read / 1e9);
    const double copy = seconds_of([&] {
      context_.check(cudaMemcpyAsync(q_, p_, bytes_, cudaMemcpyDeviceToDevice, context_.stream()),
                     "copying");
    });
    b_.limits.copy = 2 * double(bytes_) / copy;
    show("copy (read + write)", copy, 2 * double(bytes_) / b_.limits.read, "GB/s",
         b_.limits.copy / 1e9);
  }

  // What the L2 cache gives the multiprocessors: less than half of an H100's, and more than half.
  void cache() {
    for (const size_t mb : {16, 32}) {
      const size_t some = b_.tiny ? bytes_ : mb << 20;
      const int turns = b_.tiny ? 2 : 100;
      const double cached = read_seconds(some, turns);
      show("read " + std::to_string(mb) + " MB over and over (L2)", cached / turns, 0, "GB/s",
           double(some) * turns / cached / 1e9);
    }
  }

  void products() {
    // Without the library: what an H200 does.
    b_.limits.bf16 = 790e12;
    b_.limits.fp8 = 1500e12;
    cuda::CublasLt library(&context_);
    std::string why;
    if (!library.open(&why)) {
      b_.note("no cuBLASLt (" + why + "): matrix limits are an H200's 790 and 1500 TFLOP/s");
      return;
    }
    const auto& properties = context_.properties();
    product(library, false);
    if (properties.major * 10 + properties.minor >= 89) product(library, true);
  }

  void product(cuda::CublasLt& library, bool fp8) {
    const int32_t n = b_.tiny ? 64 : 8192;
    const size_t matrix = size_t(n) * size_t(n) * 2;
    launch_fill(context_.queue(), p_, std::min(bytes_, 2 * matrix), fp8);
    cuda::LtProduct product;
    product.fp8 = fp8;
    product.a = p_;
    product.w = static_cast<uint8_t*>(p_) + (fp8 ? matrix / 2 : matrix);
    product.a_stride = product.stride = product.rows = product.weights = product.k = n;
    product.out = q_;
    if (!library.has(product)) {
      b_.note(std::string("cuBLASLt has no ") + (fp8 ? "FP8" : "BF16") + " product of 8192 cubed");
      return;
    }
    const double t = seconds_of([&] { library.multiply(product); });
    const double rate = 2.0 * n * double(n) * n / t;
    (fp8 ? b_.limits.fp8 : b_.limits.bf16) = rate;
    show(fp8 ? "matrix peak FP8, cuBLASLt" : "matrix peak BF16, cuBLASLt", t, t, "TFLOP/s",
         rate / 1e12);
  }

  void launches() {
    const int kernels = b_.tiny ? 4 : 1000;
    for (const bool pdl : {false, true}) {
      if (pdl && context_.properties().major < 9) continue;
      context_.queue().pdl = pdl;
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      context_.check(cudaStreamBeginCapture(context_.stream(), cudaStreamCaptureModeThreadLocal),
                     "capturing");
      for (int i = 0; i < kernels; ++i) launch_empty(context_.queue());
      context_.check(cudaStreamEndCapture(context_.stream(), &graph), "capturing");
      if (context_.ok()) context_.check(cudaGraphInstantiate(&exec, graph, 0), "instantiating");
      if (context_.ok()) {
        const double t = seconds_of(
            [&] { context_.check(cudaGraphLaunch(exec, context_.stream()), "launching a graph"); });
        show(pdl ? "empty kernel in a graph, PDL" : "empty kernel in a graph", t / kernels, 0, "us",
             t / kernels * 1e6);
      }
      if (exec) cudaGraphExecDestroy(exec);
      if (graph) cudaGraphDestroy(graph);
    }
  }

  // Whether products of 256 rows are clusters of four blocks or of two.
  void clusters() {
    const cudaDeviceProp& p = context_.properties();
    if (p.major != 9 || p.minor != 0) return;
    cuda::load_gemm_decode_wgmma(context_.queue());
    b_.note("clusters of four blocks that fill a multiprocessor each: " +
            std::to_string(context_.queue().clusters_of_four) +
            " at once; docs/kernels.md counts with " + std::to_string(kClustersOfFour));
  }

  Bench& b_;
  bool report_;
  const size_t bytes_ = b_.tiny ? size_t(1) << 16 : size_t(2) << 30;
  cuda::Context context_;
  void *p_ = nullptr, *q_ = nullptr;
};

}  // namespace

void measure_limits(Bench& b, bool report) { Ceilings(b, report).measure(); }

namespace {

struct Part {
  const char* name;
  const char* what;
  std::vector<ModelPlan> models;
  void (*run)(Bench&) = nullptr;
  bool measures = true;

  double gigabytes() const {
    double most = 6;  // of ops
    for (const ModelPlan& m : models) most = std::max(most, m.bytes() / 1e9);
    return most;
  }
};

std::vector<Part> parts() {
  const auto stored = WeightFormat::stored, fp8 = WeightFormat::fp8;
  const DType bf16_kv = DType::bf16, fp8_kv = DType::fp8_e4m3;
  return {
      {"ceilings", "bandwidth, matrix peaks, gaps between kernels", {}, [](Bench&) {}},
      {"8b-bf16",
       "8B BF16: decode at batch 1 to 256, prefill to 8K",
       {{k8B, stored, bf16_kv, false, {1, 8, 32, 256}, 1024, {512, 8192}}}},
      {"8b-fp8",
       "8B with FP8 weights and cache, then with FP8 activations too",
       {{k8B, fp8, fp8_kv, false, {1, 8, 32, 256}, 1024, {512, 8192}},
        {k8B, fp8, fp8_kv, true, {}, 1024, {512, 8192}}}},
      {"gemm", "products by M", {}, [](Bench& b) { bench_products(b, b.tiny ? kTiny : k8B); }},
      {"attention",
       "attention by batch and context",
       {},
       [](Bench& b) { bench_attention(b, b.tiny ? kTiny : k8B); }},
      {"sampler",
       "sampling 128256 ids",
       {},
       [](Bench& b) { bench_sampler(b, b.tiny ? kTiny.vocab : k8B.vocab); }},
      {"ranks", "sums over 2 and 8 ranks, all on this GPU", {}, bench_ranks},
      {"70b-fp8",
       "70B with FP8 weights and cache",
       {{k70B, fp8, fp8_kv, false, {1, 8}, 1024, {1024}, 1024}}},
      {"70b-tp8",
       "what one of 8 ranks computes of 70B with FP8 weights and cache; its sums beside that",
       {{k70BOf8, fp8, fp8_kv, false, {1, 8, 64}, 1024, {1024}, 1024}},
       bench_rank_share},
      {"8b-128k",
       "8B BF16 with 128K tokens of context",
       {{k8B, stored, bf16_kv, false, {1}, 8192, {32768, 131072}, 8192, 131072}}},
      {"kernels",
       "one launch of each kernel that ncu looks at: for a profiler",
       {},
       [](Bench& b) { bench_kernels(b, b.tiny ? kTiny : k8B); },
       false},
  };
}

int plan(double gigabytes) {
  bool fits = true;
  for (const Part& part : parts()) {
    for (const ModelPlan& m : part.models) {
      const double need = m.bytes() / 1e9;
      std::printf("%-10s %-16s %7.1f GB, cache of %lld tokens\n", part.name, m.name().c_str(), need,
                  static_cast<long long>(m.kv_tokens()));
      fits = fits && need <= gigabytes;
    }
  }
  return fits ? 0 : 1;
}

void usage() {
  std::printf(
      "gpu_bench [--part NAME]... [--json FILE] [--tiny]\n"
      "gpu_bench --list | --needs PART | --plan GB | --launches | --help\n");
  for (const Part& part : parts()) std::printf("  %-10s %s\n", part.name, part.what);
}

std::vector<Part> chosen_parts(const std::vector<std::string>& wanted) {
  std::vector<Part> chosen;
  for (const Part& part : parts()) {
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), part.name) != wanted.end())
      chosen.push_back(part);
  }
  return chosen;
}

void name_machine(Bench& b) {
  std::unique_ptr<Device> device;
  if (!b.check(cuda::open_device(DeviceOptions{}, &device), "opening the GPU")) return;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  b.machine(device->name(), driver, double(device->free_bytes()));
}

int run(int argc, char** argv) {
  bool tiny = false;
  std::string json;
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const bool more = i + 1 < argc;
    if (arg == "--help") return usage(), 0;
    if (arg == "--list") {
      for (const Part& part : parts()) std::printf("%s\n", part.name);
      return 0;
    }
    if (arg == "--launches") return print_launches(), 0;
    if (arg == "--plan" && more) return plan(std::atof(argv[++i]));
    if (arg == "--needs" && more) {
      for (const Part& part : parts()) {
        if (part.name != std::string(argv[i + 1])) continue;
        std::printf("%.1f\n", part.gigabytes());
        return 0;
      }
      return usage(), 2;
    }
    if (arg == "--tiny") {
      tiny = true;
    } else if (arg == "--json" && more) {
      json = argv[++i];
    } else if (arg == "--part" && more) {
      wanted.push_back(argv[++i]);
    } else {
      return usage(), 2;
    }
  }
  const std::vector<Part> chosen = chosen_parts(wanted);
  if (chosen.empty()) return usage(), 2;
  std::string why;
  if (cuda::device_count(&why) == 0) {
    std::printf("no usable GPU: %s\n", why.c_str());
    return 1;
  }
  std::FILE* file = json.empty() ? nullptr : std::fopen(json.c_str(), "a");
  if (!json.empty() && !file) {
    std::printf("cannot write %s\n", json.c_str());
    return 1;
  }
  Bench b(tiny, file);
  name_machine(b);
  const bool measures =
      std::any_of(chosen.begin(), chosen.end(), [](const Part& part) { return part.measures; });
  if (!b.failed() && measures) measure_limits(b, chosen[0].name == std::string("ceilings"));
  for (const Part& part : chosen) {
    if (part.measures && b.limits.read == 0) break;
    if (part.run) part.run(b);
    for (const ModelPlan& m : part.models) {
      b.forgive();
      bench_model(b, tiny ? tiny_plan(m) : m);
    }
    b.forgive();
  }
  if (file) std::fclose(file);
  return b.any_failed() ? 1 : 0;
}

}  // namespace
}  // namespace nemotron::bench

int main(int argc, char** argv) { return nemotron::bench::run(argc, argv); }
