#include "device/open_device.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "device/processors.h"

namespace nemotron {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLibrary = "libnemotron_cuda.so";

// The folder of the binary that holds this function: the addon, a test, a bench.
fs::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || !info.dli_fname) return {};
  std::error_code error;
  const fs::path path = fs::canonical(info.dli_fname, error);
  return error ? fs::path() : path.parent_path();
}

std::string find_library(std::string* why) {
  if (const char* file = std::getenv("NEMOTRON_CUDA_LIBRARY"); file && *file) return file;
  const fs::path own = own_folder();
  fs::path at = own;
  for (int up = 0; up < 3 && !at.empty(); ++up, at = at.parent_path()) {
    std::error_code error;
    if (fs::exists(at / kLibrary, error)) return (at / kLibrary).string();
  }
  *why = std::string("the CUDA backend is not built (no ") + kLibrary + " beside " + own.string() +
         "): build with nvcc 12.4 or later on PATH, or set NEMOTRON_CUDA_LIBRARY";
  return {};
}

// Null with a reason in *why. A library stays loaded: its code may still run at process exit.
const Backend* load_backend(std::string* why) {
  const std::string file = find_library(why);
  if (file.empty()) return nullptr;
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* error = dlerror();
    *why = error ? error : "cannot load " + file;
    return nullptr;
  }
  const auto entry =
      reinterpret_cast<const Backend* (*)() noexcept>(dlsym(library, "nemotron_backend"));
  const Backend* backend = entry ? entry() : nullptr;
  if (backend && backend->abi == kBackendAbi) return backend;
  *why =
      file + (backend ? " is of another version (interface " + std::to_string(backend->abi) +
                            ", expected " + std::to_string(kBackendAbi) + "): build both together"
                      : " has no nemotron_backend()");
  return nullptr;
}

// Ready to open device `index`, or null with a reason.
const Backend* find_cuda(int32_t index, std::string* why) {
  const Backend* cuda = load_backend(why);
  if (!cuda) return nullptr;
  const int32_t count = cuda->device_count(why);
  if (count > index && index >= 0) return cuda;
  if (count > 0) {
    *why = "GPU " + std::to_string(index) + " was asked for, this machine has " +
           std::to_string(count);
  }
  return nullptr;
}

// Why it is the CPU, and how many of its threads.
std::string cpu_note(const std::string& why, const DeviceOptions& options) {
  const auto [threads, because] = choose_threads(options.threads);
  return "cpu, " + why + "; threads: " + std::to_string(threads) + " (" + because + ")";
}

// Null in *cuda: the CPU.
Status choose_backend(const std::string& backend, const DeviceOptions& options, int32_t ranks,
                      const Backend** cuda, std::string* note) {
  const Status no_fp8 =
      Status::unsupported("fp8_activations: found the CPU, expected a CUDA device with cuBLASLt");
  *cuda = nullptr;
  if (backend == "cpu") {
    if (options.fp8_activations) return no_fp8;
    *note = cpu_note("as asked for", options);
    return {};
  }
  if (backend != "auto" && backend != "cuda") {
    return Status::invalid("device: found \"" + backend + "\", expected auto, cpu or cuda");
  }
  std::string why;
  *cuda = find_cuda(options.index + ranks - 1, &why);
  if (*cuda) {
    // A GPU that is there but cannot be used is an error, not a reason to be a hundred times
    // slower.
    if (options.exact_activations) {
      return Status::unsupported(
          "exact_activations: found a CUDA device, whose activations are BF16; expected the CPU");
    }
    if (options.int8_activations) {
      return Status::unsupported(
          "int8_activations: found a CUDA device, whose activations are BF16; expected the CPU");
    }
    *note = backend == "auto" ? "cuda, since a GPU is here" : "cuda, as asked for";
    return {};
  }
  if (backend == "cuda") return Status::unavailable("no CUDA device: " + why);
  if (options.fp8_activations) return no_fp8.within(why);
  *note = cpu_note("since there is no CUDA device: " + why, options);
  return {};
}

}  // namespace

Status check_device(const std::string& backend, const DeviceOptions& options, int32_t ranks) {
  const Backend* cuda = nullptr;
  std::string note;
  if (Status s = choose_backend(backend, options, ranks, &cuda, &note); !s) return s;
  return cuda ? Status() : check_cpu_device(options);
}

Status open_device(const std::string& backend, const DeviceOptions& options,
                   std::unique_ptr<Device>* out, std::string* note) {
  const int32_t ranks = options.group ? options.group->ranks() : 1;
  const Backend* cuda = nullptr;
  if (Status s = choose_backend(backend, options, ranks, &cuda, note); !s) return s;
  return cuda ? cuda->open(options, out) : open_cpu_device(options, out);
}

}  // namespace nemotron
