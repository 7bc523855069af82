"""When an attempt is over: what the provider says counts, not its HTTP; and no wait is longer than its time-outs."""

import asyncio
import gzip
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client import generate_latest

from gateway import attempts, hedging
from gateway.answer import Answer
from gateway.app import Gateway

from .running import KEY, deployment, running
from .test_metering import rows, states

Play = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Server:
    """An upstream that plays what it is told to every request, and then leaves the connection as it is."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self.requests = 0

    async def start(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests += 1
                await self._play(orjson.loads(await reader.readexactly(length)), writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        self._server.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    told = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": choices}
    return chunk(b"data: " + orjson.dumps({**told, **more}) + b"\n\n")


def event(kind: str, **more: Any) -> bytes:
    return chunk(b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **more})))


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
DONE = chunk(b"data: [DONE]\n\n")
COMPLETE = {
    "openai": [
        frame({"role": "assistant", "content": "Hello"}), frame({}, "stop"), frame(None, usage=USAGE), DONE,
    ],
    "anthropic": [
        event("message_start", message={"id": "msg_1", "model": "x", "usage": {"input_tokens": 3, "output_tokens": 1}}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
        event("message_stop"),
    ],
    "cohere": [
        event("content-start", index=0, delta={"message": {"content": {"type": "text", "text": ""}}}),
        event("content-delta", index=0, delta={"message": {"content": {"text": "Hello"}}}),
        event("message-end", delta={"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 1, "output_tokens": 1}}}),
    ],
}  # fmt: skip
"""A whole stream in a dialect that says when it is over."""


WHOLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


def answer_of(stream: bool) -> bytes:
    """A whole answer in OpenAI's dialect, in one write."""
    if stream:
        return HEAD + b"".join(COMPLETE["openai"]) + b"0\r\n\r\n"
    body = orjson.dumps(WHOLE)
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@asynccontextmanager
async def gateway_of(play: Play, models: dict[str, Any], **options: Any) -> AsyncIterator[tuple[Gateway, Server]]:
    server = await Server(play).start()
    adapters = {
        d["provider"]: {"base_url": server.url, "api_key": "k"} for m in models.values() for d in m["deployments"]
    }
    providers = {name: {"adapter": name.partition("-")[0], **given} for name, given in adapters.items()}
    more = options.pop("providers", {})
    providers = {name: given | more.get(name, {}) for name, given in providers.items()}
    async with running(models, upstream=server, providers=providers, **options) as (gateway, _):  # type: ignore[arg-type]
        yield gateway, server


async def asked(gateway: Gateway, **more: Any) -> tuple[int, bytes, float, Any]:
    """Status, body, seconds and headers of an answer; a body that breaks off raises."""
    began = time.monotonic()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:
        async with http.post(f"{gateway.url}/v1/chat/completions", json={**ASK, **more}) as response:
            return response.status, await response.read(), time.monotonic() - began, response.headers


@pytest.mark.parametrize("at_once", [True, False], ids=["one write", "piece by piece"])
@pytest.mark.parametrize("then", ["open", "closed"])
@pytest.mark.parametrize("dialect", COMPLETE)
async def test_a_stream_is_over_when_its_provider_says_so_whatever_becomes_of_the_body(
    dialect: str, then: str, at_once: bool
) -> None:
    async def play(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        if at_once:
            writer.write(b"".join(COMPLETE[dialect]))
        for piece in () if at_once else COMPLETE[dialect]:
            writer.write(piece)
            await asyncio.sleep(0.01)
        if then == "closed":
            writer.close()

    models = {"m": {"deployments": [deployment("x", dialect)]}}
    async with gateway_of(play, models, timeouts={"idle": 5, "first_byte": 5}) as (gateway, _):
        for _ in range(2):  # nor is the connection used again before its answer is over
            status, body, seconds, _ = await asked(gateway, stream=True)
            assert status == 200
            assert b"Hello" in body
            assert body.endswith(b"data: [DONE]\n\n")
            assert b"error" not in body
            assert seconds < 3


async def test_a_full_provider_is_passed_by_at_once_and_is_none_the_worse_for_it() -> None:
    over = asyncio.Event()

    async def play(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + frame({"role": "assistant", "content": "Hello"}))
        if request["model"] == "full":
            await over.wait()
        writer.write(frame({}, "stop") + frame(None, usage=USAGE) + DONE + b"0\r\n\r\n")

    full, other = deployment("full", "openai-a", weight=10**6), deployment("other", "openai-b", weight=1)
    models = {"m": {"deployments": [full, other]}}
    limits = {"openai-a": {"max_concurrency": 1}}
    async with gateway_of(play, models, providers=limits, timeouts={"connect": 3}) as (gateway, _):
        first = asyncio.create_task(asked(gateway, stream=True))
        await asyncio.sleep(0.2)
        for _ in range(8):
            status, _, seconds, headers = await asked(gateway, stream=True)
            assert (status, headers["x-sluice-deployment"]) == (200, "openai-b/other")
            assert seconds < 1
        over.set()
        assert (await first)[0] == 200
        status, _, _, headers = await asked(gateway, stream=True)
        assert (status, headers["x-sluice-deployment"]) == (200, "openai-a/full")


async def test_where_there_is_no_other_a_full_provider_is_waited_for_and_then_refused_and_stays_well() -> None:
    over = asyncio.Event()

    async def play(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + frame({"role": "assistant", "content": "Hello"}))
        await over.wait()
        writer.write(frame({}, "stop") + frame(None, usage=USAGE) + DONE + b"0\r\n\r\n")

    models = {"m": {"deployments": [deployment("x", "openai-a")]}}
    limits = {"openai-a": {"max_concurrency": 1}}
    async with gateway_of(play, models, providers=limits, timeouts={"connect": 0.3}) as (gateway, server):
        first = asyncio.create_task(asked(gateway, stream=True))
        await asyncio.sleep(0.2)
        refused = await asyncio.gather(*(asked(gateway, stream=True) for _ in range(12)))
        assert {status for status, *_ in refused} == {503}
        assert all(0.2 < seconds < 2 for *_, seconds, _ in refused)
        waiting = asyncio.create_task(asked(gateway, stream=True))
        await asyncio.sleep(0.1)
        over.set()
        assert ((await first)[0], (await waiting)[0]) == (200, 200)
        assert server.requests == 2


def at_once(*models: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Deployments that take one request at once each, and their providers."""
    names = [f"openai-{model}" for model in models]
    deployments = [deployment(model, name) for model, name in zip(models, names, strict=True)]
    return {"m": {"deployments": deployments}}, {name: {"max_concurrency": 1} for name in names}


async def held(over: asyncio.Event, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """A stream that goes on until ``over``."""
    writer.write(HEAD + frame({"role": "assistant", "content": "Hello"}))
    await over.wait()
    writer.write(frame({}, "stop") + frame(None, usage=USAGE) + DONE + b"0\r\n\r\n")


async def test_where_nothing_was_sent_there_was_no_attempt() -> None:
    """Neither in the ledger nor in metrics, limits and what the client is told: the gateway itself had no room."""
    over = asyncio.Event()
    models, providers = at_once("a", "b")
    keys = [{"name": "test", "key": KEY, "limits": {"rpd": 100, "concurrency": 50}}]
    options = {"providers": providers, "timeouts": {"connect": 0.2}, "keys": keys}
    async with gateway_of(partial(held, over), models, **options) as (gateway, server):
        streams = []
        for number in (1, 2):
            streams.append(asyncio.create_task(asked(gateway, stream=True)))
            async with asyncio.timeout(5):
                while server.requests < number:
                    await asyncio.sleep(0.01)
        status, body, _, headers = await asked(gateway, stream=True)
        assert (status, headers["x-sluice-attempts"]) == (503, "0")
        assert orjson.loads(body)["error"]["message"] == "Too many requests to the provider are in flight."
        assert "x-should-retry" not in headers
        over.set()
        assert [headers["x-sluice-attempts"] for *_, headers in await asyncio.gather(*streams)] == ["1", "1"]
        assert [(r["deployment"], r["status"]) for r in await rows(gateway)] == [
            ("openai-a/a", "ok"),
            ("openai-b/b", "ok"),
        ]
        assert (await states(gateway))["rpd"].used == 2
        text = generate_latest(gateway.registry).decode()
        assert "sluice_retries_total{" not in text
        assert set(re.findall(r'sluice_attempts_total{.*status="(\w+)"}', text)) == {"ok"}


async def test_deployments_that_are_full_use_up_no_attempts_of_those_that_are_not() -> None:
    over = asyncio.Event()
    models, providers = at_once("a", "b", "c", "d", "e")
    options = {"providers": providers, "retries": {"attempts": 1}, "timeouts": {"connect": 5}}
    async with gateway_of(partial(held, over), models, **options) as (gateway, server):
        streams = []
        async with asyncio.timeout(5):
            for number in range(1, 6):
                streams.append(asyncio.create_task(asked(gateway, stream=True)))
                while server.requests < number:
                    await asyncio.sleep(0.01)
        waiting = asyncio.create_task(asked(gateway, stream=True))
        await asyncio.sleep(0.1)
        over.set()  # the last of them is waited for, as a single one is
        answers = await asyncio.gather(*streams, waiting)
    assert [status for status, *_ in answers] == [200] * 6
    served = [headers["x-sluice-deployment"].partition("/")[2] for *_, headers in answers]
    assert served == ["a", "b", "c", "d", "e", "e"]


WORDS = b'{"error":{"message":"No such thing as that.","type":"invalid_request_error"}}'
PACKED = b"Content-Encoding: %b\r\nContent-Length: 9\r\n\r\n\x0b\x02\x80hello\x03"
BROKEN = {
    "cut": (b"Content-Length: 500\r\n\r\n" + WORDS[:20], False),
    "cut in a chunk": (b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n" + WORDS[:20], False),
    "endless": (b"Content-Length: 500\r\n\r\n" + WORDS[:20], True),
    "brotli": (PACKED % b"br", True),
    "no gzip": (PACKED % b"gzip", True),
}
"""What comes of a refusal after its status, and whether the connection stays."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", BROKEN)
async def test_a_refusal_is_one_by_its_status_whatever_becomes_of_its_words(
    case: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "REFUSED_WITHIN", 0.2)
    said, stays = BROKEN[case]

    async def play(asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %b Refused\r\nRetry-After: 77\r\n%b" % (asked["model"].encode(), said))
        if not stays:
            writer.close()

    models = {name: {"deployments": [deployment(status)]} for name, status in (("m", "429"), ("wrong", "400"))}
    async with gateway_of(play, models, health={"consecutive_failures": 1}) as (gateway, server):
        for _ in range(3):  # what a client does wrong takes nothing out
            status, body, _, _ = await asked(gateway, model="wrong", stream=stream)
            assert status == 400, body
            assert b"without saying why" in body
        status, body, _, headers = await asked(gateway, stream=stream)
        assert (status, headers["retry-after"]) == (429, "77"), body
        assert server.requests == 4, "the provider was asked again before the time that it had asked for"
        assert [row["cost"] for row in await rows(gateway)] == [0] * 4, "what was refused was billed"
        assert (await asked(gateway, stream=stream))[0] == 503, "nothing cools down"


@pytest.mark.parametrize("packed", [gzip.compress, zlib.compress])
async def test_the_words_of_a_refusal_are_read_though_they_were_packed(packed: Callable[[bytes], bytes]) -> None:
    async def play(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        body = packed(WORDS)
        writer.write(b"HTTP/1.1 400 No\r\nContent-Encoding: GZIP\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with gateway_of(play, {"m": {"deployments": [deployment("x")]}}) as (gateway, _):
        status, body, _, _ = await asked(gateway)
        assert (status, orjson.loads(body)["error"]["message"]) == (400, "No such thing as that.")


@pytest.mark.parametrize("stream", [True, False])
async def test_the_first_attempt_too_has_no_longer_than_the_request(stream: bool) -> None:
    async def play(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while not writer.is_closing():
            writer.write(chunk(b": ping\n\n"))
            await asyncio.sleep(0.1)

    models = {"m": {"deployments": [deployment("x", "openai")]}}
    times = {"request": 1, "response": 6, "first_byte": 6, "idle": 6, "progress": 6}
    async with gateway_of(play, models, timeouts=times) as (gateway, server):
        status, _, seconds, headers = await asked(gateway, stream=stream)
        assert server.requests == 1
    assert (status, headers["x-should-retry"]) == (
        504,
        "false",
    )  # else the SDK would have it made, and billed, twice more
    assert 0.9 < seconds < 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_has_its_own_time_where_that_is_shorter_than_what_the_model_before_it_took(
    stream: bool,
) -> None:
    async def play(asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if asked["model"] == "hangs":
            await asyncio.sleep(30)
        await asyncio.sleep(0.05)
        writer.write(answer_of(stream))

    long, short = {"first_byte": 1, "response": 1}, {"request": 0.9}
    models = {
        "m": {"deployments": [deployment("hangs", timeouts=long)], "fallbacks": {"timeout": ["quick"]}},
        "quick": {"deployments": [deployment("x", timeouts=short)]},
    }
    async with gateway_of(play, models, timeouts={"request": 30}) as (gateway, _):
        status, body, _, headers = await asked(gateway, stream=stream)
        assert (status, headers.get("x-sluice-fallback")) == (200, "quick"), body


@pytest.mark.parametrize("stream", [False, True])
async def test_who_had_only_the_rest_of_a_requests_time_is_none_the_worse_for_needing_more(stream: bool) -> None:
    hangs = {"slow": 2, "well": 2}

    async def play(asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        hangs[asked["model"]] -= 1
        if hangs[asked["model"]] >= 0:
            await asyncio.sleep(30)
        writer.write(answer_of(stream))

    models = {
        "m": {
            "deployments": [deployment("slow", timeouts={"first_byte": 1.4, "response": 1.4})],
            "fallbacks": {"timeout": ["well"]},
        },
        "well": {"deployments": [deployment("well")]},
    }
    health = {"consecutive_failures": 1}
    async with gateway_of(play, models, timeouts={"request": 2}, health=health) as (gateway, _):
        for _ in range(2):
            assert (await asked(gateway, stream=stream))[0] == 504
        assert [row["deployment"] for row in await rows(gateway)] == ["openai/slow", "openai/well"] * 2
        breakers = gateway.lasting.fleet.breakers()
        assert not breakers["openai/slow"].closed
        assert breakers["openai/well"].closed, "a deployment that is well was taken out for another's slowness"
        assert (await asked(gateway, model="well", stream=stream))[0] == 200


async def test_a_stream_whose_content_has_begun_may_take_longer_than_the_request() -> None:
    async def play(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for _ in range(15):
            writer.write(frame({"content": "word "}))
            await asyncio.sleep(0.1)
        writer.write(frame({}, "stop") + frame(None, usage=USAGE) + DONE + b"0\r\n\r\n")

    models = {"m": {"deployments": [deployment("x", "openai")]}}
    async with gateway_of(play, models, timeouts={"request": 0.7, "idle": 5}) as (gateway, _):
        status, body, seconds, _ = await asked(gateway, stream=True)
    assert status == 200
    assert body.count(b"word ") == 15
    assert seconds > 1.4


async def test_who_gives_an_attempt_longer_than_the_request_gives_the_request_as_long() -> None:
    async def play(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1.5)
        writer.write(HEAD + b"".join(COMPLETE["openai"]) + b"0\r\n\r\n")

    models = {"m": {"deployments": [deployment("x", "openai", timeouts={"first_byte": 5})]}}
    async with gateway_of(play, models, timeouts={"request": 1, "first_byte": 1}) as (gateway, _):
        assert (await asked(gateway, stream=True))[0] == 200


async def test_the_rest_of_an_answer_is_not_waited_for_longer_than_progress() -> None:
    async def play(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        if request["messages"][-1]["role"] != "assistant":
            writer.write(frame({"content": "Hello "}) + frame({"content": "world"}))
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()
        while not writer.is_closing():
            writer.write(chunk(b": ping\n\n"))
            await asyncio.sleep(0.1)

    one = deployment("x", "openai-compatible", continuation=True)
    models = {"m": {"deployments": [one]}}
    options = {"adapter": "openai-compatible", "options": {"continue_final_message": True}}
    times = {"request": 20, "first_byte": 20, "idle": 20, "progress": 1, "total": 20}
    async with gateway_of(play, models, providers={"openai-compatible": options}, timeouts=times) as (gateway, server):
        began = time.monotonic()
        with pytest.raises(aiohttp.ClientError):
            await asked(gateway, stream=True)
        assert server.requests == 2
    assert 0.9 < time.monotonic() - began < 5


async def test_a_client_that_leaves_while_the_loser_of_a_hedge_ends_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streaming = 0

    async def play(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        nonlocal streaming
        if request["model"] == "slow":
            await asyncio.sleep(10)
        writer.write(HEAD)
        streaming += 1
        try:
            while not writer.is_closing():
                writer.write(frame({"content": "word "}))
                await writer.drain()
                await asyncio.sleep(0.02)
        finally:
            streaming -= 1

    first_answer = hedging._first_answer

    async def answered(tasks: set[asyncio.Task[Answer]]) -> asyncio.Task[Answer]:
        """The client's leaving comes in the very turn in which one of both has answered."""
        winner = await first_answer(tasks)
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        return winner

    monkeypatch.setattr(hedging, "_first_answer", answered)
    slow, fast = deployment("slow", "openai", weight=10**6), deployment("fast", "openai", weight=1)
    models = {"m": {"deployments": [slow, fast], "hedging": {"after": 0.05}}}
    async with gateway_of(play, models) as (gateway, _):
        assert (await asked(gateway, stream=True))[0] == 503  # what a connection says that is still there
        for _ in range(100):
            if not streaming:
                break
            await asyncio.sleep(0.02)
        assert streaming == 0
        async with aiohttp.ClientSession() as http, http.get(f"{gateway.admin_url}/metrics") as response:
            text = await response.text()
    told = [line for line in text.splitlines() if line.startswith("sluice_attempts_total") and "openai/fast" in line]
    assert [line for line in told if 'status="client_closed"' in line and line.endswith(" 1.0")]
    assert not [line for line in told if 'status="ok"' in line and not line.endswith(" 0.0")]
