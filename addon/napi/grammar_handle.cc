#include "napi/grammar_handle.h"

#include "napi/convert.h"

namespace nemotron {
namespace {

class CompileWorker : public Napi::AsyncWorker {
 public:
  CompileWorker(Napi::Env env, std::string text, std::shared_ptr<const Vocabulary> vocabulary)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        text_(std::move(text)),
        vocabulary_(std::move(vocabulary)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    try {
      status_ = Grammar::compile(text_, std::move(vocabulary_), &grammar_);
    } catch (const std::bad_alloc&) {
      status_ = Status::out_of_memory("no host memory left for the grammar");
    }
  }
  void OnOK() override {
    const Napi::HandleScope scope(Env());
    if (!status_) return deferred_.Reject(error_object(Env(), status_));
    deferred_.Resolve(GrammarHandle::of(Env()).New(
        {Napi::External<std::shared_ptr<const Grammar>>::New(Env(), &grammar_)}));
  }

 private:
  Napi::Promise::Deferred deferred_;
  const std::string text_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  Status status_;
  std::shared_ptr<const Grammar> grammar_;
};

}  // namespace

Napi::FunctionReference GrammarHandle::define(Napi::Env env) {
  return Napi::Persistent(DefineClass(env, "Grammar", {}));
}

Napi::Function GrammarHandle::of(Napi::Env env) {
  return env.GetInstanceData<AddonData>()->grammar_class.Value();
}

GrammarHandle::GrammarHandle(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<GrammarHandle>(info) {
  if (!info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "a grammar is made by compileGrammar()");
  }
  grammar_ = *info[0].As<Napi::External<std::shared_ptr<const Grammar>>>().Data();
}

Napi::Promise GrammarHandle::compile(Napi::Env env, std::string text,
                                     std::shared_ptr<const Vocabulary> vocabulary) {
  auto* worker = new CompileWorker(env, std::move(text), std::move(vocabulary));  // deletes itself
  worker->Queue();
  return worker->promise();
}

}  // namespace nemotron
