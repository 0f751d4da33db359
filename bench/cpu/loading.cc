// How fast the rows of a checkpoint reach the memory that a GPU takes them from: out of memory of
// their own, or read straight to it. The file is in the page cache: this is the host's part alone.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <vector>

#include "bench/cpu/bench.h"
#include "device/shares.h"
#include "models/checkpoint/file_bytes.h"

namespace nemotron::bench {
namespace {

constexpr size_t kPiece = size_t(32) << 20;  // as cuda/context.h has it
constexpr size_t kRow = 8192;
// Gate and up of 8B are 235 MB. In a test both places in memory are written once.
const size_t kMatrix = (std::getenv("NEMOTRON_BENCH_READ_MIB") ? 2 : 4) * kPiece;

class File {
 public:
  File() {
    const int fd = open_temporary(&path_);
    if (fd < 0) return;
    close(fd);
    std::ofstream out(path_, std::ios::binary);
    std::vector<char> piece(kPiece);
    for (size_t i = 0; i < piece.size(); ++i) piece[i] = char(i * 2654435761u >> 24);
    for (size_t at = 0; at < kMatrix; at += kPiece)
      out.write(piece.data(), std::streamsize(kPiece));
    good_ = bool(out.flush());
  }
  ~File() { std::remove(path_.c_str()); }  // nothing, where there is none
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool good() const { return good_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool good_ = false;
};

void fetch_and_copy(const FileBytes& file, uint8_t* pinned) {
  if (!file.fetch(file.data(), kMatrix)) std::abort();
  for (size_t at = 0; at < kMatrix; at += kPiece) {
    copy_rows(pinned + at / kPiece % 2 * kPiece, file.data() + at, kPiece / kRow, kRow, kRow);
  }
  file.release(file.data(), kMatrix);
}

void read_straight(const FileBytes& file, uint8_t* pinned) {
  for (size_t at = 0; at < kMatrix; at += kPiece) {
    uint8_t* to = pinned + at / kPiece % 2 * kPiece;
    if (!file.read_pieces(file.data() + at, kRow, kRow, kPiece / kRow, to)) std::abort();
  }
}

}  // namespace

int run_loading(const Options& options) {
  const File file;
  FileBytes bytes;
  if (!file.good() || !FileBytes::open(file.path(), &bytes)) {
    return std::fprintf(stderr, "no room for a file of %zu MiB in %s\n", kMatrix >> 20,
                        std::filesystem::temp_directory_path().c_str()),
           1;
  }
  std::vector<uint8_t> pinned(2 * kPiece, 1);
  const auto print = [&](const char* name, void (*move)(const FileBytes&, uint8_t*)) {
    const auto rate = [&](Clock clock) {
      const double seconds =
          median_seconds(clock, options.seconds, [&] { move(bytes, pinned.data()); });
      return double(kMatrix) / seconds / 1e9;
    };
    const double wall = rate(now), processor = rate(processor_time);
    std::printf("{\"loading\": \"%s\", \"gb_per_s\": %.2f, \"gb_per_processor_second\": %.2f}\n",
                name, wall, processor);
  };
  print("into memory of its own, then copied", fetch_and_copy);
  print("read to where it is wanted", read_straight);
  return 0;
}

}  // namespace nemotron::bench
