"""What can be wrong with a request, in OpenAI's words: one constructor per error code.

A checker deep inside a request raises a Violation that knows nothing of where it is; every level on the way
out adds its own step. So a valid request never pays for building paths.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import InvalidRequest

ECHO = 64
"""At most so many characters of any one piece of the input are repeated in a message (checklist C-364)."""


class Violation(Exception):
    """A broken rule: ``before`` and ``after`` are the message around the quoted path of the parameter."""

    def __init__(self, before: str, after: str | None = None, *, code: str | None = None, path: str = "") -> None:
        super().__init__(before)
        self.before = before
        self.after = after
        self.code = code
        self.path = path

    def inside(self, step: str) -> "Violation":
        """The same, one level further out: ``step`` is a key or an index like ``[0]``."""
        step = clip(step)
        joint = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{step}{joint}{self.path}"
        return self

    def refusal(self) -> InvalidRequest:
        message = self.before if self.after is None else f"{self.before}'{self.path}'{self.after}"
        return InvalidRequest(message, param=self.path or None, code=self.code)


def clip(text: str) -> str:
    return text if len(text) <= ECHO else f"{text[:ECHO]}..."


_TYPES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def describe_type(value: Any) -> str:
    """The JSON type of ``value`` with its article, as OpenAI's messages name it."""
    return _TYPES.get(type(value), "an unsupported value")


def quoted_list(values: Sequence[str]) -> str:
    """``'a'``, ``'a' and 'b'``, ``'a', 'b', and 'c'``."""
    quoted = [f"'{value}'" for value in values]
    if len(quoted) < 3:
        return " and ".join(quoted)
    return f"{', '.join(quoted[:-1])}, and {quoted[-1]}"


def missing(path: str) -> Violation:
    return Violation("Missing required parameter: ", ".", code="missing_required_parameter", path=path)


def unknown() -> Violation:
    return Violation("Unknown parameter: ", ".", code="unknown_parameter")


def invalid_type(expected: str, value: Any) -> Violation:
    return Violation(
        "Invalid type for ", f": expected {expected}, but got {describe_type(value)} instead.", code="invalid_type"
    )


def unsupported_choice(value: str, choices: Sequence[str]) -> Violation:
    return Violation(
        f"Invalid value: '{clip(value)}'. Supported values are: {quoted_list(choices)}.", code="invalid_value"
    )


def invalid_value(reason: str, path: str = "") -> Violation:
    return Violation("Invalid ", f": {reason}", code="invalid_value", path=path)


def pattern_mismatch(pattern: str) -> Violation:
    return invalid_value(f"string does not match pattern. Expected a string that matches the pattern '{pattern}'.")


def below_minimum(kind: str, low: float, value: float) -> Violation:
    return Violation(
        "Invalid ",
        f": {kind} below minimum value. Expected a value >= {low}, but got {value} instead.",
        code=f"{kind}_below_min_value",
    )


def above_maximum(kind: str, high: float, value: float) -> Violation:
    return Violation(
        "Invalid ",
        f": {kind} above maximum value. Expected a value <= {high}, but got {value} instead.",
        code=f"{kind}_above_max_value",
    )


def empty_array() -> Violation:
    return Violation(
        "Invalid ",
        ": empty array. Expected an array with minimum length 1, but got an empty array instead.",
        code="empty_array",
    )


def empty_string() -> Violation:
    return Violation(
        "Invalid ",
        ": empty string. Expected a string with minimum length 1, but got an empty string instead.",
        code="empty_string",
    )


def array_too_long(most: int, length: int) -> Violation:
    return Violation(
        "Invalid ",
        f": array too long. Expected an array with maximum length {most}, but got an array with length {length} instead.",
        code="array_above_max_length",
    )


def string_too_long(most: int, length: int) -> Violation:
    return Violation(
        "Invalid ",
        f": string too long. Expected a string with maximum length {most}, but got a string with length {length} instead.",
        code="string_above_max_length",
    )


def too_many_properties(most: int, count: int) -> Violation:
    return Violation(
        "Invalid ",
        f": too many properties. Expected an object with at most {most} properties, but got an object with {count} properties instead.",
        code="object_above_max_properties",
    )


def exclusive(name: str, other: str) -> Violation:
    """Two parameters that exclude each other; the error names the first."""
    return Violation(
        f"Setting '{name}' and '{other}' at the same time is not supported.",
        code="invalid_parameter_combination",
        path=name,
    )
