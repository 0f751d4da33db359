// Status: how every layer of the engine reports a failure. A value, never an exception.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace nemotron {

enum class Code : uint8_t {
  ok,
  invalid_argument,  // the caller's input is wrong; the message says which field and what would be
                     // right
  not_found,         // a file or tensor is missing
  unsupported,       // well-formed, but a kind we do not serve
  out_of_memory,     // the message has the bytes needed and the bytes free
  unavailable,       // draining, closed, failed, no driver
  queue_full,        // every place is taken now; the same request may be admitted later
  aborted,           // the caller gave up
  internal,          // device fault or a broken invariant of ours
};

// Empty message when ok. Cheap to pass and to test: `if (Status s = f(); !s) return s;`
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  static Status invalid(std::string m) { return {Code::invalid_argument, std::move(m)}; }
  static Status not_found(std::string m) { return {Code::not_found, std::move(m)}; }
  static Status unsupported(std::string m) { return {Code::unsupported, std::move(m)}; }
  static Status out_of_memory(std::string m) { return {Code::out_of_memory, std::move(m)}; }
  static Status unavailable(std::string m) { return {Code::unavailable, std::move(m)}; }
  static Status queue_full(std::string m) { return {Code::queue_full, std::move(m)}; }
  static Status internal(std::string m) { return {Code::internal, std::move(m)}; }

  explicit operator bool() const noexcept { return code_ == Code::ok; }
  bool ok() const noexcept { return code_ == Code::ok; }
  Code code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  // The same failure seen from one level up: "reading model.safetensors: ...".
  Status within(const std::string& context) const {
    return ok() ? *this : Status(code_, context + ": " + message_);
  }

 private:
  Code code_ = Code::ok;
  std::string message_;
};

}  // namespace nemotron
