"""Answers of a wrong shape: the border at which foreign JSON is read without looking at every type first."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import ErrorKind, ProviderError


@contextmanager
def documented() -> Iterator[None]:
    """Turn what a value of a wrong type raises into ProviderError(PROTOCOL)."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream's answer is not what it documents.") from None


def text(value: Any) -> str:
    """A text, with null as the empty one; raises TypeError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError
    return value
