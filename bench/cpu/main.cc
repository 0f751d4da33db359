#include <cstdio>
#include <cstdlib>
#include <string>

#include "bench/cpu/bench.h"

int main(int argc, char** argv) {
  using namespace nemotron::bench;
  const char* usage =
      "npm run bench -- ops [ceilings | disk | loading | ops] [flags] [case...]\n"
      "  --threads N            default 1\n"
      "  --isa NAME             plain, avx2, avx512, amx; default the best\n"
      "  --weights NAME         bf16 (the default), fp8, int4, int8, or a packed type of GGUF, as "
      "Q4_K\n"
      "  --int8-activations     of products with weights in groups\n"
      "  --bf16-kv              keys and values in BF16 instead of the device's own\n"
      "  --seconds S            of each case; default 1\n"
      "  --wall                 wall clock for one thread too, instead of its processor time\n"
      "  case                   only cases whose name contains it: attention, sample, qkv, "
      "gate_up, down\n";
  Options o;
  const std::string what = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) {
    const std::string a = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    const bool takes = a == "--threads" || a == "--isa" || a == "--weights" || a == "--seconds";
    if (takes && !value) return std::fprintf(stderr, "%s needs a value\n%s", argv[i], usage), 2;
    if (a == "--threads") {
      o.threads = std::atoi(value);
    } else if (a == "--isa") {
      o.isa = value;
    } else if (a == "--weights") {
      o.weights = value;
    } else if (a == "--seconds") {
      o.seconds = std::atof(value);
    } else if (a == "--int8-activations") {
      o.int8_activations = true;
    } else if (a == "--bf16-kv") {
      o.bf16_kv = true;
    } else if (a == "--wall") {
      o.wall = true;
    } else if (a[0] == '-') {
      return std::fprintf(stderr, "there is no flag %s\n%s", argv[i], usage), 2;
    } else {
      o.only.push_back(a);
    }
    if (takes) ++i;
  }
  if (o.threads < 1) return std::fprintf(stderr, "--threads: expected a number from 1 on\n"), 2;
  if (what == "ceilings") return run_ceilings(o);
  if (what == "disk") return run_disk(o);
  if (what == "loading") return run_loading(o);
  if (what == "ops") return run_ops(o);
  return std::fputs(usage, what == "--help" ? stdout : stderr), what == "--help" ? 0 : 2;
}
