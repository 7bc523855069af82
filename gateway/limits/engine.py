"""The one primitive that limits, budgets and capacities are made of: reserve, then settle.

An engine takes a vector of amounts from every limit of a set or from none, remembers it under the request's id,
and later replaces what was taken by what was used. Both engines (``memory`` and ``redis``) decide alike.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from .amounts import COST, Amounts, Vector
from .rules import BUCKET, WINDOW, Limit, LimitSet
from .windows import end


class Spent(Protocol):
    """What the ledger knows was used by a scope of a shard between two times (milliseconds; ``end`` is exclusive).

    Asked when a counter is seen for the first time or was lost. All that this worker settled before it asks is known.
    ``without`` are requests that shall not be counted; it is left out where there are none.
    """

    def __call__(
        self, shard: str, scope: str, start: int, end: int, without: Sequence[str] = (), /
    ) -> Awaitable[Amounts]: ...


class State(NamedTuple):
    """Where one limit stands."""

    limit: Limit
    used: int
    reserved: int
    remaining: int
    """Never negative, though a limit may be in debt."""
    reset: int | None
    """Milliseconds until all of it is there again; None when waiting does not help."""
    window: int = 0
    """The number of a window."""


class Level(NamedTuple):
    """A counter as an engine keeps it."""

    value: int
    """A bucket's level times its period; what a window has spent; slots in use."""
    reserved: int = 0
    window: int = 0


class Granted(ABC):
    """The amounts are reserved."""

    __slots__ = ("limits", "told")

    def __init__(self, limits: LimitSet | None) -> None:
        self.limits = limits
        """What was looked at: during an outage less than what was asked for; None: nothing."""
        self.told: Mapping[str, str] | None = None
        """What headers tell of it, once somebody asked."""

    @abstractmethod
    def states(self) -> Sequence[State]:
        """Where the limits stood after it, in the order of the set."""

    def remaining(self) -> Sequence[int]:
        """What was left of each limit, in the order of the set."""
        return [state.remaining for state in self.states()]

    def reset(self, position: int) -> int | None:
        """Milliseconds until all of a limit is there again; None when waiting does not help."""
        return self.states()[position].reset

    def spent(self, position: int) -> int:
        """What a window had spent after it."""
        return self.states()[position].used


class Refused:
    """A limit has not enough left; nothing was taken from any."""

    __slots__ = ("_states", "limit", "limits", "need", "position", "wait")

    def __init__(
        self, limits: LimitSet, position: int, need: int, wait: int | None, states: Callable[[], Sequence[State]]
    ) -> None:
        self.limits = limits
        self.limit = limits.limits[position]
        self.position = position
        self.need = need
        """What the request would have taken of it."""
        self.wait = wait
        """Milliseconds until it could fit, 0 if unknown; None if it never can."""
        self._states = states

    @property
    def is_exhausted(self) -> bool:
        """Whether it is a budget that would have been enough, but for what was spent of it."""
        return self.limit.unit == COST and self.need <= self.limit.most

    def states(self) -> Sequence[State]:
        """Where the limits stood, in the order of the set."""
        return self._states()


class StoreDown(Exception):
    """The counters cannot be reached, or not be trusted yet."""


class Slow(Exception):
    """The store gave no answer in time: whether the call was executed is not known."""


class Broken(Exception):
    """No connection to the store, or one that broke, or no primary: whether the call was executed is not known."""


ASK_SECONDS = 2.0
"""For the ledger to say what was spent."""


class Orphan(NamedTuple):
    """A reservation whose worker died: its money stays charged until somebody knows better."""

    rid: str
    limits: LimitSet
    charged: Vector
    at: int
    """When it was reserved, milliseconds since 1970 by the clock of Redis."""


class Engine(Protocol):
    """Reserve and settle. One per worker."""

    decides_now: bool
    """Whether ``reserve_now`` is worth a try."""

    async def start(self) -> None: ...

    async def close(self) -> None:
        """Settle what is queued and let go; raises nothing."""
        ...

    def reserve_now(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused | None:
        """``reserve`` where nobody must be asked; None: nothing was done, ``reserve`` has to wait for somebody."""
        ...

    async def reserve(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        """Take ``need`` of every limit or of none; the same ``rid`` again changes nothing. Raises StoreDown."""
        ...

    async def adjust(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        """Make the reservation ``need`` instead; refused, it stays as it was. Raises StoreDown."""
        ...

    def settle(self, rid: str, actual: Vector) -> None:
        """Replace what was reserved by what was used, which may be more. Never waits and never raises."""
        ...

    def checkpoint(self, rid: str, used: Vector) -> None:
        """Tell what was used so far: what is charged should this worker die. Never waits and never raises."""
        ...

    def debit(self, rid: str, limits: LimitSet, actual: Vector) -> None:
        """Book what was used without a reservation (``rid`` must have none). Never waits and never raises."""
        ...

    def correct(self, rid: str, limits: LimitSet, difference: Vector, at: int, *, least: bool = False) -> None:
        """Add ``difference`` (negative: take it off) to what windows of the time ``at`` (ms) say was used.

        ``least``: have them say no less than it instead, together with what is reserved, however often that is told.
        Reservations stay as they are, and a window that is over meanwhile too. Never waits and never raises.
        """
        ...

    def workers(self, shard: str) -> int:
        """How many workers share the counters of an organization, as far as is known."""
        ...

    async def states(self, limits: LimitSet) -> Sequence[State]:
        """Where limits stand now. Raises StoreDown."""
        ...


def state(limit: Limit, level: tuple[int, int, int], now: int) -> State:
    """What a counter's Level means."""
    value, reserved, number = level
    if limit.kind == BUCKET:
        cap, rate, period = limit.cap, limit.rate, limit.period
        left = value // period if value > 0 else 0
        missing = cap * period - value
        reset = (-(-missing // rate) if missing > 0 else 0) if rate else None
        return State(limit, cap - left, 0, min(cap, left), reset)
    if limit.kind == WINDOW:
        over = end(limit.period, number)
        most = limit.most if value < limit.cap else limit.cap  # an overdraft is for those that begin before
        remaining = max(most - value - reserved, 0)
        return State(limit, value, reserved, remaining, None if over is None else max(over - now, 0), number)
    return State(limit, value, 0, max(limit.cap - value, 0), 0)


async def ask(spent: Spent, shard: str, scope: str, begin: int, over: int, without: Sequence[str] = ()) -> Amounts:
    """What the ledger knows. Raises StoreDown when it does not answer."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            return await (spent(shard, scope, begin, over, without) if without else spent(shard, scope, begin, over))
    except Exception as e:
        raise StoreDown("what was spent so far is not known") from e
