"""Prompts and answers as span attributes, where the operator asked for them: messages in the form of OpenTelemetry's conventions."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

LONGEST = 64 * 1024
"""Characters of one attribute; what is longer is cut and says so."""


def messages(found: Any) -> str:
    """``gen_ai.input.messages``: a JSON list of roles and parts."""
    return _text([_message(m) for m in found if isinstance(m, Mapping)] if isinstance(found, list) else [])


def answers(completion: Mapping[str, Any] | None) -> str:
    """``gen_ai.output.messages``: a message for each choice, with why it ended."""
    choices = (completion or {}).get("choices") or ()
    return _text([{**_message(c.get("message") or {}), "finish_reason": c.get("finish_reason")} for c in choices])


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": message.get("role"), "parts": list(_parts(message))}


def _parts(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        yield {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return
    if isinstance(content, str):
        yield {"type": "text", "content": content}
    for part in content if isinstance(content, list) else ():
        # Images, audio and files are named, not copied: a span is no place for megabytes.
        yield {"type": "text", "content": part["text"]} if part.get("type") == "text" else {"type": part.get("type")}
    if message.get("refusal"):
        yield {"type": "text", "content": message["refusal"]}
    for call in message.get("tool_calls") or ():
        given = call.get("function") or call.get("custom") or {}
        arguments = given.get("arguments", given.get("input"))
        yield {"type": "tool_call", "id": call.get("id"), "name": given.get("name"), "arguments": arguments}


def _text(found: list[dict[str, Any]]) -> str:
    text = orjson.dumps(found).decode()
    return text if len(text) <= LONGEST else text[:LONGEST] + "... cut"
