"""What the engine of a single worker counts with.

Objects with whole numbers in them, not lists or tuples: compiled, they are read and written without making an object of
each number.
"""

from collections.abc import Sequence
from typing import TypeAlias

from .amounts import Vector
from .rules import BUCKET, WINDOW, Limit


class Cell:
    """What is counted of one limit; all sets that the limit is in share it."""

    __slots__ = ("amount", "mark", "reserved", "seeded")

    def __init__(self, amount: int = 0, mark: int = 0, seeded: bool = True) -> None:
        self.amount = amount
        """Of a bucket its level times its period, perhaps above its cap until somebody looks; what a window has spent; slots in use."""
        self.mark = mark
        """When a bucket was brought up to date; a window's number."""
        self.reserved = 0
        """Of a window."""
        self.seeded = seeded
        """Whether a window has what the ledger knows: until then it has only what was debited."""

    def begin(self, number: int) -> None:
        """Begin another window."""
        self.amount, self.mark, self.reserved = 0, number, 0


class Counter:
    """A limit and its cell."""

    __slots__ = ("cap", "cell", "kind", "period", "rate", "unit")

    def __init__(self, limit: Limit, cell: Cell) -> None:
        self.kind, self.unit, self.rate, self.period = limit.kind, limit.unit, limit.rate, limit.period
        self.cap = limit.cap * limit.period if limit.kind == BUCKET else limit.cap
        """Of a bucket times its period."""
        self.cell = cell


Bound: TypeAlias = list[Counter]
"""The counters of a set, in its order."""


def filled(counter: Counter, now: int) -> int:
    """The level of a bucket, times its period."""
    cell = counter.cell
    level = cell.amount + (now - cell.mark) * counter.rate if now > cell.mark else cell.amount
    return min(counter.cap, level)


def refill(counter: Counter, now: int) -> None:
    """Bring a bucket up to now."""
    counter.cell.amount = filled(counter, now)
    counter.cell.mark = max(now, counter.cell.mark)


def lacks(counter: Counter, amount: int, now: int, current: Sequence[int]) -> bool:
    """Bring a counter up to now and tell whether it has less than ``amount`` left for a request in flight."""
    cell = counter.cell
    if counter.kind == BUCKET:
        refill(counter, now)
        return amount * counter.period > cell.amount
    if counter.kind == WINDOW:
        if cell.mark < current[counter.period]:
            cell.begin(current[counter.period])
        return cell.amount + cell.reserved + amount > counter.cap + counter.rate
    return cell.amount + amount > counter.cap


def put_back(bound: Bound, before: Vector, need: Vector, now: int) -> None:
    """Hold ``need`` instead of ``before``, of counters that are up to now."""
    for counter in bound:
        cell, less = counter.cell, before[counter.unit] - need[counter.unit]
        if counter.kind == BUCKET:
            cell.amount = min(counter.cap, cell.amount + less * counter.period)
            cell.mark = now
        elif counter.kind == WINDOW:
            cell.reserved -= less
        else:
            cell.amount -= less
