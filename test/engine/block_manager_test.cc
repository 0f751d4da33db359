#include "engine/block_manager.h"

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <set>

#include "../check.h"

namespace nemotron::test {
namespace {

using Ids = std::vector<int32_t>;
using Reason = CacheMiss::Reason;

Sequence sequence(const BlockManager& blocks, Ids tokens, const std::string& salt = "") {
  Sequence s;
  s.tokens = std::move(tokens);
  s.num_prompt = int32_t(s.tokens.size());
  s.prefix.root = chain_root(blocks.key(), salt);
  return s;
}

// Admits, "computes" and publishes everything known; returns the cached tokens and why not more.
std::pair<int32_t, CacheMiss> compute(BlockManager& blocks, Sequence& s) {
  BlockManager::Match match;
  blocks.match(s, &match);
  const CacheMiss miss = blocks.explain(s, match);
  EXPECT(blocks.admit(s, match, 0));
  const int32_t cached = s.num_computed;
  s.num_computed = int32_t(s.tokens.size());
  blocks.publish(s);
  return {cached, miss};
}

Ids range(int32_t from, int32_t to) {
  Ids ids;
  for (int32_t i = from; i < to; ++i) ids.push_back(i);
  return ids;
}
Ids operator+(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(a_prompt_is_found_again_up_to_its_last_token) {
  BlockManager blocks(16, 4, true);
  Sequence a = sequence(blocks, range(0, 12));
  EXPECT_EQ(compute(blocks, a).first, 0);
  Sequence b = sequence(blocks, range(0, 12));
  auto [cached, miss] = compute(blocks, b);  // 12 tokens are cached, one must be computed: 8
  EXPECT_EQ(cached, 8);
  EXPECT(miss.reason == Reason::last_token);
  EXPECT_EQ(miss.position, 8);
  Sequence c = sequence(blocks, range(0, 14));
  std::tie(cached, miss) = compute(blocks, c);
  EXPECT_EQ(cached, 12);
  EXPECT(miss.reason == Reason::none);
  const Sequence* live[] = {&a, &b, &c};
  EXPECT_EQ(blocks.check_invariants(live), "");
  EXPECT_EQ(blocks.num_used(), 3 + 1 + 1);
  for (Sequence* s : {&a, &b, &c}) blocks.release(*s);
  EXPECT_EQ(blocks.num_used(), 0);
  EXPECT_EQ(blocks.num_cached(), 3);
}

TEST(a_miss_is_explained) {
  BlockManager blocks(6, 4, true);
  Sequence a = sequence(blocks, range(0, 12));
  auto [cached, miss] = compute(blocks, a);
  EXPECT(miss.reason == Reason::never_seen);
  EXPECT_EQ(miss.position, 0);
  blocks.release(a);

  Sequence differs = sequence(blocks, range(0, 6) + Ids{99, 7, 8});  // agrees for six tokens
  std::tie(cached, miss) = compute(blocks, differs);
  EXPECT_EQ(cached, 4);
  EXPECT(miss.reason == Reason::never_seen);
  EXPECT_EQ(miss.position, 6);
  blocks.release(differs);

  Sequence salted = sequence(blocks, range(0, 5), "other");
  std::tie(cached, miss) = compute(blocks, salted);
  EXPECT_EQ(cached, 0);
  EXPECT(miss.reason == Reason::never_seen);  // by who has this salt
  EXPECT_EQ(miss.position, 0);
  blocks.release(salted);
  Sequence unsalted = sequence(blocks, range(20, 25));
  compute(blocks, unsalted);
  blocks.release(unsalted);

  Sequence large = sequence(blocks, range(100, 124));  // pushes everything out
  compute(blocks, large);
  blocks.release(large);
  Sequence again = sequence(blocks, range(0, 12));
  std::tie(cached, miss) = compute(blocks, again);
  EXPECT_EQ(cached, 0);
  EXPECT(miss.reason == Reason::evicted);
}

TEST(the_end_of_a_chain_is_evicted_first_and_uncached_blocks_before_it) {
  BlockManager blocks(8, 4, true);
  Sequence old = sequence(blocks, range(0, 18));  // 4 full blocks and a part
  compute(blocks, old);
  blocks.release(old);
  EXPECT_EQ(blocks.num_cached(), 4);
  Sequence other = sequence(blocks, range(50, 65));  // takes the 4 blocks without content
  compute(blocks, other);
  EXPECT_EQ(blocks.num_cached(), 4 + 3);
  EXPECT(blocks.grow(other, 17));  // one more: the end of the old chain
  Sequence again = sequence(blocks, range(0, 18));
  BlockManager::Match match;
  blocks.match(again, &match);
  EXPECT_EQ(match.blocks.size(), 3u);
  EXPECT_EQ(match.from_free_list, 3);
}

TEST(grow_and_admit_change_nothing_when_they_fail) {
  BlockManager blocks(4, 4, true);
  Sequence a = sequence(blocks, range(0, 9));
  compute(blocks, a);
  EXPECT(blocks.grow(a, 12));
  EXPECT(blocks.grow(a, 16));
  EXPECT(!blocks.grow(a, 17));
  EXPECT_EQ(a.prefix.block_table.size(), 4u);
  blocks.release(a);
  Sequence b = sequence(blocks, range(0, 13));
  BlockManager::Match match;
  blocks.match(b, &match);
  EXPECT_EQ(match.blocks.size(), 2u);
  EXPECT(!blocks.admit(b, match, 1));  // the two hits are free blocks too: none to spare
  EXPECT(b.prefix.block_table.empty());
  EXPECT_EQ(blocks.num_free(), 4);
  EXPECT(blocks.admit(b, match, 0));
}

TEST(promises_hold_while_their_maker_runs) {
  BlockManager blocks(16, 4, true);
  BlockManager::Match match;
  Sequence a = sequence(blocks, range(0, 12));
  blocks.match(a, &match);
  blocks.admit(a, match, 0);
  Sequence b = sequence(blocks, range(0, 8) + range(40, 48));
  blocks.match(b, &match);
  EXPECT_NE(match.promised, 0u);
  const uint64_t wanted = match.promised;
  EXPECT(blocks.is_promised(b, wanted));
  a.num_computed = 8;
  blocks.publish(a);
  EXPECT(!blocks.is_promised(b, wanted));
  blocks.match(b, &match);
  EXPECT_EQ(match.blocks.size(), 2u);
  EXPECT_EQ(match.promised, 0u);
  Sequence c = sequence(blocks, range(0, 16));
  blocks.match(c, &match);
  EXPECT_NE(match.promised, 0u);
  blocks.release(a);  // will not compute its last block any more
  EXPECT(!blocks.is_promised(c, match.promised));
}

TEST(only_the_background_waits_for_the_background) {
  BlockManager blocks(16, 4, true);
  BlockManager::Match match;
  Sequence a = sequence(blocks, range(0, 12));
  a.background = true;
  blocks.match(a, &match);
  blocks.admit(a, match, 0);
  Sequence b = sequence(blocks, range(0, 12));
  blocks.match(b, &match);
  EXPECT_EQ(match.promised, 0u);
  b.background = true;
  blocks.match(b, &match);
  EXPECT_NE(match.promised, 0u);
  EXPECT_EQ(blocks.check_invariants(std::array<const Sequence*, 1>{&a}), "");
  blocks.release(a);
  EXPECT(!blocks.is_promised(b, match.promised));
}

TEST(without_a_prefix_cache_nothing_is_found) {
  BlockManager blocks(16, 4, false);
  Sequence a = sequence(blocks, range(0, 12));
  compute(blocks, a);
  Sequence b = sequence(blocks, range(0, 12));
  const auto [cached, miss] = compute(blocks, b);
  EXPECT_EQ(cached, 0);
  EXPECT(miss.reason == Reason::none);
  EXPECT_EQ(blocks.num_cached(), 0);
}

TEST(forgotten_content_is_not_found) {
  BlockManager blocks(16, 4, true);
  Sequence a = sequence(blocks, range(0, 12));
  compute(blocks, a);
  blocks.forget(a);
  blocks.release(a);
  Sequence b = sequence(blocks, range(0, 12));
  EXPECT_EQ(compute(blocks, b).first, 0);
}

// Almost everything collides.
uint64_t weak_hash(uint64_t parent, std::span<const int32_t> tokens) {
  return hash_block(parent, tokens) % 5 + 1;
}

// Random sequences with common beginnings. The model is what every block physically holds: the salt
// and all tokens up to its end. A hit must hold exactly that; a block that is held is never
// rewritten.
class RandomWalk {
 public:
  // complete: the pool is so large that nothing is ever evicted.
  RandomWalk(uint32_t seed, BlockHash hash, bool complete)
      : rng_(seed),
        complete_(complete),
        num_blocks_(complete ? 4000 : int32_t(6 + rng_() % 30)),
        blocks_(num_blocks_, kSize, true, random_cache_key(), hash),
        holds_(static_cast<size_t>(num_blocks_)) {}

  // How many blocks were found.
  int run() {
    for (int turn = 0; turn < 2000; ++turn) {
      step();
      std::vector<const Sequence*> all;
      for (const Live& l : live_) all.push_back(l.seq.get());
      const std::string wrong = blocks_.check_invariants(all);
      if (!wrong.empty()) {
        fail(__FILE__, __LINE__, "turn " + std::to_string(turn) + ": " + wrong);
        return hits_;
      }
    }
    for (const Live& l : live_) blocks_.release(*l.seq);
    EXPECT_EQ(blocks_.num_used(), 0);
    return hits_;
  }

 private:
  static constexpr int32_t kSize = 4;
  struct Held {
    Ids tokens;
    std::string salt;
  };
  struct Live {
    std::unique_ptr<Sequence> seq;
    std::string salt;
  };

  void step() {
    const size_t which = live_.empty() ? 0 : rng_() % live_.size();
    const uint32_t act = rng_() % 6;
    if (act == 0) return admit();
    if (live_.empty()) return;
    if (act <= 2) return compute(live_[which]);
    if (act == 3) return grow(*live_[which].seq);
    if (act == 4) {
      if (rng_() % 2 == 0 && live_.size() <= 12) return;
      blocks_.release(*live_[which].seq);
      live_.erase(live_.begin() + int64_t(which));
    } else if (!complete_ && rng_() % 8 == 0) {
      blocks_.forget(*live_[which].seq);
    }
  }

  void admit() {
    const std::string salt = rng_() % 3 ? "" : "s";
    auto s =
        std::make_unique<Sequence>(sequence(blocks_, part(20) + Ids{int32_t(rng_() % 3)}, salt));
    BlockManager::Match match;
    blocks_.match(*s, &match);
    for (size_t b = 0; b < match.blocks.size(); ++b) {
      const Held& held = holds_[size_t(match.blocks[b])];
      EXPECT(held.tokens == head(*s, int32_t(b + 1) * kSize));
      EXPECT_EQ(held.salt, salt);
      ++hits_;
    }
    if (complete_) {  // nothing was ever evicted: everything published is found
      size_t known = 0;
      while ((known + 1) * kSize < s->tokens.size() &&
             seen_.contains({salt, head(*s, int32_t(known + 1) * kSize)})) {
        ++known;
      }
      EXPECT_EQ(match.blocks.size(), known);
    }
    static_cast<void>(blocks_.explain(*s, match));
    const int32_t need =
        blocks_.blocks_for(int32_t(s->tokens.size())) - int32_t(match.blocks.size());
    const bool fits = need <= blocks_.num_free() - match.from_free_list;
    EXPECT_EQ(blocks_.admit(*s, match, 0), fits);
    if (fits) live_.push_back({std::move(s), salt});
  }

  // Some more of its tokens are computed.
  void compute(Live& l) {
    Sequence& s = *l.seq;
    const int32_t gap = int32_t(s.tokens.size()) - s.num_computed;
    if (gap > 0) write(l, s.num_computed + 1 + int32_t(rng_() % size_t(gap)));
    blocks_.publish(s);
    for (int32_t end = kSize; end <= s.num_computed; end += kSize) {
      seen_.insert({l.salt, head(s, end)});
    }
  }

  // A token more.
  void grow(Sequence& s) {
    const bool fits = int32_t(s.tokens.size()) < int32_t(s.prefix.block_table.size()) * kSize ||
                      blocks_.num_free() > 0;
    EXPECT_EQ(blocks_.grow(s, int32_t(s.tokens.size()) + 1), fits);
    if (fits) s.tokens.push_back(rng_() % 8 == 0);
  }

  void write(Live& l, int32_t end) {
    Sequence& s = *l.seq;
    for (int32_t b = s.num_computed / kSize; b * kSize < end; ++b) {
      const int32_t id = s.prefix.block_table[size_t(b)];
      for (const Live& other : live_) {
        if (other.seq.get() != &s && std::ranges::count(other.seq->prefix.block_table, id)) {
          fail(__FILE__, __LINE__, "a shared block is written to");
        }
      }
      holds_[size_t(id)] = {head(s, std::min(end, (b + 1) * kSize)), l.salt};
    }
    s.num_computed = end;
  }

  Ids part(size_t most) {
    Ids ids;
    for (size_t n = rng_() % most; n > 0; --n) ids.push_back(rng_() % 8 == 0);
    return ids;
  }
  static Ids head(const Sequence& s, int32_t n) {
    return Ids(s.tokens.begin(), s.tokens.begin() + n);
  }

  std::mt19937 rng_;
  bool complete_;
  int32_t num_blocks_;
  BlockManager blocks_;
  std::vector<Held> holds_;  // by block
  std::vector<Live> live_;
  std::set<std::pair<std::string, Ids>> seen_;  // published chains
  int hits_ = 0;
};

int random_walk(uint32_t seed, BlockHash hash, bool complete) {
  return RandomWalk(seed, hash, complete).run();
}

TEST(random_walks_of_the_block_manager) {
  int hits = 0;
  for (uint32_t seed = 1; seed <= 20; ++seed) hits += random_walk(seed, hash_block, false);
  for (uint32_t seed = 1; seed <= 5; ++seed) hits += random_walk(seed, hash_block, true);
  EXPECT_GT(hits, 500);
}

TEST(random_walks_with_colliding_hashes) {
  // Few enough to be sure of: which hashes collide depends on the manager's random root.
  int hits = 0;
  for (uint32_t seed = 1; seed <= 20; ++seed) hits += random_walk(seed, weak_hash, false);
  EXPECT_GT(hits, 300);
}

TEST(a_wrong_reference_count_is_noticed) {
  BlockManager blocks(8, 4, true);
  Sequence a = sequence(blocks, range(0, 12));
  compute(blocks, a);
  EXPECT_NE(blocks.check_invariants({}), "");  // nobody holds what is counted as held
  const Sequence* live[] = {&a};
  EXPECT_EQ(blocks.check_invariants(live), "");
  a.prefix.block_table.push_back(a.prefix.block_table[0]);
  EXPECT_NE(blocks.check_invariants(live), "");
}

}  // namespace
}  // namespace nemotron::test
