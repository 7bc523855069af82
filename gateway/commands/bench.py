"""``sluice bench``: a small load test, against a gateway that runs or against an embedded one before a demo provider."""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
import click
import orjson

from config.schema import Budget, Limits

from .progress import Advance, progress

TIMEOUT = 120.0
"""Seconds for one request."""
KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(slots=True)
class Result:
    """What was measured; times in seconds."""

    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """To the first content of streams."""
    tokens: int = 0
    """Of the answers, as their usage tells."""

    def summary(self) -> dict[str, Any]:
        good = len(self.durations)
        found: dict[str, Any] = {
            "requests": self.statuses.total(),
            "answered": good,
            "statuses": dict(sorted(self.statuses.items())),
            "seconds": round(self.seconds, 3),
            "requests_per_second": round(self.statuses.total() / self.seconds, 1) if self.seconds else 0.0,
            "output_tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else 0.0,
            "latency_ms": quantiles(self.durations),
        }
        if self.first:
            found["first_token_ms"] = quantiles(self.first)
        return found


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds; nothing of nothing."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {f"p{q}": round(ordered[min(len(ordered) * q // 100, len(ordered) - 1)] * 1000, 2) for q in (50, 95, 99)}


@click.command("bench")
@click.argument("url", required=False)
@click.option("--model", default="demo", show_default=True, help="The model to ask.")
@click.option("--requests", "-n", default=500, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--concurrency", "-c", default=16, show_default=True, type=click.IntRange(1, 1000))
@click.option("--stream", is_flag=True, help="Ask for streams, and measure the time to the first token.")
@click.option("--max-tokens", default=16, show_default=True, type=click.IntRange(1, 100_000), help="Of each answer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    url: str | None, model: str, requests: int, concurrency: int, stream: bool, max_tokens: int, as_json: bool
) -> None:
    """Send small completions to the gateway at URL (say http://127.0.0.1:8080/v1) and print rates and latencies.

    The key comes from $OPENAI_API_KEY. Every request is a real one: behind a real provider it is billed. Without URL a
    gateway on embedded defaults is started before a demo provider, in this process, which then shares its CPU with
    both. Exits with 1 when a request failed.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say ok."}],
        "max_completion_tokens": max_tokens,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    with progress(f"{requests} requests, {concurrency} at once", requests) as advance:
        result = _run(_measured(url, orjson.dumps(body), requests, concurrency, advance))
    told = {"url": url or "embedded", "model": model, "stream": stream, "concurrency": concurrency, **result.summary()}
    click.echo(json.dumps(told, indent=2) if as_json else _text(told))
    if told["answered"] < told["requests"]:
        sys.exit(1)


def _run(work: Any) -> Result:
    from ..worker import loop_factory

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        result: Result = runner.run(work)
        return result


async def _measured(url: str | None, body: bytes, requests: int, concurrency: int, advance: Advance) -> Result:
    if url is None:
        async with _embedded() as (own, key):
            return await load(own, key, body, requests, concurrency, advance)
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise click.ClickException(f"The gateway needs a key: put one of yours into ${KEY_VARIABLE}.")
    return await load(url.rstrip("/"), key, body, requests, concurrency, advance)


@asynccontextmanager
async def _embedded() -> AsyncIterator[tuple[str, str]]:
    """A gateway in front of a demo provider; its address and a key."""
    import tempfile
    from pathlib import Path

    from .. import demo, logs
    from ..app import build
    from .demo import KEY, configuration

    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        upstream = await demo.start()
        try:
            config = configuration(upstream.url, 0, Path(folder), real=False)
            # Limits are checked as ever, and never reached.
            limits = Limits(rpm=10_000_000, tpm=10_000_000_000, concurrency=10_000, budget=Budget(day=Decimal(9_000)))
            keys = tuple(key.model_copy(update={"limits": limits}) for key in config.keys)
            teams = {name: team.model_copy(update={"limits": limits}) for name, team in config.teams.items()}
            config = config.model_copy(update={"keys": keys, "teams": teams})
            logs.configure(config.logging)
            gateway = await build(config)
            await gateway.start()
            try:
                yield f"{gateway.url}/v1", KEY
            finally:
                await gateway.close()
        finally:
            await upstream.close()


async def load(url: str, key: str, body: bytes, requests: int, concurrency: int, advance: Advance) -> Result:
    """Send ``requests`` equal ones over ``concurrency`` connections, one after the other on each."""
    result, left = Result(), iter(range(requests))
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=concurrency)
    timeout = aiohttp.ClientTimeout(TIMEOUT)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout, trust_env=False) as http:

        async def client() -> None:
            for _ in left:
                await _one(http, f"{url}/chat/completions", body, result)
                advance(1)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(min(concurrency, requests))))
        result.seconds = time.perf_counter() - began
    return result


async def _one(http: aiohttp.ClientSession, url: str, body: bytes, result: Result) -> None:
    began = time.perf_counter()
    try:
        async with http.post(url, data=body) as response:
            if response.status != 200:
                await response.read()
                result.statuses[str(response.status)] += 1
                return
            if response.content_type == "text/event-stream":
                usage = await _stream(response, lambda: result.first.append(time.perf_counter() - began))
            else:
                usage = orjson.loads(await response.read()).get("usage")
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        result.statuses[type(exc).__name__] += 1
        return
    result.statuses["200"] += 1
    result.durations.append(time.perf_counter() - began)
    result.tokens += (usage or {}).get("completion_tokens", 0)


async def _stream(response: aiohttp.ClientResponse, on_first: Callable[[], None]) -> dict[str, Any] | None:
    """The usage of a stream; raises ValueError where it ended with an error or without its end."""
    usage, first, ended = None, True, False
    async for line in response.content:
        if not line.startswith(b"data: "):
            continue
        data = line[6:].strip()
        if data == b"[DONE]":
            ended = True
            continue
        chunk = orjson.loads(data)
        if "error" in chunk:
            raise ValueError("the stream ended with an error")
        usage = chunk.get("usage") or usage
        if first and any((c.get("delta") or {}).get("content") for c in chunk.get("choices") or ()):
            on_first()
            first = False
    if not ended:
        raise ValueError("the stream was cut short")
    return usage


def _text(told: dict[str, Any]) -> str:
    def line(name: str, values: dict[str, float]) -> str:
        return f"{name:<16}" + "  ".join(f"{q} {value:g} ms" for q, value in values.items())

    lines = [
        f"{'requests':<16}{told['answered']} of {told['requests']} answered in {told['seconds']:g} s",
        f"{'rate':<16}{told['requests_per_second']:g}/s, {told['output_tokens_per_second']:g} output tokens/s",
    ]
    if told["latency_ms"]:
        lines.append(line("latency", told["latency_ms"]))
    if "first_token_ms" in told:
        lines.append(line("first token", told["first_token_ms"]))
    failed = {status: count for status, count in told["statuses"].items() if status != "200"}
    if failed:
        lines.append(f"{'failed':<16}" + ", ".join(f"{count} x {status}" for status, count in failed.items()))
    return "\n".join(lines)
