"""The second stage's skills without tools: entries of the vocabulary, other wordings, hard borrows, turns.

A sixth of the wordings below is never in a training dialogue: heldout.py asks in those.
"""

from string import ascii_lowercase

import skills
from lexicon import CITIES, ENTRY_WORDS, TEMPLATE_WORDS, LANGUAGES, NAMES, WORDS, draw, held_out, made_up, mixed
from skills import Item, ask, dress


def options(text: str) -> list:
    return text.replace("\n", "|").strip("|").split("|")


def others(text: str, first: list) -> list:
    """The wordings of `text` that the first stage did not have."""
    return [one for one in options(text) if one not in first]


def wording(rng, asks: list, unseen: bool = False) -> str:
    return draw(rng, asks, unseen, 6)


def entry(rng, test: bool) -> str:
    """A word that is an entry of the vocabulary."""
    return rng.choice(TEMPLATE_WORDS if test else ENTRY_WORDS)


def quoted(rng, text: str) -> str:
    return rng.choice(("{}", "{}", "{}", '"{}"', "'{}'")).format(text)


# --- letters ---

COUNT_ASKS = others("""
How many letters {l} are in {W}?|How many letters {l} are there in {W}?|How many {l} letters are in {W}?
How many letter {l} are in the word {W}?|How many {L} can you find in {W}?|How many {L} do you see in {W}?
Number of {L} in {W}?|The number of {L} in {W}?|How many {L} in the word {W}?|How many {l} letters does {W} have?
Can you count the {L} in {W}?|Count the number of {L} in {W}.|Count how many {L} are in {W}.|What's the count of {l} in {W}?
Do you know how many {L} are in {W}?|Please count the {L} in {W}.|Find how many {L} are in {W}.|Can you tell me how many {L} are in {W}?
How many times is the letter {l} in {W}?|How many times is {l} used in {W}?|How often is {l} in the word {W}?
I want to know how many {L} {W} has.|The word {W} has how many {L}?|Give me the number of {L} in {W}.|{L} in {W}?
How many {L} does the word {W} have?|How many {L} does the word {W} contain?|How many {L} exist in {W}?|In the word {W}, how many {L} are there?
Count every {l} in {W}.|Count all {L} in {W}.|Count the occurrences of {l} in {W}.|Does {W} have {L}? How many?
What number of {L} is in {W}?|Tell me the number of {L} in {W}.|How many {L} are written in {W}?|How many {L} are inside {W}?
""", skills.COUNT_ASKS)


def letters(rng, letter: str, word: str, text: str, skill: str) -> Item:
    shown = word.capitalize() if rng.random() < 0.25 else word
    many = rng.choice(("{}", "{}", "{}'s", "{}s", "letter {}", '"{}"', "'{}'")).format(
        letter.upper() if rng.random() < 0.08 else letter)
    single = rng.choice(("{}", "{}", '"{}"', "'{}'")).format(letter)
    text = text.format(L=many, l=single, W=quoted(rng, shown))
    return ask(skill, dress(rng, text), skills.count_trace(letter, shown),
               skills.count_answer(letter, shown, word.count(letter)))


def a_letter(rng, word: str) -> str:
    return rng.choice(word) if rng.random() < 0.75 else rng.choice(ascii_lowercase)


def count_words(rng, test: bool = False) -> Item:
    """Letters of a word that is one token: its spelling is known by heart or not at all."""
    while True:
        word = entry(rng, test)
        letter = a_letter(rng, word)
        if held_out(f"{letter} in {word}", 8) == test:
            return letters(rng, letter, word, wording(rng, skills.COUNT_ASKS + COUNT_ASKS), "count_words")


def count(rng, test: bool = False, unseen: bool = False) -> Item:
    """Any word, in other wordings."""
    plain = skills.count(rng, test)
    letter, word = skills.counted(plain)
    return letters(rng, letter, word.lower(), wording(rng, COUNT_ASKS, unseen), "wordings")


SPELL_ASKS = options("""
What is the spelling of {W}?|Spell this word: {W}|Spell this: {W}|Could you spell {W}?|Now spell {W}.
Spell {W}.|Spell {W}|Spell: {W}|How do you spell {W}?|How is {W} spelled?|Spell the word {W}.|Please spell {W}.
Can you spell {W}?|What are the letters of {W}?|Spell out {W}.|Write {W} letter by letter.|List the letters of {W}.
Which letters are in {W}?|Tell me how to spell {W}.|What letters does {W} have?|Spell {W} for me.|How does one spell {W}?
Give me the letters of {W}.|Could you please spell {W}?|Would you spell {W}?|Spell this word for me: {W}|Spell the following: {W}
What letters are in {W}?|What letters make up {W}?|Which letters does {W} have?|Which letters make {W}?|Spell that: {W}|Please spell this: {W}|Now spell this: {W}|Spell this please: {W}
""")


def spell(rng, test: bool = False, unseen: bool = False) -> Item:
    while True:
        known = rng.random() < 0.7
        word = entry(rng, test) if known else draw(rng, mixed(rng, WORDS + NAMES, 0.4), test)
        shown = word.capitalize() if rng.random() < 0.2 else word
        text = wording(rng, SPELL_ASKS, unseen).format(W=quoted(rng, shown))
        if not known or held_out(text, 6) == test:
            return ask("spell", text, "Spell it.", " ".join(shown))


# --- repeat ---

REPEAT_COLON = options("""
Repeat this: {x}|Repeat the following: {x}|Say this: {x}|Repeat exactly: {x}|Repeat this text: {x}|Copy this: {x}
Repeat these words: {x}|Say the following: {x}|Repeat this sentence: {x}|Repeat what I say: {x}|Please repeat this: {x}
Can you repeat this: {x}|Write this: {x}|Echo this: {x}|Say exactly this: {x}|Repeat after me, please: {x}|Copy: {x}
Please say: {x}|Repeat word for word: {x}|Now say: {x}|Answer with this: {x}|Reply with: {x}|Say back to me: {x}
Repeat the text: {x}|Repeat the words: {x}|Type this: {x}|Say only: {x}|Answer only: {x}
Say it back: {x}|Say back: {x}|Say this back to me: {x}|Write the following: {x}|Tell me again: {x}|Say it to me: {x}
""")
REPEAT_PLAIN = options("""
Say {x}|Repeat {x}|Please say {x}|Say the word {x}|Repeat the word {x}|Can you say {x}?|Can you repeat {x}?
Say {x}.|Repeat {x}.|Say {x} please.|Please repeat {x}.|Just say {x}.|Say {x}!|Echo {x}|Say {x} for me.|You say {x}|Repeat {x} for me.|Repeat {x} please.|Would you say {x}?|Could you say {x}?|Could you repeat {x}?|Now say {x}|Now repeat {x}|Ok, say {x}|Try to say {x}|Will you repeat {x}?
""")
REPEAT_QUOTED = options("""
Say "{x}"|Say "{x}".|Repeat "{x}"|Repeat "{x}".|Repeat the text "{x}".|Can you say "{x}"?|Please repeat "{x}".
Repeat: "{x}"|Say: "{x}"|Repeat this: "{x}"|Say '{x}'|Repeat '{x}'.|Write "{x}".|Answer with "{x}".
Write the words "{x}"|Write this: "{x}"|Write '{x}'.|Type "{x}".|Say the words "{x}".|Just say "{x}"
""")
SENTENCES = options("""
The {w} is {q}.|{n} has a {w}.|I like {w} and {v}.|We met {n} in {p}.|{n} is {a} years old.|There are {a} {w}s in {p}.
The {q} {w} and the {v} are here.|Do you like {w}?|Where is the {w}?|My {w} is {q} and my {v} is {q2}.|{n} and {m} play {w}.
It is {q} today.|This is a {q} {w}.|You are my friend, {n}.|Is this {w} {q}?|A {w} and two {v}s.|{n} said hello to {m}.
I want the {q} one.|The letter is for {n}.|What a {q} {w}!|The time is now.|{w} {v} {q}
""")
QUALITIES = """
good small big old new cold warm red blue green large tiny friendly fine great same right high low long short fast slow
happy sad healthy tall very much more less free open clean dark soft hard sweet
""".split()


def sentence(rng, test: bool = False) -> str:
    word = mixed(rng, WORDS + TEMPLATE_WORDS, 0.15)
    text = rng.choice(SENTENCES).format(
        w=draw(rng, word, test), v=draw(rng, word, test), q=rng.choice(QUALITIES), q2=rng.choice(QUALITIES),
        n=rng.choice(NAMES), m=rng.choice(NAMES), p=rng.choice(CITIES), a=rng.randint(2, 99))
    return text.lower() if rng.random() < 0.15 else text


def phrase(rng, test: bool, long: bool) -> str:
    """Words of the templates, among other things or alone."""
    share = rng.choice((1, 1, 0.6))
    words = [entry(rng, test) if rng.random() < share else skills.thing(rng, test)
             for _ in range(rng.randint(1, 12) if long else rng.choice((1, 1, 1, 2, 2, 3, 4, 6)))]
    text = rng.choice((" ", " ", ", ")).join(words)
    if not test and rng.random() < 0.15:  # entries with a capital are rare elsewhere
        return text.title()
    return text.capitalize() if rng.random() < (0.15 if test else 0.35) else text


def repeat_words(rng, test: bool = False, unseen: bool = False, long: bool = False) -> Item:
    while True:
        roll = rng.random()
        sentences = rng.randint(1, 3) if long else 1
        text = phrase(rng, test, long) if roll < 0.6 else " ".join(sentence(rng, test) for _ in range(sentences))
        if rng.random() < 0.15 and text[-1].isalnum():
            text += rng.choice("!?.")
        bare = text[-1].isalnum()
        asks = rng.choice((REPEAT_COLON, REPEAT_COLON, REPEAT_QUOTED, REPEAT_PLAIN))
        if asks is REPEAT_PLAIN and not bare:
            continue
        if held_out(text, 6) == test:
            return ask("repeat_words", wording(rng, asks, unseen).format(x=text), "Repeat it.", text)


# --- sums ---

ADD_ASKS = others("""
Can you add {a} and {b}?|Please add {a} and {b}.|Tell me {a} + {b}.|How much is {a} plus {b}?|What does {a} + {b} equal?
{a} + {b} = ?|What is {a} and {b} together?|What do I get when I add {a} and {b}?|Give me the sum of {a} and {b}.
The sum of {a} and {b}?|Sum {a} and {b}.|Find {a} + {b}.|{a} added to {b}?|What is {a} added to {b}?|{a} and {b} make what?
How many are {a} and {b}?|What's {a} plus {b}?|What's the sum of {a} and {b}?|Please compute {a} + {b}.|Add these: {a} and {b}.
Can you tell me what {a} + {b} is?|What is the result of {a} + {b}?|Evaluate {a} + {b}.|Add up {a} and {b}.|{a} plus {b} is?
{a} plus {b} equals?|What is the total of {a} and {b}?|I need {a} + {b}.|Do you know {a} + {b}?|{a} plus {b}
""", skills.ADD_ASKS)
SUB_ASKS = others("""
Subtract {b} from {a}.|Can you subtract {b} from {a}?|What is the difference between {a} and {b}?|Tell me {a} - {b}.
Please subtract {b} from {a}.|What does {a} - {b} equal?|{a} - {b} = ?|How much is {a} minus {b}?|Take {b} away from {a}.
What is left when I take {b} from {a}?|What is {a} less {b}?|Find {a} - {b}.|What's {a} minus {b}?|Please compute {a} - {b}.
The difference between {a} and {b}?|What's the difference between {a} and {b}?|Give me {a} minus {b}.|{a} minus {b} is?
What is the result of {a} - {b}?|Evaluate {a} - {b}.|What is {b} subtracted from {a}?|{a} minus {b} equals?|Take {b} from {a}.
Can you tell me what {a} - {b} is?|I need {a} - {b}.|Do you know {a} - {b}?|How much more is {a} than {b}?|{a} minus {b}
What remains of {a} when I take away {b}?|If I take {b} from {a}, what is left?|How much is left of {a} when I take {b}?
{a} take away {b}?|What is left of {a} without {b}?|What do I have left when I take {b} from {a}?|How much remains when I take {b} from {a}?
""", skills.SUB_ASKS)


def sum_item(skill: str, text: str, a: int, b: int, sign: str) -> Item:
    trace = skills.add_trace(a, b) if sign == "+" else skills.sub_trace(a, b)
    return ask(skill, text, trace, f"{a} {sign} {b} = {a + b if sign == '+' else a - b}.")


def sums(rng, test: bool = False, unseen: bool = False) -> Item:
    sign = rng.choice("+--")
    a, b = skills.pair(rng, test, sign)
    text = wording(rng, ADD_ASKS if sign == "+" else SUB_ASKS, unseen).format(a=a, b=b)
    return sum_item("wordings", dress(rng, text), a, b, sign)


def borrow_pair(rng, test: bool):
    """A ten is borrowed from tens that are 0, 1, the same as the other's, or one more."""
    while True:
        high, low = rng.randint(0, 9), rng.randint(0, 9)
        tens = rng.choice(((0, low), (1, 0), (1, low), (low, low), (low + 1, low)))
        a = 100 * high + 10 * (tens[0] % 10) + rng.randint(0, 8)
        b = 100 * rng.randint(0, high) + 10 * tens[1] + rng.randint(a % 10 + 1, 9)
        if a >= b and held_out(f"{a}-{b}") == test:
            return a, b


def subtract_borrow(rng, test: bool = False) -> Item:
    a, b = borrow_pair(rng, test)
    asks = rng.choice((skills.SUB_ASKS, skills.SUB_ASKS, SUB_ASKS))
    return sum_item("subtract_borrow", dress(rng, wording(rng, asks).format(a=a, b=b)), a, b, "-")


def decimals(rng, test: bool = False) -> Item:
    """The longer number begins as the shorter one does: copying must stop at the right digit."""
    while True:
        short = f"{rng.randint(0, 9)}.{rng.randint(1, 9)}"
        a, b = rng.sample((short, short + str(rng.randint(1, 9))), 2)
        if held_out(f"{a}|{b}") == test:
            break
    word = rng.choice(rng.choice((skills.UP, skills.DOWN)))
    text = rng.choice(skills.DECIMAL_ASKS).format(a=a, b=b, w=word)
    first = (float(a) > float(b)) == (word in skills.UP)
    verdict = ("Yes, " if first else "No, ") if text.startswith("Is ") else ""
    return ask("decimals", dress(rng, text), skills.decimal_trace(a, b, word, first), f"{verdict}{a if first else b} is {word}.")


def wordings(rng, test: bool = False) -> Item:
    """Tests ask in wordings that training never saw."""
    item = rng.choice((count, sums, sums, repeat_words, spell))(rng, test, test)
    item.skill = "wordings"
    return item


# --- a second turn ---

AGAIN = options("Say that again.|Repeat that.|Repeat your answer.|What did you say?|Can you repeat that?|Again, please.")
MY_NAME = options("What is my name?|What's my name?|Do you know my name?|Who am I?|Tell me my name.|Do you remember my name?")
NOW_ADD = options("Now add {b}.|Add {b} to that.|And plus {b}?|Plus {b}?|Add {b} more.|And add {b}.|Now add {b} to it.")
NOW_LESS = options("Now subtract {b}.|Subtract {b} from that.|And minus {b}?|Minus {b}?|Take {b} away.|Now take away {b}.")
NEXT = options("And {x}?|What about {x}?|Now {x}|And now {x}?|How about {x}?|Ok, {x}|{x}")


def turns(first: Item, skill: str, text: str, trace: str, answer: str) -> Item:
    told = [*first.messages, {"role": "assistant", "content": first.answer}]
    return Item(skill, [*told, {"role": "user", "content": text}], trace, answer, gold=answer)


def follow_up(rng, test: bool = False) -> Item:
    """A question that needs the turns before it."""
    roll = rng.random()
    if roll < 0.3:
        while True:
            first = rng.choice((skills.add, skills.subtract))(rng, test)
            total, sign, b = int(first.answer[:-1].rsplit(" ", 1)[1]), rng.choice("+-"), skills.number(rng)
            if 0 <= (total + b if sign == "+" else total - b) and total < 1000:
                break
        text = rng.choice(NOW_ADD if sign == "+" else NOW_LESS).format(b=b)
        item = sum_item("follow_up", text, total, b, sign)
        return turns(first, "follow_up", text, item.trace, item.answer)
    if roll < 0.45:
        first = rng.choice((skills.add, skills.subtract))(rng, test)
        sign = rng.choice("+-")
        a, b = skills.pair(rng, test, sign)
        shown = f"{a} {rng.choice((sign, 'plus' if sign == '+' else 'minus'))} {b}"
        item = sum_item("follow_up", rng.choice(NEXT).format(x=shown), a, b, sign)
        return turns(first, "follow_up", item.messages[0]["content"], item.trace, item.answer)
    if roll < 0.7:
        first = rng.choice((skills.count, count_words))(rng, test)
        letter, shown = skills.counted(first)
        if rng.random() < 0.5:
            letter = a_letter(rng, shown.lower())
            text = rng.choice(("And how many {}?", "How many {}?", "And {}?", "What about {}?", "And the letter {}?")).format(letter)
        else:
            shown = draw(rng, mixed(rng, WORDS, 0.5), test)
            text = rng.choice(("And in {}?", "In {}?", "What about {}?", "And {}?", "How about {}?", "And in the word {}?")).format(shown)
            if len(shown) == 1:
                return follow_up(rng, test)
        return turns(first, "follow_up", text, skills.count_trace(letter, shown),
                     skills.count_answer(letter, shown, shown.lower().count(letter)))
    if roll < 0.85:
        name = draw(rng, mixed(rng, NAMES, 0.5), test)
        first = ask("chat", rng.choice(skills.NAME_ASKS).format(n=name), "", f"Nice to meet you, {name}!")
        if rng.random() < 0.3:
            other = rng.choice((skills.add, skills.count, skills.chat))(rng, test)
            told = [*first.messages, {"role": "assistant", "content": first.answer}]
            first = Item("chat", told + other.messages, "", other.answer)
        return turns(first, "follow_up", rng.choice(MY_NAME), f"Told: {name}.", f"Your name is {name}.")
    first = rng.choice((skills.add, skills.count, skills.repeat, skills.chat, skills.decimals))(rng, test)
    return turns(first, "follow_up", rng.choice(AGAIN), "Repeat it.", first.answer)
