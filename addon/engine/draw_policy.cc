#include "engine/draw_policy.h"

#include <algorithm>

#include "device/assert.h"
#include "device/random.h"

namespace nemotron {

uint64_t choice_seed(uint64_t seed, int32_t choice) {
  if (choice == 0) return seed;
  const Philox4 r = philox4x32(seed, 0x63686F696365ull, uint64_t(choice));  // "choice"
  return (uint64_t(r.v[0]) << 32) | r.v[1];
}

DrawRules::DrawRules(const SamplingParams& params, std::span<const int32_t> model_stop_ids,
                     int32_t tokens, int32_t vocab) {
  if (!params.ignore_eos) stop_ids.assign(model_stop_ids.begin(), model_stop_ids.end());
  if (!params.grammar) {
    for (const int32_t id : params.stop_token_ids) {
      if (std::ranges::find(stop_ids, id) == stop_ids.end()) answer_stop_ids.push_back(id);
    }
  }
  stop_ids.insert(stop_ids.end(), params.stop_token_ids.begin(), params.stop_token_ids.end());
  std::ranges::sort(stop_ids);
  stop_ids.erase(std::unique(stop_ids.begin(), stop_ids.end()), stop_ids.end());
  mask_words = size_t(vocab + 31) / 32;
  if (params.allowed_ids.empty()) {
    for (int32_t id = tokens; id < vocab; ++id) never.push_back(id);
  } else {
    allowed.assign(mask_words, 0);
    for (const int32_t id : params.allowed_ids) allowed[size_t(id) / 32] |= 1u << (id % 32);
  }
  for (const auto& word : params.bad_words) {
    if (word.size() == 1) never.push_back(word[0]);
  }
  if (params.min_tokens > 0) {
    never_early = never;
    never_early.insert(never_early.end(), stop_ids.begin(), stop_ids.end());
  }
  if (params.grammar) constraint = std::make_shared<ConstraintRules>(params, stop_ids);
}

// --- penalties ---

Penalties::Penalties(const SamplingParams& p, std::span<const int32_t> prompt)
    : active_(p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0) {
  if (p.repetition_penalty == 1) return;  // the other penalties look at the output alone
  for (const int32_t id : prompt) count_of(id).in_prompt = true;
}

TokenCount& Penalties::count_of(int32_t id) {
  const auto [it, is_new] = index_of_.try_emplace(id, int32_t(counts_.size()));
  if (is_new) counts_.push_back({.id = id});
  return counts_[size_t(it->second)];
}

void Penalties::take(int32_t id) {
  if (active_) ++count_of(id).output_count;
}

// --- bad words ---

BadWords::BadWords(std::span<const std::vector<int32_t>> words) : words_(words) {
  for (const auto& word : words) longest_ = std::max(longest_, word.size());
}

void BadWords::take(int32_t id) {
  if (!has_context()) return;
  if (recent_.size() == longest_ - 1) recent_.erase(recent_.begin());
  recent_.push_back(id);
}

void BadWords::append_banned(std::vector<int32_t>* out) const {
  for (const auto& word : words_) {
    const size_t before = word.size() - 1;
    if (before > 0 && before <= recent_.size() &&
        std::equal(word.begin(), word.end() - 1, recent_.end() - int64_t(before))) {
      out->push_back(word.back());
    }
  }
}

// --- thinking ---

ThinkingBudget::ThinkingBudget(const SamplingParams& p)
    : close_(&p.think_close), left_(p.thinking_budget), open_(p.think_open) {
  if (p.thinking_budget < 0) return;
  tags_.emplace_back(p.think_begin);
  tags_.emplace_back(p.think_end);
  close_if_spent();
}

bool ThinkingBudget::may_force(int32_t ahead) const {
  if (tags_.empty()) return false;
  if (closing_ >= 0) return true;
  // One token may open a block, and those after it count.
  return open_ ? ahead >= left_ : ahead > left_;
}

void ThinkingBudget::take(std::string_view bytes) {
  if (tags_.empty()) return;
  if (closing_ >= 0) {
    if (++closing_ < int32_t(close_->size())) return;
    closing_ = -1;
    open_ = false;
    return;
  }
  left_ -= open_;
  for (const char c : bytes) {
    if (tags_[open_].push(uint8_t(c))) open_ = !open_;
  }
  close_if_spent();
}

void ThinkingBudget::close_if_spent() {
  if (open_ && left_ <= 0) closing_ = 0;
}

// --- the whole ---

DrawPolicy::DrawPolicy(const SamplingParams* params, const DrawRules* rules, int32_t choice,
                       std::span<const int32_t> prompt)
    : params_(*params),
      rules_(*rules),
      seed_(choice_seed(params->seed, choice)),
      penalties_(*params, prompt),
      bad_words_(params->bad_words),
      thinking_(*params),
      thinking_after_(thinking_) {}

void DrawPolicy::begin() {
  if (rules_.constraint) constraint_.emplace(rules_.constraint.get());
}

void DrawPolicy::take(int32_t id, std::string_view bytes) {
  ++taken_;
  penalties_.take(id);
  bad_words_.take(id);
  thinking_.take(bytes);
  if (constraint_) constraint_->take(id, bytes);
  after_drafts_.clear();
}

bool DrawPolicy::needs_history(int32_t index) const {
  const int32_t unknown = index - taken_;
  return unknown > 0 && (penalties_.active() || bad_words_.has_context() || constraint_ ||
                         thinking_.may_force(unknown));
}

void DrawPolicy::describe(int32_t index, SampleInput* out) {
  NEMOTRON_ASSERT(index >= taken_ && (index == taken_ || may_draft() || !needs_history(index)));
  const SamplingParams& p = params_;
  out->num_logprobs = p.num_logprobs;
  out->reported = p.logprob_ids;
  out->processed = p.processed_logprobs;
  out->forced = index == taken_ ? thinking_.forced() : -1;
  if (out->forced >= 0) return;
  out->temperature = p.temperature;
  out->top_p = p.top_p;
  out->min_p = p.min_p;
  out->top_k = p.top_k;
  out->repetition_penalty = p.repetition_penalty;
  out->presence_penalty = p.presence_penalty;
  out->frequency_penalty = p.frequency_penalty;
  out->seed = seed_;
  out->counts = penalties_.counts();
  out->bias = p.logit_bias;
  out->allowed = rules_.allowed;
  const std::vector<int32_t>& banned = index < p.min_tokens ? rules_.never_early : rules_.never;
  out->banned = banned;
  if (constraint_) constrain(index - taken_, out);
  if (!bad_words_.has_context()) return;
  banned_.clear();
  bad_words_.append_banned(&banned_);
  if (banned_.empty()) return;
  banned_.insert(banned_.end(), out->banned.begin(), out->banned.end());
  out->banned = banned_;
}

// The draw `ahead` tokens after the next one.
void DrawPolicy::constrain(int32_t ahead, SampleInput* out) {
  const auto at = size_t(ahead);
  NEMOTRON_ASSERT(at <= after_drafts_.size());
  const Constraint& constraint = at == 0 ? *constraint_ : after_drafts_[at - 1];
  if (masks_.size() <= at) masks_.resize(at + 1);
  std::vector<uint32_t>& mask = masks_[at];
  constraint.write_mask(&mask);
  if (constraint.must_end()) {
    out->banned = rules_.never;
  } else {
    for (size_t i = 0; i < std::min(mask.size(), out->allowed.size()); ++i) {
      mask[i] &= out->allowed[i];
    }
  }
  mask.resize(rules_.mask_words);  // ids of the vocabulary's padding stay away
  out->allowed = mask;
}

void DrawPolicy::propose_forced(size_t most, std::vector<int32_t>* out) const {
  out->clear();
  if (!constraint_ || !may_draft()) return;
  // A token has eight bytes at most in the middle of such text; the longest are rare.
  const std::string text = constraint_->forced_text(8 * most);
  rules_.constraint->grammar()->vocabulary().append_longest(text, most, out);
}

bool DrawPolicy::begin_drafts() {
  after_drafts_.clear();
  if (!may_draft() || thinking_.forced() >= 0) return false;
  thinking_after_ = thinking_;
  return true;
}

bool DrawPolicy::add_draft(int32_t id, std::string_view bytes) {
  thinking_after_.take(bytes);
  if (thinking_after_.forced() >= 0) return false;
  if (!constraint_) return true;
  const Constraint& before = after_drafts_.empty() ? *constraint_ : after_drafts_.back();
  if (!before.admits(id, bytes)) return false;
  Constraint after = before;
  after.suppose();
  after.take(id, bytes);
  if (after.is_lost()) return false;
  after_drafts_.push_back(std::move(after));
  return true;
}

int32_t DrawPolicy::draft_limit(std::span<const int32_t> drafts,
                                std::span<const std::string> token_bytes) {
  if (drafts.empty() || !begin_drafts()) return 0;
  int32_t count = 0;
  for (const int32_t id : drafts) {
    if (size_t(id) >= token_bytes.size()) break;  // padding, which a prompt may hold
    if (!add_draft(id, token_bytes[size_t(id)])) break;
    ++count;
  }
  return count;
}

}  // namespace nemotron
