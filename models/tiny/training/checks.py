"""Strict checkers: the whole answer, the tool call as JSON, and separately the trace."""

import json
from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"
CALL, END_CALL = "<TOOLCALL>[", "]</TOOLCALL>"


@dataclass(frozen=True)
class Verdict:
    right: bool  # the answer is exactly the gold one
    formed: bool  # thinking block and, where asked for, tool call are well-formed
    trace: bool  # the steps are exactly the reference steps (true when thinking is off)


def split(text: str, thinking: bool):
    """(trace, answer), or None when the thinking block is not as the mode asks."""
    if not thinking:
        return None if OPEN in text or CLOSE in text else ("", text.strip())
    if not text.startswith(OPEN) or text.count(OPEN) != 1 or text.count(CLOSE) != 1:
        return None
    trace, answer = text[len(OPEN):].split(CLOSE)
    return trace.strip(), answer.strip()


def tool_call(answer: str):
    """{name, arguments} of a reply that is one call and nothing else, or None."""
    if not answer.startswith(CALL) or not answer.endswith(END_CALL):
        return None
    try:
        call = json.loads(answer[len(CALL): -len(END_CALL)])
    except ValueError:
        return None
    if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
        return None
    return call if isinstance(call["arguments"], dict) else None


def same(a, b) -> bool:
    """JSON equality in which 1 is not true and 1 is not "1"."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def judge(text: str, thinking: bool, check: str, gold, trace: str) -> Verdict:
    parts = split(text, thinking)
    if parts is None:
        return Verdict(False, False, False)
    trace_right = not thinking or parts[0] == trace
    if check == "tool_call":
        call = tool_call(parts[1])
        return Verdict(call is not None and same(call, gold), call is not None, trace_right)
    return Verdict(parts[1] == gold, "<TOOLCALL>" not in parts[1], trace_right)
