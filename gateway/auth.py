"""A credential becomes a Principal, or one and the same refusal."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

from config.schema import Config, Key

from .call import Owner, Principal
from .errors import NoCredential, Unauthenticated

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


class KeySource(Protocol):
    """Where keys that are not in the config file come from."""

    def cached(self, key: str) -> Principal | None:
        """The owner of a valid key, where nobody need be asked for it; None says nothing."""
        ...

    async def principal(self, key: str) -> Principal | None:
        """The owner of a valid key, or None for an unknown, malformed, expired or blocked one."""
        ...


class Authenticator:
    """Look-up by digest: no key is kept, and nothing is compared character by character."""

    def __init__(self, keys: Mapping[str, tuple[Principal, float | None]], source: KeySource | None = None) -> None:
        self._keys = keys
        self._source = source

    def known(self, key: str | None, now: float, digest: str | None = None) -> Principal | None:
        """Who holds ``key``, where that can be told at once; None: ``ask``. Raises like ``authenticate``.

        ``digest``: that of the key, where it has been worked out.
        """
        if not key:
            raise NoCredential(NO_KEY) if key is None else incorrect(key)
        found = self._keys.get(digest or digest_of(key))
        if found is None:
            return self._source.cached(key) if self._source is not None else None
        principal, expires = found
        if expires is not None and now >= expires:
            raise incorrect(key)
        return principal

    async def ask(self, key: str) -> Principal:
        """Who holds a key that is not ``known``; raises like ``authenticate``."""
        principal = await self._source.principal(key) if self._source is not None else None
        if principal is None:
            raise incorrect(key)
        return principal

    async def authenticate(self, key: str | None, now: float) -> Principal:
        """Who holds ``key``; raises Unauthenticated, with the same words for every key that is not valid."""
        return self.known(key, now) or await self.ask(key or "")


@lru_cache(maxsize=4096)
def tenant_headers(organization: str, team: str | None) -> Mapping[str, str]:
    """Whose answer it is, in OpenAI's words: the organization, and the team where they have projects (C-423)."""
    headers = {"openai-organization": _in_header(organization)}
    if team is not None:
        headers["openai-project"] = _in_header(team)
    return headers


def _in_header(name: str) -> str:
    return name if name.isascii() and name.isprintable() else quote(name)


def incorrect(key: str) -> Unauthenticated:
    """The refusal of a key that is unknown, malformed, expired, revoked or blocked alike."""
    return Unauthenticated(
        f"Incorrect API key provided: {mask(key)}. You can find your API key in your gateway's console."
    )


def mask(key: str) -> str:
    """At most the first 8 and last 4 characters of a long key; nothing of a short one."""
    printable = "".join(c if c.isascii() and c.isprintable() else "?" for c in key[:256])
    return "****" if len(key) < 24 else f"{printable[:8]}****{printable[-4:]}"


def bearer(authorization: list[str], api_keys: list[str]) -> str | None:
    """The one credential of a request: None when there is none, empty when it is not one.

    ``authorization`` and ``api_keys`` are all values of those headers: two of them are not one credential.
    """
    if len(authorization) + len(api_keys) != 1:
        return "" if authorization or api_keys else None
    if api_keys:
        return api_keys[0]
    scheme, _, key = authorization[0].partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def digest_of(key: str) -> str:
    """The hex SHA-256 that a key is found by."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def configured_digest(key: Key) -> str:
    """The hex SHA-256 of a key in the config file."""
    if key.digest is not None:
        return key.digest.removeprefix("sha256:")
    assert key.key is not None, "checked when the config was loaded"
    return digest_of(key.key.get_secret_value())


def same_secret(given: str, expected: str) -> bool:
    """Compare in constant time; an empty secret is never valid."""
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def configured_keys(config: Config) -> dict[str, tuple[Principal, float | None]]:
    """The principals of the config file's keys by digest, with the time each expires."""
    return {
        configured_digest(key): (principal_of(key, config), expiry(key.expires))
        for key in config.keys
        if not key.blocked
    }


def expiry(text: str | None) -> float | None:
    """Seconds since the epoch of an ISO 8601 time, taken as UTC when it names no zone."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def principal_of(key: Key, config: Config) -> Principal:
    """Gather what a key's owners say, from the narrowest to the widest."""
    user = config.users.get(key.user) if key.user else None
    team_name = key.team or (user.team if user else None)
    team = config.teams.get(team_name) if team_name else None
    organization = team.organization if team else "default"
    entities = [
        (f"k:{key.name}", key),
        *([(f"u:{key.user}", user)] if user else []),
        *([(f"t:{team_name}", team)] if team else []),
        *([(f"o:{organization}", found)] if (found := config.organizations.get(organization)) else []),
    ]
    return Principal(
        key_id=key.name,
        organization=organization,
        team=team_name,
        user=key.user,
        owners=tuple(Owner(id_, e.limits, e.tiers, e.models) for id_, e in entities),
        tags=tuple(dict.fromkeys(tag for _, e in entities for tag in e.tags)),
        metadata={k: v for _, e in reversed(entities) for k, v in e.metadata.items()},
        aliases=key.aliases,
        allow_pinning=key.allow_pinning,
        allow_cheaper=key.allow_cheaper,
        restricted_params=frozenset(key.restricted_params),
        may_store=all(e.store for _, e in entities),
    )
