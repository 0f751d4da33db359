#include "device/open_device.h"

#include <dlfcn.h>

namespace nemotron {
namespace {

std::string directory_of_this_module() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&directory_of_this_module), &info) == 0) return ".";
  const std::string path = info.dli_fname ? info.dli_fname : "";
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

// Null with a reason in *why. A library stays loaded: its code may still run at process exit.
const Backend* load_backend(const std::string& file, std::string* why) {
  const std::string directory = directory_of_this_module();
  void* library = nullptr;
  for (const std::string& path : {directory + "/" + file, directory + "/cuda/" + file}) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library) break;
    if (why->empty()) *why = dlerror();
  }
  if (!library) return nullptr;
  const auto entry =
      reinterpret_cast<const Backend* (*)() noexcept>(dlsym(library, "nemotron_backend"));
  const Backend* backend = entry ? entry() : nullptr;
  if (backend && backend->abi == kBackendAbi) return backend;
  *why = file + (backend ? " is of another version (interface " + std::to_string(backend->abi) +
                               ", expected " + std::to_string(kBackendAbi) + ")"
                         : " has no nemotron_backend()");
  return nullptr;
}

// Ready to open device `index`, or null with a reason.
const Backend* find_cuda(int32_t index, std::string* why) {
  const Backend* cuda = load_backend("libnemotron_cuda.so", why);
  if (!cuda) return nullptr;
  const int32_t count = cuda->device_count(why);
  if (count > index) return cuda;
  if (count > 0) {
    *why = "device " + std::to_string(index) + " was asked for, there are " + std::to_string(count);
  }
  return nullptr;
}

}  // namespace

Status open_device(const std::string& backend, const DeviceOptions& options,
                   std::unique_ptr<Device>* out, std::string* note) {
  if (backend == "cpu") {
    *note = "cpu, as asked for";
    return open_cpu_device(options, out);
  }
  if (backend != "auto" && backend != "cuda") {
    return Status::invalid("device: found \"" + backend + "\", expected auto, cpu or cuda");
  }
  std::string why;
  const Backend* cuda = find_cuda(options.index, &why);
  if (cuda) {
    *note = backend == "auto" ? "cuda, since a GPU is here" : "cuda, as asked for";
    return cuda->open(options, out);
  }
  if (backend == "cuda") return Status::unavailable("no CUDA device: " + why);
  *note = "cpu, since there is no CUDA device: " + why;
  return open_cpu_device(options, out);
}

}  // namespace nemotron
