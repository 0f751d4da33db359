#!/bin/sh
# Before nvcc, as CMake's launcher: `cuda_log.sh FOLDER [another launcher] nvcc ...` compiles as it would be, and leaves
# what ptxas says of each kernel in FOLDER/NAME.log and its PTX in FOLDER/NAME.ARCH.ptx, where test/cuda_compile.sh
# --logs FOLDER reads them: one compilation for the build and for the check. PTX not through another launcher, which
# may not know what to do with nvcc's intermediate files.
set -u
folder=$1
shift
name=
for argument; do
  case $argument in cuda/*.cu | */cuda/*.cu) name=$(basename "$argument" .cu) ;; esac
done
[ -n "$name" ] || exec "$@"
mkdir -p "$folder/$name.kept"
rm -f "$folder/$name".*.ptx "$folder/$name.log"
case $1 in
  *nvcc) "$@" -Xptxas -v --keep --keep-dir "$folder/$name.kept" ;;
  *) "$@" -Xptxas -v ;;
esac >"$folder/$name.said" 2>&1
status=$?
# Without the lines of the source, which come between instructions.
for ptx in "$folder/$name.kept/$name".compute_*.ptx; do
  if [ -f "$ptx" ]; then sed '/^[[:space:]]*\.loc[[:space:]]/d' "$ptx" >"$folder/$name.${ptx##*.compute_}"; fi
done
rm -rf "$folder/$name.kept"
if [ $status -eq 0 ]; then mv "$folder/$name.said" "$folder/$name.log"; else cat "$folder/$name.said"; fi
exit $status
