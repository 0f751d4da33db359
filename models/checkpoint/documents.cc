#include "models/checkpoint/documents.h"

#include <utility>

#include "models/checkpoint/file_bytes.h"
#include "models/checkpoint/gguf.h"

namespace nemotron {
namespace {

Status read_document(const std::string& path, Document* out) {
  FileBytes file;
  if (Status s = FileBytes::read(path, Json::Limits().bytes, &file); !s) return s;
  out->where = path;
  return Json::parse(file.text(), &out->json).within(path);
}

// The file may be missing.
Status read_optional(const std::string& path, std::optional<Document>* out) {
  Document document;
  const Status s = read_document(path, &document);
  if (s.code() == Code::not_found) return {};
  if (s) *out = std::move(document);
  return s;
}

}  // namespace

Status Documents::read(const std::string& dir, Documents* out) {
  if (is_gguf(dir)) return read_gguf_documents(dir, out);
  Documents all;
  if (Status s = read_document(dir + "/config.json", &all.config); !s) return s;
  if (Status s = read_optional(dir + "/generation_config.json", &all.generation); !s) return s;
  if (Status s = read_optional(dir + "/hf_quant_config.json", &all.quantization); !s) return s;
  *out = std::move(all);
  return {};
}

}  // namespace nemotron
