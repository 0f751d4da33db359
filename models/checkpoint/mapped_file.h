// MappedFile: a whole file, read-only, in memory. Owns the mapping; movable; any thread may read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "device/status.h"

namespace nemotron {

class MappedFile {
 public:
  // Fails with the path and the system's reason. Symbolic links are followed.
  static Status open(const std::string& path, MappedFile* out);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

  // Hints for the pages that hold [p, p + bytes): start reading them; give them back.
  void will_need(const uint8_t* p, size_t bytes) const;
  void release(const uint8_t* p, size_t bytes) const;

 private:
  void unmap();
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace nemotron
