"""Credentials that expire: tokens of Google and Entra, signatures of AWS.

``Credentials.token`` and ``Credentials.sign`` serve what an adapter's CredentialSpec asks for. Libraries compute
(JWTs, SigV4, STS answers); every request to an issuer goes through the one injected ``Fetch``, so that time-outs
and address rules hold there too.
"""

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from adapters.errors import ErrorKind, ProviderError
from adapters.interface import CredentialSpec, UpstreamRequest

from ..upstream import NotSent
from .aws import AWS, signed
from .entra import entra
from .fetch import HTTPFetch
from .google import google
from .issue import Fetch, Issuer
from .refresh import Issued, NoCredential, Refreshed

__all__ = ["Credentials", "Fetch", "HTTPFetch", "NoCredential"]

_MAKERS: Mapping[str, Callable[[Mapping[str, Any], Issuer], Callable[[], Awaitable[Issued[Any]]]]] = {
    "google": google,
    "entra": entra,
    "aws": AWS,
}
TIMEOUT = 10.0
"""Seconds for one refresh, all its requests together."""


class Credentials:
    """One per process. ``clock`` gives seconds since the epoch, ``environ`` the process's environment."""

    def __init__(
        self,
        fetch: Fetch,
        *,
        clock: Callable[[], float] = time.time,
        environ: Mapping[str, str] = os.environ,
        timeout: float = TIMEOUT,
    ) -> None:
        self._issuer = Issuer(fetch, clock, environ, timeout)
        self._clock = clock
        self._timeout = timeout
        self._sources: dict[int, tuple[CredentialSpec, Refreshed[Any]]] = {}
        """By identity: a configuration's specs live as long as it does, and hashing secrets per request is waste."""

    def check(self, spec: CredentialSpec) -> None:
        """Build the source now; raises ValueError naming what the settings lack. Nothing is fetched.

        What says the same as another spec shares its value: the account is one, and a reload, which must not depend on
        issuers, goes on with what there is until the settings are asked with anew.
        """
        issue = _MAKERS[spec.kind](spec.settings, self._issuer)
        source = self._same(spec)
        if source is None:
            source = Refreshed(spec.kind, issue, self._clock, self._timeout)
        else:
            source.ask_by(issue)
        self._sources[id(spec)] = (spec, source)

    async def token(self, spec: CredentialSpec) -> str:
        """The bearer token of the moment, empty for AWS (whose requests are signed instead).

        Raises NoCredential when the issuer gives none.
        """
        if spec.kind == "aws":
            return ""
        token: str = await self._source(spec).get()
        return token

    async def sign(self, sent: UpstreamRequest, spec: CredentialSpec) -> UpstreamRequest:
        """The request with its signature; others than AWS need none. Raises as ``token``."""
        if spec.kind != "aws":
            return sent
        keys = await self._source(spec).get()
        return replace(sent, headers=signed(sent, keys, spec.settings, self._clock()))

    def at_fault(self, spec: CredentialSpec | None, why: ProviderError, ago: float) -> bool:
        """Whether a failure says nothing of the provider: nothing was sent, or with what is renewed because it was refused.

        The request began ``ago`` seconds before.
        """
        if isinstance(why, NotSent):
            return True
        return spec is not None and why.kind is ErrorKind.AUTHENTICATION and self._source(spec).refused(ago)

    async def close(self) -> None:
        """Stop the refreshes that run."""
        for _, source in self._sources.values():
            await source.close()
        self._sources.clear()

    def _source(self, spec: CredentialSpec) -> Refreshed[Any]:
        held = self._sources.get(id(spec))
        if held is None or held[0] is not spec:
            self.check(spec)
            held = self._sources[id(spec)]
        return held[1]

    def _same(self, spec: CredentialSpec) -> Refreshed[Any] | None:
        return next((source for known, source in self._sources.values() if known == spec), None)
