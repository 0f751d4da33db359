"""Scores a checkpoint on the held-out items: `python evaluate.py FOLDER [--sample]`."""

import argparse
import json
from pathlib import Path

import torch

import checks
import tokenizer
from model import Llama, Shape

HERE = Path(__file__).parent


def load_items(skill: str, limit: int) -> list:
    lines = (HERE / "eval" / f"{skill}.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    return items[:: max(1, len(items) // limit)][:limit] if limit else items


def load_model(path: Path):
    """A Hugging Face folder, or a training folder that holds state.pt."""
    tok = tokenizer.load(path)
    if (path / "state.pt").exists():
        saved = torch.load(path / "state.pt", weights_only=False, map_location="cpu")
        a = saved["args"]
        model = Llama(Shape(tok.size, a["width"], a["layers"], a.get("heads", a["width"] // 64), 2, a["ffn"]))
        if "reward_head" in saved["model"]:
            model.reward_head = torch.nn.Parameter(torch.zeros(a["width"]))
        model.load_state_dict(saved["model"])
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.to(torch.bfloat16))  # what the export will hold
        print(json.dumps(saved["state"]))
    else:
        model = Llama.from_folder(path)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tok


def prompt(tok, item: dict, thinking: bool) -> list:
    line = {"role": "system", "content": "detailed thinking " + ("on" if thinking else "off")}
    functions = [tool["function"] for tool in item.get("tools", [])]
    return tok.encode(tokenizer.render([line, *item["messages"]], functions))


def replies(model, tok, items, thinking, batch: int, temperature: float, top_p: float, rng) -> list:
    prompts = [prompt(tok, item, thinking) for item in items]
    order = sorted(range(len(items)), key=lambda i: len(prompts[i]))
    out = [""] * len(items)
    for start in range(0, len(order), batch):
        rows = order[start: start + batch]
        for row, ids in zip(rows, model.generate([prompts[i] for i in rows], tok.eot,
                                                 temperature=temperature, top_p=top_p, rng=rng)):
            out[row] = tok.decode(ids)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--skills", default=",".join(sorted(p.stem for p in (HERE / "eval").glob("*.jsonl"))))
    parser.add_argument("--modes", default="on,off")
    parser.add_argument("--limit", type=int, default=0, help="items a skill, 0 for all")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sample", action="store_true", help="temperature 0.6, top_p 0.95 where thinking is on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wrong", type=int, default=0, help="wrong replies to print a cell")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tok = load_model(args.folder)
    rng = torch.Generator(model.embed.device).manual_seed(args.seed)
    for skill in args.skills.split(","):
        items = load_items(skill, args.limit)
        for mode in args.modes.split(","):
            on = mode == "on"
            hot = args.sample and on
            texts = replies(model, tok, items, on, args.batch, 0.6 if hot else 0.0, 0.95 if hot else 1.0, rng)
            verdicts = [checks.judge(text, on, item["check"], item["gold"], item["trace"])
                        for text, item in zip(texts, items)]
            share = {name: round(100 * sum(getattr(v, name) for v in verdicts) / len(verdicts), 1)
                     for name in ("right", "formed", "trace")}
            print(json.dumps({"skill": skill, "thinking": mode, "n": len(items), **share}), flush=True)
            bad = [(item, text) for item, text, v in zip(items, texts, verdicts) if not v.right]
            for item, text in bad[: args.wrong]:
                print(f"  {item['messages'][0]['content']!r}\n    got  {text!r}\n    gold {item['trace']!r} {item['gold']!r}")


if __name__ == "__main__":
    main()
