"""Sends requests over pooled connections."""

import asyncio
import socket
import ssl
import time
from collections import defaultdict, deque
from functools import partial

from adapters.errors import ErrorKind, ProviderError
from adapters.interface import UpstreamRequest
from config.schema import Timeouts

from ..timeouts import within
from ..tls import default_tls
from .addresses import Resolve, SystemResolver, refusal
from .connection import Connection
from .head import Origin, lines, locate, opening
from .response import UpstreamResponse

IDLE = 30.0
"""Seconds that an unused connection is kept: below the 60 s of common load balancers."""
MAX_AGE = 600.0
"""Seconds after which a connection is not used again, so that a change of the name's addresses is noticed."""
STALE_WINDOW = 1.0
"""Seconds in which a reused connection that dies unanswered counts as closed before our request reached it."""
SWEEP = 10.0
SHARES = 3
"""Addresses that share the time to connect: where each of a name's twenty had its part, none would have time for a handshake."""
FULL = "Too many requests to the provider are in flight."
NOTICEABLE = 0.05
"""Seconds of waiting and connecting that a request has less for its answer."""


class NotSent(ProviderError):
    """The gateway itself lacked what it needs to send: that says nothing of the provider, and going elsewhere is no retry."""


class DeploymentFull(NotSent):
    """The gateway has no more capacity for a deployment."""


class Upstream:
    """The client of one provider.

    At most ``limit`` requests are in flight; further ones wait for ``timeouts.connect``, where they wait at all, and are
    then refused with DeploymentFull. ``resolve`` is shared by a process's clients. Used in one event loop.
    """

    def __init__(
        self,
        *,
        limit: int = 256,
        allow_private: bool = True,
        allow_plain_http: bool = False,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Those who wait for a place, the first to come first."""
        self._allow_private = allow_private
        self._allow_plain_http = allow_plain_http
        self._tls = tls
        self._resolve = resolve or SystemResolver()
        self._idle: defaultdict[Origin, list[Connection]] = defaultdict(list)
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self.in_flight = 0

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        return len(self._open)

    async def reach(self, url: str, seconds: float) -> None:
        """Connect and send nothing; the connection is there for the next request. Raises ProviderError."""
        try:
            origin = locate(url).origin
        except ValueError as error:
            raise ProviderError(ErrorKind.CONNECTION, "The provider's address cannot be written.") from error
        self._put_idle(await self._connect(origin, seconds))

    def start(
        self,
        request: UpstreamRequest,
        timeouts: Timeouts,
        method: str = "POST",
        own: tuple[tuple[str, str], ...] = (),
    ) -> UpstreamResponse | None:
        """Send at once over an idle connection; None where that needs a wait: nothing was done then.

        Await the answer's ``begun``, and abort it if that is cancelled. Where it has no status then, ``open`` knows what
        to do ``after`` it. Raises ProviderError.
        """
        if self.in_flight >= self._limit:
            return None
        origin, head = _written(request, method, own)
        connection = self._take_idle(origin)
        if connection is None:
            return None
        self.in_flight += 1
        return connection.send(head, request, timeouts, self._leave)

    async def open(
        self,
        request: UpstreamRequest,
        timeouts: Timeouts,
        method: str = "POST",
        own: tuple[tuple[str, str], ...] = (),
        after: UpstreamResponse | None = None,
        waits: bool = True,
    ) -> UpstreamResponse:
        """Send and wait for the head of the answer, whatever its status; raises ProviderError.

        ``own`` are headers that no other request has; they come besides the request's. ``after`` is an answer of
        ``start`` that ended without a status. ``waits`` is whether to wait for a place where none is free. Cancelling it
        aborts the connection.
        """
        begin = partial(self._begin, request, timeouts, method, own, waits=waits)
        response = after if after is not None else await begin(fresh=False)
        if not response.status and _stale(response):
            response = await begin(fresh=True)
        if not response.status:
            raise _failure(response)
        return response

    async def _begin(
        self,
        request: UpstreamRequest,
        timeouts: Timeouts,
        method: str,
        own: tuple[tuple[str, str], ...],
        *,
        fresh: bool,
        waits: bool,
    ) -> UpstreamResponse:
        """Send, over a new connection if it must be ``fresh``, and wait for the head of the answer or for its end."""
        origin, head = _written(request, method, own)
        began = time.monotonic()
        if self.in_flight < self._limit:
            self.in_flight += 1
        elif waits:
            await self._queue(timeouts.connect)
        else:
            raise DeploymentFull(ErrorKind.OVERLOADED, FULL)
        try:
            connection = None if fresh else self._take_idle(origin)
            if connection is None:
                connection = await self._connect(origin, timeouts.connect)
        except BaseException:
            self._leave()
            raise
        if (spent := time.monotonic() - began) > NOTICEABLE:
            timeouts = within(timeouts, timeouts.request - spent)
        response = connection.send(head, request, timeouts, self._leave)
        try:
            await response.begun
        except BaseException:
            response.abort()
            raise
        return response

    async def close(self) -> None:
        """Drop every connection."""
        if self._sweeper:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # the event loop closes the sockets

    async def _queue(self, patience: float) -> None:
        """Wait for a place; whoever leaves hands its own on."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(patience):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._leave()  # it was ours when we could no longer use it
            elif place in self._waiting:
                self._waiting.remove(place)
            if isinstance(error, TimeoutError):
                raise DeploymentFull(ErrorKind.OVERLOADED, FULL) from None
            raise

    def _leave(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.in_flight -= 1

    async def _connect(self, origin: Origin, seconds: float) -> Connection:
        try:
            async with asyncio.timeout(seconds):
                return await self._try_addresses(origin, seconds)
        except ssl.SSLCertVerificationError as error:
            raise ProviderError(ErrorKind.CONNECTION, "The provider's certificate is not trusted.") from error
        except TimeoutError as error:
            raise ProviderError(ErrorKind.CONNECTION, "The provider could not be reached in time.") from error
        except (OSError, UnicodeError, ValueError) as error:
            raise ProviderError(ErrorKind.CONNECTION, "The provider could not be reached.") from error

    async def _try_addresses(self, origin: Origin, seconds: float) -> Connection:
        """One after the other, each with its share of the time that is left: one that is dead does not hide the next."""
        plain = not origin.tls and not self._allow_plain_http
        found = await self._resolve(origin.host, origin.port)
        allowed = [a for a in found if not refusal(a, allow_private=self._allow_private, plain_http=plain)]
        last = OSError("no address that may be connected to")
        end = time.monotonic() + seconds
        for tried, address in enumerate(allowed):
            try:
                async with asyncio.timeout((end - time.monotonic()) / min(len(allowed) - tried, SHARES)):
                    return await self._dial(origin, address)
            except OSError as error:
                last = error
        raise last

    async def _dial(self, origin: Origin, address: str) -> Connection:
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(
            lambda: Connection(loop, origin, self._put_idle, self._forget),
            address,
            origin.port,
            ssl=(self._tls or default_tls()) if origin.tls else None,
            server_hostname=origin.host if origin.tls else None,
        )
        # Answers may be silent for minutes: keep middle boxes from forgetting the connection.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not connection.closed:
            self._open.add(connection)
        return connection

    def _take_idle(self, origin: Origin) -> Connection | None:
        """The connection used last: the others may then grow old and go."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if _fit(connection, connection.loop.time()):
                return connection
            connection.abort()
        return None

    def _put_idle(self, connection: Connection) -> None:
        """Keep it for the next request, for as long as the server keeps it and its address is still believed."""
        now = connection.loop.time()
        connection.pooled = True
        connection.fit_until = min(now + IDLE, now + connection.keep_alive, connection.born + MAX_AGE)
        self._idle[connection.origin].append(connection)
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(SWEEP, self._sweep)

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for origin, idle in list(self._idle.items()):
            for connection in [c for c in idle if not _fit(c, now)]:
                idle.remove(connection)
                connection.abort()
            if not idle:
                del self._idle[origin]
        if self._idle:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)


def _fit(connection: Connection, now: float) -> bool:
    return now < connection.fit_until and not connection.closed and not connection.transport.is_closing()


def _written(request: UpstreamRequest, method: str, own: tuple[tuple[str, str], ...]) -> tuple[Origin, bytes]:
    """Where a request goes, and its head up to the length; raises ProviderError."""
    try:
        origin, head = opening(request.url, method, tuple(request.headers.items()))
        return origin, head + lines(own) if own else head
    except ValueError as error:
        raise ProviderError(ErrorKind.CONNECTION, "The request to the provider cannot be written.") from error


def _stale(response: UpstreamResponse) -> bool:
    """Whether the server closed an idle connection while our request was on its way.

    Then it has not acted on it, and a new connection cannot meet the same fate. A later death may have been a begun
    answer.
    """
    died = response.error is not None and response.error.kind is ErrorKind.CONNECTION
    return died and response.reused and response.silent and response.taken <= STALE_WINDOW


def _failure(response: UpstreamResponse) -> ProviderError:
    assert response.error is not None, "it has no status and is over"
    error = response.error.again()
    error.maybe_billed = True
    return error
