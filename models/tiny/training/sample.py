"""Collects the reasoner's own mistakes as pairs for the reward model; our own server writes the replies.

`python sample.py FOLDER --out mistakes.jsonl` draws training items; with `--test` it draws held-out
ones instead and writes pairs.jsonl: mistakes, at most half, and generated slips.
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
from pathlib import Path

import checks
import mixture
import slips
import tokenizer
from evaluate import HERE, prompt
from heldout import SKILLS, record

SERVER = HERE.parents[2] / "dist/server/cli.js"
# No reply of these, or of too few, can be judged without its steps.
WITHOUT_OFF = ("count", "add", "subtract", "decimals", "tool_unused", "count_words", "wordings", "subtract_borrow", "follow_up",
               "tool_absent", "tool_turns")


def mistakes(folder: Path, drawn: list, samples: int, temperature: float, seed: int) -> list:
    """The different wrong replies among `samples` to each (item, thinking)."""
    tok = tokenizer.load(folder)
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "asked.jsonl", Path(scratch) / "answered.jsonl"
        with asked.open("w") as file:
            for n, (item, thinking) in enumerate(drawn):
                body = {"model": "tiny-reasoner", "prompt": prompt(tok, record(item.skill, 0, item), thinking),
                        "n": samples, "max_tokens": 220, "temperature": temperature, "top_p": 1, "seed": seed + n}
                line = {"custom_id": str(n), "method": "POST", "url": "/v1/completions", "body": body}
                file.write(json.dumps(line) + "\n")
        subprocess.run(["node", SERVER, "batch", asked, "-o", answered, "--model", folder], check=True,
                       env=os.environ | {"NEMOTRON_MAX_NUM_SEQS": "256"})
        lines = [json.loads(line)["response"]["body"]["choices"] for line in answered.open()]
    out = []
    for (item, thinking), choices in zip(drawn, lines):
        texts = sorted({choice["text"] for choice in choices} - {tokenizer.reply(item, thinking)})
        out.append([text for text in texts if not checks.judge(text, thinking, item.check, item.gold, item.trace).right])
    return out


def test_pairs(folder: Path, rng, seed: int, count: int) -> list:
    """`count` pairs a skill and mode."""
    cells = [(name, thinking) for name in SKILLS for thinking in (True, False) if thinking or name not in WITHOUT_OFF]
    drawn = [(SKILLS[name](rng, True), thinking) for name, thinking in cells for _ in range(48)]
    wrong, out = mistakes(folder, drawn, 4, 1.0, seed), []
    for cell, (name, thinking) in enumerate(cells):
        mode, part = "on" if thinking else "off", range(cell * 48, cell * 48 + 48)
        pairs = [(drawn[n][0], text, "sampled") for n in part for text in wrong[n]][: count // 2]
        sampled = len(pairs)
        while len(pairs) < count:
            item, other = SKILLS[name](rng, True), SKILLS[name](rng, True)
            made = slips.wrong(rng, item, thinking, other)
            if made:
                pairs.append((item, made[1], made[0]))
        for number, (item, bad, kind) in enumerate(pairs):
            row = {"id": f"reward-{name}-{mode}-{number:03}", "skill": name, "thinking": mode, "kind": kind,
                   "cell": f"{name} {mode}"}
            out.append(row | messages(item, thinking) | {"chosen": tokenizer.reply(item, thinking), "rejected": bad})
        print(json.dumps({"skill": name, "thinking": mode, "pairs": count, "sampled": sampled}), flush=True)
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
    parser.add_argument("--items", type=int, default=50000)
    parser.add_argument("--samples", type=int, default=4, help="replies to an item")
    parser.add_argument("--count", type=int, default=100, help="test pairs a skill and mode")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(f"{args.seed}/{'test' if args.test else 'sample'}")
    if args.test:
        lines = [json.dumps(row) for row in test_pairs(args.folder, rng, args.seed, args.count)]
        (HERE / "pairs.jsonl").write_text("\n".join(lines) + "\n")
        return
    drawn = [mixture.judged(rng) for _ in range(args.items)]
    wrong = mistakes(args.folder, drawn, args.samples, args.temperature, args.seed)
    with args.out.open("w") as file:
        for (item, thinking), texts in zip(drawn, wrong):
            if texts:
                row = {"skill": item.skill, "thinking": thinking, "messages": item.messages, "tools": item.tools,
                       "right": tokenizer.reply(item, thinking), "wrong": texts}
                file.write(json.dumps(row) + "\n")
    print(json.dumps({"items": len(drawn), "with mistakes": sum(map(bool, wrong)), "mistakes": sum(map(len, wrong))}))


if __name__ == "__main__":
    main()
