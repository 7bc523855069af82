"""Value classes that cost little to make: frozen for the type checker, plain at run time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A slotted, comparable and hashable dataclass that nobody may assign to, which mypy watches over.

    A frozen dataclass sets each field through ``object.__setattr__``: four times the price, for every request.
    """
    made: Callable[[type[T]], type[T]] = dataclass(slots=True, unsafe_hash=True)
    return made(cls)
