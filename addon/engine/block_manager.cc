#include "engine/block_manager.h"

#include <algorithm>
#include <random>

#include "device/assert.h"

namespace nemotron {
namespace {

constexpr size_t kMinEvictedRemembered = 1024;
constexpr int kMaxSiblingsCompared = 64;
constexpr size_t kPartShare = 16;                 // at most that part of the blocks keeps parts
constexpr uint64_t kRootBit = uint64_t(1) << 63;  // serials count up from 1 and never reach it

// The finaliser of SplitMix64: every bit of x decides over every bit of the result.
uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t hash_block(uint64_t parent, std::span<const int32_t> tokens) {
  uint64_t h = parent;
  for (const int32_t id : tokens) h = scramble(h + 0x9E3779B97F4A7C15u + uint32_t(id));
  return h | 1;  // never 0
}

uint64_t random_cache_key() {
  std::random_device random;
  return (uint64_t(random()) << 32) | random();
}

uint64_t chain_root(uint64_t key, std::string_view salt) {
  uint64_t h = scramble(key + salt.size());
  for (const char c : salt) h = scramble(h + 0x9E3779B97F4A7C15u + uint8_t(c));
  return h | kRootBit;
}

BlockManager::BlockManager(int32_t num_blocks, int32_t block_size, bool prefix_cache, uint64_t key,
                           BlockHash hash, bool copies)
    : block_size_(block_size),
      prefix_cache_(prefix_cache),
      copies_(copies && prefix_cache),
      hash_(hash),
      key_(key),
      blocks_(size_t(num_blocks)),
      tokens_(prefix_cache ? size_t(num_blocks) * size_t(block_size) : 0),
      evicted_ring_(std::max(kMinEvictedRemembered, size_t(num_blocks))) {
  for (int32_t id = 0; id < num_blocks; ++id) {
    Block& b = blocks_[size_t(id)];
    b.prev = id - 1;
    b.next = id + 1 < num_blocks ? id + 1 : -1;
  }
  head_ = num_blocks > 0 ? 0 : -1;
  tail_ = num_blocks - 1;
  num_free_ = num_blocks;
}

// --- the free list ---

void BlockManager::unlink(int32_t id) {
  Block& b = blocks_[size_t(id)];
  (b.prev >= 0 ? blocks_[size_t(b.prev)].next : head_) = b.next;
  (b.next >= 0 ? blocks_[size_t(b.next)].prev : tail_) = b.prev;
  b.prev = b.next = -1;
  --num_free_;
}

int32_t BlockManager::take_free() {
  NEMOTRON_ASSERT(num_free_ > 0);
  const int32_t id = head_;
  unlink(id);
  Block& b = blocks_[size_t(id)];
  if (b.serial != 0) {
    if (b.tokens == block_size_) remember_evicted(b.hash);
    uncache(id);
  }
  b.references = 1;
  ++b.tenancy;
  return id;
}

void BlockManager::reference(int32_t id) {
  if (blocks_[size_t(id)].references++ == 0) unlink(id);
}

void BlockManager::dereference(int32_t id) {
  Block& b = blocks_[size_t(id)];
  NEMOTRON_ASSERT(b.references > 0);
  if (--b.references > 0) return;
  ++num_free_;
  if (b.serial != 0) {  // cached: reused last
    b.prev = tail_;
    (tail_ >= 0 ? blocks_[size_t(tail_)].next : head_) = id;
    tail_ = id;
  } else {
    b.next = head_;
    (head_ >= 0 ? blocks_[size_t(head_)].prev : tail_) = id;
    head_ = id;
  }
}

// --- the cache ---

std::span<const int32_t> BlockManager::tokens_of(int32_t id) const {
  return std::span(tokens_).subspan(size_t(id) * size_t(block_size_),
                                    size_t(blocks_[size_t(id)].tokens));
}

void BlockManager::cache(int32_t id, uint64_t hash, uint64_t parent,
                         std::span<const int32_t> tokens) {
  blocks_[size_t(id)].hash = hash;
  by_hash_[hash] = id;
  add_child(id, parent, tokens);
}

void BlockManager::add_child(int32_t id, uint64_t parent, std::span<const int32_t> tokens) {
  Block& b = blocks_[size_t(id)];
  b.serial = ++last_serial_;
  b.parent = parent;
  b.tokens = int32_t(tokens.size());
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + int64_t(id) * block_size_);
  const auto [first, is_new] = first_child_.try_emplace(parent, id);
  if (!is_new) {
    b.sibling_next = first->second;
    blocks_[size_t(first->second)].sibling_prev = id;
    first->second = id;
  }
}

void BlockManager::uncache(int32_t id) {
  Block& b = blocks_[size_t(id)];
  if (b.tokens == block_size_) by_hash_.erase(b.hash);
  if (b.sibling_next >= 0) blocks_[size_t(b.sibling_next)].sibling_prev = b.sibling_prev;
  if (b.sibling_prev >= 0) {
    blocks_[size_t(b.sibling_prev)].sibling_next = b.sibling_next;
  } else if (b.sibling_next >= 0) {
    first_child_[b.parent] = b.sibling_next;
  } else {
    first_child_.erase(b.parent);
  }
  b.sibling_prev = b.sibling_next = -1;
  b.serial = 0;
}

int32_t BlockManager::find(uint64_t hash, uint64_t parent, std::span<const int32_t> tokens) const {
  const auto it = by_hash_.find(hash);
  if (it == by_hash_.end() || blocks_[size_t(it->second)].parent != parent) return -1;
  return std::ranges::equal(tokens_of(it->second), tokens) ? it->second : -1;
}

void BlockManager::extend_hashes(Sequence& seq) const {
  const size_t full = seq.tokens.size() / size_t(block_size_);
  const auto block = [&](size_t i) {
    return std::span(seq.tokens).subspan(i * size_t(block_size_), size_t(block_size_));
  };
  while (seq.prefix.hashes.size() < full) {
    const uint64_t parent = seq.prefix.hashes.empty() ? seq.prefix.root : seq.prefix.hashes.back();
    seq.prefix.hashes.push_back(hash_(parent, block(seq.prefix.hashes.size())));
  }
}

void BlockManager::promise(const Sequence& seq, uint64_t hash) {
  ++promised_[seq.background ? 1 : 0][hash];
}

void BlockManager::keep_promise(const Sequence& seq, uint64_t hash) {
  auto& promised = promised_[seq.background ? 1 : 0];
  const auto it = promised.find(hash);
  NEMOTRON_ASSERT(it != promised.end());
  if (--it->second == 0) promised.erase(it);
}

void BlockManager::remember_evicted(uint64_t hash) {
  uint64_t& oldest = evicted_ring_[evicted_next_++ % evicted_ring_.size()];
  if (const auto it = evicted_.find(oldest); oldest != 0 && it != evicted_.end())
    evicted_.erase(it);
  oldest = hash;
  evicted_.insert(hash);
}

// --- sequences ---

void BlockManager::match(Sequence& seq, Match* out) {
  out->blocks.clear();
  out->from_free_list = 0;
  out->promised = 0;
  out->part = -1, out->part_tokens = 0;
  NEMOTRON_ASSERT(seq.prefix.block_table.empty() && !seq.tokens.empty());
  if (!prefix_cache_) return;
  extend_hashes(seq);
  if (!seq.prefix.may_match) return;
  const size_t limit = (seq.tokens.size() - 1) / size_t(block_size_);
  uint64_t parent = seq.prefix.root;
  for (size_t i = 0; i < limit; ++i) {
    const int32_t id =
        find(seq.prefix.hashes[i], parent,
             std::span(seq.tokens).subspan(i * size_t(block_size_), size_t(block_size_)));
    if (id < 0) {
      for (; i < limit && is_promised(seq, seq.prefix.hashes[i]); ++i)
        out->promised = seq.prefix.hashes[i];
      break;
    }
    const Block& b = blocks_[size_t(id)];
    out->blocks.push_back(id);
    out->from_free_list += b.references == 0;
    parent = b.serial;
  }
  if (copies_ && out->promised == 0) match_part(seq, parent, out);
}

// The longest agreement with what is cached after the same parent.
void BlockManager::match_part(const Sequence& seq, uint64_t parent, Match* out) const {
  const size_t begin = out->blocks.size() * size_t(block_size_);
  const auto wanted =
      std::span(seq.tokens)
          .subspan(begin, std::min(size_t(block_size_), seq.tokens.size() - 1 - begin));
  const auto first = first_child_.find(parent);
  int32_t id = first == first_child_.end() ? -1 : first->second;
  for (int n = 0; id >= 0 && n < kMaxSiblingsCompared; ++n) {
    const auto cached = tokens_of(id);
    const auto common = int32_t(std::ranges::mismatch(cached, wanted).in1 - cached.begin());
    if (common > out->part_tokens) out->part = id, out->part_tokens = common;
    id = blocks_[size_t(id)].sibling_next;
  }
}

bool BlockManager::is_promised(const Sequence& seq, uint64_t hash) const {
  return promised_[0].contains(hash) || (seq.background && promised_[1].contains(hash));
}

CacheMiss BlockManager::explain(const Sequence& seq, const Match& match) const {
  using Reason = CacheMiss::Reason;
  const size_t hits = match.blocks.size(), full = size_t(seq.num_prompt / block_size_);
  CacheMiss miss{Reason::none, int32_t(hits) * block_size_ + match.part_tokens};
  if (!prefix_cache_ || !seq.prefix.may_match || hits >= full) return miss;
  const uint64_t parent = hits > 0 ? blocks_[size_t(match.blocks.back())].serial : seq.prefix.root;
  const auto wanted =
      std::span(seq.tokens).subspan(hits * size_t(block_size_), size_t(block_size_));
  const uint64_t hash = seq.prefix.hashes[hits];
  if (find(hash, parent, wanted) >= 0) {
    miss.reason = Reason::last_token;
  } else if (evicted_.contains(hash)) {
    miss.reason = Reason::evicted;
  } else {
    miss.reason = Reason::never_seen;
    // The longest agreement with what was cached after the same parent.
    std::ptrdiff_t common = 0;
    const auto first = first_child_.find(parent);
    int32_t id = first == first_child_.end() ? -1 : first->second;
    for (int n = 0; id >= 0 && n < kMaxSiblingsCompared; ++n) {
      const auto cached = tokens_of(id);
      common = std::max(common, std::ranges::mismatch(cached, wanted).in1 - cached.begin());
      id = blocks_[size_t(id)].sibling_next;
    }
    miss.position = int32_t(hits) * block_size_ + int32_t(common);
  }
  return miss;
}

bool BlockManager::admit(Sequence& seq, const Match& match, int32_t spare) {
  const int32_t hits = int32_t(match.blocks.size());
  const int32_t fresh = blocks_for(int32_t(seq.tokens.size())) - hits;
  NEMOTRON_ASSERT(seq.prefix.block_table.empty() && fresh > 0);
  if (fresh + spare > num_free_ - match.from_free_list) return false;
  for (const int32_t id : match.blocks) {
    reference(id);
    seq.prefix.block_table.push_back(id);
  }
  for (int32_t i = 0; i < fresh; ++i) seq.prefix.block_table.push_back(take_free());
  seq.num_computed = hits * block_size_ + match.part_tokens;
  seq.prefix.published = hits;
  seq.prefix.chain = hits > 0 ? blocks_[size_t(match.blocks.back())].serial : seq.prefix.root;
  seq.prefix.promised_end = hits;
  if (prefix_cache_) {
    for (; size_t(seq.prefix.promised_end) < seq.prefix.hashes.size(); ++seq.prefix.promised_end) {
      promise(seq, seq.prefix.hashes[size_t(seq.prefix.promised_end)]);
    }
  }
  return true;
}

bool BlockManager::grow(Sequence& seq, int32_t tokens) {
  const int32_t fresh = blocks_for(tokens) - int32_t(seq.prefix.block_table.size());
  if (fresh > num_free_) return false;
  for (int32_t i = 0; i < fresh; ++i) seq.prefix.block_table.push_back(take_free());
  return true;
}

void BlockManager::publish(Sequence& seq) {
  const int32_t ready = std::min(seq.num_computed, int32_t(seq.tokens.size())) / block_size_;
  NEMOTRON_ASSERT(ready <= int32_t(seq.prefix.block_table.size()));
  if (!prefix_cache_ || seq.prefix.published >= ready) return;
  extend_hashes(seq);
  for (; seq.prefix.published < ready; ++seq.prefix.published) {
    const size_t i = size_t(seq.prefix.published);
    const uint64_t hash = seq.prefix.hashes[i];
    if (seq.prefix.published < seq.prefix.promised_end) keep_promise(seq, hash);
    const auto tokens = std::span(seq.tokens).subspan(i * size_t(block_size_), size_t(block_size_));
    const int32_t same = find(hash, seq.prefix.chain, tokens);
    if (same >= 0) {  // somebody else's equal block: it stays the one that is found
      seq.prefix.chain = blocks_[size_t(same)].serial;
      continue;
    }
    // Another content with this hash (its parent is gone, or a true collision) gives way.
    if (const auto it = by_hash_.find(hash); it != by_hash_.end()) uncache(it->second);
    const int32_t id = seq.prefix.block_table[i];
    if (blocks_[size_t(id)].serial != 0) uncache(id);  // its part
    cache(id, hash, seq.prefix.chain, tokens);
    seq.prefix.chain = blocks_[size_t(id)].serial;
  }
  seq.prefix.promised_end = std::max(seq.prefix.promised_end, seq.prefix.published);
}

void BlockManager::publish_part(Sequence& seq) {
  if (!copies_ || seq.prefix.block_table.empty()) return;
  publish(seq);
  const int32_t known = std::min(seq.num_computed, int32_t(seq.tokens.size()));
  const int32_t begin = seq.prefix.published * block_size_;
  NEMOTRON_ASSERT(known - begin < block_size_);
  if (known <= begin) return;
  const auto tokens = std::span(seq.tokens).subspan(size_t(begin), size_t(known - begin));
  const auto first = first_child_.find(seq.prefix.chain);
  int32_t id = first == first_child_.end() ? -1 : first->second;
  for (int n = 0; id >= 0 && n < kMaxSiblingsCompared; ++n, id = blocks_[size_t(id)].sibling_next) {
    const auto cached = tokens_of(id);
    if (std::ranges::mismatch(cached, tokens).in2 == tokens.end()) return;  // serves as well
  }
  drop_part();
  const int32_t own = seq.prefix.block_table[size_t(seq.prefix.published)];
  if (blocks_[size_t(own)].serial != 0) uncache(own);  // a shorter part
  add_child(own, seq.prefix.chain, tokens);
  parts_.emplace_back(own, last_serial_);
}

// Parts keep few of the blocks that could hold whole contents: the oldest one goes.
void BlockManager::drop_part() {
  if (parts_.size() < std::max(blocks_.size() / kPartShare, size_t(1))) return;
  const auto [id, serial] = parts_.front();
  parts_.pop_front();
  if (blocks_[size_t(id)].serial != serial) return;  // it has been reused
  uncache(id);
  if (blocks_[size_t(id)].references > 0) return;
  reference(id);
  dereference(id);  // to those that are reused first
}

void BlockManager::release(Sequence& seq) {
  for (; seq.prefix.published < seq.prefix.promised_end; ++seq.prefix.published) {
    keep_promise(seq, seq.prefix.hashes[size_t(seq.prefix.published)]);
  }
  for (auto it = seq.prefix.block_table.rbegin(); it != seq.prefix.block_table.rend(); ++it)
    dereference(*it);
  seq.prefix.block_table.clear();
  seq.prefix.published = seq.prefix.promised_end = 0;
  seq.num_computed = 0;
  seq.drafting.computed = 0;
  seq.drafting.fed.clear();
}

void BlockManager::forget(Sequence& seq) {
  for (const int32_t id : seq.prefix.block_table) {
    if (blocks_[size_t(id)].serial != 0) uncache(id);
  }
}

void BlockManager::drop_cache() {
  for (size_t id = 0; id < blocks_.size(); ++id) {
    NEMOTRON_ASSERT(blocks_[id].references == 0);
    if (blocks_[id].serial != 0) uncache(int32_t(id));
  }
}

std::string BlockManager::check_invariants(std::span<const Sequence* const> live) const {
  std::vector<int32_t> references(blocks_.size());
  Promises promised;
  for (const Sequence* seq : live) {
    for (const int32_t id : seq->prefix.block_table) ++references[size_t(id)];
    for (int32_t i = seq->prefix.published; i < seq->prefix.promised_end; ++i)
      ++promised[seq->background ? 1 : 0][seq->prefix.hashes[size_t(i)]];
    if (int32_t(seq->prefix.block_table.size()) * block_size_ < seq->num_computed) {
      return "a sequence has computed more tokens than its blocks hold";
    }
  }
  if (promised != promised_) return "promised blocks differ from those of the running sequences";

  std::vector<bool> in_list(blocks_.size());
  int32_t listed = 0, previous = -1;
  for (int32_t id = head_; id >= 0; previous = id, id = blocks_[size_t(id)].next) {
    if (in_list[size_t(id)]) return "the free list has a loop at block " + std::to_string(id);
    if (blocks_[size_t(id)].prev != previous)
      return "the free list is torn at " + std::to_string(id);
    in_list[size_t(id)] = true;
    ++listed;
  }
  if (previous != tail_ || listed != num_free_) return "the free list's end or length is wrong";

  size_t cached = 0, children = 0;
  for (size_t id = 0; id < blocks_.size(); ++id) {
    const Block& b = blocks_[id];
    const std::string name = "block " + std::to_string(id);
    if (b.references != references[id]) {
      return name + " has " + std::to_string(b.references) + " references, the tables have " +
             std::to_string(references[id]);
    }
    if (in_list[id] != (b.references == 0)) return name + " is free and referenced, or neither";
    if (b.serial == 0) continue;
    ++children;
    if (b.tokens < block_size_) continue;
    ++cached;
    const auto it = by_hash_.find(b.hash);
    if (it == by_hash_.end() || it->second != int32_t(id)) return name + " is cached and not found";
  }
  if (cached != by_hash_.size()) return "the cache's index has blocks that are not cached";

  size_t found = 0;
  for (const auto& [parent, first] : first_child_) {
    int32_t before = -1;
    for (int32_t id = first; id >= 0; before = id, id = blocks_[size_t(id)].sibling_next) {
      const Block& b = blocks_[size_t(id)];
      if (b.serial == 0 || b.parent != parent || b.sibling_prev != before || ++found > children)
        return "a list of siblings is wrong at block " + std::to_string(id);
    }
  }
  if (found != children) return "a cached block is not among its siblings";
  return {};
}

}  // namespace nemotron
