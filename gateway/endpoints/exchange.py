"""One HTTP request as the endpoints see it: its id, its credential, its body, the headers its answer will have."""

import asyncio
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from config.schema import Server as ServerConfig

from ..auth import bearer
from ..errors import ClientDisconnected, InvalidRequest, RequestTooLarge, UnsupportedMediaType
from ..tracecontext import valid

JSON_TYPES = frozenset({"application/json", ""})
"""An absent Content-Type is taken for JSON: curl without -H and some SDKs send none."""
MAX_CLIENT_REQUEST_ID = 512


NONE: list[str] = []
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


@dataclass(slots=True)
class Exchange:
    """A request whose head has been read and whose body has not."""

    request: web.BaseRequest
    limits: ServerConfig
    id: str
    started: float
    """``time.perf_counter`` when the head was complete."""
    headers: dict[str, str]
    """Of every answer, an error too."""
    _body: bytes | None = None

    @property
    def credential(self) -> str | None:
        given = self.request.headers
        api_keys = given.getall("x-api-key", NONE) + given.getall("api-key", NONE)
        return bearer(given.getall("Authorization", NONE), api_keys)

    @property
    def client_marks(self) -> tuple[str | None, str | None]:
        """What the client calls this request, and which retry of its own it is; bounded, for the log."""
        given = self.request.headers
        name, retries = given.get("X-Client-Request-Id"), given.get("X-Stainless-Retry-Count")
        return name and name[:MAX_CLIENT_REQUEST_ID], retries and retries[:8]

    @property
    def traceparent(self) -> str | None:
        """The client's W3C trace context, where what it sent is one."""
        return valid(self.request.headers.get("traceparent"))

    @property
    def address(self) -> str:
        """The peer's: a proxy in front is one address."""
        return self.request.remote or ""

    def check_client_request_id(self) -> None:
        """``X-Client-Request-Id`` is ASCII of at most 512 characters (checklist C-028)."""
        given = self.request.headers.get("X-Client-Request-Id")
        if given is not None and (len(given) > MAX_CLIENT_REQUEST_ID or not given.isascii()):
            raise InvalidRequest("Invalid 'X-Client-Request-Id': expected ASCII of at most 512 characters.")

    async def body(self) -> bytes:
        """The whole JSON body, read once; raises InvalidRequest for another type, a body too large or one that comes too slowly."""
        self.check_client_request_id()
        declared = self.request.headers.get("Content-Type")
        if declared != "application/json" and declared is not None and self.request.content_type not in JSON_TYPES:
            raise UnsupportedMediaType("Unsupported content type: expected 'application/json'.")
        if self._body is None:
            self._body = await read_body(self.request, self.limits)
        return self._body


async def read_body(request: web.BaseRequest, limits: ServerConfig) -> bytes:
    """Read within the caps of size, gap and total time; the connection is closed after a refusal."""
    declared = request.headers.get("Content-Length")
    if declared is not None and declared.isdigit() and int(declared) > limits.max_body:
        raise _too_large(limits.max_body)
    content = request.content
    if content is EMPTY_PAYLOAD:
        return b""
    pieces: list[bytes] = []
    size = 0
    try:
        if content.is_eof():  # all of it has arrived: no timer is needed
            data = content.read_nowait(-1)
            size = len(data)
            pieces.append(data)
        else:
            async with asyncio.timeout(limits.body_timeout):
                while data := await _piece(content, limits.body_gap_timeout):
                    size += len(data)
                    if size > limits.max_body:
                        raise _too_large(limits.max_body)
                    pieces.append(data)
    except TimeoutError:
        raise InvalidRequest("The request body was not received in time.", code="request_timeout") from None
    except web.RequestPayloadError:
        raise InvalidRequest("The request body could not be read: it is cut short or badly encoded.") from None
    except ConnectionError as exc:
        raise ClientDisconnected from exc
    if size > limits.max_body:
        raise _too_large(limits.max_body)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _piece(content: StreamReader, gap: float) -> bytes:
    async with asyncio.timeout(gap):
        return await content.readany()


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than the limit of {limit} bytes.", code="request_too_large")


def new_exchange(request: web.BaseRequest, limits: ServerConfig, common: Mapping[str, str]) -> Exchange:
    request_id = _ids.take()
    return Exchange(request, limits, request_id, time.perf_counter(), {**common, "x-request-id": request_id})
