"""aiohttp's server protocol, hardened: JSON errors, no secrets in logs, time-outs for slow heads, a cap on connections.

What aiohttp does by default and we must not: it logs and echoes the bytes of a malformed request (an API key with
a control byte in it lands in the log), never times a slow head out, and drops all limits when one of its keyword
arguments is misspelt. Its parser, its timers and its way of closing are kept; its loop over the requests of a
connection is ours (``Connection.start``), since aiohttp's costs a task and four objects for each.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import orjson
from aiohttp import http_parser
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import ERROR, RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy

from config.schema import Server as ServerConfig

from . import web
from .doors import Doors
from .endpoints.exchange import Exchange
from .endpoints.head import PARSED, Head, Known, Message, is_whole, known
from .errors import GatewayError, InvalidRequest
from .logs import log_crash
from .reply import JSON_HEADERS, KEPT, Written, whole_head
from .stalls import Stall
from .turns import Outgoing, outgoing

SERVER_HEADER = "sluice"
LINGERING = 2.0
"""Seconds for which the rest of a body is read that nobody wants, so that the client comes to read our answer."""
RELIED_ON = (
    *("_buffer_paused", "_close", "_current_request", "_force_close", "_handler_waiter", "_keepalive"),
    *("_keepalive_handle", "_keepalive_timeout", "_lingering_time", "_loop", "_messages", "_msg_queue_resume_size"),
    *("_next_keepalive_close_time", "_parser", "_process_keepalive", "_reading_paused", "_request_in_progress"),
    *("_resume_reading_if_drained", "_task_handler", "_upgraded", "_waiter"),
)
"""What ``Connection`` uses of aiohttp's own state, which no version promises: see ``Listener.check``."""

UNREADABLE = Head(ERROR._replace(headers=CIMultiDictProxy(CIMultiDict())))

Handle: TypeAlias = Callable[[Exchange], Awaitable[web.StreamResponse]]


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = (
        *("_aligned", "_config", "_exchange", "_handle", "_head_timer", "_known", "_late", "_stall"),
        *("address", "blocked", "out"),
    )

    def __init__(self, manager: "Listener", *, loop: asyncio.AbstractEventLoop, config: ServerConfig) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=config.keepalive,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no log"; its annotation forgot
            logger=logging.getLogger("sluice.server.aiohttp"),
            lingering_time=LINGERING,
        )
        self._config = config
        self._handle = manager.handle
        self._head_timer: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None
        """The request that is being answered."""
        self._aligned = True
        """Whether the parser is between two requests whenever none is being answered."""
        self._known: Known | None = None
        """The head that came last, while ``_aligned``."""
        self._late: StreamReader | None = None
        """What is to come of the body of the request that is being answered: the parser has not counted it yet."""
        self.out: Outgoing | None = None
        """Where answers are written to, while the client is there."""
        self.blocked = False
        """Whether the client has to read before more is written."""
        self.address = ""
        """The peer's; kept, for it is unknown once the peer is gone."""
        self._stall: Stall | None = None
        """What ends a client that has to read and does not."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0] if isinstance(peer, tuple) else peer or "")
        self.out = outgoing(cast("asyncio.Transport", transport), self._loop)
        super().connection_made(transport)

    async def start(self) -> None:
        """Answer the requests of this connection, one after the other, until it ends.

        This is aiohttp's loop, but a request is handled in the connection's own task, which is cancelled when the
        client leaves, and aiohttp's request and writer are only made for answers that aiohttp sends.
        """
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            told, content, body = self._next()
            try:
                if type(told) is Head:
                    response = await self._handle(self._begin(told, content, body))
                else:
                    response = self._refusal(told, content)
                if type(response) is not Written or self._upgraded:
                    response = await self._sent(response)
                if content is not EMPTY_PAYLOAD and not content.is_eof():
                    await self._linger(content)
            except (ConnectionError, web.RequestPayloadError):
                break  # the client left, or sends no HTTP any more
            except Exception as exc:
                self._crashed(exc)
                break
            except BaseException:
                self.force_close()
                raise
            finally:
                self._end()
            if self._close or self._force_close or (response is not KEPT and not response.keep_alive):
                break
            self._keep()
            del told, content, body, response  # a prompt is not kept for as long as the next request takes to come
            if self._messages:
                await asyncio.sleep(0)  # whoever sends many requests at once has no more turns than others
        self._part()

    def _next(self) -> tuple[Any, StreamReader, bytes | None]:
        """The head of the next request, what its body is read from, and the body where it is here.

        In place of a head that could not be parsed stands what aiohttp says of it.
        """
        told: Any
        content: Any
        told, content = self._messages.popleft()
        if type(told) is Head:
            return told, EMPTY_PAYLOAD, content
        if content.is_eof():
            self._make_room()
        else:
            self._late = content
        return (Head(told) if isinstance(told, PARSED) else told), content, None

    def _make_room(self) -> None:
        """Let the parser go on where it stopped because too many requests were waiting."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    def _begin(self, head: Head, content: StreamReader, body: bytes | None = None) -> Exchange:
        self._exchange = exchange = Exchange(self, head, content, self._config, body)
        self._request_in_progress = True
        # aiohttp only tells it that the client has left.
        self._current_request = exchange  # type: ignore[assignment]
        return exchange

    def _end(self) -> None:
        self._exchange = self._current_request = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def _keep(self) -> None:
        """Stay, but not for ever."""
        self._next_keepalive_close_time = until = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(until, self._process_keepalive)

    def _part(self) -> None:
        if not self._force_close:
            self._task_handler = None
            self._leave()

    def _refusal(self, told: Any, content: StreamReader) -> web.StreamResponse:
        """The answer to what could not be parsed; ``told`` is what aiohttp's parser says of it."""
        return self.handle_error(self._begin(UNREADABLE, content).request, told.status, told.exc)

    async def _sent(self, response: web.StreamResponse) -> web.StreamResponse:
        """Let aiohttp send an answer; raises ConnectionResetError where nobody is there."""
        assert self._exchange is not None, "what is answered has begun"
        if self._close:
            response.force_close()
        response, left = await self.finish_response(self._exchange.request, response, None)
        if left:
            raise ConnectionResetError
        return response

    def _crashed(self, exc: Exception) -> None:
        """Our own mistake, in what answers mistakes: the least that can be said is said."""
        log_crash(exc)
        if self._exchange is not None and not self._exchange.begun:
            self._say("500 Internal Server Error", GatewayError())
        self.force_close()

    async def _linger(self, content: StreamReader) -> None:
        """Read on for a moment, for the client may send all of its body before it looks at our answer; then close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._lingering_time):
                while not self._force_close and not content.is_eof():
                    await content.readany()
        if not content.is_eof():
            self.close()

    def request_of(self, message: Message, content: StreamReader) -> web.BaseRequest:
        """aiohttp's request, for what aiohttp answers."""
        writer: AbstractStreamWriter = StreamWriter(self, self._loop)
        task = self._task_handler or asyncio.current_task()  # a client may have left already
        return web.BaseRequest(message, content, self, writer, task, self._loop)  # type: ignore[arg-type]

    def pause_writing(self) -> None:
        super().pause_writing()
        self.blocked = True
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.blocked = False
        if self.out is not None and self.out.is_open:  # else the rest is to be read too
            self._stop_expecting()

    def _expect_reading(self) -> None:
        if self._stall is None and self.out is not None:
            self._stall = Stall(self.out, self._loop, self._config.write_timeout)

    def _stop_expecting(self) -> None:
        if self._stall is not None:
            self._stall.stop()
            self._stall = None

    async def drain(self) -> None:
        """Wait until the client has read; raises ConnectionError. One that reads nothing is dropped, see ``Stall``."""
        await StreamWriter(self, self._loop).drain()

    def cut(self) -> None:
        """Cancel the request that runs; what it still answers is the last of this connection."""
        self.close()
        if self._task_handler is not None:
            self._task_handler.cancel()

    def data_received(self, data: bytes) -> None:
        idle = self._current_request is None and not self._messages
        if idle and self._known is not None and not self._close and not self._force_close:
            body = self._known.body_of(data)
            if body is not None:
                self._messages.append((self._known.head, body))  # type: ignore[arg-type]  # for ``_next`` alone
                if self._waiter is not None and not self._waiter.done():
                    self._waiter.set_result(None)
                return
        super().data_received(data)
        if self._late is not None and self._late.is_eof():
            self._late = None
            self._make_room()
            super().data_received(b"")  # what there was no room for
        if self._aligned:
            self._learn(data, idle)
        if self._messages or self._current_request is not None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None and data:
            self._head_timer = self._loop.call_later(self._config.header_timeout, self._head_is_late)

    def _learn(self, data: bytes, idle: bool) -> None:
        """Look at what the parser has read: only while requests come whole, one by one, may it be left out."""
        self._known = None
        self._aligned = idle and not self._upgraded and len(self._messages) == 1 and is_whole(data, *self._messages[0])
        if self._aligned:
            self._known = known(data, self._messages[0][0], self._config.max_body)  # type: ignore[arg-type]

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Only what was paused: aiohttp asks for it at the end of every body, and parses nothing again for it."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._stop_expecting()
        self.out = self._late = None
        super().connection_lost(exc)

    def force_close(self) -> None:
        self._leave()
        super().force_close()

    def _leave(self) -> None:
        """Close once the client has what was written; one that reads nothing of it is not waited for."""
        if self.out is not None:
            self.out.close()
            if self.is_writing:
                self._expect_reading()

    @property
    def is_writing(self) -> bool:
        """Whether something has yet to leave for the client."""
        return self.out is not None and (self.out.waits != b"" or self.out.transport.get_write_buffer_size() > 0)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._current_request is not None or self._messages or self.transport is None:
            return
        error = InvalidRequest("The request head was not received in time.", code="request_timeout")
        self._say("408 Request Timeout", error)
        self.force_close()

    def _say(self, status: str, error: GatewayError) -> None:
        """Answer without aiohttp, as the last thing on this connection."""
        body = orjson.dumps(error.to_openai())
        head = whole_head(
            {**JSON_HEADERS, "connection": "close", "content-length": str(len(body))}, f"HTTP/1.1 {status}\r\n"
        )
        if self.out is not None:
            self.out.write(head + body)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse or a handler let through, without a byte of what was sent."""
        del message  # holds bytes of the request
        if request.writer.output_size > 0:
            raise ConnectionError("a response has begun")
        if isinstance(exc, LineTooLong):
            status = 431
        if status >= 500:
            log_crash(exc)
        text = "The request head is too large." if status == 431 else "The request is not valid HTTP."
        error = GatewayError() if status >= 500 else InvalidRequest(text)
        response = web.Response(
            status=status,
            body=orjson.dumps(error.to_openai()),
            headers={**JSON_HEADERS, "server": SERVER_HEADER},
        )
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """aiohttp's own text holds what the client sent; only where and what kind is logged."""
        del args
        log_crash(kwargs.get("exc_info"))


class Listener(web.Server):
    """Makes Connections, and refuses more than ``max_connections`` of them."""

    def __init__(self, handle: Handle, config: ServerConfig) -> None:
        # Without cancellation a client that left before the first byte is not noticed, and the upstream goes on billing.
        super().__init__(handle, handler_cancellation=True)  # type: ignore[arg-type]  # called by our ``start`` alone
        self.handle = handle
        self.doors: Doors | None = None
        """Where those come in who wait behind a connection that was made."""
        self._config = config

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, config=self._config)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self._config.max_connections:
            transport.abort()
        if self.doors is not None:
            self.doors.knock()

    @property
    def is_writing(self) -> bool:
        """Whether something has yet to leave for some client."""
        return any(isinstance(one, Connection) and one.is_writing for one in self._connections)

    def effective_limits(self) -> dict[str, float]:
        """What a new connection really enforces: asserted at start, because aiohttp drops limits in silence."""
        probe = Connection(self, loop=self._loop, config=self._config)
        return {"keepalive": probe.keepalive_timeout, "max_line": probe.max_line_size, "max_headers": probe.max_headers}

    def check(self) -> None:
        """Raise RuntimeError when a limit is not what was configured, aiohttp is another, or its slow Python parser is in use."""
        effective = self.effective_limits()
        expected = {"keepalive": self._config.keepalive, "max_line": 8190, "max_headers": 128}
        if effective != expected:
            raise RuntimeError(f"the HTTP server does not enforce its limits: {effective} instead of {expected}")
        probe = Connection(self, loop=self._loop, config=self._config)
        if missing := [name for name in RELIED_ON if not hasattr(probe, name)]:
            raise RuntimeError(f"this version of aiohttp is not the one that was built for: it has no {missing}")
        if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
            raise RuntimeError("aiohttp's C parser is not in use; unset AIOHTTP_NO_EXTENSIONS")
