"""The gateway's own tiers across workers: shares of one capacity, in a real Redis."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from config import Config
from config.schema import Redis
from gateway.errors import CapacityUnavailable, GatewayError
from gateway.pools import LEASE_SECONDS, Pool, Pools, Slot
from gateway.scheduler import NAMES

from .servers import RedisServer


def configured(server: RedisServer | None, capacity: int = 20, **queue: float) -> Config:
    deployments = [{"provider": "p", "model": "m"}]
    redis = {"redis": Redis.model_validate({"url": server.url})} if server is not None else {}
    return Config.model_validate(
        {
            "providers": {"p": {"adapter": "openai"}},
            "models": {"m": {"deployments": deployments, "queue": {"capacity": capacity, **queue}}},
            **redis,
        }
    )


@asynccontextmanager
async def workers(server: RedisServer, number: int, capacity: int = 20, **queue: float) -> AsyncIterator[list[Pool]]:
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(number):
            pools = await stack.enter_async_context(Pools(configured(server, capacity, **queue)))
            found.append(pools.all["m"])
        yield found


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.02)


def shares(pools: list[Pool]) -> list[float]:
    return [p.scheduler.capacity.share for p in pools]


async def test_workers_never_hold_more_than_the_capacity_together(redis_server: RedisServer) -> None:
    async with workers(redis_server, 3, 21) as pools:
        await until(lambda: min(shares(pools)) >= 6)
        assert sum(shares(pools)) <= 21
        waiting = [asyncio.ensure_future(pools[0].enter("default", f"k{i}", 1, 0)) for i in range(40)]
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert sum(shares(pools)) <= 21
            assert sum(p.scheduler.in_flight for p in pools) <= 21
            await asyncio.sleep(0.01)
        assert pools[0].scheduler.capacity.share >= 15  # where the demand is
        assert min(shares(pools)) >= 1  # and something for whoever comes next
        for task in waiting:
            task.cancel()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, Slot):
                result.leave()
        assert pools[0].scheduler.in_flight == 0


async def test_flex_is_refused_while_a_higher_class_waits_at_another_worker(redis_server: RedisServer) -> None:
    async with workers(redis_server, 2, 2) as (first, second):
        await until(lambda: shares([first, second]) == [1, 1])
        slot = await first.enter("default", "a", 1, 0)
        (await second.enter("flex", "b", 1, 0)).leave()
        queued = asyncio.ensure_future(first.enter("priority", "a", 1, 0))
        await until(lambda: second.scheduler.elsewhere[0] == 1)
        with pytest.raises(CapacityUnavailable):
            await second.enter("flex", "b", 1, 0)
        slot.leave()
        (await queued).leave()


async def test_priority_at_one_worker_does_not_wait_for_default_at_another(redis_server: RedisServer) -> None:
    """Clients keep their connections, so one worker may have all of one class: capacity goes by classes, not by sums."""
    async with workers(redis_server, 2, 40, max_queue=500) as (first, second):
        await until(lambda: shares([first, second]) == [20, 20])
        busy: set[asyncio.Task[None]] = set()

        async def one(pool: Pool, tier: str, number: int) -> None:
            try:
                slot = await pool.enter(tier, f"k{number % 9}", 1, 0)
            except GatewayError:
                await asyncio.sleep(0.05)
                return
            try:
                await asyncio.sleep(0.1)
            finally:
                slot.leave()

        async def keep(pool: Pool, tier: str, number: int) -> None:
            while True:
                await one(pool, tier, number)

        busy = {asyncio.ensure_future(keep(first, "default", i)) for i in range(300)}
        await until(lambda: first.scheduler.capacity.share == 35)  # the other keeps a little
        busy |= {asyncio.ensure_future(keep(second, "priority", i)) for i in range(28)}
        await until(lambda: second.scheduler.capacity.share >= 28 and second.scheduler.waiting[0] == 0)
        assert sum(shares([first, second])) <= 40
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        assert (first.scheduler.in_flight, second.scheduler.in_flight) == (0, 0)


async def test_a_dead_workers_share_goes_to_the_others_and_silence_of_redis_to_equal_parts() -> None:
    server = RedisServer()
    try:
        async with workers(server, 2, 20) as (first, second):
            await until(lambda: shares([first, second]) == [10, 10])
            dead = Pools(configured(server))
            await dead.start()
            for beat in dead._beats:  # it dies without a word
                beat.cancel()
            await until(lambda: first.scheduler.workers == 3)
            await until(lambda: first.scheduler.workers == 2, LEASE_SECONDS + 2)
            await until(lambda: sum(shares([first, second])) >= 19)
            server.kill()
            first.scheduler.capacity.share = 20
            await until(lambda: shares([first, second]) == [10, 10], LEASE_SECONDS + 2)
            assert dead._store is not None
            await dead._store.close()
    finally:
        server.stop()


async def test_three_times_too_much_at_two_workers(redis_server: RedisServer) -> None:
    """The acceptance of one pool on real clocks: ten times faster than life, so that it takes seconds."""
    capacity, seconds, rush = 20, 0.2, 6.0
    done = {name: [0, 0] for name in NAMES}
    late: list[float] = []
    waits: list[float] = []
    in_flight = most = 0

    async def one(pools: list[Pool], tier: str) -> None:
        nonlocal in_flight, most
        done[tier][0] += 1
        started = time.monotonic()
        try:
            slot = await random.choice(pools).enter(tier, f"k{random.randrange(5)}", 10, 3)
        except GatewayError:
            if tier == "priority":
                late.append(time.monotonic() - started)
            return
        if tier == "priority":
            waits.append(time.monotonic() - started)
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(random.uniform(0.5, 1.5) * seconds)
        in_flight -= 1
        slot.leave()
        done[tier][1] += 1

    async with workers(redis_server, 2, capacity, wait_priority=2, wait_default=1) as pools:
        await until(lambda: min(shares(pools)) >= capacity / 2 - 1)
        per_second = capacity / seconds
        async with asyncio.TaskGroup() as tasks:
            for tier, part in (("priority", 0.5), ("default", 1.4), ("flex", 1.1)):
                rate = per_second * part

                async def arrivals(tier: str = tier, rate: float = rate) -> None:
                    end = time.monotonic() + rush
                    while time.monotonic() < end:
                        await asyncio.sleep(random.expovariate(rate))
                        tasks.create_task(one(pools, tier))

                tasks.create_task(arrivals())
    success = {tier: served / asked for tier, (asked, served) in done.items()}
    assert most <= capacity
    assert success["priority"] >= 0.99, (done, late)
    assert sorted(waits)[int(len(waits) * 0.99)] < 2
    assert success["flex"] < success["default"] < 1, done
    assert done["flex"][1] >= 0.01 * per_second * rush
