#!/usr/bin/env python3
"""Breaks the CUDA kernels on purpose, one line at a time, and wants the emulated op suite to notice each.

    test/emu/mutations.py BUILD_DIR [substring...]

BUILD_DIR holds a finished build (the archives of test/emu and emulated_ops_test's object).
Each mutation recompiles one kernel file and runs the few cases that use it, in all three orders. A mutation
that survives fails the run: either the suite has a hole or the line does nothing.
"""
import glob
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

GEMM = ["gemm 19x40x513 BF16", "gemm 33x80x96 F8_E4M3"]
ATTENTION = ["8:2 d64 b64 BF16 scaled schedules", "8:2 d64 b64 BF16 scaled prefix hit", "2:2 d64 b16 F8_E4M3 prompts"]
LONG = ["attention 530 tokens"]
NORM = ["norm after residual BF16 19x90", "norm after residual F8_E4M3 34x128"]
WGMMA = ["wgmma attention chunks", "wgmma attention 2:2 d64 b16 BF16 scaled prompts"]
SAMPLE = ["sample vocab 33", "sample small weights", "sample slots"]

# file, what stands there, what is put there, cases. The nth place when there are several: (text, n).
MUTATIONS = [
    # barriers and waits
    ("gemm_decode.cu", "cp_async_wait<S::kStages - 2>();", "cp_async_wait<S::kStages - 1>();", GEMM),
    ("gemm_decode.cu", "  block_sync();\n\n  constexpr int kLower = kPaired", "  constexpr int kLower = kPaired", GEMM),
    ("gemm_decode.cu", "  block_sync();\n  constexpr int kTiles", "  constexpr int kTiles", GEMM),
    ("gemm_decode.cu", "  pdl_wait();\n#pragma unroll", "#pragma unroll", GEMM),
    ("gemm_prompt.cu", "    block_sync();  // everybody", "    // everybody", ATTENTION),
    ("attention_decode.cu", "      warp_sync();  // the warp", "      // the warp", ATTENTION),
    ("attention_decode.cu", "    block_sync();\n    merge_warps<kDim>", "    merge_warps<kDim>", ATTENTION),
    ("attention_decode.cu", "  block_sync();\n  for (int u = int(threadIdx.x) * 4", "  for (int u = int(threadIdx.x) * 4", LONG),
    ("attention_decode.cu", "if (last_arrival(arrivals, uint32_t(row.items), reinterpret_cast<uint32_t*>(sums))) {", "{", LONG),
    ("attention_decode.cu", "uint32_t(row.items), reinterpret", "uint32_t(row.items) - 1, reinterpret", LONG),
    ("attention_decode.cu", "    cp_async_wait<0>();\n    block_sync();\n", "    cp_async_wait<0>();\n", ATTENTION),
    ("attention_prompt.cu", "    block_sync();\n    if (i * kKeys", "    if (i * kKeys", ATTENTION),
    ("attention_prompt.cu", "    block_sync();  // the stage", "    // the stage", ATTENTION),
    ("attention_prompt.cu", "cp_async_wait<1>();", "cp_async_wait<2>();", ATTENTION),
    ("attention_prompt_wgmma.cu", "    wgmma_wait<1>(s);", "", WGMMA),
    ("attention_prompt_wgmma.cu", "    wgmma_wait<0>(s, o, w);", "", WGMMA),
    ("attention_prompt_wgmma.cu", "    wgmma_fence(s, o, w);", "", WGMMA),
    ("attention_prompt_wgmma.cu", "    wgmma_wait<1>(s);\n    keys.release(i);", "    keys.release(i);\n    wgmma_wait<1>(s);", WGMMA),
    ("attention_prompt_wgmma.cu", "mbarrier_wait(full_of(i), i / T::kStages & 1)", "mbarrier_wait(full_of(i), ~(i / T::kStages) & 1)", WGMMA),
    ("attention_prompt_wgmma.cu", "(i / T::kStages - 1) & 1", "(i / T::kStages) & 1", WGMMA),
    ("attention_prompt_wgmma.cu", "    values.wait_empty(v);", "", WGMMA),
    ("attention_prompt_wgmma.cu", "    values.wait_full(i - 1);", "", WGMMA),
    ("attention_prompt_wgmma.cu", "    fence_proxy_async();", "", WGMMA),
    ("attention_prompt_wgmma.cu", "    fence_proxy_async();\n    warp_sync();", "    fence_proxy_async();", WGMMA),
    ("attention_prompt_wgmma.cu", "    mbarrier_init_done();", "", WGMMA),
    ("sample.cu", "sums.clear(w, i);\n    block_sync();", "sums.clear(w, i);", SAMPLE),
    ("block.h", "  if (threadIdx.x % 32 == 0) scratch[warp] = v;\n  gpu::block_sync();\n  float sum",
     "  if (threadIdx.x % 32 == 0) scratch[warp] = v;\n  float sum", ["rms_norm 333"], "elementwise.cu"),
    # bounds
    ("gemm_decode.cu", "row < p.w.rows ? row : p.w.rows - 1", "row", GEMM),
    ("gemm_decode.cu", "const bool real = first_token + n * 8 + g < tokens;", "const bool real = true;", GEMM),
    ("gemm_prompt.cu", "const bool real = first_row + row < p.rows;", "const bool real = true;", ATTENTION),
    ("attention_decode.cu", "const bool real = first + key < end && chunk * 16 < row_bytes;", "const bool real = true;", ATTENTION),
    ("elementwise.cu", "for (int j = int(threadIdx.x); j < cols; j += kThreads) sum", "for (int j = int(threadIdx.x); j <= cols; j += kThreads) sum",
     ["rms_norm 333"]),
    # arithmetic and places
    ("attention.h", "state.sum[h] = state.sum[h] * by + sum;", "state.sum[h] = state.sum[h] + sum;", ATTENTION, "attention_prompt.cu"),
    ("attention_prompt.cu", "> pairs.position[e / 2]", ">= pairs.position[e / 2]", ATTENTION),
    ("attention_prompt_wgmma.cu", "> pairs.position[e / 2]", ">= pairs.position[e / 2]", WGMMA),
    ("attention_prompt_wgmma.cu", "o[j] *= by[j / 2 % 2]", "o[j] *= by[0]", WGMMA),
    ("attention_prompt_wgmma.cu", "k / 4 * T::kSlabBytes + k % 4 * 32", "k * 32", WGMMA),
    ("attention_prompt_wgmma.cu", "values.tile(i)), T::kSlabBytes, 1024)", "values.tile(i)), 1024, 1024)", WGMMA),
    ("attention_prompt_wgmma.cu", "first = end - v * kKeys;", "first = end - v * kKeys + 1;", WGMMA),
    ("hopper.h", "| uint64_t(1) << 62", "| uint64_t(1) << 63", WGMMA, "attention_prompt_wgmma.cu"),
    ("attention_decode.cu", "const float by = exp2_fast(states[at + head].x - most);", "const float by = 1;", LONG),
    ("attention_decode.cu", "sum += s.y * exp2_fast(s.x - most);", "sum += s.y;", LONG),
    ("gemm_decode.cu", "for (int m = 4; m < 32; m *= 2) squares", "for (int m = 8; m < 32; m *= 2) squares", NORM),
    ("gemm_decode.cu", "squares[e % 2] += v * v;", "squares[0] += v * v;", NORM),
    ("gemm_decode.cu", "p.squares ? row_scale[in_block] : 1.0f", "1.0f", NORM),
    ("gemm_decode.cu", "all_squares = warp_sum(all_squares);", "", NORM),
    ("gemm_decode.cu", "to_bf16(v * out.norm.gain[row])", "to_bf16(v)", NORM),
    ("epilogue.h", "lo * a.x - hi * a.y", "lo * a.x + hi * a.y", ATTENTION, "gemm_decode.cu"),
    ("gpu.h", "((w >> 4) & 0x07f007f0u)", "((w >> 4) & 0x07e007f0u)", GEMM, "gemm_decode.cu"),
    ("sample.cu", "wanted -= w.chosen[1] < wanted ? w.chosen[1] : wanted - 1;", "", SAMPLE),
    ("sample.cu", "> 0xffffffffu - low) ++high", "> 0xffffffffu) ++high", SAMPLE),
    ("sample.cu", "w.count[digit] = w.upper[digit] = 0", "w.count[digit] = 0", SAMPLE),
    ("sample.cu", "id = fours * 4 + int(threadIdx.x)", "id = fours * 4 + 4 + int(threadIdx.x)", SAMPLE),
    ("sample.cu", "f(i * 4 + 3, as_float(v.w))", "f(i * 4 + 3, as_float(v.z))", SAMPLE),
    ("sample.cu", "slots[s.slot] = d.finite ? d.id : 0;", "slots[s.slot] = d.id;", SAMPLE),
    ("sample.cu", "v >= threshold ? v + gumbel", "v > threshold ? v + gumbel", SAMPLE),
]


def replaced(text, old, new):
    """The first place of `old`, however it is broken into lines, replaced; None when there is none."""
    pattern = r"\s+".join(re.escape(word) for word in old.split())
    changed, n = re.subn(pattern, lambda _: new, text, count=1)
    return changed if n else None


def main():
    build = os.path.abspath(sys.argv[1])
    wanted = sys.argv[2:]
    objects = [build + "/test/emu/CMakeFiles/emulated_ops_test.dir/ops_test.cc.o"]
    archives = [f"{build}/test/emu/lib{name}.a" for name in ("emu_op_cases", "nemotron_cuda_emulated", "nemotron_emu")]
    survived = broken = tried = 0
    with tempfile.TemporaryDirectory() as temp:
        for mutation in MUTATIONS:
            name, old, new, cases = mutation[:4]
            kernel = mutation[4] if len(mutation) > 4 else name
            label = f"{name}: {old.strip().splitlines()[0]}  ->  {new.strip().splitlines()[0] if new.strip() else '(nothing)'}"
            if wanted and not any(w in label for w in wanted):
                continue
            tried += 1
            # A copy of the headers and the one file, found before the originals.
            tree = os.path.join(temp, str(tried))
            os.makedirs(tree + "/cuda")
            for f in glob.glob(ROOT + "/cuda/*.h") + [ROOT + "/cuda/" + kernel]:
                text = open(f).read()
                if os.path.basename(f) == name:
                    text = replaced(text, old, new)
                    if text is None:
                        print("STALE    " + label)
                        broken += 1
                        break
                open(tree + "/cuda/" + os.path.basename(f), "w").write(text)
            else:
                compile_ = ["g++", "-x", "c++", "-std=c++20", "-O2", "-g1", "-w", "-ffp-contract=off", "-fsanitize=thread",
                            "-I" + tree, "-I" + ROOT + "/test/emu", "-I" + ROOT, "-I" + ROOT + "/addon",
                            "-c", tree + "/cuda/" + kernel, "-o", tree + "/kernel.o"]
                # The mutant's object comes before the archive that holds the right one.
                link = ["g++", tree + "/kernel.o", *objects, *archives, "-lpthread", "-ldl", "-o", tree + "/test"]
                for command in (compile_, link):
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode != 0:
                        print("BROKEN   " + label + "\n" + done.stderr[-2000:])
                        broken += 1
                        break
                else:
                    try:
                        run = subprocess.run([tree + "/test", *cases], capture_output=True, text=True, timeout=900)
                        if "0 passed, 0 failed" in run.stdout:
                            print("BROKEN   " + label + "\nno case has a name like " + ", ".join(cases))
                            broken += 1
                            continue
                        found = run.returncode != 0
                        report = next((l.strip() for l in run.stdout.splitlines() if ".cc:" in l), "exit %d" % run.returncode)
                    except subprocess.TimeoutExpired:
                        found, report = True, "never ends"
                    print(("found    " if found else "SURVIVED ") + label + ("\n           " + report[:200] if found else ""))
                    survived += not found
            sys.stdout.flush()
    print(f"{tried - survived - broken} of {tried} found, {survived} survived, {broken} could not be tried")
    return 1 if survived or broken else 0


if __name__ == "__main__":
    sys.exit(main())
