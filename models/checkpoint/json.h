// Json: a strict reader for the small documents of a checkpoint (config.json, safetensors headers).
// RFC 8259 and nothing more: no comments, no trailing commas, no NaN, one document, valid UTF-8.
// Bounded: hostile input costs an error, never the stack or the memory. A duplicate key is an
// error. Json is a plain value; whoever parsed it owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "device/status.h"

namespace nemotron {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // in the document's order

  struct Limits {
    size_t bytes = size_t(16) << 20;
    size_t values = size_t(1) << 20;  // of all kinds, nested ones included
    int depth = 64;
  };

  // Errors say line, column, what was expected and what was found.
  static Status parse(std::string_view text, const Limits& limits, Json* out);
  static Status parse(std::string_view text, Json* out) { return parse(text, Limits{}, out); }

  Json() = default;  // null
  explicit Json(bool v) : value_(v) {}
  explicit Json(int64_t v) : value_(v) {}
  explicit Json(double v) : value_(v) {}
  explicit Json(std::string v) : value_(std::move(v)) {}
  explicit Json(Array v) : value_(std::move(v)) {}
  explicit Json(Object v) : value_(std::move(v)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  // Null pointer: the value is of another kind. An integer is a number without fraction or exponent
  // that fits 64 bits; it also reads as a double.
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&value_); }
  bool number(double* out) const;
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }

  // Member of an object; null pointer: no such member, or not an object.
  const Json* find(std::string_view key) const;

  // For messages: `"abc"`, `12`, `an array`; long strings are cut.
  std::string brief() const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

}  // namespace nemotron
