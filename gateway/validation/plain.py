"""Whether a request is one of the plain ones that most are, which need no more checking."""

from collections.abc import Mapping
from typing import Any

from .parameters import INTEGERS, NUMBERS

_TEXTS = frozenset({"model", "user", "prompt_cache_key"})
_SWITCHES = frozenset({"stream", "store"})
_BOUNDS: Mapping[type, Mapping[str, tuple[int | float, int | float]]] = {int: {**NUMBERS, **INTEGERS}, float: NUMBERS}
"""Integers stay integers: a float cannot tell the largest from one more."""
_SPEAKERS = ("user", "assistant", "system", "developer")


def is_plain(request: Mapping[str, Any]) -> bool:
    """Whether it holds texts that people and models said, settings from a few, and all of it is in perfect order.

    The general checkers would agree; they alone refuse, and know why.
    """
    twice = "max_tokens" in request and "max_completion_tokens" in request
    if twice or "model" not in request or "messages" not in request:
        return False
    for name, value in request.items():
        kind = type(value)
        if kind is str:
            if name not in _TEXTS:
                return False
        elif kind is list:
            if name != "messages" or not _are_texts(value):
                return False
        elif kind is bool:
            if name not in _SWITCHES:
                return False
        else:
            bounds = _BOUNDS[kind].get(name) if kind in _BOUNDS else None
            if bounds is None or not bounds[0] <= value <= bounds[1]:
                return False
    return True


def _are_texts(messages: list[Any]) -> bool:
    for message in messages:
        if (
            type(message) is not dict
            or len(message) != 2
            or type(message.get("content")) is not str
            or message.get("role") not in _SPEAKERS
        ):
            return False
    return bool(messages)
