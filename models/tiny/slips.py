"""Wrong replies for the reward model: each looks like a right one but for a slip that matters."""

import json
import re

import checks
import skills
from skills import Item
from tokenizer import reply

VERDICTS = {"less": "more", "more": "less", "<": ">", ">": "<"}


def change_digit(rng, text: str) -> str:
    """One digit replaced by another."""
    places = [m.start() for m in re.finditer(r"\d", text)]
    if not places:
        return text
    at = rng.choice(places)
    return text[:at] + rng.choice([d for d in "0123456789" if d != text[at]]) + text[at + 1:]


def change_letter(rng, text: str) -> str:
    """One letter replaced, dropped, doubled or swapped with the next."""
    places = [i for i, char in enumerate(text) if char.isalpha()]
    if not places:
        return text
    at = rng.choice(places)
    return text[:at] + rng.choice((rng.choice("abcdefghijklmnopqrstuvwxyz"), "", text[at] * 2,
                                   text[at + 1: at + 2] + text[at])) + text[at + 1:]


def slip_count(rng, item: Item):
    """A letter missed, added, or miscounted; the answer follows the wrong trace."""
    letter, steps = item.trace.split(": ")
    steps = re.sub(r"\d", "", steps).split(" ")
    marked = [i for i, char in enumerate(steps) if char == letter]
    count = len(marked)
    roll = rng.random()
    if roll < 0.35 and marked:  # overlooked
        marked.remove(rng.choice(marked))
    elif roll < 0.7:  # misspelled so that the count changes
        at = rng.randrange(len(steps))
        if steps[at] == letter:
            steps[at: at + 1] = rng.choice(([], [letter, letter], [rng.choice("aeioustrn")]))
        else:
            steps[at] = letter
        marked = [i for i, char in enumerate(steps) if char == letter]
    else:  # another letter taken for it
        others = [i for i in range(len(steps)) if i not in marked]
        if others:
            marked = sorted([*marked, rng.choice(others)])
    trace, seen = [], 0
    for i, char in enumerate(steps):
        seen += i in marked
        trace.append(f"{char}{seen}" if i in marked else char)
    word = item.answer.rsplit(" ", 1)[1].rstrip(".")
    if len(marked) == count:
        return None
    return f"{letter}: {' '.join(trace)}", skills.count_answer(letter, word, len(marked))


def slip_sum(rng, item: Item):
    """A column off, or an operand's digit miscopied; later lines and the answer follow."""
    a, sign, b = re.match(r"(\d+) ([+-]) (\d+) =", item.answer).groups()
    if rng.random() < 0.5:
        x, y = (change_digit(rng, a), b) if rng.random() < 0.5 else (a, change_digit(rng, b))
        if x[0] == "0" or y[0] == "0" or (sign == "-" and int(x) < int(y)):
            return None
        x, y = int(x), int(y)
        trace = skills.add_trace(x, y) if sign == "+" else skills.sub_trace(x, y)
        return trace, f"{a} {sign} {b} = {x + y if sign == '+' else x - y}."
    lines = item.trace.split("\n")
    columns = [i for i, line in enumerate(lines) if ":" in line]
    at = rng.choice(columns)
    digit = rng.choice([d for d in "0123456789" if d != lines[at].split(": ")[1][0]])
    head, partial = lines[at].split(": ")
    lines[at] = f"{head[:-1]}{digit}: {digit}{partial[1:]}"
    final = digit + partial[1:]
    for i in columns:
        if i > at:
            head, partial = lines[i].split(": ")
            final = partial[: i - at] + digit + partial[i - at + 1:]
            lines[i] = f"{head}: {final}"
    if sign == "-":
        lines[-1] = f"So {int(final)}"
    return "\n".join(lines), f"{a} {sign} {b} = {int(final)}."


def slip_decimals(rng, item: Item):
    """The verdict turned round, in the deciding line and everything after, or in the answer only."""
    match = re.match(r"(Yes, |No, )?([\d.]+) is (\w+) than ([\d.]+)\.$", item.answer)
    verdict, winner, word, loser = match.groups()
    answer = {None: "", "Yes, ": "No, ", "No, ": "Yes, "}[verdict] + f"{loser} is {word} than {winner}."
    lines = item.trace.split("\n")
    if rng.random() < 0.7:
        for i in (-2, -1):
            head, colon, tail = lines[i].partition(",")  # the asked word after the comma may be "less"
            lines[i] = re.sub(r"less|more|<|>", lambda m: VERDICTS[m[0]], head) + colon + tail
        lines[-1] = lines[-1][:-1] + str(3 - int(lines[-1][-1]))
    return "\n".join(lines), answer


def slip_call(rng, item: Item):
    """The wrong tool, a wrong key or a wrong value; the trace has it too half of the time."""
    call = checks.tool_call(item.answer)
    name, arguments = call["name"], dict(call["arguments"])
    key, value = rng.choice(list(arguments.items()))
    roll = rng.random()
    if roll < 0.25:
        others = [tool["name"] for tool in item.tools if tool["name"] != name]
        old, new = name, rng.choice(others) if others and rng.random() < 0.7 else change_letter(rng, name)
        name = new
    elif roll < 0.4:
        old, new = key, change_letter(rng, key)
        arguments = {new if k == key else k: v for k, v in arguments.items()}
    else:
        old = str(value)
        new = change_digit(rng, old) if isinstance(value, int) else change_letter(rng, old)
        arguments[key] = int(new) if isinstance(value, int) else new
    trace = item.trace.replace(old, new, 1) if rng.random() < 0.5 else item.trace
    answer = f'<TOOLCALL>{json.dumps([{"name": name, "arguments": arguments}])}</TOOLCALL>'
    return trace, answer


def wrong(rng, item: Item, thinking: bool, other: Item):
    """(kind, wrong reply), or None where this draw gave none."""
    roll = rng.random()
    if roll < 0.12:
        right = reply(item, thinking)
        broken = rng.choice((
            right.replace("</think>\n\n", ""), right[: rng.randrange(1, max(2, len(right) - 1))],
            reply(item, not thinking), right + "\n" + item.answer, f"<think>\n{item.trace}\n</think>"))
        return ("format", broken) if broken.strip() != right else None
    if roll < 0.22:
        return None if other.answer == item.answer else ("other", reply(other, thinking))
    if item.skill == "count" or item.answer.startswith("There "):
        changed = slip_count(rng, item)
    elif re.match(r"\d+ [+-] \d+ =", item.answer):
        changed = slip_sum(rng, item)
    elif item.skill == "decimals":
        changed = slip_decimals(rng, item)
    elif item.check == "tool_call":
        changed = slip_call(rng, item)
    else:
        change = change_digit if re.search(r"\d", item.answer) and rng.random() < 0.6 else change_letter
        changed = item.trace, change(rng, item.answer)
    if changed and rng.random() < 0.15:  # right steps, wrong last word
        changed = item.trace, changed[1]
    if not changed or changed[1].strip() == item.answer:
        return None
    bad = Item(item.skill, item.messages, changed[0], changed[1])
    return "slip", reply(bad, thinking)
