"""The aiohttp side of ``Fetch``."""

from collections.abc import Mapping

import aiohttp

from adapters.errors import ErrorKind, ProviderError

from ..tls import tls_for

MAX_BODY = 1024 * 1024
"""Bytes of an issuer's answer that are read; real ones have a few KiB."""


class HTTPFetch:
    """Asks issuers over a session of the application's. Follows no redirect and takes no cookie of an answer."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(
        self, method: str, url: str, *, data: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes]:
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, timeout=limit, ssl=tls_for(url), allow_redirects=False
            ) as response:
                body = b""
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > MAX_BODY:
                        raise ProviderError(ErrorKind.PROTOCOL, "the issuer's answer is too large")
                return response.status, body
        except aiohttp.ClientError as exc:
            raise ProviderError(ErrorKind.CONNECTION, f"no answer by the issuer ({type(exc).__name__})") from None
