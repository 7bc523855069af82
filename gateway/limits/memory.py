"""The engine of a single worker: plain dicts, no locks. Nothing awaits between looking and taking.

Decides exactly as ``reserve.lua`` does; a property test holds the two together.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from .amounts import NOTHING, SLOTS, Vector
from .engine import Granted, Left, Refused, Spent, State, ask, state
from .rules import BUCKET, WINDOW, Limit, LimitSet
from .windows import DAY, MONTH, TOTAL, WEEK, end, start, window

Cell: TypeAlias = list[int]
"""A bucket is [level x period, time]; a window [number, spent, reserved]; slots [in use]."""
Counter: TypeAlias = tuple[int, Cell, int, int, int, int]
"""A limit and its cell: (kind, cell, unit, cap, rate, period); a bucket's cap is scaled by its period."""
Bound: TypeAlias = Sequence[Counter]
"""The counters of a set, in its order."""

SWEEP_SECONDS = 60.0


def wall_clock() -> int:
    return time.time_ns() // 1_000_000


def monotonic_clock() -> int:
    return time.monotonic_ns() // 1_000_000


class MemoryEngine:
    """Limits of one worker. The wall clock only chooses windows; buckets refill by the monotonic one."""

    def __init__(
        self,
        spent: Spent | None = None,
        *,
        wall: Callable[[], int] = wall_clock,
        monotonic: Callable[[], int] = monotonic_clock,
    ) -> None:
        self._spent = spent
        self._wall = wall
        self._monotonic = monotonic
        self._cells: dict[tuple[str, str, str], tuple[Cell, Limit]] = {}
        self._bound: dict[LimitSet, Bound] = {}
        self._held: dict[str, tuple[LimitSet, Vector, list[int]]] = {}
        self._day = -1
        self._windows = [0, 0, 0, 0, 0]
        """The current window of each period."""
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()

    def reserve_now(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused | None:
        bound = self._bound.get(limits)
        return None if bound is None else self._reserve(rid, limits, need, bound)

    async def reserve(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        return self._reserve(rid, limits, need, self._bound.get(limits) or await self._bind(limits))

    def _reserve(self, rid: str, limits: LimitSet, need: Vector, bound: Bound) -> Granted | Refused:
        if rid in self._held:
            return InMemory(self, limits, bound)
        now, current = self._monotonic(), self._current()
        for position, (kind, cell, unit, cap, rate, period) in enumerate(bound):  # ``lacks``, without a call for each
            amount = need[unit]
            if kind == BUCKET:
                if now > cell[1]:
                    level = cell[0] + (now - cell[1]) * rate
                    cell[0], cell[1] = (min(cap, level)), now
                if amount * period <= cell[0]:
                    continue
            elif kind == WINDOW:
                if cell[0] < current[period]:
                    cell[:] = (current[period], 0, 0)
                # Its rate is an overdraft, for requests in flight: none begins once all of the window is spent.
                if cell[1] + cell[2] + amount <= cap + rate and (not rate or cell[1] < cap):
                    continue
            elif cell[0] + amount <= cap:
                continue
            return self._refuse(limits, position, amount, amount)
        self._held[rid] = (limits, need, deduct(bound, need, now))
        return InMemory(self, limits, bound)

    async def adjust(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        if rid not in self._held:
            return await self.reserve(rid, limits, need)
        limits, before, windows = self._held[rid]
        bound = self._bound.get(limits) or self._cells_of(limits)
        now, current = self._monotonic(), self._current()
        numbers = iter(windows)
        live = []
        for position, counter in enumerate(bound):
            kind, cell, unit, *_ = counter
            if kind == WINDOW and next(numbers) != max(cell[0], current[counter[5]]):
                continue  # that day is over: what it had reserved stays booked to it
            live.append(counter)
            more = need[unit] - before[unit]
            if lacks(counter, more, now, current) and more > 0:
                return self._refuse(limits, position, need[unit], more)
        put_back(live, before, need, now)
        self._held[rid] = (limits, need, windows)
        return InMemory(self, limits, bound)

    def _refuse(self, limits: LimitSet, position: int, amount: int, more: int) -> Refused:
        """``amount`` is wanted in all, ``more`` of it in addition to what is held."""
        kind, cell, _, cap, rate, period = self._cells_of(limits)[position]
        wait: int | None = 0
        if amount * (period if kind == BUCKET else 1) > cap + (rate if kind == WINDOW else 0) or (
            kind == BUCKET and not rate
        ):
            wait = None
        elif kind == BUCKET:
            wait = -(-(more * period - cell[0]) // rate)
        elif kind == WINDOW:
            over = end(period, cell[0])
            wait = None if over is None else max(over - self._wall(), 0)
        return Refused(limits, position, amount, wait, InMemory(self, limits, self._cells_of(limits)).states)

    def settle(self, rid: str, actual: Vector) -> None:
        held = self._held.pop(rid, None)
        if held is None:
            return
        limits, need, windows = held
        now = self._monotonic()
        numbers = iter(windows)
        for kind, cell, unit, cap, rate, period in self._bound.get(limits) or self._cells_of(limits):
            if kind == BUCKET:
                if now > cell[1]:
                    refill(cell, now, cap, rate)
                level = cell[0] + (need[unit] - actual[unit]) * period
                cell[0] = min(cap, level)
                cell[1] = now
            elif kind == WINDOW:
                if cell[0] == next(numbers):  # else that day is over, and its counter with it
                    cell[1] += actual[unit]
                    cell[2] -= need[unit]
            else:
                cell[0] = max(cell[0] - need[unit], 0)

    def debit(self, rid: str, limits: LimitSet, actual: Vector) -> None:
        bound = self._bound.get(limits) or self._cells_of(limits)
        now, current = self._monotonic(), self._current()
        for counter in bound:
            lacks(counter, 0, now, current)
        actual = (*actual[:SLOTS], 0)  # type: ignore[assignment]  # no slot was held
        put_back(bound, NOTHING, actual, now)
        self._held[rid] = (limits, actual, [cell[0] for kind, cell, *_ in bound if kind == WINDOW])
        self.settle(rid, actual)

    def workers(self, shard: str) -> int:  # noqa: ARG002 - it is the only one
        return 1

    def checkpoint(self, rid: str, used: Vector) -> None:
        """Counters in memory die with their worker: there is nobody to tell."""

    async def states(self, limits: LimitSet) -> Sequence[State]:
        if limits not in self._bound:
            await self._bind(limits)
        return self.states_now(limits)

    def states_now(self, limits: LimitSet) -> Sequence[State]:
        """Where limits stand, brought up to now without changing anything."""
        now, wall, current = self._monotonic(), self._wall(), self._current()
        found = []
        bound = self._bound.get(limits) or self._cells_of(limits)
        for limit, (kind, cell, _, cap, rate, period) in zip(limits.limits, bound, strict=True):
            level: tuple[int, int, int]  # a Level, for what one costs: every answer asks for the states of all limits
            if kind == BUCKET:
                filled = cell[0] + (now - cell[1]) * rate if now > cell[1] else cell[0]
                level = (min(cap, filled), 0, 0)
            elif kind == WINDOW:
                number = current[period]
                level = (cell[1], cell[2], cell[0]) if cell[0] >= number else (0, 0, number)
            else:
                level = (cell[0], 0, 0)
            found.append(state(limit, level, wall))
        return found

    def left_now(self, bound: Bound) -> list[Left]:
        """``states_now`` without what headers do not tell: every answer asks for it."""
        now, wall, current = self._monotonic(), self._wall(), self._current()
        found: list[Left] = []
        for kind, cell, _, cap, rate, period in bound:
            if kind == BUCKET:
                level = cell[0] + (now - cell[1]) * rate if now > cell[1] else cell[0]
                if level >= cap:
                    found.append((cap // period, 0 if rate else None))
                else:
                    found.append((level // period if level > 0 else 0, -((level - cap) // rate) if rate else None))
            elif kind == WINDOW:
                number = current[period]
                spent, used, number = (cell[1], cell[1] + cell[2], cell[0]) if cell[0] >= number else (0, 0, number)
                over = end(period, number)
                most = cap + rate if spent < cap else cap
                found.append((most - used if most > used else 0, None if over is None else max(over - wall, 0)))
            else:
                found.append((cap - cell[0] if cap > cell[0] else 0, 0))
        return found

    def _current(self) -> list[int]:
        wall = self._wall()
        day = wall // 86_400_000
        if day != self._day:
            self._day = day
            self._windows = [0, *(window(period, wall) for period in (DAY, WEEK, MONTH, TOTAL))]
        return self._windows

    async def _bind(self, limits: LimitSet) -> Bound:
        """Find or make the cells of a set; a window seen for the first time begins with what the ledger knows."""
        if self._spent is not None:
            for limit in limits.limits:
                if limit.kind == WINDOW and (limits.shard, limit.scope, limit.field) not in self._cells:
                    await self._seed(limits.shard, limit, self._spent)
        bound = self._cells_of(limits)
        self._bound[limits] = bound
        return bound

    async def _seed(self, shard: str, limit: Limit, spent: Spent) -> None:
        number = self._current()[limit.period]
        over = end(limit.period, number)
        known = await ask(spent, limit.scope, start(limit.period, number), self._wall() if over is None else over)
        key = (shard, limit.scope, limit.field)
        self._cells.setdefault(key, ([number, known.vector()[limit.unit], 0], limit))

    def _cells_of(self, limits: LimitSet) -> Bound:
        bound = []
        for limit in limits.limits:
            scope, field, kind, cap, rate, period, unit = limit
            key = (limits.shard, scope, field)
            scaled = cap * period if kind == BUCKET else cap
            known = self._cells.get(key)
            cell = self._fresh(limit) if known is None else known[0]
            if known is None or known[1] != limit:
                self._cells[key] = (cell, limit)
                if kind == BUCKET and cell[0] > scaled:
                    cell[0] = scaled  # the limit was lowered
            bound.append((kind, cell, unit, scaled, rate, period))
        return tuple(bound)

    def _fresh(self, limit: Limit) -> Cell:
        if limit.kind == BUCKET:
            return [limit.cap * limit.period, self._monotonic()]
        if limit.kind == WINDOW:
            return [self._current()[limit.period], 0, 0]
        return [0]

    def _sweep(self) -> None:
        """Forget what looks as if it had never been used, so that memory stays bounded."""
        now, current = self._monotonic(), self._current()
        idle = []
        for key, (cell, limit) in self._cells.items():
            if limit.kind == BUCKET:
                unused = cell[0] + (now - cell[1]) * limit.rate >= limit.cap * limit.period
            elif limit.kind == WINDOW:
                unused = cell[2] == 0 and (cell[0] < current[limit.period] or cell[1] == 0)
            else:
                unused = cell[0] == 0
            if unused:
                idle.append(key)
        for key in idle:
            del self._cells[key]
        self._bound.clear()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)


def refill(cell: Cell, now: int, cap: int, rate: int) -> None:
    """Bring a bucket up to now."""
    level = cell[0] + (now - cell[1]) * rate
    cell[0] = min(cap, level)
    cell[1] = now


def lacks(counter: Counter, amount: int, now: int, current: Sequence[int]) -> bool:
    """Bring a counter up to now and tell whether it has less than ``amount`` left for a request in flight."""
    kind, cell, _, cap, rate, period = counter
    if kind == BUCKET:
        if now > cell[1]:
            refill(cell, now, cap, rate)
        return amount * period > cell[0]
    if kind == WINDOW:
        if cell[0] < current[period]:
            cell[:] = (current[period], 0, 0)
        return cell[1] + cell[2] + amount > cap + rate
    return cell[0] + amount > cap


def put_back(bound: Bound, before: Vector, need: Vector, now: int) -> None:
    """Hold ``need`` instead of ``before``."""
    for kind, cell, unit, cap, _, period in bound:
        less = before[unit] - need[unit]
        if kind == BUCKET:
            cell[0] = min(cap, cell[0] + less * period)
            cell[1] = now
        elif kind == WINDOW:
            cell[2] -= less


def deduct(bound: Bound, need: Vector, now: int) -> list[int]:
    """Take what fits; gives the windows taken from."""
    windows = []
    for kind, cell, unit, _, _, period in bound:
        if kind == BUCKET:
            cell[0] -= need[unit] * period
            cell[1] = now  # a clock that was set back regains nothing, and is believed from now on
        elif kind == WINDOW:
            cell[2] += need[unit]
            windows.append(cell[0])
        else:
            cell[0] += need[unit]
    return windows


class InMemory(Granted):
    """A grant whose states are read once, when somebody asks."""

    __slots__ = ("_bound", "_engine", "_found", "_looked_at")

    def __init__(self, engine: MemoryEngine, limits: LimitSet, bound: Bound) -> None:
        super().__init__(limits)
        self._engine = engine
        self._looked_at = limits
        self._bound = bound
        self._found: Sequence[State] | None = None

    def states(self) -> Sequence[State]:
        if self._found is None:
            self._found = self._engine.states_now(self._looked_at)
        return self._found

    def left(self) -> Sequence[Left]:
        return self._engine.left_now(self._bound)

    def spent(self, position: int) -> int:
        _, cell, *_ = self._bound[position]
        return cell[1]
