"""TLS towards others: certificates are verified against the system's authorities; TLS 1.2 or newer."""

import functools
import ssl


@functools.cache
def default_tls() -> ssl.SSLContext:
    """For all connections that trust the system's authorities; it reads them when the first one needs it."""
    return tls_context()


def tls_for(url: str) -> ssl.SSLContext | bool:
    """For aiohttp, which ignores it where the address is not https."""
    return url[:6].lower() != "https:" or default_tls()


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """As ``default_tls``, with authorities of one's own."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
