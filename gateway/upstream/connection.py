"""One connection to an upstream: what is lawful HTTP, and whose answer it is."""

import asyncio
import functools
from collections.abc import Callable
from typing import cast

import httptools

from adapters.errors import ErrorKind

from .head import Origin
from .response import UpstreamResponse

MAX_HEADERS = 128
MAX_INTERIM = 10
"""1xx answers before the real one."""
MAX_OVERHEAD = 64 * 1024
"""Bytes in a row that are not body: a head, interim answers, trailers, chunk extensions."""
UNANSWERED = "The provider closed the connection without an answer."
NOT_HTTP = "The provider's answer is not lawful HTTP."


class Connection(asyncio.Protocol):
    """Writes one request at a time and reads its answer. Used again only when nothing at all was odd about it."""

    transport: asyncio.Transport

    def __init__(
        self, origin: Origin, idle: Callable[["Connection"], None], gone: Callable[["Connection"], None]
    ) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self.keep_alive = float("inf")
        """Seconds that the server says it keeps an idle connection."""
        self.closed = False
        self._paused = False
        self.silent = True
        """Whether not a byte has come since the request was written."""
        self._idle = idle
        self._gone = gone
        self._response: UpstreamResponse | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[str, str] = {}
        self._header_count = 0
        self._interim = 0
        self._overhead = 0
        self._body: list[bytes] = []
        self._status = 0
        self._delimited = True
        self._complete = False
        self._reusable = False
        self._wrong = ""

    def send(self, head: bytes, body: bytes, response: UpstreamResponse) -> None:
        self._reset()
        self.silent = True
        self._response = response
        response.comes_from(self)
        if self.closed:
            response.fail(ErrorKind.CONNECTION, UNANSWERED)
        elif self.transport.is_closing():
            return  # connection_lost comes next and tells
        elif len(body) < 65_536:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

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
        self.transport.abort()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self.silent = False
        response = self._response
        if response is None:
            self.abort()  # nobody asked: the next request must not take this for its answer
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._wrong = self._wrong or NOT_HTTP
        self._judge(len(data), response)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._gone(self)
        response, self._response = self._response, None
        if response is None:
            return
        if not self._status:
            response.fail(ErrorKind.CONNECTION, UNANSWERED)
        elif self._delimited or error:
            response.fail(ErrorKind.INCOMPLETE, "The provider's answer was cut short.")
        else:
            response.finish()

    def _judge(self, received: int, response: UpstreamResponse) -> None:
        """What the bytes just parsed mean for the answer: at most one wake-up of its reader."""
        if self._status and not response.answered:
            response.begin(self._status, self._headers)
        if self._body:
            body, self._body, self._overhead = self._body, [], 0
            response.push(body)
        else:
            self._overhead += received
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
        if self._reusable and not self._wrong and not self.closed and not self.transport.get_write_buffer_size():
            self.resume_reading()
            self._idle(self)
        else:
            self.abort()

    # The parser's side.

    def on_message_begin(self) -> None:
        if self._complete:
            self._wrong = NOT_HTTP  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # trailers say nothing that we want, a second answer even less
        self._header_count += 1
        if self._header_count > MAX_HEADERS:
            self._wrong = "The provider's answer has too many headers."
            return
        key, text = _lower(name), value.decode("latin-1")
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._headers.clear()
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._wrong = "The provider keeps announcing an answer."
            return
        headers = self._headers
        coding = headers.get("transfer-encoding", "chunked").lower()
        self._delimited = "transfer-encoding" in headers or "content-length" in headers
        if not 200 <= status < 600 or coding != "chunked" or not self._parser.get_http_version().startswith("1."):
            self._wrong = self._wrong or NOT_HTTP
        elif headers.get("content-encoding", "identity").lower() != "identity":
            self._wrong = self._wrong or "The provider's answer is compressed, which was not asked for."
        elif len("".join(headers)) + len("".join(headers.values())) > MAX_OVERHEAD:
            self._wrong = self._wrong or "The provider's answer has a head that is too large."
        if not self._wrong:
            self._status = status

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if self._status and not self._wrong:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()
            self.keep_alive = _keep_alive(self._headers.get("keep-alive"))


@functools.lru_cache(maxsize=512)
def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()


def _keep_alive(header: str | None) -> float:
    """Seconds of ``Keep-Alive: timeout=N``, less one for the way there."""
    if header is None:
        return float("inf")
    for parameter in header.split(","):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "timeout" and value.isdecimal():
            return int(value[:9]) - 1.0
    return float("inf")
