"""Writes gguf_blocks.json: random blocks of every type of GGUF that is served, and what the `gguf` package
(PyPI, numpy) makes of them. `python gguf_blocks.py`; the file is the same for every run."""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf import quants

TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
         "IQ4_XS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]
# Bytes of a block at which a half float lies; random bytes there could be no number.
HALVES = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "IQ2_XXS": [0],
          "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0]}


def main() -> None:
    rng = np.random.default_rng(1)
    out = []
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = max(2, 64 // elements)
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        for at in HALVES.get(name, []):
            blocks[:, at:at + 2] = rng.normal(0, 0.01, (count, 1)).astype(np.float16).view(np.uint8)
        if name == "BF16":
            blocks[:, 1] = 0x3f  # of an exponent that is a number's
        values = quants.dequantize(blocks.reshape(-1), kind).astype("<f4")
        out.append({"type": name, "number": int(kind), "blocks": blocks.tobytes().hex(),
                    "values": values.tobytes().hex()})
    lines = ",\n".join(json.dumps(one) for one in out)
    (Path(__file__).parent / "gguf_blocks.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
