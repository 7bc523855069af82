"""Leases: most requests need no call of Redis, and nobody can tell by what is admitted, refused, charged or shown."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import redis
from pydantic import SecretStr

from config import schema
from gateway.call import Owner, Principal
from gateway.limits import Amounts, Limiter, Reservation
from gateway.limits.amounts import NOTHING, Vector
from gateway.limits.engine import Refused, State
from gateway.limits.headers import dollars
from gateway.limits.leases import LEASE_SECONDS, Lease, LeasedEngine
from gateway.limits.redis import RedisEngine
from gateway.limits.rules import LimitSet
from gateway.limits.thresholds import Thresholds

from .limits_worker import limit_set
from .servers import RedisServer

numbers = itertools.count()
NEED = Amounts(1, 3, 4, 7).vector()
CAP = 4000


def fresh(*limits: tuple[str, str, int]) -> LimitSet:
    return limit_set(f"leases{next(numbers)}", *limits)


def config(server: RedisServer, **counters: object) -> schema.Config:
    return schema.Config.model_validate({"redis": {"url": server.url, "timeout": 2}, "counters": counters})


@contextlib.asynccontextmanager
async def engines(server: RedisServer, number: int = 2, lease: float = 10) -> AsyncIterator[list[LeasedEngine]]:
    settings = schema.Redis(url=SecretStr(server.url), timeout=2)
    found = [LeasedEngine(RedisEngine(settings, lease=lease)) for _ in range(number)]
    for engine in found:
        await engine.start()
    try:
        yield found
    finally:
        for engine in found:
            await engine.close()


async def take(engine: LeasedEngine, limits: LimitSet, need: Vector = NEED) -> str | None:
    """Reserve as the pipeline does; the request's id, or None where it was refused."""
    rid = f"r{next(numbers)}"
    outcome = engine.reserve_now(rid, limits, need)
    if outcome is None:
        outcome = await engine.reserve(rid, limits, need)
    return None if isinstance(outcome, Refused) else rid


async def offer(engine: LeasedEngine, limits: LimitSet, number: int, rate: float, seconds: float = 0) -> int:
    """So many requests, each settled after so long; how many were admitted."""

    async def one() -> bool:
        rid = await take(engine, limits)
        if rid is not None:
            await asyncio.sleep(seconds)
            engine.settle(rid, NEED)
        return rid is not None

    tasks, begin = [], time.monotonic()
    for i in range(number):
        tasks.append(asyncio.create_task(one()))
        if rate:
            await asyncio.sleep(begin + (i + 1) / rate - time.monotonic())
    return sum(await asyncio.gather(*tasks))


async def until(condition: Callable[[], bool], seconds: float = 3) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def lease_of(engine: LeasedEngine, limits: LimitSet) -> Lease:
    lease = engine._hot[limits].lease
    assert lease is not None
    return lease


def is_leased(engine: LeasedEngine, limits: LimitSet) -> bool:
    return limits in engine._hot and engine._hot[limits].lease is not None


async def warm(engine: LeasedEngine, limits: LimitSet, rate: float = 400) -> int:
    """Demand until there is a lease; how many requests that took. All are settled."""
    taken = 0
    while not is_leased(engine, limits):
        taken += await offer(engine, limits, 1, rate)
    return taken


@pytest.mark.parametrize(
    ("limits", "cap", "share", "rates", "seconds"),
    [
        ((("o:org", "rpd"),), 400, 0.5, (400, 300), 0.05),
        ((("o:org", "rpd"), ("k:a", "budget.day")), 900, 0.1, (300, 2000), 0.0),
        ((("o:org", "budget.month"), ("k:a", "budget.total")), 1500, 0.7, (1500, 700), 0.2),
        ((("o:org", "rpd"), ("k:a", "tpd")), 2000, 0.3, (1000, 0), 0.0),  # the rest at once, when the first has ended
        ((("k:a", "budget.day"),), 1000, 0.4, (900, 0), 0.01),
    ],
)
async def test_what_a_limit_allows_is_admitted_to_the_last(
    redis_server: RedisServer,
    limits: Sequence[tuple[str, str]],
    cap: int,
    share: float,
    rates: tuple[int, int],
    seconds: float,
) -> None:
    scale = {"rpd": 1, "tpd": 7}
    bounded = fresh(*((scope, name, cap * scale.get(name, 7)) for scope, name in limits), ("o:org", "rpm", 10**9))
    async with engines(redis_server) as (one, two):
        first = int(cap * share)
        offers = [offer(one, bounded, first, rates[0], seconds)]
        if rates[1]:
            offers.append(offer(two, bounded, cap - first, rates[1], seconds))
        admitted = sum(await asyncio.gather(*offers))
        if not rates[1]:
            assert is_leased(one, bounded), "what is to be in the way of the others"
            admitted += await offer(two, bounded, cap - first, 0, seconds)
        assert admitted == cap
        assert await take(one, bounded) is None
        assert await take(two, bounded) is None
        for state in (await two.states(bounded))[:-1]:
            assert (state.used, state.reserved, state.remaining) == (state.limit.cap, 0, 0)
        assert one.leased > 0


async def test_a_bucket_and_the_leases_on_it_are_never_more_than_its_burst(redis_server: RedisServer) -> None:
    limits = fresh(("o:org", "rpm", CAP))
    async with engines(redis_server) as (one, two):
        begin = time.monotonic()
        admitted = await warm(one, limits)
        await asyncio.sleep(0.05)  # what was taken flows in again
        admitted += await offer(two, limits, CAP + 500, 0)
        admitted += await offer(one, limits, 500, 0)
        elapsed = time.monotonic() - begin
        assert CAP <= admitted <= CAP + CAP * elapsed / 60 + 1


async def test_leased_slots_are_there_for_the_other_workers(redis_server: RedisServer) -> None:
    limits = fresh(("o:org", "concurrency", 300), ("o:org", "rpd", 10**6))
    async with engines(redis_server) as (one, two):
        await warm(one, limits)
        held = [await take(one, limits) for _ in range(3)]
        others = await asyncio.gather(*(take(two, limits) for _ in range(297)))
        assert None not in held
        assert None not in others
        assert await take(two, limits) is None
        for engine, rids in ((one, held), (two, others)):
            for rid in rids:
                engine.settle(str(rid), NEED)
        await one.states(limits)  # gives back at once
        await two.engine.shard(limits.shard).close()  # all of them: a call carries 64
        assert (await two.states(limits))[0].remaining == 300


async def test_a_steady_demand_needs_few_calls_and_none_is_waited_for(redis_server: RedisServer) -> None:
    limits = fresh(("o:org", "rpm", 10**6), ("k:a", "concurrency", 1000), ("k:a", "budget.month", 10**12))
    async with engines(redis_server, 1) as (engine,):
        await warm(engine, limits)
        shard = engine.engine.shard(limits.shard)
        asked, before = 0, shard.calls
        for _ in range(200):
            outcome = engine.reserve_now(rid := f"r{next(numbers)}", limits, NEED)
            asked += outcome is None
            engine.settle(rid, NEED)
            await asyncio.sleep(0.005)
        assert asked == 0
        assert shard.calls - before < 40


async def test_an_idle_worker_holds_nothing(redis_server: RedisServer) -> None:
    limits = fresh(("o:org", "rpd", CAP), ("o:org", "concurrency", CAP))
    async with engines(redis_server, 1) as (engine,):
        taken = await warm(engine, limits)
        await until(lambda: not engine._hot and engine._ticker is None)
        day, slots = await engine.engine.states(limits)
        assert (day.used, day.reserved, slots.used) == (taken, 0, 0)


async def test_a_long_request_holds_its_own_part_and_no_more(redis_server: RedisServer) -> None:
    limits = fresh(("o:org", "budget.day", 10**6), ("o:org", "concurrency", CAP))
    async with engines(redis_server, 1) as (engine,):
        taken = await warm(engine, limits)
        long = await take(engine, limits, Amounts(cost=100).vector())
        assert long in engine._local
        taken += await offer(engine, limits, 10, 400)
        await until(lambda: not is_leased(engine, limits))
        await asyncio.sleep(0.1)
        money, slots = await engine.engine.states(limits)
        assert (money.used, money.reserved, slots.used) == (taken * 7, 100, 1)
        assert long is not None
        engine.settle(long, Amounts(cost=30).vector())
        money, slots = await engine.states(limits)
        assert (money.used, money.reserved, slots.used) == (taken * 7 + 30, 0, 0)


def take_now(gate: Limiter, limits: LimitSet) -> Reservation:
    held = gate.reserve_now(f"r{next(numbers)}", limits, Amounts(1, 3, 4, 100))
    assert held is not None
    return held


def money_of(held: Reservation) -> tuple[int, int, int]:
    """Spent, reserved, remaining."""
    (state,) = [s for s in held.states if s.limit.field == "$d"]
    return state.used, state.reserved, state.remaining


async def test_answers_tell_what_is_left_request_by_request(redis_server: RedisServer) -> None:
    limits = schema.Limits.model_validate({"rpm": 60_000, "tpm": 600_000, "budget": {"day": "0.001"}})
    who = Principal("a", f"told{next(numbers)}", owners=(Owner("k:a", limits),))
    gate = Limiter.from_config(config(redis_server))
    assert isinstance(gate.engine, LeasedEngine)
    await gate.start()
    found = gate.applies(who, "m", "default")
    assert found is not None
    taken = await warm(gate.engine, found)
    first = money_of(take_now(gate, found))
    for _ in range(4):
        one = take_now(gate, found)
        spent, reserved, remaining = money_of(one)
        assert (spent, reserved) == (first[0], first[1] + 100)
        assert remaining == first[2] - 100
        assert one.headers["x-sluice-budget-remaining-usd"] == dollars(remaining)
        before = dict(one.headers)
        other = take_now(gate, found)
        for family in ("requests", "tokens"):
            name = f"x-ratelimit-remaining-{family}"
            assert int(other.headers[name]) == int(before[name]) - (1 if family == "requests" else 7)
        assert other.headers["x-ratelimit-reset-requests"].endswith("ms")
        for held in (one, other):
            held.settle(Amounts(1, 3, 4, 7))
        taken += 2
        first = (first[0] + 14, first[1], first[2] - 14)
    (used,) = [s for s in await gate.usage(who.owners[0], who.organization) if s.limit.field == "$d"]
    assert (used.used, used.reserved) == (taken * 7, 100)
    await gate.close()


async def test_a_dead_worker_is_charged_what_was_noted_of_its_requests(redis_server: RedisServer) -> None:
    limits = fresh(("o:org", "budget.day", 10**6), ("o:org", "concurrency", CAP))
    async with engines(redis_server, 1, lease=1) as (alive,):
        dead = LeasedEngine(RedisEngine(schema.Redis(url=SecretStr(redis_server.url), timeout=2), lease=1))
        await dead.start()
        taken = await warm(dead, limits)
        noted, plain = [await take(dead, limits, Amounts(cost=100).vector()) for _ in range(2)]
        assert {noted, plain} <= dead._local.keys()
        await until(lambda: not is_leased(dead, limits))
        await asyncio.sleep(0.1)
        assert noted is not None
        dead.checkpoint(noted, Amounts(cost=20).vector())
        await asyncio.sleep(0.1)
        for task in dead.engine._tasks:  # no heartbeat any more
            task.cancel()
        for _ in range(300):
            money, slots = await alive.states(limits)
            if not slots.used:
                break
            await asyncio.sleep(0.02)
        assert (money.used, money.reserved) == (taken * 7 + 120, 0)
        assert dead._ticker is not None
        dead._ticker.cancel()
        await dead.engine._store.close()


async def test_an_adjusted_request_stays_in_its_lease_or_leaves_it(redis_server: RedisServer) -> None:
    limits = fresh(
        ("o:org", "budget.day", 10_000),
    )
    async with engines(redis_server, 1) as (engine,):
        taken = await warm(engine, limits)
        rid = await take(engine, limits)
        assert rid in engine._local
        assert rid is not None
        for cost, is_local in ((9, True), (5, True), (6000, False)):
            assert not isinstance(await engine.adjust(rid, limits, Amounts(cost=cost).vector()), Refused)
            assert (rid in engine._local) is is_local
            (money,) = await engine.states(limits)
            assert (money.used, money.reserved) == (taken * 7, cost)
        assert isinstance(await engine.adjust(rid, limits, Amounts(cost=11_000).vector()), Refused)
        engine.settle(rid, Amounts(cost=5000).vector())
        (money,) = await engine.states(limits)
        assert (money.used, money.reserved) == (taken * 7 + 5000, 0)


async def test_money_leased_is_spent_while_redis_is_away_and_no_longer(redis_server: RedisServer) -> None:
    limits = fresh(
        ("o:org", "budget.day", 10**6),
    )
    async with engines(redis_server, 1) as (engine,):
        taken = await warm(engine, limits)
        lease = lease_of(engine, limits)
        with redis_server.frozen():
            rid = await take(engine, limits)
            assert rid in engine._local
            await asyncio.sleep(lease.ends - time.monotonic() + 0.01)
            assert engine.reserve_now("late", limits, NEED) is None
            engine.settle(str(rid), NEED)
        (money,) = await engine.states(limits)
        assert (money.used, money.reserved) == (7 * taken + 7, 0)


def test_a_lease_ends_with_the_window_it_was_taken_in() -> None:
    limits = limit_set("o", ("o:org", "budget.day", 1000), ("o:org", "budget.total", 1000))
    for reset, seconds in ((50, 0.05), (5000, LEASE_SECONDS)):
        states = [State(limits.limits[0], 0, 0, 1000, reset, 1), State(limits.limits[1], 0, 0, 1000, None)]
        assert Lease("l", limits, NEED, states, sent=100.0).ends == 100 + seconds


def test_a_threshold_is_told_once_though_a_lease_knows_of_less() -> None:
    limit = limit_set("o", ("k:a", "budget.day", 1000)).limits[0]
    thresholds = Thresholds((50,))

    def told(spent: int, day: int) -> list[int]:
        return [t.percent for t in thresholds.passed("o", [State(limit, spent, 0, 0, 1, day)])]

    assert [told(510, 1), told(490, 1), told(505, 1), told(10, 2), told(500, 2)] == [[50], [], [], [], [50]]


async def test_every_request_is_reserved_by_itself_where_that_is_wanted(redis_server: RedisServer) -> None:
    gate = Limiter.from_config(config(redis_server, hot_leases=False))
    assert isinstance(gate.engine, RedisEngine)
    await gate.start()
    limits = fresh(("o:org", "rpd", 10**6))
    for i in range(50):
        await gate.engine.reserve(f"r{i}", limits, NEED)
        gate.engine.settle(f"r{i}", NOTHING)
    client = redis.Redis(port=redis_server.port)
    assert not client.hexists(f"l:{{{limits.shard}}}:o:org", "h")
    await gate.close()


async def test_whatever_is_taken_adjusted_refused_and_settled_adds_up(redis_server: RedisServer) -> None:
    money = fresh(("k:a", "budget.total", 20_000), ("k:a", "concurrency", 60), ("k:a", "tpm", 10**6))
    rng, paid, refused = random.Random(7), 0, 0
    held: dict[str, int] = {}
    async with engines(redis_server, 1) as (leased,):
        for i in range(2500):
            cost = rng.randint(1, 40)
            rid = await take(leased, money, (1, 9, 5, 4, cost, 1))
            if rid is None:
                refused += 1
            else:
                held[rid] = cost
            if held and rng.random() < 0.1:
                rid = rng.choice(list(held))
                dearer = max(held[rid] + rng.randint(-5, 30), 0)
                if not isinstance(await leased.adjust(rid, money, (1, 9, 5, 4, dearer, 1)), Refused):
                    held[rid] = dearer
            while len(held) > rng.randint(5, 50):
                rid = rng.choice(list(held))
                actual = rng.randint(0, held.pop(rid))
                leased.settle(rid, (1, 9, 5, 4, actual, 1))
                paid += actual
            if i % 10 == 0:
                total, slots, _ = await leased.engine.states(money)
                assert paid <= total.used + total.reserved <= 20_000
                assert len(held) <= slots.used <= 60
        for rid in held:
            leased.settle(rid, (1, 0, 0, 0, 0, 1))
        total, slots, _ = await leased.states(money)
        assert (total.used, total.reserved, slots.used) == (paid, 0, 0)
        assert leased.leased > 0  # how many is a matter of the machine
        assert refused > 100
