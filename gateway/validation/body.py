"""The body of a request: bytes to one JSON object of bounded shape.

orjson refuses what the JSON grammar refuses (NaN, lone surrogates, invalid UTF-8, a byte-order mark). Two things it
lets pass are decided here:

* An object that repeats a key keeps the last value. The gateway sends on what it parsed, never the client's own
  bytes, so no provider can read another value than the one that was checked and billed.
* An integer beyond 64 bits becomes a float, which no integer parameter takes.
"""

import re
from typing import Any

import orjson

from ..errors import InvalidRequest
from .violation import describe_type

MAX_DEPTH = 100
"""Levels of arrays and objects; below what orjson (254) and a recursive checker could not write or walk."""
MAX_ITEMS = 10_000
"""Keys of one object, items of one array."""
MAX_WEIGHT = 5_000_000
"""Of all values together: a number weighs 1, a text 5, an array or object 10, as they cost time. More take seconds to parse, in
which nobody else is served, and up to thirty times their size in memory."""
_TEXT, _CONTAINER = 5, 10
_LIGHT = 1_000_000
"""Bytes that cannot hold so much."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_CONTAINERS = frozenset((dict, list))


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``; raises InvalidRequest in OpenAI's words, never repeating the input."""
    if len(body) > _LIGHT and _weighs_too_much(body):
        raise _unreadable("It has too many values")
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(f"What was sent is not valid JSON: {error}" if body else "The body was empty") from None
    if type(request) is not dict:
        raise _unreadable(f"A JSON object was expected, but got {describe_type(request)}")
    if len(body) > MAX_ITEMS or body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_shape(request)  # else there is no room for so much
    return request


def _weighs_too_much(body: bytes) -> bool:
    """Whether JSON has more than ``MAX_WEIGHT``, told before there is any of it."""
    marks = len(body) - len(body.translate(None, b',[{"'))
    if marks * _CONTAINER <= MAX_WEIGHT:
        return False  # nearly always, whatever of them is in texts
    weight = at = 0
    for text in _STRING.finditer(body):
        start, end = text.span()
        weight += _TEXT + (1 if start - at == 1 else _weight(body, at, start))
        if weight > MAX_WEIGHT:
            return True
        at = end
    return weight + _weight(body, at, len(body)) > MAX_WEIGHT


def _weight(body: bytes, start: int, end: int) -> int:
    """Of what is between two texts: each value but the first of its container has a comma before it."""
    containers = body.count(b"[", start, end) + body.count(b"{", start, end)
    return body.count(b",", start, end) + _CONTAINER * containers


def _check_shape(request: dict[str, Any]) -> None:
    """Walk the containers level by level: the cost is that of their number, however long the texts in them."""
    level: list[Any] = [request]
    for _ in range(MAX_DEPTH):
        if max(map(len, level)) > MAX_ITEMS:
            raise _unreadable(f"An array or object has more than {MAX_ITEMS} items")
        level = [
            value
            for container in level
            for value in (container.values() if type(container) is dict else container)
            if type(value) in _CONTAINERS
        ]
        if not level:
            return
    raise _unreadable(f"Arrays and objects are nested more than {MAX_DEPTH} levels deep")


def _unreadable(reason: str) -> InvalidRequest:
    return InvalidRequest(f"We could not parse the JSON body of your request. ({reason}.)")
