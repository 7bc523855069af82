"""JSON as providers really send it: halves of surrogate pairs and numbers that are none included."""

import json
from typing import Any

import orjson

from .errors import ErrorKind, ProviderError


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


def dumps(value: Any) -> bytes:
    """Encode; half a surrogate pair becomes U+FFFD, never an error."""
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
        return float(value)
    return value
