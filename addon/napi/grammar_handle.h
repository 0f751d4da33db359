// GrammarHandle: a compiled grammar as JavaScript holds it: an opaque object of one environment.
// Node's thread.
#pragma once

#include <napi.h>

#include <memory>
#include <string>

#include "engine/grammar/grammar.h"

namespace nemotron {

class GrammarHandle : public Napi::ObjectWrap<GrammarHandle> {
 public:
  static Napi::FunctionReference define(Napi::Env env);
  // The class in this environment.
  static Napi::Function of(Napi::Env env);
  // JavaScript cannot make one: info[0] is an External.
  explicit GrammarHandle(const Napi::CallbackInfo& info);

  const std::shared_ptr<const Grammar>& grammar() const { return grammar_; }

  // Compiles on a thread of Node's pool. The promise resolves with a GrammarHandle, or rejects with
  // {code, message}.
  static Napi::Promise compile(Napi::Env env, std::string text,
                               std::shared_ptr<const Vocabulary> vocabulary);

 private:
  std::shared_ptr<const Grammar> grammar_;
};

// What an environment has of the addon.
struct AddonData {
  Napi::FunctionReference engine_class, grammar_class;
};

}  // namespace nemotron
