"""What the model has generated, in a delta of any shape."""

from typing import Any

from ..interface import JSON

_SAID = frozenset({"content", "refusal", "reasoning_content", "reasoning", "text", "thinking", "arguments", "input"})
"""Keys whose values the model has generated."""
_DEEPEST = 100
"""Levels of a delta: compiled code meets no limit of recursion."""


def had_nulls(chunk: JSON) -> bool:
    """Whether a chunk had a null that breaks clients, which has been taken out of it (checklist C-347, C-348)."""
    found = chunk.pop("error", chunk) is not chunk
    if not isinstance(chunk.get("choices"), list):
        chunk["choices"], found = [], True
    for choice in chunk["choices"]:
        if choice.get("delta") is None:
            choice["delta"], found = {}, True
    return found


def answers(choices: list[JSON]) -> bool:
    """Whether a chunk has any of the answer: text, a tool call, a refusal, or an end."""
    for choice in choices:
        delta = choice.get("delta") or {}
        if choice.get("finish_reason") or any(value for key, value in delta.items() if key != "role"):
            return True
    return False


def said(value: Any, key: str = "", depth: int = 0) -> list[str]:
    """The texts of a delta, wherever in it they are; raises ValueError for one that is deeper than any."""
    if isinstance(value, str):
        return [value] if value and key in _SAID else []
    if depth > _DEEPEST:
        raise ValueError("a delta is nested too deep")
    if isinstance(value, dict):
        return [text for name, inner in value.items() for text in said(inner, name, depth + 1)]
    return [text for inner in value for text in said(inner, key, depth + 1)] if isinstance(value, list) else []


def size_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
