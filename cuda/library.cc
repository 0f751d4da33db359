#include "cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>

namespace nemotron::cuda {

bool Library::open(const char* variable, const std::vector<std::string>& names, std::string* why) {
  std::vector<std::string> files;
  if (const char* file = std::getenv(variable); file && *file) {
    files = {file};
  } else {
    files = names;
    std::vector<std::string> folders;
    for (const char* home : {std::getenv("CUDA_HOME"), std::getenv("CUDA_PATH")}) {
      if (home && *home) folders.push_back(std::string(home) + "/lib64/");
    }
    folders.push_back("/usr/local/cuda/lib64/");
    for (const std::string& folder : folders) {
      for (const std::string& name : names) files.push_back(folder + name);
    }
  }
  why->clear();
  for (const std::string& file : files) {
    handle_ = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_) {
      file_ = file;
      why->clear();
      return true;
    }
    const char* error = dlerror();
    if (why->empty()) *why = error ? error : "cannot load " + file;
  }
  return false;
}

void* Library::find(const char* name, std::string* why) const {
  void* found = dlsym(handle_, name);
  if (!found) *why = file_ + " has no " + name;
  return found;
}

}  // namespace nemotron::cuda
