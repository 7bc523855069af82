"""
What a worker imports first: aiohttp, without the certificate authorities that it reads as it is imported.

It makes two contexts for TLS then, each with all of the system's authorities: 2.6 MB in every worker. They stay empty,
so whoever asks names ``tls.tls_for`` its address, whose context connections to providers share; who does not trusts nobody.
"""

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _trusting_nobody() -> Iterator[None]:
    """Contexts that are made in the block read no authorities of the system."""
    context: Any = ssl.SSLContext
    context.set_default_verify_paths = lambda _: None  # it is inherited: nothing is lost by it
    try:
        yield
    finally:
        del context.set_default_verify_paths


with _trusting_nobody():
    import aiohttp  # noqa: F401
