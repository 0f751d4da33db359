#!/usr/bin/env python3
"""The PyTorch side of bench/gpu.sh: the same products, attention and decode loop, for comparison.

    bench/gpu/torch_peer.py [--json FILE]

Names equal those of gpu_bench where both measure the same thing. --json appends a line of JSON for every
number as soon as it is known. Has not been run on a GPU yet.
"""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

HIDDEN, LAYERS, Q, KV, DIM, INNER, VOCAB = 4096, 32, 32, 8, 128, 14336, 128256
FILE = open(sys.argv[sys.argv.index("--json") + 1], "a") if "--json" in sys.argv else None


def line(**fields):
    if FILE:
        print(json.dumps(fields), file=FILE, flush=True)



def measure(name, f, times=20, per=1, unit="us", value=None):
    for _ in range(3):
        f()
    torch.cuda.synchronize()
    taken = []
    for _ in range(times):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        f()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end) * 1e3 / per)
    us = statistics.median(taken)
    shown = value(us * 1e-6) if value else us
    print(f"{name:46} {us:12.1f} us  {shown:10.1f} {unit}", flush=True)
    line(kind="measure", by="torch", name=name, us=us, value=shown, unit=unit)


def products():
    for n, k in [((Q + 2 * KV) * DIM, HIDDEN), (HIDDEN, Q * DIM), (2 * INNER, HIDDEN), (HIDDEN, INNER)]:
        # Enough copies that none is still in the cache.
        copies = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(max(1, (200 << 20) // (n * k * 2) + 1))]
        eights = [c.to(torch.float8_e4m3fn) for c in copies]
        one = torch.ones((), device="cuda")
        for m in [1, 8, 32, 64, 256, 1024, 8192]:
            a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            rows = f"M {m}" if m <= 256 else f"prompt M {m}"  # as gpu_bench calls them
            rate = (lambda s: n * k * 2 / s / 1e9) if m <= 256 else (lambda s: 2 * m * n * k / s / 1e12)
            unit = "GB/s" if m <= 256 else "TFLOP/s"
            measure(f"gemm {n}x{k} BF16 {rows}", lambda: [F.linear(a, w) for w in copies], 10, len(copies), unit, rate)
            if m % 16 == 0:
                a8 = a.to(torch.float8_e4m3fn)
                measure(f"gemm {n}x{k} W8A8 {rows}",
                        lambda: [torch._scaled_mm(a8, w.t(), one, one, out_dtype=torch.bfloat16) for w in eights],
                        10, len(eights), unit, (lambda s: n * k / s / 1e9) if m <= 256 else rate)


def attention():
    for batch, context in [(1, 4096), (8, 4096), (32, 4096), (1, 32768), (1, 131072)]:
        q = torch.randn(batch, Q, 1, DIM, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(batch, KV, context, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        measure(f"attention decode batch {batch} ctx {context}",
                lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), unit="GB/s",
                value=lambda s: 4 * batch * context * KV * DIM / s / 1e9)
    for tokens in [1024, 8192]:
        q = torch.randn(1, Q, tokens, DIM, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(1, KV, tokens, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        measure(f"attention prefill {tokens}",
                lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), 10, 1, "TFLOP/s",
                lambda s: 2 * Q * DIM * tokens * tokens / s / 1e12)


class Layer(torch.nn.Module):
    def __init__(self, batch, context):
        super().__init__()
        make = lambda n, k: torch.nn.Parameter(torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02, False)
        self.qkv, self.o = make((Q + 2 * KV) * DIM, HIDDEN), make(HIDDEN, Q * DIM)
        self.gate_up, self.down = make(2 * INNER, HIDDEN), make(HIDDEN, INNER)
        self.gain = torch.nn.Parameter(torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16), False)
        self.register_buffer("k", torch.zeros(batch, KV, context, DIM, device="cuda", dtype=torch.bfloat16))
        self.register_buffer("v", torch.zeros_like(self.k))

    def forward(self, x, cos, sin, at, mask):
        b = x.shape[0]
        q, k, v = F.linear(F.rms_norm(x, (HIDDEN,), self.gain), self.qkv).split([Q * DIM, KV * DIM, KV * DIM], -1)
        turn = lambda t: t * cos + torch.cat((-t[..., DIM // 2:], t[..., : DIM // 2]), -1) * sin
        q, k = turn(q.view(b, Q, 1, DIM)), turn(k.view(b, KV, 1, DIM))
        self.k.index_copy_(2, at, k)
        self.v.index_copy_(2, at, v.view(b, KV, 1, DIM))
        y = F.scaled_dot_product_attention(q, self.k, self.v, attn_mask=mask, enable_gqa=True)
        x = x + F.linear(y.reshape(b, Q * DIM), self.o)
        gate, up = F.linear(F.rms_norm(x, (HIDDEN,), self.gain), self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


def decode():
    """A static cache, compiled whole, replayed as a CUDA graph: the loop to beat."""
    for batch in [1, 8]:
        context = 1088
        layers = [Layer(batch, context) for _ in range(LAYERS)]
        head = torch.randn(VOCAB, HIDDEN, device="cuda", dtype=torch.bfloat16) * 0.02
        table = torch.randn(VOCAB, HIDDEN, device="cuda", dtype=torch.bfloat16)
        freq = 1.0 / 500000.0 ** (torch.arange(0, DIM, 2, device="cuda") / DIM)

        def step(ids, at):
            angle = torch.cat((at * freq, at * freq))
            cos, sin = angle.cos().to(torch.bfloat16), angle.sin().to(torch.bfloat16)
            mask = (torch.arange(context, device="cuda") <= at)[None, None, None]
            x = table[ids]
            for layer in layers:
                x = layer(x, cos, sin, at, mask)
            return F.linear(x, head).argmax(-1)

        compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
        ids = torch.zeros(batch, dtype=torch.long, device="cuda")
        at = torch.tensor([context - 64], device="cuda")
        with torch.inference_mode():
            measure(f"8B BF16 decode batch {batch} ctx 1K", lambda: compiled(ids, at), 30, 1, "tok/s", lambda s: batch / s)
        del layers


def generate():
    """transformers' own loop with a static cache, random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=Q, num_key_value_heads=KV,
                         head_dim=DIM, intermediate_size=INNER, vocab_size=VOCAB, max_position_embeddings=2048)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    ids = torch.randint(0, VOCAB, (1, 1024), device="cuda")

    def run(n):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(ids, min_new_tokens=n, max_new_tokens=n, do_sample=False, cache_implementation="static")
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    with torch.inference_mode():
        run(8)  # compiles
        us = (run(72) - run(8)) / 64 * 1e6
    print(f"transformers generate, batch 1: {1e6 / us:.1f} tok/s", flush=True)
    line(kind="measure", by="transformers", name="8B BF16 decode batch 1 ctx 1K", us=us, value=1e6 / us, unit="tok/s")


def main():
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU")
        return 1
    print(torch.cuda.get_device_name(), torch.__version__)
    line(kind="note", text=f"PyTorch {torch.__version__}")
    # The loop first: it is the peer to beat.
    for part in (decode, products, attention, generate):
        try:
            part()
        except Exception as e:  # a peer that cannot run here is a line, not an end
            print(f"{part.__name__}: {type(e).__name__}: {e}", flush=True)
            line(kind="note", text=f"PyTorch {part.__name__}: {type(e).__name__}")
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
