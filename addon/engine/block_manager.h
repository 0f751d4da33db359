// BlockManager: who owns which KV block, and the prefix cache.
//
// Every block is either referenced by sequences or in the free list. The free list is in order of
// reuse: blocks without cached content first, then the least recently used cached ones. A cached
// block stays in it, and can be taken back from it in O(1), until it is reused for something else.
//
// A full block's content is found by a hash chained on its parent's hash and then verified: its
// token ids are equal and its parent is the very content that matched before it (by serial number).
// So a hash collision costs a miss and never a wrong hit. The chain's root depends on the request's
// cache salt and on a random key of this process.
//
// Where the device copies blocks, a sequence that begins a block like a cached one gets a copy: of
// one that is full, or of the last part of a prompt or of a sequence that has ended, which serves
// copies alone.
//
// Block tables are append-only while a sequence runs; equal blocks are not merged. Owned and called
// by the engine thread alone, except root(): it reads only the key, so any thread may call it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/sequence.h"

namespace nemotron {

using BlockHash = uint64_t (*)(uint64_t parent, std::span<const int32_t> tokens);
uint64_t hash_block(uint64_t parent, std::span<const int32_t> tokens);

// A process's own, so that nobody can guess which prompts share a hash.
uint64_t random_cache_key();
// The root of the chains of requests with this salt. Any thread.
uint64_t chain_root(uint64_t key, std::string_view salt);

class BlockManager {
 public:
  // `key`: of chain_root(), for all sequences.
  // `copies`: what newcomers share of a block is copied.
  BlockManager(int32_t num_blocks, int32_t block_size, bool prefix_cache,
               uint64_t key = random_cache_key(), BlockHash hash = hash_block, bool copies = false);

  int32_t block_size() const { return block_size_; }
  int32_t num_blocks() const { return int32_t(blocks_.size()); }
  int32_t num_free() const { return num_free_; }
  int32_t num_used() const { return num_blocks() - num_free_; }
  int32_t num_cached() const { return int32_t(by_hash_.size()); }
  int32_t blocks_for(int32_t tokens) const { return (tokens + block_size_ - 1) / block_size_; }

  uint64_t key() const { return key_; }
  // How often the block was taken for new content: while that stays, so do its full tokens.
  uint32_t tenancy(int32_t id) const { return blocks_[size_t(id)].tenancy; }

  // What the cache has of a waiting sequence's known tokens. At least one token is left to compute.
  // REQUIRES: the sequence holds no blocks and has tokens.
  struct Match {
    std::vector<int32_t> blocks;
    int32_t from_free_list = 0;  // how many of them nobody holds now
    int32_t part = -1;           // a block that begins like the one after them
    int32_t part_tokens = 0;     // with so many tokens; 0: none does
    uint64_t promised = 0;       // != 0: running ones that it may wait for compute up to this block
  };
  void match(Sequence& seq, Match* out);
  // Still about to be computed by a running sequence that `seq` may wait for: one that is not in
  // the background does not wait for one that is.
  bool is_promised(const Sequence& seq, uint64_t hash) const;
  // Why `match` ends where it does. Says nothing about what is cached under other salts.
  CacheMiss explain(const Sequence& seq, const Match& match) const;

  // Gives the sequence the matched blocks and new ones for the rest of its known tokens; the first
  // of these counts as computed as far as the part, which is to be copied into it before the rows
  // of the next step. False: not enough free blocks to leave `spare` over; nothing changed.
  // REQUIRES: the sequence holds no blocks; `match` is of it, and nothing was called since.
  bool admit(Sequence& seq, const Match& match, int32_t spare);
  // The sequence's table covers `tokens` positions afterwards. False: nothing changed.
  bool grow(Sequence& seq, int32_t tokens);
  // Offers full blocks of known, computed tokens to the cache. For the steps after the next launch.
  // REQUIRES: the sequence's table covers what it has computed.
  void publish(Sequence& seq);
  // Offers what is computed of the block after these to copies; more may be written behind it.
  void publish_part(Sequence& seq);
  // Gives all blocks back, tail first, so that a chain loses its end first.
  void release(Sequence& seq);
  // The content of the sequence's blocks is not to be trusted: takes them out of the cache.
  void forget(Sequence& seq);

  // Nothing that was computed serves anybody any more. REQUIRES: no sequence holds blocks.
  void drop_cache();

  // Recomputes everything from the tables of the live sequences. Empty: all is well.
  std::string check_invariants(std::span<const Sequence* const> live) const;

 private:
  struct Block {
    int32_t references = 0;
    int32_t prev = -1, next = -1;                  // in the free list
    int32_t sibling_prev = -1, sibling_next = -1;  // cached blocks with the same parent
    uint64_t serial = 0;                           // of its cached content; 0: none
    int32_t tokens = 0;   // of that content; fewer than block_size: a part, found among siblings
    uint64_t parent = 0;  // serial of the content before it, or the chain's root
    uint64_t hash = 0;
    uint32_t tenancy = 0;
  };

  int32_t take_free();
  void unlink(int32_t id);
  void reference(int32_t id);
  void dereference(int32_t id);
  void cache(int32_t id, uint64_t hash, uint64_t parent, std::span<const int32_t> tokens);
  void add_child(int32_t id, uint64_t parent, std::span<const int32_t> tokens);
  void uncache(int32_t id);
  void drop_part();
  void match_part(const Sequence& seq, uint64_t parent, Match* out) const;
  int32_t find(uint64_t hash, uint64_t parent, std::span<const int32_t> tokens) const;
  void extend_hashes(Sequence& seq) const;
  void promise(const Sequence& seq, uint64_t hash);
  void keep_promise(const Sequence& seq, uint64_t hash);
  void remember_evicted(uint64_t hash);
  std::span<const int32_t> tokens_of(int32_t id) const;

  const int32_t block_size_;
  const bool prefix_cache_, copies_;
  const BlockHash hash_;
  const uint64_t key_;
  std::vector<Block> blocks_;
  std::vector<int32_t> tokens_;  // [num_blocks, block_size] of the cached contents
  int32_t head_ = -1, tail_ = -1, num_free_ = 0;
  uint64_t last_serial_ = 0;
  std::unordered_map<uint64_t, int32_t> by_hash_;
  std::unordered_map<uint64_t, int32_t> first_child_;  // parent serial -> a cached block
  // How many running sequences will compute it; the second: of those in the background.
  using Promises = std::array<std::unordered_map<uint64_t, int32_t>, 2>;
  Promises promised_;
  std::deque<std::pair<int32_t, uint64_t>> parts_;  // block and serial of each, the oldest first
  // The last evicted hashes, bounded: a ring and its index.
  std::vector<uint64_t> evicted_ring_;
  size_t evicted_next_ = 0;
  std::unordered_multiset<uint64_t> evicted_;
};

}  // namespace nemotron
