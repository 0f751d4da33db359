"""Writes a Hugging Face folder: `python export.py TRAINING_FOLDER ../tiny-reasoner`."""

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file

import tokenizer
from evaluate import load_model
from model import config


def write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    model, tok = load_model(args.source)
    reward = model.reward_head is not None
    bos = tok.special["<|begin_of_text|>"]
    args.target.mkdir(parents=True, exist_ok=True)
    save_file(model.tensors(), args.target / "model.safetensors", metadata={"format": "pt"})
    shape = config(model.shape, tied=not reward, bos=bos)
    (args.target / "model.safetensors").chmod(0o644)
    write(args.target / "config.json", shape)
    generation = {"bos_token_id": bos, "eos_token_id": shape["eos_token_id"], "pad_token_id": tok.pad}
    sampling = {"do_sample": False} if reward else {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    write(args.target / "generation_config.json", generation | sampling)
    spec = json.loads((args.source / "tokenizer.json").read_text())
    write(args.target / "tokenizer.json", spec)
    details = tokenizer.tokenizer_config(spec)
    write(args.target / "tokenizer_config.json", details)
    write(args.target / "special_tokens_map.json",
          {name: details[name] for name in ("bos_token", "eos_token", "pad_token")})


if __name__ == "__main__":
    main()
