"""Where a request goes and its head, byte for byte."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNPRINTABLE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_TARGET = re.compile(r"[\x21-\x7e]+")
OURS = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "accept-encoding", "expect", "trailer", "te", "upgrade"),
        *("connection", "keep-alive", "proxy-connection", "proxy-authorization", "cookie"),
    }
)
"""Headers that say how the message is framed, or that no provider wants: never taken from a request."""


class Origin(NamedTuple):
    """What connections are pooled by."""

    host: str
    port: int
    tls: bool


class Place(NamedTuple):
    """A URL, ready to be written."""

    origin: Origin
    opening: str
    """The request line after its method, and the headers that every request has."""


@lru_cache(maxsize=1024)
def locate(url: str) -> Place:
    """Split a URL; raises ValueError if it is not one we can call."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("not an http(s) URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.hostname
    if not _TARGET.fullmatch(target) or not _TARGET.fullmatch(host):
        raise ValueError("a URL is written in ASCII without blanks")
    usual = 443 if tls else 80
    port = parts.port or usual
    name = f"[{host}]" if ":" in host else host
    named = name if port == usual else f"{name}:{port}"  # as AWS signs it
    return Place(Origin(host, port, tls), f"{target} HTTP/1.1\r\nHost: {named}\r\nAccept-Encoding: identity\r\n")


@lru_cache(maxsize=1024)
def opening(url: str, method: str, headers: tuple[tuple[str, str], ...]) -> tuple[Origin, bytes]:
    """Where a request goes, and its head but for the length: the same for nearly all requests to a provider.

    Raises ValueError for a URL that cannot be called and for a header that cannot be sent as it is.
    """
    place = locate(url)
    first = f"{method} {place.opening}"
    if all(name.lower() != "user-agent" for name, _ in headers):
        first += "User-Agent: sluice\r\n"  # some front ends refuse a request without one
    return place.origin, first.encode("latin-1") + lines(headers)


def lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as they are written; raises ValueError for one that cannot be sent as it is."""
    made = []
    for name, value in headers:
        if not _name(name) or _UNPRINTABLE.search(value):
            raise ValueError(f"header {name!r} cannot be sent")  # names only: values are secret
        made.append(f"{name}: {value}\r\n")
    return "".join(made).encode("latin-1")


def _name(name: str) -> bool:
    return bool(_TOKEN.fullmatch(name)) and name.lower() not in OURS
