"""transformers in BF16 as a competitor of the engine bench: same protocol as child.ts.

Tuned as far as it helped: one copy of the weights into huge pages (the parent sets GLIBC_TUNABLES and
THP_MEM_ALLOC_ENABLE), SDPA attention, logits of the last position only, inference mode.
The task "linear" is prefill's matrix products alone, through torch.nn.functional.linear: what torch
could reach if everything else were free.
"""

import json
import os
import sys
import time

answers = os.fdopen(3, "w")


def answer(value):
    answers.write(json.dumps(value) + "\n")
    answers.flush()


try:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, DynamicCache
except ImportError as error:
    answer({"version": "", "loadSeconds": 0, "error": f"{error} in {sys.executable}"})
    sys.exit()

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
torch.set_num_interop_threads(1)
torch.manual_seed(1)


def load():
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        options["model"], dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    model.eval()
    # The loaded weights lie in the mapped file: small pages.
    seen = {}
    for parameter in model.parameters():
        key = parameter.data_ptr()
        seen.setdefault(key, parameter.data.clone())
        parameter.data = seen[key]
    return model, time.perf_counter() - start


def prompt(sequences, length):
    return torch.randint(512, options["vocab"], (sequences, length))


def timed(tokens, work):
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "tokens": tokens,
        "seconds": time.perf_counter() - start,
        "cpuSeconds": time.process_time() - cpu,
    }


class Decoder:
    """Keeps the context of a number of sequences from round to round."""

    def __init__(self, model, sequences, context):
        self.model, self.sequences, self.context = model, sequences, context
        self.cache = DynamicCache(config=model.config)
        self.step(prompt(sequences, context - 1))

    def step(self, ids):
        out = self.model(
            input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        return out.logits[:, -1:].argmax(-1)

    def run(self, steps):
        ids = self.step(prompt(self.sequences, 1))

        def work():
            nonlocal ids
            for _ in range(steps):
                ids = self.step(ids)

        timing = timed(steps * self.sequences, work)
        self.cache.crop(-(steps + 1))
        return timing


def prefill(model, tokens):
    ids = prompt(1, tokens)
    work = lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax().item()
    return timed(tokens, work)


def linear(model, tokens):
    products = [
        (torch.randn(tokens, module.in_features, dtype=torch.bfloat16), module.weight)
        for module in model.model.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    products.append((products[0][0][-1:], model.lm_head.weight))

    def work():
        for x, weight in products:
            torch.nn.functional.linear(x, weight)

    return timed(tokens, work)


def check(model, ids):
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    following = torch.tensor(ids[1:])[:, None]
    logprobs = torch.log_softmax(logits, -1).gather(1, following)[:, 0]
    return {"top": logits.argmax(-1).tolist(), "logprobs": logprobs.tolist()}


decoders = {}


def run(model, task):
    kind = task["task"]
    if kind == "decode":
        key = (task["sequences"], task["context"])
        if key not in decoders:
            decoders[key] = Decoder(model, *key)
        return {"timing": decoders[key].run(task["steps"])}
    if kind == "prefill":
        return {"timing": prefill(model, task["tokens"])}
    if kind == "linear":
        return {"timing": linear(model, task["tokens"])}
    if kind == "check":
        return check(model, task["prompt"])
    return {"error": f"no task {kind}"}


# Not inside inference mode: its prefill was seven times slower with weights that were copied there.
model, load_seconds = load()
with torch.inference_mode():
    answer(
        {
            "version": f"torch {torch.__version__}, transformers {transformers.__version__}",
            "loadSeconds": load_seconds,
        }
    )
    for line in sys.stdin:
        try:
            answer(run(model, json.loads(line)))
        except Exception as error:  # one failed task must not end the others
            answer({"error": f"{type(error).__name__}: {error}"})
