"""Collects the reasoner's own mistakes at temperature 1 as pairs for the reward model.

`python sample.py FOLDER --out pairs.jsonl` draws training items; with `--test` it draws from the
held-out items instead and writes eval/reward.jsonl (with generated slips beside the mistakes).
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


def draw(model, tok, items, thinking, samples: int, temperature: float, rng):
    """For each item the texts of `samples` replies."""
    texts = replies(model, tok, [item for item in items for _ in range(samples)], thinking, 96,
                    temperature, 1.0, rng)
    return [texts[i: i + samples] for i in range(0, len(texts), samples)]


def mistakes(model, tok, items, thinking, samples, temperature, rng):
    """(item, right text, wrong text): every different wrong reply, against the reference."""
    for item, texts in zip(items, draw(model, tok, items, thinking, samples, temperature, rng)):
        on = "think" if thinking else ""
        right = f"<think>\n{item['trace']}\n</think>\n\n" if on else ""
        right += item["answer"]
        for text in sorted(set(texts)):
            if not checks.judge(text, thinking, item["check"], item["gold"], item["trace"]).right:
                yield item, right, text


def training_items(rng, count: int) -> list:
    makers, weights = zip(*mixture.MIXTURE)
    drawn = [rng.choices(makers, weights)[0](rng) for _ in range(count)]
    return [record(item.skill, i, item) | {"answer": item.answer} for i, item in enumerate(drawn)]


def test_pairs(model, tok, rng, generator, count: int) -> list:
    """Generated slips and, with thinking on, as many own mistakes at temperature 1; held-out items."""
    out = []
    for name in ("count", "add", "subtract", "decimals", "tool_call"):
        maker = SKILLS[name]
        for thinking in (True, False):
            mode, pairs = "on" if thinking else "off", []
            while len(pairs) < (count // 2 if thinking else count):
                item, other = maker(rng, True), maker(rng, True)
                made = slips.wrong(rng, item, thinking, other)
                if made:
                    pairs.append((record(name, 0, item), tokenizer.reply(item, thinking), made[1], made[0]))
            tries = 0
            while len(pairs) < count and tries < 4:
                tries += 1
                drawn = [maker(rng, True) for _ in range(24)]
                items = [record(name, 0, item) | {"answer": item.answer} for item in drawn]
                for item, right, wrong in mistakes(model, tok, items, thinking, 4, 1.0, generator):
                    if len(pairs) < count and right != wrong:
                        pairs.append((item, right, wrong, "sampled"))
            for number, (item, right, wrong, kind) in enumerate(pairs):
                row = {"id": f"reward-{name}-{mode}-{number:03}", "skill": name, "thinking": mode,
                       "kind": kind, "messages": item["messages"]}
                row |= {"tools": item["tools"]} if "tools" in item else {}
                out.append(row | {"chosen": right, "rejected": wrong})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = load_model(args.folder)
    generator = torch.Generator(model.embed.device).manual_seed(args.seed)
    rng = random.Random(f"{args.seed}/{'test' if args.test else 'sample'}")
    if args.test:
        lines = [json.dumps(row, ensure_ascii=False) for row in test_pairs(model, tok, rng, generator, 40)]
        (HERE / "eval" / "reward.jsonl").write_text("\n".join(lines) + "\n")
        return
    kept, wrong = 0, 0
    with args.out.open("w") as file:
        for start in range(0, args.items, 500):
            items = training_items(rng, min(500, args.items - start))
            cut = len(items) * 4 // 5  # four of five with thinking on
            for thinking, part in ((True, items[:cut]), (False, items[cut:])):
                kept += len(part)
                line = {"role": "system", "content": "detailed thinking " + ("on" if thinking else "off")}
                for item, right, bad in mistakes(model, tok, part, thinking, args.samples,
                                                 args.temperature, generator):
                    if right != bad:
                        functions = [tool["function"] for tool in item.get("tools", [])]
                        prompt = tokenizer.render([line, *item["messages"]], functions)
                        file.write(json.dumps([prompt, right, bad], ensure_ascii=False) + "\n")
                        wrong += 1
            file.flush()
            print(json.dumps({"items": kept, "mistakes": wrong}), flush=True)


if __name__ == "__main__":
    main()
