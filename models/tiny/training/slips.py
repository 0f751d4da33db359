"""Wrong replies for the reward model: each looks like a right one but for a slip that matters."""

import json
import re

import checks
import skills
import tools
from mixture import has_steps
from skills import Item
from tokenizer import reply

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
    spelled, _, line = item.trace.rpartition("\n")
    letter, steps = line.split(": ")
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
    spelled = f"{' '.join(steps)}\n" if spelled else ""
    return f"{spelled}{letter}: {' '.join(trace)}", skills.count_answer(letter, word, len(marked))


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
    """A digit miscopied, the comparison turned round, or the other number picked; the rest follows."""
    lines = item.trace.split("\n")
    _, a, _, b = lines[0].split(" ")
    word, _, picked = re.match(r"(\w+): (A|B) (.+)", lines[-1]).groups()
    first, roll = picked == a, rng.random()
    yes_no = item.answer.startswith(("Yes", "No"))
    if roll < 0.4:
        x, y = (change_digit(rng, a), b) if rng.random() < 0.5 else (a, change_digit(rng, b))
        if float(x) == float(y) or x.endswith("0") or y.endswith("0"):
            return None
        a, b = x, y
        first = (float(a) > float(b)) == (word in skills.UP)
        trace = skills.decimal_trace(a, b, word, first)
    else:
        first = not first
        if roll < 0.7:
            lines[-2] = re.sub("less|more", lambda m: {"less": "more", "more": "less"}[m[0]], lines[-2])
        lines[-1] = f"{word}: A {a}" if first else f"{word}: B {b}"
        trace = "\n".join(lines)
    verdict = ("Yes, " if first else "No, ") if yes_no else ""
    return trace, f"{verdict}{a if first else b} is {word}."


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


def slip_text(rng, item: Item):
    """A digit or a letter of the answer, or the answer to another question of the same kind."""
    if item.answer in skills.CHAT or item.answer == skills.SORRY:
        return item.trace, rng.choice([text for text in [*skills.CHAT, skills.SORRY] if text != item.answer])
    change = change_digit if re.search(r"\d", item.answer) and rng.random() < 0.6 else change_letter
    return item.trace, change(rng, item.answer)


def noise(rng, item: Item):
    """One character of the steps and nothing else, or of the answer where there are no real steps."""
    if not re.search(r"\d", item.trace):
        return item.trace, (change_digit if rng.random() < 0.5 else change_letter)(rng, item.answer)
    change = change_digit if rng.random() < 0.6 else change_letter
    return change(rng, item.trace), item.answer


def slip(rng, item: Item):
    """(steps, answer) with a slip of the item's kind, or None."""
    plain = ": " in item.trace and not item.answer.startswith(("{", "["))
    if plain and item.answer.startswith("There "):
        return slip_count(rng, item)
    if plain and re.match(r"\d+ [+-] \d+ =", item.answer):
        return slip_sum(rng, item)
    if plain and item.trace.startswith("A "):
        return slip_decimals(rng, item)
    return slip_call(rng, item) if item.check == "tool_call" else slip_text(rng, item)


def misjudged(rng, item: Item, thinking: bool):
    """Refusing what it can do, or calling a tool that the question does not ask for."""
    if item.check == "text" and item.tools and item.messages[-1]["role"] == "user":
        tool = rng.choice(item.tools)
        keys = tool["parameters"]["properties"]
        words = re.findall(r"\w+", item.messages[-1]["content"])
        call = {"name": tool["name"], "arguments": {key: rng.choice(words) for key in keys}}
        trace, answer = tools.choice_trace(item.tools, tools.wanted(tool["name"]), tool["name"]), f"<TOOLCALL>{json.dumps([call])}</TOOLCALL>"
    elif item.answer == skills.SORRY:
        trace, answer = "Small talk.", rng.choice(list(skills.CHAT))
    else:
        trace, answer = "Not one of my skills.", skills.SORRY
    return "misjudged", reply(Item(item.skill, item.messages, trace, answer), thinking)


def wrong(rng, item: Item, thinking: bool, other: Item):
    """(kind, wrong reply), or None where this draw gave none."""
    roll = rng.random()
    if roll < 0.08:
        right = reply(item, thinking)
        whole = [right[: rng.randrange(1, max(2, len(right) - 1))], right + "\n" + item.answer]
        if thinking:
            whole += [right.replace("</think>\n\n", ""), f"<think>\n{item.trace}\n</think>"]
        broken = rng.choice(whole)
        return ("format", broken) if broken.strip() != right else None
    if roll < 0.15:
        return misjudged(rng, item, thinking)
    if roll < 0.25:
        if other.answer == item.answer or not thinking and has_steps(other):
            return None
        return "other", reply(other, thinking)
    kind, changed = "slip", slip(rng, item)
    if changed and rng.random() < 0.15:  # right steps, wrong last word
        changed = item.trace, changed[1]
    if changed and changed[1].strip() == item.answer:
        return None
    if thinking and rng.random() < 0.2:
        kind, changed = "noise", noise(rng, item)
    if not changed or changed == (item.trace, item.answer):
        return None
    bad = reply(Item(item.skill, item.messages, *changed), thinking)
    return None if bad.strip() == reply(item, thinking) else (kind, bad)
