#include "napi/pack.h"

#include <string_view>

namespace nemotron {
namespace {

// Length of well-formed UTF-8 as JavaScript counts it.
double utf16_length(std::string_view text) {
  size_t units = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    units += (byte & 0xc0) != 0x80;
    units += byte >= 0xf0;
  }
  return double(units);
}

void add_logprobs(const std::vector<TokenLogprob>& entries, std::vector<double>* words) {
  for (const TokenLogprob& entry : entries) {
    words->insert(words->end(), {double(entry.id), double(entry.logprob), double(entry.rank),
                                 double(entry.top.size())});
    for (const auto& [id, logprob] : entry.top) {
      words->insert(words->end(), {double(id), double(logprob)});
    }
  }
}

}  // namespace

void pack_deltas(const std::vector<Delta>& deltas, PackedDeltas* out) {
  std::vector<double>& words = out->words;
  words.clear();
  out->text.clear();
  for (const Delta& delta : deltas) {
    const std::string& error = delta.error.message();
    words.insert(
        words.end(),
        {double(delta.request), double(delta.choice), double(delta.finish),
         utf16_length(delta.text), double(delta.ids.size()), double(delta.logprobs.size()),
         double(delta.prompt_logprobs.size()), double(delta.scores.size()), double(delta.stop_id),
         double(delta.stop_index), double(delta.error.code()), utf16_length(error)});
    if (delta.finish != Finish::none) {
      const Timings& t = delta.timings;
      words.insert(words.end(),
                   {t.queue, t.prefill, t.decode, double(t.cached_tokens), double(t.preemptions),
                    double(t.drafted_tokens), double(t.accepted_tokens), double(delta.miss.reason),
                    double(delta.miss.position)});
    }
    words.insert(words.end(), delta.ids.begin(), delta.ids.end());
    add_logprobs(delta.logprobs, &words);
    add_logprobs(delta.prompt_logprobs, &words);
    words.insert(words.end(), delta.scores.begin(), delta.scores.end());
    out->text += delta.text;
    out->text += error;
  }
}

}  // namespace nemotron
