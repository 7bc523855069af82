"""The deprecated ``functions`` told as tools; ``adapters.emit`` turns the answer back (``functions=True``)."""

from typing import Any

from ..interface import JSON, ChatRequest


def modern(request: ChatRequest) -> ChatRequest:
    """A request that speaks of tools only."""
    calls = any("function_call" in m or m.get("role") == "function" for m in request["messages"])
    if not request.get("functions") and not calls:
        return request
    told = {key: value for key, value in request.items() if key not in ("functions", "function_call")}
    if functions := request.get("functions"):
        told["tools"] = [{"type": "function", "function": function} for function in functions]
        if (choice := request.get("function_call")) is not None:
            told["tool_choice"] = choice if isinstance(choice, str) else {"type": "function", "function": choice}
    if calls:
        told["messages"] = _messages(request["messages"])
    return told


def _messages(messages: list[JSON]) -> list[JSON]:
    out: list[JSON] = []
    made = 0
    for message in messages:
        if called := message.get("function_call"):
            made += 1
            told: dict[str, Any] = {key: value for key, value in message.items() if key != "function_call"}
            out.append({**told, "tool_calls": [{"id": f"call_{made}", "type": "function", "function": called}]})
        elif message["role"] == "function":
            out.append({"role": "tool", "tool_call_id": f"call_{made}", "content": message.get("content") or ""})
        else:
            out.append(message)
    return out
