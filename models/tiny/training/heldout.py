"""Writes eval/*.jsonl: at least 200 held-out items a skill (`python heldout.py`)."""

import json
import random
from functools import partial
from pathlib import Path

import skills
import tools
import wide
import wide_tools
from lexicon import RESERVED

SKILLS = {
    "count": skills.count, "add": skills.add, "subtract": skills.subtract,
    "decimals": skills.decimals, "repeat": skills.repeat, "chat": skills.chat, "refuse": skills.refuse,
    "tool_call": partial(tools.tool_call, steps=True), "tool_answer": tools.tool_answer, "tool_unused": tools.tool_unused,
    "count_words": wide.count_words, "spell": wide.spell, "repeat_words": wide.repeat_words, "wordings": wide.wordings,
    "subtract_borrow": wide.subtract_borrow, "follow_up": wide.follow_up,
    "tool_choice": wide_tools.tool_choice, "tool_absent": wide_tools.tool_absent, "tool_turns": wide_tools.tool_turns,
}
FAMOUS = {"strawberry": "r", "banana": "a", "mississippi": "s", "raspberry": "r", "blueberry": "e"}
assert set(FAMOUS) == RESERVED


def record(name: str, number: int, item) -> dict:
    out = {"id": f"{name}-{number:03}", "skill": name, "messages": item.messages}
    if item.tools:
        out["tools"] = [{"type": "function", "function": tool} for tool in item.tools]
    return out | {"check": item.check, "gold": item.gold, "trace": item.trace}


def famous() -> list:
    return [skills.ask("count", f"How many {letter} in {word}?", skills.count_trace(letter, word),
                       skills.count_answer(letter, word, word.count(letter)))
            for word, letter in FAMOUS.items()]


def items(name: str, count: int, seed: int = 2026) -> list:
    rng = random.Random(f"{seed}/{name}")
    out, seen = (famous() if name == "count" else []), set()
    while len(out) < count + (len(FAMOUS) if name == "count" else 0):
        if name == "count":  # as many of each answer
            item = skills.count(rng, True, wanted=len(seen) % 5)
        else:
            item = SKILLS[name](rng, True)
        key = json.dumps([item.messages, item.tools])
        if key not in seen:
            seen.add(key)
            out.append(item)
    return out


def main() -> None:
    folder = Path(__file__).parent / "eval"
    folder.mkdir(exist_ok=True)
    for name in SKILLS:
        lines = [json.dumps(record(name, i, item), ensure_ascii=False) for i, item in enumerate(items(name, 200))]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
