"""One-tool dialogues: choose the tool, copy the arguments, then say what the result says.

Names of tools and parameters vary, so that the model has to read the list in the system turn
instead of remembering one name for each kind of question.
"""

import json

from lexicon import CITIES, LANGUAGES, WORDS, draw, held_out, made_up, mixed
from skills import Item, add, chat, count, decimals, subtract

def phrase(rng, test: bool) -> str:
    return " ".join(draw(rng, mixed(rng, WORDS, 0.2), test) for _ in range(rng.choice((1, 1, 2))))


def symbol(rng) -> str:
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((3, 4, 4))))


def place(rng, test):
    return draw(rng, mixed(rng, CITIES, 0.3), test)


# Each kind: tool names, description, parameters (names, JSON type), how people ask.
# The drawing function returns the arguments in order, the result, and the answer.
def weather(rng, test):
    city, degrees = place(rng, test), rng.randint(-9, 39)
    sky = rng.choice(("sunny", "cloudy", "raining", "windy", "snowing", "foggy"))
    return [city], {"temperature": degrees, "condition": sky}, f"It is {degrees} degrees and {sky} in {city}."


def clock(rng, test):
    city, now = place(rng, test), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    return [city], {"time": now}, f"It is {now} in {city}."


def translate(rng, test):
    word, other = draw(rng, mixed(rng, WORDS, 0.2), test), made_up(rng)
    language = draw(rng, mixed(rng, LANGUAGES, 0.1), test)
    return [word, language], {"translation": other}, f"{word} in {language} is {other}."


def timer(rng, test):
    minutes = rng.randint(2, 120)
    return [minutes], {"status": "ok"}, f"Your timer is set for {minutes} minutes."


def search(rng, test):
    title = phrase(rng, test)
    return [phrase(rng, test)], {"title": title}, f"I found {title}."


def stock(rng, test):
    code, price = symbol(rng), round(rng.uniform(1, 900), rng.choice((1, 2)))
    return [code], {"price": price}, f"{code} is at {price}."


def song(rng, test):
    title = phrase(rng, test)
    return [title], {"status": "playing"}, f"Playing {title}."


def multiply(rng, test):
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    return [a, b], {"result": a * b}, f"{a} times {b} is {a * b}."


S, N = "string", "integer"
KINDS = [
    (weather, "get_weather get_current_weather", "Get the weather in a city", [("city location", S)],
     "What is the weather in {0}?|How is the weather in {0} today?|Weather in {0}?|Is it raining in {0}?"
     "|What's the weather like in {0}?|Tell me the weather in {0}.|How warm is it in {0}?"
     "|What is the weather in {0} right now?|Is it cold in {0}?"),
    (clock, "get_time get_current_time", "Get the time in a city", [("city location", S)],
     "What time is it in {0}?|What is the time in {0}?|Time in {0}?|Tell me the time in {0}."
     "|What is the local time in {0}?|What's the time in {0} now?"),
    (translate, "translate translate_text", "Translate a word", [("text", S), ("language", S)],
     "Translate {0} to {1}.|How do you say {0} in {1}?|What is {0} in {1}?|Translate {0} into {1}."
     "|Please translate the word {0} to {1}."),
    (timer, "set_timer start_timer", "Set a timer", [("minutes", N)],
     "Set a timer for {0} minutes.|Start a timer of {0} minutes.|Timer for {0} minutes, please."
     "|Wake me in {0} minutes.|Please set a {0} minute timer."),
    (search, "search web_search", "Search the web", [("query", S)],
     "Search the web for {0}.|Search for {0}.|Find {0} on the web.|Look up {0}.|Google {0}."),
    (stock, "get_stock_price get_quote", "Get the price of a stock", [("symbol ticker", S)],
     "What is the stock price of {0}?|How much is {0} stock?|Price of {0}?|What is {0} trading at?"
     "|Get me the price of {0}."),
    (song, "play_song play_music", "Play a song", [("title", S)],
     "Play {0}.|Play the song {0}.|Please play {0} for me.|Put on {0}.|I want to hear {0}."),
    (multiply, "multiply product", "Multiply two numbers", [("a", N), ("b", N)],
     "What is {0} times {1}?|What is {0} * {1}?|Multiply {0} by {1}.|{0} * {1}|Multiply {0} and {1}."
     "|How much is {0} times {1}?"),
]


def schema(rng, name: str, description: str, params: list) -> dict:
    """A tool as clients send it, in a few of the shapes they send."""
    properties = {}
    for key, kind in params:
        properties[key] = {"type": kind}
        if rng.random() < 0.15:
            properties[key]["description"] = f"The {key}"
    parameters = {"type": "object", "properties": properties}
    if rng.random() < 0.7:
        parameters["required"] = [key for key, _ in params]
    tool = {"name": name}
    if rng.random() < 0.85:
        tool["description"] = description
    return tool | {"parameters": parameters}


def offer(rng, kind) -> tuple:
    """One variant of a kind: its schema and the parameter names chosen."""
    _, names, description, params, _ = kind
    name = rng.choice(names.split())
    chosen = [(rng.choice(keys.split()), type_) for keys, type_ in params]
    return schema(rng, name, description, chosen), [key for key, _ in chosen]


def wanted(name: str) -> str:
    """What a question for this tool asks for: the words of one name for each kind."""
    return next((kind[1].split()[0] for kind in KINDS if name in kind[1].split()), name)


def choice_trace(offered: list, asked: str, name: str | None = None) -> str:
    """What is asked for, then the tools in turn, up to the one that fits: one small question a tool. The words of both are
    written in one form, with a capital after a space, in which nothing else has them: that they are the same is to be seen."""
    def line(one: str, verdict: str) -> str:
        return f"{one}: {one.replace('_', ' ').title()} {verdict}"

    names = [tool["name"] for tool in offered]
    tried = names[: names.index(name)] if name else names
    return "\n".join([f"Asked: {asked.replace('_', ' ').title()}", *(line(one, "no") for one in tried),
                      *([line(name, "yes")] if name else [])])


def call_text(name: str, arguments: dict) -> str:
    return f"<TOOLCALL>{json.dumps([{'name': name, 'arguments': arguments}])}</TOOLCALL>"


def distractors(rng, used) -> list:
    others = [kind for kind in KINDS if kind is not used]
    return [offer(rng, kind)[0] for kind in rng.sample(others, rng.choice((0, 0, 0, 1, 1)))]


def dialogue(rng, test: bool):
    """(tools, question, name, arguments, result text, answer); test: some argument is held out."""
    while True:
        used = rng.choice(KINDS)
        tool, keys = offer(rng, used)
        values, result, answer = used[0](rng, test)
        arguments = dict(zip(keys, values))
        if held_out(json.dumps(arguments), 4) == test:
            break
    text = rng.choice(used[4].split("|")).format(*values)
    content = json.dumps(result)
    if rng.random() < 0.1:  # a tool that returns plain words
        content = rng.choice(("It is {}", "{}", "The result is {}")).format(phrase(rng, test))
        answer = f"The tool says: {content}."
    tools = distractors(rng, used) + [tool]
    rng.shuffle(tools)
    return tools, text, tool["name"], arguments, content, answer


def tool_call(rng, test: bool = False, steps: bool = False) -> Item:
    """`steps`: as the second stage chooses."""
    tools, text, name, arguments, _, _ = dialogue(rng, test)
    return Item("tool_call", [{"role": "user", "content": text}], choice_trace(tools, wanted(name), name) if steps else f"Call {name}.",
                call_text(name, arguments), tools, "tool_call", {"name": name, "arguments": arguments})


def tool_answer(rng, test: bool = False) -> Item:
    tools, text, name, arguments, content, answer = dialogue(rng, test)
    messages = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "call_1", "type": "function",
             "function": {"name": name, "arguments": json.dumps(arguments)}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": content},
    ]
    return Item("tool_answer", messages, "The tool answered.", answer, tools, gold=answer)


def tool_unused(rng, test: bool = False) -> Item:
    """Tools are offered, and the question is one that the model answers by itself."""
    item = rng.choice((chat, chat, add, subtract, decimals, count))(rng, test)
    kinds = rng.sample(KINDS, rng.choice((1, 1, 1, 2)))
    return Item("tool_unused", item.messages, item.trace, item.answer,
                [offer(rng, kind)[0] for kind in kinds], gold=item.answer)
