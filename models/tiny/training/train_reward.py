"""Trains tiny-reward from tiny-reasoner: `python train_reward.py --base DIR --out DIR --samples FILE`.

The reasoner itself knows most of what is wrong in a reply: a wrong token is one that it would hardly
have written. Two new layers on top of it learn to read that. The first new layer compares each token
with what the reasoner expected there (helper head, dropped afterwards: the reasoner's own probability
of the token, known at every token of every reply and of replies riddled with random tokens). The last
layer says at every token whether all is right so far; at the closing <|eot_id|> this is the score.
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
from training import Optimizer, padded, rate, save, stack

POOL = 2048  # pairs drawn at a time
CODES, CODE = 128, 1 / 64  # channels; size
STREAM = 64.0  # about the size of the reasoner's stream where the new blocks read it
TOLD = 8.0  # how loud the first new block tells what it found
RIDDLED = 0.15  # share of tokens replaced in a riddled reply


def system_turns(rng, thinking: bool) -> list:
    """People who ask for a score often leave the mode out."""
    if rng.random() < (0.3 if thinking else 0.5):
        return []
    return [{"role": "system", "content": f"detailed thinking {'on' if thinking else 'off'}"}]


def synthetic(rng):
    """(prompt, right reply, wrong reply) of a fresh item."""
    while True:
        item, thinking = mixture.judged(rng)
        made = slips.wrong(rng, item, thinking, mixture.maker(rng, second=True)(rng))
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
        if group and 3 * longest * (len(group) + 1) > budget:
            groups.append(group)
            group = []
        group.append(pair)
    rng.shuffle(groups)
    return groups


def riddle(rng, tokens: list, start: int) -> list:
    """`tokens` with some of the reply's replaced by others of the reply."""
    out = list(tokens)
    for at in range(start, len(tokens) - 1):
        if rng.random() < RIDDLED:
            out[at] = rng.choice(tokens[start:])
    return out


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
        stream = self.stream(sample)[0].float().flatten(0, 1)
        told = compare(self.blocks[0], base, stream, directions, one_back(base.rope))
        self.expected_head = nn.Parameter(told / base.final_norm)

    def stream(self, ids):
        """The reasoner's residuals [rows, tokens, width] after its last block, and the rest that blocks need."""
        base = self.base
        cos, sin = base.rope[:, : ids.shape[1], None]
        bias = torch.full((ids.shape[1],) * 2, -torch.inf, device=ids.device).triu(1)
        x = F.embedding(ids, base.embed).to(torch.bfloat16)
        with torch.no_grad():
            for block in base.blocks:
                x = block(x, cos, sin, bias)[0]
        return x, (cos, sin, bias)

    def states(self, ids):
        """Normed hidden states [rows * tokens, width] of the reasoner, the first new block and the last."""
        x, rest = self.stream(ids)
        codes = F.embedding(ids, self.codes).to(x.dtype)
        out = [norm(x, self.base.final_norm).flatten(0, 1)]
        for block in self.blocks:
            x = block(x, *rest, codes=codes)[0]
            out.append(norm(x, self.final_norm).flatten(0, 1))
        return out[0], out[1], out[-1]

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

    def loss(self, group, pad: int, rng):
        """(loss, share of pairs in the right order, mean error of the expected probability)."""
        rights, wrongs, starts, firsts = zip(*group)
        device, rows = self.base.embed.device, len(group)
        riddled = [riddle(rng, tokens, start) for tokens, start in zip(rights, starts)]
        ids = stack([*rights, *wrongs, *riddled], pad).to(device)
        width, reply, judged, so_far, last = ids.shape[1], [], [], [], []
        for row, tokens in enumerate([*rights, *wrongs, *riddled]):
            start, at = starts[row % rows], row * width
            reply.extend(range(at + start, at + len(tokens)))
            if row < 2 * rows:
                first = firsts[row % rows] if row >= rows else len(tokens)
                judged.extend(range(at + start, at + len(tokens)))
                so_far.extend(float(i < first) for i in range(start, len(tokens)))
                last.append(at + len(tokens) - 1)
        reply, judged, last = (torch.tensor(x, device=device) for x in (reply, judged, last))
        reasoner, compared, final = self.states(ids)
        with torch.no_grad():
            chances = self.base.logits(reasoner[reply - 1]).softmax(-1)
            chance = chances.gather(1, ids.flatten()[reply, None])[:, 0]
        expected = compared[reply].float() @ self.expected_head
        loss = F.binary_cross_entropy_with_logits(expected, chance)
        marks = final[judged].float() @ self.reward_head
        loss = loss + F.binary_cross_entropy_with_logits(marks, torch.tensor(so_far, device=device))
        good, bad = (final[last].float() @ self.reward_head).chunk(2)
        loss = loss + F.softplus(bad - good).mean() + 1e-3 * (good.pow(2) + bad.pow(2)).mean()
        return loss, (good > bad).float().mean().item(), (expected.sigmoid() - chance).abs().mean().item()


def worker(rank: int, world: int, args) -> None:
    out, dtype = Path(args.out), getattr(torch, args.dtype)
    base, tok = load_model(Path(args.base))
    samples = [json.loads(line) for path in args.samples for line in Path(path).read_text().splitlines()]
    share = args.share if samples else 0.0
    step, chunk, batch = 0, 0, 0
    groups = pool(tok, f"{args.seed}/{chunk}", samples, share, args.batch)
    sample = stack([right for right, *_ in groups[0]], tok.pad)
    judge = Judge(base.float(), args.extra, sample, dtype).to(base.embed.device)
    optim = Optimizer(judge, args.muon_lr, args.adam_lr, rank, world, dtype, slow=judge.blocks[:1])
    if (out / "judge.pt").exists():
        loaded = torch.load(out / "judge.pt", weights_only=False)
        judge.load_state_dict(loaded["judge"])
        optim.load(out)
        step, chunk, batch = (loaded["state"][key] for key in ("step", "chunk", "batch"))
    for block in judge.blocks if not args.eager else []:
        block.compile(dynamic=True)
    if rank == 0:
        print(json.dumps(vars(args) | {"pairs": len(samples)}), flush=True)
    if chunk > 0:
        groups = pool(tok, f"{args.seed}/{chunk}", samples, share, args.batch)
    start, window = time.time(), []
    while step < args.steps:
        if (batch + 1) * world > len(groups):
            chunk, batch = chunk + 1, 0
            groups = pool(tok, f"{args.seed}/{chunk}", samples, share, args.batch)
        rng = random.Random(f"{args.seed}/{step}/{rank}")
        loss, order, error = judge.loss(groups[batch * world + rank], tok.pad, rng)
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
                save(out / "judge.pt", judge=judge.state_dict(), state=state)
                save(out / "state.pt", model=model.state_dict(), state=state,
                     args={"width": shape.width, "layers": shape.layers, "ffn": shape.ffn, "heads": shape.heads})


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
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text((Path(args.base) / "tokenizer.json").read_text())
    training.launch(worker, args)


if __name__ == "__main__":
    main()
