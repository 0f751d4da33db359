"""Makes the golden checkpoints: tiny random models in every shape that the engine serves, and what
transformers computes from the same stored weights in float32.

  pip install torch transformers safetensors numpy
  python test/golden/make.py [NAME...]  # rewrites the folders beside this file, or those named

Each folder is a Hugging Face checkpoint and a golden.json:
  prompt            token ids
  runs              one object a way of serving: "stored" (as the checkpoint is), "kv_fp8" (keys and
                    values rounded to E4M3 with the checkpoint's scales), "weights_fp8" (linear layers
                    quantised to E4M3 per output row)
    prompt_logprobs   of prompt[1:]
    greedy, greedy_logprobs, margins   64 tokens; margin: logit of the first less that of the second
    bf16_error      of "stored": mean |delta logprob| of these tokens when transformers computes in BF16
  scores            reward models: a list of {"ids", "scores"}, read at the last position
  chats             conversations that are to be answered, and transformers' ids of them
  rows              ids whose logits are the scores
  conversations     the same with "messages", by the checkpoint's own template; "ids" are transformers'
  attributes, weights, rewards   the 340B form: what its outputs mean, and the reward a conversation
"""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama import modeling_llama

HERE = Path(__file__).parent
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
GREEDY_TOKENS = 64
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "linear_attn",
          "linear_mlp")


# Of each family: how the names of transformers' classes begin, how its own do where that is another, the
# field of its norms' epsilon, what a gain of 1 is stored as, and the share of a head that is rotated where
# that is not all.
FAMILIES = {
    "llama": dict(classes="Llama", eps="rms_norm_eps", gain=1),
    "nemotron": dict(classes="Nemotron", eps="norm_eps", gain=0, rotated=0.5),
    # Not in transformers: Llama's layers, with parts replaced.
    "deci": dict(classes="Llama", name="DeciLM", eps="rms_norm_eps", gain=1),
}


def class_of(family, suffix):
    return getattr(transformers, FAMILIES[family]["classes"] + suffix)


def modeling(family):
    name = FAMILIES[family]["classes"].lower()
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def kind_of(m):
    return "ForSequenceClassification" if m["labels"] else "ForCausalLM"


def model(name, *, hidden, heads, kv_heads, head_dim, ffn, layers=2, vocab=256, tied=False,
          shards=1, dtype="bfloat16", rope="llama3", quant=None, kv_scales=False, prompt=96,
          runs=("stored",), reward=None, labels=0, store_tied_head=False, family="llama",
          blocks=None, rows=(0,), chat=False):
    return dict(locals())


MODELS = [
    # GQA 4:1, odd FFN, positions far beyond the original length of 32.
    model("gqa4", hidden=64, heads=8, kv_heads=2, head_dim=64, ffn=111, prompt=176,
          runs=("stored", "kv_fp8", "weights_fp8")),
    # GQA 8:1; q_heads * head_dim is not hidden; hidden is no multiple of 32.
    model("gqa8", hidden=80, heads=16, kv_heads=2, head_dim=32, ffn=133),
    model("mqa", hidden=64, heads=4, kv_heads=1, head_dim=128, ffn=96),
    model("mha_f16_tied", hidden=72, heads=2, kv_heads=2, head_dim=64, ffn=127, tied=True, shards=3,
          dtype="float16", rope="default", runs=("stored", "weights_fp8")),
    model("f32", hidden=48, heads=3, kv_heads=1, head_dim=64, ffn=90, layers=3, dtype="float32",
          rope="default", vocab=320),
    model("tied_twice", hidden=64, heads=4, kv_heads=2, head_dim=32, ffn=65, tied=True,
          store_tied_head=True),
    model("fp8_modelopt", hidden=64, heads=4, kv_heads=1, head_dim=64, ffn=131, quant="modelopt",
          kv_scales=True, runs=("stored", "kv_fp8")),
    model("fp8_compressed", hidden=96, heads=4, kv_heads=2, head_dim=64, ffn=97, shards=2,
          quant="compressed"),
    model("reward_row", hidden=64, heads=4, kv_heads=1, head_dim=64, ffn=96, reward="row", vocab=320),
    model("reward_one_label", hidden=64, heads=4, kv_heads=2, head_dim=32, ffn=64, labels=1,
          vocab=320),
    model("reward_five_labels", hidden=64, heads=4, kv_heads=2, head_dim=32, ffn=64, labels=5,
          dtype="float16", vocab=320),
    # What the 340B model's outputs are; here, as there, the checkpoint itself does not say it.
    model("reward_nine_outputs", hidden=64, heads=8, kv_heads=2, head_dim=32, ffn=80, labels=9,
          vocab=320),
    # Nemotron-4: LayerNorms with gain - 1 and a bias, half of each head rotated, a squared ReLU. Heads
    # as wide as the 340B's, then Minitron's.
    model("nemotron4", hidden=96, heads=4, kv_heads=1, head_dim=192, ffn=150, rope="default",
          family="nemotron", runs=("stored", "kv_fp8", "weights_fp8")),
    model("nemotron4_f16", hidden=80, heads=6, kv_heads=2, head_dim=64, ffn=99, rope="default",
          family="nemotron", dtype="float16", layers=3, shards=2, vocab=320),
    model("nemotron4_nine_outputs", hidden=64, heads=4, kv_heads=2, head_dim=32, ffn=80, labels=9,
          rope="default", family="nemotron", vocab=320),
    # Super-49B: layers of several sizes, some without attention, one without a feed-forward part.
    # A block is the FFN's multiplier, None for no FFN, and whether there is attention. "linear": one
    # matrix in the place of either. A number: so many KV heads.
    model("deci", hidden=64, heads=8, kv_heads=2, head_dim=64, ffn=0, family="deci", layers=6,
          blocks=[(5.25, True), (1.0, False), (None, True), (None, False), (0.5, True), (2.625, False)],
          runs=("stored", "kv_fp8", "weights_fp8")),
    model("deci_fp8", hidden=96, heads=4, kv_heads=2, head_dim=32, ffn=0, family="deci", layers=4,
          blocks=[(1.3125, False), (3.28125, True), (None, False), (1.0, True)], quant="modelopt",
          kv_scales=True, runs=("stored", "kv_fp8")),
    # As 70B-Reward-Principle is read: two logits after a question; by a template that writes its turns
    # as ordinary text and puts nothing before them, as 3.3-70B-Reward's is said to do.
    model("reward_question", hidden=64, heads=4, kv_heads=2, head_dim=32, ffn=72, reward="question",
          rows=[77, 200], vocab=320),
    # As Nemotron-4-340B-Instruct is shipped: SentencePiece (pieces.py), and no chat template.
    model("nemotron4_chat", hidden=64, heads=4, kv_heads=2, head_dim=32, ffn=80, rope="default",
          family="nemotron", vocab=528, chat=True),
    model("deci_mixed", hidden=96, heads=8, kv_heads=4, head_dim=32, ffn=0, family="deci", layers=6,
          blocks=[(1.0, 2), ("linear", 8), (2.0, "linear"), (None, 1), ("linear", "linear"), (0.5, 4)],
          shards=2, runs=("stored", "kv_fp8", "weights_fp8")),
    model("deci_mixed_fp8", hidden=64, heads=4, kv_heads=2, head_dim=64, ffn=0, family="deci", layers=4,
          blocks=[("linear", 4), (1.0, "linear"), (None, 1), (1.0, 2)], quant="modelopt",
          kv_scales=True, runs=("stored", "kv_fp8")),
    # As the FP8 conversions of the 340B are stored.
    model("nemotron4_fp8", hidden=72, heads=3, kv_heads=3, head_dim=96, ffn=100, rope="default",
          family="nemotron", quant="vllm", kv_scales=True, runs=("stored", "kv_fp8")),
    # Lengthened by YaRN, between the bounds that Llama 3.1 has. Not of an E4M3 cache: there transformers'
    # keys have YaRN's factor already, the engine's do not, and others of them are rounded.
    model("yarn", hidden=64, heads=4, kv_heads=2, head_dim=64, ffn=96, rope="yarn", prompt=176),
]
ATTRIBUTES = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
FIRST_ATTRIBUTE = 4  # of nine outputs
WEIGHTS = [0.3, 0.74, 0.46, 0.47, -0.33]

TEMPLATE = ("{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
            "\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
            "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
PLAIN_TEMPLATE = ("{{ '<extra_id_0>System\n' }}{% for m in messages %}{% if m.role == 'system' %}"
                  "{{ m.content + '\n' }}{% else %}{{ '\n<extra_id_1>' + ('User' if m.role == 'user'"
                  " else 'Assistant') + '\n' + m.content }}{% endif %}{% endfor %}"
                  "{% if add_generation_prompt %}{{ '\n<extra_id_1>Assistant\n' }}{% endif %}")
ASKED = ("Evaluate the response to the previous prompt in terms of whether it satisfies this principle: "
         "{principle}. Only answer Yes or No.")
PRINCIPLE = "correctness"
QUESTION = {"role": "user", "content": "What is 1+1?"}
SYSTEM = {"role": "system", "content": "You are terse."}
CONVERSATIONS = [
    [QUESTION, {"role": "assistant", "content": "1+1=2"}],
    [QUESTION, {"role": "assistant", "content": "I would rather not say."}],
    [SYSTEM, QUESTION, {"role": "assistant", "content": "Two. \u00c9videmment \u2014 2\ufe0f\u20e3!"}],
    [QUESTION, {"role": "assistant", "content": "2"}, {"role": "user", "content": "Sure?"},
     {"role": "assistant", "content": "Yes.\n\n" + "Quite sure. " * 12}],
]


def config_of(m):
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if m["rope"] == "llama3":
        rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    if m["rope"] == "yarn":
        rope = {"rope_type": "yarn", "rope_theta": 500000.0, "factor": 16.0, "beta_fast": 4.0,
                "beta_slow": 1.0, "original_max_position_embeddings": 32}
    extra = {}
    if m["labels"]:
        extra = {"pad_token_id": 0}
        if m["labels"] <= len(ATTRIBUTES):
            extra["id2label"] = dict(enumerate(ATTRIBUTES[: m["labels"]]))
        else:
            extra["num_labels"] = m["labels"]
    family = FAMILIES[m["family"]]
    extra |= {family["eps"]: 1e-5}
    if "rotated" in family:
        rope["partial_rotary_factor"] = family["rotated"]
    return class_of(m["family"], "Config")(
        vocab_size=m["vocab"], hidden_size=m["hidden"], intermediate_size=m["ffn"],
        num_hidden_layers=m["layers"], num_attention_heads=m["heads"],
        num_key_value_heads=m["kv_heads"], head_dim=m["head_dim"], max_position_embeddings=512,
        tie_word_embeddings=m["tied"], rope_parameters=rope, bos_token_id=1,
        eos_token_id=[2, 3], attn_implementation="eager", **extra)


def intermediate(mult, hidden):
    """As NVIDIA's configuration_decilm.py has it."""
    size = int(2 * mult * hidden / 3)
    return (size + 255) // 256 * 256


class Nothing(torch.nn.Module):
    """An attention or an MLP that adds nothing to the residual."""

    def __init__(self, is_attention):
        super().__init__()
        self.is_attention = is_attention

    def forward(self, hidden_states, **_):
        zero = torch.zeros_like(hidden_states)
        return (zero, None) if self.is_attention else zero


class Linear(torch.nn.Module):
    """One matrix in the place of attention or of the MLP, as NVIDIA's modeling_decilm.py has it."""

    def __init__(self, name, size):
        super().__init__()
        self.name = name
        setattr(self, name, torch.nn.Linear(size, size, bias=False))

    def forward(self, hidden_states, **_):
        y = getattr(self, self.name)(hidden_states)
        return (y, None) if self.name == "linear_attn" else y


def is_attention(block):
    return block[1] not in (False, "linear")


def kv_heads(m, block):
    return m["kv_heads"] if block[1] is True else block[1]


def network(m, config):
    if m["family"] != "deci":
        return class_of(m["family"], kind_of(m))(config)
    config.intermediate_size = 8
    net = LlamaForCausalLM(config)
    for i, (layer, block) in enumerate(zip(net.model.layers, m["blocks"])):
        mult, attention = block
        if mult == "linear":
            layer.mlp = Linear("linear_mlp", m["hidden"])
        elif mult is None:
            layer.mlp = Nothing(False)
            layer.post_attention_layernorm = torch.nn.Identity()
        else:
            config.intermediate_size = intermediate(mult, m["hidden"])
            layer.mlp = modeling_llama.LlamaMLP(config)
        if is_attention(block):
            config.num_key_value_heads = kv_heads(m, block)
            layer.self_attn = modeling_llama.LlamaAttention(config, i)
        elif attention == "linear":
            layer.self_attn = Linear("linear_attn", m["hidden"])
        else:
            layer.self_attn = Nothing(True)
            layer.input_layernorm = torch.nn.Identity()
    return net


def block_configs(m):
    sparse = {"sparsify": None}
    sinks = {"window_length": None, "num_sink_tokens": None,
             "use_prefill_window_in_sink_attention": False, "unshifted_sink": False}
    return [{"attention": sparse | sinks | {
                 "no_op": block[1] is False, "replace_with_linear": block[1] == "linear",
                 "n_heads_in_group": m["heads"] // kv_heads(m, block) if is_attention(block) else None},
             "ffn": sparse | {"no_op": block[0] is None, "replace_with_linear": block[0] == "linear",
                              "ffn_mult": None if block[0] == "linear" else block[0]}}
            for block in m["blocks"]]


def random_weights(net, m, generator):
    """Attention that attends, layers that matter, logits with a standard deviation of about 2."""
    hidden = m["hidden"]
    state = {}
    for name, p in net.state_dict().items():
        r = torch.randn(p.shape, generator=generator)
        if p.dim() == 1:
            # A gain of about 1; a small bias, of families with biases, whose gains are stored less 1.
            r = FAMILIES[m["family"]]["gain"] + 0.2 * r
        elif "embed_tokens" in name:
            r = r * (2 / hidden**0.5 if m["tied"] else 1.0)
        elif "lm_head" in name or "score" in name:
            r = r * 2 / hidden**0.5
        elif "q_proj" in name or "k_proj" in name:
            r = r * 1.2 / hidden**0.5
        else:
            r = r / p.shape[1] ** 0.5
            if m["tied"] and ("o_proj" in name or "down_proj" in name):
                r = r * 2  # or a tied head only repeats the token that came in
        state[name] = r
    if m["tied"]:
        state.pop("lm_head.weight")
    return state


def quantise(w, scale):
    return (w / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)


def quantise_rows(w):
    """As the engine does it for --dtype fp8."""
    most = w.abs().amax(dim=1, keepdim=True)
    scale = torch.where(most > 0, most / FP8_MAX, torch.ones_like(most))
    return quantise(w, scale), scale


def is_linear(name):
    return name.endswith(".weight") and name.split(".")[-2] in LINEAR


def stored_and_real(m, state):
    """The tensors of the file, and the float32 weights that they stand for."""
    dtype = getattr(torch, m["dtype"])
    stored, real = {}, {}
    for name, w in state.items():
        module = name.removesuffix(".weight")
        keep = m["quant"] == "compressed" and ".layers.1.mlp." in name  # its ignore list
        if m["quant"] and is_linear(name) and not keep:
            if m["quant"] in ("modelopt", "vllm"):
                scale = w.abs().max() / FP8_MAX
                stored[module + ".input_scale"] = torch.tensor(0.0123)
            else:
                scale = (w.abs().amax(dim=1, keepdim=True) / FP8_MAX).to(torch.bfloat16)
            stored[name] = quantise(w, scale.float())
            stored[module + ".weight_scale"] = scale
            real[name] = stored[name].float() * scale.float()
        else:
            stored[name] = w.to(dtype)
            real[name] = stored[name].float()
    if m["kv_scales"]:
        for layer in range(m["layers"]):
            if m["blocks"] and not is_attention(m["blocks"][layer]):
                continue
            attention = f"model.layers.{layer}.self_attn."
            stored[attention + "k_proj.k_scale"] = torch.tensor(0.011 + 0.002 * layer)
            stored[attention + "v_proj.v_scale"] = torch.tensor(0.009)
    if m["store_tied_head"]:
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    if m["tied"]:
        real["lm_head.weight"] = real["model.embed_tokens.weight"]
    return stored, real


def quantisation_block(m):
    if m["quant"] == "modelopt":
        return {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"],
                "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}}
    if m["quant"] == "vllm":
        return {"quant_method": "fp8", "activation_scheme": "static", "kv_cache_scheme": "static",
                "ignored_layers": ["lm_head"]}
    scheme = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}
    return {"quant_method": "compressed-tensors", "format": "float-quantized",
            "quantization_status": "compressed", "kv_cache_scheme": None,
            "config_groups": {"group_0": {
                "targets": ["Linear"], "output_activations": None,
                "weights": scheme | {"strategy": "channel", "dynamic": False},
                "input_activations": scheme | {"strategy": "token", "dynamic": True}}},
            "ignore": ["lm_head", "re:.*layers\\.1\\.mlp\\..*"]}


def save(m, folder, config, stored):
    text = config.to_dict()
    family = FAMILIES[m["family"]]
    text["architectures"] = [family.get("name", family["classes"]) + kind_of(m)]
    text["dtype"] = m["dtype"]
    if m["family"] == "deci":
        text |= {"model_type": "nemotron-nas", "block_configs": block_configs(m)}
        for name in ("intermediate_size", "num_key_value_heads"):
            text.pop(name)
    text = {k: v for k, v in text.items() if v is not None and not k.startswith("_")}
    if m["name"] == "nemotron4_f16":  # as the conversions of the 340B spell it
        text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
        text |= {"rope_percent": 0.5, "rope_percentage": 0.5, "rope_scaling": None}
        text.pop("partial_rotary_factor", None)
    if m["name"] in ("gqa4", "f32", "deci"):  # as files before transformers 5 spell it
        rope = text.pop("rope_parameters")
        text["rope_theta"] = rope.pop("rope_theta")
        text["rope_scaling"] = rope if rope["rope_type"] == "llama3" else None
        text["torch_dtype"] = text.pop("dtype")
    if m["quant"]:
        text["quantization_config"] = quantisation_block(m)
    if m["quant"] == "modelopt":
        (folder / "hf_quant_config.json").write_text(json.dumps({
            "producer": {"name": "modelopt", "version": "0.27.0"},
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
                             "exclude_modules": ["lm_head"]}}, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(text, indent=2, sort_keys=True) + "\n")
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": [2, 3]}\n')
    names = sorted(stored)
    if m["shards"] == 1:
        save_file({n: stored[n].contiguous() for n in names}, folder / "model.safetensors",
                  metadata={"format": "pt"})
        return
    index = {}
    for i in range(m["shards"]):
        file = f"model-{i + 1:05}-of-{m['shards']:05}.safetensors"
        part = {n: stored[n].contiguous() for n in names[i :: m["shards"]]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in stored.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1) + "\n")


class RoundedKv:
    """Within it, attention sees keys (after rope) and values as an E4M3 cache gives them back."""

    def __init__(self, stored):
        self.stored = stored

    def __enter__(self):
        self.eager = {m: m.eager_attention_forward for m in map(modeling, FAMILIES)}

        def rounded(module, query, key, value, *args, **kwargs):
            attention = f"model.layers.{module.layer_idx}.self_attn."
            k = self.stored.get(attention + "k_proj.k_scale", torch.tensor(1.0))
            v = self.stored.get(attention + "v_proj.v_scale", torch.tensor(1.0))
            return self.eager[modeling_llama](module, query, quantise(key, k).float() * k,
                              quantise(value, v).float() * v, *args, **kwargs)

        for module in self.eager:
            module.eager_attention_forward = rounded

    def __exit__(self, *_):
        for module, eager in self.eager.items():
            module.eager_attention_forward = eager


def numbers(values):
    return [float(f"{v:.6g}") for v in values]


def run(net, prompt):
    ids = list(prompt)
    greedy, logprobs, margins, prompt_logprobs = [], [], [], None
    for _ in range(GREEDY_TOKENS):
        logits = net(torch.tensor([ids])).logits[0]
        table = torch.log_softmax(logits, dim=-1)
        if prompt_logprobs is None:
            prompt_logprobs = [table[i, t].item() for i, t in enumerate(prompt[1:])]
            print(f"    logits std {logits.std().item():.2f}")
        top = torch.topk(logits[-1], 2)
        greedy.append(top.indices[0].item())
        margins.append((top.values[0] - top.values[1]).item())
        logprobs.append(table[-1, greedy[-1]].item())
        ids.append(greedy[-1])
    print(f"    {sum(x > 0.02 for x in margins)} of {len(margins)} margins above 0.02,"
          f" {len(set(greedy))} different tokens")
    return {"prompt_logprobs": numbers(prompt_logprobs), "greedy": greedy,
            "greedy_logprobs": numbers(logprobs), "margins": numbers(margins)}


def bf16_error(net, prompt, golden):
    """Leaves the net in BF16."""
    ids = list(prompt) + golden["greedy"]
    table = torch.log_softmax(net.bfloat16()(torch.tensor([ids])).logits[0].float(), dim=-1)
    got = [table[i, t].item() for i, t in enumerate(ids[1:])]
    want = golden["prompt_logprobs"] + golden["greedy_logprobs"]
    return float(f"{np.abs(np.array(got) - np.array(want)).mean():.4g}")


def save_tokenizer(folder, template):
    """Bytes, and the control tokens of Llama 3."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(n, normalized=False) for n in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": names[0], "eos_token": names[-1], "chat_template": template}, indent=2) + "\n")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=names[0],
                                   eos_token=names[-1], chat_template=template)


def chat_text(messages):
    """Nemotron-4's form, as NeMo-Aligner writes it."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = [f"<extra_id_1>{'User' if m['role'] == 'user' else 'Assistant'}\n{m['content'].strip()}\n"
             for m in messages if m["role"] != "system"]
    return f"<extra_id_0>System\n{system}\n{''.join(turns)}<extra_id_1>Assistant\n"


def chats(folder):
    shutil.copy(HERE / "pieces" / "nemotron.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}\n')
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    asked = [c[:-1] for c in CONVERSATIONS[2:]]
    return [{"messages": c, "ids": tokenizer.encode(chat_text(c), add_special_tokens=False)} for c in asked]


def read_out(m, net, ids):
    logits = net(torch.tensor([ids])).logits[0]
    return (logits if m["labels"] else logits[-1, list(m["rows"])]).tolist()


def score_all(m, net, generator, tokenizer):
    golden = {"scores": [], "conversations": []}
    if not m["labels"]:
        golden["rows"] = list(m["rows"])
    for length in (1, 17, 64, 97):
        ids = torch.randint(4, m["vocab"], (length,), generator=generator).tolist()
        golden["scores"].append({"ids": ids, "scores": numbers(read_out(m, net, ids))})
    asks = m["reward"] == "question"
    question = [{"role": "user", "content": ASKED.replace("{principle}", PRINCIPLE)}] if asks else []
    for messages in CONVERSATIONS:
        ids = list(tokenizer.apply_chat_template(messages + question, tokenize=True, return_dict=False,
                                                 add_generation_prompt=asks))
        golden["conversations"].append(
            {"messages": messages, "ids": ids, "scores": numbers(read_out(m, net, ids))})
    if m["labels"] == 9:
        end = FIRST_ATTRIBUTE + len(WEIGHTS)
        golden["attributes"] = dict(zip(ATTRIBUTES, range(FIRST_ATTRIBUTE, end)))
        golden["weights"] = WEIGHTS
        golden["rewards"] = numbers(
            np.dot(c["scores"][FIRST_ATTRIBUTE:end], WEIGHTS) for c in golden["conversations"])
    return golden


def make(m, seed):
    print(m["name"])
    folder = HERE / m["name"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    config = config_of(m)
    net = network(m, config).float().eval()
    stored, real = stored_and_real(m, random_weights(net, m, generator))
    save(m, folder, config, stored)
    golden = {}
    net.load_state_dict(real)
    if m["reward"] or m["labels"]:
        golden = score_all(m, net, generator, save_tokenizer(
            folder, PLAIN_TEMPLATE if m["reward"] == "question" else TEMPLATE))
    else:
        prompt = torch.randint(4, m["vocab"], (m["prompt"],), generator=generator).tolist()
        if m["chat"]:
            golden["chats"] = chats(folder)
            prompt = golden["chats"][-1]["ids"]
        golden |= {"prompt": prompt, "runs": {"stored": run(net, prompt)}}
        if "kv_fp8" in m["runs"]:
            with RoundedKv(stored):
                golden["runs"]["kv_fp8"] = run(net, prompt)
        if "weights_fp8" in m["runs"]:
            rounded = dict(real)
            for name, w in real.items():
                if is_linear(name):
                    q, scale = quantise_rows(w)
                    rounded[name] = q.float() * scale
            net.load_state_dict(rounded)
            golden["runs"]["weights_fp8"] = run(net, prompt)
        net.load_state_dict(real)
        golden["runs"]["stored"]["bf16_error"] = bf16_error(net, prompt, golden["runs"]["stored"])
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


def make_e4m3():
    """e4m3.bin: 256 float32 values of the codes, then float32 inputs and the codes they round to."""
    values = torch.arange(256, dtype=torch.uint8).view(FP8).float().numpy()
    finite = np.sort(values[np.isfinite(values)])
    middles = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)  # ties: exact
    inputs = np.concatenate([finite, middles, np.nextafter(middles, np.float32(np.inf)),
                             np.nextafter(middles, np.float32(-np.inf))]).astype(np.float32)
    codes = torch.from_numpy(inputs).clamp(-FP8_MAX, FP8_MAX).to(FP8).view(torch.uint8).numpy()
    with open(HERE / "e4m3.bin", "wb") as f:
        f.write(values.tobytes() + inputs.tobytes() + codes.tobytes())


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        for i, m in enumerate(MODELS):
            if not sys.argv[1:] or m["name"] in sys.argv[1:]:
                make(m, 1000 + i)
    make_e4m3()
