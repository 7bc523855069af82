"""The body of a request: bytes to one JSON object of bounded shape.

orjson refuses what the JSON grammar refuses (NaN, lone surrogates, invalid UTF-8, a byte-order mark). Two things it
lets pass are decided here:

* An object that repeats a key keeps the last value. The gateway sends on what it parsed, never the client's own
  bytes, so no provider can read another value than the one that was checked and billed.
* An integer beyond 64 bits becomes a float, which no integer parameter takes.
"""

from typing import Any

import orjson

from ..errors import InvalidRequest
from .violation import describe_type

MAX_DEPTH = 100
"""Levels of arrays and objects; below what orjson (254) and a recursive checker could not write or walk."""
MAX_ITEMS = 10_000
"""Keys of one object, items of one array."""

_CONTAINERS = frozenset((dict, list))


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``; raises InvalidRequest in OpenAI's words, never repeating the input."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(f"What was sent is not valid JSON: {error}" if body else "The body was empty") from None
    if type(request) is not dict:
        raise _unreadable(f"A JSON object was expected, but got {describe_type(request)}")
    if len(body) > MAX_ITEMS or body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_shape(request)  # else there is no room for so much
    return request


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
