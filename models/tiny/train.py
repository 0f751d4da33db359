"""Trains tiny-reasoner from nothing: `python train.py --out DIR`, resumable, one schedule, one seed.

Data is generated as it is used (no epochs): chunk n is a function of the seed and n only. On CPUs
give each core a process of one thread (`--processes 2`); on a GPU one process is right.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

import lexicon
import mixture
import tokenizer
from model import Llama, Shape, shape_dict

CHUNK = 4096  # dialogues generated at a time
WARMUP = 60  # steps


def make_tokenizer(seed: int) -> dict:
    content = (*lexicon.WORDS, *lexicon.NAMES, *lexicon.CITIES, *lexicon.LANGUAGES)
    pieces = tokenizer.collect_entries(
        mixture.texts(seed, 40000), {word.lower() for word in content}, least=20, most=2048)
    return tokenizer.build(pieces)


def batches(tok, seed: int, chunk: int, budget: int):
    """Batches of one chunk, similar lengths together: lists of (ids, prompt length)."""
    rng = random.Random(f"{seed}/{chunk}")
    rows = []
    for _ in range(CHUNK):
        prompt, answer, _, _ = mixture.dialogue(rng)
        head = tok.encode(prompt)
        rows.append((head + tok.encode(answer) + [tok.eot], len(head)))
    rows.sort(key=lambda row: len(row[0]))
    groups, group = [], []
    for row in rows:
        if group and padded(len(row[0])) * (len(group) + 1) > budget:
            groups.append(group)
            group = []
        group.append(row)
    groups.append(group)
    rng.shuffle(groups)
    return groups


def padded(length: int) -> int:
    return -(-length // 8) * 8


def tensors(group, pad: int, device):
    """ids [rows, tokens] and, for every reply token, where it is predicted from and its id."""
    width = padded(max(len(ids) for ids, _ in group))
    ids = torch.full((len(group), width), pad)
    where, target = [], []
    for row, (tokens, start) in enumerate(group):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        where.extend(range(row * width + start - 1, row * width + len(tokens) - 1))
        target.extend(tokens[start:])
    return ids.to(device), torch.tensor(where, device=device), torch.tensor(target, device=device)


def rate(progress: float, step: int, hold: float) -> float:
    """Warm-up, constant, then linear to zero."""
    return min(1.0, (step + 1) / WARMUP, max(0.0, (1 - progress) / (1 - hold)))


class Optimizer:
    """Muon for the hidden matrices, AdamW for the rest. Ranks share the costly Muon step."""

    def __init__(self, model, muon_lr: float, adam_lr: float, rank: int, world: int):
        self.rank, self.world = rank, world
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.matrices = [p for p in model.blocks.parameters() if p.ndim == 2 and p.requires_grad]
        others = [p for p in self.params if not any(p is m for m in self.matrices)]
        self.muon = torch.optim.Muon(self.matrices[rank::world], lr=muon_lr, momentum=0.95,
                                     nesterov=True, weight_decay=0.01)
        self.adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.peaks = ((self.muon, muon_lr), (self.adam, adam_lr))

    def average_gradients(self) -> None:
        """One flat all-reduce."""
        grads = [p.grad for p in self.params]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= self.world
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads])):
            grad.copy_(part.view_as(grad))

    def share_matrices(self) -> None:
        for rank in range(self.world):
            mine = self.matrices[rank:: self.world]
            flat = torch.cat([p.detach().flatten() for p in mine])
            dist.broadcast(flat, rank)
            for p, part in zip(mine, flat.split([p.numel() for p in mine])):
                p.detach().copy_(part.view_as(p))

    def step(self, factor: float) -> None:
        if self.world > 1:
            self.average_gradients()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        for optim, peak in self.peaks:
            for group in optim.param_groups:
                group["lr"] = peak * factor
            optim.step()
        if self.world > 1:
            self.share_matrices()
        for p in self.params:
            p.grad.zero_()

    def save(self, out: Path) -> None:
        save(out / f"optimizer-{self.rank}-of-{self.world}.pt",
             muon=self.muon.state_dict(), adam=self.adam.state_dict())

    def load(self, out: Path) -> None:
        loaded = torch.load(out / f"optimizer-{self.rank}-of-{self.world}.pt", weights_only=False)
        self.muon.load_state_dict(loaded["muon"])
        self.adam.load_state_dict(loaded["adam"])


def save(path: Path, **state) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def worker(rank: int, world: int, args) -> None:
    torch.set_num_threads(1 if world > 1 or not args.threads else args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{args.out}/rendezvous-{args.run}",
                                rank=rank, world_size=world)
    out = Path(args.out)
    tok = tokenizer.load(out)
    torch.manual_seed(args.seed)
    shape = Shape(tok.size, args.width, args.layers, args.width // 64, 2, args.ffn)
    model = Llama(shape).to(device)
    optim = Optimizer(model, args.muon_lr, args.adam_lr, rank, world)
    state = {"step": 0, "tokens": 0, "chunk": 0, "batch": 0, "seconds": 0.0}
    if (out / "state.pt").exists():
        loaded = torch.load(out / "state.pt", weights_only=False)
        model.load_state_dict(loaded["model"])
        optim.load(out)
        state = loaded["state"]
    if not args.eager:
        for block in model.blocks:
            block.compile(dynamic=True)
    if rank == 0:
        print(json.dumps({"shape": shape_dict(shape), "parameters": sum(p.numel() for p in model.parameters()),
                          "device": device, "processes": world, **vars(args)}), flush=True)
    start = logged = time.time()
    base, window, seen = state["seconds"], [], 0
    groups = batches(tok, args.seed, state["chunk"], args.batch)
    while state["tokens"] < args.tokens:
        if (state["batch"] + 1) * world > len(groups):
            state["chunk"], state["batch"] = state["chunk"] + 1, 0
            groups = batches(tok, args.seed, state["chunk"], args.batch)
        ids, where, target = tensors(groups[state["batch"] * world + rank], tok.pad, device)
        loss = F.cross_entropy(model.logits(model.hidden(ids, where)), target)
        loss.backward()
        optim.step(rate(state["tokens"] / args.tokens, state["step"], args.hold))
        # Every rank must agree on the count, so padded sizes are counted as rank 0 budgets them.
        state["tokens"] += args.batch * world
        state["step"] += 1
        state["batch"] += 1
        window.append(loss.item())
        seen += args.batch * world
        now = time.time()
        state["seconds"] = base + now - start
        if rank == 0 and state["step"] % 50 == 0:
            print(json.dumps({"step": state["step"], "tokens": state["tokens"], "seconds": round(state["seconds"]),
                              "loss": round(sum(window) / len(window), 4), "tok_s": round(seen / (now - logged))}),
                  flush=True)
            window, seen, logged = [], 0, now
        if state["step"] % args.save_every == 0 or state["tokens"] >= args.tokens:
            optim.save(out)
            if rank == 0:
                save(out / "state.pt", model=model.state_dict(), state=state, args=vars(args))
    if world > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="checkpoints and logs, outside the repository")
    parser.add_argument("--tokens", type=float, default=40e6, help="length of the schedule (padded tokens)")
    parser.add_argument("--batch", type=int, default=2048, help="padded tokens a process and step")
    parser.add_argument("--hold", type=float, default=0.4, help="share of the schedule at full rate")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--ffn", type=int, default=640)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=200, help="steps")
    parser.add_argument("--eager", action="store_true", help="do not compile the layers")
    args = parser.parse_args()
    args.run = os.getpid()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer.json").exists():
        (out / "tokenizer.json").write_text(json.dumps(make_tokenizer(args.seed), ensure_ascii=False, indent=1))
    if args.processes == 1:
        worker(0, 1, args)
    else:
        torch.multiprocessing.spawn(worker, (args.processes, args), args.processes)


if __name__ == "__main__":
    main()
