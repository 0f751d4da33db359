#include "engine/constraint.h"

#include <algorithm>

namespace nemotron {

using Phase = ConstraintRules::Phase;
using Place = ConstraintRules::Place;

// --- words (Aho and Corasick) ---

WordFinder::WordFinder(std::span<const std::string> words) {
  nodes_.emplace_back();
  for (size_t i = 0; i < words.size(); ++i) {
    uint32_t at = 0;
    for (const char c : words[i]) {
      if (nodes_[at].next[uint8_t(c)] == 0) {
        nodes_[at].next[uint8_t(c)] = uint32_t(nodes_.size());
        nodes_.emplace_back();
      }
      at = nodes_[at].next[uint8_t(c)];
    }
    if (nodes_[at].found < 0) nodes_[at].found = int32_t(i);
  }
  // Breadth first: where a word breaks off, go on with its longest end that begins a word.
  std::vector<uint32_t> order = {0}, back(nodes_.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const uint32_t at = order[i];
    Node& node = nodes_[at];
    if (node.found < 0) node.found = nodes_[back[at]].found;
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t longer = node.next[byte];
      const uint32_t other = at == 0 ? 0 : nodes_[back[at]].next[byte];
      if (longer == 0) {
        node.next[byte] = other;
      } else {
        back[longer] = other;
        order.push_back(longer);
      }
    }
  }
}

// --- rules ---

ConstraintRules::ConstraintRules(const SamplingParams& params, std::span<const int32_t> stop_ids)
    : params_(params), end_ids_(stop_ids.begin(), stop_ids.end()) {
  const auto model = params.grammar->vocabulary().stop_ids();
  end_ids_.insert(end_ids_.end(), model.begin(), model.end());
  std::ranges::sort(end_ids_);
  end_ids_.erase(std::unique(end_ids_.begin(), end_ids_.end()), end_ids_.end());
  const auto tokens = int32_t(params.grammar->vocabulary().num_ids());
  std::erase_if(end_ids_, [&](int32_t id) { return id >= tokens; });  // never drawn
  if (may_think()) think_end_ = WordFinder(std::span(&params.think_end, 1));
  if (has_triggers()) {
    std::vector<std::string> words = params.grammar_after;
    if (may_think()) words.push_back(params.think_begin);
    free_ = WordFinder(words);
  }
}

bool ConstraintRules::is_end(int32_t id) const { return std::ranges::binary_search(end_ids_, id); }

Place ConstraintRules::begin(Pushdown& pushdown) const {
  if (may_think() && params_.think_open) return {.phase = Phase::thinking};
  if (has_triggers()) return {.phase = Phase::free};
  return {.phase = may_think() ? Phase::opening : Phase::grammar,
          .state = pushdown.start(grammar()->automaton().root())};
}

bool ConstraintRules::step(Pushdown& pushdown, Place* place, uint8_t byte) const {
  Place& p = *place;
  switch (p.phase) {
    case Phase::thinking:
      p.at = think_end_.next(p.at, byte);
      if (think_end_.found(p.at) < 0) return true;
      p = has_triggers()
              ? Place{.phase = Phase::free}
              : Place{.state = pushdown.start(grammar()->automaton().root_after_lines())};
      return true;
    case Phase::free: {
      p.at = free_.next(p.at, byte);
      const int32_t found = free_.found(p.at);
      if (found < 0) return true;
      p = size_t(found) == params_.grammar_after.size()
              ? Place{.phase = Phase::thinking}
              : Place{.state = pushdown.start(grammar()->automaton().root())};
      return true;
    }
    case Phase::opening:
      p.state = pushdown.next(p.state, byte);
      if (uint8_t(params_.think_begin[p.at]) != byte) {
        p.phase = Phase::grammar;
        return p.state != Pushdown::kDead;
      }
      if (++p.at == params_.think_begin.size()) p = {.phase = Phase::thinking};
      return true;
    case Phase::grammar: p.state = pushdown.next(p.state, byte); return p.state != Pushdown::kDead;
  }
  return false;
}

const std::vector<uint32_t>& ConstraintRules::mask(Pushdown& pushdown, const Place& place) const {
  if (place.phase == Phase::opening) return last_ = find_mask(pushdown, place);
  const auto [it, is_new] = masks_.try_emplace({place.phase, place.at});
  if (!is_new) return it->second;
  it->second = find_mask(pushdown, place);
  if (!pushdown.exhausted()) return it->second;
  last_ = std::move(it->second);  // a part: not kept
  masks_.erase(it);
  return last_;
}

// Of the words that are looked for.
std::string ConstraintRules::last_bytes(Phase phase) const {
  if (phase == Phase::thinking) return {params_.think_end.back()};
  std::string bytes;
  for (const std::string& word : params_.grammar_after) bytes += word.back();
  if (may_think()) bytes += params_.think_begin.back();
  return bytes;
}

std::vector<uint32_t> ConstraintRules::find_mask(Pushdown& pushdown, const Place& place) const {
  const Vocabulary& vocabulary = grammar()->vocabulary();
  std::vector<uint32_t> mask(vocabulary.words());
  const auto set = [&](int32_t id, bool on) {
    const uint32_t bit = 1u << (id % 32);
    uint32_t& word = mask[size_t(id) / 32];
    word = on ? word | bit : word & ~bit;
  };
  const bool is_free = place.phase != Phase::opening;
  if (is_free) {
    // A text without the last byte of a word ends none, so it leads nowhere else.
    const Vocabulary::Bits bits = vocabulary.without(last_bytes(place.phase));
    mask = bits.ids;
    for (uint32_t text = 0; text < vocabulary.num_texts(); ++text) {
      if (bits.texts[text / 32] >> (text % 32) & 1) continue;
      Place p = place;
      set(vocabulary.id(text), std::ranges::all_of(vocabulary.bytes(text), [&](char c) {
            return step(pushdown, &p, uint8_t(c));
          }));
    }
  } else {
    std::vector<Place> path;
    vocabulary.walk_all(
        place, &path,
        [&](const Place& from, uint8_t byte, Place* to) {
          *to = from;
          return step(pushdown, to, byte);
        },
        [&](uint32_t node, const Place&) {
          for (const int32_t id : vocabulary.tokens(node)) set(id, true);
        });
  }
  for (const auto& [id, bytes] : vocabulary.specials()) {
    Place p = place;
    p.state = Pushdown::kDead;  // control tokens are no text of the grammar
    bool good = is_free || !bytes.empty();
    for (const char c : bytes) good = good && step(pushdown, &p, uint8_t(c));
    set(id, good);
  }
  if (is_free) {
    for (const int32_t id : vocabulary.textless()) set(id, true);
  }
  // The answer may not end before its grammar's text.
  if (!has_triggers()) {
    const bool may_end = place.phase == Phase::opening && pushdown.ends(place.state);
    for (const int32_t id : end_ids_) set(id, may_end);
  }
  return mask;
}

// --- one choice ---

Constraint::Constraint(const ConstraintRules* rules)
    : rules_(rules), matcher_(rules->grammar(), GrammarMatcher::From::root) {
  matcher_.pushdown().renew();
  place_ = rules->begin(matcher_.pushdown());
  matcher_.set_state(place_.state);
}

Place Constraint::place() const {
  Place p = place_;
  p.state = matcher_.state();
  return p;
}

bool Constraint::admits(int32_t id, std::string_view bytes) const {
  matcher_.pushdown().renew();
  const bool may_be_text = place_.phase == Phase::thinking || place_.phase == Phase::free;
  if (ended_ || (!may_be_text && rules_->is_end(id))) {
    return rules_->is_end(id) && (ended_ || matcher_.may_end());
  }
  if (bytes.empty()) return may_be_text;
  Place p = place();
  for (const char c : bytes) {
    if (!rules_->step(matcher_.pushdown(), &p, uint8_t(c))) return false;
  }
  return true;
}

void Constraint::take(int32_t id, std::string_view bytes) {
  if (ended_ || lost_) return;
  const bool in_text = in_grammar() || place_.phase == Phase::opening;
  if (in_text && rules_->is_end(id)) {
    ended_ = true;
    return;
  }
  Place p = place();
  matcher_.pushdown().renew();
  for (const char c : bytes) lost_ = lost_ || !rules_->step(matcher_.pushdown(), &p, uint8_t(c));
  lost_ = is_exhausted() || lost_;
  place_ = p;
  matcher_.set_state(lost_ ? Pushdown::kDead : p.state);
}

bool Constraint::must_end() const { return ended_ || (in_grammar() && matcher_.must_end()); }

bool Constraint::is_exhausted() const {
  if (!matcher_.pushdown().exhausted()) return false;
  if (!supposed_) rules_->grammar()->set_too_ambiguous();
  return true;
}

void Constraint::write_mask(std::vector<uint32_t>* out) const {
  matcher_.pushdown().renew();
  if (!ended_ && !in_grammar()) {
    *out = rules_->mask(matcher_.pushdown(), place());
    if (is_exhausted()) std::ranges::fill(*out, 0);
    return;
  }
  if (ended_) {
    out->assign(rules_->grammar()->vocabulary().words(), 0);
  } else {
    const auto mask = matcher_.mask();
    out->assign(mask.begin(), mask.end());
  }
  if (is_exhausted()) {
    std::ranges::fill(*out, 0);
    return;
  }
  const bool may_end = ended_ || matcher_.may_end();
  for (const int32_t id : rules_->end_ids()) {
    uint32_t& word = (*out)[size_t(id) / 32];
    word = may_end ? word | 1u << (id % 32) : word & ~(1u << (id % 32));
  }
}

std::string Constraint::forced_text(size_t most) const {
  return in_grammar() && !ended_ ? matcher_.forced_text(most) : std::string();
}

}  // namespace nemotron
