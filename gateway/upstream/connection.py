"""One connection to an upstream: what is lawful HTTP, and whose answer it is."""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from adapters.errors import ErrorKind
from adapters.interface import UpstreamRequest
from config.schema import Timeouts

from ..turns import Outgoing, outgoing
from .framing import unframed
from .head import Origin
from .response import Field, UpstreamResponse

MAX_HEADERS = 128
MAX_INTERIM = 10
"""1xx answers before the real one."""
MAX_OVERHEAD = 64 * 1024
"""Bytes in a row that are not body: a head, interim answers, trailers, chunk extensions."""
UNANSWERED = "The provider closed the connection without an answer."
NOT_HTTP = "The provider's answer is not lawful HTTP."
NEVER = float("inf")
LENGTH = (b"transfer-encoding", b"content-length")
"""Headers that tell where a body ends; without them it ends with the connection."""
FRAMING = frozenset({*LENGTH, b"content-encoding", b"keep-alive"})
"""Headers that the connection itself reads; the others wait for who asks for them."""
PLAIN = (b"identity", b"none", b"")
"""Content codings that are none; `none` is what some servers tell proxies that must not buffer."""
_NO_PARSER = httptools.HttpResponseParser(None)


class Connection(asyncio.Protocol):
    """Writes one request at a time and reads its answer. Used again only when nothing at all was odd about it.

    It has one timer for all its answers: moving a deadline on costs nothing, for a timer that fires too early is set
    again.
    """

    transport: asyncio.Transport
    _out: Outgoing
    # Of the answer that is awaited, from ``send`` on:
    _status: int
    _fields: list[Field]
    """Of the head or the trailer that comes now..."""
    _head: list[Field]
    """...and of the answer's own head, when all of it is there."""
    _framing: dict[bytes, bytes]
    _body: list[bytes]
    _interim: int
    _overhead: int
    _complete: bool
    _between: bool
    """Whether the size of a chunk comes next, and nothing of it was parsed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        idle: Callable[["Connection"], None],
        gone: Callable[["Connection"], None],
    ) -> None:
        self.loop = loop
        self.origin = origin
        self.born = loop.time()
        self.pooled = False
        """Whether it was idle before: then the server may have closed it while a request was on its way."""
        self.fit_until = 0.0
        """When it has been idle for too long."""
        self.keep_alive = NEVER
        """Seconds that the server says it keeps an idle connection."""
        self.closed = False
        self._paused = False
        self._idle = idle
        self._gone = gone
        self._response: UpstreamResponse | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._wrong = ""
        self._reusable = False
        self._received = 0
        """Bytes since the last ones of a body."""

    def send(
        self, head: bytes, request: UpstreamRequest, timeouts: Timeouts, on_end: Callable[[], None]
    ) -> UpstreamResponse:
        """Write a request; ``head`` is all before the length of its body. ``on_end``: see ``UpstreamResponse``."""
        # Nothing was wrong with the last answer, or this connection would be gone.
        self._status = self._interim = self._overhead = 0
        self._fields, self._head, self._body = [], [], []
        self._framing = {}
        self._complete = self._between = False
        response = UpstreamResponse(self.loop, timeouts, self.loop.time(), on_end, stream=request.stream)
        self._response = response
        response.source, response.reused = self, self.pooled
        body = request.body
        if response.deadline < self._timer_at:
            self.call_by(response.deadline)
        if self.closed:
            response.fail(ErrorKind.CONNECTION, UNANSWERED)
        elif self.transport.is_closing():
            pass  # connection_lost comes next and tells
        else:
            self._out.message(b"%bContent-Length: %d\r\n\r\n" % (head, len(body)), body)
        return response

    # What an answer needs of its source.

    def pause_reading(self) -> None:
        if not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        self.closed = True
        self._out.abort()

    def call_by(self, due: float) -> None:
        """Have the answer look at its deadlines at ``due`` (``loop.time``) or before."""
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = self.loop.call_at(due, self._look), due

    def _look(self) -> None:
        self._timer, self._timer_at = None, NEVER
        if self._response is not None:
            self._response.look()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._out = outgoing(self.transport, self.loop)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.abort()  # nobody asked: the next request must not take this for its answer
            return
        if self._between and response.sink is not None:
            plain = unframed(data)
            if plain is not None:  # nearly every read of nearly every stream: the parser is where it was
                self._overhead = 0
                response.pass_on(response.sink, plain)
                return
        response.silent = False
        self._received = self._overhead + len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._wrong = self._wrong or NOT_HTTP
        if self._between:
            self._between = data.endswith(b"\r\n") and not (self._complete or self._wrong)
        body = self._body
        if body and response.sink is not None and not (self._complete or self._wrong):  # a stream under way
            self._body, self._overhead = [], 0
            response.pass_on(response.sink, body[0] if len(body) == 1 else b"".join(body))
        elif self._complete and body and not response.status:  # all of it at once, as most answers come
            self._response = None
            response.whole(self._status, self._head, body)
            self._free()
        else:
            self._judge(response)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parser = _NO_PARSER  # its own refers to it: both would stay until garbage is collected
        self._gone(self)
        response, self._response = self._response, None
        if response is None:
            return
        if not self._status:
            response.fail(ErrorKind.CONNECTION, UNANSWERED)
        elif error or any(name in self._framing for name in LENGTH):
            response.fail(ErrorKind.INCOMPLETE, "The provider's answer was cut short.")
        else:
            response.finish()

    def _judge(self, response: UpstreamResponse) -> None:
        """What the bytes just parsed mean for the answer: at most one wake-up of its reader."""
        if self._status and not response.status:
            response.begin(self._status, self._head)
        if self._body:
            body, self._body, self._overhead = self._body, [], 0
            response.push(body)
        else:
            self._overhead = self._received
            if self._overhead > MAX_OVERHEAD:
                self._wrong = self._wrong or "The provider's answer has too much around its body."
        if self._complete:
            self._response = None
            response.finish()
            self._free()
        elif self._wrong:
            self._response = None
            response.fail(ErrorKind.PROTOCOL, self._wrong)
            self.abort()

    def _free(self) -> None:
        # An answer that came before the request was written leaves a rest of the request on the wire.
        is_written = not self._out.waits and not self.transport.get_write_buffer_size()
        if self._reusable and is_written and not self._wrong and not self.closed:
            if self._paused:
                self.resume_reading()
            self._idle(self)
        else:
            self.abort()

    # The parser's side.

    def on_message_begin(self) -> None:
        if self._complete:
            self._wrong = NOT_HTTP  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        head, self._fields = self._fields, []  # trailers say nothing that we want
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._wrong = "The provider keeps announcing an answer."
            return
        framing = self._framing
        for name, value in head:
            if (key := name.lower()) in FRAMING:
                framing[key] = b"%b, %b" % (framing[key], value) if key in framing else value
        coding, packing = framing.get(b"transfer-encoding"), framing.get(b"content-encoding")
        framed = coding is None or coding.lower() == b"chunked"
        if not 200 <= status < 600 or not framed or self._parser.get_http_version()[0] != "1":
            self._wrong = self._wrong or NOT_HTTP
        elif packing is not None and packing.lower() not in PLAIN and status < 300:
            self._wrong = self._wrong or "The provider's answer is compressed, which was not asked for."
        elif len(head) > MAX_HEADERS:
            self._wrong = self._wrong or "The provider's answer has too many headers."
        elif self._received > MAX_OVERHEAD and sum(len(n) + len(v) for n, v in head) > MAX_OVERHEAD:
            self._wrong = self._wrong or "The provider's answer has a head that is too large."
        if not self._wrong:
            self._status, self._head = status, head

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._body.append(data)

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = True

    def on_message_complete(self) -> None:
        if self._status and not self._wrong:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()
            told = self._framing.get(b"keep-alive")
            self.keep_alive = NEVER if told is None else _keep_alive(told)


def _keep_alive(header: bytes) -> float:
    """Seconds of ``Keep-Alive: timeout=N``, less one for the way there."""
    for parameter in header.decode("latin-1").split(","):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "timeout" and value.isdecimal():
            return int(value[:9]) - 1.0
    return NEVER
