"""Which addresses may be connected to, and finding them.

The address itself is checked, after the name was resolved and on every connection, so neither a name that
points inside nor an odd spelling (0x7f000001, ::ffff:10.0.0.1) nor a second, different resolution gets around it.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port -> IP addresses in the order to try; raises OSError."""
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = "a metadata service"
NEVER: Sequence[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]] = [
    (ipaddress.ip_network(network), reason)
    for network, reason in [
        ("0.0.0.0/8", "unspecified"),
        ("169.254.0.0/16", "link-local"),  # 169.254.169.254 answers with cloud credentials
        ("168.63.129.16/32", _METADATA),  # Azure
        ("100.100.100.200/32", _METADATA),  # Alibaba
        ("192.0.0.0/24", _METADATA),  # Oracle
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("fe80::/10", "link-local"),
        ("fd00:ec2::/32", _METADATA),  # Amazon
        ("fd20:ce::254/128", _METADATA),  # Google
        ("ff00::/8", "multicast"),
        # IPv4 addresses in disguise
        ("::/96", "an embedded IPv4 address"),
        ("::ffff:0:0:0/96", "an embedded IPv4 address"),
        ("64:ff9b::/96", "an embedded IPv4 address"),
        ("64:ff9b:1::/48", "an embedded IPv4 address"),
        ("2001::/32", "an embedded IPv4 address"),
        ("2002::/16", "an embedded IPv4 address"),
    ]
]
"""Networks that no provider lives in."""


def refusal(address: str, *, allow_private: bool, plain_http: bool = False) -> str | None:
    """Why an address must not be connected to; None if it may.

    ``plain_http`` tells that the connection will not be encrypted, which only loopback may be.
    """
    try:
        parsed: Address = ipaddress.ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    if parsed.is_loopback:
        return None if allow_private else "loopback"
    for network, reason in NEVER:
        if parsed.version == network.version and parsed in network:
            return reason
    if not allow_private and (
        not parsed.is_global or (isinstance(parsed, ipaddress.IPv6Address) and parsed.is_site_local)
    ):
        return "private"
    return "not encrypted" if plain_http else None


PATIENCE = 1.0
"""Seconds to wait for a look-up where an answer that has run out is known: a lost packet costs the resolver five."""


class SystemResolver:
    """The operating system's resolver with a cache; one per process.

    ``ttl`` is in seconds. Callers that ask for the same name at once share one look-up. While name servers do not answer,
    what they said last holds; where they say that there is no such name it does not.
    """

    def __init__(self, ttl: float = 30.0, size: int = 1024) -> None:
        self._ttl = ttl
        self._size = size
        self._known: dict[tuple[str, int], tuple[float, Sequence[str]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[Sequence[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        key, loop = (host, port), asyncio.get_running_loop()
        known = self._known.get(key)
        if known and known[0] > loop.time():
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = loop.create_task(self._ask(key))
            task.add_done_callback(lambda done: self._answered(key, done))
        try:
            async with asyncio.timeout(PATIENCE if known else None):
                return await asyncio.shield(task)
        except (TimeoutError, socket.gaierror) as error:
            if known is None or (isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN):
                raise
            return known[1]

    async def _ask(self, key: tuple[str, int]) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(*key, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(str(info[4][0]) for info in found))
        if len(self._known) >= self._size:
            self._known.clear()
        self._known[key] = (loop.time() + self._ttl, addresses)
        return addresses

    def _answered(self, key: tuple[str, int], task: asyncio.Task[Sequence[str]]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # seen by whoever still waits; nobody may
