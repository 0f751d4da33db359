// JsonFields: the members of one JSON object, read with their ranges. Remembers the first failure,
// so that a reader asks for everything and looks at status() once. A null member counts as absent.
// Refers to the object; one thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "models/checkpoint/json.h"

namespace nemotron {

class JsonFields {
 public:
  // `where` opens every message: "dir/config.json" or "dir/config.json: rope_scaling".
  JsonFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.object()) fail("found " + object.brief() + ", expected an object");
  }

  const Json* find(const char* name) const;  // null pointer: absent or null
  // Without a fallback the member must be there.
  int32_t integer(const char* name, int64_t low, int64_t high,
                  std::optional<int64_t> fallback = {});
  double real(const char* name, double low, double high, std::optional<double> fallback = {});
  std::vector<double> reals(const char* name, double low, double high);  // a list
  bool boolean(const char* name, bool fallback);
  std::string text(const char* name, const char* fallback);
  std::vector<std::string> texts(const char* name);  // absent: empty

  // Refuses what is none of `served`; absent: the first of them.
  void only(const char* name, std::initializer_list<const char*> served);
  // Refuses the object: what it says is well-formed but not served.
  void unsupported(const std::string& what);
  void fail(const std::string& what);
  // For a nested object.
  std::string inside(const char* name) const { return where_ + ": " + name; }
  const Status& status() const { return status_; }
  void adopt(const Status& s) {
    if (status_.ok()) status_ = s;
  }

 private:
  void wrong(const char* name, const std::string& expected);
  const Json& object_;
  std::string where_;
  Status status_;
};

}  // namespace nemotron
