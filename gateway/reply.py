"""Bytes for the client: one HTTP response, whole or as server-sent events, and what happens when the client leaves."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import orjson
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from .errors import ClientDisconnected, GatewayError

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
PING_CHUNK = b"8\r\n: ping\n\n\r\n"
"""An SSE comment as a chunk of the chunked body; streams are always HTTP/1.1 (see endpoints.chat)."""


JOINED = 65_536
"""Bytes up to which a body is copied behind its head, so that both leave in one packet and one system call."""


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


class HTTPReply:
    """A reply to one aiohttp request, written past aiohttp's response. ``headers`` are sent with whatever is sent.

    A started stream that is silent for ``ping`` seconds gets an SSE comment, which clients ignore and proxies
    count as life (checklist C-302). A client that reads nothing for ``write_timeout`` seconds is dropped.
    """

    def __init__(
        self, request: web.BaseRequest, headers: Mapping[str, str], write_timeout: float, ping: float | None = None
    ) -> None:
        self._request = request
        self._headers = headers
        self._write_timeout = write_timeout
        self._ping = ping
        self._silent = False
        self._open = False
        """Whether a stream has begun and not ended."""
        self._head = b""
        """Of a stream, until its first chunk leaves: in the same packet."""
        self._timer: asyncio.TimerHandle | None = None
        self.response: web.StreamResponse | None = None

    async def whole(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Head and body in one write."""
        told = {**self._headers, **JSON_HEADERS, **headers, "content-length": str(len(body))}
        transport, head = self._transport(), self._begin(told)
        if len(body) < JOINED:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        if self._request.protocol.writing_paused:
            await self._drain()

    async def start(self, headers: Mapping[str, str]) -> None:
        """Begin a stream; its head leaves with its first chunk."""
        self._transport()
        self._head = self._begin({**self._headers, **SSE_HEADERS, **headers, "transfer-encoding": "chunked"})
        self._open = True
        if self._ping is not None:
            self._timer = asyncio.get_running_loop().call_later(self._ping, self._tick)

    def push(self, data: bytes) -> bool:
        self._silent = False
        head, self._head = self._head, b""
        self._transport().write(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        return not self._request.protocol.writing_paused

    async def drained(self) -> None:
        if self._request.protocol.writing_paused:  # a slow reader: only then is a timer worth its price
            await self._drain()

    async def send(self, data: bytes) -> None:
        if not self.push(data):
            await self._drain()

    async def finish(self, data: bytes) -> None:
        self.stop()
        self._open = False
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # a chunk of nothing would be the last one
        self._transport().write(b"%b%b0\r\n\r\n" % (self._head, chunk))
        if self._request.protocol.writing_paused:
            await self._drain()

    async def fail(self, error: GatewayError) -> None:
        self.stop()
        await self.send(_event(error))
        # No last chunk: SDKs take a clean end without [DONE] for a complete answer (checklist C-343).
        self._open = False
        self._transport().close()  # flushes what was written, then closes without the final chunk
        raise ClientDisconnected

    def interrupt(self, error: GatewayError) -> None:
        """Tell of the gateway's own end without waiting; raises ``error`` where nothing was sent yet.

        Does nothing when the client is gone or the answer complete.
        """
        self.stop()
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return
        if self.response is None:
            raise error
        if self._open:
            event = _event(error)
            transport.write(b"%b%x\r\n%b\r\n" % (self._head, len(event), event))
            transport.close()

    def stop(self) -> None:
        """No more pings; called whatever became of the stream."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        transport = self._request.transport
        if self._ping is None or transport is None or transport.is_closing():
            return
        if self._silent and not self._head and not self._request.protocol.writing_paused:
            transport.write(PING_CHUNK)
        self._silent = True
        self._timer = asyncio.get_running_loop().call_later(self._ping, self._tick)

    def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            self.stop()
            raise ClientDisconnected
        return transport

    def _begin(self, headers: dict[str, str]) -> bytes:
        """The head of a 200, and what aiohttp must know of it."""
        request = self._request
        headers["date"] = rfc822_formatted_time()
        if not request.keep_alive:
            headers["connection"] = "close"
        self.response = KEPT if request.keep_alive else LAST
        request.writer.output_size += 1  # an answer has begun: see Connection.handle_error
        return whole_head(headers)

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._request.writer.drain()
        except (ConnectionError, TimeoutError) as exc:
            self.stop()
            if (transport := self._request.transport) is not None:
                transport.abort()
            raise ClientDisconnected from exc


def _event(error: GatewayError) -> bytes:
    return b"data: " + orjson.dumps(error.to_openai()) + b"\n\n"


def closing(response: web.StreamResponse) -> web.StreamResponse:
    """The response, as the last one of its connection."""
    if isinstance(response, Written):
        return LAST
    response.force_close()
    return response


def whole_head(headers: Mapping[str, str]) -> bytes:
    """The head of a 200; raises ValueError for a value that would begin another header."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header holds a line break")
    return f"HTTP/1.1 200 OK\r\n{text}\r\n".encode()


def error_response(error: GatewayError, headers: Mapping[str, str]) -> web.Response:
    """An error before the first byte: a real status and OpenAI's body."""
    return web.Response(
        status=error.status,
        body=orjson.dumps(error.to_openai()),
        headers={**headers, **JSON_HEADERS, **error.headers()},
    )


def json_response(body: object, headers: Mapping[str, str], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), headers={**headers, **JSON_HEADERS})
