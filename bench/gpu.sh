#!/bin/sh
# One command for a machine with an NVIDIA GPU and no Node: builds, checks and measures in under ten minutes.
#
#   bench/gpu.sh [--minutes N] [--build DIR] [--out DIR] [--dry-run] [phase...]
#
#   --minutes   stop starting phases after so long (default 9.5); a phase is cut off at that time too
#   --build     build folder (default build-gpu)
#   --out       where results and logs go (default bench/results)
#   --dry-run   no GPU: builds, then tries every phase on the CPU emulation in tiny shapes
#   phase       only these: build ops-products ops-attention ops-sample (names of gpu_bench --list) goldens
#               memcheck memcheck-graphs racecheck initcheck torch
#
# Each phase has a time limit of its own, and none needs the one before it, the build apart: what fails or
# hangs loses its own numbers and nothing else. Every number is a line of JSON as soon as it is known; at the
# end they become DIR/<date>-<gpu>-gpu.json, which `npm run bench -- gpu` turns into docs/gpu-results.md.
set -u
cd "$(dirname "$0")/.."
MINUTES=9.5 BUILD=build-gpu RESULTS=bench/results DRY=0
PHASES=""
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) MINUTES=$2; shift ;;
    --build) BUILD=$2; shift ;;
    --out) RESULTS=$2; shift ;;
    --dry-run) DRY=1 ;;
    --help | -h) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "bench/gpu.sh: unknown flag $1 (--help lists them)" >&2; exit 2 ;;
    *) PHASES="$PHASES $1" ;;
  esac
  shift
done

BEGUN=$(date +%s)
DEADLINE=$(awk -v b="$BEGUN" -v m="$MINUTES" 'BEGIN { printf "%d", b + 60 * m }')
JOBS=$(nproc)
stop() { echo "bench/gpu.sh: $1" >&2; exit 1; }

# --- the machine ---
for tool in cmake c++ timeout awk; do
  command -v "$tool" >/dev/null 2>&1 || stop "$tool is missing"
done
for file in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" /usr/local/cuda/bin/nvcc; do
  if [ -n "$file" ] && [ -x "$file" ]; then CUDACXX=$file; break; fi
done
smi() { nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null | head -1; }
if [ $DRY = 1 ]; then
  GPU=emulated DRIVER=none CAPABILITY=90a
else
  [ -x "${CUDACXX:-}" ] || stop "no nvcc: put CUDA 12.4 or later on PATH, or set CUDACXX=/path/to/nvcc"
  export CUDACXX
  smi name >/dev/null || stop "no NVIDIA GPU here: nvidia-smi does not run"
  GPU=$(smi name) DRIVER=$(smi driver_version) CAPABILITY=$(smi compute_cap | tr -d .)
  [ -n "$CAPABILITY" ] || stop "no NVIDIA GPU here: nvidia-smi names none"
  [ "$CAPABILITY" = 90 ] && CAPABILITY=90a
fi
# cuBLASLt and NCCL of a Python environment, where the toolkit has none.
wheel() {
  command -v python3 >/dev/null 2>&1 && python3 -c '
import glob, site, sys
found = [f for d in site.getsitepackages() + [site.getusersitepackages()] for p in sys.argv[1:] for f in glob.glob(d + p)]
print(sorted(found)[-1] if found else "")' "$@" 2>/dev/null
}
if [ $DRY = 0 ] && [ -z "${NEMOTRON_CUBLASLT:-}" ]; then
  NEMOTRON_CUBLASLT=$(wheel '/nvidia/cu*/lib/libcublasLt.so.1*' '/nvidia/cublas/lib/libcublasLt.so.1*')
fi
[ -n "${NEMOTRON_NCCL:-}" ] || NEMOTRON_NCCL=$(wheel '/nvidia/nccl/lib/libnccl.so.2')
[ -n "${NEMOTRON_CUBLASLT:-}" ] && export NEMOTRON_CUBLASLT
[ -n "$NEMOTRON_NCCL" ] && export NEMOTRON_NCCL

SLUG=$(echo "$GPU" | tr 'A-Z ' 'a-z-' | sed 's/^nvidia-//; s/[^a-z0-9-]//g')
NAME=$(date -u +%Y%m%d-%H%M)-$SLUG-gpu
LOGS=$RESULTS/$NAME-logs
mkdir -p "$LOGS" || stop "cannot write to $RESULTS"
LINES=$LOGS/lines.jsonl
escape() { printf '%s' "$1" | tr '\n"\\' "  /"; }
printf '{"kind": "run", "date": "%s", "gpu": "%s", "driver": "%s", "architecture": "sm_%s", "power_limit_w": "%s", "clock_max_mhz": "%s", "memory_mib": "%s", "nvcc": "%s", "commit": "%s", "cpu_threads": %s}\n' \
  "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(escape "$GPU")" "$(escape "$DRIVER")" "$CAPABILITY" "$(smi power.limit)" "$(smi clocks.max.sm)" "$(smi memory.total)" \
  "$(escape "$("${CUDACXX:-false}" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p')")" \
  "$(git rev-parse --short HEAD 2>/dev/null)" "$JOBS" >>"$LINES"

# --- phases ---
FAILED=""
wanted() {
  [ -z "$PHASES" ] && return 0
  case " $PHASES " in *" $1 "*) return 0 ;; esac
  return 1
}
# phase NAME SECONDS COMMAND...: runs it in its time, keeps its output in a file, shows it, and goes on.
phase() {
  name=$1 limit=$2
  shift 2
  wanted "$name" || return 0
  left=$((DEADLINE - $(date +%s)))
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -lt 5 ]; then
    echo "== $name: no time left"
    printf '{"kind": "phase", "name": "%s", "status": "no time left"}\n' "$name" >>"$LINES"
    FAILED="$FAILED $name"
    return 1
  fi
  echo "== $name (at $(($(date +%s) - BEGUN)) s, at most $limit s)"
  began=$(date +%s)
  timeout -k 5 "$limit" "$@" >>"$LOGS/$name.log" 2>&1
  status=$?
  took=$(($(date +%s) - began))
  tail -n 45 "$LOGS/$name.log"
  case $status in
    0) said=ok ;;
    124 | 137) said="cut off after $took s" ;;
    *) said="exit $status" ;;
  esac
  [ $status = 0 ] || FAILED="$FAILED $name"
  echo "-- $name: $said, $took s"
  printf '{"kind": "phase", "name": "%s", "status": "%s", "seconds": %d, "clock_mhz": "%s", "temperature_c": "%s"}\n' \
    "$name" "$said" "$took" "$(smi clocks.sm)" "$(smi temperature.gpu)" >>"$LINES"
  return $status
}

GENERATOR=""
command -v ninja >/dev/null 2>&1 && GENERATOR="-G Ninja"
make_target() { # name, seconds, targets: one that does not build takes none of the others along
  build_name=$1 seconds=$2
  shift 2
  phase "$build_name" "$seconds" cmake --build "$BUILD" --parallel "$JOBS" --target "$@"
}
if [ $DRY = 1 ]; then
  # shellcheck disable=SC2086
  phase build 120 cmake -S . -B "$BUILD" $GENERATOR -DNEMOTRON_CUDA=OFF
  make_target build 1800 emulated_gpu_bench emulated_device_test
  NEMOTRON_CUBLASLT=$(cd "$BUILD" && pwd)/test/emu/libfake_cublaslt.so
  export NEMOTRON_CUBLASLT
  GPU_BENCH="$BUILD/test/emu/emulated_gpu_bench" TINY=--tiny
  phase device 60 "$BUILD/test/emu/emulated_device_test"
else
  # shellcheck disable=SC2086
  phase build 60 cmake -S . -B "$BUILD" $GENERATOR -DNEMOTRON_CUDA=ON -DNEMOTRON_TESTS=ON \
    -DCMAKE_CUDA_ARCHITECTURES="$CAPABILITY-real"
  make_target build 300 gpu_bench
  make_target build 120 gpu_ops_test
  make_target build 120 nemotron_cuda golden_test
  GPU_BENCH="$BUILD/cuda/gpu_bench" TINY=
  # A fault of the GPU ends a process's use of it: one process a family.
  phase ops-products 60 "$BUILD/cuda/gpu_ops_test" gemm rms_norm mlp_input embed tied "row equality" silu pack_weight
  phase ops-attention 80 "$BUILD/cuda/gpu_ops_test" "cuda attention"
  [ "$CAPABILITY" != 90a ] || phase ops-attention-wgmma 40 "$BUILD/cuda/gpu_ops_test" "wgmma attention"
  phase ops-sample 40 "$BUILD/cuda/gpu_ops_test" "cuda sample"
fi

# Seconds that a part of the bench may take; the important ones come first.
for part in ceilings:40 8b-bf16:70 8b-fp8:80 gemm:60 attention:45 sampler:20 70b-fp8:90 8b-128k:80; do
  # shellcheck disable=SC2086
  phase "${part%:*}" "${part#*:}" "$GPU_BENCH" --part "${part%:*}" $TINY --json "$LINES"
done

if [ $DRY = 0 ]; then
  phase goldens 60 env NEMOTRON_CUDA_LIBRARY="$BUILD/libnemotron_cuda.so" "$BUILD/test/golden_test" _cuda
  SANITIZER=$(command -v compute-sanitizer || echo "$(dirname "$CUDACXX")/compute-sanitizer")
  if [ -x "$SANITIZER" ]; then
    # Products, attention, sampling; then whole steps and their graphs.
    phase memcheck 60 "$SANITIZER" --tool memcheck --error-exitcode 9 "$BUILD/cuda/gpu_ops_test" \
      "gemm 17x80x96" "mlp_input BF16 9x40" "tied BF16" "sample vocab 33" "4:2 d64 b16 BF16 prompts"
    phase memcheck-graphs 60 "$SANITIZER" --tool memcheck --error-exitcode 9 "$GPU_BENCH" --tiny --part 8b-fp8
    phase racecheck 60 "$SANITIZER" --tool racecheck --error-exitcode 9 "$BUILD/cuda/gpu_ops_test" \
      "gemm 17x80x96" "sample vocab 33" "4:2 d64 b16 BF16 prompts"
    [ "$CAPABILITY" != 90a ] || phase memcheck-wgmma 40 "$SANITIZER" --tool memcheck --error-exitcode 9 \
      "$BUILD/cuda/gpu_ops_test" "wgmma attention 2:2 d64 b16 BF16 scaled prompts"
    phase initcheck 60 "$SANITIZER" --tool initcheck --error-exitcode 9 "$BUILD/cuda/gpu_ops_test" \
      "gemm 17x80x96" "sample vocab 33" "4:2 d64 b16 BF16 prompts"
  else
    echo "== no compute-sanitizer: skipped"
  fi
  if command -v python3 >/dev/null 2>&1 && python3 -c 'import torch' >/dev/null 2>&1; then
    phase torch 150 python3 bench/gpu/torch_peer.py --json "$LINES"
  else
    echo "== no PyTorch: skipped"
  fi
fi

# --- one file ---
OUT=$RESULTS/$NAME.json
{
  printf '[\n'
  # A line that was cut off with its program is not JSON.
  grep '^{.*}$' "$LINES" | sed '$!s/$/,/'
  printf ']\n'
} >"$OUT"
echo "== results: $OUT ($(grep -c '"measure"' "$OUT") numbers, $(($(date +%s) - BEGUN)) s); logs: $LOGS"
[ -z "$FAILED" ] || echo "== not well:$FAILED"
[ -z "$FAILED" ]
