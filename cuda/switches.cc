#include "cuda/switches.h"

#include <cstdlib>
#include <string>
#include <string_view>

namespace nemotron::cuda {
namespace {

// *out = whether $variable is `yes`; as it is where the variable is unset.
Status read(const char* variable, std::string_view no, std::string_view yes, bool* out) {
  const char* text = std::getenv(variable);
  const std::string_view value = text ? text : "";
  if (value.empty()) return {};
  if (value != no && value != yes) {
    return Status::invalid(std::string(variable) + " is \"" + std::string(value) +
                           "\": " + std::string(no) + " or " + std::string(yes) + " is possible");
  }
  *out = value == yes;
  return {};
}

}  // namespace

Status read_switches(Switches* out) {
  Status s = read("NEMOTRON_CUDA_GRAPHS", "0", "1", &out->graphs);
  if (s) s = read("NEMOTRON_CUDA_PDL", "0", "1", &out->pdl);
  if (s) s = read("NEMOTRON_CUDA_SYNC", "0", "1", &out->synchronous);
  if (s) s = read("NEMOTRON_PROMPT_ATTENTION", "mma", "wgmma", &out->wgmma_attention);
  if (s) s = read("NEMOTRON_DECODE_PRODUCTS", "mma", "wgmma", &out->wgmma_products);
  if (s) s = read("NEMOTRON_PROMPT_PRODUCTS", "library", "decode", &out->one_product);
  // A stream that is captured cannot be waited for.
  if (out->synchronous) out->graphs = false;
  return s;
}

}  // namespace nemotron::cuda
