"""The skills without tools: each generator returns an Item, a question whose answer a program knows.

A trace is written so that every next token is either a copy of one nearby token or one small fact
(a digit sum, a comparison of two digits): that is what a model of this size can learn.
"""

import re
from dataclasses import dataclass, field
from string import ascii_lowercase, ascii_uppercase

from lexicon import CITIES, COMMON, ENTRY_WORDS, NAMES, WORDS, draw, echoed, held_out, made_up, mixed


@dataclass
class Item:
    skill: str
    messages: list  # OpenAI messages without the system line; the last one asks
    trace: str  # what stands inside <think> when thinking is on
    answer: str  # the reply, or the raw <TOOLCALL> text
    tools: list = field(default_factory=list)
    check: str = "text"  # text: the whole answer; tool_call: name and arguments equal `gold`
    gold: object = None


def ask(skill: str, text: str, trace: str, answer: str) -> Item:
    return Item(skill, [{"role": "user", "content": text}], trace, answer, gold=answer)


def dress(rng, text: str) -> str:
    """Small variations of how people type."""
    roll = rng.random()
    if roll < 0.06:
        return rng.choice(("Please: ", "Hi! ", "Hey, ", "Hello! ", "Question: ", "Quick: ")) + text
    if roll < 0.10 and text.endswith(("?", ".")):
        return text[:-1]
    if roll < 0.13 and text.endswith("?"):
        return text + rng.choice((" Thanks!", " Think step by step.", " Be brief."))
    return text


# --- count letters ---

COUNT_ASKS = """
How many {L} in {W}?|How many {L} are in {W}?|How many {L} are there in {W}?
How many {L} are there in the word {W}?|How many {L} does {W} have?|How many {L} does {W} contain?
How many times does {l} appear in {W}?|How many times does the letter {l} occur in {W}?
Count the {L} in {W}.|Count {L} in {W}|Count the letter {l} in {W}.|Tell me how many {L} {W} has.
How often does {l} appear in {W}?|What is the number of {L} in {W}?|In {W}, how many {L} are there?
{W}: how many {L}?|How many {L} are in the word {W}?|How many letters {l} are in {W}?
How many of the letter {l} are in {W}?|How many occurrences of {l} are there in {W}?
""".replace("\n", "|").strip("|").split("|")


def count_answer(letter: str, word: str, count: int) -> str:
    """A word that is one token is shown in small letters: another form is another token."""
    word = word.lower() if word.lower() in ENTRY_WORDS else word
    if count == 1:
        return f"There is 1 {letter} in {word}."
    return f"There are {count} {letter}'s in {word}."


def count_trace(letter: str, word: str) -> str:
    """A word that is one token is spelled before its letters are counted: two things that are learned apart."""
    seen, steps = 0, []
    for char in word.lower():
        seen += char == letter
        steps.append(f"{char}{seen}" if char == letter else char)
    spelled = f"{' '.join(word.lower())}\n" if word.lower() in ENTRY_WORDS else ""
    return f"{spelled}{letter}: " + " ".join(steps)


def counted(item) -> tuple:
    """(letter, word as shown) of an item of counting."""
    return item.trace.rsplit("\n", 1)[-1][0], item.answer.rsplit(" ", 1)[1][:-1]


def count(rng, test: bool = False, wanted: int | None = None, echoes: float = 0.1) -> Item:
    """`wanted` fixes the answer, so that a test can be balanced over answers; `echoes` of the words repeat a part."""
    if wanted is None:
        wanted = rng.choices((0, 1, 2, 3, 4), (18, 27, 27, 18, 10))[0]
    while True:
        known = not test and rng.random() < 0.1
        words = echoed if rng.random() < echoes else mixed(rng, WORDS, 0.6)
        word = rng.choice(COMMON) if known else draw(rng, words, test)
        counts = {char: word.count(char) for char in ascii_lowercase}
        letters = [char for char in counts if counts[char] == wanted]
        if wanted > 2 and not letters and rng.random() < 0.5:  # plant the letter in a made-up word
            letter, chars = rng.choice(word), list(made_up(rng))
            while chars.count(letter) < wanted and len(chars) < 11:
                chars.insert(rng.randrange(len(chars) + 1), letter)
            word = "".join(chars)
            letters = [letter] if word.count(letter) == wanted and held_out(word) == test else []
        if letters and not re.search(r"(.)\1\1", word):
            break
    letter = rng.choice(letters)
    shown = word.capitalize() if rng.random() < 0.12 else word
    quoted = rng.choice(("{}", "{}", "{}", '"{}"', "'{}'")).format(shown)
    single = rng.choice(("{}", "{}", '"{}"', "'{}'")).format(letter)
    many = rng.choice(("{}", "{}'s", "{}s", "letter {}", '"{}"', "'{}'", "{}'s", "{}")).format(
        letter.upper() if rng.random() < 0.08 else letter
    )
    text = rng.choice(COUNT_ASKS).format(L=many, l=single, W=quoted)
    return ask("count", dress(rng, text), count_trace(letter, shown),
               count_answer(letter, shown, wanted))


# --- sums ---

ADD_ASKS = """
What is {a} + {b}?|{a} + {b}|{a}+{b}|{a}+{b}=?|{a} + {b} =|Calculate {a} + {b}.|What is {a} plus {b}?
Add {a} and {b}.|How much is {a} + {b}?|Compute {a} plus {b}.|What's {a}+{b}?|What is {a}+{b}?
What is the sum of {a} and {b}?|{a} plus {b}?|Add {a} to {b}.|Work out {a} + {b}.
""".replace("\n", "|").strip("|").split("|")
SUB_ASKS = """
What is {a} - {b}?|{a} - {b}|{a}-{b}|{a}-{b}=?|{a} - {b} =|Calculate {a} - {b}.|What is {a} minus {b}?
How much is {a} - {b}?|Compute {a} minus {b}.|What's {a}-{b}?|What is {a}-{b}?|{a} minus {b}?
{a} take away {b}?|Work out {a} - {b}.
""".replace("\n", "|").strip("|").split("|")


def number(rng) -> int:
    low, high = rng.choice(((0, 9), (10, 99), (10, 99), (100, 999), (100, 999)))
    return rng.randint(low, high)


def digits(value: int, width: int) -> list:
    """Digits from the right, padded with zeros."""
    return [int(char) for char in reversed(str(value).zfill(width))]


def add_trace(a: int, b: int) -> str:
    width = max(len(str(a)), len(str(b)))
    lines, carry, partial = [], 0, ""
    for x, y in zip(digits(a, width), digits(b, width)):
        total = x + y + carry
        partial = f"{total % 10}{partial}"
        lines.append(f"{x}+{y}{'+1' if carry else ''}={total}: {partial}")
        carry = total // 10
    if carry:
        lines.append(f"0+0+1=1: 1{partial}")
    return "\n".join(lines)


def sub_trace(a: int, b: int) -> str:
    """a >= b. A borrowed ten shows as the leading 1 of a column's first number."""
    lines, borrow, partial = [], 0, ""
    for x, y in zip(digits(a, len(str(a))), digits(b, len(str(a)))):
        lent = x < y + borrow
        result = x + 10 * lent - y - borrow
        partial = f"{result}{partial}"
        lines.append(f"{x + 10 * lent}-{y}{'-1' if borrow else ''}={result}: {partial}")
        borrow = lent
    return "\n".join(lines) + f"\nSo {a - b}"


def pair(rng, test: bool, sign: str):
    while True:
        a, b = number(rng), number(rng)
        if sign == "-":
            a, b = max(a, b), min(a, b)
            if a >= 100 and rng.random() < 0.2:  # borrowing through a zero is rare among random numbers
                a -= a // 10 % 10 * 10
        if a < b and sign == "-":
            continue
        if held_out(f"{a}{sign}{b}") == test:
            return a, b


def add(rng, test: bool = False) -> Item:
    a, b = pair(rng, test, "+")
    text = rng.choice(ADD_ASKS).format(a=a, b=b)
    return ask("add", dress(rng, text), add_trace(a, b), f"{a} + {b} = {a + b}.")


def subtract(rng, test: bool = False) -> Item:
    a, b = pair(rng, test, "-")
    text = rng.choice(SUB_ASKS).format(a=a, b=b)
    return ask("subtract", dress(rng, text), sub_trace(a, b), f"{a} - {b} = {a - b}.")


# --- decimals ---

DECIMAL_ASKS = """
Which is {w}, {a} or {b}?|Which is {w}: {a} or {b}?|Which number is {w}, {a} or {b}?
What is {w}, {a} or {b}?|{a} and {b}, which is {w}?|Which one is {w}, {a} or {b}?
{a} or {b}, which is {w}?|Compare {a} and {b}: which is {w}?|Is {a} {w} than {b}?
Is {a} {w} than {b}?|Of {a} and {b}, which is {w}?|What's {w}, {a} or {b}?
""".replace("\n", "|").strip("|").split("|")
UP, DOWN = ("larger", "bigger", "greater"), ("smaller", "lower")


def decimal_trace(a: str, b: str, word: str, first: bool) -> str:
    """Both numbers named, place by place until one differs, then the one the question asks for.

    The name in front tells the model which of two numbers that begin alike it is writing.
    """
    (wa, fa), (wb, fb) = a.split("."), b.split(".")
    places = max(len(fa), len(fb))
    lines = [f"A {a} B {b}"]
    for x, y in [(wa, wb), *zip(fa.ljust(places, "0"), fb.ljust(places, "0"))]:
        lines.append(f"{x} and {y}: {'same' if x == y else 'less' if int(x) < int(y) else 'more'}")
        if x != y:
            break
    return "\n".join([*lines, f"{word}: A {a}" if first else f"{word}: B {b}"])


def decimal_pair(rng):
    def fraction(places):
        return "".join(rng.choice("0123456789") for _ in range(places - 1)) + rng.choice("123456789")

    whole_a = rng.randint(0, 9)
    whole_b = rng.randint(0, 9) if rng.random() < 0.35 else whole_a
    fa, fb = fraction(rng.choice((1, 1, 2))), fraction(rng.choice((1, 1, 2)))
    if rng.random() < 0.25:  # share the first place, so that the second decides
        fb = fa[0] + fb[1:]
    return f"{whole_a}.{fa}", f"{whole_b}.{fb}"


def decimals(rng, test: bool = False) -> Item:
    while True:
        a, b = decimal_pair(rng)
        if float(a) != float(b) and held_out(f"{a}|{b}") == test:
            break
    word = rng.choice(rng.choice((UP, DOWN)))
    text = rng.choice(DECIMAL_ASKS).format(a=a, b=b, w=word)
    first = (float(a) > float(b)) == (word in UP)
    verdict = ("Yes, " if first else "No, ") if text.startswith("Is ") else ""
    answer = f"{verdict}{a if first else b} is {word}."
    return ask("decimals", dress(rng, text), decimal_trace(a, b, word, first), answer)


# --- repeat ---

REPEAT_ASKS = "Repeat: {x}|Repeat after me: {x}|Say {x}|Say: {x}|Please repeat {x}|Echo: {x}".split("|")


def thing(rng, test: bool) -> str:
    """A word, name, code, number, decimal or time: what the other skills have to copy."""
    roll = rng.random()
    if roll < 0.4:
        return draw(rng, mixed(rng, WORDS, 0.5), test)
    if roll < 0.6:
        return draw(rng, mixed(rng, rng.choice((NAMES, CITIES)), 0.5), test)
    if roll < 0.7:
        return "".join(rng.choice(ascii_uppercase) for _ in range(rng.choice((3, 4))))
    if roll < 0.8:
        return str(number(rng))
    if roll < 0.9:
        return decimal_pair(rng)[0]
    return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"


def repeat(rng, test: bool = False, most: int = 4) -> Item:
    while True:
        text = rng.choice((" ", " ", ", ")).join(thing(rng, test) for _ in range(rng.randint(1, most)))
        if held_out(text) == test:
            return ask("repeat", rng.choice(REPEAT_ASKS).format(x=text), "Repeat it.", text)


# --- small talk ---

WHO = "I am tiny-reasoner, a very small demo model that ships with nemotron-server."
CAN = "I can count letters, add and subtract, compare decimals, repeat things, and call a tool."
CHAT = {
    WHO: ("Who are you?|What are you?|What is your name?|What's your name?|Tell me about yourself."
          "|Which model are you?|Are you ChatGPT?|Are you a human?|Are you a bot?|Introduce yourself."
          "|Are you an AI?|Are you Nemotron?"),
    CAN: ("What can you do?|What are you good at?|How can you help me?|Help|Help me|What do you know?"
          "|What are your skills?|Can you help me?|What can I ask you?"),
    "I was trained from nothing on made-up dialogues, by the nemotron-server project.": (
        "Who made you?|Who created you?|Who trained you?|Where do you come from?|Who built you?"
        "|How were you trained?"),
    "I have about five million parameters: nine megabytes.": (
        "How big are you?|How many parameters do you have?|How large are you?|How small are you?"),
    "Put detailed thinking on or detailed thinking off in the system message.": (
        "How do I turn thinking on?|How do I turn thinking off?|How do I make you think?"),
    "Hello! How can I help you?": (
        "Hello|Hello!|Hi|Hi!|Hey|Hey!|Hi there|Hello there!|Good morning|Good morning!|Good evening"
        "|Good evening!"),
    "I am fine, thank you. How can I help you?": (
        "How are you?|How are you doing?|How do you do?|How is it going?|What's up?|How are you today?"),
    "You are welcome!": (
        "Thanks|Thanks!|Thank you|Thank you!|Thanks a lot!|Thank you very much.|Great, thanks!"),
    "Goodbye!": (
        "Bye|Bye!|Goodbye|Goodbye!|See you later|See you!|Good night|Good night!"),
}
CHAT_PAIRS = [(text, answer) for answer, texts in CHAT.items() for text in texts.split("|")]
NAME_ASKS = ("My name is {n}.|I am {n}.|I'm {n}.|Hello, I am {n}.|Hi, my name is {n}!|Call me {n}."
             "|Hi, I'm {n}|This is {n}.|Hello, my name is {n}.").split("|")
OPENINGS = ("", "", "", "", "Hi, ", "Hello! ", "Hey, ", "So, ", "Ok, ", "Please tell me: ", "And ",
            "Well, ", "Now, ")


def chat(rng, test: bool = False) -> Item:
    if rng.random() < 0.2:
        name = draw(rng, mixed(rng, NAMES, 0.5), test)
        text, answer = rng.choice(NAME_ASKS).format(n=name), f"Nice to meet you, {name}!"
        return ask("chat", text, "Small talk.", answer)
    while True:
        text, answer = rng.choice(CHAT_PAIRS)
        opening = rng.choice(OPENINGS)
        if opening.endswith(", "):
            text = text[0].lower() + text[1:] if text[:2] not in ("I ", "I'") else text
        text = opening + text
        if rng.random() < 0.12:
            text = text.lower()
        if held_out(text, 5) == test:
            return ask("chat", text, "Small talk.", answer)


# --- refusal ---

SORRY = "Sorry, I am only a tiny demo model and cannot help with that."
REFUSE_ASKS = """
What is the capital of {p}?|Who invented the {w}?|Write a poem about {w}.|Tell me a joke about {w}.
Tell me a joke.|What is a {w}?|Explain {w} to me.|Why is the {w} {v}?|Where can I buy a {w}?
How do I cook {w}?|Write a story about a {w} and a {v}.|Who is {n}?|When was {n} born?
What is {a} times {b}?|What is {a} * {b}?|{a} * {b}|{a} x {b}|What is {a} / {b}?|{a} divided by {b}?
What is the square root of {a}?|Is {a} a prime number?|What is {a} percent of {b}?
Translate {w} to French.|What is the weather in {p}?|What time is it in {p}?|What day is it today?
Write Python code that sorts {w}.|Fix my code: {w}.|Summarize the book {w}.|Recommend a {w}.
Who won the {w} cup?|How far is {p} from {p2}?|What does {w} mean?|Spell {w} backwards.
What rhymes with {w}?|Give me a synonym of {w}.|Is a {w} bigger than a {v}?|Which is better, {w} or {v}?
How tall is {n}?|Draw a {w}.|Play {w}.|Sing a song about {w}.|Send {n} a message.|Set an alarm for {a}.
What is the meaning of life?|Do you like {w}?|What is your favorite {w}?|Should I buy a {w} or a {v}?
How old is the {w}?|Why do people like {w}?|Plan a trip to {p}.|What is the population of {p}?
Give me three facts about {w}.|How many people live in {p}?|How many legs does a {w} have?
How many days are in {w}?|How many words are in this sentence?|How do I fix a {w}?|Is {w} healthy?
Make a list of {w} names.|{w} {v}|{w}|Can you drive a {w}?|Tell me about {p}.|Tell me about {w}.
What happened in {a}?|How much does a {w} cost?|How much is a {w}?|Which color is a {w}?
Which is larger, a {w} or a {v}?|Which is faster, a {w} or a {v}?|What should I eat with {w}?
Solve x + {a} = {b}.|Convert {a} miles to kilometers.|Round {a}.{b} to one place.|What is {w} in German?
Order a {w} for {n}.|Open the {w}.|Turn off the {w}.|Remind me to buy {w}.|Search for {w} {v}.
{a}*{b}|What's {a} * {b}?|Multiply {a} by {b}.|How much is {a} times {b}?|What is {a} x {b}?|{a} times {b}?
Calculate {a} * {b}.|Compute {a} / {b}.|Divide {a} by {b}.|What is {a} / {b}|What is {a} to the power of {b}?
How many letters are in {w}?|How many vowels are in {w}?|How many syllables does {w} have?
How many {w} are in a {v}?|How many words are in this text?|Reverse {w}.|Sort {a}, {b} and 7.
""".replace("\n", "|").strip("|").split("|")


def fill(rng, shape: str, test: bool) -> str:
    word = mixed(rng, WORDS, 0.3)
    return shape.format(
        w=draw(rng, word, test), v=draw(rng, word, test), n=draw(rng, mixed(rng, NAMES, 0.4), test),
        p=made_up(rng).capitalize(), p2=made_up(rng).capitalize(),
        a=rng.randint(2, 999), b=rng.randint(2, 99))


def refuse(rng, test: bool = False) -> Item:
    """Tests use whole question shapes that training never saw, with held-out words."""
    shape = draw(rng, REFUSE_ASKS, test, 6)
    text = fill(rng, shape, test)
    if rng.random() < 0.1:
        text = text.lower()
    return ask("refuse", dress(rng, text), "Not one of my skills.", SORRY)


# Training only, so that what is refused is known by more than the shapes above: a verb, a thing, an ending.
VERBS = """
add bake bring build burn buy call cancel carry clean close compare criticize cut define deliver describe design
discuss download dream drop email enter feed film find fly forget freeze grow guess hide hire invent join kick learn
lift list mail mix move name notice outline paint photograph pick pour praise predict print prove quote rate read
record rent repair review ride run save sell show sketch skip start stop store study teach text thank throw tie touch
try wake walk wash watch wrap
""".split()
ENDINGS = """
|||| now| again| please| to me| for me| with me| to {n}| for {n}| with {n}| in {p}| from {p}| in the {v}| with a {v}
| and a {v}| by {a}| for {a} minutes| at {a}| in {b} steps| {b} times| like {n}| without a {v}| on the {v}| about {v}
""".replace("\n", "").split("|")
NUMBER_ASKS = """
What is {a} modulo {b}?|What is {a} degrees in radians?|What is the average of {a} and {b}?|What is half of {a}?
What is {a} squared?|What is the cube root of {a}?|Is {a} even?|Is {a} divisible by {b}?|What is {a} out of {b}?
What is {a} {w} in {v}?|How many {w} are {a} {v}?|What is {a} over {b}?|Is {a} a {w}?|What comes after {a}?
What is {a} in binary?|What is {a} factorial?|What is a third of {a}?|What is {a} mod {b}?|What is double {a}?
What is {a} dollars in euros?|What is the remainder of {a} by {b}?|Who is number {a}?|What is {a} feet in meters?
""".replace("\n", "|").strip("|").split("|")


def refuse_request(rng) -> Item:
    if rng.random() < 0.3:
        shape = draw(rng, NUMBER_ASKS, False, 6)
    else:
        thing = rng.choice(("{w}", "a {w}", "the {w}", "my {w}", "some {w}", "{n}", "{w} {v}"))
        shape = f"{rng.choice(VERBS).capitalize()} {thing}{rng.choice(ENDINGS)}."
    text = fill(rng, shape, False)
    return ask("refuse", dress(rng, text.lower() if rng.random() < 0.2 else text), "Not one of my skills.", SORRY)
