#include "models/checkpoint/file_bytes.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "device/huge_pages.h"
#include "device/shares.h"

namespace nemotron {
namespace {

Status failure(const std::string& path, int error) {
  const std::string message = path + ": " + std::strerror(error);
  if (error != ENOENT && error != ENOTDIR) return Status::invalid(message);
  struct stat link {};
  // A cache that lost a file would otherwise be a model without its stop ids.
  if (lstat(path.c_str(), &link) == 0) return Status::invalid(path + ": it links to nothing");
  return Status::not_found(message);
}

size_t page_size() { return size_t(sysconf(_SC_PAGESIZE)); }

}  // namespace

Status FileBytes::open(const std::string& path, FileBytes* out) {
  FileBytes file;
  file.path_ = path;
  // Not blocking: opening a FIFO must fail below, not wait for a writer.
  file.fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd_ < 0) return failure(path, errno);
  struct stat info {};
  if (fstat(file.fd_, &info) != 0) return failure(path, errno);
  if (!S_ISREG(info.st_mode)) return Status::invalid(path + ": not a regular file");
  const auto size = size_t(info.st_size);
  if (size > 0) {
    // Addresses without memory behind them: fetch() opens what it fills.
    void* data = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      return failure(path, errno).within("addresses for " + std::to_string(size) + " bytes");
    }
    file.data_ = static_cast<uint8_t*>(data);
    file.size_ = size;
    prefer_huge_pages(data, size);
  }
  *out = std::move(file);
  return {};
}

Status FileBytes::read(const std::string& path, size_t max_bytes, FileBytes* out) {
  if (Status s = open(path, out); !s) return s;
  if (out->size_ > max_bytes) {
    return Status::invalid(path + ": " + std::to_string(out->size_) + " bytes; expected at most " +
                           std::to_string(max_bytes));
  }
  return out->fetch(out->data_, out->size_);
}

FileBytes::FileBytes(FileBytes&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      fd_(std::exchange(other.fd_, -1)) {}

FileBytes& FileBytes::operator=(FileBytes&& other) noexcept {
  if (this != &other) {
    close();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

FileBytes::~FileBytes() { close(); }

void FileBytes::close() {
  if (data_) munmap(data_, size_);
  if (fd_ >= 0) ::close(fd_);
  data_ = nullptr;
  size_ = 0;
  fd_ = -1;
}

Status FileBytes::make_room(const uint8_t* p, size_t bytes) const {
  // Whole huge pages, as far as the file reaches: those that two tensors share stay whole.
  const auto from = uintptr_t(p), to = from + bytes;
  const uintptr_t begin = std::max(from / kHugePage * kHugePage, uintptr_t(data_));
  const uintptr_t end =
      std::min((to + kHugePage - 1) / kHugePage * kHugePage, uintptr_t(data_ + size_));
  void* const opened = reinterpret_cast<void*>(begin);
  if (mprotect(opened, size_t(end - begin), PROT_READ | PROT_WRITE) == 0) return {};
  const int error = errno;
  const std::string what = path_ + ": memory for " + std::to_string(bytes) + " bytes: ";
  return Status::out_of_memory(what + std::strerror(error));
}

Status FileBytes::read_into(size_t first, size_t bytes, uint8_t* to) const {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = pread(fd_, to + done, bytes - done, off_t(first + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failure(path_, errno);
    if (n == 0) {
      return Status::invalid(path_ + ": ends at byte " + std::to_string(first + done) +
                             "; expected " + std::to_string(size_) +
                             " bytes, which it had when it was opened (truncated while loading)");
    }
    done += size_t(n);
  }
  return {};
}

Status FileBytes::fetch(const uint8_t* p, size_t bytes) const {
  return fetch_pieces(p, bytes, bytes, 1);
}

Status FileBytes::fetch_pieces(const uint8_t* p, size_t bytes, size_t stride, size_t count) const {
  if (bytes == 0 || count == 0) return {};
  if (Status s = make_room(p, (count - 1) * stride + bytes); !s) return s;
  const auto first = size_t(p - data_);
  return read_all({first, bytes, stride, count}, data_ + first, stride);
}

Status FileBytes::read_pieces(const uint8_t* p, size_t bytes, size_t stride, size_t count,
                              uint8_t* to) const {
  return read_all({size_t(p - data_), bytes, stride, count}, to, bytes);
}

Status FileBytes::read_all(const Pieces& from, uint8_t* to, size_t to_stride) const {
  const auto [first, bytes, stride, count] = from;
  if (count == 1 || (stride == bytes && to_stride == bytes)) {
    const size_t all = bytes * count;
    return in_shares(all, [&](size_t i, size_t of) {
      const size_t begin = all * i / of;
      return read_into(first + begin, all * (i + 1) / of - begin, to + begin);
    });
  }
  return in_shares(bytes * count, [&](size_t i, size_t of) -> Status {
    for (size_t at = count * i / of; at < count * (i + 1) / of; ++at) {
      if (Status s = read_into(first + at * stride, bytes, to + at * to_stride); !s) return s;
    }
    return {};
  });
}

void FileBytes::will_need(const uint8_t* p, size_t bytes) const {
  (void)posix_fadvise(fd_, off_t(p - data_), off_t(bytes), POSIX_FADV_WILLNEED);
}

void FileBytes::release(const uint8_t* p, size_t bytes) const {
  // Whole pages: what lies beside may still be wanted.
  const size_t page = page_size(), begin = (size_t(p - data_) + page - 1) / page * page;
  const size_t end = (size_t(p - data_) + bytes) / page * page;
  if (begin < end) (void)madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

}  // namespace nemotron
