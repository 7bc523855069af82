"""What checking a request costs, beside what parsing it costs: ``python -m benchmarks.validation``.

Prints the best of several rounds, in microseconds of CPU, for conversations of about 100 KB and for small requests.
"""

import time
from collections.abc import Callable
from typing import Any

import orjson

from gateway.validation import parse_json, validate_chat

ROUNDS, REPEATS = 9, 200


def conversation(turns: int, size: int) -> dict[str, Any]:
    """``turns`` messages of ``size`` characters between user and assistant."""
    roles = ("user", "assistant")
    return {
        "model": "fast",
        "messages": [{"role": roles[turn % 2], "content": "word " * (size // 5)} for turn in range(turns)],
        "temperature": 0.2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def agent(turns: int, size: int) -> dict[str, Any]:
    """An agent's loop: ``turns`` tool calls, each answered with ``size`` characters, and twenty tools."""
    parameters = {"type": "object", "properties": {"path": {"type": "string"}, "line": {"type": "integer"}}}
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Work."}, {"role": "user", "content": "Begin."}]
    for turn in range(turns):
        call = {"id": f"call_{turn:024}", "type": "function", "function": {"name": "tool_1", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "word " * (size // 5)})
    tools = [{"type": "function", "function": {"name": f"tool_{i}", "parameters": parameters}} for i in range(20)]
    return {"model": "fast", "messages": messages, "tools": tools, "tool_choice": "auto", "parallel_tool_calls": True}


def parts(turns: int, size: int) -> dict[str, Any]:
    """Messages whose content is an array of one text part, as several SDKs write it."""
    request = conversation(turns, size)
    for message in request["messages"]:
        message["content"] = [{"type": "text", "text": message["content"]}]
    return request


CASES: dict[str, dict[str, Any]] = {
    "one short message": conversation(1, 40),
    "100 KB, 20 messages": conversation(20, 5000),
    "100 KB, 100 messages": conversation(100, 1000),
    "100 KB, 200 messages": conversation(200, 500),
    "100 KB, 100 messages of parts": parts(100, 1000),
    "100 KB, 80 tool calls": agent(80, 1000),
}


def microseconds(work: Callable[[], object]) -> float:
    """CPU time of one call: the best of ROUNDS averages over REPEATS calls."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(REPEATS):
            work()
        best = min(best, time.process_time() - start)
    return best / REPEATS * 1e6


def main() -> None:
    print(f"{'':<32}{'orjson.loads':>14}{'parse_json':>14}{'validate_chat':>14}  (microseconds of CPU)")
    for name, request in CASES.items():
        body = orjson.dumps(request)
        costs = (
            microseconds(lambda body=body: orjson.loads(body)),
            microseconds(lambda body=body: parse_json(body)),
            microseconds(lambda request=request: validate_chat(request)),
        )
        print(f"{name:<32}" + "".join(f"{cost:>14.1f}" for cost in costs))


if __name__ == "__main__":
    main()
