#!/bin/sh
# One command for a machine with an NVIDIA GPU and no Node: builds, checks and measures in under ten minutes.
#
#   bench/gpu.sh [build folder]          default build-gpu
#
# 1. builds the CUDA backend for this GPU, the op suite and the bench;
# 2. runs the op suite and a whole decoder on the GPU; compute-sanitizer on a part of it when it is installed;
# 3. measures: ceilings, products by M, attention, sampler, whole models with random weights at their true shapes;
# 4. the same by PyTorch where python3 has it (bench/gpu_torch.py).
# Results go to bench/results/gpu-<date>.json.
set -eu
cd "$(dirname "$0")/.."
BUILD=${1:-build-gpu}
JOBS=$(nproc)
if ! command -v nvidia-smi >/dev/null 2>&1 || ! nvidia-smi >/dev/null 2>&1; then
  echo "bench/gpu.sh: no NVIDIA GPU here (nvidia-smi does not run)" >&2
  exit 1
fi
for tool in cmake c++; do
  command -v $tool >/dev/null 2>&1 || { echo "bench/gpu.sh: $tool is missing" >&2; exit 1; }
done
CAPABILITY=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
[ "$CAPABILITY" = 90 ] && CAPABILITY=90a
STAMP=$(date -u +%Y%m%d-%H%M%S)
mkdir -p bench/results
OUT=bench/results/gpu-$STAMP.json

echo "== build for sm_$CAPABILITY"
cmake -S . -B "$BUILD" -DNEMOTRON_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$CAPABILITY-real" -DNEMOTRON_TESTS=ON >"$BUILD.log" 2>&1 ||
  { cat "$BUILD.log"; exit 1; }
cmake --build "$BUILD" --parallel "$JOBS" --target nemotron_cuda gpu_ops_test gpu_bench >>"$BUILD.log" 2>&1 ||
  { tail -40 "$BUILD.log"; exit 1; }

# cuBLASLt of a Python environment, where the toolkit has none.
if [ -z "${NEMOTRON_CUBLASLT:-}" ] && command -v python3 >/dev/null 2>&1; then
  LT=$(python3 -c 'import glob, site
print(next(iter(sorted(f for d in site.getsitepackages() for f in glob.glob(d + "/nvidia/*/lib/libcublasLt.so.*"))), ""))' 2>/dev/null || true)
  [ -n "$LT" ] && export NEMOTRON_CUBLASLT="$LT"
fi

FAILED=0
echo "== op suite on the GPU"
"$BUILD/cuda/gpu_ops_test" || FAILED=1
if command -v compute-sanitizer >/dev/null 2>&1; then
  for TOOL in memcheck racecheck initcheck; do
    echo "== compute-sanitizer $TOOL"
    timeout 60 compute-sanitizer --tool $TOOL --error-exitcode 9 "$BUILD/cuda/gpu_ops_test" \
      "gemm 17x80x96" "mlp_input BF16 9x40" "tied BF16" "sample vocab 33" "4:2 d64 b16 BF16 prompts" || FAILED=1
  done
fi

echo "== bench"
"$BUILD/cuda/gpu_bench" --json "$OUT" || FAILED=1
if command -v python3 >/dev/null 2>&1 && python3 -c 'import torch' >/dev/null 2>&1; then
  echo "== PyTorch"
  timeout 200 python3 bench/gpu_torch.py --json "${OUT%.json}-torch.json" || echo "the PyTorch comparison failed"
fi
echo "results: $OUT"
exit $FAILED
