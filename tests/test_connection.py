"""The loop over the requests of a connection, over raw sockets: order, leaving, bodies nobody reads, the end of a connection."""

import asyncio
import gzip
import hashlib
import inspect
import json
import logging
import socket
import time
import types
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvloop
from aiohttp.web_protocol import RequestHandler

from config.schema import Server as ServerConfig
from gateway import connection, server, web
from gateway.app import Gateway
from gateway.connection import Connection, Listener
from gateway.endpoints.exchange import Exchange
from gateway.endpoints.routes import Handler, Routes
from gateway.errors import ClientDisconnected, Overloaded
from gateway.server import Serving, Site, State, drain
from gateway.throttle import Failures

from .compiled import interpreted_only
from .running import KEY, running
from .test_server import error_of, post

ASK = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
MODELS = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
NOWHERE = b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"
GARBAGE = b"GARBAGE\r\n\r\n"


def ask(model: str, *headers: str) -> bytes:
    return post(ASK.replace(b'"m"', f'"{model}"'.encode()), *headers)


class Socket:
    """A client that writes what it likes and reads one answer after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *data: bytes) -> None:
        self._writer.write(b"".join(data))

    async def lines(self) -> tuple[int, list[tuple[str, str]]]:
        """The status and the headers of the next answer, as they came."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)
        status, *lines = head.decode().strip().split("\r\n")
        return int(status.split()[1]), [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, lines = await self.lines()
        headers = dict(lines)
        length = int(headers.get("content-length", 0))
        return status, headers, await asyncio.wait_for(self._reader.readexactly(length), 10)

    async def rest(self) -> bytes:
        """What comes until the gateway closes."""
        return await asyncio.wait_for(self._reader.read(), 10)

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def to(gateway: Gateway) -> AsyncIterator[Socket]:
    socket = Socket(*await asyncio.open_connection("127.0.0.1", gateway.data.port))
    try:
        yield socket
    finally:
        socket.close()


async def until_idle(gateway: Gateway, within: float = 2) -> None:
    deadline = time.monotonic() + within
    while gateway.state.in_flight:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_pipelined_requests_are_answered_in_order_whoever_answers_them() -> None:
    async with running({"m": "demo-echo", "slow": "demo-echo+delay=0.2"}) as (gateway, _), to(gateway) as socket:
        socket.send(ask("slow"), MODELS, ask("m"), HEALTH, post(b"{}", path="/nowhere"), ask("slow"))
        kinds = [await socket.answer() for _ in range(6)]
        assert [status for status, _, _ in kinds] == [200, 200, 200, 200, 404, 200]
        objects = [json.loads(body).get("object") for _, _, body in kinds]
        assert objects == ["chat.completion", "list", "chat.completion", None, None, "chat.completion"]
        assert len({headers["x-request-id"] for _, headers, _ in kinds}) == 6
        assert "connection" not in kinds[0][1]


async def test_more_pipelined_requests_than_are_held_at_once_are_all_answered() -> None:
    async with running({"m": "demo-echo"}) as (gateway, _), to(gateway) as socket:
        asked = 200
        for number in range(asked):
            socket.send(post(ASK.replace(b"hi", b"number %d" % number)))
        for number in range(asked):
            status, _, body = await socket.answer()
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, f"number {number}")


@pytest.mark.parametrize("number", [31, 32, 33, 200])
@pytest.mark.parametrize("together", [True, False])
async def test_requests_that_follow_one_in_two_packets_are_all_answered(number: int, together: bool) -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        for _ in range(2):
            socket.send(ask("m")[: -len(ASK)])
            await asyncio.sleep(0.02)
            if together:
                socket.send(ASK, MODELS * number)
            else:
                socket.send(ASK)
                assert (await socket.answer())[0] == 200
                socket.send(MODELS * (number + 1))
            assert [(await socket.answer())[0] for _ in range(number + 1)] == [200] * (number + 1)


async def test_what_follows_a_slow_request_in_two_packets_is_not_read_without_end() -> None:
    models = {"m": "demo-ok+delay=0.5"}
    async with running(models) as (gateway, _), to(gateway) as socket:
        socket.send(ask("m")[: -len(ASK)])
        await asyncio.sleep(0.05)
        socket.send(ASK, MODELS * 40)
        await asyncio.sleep(0.1)
        (one,) = gateway.data.listener.connections
        assert one._buffer_paused
        assert [(await socket.answer())[0] for _ in range(41)] == [200] * 41


async def test_a_client_that_leaves_ends_what_runs_and_what_waits_behind_it() -> None:
    async with running({"m": "demo-ok+delay=30"}) as (gateway, upstream):
        async with to(gateway) as socket:
            socket.send(ask("m"), ask("m"), ask("m"))
            while not upstream.in_flight:
                await asyncio.sleep(0.01)
        await until_idle(gateway)
        while upstream.in_flight:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert (gateway.state.in_flight, upstream.in_flight) == (0, 0)
        assert gateway.data.listener.connections == []


@pytest.mark.parametrize("read", [0, 1, 3])
async def test_a_client_that_leaves_a_stream_ends_it(read: int) -> None:
    async with running({"m": "demo-endless"}) as (gateway, upstream):
        async with to(gateway) as socket:
            socket.send(post(ASK[:-1] + b',"stream":true}'))
            assert (await socket.lines())[0] == 200
            for _ in range(read):
                await socket._reader.readuntil(b"\n\n")
        await until_idle(gateway)
        while upstream.in_flight:
            await asyncio.sleep(0.01)
        assert gateway.data.listener.connections == []


async def test_the_rest_of_a_body_that_nobody_wants_is_waited_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGERING", 0.3)
    async with running({"m": "demo-ok"}) as (gateway, _):
        for sent in (b"", b"x" * 50):
            async with to(gateway) as socket:
                socket.send(post(b"x" * 100, "authorization: Bearer nope")[:-100], sent)
                status, headers, _ = await socket.answer()
                assert (status, headers["connection"]) == (401, "close")
                began = time.monotonic()
                assert await socket.rest() == b""
                assert 0.2 < time.monotonic() - began < 1.5
        async with to(gateway) as socket:  # what comes in time is read, so that closing does not reset the connection
            socket.send(post(b"x" * 1_000_000, "authorization: Bearer nope"))
            assert (await socket.answer())[0] == 401
            assert await socket.rest() == b""


async def test_an_unread_body_is_not_taken_for_the_next_request() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        socket.send(post(HEALTH, "authorization: Bearer nope"), HEALTH)
        assert (await socket.answer())[0] == 401
        status, _, body = await socket.answer()  # the body was all there: it is skipped, and the connection stays
        assert (status, json.loads(body)) == (200, {"status": "ok"})


@pytest.mark.parametrize("first", [HEALTH, ask("m")])
async def test_a_connection_that_was_used_is_closed_when_idle(first: bytes) -> None:
    async with running({"m": "demo-ok"}, server={"keepalive": 0.4}) as (gateway, _), to(gateway) as socket:
        for _ in range(3):
            await asyncio.sleep(0.25)  # each request begins the time anew
            socket.send(first)
            assert (await socket.answer())[0] == 200
        began = time.monotonic()
        assert await socket.rest() == b""
        assert 0.2 < time.monotonic() - began < 2


async def test_a_connection_that_waits_for_a_request_holds_nothing_of_the_one_before() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        for _ in range(3):  # read by the parser, then known
            socket.send(ask("m"))
            assert (await socket.answer())[0] == 200
            await asyncio.sleep(0.01)
            (one,) = gateway.data.listener.connections
            assert one._task_handler is not None
            waiting = cast("types.CoroutineType[Any, Any, Any]", one._task_handler.get_coro())
            assert set(waiting.cr_frame.f_locals) == {"self"}


async def test_a_request_that_takes_longer_than_idling_may_is_answered() -> None:
    models = {"m": "demo-ok+delay=0.6"}
    async with running(models, server={"keepalive": 0.2}) as (gateway, _), to(gateway) as socket:
        socket.send(ask("m"))
        assert (await socket.answer())[0] == 200
        assert await socket.rest() == b""


@pytest.mark.parametrize("first", [HEALTH, ask("m"), ask("slow")])
@pytest.mark.parametrize("wait", [True, False])
async def test_a_malformed_second_request_is_refused_after_the_first_answer(first: bytes, wait: bool) -> None:
    models = {"m": "demo-ok", "slow": "demo-ok+delay=0.3"}
    async with running(models) as (gateway, _), to(gateway) as socket:
        socket.send(first)
        if wait:
            assert (await socket.answer())[0] == 200
        else:
            await asyncio.sleep(0.1)  # in a packet of its own, for aiohttp's parser drops what came along with garbage
        socket.send(GARBAGE)
        if not wait:
            assert (await socket.answer())[0] == 200
        status, headers, body = await socket.answer()
        assert (status, headers.get("connection", "close")) == (400, "close")
        assert error_of(body)["message"] == "The request is not valid HTTP."
        assert await socket.rest() == b""


@pytest.mark.parametrize("first", [HEALTH, ask("m")])
async def test_an_upgrade_is_declined_by_answering(first: bytes) -> None:
    upgrade = first.replace(b"host: x", b"host: x\r\nconnection: upgrade\r\nupgrade: websocket")
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        socket.send(upgrade, first)
        assert [(await socket.answer())[0] for _ in range(2)] == [200, 200]
        socket.send(upgrade, upgrade, GARBAGE)
        assert [(await socket.answer())[0] for _ in range(3)] == [200, 200, 400]


@pytest.mark.parametrize(
    ("mark", "key", "status"),
    [
        ("x-client-request-id: caf\xe9", KEY, 400),
        ("x-client-request-id: caf\xe9", "sk-none-of-ours", 401),
        ("x-stainless-retry-count: caf\xe9", KEY, 200),
    ],
)
async def test_a_header_in_latin_1_is_refused_or_logged_and_the_connection_stays(
    mark: str, key: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        caplog.set_level(logging.INFO, "sluice.access")
        socket.send(ask("m", mark, f"authorization: Bearer {key}"), ask("m"))
        assert [(await socket.answer())[0] for _ in range(2)] == [status, 200]
    first, _ = (json.loads(line.getMessage()) for line in caplog.records if line.name == "sluice.access")
    assert (first["status"], first["client_request_id"] or first["client_retries"]) == (status, "caf?")


async def test_a_head_alone_has_no_body() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        socket.send(HEALTH.replace(b"GET", b"HEAD"), HEALTH)
        status, lines = await socket.lines()
        assert (status, dict(lines)["content-length"]) == (200, "15")
        assert (await socket.answer())[0] == 200


@pytest.mark.parametrize("stream", [b"false", b"true"])
async def test_no_header_comes_twice(stream: bytes) -> None:
    async with running({"m": "demo-ok"}, server={"cors_origins": ["*"]}) as (gateway, _), to(gateway) as socket:
        socket.send(post(ASK[:-1] + b',"stream":%b}' % stream, "origin: https://x.example", "connection: close"))
        status, lines = await socket.lines()
        names = [name for name, _ in lines]
        assert status == 200
        assert sorted(names) == sorted(set(names))
        assert {"server", "date", "openai-version", "x-sluice-config", "x-request-id", "content-type"} <= {*names}
        assert {"access-control-allow-origin", "access-control-expose-headers", "connection"} <= {*names}


@interpreted_only
async def test_an_answer_that_cannot_be_made_is_500_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("sk-canary")

    monkeypatch.setattr(Site, "_refuse", broken)
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        socket.send(post(b"{}"), HEALTH)
        status, headers, body = await socket.answer()
        assert (status, headers["connection"]) == (500, "close")
        assert error_of(body)["type"] == "server_error"
        assert b"canary" not in body
        assert await socket.rest() == b""


@asynccontextmanager
async def site_of(handler: Handler) -> AsyncIterator[Socket]:
    """A client of a listener with one handler, of ``GET /it``."""
    routes = Routes()
    routes.add("GET", "/it", handler)
    site = Site(ServerConfig(port=0), State(), Failures(600))
    site.serve(Serving(routes, "1"))
    await site.start("127.0.0.1", 0)
    socket = Socket(*await asyncio.open_connection("127.0.0.1", site.port))
    try:
        yield socket
    finally:
        socket.close()
        await site.close()


async def test_others_are_served_while_a_little_is_unpacked_to_much() -> None:
    passes = 0

    async def other() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    async def reading(exchange: Exchange, _: str) -> web.Response:
        task = asyncio.create_task(other())
        size = len(await exchange.body())
        task.cancel()
        return web.Response(text=f"{size} {passes}", headers=exchange.all_headers)

    packed = gzip.compress(b" " * 30_000_000)
    async with site_of(reading) as socket:
        socket.send(b"GET /it HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\n")
        socket.send(b"content-length: %d\r\n\r\n" % len(packed), packed)
        status, _, answer = await socket.answer()
        size, turns = map(int, answer.split())
    assert (status, size) == (200, 30_000_000)
    assert turns > 30, "no more than a megabyte at a time"


GET_IT = b"GET /it HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("error", [RuntimeError("sk-canary"), Overloaded("late"), ClientDisconnected()])
@pytest.mark.parametrize("stream", [True, False])
async def test_no_second_head_follows_an_answer_that_has_begun(error: Exception, stream: bool) -> None:
    async def broken(exchange: Exchange, _: str) -> None:
        reply = exchange.reply_here()
        if stream:
            await reply.start({"x-mark": "1"})
            reply.push(b"data: 1\n\n")
        else:
            await reply.whole(b"{}", {"x-mark": "1"})
        raise error

    async with site_of(broken) as socket:
        socket.send(GET_IT * 2)
        status, lines = await socket.lines()
        assert (status, dict(lines)["x-mark"]) == (200, "1")
        assert await socket.rest() == (b"9\r\ndata: 1\n\n\r\n" if stream else b"{}")


async def test_a_client_that_sends_many_requests_at_once_lets_others_have_their_turns() -> None:
    turns, seen = 0, []

    async def quick(exchange: Exchange, _: str) -> None:
        seen.append(turns)
        await exchange.reply_here().whole(b"{}", {})

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with site_of(quick) as socket:
        counting = asyncio.create_task(count())
        socket.send(GET_IT * 500)
        for _ in range(500):
            assert (await socket.answer())[0] == 200
        counting.cancel()
    assert len(set(seen)) == 500  # the loop went round between any two of them


async def test_what_a_drain_cuts_is_the_last_of_its_connection() -> None:
    models = {"m": "demo-ok+delay=30"}
    async with running(models, server={"drain": 0.2}) as (gateway, upstream), to(gateway) as socket:
        socket.send(ask("m"), ask("m"))
        while not upstream.in_flight:
            await asyncio.sleep(0.01)
        await drain(gateway.state, gateway.config.server, [gateway.data])
        status, headers, body = await socket.answer()
        assert (status, headers["connection"], error_of(body)["code"]) == (503, "close", "shutting_down")
        assert await socket.rest() == b""


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + b"0\r\n\r\n"


def framed(body: bytes, *headers: str) -> tuple[bytes, bytes]:
    """A head and a body in chunks."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", *headers]
    return "\r\n".join([*lines, "transfer-encoding: chunked"]).encode() + b"\r\n\r\n", chunked(body, 7)


@pytest.mark.parametrize("host", ["http://x", "HTTPS://api.example.com:8443", "http://[::1]:80"])
async def test_a_target_that_says_the_host_too_is_served_like_one_that_does_not(host: str) -> None:
    at = host.encode()
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        for _ in range(2):  # the second head is known
            socket.send(post(ASK).replace(b" /v1/", b" " + at + b"/v1/"))
            assert (await socket.answer())[0] == 200
        socket.send(MODELS.replace(b" /v1/models ", b" " + at + b"/v1/models/m?x=/y "))
        status, _, body = await socket.answer()
        assert (status, json.loads(body)["id"]) == (200, "m")


@pytest.mark.parametrize(
    "target", ["http://x", "http://x?q=/v1/models", "ftp://x/v1/models", "http:/v1/models", "*", "x://"]
)
async def test_a_target_without_a_known_path_is_refused(target: str) -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        socket.send(MODELS.replace(b"/v1/models", target.encode()))
        assert (await socket.answer())[0] in (400, 404)


LARGE = ASK.replace(b"hi", b"h" * 3000)
BODIES: dict[str, tuple[bytes, bytes]] = {
    "whole": (post(ASK)[: -len(ASK)], ASK),
    "empty": (post(b""), b""),
    "chunked": framed(ASK),
    "nothing chunked": framed(b""),
    "gzip": framed(gzip.compress(ASK), "content-encoding: gzip"),
    "no gzip": (post(ASK, "content-encoding: gzip")[: -len(ASK)], ASK),
    "too large": (post(LARGE)[: -len(LARGE)], LARGE),
    "too large in chunks": framed(LARGE),
    "a bomb": framed(gzip.compress(b"[" * 1_000_000), "content-encoding: gzip"),
    "no json": (post(b"{")[:-1], b"{"),
}


@pytest.mark.parametrize("case", BODIES)
async def test_a_body_gives_the_same_whether_it_comes_at_once_or_in_pieces(case: str) -> None:
    head, body = BODIES[case]
    answers = []
    async with running({"m": "demo-echo"}, server={"max_body": 2048}) as (gateway, _):
        for size in (len(body) or 1, 40):
            async with to(gateway) as socket:
                if size == len(body):
                    socket.send(head, body)
                else:
                    socket.send(head)
                    for at in range(0, len(body), size):
                        await asyncio.sleep(0.002)
                        socket.send(body[at : at + size])
                status, _, answer = await socket.answer()
                told = json.loads(answer)
                answers.append((status, told.get("error"), told.get("choices")))
    assert answers[0] == answers[1]


EXPECTING = post(ASK, "expect: 100-continue")


async def test_a_client_that_waits_to_be_told_to_send_its_body_is_told_in_its_turn() -> None:
    async with running({"m": "demo-ok", "slow": "demo-ok+delay=0.2"}) as (gateway, _), to(gateway) as socket:
        socket.send(ask("slow"), NOWHERE, EXPECTING[: -len(ASK)])
        assert [(await socket.answer())[0] for _ in range(3)] == [200, 404, 100]
        socket.send(ASK, EXPECTING)
        assert [(await socket.answer())[0] for _ in range(2)] == [200, 200]  # a body that is here needs no word


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(ASK, "expect: 100-continue", "authorization: Bearer nope"), 401),
        (post(ASK, "expect: 100-continue", "content-type: text/plain"), 415),
        (post(b"x" * 3000, "expect: 100-continue"), 413),
        (post(ASK, "expect: 200-ok"), 417),
    ],
)
async def test_what_is_refused_for_its_head_is_refused_without_asking_for_the_body(
    request_: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGERING", 0.1)
    async with running({"m": "demo-ok"}, server={"max_body": 2048}) as (gateway, _), to(gateway) as socket:
        socket.send(request_[: request_.find(b"\r\n\r\n") + 4])
        answered, headers, body = await socket.answer()
        assert (answered, headers.get("connection", "close")) == (status, "close")
        assert error_of(body)["type"] in ("invalid_request_error", "authentication_error")


async def test_another_expectation_is_refused_whether_or_not_the_body_is_here() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), to(gateway) as socket:
        socket.send(post(ASK, "expect: 200-ok"), HEALTH)
        status, _, body = await socket.answer()
        assert (status, error_of(body)["type"]) == (417, "invalid_request_error")
        assert (await socket.answer())[0] == 200


async def test_a_body_that_breaks_off_or_is_badly_framed_is_refused_or_dropped() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        async with to(gateway) as socket:
            socket.send(framed(b"")[0], b"zz\r\n")
            assert (await socket.answer())[0] == 400
        async with to(gateway) as socket:
            socket.send(post(ASK)[:-5])
            await asyncio.sleep(0.05)
        await until_idle(gateway)
        async with to(gateway) as socket:
            socket.send(HEALTH)
            assert (await socket.answer())[0] == 200


async def test_the_gateway_does_not_start_on_an_aiohttp_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: object) -> None: ...

    listener = Listener(nothing, ServerConfig())  # type: ignore[arg-type]
    listener.check()
    monkeypatch.setattr(connection, "RELIED_ON", ("_loop", "_gone"))
    with pytest.raises(RuntimeError, match="_gone"):
        listener.check()


def test_aiohttps_loop_is_the_one_that_ours_stands_for() -> None:
    """Where this fails after an upgrade: compare aiohttp's loop with ``Connection.start``, then note the new digest."""
    parts = (
        RequestHandler.start,
        RequestHandler._handle_request,
        RequestHandler.shutdown,
        RequestHandler.data_received,
    )
    source = "".join(inspect.getsource(part) for part in (*parts, RequestHandler.connection_lost))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == "97559164d2760f2c"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_who_waits_outside_a_busy_worker_comes_in_within_a_few_turns(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """libuv accepts one connection a turn: with turns of 20 ms, 200 of them would need four seconds."""

    async def crowd() -> float:
        async with running({"m": "demo-ok"}) as (gateway, _):
            busy = asyncio.create_task(_turning_slowly(0.02))
            clients = [socket.create_connection(("127.0.0.1", gateway.data.port)) for _ in range(200)]
            began = time.monotonic()
            for client in clients:
                client.setblocking(False)
                client.sendall(HEALTH)
            receive = asyncio.get_running_loop().sock_recv
            answers = await asyncio.gather(*(receive(client, 1000) for client in clients))
            assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
            took = time.monotonic() - began
            busy.cancel()
            for client in clients:
                client.close()
            await gateway.data.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", gateway.data.port))
        return took

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(crowd()) < 2


@asynccontextmanager
async def holding_little(gateway: Gateway, ahead: int = 4096) -> AsyncIterator[socket.socket]:
    """A client whose system takes few bytes ahead of it, so that the gateway notices when it does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ahead)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", gateway.data.port))
    try:
        yield client
    finally:
        client.close()


async def until_gone(gateway: Gateway, within: float) -> float:
    """After how many seconds the gateway has no connection any more."""
    began = time.monotonic()
    while gateway.data.listener.connections:
        assert time.monotonic() - began < within
        await asyncio.sleep(0.01)
    return time.monotonic() - began


LONG = post(ASK.replace(b"hi", b"w " * 2_000_000))


async def test_a_client_that_reads_slowly_gets_all_of_an_answer_that_takes_longer_than_a_write_may() -> None:
    receive = asyncio.get_running_loop().sock_recv
    async with running({"m": "demo-echo"}, server={"write_timeout": 0.4}) as (gateway, _):
        async with holding_little(gateway, 65_536) as client:
            await asyncio.get_running_loop().sock_sendall(client, LONG)
            began, answer = time.monotonic(), b""
            while (size := len(answer)) < 4_000_000:
                answer += await receive(client, 50_000)
                assert len(answer) > size, "the gateway has closed"
                await asyncio.sleep(0.02)
            assert time.monotonic() - began > 1


@pytest.mark.parametrize(
    "asked", [LONG, post(ASK[:-1].replace(b'"m"', b'"endless"') + b',"stream":true}'), NOWHERE * 20_000]
)
async def test_a_client_that_reads_nothing_is_dropped_whoever_answers_it(asked: bytes) -> None:
    models = {"m": "demo-echo", "endless": "demo-ok+chunks=10000000"}
    async with running(models, server={"write_timeout": 0.4}) as (gateway, upstream):
        async with holding_little(gateway) as client:
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(client, asked))
            while not any(one.writing_paused for one in gateway.data.listener.connections):
                await asyncio.sleep(0.01)
            assert await until_gone(gateway, 3) > 0.2
            sending.cancel()
        await until_idle(gateway)
        while upstream.in_flight:
            await asyncio.sleep(0.01)


async def read_nothing_of(gateway: Gateway, client: socket.socket, asked: bytes) -> None:
    """Ask until something of the answers is left in the gateway, less than makes it wait."""
    while not gateway.data.listener.connections:
        await asyncio.sleep(0.01)
    (one,) = gateway.data.listener.connections
    assert isinstance(one, Connection)
    while not one.is_writing:
        await asyncio.get_running_loop().sock_sendall(client, asked)
        await asyncio.sleep(0.02)
    assert not one.writing_paused


async def test_a_connection_that_was_closed_does_not_wait_for_ever_for_its_client_to_read() -> None:
    async with running({"m": "demo-echo"}, server={"write_timeout": 0.4, "keepalive": 0.2}) as (gateway, _):
        async with holding_little(gateway) as client:
            await read_nothing_of(gateway, client, post(ASK.replace(b"hi", b"w " * 12_000)))
            await until_gone(gateway, 3)


@pytest.mark.parametrize("reads", [True, False])
async def test_a_drain_waits_for_what_has_not_left_but_not_for_a_client_that_reads_nothing(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CUT_WITHIN", 0.1)
    async with running({"m": "demo-echo"}, server={"drain": 1 if not reads else 20}) as (gateway, _):
        async with holding_little(gateway) as client:
            await read_nothing_of(gateway, client, post(ASK.replace(b"hi", b"w " * 12_000)))
            draining = asyncio.create_task(drain(gateway.state, gateway.config.server, [gateway.data]))
            began = time.monotonic()
            await asyncio.sleep(0.3)
            assert not draining.done()
            while reads and not draining.done():
                await asyncio.get_running_loop().sock_recv(client, 1_000_000)
            await draining
            assert gateway.data.listener.is_writing is not reads
            assert time.monotonic() - began < 10


async def _turning_slowly(seconds: float) -> None:
    while True:
        time.sleep(seconds)
        await asyncio.sleep(0)
