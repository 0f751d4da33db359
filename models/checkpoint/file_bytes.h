// FileBytes: a file at fixed addresses, of which only the parts that were fetched are in memory.
// The file is read and not mapped: if somebody truncates it meanwhile, fetch() fails, where a
// mapping would end the process. Owns the file and the memory; movable; one thread, but for
// read_pieces().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "device/status.h"

namespace nemotron {

class FileBytes {
 public:
  // Fetches nothing. Fails with the path and the system's reason. Symbolic links are followed.
  static Status open(const std::string& path, FileBytes* out);
  // Opens the file and fetches all of it, at most max_bytes.
  static Status read(const std::string& path, size_t max_bytes, FileBytes* out);
  FileBytes() = default;
  FileBytes(FileBytes&& other) noexcept;
  FileBytes& operator=(FileBytes&& other) noexcept;
  ~FileBytes();

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }  // when it was opened
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

  // Makes [p, p + bytes) readable; it lies within the file. Fails when the file is shorter by now.
  Status fetch(const uint8_t* p, size_t bytes) const;
  // The same of `count` pieces of `bytes`, each `stride` behind the one before.
  Status fetch_pieces(const uint8_t* p, size_t bytes, size_t stride, size_t count) const;
  // Reads them to `to`, one after another; the file's own addresses take no memory.
  Status read_pieces(const uint8_t* p, size_t bytes, size_t stride, size_t count,
                     uint8_t* to) const;
  // Hint: [p, p + bytes) is fetched next.
  void will_need(const uint8_t* p, size_t bytes) const;
  // Gives the memory of [p, p + bytes) back; to be fetched again before it is read again.
  void release(const uint8_t* p, size_t bytes) const;

 private:
  void close();
  Status make_room(const uint8_t* p, size_t bytes) const;
  struct Pieces {
    size_t first, bytes, stride, count;
  };
  Status read_all(const Pieces& from, uint8_t* to, size_t to_stride) const;
  Status read_into(size_t first, size_t bytes, uint8_t* to) const;
  std::string path_;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  int fd_ = -1;
};

}  // namespace nemotron
