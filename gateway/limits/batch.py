"""What one call of ``reserve.lua`` carries, and how its reply is read."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgpack

from .amounts import Vector
from .engine import Granted, Level, Refused, State, state
from .rules import BUCKET, WINDOW, Limit, LimitSet
from .windows import end

SETTLE, CHECKPOINT, CHARGE, REFUND, PART, LEAST = range(6)
RESERVE, ADJUST, RESTORE, READ, LEASE = range(5)
"""Modes of a settle and of a reserve, as in ``reserve.lua``."""

REPEATED, UNSEEDED, CLOSED, LEASED = -1, -2, -3, -4
"""Outcomes of a reserve other than granted (0) and refused (the limit's position, from 1)."""

STALE, ALIVE, REBORN = -5, -4, -1
"""First element of a reply that says: nothing was done."""


class Settle:
    """An entry that replaces a reservation by what was used."""

    __slots__ = ("actual", "at", "first", "limits", "mode", "own", "rest", "rid")

    def __init__(
        self,
        rid: str,
        limits: LimitSet,
        actual: Vector,
        at: int,
        mode: int = SETTLE,
        *,
        own: bool = True,
        rest: Vector | tuple[()] = (),
    ) -> None:
        self.rid = rid
        self.limits = limits
        self.actual = actual
        self.at = at
        """When it was reserved, 0 for now: the window that is debited should there be no reservation (any more)."""
        self.mode = mode
        self.own = own
        """Whether this worker used it; a correction is of what others did."""
        self.rest = rest
        """What stays reserved after a PART."""
        self.first = 0
        """The fence of the call that carried it first."""


def request_id(rid: str) -> str:
    """The request that a reservation is of: others of its own end in ``:`` or, of capacities, ``.`` and a number."""
    return rid.partition(":")[0].partition(".")[0]


def in_ledger(settles: Iterable[Settle]) -> list[Settle]:
    """What settles mean to counters that begin with what the ledger has of them: records go, buckets are debited."""
    buckets: dict[LimitSet, LimitSet] = {}
    found = []
    for entry in settles:
        limits = buckets.get(entry.limits)
        if limits is None:
            limits = LimitSet(entry.limits.shard, tuple(x for x in entry.limits.limits if x.kind == BUCKET))
            buckets[entry.limits] = limits
        known = Settle(entry.rid, limits, entry.actual, entry.at, entry.mode, own=entry.own, rest=entry.rest)
        known.first = entry.first
        found.append(known)
    return found


class Reserve:
    """An entry that takes, and whoever waits for its outcome."""

    __slots__ = ("asked", "at", "limits", "mode", "need", "number", "rid", "waiter")

    def __init__(
        self,
        rid: str,
        limits: LimitSet,
        need: Vector,
        waiter: "asyncio.Future[Granted | Refused] | None",
        *,
        mode: int = RESERVE,
        at: int = 0,
        number: int = 0,
    ) -> None:
        self.rid = rid
        self.limits = limits
        self.need = need
        self.waiter = waiter
        self.mode = mode
        self.at = at
        """When it was reserved, for RESTORE; for how long (ms), for LEASE."""
        self.number = number
        """How many times ``need`` is wanted, for LEASE."""
        self.asked = 0
        """How often leases of other workers were waited for."""


class Held(NamedTuple):
    """A reservation of this worker."""

    limits: LimitSet
    need: Vector
    at: int


class Seed:
    """What a scope begins with: (field, window, used) for each of its windows."""

    __slots__ = ("exact", "scope", "values")

    def __init__(self, scope: str, values: Sequence[tuple[str, int, int]], *, exact: bool) -> None:
        self.scope = scope
        self.values = values
        self.exact = exact
        """Whether it is all but what is booked since counters were lost; else it is some of what was used."""


class Batch:
    """Entries that are executed together, and the tables that ``reserve.lua`` reads them with."""

    def __init__(self, prefix: str, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self.settles: list[Settle] = []
        self.reserves: list[Reserve] = []
        self.seeds: list[Seed] = []
        self.size = 0
        """Operations on limits: what the script's run time grows with."""
        self._prefix = prefix
        self._first = len(self.keys)
        self._scopes: dict[str, int] = {}
        self._limits: dict[tuple[str, str], int] = {}
        self._rows: list[tuple[int, str, int, int, int, int, int]] = []
        self._sets: dict[LimitSet, int] = {}
        self._members: list[list[int]] = []

    def lose(self) -> None:
        """Carry what is still of use once the counters are lost: no seeds, and no use of windows that the ledger knows."""
        self.seeds.clear()
        self.settles = in_ledger(self.settles)
        del self.keys[self._first :]
        self._scopes, self._limits, self._rows, self._sets, self._members = {}, {}, [], {}, []

    def tables(self) -> list[Any]:
        """Everything after the header, as ``reserve.lua`` wants it."""
        # Reserves first: where a limit was just changed, the new one decides, not that of an older reservation.
        reserves = [
            (r.rid, self._set(r.limits), r.mode, r.at, *r.need, r.limits.packed, r.number) for r in self.reserves
        ]
        settles = [(s.rid, self._set(s.limits), s.mode, s.first, s.at, *s.actual, *s.rest) for s in self.settles]
        seeds = [
            (self._scope(s.scope), [part for value in s.values for part in value], int(s.exact)) for s in self.seeds
        ]
        return [self._rows, self._members, seeds, settles, reserves]

    def _set(self, limits: LimitSet) -> int:
        number = self._sets.get(limits)
        if number is None:
            self._members.append([self._limit(limit) for limit in limits.limits])
            number = self._sets[limits] = len(self._members)
        return number

    def _limit(self, limit: Limit) -> int:
        key = (limit.scope, limit.field)
        number = self._limits.get(key)
        if number is None:
            _, field, kind, cap, rate, period, unit = limit
            self._rows.append((self._scope(limit.scope), field, kind, cap, rate, period, unit + 1))
            number = self._limits[key] = len(self._rows)
        return number

    def _scope(self, scope: str) -> int:
        number = self._scopes.get(scope)
        if number is None:
            self.keys.append(self._prefix + scope)
            number = self._scopes[scope] = len(self.keys)
        return number

    def rows(self) -> dict[LimitSet, list[int]]:
        """Where each set's counters are in the reply."""
        return {s: [number - 1 for number in self._members[i - 1]] for s, i in self._sets.items()}


class Levels:
    """The counters as one call left them: all that its outcomes keep of it."""

    __slots__ = ("_reserved", "_rows", "_values", "_windows", "now")

    def __init__(self, now: int, rows: dict[LimitSet, list[int]], levels: Sequence[Any]) -> None:
        self.now = now
        self._rows = rows
        self._values, self._reserved, self._windows = levels

    def states(self, limits: LimitSet) -> Sequence[State]:
        rows = self._rows[limits]
        return [state(limit, self._level(limit, row), self.now) for limit, row in zip(limits.limits, rows, strict=True)]

    def window(self, limits: LimitSet, position: int) -> int:
        """The number of a limit's window."""
        return int(self._windows[self._rows[limits][position]])

    def _level(self, limit: Limit, row: int) -> Level:
        if limit.kind == WINDOW:
            return Level(self._values[row], self._reserved[row], self._windows[row])
        return Level(self._values[row])


class Reply:
    """What one call says to all that were in it."""

    __slots__ = ("_grants", "_levels", "live", "now", "outcomes", "seq", "settled")

    def __init__(self, batch: Batch, raw: Sequence[Any]) -> None:
        self.now, self.seq, _, self.live, self.settled, self.outcomes, *levels = raw
        self._levels = Levels(self.now, batch.rows(), levels)
        self._grants: dict[LimitSet, InRedis] = {}

    def granted(self, limits: LimitSet) -> "InRedis":
        """The outcome of all that were granted by the same limits."""
        found = self._grants.get(limits)
        if found is None:
            found = self._grants[limits] = InRedis(self._levels, limits)
        return found

    def refused(self, entry: Reserve, position: int, wait: int) -> Refused:
        limits = entry.limits
        limit = limits.limits[position]
        need = entry.need[limit.unit]
        until: int | None = 0
        if need > limit.most or (limit.kind == BUCKET and not limit.rate):
            until = None
        elif limit.kind == BUCKET:
            until = wait
        elif limit.kind == WINDOW:
            over = end(limit.period, self._levels.window(limits, position))
            until = None if over is None else max(over - self.now, 0)
        return Refused(limits, position, need, until, partial(self._levels.states, limits))


class InRedis(Granted):
    """A grant whose states come with the reply that granted it."""

    __slots__ = ("_found", "_levels", "_looked_at")

    def __init__(self, levels: Levels, limits: LimitSet) -> None:
        super().__init__(limits)
        self._levels = levels  # not the reply, which keeps this: they would be a cycle
        self._looked_at = limits
        self._found: Sequence[State] | None = None

    def states(self) -> Sequence[State]:
        if self._found is None:
            self._found = self._levels.states(self._looked_at)
        return self._found


def read_record(record: bytes) -> tuple[int, Vector, tuple[Limit, ...]]:
    """A reservation as ``reserve.lua`` keeps it: when it was made, what would be charged for it, its limits."""
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(record)
    at, _, need, _, checkpoint = unpacker.unpack()
    limits = tuple(Limit(*limit) for limit in unpacker.unpack())
    return at, tuple(checkpoint or need), limits
