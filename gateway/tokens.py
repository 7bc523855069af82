"""Bearer tokens of an identity provider: signed JWTs become principals, its keys are fetched, cached and rotated."""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from adapters.errors import ProviderError
from config import ConfigError
from config.schema import JWT

from .call import Principal
from .credentials.issue import Fetch
from .errors import StoreUnavailable

log = logging.getLogger(__name__)

FETCH_SECONDS = 5.0
MIN_INTERVAL = 10.0
"""Seconds between two fetches: tokens that name unknown keys must not become requests to the provider."""
LEEWAY = 30.0
"""Seconds that clocks may differ."""
MAX_TOKEN = 16_384
_CACHED = 10_000
_CACHE_SECONDS = 60.0
_CURVES = {"P-256": "ES256", "P-384": "ES384"}


class Keys(Protocol):
    """Everything that is no token, and whom a token names: ``gateway.records.cache.KeyCache``."""

    def cached(self, key: str) -> Principal | None: ...
    async def principal(self, key: str) -> Principal | None: ...

    async def member(self, user: str, team: str | None) -> Principal | None: ...


class Tokens:
    """A KeySource: JWTs by signature, all else by ``keys``. What a token says of user and team is looked up each time,
    so that blocking either works within a second."""

    def __init__(
        self,
        options: JWT,
        keys: Keys,
        fetch: Fetch,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            import jwt
        except ImportError:
            raise ConfigError(["auth.jwt: needs the extra: pip install 'sluice-gateway[jwt]'"]) from None
        self._jwt = jwt
        self._options = options
        self._keys = keys
        self._signers = Signers(options, fetch, jwt, monotonic)
        self._clock = clock
        self._seen: OrderedDict[bytes, tuple[dict[str, Any], float]] = OrderedDict()
        """Digest of a verified token -> its claims, and until when they need no new look."""

    def cached(self, key: str) -> Principal | None:
        return None if _looks_like_a_token(key) else self._keys.cached(key)

    async def principal(self, key: str) -> Principal | None:
        if not _looks_like_a_token(key):
            return await self._keys.principal(key)
        claims = await self._claims(key)
        if claims is None:
            return None
        user, team = _text(claims.get(self._options.user_claim)), None
        if self._options.team_claim is not None and claims.get(self._options.team_claim) is not None:
            team = _text(claims[self._options.team_claim])
            if team is None:
                return None
        return await self._keys.member(user, team) if user is not None else None

    async def _claims(self, token: str) -> dict[str, Any] | None:
        digest, now = hashlib.sha256(token.encode()).digest(), self._clock()
        known = self._seen.get(digest)
        if known is not None and now < known[1]:
            self._seen.move_to_end(digest)
            return known[0]
        try:
            header = self._jwt.get_unverified_header(token)
        except self._jwt.PyJWTError:
            return None
        algorithm = header.get("alg")
        if algorithm not in self._options.algorithms:
            return None
        signer = await self._signers.find(header.get("kid"), algorithm)
        if signer is None:
            return None
        try:
            claims: dict[str, Any] = self._jwt.decode(
                token, signer, algorithms=[algorithm], audience=self._options.audience, issuer=self._options.issuer,
                leeway=LEEWAY, options={"require": ["exp", "iss", "aud"]},
            )  # fmt: skip
        except (self._jwt.PyJWTError, ValueError, TypeError):
            return None
        # A key that the provider withdrew must not live on in this cache for long.
        self._seen[digest] = (claims, min(float(claims["exp"]) + LEEWAY, now + _CACHE_SECONDS))
        while len(self._seen) > _CACHED:
            self._seen.popitem(last=False)
        return claims


class Signers:
    """The provider's public keys: fetched once however many requests wait, kept while the provider is away."""

    def __init__(self, options: JWT, fetch: Fetch, library: Any, monotonic: Callable[[], float]) -> None:
        self._options = options
        self._fetch = fetch
        self._jwt = library
        self._clock = monotonic
        self._keys: dict[str | None, tuple[Any, str | None]] = {}
        self._fetched = self._tried = float("-inf")
        self._running: asyncio.Task[None] | None = None

    async def find(self, kid: Any, algorithm: str) -> Any:
        """The key to verify with; None for an unknown one. Raises StoreUnavailable while there is none at all."""
        now = self._clock()
        if now - self._fetched > self._options.jwks_ttl or kid not in self._keys:
            await self._refresh(now)
        if not self._keys:
            raise StoreUnavailable("The identity provider does not answer.", code="identity_provider_unavailable")
        found = self._keys.get(kid) if isinstance(kid, str) else None
        if kid is None and len(self._keys) == 1:
            found = next(iter(self._keys.values()))
        # A key of one kind must not verify what claims to be of another.
        return found[0] if found is not None and found[1] in (None, algorithm) else None

    async def _refresh(self, now: float) -> None:
        if self._running is None:
            if now - self._tried < MIN_INTERVAL:
                return
            self._tried = now
            self._running = asyncio.create_task(self._load())
            self._running.add_done_callback(self._done)
        await asyncio.shield(self._running)

    def _done(self, _: asyncio.Task[None]) -> None:
        self._running = None

    async def _load(self) -> None:
        try:
            status, body = await self._fetch(
                "GET", self._options.jwks_url, data=None, headers={"accept": "application/json"}, timeout=FETCH_SECONDS
            )
            if status != 200:
                raise ValueError(f"status {status}")
            told = orjson.loads(body)
            keys = dict(filter(None, map(self._read, told["keys"])))
            if not keys:
                raise ValueError("no key that can be used")
        except (ProviderError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            log.warning("the identity provider's keys cannot be read: %s", type(error).__name__)
            return
        self._keys, self._fetched = keys, self._clock()

    def _read(self, told: Any) -> tuple[str | None, tuple[Any, str | None]] | None:
        """One key; None for one that is of a kind we do not take, or not for signatures."""
        if not isinstance(told, dict) or told.get("use", "sig") != "sig" or told.get("kty") not in ("RSA", "EC", "OKP"):
            return None
        algorithm = told.get("alg") or _CURVES.get(str(told.get("crv")))
        try:
            key = self._jwt.PyJWK(told, algorithm=algorithm) if algorithm else self._jwt.PyJWK(told)
        except (self._jwt.PyJWTError, ValueError, TypeError):
            return None
        kid = told.get("kid")
        # An RSA key without `alg` serves all RSA signatures.
        return (kid if isinstance(kid, str) else None), (key.key, algorithm)


def _looks_like_a_token(key: str) -> bool:
    return key.startswith("eyJ") and key.count(".") == 2 and len(key) <= MAX_TOKEN and key.isascii()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable() else None
