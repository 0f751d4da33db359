#!/usr/bin/env python3
"""Writes test/golden/pieces/: small SentencePiece models, the tokenizer.json that conversions
make of them, and what the reference makes of texts.

    python3 test/golden/pieces.py     (needs: pip install sentencepiece==0.2.2 transformers==5.18.0)

Ids of tokenizer.json are transformers' (its fast tokenizer on the same file), those of a bare
tokenizer.model are sentencepiece's own.
"""

import json
import random
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

OUT = Path(__file__).with_suffix("")

SENTENCES = """
The server answers requests for chat models and scores answers with reward models.
A tokenizer cuts text into tokens, and the engine turns tokens into more tokens.
She said: "It's 12 o'clock, isn't it?" and left at 10:45 for the 1,234 km trip.
def greet(name): return f"Hello, {name}!"
    for (int i = 0; i < 100 && x > 0; i++) { total += values[i]; }
{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}
Größe und Maß: der schöne Übergang über die Straße.
Le garçon préfère l'été à l'hiver, où il gèle.
Привет, мир! Как дела сегодня?
你好，世界。今天天气很好，我们去公园。
"""

# A few of nmt_nfkc's: all of them are 240 KB.
RULES = "".join(f"{a}\t{b}\n" for a, b in [
    ("FF26", "46"), ("FF55", "75"), ("FF4C", "6C"), ("FB01", "66 69"), ("3322", "30BB 30F3 30C1"), ("65 301", "E9"),
    ("A", "20"), ("D", "20"), ("9", "20"), ("3000", "20"), ("A0", "20"), ("1", ""), ("FEFF", "20")])

HAND = [
    "", " ", "  ", "\n", "a", " a", "  a", "a ", "a  ", "Hello, world!", "The server  answers\n\n requests",
    "  two leading", "trailing  ", "line\nline\r\n\ttab", "1234567890", "你好，世界", "你好𐍈☃", "😀🇫🇷",
    "Größe é e\u0301", "Ｆｕｌｌ ﬁne ㌢", "▁marked▁ text", "<0x0A>", "</s>", "<s>x</s>", "<unk>", "x</s",
    "<extra_id_0>System\n\n<extra_id_1>User\nHello<extra_id_1>Assistant\n", "a <extra_id_1> b", " <extra_id_1>",
    "<extra_id_1>", "<extra_id_12>", "\u00a0\u3000wide", "\u0001control", "\ufeffBOM", "ab" * 200, " " * 50,
    "\u0301first", "Ｆ\u0301ull", "ﬁ\u0301", "\r\nx\r\n", "e\u0301\u0301", "a\r\nb", "　▁ x ▁",
]


def random_text(rng: random.Random) -> str:
    pick = [
        lambda: " ".join(rng.choice(SENTENCES.split()) for _ in range(rng.randint(1, 6))),
        lambda: str(rng.randrange(10 ** rng.randint(1, 9))),
        lambda: rng.choice([" ", "  ", "\n", "\r\n", "\t", "\u3000", " \n \n"]) * rng.randint(1, 3),
        lambda: "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(rng.randint(1, 4))),
        lambda: chr(rng.randrange(0x1F300, 0x1FAFF)),
        lambda: rng.choice(["<extra_id_1>", "<extra_id_0>", "</s>", "<s>", "<0x41>", "<extra_id", "▁"]),
    ]
    return "".join(rng.choice(pick)() for _ in range(rng.randint(1, 8)))


def train(name: str, **options) -> sentencepiece_model_pb2.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        # A gap between two words is seen twice as often as it is written: pieces of spaces.
        corpus.write_text(SENTENCES + SENTENCES.replace(" ", "  "))
        rules = Path(folder) / "rules.tsv"
        rules.write_text(RULES)
        if options.pop("has_rules", False):
            options["normalization_rule_tsv"] = str(rules)
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=f"{folder}/{name}", vocab_size=520, hard_vocab_limit=False,
            minloglevel=2, **options)
        data = (Path(folder) / f"{name}.model").read_bytes()
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(data)
    # Where it was trained says nothing.
    proto.trainer_spec.ClearField("input")
    proto.trainer_spec.ClearField("model_prefix")
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto


def bare(proto) -> Tokenizer:
    """What convert_slow_tokenizer.SpmConverter makes of the pieces."""
    scores = [(piece.piece, piece.score) for piece in proto.pieces]
    spec = proto.trainer_spec
    if spec.model_type == 1:
        tokenizer = Tokenizer(models.Unigram(scores, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback))
    else:
        vocab = {piece: i for i, (piece, _) in enumerate(scores)}
        tokenizer = Tokenizer(models.BPE(
            vocab, generate_merges(vocab, scores), unk_token=spec.unk_piece, fuse_unk=True,
            byte_fallback=spec.byte_fallback))
    tokenizer.add_tokens([
        AddedToken(piece.piece, normalized=False, special=piece.type in (2, 3))
        for piece in proto.pieces if piece.type in (2, 3, 4)])
    return tokenizer


def replacing(tokenizer: Tokenizer) -> Tokenizer:
    """As transformers 5 reads a bare tokenizer.model."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def prepending(tokenizer: Tokenizer) -> Tokenizer:
    """As LlamaConverter, legacy."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def first(tokenizer: Tokenizer) -> Tokenizer:
    """As LlamaConverter, not legacy."""
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def metaspace(tokenizer: Tokenizer, proto) -> Tokenizer:
    """As SpmConverter."""
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    return tokenizer


def cases_of_json(tokenizer: Tokenizer, texts: list[str]) -> list[dict]:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    cases = []
    for text in texts:
        ids = fast.encode(text, add_special_tokens=False)
        cases.append({
            "text": text, "ids": ids, "decoded": fast.decode(ids, clean_up_tokenization_spaces=False)})
    return cases


def main() -> None:
    rng = random.Random(4)
    texts = HAND + [random_text(rng) for _ in range(60)]
    chat = ["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
    ids = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    kept = {"remove_extra_whitespaces": False, "normalization_rule_name": "identity", "allow_whitespace_only_pieces": True}
    bpe = {"model_type": "bpe", "byte_fallback": True, "split_digits": True, "user_defined_symbols": chat}
    nemotron = train("nemotron", **bpe, **ids, **kept, add_dummy_prefix=False)
    prefixed = train("prefixed", **bpe, **ids, **kept)
    plain = train("plain", model_type="bpe", character_coverage=0.98, normalization_rule_name="identity")
    collapsed = train("collapsed", **bpe, **ids, add_dummy_prefix=False, has_rules=True)
    ruled = train("ruled", **bpe, **ids, has_rules=True, remove_extra_whitespaces=False)
    unigram = train("unigram", model_type="unigram", user_defined_symbols=["<extra_id_1>"], has_rules=True)
    unigram_bytes = train("unigram_bytes", model_type="unigram", byte_fallback=True, **kept)

    OUT.mkdir(exist_ok=True)
    for name, tokenizer in {
        "nemotron": replacing(bare(nemotron)),
        "prepend": prepending(bare(prefixed)),
        "first": first(bare(prefixed)),
        "metaspace": metaspace(bare(unigram), unigram),
    }.items():
        tokenizer.save(str(OUT / f"{name}.json"), pretty=False)
        write(f"{name}.cases.json", cases_of_json(tokenizer, texts))
    for name, proto in {
        "nemotron": nemotron, "prefixed": prefixed, "plain": plain, "unigram": unigram,
        "collapsed": collapsed, "ruled": ruled,
        "unigram_bytes": unigram_bytes,
    }.items():
        (OUT / f"{name}.model").write_bytes(proto.SerializeToString(deterministic=True))
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        write(f"{name}.model.cases.json", [{"text": text, "ids": processor.encode(text)} for text in texts])


def write(name: str, cases: list[dict]) -> None:
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (OUT / name).write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
