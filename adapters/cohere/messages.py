"""Messages into Cohere's: one instruction first, blank ones left out, plans and thoughts where they belong."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import UnsupportedParameter
from ..history import Message
from ..interface import JSON
from ..jsonio import dumps

EMPTY_RESULT = "(empty)"
PLACEHOLDER = "."
"""For a conversation in which nobody says anything."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]")


def wire_name(name: str) -> str:
    """A tool's name as Cohere takes it: letters, digits and underscores, and no digit first (edge case 36)."""
    made = _NOT_IN_NAMES.sub("_", name)
    return f"_{made}" if made[:1].isdigit() else made


def messages(given: Iterable[Message], *, thinks: bool, names: Mapping[str, str]) -> list[JSON]:
    """``thinks``: whether the model takes thoughts in the history. ``names``: those of the request's tools as Cohere gets them."""
    out: list[JSON] = []
    for message in given:
        if message.role == "system" and out:
            _instruct(out, _text(message))
            continue
        if message.role == "assistant":
            made = _assistant(message, thinks=thinks, names=names)
        elif message.role == "tool":
            content = _text(message) or EMPTY_RESULT
            made = {"role": "tool", "tool_call_id": message.call_id, "content": content}
        else:
            made = _said(message)
            if made is None and message.role == "user" and out and out[-1]["role"] == "assistant":
                made = {"role": "user", "content": PLACEHOLDER}  # else that answer would go on
        if made is not None:
            out.append(made)
    if not any(m["role"] in ("user", "tool") for m in out):
        systems = [m | {"role": "user"} if m["role"] == "system" else m for m in out]  # edge case 16
        out = systems if any(m["role"] == "user" for m in systems) else [*out, {"role": "user", "content": PLACEHOLDER}]
    return out


def _instruct(out: list[JSON], text: str) -> None:
    """Add to the instructions, which are one message, the first: any other place is a 400."""
    if text and out[0]["role"] == "system":
        out[0]["content"] += f"\n\n{text}"
    elif text:
        out.insert(0, {"role": "system", "content": text})


def _said(message: Message) -> JSON | None:
    """Of the system or the user."""
    if not message.parts:
        return None
    if all(part.get("type") == "text" for part in message.parts):
        return {"role": message.role, "content": _text(message)}
    return {"role": message.role, "content": [_part(part, message) for part in message.parts]}


def _part(part: Mapping[str, Any], message: Message) -> JSON:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind == "image_url" and message.role == "user":
        image = part["image_url"]
        detail = image.get("detail")
        told = {"url": image["url"], **({"detail": detail} if detail in ("auto", "low", "high") else {})}
        return {"type": "image_url", "image_url": told}
    at = f"messages[{message.index}].content"
    raise UnsupportedParameter(at, f"Invalid '{at}': content of type '{kind}' is not supported with this model.")


def _text(message: Message) -> str:
    texts = [_part(part, message) for part in message.parts]
    return "\n".join(part["text"] for part in texts if part["type"] == "text")


def _assistant(message: Message, *, thinks: bool, names: Mapping[str, str]) -> JSON | None:
    text = _text(message)
    source = message.source or {}
    thought = source.get("reasoning_content") or source.get("reasoning")
    thought = thought if isinstance(thought, str) and thought.strip() else ""
    content: list[JSON] = [{"type": "thinking", "thinking": thought}] if thought and thinks else []
    if not message.calls:
        if text:
            content.append({"type": "text", "text": text})
        return {"role": "assistant", "content": content if thought and thinks else text} if text else None
    made: JSON = {
        "role": "assistant",
        "tool_calls": [
            _call(call.id, names.get(call.name) or wire_name(call.name), call.arguments) for call in message.calls
        ],
    }
    # what is said along with calls is their plan, and a plan is what we told the client as reasoning
    if plan := text or (thought if not thinks else ""):
        made["tool_plan"] = plan
    if content:
        made["content"] = content
    return made


def _call(call_id: str, name: str, arguments: Mapping[str, Any]) -> JSON:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": dumps(arguments).decode()}}
