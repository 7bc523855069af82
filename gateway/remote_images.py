"""Images that a prompt only names become part of its stored copy, as at OpenAI (checklist C-055).

A client chooses the address that is called, so it must be https and public, whatever its name resolves to; redirects are
not followed. What cannot be had in time stays an address in the copy; what is too large is left out of it.
"""

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from .tls import tls_for
from .upstream import Resolve, refusal

MAX_IMAGE = 8 * 1024 * 1024
"""Bytes; larger ones are in no stored copy."""
MAX_IMAGES = 16
"""Of one prompt; further ones stay addresses."""
SECONDS = 3.0
"""For all images of a prompt: the client's last byte waits for them."""
AT_ONCE = 16
"""Fetches of a worker: their bytes are in its memory."""


class TooLarge(Exception):
    """An image above MAX_IMAGE."""


class RemoteImages:
    """One per worker. ``allow_private``: also from loopback and private networks, without encryption; for tests."""

    def __init__(self, resolve: Resolve, *, allow_private: bool = False) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetched(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request with what could be fetched in the place of its addresses; never raises for an image."""
        wanted = list(dict.fromkeys(_addresses(request)))[:MAX_IMAGES]
        if not wanted:
            return request
        tasks = {url: asyncio.create_task(self._image(url)) for url in wanted}
        try:
            await asyncio.wait(tasks.values(), timeout=SECONDS)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        found = {url: task.result() for url, task in tasks.items() if not task.cancelled() and not task.exception()}
        large = {u for u, t in tasks.items() if not t.cancelled() and isinstance(t.exception(), TooLarge)}
        return {**request, "messages": [_replaced(message, found, large) for message in request["messages"]]}

    async def _image(self, url: str) -> str:
        """A ``data:`` URL; raises TooLarge, ValueError, OSError or aiohttp's errors."""
        address = self._checked(url)
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=_Guarded(self._resolve, self._refused), limit=AT_ONCE)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        async with (
            self._slots,
            self._session.get(address, ssl=tls_for(str(address)), allow_redirects=False) as response,
        ):
            if response.status != 200 or not response.content_type.startswith("image/"):
                raise ValueError("no image")
            pieces, size = [], 0
            async for piece in response.content.iter_any():
                size += len(piece)
                if size > MAX_IMAGE:
                    raise TooLarge
                pieces.append(piece)
        return f"data:{response.content_type};base64,{base64.b64encode(b''.join(pieces)).decode()}"

    def _checked(self, url: str) -> URL:
        """Where to call; raises ValueError for what must not be called. A name is checked again by where it leads.

        Read once, by what aiohttp reads addresses with: to it full-width digits and an ideographic full stop make a
        literal address, which it resolves no more.
        """
        found = URL(url)
        if found.scheme != "https" and not (found.scheme == "http" and self._allow_private):
            raise ValueError("not encrypted")
        if found.user is not None or found.password is not None or not found.host:
            raise ValueError("no address of an image")
        try:
            literal = ipaddress.ip_address(found.host)
        except ValueError:
            return found
        if (why := self._refused(str(literal))) is not None:
            raise ValueError(why)
        return found

    def _refused(self, address: str) -> str | None:
        return refusal(address, allow_private=self._allow_private)


class _Guarded(AbstractResolver):
    """Resolves to addresses that may be connected to, and to no others."""

    def __init__(self, resolve: Resolve, refused: Any) -> None:
        self._resolve = resolve
        self._refused = refused

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = [a for a in await self._resolve(host, port) if self._refused(a) is None]
        if not found:
            raise OSError("no address that may be connected to")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]

    async def close(self) -> None:
        """Nothing to close: the resolver is shared."""


def _addresses(request: Mapping[str, Any]) -> Iterator[str]:
    for message in request["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            url = _address(part)
            if url is not None:
                yield url


def _address(part: Any) -> str | None:
    """Where a content part's image is; None for other parts and for images that are in it."""
    image = part.get("image_url") if isinstance(part, dict) and part.get("type") == "image_url" else None
    url = image.get("url") if isinstance(image, dict) else None
    return url if isinstance(url, str) and not url.startswith("data:") else None


def _replaced(message: Mapping[str, Any], found: Mapping[str, str], large: set[str]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    kept = [part for part in content if _address(part) not in large]
    parts = [
        {**part, "image_url": {**part["image_url"], "url": found[url]}}
        if (url := _address(part)) is not None and url in found
        else part
        for part in kept
    ]
    return {**message, "content": parts}
