"""Counters that Redis lost, or brought back from another time: what the ledger knows and workers hold is all that counts."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import redis

from gateway.limits.amounts import Amounts
from gateway.limits.engine import Refused, StoreDown
from gateway.limits.redis import RedisEngine

from .acceptance_limits import Ledger, engine
from .limits_worker import limit_set
from .servers import RedisServer

ONE = Amounts(cost=1).vector()
TEN = limit_set("acme", ("k:a", "budget.day", 10))


class Gateway:
    """Workers that settle at once what they admit, and a ledger that knows it."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.ledger = Ledger()
        self.engines: list[RedisEngine] = []
        self.number = 0

    async def worker(self, lease: float = 1) -> RedisEngine:
        self.engines.append(engine(self.server, lease=lease, spent=self.ledger, timeout=1))
        await self.engines[-1].start()
        return self.engines[-1]

    async def spend(self, worker: RedisEngine, times: int, patience: float = 0) -> int:
        """How many requests of 1 are admitted; those that meet with lost counters are repeated until they are back."""
        return sum([await self._one(worker, time.monotonic() + patience) for _ in range(times)])

    async def _one(self, worker: RedisEngine, until: float) -> int:
        self.number += 1
        while True:
            try:
                outcome = await worker.reserve(f"r{self.number}", TEN, ONE)
                break
            except StoreDown:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.02)
        if isinstance(outcome, Refused):
            return 0
        worker.settle(f"r{self.number}", ONE)
        self.ledger.cost["k:a"] = self.ledger.cost.get("k:a", 0) + 1
        return 1

    async def used(self, worker: RedisEngine) -> int:
        (state,) = await worker.states(TEN)
        return state.used

    async def close(self) -> None:
        for worker in self.engines:
            await worker.close()
        self.engines.clear()


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    server = RedisServer("--appendonly", "no")
    found = Gateway(server)
    yield found
    await found.close()
    server.stop()


def save(server: RedisServer) -> None:
    redis.Redis(port=server.port).save()


async def test_workers_that_start_with_an_old_snapshot_do_not_trust_it(gateway: Gateway) -> None:
    worker = await gateway.worker()
    assert await gateway.spend(worker, 1) == 1
    await asyncio.sleep(0.1)
    save(gateway.server)
    assert await gateway.spend(worker, 9) == 9
    await gateway.close()
    gateway.server.kill()
    gateway.server.start()
    worker = await gateway.worker()
    assert await gateway.spend(worker, 3, patience=5) == 0
    assert await gateway.used(worker) == 10


async def test_a_worker_that_was_idle_since_before_the_snapshot_does_not_trust_it(gateway: Gateway) -> None:
    idle, busy = await gateway.worker(lease=10), await gateway.worker(lease=10)
    assert await gateway.spend(idle, 1) == 1
    await gateway.used(busy)
    save(gateway.server)
    assert await gateway.spend(busy, 9) == 9
    assert await gateway.used(busy) == 10
    gateway.server.kill()
    gateway.server.start()
    with pytest.raises(StoreDown):  # and not with a heartbeat, 2.5 s later
        await gateway.spend(idle, 1)
    assert await gateway.spend(idle, 3, patience=10) == 0
    assert await gateway.used(idle) == 10


async def test_a_restart_that_lost_nothing_costs_half_a_lease_once() -> None:
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    gateway = Gateway(server)
    try:
        worker = await gateway.worker()
        assert await gateway.spend(worker, 4) == 4
        await worker.reserve("held", TEN, ONE)
        server.kill()
        server.start()
        begin = time.monotonic()
        assert await gateway.spend(worker, 1, patience=5) == 1
        assert time.monotonic() - begin < 3
        states = await worker.states(TEN)
        assert [(s.used, s.reserved) for s in states] == [(5, 1)]
        worker.settle("held", ONE)
        # Nobody who holds anything has been silent for so long: an organization that comes later need not wait.
        other = limit_set("later", ("k:b", "budget.day", 10))
        redis.Redis(port=server.port).hset("l:{later}:meta", mapping={"gen": "g", "seq": 0, "open": 0, "run": "before"})
        assert not isinstance(await worker.reserve("first", other, ONE), Refused)
    finally:
        await gateway.close()
        server.stop()


async def test_a_grant_that_was_lost_with_its_reply_is_not_taken_for_one_of_the_new_counters(gateway: Gateway) -> None:
    worker = await gateway.worker()
    assert await gateway.spend(worker, 1) == 1
    shard = worker.shard("acme")
    client = redis.Redis(port=gateway.server.port)
    with contextlib.suppress(StoreDown):
        await worker.reserve("r", TEN, ONE)
    record = client.hget(shard.keys[3], "r")
    assert record is not None
    shard._held.clear()  # as if the reply had never come
    client.hset(shard.keys[0], "gen", "another")
    for _ in range(100):
        with contextlib.suppress(StoreDown):
            await worker.reserve("r", TEN, ONE)
            break
        await asyncio.sleep(0.02)
    (state,) = await worker.states(TEN)
    assert (state.used, state.reserved) == (1, 1)
