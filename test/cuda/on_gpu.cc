#include <cstdlib>
#include <optional>
#include <string>

#include "cuda/cuda_device.h"
#include "test/cuda/under_test.h"

namespace nemotron::test {

const bool kEmulated = false;

int64_t kernels_launched() { return 0; }
int64_t graphs_launched() { return 0; }

Status open_under_test(Library library, const DeviceOptions& options,
                       std::unique_ptr<Device>* out) {
  std::string why;
  if (cuda::device_count(&why) == 0) return Status::unavailable("no usable GPU: " + why);
  if (library == Library::cublaslt) return cuda::open_device(options, out);
  const char* before = std::getenv("NEMOTRON_CUBLASLT");
  const std::optional<std::string> kept =
      before ? std::optional<std::string>(before) : std::nullopt;
  setenv("NEMOTRON_CUBLASLT", "none", 1);
  Status s = cuda::open_device(options, out);
  if (kept) {
    setenv("NEMOTRON_CUBLASLT", kept->c_str(), 1);
  } else {
    unsetenv("NEMOTRON_CUBLASLT");
  }
  return s;
}

}  // namespace nemotron::test
