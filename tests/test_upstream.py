"""The HTTP client of upstreams, against servers of every kind of malice, on asyncio's loop and on uvloop."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from adapters.errors import ErrorKind, ProviderError
from adapters.interface import UpstreamRequest
from config.schema import Timeouts
from gateway import demo
from gateway.demo import DemoUpstream
from gateway.tls import tls_context
from gateway.upstream import MAX_BODY, SystemResolver, Upstream, UpstreamResponse, refusal
from gateway.upstream.connection import Connection
from gateway.upstream.response import HIGH_WATER

from .certificates import self_signed
from .faults import FaultProxy
from .servers import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
QUICK = Timeouts(connect=0.3, first_byte=0.3, response=0.3, idle=0.3, total=2)
SLOW = Timeouts()
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def client() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    assert upstream.in_flight == 0
    await upstream.close()


@pytest.fixture
async def provider() -> AsyncIterator[DemoUpstream]:
    server = await demo.start()
    yield server
    await server.close()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head, await reader.readexactly(int(length.split(b":")[1]))


@contextlib.asynccontextmanager
async def serving(play: Play, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that hands every connection to ``play``; gives its URL."""

    tasks: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await play(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(*pieces: bytes, pause: float = 0.0, hold: float = 0.0) -> Play:
    """Answer the first request with these pieces, then close."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        await asyncio.sleep(hold)

    return play


def post(url: str, body: bytes = b"{}", *, stream: bool = False, **headers: str) -> UpstreamRequest:
    return UpstreamRequest(url, {"Content-Type": "application/json", **headers}, body, stream=stream)


def chat(provider: DemoUpstream, model: str, *, stream: bool = False) -> UpstreamRequest:
    body = b'{"model":"%b","messages":[{"role":"user","content":"hi"}],"stream":%b}'
    url = f"{provider.openai_url}/chat/completions"
    return post(url, body % (model.encode(), b"true" if stream else b"false"), stream=stream)


async def fetch(client: Upstream, request: UpstreamRequest, timeouts: Timeouts = SLOW) -> tuple[int, bytes]:
    """Status and body, however the request wants it read: a stream as the gateway does, its beginning and then the rest."""
    async with await client.open(request, timeouts) as response:
        if not request.stream:
            return response.status, await response.read()
        found = [await response.chunk()]

        def sink(data: bytes) -> bool:
            found.append(data)
            return len(found) % 3 != 0  # a client that is slow now and then

        while not await response.pour(sink):
            await asyncio.sleep(0)
        return response.status, b"".join(found)


async def pieces(response: UpstreamResponse) -> AsyncIterator[bytes]:
    while piece := await response.chunk():
        yield piece


async def failing(client: Upstream, request: UpstreamRequest, timeouts: Timeouts = SLOW) -> ErrorKind:
    with pytest.raises(ProviderError) as failed:
        await fetch(client, request, timeouts)
    return failed.value.kind


async def eventually(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.002)
    return time.monotonic() - began


# -- what goes out ---------------------------------------------------------------------------------------------------


async def test_writes_a_lawful_request(client: Upstream) -> None:
    seen: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await read_request(reader))
        writer.write(OK)

    async with serving(play) as url:
        assert await fetch(client, post(f"{url}?a=b", b"body", Authorization="Bearer sk-x")) == (200, b"ok")
    head, body = seen
    port = url.split(":")[2].split("/")[0]
    assert body == b"body"
    assert head.decode().split("\r\n") == [
        "POST /v1/x?a=b HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Accept-Encoding: identity",
        "User-Agent: sluice",
        "Content-Type: application/json",
        "Authorization: Bearer sk-x",
        "Content-Length: 4",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nEvil: 1"},
        {"X": "a\nb"},
        {"X": "a\rb"},
        {"X": "a\0b"},
        {"X": "\u2028"},
        {"X": "ключ"},
        {"X\r\nEvil": "1"},
        {"X Y": "1"},
        {"": "1"},
        {"Transfer-Encoding": "chunked"},
        {"content-length": "1"},
        {"HOST": "elsewhere"},
        {"Cookie": "a=b"},
    ],
)
async def test_S_22_unlawful_and_framing_headers_are_never_written(client: Upstream, headers: dict[str, str]) -> None:
    request = UpstreamRequest("http://127.0.0.1:9/", {"Authorization": "Bearer sk-secret", **headers}, b"")
    with pytest.raises(ProviderError) as failed:
        await client.open(request, SLOW)
    assert failed.value.kind is ErrorKind.CONNECTION
    assert "secret" not in f"{failed.value} {failed.value.__cause__}"


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://127.0.0.1/", "http:///x", "http://127.0.0.1:99999/", "http://a b/", "http://[::1/"),
        *("http://127.0.0.1/a b", "http://user:pass@127.0.0.1/", "http://①②⑦.⓪.⓪.①/", "http://x/\r\nEvil: 1"),
    ],
)
async def test_unlawful_urls_are_refused(client: Upstream, url: str) -> None:
    assert await failing(client, post(url), QUICK) is ErrorKind.CONNECTION


async def test_some_headers_are_those_of_all_that_have_these_names(client: Upstream) -> None:
    answer = OK.replace(b"\r\nC", b"\r\nX-A: 1\r\nx-b: 2\r\nx-a: 3\r\nX-C: 4\r\nC", 1)
    async with serving(saying(answer)) as url, await client.open(post(url), SLOW) as response:
        assert response.only(frozenset({b"x-a", b"x-c", b"x-d"})) == {"x-a": "1, 3", "x-c": "4"}
        assert response.only(frozenset(name.encode() for name in response.headers)) == response.headers
        assert response.only(frozenset()) == {}


async def test_large_bodies_arrive_whole(client: Upstream) -> None:
    sent = random.Random(1).randbytes(20_000_000)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await read_request(reader)
        writer.write(OK if body == sent else b"no")

    async with serving(play) as url:
        assert await fetch(client, post(url, sent)) == (200, b"ok")


# -- what comes back -------------------------------------------------------------------------------------------------

LAWFUL = {
    "content-length": (OK, b"ok"),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "chunked": (CHUNKED + b"1\r\no\r\n1;ext=1\r\nk\r\n0\r\nTrailer: x\r\n\r\n", b"ok"),
    "until-close": (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),
    "http-1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
    "no-reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "identity": (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "no coding": (b"HTTP/1.1 200 OK\r\nContent-Encoding: None\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "empty coding": (b"HTTP/1.1 200 OK\r\nContent-Encoding:\r\nContent-Length: 2\r\n\r\nok", b"ok"),
}


@pytest.mark.parametrize("case", LAWFUL)
@pytest.mark.parametrize("stream", [False, True])
async def test_reads_every_lawful_framing_whole_and_byte_by_byte(client: Upstream, case: str, stream: bool) -> None:
    answer, body = LAWFUL[case]
    for sent in ([answer], [answer[i : i + 1] for i in range(len(answer))]):
        async with serving(saying(*sent)) as url:
            status, got = await fetch(client, post(url, stream=stream), SLOW)
        assert (status, got) == (204 if case == "no-content" else 200, body)


async def test_header_names_are_lower_case_and_repeated_values_joined(client: Upstream) -> None:
    answer = b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"
    async with serving(saying(answer)) as url, await client.open(post(url), SLOW) as response:
        assert response.status == 429
        assert response.headers == {"retry-after": "3", "x-a": "1, 2", "content-length": "0"}


HEAD = b"HTTP/1.1 200 OK\r\n"
UNLAWFUL = {
    "garbage": b"\x00\x01\x02garbage\r\n\r\n",
    "http-0.9": b"hello\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "two-lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "length-and-chunked": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "signed-length": HEAD + b"Content-Length: +2\r\n\r\nok",
    "huge-length": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "folded": HEAD + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "blank-before-colon": HEAD + b"Content-Length : 2\r\n\r\nok",
    "bare-lf": HEAD.replace(b"\r", b"") + b"Content-Length: 2\n\nok",
    "nul": HEAD + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "lone-cr": HEAD + b"X: a\rb\r\nContent-Length: 2\r\n\r\nok",
    "bad-chunk-size": CHUNKED + b"2 x\r\nok\r\n0\r\n\r\n",
    "negative-chunk": CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
    "huge-chunk": CHUNKED + b"fffffffffffffffff\r\n",
    "other-coding": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\nxx",
    "gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "status-999": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "status-20": b"HTTP/1.1 20 Odd\r\nContent-Length: 0\r\n\r\n",
    "many-headers": HEAD + b"X: y\r\n" * 200 + b"Content-Length: 2\r\n\r\nok",
    "large-headers": HEAD + b"".join(b"X%d: %b\r\n" % (i, b"y" * 1000) for i in range(100)) + b"\r\n",
    "endless-header": HEAD + b"X: " + b"y" * 1_000_000,
    "endless-interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + OK,
    "endless-extension": CHUNKED + b"1;" + b"y" * 1_000_000,
    "endless-trailers": CHUNKED + b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * 100_000,
}


@pytest.mark.parametrize("case", UNLAWFUL)
@pytest.mark.parametrize("stream", [False, True])
async def test_refuses_unlawful_answers_and_the_connection(client: Upstream, case: str, stream: bool) -> None:
    async with serving(saying(UNLAWFUL[case], hold=1)) as url:
        began = time.monotonic()
        assert await failing(client, post(url, stream=stream)) is ErrorKind.PROTOCOL
        assert time.monotonic() - began < 0.9
        await eventually(lambda: client.connections == 0, 0.2)


CUT = {
    "length": HEAD + b"Content-Length: 100\r\n\r\npart",
    "chunk": CHUNKED + b"a\r\npart",
    "between-chunks": CHUNKED + b"4\r\npart\r\n",
    "last-chunk": CHUNKED + b"4\r\npart\r\n0\r\n",
}


@pytest.mark.parametrize("case", CUT)
@pytest.mark.parametrize("reset", [False, True])
async def test_answers_cut_short_are_incomplete_after_what_came(client: Upstream, case: str, reset: bool) -> None:
    async with serving(saying(CUT[case], hold=0.05 if reset else 0)) as url:
        port = int(url.split(":")[2].split("/")[0])
        async with FaultProxy(port) as net:
            if reset:
                net.cut_after, net.cut_with_reset = len(CUT[case]), True
            through = url.replace(str(port), str(net.port))
            response = await client.open(post(through, stream=True), SLOW)
            assert await response.chunk() == b"part"
            with pytest.raises(ProviderError) as failed:
                await response.chunk()
            assert failed.value.kind is ErrorKind.INCOMPLETE
            assert await failing(client, post(through)) is ErrorKind.INCOMPLETE


async def test_every_cut_of_an_answer_is_noticed(client: Upstream) -> None:
    """A fuzz: cut a lawful answer anywhere; whatever is left is an error, never a short success."""
    whole = CHUNKED + b"4\r\npart\r\n3\r\n of\r\n0\r\n\r\n"
    for size in range(len(whole)):
        async with serving(saying(whole[:size])) as url:
            kind = await failing(client, post(url), QUICK)
            assert kind is (ErrorKind.CONNECTION if size < len(CHUNKED) else ErrorKind.INCOMPLETE), size


async def test_mutated_answers_never_escape_as_foreign_exceptions(client: Upstream) -> None:
    rng = random.Random(7)
    for case in range(300):
        answer = bytearray(rng.choice([a for a, _ in LAWFUL.values()] + list(UNLAWFUL.values())[:20]))
        for _ in range(rng.randint(1, 4)):
            answer[rng.randrange(len(answer))] = rng.randrange(256)
        async with serving(saying(bytes(answer))) as url:
            with contextlib.suppress(ProviderError):
                status, _ = await fetch(client, post(url, stream=case % 2 == 0), QUICK)
                assert 200 <= status < 600


async def test_bodies_above_the_limit_are_refused(client: Upstream) -> None:
    declared = HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1)
    async with serving(saying(declared, hold=1)) as url:
        assert await failing(client, post(url), QUICK) is ErrorKind.PROTOCOL
    async with serving(saying(HEAD + b"\r\n", *[b"x" * 100_000] * 20)) as url:
        response = await client.open(post(url), SLOW)
        with pytest.raises(ProviderError) as failed:
            await response.read(1_000_000)
        assert failed.value.kind is ErrorKind.PROTOCOL
        response = await client.open(post(url), SLOW)
        assert len(await response.read(2_000_000)) == 2_000_000


async def test_slow_readers_hold_the_upstream_back(client: Upstream) -> None:
    sent = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(HEAD + b"Content-Length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(b"x" * 100_000)
            sent += 100_000
            await writer.drain()

    async with serving(play) as url, await client.open(post(url, stream=True), SLOW) as response:
        await asyncio.sleep(0.3)
        assert sent < 25_000_000  # the kernel's buffers and ours, not all of it
        first = await response.chunk()
        assert len(first) <= HIGH_WATER + 512 * 1024
        assert len(first) + sum([len(piece) async for piece in pieces(response)]) == 50_000_000


# -- connections -----------------------------------------------------------------------------------------------------


async def test_connections_are_reused(client: Upstream, provider: DemoUpstream) -> None:
    for _ in range(5):
        await fetch(client, chat(provider, "demo"))
        await fetch(client, chat(provider, "demo-long", stream=True))
    assert provider.connections == 1
    await asyncio.gather(*(fetch(client, chat(provider, "demo+delay=0.05")) for _ in range(20)))
    assert client.connections == 20


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        OK + b"garbage",
        OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1),
        OK.replace(b"\r\n", b"\r\nKeep-Alive: timeout=1\r\n", 1),
        OK.replace(b"1.1", b"1.0"),
    ],
)
async def test_a_connection_with_anything_odd_is_not_used_again(client: Upstream, answer: bytes) -> None:
    served = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        while True:
            await read_request(reader)
            writer.write(answer)

    async with serving(play) as url:
        for _ in range(2):
            assert await fetch(client, post(url)) == (200, b"ok")
    assert served == 2


async def test_bytes_that_nobody_asked_for_close_the_connection(client: Upstream) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(OK)
        await asyncio.sleep(5)

    async with serving(play) as url:
        assert await fetch(client, post(url)) == (200, b"ok")
        await eventually(lambda: client.connections == 0, 1)


async def test_a_connection_that_was_closed_meanwhile_is_replaced_once(client: Upstream) -> None:
    """The server drops the connection at the second request, unanswered: sent again on a new connection."""
    heads = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heads
        await read_request(reader)
        heads += 1
        if heads == 4:
            return  # a new connection that dies unanswered
        writer.write(OK)
        await read_request(reader)
        heads += 1

    async with serving(play) as url:
        assert await fetch(client, post(url)) == (200, b"ok")
        assert await fetch(client, post(url)) == (200, b"ok")
        assert heads == 3
        await client.close()
        assert await failing(client, post(url)) is ErrorKind.CONNECTION
        assert heads == 4


async def test_a_request_is_not_sent_again_once_it_may_have_been_acted_upon(client: Upstream) -> None:
    """A byte of an answer has come, or the connection dies late: resending could generate and bill twice."""
    requests = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        writer.write(OK)
        await read_request(reader)
        requests += 1
        if requests == 2:
            writer.write(b"HTTP/1.1 ")
            await writer.drain()
        else:
            await asyncio.sleep(1.1)

    async with serving(play) as url:
        for expected in (2, 4):
            assert await fetch(client, post(url)) == (200, b"ok")
            assert await failing(client, post(url)) is ErrorKind.CONNECTION
            assert requests == expected


async def test_an_answer_before_the_request_was_read_is_taken_and_the_connection_dropped(client: Upstream) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.sleep(0.5)

    async with serving(play) as url:
        assert await fetch(client, post(url, b"x" * 30_000_000)) == (413, b"no")
        await eventually(lambda: client.connections == 0, 0.2)


class Straight:
    """An upstream that sends at once where it can, as the dispatcher does."""

    def __init__(self, **options: Any) -> None:
        self._upstream = Upstream(**options)
        self.started = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upstream, name)

    async def open(self, request, timeouts, method="POST", own=(), after=None):
        response = self.start(request, timeouts, method, own)
        if response is not None:
            self.started += 1
            try:
                await response.begun
            except BaseException:
                response.abort()
                raise
            if response.status:
                return response
        return await self._upstream.open(request, timeouts, method, own, after=response)


@pytest.mark.parametrize(
    "behaviour",
    [
        test_bytes_that_nobody_asked_for_close_the_connection,
        test_a_connection_that_was_closed_meanwhile_is_replaced_once,
        test_a_request_is_not_sent_again_once_it_may_have_been_acted_upon,
        test_large_bodies_arrive_whole,
    ],
)
async def test_what_is_sent_at_once_fares_no_differently(behaviour: Callable[[Upstream], Awaitable[None]]) -> None:
    client = Straight()
    await behaviour(client)
    assert client.in_flight == 0
    await client.close()


async def test_only_a_free_place_and_an_idle_connection_let_a_request_go_at_once(provider: DemoUpstream) -> None:
    client = Straight(limit=1)
    request = chat(provider, "demo")
    assert client.start(request, SLOW) is None, "there is no connection yet"
    for _ in range(4):
        assert (await fetch(client, request))[0] == 200
    assert client.started == 3
    assert client.connections == 1
    held = client.start(chat(provider, "demo-endless", stream=True), SLOW)
    assert held is not None
    assert client.start(request, SLOW) is None, "there is no place"
    await held.begun
    assert held.status == 200
    held.abort()
    assert client.in_flight == 0
    with pytest.raises(ProviderError):
        client.start(UpstreamRequest("http://", {}, b""), SLOW)
    assert client.in_flight == 0
    await client.close()


async def test_at_most_limit_requests_are_in_flight(provider: DemoUpstream) -> None:
    client = Upstream(limit=2)
    results = await asyncio.gather(*(fetch(client, chat(provider, "demo+delay=0.1")) for _ in range(6)))
    assert len(results) == 6
    assert client.connections == 2
    waiting = [await client.open(chat(provider, "demo-endless", stream=True), SLOW) for _ in range(2)]
    assert await failing(client, chat(provider, "demo"), QUICK) is ErrorKind.OVERLOADED
    for response in waiting:
        response.abort()
    assert (await fetch(client, chat(provider, "demo"), QUICK))[0] == 200
    assert client.in_flight == 0
    await client.close()


async def test_places_are_handed_on_in_turn_and_not_to_those_who_left(provider: DemoUpstream) -> None:
    client = Upstream(limit=1)
    held = await client.open(chat(provider, "demo-endless", stream=True), SLOW)
    served: list[int] = []

    async def ask(number: int) -> None:
        await fetch(client, chat(provider, "demo"))
        served.append(number)

    tasks = []
    for number in range(6):
        tasks.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[3].cancel()
    await asyncio.sleep(0)
    held.abort()
    tasks[1].cancel()  # the place is its own already, and it can no longer use it
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served == [2, 4, 5]
    assert client.in_flight == 0
    await client.close()


async def test_each_answer_of_a_connection_has_its_own_deadlines(client: Upstream) -> None:
    """The connection's one timer: neither is a long one late for a short one, nor a short one too early for a long."""
    waits: list[float] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            await asyncio.sleep(waits.pop(0))
            writer.write(OK)

    async with serving(play) as url:
        waits += [0, 0.5, 0, 0.5, 5]
        short, long = QUICK.model_copy(update={"response": 0.2}), SLOW
        for timeouts in (short, long, short, long):
            assert await fetch(client, post(url), timeouts) == (200, b"ok")
        kind, seconds = await timed(failing(client, post(url), QUICK))
    assert (kind, 0.25 < seconds < 0.6) == (ErrorKind.TIMEOUT, True)
    assert client.connections == 0


async def test_a_body_that_came_with_its_head_is_here_at_once(client: Upstream) -> None:
    large = HEAD + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000
    for answer, limit, here in ((OK, 2, b"ok"), (OK, 1, None), (large, 5000, b"x" * 2000)):
        async with serving(saying(answer)) as url, await client.open(post(url), SLOW) as response:
            assert response.here(limit) == here
            assert response.headers["content-length"] == str(len(answer.partition(b"\r\n\r\n")[2]))
    async with serving(saying(OK[:-1], OK[-1:], pause=0.05)) as url, await client.open(post(url), SLOW) as response:
        assert response.here() is None
        assert await response.read() == b"ok"
    async with serving(saying(OK[:-1])) as url, await client.open(post(url), SLOW) as response:
        await asyncio.sleep(0.05)
        assert response.here() is None, "cut short"
        with pytest.raises(ProviderError):
            await response.read()


async def test_headers_of_one_request_come_besides_those_of_all(client: Upstream) -> None:
    heads: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append((await read_request(reader))[0])
            writer.write(OK)

    async with serving(play) as url:
        for own in ((), (("traceparent", "00-1"),), ()):
            async with await client.open(post(url), SLOW, own=own) as response:
                assert response.status == 200
        with pytest.raises(ProviderError) as failed:
            await client.open(post(url), SLOW, own=(("traceparent", "a\r\nEvil: 1"),))
        assert failed.value.kind is ErrorKind.CONNECTION
    assert [b"\r\ntraceparent: 00-1\r\n" in head for head in heads] == [False, True, False]


async def test_closing_right_after_the_last_event_keeps_the_connection(client: Upstream) -> None:
    """The chunk that ends the body often follows the last event in a packet of its own."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(CHUNKED + b"4\r\ndone\r\n")
            await asyncio.sleep(0.02)
            writer.write(b"0\r\n\r\n")

    async with serving(play) as url:
        for _ in range(3):
            async with await client.open(post(url, stream=True), SLOW) as response:
                assert await response.chunk() == b"done"
            await asyncio.sleep(0.05)
            assert client.connections == 1


async def test_closing_an_unfinished_answer_drops_it_soon(client: Upstream, provider: DemoUpstream) -> None:
    async with await client.open(chat(provider, "demo-endless", stream=True), SLOW) as response:
        await response.chunk()
    assert await eventually(lambda: provider.in_flight == 0, 1) < 0.3
    assert client.in_flight == 0


# -- time and cancellation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["aborted", "cut short", "late", "closed by the server", "no answer"])
async def test_a_connection_that_is_over_is_forgotten_without_collecting_garbage(client: Upstream, end: str) -> None:
    """It is part of no cycle, in which it would stay for minutes: clients that leave in the middle would fill the memory."""
    plays = {
        "aborted": saying(CHUNKED + b"2\r\nhi\r\n", hold=5),
        "cut short": saying(CHUNKED + b"2\r\nhi\r\n"),
        "late": saying(b"", hold=5),
        "closed by the server": saying(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)),
        "no answer": saying(b""),
    }
    async with serving(plays[end]) as url:

        async def once() -> None:
            with contextlib.suppress(ProviderError):
                response = await client.open(post(url, stream=True), QUICK)
                await response.chunk()
                if end == "aborted":
                    response.abort()
                else:
                    await response.read()

        await once()
        await asyncio.sleep(0.1)
        gc.collect()
        gc.disable()  # so that what is made from now on stays among the youngest
        try:
            for _ in range(5):
                await once()
            await eventually(lambda: not young_connections(), 2)
        finally:
            gc.enable()


def young_connections() -> int:
    return sum(isinstance(thing, Connection) for thing in gc.get_objects(generation=0))


async def test_what_a_sink_raises_reaches_who_pours_and_later_pieces_are_not_given_to_it(client: Upstream) -> None:
    given: list[bytes] = []

    def sink(data: bytes) -> bool:
        given.append(data)
        raise KeyError("full")

    async with serving(saying(CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n", pause=0.02, hold=5)) as url:
        response = await client.open(post(url, stream=True), SLOW)
        with pytest.raises(KeyError):
            await response.pour(sink)
        await asyncio.sleep(0.05)
        assert given == [b"a"]
        response.abort()


async def test_a_sink_that_wants_no_more_holds_the_upstream_back(client: Upstream) -> None:
    sent = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(CHUNKED)
        for _ in range(400):
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            await writer.drain()
            sent += 65536

    async with serving(play) as url:
        response = await client.open(post(url, stream=True), SLOW)
        assert not await response.pour(lambda _: False)
        await asyncio.sleep(0.3)
        assert sent < 16 << 20, "what nobody reads piles up in buffers only"
        taken = 0

        def sink(data: bytes) -> bool:
            nonlocal taken
            taken += len(data)
            return True

        with pytest.raises(ProviderError) as caught:
            while True:
                await response.pour(sink)
        assert caught.value.kind is ErrorKind.INCOMPLETE  # it ends without a last chunk
        assert taken > 20 << 20


async def test_pouring_is_bounded_by_the_pause_between_two_pieces_and_cancelled_at_once(client: Upstream) -> None:
    slow = Timeouts(first_byte=5, idle=0.1)
    async with serving(saying(CHUNKED, *[b"1\r\na\r\n"] * 4, pause=0.06, hold=5)) as url:
        response = await client.open(post(url, stream=True), slow)
        given: list[bytes] = []

        def sink(data: bytes) -> bool:
            given.append(data)
            return True

        with pytest.raises(ProviderError) as caught:
            await response.pour(sink)
        assert caught.value.kind is ErrorKind.TIMEOUT
        assert given == [b"a"] * 4, "each piece moves the bound on"
    async with serving(saying(CHUNKED, b"1\r\na\r\n", hold=5)) as url:
        response = await client.open(post(url, stream=True), SLOW)
        task = asyncio.create_task(response.pour(lambda _: True))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert client.in_flight == 0


async def timed(work: Awaitable[ErrorKind]) -> tuple[ErrorKind, float]:
    began = time.monotonic()
    return await work, time.monotonic() - began


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", HEAD, HEAD + b"Content-Length: 5\r\n\r\n"])
async def test_no_first_byte_in_time(client: Upstream, stream: bool, sent: bytes) -> None:
    async with serving(saying(sent, hold=2)) as url:
        kind, seconds = await timed(failing(client, post(url, stream=stream), QUICK))
    assert kind is ErrorKind.TIMEOUT
    assert 0.25 < seconds < 0.6
    assert client.connections == 0


async def test_a_stream_that_stalls_and_one_that_drips(client: Upstream) -> None:
    async with serving(saying(CHUNKED + b"1\r\nx\r\n", hold=2)) as url:
        kind, seconds = await timed(failing(client, post(url, stream=True), QUICK))
    assert (kind, 0.25 < seconds < 0.6) == (ErrorKind.TIMEOUT, True)
    # bytes that are not body are no progress
    async with serving(saying(CHUNKED + b"1\r\nx\r\n1;", *[b"y"] * 20, pause=0.1)) as url:
        kind, seconds = await timed(failing(client, post(url, stream=True), QUICK))
    assert (kind, 0.25 < seconds < 0.6) == (ErrorKind.TIMEOUT, True)


async def test_idle_shorter_than_the_first_byte_holds(client: Upstream) -> None:
    times = Timeouts(first_byte=5, idle=0.2, total=10)
    async with serving(saying(CHUNKED + b"1\r\nx\r\n", hold=2)) as url:
        kind, seconds = await timed(failing(client, post(url, stream=True), times))
    assert (kind, 0.15 < seconds < 0.5) == (ErrorKind.TIMEOUT, True)


async def test_a_stream_may_be_slow_but_not_for_ever(client: Upstream) -> None:
    times = Timeouts(first_byte=1, idle=1, total=1.5)
    async with serving(saying(CHUNKED, *[b"1\r\nx\r\n"] * 8, pause=0.05)) as url:
        assert await failing(client, post(url, stream=True), times) is ErrorKind.INCOMPLETE  # its end, within the total
    async with serving(saying(CHUNKED, *[b"1\r\nx\r\n"] * 60, pause=0.05)) as url:
        kind, seconds = await timed(failing(client, post(url, stream=True), times))
    assert (kind, 1.4 < seconds < 2.5) == (ErrorKind.TIMEOUT, True)


async def test_reading_a_stream_whole_is_bounded_between_its_pieces(client: Upstream) -> None:
    """As the error body of a streamed request is read: it may take longer than idle, but never pause for so long."""
    times = Timeouts(first_byte=0.3, idle=0.3, total=5)
    pieces = [b"1\r\nx\r\n"] * 8
    async with serving(saying(CHUNKED, *pieces, b"0\r\n\r\n", pause=0.1)) as url:
        response = await client.open(post(url, stream=True), times)
        assert await response.read() == b"x" * 8
    async with serving(saying(CHUNKED, *pieces[:2], hold=3)) as url:
        response = await client.open(post(url, stream=True), times)
        began = time.monotonic()
        with pytest.raises(ProviderError) as failed:
            await response.read()
        assert failed.value.kind is ErrorKind.TIMEOUT
        assert time.monotonic() - began < 1


async def test_a_slow_reader_is_not_the_providers_fault(client: Upstream) -> None:
    times = Timeouts(first_byte=0.1, idle=0.1, total=5)
    async with serving(saying(CHUNKED + b"1\r\nx\r\n", b"1\r\ny\r\n0\r\n\r\n", pause=0.3)) as url:
        response = await client.open(post(url, stream=True), times)
        assert await response.chunk() == b"x"
        await asyncio.sleep(0.5)
        assert await response.chunk() == b"y"
        assert await response.chunk() == b""


async def test_connecting_is_bounded_and_the_next_address_is_tried(provider: DemoUpstream) -> None:
    port = int(provider.url.split(":")[2])
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.2", "127.0.0.1"]  # nobody listens on the first

    client = Upstream(resolve=resolve)
    request = chat(provider, "demo")
    request = post(f"http://provider.test:{port}/openai/v1/chat/completions", request.body)
    assert (await fetch(client, request))[0] == 200
    assert asked == ["provider.test"]
    await client.close()

    async def hangs(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    slow = Upstream(resolve=hangs)
    kind, seconds = await timed(failing(slow, request, QUICK))
    assert (kind, seconds < 0.6) == (ErrorKind.CONNECTION, True)


@pytest.mark.parametrize(
    "error",
    [OSError("x"), ConnectionRefusedError(), TimeoutError(), ssl.SSLError("x"), UnicodeError("x"), ValueError()],
)
async def test_no_foreign_exception_passes_the_border(client: Upstream, error: Exception) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise error

    assert await failing(Upstream(resolve=resolve), post("http://x.test/")) is ErrorKind.CONNECTION
    assert await failing(client, post(f"http://127.0.0.1:{free_port()}/")) is ErrorKind.CONNECTION
    assert await failing(client, post("http://nowhere.invalid/"), QUICK) is ErrorKind.CONNECTION


@pytest.mark.parametrize("model", ["demo+delay=20", "demo-endless"])
async def test_C_345_cancelling_reaches_the_upstream_at_once(
    client: Upstream, provider: DemoUpstream, model: str
) -> None:
    task = asyncio.create_task(fetch(client, chat(provider, model, stream=True)))
    await eventually(lambda: provider.in_flight == 1, 1)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await eventually(lambda: provider.in_flight == 0, 1) < 0.2
    assert client.in_flight == 0
    assert client.connections == 0
    assert provider.journal[0].aborted_at is not None


async def test_cancelling_while_connecting_or_queueing_leaks_nothing(provider: DemoUpstream) -> None:
    client = Upstream(limit=1)
    for after in (0, 0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01):
        tasks = [asyncio.create_task(fetch(client, chat(provider, "demo-slow", stream=True))) for _ in range(3)]
        await asyncio.sleep(after)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert client.in_flight == 0
    await eventually(lambda: provider.in_flight == 0, 0.5)
    assert (await fetch(client, chat(provider, "demo")))[0] == 200
    await client.close()
    await eventually(lambda: provider.connections == 0, 0.5)


# -- a bad network ---------------------------------------------------------------------------------------------------


async def test_faults_of_the_network(client: Upstream, provider: DemoUpstream) -> None:
    port = int(provider.url.split(":")[2])
    async with FaultProxy(port) as net:

        def ask(model: str, *, stream: bool = False) -> UpstreamRequest:
            request = chat(provider, model, stream=stream)
            url = request.url.replace(str(port), str(net.port))
            return UpstreamRequest(url, request.headers, request.body, stream=stream)

        whole = await fetch(client, ask("demo-long", stream=True))
        net.slice = 3
        status, sliced = await fetch(client, ask("demo-long", stream=True))
        assert (status, len(sliced)) == (200, len(whole[1]))
        net.slice, net.latency = 0, 0.05
        began = time.monotonic()
        again = await fetch(client, ask("demo-long", stream=True))
        assert time.monotonic() - began > 0.09
        assert len(again[1]) == len(whole[1])
        net.latency, net.black_hole = 0, True
        assert await failing(client, ask("demo"), QUICK) is ErrorKind.TIMEOUT
        net.black_hole, net.lose_replies = False, True
        seen = len(provider.journal)
        assert await failing(client, ask("demo"), QUICK) is ErrorKind.TIMEOUT
        assert len(provider.journal) == seen + 1
        net.lose_replies = False
        task = asyncio.create_task(failing(client, ask("demo-endless", stream=True)))
        await asyncio.sleep(0.1)
        net.reset()
        assert await task is ErrorKind.INCOMPLETE
        await net.down()
        assert await failing(client, ask("demo")) is ErrorKind.CONNECTION
        await net.up()
        assert (await fetch(client, ask("demo")))[0] == 200


# -- addresses -------------------------------------------------------------------------------------------------------

INSIDE = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fc00::1", "fec0::1", "127.0.0.1", "::1"),
    "::ffff:127.0.0.1",
]
NEVER = [
    *("169.254.169.254", "::ffff:169.254.169.254", "168.63.129.16", "192.0.0.192", "100.100.100.200", "0.0.0.0"),
    *("224.0.0.1", "255.255.255.255", "::", "fe80::1", "ff02::1", "fd00:ec2::254", "64:ff9b::7f00:1", "2002:7f00:1::"),
    *("::127.0.0.1", "::ffff:0:127.0.0.1", "not-an-address", "127.0.0.1.evil", ""),
]


@pytest.mark.parametrize("allow", [False, True])
def test_S_10_addresses_no_provider_lives_at_are_refused(allow: bool) -> None:
    assert [a for a in NEVER if refusal(a, allow_private=allow) is None] == []
    assert [a for a in INSIDE if refusal(a, allow_private=allow) is None] == (INSIDE if allow else [])
    assert refusal("1.1.1.1", allow_private=allow) is None
    assert refusal("2606:4700::1111", allow_private=allow) is None


def test_S_27_plain_http_only_to_loopback() -> None:
    assert refusal("1.1.1.1", allow_private=True, plain_http=True) == "not encrypted"
    assert refusal("10.0.0.1", allow_private=True, plain_http=True) == "not encrypted"
    assert refusal("127.0.0.1", allow_private=True, plain_http=True) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "localhost", "127.1"])
async def test_S_10_no_spelling_of_an_address_gets_around_the_check(provider: DemoUpstream, host: str) -> None:
    request = chat(provider, "demo")
    request = post(request.url.replace("127.0.0.1", host), request.body)
    assert await failing(Upstream(allow_private=False), request, QUICK) is ErrorKind.CONNECTION
    assert len(provider.journal) == 0


async def test_S_10_a_name_that_moves_inside_is_refused_when_it_is_connected_to(provider: DemoUpstream) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["169.254.169.254", "127.0.0.1"]

    port = provider.url.split(":")[2]
    request = post(f"http://public.test:{port}/openai/v1/chat/completions")
    assert await failing(Upstream(allow_private=False, resolve=resolve), request) is ErrorKind.CONNECTION
    assert len(provider.journal) == 0


async def test_the_resolver_remembers_and_shares_look_ups() -> None:
    resolver = SystemResolver(ttl=0.2)
    first = await asyncio.gather(*(resolver("localhost", 80) for _ in range(5)))
    assert all("127.0.0.1" in found for found in first)
    assert await resolver("localhost", 80) is first[0]
    await asyncio.sleep(0.25)
    assert await resolver("localhost", 80) is not first[0]
    with pytest.raises(OSError):
        await resolver("nowhere.invalid", 80)


async def test_addresses_hold_while_name_servers_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstream.addresses.PATIENCE", 0.1)
    loop, found, broken = asyncio.get_running_loop(), ["127.0.0.7"], [socket.EAI_AGAIN]

    class Names:
        """The loop, whose name servers are the test's."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
            if broken == ["silent"]:
                await asyncio.sleep(30)
            if broken:
                raise socket.gaierror(broken[0], "x")
            return [(0, 0, 0, "", (address, 1)) for address in found]

    monkeypatch.setattr(asyncio, "get_running_loop", Names)
    resolver = SystemResolver(ttl=0.0)
    with pytest.raises(OSError):
        await resolver("x.test", 1)
    broken.clear()
    assert await resolver("x.test", 1) == ("127.0.0.7",)
    broken.append(socket.EAI_AGAIN)
    assert await resolver("x.test", 1) == ("127.0.0.7",)
    broken[:] = [socket.EAI_NONAME]
    with pytest.raises(OSError):
        await resolver("x.test", 1)
    broken[:] = ["silent"]
    async with asyncio.timeout(1):
        assert await resolver("x.test", 1) == ("127.0.0.7",)


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for provider.test: its file and its key's."""
    return self_signed(tmp_path_factory.mktemp("tls"), "provider.test")


async def loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_S_26_tls_is_verified(authority: tuple[str, str]) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority)
    stream = CHUNKED + b"2\r\nok\r\n0\r\n\r\n"

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(stream)

    async with serving(play, server) as url:
        named, other = (url.replace("127.0.0.1", host) for host in ("provider.test", "other.test"))
        trusting = Upstream(tls=tls_context(authority[0]), resolve=loopback)
        for kind in (False, True):
            assert await fetch(trusting, post(named, stream=kind)) == (200, b"ok")
        assert trusting.connections == 1
        assert await failing(trusting, post(other)) is ErrorKind.CONNECTION
        stranger = Upstream(resolve=loopback)
        with pytest.raises(ProviderError, match="certificate is not trusted"):
            await stranger.open(post(named), SLOW)
        assert await failing(trusting, post(named.replace("https", "http")), QUICK) in (
            ErrorKind.CONNECTION,
            ErrorKind.TIMEOUT,
        )
        await trusting.close()
        await stranger.close()


async def test_a_name_with_many_addresses_leaves_each_the_time_for_a_handshake(authority: tuple[str, str]) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority)

    async def many(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] * 20

    async with serving(saying(OK), server) as url, FaultProxy(int(url.split(":")[2].split("/")[0])) as net:
        net.latency = 0.1  # a provider on another continent
        client = Upstream(tls=tls_context(authority[0]), resolve=many)
        far = Timeouts(connect=2)
        assert await fetch(client, post(f"https://provider.test:{net.port}/v1/x"), far) == (200, b"ok")
        await net.down()
        assert await failing(client, post(f"https://provider.test:{net.port}/v1/x"), far) is ErrorKind.CONNECTION
        await client.close()


async def test_S_26_old_tls_is_refused(authority: tuple[str, str]) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority)
    server.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(saying(OK), server) as url:
        client = Upstream(tls=tls_context(authority[0]), resolve=loopback)
        assert await failing(client, post(url.replace("127.0.0.1", "provider.test"))) is ErrorKind.CONNECTION


def test_S_26_authorities_of_ones_own_are_those_of_the_environment(authority: tuple[str, str]) -> None:
    code = "from gateway.tls import default_tls; print([c['subject'] for c in default_tls().get_ca_certs()])"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SSL_CERT_FILE": authority[0]},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "provider.test" in told.stdout
