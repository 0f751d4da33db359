#include "engine/grammar/grammar.h"

namespace nemotron {

Status too_ambiguous() {
  return Status::invalid(
      "grammar: it is too ambiguous: the ways to read one text multiply without a bound; write it "
      "so "
      "that what comes next tells which part it belongs to");
}

Status Grammar::compile(std::string_view text, std::shared_ptr<const Vocabulary> vocabulary,
                        std::shared_ptr<const Grammar>* out) {
  GrammarTree tree;
  if (Status s = read_grammar(text, &tree); !s) return s;
  const std::shared_ptr<Grammar> grammar(new Grammar());
  if (Status s = Automaton::build(tree, &grammar->automaton_); !s) return s;
  Pushdown probe(&grammar->automaton_, vocabulary->longest());
  probe.start(grammar->automaton_.root_after_lines());
  if (probe.exhausted()) return too_ambiguous();
  grammar->vocabulary_ = std::move(vocabulary);
  *out = grammar;
  return {};
}

const std::shared_ptr<GrammarMemory>& Grammar::memory(size_t most) const {
  if (!memory_ || memory_->bytes() > most) {
    memory_ = std::make_shared<GrammarMemory>(&automaton_, vocabulary_.get());
  }
  return memory_;
}

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar, From from)
    : grammar_(std::move(grammar)), memory_(grammar_->memory()) {
  const Automaton& a = grammar_->automaton();
  memory_->pushdown.renew();
  state_ = memory_->pushdown.start(from == From::root ? a.root() : a.root_after_lines());
}

bool GrammarMatcher::take(std::string_view bytes) {
  memory_->pushdown.renew();
  Pushdown::State state = state_;
  for (const char c : bytes) state = memory_->pushdown.next(state, uint8_t(c));
  set_state(state);
  return !is_dead();
}

void GrammarMatcher::set_state(Pushdown::State state) {
  state_ = memory_->pushdown.settled(state);
  const std::shared_ptr<GrammarMemory>& now = grammar_->memory();
  // Whoever asks whether the work was too much asks this memory.
  if (now == memory_ || memory_->pushdown.exhausted()) return;
  state_ = now->pushdown.import(memory_->pushdown, state_);
  memory_ = now;
}

std::string GrammarMatcher::forced_text(size_t most) const {
  std::string text;
  Pushdown::State state = state_;
  while (text.size() < most && state != Pushdown::kDead) {
    const int32_t byte = memory_->pushdown.only_byte(state);
    if (byte < 0) break;
    text.push_back(char(byte));
    state = memory_->pushdown.next(state, uint8_t(byte));
  }
  return text;
}

}  // namespace nemotron
