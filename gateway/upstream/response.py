"""One answer of an upstream: filled by its connection, read by the gateway."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from adapters.errors import ErrorKind, ProviderError
from config.schema import Timeouts

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a whole answer, at most."""
HIGH_WATER = 256 * 1024
"""Bytes waiting for a slow reader before the socket is no longer read; one read of the socket comes on top."""
LINGER = 0.1
"""Seconds that ``close`` leaves an unfinished answer to end by itself."""
NEVER = float("inf")
TOO_LARGE = "The provider's answer is too large."
Field: TypeAlias = tuple[bytes, bytes]
"""A header as it came."""


class Source(Protocol):
    """Where an answer comes from."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None: ...
    def call_by(self, due: float) -> None: ...


class UpstreamResponse:
    """Status, headers (lower-case names) and body of one answer.

    ``chunk`` gives what has arrived of the body, ``read`` all of it. Both raise ProviderError (CONNECTION, TIMEOUT,
    INCOMPLETE, PROTOCOL); cancelling them aborts the connection, so that the provider stops generating. End with
    ``close`` or ``abort``, or use ``async with``.
    """

    __slots__ = (
        *("begun", "deadline", "error", "opened", "reused", "silent", "sink", "source", "status"),
        *("_by", "_discard", "_done", "_end", "_ended", "_fields", "_headers", "_loop", "_on_end", "_parts", "_paused"),
        *("_refused", "_room", "_size", "_spilt", "_stream", "_streaming", "_timeouts", "_total", "_waiter", "_whole"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeouts: Timeouts,
        now: float,
        on_end: Callable[[], None],
        *,
        stream: bool,
    ) -> None:
        """``on_end`` is called when the answer is over, however it ends; ``now`` is the loop's time."""
        self.status = 0
        self.error: ProviderError | None = None
        """Why it ended early; never raised itself, only ``again``."""
        self.silent = True
        """Whether not a byte of it has come."""
        self.reused = False
        """Whether its connection had been idle."""
        self.opened = time.perf_counter()  # the loop's own clock is coarse
        self.deadline = now + (timeouts.first_byte if stream else timeouts.response)
        self.source: Source | None = None
        self._loop = loop
        self._timeouts = timeouts
        self._stream = stream
        self._fields: Sequence[Field] = ()
        self._headers: dict[str, str] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._room = HIGH_WATER
        self._whole = False
        self._streaming = False
        self._discard = False
        self._paused = False
        self._done = False
        self.sink: Callable[[bytes], bool] | None = None
        """Where ``pour`` has what arrives go..."""
        self._refused = False
        """...whether it wants no more for now..."""
        self._spilt: Exception | None = None
        """...and what it raised."""
        self.begun: asyncio.Future[None] = loop.create_future()
        """Done when the status and the headers are here, or ``error`` is."""
        self._waiter: asyncio.Future[None] | None = self.begun
        self._on_end = on_end
        self._ended = 0.0
        self._by = now + timeouts.request
        """When a stream must have had content."""
        self._end = self._total = NEVER
        """When a stream must be over, for now and for good."""

    @property
    def headers(self) -> dict[str, str]:
        """By their names in lower case; the values of one name are joined."""
        if self._headers is None:
            self._headers = _told(self._fields)
        return self._headers

    def only(self, names: frozenset[bytes]) -> dict[str, str]:
        """The headers of these names (in lower case), at a fraction of the price of all."""
        return _told([field for field in self._fields if field[0].lower() in names])

    def here(self, limit: int = MAX_BODY) -> bytes | None:
        """The whole body, if it has come already and is no longer than ``limit``."""
        return self._take() if self._done and self.error is None and self._size <= limit else None

    async def chunk(self) -> bytes:
        """What has arrived of the body, at least one byte; empty at the end."""
        while not self._parts:
            if self.error is not None:
                raise self.error.again()
            if self._done:
                return b""
            await self._wait()
        return self._take()

    async def pour(self, sink: Callable[[bytes], bool]) -> bool:
        """Give ``sink`` what arrives the moment it does, without waking the task that waits here; True at the end.

        False when the sink answers False: it wants no more for now. What it raises is raised here.
        """
        while True:
            if self._parts:
                if not sink(self._take()):
                    return False
            elif self.error is not None:
                raise self.error.again()
            elif self._done:
                return True
            else:
                self.sink, self._streaming = sink, self._stream
                try:
                    await self._wait()
                    if self._spilt is not None:
                        raise self._spilt
                finally:
                    self.sink = self._spilt = None
                if self._refused:
                    self._refused = False
                    return False

    async def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole (rest of the) body; more than ``limit`` bytes are an error."""
        self._whole, self._room = True, limit
        if not self._done:
            declared = self.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > limit:
                self.fail(ErrorKind.PROTOCOL, TOO_LARGE)
            self._unpause()
        while not self._done and self._size <= limit:
            await self._wait()
        if self._size > limit:
            self.fail(ErrorKind.PROTOCOL, TOO_LARGE)
            raise ProviderError(ErrorKind.PROTOCOL, TOO_LARGE)
        if self.error is not None:
            raise self.error.again()
        return self._take()

    def abort(self) -> None:
        """Drop the connection at once, unless the answer is complete."""
        self.fail(ErrorKind.CONNECTION, "The request was aborted.")

    async def close(self) -> None:
        """Done with the answer.

        What little may be missing of it is awaited in the background, so that the connection can be used again; if
        it is not over soon, the connection is dropped.
        """
        self._discard = True
        self._parts.clear()
        self._size = 0
        if not self._done:
            self._unpause()
            self._end = min(self._end, self._loop.time() + LINGER)
            self._arm(self._end)

    async def __aenter__(self) -> "UpstreamResponse":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.close()
        else:
            self.abort()

    # What follows is called by the connection and by the client.

    @property
    def taken(self) -> float:
        """Seconds from the request to the end of the answer, or until now."""
        return (self._ended or time.perf_counter()) - self.opened

    def begin(self, status: int, fields: Sequence[Field]) -> None:
        self.status, self._fields = status, fields
        if self._stream:
            self._total = self._loop.time() + self._timeouts.total
            self._end = min(self._total, self._by)
        self._wake()

    def content(self) -> None:
        """A stream's first content is here: what is left is bounded by ``timeouts.total`` alone."""
        if not self._done:
            self._end = self._total

    def whole(self, status: int, fields: Sequence[Field], parts: list[bytes]) -> None:
        """All of the answer has arrived at once: as ``begin``, ``push`` and ``finish``."""
        if self._done:
            return
        self.status, self._fields, self._parts = status, fields, parts
        self._size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        self.finish()

    def push(self, parts: Sequence[bytes]) -> None:
        """Body bytes have arrived: keep them, and wake the reader once if it can use them."""
        if self._discard:
            return
        self._streaming = self._stream
        if self.sink is not None:
            self.pass_on(self.sink, parts[0] if len(parts) == 1 else b"".join(parts))
            return
        self._parts.extend(parts)
        for part in parts:
            self._size += len(part)
        if self._size > self._room:
            if not self._paused and self.source:
                self._paused = True
                self.source.pause_reading()
            self._wake()
        elif not self._whole:
            self._wake()
        elif self._stream:
            self.deadline = self._loop.time() + self._timeouts.idle

    def pass_on(self, sink: Callable[[bytes], bool], data: bytes) -> None:
        """Body bytes have arrived while ``pour`` waits for them: they go on at once."""
        self.deadline = self._loop.time() + self._timeouts.idle
        try:
            if sink(data):
                return
            self._refused = True
        except Exception as error:
            self._spilt = error
        self.sink = None  # what comes before its task wakes up waits like everything else
        self._wake()

    def finish(self) -> None:
        """The answer is over."""
        if self._done:
            return
        self._done = True
        self._ended = time.perf_counter()
        self.source = None
        self._wake()
        self._on_end()

    def fail(self, kind: ErrorKind, message: str) -> None:
        """End the answer with an error and drop the connection."""
        if self._done:
            return
        self.error = ProviderError(kind, message)
        source = self.source
        self.finish()
        if source:
            source.abort()

    def _take(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts, self._size = [], 0
        self._unpause()
        return data

    def _unpause(self) -> None:
        if self._paused and self.source:
            self._paused = False
            self.source.resume_reading()

    async def _wait(self) -> None:
        self._arm(self._loop.time() + self._timeouts.idle if self._streaming else self.deadline)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _arm(self, deadline: float) -> None:
        """Move the deadline. ``look`` that is called too early has itself called again."""
        self.deadline = deadline
        if self.source is not None:
            self.source.call_by(min(deadline, self._end))

    def look(self) -> None:
        """See whether a deadline has passed."""
        bounded = self._waiter is not None or self._end == NEVER
        due = min(self.deadline, self._end) if bounded else self._end  # a slow reader is not the provider's fault
        if self._loop.time() < due:
            if self.source is not None:
                self.source.call_by(due)
        elif self._discard:
            self.abort()
        elif self._streaming:
            self.fail(ErrorKind.TIMEOUT, "The provider's stream took too long to continue or to end.")
        else:
            self.fail(ErrorKind.TIMEOUT, "The provider did not answer in time.")


def _told(fields: Iterable[Field]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in fields:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
