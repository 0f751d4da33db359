"""Scores the reward model: order of held-out pairs, and best of N at temperature 1.

`python judge.py REWARD_FOLDER [--reasoner FOLDER]`
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

import checks
import tokenizer
from evaluate import HERE, load_items, load_model, prompt, replies


def scores(model, tok, rows, batch: int = 64) -> list:
    """rows: (prompt ids, text). The score is read at the closing <|eot_id|>."""
    sequences = [head + tok.encode(text) + [tok.eot] for head, text in rows]
    order = sorted(range(len(rows)), key=lambda i: len(sequences[i]))
    out = [0.0] * len(rows)
    for start in range(0, len(order), batch):
        part = order[start: start + batch]
        for row, score in zip(part, model.rewards([sequences[i] for i in part]).tolist()):
            out[row] = score
    return out


def pairs(model, tok, bare: bool) -> None:
    """bare: without the system turn, where no tools stand in it."""
    items = [json.loads(line) for line in (HERE / "pairs.jsonl").read_text().splitlines()]
    if bare:
        items = [item for item in items if "<AVAILABLE_TOOLS>" not in item["messages"][0]["content"]]
    heads = [tok.encode(tokenizer.render(item["messages"][1:] if bare else item["messages"], []))
             for item in items]
    rows = [(head, item[key]) for key in ("chosen", "rejected") for head, item in zip(heads, items)]
    all_scores = scores(model, tok, rows)
    good, bad = all_scores[: len(items)], all_scores[len(items):]
    cells = {}
    for item, g, b in zip(items, good, bad):
        mode = item["thinking"]
        for key in ("all", mode, f"{mode} {item['skill']}", f"{mode} {item['kind']}"):
            cells.setdefault(key, []).append(g > b)
    for key, wins in sorted(cells.items()):
        print(json.dumps({"pairs": key, "system turn": not bare, "n": len(wins),
                          "right order": round(100 * sum(wins) / len(wins), 1)}))


def best_of(reward, reasoner, tok, skills, limit: int, most: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    table = {}
    for skill in skills:
        items = load_items(skill, limit)
        texts = replies(reasoner, tok, [item for item in items for _ in range(most)], True, 64, 1.0, 1.0, rng)
        heads = [prompt(tok, item, True) for item in items]
        points = scores(reward, tok, [(heads[i // most], text) for i, text in enumerate(texts)])
        right = [checks.judge(text, True, items[i // most]["check"], items[i // most]["gold"],
                              items[i // most]["trace"]).right for i, text in enumerate(texts)]
        for n in (1, 2, 4, 8):
            if n > most:
                continue
            for start in range(0, len(texts), most):  # each item's samples, cut into groups of n
                for first in range(start, start + most, n):
                    group = range(first, first + n)
                    answers = Counter(texts[i].split("</think>")[-1].strip() for i in group)
                    common = answers.most_common(1)[0][0]
                    cell = table.setdefault((skill, n), []), table.setdefault(("all", n), [])
                    for rows in cell:
                        rows.append((right[max(group, key=lambda i: points[i])],
                                     any(right[i] for i in group if texts[i].split("</think>")[-1].strip() == common),
                                     any(right[i] for i in group)))
    for (skill, n), rows in sorted(table.items()):
        share = [round(100 * sum(column) / len(rows), 1) for column in zip(*rows)]
        print(json.dumps({"best of": n, "skill": skill, "groups": len(rows), "reward": share[0],
                          "majority": share[1], "any right": share[2]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reasoner", type=Path)
    parser.add_argument("--skills", default="count,add,subtract,decimals,tool_call")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--most", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    reward, tok = load_model(args.folder)
    for bare in (False, True):
        pairs(reward, tok, bare)
    if args.reasoner:
        reasoner, _ = load_model(args.reasoner)
        best_of(reward, reasoner, tok, args.skills.split(","), args.limit, args.most, args.seed)


if __name__ == "__main__":
    main()
