"""What is over is forgotten at once, by reference counts: no request leaves objects to the garbage collector.

It looks every few minutes under load, so cycles would be megabytes that come and go, and its pauses longer.
"""

import asyncio
import contextlib
import gc
import types
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import orjson
import pytest

from .running import KEY, deployment, running
from .servers import RedisServer

MODELS = {
    name: f"demo-{name}"
    for name in (
        *("ok", "long", "endless", "tools", "refused", "no-content", "cut", "closed", "unfinished", "error-early"),
        *("error-late", "429", "500", "502", "invalid", "content-filter", "recovers", "flapping"),
    )
}
MODELS_ELSEWHERE = {
    f"anthropic-{name}": [deployment(f"demo-{name}", provider="anthropic")]
    for name in ("ok", "tools", "cut", "unfinished", "error-late", "500", "429")
}
WAYS = [name for name in (*MODELS, *MODELS_ELSEWHERE) if name != "endless"]
LIMITED = "sk-sl-test-that-may-do-nothing"
KEYS = [
    {
        "name": "test",
        "key": KEY,
        "limits": {"rpm": 10_000, "tpm": 10_000_000, "concurrency": 50, "budget": {"month": 1_000}},
    },
    {"name": "limited", "key": LIMITED, "limits": {"rpm": 0}},
]
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
Ask = Callable[[str, aiohttp.ClientSession], Awaitable[None]]


def body(model: str, **more: Any) -> bytes:
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **more})


async def post(url: str, http: aiohttp.ClientSession, data: bytes, key: str = KEY, status: int = 0) -> None:
    """``status``: the answer's, where it is known."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with contextlib.suppress(aiohttp.ClientError):
        async with http.post(f"{url}/v1/chat/completions", data=data, headers=headers) as response:
            assert status in (0, response.status)
            await response.read()


async def leave(url: str, data: bytes, after: bytes, unsent: int = 0) -> None:
    """Go away when ``after`` has come of the answer, with so many bytes of the body unsent."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(HEAD % (KEY.encode(), len(data) + unsent) + data)
    if after:
        await reader.readuntil(after)
    else:
        await asyncio.sleep(0.05)
    writer.transport.abort()
    await asyncio.sleep(0.05)


TIMES = 4
"""That each is asked: once for what is done once, then while garbage is looked for."""
OTHER: dict[str, Ask] = {
    "leaves a stream": lambda url, http: leave(url, body("endless", stream=True), b"data:"),
    "leaves before the answer": lambda url, http: leave(url, body("endless"), b""),
    "leaves in its request": lambda url, http: leave(url, body("ok"), b"", unsent=5),
    "unknown model": lambda url, http: post(url, http, body("nobody-has-it"), status=404),
    "unknown key": lambda url, http: post(url, http, body("ok"), key="sk-sl-test-wrong", status=401),
    "over a limit": lambda url, http: post(url, http, body("ok"), key=LIMITED, status=429),
    "no JSON": lambda url, http: post(url, http, b"{", status=400),
    "wrong type": lambda url, http: post(url, http, body("ok", temperature="hot"), status=400),
    "wrong role": lambda url, http: post(
        url, http, body("ok", messages=[{"role": "nobody", "content": ""}]), status=400
    ),
}


REACHING = ("leaves a stream", "leaves before the answer")
"""Of OTHER, those for which a provider is asked."""


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_leave_nothing_to_the_garbage_collector(stream: bool) -> None:
    asks: list[Ask] = [lambda url, http, n=name: post(url, http, body(n, stream=stream)) for name in WAYS]  # type: ignore[misc]
    asked = await leaves_nothing(asks)
    assert set(asked) == {
        f"anthropic demo-{name.removeprefix('anthropic-')}" if name.startswith("anthropic-") else f"openai demo-{name}"
        for name in WAYS
    }


@pytest.mark.parametrize("reached", [False, True])
async def test_requests_that_come_to_nothing_leave_nothing_either(reached: bool) -> None:
    """``reached``: whether the provider is asked."""
    asked = await leaves_nothing([ask for what, ask in OTHER.items() if (what in REACHING) == reached])
    assert set(asked) == ({"openai demo-endless"} if reached else set())
    # Who leaves before the answer may be gone before the provider is asked, but not each time.
    assert not reached or asked.total() > TIMES


@pytest.mark.parametrize("leases", [True, False], ids=["leases", "each by itself"])
async def test_counters_in_redis_leave_nothing_to_the_garbage_collector(
    leases: bool, redis_server: RedisServer
) -> None:
    usual: list[Ask] = [
        lambda url, http, s=stream: post(url, http, body("ok", stream=s), status=200)  # type: ignore[misc]
        for stream in (False, True)
    ]
    redis = {"redis": {"url": redis_server.url}, "counters": {"hot_leases": leases}}
    asked = await leaves_nothing([*usual, OTHER["leaves a stream"], OTHER["over a limit"]], **redis)
    assert asked == {"openai demo-ok": 2 * TIMES, "openai demo-endless": TIMES}


async def leaves_nothing(asks: Sequence[Ask], **sections: Any) -> Counter[str]:
    """How often each model was asked, and in which dialect."""
    async with (
        running({**MODELS, **MODELS_ELSEWHERE}, keys=KEYS, **sections) as (gateway, upstream),
        aiohttp.ClientSession() as http,
    ):
        url = str(gateway.url)
        await asyncio.gather(*(ask(url, http) for ask in asks))  # what is done once
        await asyncio.sleep(0.1)
        gc.collect()
        gc.freeze()  # else to look through all that the tests have loaded takes longer than the database may
        gc.disable()
        try:
            for _ in range(TIMES - 1):
                await asyncio.gather(*(ask(url, http) for ask in asks))
            await asyncio.sleep(0.3)
            left = garbage()
        finally:
            gc.enable()
            gc.unfreeze()
        asked = Counter(f"{entry.dialect} {entry.model}" for entry in upstream.journal)
    assert not left, left
    return asked


def garbage() -> dict[str, int]:
    """What of the product waits for the collector: types, and where their exceptions went through."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return dict(Counter(name for thing in gc.garbage if (name := ours(thing))))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def ours(thing: object) -> str:
    """Where a thing is from. Failures by themselves are few bytes: tenacity's objects are a cycle, with the last one in it."""
    if isinstance(thing, BaseException):
        return ""
    if isinstance(thing, types.FrameType):
        # Frames of compiled functions hold nothing.
        kept = thing.f_locals and is_ours(thing.f_globals.get("__name__", ""))
        return f"{thing.f_code.co_qualname}:{thing.f_lineno}" if kept else ""
    module = str(type(thing).__module__)
    return f"{module}.{type(thing).__qualname__}" if is_ours(module) else ""


def is_ours(module: str) -> bool:
    return module.startswith(("gateway.", "adapters.")) and not module.startswith("gateway.demo")
