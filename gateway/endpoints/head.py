"""What the head of a request says, read once: a client repeats its heads to the byte, but for the length of the body."""

from typing import Any, Protocol

from aiohttp.http import HttpVersion, HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

from ..auth import bearer, digest_of
from ..tracecontext import valid

MAX_CLIENT_REQUEST_ID = 512
LENGTH = b"\r\ncontent-length:"
LONGEST_KNOWN = 4096
"""Bytes of a head that a connection keeps: with the default ``max_connections`` 80 MB in all."""
NONE: list[str] = []
PARSED: Any = RawRequestMessage
"""What aiohttp's C parser makes, and its annotations take for the tuple that its Python parser makes."""


class Message(Protocol):
    """A head as aiohttp has parsed it."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def version(self) -> HttpVersion: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def should_close(self) -> bool: ...
    @property
    def compression(self) -> str | None: ...
    @property
    def upgrade(self) -> bool: ...
    @property
    def chunked(self) -> bool: ...
    def _replace(self, *, path: str) -> "Message": ...


class Head:
    """One head. What is here holds for every request that begins with the same bytes."""

    __slots__ = (
        *("client_marks", "credential", "digest", "given", "idempotency_key", "is_1_1", "last", "message"),
        *("awaits_continue", "odd", "odd_client_id", "odd_type", "traceparent"),
    )

    def __init__(self, message: Message) -> None:
        if not message.path.startswith("/"):
            message = message._replace(path=_origin_form(message.path))
        self.message = message
        self.given: CIMultiDictProxy[str] = message.headers
        self.last = message.should_close
        """Whether the client closes the connection after the answer."""
        self.is_1_1 = message.version >= HttpVersion11
        get, getall = self.given.get, self.given.getall
        self.credential = bearer(
            getall("Authorization", NONE), getall("x-api-key", NONE) + getall("api-key", NONE)
        )  # fmt: skip
        self.digest = digest_of(self.credential) if self.credential else None
        name, retries = get("X-Client-Request-Id"), get("X-Stainless-Retry-Count")
        self.client_marks = (_mark(name, MAX_CLIENT_REQUEST_ID), _mark(retries, 8))
        """What the client calls this request, and which retry of its own it is; bounded and valid Unicode, for the log."""
        self.odd_client_id = name is not None and (len(name) > MAX_CLIENT_REQUEST_ID or not name.isascii())
        expected = get("Expect") if self.is_1_1 else None  # of an older client it means nothing: RFC 9110, 10.1.1
        self.awaits_continue = expected is not None and expected.strip().lower() == "100-continue"
        """Whether the client may wait for our word before it sends the body."""
        self.odd = self.odd_client_id or (expected is not None and not self.awaits_continue)
        """Whether it is to be refused: for ``odd_client_id``, or for another expectation."""
        self.traceparent = valid(get("traceparent"))
        """The client's W3C trace context, where what it sent is one."""
        self.idempotency_key = get("Idempotency-Key")
        declared = get("Content-Type")
        self.odd_type = declared is not None and declared.partition(";")[0].lower() != "application/json"
        """Whether the Content-Type needs a second look."""


def _origin_form(target: str) -> str:
    """Path and query of a target, also of one that says scheme and host as to a proxy (RFC 9112, 3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    host = min((rest.partition(mark)[0] for mark in "/?"), key=len)
    path = rest[len(host) :]
    return path if path.startswith("/") else "/" + path


def _mark(value: str | None, most: int) -> str | None:
    """The first ``most`` characters; bytes that are no UTF-8, which aiohttp reads as lone surrogates, become question marks."""
    if not value or value.isascii():
        return value and value[:most]
    return value[:most].encode("utf-8", "replace").decode()


class Known:
    """A head that came before on the connection; it holds the client's credential for as long as that lasts.

    What is in ``head`` was read by the parser. Its Content-Length is that of the first such request.
    """

    __slots__ = ("_after", "_before", "_most", "head")

    def __init__(self, before: bytes, after: bytes, head: Head, most: int) -> None:
        """``before`` and ``after`` surround the digits of the Content-Length; ``most`` is the largest body, in bytes."""
        self._before = before
        self._after = after
        self._most = most
        self.head = head

    def body_of(self, data: bytes) -> bytes | None:
        """The body, where ``data`` is one whole request with this head; else None, and the parser is to read it."""
        before = self._before
        if not data.startswith(before):
            return None
        at = len(before)
        end = data.find(b"\r", at, at + 10)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        body = data[end + len(self._after) :]
        return body if len(body) == int(digits) <= self._most else None


def is_whole(data: bytes, message: Any, content: StreamReader) -> bool:
    """Whether ``data``, which the parser made this of, was one request from its first byte to its last.

    The head ends with the first empty line or later, so a complete body that ends with ``data`` when counted from
    there leaves room for nothing else.
    """
    if not isinstance(message, PARSED) or message.chunked or message.upgrade or not content.is_eof():
        return False
    declared = message.headers.get("Content-Length", "0")
    return declared.isdigit() and data.find(b"\r\n\r\n") + 4 + int(declared) == len(data)


def known(data: bytes, message: Message, most: int) -> Known | None:
    """Learn the head of a request that ``is_whole``; None where it is long, the last, or its body needs more than reading."""
    head = data[: data.find(b"\r\n\r\n") + 4]
    folded = head.lower()
    if len(head) > LONGEST_KNOWN or message.should_close or message.compression or folded.count(LENGTH) != 1:
        return None
    at = folded.find(LENGTH) + len(LENGTH)
    at += head[at:].startswith(b" ")
    end = head.find(b"\r", at)
    if head[at:end].decode("latin-1") != message.headers.get("Content-Length"):
        return None
    return Known(head[:at], head[end:], Head(message), most)
