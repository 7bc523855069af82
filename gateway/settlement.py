"""What a settlement is made of: sums of usage, what attempts hold, what an attempt's end says, and where rows become durable."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from adapters.usage import NO_USAGE, Usage

from .call import Attempt, CallRecord, Principal
from .limits import Amounts, Reservation
from .pools import LOSSES, Outcome, Slot

NOTHING_USED = Amounts(0)


class Ledger(Protocol):
    """Where rows become durable: ``gateway.records.ledger``."""

    def open(
        self, call_id: str, principal: Principal, model: str, *, reserved: int, started: float, stream: bool,
        requested_tier: str | None, effective_tier: str | None, fallback: str | None,
    ) -> None:  # fmt: skip
        """Note that a request runs; raises StoreUnavailable when nothing can be noted."""
        ...

    def append(self, record: CallRecord) -> "Ticket":
        """Keep the attempts of a call: safe from the death of this process at once, on disk when the ticket says so."""
        ...


class Ticket(Protocol):
    """A row on its way to the disk."""

    def waiter(self, seconds: float) -> "asyncio.Future[None] | None":
        """What is done once it is there, or after so many seconds; None: it is there."""
        ...


@dataclass(slots=True)
class Held:
    """What a running attempt holds."""

    worst: int
    """Nano-dollars."""
    capacity: Reservation | None
    slot: Slot | None


def amounts_of(requests: int, usage: Usage, cost: int) -> Amounts:
    return Amounts(requests, usage.prompt_tokens, usage.completion_tokens, cost, usage.cache_read)


def less(amounts: Amounts, other: Amounts) -> Amounts:
    return amounts if other is NOTHING_USED else amounts.less(other)


def outcome_of(attempt: Attempt) -> Outcome:
    """What an attempt's end says of its pool."""
    if attempt.error in LOSSES:
        return Outcome.OVERLOADED
    return Outcome.CLEAN if attempt.status == "ok" else Outcome.OTHER


def billed_tier(record: CallRecord) -> str | None:
    """The tier, as in its row, of the last attempt that may be billed."""
    return next((a.served_tier for a in reversed(record.attempts) if a.served_tier is not None), None)


def sum_of(usages: Iterable[Usage]) -> Usage:
    total = NO_USAGE
    for usage in usages:
        total = usage if total is NO_USAGE else total.plus(usage)
    return total
