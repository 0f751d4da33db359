"""Trains tiny-reward from tiny-reasoner: `python train_reward.py --base DIR --out DIR --samples FILE`.

Pairs of a right and a wrong reply to one prompt; the wrong ones are generated slips and the
reasoner's own mistakes (`--samples`, written by sample.py). The score is read at the closing
<|eot_id|>. Two helpers, dropped afterwards, say where a reply goes wrong: the first new layer marks
the token that the reasoner would not have written, the last one marks everything from there on.
"""

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import mixture
import slips
import tokenizer
import training
from evaluate import load_model
from model import Llama, norm
from training import Optimizer, padded, rate, save, stack

POOL = 2048  # pairs drawn at a time
SLIP = 6.0  # weight of the first wrong token among the right ones before it


def system_turns(rng, thinking: bool) -> list:
    """People who ask for a score often leave the mode out."""
    if rng.random() < (0.3 if thinking else 0.5):
        return []
    return [{"role": "system", "content": f"detailed thinking {'on' if thinking else 'off'}"}]


def synthetic(rng):
    """(prompt, right reply, wrong reply) of a fresh item."""
    while True:
        item, thinking = mixture.judged(rng)
        made = slips.wrong(rng, item, thinking, mixture.maker(rng)(rng))
        if made:
            prompt = tokenizer.render(system_turns(rng, thinking) + item.messages, item.tools)
            return prompt, tokenizer.reply(item, thinking), made[1]


def sampled(rng, row):
    """The same of a line of sample.py."""
    prompt = tokenizer.render(system_turns(rng, row["thinking"]) + row["messages"], row["tools"])
    return prompt, row["right"], row["wrong"]


def pool(tok, seed: str, samples: list, share: float, budget: int) -> list:
    """Batches of pairs of similar length: (right ids, wrong ids, prompt length, first wrong)."""
    rng, pairs = random.Random(seed), []
    for _ in range(POOL):
        row = rng.choice(samples) if rng.random() < share else None
        prompt, right, wrong = sampled(rng, row) if row else synthetic(rng)
        head = tok.encode(prompt)
        right, wrong = (head + tok.encode(text) + [tok.eot] for text in (right, wrong))
        first = next(i for i, (a, b) in enumerate(zip(right, wrong)) if a != b)
        pairs.append((right, wrong, len(head), first))
    pairs.sort(key=lambda pair: max(len(pair[0]), len(pair[1])))
    groups, group = [], []
    for pair in pairs:
        longest = padded(max(len(pair[0]), len(pair[1])))
        if group and 2 * longest * (len(group) + 1) > budget:
            groups.append(group)
            group = []
        group.append(pair)
    rng.shuffle(groups)
    return groups


class Judge(nn.Module):
    """The reasoner with new layers that start as the identity, a reward head and two helper heads."""

    def __init__(self, base: Llama, extra: int, frozen: int):
        super().__init__()
        depth, width = base.shape.layers, base.shape.width
        self.model = Llama(replace(base.shape, layers=depth + extra))
        self.model.load_state_dict(base.state_dict(), strict=False)
        self.model.embed.requires_grad_(False)
        for block in self.model.blocks[:frozen]:
            block.requires_grad_(False)
        for block in self.model.blocks[depth:]:
            block.o.data.zero_()
            block.down.data.zero_()
        self.depth, self.frozen = depth, frozen
        self.register_buffer("base_norm", base.final_norm.detach().clone())
        self.model.reward_head = nn.Parameter(0.01 * torch.randn(width))
        self.slip_head = nn.Parameter(0.01 * torch.randn(width))
        self.so_far_head = nn.Parameter(0.01 * torch.randn(width))

    @property
    def blocks(self):
        return self.model.blocks

    def states(self, ids, taps) -> dict:
        """Hidden states of the whole batch after the blocks in `taps`."""
        model, out = self.model, {}
        cos, sin = model.rope[:, : ids.shape[1], None]
        bias = torch.full((ids.shape[1],) * 2, -torch.inf, device=ids.device).triu(1)
        x = F.embedding(ids, model.embed).to(torch.bfloat16)
        for n, block in enumerate(model.blocks):
            with torch.set_grad_enabled(n >= self.frozen):
                x = block(x, cos, sin, bias)[0]
            if n in taps:
                out[n] = norm(x, self.base_norm).flatten(0, 1)
        out["final"] = norm(x, model.final_norm).flatten(0, 1)
        return out

    def loss(self, group, pad: int, predict: float):
        """(loss, share of pairs in the right order, of slips found)."""
        rights, wrongs, starts, firsts = zip(*group)
        device = self.model.embed.device
        ids = stack([*rights, *wrongs], pad).to(device)
        width, rows = ids.shape[1], len(group)
        where, so_far, seen, slip, slip_label, last, before = [], [], [], [], [], [], []
        for row, tokens in enumerate([*rights, *wrongs]):
            start, first = starts[row % rows], firsts[row % rows] if row >= rows else len(tokens)
            at = row * width
            where.extend(range(at + start, at + len(tokens)))
            so_far.extend(float(i < first) for i in range(start, len(tokens)))
            end = min(first + 1, len(tokens))
            slip.extend(range(at + start, at + end))
            slip_label.extend(float(i < first) for i in range(start, end))
            last.append(at + len(tokens) - 1)
            if row < rows:
                before.extend(range(at + start - 1, at + len(tokens) - 1))
        where, slip, last, before = (torch.tensor(x, device=device) for x in (where, slip, last, before))
        so_far, slip_label = torch.tensor(so_far, device=device), torch.tensor(slip_label, device=device)
        states = self.states(ids, (self.depth - 1, self.depth))
        found = states[self.depth][slip].float() @ self.slip_head
        weight = torch.where(slip_label > 0, 1.0, SLIP)
        loss = F.binary_cross_entropy_with_logits(found, slip_label, weight)
        marks = states["final"][where].float() @ self.so_far_head
        loss = loss + F.binary_cross_entropy_with_logits(marks, so_far)
        good, bad = (states["final"][last].float() @ self.model.reward_head).chunk(2)
        loss = loss + F.softplus(bad - good).mean() + 1e-3 * (good.pow(2) + bad.pow(2)).mean()
        if predict:  # keep what the reasoner knows: it is what a reply is compared with
            logits = self.model.logits(states[self.depth - 1][before])
            loss = loss + predict * F.cross_entropy(logits, ids.flatten()[before + 1])
        hits = (found[slip_label == 0] < 0).float().mean()
        return loss, (good > bad).float().mean().item(), hits.item()


def worker(rank: int, world: int, args) -> None:
    out = Path(args.out)
    base, tok = load_model(Path(args.base))
    judge = Judge(base.float(), args.extra, args.frozen).to(base.embed.device)
    optim = Optimizer(judge, args.muon_lr, args.adam_lr, rank, world)
    samples = [json.loads(line) for path in args.samples for line in Path(path).read_text().splitlines()]
    share = args.share if samples else 0.0
    step, chunk, batch = 0, 0, 0
    if (out / "judge.pt").exists():
        loaded = torch.load(out / "judge.pt", weights_only=False)
        judge.load_state_dict(loaded["judge"])
        optim.load(out)
        step, chunk, batch = (loaded["state"][key] for key in ("step", "chunk", "batch"))
    for block in judge.blocks if not args.eager else []:
        block.compile(dynamic=True)
    if rank == 0:
        print(json.dumps(vars(args) | {"pairs": len(samples)}), flush=True)
    groups = pool(tok, f"{args.seed}/{chunk}", samples, share, args.batch)
    start, window = time.time(), []
    while step < args.steps:
        if (batch + 1) * world > len(groups):
            chunk, batch = chunk + 1, 0
            groups = pool(tok, f"{args.seed}/{chunk}", samples, share, args.batch)
        loss, order, hits = judge.loss(groups[batch * world + rank], tok.pad, args.predict)
        loss.backward()
        optim.step(rate(step / args.steps, step, args.hold))
        step, batch = step + 1, batch + 1
        window.append((loss.item(), order, hits))
        if rank == 0 and step % 50 == 0:
            means = [round(sum(column) / len(window), 4) for column in zip(*window)]
            print(json.dumps({"step": step, "seconds": round(time.time() - start), "loss": means[0],
                              "order": means[1], "slips found": means[2]}), flush=True)
            window = []
        if step % args.save_every == 0 or step == args.steps:
            optim.save(out)
            if rank == 0:
                shape = judge.model.shape
                state = {"step": step, "chunk": chunk, "batch": batch}
                save(out / "judge.pt", judge=judge.state_dict(), state=state)
                save(out / "state.pt", model=judge.model.state_dict(), state=state,
                     args={"width": shape.width, "layers": shape.layers, "ffn": shape.ffn})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    training.add_arguments(parser, save_every=200)
    parser.add_argument("--base", required=True, help="the reasoner: a Hugging Face or a training folder")
    parser.add_argument("--samples", nargs="*", default=[], help="the reasoner's mistakes, from sample.py")
    parser.add_argument("--share", type=float, default=0.5, help="share of pairs from --samples")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--hold", type=float, default=0.3, help="share of the steps at full rate")
    parser.add_argument("--batch", type=int, default=2048, help="padded tokens a process and step")
    parser.add_argument("--extra", type=int, default=2, help="new layers on top of the reasoner")
    parser.add_argument("--frozen", type=int, default=2, help="layers of the reasoner that stay as they are")
    parser.add_argument("--predict", type=float, default=0.3, help="weight of going on to predict the reply")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text((Path(args.base) / "tokenizer.json").read_text())
    training.launch(worker, args)


if __name__ == "__main__":
    main()
