// Library: a shared library that is opened at run time and never linked, so that the backend builds
// and runs without it. Never closed: its code may still run at process exit.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

namespace nemotron::cuda {

class Library {
 public:
  // $variable (a file; then nothing else), else each of `names` by the loader, then in $CUDA_HOME,
  // $CUDA_PATH and the usual toolkit folder. False: *why says what the loader said first.
  bool open(const char* variable, const std::vector<std::string>& names, std::string* why);

  // False, and *why, when the library has no such function.
  template <class Function>
  bool bind(Function* function, const char* name, std::string* why) const {
    *function = reinterpret_cast<Function>(find(name, why));
    return *function != nullptr;
  }

 private:
  void* find(const char* name, std::string* why) const;

  void* handle_ = nullptr;
  std::string file_;
};

}  // namespace nemotron::cuda
