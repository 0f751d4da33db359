"""Trains tiny-reasoner from nothing: `python train.py --out DIR`, resumable, one schedule, one seed.

`--base FOLDER` is the second stage: the weights of FOLDER, the shares of mixture.SECOND.

Data is generated as it is used (no epochs): chunk n is a function of the seed and n only. On CPUs
give each core a process of one thread (`--processes 2`); on a GPU one process is right.
"""

import argparse
import json
import random
import time
from bisect import bisect_right
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F

import lexicon
import mixture
import tokenizer
import training
import wide_tools
from evaluate import load_model
from model import Llama, Shape, shape_dict
from training import Optimizer, Words, in_step, padded, rate, save, stack

CHUNK = 4096  # dialogues generated at a time


def make_tokenizer(seed: int, base: str | None) -> dict:
    if base is not None:
        return tokenizer.extended(json.loads((Path(base) / "tokenizer.json").read_text()), lexicon.ENTRY_WORDS,
                                  wide_tools.NOUNS + wide_tools.ACTIONS)
    content = (*lexicon.WORDS, *lexicon.NAMES, *lexicon.CITIES, *lexicon.LANGUAGES)
    least = 20
    texts = chain(mixture.texts(seed, 40000), [text for text in mixture.frames() for _ in range(least)])
    pieces = tokenizer.collect_entries(texts, {word.lower() for word in content}, least, most=2048)
    return tokenizer.build(pieces)


def adopt(model: Llama, tok, folder: Path) -> None:
    """The weights of `folder`. A row of an entry that its vocabulary lacks is that of the same word after a space or in
    other capitals, or the mean of what it had instead.

    Layers that it lacks are spread between its own and add nothing to the stream at first.
    """
    base, known = load_model(folder)

    def instead(piece: str) -> list:
        """Ids of the base: the piece's own, or of its word after a space, at the start, in small letters."""
        text = tok.decode([tok.vocab[piece]]) if len(piece) > 1 else ""
        word = text.lstrip(" _")
        forms = [tokenizer.spelled(mark + form) for form in (word, word.lower(), word.capitalize()) for mark in (" ", "")]
        found = [form for form in (piece, *forms) if form in known.vocab and (len(piece) == 1 or len(form) > 1)]
        return [known.vocab[found[0]]] if found else known.encode(text)

    ids = [instead(piece) for piece in tok.vocab]
    rows = [base.embed[torch.tensor(one)].mean(0) for one in [*ids, *([known.special[name]] for name in tok.special)]]
    layers, state = len(base.blocks), {"embed": torch.stack(rows), "final_norm": base.final_norm}
    for n, block in enumerate(model.blocks):
        for name in ("o", "down"):
            torch.nn.init.zeros_(getattr(block, name))
        state |= {f"blocks.{n}.{name}": tensor for name, tensor in block.state_dict().items()}
    for n, block in enumerate(base.blocks):
        at = round(n * (len(model.blocks) - 1) / (layers - 1))
        state |= {f"blocks.{at}.{name}": tensor for name, tensor in block.state_dict().items()}
    model.load_state_dict(state)


def forms(tok) -> list:
    """The ids of each word that has entries: it stands in several of them, after a space or `_`, in capitals."""
    out = {}
    for piece, n in tok.vocab.items():
        word = tok.decode([n]).lstrip(" _").lower()
        if len(piece) > 1 and word in lexicon.ENTRY_WORDS:
            out.setdefault(word, []).append(n)
    return list(out.values())


def batches(tok, seed: int, chunk: int, budget: int, second: bool, world: int):
    """Batches of one chunk, similar lengths together: lists of (ids, prompt length), `world` of about one length in turn."""
    rng = random.Random(f"{seed}/{chunk}")
    rows = []
    for _ in range(CHUNK):
        prompt, answer, _, _ = mixture.second_dialogue(rng, chunk) if second else mixture.dialogue(rng, chunk)
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
    return in_step(rng, groups, world)


def tensors(group, pad: int, replies_only: bool, device):
    """ids [rows, tokens] and, for every token after the first, or of replies only, where it is predicted from, its id,
    whether it is a reply's."""
    ids = stack([tokens for tokens, _ in group], pad)
    width, where, target, replied = ids.shape[1], [], [], []
    for row, (tokens, start) in enumerate(group):
        first = start if replies_only else 1
        where.extend(range(row * width + first - 1, row * width + len(tokens) - 1))
        target.extend(tokens[first:])
        replied.extend(n >= start for n in range(first, len(tokens)))
    return (ids.to(device), *(torch.tensor(x, device=device) for x in (where, target, replied)))


def worker(rank: int, world: int, args) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out, dtype = Path(args.out), getattr(torch, args.dtype)
    tok = tokenizer.load(out)
    shape = Shape(tok.size, args.width, args.layers, args.width // 64, 2, args.ffn)
    model = Llama(shape).to(device)
    optim = Optimizer(model, args.muon_lr, args.adam_lr, rank, world, dtype,
                      words=Words(model.embed, forms(tok)) if args.base else None)
    state = {"step": 0, "tokens": 0, "chunk": args.first_chunk, "batch": 0, "seconds": 0.0}
    if (out / "state.pt").exists():
        loaded = torch.load(out / "state.pt", weights_only=False)
        model.load_state_dict(loaded["model"])
        optim.load(out)
        state = loaded["state"]
    elif args.base:
        adopt(model, tok, Path(args.base))
    if not args.eager:
        for block in model.blocks:
            block.compile(dynamic=True)
    if rank == 0:
        print(json.dumps({"shape": shape_dict(shape), "parameters": sum(p.numel() for p in model.parameters()),
                          "device": device, "processes": world, **vars(args)}), flush=True)
    start = logged = time.time()
    base, window, seen = state["seconds"], [], 0
    groups = batches(tok, args.seed, state["chunk"], args.batch, args.base is not None, world)
    while state["tokens"] < args.ends[-1]:
        if (state["batch"] + 1) * world > len(groups):
            state["chunk"], state["batch"] = state["chunk"] + 1, 0
            groups = batches(tok, args.seed, state["chunk"], args.batch, args.base is not None, world)
        ids, where, target, replied = tensors(groups[state["batch"] * world + rank], tok.pad, args.prompt_loss == 0, device)
        each = F.cross_entropy(model.logits(model.hidden(ids, where, dtype)), target, reduction="none")
        loss = each[replied].mean()
        (loss + args.prompt_loss * each[~replied].mean() if args.prompt_loss else loss).backward()
        end = args.ends[bisect_right(args.ends, state["tokens"])]
        optim.step(rate(state["tokens"] / end, state["step"], args.hold))
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
        if state["step"] % args.save_every == 0 or state["tokens"] >= args.ends[-1]:
            optim.save(out)
            if rank == 0:
                save(out / "state.pt", model=model.state_dict(), state=state, args=vars(args))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    training.add_arguments(parser, save_every=200)
    parser.add_argument("--base", help="start the second stage from this folder, Hugging Face or training")
    parser.add_argument("--first-chunk", type=int, default=0, help=f"{mixture.COPYING} and more: no long copies at the start")
    parser.add_argument("--ends", type=float, nargs="+", default=[24e6, 32e6, 40e6],
                        help="tokens (padded) at which the rate has fallen to zero; after the last, training ends")
    parser.add_argument("--batch", type=int, default=2048, help="padded tokens a process and step")
    parser.add_argument("--prompt-loss", type=float, default=0.2, help="weight of the loss on prompts")
    parser.add_argument("--hold", type=float, default=0.4, help="share of the tokens to an end at full rate")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--ffn", type=int, default=640)
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer.json").exists():
        (out / "tokenizer.json").write_text(json.dumps(make_tokenizer(args.seed, args.base), ensure_ascii=False, indent=1))
    training.launch(worker, args)


if __name__ == "__main__":
    main()
