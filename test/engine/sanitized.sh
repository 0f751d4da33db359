#!/usr/bin/env bash
# The engine's tests under AddressSanitizer and UBSan, in a build folder of their own: a freed request
# that a step still reads is found here, not by luck.
set -euo pipefail
cd "$(dirname "$0")/../.."
sanitizers=${1:-address,undefined}
folder=build/sanitized-${sanitizers//,/-}
mkdir -p build
cmake -S . -B "$folder" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNEMOTRON_SANITIZE="$sanitizers" \
  -DNEMOTRON_CUDA=OFF >"$folder.log" 2>&1 || { cat "$folder.log"; exit 1; }
cmake --build "$folder" --target engine_test --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" \
  >>"$folder.log" 2>&1 || { tail -40 "$folder.log"; exit 1; }
exec "$folder/test/engine/engine_test"
