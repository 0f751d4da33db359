#!/usr/bin/env bash
# Fields marked GUARDED_BY are touched under their mutex alone: clang's -Wthread-safety over every
# file that sees addon/device/mutex.h. Skipped where clang is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
clang=${CLANGXX:-clang++}
command -v "$clang" >/dev/null || { echo "skipped: thread safety is not checked, there is no $clang"; exit 0; }

check() {
  nice "$clang" -std=c++20 -fsyntax-only -Wthread-safety -Werror=thread-safety -I. -Iaddon \
    "${includes[@]}" "$@"
}

includes=()
# The check itself has to find a fault.
fault='#include "device/mutex.h"
struct A { nemotron::Mutex m; int x GUARDED_BY(m); int get() { return x; } };'
if echo "$fault" | check -x c++ - 2>/dev/null; then
  echo "$clang finds no field that is read without its mutex"
  exit 1
fi

check addon/engine/engine_loop.cc
check addon/engine/commit.cc
check addon/engine/rank_runner.cc
# The addon needs Node's headers, which cmake-js has fetched for a build.
headers=$(sed -n 's/^CMAKE_JS_INC:[A-Z]*=//p' build/CMakeCache.txt 2>/dev/null || true)
if [ -n "$headers" ]; then
  IFS=';' read -ra folders <<<"$headers"
  for folder in "${folders[@]}"; do includes+=(-isystem "$folder"); done
  for file in addon/napi/*.cc; do check -DNAPI_VERSION=8 -DNODE_ADDON_API_CPP_EXCEPTIONS_ALL "$file"; done
else
  echo "skipped: addon/napi is not checked, build/ has no Node headers"
fi
echo "thread safety: ok"
