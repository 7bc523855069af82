"""Admission in front of a pool of deployments: the service tiers of upstreams that have none of their own.

Sans clock: time and timers are given, so that a simulation runs the same code on a virtual clock. With N for the
capacity of the moment:

* priority may fill N, but while default waits only 80 % of it (where N is so small that this is all of it: four of five
  admissions);
* default may fill 90 % of N (all of it, once priority has its 80 %): the rest is head-room for priority;
* flex gets in below 70 % of N, when nobody of a higher class waits here or at another worker; flex that queues gets
  1 % of N all the same: one of eighty admissions, or a slot every ten seconds;
* within a class the keys share fairly, by tokens;
* queues are bounded in time, and together in size. As they fill up, new flex is turned away, then flex that waits (but
  for its 1 %), then default of keys that have more than their part of the queue waiting; and when they are full, whoever
  of the lowest class has most waiting. A step is taken at once, and taken back when it has been calm for a while.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from .capacity import Capacity
from .fairness import FairQueue
from .pressure import Pressure

PRIORITY, DEFAULT, FLEX = range(3)
LEVELS = {"flex": FLEX, "default": DEFAULT}
"""Service tier -> class; every other one is dearer than default."""
NAMES = ("priority", "default", "flex")
PRIORITY_SHARE = 0.8
PRIORITY_RUN = 4
"""Of priority in a row while default waits, where a fifth of the pool is less than a slot."""
DEFAULT_SHARE = 0.9
FLEX_SHARE = 0.7
TRICKLE_SHARE = 0.01
TRICKLE_SECONDS = 10.0
TRICKLE_EVERY = 80
"""More than 1 %, because it waits while one is in flight: of so many admissions one is flex that waits, whoever else does."""
NO_NEW_FLEX, NO_FLEX, FAIR_DEFAULT = 1, 2, 3
STEPS = (0.5, 0.75, 0.9)
"""How full the queues are when each begins."""
COST_WEIGHT = 0.05
"""Of one request in the average cost."""
RATE_SECONDS = 10.0
"""Over so long the rate of admissions is averaged, from which the expected wait follows."""

ENOUGH_SECONDS = 2.0
"""Of admissions, before a wait is foretold from them."""


class Outcome(Enum):
    CLEAN = "clean"
    OVERLOADED = "overloaded"
    OTHER = "other"
    """Says nothing of the pool: the client left, say, or the request was bad."""


class State(Enum):
    WAITING = "waiting"
    ADMITTED = "admitted"
    SHED = "shed"
    GONE = "gone"


class Timer(Protocol):
    def cancel(self) -> object: ...


@dataclass(slots=True, eq=False)
class Ticket:
    """One request, from its entry to its end."""

    key: str
    cost: int
    """Tokens that are reserved for it."""
    level: int
    entered: float
    decided: Callable[["Ticket"], None]
    """Called once, when it is admitted or shed: perhaps before ``enter`` returns."""
    size: int = 0
    """Tokens of its prompt."""
    number: int = 0
    """Its turn among all that were admitted."""
    state: State = State.WAITING
    admitted: float = 0.0
    timer: Timer | None = field(default=None, repr=False)


class Scheduler:
    """The admission of one pool at one worker."""

    def __init__(
        self,
        capacity: Capacity,
        max_queue: int,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
        deployments: int = 1,
    ) -> None:
        self.capacity = capacity
        self.usual_cost = 0.0
        """Tokens that are reserved for a request, on average."""
        self.running = [0, 0, 0]
        """In flight, by class."""
        self.admissions = 0
        """So far."""
        self.elsewhere = (0, 0, 0)
        """Waiting at other workers, by class."""
        self.flex_elsewhere = 0
        """In flight at other workers."""
        self.workers = 1
        """How many share the pool, with this one."""
        self._max_queue = max_queue
        self.deployments = deployments
        """Behind the queue, each with rate limits of its own."""
        self._pressure = Pressure(STEPS, clock)
        self._clock = clock
        self._call_later = call_later
        self._queues: tuple[FairQueue[Ticket], ...] = (FairQueue(), FairQueue(), FairQueue())
        self._rates = [0.0, 0.0, 0.0]
        """Admissions per second, by class, as of ``_rated``."""
        self._rated = [0.0, 0.0, 0.0]
        self._began = [float("inf")] * 3
        """Since when each class has been waiting without a pause: only then admissions tell how fast the pool is."""
        self._last_flex = float("-inf")
        """When flex was let in last."""
        self._since_flex = 0
        """Admissions of others since then."""
        self._since_default = 0
        """Admissions of priority since then, while default waits."""
        self._wake: tuple[float, Timer] | None = None
        """When to look again though nothing will have happened by then."""

    @property
    def waiting(self) -> tuple[int, int, int]:
        high, middle, low = self._queues
        return len(high), len(middle), len(low)

    @property
    def in_flight(self) -> int:
        return sum(self.running)

    @property
    def load(self) -> float:
        """How full the queues are."""
        return sum(self.waiting) / self._max_queue

    def enter(
        self, level: int, key: str, cost: int, wait: float, decided: Callable[[Ticket], None], size: int = 0
    ) -> Ticket:
        """Ask for a slot, for which it may wait ``wait`` seconds: the ticket is admitted, shed or waiting."""
        now = self._clock()
        ticket = Ticket(key, max(cost, 1), level, now, decided, size)
        self.usual_cost += (ticket.cost - self.usual_cost) * (COST_WEIGHT if self.usual_cost else 1)
        queue = self._queues[level]
        hopeless = not self._flex_gives_way(level) and self._expected_wait(level, key, now) > wait
        if not queue:
            self._began[level], self._rates[level] = now, 0.0
            if level == FLEX and wait <= 0 and not self._flex_is_free(self.capacity.limit):
                return self._refuse(ticket)  # the guaranteed share is for those who wait for it
        queue.push(ticket)
        self.admit()
        if ticket.state is not State.WAITING:
            return ticket
        if wait <= 0 or hopeless or self._pressed(ticket):
            queue.remove(ticket)
            return self._refuse(ticket)
        ticket.timer = self._call_later(wait, lambda: self._late(ticket))
        if sum(self.waiting) > self._max_queue:
            self._shed(self._victim(ticket))
        return ticket

    def _pressed(self, ticket: Ticket) -> bool:
        """Take the steps that full queues ask for; tells whether this one, which would have to wait, gives way too."""
        pressure, low = self._pressure.note(self.load), self._queues[FLEX]
        if pressure >= NO_FLEX:
            while len(low) > self._guaranteed + (ticket.level == FLEX):
                victim = low.fattest()
                if victim is ticket:
                    break
                self._shed(victim)
        if ticket.level == FLEX:
            return pressure >= NO_NEW_FLEX and len(low) > self._guaranteed
        if ticket.level == DEFAULT and pressure >= FAIR_DEFAULT:
            queue = self._queues[DEFAULT]
            return queue.waiting(ticket.key) * queue.keys > len(queue)
        return False

    @property
    def _guaranteed(self) -> int:
        """How many of flex may wait whatever happens: those whose turn comes within about ten seconds."""
        return math.ceil(TRICKLE_SHARE * self.capacity.limit)

    def leave(self, ticket: Ticket, outcome: Outcome = Outcome.OTHER, first_token: float | None = None) -> None:
        """The request is over, or nobody waits for it any more. Any number of times, from any state."""
        if ticket.state is State.WAITING:
            self._queues[ticket.level].remove(ticket)
            self._stop(ticket)
        elif ticket.state is State.ADMITTED:
            self._learn(ticket, outcome, first_token)
            self.running[ticket.level] -= 1
        ticket.state = State.GONE
        self.admit()

    def admit(self) -> None:
        """Let in whoever may be: to be called when anything has changed."""
        while (level := self._next()) is not None:
            ticket = self._queues[level].pop()
            ticket.state, ticket.admitted = State.ADMITTED, self._clock()
            self.running[level] += 1
            self.admissions += 1
            ticket.number = self.admissions
            self.capacity.begun()
            self._count(level, ticket.admitted)
            self._since_flex += 1
            self._since_default = self._since_default + 1 if level == PRIORITY and self._queues[DEFAULT] else 0
            if level == FLEX:
                self._last_flex, self._since_flex = ticket.admitted, 0
            self._stop(ticket)
            ticket.decided(ticket)
        self._look_again()

    def _look_again(self) -> None:
        """Have somebody let in whom no other event would: flex that is due its share, all when a provider's limit is over."""
        now = self._clock()
        due = math.inf
        if self._queues[FLEX]:
            due = max(self._last_flex, self._began[FLEX]) + TRICKLE_SECONDS
        if any(self.waiting) and (until := self.capacity.held_until(self.deployments, now)) is not None:
            due = until
        if not now < due < math.inf or (self._wake is not None and self._wake[0] <= due):
            return  # what is due already has no slot: the next one to leave brings it in
        if self._wake is not None:
            self._wake[1].cancel()
        self._wake = due, self._call_later(due - now + 0.001, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self.admit()

    def _next(self) -> int | None:
        """The class that is served next; None while nobody may be."""
        limit, running = self.capacity.limit, self.in_flight
        high, middle, low = self._queues
        if running + 1 > limit or self.capacity.held_until(self.deployments, self._clock()) is not None:
            return None
        if low and self._trickles(limit):
            return FLEX
        has_enough = bool(middle) and self._priority_has_enough(limit)
        if high and not has_enough:
            return PRIORITY
        if middle:
            return DEFAULT if has_enough or running < DEFAULT_SHARE * limit else None
        return FLEX if low and self._flex_is_free(limit) else None

    def _priority_has_enough(self, limit: float) -> bool:
        if (1 - PRIORITY_SHARE) * limit < 1:
            return self._since_default >= PRIORITY_RUN
        return self.running[PRIORITY] >= PRIORITY_SHARE * limit

    def _trickles(self, limit: float) -> bool:
        """Whether flex that waits is due its guaranteed share: never more than 1 % of the slots and one more."""
        part, running = math.floor(TRICKLE_SHARE * limit), self.running[FLEX]
        if running != part:
            return running < part
        if self._since_flex >= TRICKLE_EVERY - 1:
            return True
        return self._clock() - max(self._last_flex, self._began[FLEX]) >= TRICKLE_SECONDS

    def _flex_is_free(self, limit: float) -> bool:
        """Whether nobody of a higher class waits anywhere and the pool is far from full."""
        return not any((*self.waiting[:FLEX], *self.elsewhere[:FLEX])) and self.in_flight < FLEX_SHARE * limit

    def _victim(self, ticket: Ticket) -> Ticket:
        """Who goes when the queues are full: of the lowest class, but for flex's guaranteed share, who has most of them."""
        high, middle, low = self._queues
        if len(low) > self._guaranteed or ticket.level == FLEX:
            return low.fattest()
        if middle:
            return middle.fattest()
        return (low or high).fattest()

    def _late(self, ticket: Ticket) -> None:
        self._shed(ticket)
        self.admit()  # nobody may stand in another's way any more

    def _shed(self, ticket: Ticket) -> None:
        self._queues[ticket.level].remove(ticket)
        self._stop(ticket)
        self._refuse(ticket)

    def _refuse(self, ticket: Ticket) -> Ticket:
        ticket.state = State.SHED
        ticket.decided(ticket)
        return ticket

    def _stop(self, ticket: Ticket) -> None:
        if ticket.timer is not None:
            ticket.timer.cancel()
            ticket.timer = None

    def _learn(self, ticket: Ticket, outcome: Outcome, first_token: float | None) -> None:
        in_flight, now = self.in_flight, self._clock()
        if outcome is Outcome.OVERLOADED:
            self.capacity.overloaded(ticket.admitted, now, in_flight)
        elif outcome is Outcome.CLEAN:
            self.capacity.clean(in_flight)
        if first_token is not None:
            self.capacity.first_token(first_token, ticket.size, ticket.admitted, now, in_flight)

    def _count(self, level: int, now: float) -> None:
        self._rates[level] = self._rate(level, now) + 1 / RATE_SECONDS
        self._rated[level] = now

    def _rate(self, level: int, now: float) -> float:
        """Of the last ten seconds, the latest counting most; too low until there were so many."""
        return self._rates[level] * math.exp((self._rated[level] - now) / RATE_SECONDS)

    def _flex_gives_way(self, level: int) -> bool:
        """Whether slots of flex, beyond its guaranteed share, are about to become free for a higher class."""
        guaranteed = math.floor(TRICKLE_SHARE * self.capacity.limit) + 1
        return level < FLEX and self.running[FLEX] + self.flex_elsewhere > guaranteed * self.workers

    def _expected_wait(self, level: int, key: str, now: float) -> float:
        """Seconds until one more of a key would be let in; a key of which nobody waits has always a chance."""
        queue = self._queues[level]
        own = queue.waiting(key)
        age = now - self._began[level]
        if not own or age < ENOUGH_SECONDS:
            return 0.0
        rate = self._rate(level, now) / (1 - math.exp(-age / RATE_SECONDS))
        return min(own * queue.keys, len(queue)) / rate if rate else math.inf
