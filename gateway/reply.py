"""Bytes for the client: one HTTP response, whole or as server-sent events, and what happens when the client leaves."""

import asyncio
import time
from collections.abc import Mapping
from typing import NoReturn, Protocol

import orjson
from aiohttp.helpers import rfc822_formatted_time

from config.schema import Server as ServerConfig

from . import web
from .errors import ClientDisconnected, GatewayError
from .turns import Outgoing

STATUS = "HTTP/1.1 200 OK\r\n"
JSON_HEADERS = {
    "content-type": "application/json; charset=utf-8",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}
SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-store",
    "x-content-type-options": "nosniff",
    "x-accel-buffering": "no",  # nginx in front would buffer the stream otherwise
}
PING = b": ping\n\n"
"""An SSE comment."""


class Written(web.StreamResponse):
    """Stands for a response that was written past aiohttp, which then only asks whether the connection stays."""

    _eof_sent = True

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    def force_close(self) -> None:
        """Not this one: it may stand for many answers (see ``closing``)."""


KEPT, LAST = Written(keep_alive=True), Written(keep_alive=False)
"""All that aiohttp is told of an answer: whether the connection stays."""


class Reply(Protocol):
    """Where the pipeline writes to. Every method raises ClientDisconnected when nobody is there."""

    async def whole(self, body: bytes, headers: Mapping[str, str]) -> None: ...
    async def start(self, headers: Mapping[str, str]) -> None: ...
    def push(self, data: bytes) -> bool:
        """Send without waiting; False: the client is slow, ``drained`` comes before more."""
        ...

    async def drained(self) -> None: ...
    async def send(self, data: bytes) -> None: ...
    async def finish(self, data: bytes) -> None: ...
    async def fail(self, error: GatewayError) -> None:
        """Tell of a failure inside a stream and break the connection, so that it cannot look like an end."""
        ...


class Peer(Protocol):
    """The client's connection, as far as answers need it."""

    out: Outgoing | None
    """None once the client is gone."""

    blocked: bool
    """Whether it has to wait for the client to read."""

    async def drain(self) -> None:
        """Wait until the client has read, or is dropped for reading nothing; raises ConnectionError."""
        ...


class Common:
    """The headers that all answers of a listener share under one configuration, and how heads with them begin."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._until = 0.0
        self._whole = self._stream = ""

    def whole(self) -> str:
        """The lines that the heads of whole answers begin with; made once a second, for they tell the time."""
        if not self._until - 1 <= time.time() < self._until:
            self._renew()
        return self._whole

    def stream(self) -> str:
        """The same of streams."""
        if not self._until - 1 <= time.time() < self._until:
            self._renew()
        return self._stream

    def unframed(self) -> str:
        """The same of streams to clients that know no chunks, which are few."""
        return STATUS + head_lines({**self.headers, "date": rfc822_formatted_time(), **SSE_HEADERS})

    def _renew(self) -> None:
        self._until = int(time.time()) + 1.0
        told = {**self.headers, "date": rfc822_formatted_time()}
        self._whole = STATUS + head_lines({**told, **JSON_HEADERS})
        self._stream = STATUS + head_lines({**told, **SSE_HEADERS, "transfer-encoding": "chunked"})


class HTTPReply:
    """A reply to one request, written past aiohttp's response. ``headers`` are sent with whatever is sent.

    A started stream that is silent for ``ping`` seconds gets an SSE comment, which clients ignore and proxies
    count as life (checklist C-302).
    """

    __slots__ = ("_common", "_head", "_headers", "_last", "_limits", "_open", "_peer", "_silent", "_timer", "response")

    def __init__(
        self, peer: Peer, common: Common, headers: Mapping[str, str], limits: ServerConfig, *, last: bool
    ) -> None:
        """``last``: whether the client closes the connection after it."""
        self._peer = peer
        self._common = common
        self._headers = headers
        self._limits = limits
        self._last = last
        self._silent = False
        self._open = False
        """Whether a stream has begun and not ended."""
        self._head = b""
        """Of a stream, until its first chunk leaves: in the same packet."""
        self._timer: asyncio.TimerHandle | None = None
        self.response: web.StreamResponse | None = None

    async def whole(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Head and body in one write."""
        out = self._out()
        head = self._begin(self._common.whole(), {**self._headers, **headers, "content-length": str(len(body))})
        out.message(head, body)
        if self._peer.blocked:
            await self._drain()

    async def start(self, headers: Mapping[str, str]) -> None:
        """Begin a stream; its head leaves with its first chunk."""
        self._out()
        self._head = self._begin(self._opening(), {**self._headers, **headers})
        self._open = True
        if self._limits.ping is not None:
            self._timer = asyncio.get_running_loop().call_later(self._limits.ping, self._tick)

    def push(self, data: bytes) -> bool:
        out = self._out()
        self._silent = False
        if self._head:
            out.write(b"%b%x\r\n%b\r\n" % (self._head, len(data), data))
            self._head = b""
        else:
            out.write(b"%x\r\n%b\r\n" % (len(data), data))
        return not self._peer.blocked

    async def drained(self) -> None:
        if self._peer.blocked:  # a slow reader
            await self._drain()

    async def send(self, data: bytes) -> None:
        if not self.push(data):
            await self._drain()

    async def finish(self, data: bytes) -> None:
        self.stop()
        self._open = False
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # a chunk of nothing would be the last one
        self._out().write(b"%b%b0\r\n\r\n" % (self._head, chunk))
        if self._peer.blocked:
            await self._drain()

    async def fail(self, error: GatewayError) -> None:
        self.stop()
        await self.send(_event(error))
        # No last chunk: SDKs take a clean end without [DONE] for a complete answer (checklist C-343).
        self._open = False
        self._out().close()  # flushes what was written, then closes without the final chunk
        raise ClientDisconnected

    def interrupt(self, error: GatewayError) -> None:
        """Tell a client that is there of the gateway's own end, without waiting; does nothing when the answer is complete."""
        self.stop()
        if self._open:
            self.push(_event(error))
            self._out().close()

    def stop(self) -> None:
        """No more pings; called whatever became of the stream."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        out, ping = self._peer.out, self._limits.ping
        if ping is None or out is None or not out.is_open:
            return
        if self._silent and not self._head and not self._peer.blocked:
            self.push(PING)
        self._silent = True
        self._timer = asyncio.get_running_loop().call_later(ping, self._tick)

    def _opening(self) -> str:
        """What the head of a stream begins with."""
        return self._common.stream()

    def _out(self) -> Outgoing:
        out = self._peer.out
        if out is None or not out.is_open:
            self._gone()
        return out

    def _gone(self) -> NoReturn:
        self.stop()
        raise ClientDisconnected

    def _begin(self, opening: str, headers: dict[str, str]) -> bytes:
        """The head of a 200; from now on nothing else can be answered."""
        if self._last:
            headers["connection"] = "close"
        head = f"{opening}{head_lines(headers)}\r\n".encode()
        self.response = LAST if self._last else KEPT
        return head

    async def _drain(self) -> None:
        try:
            await self._peer.drain()
        except ConnectionError as exc:
            self.stop()
            if (out := self._peer.out) is not None:
                out.abort()
            raise ClientDisconnected from exc


class UnframedReply(HTTPReply):
    """A reply to a client of HTTP/1.0, which knows no chunks: a stream ends with its connection.

    Only ``[DONE]``, or the error event in its place, tells a whole one from one that broke off.
    """

    __slots__ = ()

    def push(self, data: bytes) -> bool:
        out = self._out()
        self._silent = False
        out.write(self._head + data)
        self._head = b""
        return not self._peer.blocked

    async def finish(self, data: bytes) -> None:
        self.stop()
        self._open = False
        await self.send(data)

    def _opening(self) -> str:
        return self._common.unframed()


def _event(error: GatewayError) -> bytes:
    return b"data: " + orjson.dumps(error.to_openai()) + b"\n\n"


def closing(response: web.StreamResponse) -> web.StreamResponse:
    """The response, as the last one of its connection."""
    if isinstance(response, Written):
        return LAST
    response.force_close()
    return response


def whole_head(headers: Mapping[str, str], opening: str = STATUS) -> bytes:
    """A head that begins with ``opening``, by default that of a 200; raises ValueError for a value that would begin another header."""
    return f"{opening}{head_lines(headers)}\r\n".encode()


def head_lines(headers: Mapping[str, str]) -> str:
    lines = [*map(": ".join, headers.items()), ""]
    text = "".join(lines)
    if "\n" in text or "\r" in text:
        raise ValueError("a header holds a line break")
    return "\r\n".join(lines)


def error_response(error: GatewayError, headers: Mapping[str, str]) -> web.Response:
    """An error before the first byte: a real status and OpenAI's body."""
    return web.Response(
        status=error.status,
        body=orjson.dumps(error.to_openai()),
        headers={**headers, **JSON_HEADERS, **error.headers()},
    )


def json_response(body: object, headers: Mapping[str, str], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), headers={**headers, **JSON_HEADERS})
