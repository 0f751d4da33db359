#!/bin/sh
# Compiles every kernel for real architectures and holds registers, stack and spills against the checked-in
# table (test/cuda_kernels.txt): no GPU needed, only nvcc. A kernel that is new, gone, spills, takes more
# registers than the table says, or waits after every wgmma fails; so does one in whose PTX something is missing
# (test/cuda_ptx.awk).
#
#   test/cuda_compile.sh            compare      (80, 89, 90a; ARCHS="90a" for fewer)
#   test/cuda_compile.sh --write    make the table
#   test/cuda_compile.sh --logs DIR compare what the build left (test/cuda_log.sh); only what is not there is compiled
#
# Without nvcc: says so and succeeds. $NVCC, $CUDACXX, PATH and the usual toolkit folder are looked at.
set -eu
cd "$(dirname "$0")/.."
ARCHS=${ARCHS:-"80 89 90a"}
TABLE=test/cuda_kernels.txt
NVCC=${NVCC:-${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}}
if ! [ -x "$NVCC" ]; then
  echo "no nvcc: the CUDA kernels were not compiled"
  exit 0
fi
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT
GENCODE=""
for a in $ARCHS; do GENCODE="$GENCODE -gencode arch=compute_$a,code=sm_$a"; done

# What the build gives a file beside the others' options.
own_options() {
  sed -n "s/^set_source_files_properties($1 .*COMPILE_LANGUAGE:CUDA>:\([^>]*\)>.*/\1/p" cuda/CMakeLists.txt
}

logs=
if [ "${1:-}" = "--logs" ]; then
  logs=$2
  cp "$logs"/*.log "$OUT/" 2>/dev/null || true
fi

# What is there in the end is the log alone: of what did not compile there is none.
compile() { # NAME
  if [ -f "$OUT/$1.log" ]; then return; fi
  # shellcheck disable=SC2046,SC2086
  if "$NVCC" -std=c++20 -O3 -I. -Iaddon $(own_options "$1.cu") $GENCODE -Xptxas -v -c "cuda/$1.cu" -o "$OUT/$1.o" >"$OUT/$1.errors" 2>&1; then
    mv "$OUT/$1.errors" "$OUT/$1.log"
  fi
}

# Two files at a time, the longest by themselves.
long="gemm_decode gemm_decode_wide"
(for name in $long; do compile "$name"; done) &
for f in cuda/*.cu; do
  name=$(basename "$f" .cu)
  case " $long " in *" $name "*) ;; *) compile "$name" ;; esac
done
wait

for f in cuda/*.cu; do
  name=$(basename "$f" .cu)
  if ! [ -f "$OUT/$name.log" ]; then
    cat "$OUT/$name.errors"
    exit 1
  fi
  # Products that ptxas could not leave in flight, and registers that it did not deal out.
  if grep -e 'wgmma.*serialized' -e 'setmaxnreg.*ignored' "$OUT/$name.log"; then exit 1; fi
  # ptxas: "Compiling entry function 'NAME' for 'sm_X'", then its stack and spills, then "Used N registers".
  awk -v file="$name" '
    /Compiling entry function/ {
      split($0, q, "\047")
      arch = q[4]
      kernel = q[2]
      # Without the namespaces, whose mangled names hold a hash of the file: "_cu_" and eight digits.
      at = index(kernel, "_cu_")
      if (at) { kernel = substr(kernel, at + 12); sub(/^[0-9]+/, "", kernel) }
    }
    /bytes stack frame/ { stack = $1; spill = $5 }
    /Used [0-9]+ registers/ {
      for (i = 1; i <= NF; ++i) if ($i == "Used") regs = $(i + 1)
      print file, arch, kernel, regs, stack, spill
    }' "$OUT/$name.log" >>"$OUT/table"
done
sort "$OUT/table" >"$OUT/sorted"
if awk '$6 > 0 { print "spills " $6 " bytes: " $0; found = 1 } END { exit !found }' "$OUT/sorted"; then exit 1; fi

arch=${ARCHS##* }
make_ptx() { # NAME...
  for name; do
    if [ "$logs" ] && cp "$logs/$name.$arch.ptx" "$OUT/$name.ptx" 2>/dev/null; then continue; fi
    # shellcheck disable=SC2046
    "$NVCC" -std=c++20 -O3 -I. -Iaddon $(own_options "$name.cu") -arch="compute_$arch" -ptx -o "$OUT/$name.ptx" "cuda/$name.cu"
  done
}
unfused="attention_decode gemm_decode gemm_decode_packed gemm_decode_wide gemm_decode_wgmma ranks"
others=
for f in cuda/*.cu; do
  case " $unfused " in *" $(basename "$f" .cu) "*) ;; *) others="$others $(basename "$f" .cu)" ;; esac
done
# shellcheck disable=SC2086
make_ptx $others &
# shellcheck disable=SC2086
make_ptx $unfused
wait $!

# Equality of a row's bits in every product of generated rows, in their attention and in sums over ranks: each sum and product of floats says how it rounds,
# so that ptxas may not fuse some of them and others not.
for name in $unfused; do
  if grep -nE '(mul|add|sub)(\.ftz)?(\.sat)?\.f32' "$OUT/$name.ptx" | head -3 | grep .; then
    echo "$name: products that may be fused with sums; cuda/CMakeLists.txt says -fmad=false for it"
    exit 1
  fi
done

if [ "$arch" = 90a ]; then awk -f test/cuda_ptx.awk "$OUT"/*.ptx; fi

# cuBLASLt and NCCL are never linked: what we declare of them has to be what NVIDIA's headers say, where there are
# some. $NEMOTRON_HEADERS is a folder more to look in.
compare() { # NAME, HEADER, the test's file, the wheel's folder
  found=$(ls ${NEMOTRON_HEADERS:+"$NEMOTRON_HEADERS/$2"} "$(dirname "$NVCC")/../include/$2" \
    ${CUDA_HOME:+"$CUDA_HOME/include/$2"} "/usr/include/$2" 2>/dev/null | head -1 || true)
  if [ -z "$found" ] && command -v python3 >/dev/null 2>&1; then
    found=$(python3 -c 'import glob, site, sys
print(next(iter(f for d in site.getsitepackages() for f in glob.glob(d + "/nvidia/" + sys.argv[1])), ""))' "$4/include/$2")
  fi
  if [ -n "$found" ]; then
    "$NVCC" -std=c++20 -I. -I"$(dirname "$found")" -c "test/$3" -o "$OUT/abi.o"
    echo "$1 is declared as in $found"
  else
    echo "no $2 here: our declarations of $1 are not compared"
  fi
}
compare cuBLASLt cublasLt.h cublaslt_abi.cc 'cu*'
compare NCCL nccl.h nccl_abi.cc nccl

if [ "${1:-}" = "--write" ]; then
  {
    echo "# file architecture kernel registers stack spill-stores (bytes); nvcc $("$NVCC" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
    cat "$OUT/sorted"
  } >"$TABLE"
  echo "$(wc -l <"$OUT/sorted") kernels written to $TABLE"
  exit 0
fi

awk -v archs=" $ARCHS " '
  FNR == NR {
    if ($1 != "#" && index(archs, " " substr($2, 4) " ")) { want[$1 " " $2 " " $3] = $0 }
    next
  }
  {
    key = $1 " " $2 " " $3
    if (!(key in want)) { print "not in the table: " key; bad = 1; next }
    split(want[key], w, " ")
    # Other versions of nvcc allocate a little differently.
    if ($4 > w[4] + 8) { print key ": " $4 " registers, the table says " w[4]; bad = 1 }
    if ($5 > w[5]) { print key ": stack of " $5 " bytes, the table says " w[5]; bad = 1 }
    if ($6 > w[6]) { print key ": spills " $6 " bytes, the table says " w[6]; bad = 1 }
    delete want[key]
    ++n
  }
  END {
    for (k in want) { print "in the table but gone: " k; bad = 1 }
    if (!bad) print n " kernels as in the table"
    exit bad
  }' "$TABLE" "$OUT/sorted"
