"""LlamaForCausalLM in plain torch: training forward, batched generation, Hugging Face export.

Matrices that read the same input are stored fused (q,k,v and gate,up) and split on export.
Weights are float32 masters; activations are bfloat16 in training and float32 in evaluation.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024}
THETA, HEAD, EPS, CONTEXT = 500000.0, 64, 1e-5, 8192


@dataclass(frozen=True)
class Shape:
    vocab: int
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 640
    codes: int = 0  # channels that a block reads beside the stream and never writes (train_reward.py)


def rope_table(length: int = CONTEXT) -> torch.Tensor:
    """cos and sin, [2, length, HEAD / 2], with the llama3 frequency rule."""
    inv = THETA ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
    wave, old = 2 * math.pi / inv, ROPE["original_max_position_embeddings"]
    low, high = ROPE["low_freq_factor"], ROPE["high_freq_factor"]
    blend = ((old / wave - low) / (high - low)).clamp(0, 1)
    inv = (1 - blend) * inv / ROPE["factor"] + blend * inv
    angle = torch.arange(length, dtype=torch.float64)[:, None] * inv
    return torch.stack([angle.cos(), angle.sin()]).float()


def norm(x, weight):
    """RMSNorm in float32."""
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + EPS)
    return y.to(x.dtype) * weight.to(x.dtype)


def rotate(x, cos, sin):
    """x [batch, tokens, heads, HEAD], half-split pairs."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def sample(probabilities, top_p: float, rng):
    """One id a row; top_p keeps the likeliest ids up to and including the one that reaches it."""
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=rng)[:, 0]


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape, w = shape, shape.width
        self.q_rows, self.kv_rows = shape.heads * HEAD, shape.kv_heads * HEAD
        read = w + shape.codes
        self.attn_norm, self.ffn_norm = nn.Parameter(torch.ones(read)), nn.Parameter(torch.ones(read))
        out = 1 / math.sqrt(2 * shape.layers)
        self.qkv = nn.Parameter(torch.randn(self.q_rows + 2 * self.kv_rows, read) / math.sqrt(read))
        self.o = nn.Parameter(torch.randn(w, self.q_rows) * out / math.sqrt(self.q_rows))
        self.gate_up = nn.Parameter(torch.randn(2 * shape.ffn, read) / math.sqrt(read))
        self.down = nn.Parameter(torch.randn(w, shape.ffn) * out / math.sqrt(shape.ffn))

    def forward(self, x, cos, sin, bias, past=None, rows=None, codes=None):
        """bias [.., queries, keys] is added to the scores; past: (k, v) to extend, or None.

        rows: the flat positions wanted from the last layer, [rows, width] comes back.
        codes [batch, tokens, shape.codes]: read together with x.
        """
        def read(x, codes):
            return x if codes is None else torch.cat([x, codes], -1)

        batch, tokens, _ = x.shape
        group = self.shape.heads // self.shape.kv_heads
        qkv = F.linear(norm(read(x, codes), self.attn_norm), self.qkv.to(x.dtype))
        q, k, v = qkv.split([self.q_rows, self.kv_rows, self.kv_rows], -1)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        q = rotate(q.view(batch, tokens, -1, HEAD), cos, sin)
        k = rotate(k.view(batch, tokens, -1, HEAD), cos, sin).transpose(1, 2)
        v = v.view(batch, tokens, -1, HEAD).transpose(1, 2)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        kept = (k, v)
        q = q.transpose(1, 2)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = (q @ k.transpose(-1, -2)).float() * HEAD**-0.5 + bias
        y = scores.softmax(-1).to(x.dtype) @ v
        x = x + F.linear(y.transpose(1, 2).reshape(batch, tokens, -1), self.o.to(x.dtype))
        if rows is not None:
            x = x.flatten(0, 1)[rows]
            codes = None if codes is None else codes.flatten(0, 1)[rows]
        gate, up = F.linear(norm(read(x, codes), self.ffn_norm), self.gate_up.to(x.dtype)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down.to(x.dtype)), kept


class Llama(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Parameter(torch.randn(shape.vocab, shape.width) * 0.02)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.final_norm = nn.Parameter(torch.ones(shape.width))
        self.reward_head = None  # a vector [width] in the reward model
        self.register_buffer("rope", rope_table(), persistent=False)

    def hidden(self, ids, rows, dtype=torch.bfloat16):
        """Final hidden states [rows, width] at flat positions of right-padded ids [batch, tokens]."""
        tokens = ids.shape[1]
        cos, sin = self.rope[:, :tokens, None]
        bias = torch.full((tokens, tokens), -torch.inf, device=ids.device).triu(1)
        x = F.embedding(ids, self.embed).to(dtype)
        for block in self.blocks[:-1]:
            x = block(x, cos, sin, bias)[0]
        x = self.blocks[-1](x, cos, sin, bias, None, rows)[0]
        return norm(x, self.final_norm)

    def logits(self, hidden):
        return F.linear(hidden, self.embed.to(hidden.dtype)).float()

    @torch.no_grad()
    def generate(self, prompts, stop: int, limit: int = 220, temperature: float = 0.0,
                 top_p: float = 1.0, rng=None):
        """Replies (ids, without the stop id) to a batch of prompts; float32, KV cache, left padding."""
        device, batch = self.embed.device, len(prompts)
        longest = max(map(len, prompts))
        ids = torch.full((batch, longest), stop, device=device)
        pads = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt):] = torch.tensor(prompt, device=device)
        index = torch.arange(longest + limit, device=device)
        hide = torch.where(index[None] < pads[:, None], -1e9, 0.0)[:, None, None]  # keys before the prompt
        caches, replies, alive = [None] * self.shape.layers, [[] for _ in prompts], list(range(batch))
        done, position = 0, torch.arange(longest, device=device)[None] - pads[:, None]
        for _ in range(limit):
            tokens = ids.shape[1]
            causal = torch.full((tokens, done + tokens), -1e9, device=device).triu(done + 1)
            bias = hide[..., : done + tokens] + causal
            cos, sin = self.rope[:, position.clamp(min=0)][..., None, :]
            x = F.embedding(ids, self.embed)
            for layer, block in enumerate(self.blocks):
                x, caches[layer] = block(x, cos, sin, bias, caches[layer])
            logits = self.logits(norm(x[:, -1], self.final_norm))
            if temperature > 0:
                chosen = sample((logits / temperature).softmax(-1), top_p, rng)
            else:
                chosen = logits.argmax(-1)
            done += tokens
            keep = [i for i, token in enumerate(chosen.tolist()) if token != stop]
            for i in keep:
                replies[alive[i]].append(int(chosen[i]))
            alive = [alive[i] for i in keep]
            if not alive:
                break
            if len(keep) < len(chosen):
                rows = torch.tensor(keep, device=device)
                caches = [(k[rows], v[rows]) for k, v in caches]
                hide, position, chosen = hide[rows], position[rows], chosen[rows]
            ids, position = chosen[:, None], position[:, -1:] + 1
        return replies

    @torch.no_grad()
    def rewards(self, sequences, dtype=torch.float32):
        """The score of each sequence: logit 0 at its last token."""
        longest = max(map(len, sequences))
        ids = torch.zeros(len(sequences), longest, dtype=torch.long, device=self.embed.device)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        last = [row * longest + len(sequence) - 1 for row, sequence in enumerate(sequences)]
        return self.hidden(ids, torch.tensor(last, device=ids.device), dtype).float() @ self.reward_head

    # --- files ---

    def tensors(self) -> dict:
        """Hugging Face names and shapes, bfloat16."""
        out = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.final_norm}
        for n, block in enumerate(self.blocks):
            p = f"model.layers.{n}."
            q, k, v = block.qkv.split([block.q_rows, block.kv_rows, block.kv_rows])
            gate, up = block.gate_up.chunk(2)
            out |= {p + "input_layernorm.weight": block.attn_norm,
                    p + "post_attention_layernorm.weight": block.ffn_norm,
                    p + "self_attn.q_proj.weight": q, p + "self_attn.k_proj.weight": k,
                    p + "self_attn.v_proj.weight": v, p + "self_attn.o_proj.weight": block.o,
                    p + "mlp.gate_proj.weight": gate, p + "mlp.up_proj.weight": up,
                    p + "mlp.down_proj.weight": block.down}
        if self.reward_head is not None:
            head = torch.zeros_like(self.embed)
            head[0] = self.reward_head
            out["lm_head.weight"] = head
        return {name: tensor.detach().to(torch.bfloat16).contiguous().cpu() for name, tensor in out.items()}

    @staticmethod
    def from_folder(folder: Path) -> "Llama":
        from safetensors.torch import load_file

        config = json.loads((Path(folder) / "config.json").read_text())
        t = {name: tensor.float() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}
        model = Llama(Shape(config["vocab_size"], config["hidden_size"], config["num_hidden_layers"],
                            config["num_attention_heads"], config["num_key_value_heads"],
                            config["intermediate_size"]))
        with torch.no_grad():
            model.embed.copy_(t["model.embed_tokens.weight"])
            model.final_norm.copy_(t["model.norm.weight"])
            for n, block in enumerate(model.blocks):
                p = f"model.layers.{n}."
                block.attn_norm.copy_(t[p + "input_layernorm.weight"])
                block.ffn_norm.copy_(t[p + "post_attention_layernorm.weight"])
                block.qkv.copy_(torch.cat([t[p + f"self_attn.{x}_proj.weight"] for x in "qkv"]))
                block.o.copy_(t[p + "self_attn.o_proj.weight"])
                block.gate_up.copy_(torch.cat([t[p + f"mlp.{x}_proj.weight"] for x in ("gate", "up")]))
                block.down.copy_(t[p + "mlp.down_proj.weight"])
            if "lm_head.weight" in t:
                model.reward_head = nn.Parameter(t["lm_head.weight"][0].clone())
        return model


def config(shape: Shape, tied: bool, bos: int) -> dict:
    """config.json; the special ids follow the order of tokenizer.SPECIALS."""
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": bos, "eos_token_id": [bos + 1, bos + 8, bos + 9], "head_dim": HEAD,
        "hidden_act": "silu", "hidden_size": shape.width, "initializer_range": 0.02,
        "intermediate_size": shape.ffn, "max_position_embeddings": CONTEXT, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers, "num_key_value_heads": shape.kv_heads,
        "pretraining_tp": 1, "rms_norm_eps": EPS, "rope_scaling": ROPE, "rope_theta": THETA,
        "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "use_cache": True,
        # The server knows the two by it where their folder has another name.
        "_name_or_path": f"nemotron-server/{'tiny-reasoner' if tied else 'tiny-reward'}",
        "vocab_size": shape.vocab,
    }


def shape_dict(shape: Shape) -> dict:
    return asdict(shape)
