"""The request contract of Create Embeddings (checklist C-505)."""

from collections.abc import Mapping
from typing import Any

from .checks import Check, array, check_parameters, each, integer, one_of, string
from .violation import Violation, array_too_long, empty_array, empty_string, invalid_type

MAX_INPUTS = 2048

_EXPECTED = "one of a string, array of strings, array of integers, or array of arrays of integers"
_token = integer(0)


def _text(value: Any) -> None:
    string(value)
    if not value:
        raise empty_string()


_tokens = array(_token, of="integers", nonempty=True)
_ITEMS: dict[type, Check] = {str: _text, int: _token, list: _tokens}


def _input(value: Any) -> None:
    """The first item of an array tells what all of them must be."""
    if type(value) is str:
        return _text(value)
    if type(value) is not list:
        raise invalid_type(_EXPECTED, value)
    if not value:
        raise empty_array()
    item = _ITEMS.get(type(value[0]))
    if item is None:
        raise invalid_type(_EXPECTED.removeprefix("one of a string, "), value)
    if item is not _token and len(value) > MAX_INPUTS:
        raise array_too_long(MAX_INPUTS, len(value))
    return each(item, value)


PARAMETERS: dict[str, Check] = {
    "model": string,
    "input": _input,
    "dimensions": integer(1),
    "encoding_format": one_of("float", "base64"),
    "user": string,
}


def validate_embeddings(request: Mapping[str, Any], *, allow: frozenset[str] = frozenset()) -> None:
    """Check the body of ``POST /v1/embeddings``; raises InvalidRequest. ``allow`` names the providers' extensions."""
    try:
        check_parameters(request, PARAMETERS, ("model", "input"), allow)
    except Violation as violation:
        raise violation.refusal() from None
