"""Python clients against a running server: openai, LangChain and lm_eval. Prints one line a client:
OK, SKIP with the reason, or FAIL. Used by python-clients.test.ts.

  python3 test/server/python_clients.py http://127.0.0.1:8000 tiny-reasoner
"""

import asyncio
import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

for offline in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE"):
    os.environ[offline] = "1"
os.environ["OPENAI_API_KEY"] = "none"

QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
RESULT = '{"temperature": 17, "condition": "cloudy"}'
TOLD = "It is 17 degrees and cloudy in Paris."


def openai_client(url, model):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert model in [m.id for m in client.models.list()]
    assert client.models.retrieve(model).id == model
    ask = {"model": model, "messages": QUESTION, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**ask)
    assert whole.choices[0].message.content and whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1
    thinking = client.chat.completions.create(
        **ask, reasoning_effort="high", logprobs=True, top_logprobs=2)
    assert thinking.choices[0].message.reasoning_content
    entries = thinking.choices[0].logprobs.content
    assert len(entries) == thinking.usage.completion_tokens
    assert all(len(e.top_logprobs) == 2 for e in entries)
    raw = client.chat.completions.with_raw_response.create(**ask, extra_body={"spice": 1})
    assert raw.headers["x-ignored-params"] == "spice"
    several = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=3, seed=1)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    for wrong, kind, code in (
        ({"model": "gpt-9"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 7}, openai.BadRequestError, None),
        ({"max_tokens": 10**6}, openai.BadRequestError, "context_length_exceeded"),
        ({"functions": [{"name": "f"}]}, openai.BadRequestError, "unsupported_parameter"),
    ):
        try:
            client.chat.completions.create(**(ask | wrong))
            raise AssertionError(f"{wrong} was taken")
        except kind as error:
            assert error.code == code, (wrong, error.code)

    turns = [{"role": "user", "content": "What is the weather in Paris?"}]
    tooled = {"model": model, "temperature": 0, "reasoning_effort": "high", "tools": [WEATHER]}
    call = client.chat.completions.create(messages=turns, **tooled).choices[0]
    assert call.finish_reason == "tool_calls" and call.message.content is None
    [asked] = call.message.tool_calls
    assert (asked.function.name, json.loads(asked.function.arguments)) == ("get_weather", {"city": "Paris"})
    with client.chat.completions.stream(messages=turns, **tooled) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == asked.function.arguments
    turns += [call.message, {"role": "tool", "tool_call_id": asked.id, "content": RESULT}]
    assert client.chat.completions.create(messages=turns, **tooled).choices[0].message.content == TOLD

    async def concurrent():
        many = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        answers = await asyncio.gather(*(many.chat.completions.create(**ask) for _ in range(8)))
        assert {a.choices[0].message.content for a in answers} == {text}
        await many.close()

    asyncio.run(concurrent())
    client.close()


def langchain_openai_client(url, model):
    from langchain_core.messages import ToolMessage
    from langchain_openai import ChatOpenAI, OpenAI

    settings = {"base_url": f"{url}/v1", "api_key": "none", "model": model, "temperature": 0,
                "max_tokens": 40, "max_retries": 0}
    chat = ChatOpenAI(**settings)
    answer = chat.invoke([("system", "Be brief."), ("human", "What is 2 + 3?")])
    assert answer.content and answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    streamed = None
    for chunk in ChatOpenAI(**settings, stream_usage=True).stream("What is 2 + 3?"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.content == chat.invoke("What is 2 + 3?").content
    assert streamed.usage_metadata["output_tokens"] > 0
    assert [len(a.content) > 0 for a in chat.batch(["What is 1 + 1?", "What is 2 + 2?"])]
    assert asyncio.run(chat.ainvoke("What is 2 + 3?")).content == streamed.content
    assert chat.bind(logprobs=True).invoke("Hi").response_metadata["logprobs"]["content"]
    bound = ChatOpenAI(**settings, reasoning_effort="high").bind_tools([WEATHER])
    turns = [("human", "What is the weather in Paris?")]
    call = bound.invoke(turns)
    [asked] = call.tool_calls
    assert (asked["name"], asked["args"]) == ("get_weather", {"city": "Paris"})
    streamed = None
    for chunk in bound.stream(turns):
        streamed = chunk if streamed is None else streamed + chunk
    assert [(c["name"], c["args"]) for c in streamed.tool_calls] == [("get_weather", {"city": "Paris"})]
    turns += [call, ToolMessage(RESULT, tool_call_id=asked["id"])]
    assert bound.invoke(turns).content == TOLD
    text = OpenAI(**settings)
    assert "".join(text.stream("Hello")) == text.invoke("Hello")


def lm_eval_client(url, model):
    import lm_eval
    from lm_eval.tasks import TaskManager

    docs = [{"question": f"What is {a} + {b}?", "choices": [f" {a + b}", f" {a + b + 7}"], "answer": 0}
            for a in range(2, 6) for b in range(2, 5)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "docs.jsonl")
        data.write_text("".join(json.dumps(d) + "\n" for d in docs))
        common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
                  "test_split": "test", "doc_to_text": "{{question}}"}
        tasks = {
            "tiny_choice": common | {
                "output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
                "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]},
            "tiny_generate": common | {
                "output_type": "generate_until", "doc_to_target": "{{choices[0]}}",
                "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
                "metric_list": [{"metric": "exact_match"}]},
        }
        for name, task in tasks.items():
            Path(folder, f"{name}.yaml").write_text(json.dumps({"task": name} | task))
        out = lm_eval.simple_evaluate(
            model="local-completions",
            model_args={"model": model, "base_url": f"{url}/v1/completions", "num_concurrent": 4,
                        "max_retries": 1, "tokenizer_backend": "remote", "max_length": 512},
            tasks=list(tasks), task_manager=TaskManager(include_path=folder), bootstrap_iters=0,
            log_samples=True)
    for name in tasks:
        assert len(out["samples"][name]) == len(docs), name
    for sample in out["samples"]["tiny_choice"]:
        assert all(float(r[0][0]) < 0 for r in sample["resps"]), sample["resps"]
    assert 0 <= out["results"]["tiny_choice"]["acc,none"] <= 1


CLIENTS = {"openai": openai_client, "langchain_openai": langchain_openai_client,
           "lm_eval": lm_eval_client}


def run(package, check, url, model):
    try:
        importlib.import_module(package)
        if package == "lm_eval":
            importlib.import_module("datasets")
            importlib.import_module("lm_eval.models.openai_completions")
    except ImportError as error:
        return f"SKIP {package}: {error}"
    try:
        check(url, model)
        return f"OK {package}"
    except Exception:
        return f"FAIL {package}: {json.dumps(traceback.format_exc())}"


if __name__ == "__main__":
    for name, function in CLIENTS.items():
        print(run(name, function, *sys.argv[1:3]), flush=True)
