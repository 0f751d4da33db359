// JsFields: reads one JavaScript object field by field into C++ values, and says what is wrong with
// the first one that is. Node's thread; lives no longer than the call it is used in.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/status.h"

namespace nemotron {

// A missing or undefined field leaves *out as it is. `prefix` goes before the field's name in
// messages.
class JsFields {
 public:
  JsFields(const Napi::Object& object, std::string prefix)
      : object_(object), prefix_(std::move(prefix)) {}

  const Status& status() const { return status_; }

  template <class T>
  void number(const char* key, T* out) {
    Napi::Value value;
    if (!get(key, &value)) return;
    const double x = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
    if constexpr (std::is_floating_point_v<T>) {
      if (!std::isfinite(x)) return wrong(key, "a finite number", value);
    } else {
      // 2^53 - 1: beyond it a double is no exact integer.
      const double lowest = std::is_unsigned_v<T> ? 0.0
                            : sizeof(T) > 4       ? -9007199254740991.0
                                                  : double(std::numeric_limits<T>::min());
      const double highest =
          sizeof(T) > 4 ? 9007199254740991.0 : double(std::numeric_limits<T>::max());
      if (!(x >= lowest && x <= highest) || x != std::floor(x)) {
        return wrong(key, "an integer", value);
      }
    }
    *out = static_cast<T>(x);
  }

  void boolean(const char* key, bool* out) {
    Napi::Value value;
    if (!get(key, &value)) return;
    if (!value.IsBoolean()) return wrong(key, "a boolean", value);
    *out = value.As<Napi::Boolean>().Value();
  }

  void string(const char* key, std::string* out) {
    Napi::Value value;
    if (!get(key, &value)) return;
    if (!value.IsString()) return wrong(key, "a string", value);
    *out = value.As<Napi::String>().Utf8Value();
  }

  void bigint(const char* key, uint64_t* out) {
    Napi::Value value;
    if (!get(key, &value)) return;
    if (!value.IsBigInt()) return wrong(key, "a bigint", value);
    bool lossless = false;
    *out = value.As<Napi::BigInt>().Uint64Value(&lossless);
    if (!lossless) wrong(key, "a bigint of 64 bits", value);
  }

  void ids(const char* key, std::vector<int32_t>* out) {
    Napi::Value value;
    if (!get(key, &value)) return;
    read_ids(key, value, out);
  }

  void strings(const char* key, std::vector<std::string>* out) {
    each(key, "an array of strings", [&](const Napi::Value& item) {
      if (!item.IsString()) return wrong(key, "an array of strings", item);
      out->push_back(item.As<Napi::String>().Utf8Value());
    });
  }

  void id_lists(const char* key, std::vector<std::vector<int32_t>>* out) {
    each(key, "an array of Int32Array",
         [&](const Napi::Value& item) { read_ids(key, item, &out->emplace_back()); });
  }

  template <class T>  // Uint8Array, Uint32Array, Float32Array
  bool array(const char* key, const char* expected, napi_typedarray_type type, T* out) {
    Napi::Value value;
    if (!get(key, &value)) return false;
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) {
      wrong(key, expected, value);
      return false;
    }
    *out = value.As<T>();
    return true;
  }

  // An instance of the class.
  bool instance(const char* key, const char* expected, const Napi::Function& of,
                Napi::Object* out) {
    Napi::Value value;
    if (!get(key, &value)) return false;
    if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(of)) {
      wrong(key, expected, value);
      return false;
    }
    *out = value.As<Napi::Object>();
    return true;
  }

  // One of `names`; *index is its place.
  void choice(const char* key, std::initializer_list<std::string_view> names, size_t* index) {
    std::string name;
    string(key, &name);
    if (!status_ || name.empty()) return;
    size_t i = 0;
    std::string known;
    for (const std::string_view candidate : names) {
      if (candidate == name) {
        *index = i;
        return;
      }
      known += (i++ == 0 ? "" : ", ") + std::string(candidate);
    }
    fail(key, "is \"" + name + "\"; it can be " + known);
  }

  void fail(const char* key, const std::string& what) {
    if (status_) status_ = Status::invalid(prefix_ + key + " " + what);
  }

 private:
  bool get(const char* key, Napi::Value* value) {
    if (!status_) return false;
    *value = object_.Get(key);
    return !value->IsUndefined();
  }

  void wrong(const char* key, const char* expected, const Napi::Value& found) {
    std::string shown = found.IsNull() ? "null" : found.IsArray() ? "an array" : "";
    if (shown.empty()) {
      shown = found.IsObject() || found.IsFunction() || found.IsSymbol()
                  ? "an object"
                  : found.ToString().Utf8Value();
    }
    fail(key, "must be " + std::string(expected) + ", found " + shown);
  }

  void read_ids(const char* key, const Napi::Value& value, std::vector<int32_t>* out) {
    if (!value.IsTypedArray() ||
        value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
      return wrong(key, "an Int32Array", value);
    }
    const auto array = value.As<Napi::Int32Array>();
    out->assign(array.Data(), array.Data() + array.ElementLength());
  }

  template <class Read>
  void each(const char* key, const char* expected, Read read) {
    Napi::Value value;
    if (!get(key, &value)) return;
    if (!value.IsArray()) return wrong(key, expected, value);
    const auto array = value.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length() && status_; ++i) read(array.Get(i));
  }

  Napi::Object object_;
  std::string prefix_;
  Status status_;
};

}  // namespace nemotron
