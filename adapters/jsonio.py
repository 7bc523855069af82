"""JSON as providers really send it: halves of surrogate pairs and numbers that are none included."""

import json
import re
from typing import Any

import orjson

from .errors import ErrorKind, ProviderError

_LONG = re.compile(r"\d{20}", re.ASCII)
_LONG_BYTES = re.compile(rb"\d{20}")


def loads(data: bytes | str) -> Any:
    """Decode; raises ProviderError(PROTOCOL) for what is not JSON.

    A tokenizer that cuts an emoji in two makes a provider send ``"\\ud83d"`` alone, which orjson refuses and the
    standard library takes; ``StreamWriter`` joins the halves again.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent something that is not JSON.") from None


def exact(data: bytes | str) -> Any:
    """The same with whole numbers of any length, as arguments of tools may have: ``loads`` makes floats of those beyond 64 bits."""
    if (_LONG.search(data) if isinstance(data, str) else _LONG_BYTES.search(data)) is not None:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            pass
    return loads(data)


def dumps(value: Any) -> bytes:
    """Encode; half a surrogate pair becomes U+FFFD, never an error, and whole numbers may have any length."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_whole(value))


def whole(text: str) -> str:
    """Join surrogate pairs and replace lone halves."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, dict):
        return {_whole(str(key)): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return orjson.Fragment(str(value))
    return value
