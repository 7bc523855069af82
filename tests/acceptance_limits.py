"""The acceptance list of limits, with real processes, real Redis, real kills: prints every figure.

python -m tests.acceptance_limits [scenario ...]     at full size; the tests run the same in small
"""

import asyncio
import contextlib
import inspect
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from config import schema
from gateway.limits.amounts import Amounts
from gateway.limits.engine import Refused, StoreDown
from gateway.limits.memory import MemoryEngine
from gateway.limits.redis import RedisEngine

from .fault_proxy import FaultProxy
from .limits_worker import Worker, limit_set
from .servers import RedisServer

ROOT = Path(__file__).parents[1]
DOLLAR = 10**9


class Process:
    """A worker in a process of its own."""

    async def start(self, url: str, lease: float = 10, timeout: float = 5, leased: bool = True) -> "Process":
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.limits_worker", url, str(lease), str(timeout), str(int(leased))),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=2**24,
        )
        await self.answer()
        return self

    async def answer(self) -> Any:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 90)
        assert line, "the worker died"
        return json.loads(line)

    def send(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def do(self, what: str, **arguments: Any) -> Any:
        self.send(what, **arguments)
        return await self.answer()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@contextlib.asynccontextmanager
async def processes(n: int, url: str, **options: float) -> AsyncIterator[list[Process]]:
    found = await asyncio.gather(*(Process().start(url, **options) for _ in range(n)))
    try:
        yield found
    finally:
        await asyncio.gather(*(p.stop() for p in found))


def on(server: RedisServer) -> "redis.Redis[Any]":
    return redis.Redis(port=server.port, decode_responses=True)


def engine(server: RedisServer | str, **options: Any) -> RedisEngine:
    url = server if isinstance(server, str) else server.url
    timeout = options.pop("timeout", 5)
    return RedisEngine(schema.Redis(url=SecretStr(url), timeout=timeout, **options.pop("redis", {})), **options)


async def admitted_exactly(server: RedisServer, workers: int = 8, requests: int = 10_000, times: int = 50) -> Any:
    """1. Of 10,000 requests at once in 8 processes exactly the limit of 1,000 is admitted, every time."""
    calls = []
    async with processes(workers, server.url) as all_:
        for i in range(times):
            limits = [["o:org", "rpd", 1000]]
            each = {"do": "burst", "shard": f"x{i}", "limits": limits, "n": requests // workers}
            for p in all_:
                p.send(**each)
            answers = [await p.answer() for p in all_]
            assert sum(a["admitted"] for a in answers) == 1000
            calls.append(sum(a["calls"] for a in answers))
    return {"times": times, "admitted each time": 1000, "calls of Redis (median)": statistics.median(calls)}


async def rate_exactly(server: RedisServer, workers: int = 8, seconds: float = 5) -> Any:
    """1b. A bucket under constant demand admits exactly what flowed in, to the millisecond of Redis' clock."""
    limits = [["o:org", "rpm", 60_000]]
    r = on(server)
    async with processes(workers, server.url) as all_:
        await all_[0].do("hold", limits=limits, n=0, cost=0, shard="rate")
        drain = engine(server)
        await drain.start()
        await drain.reserve("drain", limit_set("rate", ("o:org", "rpm", 60_000)), (60_000, 0, 0, 0, 0, 1))
        key = "l:{rate}:o:org"
        level, begin = map(int, r.hmget(key, "rl", "rt"))  # type: ignore[arg-type]
        for p in all_:
            p.send("hammer", limits=limits, shard="rate", seconds=seconds, loops=30, worst=1, pause=0)
        answers = [await p.answer() for p in all_]
        left, end = map(int, r.hmget(key, "rl", "rt"))  # type: ignore[arg-type]
        await drain.close()
    admitted = sum(a["admitted"] for a in answers)
    assert admitted * 60_000 == level + (end - begin) * 60_000 - left
    return {"seconds": seconds, "admitted": admitted, "flowed in": end - begin, "level left": left / 60_000}


async def money(server: RedisServer, workers: int = 8, loops: int = 150, seconds: float = 5) -> Any:
    """2. Processes hammer a budget of a dollar with random worst cases: never over, and every nano-dollar accounted."""
    r = on(server)
    highest, samples, done = 0, 0, False

    async def watch() -> None:
        nonlocal highest, samples
        while not done:
            spent, reserved = r.hmget("l:{money}:o:org", "$ds", "$dr")
            highest, samples = max(highest, int(spent or 0) + int(reserved or 0)), samples + 1
            await asyncio.sleep(0.003)

    async with processes(workers, server.url) as all_:
        watcher = asyncio.create_task(watch())
        for i, p in enumerate(all_):
            limits = [["o:org", "budget.day", DOLLAR], [f"k:{i}", "budget.day", DOLLAR]]
            p.send("hammer", limits=limits, shard="money", seconds=seconds, loops=loops, worst=3_000_000, pause=0.1)
        answers = [await p.answer() for p in all_]
        for p in all_:
            await p.do("settle", shard="money", limits=[["o:org", "budget.day", DOLLAR]], cost=0)
        done = True
        await watcher
    state = {k: int(v) for k, v in r.hgetall("l:{money}:o:org").items() if k in ("$ds", "$dr")}
    spent = sum(a["spent"] for a in answers)
    attempts, admitted = (sum(a[k] for a in answers) for k in ("attempts", "admitted"))
    assert highest <= DOLLAR
    assert state == {"$ds": spent, "$dr": 0}
    if attempts > 2 * admitted:  # it was exhausted: less is left than the smallest request could have been
        assert DOLLAR - spent < 3_000_000
    figures = {"attempts": attempts, "admitted": admitted, "calls": sum(a["calls"] for a in answers)}
    return {**figures, "highest spent + reserved": highest, "samples": samples, "spent": spent, "clients' sum": spent}


FOURTEEN = [
    *((s, n) for s in ("k:a", "u:b", "t:c") for n in ("rpm", "tpm", "rpd", "budget.day")),
    ("o:d", "concurrency"),
    ("o:d", "budget.total"),
]


async def all_or_nothing(server: RedisServer) -> Any:
    """3. Of 14 limits one fails, in every position: nothing changes in any, byte for byte."""
    e, r = engine(server), on(server)
    await e.start()
    full = limit_set("all", *((s, n, 1000) for s, n in FOURTEEN))
    need = Amounts(1, 1, 1, 3).vector()
    await e.reserve("first", full, need)
    keys = sorted(k for k in r.keys("l:{all}:*") if k.split(":")[2] in "kuto")
    assert len(keys) == 4
    plain = redis.Redis(port=server.port)
    before = [plain.dump(k) for k in keys]
    for bad in range(len(FOURTEEN)):
        tight = limit_set("all", *((s, n, 0 if i == bad else 1000) for i, (s, n) in enumerate(FOURTEEN)))
        outcome = await e.reserve(f"r{bad}", tight, need)
        assert isinstance(outcome, Refused)
        assert outcome.position == bad
        assert [plain.dump(k) for k in keys] == before
    await e.close()
    return {"positions": len(FOURTEEN), "hashes byte-equal": True}


async def killed(server: RedisServer, workers: int = 8, dead: int = 3, each: int = 70, lease: float = 2) -> Any:
    """4. kill -9 of 3 of 8 processes: slots back within a lease, money charged once though all others race to reap."""
    single = await _killed(server, workers, dead, each, lease, leased=False)
    assert single.pop("orphans") == dead * each
    leased = await _killed(server, workers, dead, each, lease, leased=True)
    assert dead <= leased["orphans"] <= dead * each  # what ran on leases is settled with its lease
    return {"in flight of the killed": dead * each, "lease s": lease, "one by one": single, "on leases": leased}


async def _killed(
    server: RedisServer, workers: int, dead: int, each: int, lease: float, leased: bool
) -> dict[str, Any]:
    limits = [["o:org", "concurrency", 10_000], ["o:org", "budget.day", DOLLAR]]
    r = on(server)
    shard = f"killed{each}{leased}"
    key = f"l:{{{shard}}}:o:org"
    async with processes(workers, server.url, lease=lease, leased=leased) as all_:
        for p in all_:
            await p.do("hold", limits=limits, shard=shard, n=each, cost=1000, checkpoint=300 if p is all_[0] else None)
        assert r.hmget(key, "cn", "$dr") == [str(workers * each), str(workers * each * 1000)]
        for p in all_[:dead]:
            p.signal(signal.SIGKILL)
        begin, left = time.monotonic(), (workers - dead) * each
        while r.hmget(key, "cn", "$dr") != [str(left), str(left * 1000)]:
            assert time.monotonic() - begin < lease + 5, r.hgetall(key)
            await asyncio.sleep(0.01)
        took = time.monotonic() - begin
        await asyncio.sleep(1.5)
        charged = each * 300 + (dead - 1) * each * 1000
        assert int(r.hget(key, "$ds") or 0) == charged
        told = [await p.do("told") for p in all_[dead:]]
        assert sum(t["charged"] for t in told) == charged
        assert took <= lease + 1.5  # a reaper looks every lease / 4, at most a second
        for p in all_[dead:]:
            await p.do("settle", limits=limits, shard=shard, cost=10)
    assert r.hmget(key, "cn", "$dr", "$ds") == ["0", "0", str(charged + left * 10)]
    return {"all back after s": round(took, 2), "orphans": sum(t["orphans"] for t in told)}


async def stopped(server: RedisServer, seconds: float = 30, lease: float = 2) -> Any:
    """5. A process stopped for longer than its lease: reaped, then resumed; each cost counts once, at what it was."""
    limits = [["o:org", "concurrency", 100], ["o:org", "budget.day", DOLLAR], ["o:org", "tpm", 10_000]]
    r = on(server)
    shard, key = f"stopped{seconds}", f"l:{{stopped{seconds}}}:o:org"
    async with processes(2, server.url, lease=lease) as (victim, *others):
        for p in (victim, *others):
            await p.do("hold", limits=limits, shard=shard, n=20, cost=1000)
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        during = r.hmget(key, "cn", "$ds", "$dr")
        assert during == ["20", "20000", "20000"], during
        victim.signal(signal.SIGCONT)
        spent = 0
        for p in (victim, *others):
            spent += (await p.do("settle", limits=limits, shard=shard, cost=700))["spent"]
        assert (await victim.do("hold", limits=limits, shard=shard, n=5, cost=10))["held"] == 5
        await asyncio.sleep(lease * 1.5)
        assert r.hmget(key, "cn", "$ds", "$dr") == ["5", str(spent), "50"]  # alive again: not reaped
        await victim.do("settle", limits=limits, shard=shard, cost=0)
    assert r.hmget(key, "cn", "$ds", "$dr") == ["0", str(spent), "0"]
    assert spent == 40 * 700
    return {"stopped s": seconds, "charged meanwhile": 20_000, "after resuming, Redis": spent, "clients' sum": spent}


async def lost_replies(server: RedisServer, seconds: float = 5, lose: float = 0.05) -> Any:
    """6. 5 % of the replies are lost, by a broken connection or by silence: no drift after all has settled."""
    figures: dict[str, Any] = {}
    for hang in (False, True):
        proxy = await FaultProxy(server.port).start()
        e = engine(f"redis://127.0.0.1:{proxy.port}/0", timeout=0.25)
        await e.start()
        proxy.lose, proxy.hang = lose, hang
        worker = Worker(e, f"l{hang}", leased=True)
        shard = f"lost{hang}"
        limits = limit_set(
            shard, ("o:org", "budget.day", 10**12), ("o:org", "concurrency", 500), ("o:org", "rpd", 10**9)
        )
        totals = await worker.hammer(limits, seconds, 20, 1000, 0.02)
        proxy.lose = 0
        for _ in range(500):
            if not e.shard(shard).is_busy:
                break
            await asyncio.sleep(0.02)
        await worker.drained(limits)
        state = {k: int(v) for k, v in on(server).hgetall(f"l:{{{shard}}}:o:org").items() if k[-1] in "snr"}
        assert proxy.lost > 3
        assert (state["$ds"], state["$dr"], state["cn"], state["Rr"]) == (totals["spent"], 0, 0, 0), (state, totals)
        assert state["Rs"] == totals["admitted"]
        name = "silence" if hang else "broken connection"
        figures[name] = {"lost": proxy.lost, **totals, "drift": state["$ds"] - totals["spent"]}
        await e.close()
        await proxy.close()
    return figures


async def script_flush(server: RedisServer, seconds: float = 5) -> Any:
    """7a. SCRIPT FLUSH every 3 ms: no error, exact."""
    e, r = engine(server), on(server)
    await e.start()
    worker, limits = Worker(e, "flush"), limit_set("flush", ("o:org", "budget.day", 10**12))
    task = asyncio.create_task(worker.hammer(limits, seconds, 20, 1000, 0.005))
    flushes = 0
    while not task.done():
        r.script_flush()
        flushes += 1
        await asyncio.sleep(0.003)
    totals = await task
    await worker.drained(limits)
    assert totals["down"] == 0
    assert r.hmget("l:{flush}:o:org", "$ds", "$dr") == [str(totals["spent"]), "0"]
    await e.close()
    return {"flushes": flushes, **totals}


class Ledger:
    """What is durable elsewhere: money by scope."""

    def __init__(self) -> None:
        self.cost: dict[str, int] = {}
        self.asked = 0

    async def __call__(self, _: str, scope: str, start: int, end: int, without: Sequence[str] = ()) -> Amounts:
        self.asked += 1
        assert start < end
        return Amounts(0, 0, 0, self.cost.get(scope, 0))


async def flushed(server: RedisServer, lease: float = 2) -> Any:
    """7b. FLUSHALL with requests in flight: closed until every worker restored its own, then counted on from the ledger."""
    ledger = Ledger()
    engines = [engine(server, lease=lease, spent=ledger) for _ in range(3)]
    limits = limit_set("lost", ("o:org", "budget.day", 10_000), ("o:org", "concurrency", 100))
    for e in engines:
        await e.start()
    for i, e in enumerate(engines):
        for j in range(10):
            await e.reserve(f"{i}.{j}", limits, Amounts(cost=200).vector())
        for j in range(5):
            e.settle(f"{i}.{j}", Amounts(cost=100).vector())
        ledger.cost["o:org"] = ledger.cost.get("o:org", 0) + 500
    await asyncio.sleep(0.1)
    on(server).flushall()
    begin, refusals = time.monotonic(), 0
    while True:
        try:
            outcome = await engines[0].reserve(f"new{refusals}", limits, Amounts(cost=5500).vector())
            break
        except StoreDown:
            refusals += 1
            await asyncio.sleep(0.05)
    took = time.monotonic() - begin
    budget, slots = outcome.states()
    assert not isinstance(outcome, Refused)
    assert (budget.used, budget.reserved, slots.used) == (1500, 15 * 200 + 5500, 16)
    # 10,000 less 1,500 spent and 8,500 reserved: nothing is left
    assert isinstance(await engines[1].reserve("more", limits, Amounts(cost=1).vector()), Refused)
    for i, e in enumerate(engines):
        for j in range(5, 10):
            e.settle(f"{i}.{j}", Amounts(cost=100).vector())
    engines[0].settle(f"new{refusals}", Amounts(cost=0).vector())
    await asyncio.sleep(0.2)
    states = await engines[2].states(limits)
    assert [(s.used, s.reserved) for s in states] == [(3000, 0), (0, 0)]
    for e in engines:
        await e.close()
    return {
        "refused meanwhile": refusals,
        "open again after s": round(took, 2),
        "spent": 3000,
        "ledger asked": ledger.asked,
    }


async def old_snapshot(lease: float = 2, server: RedisServer | None = None) -> Any:
    """8a. Redis dies and comes back with a snapshot from before: what it forgot is restored from ledger and workers."""
    own = RedisServer()
    ledger = Ledger()
    e = engine(own, lease=lease, spent=ledger, timeout=0.25)
    await e.start()
    limits = limit_set("old", ("o:org", "budget.day", 100_000), ("o:org", "concurrency", 100))
    try:
        for j in range(30):
            await e.reserve(f"a{j}", limits, Amounts(cost=200).vector())
        await asyncio.to_thread(on(own).save)
        for j in range(30):  # what the snapshot shows as reserved is settled, and others are reserved
            e.settle(f"a{j}", Amounts(cost=150).vector())
        ledger.cost["o:org"] = 30 * 150
        for j in range(7):
            await e.reserve(f"b{j}", limits, Amounts(cost=200).vector())
        own.kill()
        await asyncio.sleep(0.3)
        own.start()
        begin = time.monotonic()
        while True:
            with contextlib.suppress(StoreDown):
                outcome = await e.reserve("probe", limits, Amounts(cost=1).vector())
                break
            assert time.monotonic() - begin < 20
            await asyncio.sleep(0.02)
        took = time.monotonic() - begin
        e.settle("probe", Amounts(cost=1).vector())
        await asyncio.sleep(lease)
        budget, slots = await e.states(limits)
        assert (budget.used, budget.reserved, slots.used) == (4501, 1400, 7), (budget, slots, outcome)
        for j in range(7):
            e.settle(f"b{j}", Amounts(cost=100).vector())
        await asyncio.sleep(0.2)
        budget, slots = await e.states(limits)
        assert (budget.used, budget.reserved, slots.used) == (5201, 0, 0)
        await e.close()
    finally:
        own.stop()
    return {"open again after s": round(took, 2), "|Redis - ledger|": 0}


async def failover(lease: float = 2, server: RedisServer | None = None) -> Any:
    """8b. A replica that lags takes over: no drift against the ledger, no slot lost."""
    primary = RedisServer()
    link = await FaultProxy(primary.port).start()
    replica = RedisServer("--replicaof", "127.0.0.1", str(link.port))
    proxy = await FaultProxy(primary.port).start()
    ledger = Ledger()
    e = engine(f"redis://127.0.0.1:{proxy.port}/0", lease=lease, spent=ledger, timeout=0.25)
    try:
        for _ in range(200):
            if (await asyncio.to_thread(on(replica).info, "replication")).get("master_link_status") == "up":
                break
            await asyncio.sleep(0.05)
        await e.start()
        worker = Worker(e, "f")
        limits = limit_set("fail", ("o:org", "budget.day", 10**12), ("o:org", "concurrency", 500))
        before = await worker.hammer(limits, 0.5, 20, 1000, 0.01)
        await asyncio.sleep(0.1)
        link.target = 1
        link.cut()  # it lags from here on
        lagging = await worker.hammer(limits, 0.5, 20, 1000, 0.01)
        for i in range(9):
            await e.reserve(f"held{i}", limits, Amounts(cost=50).vector())
        await worker.drained(limits)
        primary.kill()
        on(replica).replicaof("NO", "ONE")
        ledger.cost["o:org"] = spent = before["spent"] + lagging["spent"]
        lost = spent - int(on(replica).hget("l:{fail}:o:org", "$ds") or 0)
        proxy.target = replica.port
        proxy.cut()
        begin = time.monotonic()
        while True:
            with contextlib.suppress(StoreDown):
                await e.reserve("probe", limits, Amounts(cost=1).vector())
                break
            assert time.monotonic() - begin < 20
            await asyncio.sleep(0.02)
        took = time.monotonic() - begin
        e.settle("probe", Amounts(cost=0).vector())
        await asyncio.sleep(lease)
        budget, slots = await e.states(limits)
        assert (budget.used, budget.reserved, slots.used) == (spent, 450, 9), (budget, slots, spent)
        for i in range(9):
            e.settle(f"held{i}", Amounts(cost=0).vector())
        await asyncio.sleep(0.2)
        assert [(s.used, s.reserved) for s in await e.states(limits)] == [(spent, 0), (0, 0)]
        await e.close()
    finally:
        await proxy.close()
        await link.close()
        primary.stop()
        replica.stop()
    return {"nano-dollars the replica had missed": lost, "open again after s": round(took, 2), "|Redis - ledger|": 0}


async def frozen(server: RedisServer, seconds: float = 5, rate: float = 200) -> Any:
    """9. Redis freezes: nobody waits long, the breaker opens, and it recovers."""
    own = RedisServer()
    e = engine(own, timeout=0.25)
    try:
        await e.start()
        worker, limits = Worker(e, "z"), limit_set("frozen", ("o:org", "budget.day", 10**15))
        calm = await worker.pace(limits, 1, rate)
        with own.frozen():
            tight = asyncio.create_task(worker.pace(limits, seconds, rate))
            await asyncio.sleep(1)
            opened = e._breaker.is_open
            result = await tight
        begin = time.monotonic()
        while True:
            with contextlib.suppress(StoreDown):
                await e.reserve("probe", limits, Amounts().vector())
                break
            await asyncio.sleep(0.01)
        recovered = time.monotonic() - begin
        e.settle("probe", Amounts(1, 0, 0, 0).vector())
        await worker.drained(limits)
        (budget,) = await e.states(limits)
        worst = sorted(result["latencies"])
        p99 = worst[int(len(worst) * 0.99)]
        assert calm["down"] == 0
        assert result["down"] == len(worst)
        assert opened
        assert p99 <= 0.3, p99
        assert recovered < 2
        assert (budget.used, budget.reserved) == (calm["admitted"] * 1000, 0)
        await e.close()
    finally:
        own.stop()
    return {
        "frozen s": seconds,
        "requests": len(worst),
        "p99 s": round(p99, 3),
        "worst s": round(worst[-1], 3),
        "recovered after s": round(recovered, 2),
    }


async def cancelled(server: RedisServer, requests: int = 5000) -> Any:
    """13. Requests are cancelled at random while they reserve: no slot and no cent stays behind."""
    e = engine(server)
    await e.start()
    limits = limit_set("storm", ("o:org", "concurrency", 10**6), ("o:org", "budget.day", 10**12))

    async def one(i: int) -> None:
        await e.reserve(f"r{i}", limits, Amounts(cost=5).vector())
        try:
            await asyncio.sleep(0.01)
        finally:
            e.settle(f"r{i}", Amounts(cost=1).vector())

    before = len(asyncio.all_tasks())
    tasks = []
    for i in range(requests):
        tasks.append(asyncio.create_task(one(i)))
        if random.random() < 0.9:
            asyncio.get_running_loop().call_later(random.random() * 0.02, tasks[-1].cancel)
        if i % 20 == 0:
            await asyncio.sleep(0.001)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(200):
        if not e.shard("storm").is_busy:
            break
        await asyncio.sleep(0.01)
    slots, budget = await e.states(limits)
    assert (slots.used, budget.reserved) == (0, 0)
    assert len(asyncio.all_tasks()) <= before + 1
    aborted = sum(isinstance(d, asyncio.CancelledError) for d in done)
    assert requests * 0.3 < aborted < requests
    await e.close()
    return {"requests": requests, "aborted": aborted, "slots in use": 0, "reserved": 0}


class Cluster:
    """Three primaries on loopback."""

    def __init__(self) -> None:
        # A node's bus is at its port + 10,000; both are below the ports that the system gives to connections.
        base = random.SystemRandom().randrange(11_000, 22_700, 10)  # a seeded one meets the servers of another run
        common = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        self.nodes: list[RedisServer] = []
        try:
            for i in range(3):
                self.nodes.append(RedisServer(*common, port=base + i))
        except OSError:
            for node in self.nodes:
                node.stop()
            raise
        self.clients = [redis.Redis(port=n.port, decode_responses=True) for n in self.nodes]
        for i, client in enumerate(self.clients):
            low, high = 16384 * i // 3, 16384 * (i + 1) // 3
            client.execute_command("CLUSTER", "ADDSLOTS", *range(low, high))
            client.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "no")
        for client in self.clients[1:]:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        self.url = f"redis+cluster://127.0.0.1:{base}"
        self.ids = [c.execute_command("CLUSTER", "MYID") for c in self.clients]

    async def ready(self) -> None:
        for _ in range(300):
            infos = [str(c.execute_command("CLUSTER", "INFO")) for c in self.clients]
            if all(
                "cluster_known_nodes" in i and ("3" in i.split("cluster_known_nodes")[1][:5]) and "ok" in i
                for i in infos
            ):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the cluster did not form")

    def owner(self, slot: int) -> int:
        for first, last, (_, port, *_), *_ in self.clients[0].execute_command("CLUSTER", "SLOTS"):
            if int(first) <= slot <= int(last):
                return [n.port for n in self.nodes].index(int(port))
        raise AssertionError(slot)

    def move(self, slot: int) -> None:
        """Reshard one slot to the next node, key by key, as redis-cli does."""
        source = self.owner(slot)
        target = (source + 1) % 3
        a, b = self.clients[source], self.clients[target]
        b.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        a.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])
        while keys := a.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 2):
            for key in keys:
                a.execute_command("MIGRATE", "127.0.0.1", self.nodes[target].port, key, 0, 5000, "REPLACE")
        for client in (b, a, *self.clients):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


async def cluster(server: RedisServer | None = None, seconds: float = 5, moves: int = 6, workers: int = 3) -> Any:
    """16. Redis Cluster of three primaries, the organization's slot moving from node to node meanwhile: exact."""
    nodes = Cluster()
    try:
        await nodes.ready()
        async with processes(workers, nodes.url, timeout=1) as all_:
            limits = [["o:org", "budget.day", 10**12], ["k:a", "rpm", 10**9], ["o:org", "concurrency", 10_000]]
            slot = int(nodes.clients[0].execute_command("CLUSTER", "KEYSLOT", "{acme}"))
            for p in all_:
                p.send("hammer", limits=limits, shard="acme", seconds=seconds, loops=20, worst=1000, pause=0.01)
            for _ in range(moves):
                await asyncio.sleep(seconds / (moves + 1))
                await asyncio.to_thread(nodes.move, slot)
            answers = [await p.answer() for p in all_]
            for p in all_:
                await p.do("settle", limits=limits, shard="acme", cost=0)
        spent = sum(a["spent"] for a in answers)
        state = nodes.clients[nodes.owner(slot)].hmget("l:{acme}:o:org", "$ds", "$dr", "cn")
        assert state == [str(spent), "0", "0"], (state, spent)
    finally:
        nodes.stop()
    totals = {k: sum(a[k] for a in answers) for k in ("attempts", "admitted", "down", "spent")}
    return {**totals, "slot moved": moves, "drift": 0}


async def leased(
    server: RedisServer,
    workers: int = 8,
    limit: int = 100_000,
    demand: int = 160_000,
    lease: float = 2,
    most: float = 0.01,
) -> Any:
    """11. Leases: never over, a fraction of a call per request; kill -9 with leases charges no more than they held.

    ``most``: calls per request. Leases are had so many times a second, so a machine that is busy has more of them.
    """
    limits, key = [["o:org", "rpd", limit]], "l:{leased}:o:org"
    r = on(server)
    async with processes(workers, server.url, lease=lease, leased=True) as all_:
        for p in all_:
            p.send("demand", shard="leased", limits=limits, n=demand // workers, pause=0.002)
        answers = [await p.answer() for p in all_]
        totals = {k: sum(a[k] for a in answers) for k in ("admitted", "refused", "calls")}
        assert totals["admitted"] == limit
        await asyncio.sleep(1)  # leases are over
        assert r.hmget(key, "Rs", "Rr") == [str(limit), "0"]
        wide = [["o:org", "rpd", 10**9]]
        for p in all_[:2]:
            p.send("demand", shard="killed leases", limits=wide, n=10**7, pause=0.002)
        await asyncio.sleep(1.5)
        for p in all_[:2]:
            p.signal(signal.SIGKILL)
        await all_[2].do("burst", shard="killed leases", limits=wide, n=1)
        await asyncio.sleep(lease + 2)
        spent, reserved = map(int, r.hmget("l:{killed leases}:o:org", "Rs", "Rr"))  # type: ignore[arg-type]
        assert reserved == 1
        assert spent > 0
    per = totals["calls"] / demand
    assert per <= most, per
    return {
        **totals,
        "limit": limit,
        "calls per request": round(per, 5),
        "left reserved of the killed": 0,
    }


async def outage_share(server: RedisServer, workers: int = 4, limit: int = 400) -> Any:
    """9b. While Redis is away every worker admits its share of a rate: together not more than the limit."""
    from gateway.call import Owner, Principal
    from gateway.errors import LimitExceeded, StoreUnavailable
    from gateway.limits import Limiter
    from gateway.limits.rules import Rules

    own = RedisServer()
    gates = [Limiter(engine(own, lease=1, timeout=0.25), Rules()) for _ in range(workers)]
    who = Principal("a", "acme", owners=(Owner("k:a", schema.Limits(rpm=limit, concurrency=100_000)),))
    rich = Principal("b", "acme", owners=(Owner("k:b", schema.Limits(budget=schema.Budget(day="5"))),))  # type: ignore[arg-type]
    try:
        for gate in gates:
            await gate.start()
        for i, gate in enumerate(gates):
            (await gate.reserve(f"first{i}", who, "m", "default", Amounts())).settle(Amounts())
        await asyncio.sleep(0.6)  # heartbeats: each knows how many there are
        own.kill()
        admitted, closed, held = 0, 0, []
        for gate in gates:
            with contextlib.suppress(StoreUnavailable):
                await gate.reserve("open", rich, "m", "default", Amounts(cost=1))
            for i in range(limit):
                try:
                    held.append(await gate.reserve(f"r{id(gate)}.{i}", who, "m", "default", Amounts()))
                    admitted += 1
                except LimitExceeded:
                    pass
            try:
                await gate.reserve("money", rich, "m", "default", Amounts(cost=1))
            except StoreUnavailable:
                closed += 1
        assert closed == workers
        assert limit * 0.9 <= admitted <= limit, admitted
        for reservation in held:
            reservation.settle(Amounts())
        own.start()
        await asyncio.sleep(3)
        slots = (await gates[0].usage(who.owners[0], "acme"))[1]
        assert slots.used == 0
        for gate in gates:
            await gate.close()
    finally:
        own.stop()
    return {"workers": workers, "limit": limit, "admitted in the outage": admitted, "budgets closed": closed}


async def benchmark(server: RedisServer, seconds: float = 5) -> Any:
    """20. Latency added at 500 a second, and calls per request when saturated; 6 limits each."""
    limits = limit_set(
        "bench",
        *(("k:a", n, 10**9) for n in ("rpm", "tpm", "concurrency", "budget.day")),
        *(("o:org", n, 10**10) for n in ("rpm", "budget.month")),
    )
    e = engine(server)
    await e.start()
    worker = Worker(e, "bench")
    await worker.pace(limits, 1, 500)
    paced = await worker.pace(limits, seconds, 500)
    ordered = sorted(paced["latencies"])
    calls, begin, number = e.shard("bench").calls, time.perf_counter(), 20_000
    cpu = time.process_time()
    semaphore = asyncio.Semaphore(128)

    async def one(i: int) -> None:
        async with semaphore:
            rid = f"b{i}"
            await e.reserve(rid, limits, Amounts(1, 5, 5, 1000).vector())
            e.settle(rid, Amounts(1, 5, 5, 1000).vector())

    await asyncio.gather(*(one(i) for i in range(number)))
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    per = (e.shard("bench").calls - calls) / number
    await e.close()
    return {
        "p50 ms at 500/s": round(ordered[len(ordered) // 2] * 1000, 2),
        "p99 ms at 500/s": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        "requests/s saturated, one process": round(number / took),
        "client CPU us per request": round(cpu / number * 1e6, 1),
        "calls per request": round(per, 4),
    }


async def embedded(server: RedisServer, number: int = 50_000) -> Any:
    """2j. CPU that reserving and settling 6 limits takes in memory."""
    limits = limit_set(
        "bench",
        *(("k:a", n, 10**9) for n in ("rpm", "tpm", "concurrency", "budget.day")),
        *(("o:org", n, 10**10) for n in ("rpm", "budget.month")),
    )
    memory, need = MemoryEngine(), Amounts(1, 5, 5, 1000).vector()
    await memory.reserve("first", limits, need)
    best = float("inf")
    for _ in range(5):
        cpu = time.process_time()
        for _ in range(number // 5):
            await memory.reserve("r", limits, need)
            memory.settle("r", need)
        best = min(best, (time.process_time() - cpu) / (number // 5))
    assert best < 50e-6
    return {"us per request": round(best * 1e6, 1)}


SCENARIOS: Sequence[Callable[..., Awaitable[Any]]] = (
    admitted_exactly,
    rate_exactly,
    money,
    all_or_nothing,
    killed,
    stopped,
    lost_replies,
    script_flush,
    flushed,
    old_snapshot,
    failover,
    frozen,
    outage_share,
    cancelled,
    cluster,
    leased,
    benchmark,
    embedded,
)


def main(names: Sequence[str]) -> None:
    server = RedisServer()
    failed = []
    try:
        for scenario in SCENARIOS:
            if names and scenario.__name__ not in names:
                continue
            redis.Redis(port=server.port).flushall()
            begin = time.monotonic()
            try:
                figures: Any = asyncio.run(scenario(server=server))  # type: ignore[arg-type]
            except Exception as e:
                failed.append(scenario.__name__)
                figures = f"FAILED: {e!r}"
            print(f"{inspect.getdoc(scenario)}\n    {figures}   ({time.monotonic() - begin:.1f} s)", flush=True)
    finally:
        server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    os.chdir(ROOT)
    main(sys.argv[1:])
