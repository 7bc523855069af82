"""The two engines decide alike, and neither ever admits more than a limit allows: for any sequence of events."""

import asyncio
import datetime as dt
import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from config import schema
from gateway.limits.amounts import COST, SLOTS, Amounts, Vector
from gateway.limits.engine import Engine, Granted, Refused, State
from gateway.limits.memory import MemoryEngine
from gateway.limits.redis import RedisEngine
from gateway.limits.rules import BUCKET, FIELDS, WINDOW, Limit, LimitSet
from gateway.limits.thresholds import Thresholds
from gateway.limits.windows import DAY, DAY_MS, MONTH, TOTAL, WEEK, end, start, window

from .compiled import interpreted_only
from .servers import RedisServer

EXAMPLES = int(os.environ.get("SLUICE_EXAMPLES", "100"))
names = itertools.count()


class Clock:
    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def redis(session_redis: RedisServer, loop: asyncio.AbstractEventLoop) -> Iterator[RedisEngine]:
    engine = RedisEngine(schema.Redis(url=SecretStr(session_redis.url), timeout=5), lease=1000)
    loop.run_until_complete(engine.start())
    yield engine
    loop.run_until_complete(engine.close())


caps = st.one_of(st.integers(0, 20), st.integers(0, 150_000_000_000))


def limit_of(name: str, scope: str, cap: int, overdraft: int) -> Limit:
    field, kind, period, unit = FIELDS[name]
    rate = cap if kind == BUCKET else overdraft if unit == COST else 0
    return Limit(scope, field, kind, cap, rate, period, unit)


limits = st.builds(
    limit_of,
    st.sampled_from(sorted(FIELDS)),
    st.sampled_from(["k:a", "k:b|m:x", "o:o"]),
    caps,
    st.one_of(st.just(0), st.integers(1, 20)),
)
sets = st.lists(limits, min_size=1, max_size=8, unique_by=lambda x: (x.scope, x.field))
small = st.integers(0, 8)
amounts = st.builds(Amounts, st.integers(0, 2), small, small, small, st.just(0)).map(Amounts.vector)
large = st.builds(
    Amounts, st.just(1), st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 10**14), st.integers(0, 10)
).map(Amounts.vector)
which = st.integers(0, 30)
events = st.one_of(
    st.tuples(st.just("reserve"), st.integers(0, 2), st.one_of(amounts, amounts, large)),
    st.tuples(st.just("reserve"), st.integers(0, 2), amounts),
    st.tuples(st.just("settle"), which, st.one_of(amounts, large)),
    st.tuples(st.just("settle"), which, amounts),
    st.tuples(st.just("adjust"), which, st.one_of(amounts, large)),
    st.tuples(st.just("repeat"), which, amounts),
    st.tuples(st.just("debit"), st.integers(0, 2), amounts),
    st.tuples(st.just("wait"), st.sampled_from([1, 37, 1000, 61_000, DAY_MS // 3, DAY_MS, 40 * DAY_MS]), st.none()),
)


def described(outcome: Any) -> Any:
    if isinstance(outcome, Refused):
        return (outcome.position, outcome.need, outcome.wait, outcome.states())
    return outcome.states()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(sets, min_size=3, max_size=3), st.lists(events, max_size=40), st.integers(0, 1000 * DAY_MS))
def test_both_engines_decide_alike(
    loop: asyncio.AbstractEventLoop,
    redis: RedisEngine,
    given_sets: list[list[Limit]],
    happenings: list[tuple[str, int, Any]],
    since: int,
) -> None:
    clock = Clock(1_700_000_000_000 + since)
    redis._store.clock = clock
    memory = MemoryEngine(wall=clock, monotonic=clock)
    shard = f"s{next(names)}"
    chosen = [LimitSet(shard, tuple(s)) for s in one_cap_each(given_sets)]
    loop.run_until_complete(play(memory, redis, chosen, happenings, clock))


def one_cap_each(given_sets: list[list[Limit]]) -> list[list[Limit]]:
    """A counter has one limit at a time."""
    first: dict[tuple[str, str], Limit] = {}
    return [[first.setdefault((x.scope, x.field), x) for x in s] for s in given_sets]


async def play(
    memory: MemoryEngine,
    redis: RedisEngine,
    chosen: list[LimitSet],
    happenings: list[tuple[str, int, Any]],
    clock: Clock,
) -> None:
    both: tuple[Engine, Engine] = (memory, redis)
    made: list[tuple[str, LimitSet]] = []
    for kind, number, value in happenings:
        answers: list[Any] = []
        if kind == "wait":
            clock.now += number
            continue
        limits = chosen[number % 3]
        rid = f"r{len(made)}"
        if kind == "reserve":
            answers = [described(await e.reserve(rid, limits, value)) for e in both]
            made.append((rid, limits))
        elif kind == "debit":
            for e in both:
                e.debit(f"d{rid}{clock.now}{len(made)}", limits, value)
            made.append((rid, limits))
        elif made:
            rid, limits = made[number % len(made)]
            if kind == "settle":
                for e in both:
                    e.settle(rid, value)
            elif kind == "adjust" and rid in memory._held:
                answers = [described(await e.adjust(rid, limits, value)) for e in both]
            elif kind == "repeat" and rid in memory._held:
                answers = [described(await e.reserve(rid, limits, value)) for e in both]
        if answers:
            assert answers[0] == answers[1], (kind, rid, value)
        assert await memory.states(limits) == await redis.states(limits), (kind, rid, value)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([0, 0, 1, 7000, 61_000, -10_000, -DAY_MS]), st.integers(1, 5)), max_size=50))
def test_a_clock_that_jumps_never_opens_a_limit_twice(
    loop: asyncio.AbstractEventLoop, redis: RedisEngine, happenings: list[tuple[int, int]]
) -> None:
    """Backwards: nothing more is admitted. Forwards: at most a burst, as if so much time had passed."""
    clock = Clock(1_700_000_000_000 + DAY_MS // 2)
    redis._store.clock = clock
    shard = f"j{next(names)}"
    rpm = LimitSet(shard, (Limit("k:a", "r", BUCKET, 10, 10, 60_000, 0),))
    rpd = LimitSet(shard, (Limit("k:a", "R", WINDOW, 30, 0, DAY, 0),))

    async def run() -> None:
        forward = admitted = today = 0
        highest = clock.now // DAY_MS
        for i, (jump, amount) in enumerate(happenings):
            clock.now += jump
            forward += max(jump, 0)
            if clock.now // DAY_MS > highest:
                highest, today = clock.now // DAY_MS, 0
            need: Vector = (amount, 0, 0, 0, 0, 1)
            admitted += 0 if isinstance(await redis.reserve(f"r{i}", rpm, need), Refused) else amount
            today += 0 if isinstance(await redis.reserve(f"d{i}", rpd, need), Refused) else amount
            assert admitted <= 10 + forward * 10 / 60_000
            assert today <= 30

    loop.run_until_complete(run())


takes = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30_000)), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20), takes)
def test_no_interval_admits_more_than_burst_and_rate(cap: int, requests: list[tuple[int, int]]) -> None:
    clock = Clock(10**12)
    engine = MemoryEngine(wall=clock, monotonic=clock)
    rpm = LimitSet("o", (Limit("k:a", "r", BUCKET, cap, cap, 60_000, 0),))
    admitted: list[tuple[int, int]] = []

    async def run() -> None:
        for i, (amount, pause) in enumerate(requests):
            clock.now += pause
            if not isinstance(await engine.reserve(str(i), rpm, (amount, 0, 0, 0, 0, 1)), Refused):
                admitted.append((clock.now, amount))

    asyncio.run(run())
    for i, (begin, _) in enumerate(admitted):
        for j in range(i, len(admitted)):
            took = sum(amount for _, amount in admitted[i : j + 1])
            assert took * 60_000 <= cap * 60_000 + (admitted[j][0] - begin) * cap


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 100),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.booleans()), max_size=60),
)
def test_a_budget_is_never_passed_while_bills_keep_their_bounds(
    cap: int, requests: list[tuple[int, int, bool]]
) -> None:
    engine = MemoryEngine()
    money = LimitSet("o", (Limit("k:a", "$t", WINDOW, cap, 0, TOTAL, COST), Limit("k:a", "c", 3, 5, 0, 0, SLOTS)))
    held: list[tuple[str, int]] = []

    async def run() -> int:
        paid = 0
        for i, (worst, share, finish) in enumerate(requests):
            need: Vector = (1, 0, 0, 0, worst, 1)
            if not isinstance(await engine.reserve(str(i), money, need), Refused):
                held.append((str(i), min(worst, share)))
            if finish and held:
                rid, actual = held.pop(0)
                engine.settle(rid, (1, 0, 0, 0, actual, 1))
                paid += actual
            budget, slots = await engine.states(money)
            assert budget.used + budget.reserved <= cap
            assert budget.reserved >= 0
            assert slots.used == len(held) <= 5
            assert budget.used == paid
        return paid

    assert asyncio.run(run()) <= cap


@given(st.integers(0, 4_000_000_000_000), st.sampled_from([DAY, WEEK, MONTH, TOTAL]))
def test_every_moment_is_in_its_window(now: int, period: int) -> None:
    number = window(period, now)
    assert start(period, number) <= now
    over = end(period, number)
    assert over is None or now < over
    assert over is None or window(period, over) == number + 1


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    def at(*date: int) -> int:
        return int(dt.datetime(*date, tzinfo=dt.UTC).timestamp() * 1000)  # type: ignore[arg-type, misc]

    assert start(WEEK, window(WEEK, at(2024, 10, 4, 12))) == at(2024, 9, 30)
    assert start(MONTH, window(MONTH, at(2024, 2, 29, 23, 59))) == at(2024, 2, 1)
    assert end(MONTH, window(MONTH, at(2024, 12, 31))) == at(2025, 1, 1)


def costing(cost: int) -> Vector:
    return Amounts(1, 0, 0, cost).vector()


costs = st.integers(0, 8).map(costing)
SPENT_WHILE_ONE_RUNS = [
    ("reserve", 0, costing(3)),
    ("reserve", 0, costing(4)),
    ("settle", 0, costing(6)),
    ("adjust", 1, costing(7)),
    ("adjust", 1, costing(10)),
    ("reserve", 0, costing(0)),
]
"""Of a budget of 5: the one that runs may move to something dearer, as far as the overdraft goes; none may begin."""
of_money = st.one_of(
    st.tuples(st.just("reserve"), st.just(0), costs),
    st.tuples(st.just("settle"), st.integers(0, 3), costs),
    st.tuples(st.just("adjust"), st.integers(0, 3), costs),
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(5, 10, SPENT_WHILE_ONE_RUNS)
@given(st.integers(0, 12), st.integers(1, 12), st.lists(of_money, min_size=5, max_size=40))
def test_both_engines_decide_alike_on_overdrafts(
    loop: asyncio.AbstractEventLoop,
    redis: RedisEngine,
    cap: int,
    overdraft: int,
    happenings: list[tuple[str, int, Any]],
) -> None:
    clock = Clock(1_700_000_000_000)
    redis._store.clock = clock
    memory = MemoryEngine(wall=clock, monotonic=clock)
    budget = LimitSet(f"s{next(names)}", (limit_of("budget.total", "k:a", cap, overdraft),))
    loop.run_until_complete(play(memory, redis, [budget] * 3, happenings, clock))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 100),
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.booleans()), max_size=60),
)
def test_an_overdraft_is_the_most_that_is_spent_beyond_a_budget_and_nothing_begins_once_it_is_spent(
    cap: int, overdraft: int, requests: list[tuple[int, int, bool]]
) -> None:
    engine = MemoryEngine()
    money = LimitSet("o", (limit_of("budget.total", "k:a", cap, overdraft),))
    held: list[tuple[str, int]] = []

    async def run() -> None:
        paid = 0
        for i, (worst, share, finish) in enumerate(requests):
            outcome = await engine.reserve(str(i), money, (1, 0, 0, 0, worst, 1))
            if not isinstance(outcome, Refused):
                assert paid < cap or not (overdraft or worst)
                held.append((str(i), min(worst, share)))
            if finish and held:
                rid, actual = held.pop(0)
                engine.settle(rid, (1, 0, 0, 0, actual, 1))
                paid += actual
            (budget,) = await engine.states(money)
            assert budget.used + budget.reserved <= cap + overdraft
            assert budget.used == paid
            assert budget.remaining == (max(cap + overdraft - paid - budget.reserved, 0) if paid < cap else 0)

    asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(
    sets,
    st.lists(st.tuples(amounts, amounts, st.sampled_from([0, 1, 37, 7000, DAY_MS]), st.booleans()), max_size=12),
)
def test_what_a_grant_tells_for_headers_is_what_its_states_say(
    given_limits: list[Limit], requests: list[tuple[Vector, Vector, int, bool]]
) -> None:
    clock = Clock(1_700_000_000_000)
    engine, limits = MemoryEngine(wall=clock, monotonic=clock), LimitSet("o", tuple(given_limits))

    async def run() -> None:
        for i, (need, actual, pause, finish) in enumerate(requests):
            outcome = await engine.reserve(str(i), limits, need)
            states = await engine.states(limits)
            if not isinstance(outcome, Refused):
                assert list(outcome.remaining()) == [s.remaining for s in states]
                assert [outcome.reset(position) for position in range(len(states))] == [s.reset for s in states]
                assert all(outcome.spent(position) == states[position].used for position in limits.windows)
            if finish:
                engine.settle(str(i), actual)
            clock.now += pause

    asyncio.run(run())


percents = st.lists(st.integers(1, 120), max_size=4)


@interpreted_only
@given(
    percents,
    st.integers(0, 100),
    st.lists(st.one_of(st.tuples(st.integers(0, 130), st.integers(0, 2)), percents), max_size=30),
)
def test_thresholds_that_may_not_pass_have_nothing_to_tell(
    first: list[int], cap: int, happenings: list[tuple[int, int] | list[int]]
) -> None:
    thresholds, budget = Thresholds(first), limit_of("budget.day", "k:a", cap, 0)
    limits = LimitSet("o", (budget,))
    for happening in happenings:
        if isinstance(happening, list):
            thresholds.configure(happening)
            continue
        grant = Spending(limits, *happening)
        may, before = thresholds.may_pass(grant), dict(thresholds._told)
        told = list(thresholds.passed("o", grant.states()))
        assert may or (not told and thresholds._told.get(("o", "k:a", "$d"), (0, 0, 0))[1] == before_percent(before))


def before_percent(told: dict[tuple[str, str, str], tuple[int, int, int]]) -> int:
    return told.get(("o", "k:a", "$d"), (0, 0, 0))[1]


class Spending(Granted):
    """A grant of a budget of which so much is spent in a window."""

    def __init__(self, limits: LimitSet, spent: int, window: int) -> None:
        super().__init__(limits)
        self._states = (State(limits.limits[0], spent, 0, 0, None, window),)

    def states(self) -> tuple[State, ...]:
        return self._states
