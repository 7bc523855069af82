"""What a request takes of its limits, in the six units that limits are counted in."""

from dataclasses import dataclass
from typing import Final, TypeAlias

REQUESTS, TOKENS, INPUT, OUTPUT, COST, SLOTS = range(6)
"""Positions in a Vector."""

Vector: TypeAlias = tuple[int, int, int, int, int, int]
NOTHING: Vector = (0, 0, 0, 0, 0, 0)

MOST_COST = 2**53 - 1
"""Counters are Lua numbers in Redis: whole numbers are exact up to here, $9.007 million in nano-dollars."""
MOST_TOKENS = 150_000_000_000
"""Times the 60,000 ms of a minute this is still exact. A provider that reports more is not believed."""


@dataclass(init=False, slots=True, unsafe_hash=True)
class Amounts:
    """What a request may take (when reserved) or took (when settled)."""

    requests: Final[int]
    input_tokens: Final[int]
    """Prompt tokens, cached ones included."""
    output_tokens: Final[int]
    cost: Final[int]
    """In nano-dollars."""
    cached_tokens: Final[int]
    """The part of ``input_tokens`` that a prompt cache served: it does not count towards ``itpm``."""

    def __init__(
        self, requests: int = 1, input_tokens: int = 0, output_tokens: int = 0, cost: int = 0, cached_tokens: int = 0
    ) -> None:
        self.requests, self.input_tokens, self.output_tokens = requests, input_tokens, output_tokens
        self.cost, self.cached_tokens = cost, cached_tokens

    def vector(self) -> Vector:
        """In the units of the engine; a request holds one slot for as long as it is reserved."""
        return vector(self.requests, self.input_tokens, self.output_tokens, self.cost, self.cached_tokens)

    def costing(self, cost: int) -> "Amounts":
        """The same for another price."""
        return Amounts(self.requests, self.input_tokens, self.output_tokens, cost, self.cached_tokens)

    def less(self, other: "Amounts") -> "Amounts":
        """What is left of it without ``other``."""
        return Amounts(
            self.requests - other.requests, self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens, self.cost - other.cost, self.cached_tokens - other.cached_tokens,
        )  # fmt: skip


def minus(a: Vector, b: Vector) -> Vector:
    return tuple([x - y for x, y in zip(a, b, strict=True)])  # type: ignore[return-value]  # of the same length


def times(a: Vector, number: int) -> Vector:
    return tuple([amount * number for amount in a])  # type: ignore[return-value]  # of the same length


def vector(requests: int, prompt: int, completion: int, cost: int, cached: int) -> Vector:
    """``Amounts.vector`` of the parts."""
    total = prompt + completion
    found = (requests, total, prompt - cached, completion, cost, 1)
    if 0 <= cached <= prompt <= total <= MOST_TOKENS and 0 <= cost <= MOST_TOKENS and 0 <= requests <= MOST_TOKENS:
        return found  # nearly always
    most = (MOST_TOKENS,) * COST + (MOST_COST, 1)
    return tuple(min(max(amount, 0), limit) for amount, limit in zip(found, most, strict=True))  # type: ignore[return-value]
