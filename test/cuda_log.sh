#!/bin/sh
# Before nvcc, as CMake's launcher: `cuda_log.sh FOLDER [another launcher] nvcc ...` compiles as it would be, and leaves
# what ptxas says of each kernel in FOLDER/NAME.log, where test/cuda_compile.sh --logs FOLDER reads it: one
# compilation for the build and for the check.
set -u
folder=$1
shift
name=
for argument; do
  case $argument in cuda/*.cu | */cuda/*.cu) name=$(basename "$argument" .cu) ;; esac
done
[ -n "$name" ] || exec "$@"
mkdir -p "$folder"
rm -f "$folder/$name.log"
"$@" -Xptxas -v >"$folder/$name.said" 2>&1
status=$?
if [ $status -eq 0 ]; then mv "$folder/$name.said" "$folder/$name.log"; else cat "$folder/$name.said"; fi
exit $status
