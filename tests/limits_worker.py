"""A gateway worker's limits in a process of its own, driven line by line: what can be killed, stopped and resumed.

python -m tests.limits_worker REDIS_URL LEASE TIMEOUT LEASED      then JSON commands on stdin, one JSON answer each on stdout
"""

import asyncio
import json
import random
import sys
import time
from typing import Any

from pydantic import SecretStr

from config import schema
from gateway.limits.amounts import Amounts
from gateway.limits.engine import Engine, Refused, StoreDown
from gateway.limits.leases import LeasedEngine
from gateway.limits.redis import RedisEngine
from gateway.limits.rules import BUCKET, FIELDS, Limit, LimitSet


def limit_set(shard: str, *limits: tuple[str, str, int]) -> LimitSet:
    """From (scope, option's name, cap)."""
    rows = []
    for scope, name, cap in limits:
        field, kind, period, unit = FIELDS[name]
        rows.append(Limit(scope, field, kind, cap, cap if kind == BUCKET else 0, period, unit))
    return LimitSet(shard, tuple(rows))


class Worker:
    def __init__(self, engine: RedisEngine, name: str, leased: bool = False) -> None:
        self.redis = engine
        self.engine: Engine = LeasedEngine(engine) if leased else engine
        self.name = name
        self.held: list[tuple[str, int]] = []
        self.orphans = 0
        self.charged = 0
        self.number = 0
        engine.on_orphan.append(self.orphan)

    def orphan(self, orphan: Any) -> None:
        self.orphans += 1
        self.charged += orphan.charged[4]

    def rid(self) -> str:
        self.number += 1
        return f"{self.name}.{self.number}"

    async def burst(self, limits: LimitSet, n: int) -> dict[str, Any]:
        """``n`` requests at once; the admitted are never given back."""
        asked = [self.engine.reserve(self.rid(), limits, Amounts().vector()) for _ in range(n)]
        outcomes = await asyncio.gather(*asked)
        return {"admitted": sum(not isinstance(o, Refused) for o in outcomes), "calls": self.calls(limits)}

    def calls(self, limits: LimitSet) -> int:
        return self.redis.shard(limits.shard).calls

    async def hammer(
        self, limits: LimitSet, seconds: float, loops: int, worst: int, pause: float, over: bool = False
    ) -> dict[str, Any]:
        """Loops that reserve a random worst case and settle less, until the time is over."""
        end, totals = time.monotonic() + seconds, dict.fromkeys(("attempts", "admitted", "spent", "down"), 0)

        async def one() -> None:
            while time.monotonic() < end:
                rid, cost = self.rid(), random.randint(1, worst)
                totals["attempts"] += 1
                try:
                    outcome = await self.engine.reserve(rid, limits, Amounts(1, 10, 10, cost).vector())
                except StoreDown:
                    totals["down"] += 1
                    await asyncio.sleep(0.02)
                    continue
                if isinstance(outcome, Refused):
                    await asyncio.sleep(0.02)
                    continue
                totals["admitted"] += 1
                await asyncio.sleep(random.random() * pause)
                actual = random.randint(0, cost)
                self.engine.settle(rid, Amounts(1, 5, 5, actual).vector())
                totals["spent"] += actual

        await asyncio.gather(*(one() for _ in range(loops)))
        return {**totals, "calls": self.calls(limits)}

    async def hold(self, limits: LimitSet, n: int, cost: int, checkpoint: int | None = None) -> dict[str, Any]:
        """Reserve ``n`` and keep them."""
        for _ in range(n):
            rid = self.rid()
            if not isinstance(await self.engine.reserve(rid, limits, Amounts(cost=cost).vector()), Refused):
                self.held.append((rid, cost))
                if checkpoint is not None:
                    self.engine.checkpoint(rid, Amounts(cost=checkpoint).vector())
        await self.drained(limits)
        return {"held": len(self.held)}

    async def settle(self, limits: LimitSet, cost: int) -> dict[str, Any]:
        """Settle all that is held, twice each."""
        for rid, _ in self.held * 2:
            self.engine.settle(rid, Amounts(cost=cost).vector())
        spent, self.held = len(self.held) * cost, []
        await self.drained(limits)
        return {"spent": spent}

    async def drained(self, limits: LimitSet) -> None:
        if isinstance(self.engine, LeasedEngine):
            await self.engine.states(limits)  # gives leases back
        while self.redis.shard(limits.shard)._settles or self.redis.shard(limits.shard)._task:
            await asyncio.sleep(0.002)

    async def pace(self, limits: LimitSet, seconds: float, rate: float) -> dict[str, Any]:
        """Reserve and settle at a steady rate; every latency in seconds, and what failed."""
        latencies: list[float] = []
        totals = {"admitted": 0, "refused": 0, "down": 0}

        async def one() -> None:
            rid, begin = self.rid(), time.perf_counter()
            try:
                outcome = await self.engine.reserve(rid, limits, Amounts(1, 5, 5, 1000).vector())
            except StoreDown:
                totals["down"] += 1
            else:
                totals["refused" if isinstance(outcome, Refused) else "admitted"] += 1
                self.engine.settle(rid, Amounts(1, 5, 5, 1000).vector())
            latencies.append(time.perf_counter() - begin)

        tasks, begin = [], time.perf_counter()
        for i in range(int(seconds * rate)):
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(max(begin + (i + 1) / rate - time.perf_counter(), 0))
        await asyncio.gather(*tasks)
        return {**totals, "latencies": latencies, "calls": self.calls(limits)}

    async def demand(self, limits: LimitSet, n: int, pause: float) -> dict[str, Any]:
        """``n`` requests as fast as they come, each settled at once."""
        totals = {"admitted": 0, "refused": 0}

        async def some() -> None:
            for i in range(n // 20):
                rid = self.rid()
                outcome = await self.engine.reserve(rid, limits, Amounts().vector())
                totals["refused" if isinstance(outcome, Refused) else "admitted"] += 1
                if not isinstance(outcome, Refused):
                    self.engine.settle(rid, Amounts().vector())
                if i % 10 == 0:
                    await asyncio.sleep(pause)

        before = self.calls(limits)
        await asyncio.gather(*(some() for _ in range(20)))
        return {**totals, "calls": self.calls(limits) - before}

    async def told(self) -> dict[str, Any]:
        return {"orphans": self.orphans, "charged": self.charged}


async def main(url: str, lease: float) -> None:
    engine = RedisEngine(schema.Redis(url=SecretStr(url), timeout=float(sys.argv[3])), lease=lease)
    worker = Worker(engine, f"w{random.getrandbits(40):x}", leased=sys.argv[4] == "1")
    await worker.engine.start()
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("{}", flush=True)
    while line := await reader.readline():
        command = json.loads(line)
        if "limits" in command:
            command["limits"] = limit_set(command.pop("shard", "o"), *map(tuple, command["limits"]))
        answer = await getattr(worker, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)
    await worker.engine.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
