"""Draws training dialogues: which skill, thinking on or off, with or without earlier turns."""

import random
from bisect import bisect_right
from functools import partial

import skills
import tools
from lexicon import held_out
from tokenizer import render, reply

# Shares of dialogues from chunk 0 and from each of LATER on: what comes last is what has most to learn.
LATER = (54, 75)
MIXTURE = [
    (skills.count, 15, 20, 16), (skills.add, 6, 9, 8), (skills.subtract, 11, 16, 13), (skills.decimals, 12, 6, 4),
    (skills.repeat, 5, 6, 6), (skills.chat, 7, 5, 4), (skills.refuse, 7, 8, 8), (tools.tool_call, 10, 14, 12),
    (tools.tool_answer, 15, 6, 5), (tools.tool_unused, 12, 10, 8),
    (partial(skills.count, echoes=0.7), 0, 0, 14), (skills.refuse_request, 0, 0, 12),
]
COPYING, COPYING_SHARE = 6, 0.6  # chunks at the start with long texts to repeat, and their share
STEPS = ("count", "add", "subtract", "decimals")  # off has little to learn here: mostly on
NEEDS_STEPS = ("count", "add", "subtract")  # no reply of these can be judged without its steps
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


def maker(rng, chunk: int = COPYING):
    """The generator of the next item."""
    makers, *shares = zip(*MIXTURE)
    return rng.choices(makers, shares[bisect_right(LATER, chunk)])[0]


def judged(rng) -> tuple:
    """(item, thinking) for the reward model: replies that show what is needed to judge them."""
    item = maker(rng)(rng)
    sums = item.skill in NEEDS_STEPS or item.skill == "tool_unused"
    return item, sums or rng.random() < 0.6


def dialogue(rng, chunk: int = COPYING):
    """(prompt text, reply text, item, thinking) of one training example.

    Nothing can be learned before copying is, and copying is learned from long copies.
    """
    copying = chunk < COPYING and rng.random() < COPYING_SHARE
    item = skills.repeat(rng, most=12) if copying else maker(rng, chunk)(rng)
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


def frames():
    """The fixed wordings of small talk and refusals, at the start and inside of a sentence."""
    questions = [text for text, _ in skills.CHAT_PAIRS]
    questions += [text for text in skills.REFUSE_ASKS if not held_out(text, 6)]
    for text in questions:
        text = text.replace("{", " ").replace("}", " ")
        for form in (text, text.lower(), "So, " + text, "So, " + text[0].lower() + text[1:]):
            yield form
