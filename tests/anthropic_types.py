"""What is wrong with a Messages request: by the official SDK's types, unknown keys included, and by the API's rules."""

import functools
import importlib
import pkgutil
import re
import typing
from collections.abc import Mapping
from typing import Any

import anthropic.types
import typing_extensions
from anthropic.types import (
    DocumentBlockParam,
    ImageBlockParam,
    RedactedThinkingBlockParam,
    TextBlockParam,
    ThinkingBlockParam,
    ToolResultBlockParam,
    ToolUseBlockParam,
)
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from pydantic import ConfigDict, TypeAdapter, ValidationError

SAMPLING = ("temperature", "top_p", "top_k")
"""Not in the types of the newest API version, but lawful in the one that we speak."""
_AREAS = re.compile(r"\.(beta|organization|messages|threads|environments)\b")


@functools.cache
def _adapter(stream: bool) -> TypeAdapter[Any]:
    """The SDK's own request type, made to refuse keys that it does not know."""
    for module in pkgutil.walk_packages(anthropic.types.__path__, "anthropic.types."):
        if _AREAS.search(module.name):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and (typing.is_typeddict(value) or typing_extensions.is_typeddict(value)):
                config = getattr(value, "__pydantic_config__", {})
                if config.get("extra") != "allow":
                    value.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined]
                        **{**config, "extra": "forbid", "arbitrary_types_allowed": True}
                    )
    return TypeAdapter(MessageCreateParamsStreaming if stream else MessageCreateParamsNonStreaming)


_BLOCKS = {
    "text": TextBlockParam,
    "image": ImageBlockParam,
    "document": DocumentBlockParam,
    "tool_use": ToolUseBlockParam,
    "tool_result": ToolResultBlockParam,
    "thinking": ThinkingBlockParam,
    "redacted_thinking": RedactedThinkingBlockParam,
}
"""The request's own types: a message's content may also be a response's blocks, which take any key."""


@functools.cache
def _block_adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_BLOCKS[kind])


def _walk(value: Any) -> None:
    """Iterables of the SDK's types are validated only when they are walked."""
    if isinstance(value, dict):
        for item in value.values():
            _walk(item)
    elif not isinstance(value, str | bytes | int | float | None):
        for item in value:
            _walk(item)


def problems(body: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with a request body; empty when nothing is."""
    typed = {key: value for key, value in body.items() if key not in SAMPLING}
    try:
        _walk(_adapter(bool(body.get("stream"))).validate_python(typed))
        for turn in body["messages"]:
            for block in turn["content"]:
                if block["type"] in _BLOCKS:
                    _walk(_block_adapter(block["type"]).validate_python(block))
    except ValidationError as e:
        return [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in e.errors()[:5]]
    found = [*_turns(body["messages"]), *_thinking(body), *_markers(body)]
    if not body.get("tools") and body.get("tool_choice"):
        found.append("tool_choice without tools")
    return found


def _markers(body: Mapping[str, Any]) -> list[str]:
    """At most four, and none for an hour behind one for less, in the order of tools, system, messages."""
    places = [body.get("tools"), body.get("system"), *(turn["content"] for turn in body["messages"])]
    blocks = [block for blocks in places if isinstance(blocks, list) for block in blocks]
    marks = [block["cache_control"].get("ttl") for block in blocks if block.get("cache_control")]
    found = ["more than 4 cache markers"] if str(body).count("'cache_control'") > 4 else []
    return found + ["an hour's cache marker behind another"] * ("1h" in marks[marks.count("1h") :])


def _turns(turns: list[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    open_ids: list[str] = []
    seen: set[str] = set()
    for at, turn in enumerate(turns):
        blocks = turn["content"]
        if at and turn["role"] == turns[at - 1]["role"]:
            found.append(f"{at}: two turns of {turn['role']}")
        if not blocks:
            found.append(f"{at}: empty")
        if any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            found.append(f"{at}: blank text")
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(open_ids):
            found.append(f"{at}: results {results} for calls {open_ids}")
        if any(block["type"] != "tool_result" for block in blocks[: len(results)]):
            found.append(f"{at}: something before the results")
        open_ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if seen & set(open_ids) or len(set(open_ids)) < len(open_ids):
            found.append(f"{at}: an id used twice")
        if not all(re.fullmatch("[a-zA-Z0-9_-]+", identity) for identity in open_ids):
            found.append(f"{at}: an id with other characters")
        seen |= set(open_ids)
        if turn["role"] == "system" and turns[at - 1]["role"] != "user":
            found.append(f"{at}: a system turn that follows no user turn")
    if open_ids:
        found.append("calls without results at the end")
    return found


def _thinking(body: Mapping[str, Any]) -> list[str]:
    config = body.get("thinking") or {}
    found = []
    if config.get("type") == "enabled":
        if not 1024 <= config["budget_tokens"] < body["max_tokens"]:
            found.append("a thinking budget outside 1024 .. max_tokens")
        if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
            found.append("a thinking budget and a forced tool")
        if body.get("temperature", 1) != 1 or "top_k" in body or body.get("top_p", 1) < 0.95:
            found.append("a thinking budget and sampling")
        if body["messages"][-1]["role"] == "assistant":
            found.append("a thinking budget and a prefilled answer")
    return found
