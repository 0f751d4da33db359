"""Trains tiny-reward from tiny-reasoner: `python train_reward.py --base DIR --out DIR --samples FILE`.

The reasoner itself knows most of what is wrong in a reply: a wrong token is one that it would hardly
have written. Two new layers on top of it learn to read that. The first new layer compares each token
with what the reasoner expected there (helper head, dropped afterwards: the reasoner's own probability
of the token, known at every token of every reply and of replies riddled with random tokens). The last
layer says at every token whether all is right so far; at the closing <|eot_id|> this is the score.

Several replies to a prompt share one sequence: each attends to the prompt and to itself.
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
from model import HEAD, Block, Llama, norm
from training import Optimizer, in_step, padded, rate, save

POOL = 2048  # prompts drawn at a time
SLIPS, MISTAKES = 2, 3  # wrong replies to a prompt, at most: generated ones, sampled ones
HELD_OUT = 20  # every such line of --samples is only measured on
CODES, CODE = 128, 1 / 64  # channels; size
STREAM = 64.0  # about the size of the reasoner's stream where the new blocks read it
TOLD = 8.0  # how loud the first new block tells what it found
RIDDLED, RIDDLED_ROWS = 0.15, 0.3  # share of tokens replaced in a riddled reply; of prompts that have one


def system_turns(rng, thinking: bool) -> list:
    """People who ask for a score often leave the mode out."""
    if rng.random() < (0.3 if thinking else 0.5):
        return []
    return [{"role": "system", "content": f"detailed thinking {'on' if thinking else 'off'}"}]


def synthetic(rng):
    """(prompt, right reply, wrong replies) of a fresh item."""
    while True:
        item, thinking = mixture.judged(rng)
        made = [slips.wrong(rng, item, thinking, mixture.maker(rng, second=True)(rng)) for _ in range(SLIPS)]
        wrong = sorted({one[1] for one in made if one})
        if wrong:
            prompt = tokenizer.render(system_turns(rng, thinking) + item.messages, item.tools)
            return prompt, tokenizer.reply(item, thinking), wrong


def sampled(rng, row):
    """The same of a line of sample.py."""
    prompt = tokenizer.render(system_turns(rng, row["thinking"]) + row["messages"], row["tools"])
    return prompt, row["right"], rng.sample(row["wrong"], min(MISTAKES, len(row["wrong"])))


def encoded(tok, prompt: str, right: str, wrong: list):
    """(prompt ids, ids of each reply, how many of them are right so far); the first reply is the right one."""
    replies = [tok.encode(text) + [tok.eot] for text in [right, *wrong]]
    firsts = [next((i for i, (a, b) in enumerate(zip(replies[0], ids)) if a != b), len(ids)) for ids in replies]
    return tok.encode(prompt), replies, firsts


def size(row) -> int:
    return padded(len(row[0]) + sum(map(len, row[1])))


def grouped(rows: list, budget: int) -> list:
    """Rows of similar length together, as many as fit."""
    groups, group = [], []
    for row in sorted(rows, key=size):
        if group and size(row) * (len(group) + 1) > budget:
            groups.append(group)
            group = []
        group.append(row)
    return [*groups, group] if group else groups


def pool(tok, seed: str, samples: list, share: float, budget: int, world: int) -> list:
    """Batches of freshly drawn rows."""
    rng, rows = random.Random(seed), []
    for _ in range(POOL):
        drawn = sampled(rng, rng.choice(samples)) if rng.random() < share else synthetic(rng)
        prompt, replies, firsts = encoded(tok, *drawn)
        if rng.random() < RIDDLED_ROWS:
            replies.append(riddle(rng, replies[0]))
        rows.append((prompt, replies, firsts))
    return in_step(rng, grouped(rows, budget), world)


def riddle(rng, reply: list) -> list:
    """`reply` with some of its tokens replaced by others of it."""
    return [rng.choice(reply) if rng.random() < RIDDLED else token for token in reply[:-1]] + reply[-1:]


def pack(rows, pad: int, device):
    """ids and positions [rows, tokens], the bias of attention, and where each reply starts in the flat ids."""
    tokens = max(map(size, rows))
    ids, positions = torch.full((len(rows), tokens), pad), torch.zeros(len(rows), tokens, dtype=torch.long)
    owner, starts = torch.full((len(rows), tokens), -1), []  # 0: of the prompt; 1 and on: of that reply
    for n, (prompt, replies, _) in enumerate(rows):
        at = len(prompt)
        ids[n, :at], positions[n, :at], owner[n, :at] = torch.tensor(prompt), torch.arange(at), 0
        starts.append([])
        for number, reply in enumerate(replies, 1):
            part = slice(at, at + len(reply))
            ids[n, part], owner[n, part] = torch.tensor(reply), number
            positions[n, part] = torch.arange(len(prompt), len(prompt) + len(reply))
            starts[-1].append(n * tokens + at)
            at += len(reply)
    seen = ((owner[:, None] == 0) | (owner[:, None] == owner[..., None])).tril()
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None]
    return ids.to(device), positions.to(device), bias.to(device), starts


def one_back(rope):
    """Weights [HEAD / 2] of the rotary frequencies such that sum(w cos((distance - 1) angle)) peaks at 1.

    Fitted to hold although the constant that queries and keys read varies with the stream's size.
    """
    distance = torch.arange(300.0)
    waves = ((distance[:, None] - 1) * torch.atan2(rope[1, 1], rope[0, 1])).cos()
    weights = torch.full((HEAD // 2,), 5.0, requires_grad=True)
    optim = torch.optim.Adam([weights], lr=1.0)
    for _ in range(300):
        sizes = (1.65 + 0.4 * torch.randn(64, len(distance))).clamp(0.6, 3)
        scores = sizes * sizes[:, :1] * (waves @ weights) * HEAD**-0.5
        F.cross_entropy(scores, torch.ones(len(scores), dtype=torch.long)).backward()
        optim.step()
        optim.zero_grad()
    return weights.detach()


@torch.no_grad()
def compare(block: Block, base: Llama, stream, directions, weights):
    """Sets `block` to compare each token with what the reasoner expected there; returns where it says so.

    Attention by position alone (queries and keys read the constant code) fetches, from one token back,
    the reasoner's final state in `directions` [width, n]. Its product with the token's own codes is the
    logit that the reasoner gave the token: silu(a) b + silu(-a) (-b) = a b. stream [tokens, width]: the
    reasoner's last residuals, to find the directions where it says least; they take the result.
    """
    width, n = directions.shape
    constant, half = width + n, HEAD // 2
    queries, keys, values = block.qkv.split([block.q_rows, block.kv_rows, block.kv_rows])
    for kv in range(block.shape.kv_heads):
        query = queries[2 * kv * HEAD: (2 * kv + 1) * HEAD].zero_()  # the first head of each group
        key = keys[kv * HEAD: (kv + 1) * HEAD].zero_()
        query[:half, constant] = weights.abs().sqrt()
        key[:half, constant] = weights.sign() * weights.abs().sqrt() * base.rope[0, 1]
        key[half:, constant] = weights.sign() * weights.abs().sqrt() * base.rope[1, 1]
    to_norm = ((width + CODES) / width) ** 0.5  # the block's norm divides by the mean over more channels
    expected = norm(stream, base.final_norm) @ directions
    quiet = torch.linalg.svd(stream - stream.mean(0), full_matrices=False).Vh.flip(0)[: n + 1]
    values.zero_()[:n, :width] = directions.T * base.final_norm / to_norm
    size = STREAM / expected.pow(2).mean().sqrt()
    for at in range(n):
        block.o[:, at // HEAD * 2 * HEAD + at % HEAD] = size * quiet[at + 1]
    gate, up = block.gate_up.chunk(2)
    gate[: 2 * n], up[: 2 * n] = 0, 0
    for sign, rows in ((1, slice(0, n)), (-1, slice(n, 2 * n))):
        gate[rows, width: width + n] = sign * torch.eye(n)
        up[rows, :width] = sign * quiet[1:]
        block.down[:, rows] = TOLD * quiet[0, :, None]
    return quiet[0]


class Judge(nn.Module):
    """The reasoner, frozen, new blocks on top of it, a reward head and a helper head.

    Deep in the reasoner little is left of a token but what follows it, so the new blocks also read
    codes: each token's embedding in its CODES - 1 main directions and a constant, times CODE.
    """

    def __init__(self, base: Llama, extra: int, sample, dtype):
        super().__init__()
        self.base, self.dtype = base.requires_grad_(False), dtype
        width = base.shape.width
        self.blocks = nn.ModuleList(Block(replace(base.shape, codes=CODES)) for _ in range(extra))
        for block in self.blocks:
            block.o.data.zero_()
            block.down.data.zero_()
            block.attn_norm.data[width:] = block.ffn_norm.data[width:] = STREAM / CODE
        directions = torch.linalg.svd(base.embed, full_matrices=False).Vh[: CODES - 1].T
        codes = base.embed @ directions
        codes = torch.cat([codes / codes.pow(2).mean().sqrt(), torch.ones(len(codes), 1)], 1)
        self.register_buffer("codes", CODE * codes)
        self.final_norm = nn.Parameter(base.final_norm.clone())
        self.reward_head = nn.Parameter(0.01 * torch.randn(width))
        stream = self.stream(*sample)[0].float().flatten(0, 1)
        told = compare(self.blocks[0], base, stream, directions, one_back(base.rope))
        self.expected_head = nn.Parameter(told / base.final_norm)

    def stream(self, ids, positions, bias):
        """The reasoner's residuals [rows, tokens, width] after its last block, and the rest that blocks need."""
        base = self.base
        cos, sin = base.rope[:, positions, None]
        x = F.embedding(ids, base.embed).to(self.dtype)
        with torch.no_grad():
            for block in base.blocks:
                x = block(x, cos, sin, bias)[0]
        return x, (cos, sin, bias)

    def states(self, ids, positions, bias, judged):
        """Normed hidden states of the reasoner and of the first new block, flat, and of the last one where judged."""
        x, rest = self.stream(ids, positions, bias)
        codes = F.embedding(ids, self.codes).to(x.dtype)
        out = [norm(x, self.base.final_norm).flatten(0, 1)]
        for block in self.blocks[:-1]:
            x = block(x, *rest, codes=codes)[0]
            out.append(norm(x, self.final_norm).flatten(0, 1))
        x = self.blocks[-1](x, *rest, rows=judged, codes=codes)[0]
        return out[0], out[1], norm(x, self.final_norm)

    @torch.no_grad()
    def llama(self) -> Llama:
        """The same as one plain Llama, whose stream is wider by the codes.

        RMSNorm then divides by the mean over more channels, which the norms' weights make up for;
        the codes are too small to change that mean.
        """
        base = self.base
        width = base.shape.width + CODES
        model = Llama(replace(base.shape, width=width, layers=base.shape.layers + len(self.blocks)))
        scale = (base.shape.width / width) ** 0.5
        for block, source in zip(model.blocks, [*base.blocks, *self.blocks]):
            for name, weight in source.named_parameters():
                target = getattr(block, name).zero_()
                part = target[tuple(slice(size) for size in weight.shape)]
                grown = name.endswith("norm") and source in base.blocks
                part.copy_(weight * scale if grown else weight)
        model.embed.copy_(torch.cat([base.embed, self.codes], 1))
        model.final_norm.zero_()[: base.shape.width] = self.final_norm * scale
        model.reward_head = nn.Parameter(F.pad(self.reward_head, (0, CODES)))
        return model

    def loss(self, rows, pad: int):
        """(loss, share of wrong replies below the right one, mean error of the expected probability)."""
        device = self.base.embed.device
        ids, positions, bias, starts = pack(rows, pad, device)
        told, before, judged, so_far, good, bad = [], [], [], [], [], []
        for n, (prompt, replies, firsts) in enumerate(rows):
            for number, (reply, start) in enumerate(zip(replies, starts[n])):
                told.extend(range(start, start + len(reply)))
                before.extend([n * ids.shape[1] + len(prompt) - 1, *range(start, start + len(reply) - 1)])
                if number < len(firsts):  # a riddled one is not judged
                    judged.extend(range(start, start + len(reply)))
                    so_far.extend(float(i < firsts[number]) for i in range(len(reply)))
                    (bad if number else good).append(len(judged) - 1)
            good.extend(good[-1:] * (len(firsts) - 2))
        told, before, judged = (torch.tensor(x, device=device) for x in (told, before, judged))
        reasoner, compared, final = self.states(ids, positions, bias, judged)
        with torch.no_grad():
            chances = self.base.logits(reasoner[before]).softmax(-1)
            chance = chances.gather(1, ids.flatten()[told, None])[:, 0]
        expected = compared[told].float() @ self.expected_head
        loss = F.binary_cross_entropy_with_logits(expected, chance)
        marks = final.float() @ self.reward_head
        loss = loss + F.binary_cross_entropy_with_logits(marks, torch.tensor(so_far, device=device))
        good, bad = marks[good], marks[bad]
        loss = loss + F.softplus(bad - good).mean() + 1e-3 * (good.pow(2) + bad.pow(2)).mean()
        return loss, (good > bad).float().mean().item(), (expected.sigmoid() - chance).abs().mean().item()

    @torch.no_grad()
    def order(self, groups, pad: int) -> float:
        """Share of wrong replies below the right one, in percent."""
        above = [order for rows in groups for order in [self.loss(rows, pad)[1]] * sum(len(row[1]) - 1 for row in rows)]
        return round(100 * sum(above) / len(above), 1)


def worker(rank: int, world: int, args) -> None:
    out, dtype = Path(args.out), getattr(torch, args.dtype)
    base, tok = load_model(Path(args.base))
    samples = [json.loads(line) for path in args.samples for line in Path(path).read_text().splitlines()]
    rng, share = random.Random(args.seed), args.share if samples else 0.0
    held = grouped([encoded(tok, *sampled(rng, row)) for row in samples[::HELD_OUT]], args.batch)
    samples = [row for n, row in enumerate(samples) if n % HELD_OUT > 0]
    step, chunk, batch = 0, 0, 0
    groups = pool(tok, f"{args.seed}/{chunk}", samples, share, args.batch, world)
    judge = Judge(base.float(), args.extra, pack(groups[0], tok.pad, base.embed.device)[:3], dtype).to(base.embed.device)
    optim = Optimizer(judge, args.muon_lr, args.adam_lr, rank, world, dtype, slow=judge.blocks[:1])
    if (out / "judge.pt").exists():
        loaded = torch.load(out / "judge.pt", weights_only=False)
        judge.load_state_dict(loaded["judge"])
        optim.load(out)
        step, chunk, batch = (loaded["state"][key] for key in ("step", "chunk", "batch"))
    torch._dynamo.config.recompile_limit = 32  # the blocks of both are called in several ways
    for block in [*base.blocks, *judge.blocks] if not args.eager else []:
        block.compile(dynamic=True)
    if rank == 0:
        print(json.dumps(vars(args) | {"prompts with mistakes": len(samples)}), flush=True)
    if chunk > 0:
        groups = pool(tok, f"{args.seed}/{chunk}", samples, share, args.batch, world)
    start, window = time.time(), []
    while step < args.steps:
        if (batch + 1) * world > len(groups):
            chunk, batch = chunk + 1, 0
            groups = pool(tok, f"{args.seed}/{chunk}", samples, share, args.batch, world)
        loss, order, error = judge.loss(groups[batch * world + rank], tok.pad)
        loss.backward()
        optim.step(rate(step / args.steps, step, args.hold))
        step, batch = step + 1, batch + 1
        window.append((loss.item(), order, error))
        if rank == 0 and step % 50 == 0:
            means = [round(sum(column) / len(window), 4) for column in zip(*window)]
            print(json.dumps({"step": step, "seconds": round(time.time() - start), "loss": means[0],
                              "order": means[1], "expected error": means[2]}), flush=True)
            window = []
        if step % args.save_every == 0 or step == args.steps:
            optim.save(out)
            if rank == 0:
                model = judge.llama()
                shape = model.shape
                state = {"step": step, "chunk": chunk, "batch": batch}
                if held:
                    state["held out"] = judge.order(held, tok.pad)
                    print(json.dumps(state), flush=True)
                save(out / "judge.pt", judge=judge.state_dict(), state=state)
                save(out / "state.pt", model=model.state_dict(), state=state,
                     args={"width": shape.width, "layers": shape.layers, "ffn": shape.ffn, "heads": shape.heads})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    training.add_arguments(parser, save_every=400)
    parser.add_argument("--base", required=True, help="the reasoner: a Hugging Face or a training folder")
    parser.add_argument("--samples", nargs="*", default=[], help="the reasoner's mistakes, from sample.py")
    parser.add_argument("--share", type=float, default=0.5, help="share of pairs from --samples")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--hold", type=float, default=0.3, help="share of the steps at full rate")
    parser.add_argument("--batch", type=int, default=3072, help="padded tokens a process and step")
    parser.add_argument("--extra", type=int, default=2, help="new layers on top of the reasoner")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text((Path(args.base) / "tokenizer.json").read_text())
    training.launch(worker, args)


if __name__ == "__main__":
    main()
