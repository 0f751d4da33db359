"""Collects the reasoner's own mistakes as pairs for the reward model.

`python sample.py FOLDER --out pairs.jsonl` draws training items; with `--test` it draws held-out
ones instead and writes pairs.jsonl: mistakes at temperature 1, at most half, and generated slips.
"""

import argparse
import json
import random
from pathlib import Path

import torch

import checks
import mixture
import slips
import tokenizer
from evaluate import HERE, load_model, replies
from heldout import SKILLS, record

SAMPLES = 4  # replies to an item
# No reply of these, or of too few, can be judged without its steps.
WITHOUT_OFF = ("count", "add", "subtract", "tool_unused", "count_words", "wordings", "subtract_borrow", "follow_up",
               "json_answer", "tool_absent", "tool_turns")


def mistakes(model, tok, items, thinking, temperature, rng):
    """(item, wrong text): every different wrong reply among SAMPLES of each item."""
    records = [record(item.skill, 0, item) for item in items]
    texts = replies(model, tok, [row for row in records for _ in range(SAMPLES)], thinking, 256,
                    temperature, 1.0, rng)
    for n, item in enumerate(items):
        for text in sorted(set(texts[n * SAMPLES: (n + 1) * SAMPLES])):
            if not checks.judge(text, thinking, item.check, item.gold, item.trace).right:
                yield item, text


def test_pairs(model, tok, rng, generator, count: int) -> list:
    """`count` pairs a skill and mode."""
    out = []
    for name, maker in SKILLS.items():
        for thinking in (True, False):
            if not thinking and name in WITHOUT_OFF:
                continue
            mode = "on" if thinking else "off"
            items = [maker(rng, True) for _ in range(48)]
            pairs = [(item, text, "sampled")
                     for item, text in mistakes(model, tok, items, thinking, 1.0, generator)]
            pairs = pairs[: count // 2]
            while len(pairs) < count:
                item, other = maker(rng, True), maker(rng, True)
                made = slips.wrong(rng, item, thinking, other)
                if made:
                    pairs.append((item, made[1], made[0]))
            for number, (item, bad, kind) in enumerate(pairs):
                row = {"id": f"reward-{name}-{mode}-{number:03}", "skill": name, "thinking": mode,
                       "kind": kind, "cell": f"{name} {mode}"}
                out.append(row | messages(item, thinking)
                           | {"chosen": tokenizer.reply(item, thinking), "rejected": bad})
            print(json.dumps({"skill": name, "thinking": mode, "pairs": len(pairs),
                              "sampled": sum(pair[2] == "sampled" for pair in pairs)}), flush=True)
    return out


def messages(item, thinking: bool) -> dict:
    """With the system turn as the server renders it, tools in its text, so that any client can ask."""
    system = f"detailed thinking {'on' if thinking else 'off'}"
    if item.tools:
        system += "\n\n<AVAILABLE_TOOLS>[" + ", ".join(map(json.dumps, item.tools)) + "]</AVAILABLE_TOOLS>"
    return {"messages": [{"role": "system", "content": system}, *item.messages]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--count", type=int, default=200, help="test pairs a skill")
    parser.add_argument("--temperature", type=float, default=1.2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = load_model(args.folder)
    generator = torch.Generator(model.embed.device).manual_seed(args.seed)
    rng = random.Random(f"{args.seed}/{'test' if args.test else 'sample'}")
    if args.test:
        lines = [json.dumps(row, ensure_ascii=False) for row in test_pairs(model, tok, rng, generator, args.count)]
        (HERE / "pairs.jsonl").write_text("\n".join(lines) + "\n")
        return
    done, wrong = 0, 0
    with args.out.open("w") as file:
        while done < args.items:
            drawn = [mixture.judged(rng) for _ in range(min(500, args.items - done))]
            done += len(drawn)
            for thinking in (True, False):
                part = [item for item, on in drawn if on == thinking]
                for item, bad in mistakes(model, tok, part, thinking, args.temperature, generator):
                    right = tokenizer.reply(item, thinking)
                    if right != bad:
                        row = {"skill": item.skill, "thinking": thinking, "messages": item.messages,
                               "tools": item.tools, "right": right, "wrong": bad}
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                        wrong += 1
            file.flush()
            print(json.dumps({"items": done, "mistakes": wrong}), flush=True)


if __name__ == "__main__":
    main()
