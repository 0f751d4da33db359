#!/usr/bin/env python3
"""Breaks the CUDA backend on purpose, one line at a time, and wants the emulated suites to notice each.

    test/emu/mutations.py BUILD_DIR [--everywhere] [substring...]
    test/emu/mutations.py --places [BUILD_DIR]   whether each break still has its place, and its cases, without
                                                 trying any

BUILD_DIR holds a finished build. A break recompiles one file of cuda/ and runs the few cases named beside it,
up to the first that fails. --everywhere then runs whole suites on what those cases did not find, and says where
it is found. A break that nothing finds fails the run, unless it is named as blind with the reason. It counts as
found only when a suite began, and a case failed or took the process down.
"""
import concurrent.futures
import glob
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Cases by suite, each a part of names.
GEMM = {"ops": ["gemm 17x80x96", "gemm 33x80x96", "gemm 3x40x2100", "emulated gemm 3x200x700", "emulated gemm 9x200x700"]}
ROWS = {"ops": ["emulated row equality BF16", "emulated row equality F8_E4M3"]}
NORM = {"ops": ["norm after residual BF16 19x90", "norm after residual F8_E4M3 34x600"]}
SPLIT = {"kernels": ["split_norm"]}
EARLY = {"kernels": ["early_weights"]}
MLP = {"ops": ["emulated mlp_input F8_E4M3"]}
WIDE = {"ops": ["emulated gemm 17x272", "emulated gemm 40x272", "emulated gemm 70x150", "emulated gemm 130x150"]}
WIDE_ROWS = {"ops": ["emulated row equality of many"]}
SMALL = {"ops": ["emulated 99 KiB"]}
# The products by wgmma: of few rows, whose blocks take several places, of many, and their bits.
HOPPER = {"ops": ["wgmma products gemm 3x200x700", "wgmma products gemm 3x40x2100", "wgmma products gemm 40x272x700", "wgmma products gemm 130x150x700"]}
HOPPER_ROWS = {"ops": ["wgmma products row equality of many", "5 multiprocessors row equality"]}
HOPPER_MANY = {"ops": ["5 multiprocessors gemm 130x150", "5 multiprocessors norm after residual BF16 130x128"]}
# Blocks that share activations: clusters of two that take several places, of four, and such as are not whole.
CLUSTER = {"ops": ["wgmma products gemm 17x272", "5 multiprocessors gemm 17x80x96", "5 multiprocessors gemm 130x150"]}
HOPPER_PAIRS = {"ops": ["wgmma products mlp_input", "wgmma products attention 8:2 d64", "wgmma products attention 3:1 d80"]}
HOPPER_NORM = {"ops": ["wgmma products norm after residual"]}
FAR = {"kernels": ["far_"]}
PROMPT = {"ops": ["emulated prompt"]}
LIBRARY = {"ops": ["emulated library prompt", "emulated fp8"]}
ATTENTION = {"ops": ["8:2 d64 b64 BF16 scaled schedules", "8:2 d64 b64 BF16 scaled prefix hit",
                     "emulated attention 2:2 d64 b16 F8_E4M3 prompts"]}
FLAT = {"ops": ["emulated attention 1:1 d64 b64 BF16 flat chunks", "emulated attention 2:1 d128 b64 BF16 flat chunks"]}
FLAT_DECODE = {"ops": ["flat generated"]}
PIECES = {"ops": ["pieces of"], "kernels": ["decode_pieces"]}
ALONE = {"kernels": ["decode_pieces"], "ops": ["emulated attention 4:1 d64 b64 BF16 alone", "2:1 d128 b64 F8_E4M3 alone"]}
SHARED = {"kernels": ["decode_pieces"], "ops": ["16 multiprocessors"]}
EARLY_KEYS = {"ops": ["emulated attention 4:1 d64 b64 BF16 alone"]}
GROUPS = {"ops": ["3:1 d80 b32 BF16 prompts", "40:2 d16", "emulated attention 20:1 d64", "emulated attention 6:2"]}
WGMMA = {"ops": ["wgmma attention 4:1 d128", "wgmma attention 2:2 d64 b16 BF16 scaled prompts"]}
WGMMA_FP8 = {"ops": ["wgmma attention 2:2 d64 b16 F8_E4M3 prompts", "wgmma attention 4:1 d128 b64 F8_E4M3"]}
WGMMA_FP8_FLAT = {"ops": ["wgmma attention 1:1 d64 b64 F8_E4M3 flat"]}
WGMMA_FLAT = {"ops": ["wgmma attention 1:1 d64 b64 BF16 flat", "wgmma attention 2:1 d128 b64 BF16 flat"]}
# Whose two warpgroups see numbers of tiles that are equal, and such that are not.
TURNS = {"ops": ["wgmma attention 1:1 d64 b64 BF16 flat", "wgmma attention 4:1 d128 b64 BF16 chunks"]}
WGMMA_GROUPS = {"ops": ["wgmma attention 6:2", "wgmma attention 20:1", "wgmma attention 2:2"]}
SAMPLE = {"ops": ["sample vocab 33", "sample small weights", "sample slots"]}
STEPS = {"ops": ["sample steps"]}
GROWTH = {"ops": ["sample steps after growth"]}
EMBED = {"ops": ["emulated embed", "emulated tied"]}
PACK = {"ops": ["gemm 5x37x83", "gemm mixed parts"]}
PACKED = {"kernels": ["packed_fp8"]}
IN_GROUPS = {"ops": ["groups as widened"]}
GROUPED_PARTS = {"ops": ["emulated groups: mixed", "emulated groups: gate or up", "emulated groups: int4", "emulated groups: refusals",
                         "groups as widened: 4 bits", "emulated groups: 4 bits of 32 steps least"]}
MODEL = {"model": [""]}
MIXED = {"model": ["one product", "mixed_steps", "buckets bf16 wgmma"]}
DEVICE = {"device": [""]}
RANKS = {"ranks": ["ranks_add", "ranks_gather", "ranks_share"]}
WAITS = {"ranks": ["ranks_do_not_wait", "ranks_stop"]}
PRODUCTS = {"products": ["product", "mlp"]}


class Break(NamedTuple):
    file: str  # of cuda/
    old: str  # the first place where this stands, however it is broken into lines
    new: str
    cases: dict  # suite -> parts of names
    unit: str = ""  # the file that is compiled, where it is not `file`
    blind: str = ""  # why nothing can find it


B = Break
BREAKS = [
    # weights in groups
    B("gemm_decode_packed.cu", "cp_async_wait<S::kStages - 2>();", "cp_async_wait<S::kStages - 1>();", IN_GROUPS),
    B("gemm_decode_packed.cu", "warp_sync();\n      if", "if", IN_GROUPS),
    B("gemm_decode_packed.cu", "block_sync();\n\n  const int warp", "const int warp", IN_GROUPS),
    B("gemm_decode_packed.cu", "block_sync();\n    keep_sums", "keep_sums", IN_GROUPS),
    B("gemm_decode_packed.cu", "block_sync();\n    write_results", "write_results", IN_GROUPS),
    B("gemm_decode_packed.cu", "pdl_wait();\n#pragma unroll", "#pragma unroll", IN_GROUPS),
    B("gemm_decode_packed.cu", "next_place += int(gridDim.y);", "next_place += 1;", IN_GROUPS),
    B("gemm_decode_packed.cu", "if (++next < mine) return;\n    next = 0;", "if (++next < mine) return;\n    next = 1;", IN_GROUPS),
    B("gemm_decode_packed.cu", "if (++next_of_tokens == mine) next_of_tokens = 0;", "++next_of_tokens;", IN_GROUPS),
    B("gemm_decode_packed.cu", "(places - int(blockIdx.y) + int(gridDim.y) - 1)", "(places - int(blockIdx.y))", IN_GROUPS),
    B("gemm_decode_packed.cu", "tile < forms.tiles ? tile : forms.tiles - 1", "tile", IN_GROUPS),
    B("gemm_decode_packed.cu", "tile >= forms.rows[i + 1].first_tile", "tile > forms.rows[i + 1].first_tile", IN_GROUPS),
    B("gemm_decode_packed.cu", "(tile - f.first_tile) * ((k + 127) / 128)", "(tile - f.first_tile) * (k / 128)", {"ops": ["k 96", "k 544"]}),
    B("gemm_decode_packed.cu", "int64_t(tile - f.first_tile)", "int64_t(tile - 0 * f.first_tile)", IN_GROUPS),
    B("gemm_decode_packed.cu", "if (lane * 16 < f.scale_bytes)", "if (lane * 16 + 16 < f.scale_bytes)", IN_GROUPS),
    B("gemm_decode_packed.cu", "if (512 + lane * 16 < 128 * f.bits)", "if (512 + lane * 16 < 64 * f.bits)", IN_GROUPS),
    B("gemm_decode_packed.cu", "block % 2 * 128 * f.bits;\n      uint8_t* to", "0;\n      uint8_t* to", IN_GROUPS),
    B("gemm_decode_packed.cu", "const int odd = (warp + i * kWarps) % 2;", "const int odd = i % 2;", IN_GROUPS),
    B("gemm_decode_packed.cu", "group_of(f, 64 * odd + 32 * half + 8 * t)", "group_of(f, 64 * odd + 32 * half)", IN_GROUPS),
    B("gemm_decode_packed.cu", "scale_of(f, scales, group, g + 8 * upper)", "scale_of(f, scales, group, g)", IN_GROUPS),
    B("gemm_decode_packed.cu", "if (f.has_least) s.least = half_at(scales + 128", "if (false) s.least = half_at(scales + 128", IN_GROUPS),
    B("gemm_decode_packed.cu", "steps + 128 / f.group * 16", "steps + 64", {"ops": ["groups: 4 bits of 16 steps least"]}),
    B("gemm_decode_packed.cu", "(f.has_least ? 64 : 32)", "32", IN_GROUPS),
    B("gemm_decode_packed.cu", "lane * 4 * width", "lane * 4", IN_GROUPS),
    B("gemm_decode_packed.cu", "(16 * half + 8 * upper)", "(8 * half + 16 * upper)", IN_GROUPS),
    B("gemm_decode_packed.cu", "[half] >> (16 * upper)", "[half] >> (8 * upper)", IN_GROUPS),
    B("gemm_decode_packed.cu", "[2 * half + upper];\n}", "[half + 2 * upper];\n}", IN_GROUPS),
    B("gemm_decode_packed.cu", "} else if (f.is_table) {", "} else if (false) {", IN_GROUPS),
    B("gemm_decode_packed.cu", "8388608.0f - f.first", "8388608.0f", IN_GROUPS),
    B("gemm_decode_packed.cu", "a[2 * half + 1][upper] = w.pair[2];", "a[2 * half + 1][upper] = w.pair[1];", IN_GROUPS),
    B("gemm_decode_packed.cu", "if (row >= w.rows) continue;", "", {"ops": ["edge"]}),
    B("gemm_decode_packed.cu", "row % 8 * 4 + c % 32 / 8", "row % 8 * 4 + c % 64 / 16", {"ops": ["embedding"]}),
    B("gemm_decode_packed.cu", "panel + int64_t(i / 128) * f.block_bytes", "panel", {"ops": ["embedding"]}),
    B("gemm_decode_packed.cu", "if (!known && threadIdx.x == 0) atomic_add(p.fault, 1u);", "", {"ops": ["unknown id"]}),
    B("step_ops.cc", "queue().pdl = false;", "", IN_GROUPS),
    B("step_ops.cc", "rope.rotary / 2 % 16 != 0", "false", IN_GROUPS),
    B("packed_weights.cc", "parts[0].rows % kTile == 0", "true", {"ops": ["gate and up"]}),
    B("packed_weights.cc", "if (width == 4) code ^= 0x80u;", "", IN_GROUPS),
    B("packed_weights.cc", "part->first_stored + row", "row", {"ops": [" cut"]}),
    B("packed_weights.cc", "part_.first_stored + row", "row", GROUPED_PARTS),
    B("packed_weights.cc", "part->first_col", "0", {"ops": [" cut"]}),
    B("packed_weights.cc", "tile * kTile + i", "i", IN_GROUPS),
    B("weights.cc", "args.out += n * args.out_stride;", "", {"ops": ["large table"]}),
    B("packed_weights.cc", "size_t(first) * panel, s->pinned", "0, s->pinned", {"ops": ["large table"]}),
    # barriers and waits
    B("gemm_decode.cu", "cp_async_wait<S::kStages - 2>();", "cp_async_wait<S::kStages - 1>();", GEMM),
    B("gemm_decode.cu", "block_sync();\n    keep_sums", "keep_sums", GEMM),
    B("gemm_decode.cu", "block_sync();\n    write_results", "write_results", GEMM),
    B("gemm_decode.cu", "S::kStays ? smem.take<uint4>(S::kSumBytes / 16) : shared", "shared", GEMM),
    B("gemm_decode.cu", "next_place += int(gridDim.y);", "next_place += 1;", GEMM),
    B("gemm_decode.cu", "if (++next < mine) return;\n    next = 0;", "if (++next < mine) return;\n    next = 1;", GEMM),
    B("gemm_decode.cu", "if (++next_of_tokens == mine) next_of_tokens = 0;", "++next_of_tokens;", GEMM),
    B("gemm_decode.cu", "(places - int(blockIdx.y) + int(gridDim.y) - 1)", "(places - int(blockIdx.y))", GEMM),
    B("gemm_decode.cu", "if (p.squares && place == int(blockIdx.y))", "if (p.squares && place != int(blockIdx.y))", NORM),
    B("gemm_decode.h", "if (row < p.w.rows) gpu::prefetch_l2", "gpu::prefetch_l2", EARLY, "gemm_decode.cu"),
    B("gemm_decode.h", "int64_t(p.w.k) * (p.w.fp8 ? 1 : 2) - asked", "int64_t(p.w.k) * 2", EARLY, "gemm_decode.cu"),
    B("gemm_decode.cu", "pdl_wait();\n#pragma unroll", "#pragma unroll", GEMM),
    B("gemm_decode_wide.cu", "cp_async_wait<S::kStages - 2>();", "cp_async_wait<S::kStages - 1>();", WIDE),
    B("gemm_decode_wide.cu", "block_sync();  // everybody's", "// everybody's", WIDE),
    B("gemm_decode_wide.cu", "pdl_wait();\n#pragma unroll", "#pragma unroll", WIDE),
    B("gemm_decode_wide.cu", "block_sync();\n\n  write_results", "write_results", SPLIT),
    B("gemm_decode_wide.cu", "if (stage + S::kStages - 1 < all) {", "if (stage + S::kStages < all) {", WIDE),
    B("gemm_decode_wide.cu", "block % kSums + 1;", "block % kSums;", WIDE),
    B("gemm_decode_wide.cu", "return block + kSums < all ? block + kSums : block % kSums + 1;", "return block + 1;", WIDE_ROWS),
    B("gemm_decode_wide.cu", "if (block + w < all) step(sum[w]);", "step(sum[w]);", WIDE),
    B("gemm_decode_wide.cu", "for (int w = 0; w < kSums; ++w) add(sum[w]);", "for (int w = kSums - 1; w >= 0; --w) add(sum[w]);", WIDE_ROWS),
    B("gemm_decode_wide.cu", "for (int block = w; block < all; block += kSums) step(sum);\n      add(sum);", "for (int block = w; block < all; block += kSums) step(total);", WIDE_ROWS),
    B("gemm_decode_wide.cu", "const bool real = first_token + r < tokens;", "const bool real = true;", WIDE),
    B("gemm_decode_wide.cu", "row < p.w.rows ? row : p.w.rows - 1", "row", WIDE),
    B("gemm_decode_wide.cu", "upper * out.pair_offset", "out.pair_offset", MLP),
    B("gemm_decode_wide.cu", "token_warp * kTokenTiles * 8, at, sum", "0, at, sum", WIDE),
    B("gemm_decode_wide.cu", "{place * 2 + r, first + n}", "{place + r, first + n}", WIDE),
    B("gemm_decode_wide.cu", "load(Shape<fp8.value, 2, 4, paired.value>());", "", WIDE),
    B("gemm_decode_wgmma.cu", "wait(full_of(i), i / S::kStages & 1)", "", HOPPER),
    B("gemm_decode_wgmma.cu", "wait(full_of(i), i / S::kStages & 1)", "wait(full_of(i), ~(i / S::kStages) & 1)", HOPPER),
    B("gemm_decode_wgmma.cu", "wait(full_of(i), i / S::kStages & 1)", "wait(full_of(i), i >= S::kStages)", HOPPER),
    B("gemm_decode_wgmma.cu", "(i / S::kStages - 1) & 1", "(i / S::kStages) & 1", HOPPER),
    B("gemm_decode_wgmma.cu", "(i / S::kStages - 1) & 1", "(i >= 2 * S::kStages)", HOPPER),
    B("gemm_decode_wgmma.cu", "ring.wait_empty(i);", "", HOPPER),
    B("gemm_decode_wgmma.cu", "mbarrier_init(ring.empty + i, uint32_t(kGroups * 4 * ring.cluster));", "mbarrier_init(ring.empty + i, uint32_t(kGroups * 4 * ring.cluster - 1));", HOPPER),
    B("gemm_decode_wgmma.cu", "mbarrier_init_done();", "", HOPPER),
    B("gemm_decode_wgmma.cu", "block_sync();\n  if constexpr (S::kShares) cluster_arrive();", "if constexpr (S::kShares) cluster_arrive();", HOPPER),
    B("gemm_decode_wgmma.cu", "wgmma_fence(own);", "", HOPPER),
    B("gemm_decode_wgmma.cu", "wgmma_wait<1>(other);", "", HOPPER),
    B("gemm_decode_wgmma.cu", "wgmma_wait<1>(other);", "wgmma_wait<2>(other);", HOPPER),
    B("gemm_decode_wgmma.cu", "wgmma_wait<1>(other);\n      if (releases) ring.release(stage - 1);", "if (releases) ring.release(stage - 1);\n      wgmma_wait<1>(other);", HOPPER),
    B("gemm_decode_wgmma.cu", "if (releases) ring.release(stage - 1);", "if (releases) ring.release(stage);", HOPPER),
    B("gemm_decode_wgmma.cu", "if (releases) ring.release(stage - 1);", "", HOPPER),
    B("gemm_decode_wgmma.cu", "wgmma_wait<0>(sum, a[0], a[1]);", "wgmma_wait<1>(sum, a[0], a[1]);", HOPPER),
    B("gemm_decode_wgmma.cu", "wgmma_wait<0>(sum, a[0], a[1]);\n    ring.release(stage - 1);", "wgmma_wait<0>(sum, a[0], a[1]);", HOPPER),
    B("gemm_decode_wgmma.cu", "begun || k > 0", "k > 0", HOPPER),
    B("gemm_decode_wgmma.cu", "begun || k > 0", "true", HOPPER),
    B("gemm_decode_wgmma.cu", "step(a[1], a[0], 0, true);", "step(a[0], a[1], 0, true);", HOPPER),
    B("gemm_decode_wgmma.cu", "2 * k + lane / 16) ^ row % 8", "2 * k + lane / 16)", HOPPER),
    B("gemm_decode_wgmma.cu", "2 * k + lane / 16) ^ row % 8", "2 * k + lane / 16) ^ row % 4", HOPPER),
    B("gemm_decode_wgmma.cu", "2 * k + lane / 16", "2 * k + lane / 8 % 2", HOPPER),
    B("gemm_decode_wgmma.cu", "wgmma_advance(b, k * 32)", "wgmma_advance(b, k * 64)", HOPPER),
    B("gemm_decode_wgmma.cu", "half * 64", "half * 32", HOPPER),
    B("gemm_decode_wgmma.cu", "a[k][h] = e4m3_even_to_bf16(word);", "a[k][h] = e4m3_odd_to_bf16(word);", HOPPER),
    B("gemm_decode_wgmma.cu", "(S::kFp8 ? lane % 4 * 4 : 0)", "(S::kFp8 ? lane % 4 / 2 * 4 : 0)", HOPPER),
    B("gemm_decode_wgmma.cu", "(S::kPaired ? S::kRows / 2 : 8) * kRowBytes", "8 * kRowBytes", HOPPER_PAIRS),
    B("gemm_decode_wgmma.cu", "a[k][2 + h] = e4m3_odd_to_bf16(word);", "a[k][2 + h] = e4m3_even_to_bf16(word);", HOPPER),
    B("gemm_decode_wgmma.cu", "ring.tokens(stage) + half * S::kTokenBytes", "ring.tokens(stage)", HOPPER),
    B("gemm_decode_wgmma.cu", "(i % plan.a_place * S::kBlocks + lane) * 64;", "(i % plan.a_place + lane) * 64;", HOPPER),
    B("gemm_decode_wgmma.cu", "ring.tokens(i) + lane * S::kTokenBytes;", "ring.tokens(i);", HOPPER),
    B("gemm_decode_wgmma.cu", "r / 8 * (S::kRows / 2)", "r / 8 * 16", HOPPER_PAIRS),
    B("gemm_decode_wgmma.cu", "at.warp % 2 * 8 + at.g", "at.g", HOPPER_PAIRS),
    B("gemm_decode_wgmma.cu", "place * S::kLower + at.warp / 2, row", "place * S::kLower + at.warp, row", HOPPER_PAIRS),
    B("gemm_decode_wgmma.cu", "{place * S::kLower + at.warp, n}", "{place * S::kLower + at.warp + 1, n}", HOPPER),
    B("gemm_decode_wgmma.cu", "place += int(gridDim.y)", "place += 1", HOPPER),
    B("gemm_decode_wgmma.cu", "int(blockIdx.y) + i / plan.a_place * int(gridDim.y);", "int(blockIdx.y) + i / plan.a_place;", HOPPER),
    B("gemm_decode_wgmma.cu", "plan.stages < S::kStages ? plan.stages : S::kStages;", "plan.stages < S::kStages ? plan.stages : S::kStages - 1;", HOPPER),
    B("gemm_decode_wgmma.cu", "pdl_wait();\n  if (brings)", "if (brings)", HOPPER),
    B("gemm_decode_wgmma.cu", "block_sync();\n  if (multiplies) {", "if (multiplies) {", HOPPER_NORM),
    B("gemm_decode_wgmma.cu", "i % plan.a_place * 64,", "(i + 1) % plan.a_place * 64,", HOPPER),
    B("gemm_decode_wgmma.cu", "plan.first_token + first, ring", "first, ring", HOPPER_MANY),
    B("gemm_decode_wgmma.cu", "int(blockIdx.x) * kTokens;", "int(blockIdx.x) * 64;", HOPPER_MANY),
    B("gemm_decode.h", "at.lane == 0 && i < kTokens && first_token", "at.lane == 0 && first_token", HOPPER_MANY, "gemm_decode_wgmma.cu"),
    B("gemm_decode_wgmma.cu", "smem.take<uint8_t>(S::kStages * S::kStageBytes);", "smem.take<uint8_t>(S::kStages * S::kStageBytes - 16 * S::kStages);", HOPPER),
    B("gemm_decode_wgmma.cu", "int i = S::kStages; brings", "int i = S::kStages + 1; brings", HOPPER),
    B("gemm_decode_wgmma.cu", "own * a_place}", "own * a_place - 1}", HOPPER),
    B("gemm_decode_wgmma.cu", "registers_take<232>", "registers_take<240>", HOPPER),
    B("gemm_decode_wgmma.cu", "registers_give<40>", "registers_give<48>", HOPPER),
    B("gemm_decode_wgmma.cu", "int(p.w.stride + kRowBytes - 1) / kRowBytes;", "int(p.w.stride) / kRowBytes;", HOPPER),
    B("gemm_decode_wgmma.cu", "p.grid_rows, p.w.k, p.a_stride * 2", "p.grid_rows, p.w.k, p.w.cols * 2", HOPPER),
    # clusters: who brings what to whom, and who waits for it
    B("gemm_decode_wgmma.cu", "kGroups * 4 * ring.cluster", "kGroups * 4", CLUSTER),
    B("gemm_decode_wgmma.cu", "if constexpr (S::kShares) cluster_arrive();", "", CLUSTER),
    B("gemm_decode_wgmma.cu", "if constexpr (S::kShares) cluster_wait();", "", CLUSTER),
    B("gemm_decode_wgmma.cu", "if constexpr (S::kShares) cluster_wait();\n  pdl_wait();\n  if (brings) {\n    for (int i = 0; i < first; ++i) bring_tokens<S>(activations, ring, plan, i);\n  }", "pdl_wait();\n  if (brings) {\n    for (int i = 0; i < first; ++i) bring_tokens<S>(activations, ring, plan, i);\n  }\n  if constexpr (S::kShares) cluster_wait();", CLUSTER),
    B("gemm_decode_wgmma.cu", "mbarrier_init_done();\n  }\n  block_sync();\n  if constexpr (S::kShares) cluster_arrive();", "}\n  if constexpr (S::kShares) cluster_arrive();\n  if (threadIdx.x == 0) mbarrier_init_done();\n  block_sync();", CLUSTER),
    B("gemm_decode_wgmma.cu", "cluster_arrive();\n    cluster_wait();\n  }\n#endif", "}\n#endif", CLUSTER),
    B("gemm_decode_wgmma.cu", "cluster_arrive();\n    cluster_wait();\n  }\n#endif", "cluster_arrive();\n  }\n#endif", CLUSTER),
    B("gemm_decode_wgmma.cu", "mbarrier_arrive_peer(empty + i % S::kStages, lane);", "mbarrier_arrive_peer(empty + i % S::kStages, int(blockIdx.y) % cluster);", CLUSTER),
    B("gemm_decode_wgmma.cu", "if (lane >= cluster) return;", "if (lane >= (cluster + 1) / 2) return;", CLUSTER),
    B("gemm_decode_wgmma.cu", "mbarrier_arrive_expect(ring.full_of(i), S::kStageBytes);", "mbarrier_arrive_expect(ring.full_of(i), S::kWeightBytes + S::kBlocks * S::kTokenBytes / ring.cluster);", CLUSTER),
    B("gemm_decode_wgmma.cu", "(1 << ring.cluster) - 1", "1 << int(blockIdx.y) % ring.cluster", CLUSTER),
    B("gemm_decode_wgmma.cu", "(1 << ring.cluster) - 1", "(1 << ring.cluster) - 2", CLUSTER),
    B("gemm_decode_wgmma.cu", "(1 << ring.cluster) - 1", "(2 << ring.cluster) - 1", CLUSTER),
    B("gemm_decode_wgmma.cu", "const int first = int(blockIdx.y) % ring.cluster * share;", "const int first = 0;", CLUSTER),
    B("gemm_decode_wgmma.cu", "to + first * kRowBytes", "to", CLUSTER),
    B("gemm_decode_wgmma.cu", "plan.first_token + first, ring", "plan.first_token, ring", CLUSTER),
    B("gemm_decode_wgmma.cu", "p.a_stride * 2}, share, &activations", "p.a_stride * 2}, s.kTokens, &activations", CLUSTER),
    B("gemm_decode_wgmma.cu", "(split.places - leader + int(gridDim.y) - 1)", "(split.places - int(blockIdx.y) + int(gridDim.y) - 1)", CLUSTER),
    B("gemm_decode_wgmma.cu", "(places + cluster - 1) / cluster", "places / cluster", CLUSTER),
    B("gemm_decode_wgmma.cu", "dim3(unsigned(x), unsigned(y))", "dim3(unsigned(x), unsigned(places))", CLUSTER),
    B("gemm_decode_wgmma.cu", "load(Shape<fp8.value, 1, 128, paired.value>());", "", {"ops": ["wgmma products gemm 70x150"]}),
    B("gemm_decode_wgmma.cu", "load(Shape<fp8.value, 2, 128, paired.value>());", "", {"ops": ["5 multiprocessors gemm 130x150"]}),
    B("gemm_decode_wgmma.cu", "for (int k = 0; k < 4; ++k) {\n        wgmma_bf16<true>(sum, own[k], wgmma_advance(b, k * 32), begun || k > 0);", "for (int j = 0; j < 4; ++j) {\n        const int k = S::kTokens == 32 ? 3 - j : j;\n        wgmma_bf16<true>(sum, own[k], wgmma_advance(b, k * 32), begun || j > 0);", HOPPER_ROWS),
    B("gemm_prompt.cu", "block_sync();  // everybody", "// everybody", ATTENTION),
    B("attention_decode.cu", "warp_sync();  // the warp", "// the warp", ATTENTION),
    B("attention_decode.cu", "block_sync();\n    merge_warps<kDim>", "merge_warps<kDim>", ATTENTION),
    B("attention_decode.cu", "block_sync();\n  for (int u = int(threadIdx.x) * 4", "for (int u = int(threadIdx.x) * 4", PIECES),
    B("attention_decode.cu", "if (of_row > 1 && last_arrival(p.arrivals + unit.counter, uint32_t(of_row), reinterpret_cast<uint32_t*>(sums))) {", "if (of_row > 1) {", PIECES),
    B("attention_decode.cu", "uint32_t(of_row), reinterpret", "uint32_t(of_row) - 1, reinterpret", PIECES),
    B("attention_decode.cu", "uint32_t(of_row), reinterpret", "uint32_t(unit.row.items), reinterpret", SHARED),
    B("attention_decode.cu", "pdl_wait();\n\n  while", "while", PIECES),
    B("attention_decode.cu", "tiles.load_first(p, unit, mine, true);\n  }\n  pdl_wait();", "tiles.load_first(p, unit, mine, true);\n    tiles.load_first(p, unit, mine, false);\n  }\n  pdl_wait();", EARLY_KEYS),
    B("attention_decode.cu", "mine.key(i) + kKeys <= unit.row.settled;", "mine.key(i) + kKeys <= unit.row.settled + 1;", EARLY_KEYS),
    B("attention_decode.cu", "mine.key(i) + kKeys <= unit.row.settled;", "mine.key(i) <= unit.row.settled;", EARLY_KEYS),
    B("attention_decode.cu", "if (i < mine.count && is_settled == settled)", "if (i < mine.count && is_settled)", EARLY_KEYS),
    B("attention_decode.cu", "mine = share_of(unit, warp);\n      tiles.load_first(p, unit, mine, true);", "mine = share_of(unit, warp);", PIECES),
    B("attention_decode.cu", "if (!settled) cp_async_commit();", "if (settled) cp_async_commit();", ATTENTION),
    B("step_builder.cc", "r.settled = s.first_position;", "r.settled = r.position + 1;", EARLY_KEYS),
    B("attention_decode.cu", "cp_async_wait<0>();\n    block_sync();\n\n    keep", "cp_async_wait<0>();\n    keep", ATTENTION),
    B("attention_prompt.cu", "block_sync();\n    if (i * kKeys", "if (i * kKeys", ATTENTION),
    B("attention_prompt.cu", "block_sync();  // the stage", "// the stage", ATTENTION),
    B("attention_prompt.cu", "cp_async_wait<1>();", "cp_async_wait<2>();", ATTENTION),
    B("attention_prompt_wgmma.cu", "wgmma_wait<1>(s);", "", WGMMA),
    B("attention_prompt_wgmma.cu", "wgmma_wait<0>(s, o, w);", "", WGMMA),
    B("attention_prompt_wgmma.cu", "wgmma_fence(s, o, w);", "", WGMMA),
    B("attention_prompt_wgmma.cu", "wgmma_wait<1>(s);\n    keys.release(i);", "keys.release(i);\n    wgmma_wait<1>(s);", WGMMA),
    B("attention_prompt_wgmma.cu", "mbarrier_wait(full_of(i), i / T::kStages & 1)", "mbarrier_wait(full_of(i), ~(i / T::kStages) & 1)", WGMMA),
    B("attention_prompt_wgmma.cu", "(i / T::kStages - 1) & 1", "(i / T::kStages) & 1", WGMMA),
    B("attention_prompt_wgmma.cu", "values.wait_empty(v);", "", WGMMA),
    B("attention_prompt_wgmma.cu", "ring.wait_empty(half.tile);", "", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "raw.wait_full(n);", "", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "raw.wait_empty(n);", "", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "    raw.release(n);\n", "", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "raw().begin(1, kWidening);", "raw().begin(1, 1);", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "keys().begin(kFp8 ? kWidening : 1,", "keys().begin(1,", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "fence_proxy_async();\n    warp_sync();\n    raw", "warp_sync();\n    raw", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "fence_proxy_async();\n    warp_sync();\n    raw", "fence_proxy_async();\n    raw", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "values.wait_full(i - 1);", "", WGMMA),
    B("attention_prompt_wgmma.cu", "fence_proxy_async();\n    warp_sync();\n    if", "warp_sync();\n    if", WGMMA),
    B("attention_prompt_wgmma.cu", "fence_proxy_async();\n    warp_sync();\n    if", "fence_proxy_async();\n    if", WGMMA),
    B("attention_prompt_wgmma.cu", "mbarrier_init_done();", "", WGMMA),
    B("attention_prompt_wgmma.cu", "smem.take<uint8_t>(R::kTileBytes);", "smem.take<uint8_t>(R::kHalf);", WGMMA),
    B("attention_prompt_wgmma.cu", "wgmma_fence(s, o, w);", "wgmma_fence(s, o);", WGMMA),
    B("attention_prompt_wgmma.cu", "wgmma_fence(o, w);", "wgmma_fence(w);", WGMMA),
    B("attention_prompt_wgmma.cu", "wgmma_wait<0>(s, o, w);", "wgmma_wait<0>(s, w);", WGMMA),
    B("attention_prompt_wgmma.cu", "wgmma_fence(s, o, q);\n  multiply_keys_of(0);", "wgmma_fence(s, o);\n  multiply_keys_of(0);", WGMMA),
    B("sample.cu", "sums.clear(w, i);\n    block_sync();", "sums.clear(w, i);", SAMPLE),
    B("sample.cu", "reinterpret_cast<uintptr_t>(x) % 16 == 0 ? vocab / 4 : 0", "vocab / 4", SAMPLE),
    B("sample.cu", "> 0xffffffffu - low) ++high", "> 0xffffffffu) ++high", SAMPLE),
    B("sample.cu", "w.count[digit] = w.upper[digit] = 0", "w.count[digit] = 0", SAMPLE),
    B("sample.cu", "id = fours * 4 + int(threadIdx.x)", "id = fours * 4 + 4 + int(threadIdx.x)", SAMPLE),
    B("sample.cu", "f(i * 4 + 3, as_float(v.w))", "f(i * 4 + 3, as_float(v.z))", SAMPLE),
    B("block.h", "if (threadIdx.x % 32 == 0) scratch[warp] = v;\n  gpu::block_sync();\n  float sum", "if (threadIdx.x % 32 == 0) scratch[warp] = v;\n  float sum", {"ops": ["rms_norm 333"]}, "elementwise.cu"),
    # bounds
    B("gemm_decode.cu", "row < p.w.rows ? row : p.w.rows - 1", "row", GEMM),
    B("gemm_decode.cu", "const bool real = first_token + n * 8 + g < tokens;", "const bool real = true;", GEMM),
    B("gemm_prompt.cu", "const bool real = first_row + row < p.rows;", "const bool real = true;", ATTENTION),
    B("attention_decode.cu", "const bool real = first + key < end && chunk * 16 < row_bytes;", "const bool real = true;", ATTENTION),
    B("elementwise.cu", "for (int j = int(threadIdx.x); j < cols; j += kThreads) sum", "for (int j = int(threadIdx.x); j <= cols; j += kThreads) sum", {"ops": ["rms_norm 333"]}),
    # arithmetic and places
    B("attention.h", "state.sum[h] = state.sum[h] * by + sum;", "state.sum[h] = state.sum[h] + sum;", ATTENTION, "attention_prompt.cu"),
    B("attention_prompt.cu", "> pairs.position[e / 2]", ">= pairs.position[e / 2]", ATTENTION),
    B("attention_prompt_wgmma.cu", "> pairs.position[e / 2]", ">= pairs.position[e / 2]", WGMMA),
    B("attention_prompt_wgmma.cu", "o[j] *= by[j / 2 % 2]", "o[j] *= by[0]", WGMMA),
    B("attention_prompt_wgmma.cu", "(from ^ turn * 64)", "(from ^ slab * 64)", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "(chunk ^ line) * 16", "(chunk ^ row) * 16", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "row % 2 * 4 + piece", "piece", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "store16(place + (at ^ 16), high);", "store16(place + at + 16, high);", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "if (rows * 8 + row >= end)", "if (rows * 8 + row > end)", WGMMA_FP8_FLAT),
    B("attention_prompt_wgmma.cu", "half.is_values ? context.v_row : context.k_row", "context.k_row", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "if (n == 2 * tiles - 1) return {tiles - 1, true};", "", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "kF16 ? pack_f16(lo, hi) : pack_bf16(lo, hi)", "pack_bf16(lo, hi)", WGMMA_FP8),
    B("attention_prompt_wgmma.cu", "k / 4 * T::kSlabBytes + k % 4 * 32", "k * 32", WGMMA),
    B("attention_prompt_wgmma.cu", "values.tile(i)), T::kSlabBytes, 1024)", "values.tile(i)), 1024, 1024)", WGMMA),
    B("attention_prompt_wgmma.cu", "first = context.end - v * kKeys;", "first = context.end - v * kKeys + 1;", WGMMA),
    B("hopper.h", "| uint64_t(1) << 62", "| uint64_t(1) << 63", WGMMA, "attention_prompt_wgmma.cu"),
    B("attention_decode.cu", "const float by = exp2_fast(item_most - most);", "const float by = 1;", PIECES),
    B("attention_decode.cu", "exp2_fast(own[int64_t(j) * p.q_heads].x - item_most)", "exp2_fast(own[0].x - item_most)", SHARED),
    B("attention_decode.cu", "(i * step + int64_t(j) * p.q_heads) * dim + u", "(i * step + j) * dim + u", SHARED),
    B("attention_decode.cu", "most = fmaxf(most, states[int64_t(i) * q_heads].x);", "most = fmaxf(most, states[0].x);", SHARED),
    B("attention_decode.cu", "const float2 s = states[int64_t(i) * q_heads];", "const float2 s = states[0];", SHARED),
    B("attention_decode.cu", "merge_units<kParts>(p, unit, states);", "merge_units<1>(p, unit, states);", SHARED),
    B("attention_decode.cu", "float2 s = item_state<kOf>(states + i * step + head, p.q_heads);", "float2 s = states[i * step + head];", SHARED),
    B("attention_decode.cu", "m.value = m.value * by + sums", "m.value = m.value + sums", ALONE),
    B("attention_decode.cu", "m.sum = m.sum * by + states", "m.sum = m.sum + states", ALONE),
    B("attention_decode.cu", "for (int w = 0; w < warps; ++w) {", "for (int w = warps - 1; w >= 0; --w) {", ALONE),
    B("attention_decode.cu", "for (int w = 0; w < warps; ++w) {", "for (int w = 0; w < kWarps; ++w) {", ALONE),
    B("attention_decode.cu", "(part_tiles(unit, unit.part) + kVirtualTiles - 1) / kVirtualTiles", "part_tiles(unit, unit.part) / kVirtualTiles", ALONE),
    B("attention_decode.cu", "state.sum[h] += shuffle_xor(state.sum[h], 2);", "", ATTENTION),
    B("attention_decode.cu", "o[i][e] = o[i][e] * by + next.o[i][e] * next_by;", "o[i][e] = o[i][e] * by + next.o[i][e];", ALONE),
    B("attention_decode.cu", "state.sum[h] = state.sum[h] * by + next.state.sum[h] * next_by;", "state.sum[h] = state.sum[h] + next.state.sum[h] * next_by;", ALONE),
    B("attention_decode.cu", "own = Sums<kDim>();", "", ALONE),
    B("attention_decode.cu", "(i % kVirtualTiles == kVirtualTiles - 1 || i == mine.count - 1)", "(i == mine.count - 1)", ALONE),
    B("attention_decode.cu", "(i % kVirtualTiles == kVirtualTiles - 1 || i == mine.count - 1)", "(i % kVirtualTiles == kVirtualTiles - 1)", ALONE),
    B("attention_decode.cu", "if (unit.part >= 0 && count > kVirtualTiles) count = kVirtualTiles;", "", ALONE),
    B("attention_decode.cu", "unit.part < 0 ? 0 : warp * kVirtualTiles;", "unit.part < 0 ? 0 : warp;", ALONE),
    B("attention_decode.cu", "(before * kParts + part) * kKeys", "(before + part) * kKeys", ALONE),
    B("attention_decode.cu", "(tiles - part + kParts - 1) / kParts", "(tiles - part + kParts - 2) / kParts", FLAT_DECODE),
    B("attention_decode.cu", "first_key + i * kParts * kKeys", "first_key + i * kKeys", FLAT_DECODE),
    B("attention_decode.cu", "(int64_t(item) * parts + index % parts) * p.q_heads", "int64_t(item) * parts * p.q_heads", SHARED),
    B("attention_decode.cu", "u.part = parts > 1 ? index % parts : -1;", "u.part = parts > 1 ? 0 : -1;", ALONE),
    B("attention_decode.cu", "if (!is_part && unit.row.items == 1)", "if (unit.row.items == 1)", ALONE),
    B("step_builder.cc", "num_items_ <= model_.split_items && most_items_ <= kMostSplitItems", "most_items_ <= kMostSplitItems", {"kernels": ["shared_where_it_pays"]}),
    B("step_builder.cc", "num_items_ <= model_.split_items && most_items_ <= kMostSplitItems", "num_items_ <= model_.split_items", {"kernels": ["shared_where_it_pays"]}),
    B("step_builder.cc", "most_items_ = std::max(most_items_, r.items);", "most_items_ = r.items;", {"kernels": ["shared_where_it_pays"]}),
    B("attention_decode.cu", "if (head_dim > kMostSplitHead) return 0;", "", {"kernels": ["shared_where_it_pays"]}),
    B("cuda_device.cc", "std::min(split, workspace_.max_items / kDecodeParts)", "split", {"ops": ["emulated 1 MiB"]}),
    B("attention_decode.cu", "sum += s.y * exp2_fast(s.x - most);\n    }\n    sum = warp_sum", "sum += s.y;\n    }\n    sum = warp_sum", PIECES),
    B("attention_decode.cu", "sum += s.y * exp2_fast(s.x - most);", "sum += s.y;", SHARED),
    B("gemm_decode.h", "for (int m = 4; m < 32; m *= 2) squares", "for (int m = 8; m < 32; m *= 2) squares", NORM, "gemm_decode.cu"),
    B("gemm_decode.h", "squares[e % 2] += v * v;", "squares[0] += v * v;", NORM, "gemm_decode.cu"),
    B("gemm_decode.h", "p.squares ? row_scale[in_block] : 1.0f", "1.0f", SPLIT, "gemm_decode.cu"),
    B("gemm_decode.h", "const float all = gpu::warp_sum(sum[u]);", "const float all = sum[u];", NORM, "gemm_decode.cu"),
    B("gemm_decode.h", "gpu::to_bf16(v * out.norm.gain[row])", "gpu::to_bf16(v)", NORM, "gemm_decode.cu"),
    B("epilogue.h", "lo * a.x - hi * a.y", "lo * a.x + hi * a.y", ATTENTION, "gemm_decode.cu"),
    B("gpu.h", "((w >> 4) & 0x07f007f0u)", "((w >> 4) & 0x07e007f0u)", GEMM, "gemm_decode.cu"),
    B("sample.cu", "wanted -= w.chosen[1] < wanted ? w.chosen[1] : wanted - 1;", "", SAMPLE),
    B("sample.cu", "slots[s.slot] = d.finite ? d.id : 0;", "slots[s.slot] = d.id;", SAMPLE),
    B("sample.cu", "v >= threshold ? v + gumbel", "v > threshold ? v + gumbel", SAMPLE),
    # rings, stages, and what is loaded past the end
    B("gemm_decode.cu", "(stage % S::kStages * S::kLoads + S::kWeightLoads)", "(stage % (S::kStages - 1) * S::kLoads + S::kWeightLoads)", GEMM),
    B("gemm_decode.cu", "if (stage + S::kStages - 1 < stages) {", "if (stage + S::kStages < stages) {", GEMM),
    B("gemm_decode.cu", "load_tokens(stage + S::kStages - 1);", "load_tokens(stage + S::kStages - 2);", GEMM),
    B("gemm_decode.cu", "mine = (all - warp + kWarps - 1) / kWarps", "mine = (all - warp + kWarps - 2) / kWarps", GEMM),
    B("gemm_decode.cu", "const uint4* slot = ring + stage % S::kStages", "const uint4* slot = ring + (stage < 8 ? stage : 7) % S::kStages", GEMM),
    B("gemm_prompt.cu", "if (i + S::kStages - 1 < blocks)", "if (i + S::kStages - 1 <= blocks)", PROMPT),
    B("gemm_prompt.cu", "rows = queue + i % S::kStages", "rows = queue + (i < 4 ? i : 0) % S::kStages", PROMPT),
    B("gemm_prompt.cu", "cp_async_wait<S::kStages - 2>();", "cp_async_wait<S::kStages - 1>();", PROMPT),
    B("attention_decode.cu", "const uint4* keys = tiles.stage(i);", "const uint4* keys = tiles.stage(i < 4 ? i : 1);", PIECES),
    B("attention_decode.cu", "cp_async_wait<S::kStages - 2>();", "cp_async_wait<S::kStages - 1>();", ATTENTION),
    B("attention_prompt_wgmma.cu", "mbarrier_wait(full_of(i), i / T::kStages & 1)", "mbarrier_wait(full_of(i), i >= T::kStages)", WGMMA),
    B("attention_prompt_wgmma.cu", "(i / T::kStages - 1) & 1", "(i >= 2 * T::kStages)", WGMMA),
    B("attention_prompt_wgmma.cu", "keys.wait_empty(half.tile);", "", WGMMA),
    B("attention_prompt_wgmma.cu", "keys().begin(kFp8 ? kWidening : 1, kGroups * 4);", "keys().begin(kFp8 ? kWidening : 1, kGroups * 2);", WGMMA),
    B("attention_prompt_wgmma.cu", "keys.release(i);\n    weigh(i);", "weigh(i);", WGMMA),
    B("attention_prompt_wgmma.cu", "mbarrier_wait(rings.last_landed(), 0);", "", WGMMA),
    B("attention_prompt_wgmma.cu", "block_sync();\n\n  const int kv_head", "const int kv_head", WGMMA),
    # turns of the two warpgroups
    B("attention_prompt_wgmma.cu", "turns.begin();", "", TURNS),
    B("attention_prompt_wgmma.cu", "if (own == 1) give();", "give();", TURNS),
    B("attention_prompt_wgmma.cu", "if (own == 0) take();", "", TURNS),
    B("attention_prompt_wgmma.cu", "if (own == 0) take();", "take();", TURNS),
    B("attention_prompt_wgmma.cu", "named_barrier_arrive(2 - own,", "named_barrier_arrive(1 + own,", TURNS),
    B("attention_prompt_wgmma.cu", "named_barrier_arrive(2 - own,", "named_barrier_arrive(1,", TURNS),
    B("attention_prompt_wgmma.cu", "named_barrier_wait(1 + own,", "named_barrier_wait(2 - own,", TURNS),
    B("attention_prompt_wgmma.cu", "named_barrier_wait(1 + own,", "named_barrier_wait(own,", TURNS),
    B("attention_prompt_wgmma.cu", "named_barrier_wait(1 + own, kGroups * kWarpgroup)", "named_barrier_wait(1 + own, kThreads)", TURNS),
    B("attention_prompt_wgmma.cu", "named_barrier_wait(1 + own, kGroups * kWarpgroup)", "named_barrier_wait(1 + own, kWarpgroup)", TURNS),
    B("attention_prompt_wgmma.cu", "named_barrier_arrive(2 - own, kGroups * kWarpgroup)", "named_barrier_arrive(2 - own, kThreads)", TURNS),
    B("attention_prompt_wgmma.cu", "turns.take();\n    wgmma_fence(s, o, w);", "wgmma_fence(s, o, w);", TURNS),
    B("attention_prompt_wgmma.cu", "turns.take();\n  wgmma_fence(s, o, q);", "wgmma_fence(s, o, q);", TURNS),
    B("attention_prompt_wgmma.cu", "multiply_keys_of(0);\n  turns.give();", "multiply_keys_of(0);", TURNS),
    B("attention_prompt_wgmma.cu", "multiply_values_of(i - 1);\n    turns.give();", "multiply_values_of(i - 1);", TURNS),
    B("attention_prompt_wgmma.cu", "multiply_values_of(i - 1);\n    turns.give();", "multiply_values_of(i - 1);\n    if (i + 1 < tiles) turns.give();", TURNS),
    B("attention_prompt_wgmma.cu", "turns.pass(tiles_of(p, tile, kGroups - 1) - tiles);", "", TURNS),
    B("attention_prompt_wgmma.cu", "turns.pass(tiles_of(p, tile, kGroups - 1) - tiles);", "turns.pass(1);", TURNS),
    B("attention_prompt_wgmma.cu", "take();\n      give();", "take();", TURNS),
    B("attention_prompt_wgmma.cu", "take();\n      give();", "give();", TURNS),
    B("attention_prompt_wgmma.cu", "registers_take<224>", "registers_take<232>", WGMMA),
    B("attention_prompt_wgmma.cu", "registers_give<56>", "registers_give<64>", WGMMA),
    # one key, row, tile or column too many or too few
    B("attention_decode.cu", "last_key + 1 < it.first_key + kDecodeChunk ? last_key + 1", "last_key + 1 < it.first_key + kDecodeChunk ? last_key", FLAT_DECODE),
    B("attention_decode.cu", "+ e % 2 >= end)", "+ e % 2 > end)", FLAT_DECODE),
    B("attention_prompt.cu", "(i + 1) * kKeys > tile.first_position)", "(i + 1) * kKeys > tile.first_position + 2)", FLAT),
    B("attention_prompt_wgmma.cu", "(i + 1) * kKeys > tile.first_position)", "(i + 1) * kKeys > tile.first_position + 2)", WGMMA_FLAT),
    B("attention_prompt.cu", "(last_pair < tile.rows ? last_pair : tile.rows - 1) + 1;", "(last_pair < tile.rows ? last_pair : tile.rows - 1);", FLAT),
    B("attention_prompt.cu", "const int last_pair = (warp * 16 + 15) / group;", "const int last_pair = warp * 16 / group;", FLAT),
    B("attention_prompt_wgmma.cu", "const int last_row = (warpgroup * 64 + 63) / (p.q_heads", "const int last_row = warpgroup * 64 / (p.q_heads", WGMMA),
    B("attention_prompt.cu", "const int end = tile.first_position + tile.rows;", "const int end = tile.first_position + tile.rows - 1;", FLAT),
    B("attention_prompt_wgmma.cu", "const int chunks = (kKeys - first) * 8;", "const int chunks = (kKeys - first) * 8 - 8;", WGMMA_FLAT),
    B("attention_prompt_wgmma.cu", "first_block + b < last_block ? first_block + b : last_block", "first_block + b", WGMMA,
      blind="reads on in the metadata; what the block holds that it names is masked or zeroed"),
    B("gemm_decode.cu", "paired ? (p.w.rows / out.segment_rows) * out.segment_tiles : (p.w.rows + 15) / 16", "paired ? (p.w.rows / out.segment_rows) * out.segment_tiles : p.w.rows / 16", GEMM),
    B("gemm_decode.h", "if (in_segment >= out.lower_rows || row >= p.w.rows) return;", "if (row >= p.w.rows) return;", MLP, "gemm_decode.cu"),
    B("gemm_decode.h", "&& tile < norm_tiles(p.w.rows))", ")", SPLIT, "gemm_decode.cu"),
    B("gemm_decode.h", "&& tile < norm_tiles(p.w.rows))", ")", SPLIT, "gemm_decode_wide.cu"),
    B("gemm_decode.h", "for (int j = at.lane; j < tiles; j += 32)", "for (int j = at.lane; j < tiles && j < 32; j += 32)", NORM, "gemm_decode.cu"),
    B("elementwise.cu", "for (int i = int(threadIdx.x) * 8; i < k; i += kThreads * 8) {\n    const uint4 v = load16(in + i);\n    const uint32_t pairs", "for (int i = int(threadIdx.x) * 8; i < k - 64; i += kThreads * 8) {\n    const uint4 v = load16(in + i);\n    const uint32_t pairs", LIBRARY),
    # places that 32 bits do not hold
    B("attention.h", "(int64_t(block) * kv.kv_heads + kv_head)", "(block * kv.kv_heads + kv_head)", FAR, "attention_decode.cu"),
    B("attention.h", "(int64_t(block) * kv.kv_heads + kv_head)", "(block * kv.kv_heads + kv_head)", FAR, "attention_prompt.cu"),
    B("epilogue.h", "(int64_t(kv_slot / p.kv.block_size) * kv_heads", "(kv_slot / p.kv.block_size * kv_heads", FAR, "elementwise.cu"),
    B("gemm_decode.cu", "uint32_t(int64_t(real) * p.w.stride / 16 + at.t)", "uint32_t(real) * uint32_t(p.w.stride) / 16 + at.t", FAR),
    B("gemm_decode.cu", "int64_t(weights[r][h] + block) * 16;", "(weights[r][h] + block) * 16;", FAR),
    B("gemm_decode_wide.cu", "uint32_t(int64_t(real) * p.w.stride / 16 + chunk % S::kRowChunks)", "uint32_t(real) * uint32_t(p.w.stride) / 16 + chunk % S::kRowChunks", FAR),
    B("gemm_decode_wide.cu", "int64_t(weights[i] + uint32_t(block * S::kRowChunks)) * 16", "(weights[i] + uint32_t(block * S::kRowChunks)) * 16", FAR),
    # the wrong row, head, group, unit or scale
    B("gemm_decode.h", "p.squares[int64_t(first_token + i) * tiles + j]", "p.squares[int64_t(i) * tiles + j]", SPLIT, "gemm_decode.cu"),
    B("gemm_decode.h", "p.squares[int64_t(first_token + i) * tiles + j]", "p.squares[int64_t(i) * tiles + j]", SPLIT, "gemm_decode_wide.cu"),
    B("gemm_decode.h", "i < kTokens && first_token + i < tokens", "i < 8 && first_token + i < tokens", NORM, "gemm_decode.cu"),
    B("gemm_decode.h", "hi *= p.w.scale[row + out.pair_offset];", "hi *= p.w.scale[row];", MLP, "gemm_decode.cu"),
    B("gemm_decode.cu", "load16(shared + (w * kTiles + i) * 32 + lane)", "load16(shared + ((w + int(blockIdx.x)) % kWarps * kTiles + i) * 32 + lane)", ROWS),
    B("gemm_decode.cu", "load16(shared + (w * kTiles + i) * 32 + lane)", "load16(shared + ((w + int(gridDim.x)) % kWarps * kTiles + i) * 32 + lane)", ROWS),
    B("gemm_decode.h", "store_rotated(out.rope, token, slot, row / dim,", "store_rotated(out.rope, token, slot, row / (dim + 1),", GROUPS, "gemm_decode.cu"),
    B("gemm_prompt.cu", "h == 0 ? 8 : 0", "h == 0 ? 0 : 8", PROMPT),
    B("gemm_decode.h", "a[i / 2][i % 2 * 2 + r]", "a[i / 2][(1 - i % 2) * 2 + r]", GEMM, "gemm_decode.cu"),
    B("elementwise.cu", "four(lo.x, hi.x), four(lo.y, hi.y)", "four(lo.x, lo.y), four(hi.x, hi.y)", LIBRARY),
    B("elementwise.cu", "e4m3_even_to_bf16(v.y), e4m3_even_to_bf16(v.z)", "e4m3_even_to_bf16(v.z), e4m3_even_to_bf16(v.y)", LIBRARY),
    B("gemm_prompt.cu", "p.w.scale[weight]", "p.w.scale[weight % kTile]", PROMPT),
    B("attention_decode.cu", "kv_head = whole / head_tiles % kv_heads;", "kv_head = whole % kv_heads;", GROUPS),
    B("attention_decode.cu", "const int first_head = whole % head_tiles * kHeads;", "const int first_head = 0;", GROUPS),
    B("attention_decode.cu", "group - first_head < kHeads ? group - first_head : kHeads;", "group < kHeads ? group : kHeads;", GROUPS),
    B("attention_decode.cu", "* head_tiles + whole % head_tiles;", "* head_tiles;", GROUPS),
    B("attention_decode.cu", "(int64_t(it.row) * kv_heads + kv_head) * head_tiles", "int64_t(kv_head) * head_tiles", PIECES),
    B("attention_decode.cu", "(int64_t(it.row) * kv_heads + kv_head) * head_tiles", "int64_t(it.row) * head_tiles", PIECES),
    B("attention_decode.cu", "int64_t(row.first_item - p.first_item) * parts", "int64_t(row.first_item) * parts", PIECES),
    B("attention_decode.cu", "p.step->items)[p.first_item + item]", "p.step->items)[item]", PIECES),
    B("attention_decode.cu", "const int64_t step = int64_t(kOf) * p.q_heads;", "const int64_t step = int64_t(kOf) * heads;", PIECES),
    B("attention_decode.cu", "(int64_t(item) * parts + index % parts)", "(int64_t(it.row) * parts + index % parts)", PIECES),
    B("attention_decode.cu", "block_sync();\n    index += int(gridDim.x);", "index += int(gridDim.x);", PIECES),
    B("attention_decode.cu", "m.sum += states[at * 2 + 1] * by;", "m.sum += states[at * 2 + 1];", ATTENTION),
    B("attention.h", "o[i][2 * h + 1] *= by;", "", ATTENTION, "attention_decode.cu"),
    B("attention.h", "const float by = gpu::exp2_fast(state.most[h] - most);", "const float by = gpu::exp2_fast(state.most[0] - most);", ATTENTION, "attention_prompt.cu"),
    B("attention_prompt.cu", "kv_head * group + (pair + 8 * h) % group;", "kv_head * group + pair % group;", GROUPS),
    B("attention_prompt_wgmma.cu", "kv_head * group + pair % group;", "kv_head * group + (pair - 8 * h) % group;", WGMMA_GROUPS),
    B("attention_prompt_wgmma.cu", "(context.table[block] * p.kv.kv_heads + context.kv_head) * lines", "(context.table[block] * p.kv.kv_heads) * lines", WGMMA_GROUPS),
    B("attention_prompt.cu", "p.scale * kLog2e * p.kv.k_scale", "p.scale * kLog2e", ATTENTION),
    B("epilogue.h", "const float scale = is_k ? p.kv.k_scale : p.kv.v_scale;", "const float scale = p.kv.k_scale;", ATTENTION, "elementwise.cu"),
    B("elementwise.cu", "p.row_scale ? p.row_scale[blockIdx.x] : 1.0f", "p.row_scale ? p.row_scale[row] : 1.0f", LIBRARY),
    B("elementwise.cu", "row_scale ? row_scale[row] : 1.0f", "row_scale ? row_scale[0] : 1.0f", LIBRARY),
    B("elementwise.cu", "(row_scale ? row_scale[blockIdx.y] : 1.0f)", "(row_scale ? row_scale[0] : 1.0f)", LIBRARY),
    B("elementwise.cu", "out + int64_t(row) * w.k);\n  }", "out);\n  }", {"kernels": ["widen"]}),
    B("elementwise.cu", "table.scale ? table.scale[in_table] : 1.0f", "table.scale ? table.scale[row] : 1.0f", EMBED),
    B("elementwise.cu", "p.source_largest ? p.source_largest[row] : block_max(most, scratch)", "block_max(most, scratch)", PACKED),
    B("elementwise.cu", "source_value(in, p.dtype, i) / divisor", "source_value(in, p.dtype, i) * (1.0f / divisor)", PACKED),
    B("elementwise.cu", "most > 0 ? most / 448.0f : 1.0f", "most / 448.0f", PACKED),
    B("elementwise.cu", "p.source_scale[p.source_scales == 1 ? 0 : row]", "p.source_scale[0]", PACK),
    B("elementwise.cu", "(rows ? rows[i] : i) * cols", "(i) * cols", EMBED),
    B("elementwise.cu", "sincosf(position * inv_freq[i], &s, &c);", "sincosf(position * inv_freq[0], &s, &c);", ATTENTION),
    # the sampler
    B("sample.cu", "ballot(before + sum >= wanted)", "ballot(before + sum > wanted)", SAMPLE),
    B("sample.cu", "if (known > 0 && key >> (32 - known) != prefix) return;", "", SAMPLE),
    B("sample.cu", "(v == own && i < id)", "(v == own && i <= id)", SAMPLE),
    B("sample.cu", "SampleOutput* out = p.out + place;", "SampleOutput* out = p.out + row;", STEPS),
    B("sample.cu", "step_array<SampleRow>(header, header->sample_rows)[place]", "step_array<SampleRow>(header, header->sample_rows)[row]", STEPS),
    B("sample.cu", "if (s.min_p > 0) threshold = fmaxf(threshold, top + s.log_min_p);", "if (s.min_p > 0) threshold = top + s.log_min_p;", {"ops": ["sample filters meet"]}),
    B("sample.cu", "undo += s.num_counts;", "", SAMPLE),
    B("sample.cu", "c < previous && c > next", "c <= previous && c > next", SAMPLE),
    B("sample.cu", "block_sync();\n  const int above = int(w.found[0]);", "const int above = int(w.found[0]);", SAMPLE),
    # weights on their way to the device
    B("weights.cc", "if (Status read = p.stored->read(at, n, s->pinned); !read) return read;", "static_cast<void>(p.stored->read(at, n, s->pinned));", {"kernels": ["stored_rows"]}),
    B("weights.cc", "p.stored->read(at, n, s->pinned)", "p.stored->read(at, n - 1, s->pinned)", {"kernels": ["stored_rows"]}),
    # the host's side of a step
    B("graphs.cc", "rows <= 64 ? up(8)", "rows <= 64 ? rows / 8 * 8", STEPS),
    B("graphs.cc", "(rows == 3 ? 4 : rows)", "(rows == 3 ? 2 : rows)", STEPS),
    B("graphs.cc", "if (g.ops != ops) {", "if (g.ops.size() != ops.size()) {", STEPS),
    B("cuda_device.cc", "bucket().rows > workspace_.limits.max_rows ||", "", STEPS),
    B("cuda_device.cc", "builder_.generation() + workspace_.generation() + results_.generation()", "workspace_.generation() + results_.generation()", GROWTH),
    B("cuda_device.cc", "builder_.generation() + workspace_.generation() + results_.generation()", "builder_.generation() + workspace_.generation()", GROWTH,
      blind="graphs write there only for a token that is outside the vocabulary"),
    B("cuda_device.cc", "recording_ = false;\n  builder_.copy();\n  context_.check(cudaGraphLaunch", "recording_ = false;\n  context_.check(cudaGraphLaunch", STEPS),
    B("cuda_device.cc", "for (Op& op : recorded_) op.n = rows_;", "", STEPS),
    B("sample_builder.cc", "aligned(s.banned.size() * 4)", "0", SAMPLE),
    B("sample_builder.cc", "aligned(s.bias.size() * sizeof(SampleBias))", "0", SAMPLE),
    B("sample_builder.cc", "aligned((s.counts.size() + s.bias.size() + s.banned.size()) * 4)", "0", SAMPLE),
    B("step_builder.cc", "size_t((s.first_position + i) / kDecodeChunk + 1)", "size_t((s.first_position + i) / kDecodeChunk)", PIECES),
    B("metadata.cc", "host_, copied_, cudaMemcpyHostToDevice", "host_, copied_ - 16, cudaMemcpyHostToDevice", SAMPLE),
    B("metadata.cc", "++generation_;", "", GROWTH),
    B("metadata.cc", "return context_->meet();", "return true;", {"device": ["memory_is_taken"]}),
    B("graphs.cc", "if (graph) cudaGraphDestroy(graph); context_->meet();", "if (graph) cudaGraphDestroy(graph);", {"device": ["graphs_are_made"]}),
    B("graphs.cc", "cudaGraphExecDestroy(exec); context_->meet();", "cudaGraphExecDestroy(exec);", {"device": ["graphs_are_dropped"]}),
    B("graphs.cc", "destroy_all(); context_->meet();", "destroy_all();", {"device": ["graphs_are_dropped"]}),
    B("graphs.cc", "context_->ok() ? g.exec : nullptr", "g.exec", {"device": ["a_graph_is_not_launched"]}),
    B("ranks.cc", "if (is_early_) early_group.leave();", "", {"device": ["one_group_at_a_time"]}),
    B("ranks.cc", "if (std::exchange(is_told_, true)) return;", "if (group_->ended()) return;", {"device": ["kernels_are_told"]}),
    B("workspace.cc", "all += n.bytes;", "all = n.bytes;", {"device": ["workspace_is_what"]}),
    B("metadata.cc", "turn_ = (turn_ + 1) % kMaxStepsInFlight;", "turn_ = 0;", MODEL),
    B("step_builder.cc", "passes_.back().items + r.items > model_.max_items", "false", PIECES),
    B("step_builder.cc", "passes_.push_back({r.first_item, 0});", "passes_.push_back({0, 0});", PIECES),
    B("step_builder.cc", "head_host_ + size_t(head_turn_++) * kMaxHeadRows", "head_host_", STEPS),
    B("step_builder.cc", "s.first_position + at, table}", "s.first_position + at, 0}", ATTENTION),
    B("step_builder.cc", "s.first_position + at, table}", "s.first_position, table}", ATTENTION),
    B("results.cc", "kSamplesOffset) + w.first", "kSamplesOffset)", STEPS),
    B("results.cc", "size_t(w.first + w.n)", "size_t(w.n)", STEPS),
    B("results.cc", "turns_[waited_++ % kMaxStepsInFlight]", "turns_[++waited_ % kMaxStepsInFlight]", MODEL),
    B("results.cc", "if (!context_->check(cudaEventSynchronize(t.done), \"running on the GPU\")) return;", "", STEPS),
    B("results.cc", "++generation_;", "", GROWTH,
      blind="graphs write there only for a token that is outside the vocabulary"),
    B("workspace.cc", "head * 2 * size_t(kv.kv_heads_before(i));", "head * size_t(kv.kv_heads_before(i));", MODEL),
    B("workspace.cc", "kv.k_scale.empty() ? 1.0f : kv.k_scale[size_t(i)]", "kv.k_scale.empty() ? 1.0f : kv.k_scale[0]", ATTENTION,
      blind="who stores and who reads agree: a BF16 cache hides it, an FP8 one rounds alike"),
    B("workspace.cc", "{&Workspace::arrivals, rows * heads * sizeof(uint32_t)}", "{&Workspace::arrivals, heads * sizeof(uint32_t)}", PIECES),
    B("workspace.cc", "rows * size_t(norm_tiles(step.hidden)) * sizeof(float)", "rows * size_t(step.hidden / 16) * sizeof(float)", NORM),
    B("step_ops.cc", "begun_gain_ && begun_x_ == op.in && begun_gain_ == op.gain", "begun_gain_ && begun_x_ == op.in", NORM),
    B("step_ops.cc", "static_cast<const float*>(op.in) + int64_t(first) * w.cols", "static_cast<const float*>(op.in)", ATTENTION),
    B("step_ops.cc", "rope.first_row = at;", "rope.first_row = generated;", PIECES),
    B("step_ops.cc", "const int32_t n = std::min(kPromptSlice, op.n - at);", "const int32_t n = op.n - at;", PROMPT),
    B("step_ops.cc", "silu_mul(queue(), {product, stride, w.scale, row_scale, n, inner, to});", "silu_mul(queue(), {product, stride, w.scale, row_scale, n, inner, h});", PROMPT),
    B("step_ops.cc", "p.items = pass.items;", "", PIECES),
    B("products.cc", "if (widened_ != p.w.data)", "if (!widened_)", LIBRARY),
    B("products.cc", "widened_ = nullptr;\n    auto* scale", "auto* scale", LIBRARY),
    B("products.cc", "slice.a = p.a + at * p.a_stride;", "slice.a = p.a;", PRODUCTS),
    B("products.cc", "l.add = !scaled;", "l.add = true;", LIBRARY),
    B("products.cc", "o.rest = workspace_ + widened_bytes(p.w);", "o.rest = workspace_;", LIBRARY),
    B("products.cc", "reinterpret_cast<float*>(workspace_ + rounded_bytes(p.w))", "reinterpret_cast<float*>(workspace_)", LIBRARY),
    B("cublaslt.cc", "uint64_t(p.k), uint64_t(rows), p.a_stride", "uint64_t(p.k), uint64_t(rows), p.weights", LIBRARY),
    B("cublaslt.cc", "uint64_t(p.weights), uint64_t(rows), p.stride", "uint64_t(p.weights), uint64_t(rows), p.weights", LIBRARY),
    B("cublaslt.cc", "&& result.workspace == 0;", ";", PRODUCTS),
    B("cublaslt.cc", "split > 1)", "split > 8)", PRODUCTS),
    B("cublaslt.cc", "std::all_of(std::begin(kCheckedRows), std::end(kCheckedRows), takes) && takes(p.rows)", "takes(p.rows)", PRODUCTS),
    B("cublaslt.cc", "p.add ? 1.0f : 0.0f", "0.0f", LIBRARY),
    B("context.cc", "check(cudaEventSynchronize(s.free), \"waiting for a transfer\");", "", ATTENTION),
    B("context.cc", "check(cudaEventRecord(s->free, queue_.stream), \"marking a transfer\");", "", ATTENTION),
    B("weights.cc", "args.out += p.rows * m.stride;", "args.out += parts[0].rows * m.stride;", PACK),
    B("weights.cc", "if (args.out_scale) args.out_scale += p.rows;", "", PACK),
    B("weights.cc", "p.scale.size() == 1 ? 0 : size_t(at)", "0", PACK, blind="pieces of a matrix begin past its first 32 MiB: too much for the emulator"),
    B("tensor_map.cc", "cuuint64_t(m.stride)", "cuuint64_t(m.stride * 2)", WGMMA),
    B("ranks.cu", "store4_peer(&own->turn, turn.number + 1);", "", RANKS),
    B("ranks.cu", "} await_greetings(peers, turn); end_turn(peers, turn, flag); } // This rank's columns", "} end_turn(peers, turn, flag); } // This rank's columns", {"ranks": ["ranks_gather"]}),
    B("ranks.cu", "} await_greetings(peers, turn); end_turn(peers, turn, flag); } // The slot of", "} end_turn(peers, turn, flag); } // The slot of", {"ranks": ["ranks_share"]}),
    B("ranks.cu", "if (!told) await_greetings(peers, s.turn);", "", {"ranks": ["ranks_add"]}),
    B("ranks.cu", "(turn % 2 * kMostRanks + unsigned(from)) * 4", "unsigned(from) * 4", RANKS),
    B("ranks.cu", "return {number, ended == 0};", "return {number, true};", WAITS),
    B("ranks.cu", "word == kNotCome ? 0x7fffffffu : word", "word", RANKS,
      blind="no arithmetic makes that NaN, and tests have none of it"),
    B("ranks.cu", "store16_peer(at, uint4{kNotCome, kNotCome, kNotCome, kNotCome});", "", RANKS),
    B("ranks.cu", "store4_peer(at, kNotCome);", "", RANKS),
    B("ranks.cu", "q.tile * s.p.peers.ranks / s.tiles", "q.tile % s.p.peers.ranks", RANKS),
    B("ranks.cu", "(s.tiles + ranks - 1) / ranks; return", "s.tiles / ranks; return", RANKS),
    B("ranks.cu", "if (s.p.fresh) return sum;", "", RANKS),
    B("ranks.cu", "for (int r = 0; mine && r < p.peers.ranks; ++r)", "for (int r = p.peers.ranks - 1; mine && r >= 0; --r)", RANKS),
    B("ranks.cu", "(int64_t(r) * s.quads + index) * 4", "(int64_t(r) * s.quads + q.row) * 4", RANKS),
    B("ranks.cu", "in_turn + (in_turn >= p.peers.rank ? 1 : 0)", "in_turn", RANKS),
    B("ranks.cu", "column < p.first_col ? column : column + p.cols", "column", RANKS),
    B("ranks.cu", "(rows - p.peers.rank + p.peers.ranks - 1) / p.peers.ranks", "rows / p.peers.ranks", RANKS),
    B("ranks.cu", "if (i + u * step >= all.sent()) break;", "", RANKS),
    B("ranks.cu", "all.sent(i + u * step)));", "all.sent(i)));", RANKS,
      blind="a row of threads is longer than what the emulation sends"),
    B("ranks.cu", "if (first + column >= end) return;", "", RANKS),
    B("ranks.cu", "row % ranks != p.peers.rank) return;", "false) return;", RANKS),
    B("ranks.cu", "column < p.cols ?", "column < width ?", RANKS),
    B("ranks.cu", "slot < 0 ? 0 : p.slots[slot]", "p.slots[slot]", RANKS),
    B("ranks.cu", "if (slot >= 0) p.slots[slot]", "p.slots[slot]", RANKS),
    B("ranks.cu", "now - *since < p.patience_ns", "true", WAITS),
    B("ranks.cu", "store4_peer(&p.stopped[1], 1);", "", WAITS),
    # one product for all rows of a step, and its graphs
    B("attention_prompt.cu", "if (int(blockIdx.x) > last) return pdl_wait();", "", MIXED),
    B("attention_prompt.cu", "if (int(blockIdx.x) > last) return pdl_wait();", "if (int(blockIdx.x) > last) return;", MIXED),
    B("attention_prompt.cu", "[last - int(blockIdx.x)]", "[gridDim.x - 1 - blockIdx.x]", MIXED),
    B("attention_prompt_wgmma.cu", "if (int(blockIdx.x) > last) return pdl_wait();", "", MIXED),
    B("attention_prompt_wgmma.cu", "[last - int(blockIdx.x)]", "[gridDim.x - 1 - blockIdx.x]", MIXED),
    B("step_ops.cc", "? &builder_->device()->rows : nullptr", "? &builder_->device()->generated_rows : nullptr", MIXED),
    B("step_ops.cc", "bucket > 0 || all_rows_ ? rows", "all_rows_ ? rows", MODEL),
    B("cuda_device.cc", "(!rows_from_zero(rows) || bucket().rows > ranks_.logit_rows(op.cols))", "false", MIXED),
    B("cuda_device.cc", "in.num_generated_rows == rows_ || ops_.multiplies_all_rows()", "true", MODEL),
    B("cuda_device.cc", "ops_.begin(bucket.rows, bucket.tiles);", "ops_.begin(bucket.rows, builder_.header().prompt_tiles);", MIXED),
    B("graphs.cc", "tiles <= 0 ? 0 : int32_t(std::bit_ceil(uint32_t(tiles)))", "0", MIXED),
    B("graphs.cc", "if (graphs_.size() <= kMost) return;", "return;", {"kernels": ["graphs_make_room"]}),
    B("graphs.cc", "g.asked = ++times_asked_;", "", {"kernels": ["graphs_make_room"]}),
    B("graphs.cc", "graphs_[{bucket, ops.size()}]", "graphs_[{{bucket.rows, 0}, ops.size()}]", MIXED),
    B("gemm_decode.cu", "return queue.shared_limit >= size_t(Shape<false, 4, 8, false>::kBytes);", "return true;", SMALL),
    B("gemm_decode.cu", "{8, 16, 32, 64}) {", "{8, 16, 32}) {", SMALL),
]


class Suites:
    """How each suite's executable is linked, the mutant's object before the archive that holds the right one."""

    def __init__(self, build):
        emu = build + "/test/emu"
        bench = emu + "/CMakeFiles/emulated_gpu_bench.dir/__/__/bench/gpu"
        self.archives = [f"{emu}/lib{name}.a" for name in ("emu_op_cases", "nemotron_cuda_emulated")]
        self.archives += [build + "/libnemotron_engine.a", emu + "/libnemotron_emu.a"]
        self.objects = {
            name: [f"{emu}/CMakeFiles/emulated_{name}_test.dir/{name}_test.cc.o"]
            for name in ("ops", "kernels", "products", "device", "ranks")
        }
        self.objects["model"] = sorted(glob.glob(build + "/test/cuda/CMakeFiles/emulated_model_test.dir/*.o"))
        self.objects["bench"] = sorted(glob.glob(bench + "/*.o"))
        self.executables = {name: f"{emu}/emulated_{name}_test" for name in self.objects if name != "bench"}
        self.executables["model"] = build + "/test/cuda/emulated_model_test"
        self.cublaslt = next(iter(glob.glob(build + "/**/libfake_cublaslt.so", recursive=True)), "")

    def link(self, name, mutant, out):
        libraries = ["-lpthread", "-ldl", "-rdynamic"]
        return ["g++", mutant, *self.objects[name], *self.archives, *libraries, "-o", out]

    def run(self, name, executable, cases):
        """(found, what) of the cases, or None where none of them ran."""
        environment = dict(os.environ, NEMOTRON_CUBLASLT=self.cublaslt if name == "bench" else "none")
        arguments = ["--tiny"] if name == "bench" else [c for c in cases if c]
        process = subprocess.Popen([executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="replace", env=environment)
        late = threading.Timer(1200, process.kill)
        late.start()
        what, ran = "", False
        for line in process.stdout:
            if not what and (".cc:" in line or "rror" in line):
                what = line.strip()
            counts = re.fullmatch(r"(\d+) passed, (\d+) failed", line.strip())
            ran = ran or (counts is not None and (counts[1], counts[2]) != ("0", "0"))
            if line.startswith("FAILED "):  # enough
                process.kill()
                process.wait()
                late.cancel()
                return True, what or line.strip()
        status = process.wait()
        never_ends = not late.is_alive()
        late.cancel()
        if never_ends:
            return True, "never ends"
        if status < 0:
            return True, "ended by " + signal.Signals(-status).name
        if name == "bench":
            return status != 0, what or f"exit {status}"
        return (status != 0, what or f"exit {status}") if ran else None


def replaced(text, old, new):
    """The first place of `old`, however it is broken into lines, replaced; None when there is none."""
    pattern = r"\s+".join(re.escape(word) for word in old.split())
    changed, n = re.subn(pattern, lambda _: new, text, count=1)
    return changed if n else None


def compile_mutant(b, tree):
    """The object of the broken file; or None, and why."""
    unit = b.unit or b.file
    os.makedirs(tree + "/cuda")
    # A copy of the headers and the one file, found before the originals.
    for path in glob.glob(ROOT + "/cuda/*.h") + [ROOT + "/cuda/" + unit]:
        text = open(path).read()
        if os.path.basename(path) == b.file:
            text = replaced(text, b.old, b.new)
            if text is None:
                return None, "there is no such place"
        open(tree + "/cuda/" + os.path.basename(path), "w").write(text)
    kernel = ["-fsanitize=thread", "-g1"] if unit.endswith(".cu") else []
    command = ["g++", "-x", "c++", "-std=c++20", "-O1", "-w", "-ffp-contract=off", *kernel,
               '-DNEMOTRON_CUDA_ARCHITECTURES="emulated, as 90a"', "-I" + tree, "-I" + ROOT + "/test/emu",
               "-I" + ROOT, "-I" + ROOT + "/addon", "-c", tree + "/cuda/" + unit, "-o", tree + "/mutant.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    return (tree + "/mutant.o", "") if done.returncode == 0 else (None, done.stderr[-2000:])


def try_break(b, suites, tree, everywhere):
    """"found in ...", "SURVIVED" or "BROKEN", and what was seen."""
    mutant, why = compile_mutant(b, tree)
    if not mutant:
        return "BROKEN", why
    plan = list(b.cases.items())
    if everywhere:
        plan += [(name, [""]) for name in suites.objects]
    for name, cases in plan:
        executable = f"{tree}/{name}"
        if not os.path.exists(executable):
            linked = subprocess.run(suites.link(name, mutant, executable), capture_output=True, text=True)
            if linked.returncode != 0:
                return "BROKEN", linked.stderr[-2000:]
        seen = suites.run(name, executable, cases)
        if seen is None:
            return "BROKEN", f"{name} has no case with a name like {', '.join(cases)}"
        if seen[0]:
            return "found in " + name + ("" if (name, cases) in b.cases.items() else ", elsewhere"), seen[1]
    return "SURVIVED", ""


def without_case(suites):
    """The names in BREAKS that no case of their suite has."""
    named = {(name, case) for b in BREAKS for name, cases in b.cases.items() for case in cases}
    there = {name: subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout.splitlines()
             for name, path in suites.executables.items()}
    return sorted((name, case) for name, case in named
                  if name in there and not any(case in one for one in there[name]))


def without_place():
    """The breaks whose line is not there any more."""
    text = {b.file: open(os.path.join(ROOT, "cuda", b.file)).read() for b in BREAKS}
    return [b for b in BREAKS if replaced(text[b.file], b.old, b.new) in (None, text[b.file])]


def check_names(build):
    """Whether every break has its place and, where there is a build, its cases."""
    lost, unknown = without_place(), without_case(Suites(build)) if build else []
    for b in lost:
        print(f"{b.file} has no place for this break: {b.old!r}")
    for name, case in unknown:
        print(f"{name} has no case with a name like {case!r}")
    print(f"{len(BREAKS)} breaks, {len(lost)} without a place, {len(unknown)} names without a case")
    return not lost and not unknown


def main():
    everywhere, places = "--everywhere" in sys.argv, "--places" in sys.argv
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    build = os.path.abspath(arguments[0]) if arguments else ""
    if not check_names(build):
        return 1
    if places:
        return 0
    suites = Suites(build)
    wanted = arguments[1:]
    count = {"found": 0, "blind": 0, "SURVIVED": 0, "BROKEN": 0}
    first = lambda text: text.strip().splitlines()[0] if text.strip() else "(nothing)"
    label = lambda b: f"{b.file}: {first(b.old)}  ->  {first(b.new)}"

    def attempt(b):
        with tempfile.TemporaryDirectory() as tree:
            return try_break(b, suites, tree, everywhere)

    chosen = [b for b in BREAKS if not wanted or any(w in label(b) for w in wanted)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for b, (verdict, what) in zip(chosen, pool.map(attempt, chosen)):
            if verdict == "SURVIVED" and b.blind:
                verdict, what = "blind", b.blind
            count[verdict.split()[0]] += 1
            print(f"{verdict:<8} {label(b)}" + (f"\n           {what[:200]}" if what else ""), flush=True)
    print(f"{count['found']} found, {count['blind']} blind, {count['SURVIVED']} survived, "
          f"{count['BROKEN']} could not be tried")
    return 1 if count["SURVIVED"] or count["BROKEN"] else 0


if __name__ == "__main__":
    sys.exit(main())
