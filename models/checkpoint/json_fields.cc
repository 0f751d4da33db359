#include "models/checkpoint/json_fields.h"

#include <cstdio>

namespace nemotron {
namespace {

std::string shown(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", v);
  return text;
}

}  // namespace

const Json* JsonFields::find(const char* name) const {
  const Json* v = object_.find(name);
  return v && !v->is_null() ? v : nullptr;
}

void JsonFields::fail(const std::string& what) { adopt(Status::invalid(where_ + ": " + what)); }

void JsonFields::unsupported(const std::string& what) {
  adopt(Status::unsupported(where_ + ": " + what));
}

void JsonFields::only(const char* name, std::initializer_list<const char*> served) {
  const std::string value = text(name, *served.begin());
  std::string list;
  for (const char* one : served) {
    if (value == one) return;
    list += (list.empty() ? "\"" : ", \"") + std::string(one) + "\"";
  }
  unsupported("\"" + std::string(name) + "\" is " + Json(value).brief() + "; served: " + list);
}

void JsonFields::wrong(const char* name, const std::string& expected) {
  const Json* v = find(name);
  fail("\"" + std::string(name) + "\" is " + (v ? v->brief() : "missing") + "; expected " +
       expected);
}

int32_t JsonFields::integer(const char* name, int64_t low, int64_t high,
                            std::optional<int64_t> fallback) {
  const Json* v = find(name);
  if (!v && fallback) return int32_t(*fallback);
  const int64_t* i = v ? v->integer() : nullptr;
  if (i && *i >= low && *i <= high) return int32_t(*i);
  wrong(name, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
  return int32_t(low);
}

double JsonFields::real(const char* name, double low, double high, std::optional<double> fallback) {
  const Json* v = find(name);
  if (!v && fallback) return *fallback;
  double d = 0;
  if (v && v->number(&d) && d >= low && d <= high) return d;
  wrong(name, "a number from " + shown(low) + " to " + shown(high));
  return low;
}

std::vector<double> JsonFields::reals(const char* name, double low, double high) {
  const Json* v = find(name);
  std::vector<double> all;
  double d = 0;
  for (const Json& item : v && v->array() ? *v->array() : Json::Array()) {
    if (item.number(&d) && d >= low && d <= high) all.push_back(d);
  }
  if (v && v->array() && all.size() == v->array()->size()) return all;
  wrong(name, "an array of numbers from " + shown(low) + " to " + shown(high));
  return {};
}

bool JsonFields::boolean(const char* name, bool fallback) {
  const Json* v = find(name);
  if (!v) return fallback;
  if (const bool* b = v->boolean()) return *b;
  wrong(name, "true or false");
  return fallback;
}

std::string JsonFields::text(const char* name, const char* fallback) {
  const Json* v = find(name);
  if (!v) return fallback;
  if (const std::string* s = v->string()) return *s;
  wrong(name, "a string");
  return fallback;
}

std::vector<std::string> JsonFields::texts(const char* name) {
  const Json* v = find(name);
  if (!v) return {};
  std::vector<std::string> all;
  if (v->array()) {
    for (const Json& item : *v->array()) {
      if (item.string()) all.push_back(*item.string());
    }
    if (all.size() == v->array()->size()) return all;
  }
  wrong(name, "an array of strings");
  return {};
}

}  // namespace nemotron
