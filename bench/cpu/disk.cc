// How fast a file comes from the disk and from the page cache: by pread, through a mapping, and
// past the cache (O_DIRECT), by several readers, each of which takes the next piece of the file.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "bench/cpu/bench.h"

namespace nemotron::bench {
namespace {

constexpr size_t kMiB = size_t(1) << 20, kMostPiece = 32 * kMiB;
constexpr std::array<int, 3> kReaders = {1, 2, 4};
enum class Way { read, mapped, direct };

struct Rates {
  std::vector<double> seconds, processor;
};
struct Case {
  Way way;
  bool cold;
  size_t piece;
  std::array<Rates, kReaders.size()> rates;
};

class File {
 public:
  explicit File(size_t bytes) : bytes_(bytes) {
    std::string path;
    cached_ = open_temporary(&path);
    if (cached_ < 0) return;
    direct_ = open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
    std::remove(path.c_str());
    std::vector<uint32_t> piece(kMiB / 4);
    bool good = true;
    for (size_t at = 0; good && at < bytes; at += kMiB) {
      for (size_t i = 0; i < piece.size(); ++i) piece[i] = uint32_t(at + i) * 2654435761u;
      good = pwrite(cached_, piece.data(), kMiB, off_t(at)) == ssize_t(kMiB);
    }
    good_ = good && fsync(cached_) == 0;
  }
  ~File() {
    if (cached_ >= 0) close(cached_);
    if (direct_ >= 0) close(direct_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool good() const { return good_; }
  bool has(Way way) const { return way != Way::direct || direct_ >= 0; }
  size_t bytes() const { return bytes_; }
  // Its pages are in the cache, or none is.
  void prepare(bool cold) const {
    std::vector<char> piece(kMiB);
    if (cold) {
      (void)posix_fadvise(cached_, 0, 0, POSIX_FADV_DONTNEED);
    } else {
      for (size_t at = 0; at < bytes_; at += kMiB) read(cached_, at, kMiB, piece.data());
    }
  }
  void* map() const { return mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, cached_, 0); }
  void read(Way way, size_t at, size_t bytes, void* to) const {
    read(way == Way::direct ? direct_ : cached_, at, bytes, to);
  }

 private:
  static void read(int fd, size_t at, size_t bytes, void* to) {
    for (size_t done = 0; done < bytes;) {
      const ssize_t n = pread(fd, static_cast<char*>(to) + done, bytes - done, off_t(at + done));
      if (n <= 0) std::abort();
      done += size_t(n);
    }
  }
  size_t bytes_;
  int cached_ = -1, direct_ = -1;
  bool good_ = false;
};

// All of the file, by so many readers with two pieces of memory each.
void read_all(const File& file, const Case& c, int readers, char* memory) {
  std::atomic<size_t> next = 0;
  char* map = c.way == Way::mapped ? static_cast<char*>(file.map()) : nullptr;
  if (map == MAP_FAILED) std::abort();
  const auto work = [&](int reader) {
    char* own = memory + size_t(reader) * 2 * kMostPiece;
    for (;;) {
      const size_t at = next.fetch_add(c.piece);
      if (at >= file.bytes()) return;
      char* to = own + at / c.piece % 2 * c.piece;
      const size_t bytes = std::min(c.piece, file.bytes() - at);
      if (map) {
        std::memcpy(to, map + at, bytes);
      } else {
        file.read(c.way, at, bytes, to);
      }
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < readers; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& t : others) t.join();
  if (map) munmap(map, file.bytes());
}

double median(std::vector<double> x) {
  std::ranges::sort(x);
  return x[x.size() / 2];
}

void print(const Case& c, size_t bytes) {
  constexpr std::array<const char*, 3> kNames = {"pread", "mmap", "O_DIRECT"};
  std::printf("{\"disk\": \"%s %s\", \"piece_mib\": %zu", c.cold ? "cold" : "cached",
              kNames[size_t(c.way)], c.piece / kMiB);
  const auto rates = [&](const char* name, std::vector<double> Rates::*of) {
    std::printf(", \"%s\": {", name);
    for (size_t i = 0; i < kReaders.size(); ++i) {
      std::printf("%s\"%d\": %.2f", i ? ", " : "", kReaders[i],
                  double(bytes) / median(c.rates[i].*of) / 1e9);
    }
    std::printf("}");
  };
  rates("gb_per_s", &Rates::seconds);
  rates("gb_per_processor_second", &Rates::processor);
  std::printf("}\n");
}

}  // namespace

int run_disk(const Options& options) {
  const char* mib = std::getenv("NEMOTRON_BENCH_READ_MIB");
  const File file(size_t(mib ? std::max(1, std::atoi(mib)) : 512) * kMiB);
  void* memory = std::aligned_alloc(4096, 4 * 2 * kMostPiece);
  const std::unique_ptr<void, decltype(&std::free)> owner(memory, std::free);
  if (!file.good() || !memory) {
    return std::fprintf(stderr, "no room for a file of %zu MiB in %s\n", file.bytes() / kMiB,
                        std::filesystem::temp_directory_path().c_str()),
           1;
  }
  std::memset(memory, 1, 4 * 2 * kMostPiece);
  std::vector<Case> cases;
  for (bool cold : {true, false}) {
    for (Way way : {Way::read, Way::mapped, Way::direct}) {
      if (!file.has(way) || (way == Way::direct && !cold)) continue;
      for (size_t piece : {4 * kMiB, 8 * kMiB, kMostPiece}) cases.push_back({way, cold, piece, {}});
    }
  }
  // Round after round of all cases: what else the machine does meets all of them.
  for (int round = 0; round < (options.seconds < 1 ? 1 : 5); ++round) {
    for (Case& c : cases) {
      for (size_t i = 0; i < kReaders.size(); ++i) {
        file.prepare(c.cold);
        const double wall = now(), processor = processor_time();
        read_all(file, c, kReaders[i], static_cast<char*>(memory));
        c.rates[i].seconds.push_back(now() - wall);
        c.rates[i].processor.push_back(processor_time() - processor);
      }
    }
  }
  for (const Case& c : cases) print(c, file.bytes());
  return 0;
}

}  // namespace nemotron::bench
