// Pushdown: an Automaton at work: where a text may stand in its grammar, as states that are made
// when they are met and kept, so that a byte is a look-up the second time.
//
// A state is a set of places. A place is a node that takes a byte, and a stack: what goes on when
// the node's body has ended. Stacks are lists that share their ends; an entry is a node to go on
// with, or a counter of turns (what may still come of a repetition). Equal stacks are one stack and
// equal states are one state. A call at the end of a body leaves nothing on the stack.
//
// One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/grammar/automaton.h"

namespace nemotron {

class Pushdown {
 public:
  using State = uint32_t;
  using Stack = uint32_t;
  static constexpr State kDead = 1;    // nothing may come, and the text may not end
  static constexpr Stack kBottom = 0;  // nothing goes on: the text is whole
  struct Place {
    uint32_t node = 0;
    Stack stack = kBottom;
    auto operator<=>(const Place&) const = default;
  };
  // Stacks of one place that a state keeps at most, see settled().
  static constexpr size_t kMaxStacks = 64;
  // Places that may be met between two renew(): tens of milliseconds. What needs more is a grammar
  // in which the ways to read one text multiply.
  static constexpr size_t kMaxWork = 400'000;

  // `longest`: bytes of the longest token.
  Pushdown(const Automaton* automaton, uint32_t longest);

  // Before every piece of work: a token, a mask.
  void renew() {
    work_ = 0;
    exhausted_ = false;
  }
  // kMaxWork has been passed: what was asked since may lack texts, and is not kept.
  bool exhausted() const { return exhausted_; }

  // Before the first byte of what `node` says.
  State start(uint32_t node);
  State next(State state, uint8_t byte) {
    const uint32_t byte_class = automaton_.class_of(byte);
    const State known = nexts_[size_t(state) * classes_ + byte_class];
    return known != 0 ? known : find_next(state, byte_class);
  }
  bool ends(State state) const { return states_[state].ends; }  // the text may end here
  std::span<const Place> places(State state) const {
    const StateData& s = states_[state];
    return std::span(places_).subspan(s.first, s.count);
  }
  // The one byte that may come, where there is but one and the text may not end; else -1.
  int32_t only_byte(State state);

  // For the state after a whole token: an equal state without places that others cover, and with at
  // most kMaxStacks stacks for a node. The latter may leave texts out where a grammar is ambiguous
  // without bounds; every text that is left is still the grammar's.
  State settled(State state);
  // As good as this one for a token: counters that no token can count to the end of are at a limit.
  State clipped(State state);

  // A place, cut in two: what its node does up to the end of its body and of its counters, as a
  // state of its own (it ends where the body does), and the stack that goes on then.
  State local(const Place& place);
  Stack rest(Stack stack) const { return stacks_[stack].rest; }
  // A local state that counts turns of one body, one and two turns later; where it stands behind
  // the last turn, if not at the end; the turns that may come after the first. kDead: it does not
  // count.
  struct Turn {
    State one = kDead, two = kDead, behind = kDead;
    uint32_t room = kUnboundedCount;
  };
  Turn turn(State local);
  // This place alone, with all of its stack.
  State only(const Place& place);
  // Where a text stands when a body with this stack has ended.
  State after(Stack stack);

  // Copies a state of another one of the same automaton.
  State import(const Pushdown& from, State state);

  size_t bytes() const;  // of memory, roughly

 private:
  struct StackData {
    Stack parent = 0;
    uint32_t node = 0;  // to go on with; of a counter: the body
    uint32_t need = 0,
             room = 0;  // turns that must and may come after this one; room kUnboundedCount
    bool counts = false;
    uint64_t hash = 0;  // of the content: the same in every Pushdown
    Stack clipped = 0, local = 0, rest = 0;
    State after = 0;  // 0: not known yet
  };
  struct StateData {
    uint32_t first = 0, count = 0;
    bool ends = false;
    int16_t only_byte = kUnknown;
    State settled = 0, clipped = 0;  // 0: not known yet
  };
  static constexpr int16_t kUnknown = -2;

  // What is at hand while a state is made.
  struct Draft {
    std::vector<Place> open, places;
    bool ends = false;
  };

  State find_next(State state, uint32_t byte_class);
  State close();  // of draft_.open
  State intern(std::vector<Place>* places, bool ends);
  bool visit(const Place& place);
  void enter(uint32_t body, uint32_t need, uint32_t room, Stack stack);
  Stack during(const StackData& turns);
  Stack push(Stack parent, const StackData& entry);
  Stack push_return(Stack parent, uint32_t node);
  Stack push_counter(Stack parent, uint32_t body, uint32_t need, uint32_t room);
  bool covers(Stack a, Stack b) const;
  uint64_t shape(Stack stack) const;

  const Automaton& automaton_;
  const uint32_t classes_, longest_;
  std::vector<StackData> stacks_;
  std::unordered_multimap<uint64_t, Stack> stack_of_;
  std::vector<StateData> states_;
  std::unordered_multimap<uint64_t, State> state_of_;
  std::vector<Place> places_;
  std::vector<State> nexts_;  // [state, class]; 0: not known yet
  Draft draft_;
  size_t work_ = 0;
  bool exhausted_ = false;
  std::vector<uint64_t> seen_;  // open addressing; 0: free
  std::vector<uint32_t> seen_used_;
};

}  // namespace nemotron
