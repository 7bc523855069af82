"""A day of one upstream pool on a virtual clock: ``make simulate-tiers``.

The scheduler is the gateway's own; only its clock and its timers are not. Prints figures per hour and class, and
draws the waits and the goodput of each class into ``build/tiers.png``.
"""

import heapq
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.capacity import Capacity
from gateway.scheduler import DEFAULT, FLEX, NAMES, Outcome, Scheduler, State, Ticket

WAITS = (2.0, 10.0, 60.0)
"""Seconds that each class may wait."""


class Cancelled:
    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class VirtualTime:
    """A clock that jumps from one timer to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, Cancelled]] = []
        self._number = 0

    def clock(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> Cancelled:
        timer = Cancelled(call)
        self._number += 1
        heapq.heappush(self._timers, (self.now + max(delay, 0.0), self._number, timer))
        return timer

    def run(self, until: float) -> None:
        while self._timers and self._timers[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._timers)
            if timer.call is not None:
                timer.call()
        self.now = until


@dataclass
class Pool:
    """An upstream that answers ``capacity`` requests at once and refuses the rest."""

    time: VirtualTime
    capacity: float
    in_flight: int = 0
    refused: int = 0

    def serve(self, seconds: float, over: Callable[[Outcome], None]) -> None:
        if self.in_flight >= self.capacity:
            self.refused += 1
            self.time.call_later(0.05, lambda: over(Outcome.OVERLOADED))
            return
        self.in_flight += 1

        def finished() -> None:
            self.in_flight -= 1
            over(Outcome.CLEAN)

        self.time.call_later(seconds, finished)


@dataclass
class Seen:
    """What one class met with."""

    asked: int = 0
    served: int = 0
    shed: int = 0
    refused: int = 0
    """Admitted, and then refused by the upstream."""
    tokens: int = 0
    waits: list[float] = field(default_factory=list)
    by_key: dict[str, int] = field(default_factory=dict)

    @property
    def success(self) -> float:
        return self.served / self.asked if self.asked else 1.0

    def wait(self, quantile: float) -> float:
        ordered = sorted(self.waits)
        return ordered[min(int(len(ordered) * quantile), len(ordered) - 1)] if ordered else 0.0


class Simulation:
    """Arrivals of every class at one or more gateways in front of one pool.

    ``load(class, now)`` gives requests per second; ``keys`` the weights of the keys of every class.
    """

    def __init__(
        self,
        load: Callable[[int, float], float],
        *,
        configured: int = 100,
        capacity: float = 100,
        seconds: float = 4.0,
        keys: Sequence[float] = (1.0,) * 10,
        replicas: int = 1,
        seed: int = 1,
    ) -> None:
        self.time = VirtualTime()
        self.pool = Pool(self.time, capacity)
        self.random = random.Random(seed)
        self.schedulers = [
            Scheduler(Capacity(configured / replicas, 4 / replicas), 1000, self.time.clock, self.time.call_later)
            for _ in range(replicas)
        ]
        self.seen = [Seen() for _ in NAMES]
        self.most_flex_at_shed_default = 0
        self._load = load
        self._seconds = seconds
        self._keys = keys
        for level in range(3):
            self._next(level)
        if replicas > 1:
            self._share()

    def _share(self) -> None:
        """What the replicas tell each other through Redis."""
        for one in self.schedulers:
            others = [s.waiting for s in self.schedulers if s is not one]
            one.elsewhere = tuple(map(sum, zip(*others, strict=True)))  # type: ignore[assignment]
            one.admit()
        self.time.call_later(0.25, self._share)

    def _next(self, level: int) -> None:
        rate = self._load(level, self.time.now)
        pause = self.random.expovariate(rate) if rate > 0 else 1.0
        self.time.call_later(pause, lambda: self._arrive(level, rate))

    def _arrive(self, level: int, rate: float) -> None:
        self._next(level)
        if rate <= 0:
            return
        seen, random_ = self.seen[level], self.random
        seen.asked += 1
        scheduler = random_.choice(self.schedulers)
        (number,) = random_.choices(range(len(self._keys)), self._keys)
        key = f"key{number}"
        seconds = random_.lognormvariate(math.log(self._seconds) - 0.32, 0.8)
        tokens = max(int(seconds * 50), 1)

        def decided(ticket: Ticket) -> None:
            if ticket.state is State.SHED:
                seen.shed += 1
                if level == DEFAULT:
                    self.most_flex_at_shed_default = max(self.most_flex_at_shed_default, scheduler.running[FLEX])
                return
            seen.waits.append(self.time.now - ticket.entered)

            def over(outcome: Outcome) -> None:
                if outcome is Outcome.CLEAN:
                    seen.served += 1
                    seen.tokens += tokens
                    seen.by_key[key] = seen.by_key.get(key, 0) + tokens
                else:
                    seen.refused += 1
                scheduler.leave(ticket, outcome)

            self.pool.serve(seconds, over)

        scheduler.enter(level, key, tokens, WAITS[level], decided)

    def run(self, seconds: float) -> None:
        self.time.run(self.time.now + seconds)

    def rush(self, seconds: float) -> list[Seen]:
        """Arrivals for so long, then until the last of them is over."""
        self.run(seconds)
        self._load = lambda _level, _now: 0.0
        self.run(200)
        return self.take()

    def take(self) -> list[Seen]:
        """What was seen since the last time."""
        seen, self.seen[:] = list(self.seen), [Seen() for _ in NAMES]
        return seen


def overload(level: int, _now: float) -> float:
    """Three times what a pool of 100 can do at 4 s a request (25/s): 0.6, 1.4 and 1 time by class."""
    return (15.0, 35.0, 25.0)[level]


def day(level: int, now: float) -> float:
    """Office hours for priority and default, nights for flex, and half an hour of far too much at three."""
    hour = now / 3600 % 24
    office = max(0.0, math.sin((hour - 7) / 12 * math.pi))
    burst = 2.5 if 15 <= hour < 15.5 else 1.0
    return (1 + 6 * office * burst, 3 + 9 * office * burst, 12 if hour < 7 or hour > 19 else 5)[level]


def report(title: str, seen: Sequence[Seen], seconds: float) -> None:
    print(f"{title}\n  class       asked/s served/s success   shed  refused  wait p50    p99")
    for name, s in zip(NAMES, seen, strict=True):
        print(
            f"  {name:10} {s.asked / seconds:8.1f} {s.served / seconds:8.1f} {s.success:7.1%} {s.shed:6} {s.refused:8}"
            f" {s.wait(0.5):8.2f}s {s.wait(0.99):6.2f}s"
        )


def draw(hours: Sequence[Sequence[Seen]], path: Path) -> None:
    """Waits and goodput of each class, hour by hour."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(9, 7))
    for level, name in enumerate(NAMES):
        above.plot([seen[level].wait(0.99) for seen in hours], marker="o", label=name)
        below.plot([seen[level].tokens / 3600 for seen in hours], marker="o", label=name)
    above.set_yscale("symlog", linthresh=1)  # seconds of priority beside minutes of flex
    above.set_yticks((0, 1, 10, 60), ("0", "1", "10", "60"))
    above.set_ylim(bottom=0)
    above.set_ylabel("99th percentile of the wait, seconds")
    below.set_ylabel("goodput, tokens per second")
    below.set_xlabel("hour of the day")
    above.legend()
    figure.suptitle("A pool of 100, at half its capacity from 10 to 11, with far too much traffic from 15:00 to 15:30")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """The overloads of the acceptance list, then a day."""
    for replicas in (1, 2):
        seen = Simulation(overload, replicas=replicas).rush(300)
        report(f"three times too much for 300 s, gateways: {replicas}", seen, 300)
    seen = Simulation(overload, keys=(10.0, *(1.0,) * 9)).rush(300)
    shares = sorted(seen[DEFAULT].by_key.values())
    print(
        f"one key asks ten times as much: the least of the others has {shares[0] * 10 / sum(shares):.2f} of an equal share"
    )
    hours = []
    one = Simulation(day)
    for hour in range(24):
        one.pool.capacity = 50 if hour == 10 else 100
        one.run(3600)
        hours.append(one.take())
        report(f"hour {hour:2}, capacity found {one.schedulers[0].capacity.limit:.0f}", hours[-1], 3600)
    path = Path("build/tiers.png") if len(sys.argv) < 2 else Path(sys.argv[1])
    draw(hours, path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
