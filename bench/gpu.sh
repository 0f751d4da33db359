#!/bin/sh
# Checks and measures the CUDA backend on a machine with an NVIDIA GPU and no Node, in nine minutes.
# bench/gpu.sh --help says how.
command -v python3 >/dev/null 2>&1 || {
  echo "bench/gpu.sh: python3 is missing" >&2
  exit 1
}
exec python3 "$(dirname "$0")/gpu/run.py" "$@"
