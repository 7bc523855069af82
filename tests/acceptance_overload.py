"""``make overload``: three times too much of every service tier, for minutes, over HTTP. Prints every figure.

Real gateway processes, alone and as two replicas that share a Redis, in front of an upstream that serves so many
requests at once and refuses the others with 429. The upstream and the clients are in this process, so that what served
and what was waited for is known on one clock.
"""

import argparse
import asyncio
import contextlib
import json
import math
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from .chaos.traffic import Figures
from .running import KEY
from .servers import RedisServer, free_port

TIERS = ("priority", "default", "flex")
NUMBERS = {-10: "priority", 0: "default", 10: "flex"}
"""The numeric priority that the gateway sends: what the upstream knows a request's tier by."""
PARTS = {"priority": 0.6, "default": 1.4, "flex": 1.0}
"""What each tier asks for, in times of the capacity: three times too much, each three times its usual part."""
GREEDY, OTHERS = 10.0, 9
"""One key of default asks ten times as much as each of so many others."""
PROMPT, ANSWER = 10, 4
MULTIPLIERS = {"default": 2, "flex": 1, "priority": 4}
"""Halves of the price."""


@dataclass
class Upstream:
    """Serves ``capacity`` requests at once, each for about ``seconds``."""

    capacity: int
    seconds: float
    url: str = ""
    running: Counter[str] = field(default_factory=Counter)
    begun: dict[str, float] = field(default_factory=dict)
    """Mark of a request -> when it came here."""
    served: dict[str, str] = field(default_factory=dict)
    """Mark -> tier."""
    most: int = 0
    refused: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(5))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        mark, tier = body["messages"][0]["content"], NUMBERS[body["priority"]]
        self.begun[mark] = time.monotonic()
        if self.running.total() >= self.capacity:
            self.refused += 1
            error = {"message": "Too many requests", "type": "requests", "code": "rate_limit_exceeded"}
            return web.json_response({"error": error}, status=429)
        self.running[tier] += 1
        self.most = max(self.most, self.running.total())
        try:
            seconds = min(self.rng.lognormvariate(math.log(self.seconds) - 0.18, 0.6), 4 * self.seconds)
            self.served[mark] = tier
            if body.get("stream"):
                return await self._stream(request, seconds)
            await asyncio.sleep(seconds)
            message = {"role": "assistant", "content": "one two"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({**head("chat.completion"), "choices": [choice], "usage": USAGE})
        finally:
            self.running[tier] -= 1

    async def _stream(self, request: web.Request, seconds: float) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await asyncio.sleep(seconds / 4)
        await response.prepare(request)
        for delta, finish, pause in (({"role": "assistant", "content": "one"}, None, seconds * 3 / 4), ({}, "stop", 0)):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await response.write(frame({**head("chat.completion.chunk"), "choices": [choice]}))
            await asyncio.sleep(pause)
        await response.write(
            frame({**head("chat.completion.chunk"), "choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"
        )
        return response


USAGE = {"prompt_tokens": PROMPT, "completion_tokens": ANSWER, "total_tokens": PROMPT + ANSWER}


def head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "m"}


def frame(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


@dataclass(frozen=True)
class Promised:
    """What is measured in requests, and over seconds in a few of them; and what a death may cost."""

    share: float = 0.9
    good: float = 0.85
    """Answers in times of what is possible: a machine that does other things gives fewer."""
    wait: float = 2
    """Seconds, of priority, p99."""
    progress: float = 0.01


@dataclass
class Seen:
    """What one tier met with."""

    asked: int = 0
    served: int = 0
    cut: int = 0
    """In flight at a gateway that was killed."""
    in_window: int = 0
    patient: int = 0
    """Of flex in the window: those that waited for it and were served."""
    refused: Counter[str] = field(default_factory=Counter)
    """By status and code."""
    waits: list[float] = field(default_factory=list)
    by_key: Counter[str] = field(default_factory=Counter)
    first_refusal: float = math.inf

    @property
    def success(self) -> float:
        return self.served / (self.asked - self.cut)

    def wait(self, quantile: float) -> float:
        ordered = sorted(self.waits)
        return ordered[min(int(len(ordered) * quantile), len(ordered) - 1)] if ordered else 0.0


class Clients:
    """Everybody who asks. ``told`` keeps the tier of every answer by the id of the request."""

    def __init__(self, upstream: Upstream, urls: list[str]) -> None:
        self.seen = {tier: Seen() for tier in TIERS}
        self.told: dict[str, tuple[str, str]] = {}
        """Request id -> (mark, tier that the answer and all its chunks named)."""
        self.flex_in_flight: list[int] = []
        """At the upstream, whenever one of default was refused."""
        self.wrong: list[str] = []
        self.window = (0.0, math.inf)
        """What began at the upstream then counts for shares: the pool is full, and there is still too much to do."""
        self._upstream = upstream
        self.urls = urls
        """Those that a balancer in front would choose from."""
        self._rng = random.Random(7)
        self._number = 0

    def key(self, tier: str) -> str:
        if tier == "default":
            (name,) = self._rng.choices(range(OTHERS + 1), [GREEDY] + [1.0] * OTHERS)
            return f"d{name}"
        return self._rng.choice({"priority": ("p0", "p1", "p2"), "flex": ("f0", "f1", "w0", "w1")}[tier])

    async def ask(self, http: aiohttp.ClientSession, tier: str) -> None:
        self._number += 1
        mark, key, stream = f"mark-{self._number:07}", self.key(tier), self._rng.random() < 0.5
        seen, sent = self.seen[tier], time.monotonic()
        seen.asked += 1
        body = {"model": "m", "messages": [{"role": "user", "content": mark}], "max_tokens": 50, "stream": stream}
        url = f"{self._rng.choice(self.urls)}/v1/chat/completions"
        headers = {"authorization": f"Bearer {KEY}-{key}"}
        try:
            async with http.post(url, json={**body, "service_tier": tier}, headers=headers) as response:
                text = await response.text()
        except aiohttp.ClientError:
            seen.cut += 1
            return
        if response.status != 200:
            code = json.loads(text)["error"]["code"]
            seen.refused[f"{response.status} {code}"] += 1
            seen.first_refusal = min(seen.first_refusal, time.monotonic())
            if tier == "default":
                self.flex_in_flight.append(self._upstream.running["flex"])
            return
        events = (
            [text] if not stream else [e.removeprefix("data: ") for e in text.split("\n\n") if e and "[DONE]" not in e]
        )
        tiers = {json.loads(event)["service_tier"] for event in events if not event.startswith(":")}
        if len(tiers) != 1 or (tiers != {tier}) != ("x-sluice-tier-downgrade" in response.headers):
            self.wrong.append(f"{mark}: asked {tier}, told {tiers}")
        self.told[response.headers["x-request-id"]] = (mark, tiers.pop())
        seen.served += 1
        if self.window[0] <= self._upstream.begun[mark] < self.window[1]:
            seen.in_window += 1
            seen.patient += key.startswith("w")
            seen.by_key[key] += 1
        seen.waits.append(self._upstream.begun[mark] - sent)

    async def rush(self, seconds: float) -> None:
        """Ask for so long, whether or not earlier answers have come; then wait for those that are on their way."""
        capacity, now = self._upstream.capacity / self._upstream.seconds, time.monotonic()
        self.window = now + min(10, seconds / 4), now + seconds
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as tasks:

            async def arrivals(tier: str) -> None:
                due = time.monotonic()
                end = due + seconds
                while due < end:
                    due += self._rng.expovariate(PARTS[tier] * capacity)
                    await asyncio.sleep(max(due - time.monotonic(), 0))
                    tasks.create_task(self.ask(http, tier))

            for tier in TIERS:
                tasks.create_task(arrivals(tier))


def configuration(
    upstream: str, folder: Path, port: int, capacity: int, wait_default: float, flex_wait: float, redis: str | None
) -> str:
    names = [*(f"d{i}" for i in range(OTHERS + 1)), "p0", "p1", "p2", "f0", "f1", "w0", "w1"]
    price = {"input": 2, "output": 8, "tiers": {"flex": 0.5, "priority": 2}}
    document = {
        "server": {"port": port, "drain_delay": 0},
        "admin": {"port": free_port()},
        "providers": {"own": {"adapter": "vllm", "base_url": upstream, "options": {"send_priority": True}, "max_concurrency": 500}},
        "models": {
            "m": {
                "deployments": [{"provider": "own", "model": "m", "price": price}],
                "queue": {"capacity": capacity, "min_capacity": 4, "wait_default": wait_default},
            }
        },
        "keys": [
            {"name": n, "key": f"{KEY}-{n}", "tiers": {"flex_wait": flex_wait} if n.startswith("w") else {}} for n in names
        ],
        "database": {"url": f"sqlite:///{folder}/sluice.db"},
        "ledger": {"journal": f"{folder}/journal"},
        "logging": {"access": False, "level": "error"},
        **({"redis": {"url": redis}} if redis is not None else {}),
    }  # fmt: skip
    return yaml.safe_dump(document)


@contextlib.asynccontextmanager
async def gateway(text: str, folder: Path, port: int) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """``sluice serve`` in a process of its own, until it has drained."""
    (folder / "sluice.yaml").write_text(text)
    arguments = ("-m", "gateway", "serve", str(folder / "sluice.yaml"))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=Path(__file__).parents[1])
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as http:
            end = time.monotonic() + 20
            while True:
                assert process.returncode is None, "the gateway ended"
                assert time.monotonic() < end, "the gateway did not start"
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with http.get(f"{url}/healthz"):
                        break
                await asyncio.sleep(0.05)
        yield url, process
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def serving(upstream: Upstream) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/{tail:.*}", upstream.answer)
    # A gateway that is killed takes its requests with it.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()


def billed(folders: Sequence[Path]) -> dict[str, tuple[str, int]]:
    """Request id -> the tier and the nano-dollars of the attempt that answered it."""
    found = {}
    for folder in folders:
        with contextlib.closing(sqlite3.connect(folder / "sluice.db")) as database:
            rows = database.execute("select request_id, tier_served, cost from ledger where status = 'ok'")
            found.update({request_id: (tier, cost) for request_id, tier, cost in rows})
    return found


async def overload(
    figures: Figures,
    *,
    replicas: int,
    seconds: float,
    capacity: int,
    service: float,
    wait_default: float,
    flex_wait: float = 60,
    promised: Promised = Promised(),
    kill: bool = False,
) -> None:
    """One run, and what was promised of it. ``kill``: the last replica is killed half-way."""
    upstream = Upstream(capacity, service)
    async with contextlib.AsyncExitStack() as stack:
        redis = RedisServer() if replicas > 1 else None
        if redis is not None:
            stack.callback(redis.stop)
        await stack.enter_async_context(serving(upstream))
        folders = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-overload-"))) for _ in range(replicas)
        ]
        async with contextlib.AsyncExitStack() as gateways:
            started = []
            for folder in folders:
                port = free_port()
                text = configuration(upstream.url, folder, port, capacity, wait_default, flex_wait, redis and redis.url)
                started.append(await gateways.enter_async_context(gateway(text, folder, port)))
            await asyncio.sleep(1 if replicas > 1 else 0)  # until the capacity is shared
            clients = Clients(upstream, [url for url, _ in started])
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(clients.rush(seconds))
                if kill:
                    tasks.create_task(killed(clients, started[-1][1], seconds))
        if kill:  # what it had not yet written is in its journal: another one in its place writes it
            port = free_port()
            text = configuration(upstream.url, folders[-1], port, capacity, wait_default, flex_wait, None)
            async with gateway(text, folders[-1], port):
                await asyncio.sleep(1)
        tell(figures, clients, upstream, billed(folders), replicas, seconds, promised)


async def killed(clients: Clients, process: asyncio.subprocess.Process, seconds: float) -> None:
    """Half-way one replica dies without a word; five seconds later all of the capacity must be of use again."""
    await asyncio.sleep(seconds / 2)
    process.kill()
    clients.urls.pop()
    clients.window = (time.monotonic() + 5, clients.window[1])
    for seen in clients.seen.values():
        seen.in_window = seen.patient = 0
        seen.by_key.clear()


def tell(
    figures: Figures,
    clients: Clients,
    upstream: Upstream,
    rows: dict[str, tuple[str, int]],
    replicas: int,
    seconds: float,
    promised: Promised,
) -> None:
    capacity, per_second = upstream.capacity, upstream.capacity / upstream.seconds
    if cut := sum(s.cut for s in clients.seen.values()):
        print(
            f"one of two replicas was killed half-way, and {cut} requests with it; shares are of what came later than 5 s after"
        )
    print(
        f"replicas: {replicas}, {seconds:.0f} s, {capacity} at once, {per_second:.0f}/s possible, {3 * per_second:.0f}/s asked for"
    )
    print("  tier         asked   served success  wait p50     p99  refused")
    for name, s in clients.seen.items():
        print(
            f"  {name:10} {s.asked:7} {s.served:8} {s.success:7.1%} {s.wait(0.5):8.2f}s {s.wait(0.99):6.2f}s  {dict(s.refused)}"
        )
    priority, default, flex = (clients.seen[tier] for tier in TIERS)
    figures.tell("priority success", f"{priority.success:.2%} (at least 99 %)", priority.success >= 0.99)
    figures.tell(
        "priority wait, p99",
        f"{priority.wait(0.99):.2f} s (below {promised.wait:.0f} s)",
        priority.wait(0.99) < promised.wait,
    )
    begin, end = clients.window
    possible = per_second * (end - begin)
    good = sum(s.in_window for s in clients.seen.values()) / possible
    figures.tell("goodput of the possible", f"{good:.0%} (at least {promised.good:.0%})", good >= promised.good)
    most = replicas * (math.floor(0.01 * capacity / replicas) + 1)
    worst = max(clients.flex_in_flight, default=0)
    figures.tell(
        "flex first",
        f"refused {default.first_refusal - flex.first_refusal:.1f} s before default; of flex in flight when one of default was "
        f"refused, {len(clients.flex_in_flight)} times: {worst} at most (its guaranteed share: {most})",
        flex.first_refusal < default.first_refusal and worst <= most,
    )
    progress = flex.patient / possible
    figures.tell(
        "flex that waits",
        f"{progress:.2%} of the capacity (at least {promised.progress:.1%})",
        progress >= promised.progress,
    )
    share = sum(default.by_key.values()) / (OTHERS + 1)
    least = min(default.by_key[f"d{i}"] for i in range(1, OTHERS + 1)) / share
    figures.tell(
        f"one key asks ten times as much, the least of the {OTHERS} others",
        f"{least:.2f} of an equal share (at least {promised.share})",
        least >= promised.share,
    )
    price = PROMPT * 2000 + ANSWER * 8000
    same = [
        request_id
        for request_id, (mark, told) in clients.told.items()
        if rows.get(request_id) == (told, price * MULTIPLIERS[told] // 2) and upstream.served[mark] == told
    ]
    figures.tell(
        "served, told and billed at the same tier",
        f"{len(same)} of {len(clients.told)} answers, {len(clients.wrong)} of them named another one",
        len(same) == len(clients.told) and not clients.wrong,
    )
    figures.tell(
        "the upstream", f"{upstream.most} at once at most, {upstream.refused} refused", upstream.most <= capacity
    )


async def main() -> int:
    """Alone, then two replicas, then two of which one is killed half-way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--kill", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    figures = Figures()
    pool: dict[str, Any] = {"capacity": 100, "service": 2.0, "wait_default": 10}
    for replicas in given.replicas:
        await overload(figures, replicas=replicas, seconds=given.seconds, **pool)
    if given.kill:
        promised = Promised(wait=5)
        await overload(figures, replicas=2, seconds=given.seconds / 2, kill=True, promised=promised, **pool)
    return figures.failed


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
