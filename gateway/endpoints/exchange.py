"""One HTTP request as the endpoints see it: its id, its credential, its body, the headers its answer will have."""

import asyncio
import os
import secrets
import time
from typing import NoReturn, Protocol

from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from config.schema import Server as ServerConfig

from .. import web
from ..errors import ClientDisconnected, ExpectationFailed, InvalidRequest, RequestTooLarge, UnsupportedMediaType
from ..reply import Common, HTTPReply, Peer, UnframedReply
from .head import MAX_CLIENT_REQUEST_ID, Head, Message

JSON_TYPES = frozenset({"application/json", ""})
"""An absent Content-Type is taken for JSON: curl without -H and some SDKs send none."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
IDS_AT_ONCE = 256


class Ids:
    """Unguessable names of requests; the operating system is asked for many at once.

    They begin with the time they were made at, in seconds, so that indexes of them grow at one end: a database that
    has to change another page for each row is several times slower.
    """

    def __init__(self) -> None:
        self._made: list[str] = []

    def take(self) -> str:
        if not self._made:
            moment, random = f"{int(time.time()):08x}", secrets.token_hex(12 * IDS_AT_ONCE)
            self._made = [f"req_{moment}{random[at : at + 24]}" for at in range(0, len(random), 24)]
        return self._made.pop()

    def forget(self) -> None:
        """Have none: a forked process must not use those of its parent."""
        self._made.clear()


_ids = Ids()
os.register_at_fork(after_in_child=_ids.forget)


class Client(Peer, Protocol):
    """The connection that a request came on."""

    address: str

    def request_of(self, message: Message, content: StreamReader) -> web.BaseRequest:
        """aiohttp's view of a request."""
        ...

    def cut(self) -> None:
        """Cancel the request that runs."""
        ...


NOTHING_IN_COMMON = Common({})


class Exchange:
    """A request whose head has been read and whose body has not."""

    __slots__ = (
        *(
            "_body",
            "_request",
            "client",
            "client_marks",
            "common",
            "content",
            "credential",
            "digest",
            "given",
            "head",
            "headers",
        ),
        *("id", "limits", "message", "reply", "started", "traceparent"),
    )

    def __init__(
        self, client: Client, head: Head, content: StreamReader, limits: ServerConfig, body: bytes | None = None
    ) -> None:
        """``body``: where it is here already, and ``content`` has nothing more."""
        self.client = client
        self.head = head
        self.message = head.message
        self.given = head.given
        """The headers of the request."""
        self.credential = head.credential
        self.digest = head.digest
        self.client_marks = head.client_marks
        self.traceparent = head.traceparent
        self.content = content
        self.limits = limits
        self.id = _ids.take()
        self.started = time.perf_counter()
        """When the head was complete."""
        self.headers = {"x-request-id": self.id}
        """Of every answer, an error too, beside those in ``common``."""
        self.common = NOTHING_IN_COMMON
        """What it shares with all answers of its listener."""
        self.reply: HTTPReply | None = None
        """Where an answer is written past aiohttp."""
        self._request: web.BaseRequest | None = None
        self._body = body

    @property
    def request(self) -> web.BaseRequest:
        """aiohttp's view of it, made when first asked for: only what aiohttp answers needs it."""
        if self._request is None:
            self._request = self.client.request_of(self.message, self.content)
        return self._request

    @property
    def all_headers(self) -> dict[str, str]:
        """Those of every answer, for one that aiohttp sends."""
        return {**self.common.headers, **self.headers}

    @property
    def begun(self) -> bool:
        """Whether some of an answer may have been sent."""
        if self.reply is not None and self.reply.response is not None:
            return True
        return self._request is not None and self._request.writer.output_size > 0

    def written(self) -> web.StreamResponse:
        """What stands for the answer that ``reply`` has sent."""
        assert self.reply is not None
        assert self.reply.response is not None, "a handler answers or raises"
        return self.reply.response

    @property
    def address(self) -> str:
        """The peer's: a proxy in front is one address."""
        return self.client.address

    def reply_here(self) -> HTTPReply:
        """Where the answer goes; whatever else is returned is not sent any more once it has begun."""
        if self.head.is_1_1:
            self.reply = HTTPReply(self.client, self.common, self.headers, self.limits, last=self.head.last)
        else:
            self.reply = UnframedReply(self.client, self.common, self.headers, self.limits, last=True)
        return self.reply

    async def body(self) -> bytes:
        """The whole JSON body, read once; raises InvalidRequest for another type, a body too large or one that comes too slowly."""
        if self.head.odd:
            self._refuse_odd()
        if self.head.odd_type:
            self._check_odd_type()
        if self._body is None:
            body = arrived(self.content)
            if body is None:
                self._invite()
                body = await read_body(self.content, self.limits, packed=self.message.compression is not None)
            elif len(body) > self.limits.max_body:
                raise _too_large(self.limits.max_body)
            self._body = body
        return self._body

    def _refuse_odd(self) -> NoReturn:
        if self.head.odd_client_id:  # checklist C-028
            raise InvalidRequest(
                f"Invalid 'X-Client-Request-Id': expected ASCII of at most {MAX_CLIENT_REQUEST_ID} characters."
            )
        raise ExpectationFailed("Unsupported expectation: expected '100-continue'.")  # RFC 9110, 10.1.1

    def _invite(self) -> None:
        """Have the client send the body, where it waits to be told so; raises RequestTooLarge."""
        declared, out = self.given.get("Content-Length"), self.client.out
        if declared is not None and declared.isdigit() and int(declared) > self.limits.max_body:
            raise _too_large(self.limits.max_body)
        if self.head.awaits_continue and out is not None and out.is_open:
            out.write(CONTINUE)
            out.flush()  # a refusal may follow at once, and aiohttp writes it past what waits here

    def _check_odd_type(self) -> None:
        if self.request.content_type not in JSON_TYPES:
            raise UnsupportedMediaType("Unsupported content type: expected 'application/json'.")

    def _cancel(self, exc: BaseException) -> None:
        """aiohttp tells by this name that the client has left."""
        self.content.set_exception(exc)


def arrived(content: StreamReader) -> bytes | None:
    """A body that is here already, as most are, for which no timer is needed; None where some of it is to come."""
    if content is EMPTY_PAYLOAD:
        return b""
    if not content.is_eof() or content.exception() is not None:
        return None
    return content.read_nowait(-1)


async def read_body(content: StreamReader, limits: ServerConfig, *, packed: bool = False) -> bytes:
    """Read within the caps of size, gap and total time; the connection is closed after a refusal.

    ``packed``: whether it comes compressed. Little can hold much, and others must be served meanwhile.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout):
            while data := await _piece(content, limits.body_gap_timeout):
                size += len(data)
                if size > limits.max_body:
                    raise _too_large(limits.max_body)
                pieces.append(data)
                if packed:
                    await asyncio.sleep(0)  # the next piece is unpacked from what is here: nothing else makes us wait
    except TimeoutError:
        raise InvalidRequest("The request body was not received in time.", code="request_timeout") from None
    except web.RequestPayloadError:
        raise InvalidRequest("The request body could not be read: it is cut short or badly encoded.") from None
    except ConnectionError as exc:
        raise ClientDisconnected from exc
    return b"".join(pieces)


async def _piece(content: StreamReader, gap: float) -> bytes:
    async with asyncio.timeout(gap):
        return await content.readany()


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than the limit of {limit} bytes.", code="request_too_large")
