// cpu_bench ceilings | ops | decoder [--threads N] [--isa NAME] [--shape 1b|160m]
//           [--weights bf16|fp8] [--bf16-kv] [--seconds S] [--wall] [case...]
#include "bench/cpu/bench.h"

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  using namespace nemotron::bench;
  Options o;
  const std::string what = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) {
    const std::string a = argv[i];
    const bool value = i + 1 < argc;
    if (a == "--threads" && value) {
      o.threads = std::atoi(argv[++i]);
    } else if (a == "--isa" && value) {
      o.isa = argv[++i];
    } else if (a == "--shape" && value) {
      o.shape = argv[++i];
    } else if (a == "--weights" && value) {
      o.weights = argv[++i];
    } else if (a == "--bf16-kv") {
      o.bf16_kv = true;
    } else if (a == "--seconds" && value) {
      o.seconds = std::atof(argv[++i]);
    } else if (a == "--wall") {
      o.wall = true;
    } else {
      o.only.push_back(a);
    }
  }
  if (what == "ceilings") return run_ceilings(o);
  if (what == "ops") return run_ops(o);
  if (what == "decoder") return run_decoder(o);
  std::fprintf(
      stderr,
      "usage: cpu_bench ceilings | ops | decoder [--threads N] [--isa NAME] [--shape 1b|160m]"
      " [--weights bf16|fp8] [--bf16-kv] [--seconds S] [--wall] [case...]\n");
  return 2;
}
