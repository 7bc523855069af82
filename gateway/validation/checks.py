"""Small checkers and what combines them: a checker takes a value and raises a Violation, or returns nothing.

No coercion anywhere: ``"1"``, ``1.0`` and ``true`` are no integers (checklist C-102). Inside objects, null stands
for an absent optional field (C-101), and fields without a row pass unless the object is closed: they are the
client's business with the provider (C-218).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .violation import (
    Violation,
    above_maximum,
    array_too_long,
    below_minimum,
    empty_array,
    invalid_type,
    missing,
    pattern_mismatch,
    string_too_long,
    unknown,
    unsupported_choice,
)

Check: TypeAlias = Callable[[Any], None]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def integer(low: int = INT64_MIN, high: int = INT64_MAX) -> Check:
    def check(value: Any) -> None:
        # A float as large as this is what orjson makes of an integer beyond 64 bits: out of range, not of another type.
        beyond = type(value) is float and abs(value) >= 2**63
        if type(value) is not int and not beyond:
            raise invalid_type("an integer", value)
        if value < low or (beyond and value < 0):
            raise below_minimum("integer", low, value)
        if value > high or beyond:
            raise above_maximum("integer", high, value)

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> None:
        if type(value) is not float and type(value) is not int:
            raise invalid_type("a decimal number", value)
        if value < low:
            raise below_minimum("decimal", low, value)
        if value > high:
            raise above_maximum("decimal", high, value)

    return check


def boolean(value: Any) -> None:
    if type(value) is not bool:
        raise invalid_type("a boolean", value)


def string(value: Any) -> None:
    if type(value) is not str:
        raise invalid_type("a string", value)


def mapping(value: Any) -> None:
    if type(value) is not dict:
        raise invalid_type("an object", value)


def bounded_string(most: int) -> Check:
    def check(value: Any) -> None:
        string(value)
        if len(value) > most:
            raise string_too_long(most, len(value))

    return check


def matching(pattern: str) -> Check:
    """A string that matches ``pattern`` as a whole."""
    matches = re.compile(pattern.removeprefix("^").removesuffix("$")).fullmatch

    def check(value: Any) -> None:
        string(value)
        if matches(value) is None:
            raise pattern_mismatch(pattern)

    return check


def one_of(*choices: str) -> Check:
    allowed = frozenset(choices)

    def check(value: Any) -> None:
        string(value)
        if value not in allowed:
            raise unsupported_choice(value, choices)

    return check


def array(item: Check, *, of: str, nonempty: bool = False, most: int | None = None) -> Check:
    """An array of ``of`` (a plural noun) at most ``most`` long."""

    def check(value: Any) -> None:
        if type(value) is not list:
            raise invalid_type(f"an array of {of}", value)
        if nonempty and not value:
            raise empty_array()
        if most is not None and len(value) > most:
            raise array_too_long(most, len(value))
        each(item, value)

    return check


def each(item: Check, values: list[Any]) -> None:
    """Check every value, naming the index of the one that fails."""
    index = 0
    try:
        for index, value in enumerate(values):  # noqa: B007 - read by the handler
            item(value)
    except Violation as violation:
        raise violation.inside(f"[{index}]") from None


def record(fields: Mapping[str, Check], *, required: tuple[str, ...] = (), closed: bool = False) -> Check:
    """An object; ``closed`` refuses fields without a row."""
    row = fields.get

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise invalid_type("an object", value)
        for name in required:
            if name not in value:
                raise missing(name)
        name = ""
        try:
            for name, field in value.items():
                check_field = row(name)
                if check_field is None:
                    if closed:
                        raise unknown()
                elif field is not None or name in required:
                    check_field(field)
        except Violation as violation:
            raise violation.inside(name) from None

    return check


def within(name: str, check: Check, value: Any) -> None:
    """Check the field ``name`` of an object, naming it when it fails."""
    try:
        check(value)
    except Violation as violation:
        raise violation.inside(name) from None


def tagged(variants: Mapping[str, Check]) -> Check:
    """An object whose ``type`` says which checker is its own."""
    choices = tuple(variants)

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise invalid_type("an object", value)
        kind = value.get("type")
        variant = variants.get(kind) if type(kind) is str else None
        if variant is None:
            raise _bad_tag("type", value, choices)
        variant(value)

    return check


def _bad_tag(tag: str, value: Mapping[str, Any], choices: tuple[str, ...]) -> Violation:
    if tag not in value:
        return missing(tag)
    if type(value[tag]) is not str:
        return invalid_type("a string", value[tag]).inside(tag)
    return unsupported_choice(value[tag], choices).inside(tag)


def bad_role(message: Mapping[str, Any], roles: tuple[str, ...]) -> Violation:
    return _bad_tag("role", message, roles)


def string_or(other: Check, expected: str) -> Check:
    """A string, or what ``other`` takes; ``expected`` names both in an error."""

    def check(value: Any) -> None:
        if type(value) is str:
            return
        if type(value) is not list and type(value) is not dict:
            raise invalid_type(expected, value)
        other(value)

    return check


def check_parameters(
    request: Mapping[str, Any], checks: Mapping[str, Check], required: tuple[str, ...], allow: frozenset[str]
) -> None:
    """The top level of a request: null counts as absent, and names without a row must be allowed (C-100, C-101)."""
    for name in required:
        if request.get(name) is None:
            raise missing(name)
    name = ""
    try:
        for name, value in request.items():
            check = checks.get(name)
            if check is None:
                if name not in allow:
                    raise unknown()
            elif value is not None:
                check(value)
    except Violation as violation:
        raise violation.inside(name) from None
