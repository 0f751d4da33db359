// A GGUF file, or the row of files that one was split into, as a checkpoint: its tensors and its
// metadata under the names that Hugging Face gives to them. Its texts (tokenizer, chat template)
// are server/model/package.ts's.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "device/status.h"
#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/documents.h"

namespace nemotron {

// Whether a checkpoint's path is a GGUF file's: by its name.
bool is_gguf(std::string_view path);

// Tensors are widened when they are fetched: quantised ones are BF16 to whoever reads them. Rows of
// q and k, which conversion to GGUF permutes, stand in Hugging Face's order again. `rope_freqs` is
// part of the documents and no tensor.
Status open_gguf(const std::string& path, std::unique_ptr<Checkpoint>* out);

// config and generation of the file; architectures llama, deci and nemotron.
Status read_gguf_documents(const std::string& path, Documents* out);

}  // namespace nemotron
