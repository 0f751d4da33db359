// What a checkpoint says about its quantisation: `quantization_config` of config.json (also under
// its old name `compression_config`) and ModelOpt's hf_quant_config.json.
#pragma once

#include <string>
#include <vector>

#include "models/checkpoint/json.h"
#include "models/config.h"

namespace nemotron {

struct Quantization {
  QuantKind kind = QuantKind::none;
  std::vector<std::string> ignore;  // as written: names, wildcards, "re:..."
  bool kv_scales = false;
};

// `block` is the value of quantization_config; `where` opens every message.
Status read_quantization_block(const Json& block, const std::string& where, Quantization* out);
// `document` is hf_quant_config.json.
Status read_hf_quant_config(const Json& document, const std::string& where, Quantization* out);

}  // namespace nemotron
