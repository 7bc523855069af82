"""aiohttp's server protocol, hardened: JSON errors, no secrets in logs, time-outs for slow heads, a cap on connections.

What aiohttp does by default and we must not: it logs and echoes the bytes of a malformed request (an API key with
a control byte in it lands in the log), never times a slow head out, and drops all limits when one of its keyword
arguments is misspelt.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import http_parser, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from config.schema import Server as ServerConfig

from .errors import GatewayError, InvalidRequest
from .logs import log_crash
from .reply import JSON_HEADERS

SERVER_HEADER = "sluice"
KEEPALIVE_FOREVER = 3630


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = ("_head_timeout", "_head_timer")

    def __init__(self, manager: "Listener", *, loop: asyncio.AbstractEventLoop, config: ServerConfig) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=config.keepalive,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no log"; its annotation forgot
            logger=logging.getLogger("sluice.server.aiohttp"),
            lingering_time=2.0,
        )
        self._head_timeout = config.header_timeout
        self._head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._current_request is not None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None and data:
            self._head_timer = self._loop.call_later(self._head_timeout, self._head_is_late)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Only what was paused: aiohttp asks for it at the end of every body, and parses nothing again for it."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._current_request is not None or self._messages or self.transport is None:
            return
        error = InvalidRequest("The request head was not received in time.", code="request_timeout").to_openai()
        body = orjson.dumps(error)
        self.transport.write(
            b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json; charset=utf-8\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        self.force_close()

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

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], config: ServerConfig
    ) -> None:
        # Without cancellation a client that left before the first byte is not noticed, and the upstream goes on billing.
        super().__init__(handler, handler_cancellation=True)
        self._config = config

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, config=self._config)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self._config.max_connections:
            transport.abort()

    def effective_limits(self) -> dict[str, float]:
        """What a new connection really enforces: asserted at start, because aiohttp drops limits in silence."""
        probe = Connection(self, loop=self._loop, config=self._config)
        return {"keepalive": probe.keepalive_timeout, "max_line": probe.max_line_size, "max_headers": probe.max_headers}

    def check(self) -> None:
        """Raise RuntimeError when a limit is not what was configured, or the slow pure-Python parser is in use."""
        effective = self.effective_limits()
        expected = {"keepalive": self._config.keepalive, "max_line": 8190, "max_headers": 128}
        if effective != expected:
            raise RuntimeError(f"the HTTP server does not enforce its limits: {effective} instead of {expected}")
        if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
            raise RuntimeError("aiohttp's C parser is not in use; unset AIOHTTP_NO_EXTENSIONS")
