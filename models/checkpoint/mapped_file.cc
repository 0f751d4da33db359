#include "models/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace nemotron {
namespace {

Status failure(const std::string& path, int error) {
  const std::string message = path + ": " + std::strerror(error);
  return error == ENOENT || error == ENOTDIR ? Status::not_found(message)
                                             : Status::invalid(message);
}

// Calls madvise on the pages that hold [p, p + bytes). A hint may fail: nothing depends on it.
void advise(const uint8_t* base, size_t size, const uint8_t* p, size_t bytes, int advice) {
  const auto page = size_t(sysconf(_SC_PAGESIZE));
  const size_t first = size_t(p - base) / page * page;
  const size_t last = size_t(p - base) + bytes;
  if (bytes == 0 || last > size) return;
  (void)madvise(const_cast<uint8_t*>(base) + first, last - first, advice);
}

}  // namespace

Status MappedFile::open(const std::string& path, MappedFile* out) {
  // Not blocking: opening a FIFO must fail below, not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return failure(path, errno);
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    const int error = errno;
    close(fd);
    return failure(path, error);
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return Status::invalid(path + ": not a regular file");
  }
  MappedFile file;
  file.path_ = path;
  file.size_ = size_t(info.st_size);
  if (file.size_ > 0) {
    void* data = mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      const int error = errno;
      close(fd);
      file.size_ = 0;
      return failure(path, error).within("mapping " + std::to_string(info.st_size) + " bytes");
    }
    file.data_ = static_cast<const uint8_t*>(data);
  }
  close(fd);
  *out = std::move(file);
  return {};
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

MappedFile::~MappedFile() { unmap(); }

void MappedFile::unmap() {
  if (data_) munmap(const_cast<uint8_t*>(data_), size_);
  data_ = nullptr;
  size_ = 0;
}

void MappedFile::will_need(const uint8_t* p, size_t bytes) const {
  advise(data_, size_, p, bytes, MADV_WILLNEED);
}

void MappedFile::release(const uint8_t* p, size_t bytes) const {
  advise(data_, size_, p, bytes, MADV_DONTNEED);
}

}  // namespace nemotron
