// The checker: every memory access of a kernel, by way of the hooks that g++ -fsanitize=thread
// calls (compile with it, link without it: the functions at the end of this file take libtsan's
// place).
//
// Two stamps a byte, its last write and its last read, tell whether a barrier lies between two
// accesses: block barriers count epochs of the block, warp barriers epochs of the warp. A shuffle
// is no barrier. Blocks of one launch are ordered by arrive() alone. Launches are, except before
// pdl_wait().
//
// Words that several GPUs write (peer_store) may be overwritten by another GPU only when the one
// they lie on has read them, and has told so: by a word of a later launch of its own.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "internal.h"

// The linker's names for where this program, or this library, lies.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start, _end;

namespace emu {
namespace {

// Packed: what a kernel touches is mirrored here several times over, and the time goes by in the
// caches' misses.
struct [[gnu::packed, gnu::aligned(2)]] Stamp {
  uint32_t serial = 0;  // block that did it; 0: nobody
  uint16_t epoch = 0, warp_epoch = 0;
  uint16_t thread : 10 = 0;
  // reads: 1 = several threads of one warp, 2 = of several warps since the epoch began
  uint16_t many : 2 = 0;
  uint16_t atomic : 1 = 0;
  uint16_t unused : 3 = 0;

  // Written as it is copied, eight bytes and two: a processor waits for stores that are narrower
  // than the load that follows them.
  static Stamp of(const Fiber& f, bool atomic) {
    const uint64_t when = block->serial | uint64_t(block->epoch) << 32 |
                          uint64_t(block->warp_epoch[f.index / 32u]) << 48;
    Stamp now;
    std::memcpy(static_cast<void*>(&now), &when, sizeof when);
    now.thread = f.index;
    now.atomic = atomic;
    return now;
  }
  bool operator==(const Stamp&) const = default;
};
struct Cell {
  Stamp write, read;
  uint32_t past : 29 = 0;  // of another one than its region's: as if nobody had touched it
  uint32_t initialised : 1 = 0;
  uint32_t in_flight : 1 = 0;
  uint32_t split : 1 = 0;  // each of its halves has a cell of its own

  bool operator==(const Cell&) const = default;
};
static_assert(sizeof(Stamp) == 10 && sizeof(Cell) == 24);

// A cell for each aligned word of four bytes, for as long as these have the same past; then one for
// each half of it, and so on.
class Cells {
 public:
  static size_t bytes_for(size_t bytes) { return 7 * words_of(bytes) * sizeof(Cell) + 1; }

  Cells() = default;
  // Whatever lies there: cells of another past.
  Cells(void* at, size_t bytes)
      : words(static_cast<Cell*>(at)),
        halves(words + words_of(bytes)),
        single(halves + 2 * words_of(bytes)) {}

  void* memory() const { return words; }

  // Forgets all, and clears nothing.
  void begin(bool initialised) {
    static uint32_t last = 0;
    if (++last >> 29) std::abort();
    untouched.past = last;
    untouched.initialised = initialised;
  }

  // f(cell, offset of its first byte) for all of bytes [at, at + n), until it says false.
  template <class F>
  bool visit(size_t at, size_t n, F f) const {
    for (const size_t end = at + n; at < end; at = at / 4 * 4 + 4) {
      Cell& word = words[at / 4];
      if (word.past != untouched.past) word = untouched;
      if (!visit_cell<4>(word, at, std::min(end, at / 4 * 4 + 4), f)) return false;
    }
    return true;
  }
  void set_initialised(size_t at, size_t n) const {
    Cell to = untouched;
    to.initialised = 1;
    visit(at, n, [&](Cell& cell, size_t) { return cell = to, true; });
  }

 private:
  static size_t words_of(size_t bytes) { return (bytes + 3) / 4; }

  // Of a cell of so many bytes: those from `at` to `stop`.
  template <size_t kBytes, class F>
  bool visit_cell(Cell& cell, size_t at, size_t stop, F& f) const {
    if constexpr (kBytes == 1) {
      return f(cell, at);
    } else {
      constexpr size_t kHalf = kBytes / 2;
      const bool whole = stop - at == kBytes;
      if (whole && !cell.split) return f(cell, at);
      Cell* own = (kBytes == 4 ? halves : single) + at / kBytes * 2;
      if (!cell.split) {
        own[0] = own[1] = cell;
        cell.split = 1;
      }
      for (size_t i = at / kHalf % 2; at < stop; ++i) {
        const size_t end = std::min(stop, at / kHalf * kHalf + kHalf);
        if (!visit_cell<kHalf>(own[i], at, end, f)) return false;
        at = end;
      }
      if (whole && !own[0].split && own[0] == own[1]) cell = own[0];
      return true;
    }
  }

  Cell *words = nullptr, *halves = nullptr, *single = nullptr;
  Cell untouched;
};

struct Region {
  uint8_t* base = nullptr;
  size_t bytes = 0;
  Cells cells;
  bool shared = false;
  int device = 0;
  std::string name;

  size_t offset(const void* p) const { return size_t(uintptr_t(p) - uintptr_t(base)); }
};

std::map<uintptr_t, Region> allocations;  // by base
Region* last_found = nullptr;             // of them
struct SharedMemory {
  Region region;
  std::vector<uint8_t> cells;
};
thread_local std::vector<SharedMemory> shared_memory;  // by member of the cluster

// What a GPU knows of each: the latest launch of which it has read a word, or has been told so.
using Known = std::map<int, uint32_t>;
struct PeerWord {  // 32 bits that a kernel stored
  int writer = 0;
  uint32_t launch = 0;  // its first serial
  bool read = false;    // by the GPU that it lies on
  Known known;          // of the writer
};
std::map<uintptr_t, PeerWord> peer_words;
std::map<int, Known> known_of;  // by GPU

std::vector<std::string> errors;
std::set<std::string> seen;

// Of the running block: that of its peers is reached by barriers and copies alone.
Region* own_shared() { return block ? &shared_memory[block->member].region : nullptr; }

Region* find(uintptr_t a) {
  Region* own = own_shared();
  if (own && a - uintptr_t(own->base) < own->bytes) return own;
  if (last_found && a - uintptr_t(last_found->base) < last_found->bytes) return last_found;
  auto it = allocations.upper_bound(a);
  if (it == allocations.begin()) return nullptr;
  --it;
  if (a >= it->first + it->second.bytes) return nullptr;
  return last_found = &it->second;
}

// Where an address lies in this program. Position-independent code: it is an offset.
std::string offset_of(uintptr_t a) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%zx", a - uintptr_t(&__ehdr_start));
  return text;
}

// What addr2line of the binutils says of it, line by line; nothing where they are not there.
std::vector<std::string> addr2line(const char* options, const std::string& offset) {
  Dl_info file{};
  if (dladdr(&__ehdr_start, &file) == 0 || !file.dli_fname) return {};
  const std::string command = std::string("addr2line ") + options + " -e '" + file.dli_fname +
                              "' " + offset + " 2>/dev/null";
  std::vector<std::string> lines;
  if (FILE* f = popen(command.c_str(), "r")) {
    char line[512];
    while (std::fgets(line, sizeof line, f)) {
      std::string s(line);
      s.erase(s.find_last_not_of("\n") + 1);
      if (!s.empty() && s[0] != '?') lines.push_back(s);
    }
    pclose(f);
  }
  return lines;
}

// "cuda/gemm.cu:120" for a return address.
std::string source_line(const void* pc) {
  static std::map<const void*, std::string> cache;
  auto [it, fresh] = cache.try_emplace(pc);
  if (!fresh) return it->second;
  const std::string offset = offset_of(uintptr_t(pc) - 1);
  std::string text;
  for (std::string s : addr2line("-i", offset)) {
    const size_t cut = s.find(" (");
    if (cut != std::string::npos) s.resize(cut);
    const size_t slash = s.rfind('/');
    if (slash != std::string::npos) s = s.substr(slash + 1);
    text += text.empty() ? s : " < " + s;
  }
  if (text.empty()) text = "offset " + offset;
  it->second = text;
  return text;
}

bool ordered_before(const Stamp& earlier, bool earlier_read) {
  const Fiber& f = *current;
  if (earlier.epoch != block->epoch) return true;
  if (earlier_read && earlier.many == 2) return false;
  if (earlier.thread == f.index && !earlier.many) return true;
  const unsigned warp = f.index / 32u;
  return earlier.thread / 32u == warp && earlier.warp_epoch != block->warp_epoch[warp];
}

// Null when `earlier` and the access being made cannot race.
const char* conflict(const Stamp& earlier, bool earlier_read, bool atomic) {
  if (earlier.serial == 0) return nullptr;
  if (earlier.serial < current_launch->first_serial) {
    if (!current_launch->pdl || current->pdl_waited) return nullptr;
    if (earlier.serial < current_launch->complete_serial) return nullptr;
    return "of an earlier launch, before pdl_wait()";
  }
  if (earlier.atomic && atomic) return nullptr;
  if (earlier.serial != block->serial) {
    const auto awaited = block->awaited.find(earlier.serial);
    // Of readers in several blocks only the last is known.
    const bool known = !earlier_read || earlier.many != 2;
    const bool ordered =
        known && awaited != block->awaited.end() && earlier.epoch < awaited->second;
    return ordered ? nullptr : "of another block";
  }
  return ordered_before(earlier, earlier_read) ? nullptr
                                               : "of another thread, with no barrier between";
}

// What lies before an address that is in no allocation.
std::string neighbour_of(uintptr_t a) {
  const Region* own = own_shared();
  if (own && a - uintptr_t(own->base) < (1u << 20)) {
    return std::to_string(a - uintptr_t(own->base) - own->bytes) +
           " bytes past the end of shared memory (" + std::to_string(own->bytes) + " bytes)";
  }
  auto it = allocations.upper_bound(a);
  if (it != allocations.begin()) {
    --it;
    const uintptr_t past = a - (it->first + it->second.bytes);
    if (past < (1u << 20))
      return std::to_string(past) + " bytes past the end of " + it->second.name;
  }
  return "no device memory near it";
}

void forget_peer_words(const void* p, size_t bytes) {
  peer_words.erase(peer_words.lower_bound(uintptr_t(p)),
                   peer_words.lower_bound(uintptr_t(p) + bytes));
}

void note_peer_load(const Region& r, const void* p, size_t bytes) {
  const int own = current_launch->device;
  for (auto it = peer_words.lower_bound(uintptr_t(p));
       it != peer_words.end() && it->first < uintptr_t(p) + bytes; ++it) {
    PeerWord& word = it->second;
    if (own == r.device) word.read = true;
    if (own == word.writer) continue;
    Known& known = known_of[own];
    known[word.writer] = std::max(known[word.writer], word.launch);
    for (const auto& [gpu, launch] : word.known) known[gpu] = std::max(known[gpu], launch);
  }
}

void note_peer_store(const Region& r, const void* p, const void* value, size_t bytes,
                     const Where& where) {
  const int own = current_launch->device;
  for (size_t i = 0; i < bytes; i += 4) {
    const uintptr_t at = uintptr_t(p) + i;
    if (std::memcmp(reinterpret_cast<const void*>(at), static_cast<const char*>(value) + i, 4) == 0)
      continue;  // who says the same twice takes nothing away
    const auto [it, fresh] = peer_words.try_emplace(at);
    PeerWord& word = it->second;
    if (!fresh && word.writer != r.device && !word.read) {
      report("overwrites a word of " + r.name + " that its GPU has not read", &where, nullptr);
    } else if (!fresh && word.writer == r.device && own != r.device &&
               known_of[own][r.device] <= word.launch) {
      report(
          "overwrites a word of " + r.name + " and may be earlier than its GPU's own store there",
          &where, nullptr);
    }
    word = {own, current_launch->first_serial, false, known_of[own]};
  }
}

// What conflict() says null to, in few steps: nearly all.
bool is_settled(const Stamp& earlier, const Stamp& now) {
  if (earlier.serial == now.serial)
    return earlier.epoch != now.epoch || (earlier.thread == now.thread && !earlier.many);
  if (earlier.serial >= current_launch->first_serial) return false;
  return earlier.serial == 0 || !current_launch->pdl || current->pdl_waited;
}

// Remembers a read of a byte; of several readers, that there were several.
void note_read(Cell* cell, const Stamp& now) {
  Stamp& old = cell->read;
  const bool same_epoch = old.serial == now.serial && old.epoch == now.epoch;
  uint16_t many = 0;
  if (same_epoch && (old.many || old.thread != now.thread)) {
    many = old.many == 2 || old.thread / 32u != now.thread / 32u ? 2 : 1;
  } else if (old.serial >= current_launch->first_serial && old.serial != now.serial) {
    many = 2;  // readers in several blocks
  }
  if (now.atomic) return;
  old = now;
  old.many = many;
}

// What a thread does, where.
struct Access {
  const Stamp& now;
  bool write;
  const Where* where;
  const void* pc;

  void refuse(const std::string& why) const { report(why, where, pc); }
  // False where it conflicts with what was done before.
  bool follows(const Region& r, const Stamp& earlier, bool earlier_read) const {
    return is_settled(earlier, now) || follows_slowly(r, earlier, earlier_read);
  }

 private:
  [[gnu::noinline]] bool follows_slowly(const Region& r, const Stamp& earlier,
                                        bool earlier_read) const {
    const char* what = conflict(earlier, earlier_read, now.atomic);
    if (!what) return true;
    refuse("race on " + r.name + ": " + (write ? "write" : "read") + " after a " +
           (earlier_read ? "read " : "write ") + what);
    return false;
  }
};
[[gnu::noinline, gnu::cold]] void refuse_in_flight(const Region& r, const Access& access) {
  access.refuse((access.write ? "write to " : "read of ") + r.name +
                " while a copy to it is in flight");
}
[[gnu::noinline, gnu::cold]] void refuse_uninitialised(const Region& r, size_t at,
                                                       const Access& access) {
  access.refuse("read of uninitialised " + r.name + ", byte " + std::to_string(at));
}

// The cell of what lies at `at` of the region; false after a fault.
bool check_cell(const Region& r, Cell& cell, size_t at, const Access& access) {
  if (cell.in_flight) {
    refuse_in_flight(r, access);
    return false;
  }
  if (!access.write && !cell.initialised) {
    refuse_uninitialised(r, at, access);
    cell.initialised = 1;
  }
  if (!access.follows(r, cell.write, false)) return false;
  if (!access.write) {
    note_read(&cell, access.now);
    return true;
  }
  if (!access.follows(r, cell.read, true)) return false;
  cell.write = access.now;
  cell.initialised = 1;
  return true;
}

// Of an access that would fault, why.
[[gnu::noinline, gnu::cold]] std::string fault_of(const Region* r, uintptr_t a, size_t n,
                                                  bool write) {
  const std::string what = write ? "write" : "read";
  if (!r) return what + " out of bounds: " + neighbour_of(a);
  if (a + n > uintptr_t(r->base) + r->bytes) return what + " runs past the end of " + r->name;
  return r->name + " is another GPU's, to which no peer access was enabled";
}

bool is_reached(const Region& r) {
  return r.shared || r.device == current_launch->device ||
         may_reach(current_launch->device, r.device);
}

void check(uint8_t* p, size_t n, bool write, bool atomic, const Where* where, const void* pc) {
  const auto a = uintptr_t(p);
  const auto stack = uintptr_t(current->stack);
  if (a >= stack && a < stack + kStackBytes) return;
  ++counters().accesses;
  Region* r = find(a);
  if (!r && !write && a >= uintptr_t(&__ehdr_start) && a < uintptr_t(&_end)) return;  // constants
  if (!r || a + n > uintptr_t(r->base) + r->bytes || !is_reached(*r)) {
    report(fault_of(r, a, n, write), where, pc);
    abandon_launch();
  }
  if (r->shared) {
    if (const char* what = async_access(p, n, write)) {
      report(std::string(write ? "write to" : "read of") + " shared memory " + what, where, pc);
      return;
    }
  }
  const Stamp now = Stamp::of(*current, atomic);
  r->cells.visit(r->offset(p), n, [&](Cell& cell, size_t at) {
    return check_cell(*r, cell, at, {now, write, where, pc});
  });
}

// A device faults at an access that its own size does not divide.
void check_alignment(const void* p, size_t n, const char* what, const Where* where,
                     const void* pc) {
  if (uintptr_t(p) % n == 0 || !config().check || !current) return;
  Inside inside;
  report(std::string("misaligned ") + what + ", not on " + std::to_string(n) + " bytes", where, pc);
  abandon_launch();
}
const char* access_name(bool write) { return write ? "write" : "read"; }

}  // namespace

std::string function_name(const void* p) {
  const std::string offset = offset_of(uintptr_t(p));
  const std::vector<std::string> lines = addr2line("-f -C", offset);
  return lines.empty() ? "the function at " + offset : lines.front();
}

void report(const std::string& what, const Where* where, const void* pc) {
  std::string text = current_launch ? current_launch->name : std::string("host");
  text += ": " + what;
  std::string place;
  if (where && where->line()) {
    const char* slash = std::strrchr(where->file_name(), '/');
    place =
        std::string(slash ? slash + 1 : where->file_name()) + ":" + std::to_string(where->line());
  } else if (pc) {
    place = source_line(pc);
  }
  if (!place.empty()) text += ", at " + place;
  // One report a place and kind: the numbers in `what` differ from thread to thread.
  std::string key = text;
  std::erase_if(key, [](char c) { return c >= '0' && c <= '9'; });
  if (!seen.insert(key + place).second) return;
  if (current) {
    char who[96];
    std::snprintf(who, sizeof who, " (block %u,%u,%u thread %u)", block->index.x, block->index.y,
                  block->index.z, unsigned(current->index));
    text += who;
  }
  errors.push_back(text);
}

std::vector<std::string> take_errors() {
  std::vector<std::string> all;
  all.swap(errors);
  seen.clear();
  return all;
}
bool has_errors() { return !errors.empty(); }

// --- regions ---

namespace {
// Where the cells of allocations lay that are no more, by size: pages that need not be cleared.
std::multimap<size_t, void*> free_cells;

size_t room_for_cells(size_t bytes) { return std::bit_ceil(Cells::bytes_for(bytes)); }

void* take_cells(size_t room) {
  const auto it = free_cells.find(room);
  if (it != free_cells.end()) {
    void* cells = it->second;
    free_cells.erase(it);
    return cells;
  }
  // Zero pages until touched.
  void* cells = mmap(nullptr, room, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (cells == MAP_FAILED) std::abort();
  return cells;
}
}  // namespace

void add_memory(void* p, size_t bytes, int device) {
  static int number = 0;
  Region r;
  r.base = static_cast<uint8_t*>(p);
  r.bytes = bytes;
  r.device = device;
  r.name =
      "device allocation " + std::to_string(number++) + " (" + std::to_string(bytes) + " bytes)";
  r.cells = {take_cells(room_for_cells(bytes)), bytes};
  r.cells.begin(false);
  allocations[uintptr_t(p)] = r;
}

void remove_memory(void* p) {
  auto it = allocations.find(uintptr_t(p));
  if (it == allocations.end()) return;
  forget_peer_words(p, it->second.bytes);
  free_cells.emplace(room_for_cells(it->second.bytes), it->second.cells.memory());
  last_found = nullptr;
  allocations.erase(it);
}

bool host_wrote(void* p, size_t bytes) {
  Region* r = find(uintptr_t(p));
  if (!r || r->shared || uintptr_t(p) + bytes > uintptr_t(r->base) + r->bytes) return false;
  forget_peer_words(p, bytes);
  if (bytes == r->bytes) {
    r->cells.begin(true);
  } else {
    r->cells.set_initialised(r->offset(p), bytes);
  }
  return true;
}

bool host_reads(const void* p, size_t bytes, std::string* why) {
  Region* r = find(uintptr_t(p));
  if (!r || uintptr_t(p) + bytes > uintptr_t(r->base) + r->bytes) {
    *why = "not device memory";
    return false;
  }
  if (!config().check) return true;
  return r->cells.visit(r->offset(p), bytes, [&](const Cell& cell, size_t at) {
    if (cell.initialised) return true;
    *why = "copies uninitialised " + r->name + " to the host, byte " + std::to_string(at);
    return false;
  });
}

void begin_cluster_check() {
  if (shared_memory.size() < cluster.size()) shared_memory.resize(cluster.size());
  for (const Block& b : cluster) {
    auto& [region, cells] = shared_memory[b.member];
    cells.resize(std::max(cells.size(), Cells::bytes_for(b.shared_bytes)));
    region.base = b.shared;
    region.bytes = b.shared_bytes;
    region.cells = {cells.data(), b.shared_bytes};
    region.cells.begin(false);
    region.shared = true;
    region.name = "shared memory";
  }
}

void check_kernel_access(const void* p, size_t bytes, bool write, bool atomic, const Where* where,
                         const void* pc) {
  if (!config().check || !current) return;
  Inside inside;
  check(const_cast<uint8_t*>(static_cast<const uint8_t*>(p)), bytes, write, atomic, where, pc);
  const double preempt = config().preempt;
  if (preempt > 0 && config().order == Order::random &&
      double(random_word() >> 11) * 0x1p-53 < preempt) {
    give_way();
  }
}

void mark_in_flight(size_t member, const void* shared16, bool in_flight) {
  if (!config().check) return;
  const Region& r = shared_memory[member].region;
  if (r.offset(shared16) >= r.bytes || r.offset(shared16) + 16 > r.bytes) return;
  r.cells.visit(r.offset(shared16), 16,
                [&](Cell& cell, size_t) { return cell.in_flight = in_flight, true; });
}

void mark_landed(size_t member, const void* shared, size_t bytes) {
  if (!config().check) return;
  const Region& r = shared_memory[member].region;
  r.cells.set_initialised(r.offset(shared), bytes);
}

void check_access(const void* p, size_t bytes, bool write, const Where& where) {
  check_alignment(p, bytes, access_name(write), &where, nullptr);
  check_kernel_access(p, bytes, write, false, &where, nullptr);
}
void prefetch(const void* global, size_t bytes, const Where& where) {
  Inside inside;
  if (uintptr_t(global) % 16 || bytes % 16) report("prefetch of misaligned bytes", &where, nullptr);
  check_kernel_access(global, bytes, false, false, &where, nullptr);
}
void atomic_begin(const void* p, size_t bytes, const Where& where) {
  Inside inside;
  check_alignment(p, bytes, "atomic", &where, nullptr);
  check_kernel_access(p, bytes, true, true, &where, nullptr);
}

void peer_load(void* value, const void* p, size_t bytes, const Where& where) {
  Inside inside;
  check_alignment(p, bytes, access_name(false), &where, nullptr);
  Region* r = find(uintptr_t(p));
  // Whoever wrote these bytes is ordered before who reads them so; and a read is nobody's business.
  if (r && uintptr_t(p) + bytes <= uintptr_t(r->base) + r->bytes) {
    r->cells.visit(r->offset(p), bytes, [](Cell& cell, size_t) {
      if (cell.write.serial != block->serial) cell.write = {};
      return true;
    });
    if (config().check) note_peer_load(*r, p, bytes);
  }
  check_kernel_access(p, bytes, false, true, &where, nullptr);
  std::memcpy(value, p, bytes);
}
void peer_store(void* p, const void* value, size_t bytes, const Where& where) {
  check_alignment(p, bytes, access_name(true), &where, nullptr);
  check_kernel_access(p, bytes, true, true, &where, nullptr);
  Inside inside;
  const Region* r = find(uintptr_t(p));
  if (config().check && r && !r->shared) note_peer_store(*r, p, value, bytes, where);
  std::memcpy(p, value, bytes);
}

bool arrive(uint32_t* counter, uint32_t total, const Where& where) {
  const uint32_t before = atomic(
      counter, [](uint32_t old) { return old + 1; }, where);
  Inside inside;
  auto& arrived = current_launch->arrivals[counter];
  if (!arrived.try_emplace(block->serial, block->epoch).second)
    arrived[block->serial] = block->epoch;
  if (before + 1 < total) return false;
  for (const auto& [serial, epoch] : arrived) {
    uint16_t& until = block->awaited[serial];
    until = std::max(until, epoch);
  }
  arrived.clear();
  *counter = 0;
  return true;
}

}  // namespace emu

// --- what g++ calls in code compiled with -fsanitize=thread ---

// `alignment` is what g++ promises of the address: of sixteen bytes, eight. What it knows to be
// less is a call of its own, and no single access of a device.
#define EMU_HOOK(name, n, alignment, write)                                     \
  extern "C" void name(void* p) {                                               \
    if (!emu::hooks_on) return;                                                 \
    const void* pc = __builtin_return_address(0);                               \
    if (uintptr_t(p) % (alignment) != 0)                                        \
      emu::check_alignment(p, alignment, emu::access_name(write), nullptr, pc); \
    emu::check_kernel_access(p, n, write, false, nullptr, pc);                  \
  }
#define EMU_HOOKS(n)                                            \
  EMU_HOOK(__tsan_read##n, n, (n < 16 ? n : 8), false)          \
  EMU_HOOK(__tsan_write##n, n, (n < 16 ? n : 8), true)          \
  EMU_HOOK(__tsan_unaligned_read##n, n, 1, false)               \
  EMU_HOOK(__tsan_unaligned_write##n, n, 1, true)               \
  EMU_HOOK(__tsan_volatile_read##n, n, (n < 16 ? n : 8), false) \
  EMU_HOOK(__tsan_volatile_write##n, n, (n < 16 ? n : 8), true)
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)
extern "C" {
void __tsan_read_range(void* p, size_t n) {
  if (emu::hooks_on)
    emu::check_kernel_access(p, n, false, false, nullptr, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t n) {
  if (emu::hooks_on)
    emu::check_kernel_access(p, n, true, false, nullptr, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
// Host code in an instrumented file (a test's counters, the guards of local statics).
uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_load(const volatile uint32_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_fetch_add(volatile uint32_t* p, uint32_t v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
