"""Options of a provider in the config file, decoded once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    version: str = "2023-06-01"
    """The API version. From 2026-10-21 on no sampling parameter is taken by any model."""
    beta: tuple[str, ...] = ()
    """Beta features to ask for with every request."""
    web_search: str = "web_search_20250305"
    """The version of the web search tool."""
    same_as: Mapping[str, str] = field(default_factory=dict)
    """Models of your own -> the Claude model whose capabilities they have."""


@dataclass(frozen=True, slots=True)
class VertexOptions(Options):
    version: str = "vertex-2023-10-16"
    project: str = ""
    region: str = "global"
    """A region, or ``global``, ``us`` or ``eu``."""


def decode(kind: type[T], raw: Mapping[str, Any]) -> T:
    """Make options of a config's mapping; raises ValueError naming the bad key."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # a dataclass, by its callers
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in known:
            raise ValueError(f"unknown option '{name}'; known: {', '.join(known)}")
        values[name] = _checked(name, value)
    return kind(**values)


def _checked(name: str, value: Any) -> Any:
    if name == "beta":
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"option '{name}' must be a list of strings")
        return tuple(value)
    if name == "same_as":
        if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
            raise ValueError(f"option '{name}' must map model names to model names")
        return dict(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"option '{name}' must be a string")
    return value
