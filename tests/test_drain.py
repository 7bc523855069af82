"""The end of a worker: what runs may finish, what runs too long is told, nothing stays unsettled."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import yaml

from gateway import demo
from gateway.server import drain

from .running import KEY, PRICE, running
from .servers import RedisServer, free_port
from .test_flow import ASK, client

STREAM = {"stream": True, **ASK}


async def test_streams_within_the_limit_finish_and_no_connection_is_taken() -> None:
    async with running({"m": "demo-ok+chunks=20+gap=0.02"}, server={"drain": 10}) as (gateway, _):
        async with client(gateway) as sdk:
            streams = [await sdk.chat.completions.create(model="m", **STREAM) for _ in range(20)]
            draining = asyncio.create_task(drain(gateway.state, gateway.config.server, [gateway.data]))
            await asyncio.sleep(0.05)
            with pytest.raises(openai.APIConnectionError):
                async with client(gateway) as fresh:
                    await fresh.chat.completions.create(model="m", **ASK)
            chunks = await asyncio.gather(*(_collected(s) for s in streams))
            await draining
        assert all(c == 22 for c in chunks)


async def _collected(stream: Any) -> int:
    return len([chunk async for chunk in stream])


async def test_what_runs_over_the_limit_gets_an_error_and_is_settled() -> None:
    keys = [{"name": "test", "key": KEY, "limits": {"concurrency": 5}}]
    models = {"m": "demo-endless", "slow": "demo-ok+delay=30"}
    async with running(models, keys=keys, server={"drain": 0.3}) as (gateway, upstream), client(gateway) as sdk:
        stream = await sdk.chat.completions.create(model="m", **STREAM)
        waiting = asyncio.create_task(sdk.chat.completions.create(model="slow", **ASK))
        while upstream.in_flight < 2:
            await asyncio.sleep(0.01)
        draining = asyncio.create_task(drain(gateway.state, gateway.config.server, [gateway.data]))
        with pytest.raises(openai.APIError) as caught:
            await _collected(stream)
        assert caught.value.code == "shutting_down"
        with pytest.raises(openai.InternalServerError) as refused:
            await waiting
        assert refused.value.code == "shutting_down"
        await draining
        assert gateway.state.in_flight == 0
        principal = gateway.pipeline.auth._keys
        owner = next(iter(principal.values()))[0].owners[0]
        states = await gateway.pipeline.meter.limiter.usage(owner, "default")
        assert [s.used for s in states if s.limit.field == "c"] == [0]
        value = gateway.registry.get_sample_value
        labels = {"model": "m", "deployment": "openai/demo-endless", "tier": "default", "kind": "output"}
        assert (value("sluice_tokens_total", labels) or 0) > 0
        deadline = time.monotonic() + 2
        while upstream.in_flight:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_a_pause_without_requests_does_not_end_the_drain_early() -> None:
    """In flight drops to zero during the delay; a request that comes after it is waited for all the same."""
    async with running({"m": "demo-ok+delay=0.4"}, server={"drain": 10, "drain_delay": 0.5}) as (gateway, _):
        async with client(gateway) as sdk:
            first = asyncio.create_task(sdk.chat.completions.create(model="m", **ASK))
            await asyncio.sleep(0.1)
            draining = asyncio.create_task(drain(gateway.state, gateway.config.server, [gateway.data]))
            await first
            second = asyncio.create_task(sdk.chat.completions.create(model="m", **ASK))
            await asyncio.sleep(0.1)
            await draining
            assert second.done() or gateway.state.in_flight == 0
            assert (await second).choices[0].message.content == "ok"


@contextlib.asynccontextmanager
async def process(
    folder: Path, model: str, **server: Any
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, demo.DemoUpstream]]:
    """``sluice serve`` in a process of its own, with its address and its upstream."""
    upstream = await demo.start()
    port = free_port()
    workers: dict[str, Any] = {}
    if "redis" in server:
        workers["redis"] = {"url": server.pop("redis")}
    document = {
        "server": {"port": port, "drain_delay": 0, **server},
        "admin": {"port": free_port()},
        "providers": {"openai": {"adapter": "openai", "base_url": f"{upstream.url}/openai/v1", "api_key": "up"}},
        "models": {"m": {"deployments": [{"provider": "openai", "model": model, "price": PRICE}]}},
        "keys": [{"name": "test", "key": KEY}],
        "database": {"url": f"sqlite:///{folder}/sluice.db"},
        "ledger": {"journal": f"{folder}/journal"},
        "logging": {"access": False},
        **workers,
    }
    path = folder / "sluice.yaml"
    path.write_text(yaml.safe_dump(document))
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", str(path), cwd=Path(__file__).parents[1]
    )
    try:
        async with aiohttp.ClientSession() as http:
            deadline = time.monotonic() + 20
            while True:
                assert started.returncode is None
                assert time.monotonic() < deadline
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with http.get(f"http://127.0.0.1:{port}/healthz"):
                        break
                await asyncio.sleep(0.05)
        yield started, f"http://127.0.0.1:{port}", upstream
    finally:
        if started.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                started.kill()
            await started.wait()
        await upstream.close()


def at(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


async def test_sigterm_lets_streams_finish_and_exits_with_0(tmp_path: Path) -> None:
    async with process(tmp_path, "demo-ok+chunks=20+gap=0.03", drain=10) as (started, url, _), at(url) as sdk:
        streams = [await sdk.chat.completions.create(model="m", **STREAM) for _ in range(20)]
        started.send_signal(signal.SIGTERM)
        assert await asyncio.gather(*(_collected(s) for s in streams)) == [22] * 20
        assert await asyncio.wait_for(started.wait(), 10) == 0


async def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    async with process(tmp_path, "demo-endless", drain=60) as (started, url, _), at(url) as sdk:
        stream = await sdk.chat.completions.create(model="m", **STREAM)
        await anext(stream)
        started.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert started.returncode is None
        began = time.monotonic()
        started.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(started.wait(), 10) == 130
        assert time.monotonic() - began < 1


def children(pid: int) -> set[int]:
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def test_workers_share_the_port_are_replaced_when_they_die_and_drain_together(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    serving = process(tmp_path, "demo-ok+chunks=20+gap=0.05", drain=10, workers=2, redis=redis_server.url)
    async with serving as (started, url, _), at(url) as sdk:
        deadline = time.monotonic() + 10
        while len(before := children(started.pid)) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        os.kill(min(before), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while len(after := children(started.pid)) < 2 or after == before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert len(after & before) == 1
        deadline = time.monotonic() + 10
        while (await answered(sdk)) < 6:  # a connection that the dead one had accepted may be lost, no other
            assert time.monotonic() < deadline
        path = tmp_path / "sluice.yaml"
        changed = yaml.safe_load(path.read_text())
        changed["models"]["n"] = changed["models"]["m"]
        path.write_text(yaml.safe_dump(changed))
        started.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while {await listed(url) for _ in range(6)} != {("m", "n")}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert children(started.pid) == after  # nobody was replaced
        streams = [await sdk.chat.completions.create(model="m", **STREAM) for _ in range(8)]
        started.send_signal(signal.SIGTERM)
        assert await asyncio.gather(*(_collected(s) for s in streams)) == [22] * 8
        assert await asyncio.wait_for(started.wait(), 15) == 0


async def listed(url: str) -> tuple[str, ...]:
    """The models, over a connection of its own: any worker may answer."""
    async with at(url) as sdk:
        return tuple([m.id async for m in sdk.models.list()])


async def answered(sdk: openai.AsyncOpenAI) -> int:
    asked = [sdk.chat.completions.create(model="m", **ASK) for _ in range(6)]
    return sum(not isinstance(a, BaseException) for a in await asyncio.gather(*asked, return_exceptions=True))


async def test_sigterm_to_the_whole_group_cuts_no_stream(tmp_path: Path, redis_server: RedisServer) -> None:
    """As service managers send it: a worker hears it from outside and from its parent."""
    serving = process(tmp_path, "demo-ok+chunks=40+gap=0.05", drain=20, workers=2, redis=redis_server.url)
    async with serving as (started, url, _), at(url) as sdk:
        streams = [await sdk.chat.completions.create(model="m", **STREAM) for _ in range(8)]
        for pid in (started.pid, *children(started.pid)):
            os.kill(pid, signal.SIGTERM)
        assert await asyncio.gather(*(_collected(s) for s in streams)) == [42] * 8
        assert await asyncio.wait_for(started.wait(), 20) == 0


async def test_a_second_signal_ends_the_supervisor_and_its_workers(tmp_path: Path, redis_server: RedisServer) -> None:
    async with process(tmp_path, "demo-endless", drain=60, workers=2, redis=redis_server.url) as (started, url, _):
        async with at(url) as sdk:
            stream = await sdk.chat.completions.create(model="m", **STREAM)
            await anext(stream)
            workers = children(started.pid)
            started.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            assert started.returncode is None
            started.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(started.wait(), 5) == 130
            deadline = time.monotonic() + 2
            while any(running_still(pid) for pid in workers):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            with contextlib.suppress(Exception):
                await _collected(stream)


def running_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_workers_that_drain_refuse_connections(tmp_path: Path, redis_server: RedisServer) -> None:
    """A socket that any of them still holds would let clients in whom nobody ever answers."""
    serving = process(tmp_path, "demo-ok+chunks=40+gap=0.05", drain=20, workers=2, redis=redis_server.url)
    async with serving as (started, url, _), at(url) as sdk:
        streams = [await sdk.chat.completions.create(model="m", **STREAM) for _ in range(4)]
        started.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.7)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        assert await asyncio.gather(*(_collected(s) for s in streams)) == [42] * 4
        assert await asyncio.wait_for(started.wait(), 20) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_is_closed_only_after_it_was_announced(stream: bool) -> None:
    """Else a client that keeps connections would send its next request into the closing, and lose it."""
    models = {"m": "demo-ok", "slow": "demo-ok+delay=0.3"}
    async with running(models, server={"drain": 10, "drain_delay": 1}) as (gateway, _):
        headers = {"authorization": f"Bearer {KEY}"}
        one = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(headers=headers, connector=one) as http:

            async def ask(model: str) -> str | None:
                body = {"model": model, "stream": stream, **ASK}
                async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                    assert (await response.read()).endswith(b"[DONE]\n\n") or not stream
                    assert response.status == 200
                    return response.headers.get("connection", "").lower() or None

            before = asyncio.create_task(ask("slow"))
            await asyncio.sleep(0.1)
            draining = asyncio.create_task(drain(gateway.state, gateway.config.server, [gateway.data]))
            assert await before in (None, "keep-alive")
            assert await ask("m") == "close"
            await draining
