"""Draws training dialogues: which skill, thinking on or off, with or without earlier turns."""

import random

import skills
import tools
from tokenizer import render, reply

# Shares of dialogues.
MIXTURE = [
    (skills.count, 24), (skills.add, 12), (skills.subtract, 15), (skills.decimals, 18),
    (skills.chat, 10), (skills.refuse, 4), (tools.tool_call, 16), (tools.tool_answer, 5),
    (tools.tool_unused, 1),
]
STEPS = ("count", "add", "subtract", "decimals")  # off has little to learn here: mostly on
SYSTEM_TEXTS = ("You are a helpful assistant.", "You are a friendly assistant. Be brief.", "Answer in English.")


def system_turns(rng, thinking: bool) -> list:
    """The system line, with rare variants; no system turn at all means thinking off."""
    line = "detailed thinking on" if thinking else "detailed thinking off"
    roll = rng.random()
    if roll < 0.05:
        line += "\n\n" + rng.choice(SYSTEM_TEXTS)
    elif roll < 0.13 and not thinking:
        return [] if rng.random() < 0.7 else [{"role": "system", "content": rng.choice(SYSTEM_TEXTS)}]
    return [{"role": "system", "content": line}]


def dialogue(rng):
    """(prompt text, reply text, item, thinking) of one training example."""
    makers, weights = zip(*MIXTURE)
    item = rng.choices(makers, weights)[0](rng)
    thinking = rng.random() < (0.85 if item.skill in STEPS else 0.65)
    earlier = []
    if not item.tools and rng.random() < 0.06:
        other = rng.choice((skills.chat, skills.count, skills.add))(rng)
        earlier = other.messages + [{"role": "assistant", "content": other.answer}]
    messages = system_turns(rng, thinking) + earlier + item.messages
    if not thinking and rng.random() < 0.04:  # a server that forbids thinking prefills an empty block
        empty = "<think>\n</think>"
        return render(messages, item.tools) + empty, "\n\n" + item.answer, item, thinking
    return render(messages, item.tools), reply(item, thinking), item, thinking


def texts(seed: int, count: int):
    """Whole rendered dialogues, for choosing the tokenizer's entries."""
    rng = random.Random(seed)
    for _ in range(count):
        prompt, answer, _, _ = dialogue(rng)
        yield prompt + answer
