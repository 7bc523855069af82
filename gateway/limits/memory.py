"""The engine of a single worker: plain dicts, no locks. Nothing awaits between looking and taking.

Decides exactly as ``reserve.lua`` does; a property test holds the two together.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import floordiv

from .amounts import NOTHING, SLOTS, Vector
from .counters import Bound, Cell, Counter, filled, lacks, put_back, refill
from .engine import Granted, Refused, Spent, State, ask, state
from .rules import BUCKET, CONCURRENCY, WINDOW, Limit, LimitSet
from .together import Together
from .windows import DAY, DAY_MS, MONTH, TOTAL, WEEK, end, start, window

SWEEP_SECONDS = 60.0
_ASKS = 3
"""Times that the ledger is asked of one window while debits to it keep coming."""


def wall_clock() -> int:
    return time.time_ns() // 1_000_000


def monotonic_clock() -> int:
    return time.monotonic_ns() // 1_000_000


class MemoryEngine:
    """Limits of one worker. The wall clock only chooses windows; buckets refill by the monotonic one."""

    decides_now = True

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
        self._held: dict[str, InMemory] = {}
        self._day = -1
        self._windows = [0, 0, 0, 0, 0]
        """The window of each period on that day."""
        self._seeding = Together()
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._seeding.close()

    def reserve_now(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused | None:
        bound = self._bound.get(limits)
        if bound is None:
            return None
        if rid in self._held:
            return InMemory(self, limits, bound, need, self._held[rid].windows)
        now = self._monotonic()
        current = self._windows
        if limits.windows and self._wall() // DAY_MS != self._day:
            current = self._current()
        amounts = list(need)  # a tuple of known length is dear to index by a variable, once compiled
        windows: list[int] = []
        levels: list[int] = []
        for counter in bound:  # looks and takes at once, without a call for each
            cell, amount, kind = counter.cell, amounts[counter.unit], counter.kind
            if kind == BUCKET:
                level, cap = cell.amount, counter.cap
                if now > cell.mark:
                    level += (now - cell.mark) * counter.rate
                level = (level if level < cap else cap) - amount * counter.period  # noqa: FURB136 - a call for each
                if level < 0:
                    break
                cell.amount = level
                cell.mark = now  # a clock that was set back regains nothing, and is believed from now on
                levels.append(level)
            elif kind == WINDOW:
                if cell.mark < current[counter.period]:
                    cell.begin(current[counter.period])
                left = counter.cap + counter.rate - cell.amount - cell.reserved - amount
                # Its rate is an overdraft, for requests in flight: none begins once all of the window is spent.
                if left < 0 or (counter.rate and cell.amount >= counter.cap):
                    break
                cell.reserved += amount
                windows.append(cell.mark)
                levels.append(left)
            else:
                left = counter.cap - cell.amount - amount
                if left < 0:
                    break
                cell.amount += amount
                levels.append(left)
        else:
            grant = self._held[rid] = InMemory(self, limits, bound, need, windows, levels)
            return grant
        position = len(levels)
        put_back(bound[:position], need, NOTHING, now)
        lacks(bound[position], 0, now, current)
        amount = amounts[bound[position].unit]
        return self._refuse(limits, position, amount, amount)

    async def reserve(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        if limits not in self._bound:
            await self._bind(limits)
        outcome = self.reserve_now(rid, limits, need)
        assert outcome is not None, "its counters are known"
        return outcome

    async def adjust(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        if rid not in self._held:
            return await self.reserve(rid, limits, need)
        held = self._held[rid]
        limits, before, windows = held.taken_from, held.need, held.windows
        bound = self._bound.get(limits) or self._cells_of(limits)
        now, current = self._monotonic(), self._current()
        numbers = iter(windows)
        live = []
        for position, counter in enumerate(bound):
            cell, unit = counter.cell, counter.unit
            if counter.kind == WINDOW and next(numbers) != max(cell.mark, current[counter.period]):
                continue  # that day is over: what it had reserved stays booked to it
            live.append(counter)
            more = need[unit] - before[unit]
            if lacks(counter, more, now, current) and more > 0:
                return self._refuse(limits, position, need[unit], more)
        put_back(live, before, need, now)
        grant = self._held[rid] = InMemory(self, limits, bound, need, windows)
        return grant

    def _refuse(self, limits: LimitSet, position: int, amount: int, more: int) -> Refused:
        """``amount`` is wanted in all, ``more`` of it in addition to what is held."""
        counter = self._cells_of(limits)[position]
        kind, cell, rate, period = counter.kind, counter.cell, counter.rate, counter.period
        wait: int | None = 0
        if amount * (period if kind == BUCKET else 1) > counter.cap + (rate if kind == WINDOW else 0) or (
            kind == BUCKET and not rate
        ):
            wait = None
        elif kind == BUCKET:
            wait = -(-(more * period - cell.amount) // rate)
        elif kind == WINDOW:
            over = end(period, cell.mark)
            wait = None if over is None else max(over - self._wall(), 0)
        return Refused(limits, position, amount, wait, lambda: self.states_now(limits))

    def settle(self, rid: str, actual: Vector) -> None:
        held = self._held.pop(rid, None)
        if held is None:
            return
        limits, windows, taken = held.taken_from, held.windows, 0
        need, used = list(held.need), list(actual)
        for counter in self._bound.get(limits) or self._cells_of(limits):
            cell, unit, kind = counter.cell, counter.unit, counter.kind
            if kind == BUCKET:
                more = used[unit] - need[unit]
                if more > 0:
                    refill(counter, self._monotonic())  # what is owed is owed from now on
                if more:
                    cell.amount -= more * counter.period  # perhaps above the cap, until somebody looks: it is the same
            elif kind == WINDOW:
                if cell.mark == windows[taken]:  # else that day is over, and its counter with it
                    cell.amount += used[unit]
                    cell.reserved -= need[unit]
                taken += 1
            else:
                left = cell.amount - need[unit]
                cell.amount = left if left > 0 else 0  # noqa: FURB136 - a call for each counter

    def debit(self, rid: str, limits: LimitSet, actual: Vector) -> None:
        bound = self._bound.get(limits) or self._cells_of(limits)
        now, current = self._monotonic(), self._current()
        for counter in bound:
            lacks(counter, 0, now, current)
        actual = (*actual[:SLOTS], 0)  # type: ignore[assignment]  # no slot was held
        put_back(bound, NOTHING, actual, now)
        windows = [counter.cell.mark for counter in bound if counter.kind == WINDOW]
        self._held[rid] = InMemory(self, limits, bound, actual, windows)
        self.settle(rid, actual)

    def correct(self, rid: str, limits: LimitSet, difference: Vector, at: int, *, least: bool = False) -> None:  # noqa: ARG002 - done once
        for counter in self._cells_of(limits):
            cell, amount = counter.cell, difference[counter.unit]
            if counter.kind == WINDOW and cell.mark == window(counter.period, at):
                cell.amount = max(cell.amount, amount - cell.reserved) if least else cell.amount + amount

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
        for limit, counter in zip(limits.limits, bound, strict=True):
            cell = counter.cell
            level: tuple[int, int, int]  # a Level
            if counter.kind == BUCKET:
                level = (filled(counter, now), 0, 0)
            elif counter.kind == WINDOW:
                number = current[counter.period]
                level = (cell.amount, cell.reserved, cell.mark) if cell.mark >= number else (0, 0, number)
            else:
                level = (cell.amount, 0, 0)
            found.append(state(limit, level, wall))
        return found

    def ends_in(self, period: int) -> int | None:
        """Milliseconds until the current window of a period is over; None for the one that never is."""
        over = end(period, self._current()[period])
        return None if over is None else max(over - self._wall(), 0)

    def _current(self) -> list[int]:
        wall = self._wall()
        day = wall // DAY_MS
        if day != self._day:
            self._day = day
            self._windows = [0, *(window(period, wall) for period in (DAY, WEEK, MONTH, TOTAL))]
        return self._windows

    async def _bind(self, limits: LimitSet) -> Bound:
        """Find or make the cells of a set; a window seen for the first time begins with what the ledger knows."""
        if self._spent is not None:
            for limit in limits.limits:
                if limit.kind == WINDOW and not self._cell(limits.shard, limit).seeded:
                    window = (limits.shard, limit.scope, limit.field)
                    await self._seeding.do(window, partial(self._seed, limits.shard, limit, self._spent))
        bound = self._cells_of(limits)
        self._bound[limits] = bound
        return bound

    async def _seed(self, shard: str, limit: Limit, spent: Spent) -> None:
        """Have a window begin with what the ledger knows.

        What was debited before the ledger is asked is part of its answer: the row is written in the same turn of the
        event loop. What is debited meanwhile may be part of it, so the ledger is asked again; where that happens every
        time, the last of it counts twice rather than not at all.
        """
        for asked in range(_ASKS):
            cell = self._cell(shard, limit)
            number = max(self._current()[limit.period], cell.mark)
            if cell.mark < number:
                cell.begin(number)
            before, over = cell.amount, end(limit.period, number)
            until = self._wall() if over is None else over
            known = await ask(spent, shard, limit.scope, start(limit.period, number), until)
            cell = self._cell(shard, limit)  # it may have been forgotten
            if cell.seeded:
                return
            if cell.mark != number:
                cell.seeded = True  # another window has begun since, and this worker saw all of it
                return
            if cell.amount == before or asked == _ASKS - 1:
                cell.amount += max(known.vector()[limit.unit] - before, 0)
                cell.seeded = True
                return

    def _cell(self, shard: str, limit: Limit) -> Cell:
        key = (shard, limit.scope, limit.field)
        known = self._cells.get(key)
        if known is None:
            known = self._cells[key] = (self._fresh(limit), limit)
        return known[0]

    def _cells_of(self, limits: LimitSet) -> Bound:
        bound = []
        for limit in limits.limits:
            key = (limits.shard, limit.scope, limit.field)
            known = self._cells.get(key)
            counter = Counter(limit, self._fresh(limit) if known is None else known[0])
            if known is None or known[1] != limit:
                self._cells[key] = (counter.cell, limit)
                if limit.kind == BUCKET and counter.cell.amount > counter.cap:
                    counter.cell.amount = counter.cap  # the limit was lowered
            bound.append(counter)
        return bound

    def _fresh(self, limit: Limit) -> Cell:
        if limit.kind == BUCKET:
            return Cell(limit.cap * limit.period, self._monotonic())
        if limit.kind == WINDOW:
            return Cell(0, self._current()[limit.period], seeded=self._spent is None)
        return Cell()

    def _sweep(self) -> None:
        """Forget what looks as if it had never been used, so that memory stays bounded."""
        now, current = self._monotonic(), self._current()
        idle = []
        for key, (cell, limit) in self._cells.items():
            if limit.kind == BUCKET:
                unused = cell.amount + (now - cell.mark) * limit.rate >= limit.cap * limit.period
            elif limit.kind == WINDOW:
                unused = cell.reserved == 0 and (cell.mark < current[limit.period] or cell.amount == 0)
            else:
                unused = cell.amount == 0
            if unused:
                idle.append(key)
        for key in idle:
            del self._cells[key]
        self._bound.clear()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)


class InMemory(Granted):
    """What a request holds, and where that left its limits."""

    __slots__ = ("_bound", "_engine", "_found", "_levels", "need", "taken_from", "windows")

    def __init__(
        self,
        engine: MemoryEngine,
        limits: LimitSet,
        bound: Bound,
        need: Vector,
        windows: list[int],
        levels: list[int] | None = None,
    ) -> None:
        """``levels``: of each bucket its level, of other limits what is left; None: looked up when asked for."""
        self.limits = self.taken_from = limits
        self.told = None
        self.need = need
        self.windows = windows
        """The number of each window that was taken from."""
        self._engine = engine
        self._bound = bound
        self._levels = levels
        self._found: Sequence[State] | None = None

    def states(self) -> Sequence[State]:
        if self._found is None:
            self._found = self._engine.states_now(self.taken_from)
        return self._found

    def remaining(self) -> Sequence[int]:
        if self._levels is None:
            return super().remaining()
        return list(map(floordiv, self._levels, self.taken_from.scales))

    def reset(self, position: int) -> int | None:
        counter = self._bound[position]
        if self._levels is None or counter.kind == CONCURRENCY:
            return super().reset(position)
        if counter.kind == WINDOW:
            return self._engine.ends_in(counter.period)
        missing = counter.cap - self._levels[position]
        return -(-missing // counter.rate) if counter.rate else None

    def spent(self, position: int) -> int:
        return self._bound[position].cell.amount
