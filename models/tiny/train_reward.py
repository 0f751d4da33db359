"""Trains tiny-reward from tiny-reasoner: `python train_reward.py --base DIR --out DIR`.

Pairs of a right and a wrong reply to one prompt; the wrong ones are generated slips and the
reasoner's own mistakes (`--samples`, written by sample.py). The score is read at the closing
<|eot_id|>. While training it is also read at every reply token: low from the first wrong token on.

The reasoner stays frozen under two new layers: they see at each position what it expected there
(one position back) and what came, which is most of what telling right from wrong needs.
"""

import argparse
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import mixture
import slips
import tokenizer
from evaluate import load_model
from model import Llama
from train import Optimizer, padded, rate, save

POOL = 1024  # pairs drawn at a time


def synthetic(rng):
    """(prompt, right reply, wrong reply) of a fresh item."""
    makers, weights = zip(*mixture.MIXTURE)
    while True:
        maker = rng.choices(makers, weights)[0]
        item, thinking = maker(rng), rng.random() < 0.75
        made = slips.wrong(rng, item, thinking, maker(rng))
        if made:
            prompt = tokenizer.render(mixture.system_turns(rng, thinking) + item.messages, item.tools)
            return prompt, tokenizer.reply(item, thinking), made[1]


def pool(tok, seed: str, samples: list, share: float, rows: int) -> list:
    """Batches of `rows` pairs of similar length: (right ids, wrong ids, prompt length, first wrong)."""
    rng, out = random.Random(seed), []
    for _ in range(POOL):
        prompt, right, wrong = rng.choice(samples) if rng.random() < share else synthetic(rng)
        head = tok.encode(prompt)
        right, wrong = (head + tok.encode(text) + [tok.eot] for text in (right, wrong))
        first = next(i for i, (a, b) in enumerate(zip(right, wrong)) if a != b)
        out.append((right, wrong, len(head), first))
    out.sort(key=lambda pair: max(len(pair[0]), len(pair[1])))
    groups = [out[i: i + rows] for i in range(0, len(out), rows)]
    rng.shuffle(groups)
    return groups


def loss_of(model, group, pad: int, device):
    """(loss, share of pairs in the right order)."""
    sequences = [pair[0] for pair in group] + [pair[1] for pair in group]
    width = padded(max(map(len, sequences)))
    ids = torch.full((len(sequences), width), pad)
    where, label, weight, last = [], [], [], []  # label: 1 while all is right; last: the closing token
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        _, _, start, first = group[row % len(group)]
        first = first if row >= len(group) else len(sequence)
        where.extend(range(row * width + start, row * width + len(sequence)))
        label.extend(float(i < first) for i in range(start, len(sequence)))
        weight.extend(1.0 + 4.0 * (i == first) for i in range(start, len(sequence)))  # where it goes wrong
        last.append(len(where) - 1)
    where = torch.tensor(where, device=device)
    label, weight = torch.tensor(label, device=device), torch.tensor(weight, device=device)
    scores = model.hidden(ids.to(device), where).float() @ model.reward_head
    final = scores[torch.tensor(last, device=device)]
    good, bad = final.chunk(2)
    pair = F.softplus(bad - good).mean() + 1e-3 * final.pow(2).mean()
    steps = F.binary_cross_entropy_with_logits(scores, label, weight)
    return pair + steps, (good > bad).float().mean().item()


def grow(base, extra: int):
    """The reasoner, frozen, with `extra` new layers that start as the identity, and a reward head."""
    model = Llama(replace(base.shape, layers=base.shape.layers + extra))
    model.load_state_dict(base.state_dict(), strict=False)
    model.requires_grad_(False)
    for block in model.blocks[base.shape.layers:]:
        block.requires_grad_(True)
        block.o.data.zero_()
        block.down.data.zero_()
    model.final_norm.requires_grad_(True)
    model.reward_head = nn.Parameter(0.01 * torch.randn(base.shape.width))
    return model.to(base.embed.device)


def worker(rank: int, world: int, args) -> None:
    torch.set_num_threads(args.threads)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{args.out}/rendezvous-{args.run}",
                                rank=rank, world_size=world)
    out = Path(args.out)
    torch.manual_seed(args.seed)
    model, tok = load_model(Path(args.base))
    model, device = grow(model, args.extra), model.embed.device
    optim = Optimizer(model, args.muon_lr, args.adam_lr, rank, world)
    samples = []
    if args.samples:
        samples = [json.loads(line) for line in Path(args.samples).read_text().splitlines()]
    step, chunk = 0, 0
    if (out / "state.pt").exists():
        loaded = torch.load(out / "state.pt", weights_only=False)
        model.load_state_dict(loaded["model"])
        optim.load(out)
        step, chunk = loaded["state"]["step"], loaded["state"]["chunk"]
    for block in model.blocks if not args.eager else []:
        block.compile(dynamic=True)
    groups, start, window = [], time.time(), []
    while step < args.steps:
        if len(groups) < world:
            share = args.share if samples else 0.0
            groups, chunk = pool(tok, f"{args.seed}/{chunk}", samples, share, args.rows), chunk + 1
        mine, groups = groups[rank], groups[world:]
        loss, order = loss_of(model, mine, tok.pad, device)
        loss.backward()
        optim.step(rate(step / args.steps, step, 0.3))
        step += 1
        window.append((loss.item(), order))
        if rank == 0 and step % 25 == 0:
            means = [round(sum(column) / len(window), 4) for column in zip(*window)]
            print(json.dumps({"step": step, "seconds": round(time.time() - start), "loss": means[0],
                              "order": means[1]}), flush=True)
            window = []
        if step % args.save_every == 0 or step == args.steps:
            optim.save(out)
            if rank == 0:
                shape = {"width": model.shape.width, "layers": model.shape.layers, "ffn": model.shape.ffn}
                save(out / "state.pt", model=model.state_dict(), state={"step": step, "chunk": chunk}, args=shape)
    if world > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="the reasoner: a Hugging Face or a training folder")
    parser.add_argument("--out", required=True, help="checkpoints and logs, outside the repository")
    parser.add_argument("--samples", help="the reasoner's mistakes, from sample.py")
    parser.add_argument("--share", type=float, default=0.4, help="share of pairs from --samples")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--rows", type=int, default=16, help="pairs a process and step")
    parser.add_argument("--extra", type=int, default=2, help="new layers on top of the reasoner")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    parser.add_argument("--eager", action="store_true", help="do not compile the layers")
    args = parser.parse_args()
    args.run = os.getpid()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text((Path(args.base) / "tokenizer.json").read_text())
    if args.processes == 1:
        worker(0, 1, args)
    else:
        torch.multiprocessing.spawn(worker, (args.processes, args), args.processes)


if __name__ == "__main__":
    main()
