"""The second stage's dialogues with tools: one of several, none that fits, tools never seen before, a second turn."""

import json

import skills
import tools
import wide
from lexicon import CITIES, NAMES, WORDS, draw, held_out, made_up, mixed
from skills import SORRY, Item

ACTIONS = "get find check open read send order book list save count show start stop update delete".split()
# What the tools of tools.py do is not among them.
NOUNS = """
capital city code cup data date day demo decimals item joke key language letter list location message model name order
place plan population power price project query question result schema sentence server sort status step stock story
string sum system text ticker title tool total translation trip turn user value web word
""".split()
PARAMETERS = ("name", "id", "value", "user", "date", "number", "key", "place", "item", "code")
MADE_UP_ASKS = wide.options("""
{A} the {w} of {0}.|{A} the {w} for {0}.|Please {a} the {w} of {0}.|Can you {a} the {w} of {0}?|{A} {w} {0}.
I want to {a} the {w} of {0}.|{A} the {w} {0}, please.|Please {a} {w} {0}.
""")


def made_up_tool(rng, test: bool) -> tuple:
    """(schema, question, arguments, result, answer, what is asked for) of a tool that only its own description tells about.

    The pair of action and noun is held out, so that a test's tools were never seen.
    """
    while True:
        action, noun, key = rng.choice(ACTIONS), rng.choice(NOUNS), rng.choice(PARAMETERS)
        if held_out(f"{action} {noun}", 6) == test and action != noun:
            break
    if not test and rng.random() < 0.2:
        noun = draw(rng, mixed(rng, WORDS, 0.3), False)
    whole = rng.random() < 0.35
    value = rng.randint(1, 999) if whole else draw(rng, mixed(rng, NAMES + CITIES + WORDS, 0.4), test)
    name = rng.choice((f"{action}_{noun}", f"{action}_{noun}", f"{noun}_{action}"))
    tool = tools.schema(rng, name, f"{action.capitalize()} the {noun}", [(key, "integer" if whole else "string")])
    text = wide.wording(rng, MADE_UP_ASKS).format(value, A=action.capitalize(), a=action, w=noun)
    found = rng.randint(1, 999) if rng.random() < 0.5 else made_up(rng)
    return tool, text, {key: value}, {noun: found}, f"The {noun} is {found}.", f"{action} {noun}"


def dialogue(rng, test: bool):
    """(tools, question, name, arguments, result, answer, what is asked for), one tool of one to five being right."""
    while True:
        if rng.random() < 0.45:
            tool, text, arguments, result, answer, asked_for = made_up_tool(rng, test)
            used = None
        else:
            used = rng.choice(tools.KINDS)
            tool, keys = tools.offer(rng, used)
            values, result, answer = used[0](rng, test)
            arguments = dict(zip(keys, values))
            text, asked_for = rng.choice(used[4].split("|")).format(*values), tools.wanted(tool["name"])
        if held_out(json.dumps(arguments), 4) == test:
            break
    offered = others(rng, used, rng.choice((0, 1, 2, 2, 3, 4)), tool["name"]) + [tool]
    rng.shuffle(offered)
    return offered, text, tool["name"], arguments, json.dumps(result), answer, asked_for


def others(rng, used, count: int, name: str) -> list:
    kinds = rng.sample([kind for kind in tools.KINDS if kind is not used], min(count, 4))
    out = [made_up_tool(rng, False)[0] if rng.random() < 0.4 else tools.offer(rng, kind)[0] for kind in kinds]
    return [tool for tool in out if tool["name"] != name]


def call_item(skill: str, messages: list, asked_for: str, name: str, arguments: dict, offered: list) -> Item:
    return Item(skill, messages, tools.choice_trace(offered, asked_for, name), tools.call_text(name, arguments), offered, "tool_call",
                {"name": name, "arguments": arguments})


def asked(text: str, name: str, arguments: dict, content: str) -> list:
    """A question, the call and the tool's answer."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": content}]


def tool_choice(rng, test: bool = False) -> Item:
    offered, text, name, arguments, _, _, asked_for = dialogue(rng, test)
    return call_item("tool_choice", [{"role": "user", "content": text}], asked_for, name, arguments, offered)


def tool_absent(rng, test: bool = False) -> Item:
    """Nothing that is offered fits: no call, and above all none of a tool that is not there."""
    if rng.random() < 0.35:
        item = rng.choice((skills.refuse, wide.repeat_words, wide.spell, wide.sums, wide.follow_up, skills.chat))(rng, test)
        # What a tool of tools.py could do is asked only where that tool is not among those offered.
        offered = [made_up_tool(rng, False)[0] for _ in range(rng.randint(1, 3))]
        return Item("tool_absent", item.messages, item.trace, item.answer, offered, gold=item.answer)
    offered, text, name, _, _, _, asked_for = dialogue(rng, test)
    left = [tool for tool in offered if tool["name"] != name]
    if not left:
        left = [made_up_tool(rng, False)[0]]
    return Item("tool_absent", [{"role": "user", "content": text}], tools.choice_trace(left, asked_for), SORRY, left, gold=SORRY)


def tool_turns(rng, test: bool = False) -> Item:
    """The tool answered: tell it, or, when it was told and the user asks on, do what that asks."""
    offered, text, name, arguments, content, answer, _ = dialogue(rng, test)
    messages = asked(text, name, arguments, content)
    if rng.random() < 0.4:
        return Item("tool_turns", messages, "The tool answered.", answer, offered, gold=answer)
    messages.append({"role": "assistant", "content": answer})
    if rng.random() < 0.35:
        item = rng.choice((skills.chat, skills.add, skills.subtract, skills.count))(rng, test)
        return Item("tool_turns", messages + item.messages, item.trace, item.answer, offered, gold=item.answer)
    kind = next((kind for kind in tools.KINDS if name in kind[1].split() and kind[0] in (tools.weather, tools.clock, tools.stock)), None)
    if kind is None:
        text = rng.choice(wide.AGAIN)
        return Item("tool_turns", [*messages, {"role": "user", "content": text}], "Repeat it.", answer, offered, gold=answer)
    value = kind[0](rng, test)[0][0]
    ask = rng.choice(("And in {}?", "What about {}?", "And {}?", "In {}?", "How about {}?")) if kind[0] is not tools.stock \
        else rng.choice(("And {}?", "What about {}?", "And of {}?", "How about {}?"))
    messages.append({"role": "user", "content": ask.format(value)})
    return call_item("tool_turns", messages, tools.wanted(name), name, {next(iter(arguments)): value}, offered)
