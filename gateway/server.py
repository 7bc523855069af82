"""The listeners of one worker: what is served where, how errors are rendered, how it drains."""

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from config.schema import Server as ServerConfig

from .connection import SERVER_HEADER, Listener
from .endpoints.exchange import Exchange, new_exchange
from .endpoints.routes import Handler, Routes
from .errors import ClientDisconnected, GatewayError, LimitExceeded, Overloaded, Unauthenticated
from .logs import log_crash
from .reply import closing, error_response
from .throttle import Failures

LOGGER = logging.getLogger("sluice.server")
COMMON = {"server": SERVER_HEADER, "openai-version": "2020-10-01"}
CUT_WITHIN = 5.0
"""Seconds that requests over the limit have for their last words."""
EXPOSED = "X-Request-ID"


@dataclass(slots=True)
class State:
    """What readiness and draining look at."""

    in_flight: int = 0
    draining: bool = False
    ready: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once nothing is in flight any more while draining."""
    running: set[asyncio.Task[Any]] = field(default_factory=set)

    def enter(self) -> None:
        self.in_flight += 1
        if (task := asyncio.current_task()) is not None:
            self.running.add(task)

    def leave(self) -> None:
        self.in_flight -= 1
        if (task := asyncio.current_task()) is not None:
            self.running.discard(task)
        if self.draining and not self.in_flight:
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
        self._common = dict(COMMON)
        if cors:
            self._common["access-control-expose-headers"] = EXPOSED
        self.listener = Listener(self.handle, config)
        self._runner: web.ServerRunner | None = None
        self.port = 0

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Method and path of everything that is served here."""
        return self._serving.routes.listed()

    def serve(self, serving: Serving) -> Serving:
        """Serve something else to requests that come from now on; gives what was served until now."""
        before, self._serving = self._serving, serving
        self._common["x-sluice-config"] = serving.version
        return before

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = new_exchange(request, self._config, self._common)
        if self._cors and "Origin" in request.headers:
            self._allow_origin(exchange)
        self._state.enter()
        if last := self._state.draining:
            # Announced, so that no client sends another request into the closing; what began before goes on unannounced.
            exchange.headers["connection"] = "close"
        serving = self._serving
        serving.in_flight += 1
        try:
            handler, found = self._handler(exchange, serving.routes)
            response = await handler(exchange, found)
        except GatewayError as exc:
            response = self._refuse(exchange, exc)
        except ClientDisconnected:
            response = self._nobody(request)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as exc:
            log_crash(exc)
            response = self._refuse(exchange, GatewayError())
        finally:
            serving.in_flight -= 1
            self._state.leave()
        if last:
            return closing(response)
        return response

    def _handler(self, exchange: Exchange, routes: Routes) -> tuple[Handler, str]:
        request = exchange.request
        if self._cors and request.method == "OPTIONS":
            return self._preflight, ""
        handler, found = routes.match(request.method, request.raw_path)
        if self._bounded and self._state.in_flight > self._config.max_requests_in_flight:
            raise Overloaded("The gateway is handling as many requests as it can.")
        return handler, found

    def _refuse(self, exchange: Exchange, error: GatewayError) -> web.StreamResponse:
        if isinstance(error, Unauthenticated):
            try:
                self._failures.count(exchange.address)
            except LimitExceeded as refusal:
                error = refusal
        exchange.headers["openai-processing-ms"] = str(int((time.perf_counter() - exchange.started) * 1000))
        response = error_response(error, exchange.headers)
        if not exchange.request.content.is_eof():
            response.force_close()  # what is left of the body is not worth reading
        return response

    def _nobody(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.close()
        return web.Response(status=499)

    def _allow_origin(self, exchange: Exchange) -> None:
        origin = exchange.request.headers["Origin"]
        if "*" in self._cors or origin in self._cors:
            exchange.headers["access-control-allow-origin"] = "*" if "*" in self._cors else origin
            exchange.headers["vary"] = "Origin"

    async def _preflight(self, exchange: Exchange, _: str) -> web.StreamResponse:
        asked = exchange.request.headers.get("Access-Control-Request-Headers", "")
        headers = {
            **exchange.headers,
            "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
            "access-control-max-age": "600",
        }
        if asked and asked.isascii() and asked.isprintable():
            headers["access-control-allow-headers"] = asked[:1024]
        return web.Response(status=204, headers=headers)

    async def start(self, host: str, port: int, listening: socket.socket | None = None) -> None:
        """Listen; ``port`` 0 takes a free one, told by ``self.port``. ``listening``: a socket that does so already."""
        self.listener.check()
        self._runner = web.ServerRunner(self.listener, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        if listening is not None:
            await web.SockSite(self._runner, listening, backlog=4096).start()
        else:
            await web.TCPSite(self._runner, host, port, backlog=4096).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def stop_listening(self) -> None:
        """Accept nothing more; what runs goes on."""
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()


async def drain(state: State, config: ServerConfig, sites: list[Site]) -> None:
    """Not ready, a pause for load balancers, no more connections, then up to ``drain`` seconds for what runs.

    What runs longer gets an error (event) and is settled.
    """
    state.draining, state.ready = True, False
    LOGGER.info("%s", orjson.dumps({"event": "draining", "in_flight": state.in_flight}).decode())
    await asyncio.sleep(config.drain_delay)
    for site in sites:
        await site.stop_listening()
    await _idle(state, config.drain)
    if state.in_flight:
        LOGGER.warning("%s", orjson.dumps({"event": "cut", "in_flight": state.in_flight}).decode())
        for task in list(state.running):
            task.cancel()  # each tells its client and settles
        await _idle(state, CUT_WITHIN)


async def _idle(state: State, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while state.in_flight:
                state.idle.clear()
                await state.idle.wait()
