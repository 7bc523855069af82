"""Where the time of a call went: the gateway's own phases and the provider's."""

import asyncio
import statistics
import time

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.call import CallRecord
from gateway.observers.overhead import PHASES as OVERHEAD

from .running import KEY, running
from .servers import RedisServer

LATE, CALLS = 0.08, 15
"""Seconds that Redis answers late, and calls that are measured."""
PHASES = {"auth", "limits", "translate", "stream", "queue", "upstream", "provider"}


@pytest.mark.parametrize("stream", [False, True])
async def test_phases_add_up_to_the_time_of_the_call(stream: bool) -> None:
    records: list[CallRecord] = []

    class Kept:
        def call_finished(self, record: CallRecord) -> None:
            records.append(record)

    async with running({"m": "demo-ok"}) as (gateway, _), aiohttp.ClientSession() as http:
        gateway.lasting.observers = (*gateway.lasting.observers, Kept())
        gateway.apply(gateway.config)
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        url, headers = f"{gateway.url}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
        async with http.post(url, json=body, headers=headers) as response:
            await response.read()
        for _ in range(100):
            if records:
                break
            await asyncio.sleep(0.01)
    (record,) = records
    assert record.phases.keys() == PHASES
    assert all(seconds >= 0 for seconds in record.phases.values())
    assert record.phases["provider"] > 0
    assert record.phases["upstream"] > 0
    assert sum(record.phases.values()) == pytest.approx(record.seconds, rel=0.05, abs=2e-4)


def test_a_call_without_an_answer_has_no_phases() -> None:
    assert CallRecord("req_1").phases == {}


def test_a_record_takes_what_it_has_and_nothing_else() -> None:
    assert CallRecord("req_1", cost=3, ttft=0.5).cost == 3
    with pytest.raises(TypeError, match="costs"):
        CallRecord("req_1", costs=3)


class Slow:
    """A TCP proxy that passes on what a client says a little later."""

    def __init__(self, port: int, seconds: float) -> None:
        self._target = port
        self._seconds = seconds
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        replies, sink = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(self._pump(reader, sink, self._seconds), self._pump(replies, writer, 0))
        finally:
            writer.transport.abort()
            sink.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        while data := await reader.read(65536):
            if seconds:
                await asyncio.sleep(seconds)
            writer.write(data)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_overhead_s_phases_add_up_to_the_latency_that_the_gateway_adds(
    stream: bool, redis_server: RedisServer
) -> None:
    """What a client waits longer than without the gateway, before a provider that takes a known time.

    Redis answers late, so that what is compared is larger than what this machine's other work adds to either.
    """
    records: list[CallRecord] = []

    class Kept:
        def call_finished(self, record: CallRecord) -> None:
            records.append(record)

    model, via, direct = "demo-ok+delay=0.02", [], []
    keys = [{"name": f"phases-{stream}", "key": KEY, "limits": {"rpm": 100_000, "budget": {"day": 100}}}]
    async with Slow(redis_server.port, LATE) as port:
        redis = {"url": f"redis://127.0.0.1:{port}/0", "timeout": 2}
        async with (
            running({"m": model}, keys=keys, redis=redis) as (gateway, upstream),
            aiohttp.ClientSession() as http,
        ):

            async def timed(url: str, name: str, key: str) -> float:
                body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
                began = time.perf_counter()
                async with http.post(f"{url}/chat/completions", json=body, headers={"authorization": key}) as response:
                    assert response.status == 200
                    await response.read()
                return time.perf_counter() - began

            for _ in range(3):  # connections, caches
                await timed(f"{gateway.url}/v1", "m", f"Bearer {KEY}")
                await timed(upstream.openai_url, model, "Bearer up")
            gateway.lasting.observers = (*gateway.lasting.observers, Kept())
            gateway.apply(gateway.config)
            before = told(gateway)
            for _ in range(CALLS):
                via.append(await timed(f"{gateway.url}/v1", "m", f"Bearer {KEY}"))
                direct.append(await timed(upstream.openai_url, model, "Bearer up"))
            while len(records) < CALLS:
                await asyncio.sleep(0.01)
            after = told(gateway)
    own = [sum(record.phases[phase] for phase in OVERHEAD) for record in records]
    assert sum(after.values()) - sum(before.values()) == pytest.approx(sum(own)), (
        "the histogram says what the records do"
    )
    added = statistics.median(via) - statistics.median(direct)
    assert added > LATE
    assert statistics.median(own) == pytest.approx(added, rel=0.1)
    assert all(after[phase] > before[phase] for phase in OVERHEAD), "no phase is left out"
    assert after["limits"] - before["limits"] > CALLS * LATE, "and it is the phase that waits for Redis"


def told(gateway: Gateway) -> dict[str, float]:
    """Phase -> its seconds so far, as /metrics has them."""
    value = gateway.registry.get_sample_value
    return {phase: value("sluice_overhead_seconds_sum", {"phase": phase}) or 0.0 for phase in OVERHEAD}
