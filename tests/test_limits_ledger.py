"""Redis loses its counters while several workers are at work: what they begin again with is the ledger, to the nano-dollar.

Each worker has a journal of its own, and its rows reach the common ledger by themselves, at any moment.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from adapters.usage import Usage
from config import schema
from gateway.call import Attempt, CallRecord, Principal
from gateway.limits.amounts import Amounts
from gateway.limits.engine import Engine, Refused, StoreDown
from gateway.limits.leases import LeasedEngine
from gateway.records.database import Database
from gateway.records.ledger import Ledger
from gateway.records.spent import spent_in
from gateway.records.usage import UsageStore

from .acceptance_limits import engine
from .limits_worker import limit_set
from .servers import RedisServer

LIMITS = limit_set("acme", ("k:a", "budget.day", 10**12), ("k:a", "concurrency", 10_000))


class Worker:
    """Limits and a ledger as a gateway has them."""

    def __init__(self, server: RedisServer, folder: Path, *, leased: bool) -> None:
        self.database = Database(schema.Database(url=SecretStr(f"sqlite:///{folder}/s.db")))
        self.ledger = Ledger(self.database, schema.Ledger(journal=str(folder / "journal")), sql_interval=0.2)
        self.spent = spent_in(UsageStore(self.database), self.ledger, dict)
        self.redis = engine(server, lease=2, timeout=0.25, spent=self.spent)
        self.engine: Engine = LeasedEngine(self.redis) if leased else self.redis
        self.admitted = 0

    async def start(self) -> "Worker":
        await self.database.upgrade()
        await self.ledger.start()
        await self.engine.start()
        return self

    async def reserve(self, rid: str, cost: int, patience: float = 0) -> bool:
        until = time.monotonic() + patience
        while True:
            try:
                return not isinstance(await self.engine.reserve(rid, LIMITS, Amounts(cost=cost).vector()), Refused)
            except StoreDown:
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(0.02)

    def finish(self, rid: str, cost: int) -> None:
        self.engine.settle(rid, Amounts(1, cost=cost).vector())
        record = CallRecord(rid, "m", Principal("a", "acme"), started=time.time())
        record.status = 200
        record.attempts.append(Attempt(1, "d", "p", "m", usage=Usage(input=10), cost=cost))
        self.ledger.append(record)

    async def hammer(self, name: str, seconds: float) -> None:
        """Loops of requests that take a while, until the time is over."""
        end = time.monotonic() + seconds

        async def one(loop: int) -> None:
            for number in range(10**9):
                if time.monotonic() > end:
                    return
                rid = f"{name}-{loop}-{number}"
                try:
                    await self.reserve(rid, 1000)
                except StoreDown:
                    await asyncio.sleep(0.02)
                    continue
                self.admitted += 1
                await asyncio.sleep(random.choice((0, 0.01, 0.1, 1.0)))
                self.finish(rid, random.randint(1, 1000))

        await asyncio.gather(*(one(i) for i in range(12)))

    async def reserve_many(self, number: int) -> None:
        """Ten each, for ``b0`` and so on."""
        for i in range(number):
            await self.reserve(f"b{i}", 10)

    def finish_many(self, which: range) -> None:
        """All that was reserved for each."""
        for i in which:
            self.finish(f"b{i}", 10)

    async def used(self, patience: float = 8) -> tuple[int, int, int]:
        """By the counter: spent, reserved and slots."""
        until = time.monotonic() + patience
        while True:
            with contextlib.suppress(StoreDown):
                budget, slots = await self.engine.states(LIMITS)
                return budget.used, budget.reserved, slots.used
            assert time.monotonic() < until
            await asyncio.sleep(0.05)

    async def known(self) -> int:
        """By the ledger."""
        return (await self.spent("acme", "k:a", 0, int(time.time() * 1000) + 60_000)).cost

    async def close(self) -> None:
        await self.engine.close()
        await self.ledger.close()
        await self.database.close()


class Workers:
    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server = server
        self.redis = redis.Redis(port=server.port)
        self._folder = folder
        self._all: list[Worker] = []

    async def start(self, number: int, *, leased: bool = False) -> list[Worker]:
        self._all += [await Worker(self.server, self._folder, leased=leased).start() for _ in range(number)]
        return self._all

    async def agree(self, spent: int | None = None) -> None:
        """Once all is settled the counter is what the ledger says."""
        for worker in self._all:
            await worker.ledger.flush()
        known = await self._all[0].known()
        until = time.monotonic() + 5  # until leases are given back, and every worker has come
        while (await self._all[0].used())[1:] != (0, 0) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)  # nobody holds anything: it stays so
        assert await self._all[0].used() == (known, 0, 0)
        assert spent is None or known == spent

    async def close(self) -> None:
        for worker in self._all:
            await worker.close()


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Workers]:
    server = RedisServer()
    found = Workers(server, tmp_path)
    yield found
    await found.close()
    server.stop()


async def test_rows_that_another_worker_has_not_written_yet_count_after_a_flush(workers: Workers) -> None:
    a, b = await workers.start(2)
    await b.reserve_many(20)
    await a.reserve("a", 10)
    await b.ledger.flush()
    b.finish_many(range(20))
    await b.used()
    workers.redis.flushall()
    await a.reserve("x", 1, patience=5)
    assert (await a.used())[0] == 200
    a.finish("x", 0)
    a.finish("a", 10)
    await workers.agree(210)


async def test_what_is_settled_during_an_outage_counts_once_when_redis_comes_back_empty(workers: Workers) -> None:
    a, b = await workers.start(2)
    await b.reserve_many(20)
    await a.reserve("a", 10)
    workers.server.kill()
    b.finish_many(range(15))
    await asyncio.sleep(1)
    workers.server.start()
    await a.reserve("x", 1, patience=5)
    assert await a.used() == (150, 61, 7)
    b.finish_many(range(15, 20))
    a.finish("x", 0)
    a.finish("a", 10)
    await workers.agree(210)


async def test_a_worker_that_comes_late_has_everybody_begin_again(workers: Workers) -> None:
    """One that had not used the organization begins its counters anew, because it knows of no loss."""
    a, b = await workers.start(2)
    await b.reserve_many(10)
    b.finish_many(range(5))
    await b.used()
    workers.redis.flushall()
    await a.reserve("a", 10)
    a.finish("a", 10)
    assert (await b.used())[1:] == (50, 5)
    b.finish_many(range(5, 10))
    await workers.agree(110)


def flush(workers: Workers) -> None:
    workers.redis.flushall()


def flush_twice(workers: Workers) -> None:
    workers.redis.flushall()
    time.sleep(0.3)
    workers.redis.flushall()


def restart_empty(workers: Workers) -> None:
    workers.server.kill()
    time.sleep(0.2)
    workers.server.start()


def restart_with_a_snapshot(workers: Workers) -> None:
    workers.redis.save()
    time.sleep(0.3)
    restart_empty(workers)


@pytest.mark.parametrize("leased", [False, True], ids=["each by itself", "leased"])
@pytest.mark.parametrize("lose", [flush, flush_twice, restart_empty, restart_with_a_snapshot])
async def test_counters_lost_under_load_end_as_the_ledger(
    workers: Workers, lose: Callable[[Workers], None], leased: bool
) -> None:
    loads = [w.hammer(f"w{i}", 3) for i, w in enumerate(await workers.start(3, leased=leased))]
    running = asyncio.gather(*loads)
    await asyncio.sleep(0.8)
    await asyncio.to_thread(lose, workers)
    await running
    await workers.agree()
