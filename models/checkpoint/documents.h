// Documents: what a checkpoint says of itself, in JSON with the names that Hugging Face gives to
// things, however it is stored. With Checkpoint, the tensors, it is all that the engine knows of a
// format; what is text (tokenizer, chat template) is server/model/package.ts's.
#pragma once

#include <optional>
#include <string>

#include "device/status.h"
#include "models/checkpoint/field_names.h"
#include "models/checkpoint/json.h"

namespace nemotron {

struct Document {
  std::string where;  // opens every message about it: "dir/config.json"
  Json json;
};

struct Documents {
  Document config;
  std::optional<Document> generation;    // generation_config.json: stop ids, sampling defaults
  std::optional<Document> quantization;  // hf_quant_config.json
  FieldNames names;                      // of fields of all three

  // `dir`: a Hugging Face folder, or a GGUF file. Errors name the file, line and column.
  static Status read(const std::string& dir, Documents* out);
};

}  // namespace nemotron
