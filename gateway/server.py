"""The listeners of one worker: what is served where, how errors are rendered, how it drains."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from config.schema import Server as ServerConfig

from . import web
from .connection import SERVER_HEADER, Listener
from .doors import BackDoors, Doors
from .endpoints.exchange import Exchange
from .endpoints.health import healthz
from .endpoints.routes import Handler, Routes
from .errors import ClientDisconnected, GatewayError, LimitExceeded, Overloaded, Unauthenticated
from .logs import log_crash
from .reply import LAST, Common, closing, error_response
from .throttle import Failures

LOGGER = logging.getLogger("sluice.server")
COMMON = {"server": SERVER_HEADER, "openai-version": "2020-10-01"}
CUT_WITHIN = 5.0
"""Seconds that requests over the limit have for their last words."""
WRITING_CHECKED = 0.02
"""Seconds between looks at whether the last answers have left."""
CLOSE_WITHIN = 1.0
"""Seconds that requests have to notice that they are cancelled."""
BACKLOG = 4096
"""Connections that may wait to be accepted."""
EXPOSED = "X-Request-ID"


@dataclass(slots=True)
class State:
    """What readiness and draining look at."""

    draining: bool = False
    ready: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once nothing is in flight any more while draining."""
    running: set[Exchange] = field(default_factory=set)

    @property
    def in_flight(self) -> int:
        return len(self.running)

    def leave(self, exchange: Exchange) -> None:
        self.running.discard(exchange)
        if self.draining and not self.running:
            self.idle.set()


@dataclass(slots=True)
class Serving:
    """What a listener serves under one configuration, and how many requests still run on it."""

    routes: Routes
    version: str
    in_flight: int = 0


class Site:
    """One listener: routes in front of handlers, every error in OpenAI's shape."""

    def __init__(
        self,
        config: ServerConfig,
        state: State,
        failures: Failures,
        *,
        cors: tuple[str, ...] = (),
        bounded: bool = True,
    ) -> None:
        """``bounded``: whether there may be too many requests; operators are answered all the more then."""
        self._bounded = bounded
        self._failures = failures
        self._serving = Serving(Routes(), "")
        self._config = config
        self._state = state
        self._cors = cors
        self._common = Common(COMMON)
        self.listener = Listener(self.handle, config)
        self._server: Any = None
        """asyncio's, or uvloop's, whose sockets are a list: a tuple, says the type of asyncio's, and compiled code insists."""
        self.port = 0

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Method and path of everything that is served here."""
        return self._serving.routes.listed()

    def serve(self, serving: Serving) -> Serving:
        """Serve something else to requests that come from now on; gives what was served until now."""
        before, self._serving = self._serving, serving
        exposed = {"access-control-expose-headers": EXPOSED} if self._cors else {}
        self._common = Common({**COMMON, **exposed, "x-sluice-config": serving.version})
        return before

    async def handle(self, exchange: Exchange) -> web.StreamResponse:
        exchange.common, serving, state = self._common, self._serving, self._state
        if self._cors and "Origin" in exchange.given:
            self._allow_origin(exchange)
        if last := state.draining:
            # Announced, so that no client sends another request into the closing; what began before goes on unannounced.
            exchange.headers["connection"] = "close"
        state.running.add(exchange)
        serving.in_flight += 1
        try:
            handler, found = self._handler(exchange, serving.routes)
            response = await handler(exchange, found)
            if response is None:
                response = exchange.written()
        except GatewayError as exc:
            response = self._refuse(exchange, exc)
        except ClientDisconnected:
            response = _nobody(exchange)
        except asyncio.CancelledError:
            told = self._interrupted(exchange)
            if told is None:
                raise
            response = told
        except Exception as exc:
            log_crash(exc)
            response = self._refuse(exchange, GatewayError())
        finally:
            if exchange.reply is not None:
                exchange.reply.stop()
            serving.in_flight -= 1
            state.leave(exchange)
        return closing(response) if last else response

    def _handler(self, exchange: Exchange, routes: Routes) -> tuple[Handler, str]:
        message = exchange.message
        if self._cors and message.method == "OPTIONS":
            return self._preflight, ""
        handler, found = routes.match(message.method, message.path)
        if self._bounded and len(self._state.running) > self._config.max_requests_in_flight and handler is not healthz:
            # Who has too much to do is not dead, and must not be taken for it.
            raise Overloaded("The gateway is handling as many requests as it can.")
        return handler, found

    def _interrupted(self, exchange: Exchange) -> web.StreamResponse | None:
        """What is still to be said after a cancellation: nothing where the client left.

        When we are shutting down, an answer must not look complete: one that has begun is told of it here.
        """
        error = Overloaded("The gateway is shutting down.", code="shutting_down")
        out = exchange.client.out
        if out is None or out.transport.is_closing():
            return None
        if exchange.begun:
            if exchange.reply is not None:
                exchange.reply.interrupt(error)
            return None
        return self._refuse(exchange, error)

    def _refuse(self, exchange: Exchange, error: GatewayError) -> web.StreamResponse:
        if exchange.begun:
            return _nobody(exchange)  # a second head would be read as part of the first answer
        if isinstance(error, Unauthenticated):
            try:
                self._failures.count(exchange.address)
            except LimitExceeded as refusal:
                error = refusal
        exchange.headers["openai-processing-ms"] = str(int((time.perf_counter() - exchange.started) * 1000))
        response = error_response(error, exchange.all_headers)
        if not exchange.content.is_eof():
            response.force_close()  # what is left of the body is not worth reading
        return response

    def _allow_origin(self, exchange: Exchange) -> None:
        origin = exchange.given["Origin"]
        if "*" in self._cors or origin in self._cors:
            exchange.headers["access-control-allow-origin"] = "*" if "*" in self._cors else origin
            exchange.headers["vary"] = "Origin"

    async def _preflight(self, exchange: Exchange, _: str) -> web.StreamResponse:
        asked = exchange.given.get("Access-Control-Request-Headers", "")
        headers = {
            **exchange.all_headers,
            "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
            "access-control-max-age": "600",
        }
        if asked and asked.isascii() and asked.isprintable():
            headers["access-control-allow-headers"] = asked[:1024]
        return web.Response(status=204, headers=headers)

    async def start(
        self, host: str, port: int, listening: socket.socket | None = None, *, stands_by: bool = False
    ) -> None:
        """Listen; ``port`` 0 takes a free one, told by ``self.port``. ``listening``: a socket that does so already, of which
        a worker that ``stands_by`` takes only whom no other accepts.
        """
        self.listener.check()
        loop = asyncio.get_running_loop()
        if listening is not None and stands_by:
            self._open(BackDoors(loop, self.listener), [listening])
            listening.close()
            return
        if listening is not None:
            self._server = await loop.create_server(self.listener, sock=listening, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(self.listener, host, port, backlog=BACKLOG)
        self._open(Doors(loop, self.listener), self._server.sockets)

    def _open(self, doors: Doors, sockets: Sequence[socket.socket]) -> None:
        self.port = sockets[0].getsockname()[1]
        self.listener.doors = doors
        doors.open(sockets)

    async def close(self) -> None:
        """Accept nothing more, and cancel what runs."""
        await self.stop_listening()
        if self.listener.doors is not None:
            await asyncio.sleep(0)  # whoever was accepted last has its connection made before they are looked at
            self.listener.pre_shutdown()
            await self.listener.shutdown(CLOSE_WITHIN)

    async def stop_listening(self) -> None:
        """Accept nothing more; what runs goes on."""
        if self.listener.doors is not None:
            self.listener.doors.close()
        if self._server is not None:
            self._server.close()


def _nobody(exchange: Exchange) -> web.StreamResponse:
    if exchange.client.out is not None:
        exchange.client.out.close()
    return LAST


async def drain(state: State, config: ServerConfig, sites: list[Site]) -> None:
    """Not ready, a pause for load balancers, no more connections, then up to ``drain`` seconds for what runs.

    What runs longer gets an error (event) and is settled. What is settled may not have left yet: clients that read slowly
    are waited for within the same time.
    """
    state.draining, state.ready = True, False
    LOGGER.info("%s", orjson.dumps({"event": "draining", "in_flight": state.in_flight}).decode())
    await asyncio.sleep(config.drain_delay)
    for site in sites:
        await site.stop_listening()
    until = time.monotonic() + config.drain + CUT_WITHIN
    await _idle(state, config.drain)
    if state.in_flight:
        LOGGER.warning("%s", orjson.dumps({"event": "cut", "in_flight": state.in_flight}).decode())
        for exchange in list(state.running):
            exchange.client.cut()  # each tells its client and settles
        await _idle(state, CUT_WITHIN)
    while any(site.listener.is_writing for site in sites) and time.monotonic() < until:  # noqa: ASYNC110 - no event
        await asyncio.sleep(WRITING_CHECKED)


async def _idle(state: State, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while state.in_flight:
                state.idle.clear()
                await state.idle.wait()
