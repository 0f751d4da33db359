"""The shared tokenizer: byte-level, Llama 3.1's split pattern and special names, in miniature.

With `ignore_merges` and no merges, a piece of text that is an entry is one token and everything
else falls to its bytes. So template words are short, and the letters of any other word and every
digit are tokens of their own: counting and sums need no table from words to letters. The second
stage knows the spelling of the template words by heart, and has an entry for each form of them.
"""

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path

import regex

HERE = Path(__file__).parent
TEMPLATE = (HERE / "chat_template.jinja").read_text()
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = """<|begin_of_text|> <|end_of_text|> <|reserved_special_token_0|>
<|reserved_special_token_1|> <|finetune_right_pad_id|> <|reserved_special_token_2|>
<|start_header_id|> <|end_header_id|> <|eom_id|> <|eot_id|> <|python_tag|>
<|reserved_special_token_3|> <|reserved_special_token_4|> <|reserved_special_token_5|>
<|reserved_special_token_6|> <|reserved_special_token_7|>""".split()


def byte_letters() -> dict:
    """The printable stand-in of each byte, as every byte-level tokenizer file spells it."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in keep}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(keep))
    return letters


LETTERS = byte_letters()
BYTES = {letter: byte for byte, letter in LETTERS.items()}


def spelled(text: str) -> str:
    return "".join(LETTERS[byte] for byte in text.encode())


def collect_entries(texts, skip, least: int, most: int) -> list:
    """The pieces worth a token: frequent, longer than a byte, no digit, no content word."""
    counts, names = Counter(), "|".join(regex.escape(name) for name in SPECIALS)
    for text in texts:
        for part in regex.split(names, text):
            counts.update(regex.findall(SPLIT, part))
    pieces = [piece for piece, n in counts.most_common()
              if n >= least and len(piece.encode()) > 1
              and not regex.search(r"\p{N}|^ [a-z]s$", piece)  # no digits, no plurals of letters
              and piece.strip(" '\"_-(:").lower() not in skip]
    return pieces[:most]


def build(pieces: list) -> dict:
    """tokenizer.json; the 256 bytes come first in the order of their stand-ins (id 0 is `!`)."""
    order = [LETTERS[byte] for byte in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    order += [LETTERS[byte] for byte in range(256) if LETTERS[byte] not in order]
    vocab = {letter: i for i, letter in enumerate(order)}
    for piece in pieces:
        vocab.setdefault(spelled(piece), len(vocab))
    while len(vocab) % 64 != 48:  # with the 16 special names, a multiple of 64
        vocab.popitem()
    first = len(vocab)
    added = [{"id": first + i, "content": name, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False, "special": True} for i, name in enumerate(SPECIALS)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    bos = {"SpecialToken": {"id": SPECIALS[0], "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}, level]},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}},
                                    {"SpecialToken": {"id": SPECIALS[0], "type_id": 1}},
                                    {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {SPECIALS[0]: {
                               "id": SPECIALS[0], "ids": [first], "tokens": [SPECIALS[0]]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": True, "vocab": vocab, "merges": []},
    }


def extended(spec: dict, words: list, names: list) -> dict:
    """`spec` with an entry for each of `words` wherever text has it: at the start or after a space, with a capital or without;
    and for each of `names`, the parts of tools' names, after `_`. (The split pattern gives a quote to what stands before it.)"""
    forms = [form for word in words for form in (word, word.capitalize())]
    pieces = [mark + form for mark in ("", " ") for form in forms] + ["_" + name for name in names]
    held = [bytes(BYTES[c] for c in piece).decode() for piece in spec["model"]["vocab"] if len(piece) > 1]
    return build(held + pieces)


def tokenizer_config(spec: dict) -> dict:
    return {
        "added_tokens_decoder": {str(token["id"]): {k: v for k, v in token.items() if k != "id"}
                                 for token in spec["added_tokens"]},
        "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>", "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False, "model_max_length": 8192,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


class Tokenizer:
    """What training and evaluation need: encode text with special names, decode ids."""

    def __init__(self, spec: dict):
        self.vocab = spec["model"]["vocab"]
        self.special = {token["content"]: token["id"] for token in spec["added_tokens"]}
        self.size = len(self.vocab) + len(self.special)
        self.eot, self.pad = self.special["<|eot_id|>"], self.special["<|finetune_right_pad_id|>"]
        names = "|".join(regex.escape(name) for name in self.special)
        self.split_special = regex.compile(f"({names})")
        self.split = regex.compile(spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])
        self.bytes = {i: bytes(BYTES[c] for c in piece) for piece, i in self.vocab.items()}
        self.bytes |= {i: name.encode() for name, i in self.special.items()}
        self.piece_ids = lru_cache(maxsize=65536)(self._piece_ids)

    def _piece_ids(self, piece: str) -> tuple:
        letters = spelled(piece)
        return (self.vocab[letters],) if letters in self.vocab else tuple(self.vocab[c] for c in letters)

    def encode(self, text: str) -> list:
        ids = []
        for part in self.split_special.split(text):
            if part in self.special:
                ids.append(self.special[part])
            else:
                for piece in self.split.findall(part):
                    ids.extend(self.piece_ids(piece))
        return ids

    def decode(self, ids) -> str:
        return b"".join(self.bytes[i] for i in ids).decode(errors="replace")


def load(folder: Path) -> Tokenizer:
    return Tokenizer(json.loads((Path(folder) / "tokenizer.json").read_text()))


# --- chat format ---

def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def render(messages: list, tools: list) -> str:
    """What chat_template.jinja gives with add_generation_prompt (a test compares the two)."""
    rest = list(messages)
    system = rest.pop(0)["content"].strip() if rest[0]["role"] == "system" else ""
    if tools:
        system += ("\n\n" if system else "") + "<AVAILABLE_TOOLS>["
        system += ", ".join(json.dumps(tool, ensure_ascii=False) for tool in tools) + "]</AVAILABLE_TOOLS>"
    text = "<|begin_of_text|>" + header("system") + system + "<|eot_id|>"
    for message in rest:
        if message["role"] == "tool":
            body = header("user") + f"<TOOL_RESPONSE>[{message['content'].strip()}]</TOOL_RESPONSE>"
        else:
            body = header(message["role"]) + message["content"].strip()
            calls = ", ".join(f'{{"name": "{call["function"]["name"]}", "arguments": {call["function"]["arguments"]}}}'
                              for call in message.get("tool_calls", []))
            body += f"<TOOLCALL>[{calls}]</TOOLCALL>" if calls else ""
        text += body + "<|eot_id|>"
    return text + header("assistant")


def reply(item, thinking: bool) -> str:
    """The text the model should produce, without the closing <|eot_id|>."""
    return f"<think>\n{item.trace}\n</think>\n\n{item.answer}" if thinking else item.answer
