#include "engine/output_text.h"

#include <algorithm>
#include <utility>

namespace nemotron {

ByteMatcher::ByteMatcher(std::string pattern)
    : pattern_(std::move(pattern)), failure_(pattern_.size(), 0) {
  for (size_t i = 1, k = 0; i < pattern_.size(); ++i) {
    while (k > 0 && pattern_[i] != pattern_[k]) k = failure_[k - 1];
    if (pattern_[i] == pattern_[k]) ++k;
    failure_[i] = uint32_t(k);
  }
}

bool ByteMatcher::push(uint8_t byte) {
  while (state_ > 0 && uint8_t(pattern_[state_]) != byte) state_ = failure_[state_ - 1];
  if (uint8_t(pattern_[state_]) == byte) ++state_;
  if (state_ < pattern_.size()) return false;
  state_ = failure_[state_ - 1];
  return true;
}

void Utf8Filter::push(uint8_t byte, std::string* out) {
  if (needed_ > 0) {
    if (byte >= low_ && byte <= high_) {
      low_ = 0x80, high_ = 0xBF;
      if (--needed_ > 0) {
        held_[size_++] = byte;
        return;
      }
      out->append(reinterpret_cast<const char*>(held_), size_);
      out->push_back(char(byte));
      size_ = 0;
      return;
    }
    finish(out);  // the scalar broke off; this byte starts anew
  }
  if (byte < 0x80) {
    out->push_back(char(byte));
  } else if (byte >= 0xC2 && byte <= 0xF4) {
    needed_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    // No overlong forms, no surrogates, nothing beyond U+10FFFF.
    if (byte == 0xE0) low_ = 0xA0;
    if (byte == 0xED) high_ = 0x9F;
    if (byte == 0xF0) low_ = 0x90;
    if (byte == 0xF4) high_ = 0x8F;
    held_[size_++] = byte;
  } else {
    out->append("\xEF\xBF\xBD");
  }
}

void Utf8Filter::finish(std::string* out) {
  if (needed_ > 0) out->append("\xEF\xBF\xBD");
  size_ = needed_ = 0;
  low_ = 0x80, high_ = 0xBF;
}

namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::string_view kBlank = " \t\n\r\v\f";

}  // namespace

OutputText::OutputText(std::span<const std::string> stop, bool include_stop, StopScope scope)
    : stops_(stop.begin(), stop.end()), include_stop_(include_stop) {
  constexpr Place kPlaces[] = {Place::answer, Place::gap, Place::thinking, Place::opening};
  place_ = kPlaces[size_t(scope)];
}

void OutputText::emit(size_t bytes, std::string* out) {
  for (size_t i = 0; i < bytes; ++i) utf8_.push(uint8_t(held_[i]), out);
  held_.erase(0, bytes);
}

int32_t OutputText::push(std::string_view bytes, bool may_stop, std::string* out) {
  if (stops_.empty() && place_ == Place::answer) {
    for (const char c : bytes) utf8_.push(uint8_t(c), out);
    return -1;
  }
  for (const char c : bytes) {
    const int32_t stop = take(c, may_stop, out);
    if (stop >= 0) return stop;
  }
  return -1;
}

bool OutputText::is_answer(std::string_view bytes) const {
  if (place_ == Place::answer) return true;
  if (place_ == Place::thinking) return false;
  const std::string text = opening_ + std::string(bytes);
  const size_t from = text.find_first_not_of(kBlank);
  if (from == text.npos) return false;
  const std::string_view body = std::string_view(text).substr(from);
  return place_ == Place::gap || !(kOpen.starts_with(body) || body.starts_with(kOpen));
}

int32_t OutputText::take(char c, bool may_stop, std::string* out) {
  if (place_ == Place::opening) return open(c, may_stop, out);
  if (place_ == Place::gap && kBlank.find(c) == kBlank.npos) place_ = Place::answer;
  if (place_ == Place::answer) return match(c, may_stop, out);
  utf8_.push(uint8_t(c), out);
  if (place_ == Place::thinking && close_.push(uint8_t(c))) place_ = Place::gap;
  return -1;
}

int32_t OutputText::open(char c, bool may_stop, std::string* out) {
  opening_.push_back(c);
  const size_t from = std::min(opening_.find_first_not_of(kBlank), opening_.size());
  const std::string_view body = std::string_view(opening_).substr(from);
  if (kOpen.starts_with(body) && body != kOpen) return -1;
  place_ = body == kOpen ? Place::thinking : Place::answer;
  const std::string known = std::exchange(opening_, {});
  for (const char k : known) {
    if (place_ == Place::thinking) {
      utf8_.push(uint8_t(k), out);
    } else if (const int32_t stop = match(k, may_stop, out); stop >= 0) {
      return stop;
    }
  }
  return -1;
}

int32_t OutputText::match(char c, bool may_stop, std::string* out) {
  held_.push_back(c);
  int32_t ended_by = -1;
  size_t partial = 0;
  for (size_t i = 0; i < stops_.size(); ++i) {
    const bool ended = stops_[i].push(uint8_t(c));
    partial = std::max(partial, stops_[i].partial());
    if (ended && (ended_by < 0 || stops_[i].size() > stops_[size_t(ended_by)].size())) {
      ended_by = int32_t(i);
    }
  }
  if (ended_by >= 0 && may_stop) {
    emit(held_.size() - (include_stop_ ? 0 : stops_[size_t(ended_by)].size()), out);
    held_.clear();
    utf8_.finish(out);
    return ended_by;
  }
  emit(held_.size() - partial, out);
  return -1;
}

void OutputText::finish(Part part, std::string* out) {
  for (const char c : std::exchange(opening_, {})) utf8_.push(uint8_t(c), out);
  emit(held_.size(), out);
  if (part == Part::replaced) utf8_.finish(out);
}

}  // namespace nemotron
