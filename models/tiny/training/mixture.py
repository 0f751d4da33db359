"""Draws training dialogues: which skill, thinking on or off, with or without earlier turns."""

import random
from bisect import bisect_right
from functools import partial

import skills
import tools
import wide
import wide_tools
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
# Shares of the second stage, which starts from the weights of the first: the new kinds are heavy, all old ones stay.
SECOND = [
    (skills.count, 6), (partial(skills.count, echoes=0.7), 6), (skills.add, 4), (skills.subtract, 5), (skills.decimals, 2),
    (wide.decimals, 2), (skills.repeat, 4), (skills.chat, 8), (skills.refuse, 4), (skills.refuse_request, 6),
    (partial(tools.tool_call, steps=True), 5), (tools.tool_answer, 3), (tools.tool_unused, 5),
    (wide.count_words, 14), (wide.spell, 14), (wide.repeat_words, 17), (partial(wide.repeat_words, long=True), 5), (wide.count, 8),
    (wide.sums, 10), (wide.subtract_borrow, 5), (wide.follow_up, 9),
    (wide_tools.tool_choice, 30), (wide_tools.tool_absent, 10), (wide_tools.tool_turns, 6),
]
COPYING, COPYING_SHARE = 6, 0.6  # chunks at the start with long texts to repeat, and their share
STEPS = ("count", "add", "subtract", "decimals")  # off has little to learn here: mostly on
PREFILL_OFF = "<think>\n</think>\n\n"  # as the server ends a prompt where a request's field forbids thinking
SYSTEM_TEXTS = ("You are a helpful assistant.", "You are a friendly assistant. Be brief.", "Answer in English.")


def has_steps(item) -> bool:
    """Letters, sums, decimals, which tool. Counts, sums and decimals cannot be judged without theirs."""
    return ": " in item.trace


def system_turns(rng, thinking: bool) -> list:
    """The system line, with rare variants; no system turn at all means thinking off."""
    line = "detailed thinking on" if thinking else "detailed thinking off"
    roll = rng.random()
    if roll < 0.05:
        line += "\n\n" + rng.choice(SYSTEM_TEXTS)
    elif roll < 0.13 and not thinking:
        return [] if rng.random() < 0.7 else [{"role": "system", "content": rng.choice(SYSTEM_TEXTS)}]
    return [{"role": "system", "content": line}]


def maker(rng, chunk: int = COPYING, second: bool = False):
    """The generator of the next item."""
    if second:
        makers, shares = zip(*SECOND)
        return rng.choices(makers, shares)[0]
    makers, *shares = zip(*MIXTURE)
    return rng.choices(makers, shares[bisect_right(LATER, chunk)])[0]


def judged(rng) -> tuple:
    """(item, thinking) for the reward model: replies that show what is needed to judge them."""
    item = maker(rng, second=True)(rng)
    # Whether a call, or a refusal, is right can be seen in the tools and the question.
    is_seen = item.tools and (item.answer.startswith("<TOOLCALL>") or item.answer == skills.SORRY)
    return item, has_steps(item) and not is_seen or item.skill == "tool_unused" or rng.random() < 0.6


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


def earlier_turns(rng) -> list:
    """One or two exchanges about something else."""
    out = []
    for _ in range(rng.choice((1, 1, 2))):
        other = rng.choice((skills.chat, skills.count, skills.add, wide.spell, wide.repeat_words, skills.refuse))(rng)
        out += [*other.messages, {"role": "assistant", "content": other.answer}]
    return out


def second_dialogue(rng, chunk: int = COPYING):
    """The same of the second stage. With thinking off, half of the prompts end in the closed block of PREFILL_OFF."""
    if chunk < COPYING and rng.random() < COPYING_SHARE:
        item = skills.repeat(rng, most=12) if rng.random() < 0.4 else wide.repeat_words(rng, long=True)
    else:
        item = maker(rng, second=True)(rng)
    thinking = rng.random() < (0.8 if has_steps(item) else 0.6)
    earlier = earlier_turns(rng) if rng.random() < 0.12 else []
    messages = system_turns(rng, thinking) + earlier + item.messages
    prompt = render(messages, item.tools)
    if not thinking and rng.random() < 0.5:
        prompt += PREFILL_OFF
    return prompt, reply(item, thinking), item, thinking


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
